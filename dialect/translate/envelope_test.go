package translate

import (
	"encoding/base64"
	"testing"

	"github.com/floway/floway/dialect"
)

// Gemini's SDKs read signatures as bytes, and write them in either alphabet.
func TestEnvelopesAsBytes(t *testing.T) {
	want := State{Maker: dialect.Responses, Data: "gAAA\xff\xfe?>", ID: "rs_1", Upstream: "up"}
	plain := []byte(seal(&want))
	for _, text := range []string{
		string(plain), base64.StdEncoding.EncodeToString(plain), base64.URLEncoding.EncodeToString(plain), base64.RawStdEncoding.EncodeToString(plain),
	} {
		if got := stateOf(text, dialect.Gemini); got != want {
			t.Errorf("%s is read as %+v", text, got)
		}
		if !mayHoldSeal([]byte(`"` + text + `"`)) {
			t.Errorf("%s is not known for an envelope", text)
		}
	}
	// What floway marked as signed by nobody is a state of nobody.
	a := &Answer{r: &Request{o: Options{Upstream: "up"}}}
	for _, text := range []string{a.sealedOrMarked(State{}), a.signatureBytes(State{}), sealMarkBytes + "!"} {
		if got := stateOf(text, dialect.Gemini); text != sealMarkBytes+"!" && !got.Empty() || !mayHoldSeal([]byte(text)) {
			t.Errorf("%s is read as %+v", text, got)
		}
	}
}

// Thoughts that come back in the pieces of a stream are one again: the seal is of
// them all.
func TestThoughtsInPieces(t *testing.T) {
	state := State{Maker: dialect.Messages, Data: "sig", Upstream: "up"}
	c := &Conversation{From: dialect.Gemini, Turns: []Turn{
		{Role: User, Parts: []Part{{Kind: Text, Text: "go"}}},
		{Role: Assistant, Parts: []Part{{Kind: Thought, Text: "a"}}},
		{Role: Assistant, Parts: []Part{
			{Kind: Thought, Text: "b"},
			{Kind: Thought, State: state},
			{Kind: Thought, State: State{Maker: dialect.Messages, Redacted: true, Data: "x"}},
			{Kind: Text, Text: "c"},
			{Kind: Thought, Text: "d"},
			{Kind: Text, Text: "e"},
			{Kind: Thought, Text: "f", State: state},
		}},
	}}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, p := range c.Turns[1].Parts {
		got += " " + p.Text
		if !p.State.Empty() {
			got += "!"
		}
	}
	if got != " ab! ! c d e f!" {
		t.Errorf("the parts are%s", got)
	}
}

func TestClosedSchema(t *testing.T) {
	for in, want := range map[string]string{
		`{"type":"object","properties":{"a":{"type":"object"},"b":{"type":"array","items":{"properties":{}}},"c":{"anyOf":[{"type":["object","null"]},{"type":"string"}]}},"required":["a"]}`: `{"type":"object","properties":{"a":{"type":"object","additionalProperties":false},"b":{"type":"array","items":{"properties":{},"additionalProperties":false}},"c":{"anyOf":[{"type":["object","null"],"additionalProperties":false},{"type":"string"}]}},"required":["a"],"additionalProperties":false}`,
		`{"type":"object","additionalProperties":true}`:        `{"type":"object","additionalProperties":true}`,
		`{"$defs":{"x":{"type":"object"}},"$ref":"#/$defs/x"}`: `{"$defs":{"x":{"type":"object","additionalProperties":false}},"$ref":"#/$defs/x"}`,
		`{"type":"object","properties":[]}`:                    `{"type":"object","properties":[]}`,
		`{"type":"string","const":1.50}`:                       `{"type":"string","const":1.50}`,
	} {
		if got := string(closedSchema([]byte(in))); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", in, got, want)
		}
	}
}
