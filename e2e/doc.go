// Package e2e tests a running gateway from outside: official SDKs in front of
// it, mock upstreams behind it, nothing shared with it but sockets.
//
//	harness      starts the gateway, the upstreams and Redis
//	mockopenai   the upstream that answers as OpenAI's API does
//	openaicalls  what an application does with OpenAI's SDK
//
// The tests here are about the gateway as a whole; a dialect adds its mock and
// its calls as packages of their own, and its comparison with direct calls in a
// file like openai_test.go.
package e2e
