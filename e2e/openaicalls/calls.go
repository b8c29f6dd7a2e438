// Package openaicalls is the use that an application makes of OpenAI's SDK, as a
// table: so that the same calls can be made to the mock upstream and through the
// gateway, and what comes back compared.
package openaicalls

import (
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/floway/floway/e2e/calls"
)

type (
	// Call is one thing that an application does, in one or more requests.
	Call = calls.Call[*openai.Client]
	// Tape keeps what came back, in order and as it came.
	Tape = calls.Tape
)

// addChunk keeps a chunk of a chat stream whose caller did not ask for usage. A
// gateway that asks for it on its own account takes the usage chunk out again,
// but the other chunks then say that they have none.
func addChunk(t *Tape, raw string) { t.Add(strings.Replace(raw, `,"usage":null`, "", 1)) }

// Client returns the SDK's client of a server, without retries of its own: they
// would hide what the server does.
func Client(baseURL, key string, options ...option.RequestOption) *openai.Client {
	options = append([]option.RequestOption{option.WithBaseURL(baseURL), option.WithAPIKey(key), option.WithMaxRetries(0)}, options...)
	c := openai.NewClient(options...)
	return &c
}

// All are the calls.
var All = concat(chatCalls, responsesCalls, olderCalls, mediaCalls)

func concat(tables ...[]Call) (all []Call) {
	for _, t := range tables {
		all = append(all, t...)
	}
	return all
}

// What all tables of calls share has its home in package calls.
var (
	expect  = calls.Expect
	first   = calls.First
	fits    = calls.Fits
	weather = calls.Weather
	clock   = calls.Clock
	person  = calls.Person
)
