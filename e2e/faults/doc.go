// Package faults proves that the gateway's account is exact whatever dies. Each
// fault has a gateway, an upstream and a store of its own, all of them processes,
// under load; when it is over, what the upstream served, what the log says, what
// the store holds and what clients saw are compared by package audit.
//
// The tests run every fault for seconds. `make faults` runs them in full.
package faults
