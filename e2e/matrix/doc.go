// Package matrix holds clients of all dialects against upstreams of all dialects:
// the official SDKs in front of one gateway, strict mocks behind it.
//
//	go test ./matrix -run TestMatrix -v
//
// prints what each cell came to.
package matrix
