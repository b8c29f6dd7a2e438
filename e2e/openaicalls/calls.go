// Package openaicalls is the use that an application makes of OpenAI's SDK, as a
// table: so that the same calls can be made to the mock upstream and through the
// gateway, and what comes back compared.
package openaicalls

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// Call is one thing that an application does, in one or more requests.
type Call struct {
	Name string
	// Do makes the requests, keeps on the tape what the SDK returned, and checks
	// that the SDK could make sense of it.
	Do func(ctx context.Context, c *openai.Client, t *Tape) error
}

// Tape keeps what came back, in order and as it came.
type Tape struct{ Pieces []string }

func (t *Tape) add(raw string) { t.Pieces = append(t.Pieces, raw) }

// addChunk keeps a chunk of a chat stream whose caller did not ask for usage. A
// gateway that asks for it on its own account takes the usage chunk out again,
// but the other chunks then say that they have none.
func (t *Tape) addChunk(raw string) { t.add(strings.Replace(raw, `,"usage":null`, "", 1)) }

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

// expect is an error unless ok.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// weather and clock are tools with parameters of all kinds.
var weather = map[string]any{
	"type": "object",
	"properties": map[string]any{
		"city":  map[string]any{"type": "string"},
		"days":  map[string]any{"type": "integer"},
		"units": map[string]any{"type": "string", "enum": []string{"metric", "imperial"}},
		"wind":  map[string]any{"type": "boolean"},
	},
	"required":             []string{"city", "days", "units", "wind"},
	"additionalProperties": false,
}

var clock = map[string]any{
	"type":                 "object",
	"properties":           map[string]any{"zone": map[string]any{"type": "string"}},
	"required":             []string{"zone"},
	"additionalProperties": false,
}

// person is the schema of a structured answer.
var person = map[string]any{
	"type": "object",
	"properties": map[string]any{
		"name":  map[string]any{"type": "string"},
		"age":   map[string]any{"type": "integer"},
		"tags":  map[string]any{"type": "array", "items": map[string]any{"type": "string"}},
		"score": map[string]any{"type": "number"},
	},
	"required":             []string{"name", "age", "tags", "score"},
	"additionalProperties": false,
}

// fits checks that text is JSON with all members of a schema.
func fits(text string, schema map[string]any) error {
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return fmt.Errorf("%q is not JSON: %w", text, err)
	}
	for _, name := range schema["required"].([]string) {
		if _, ok := v[name]; !ok {
			return fmt.Errorf("%q has no %s", text, name)
		}
	}
	return nil
}
