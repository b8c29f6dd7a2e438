// Package e2e tests a running gateway from outside: official SDKs in front of
// it, mock upstreams behind it, nothing shared with it but sockets.
//
//	harness         starts the gateway, the upstreams and Redis
//	mock            what mock upstreams share: misbehaviour, ledger, control
//	mockopenai      the upstream that answers as OpenAI's API does
//	mockanthropic   the one that answers as Anthropic's does
//	mockgemini      the one that answers as Google's does
//	mockcopilot     GitHub Copilot, and GitHub as far as it gives access to it
//	mockazure       the door of Azure's in front of the first two
//	calls           what tables of SDK calls share
//	openaicalls     what an application does with OpenAI's SDK
//	anthropiccalls  with Anthropic's
//	geminicalls     with Google's
//	matrix          all SDKs against upstreams of all dialects
//
// The tests here are about the gateway as a whole; a dialect adds its mock and
// its calls as packages of their own, and its comparison with direct calls in a
// file like openai_test.go and native_test.go.
package e2e
