// Package calls is what the tables of SDK calls have in common: the same calls can
// be made to a mock upstream and through the gateway, and what comes back
// compared.
package calls

import (
	"context"
	"encoding/json"
	"fmt"
)

// Call is one thing that an application does with an SDK's client, in one or more
// requests.
type Call[Client any] struct {
	Name string
	// Do makes the requests, keeps on the tape what the SDK returned, and checks
	// that the SDK could make sense of it.
	Do func(ctx context.Context, c Client, t *Tape) error
}

// Tape keeps what came back, in order and as it came.
type Tape struct{ Pieces []string }

// Add keeps a piece as it came.
func (t *Tape) Add(raw string) { t.Pieces = append(t.Pieces, raw) }

// AddJSON keeps a piece of which the SDK shows only what it understood.
func (t *Tape) AddJSON(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	t.Add(string(b))
}

// Expect is an error unless ok.
func Expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// First returns the first error.
func First(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Weather and Clock are the parameters of two tools, with values of all kinds.
var (
	Weather = map[string]any{
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
	Clock = map[string]any{
		"type":                 "object",
		"properties":           map[string]any{"zone": map[string]any{"type": "string"}},
		"required":             []string{"zone"},
		"additionalProperties": false,
	}
)

// Person is the schema of a structured answer.
var Person = map[string]any{
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

// Fits checks that text is JSON with all members of a schema.
func Fits(text string, schema map[string]any) error {
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

// Pixel is an image of one pixel, a PNG in base64.
const Pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
