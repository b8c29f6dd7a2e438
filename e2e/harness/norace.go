//go:build !race

package harness

// race says whether the tests run with the race detector.
const race = false
