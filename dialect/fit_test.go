package dialect

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestFixes(t *testing.T) {
	fixes := NewFixes(
		Fix{Path: "store", Value: "false"},
		Fix{Path: "tier", Drop: true},
		Fix{Path: "top", Drop: true},
		Fix{Path: "tools[]", Drop: true, Type: "image_generation"},
		Fix{Path: "tools[].eager", Drop: true},
		Fix{Path: "messages[].content[].cache.ttl", Drop: true},
		Fix{Path: "messages[].content[].content[].cache.ttl", Drop: true},
		Fix{Path: "input", Wrap: true},
	)
	for in, want := range map[string]string{
		`{"store":false}`:                      `{"store":false}`,
		`{"store":true}`:                       `{"store":false}`,
		`{ "store" : null , "a":1}`:            `{ "store" : false , "a":1}`,
		`{}`:                                   `{"store":false}`,
		` { }`:                                 ` {"store":false }`,
		`{"a":1}`:                              `{"store":false,"a":1}`,
		`{"store":true,"store":true,"tier":1}`: `{"store":false,"store":false}`,
		`{"tier":1,"a":2}`:                     `{"store":false,"a":2}`,
		`{"tier":1}`:                           `{"store":false}`,
		`{"tier":1,"store":false}`:             `{"store":false}`,
		`{"tier":"x","top":{"tier":2},"store":false,"top":[]}`: `{"store":false}`,
		`{"a":1, "tier":1, "b":2,"store":false}`:               `{"a":1, "b":2,"store":false}`,
		`{"s\u0074ore":true}`:                                  `{"s\u0074ore":false}`,
		`{"store":false,"deep":{"store":true,"tier":1}}`:       `{"store":false,"deep":{"store":true,"tier":1}}`,
		`{"store":false,"tools":[{"type":"image_generation"},{"type":"function","eager":true,"parameters":{"eager":{}}}]}`:                   `{"store":false,"tools":[{"type":"function","parameters":{"eager":{}}}]}`,
		`{"store":false,"tools":[{"type":"function","eager":true},{"eager":false,"type":"image_generation"}]}`:                               `{"store":false,"tools":[{"type":"function"}]}`,
		`{"store":false,"tools":[{"type":"image_generation"}]}`:                                                                              `{"store":false,"tools":[]}`,
		`{"store":false,"tools":{"type":"image_generation"}}`:                                                                                `{"store":false,"tools":{"type":"image_generation"}}`,
		`{"store":false,"messages":[{"content":[{"cache":{"type":"e","ttl":"1h"},"content":[{"cache":{"ttl":1}}]},7,"x"]},{"content":"x"}]}`: `{"store":false,"messages":[{"content":[{"cache":{"type":"e"},"content":[{"cache":{}}]},7,"x"]},{"content":"x"}]}`,
		`{"store":false,"input":"a ] } \" b"}`:                                                                                               `{"store":false,"input":["a ] } \" b"]}`,
		`{"store":false,"input": 12 }`:                                                                                                       `{"store":false,"input": [12] }`,
		`{"store":false,"input":["a"]}`:                                                                                                      `{"store":false,"input":["a"]}`,
		`{"store":false,"input":null}`:                                                                                                       `{"store":false,"input":null}`,
		``:                                                                                                                                   ``,
		`[1]`:                                                                                                                                `[1]`,
		`{"tier":1`:                                                                                                                          `{"tier":1`,
		`{"tier":1,`:                                                                                                                         `{"tier":1,`,
		`{"tier":"`:                                                                                                                          `{"tier":"`,
		`{"tier"}`:                                                                                                                           `{"tier"}`,
		`{"tools":[{"type":"image_generation"`:                                                                                               `{"tools":[{"type":"image_generation"`,
		`{tier:1}`:                                                                                                                           `{tier:1}`,
	} {
		before := strings.Clone(in)
		if got := string(fixes.Apply([]byte(in))); got != want {
			t.Errorf("%s becomes\n%s, want\n%s", in, got, want)
		}
		if in != before {
			t.Errorf("%s was changed", before)
		}
	}
	body := []byte(`{"store":false,"input":["a"]}`)
	if got := fixes.Apply(body); &got[0] != &body[0] {
		t.Error("a body that needs nothing was copied")
	}
}

// The fixes of compatible servers: other names, values in place of certain others,
// and ids of a form.
func TestFixesOfCompatibleServers(t *testing.T) {
	fixes := NewFixes(
		Fix{Path: "newer", Rename: "older"},
		Fix{Path: "messages[].role", Only: `"developer"`, Value: `"system"`},
		Fix{Path: "messages[].calls[].id", Letters: 9},
		Fix{Path: "messages[].call_id", Letters: 9},
	)
	for in, want := range map[string]string{
		`{"newer":5,"a":1}`:           `{"older":5,"a":1}`,
		`{"a":1,"n\u0065wer" : null}`: `{"a":1,"older" : null}`,
		`{"newer":5,"older":7}`:       `{"newer":5,"older":7}`,
		`{"older":7,"newer":5}`:       `{"older":7,"newer":5}`,
		`{"a":{"newer":5}}`:           `{"a":{"newer":5}}`,
		`{"messages":[{"role":"developer","content":"developer"},{"role":"user"}],"role":"developer"}`: `{"messages":[{"role":"system","content":"developer"},{"role":"user"}],"role":"developer"}`,
		`{"messages":[{"calls":[{"id":"abcDEF123"}]},{"call_id":"abcDEF123"},{"call_id":5}]}`:          `{"messages":[{"calls":[{"id":"abcDEF123"}]},{"call_id":"abcDEF123"},{"call_id":5}]}`,
	} {
		if got := string(fixes.Apply([]byte(in))); got != want {
			t.Errorf("%s becomes\n%s, want\n%s", in, got, want)
		}
	}
	ids := map[string]string{}
	for _, id := range []string{"call_1", "call_2", "toolu_" + strings.Repeat("x", 60), "abc-EF123", "abcdefghé", "", "abcdefghij"} {
		body, _ := json.Marshal(map[string]any{"messages": []any{map[string]any{"calls": []any{map[string]any{"id": id}}}, map[string]any{"call_id": id}}})
		var out struct {
			Messages []struct {
				Calls []struct{ ID string }
				ID    string `json:"call_id"`
			}
		}
		if err := json.Unmarshal(fixes.Apply(body), &out); err != nil {
			t.Fatal(err)
		}
		made := out.Messages[0].Calls[0].ID
		if made != out.Messages[1].ID || !lettersOnly(made, 9) || ids[made] != "" {
			t.Errorf("%q becomes %+v", id, out)
		}
		ids[made] = "seen"
	}
}

// What fixes make of a body is what a reader would that decodes it, however it is
// spelled, and a second pass finds nothing to do.
func FuzzFixes(f *testing.F) {
	fixes := NewFixes(Fix{Path: "a", Drop: true}, Fix{Path: "l[].a", Drop: true}, Fix{Path: "l[]", Drop: true, Type: "x"}, Fix{Path: "w", Wrap: true}, Fix{Path: "s", Value: "0"}, Fix{Path: "r", Value: "[]"})
	for _, seed := range []string{
		`{"a":1,"l":[{"a":1,"type":"x"},{"a":[{}],"b":2}],"w":"s"}`, `{"l":[[],{},3,{"type":"x"}],"w":{"a":1}}`, `{"a":{"a":1},"a":2}`, `{ "w" : 1.5e3 , "l":{"a":1}}`, `{"a"`, `{"w":}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := fixes.Apply(body)
		var in, out map[string]any
		if json.Unmarshal(body, &in) != nil || bytes.Contains(body, []byte(`\`)) {
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		if twice(d) {
			return // of equal names the decoder here keeps the last one
		}
		if in == nil {
			return
		}
		delete(in, "a")
		in["s"], in["r"] = 0.0, []any{}
		if w, ok := in["w"]; ok && w != nil {
			if _, list := w.([]any); !list {
				in["w"] = []any{w}
			}
		}
		if list, ok := in["l"].([]any); ok {
			kept := []any{}
			for _, e := range list {
				if o, ok := e.(map[string]any); ok {
					if o["type"] == "x" {
						continue
					}
					delete(o, "a")
				}
				kept = append(kept, e)
			}
			in["l"] = kept
		}
		if err := json.Unmarshal(got, &out); err != nil {
			t.Fatalf("%s becomes %s: %v", body, got, err)
		}
		if !reflect.DeepEqual(in, out) {
			t.Errorf("%s becomes %s", body, got)
		}
		if again := fixes.Apply(got); !bytes.Equal(again, got) {
			t.Errorf("%s becomes %s and then %s", body, got, again)
		}
	})
}

// twice says whether a name stands in some object twice.
func twice(d *json.Decoder) bool {
	var objects []map[string]bool
	name := false // what comes next is a name
	var names []bool
	for {
		tok, err := d.Token()
		if err != nil {
			return false
		}
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '{':
				objects, names = append(objects, map[string]bool{}), append(names, true)
			case '[':
				objects, names = append(objects, nil), append(names, false)
			default:
				objects, names = objects[:len(objects)-1], names[:len(names)-1]
				if n := len(names); n > 0 && objects[n-1] != nil {
					names[n-1] = true
				}
			}
			continue
		default:
			n := len(names)
			if n == 0 || objects[n-1] == nil {
				continue
			}
			if name = names[n-1]; name {
				s := tok.(string)
				if objects[n-1][s] {
					return true
				}
				objects[n-1][s] = true
			}
			names[n-1] = !name
		}
	}
}

func TestFollowsUpAndShowsImage(t *testing.T) {
	for _, c := range []struct {
		op           Operation
		body         string
		follow, look bool
	}{
		{ChatCompletions, `{"messages":[{"role":"user","content":"hi"}]}`, false, false},
		{ChatCompletions, `{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"x"}]}`, true, false},
		{ChatCompletions, `{"messages":[{"role":"assistant"},{"role":"tool","content":"x"}]}`, true, false},
		{ChatCompletions, `{"messages":[{"role":"assistant"},{"role":"tool"},{"role":"user","content":[{"type":"image_url","image_url":{}}]}]}`, false, true},
		{ChatCompletions, `{"messages":[{"role":"system","content":"say image_url"}]}`, false, false},
		{ChatCompletions, `{"messages":[]}`, false, false},
		{ChatCompletions, `{"messages":"x"}`, false, false},
		{CreateMessage, `{"messages":[{"role":"user","content":"hi"}]}`, false, false},
		{CreateMessage, `{"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}`, false, false},
		{CreateMessage, `{"messages":[{"role":"user","content":[{"type":"tool_result","content":"x"}]}]}`, true, false},
		{CreateMessage, `{"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"image"}]},{"type":"tool_result"}]}]}`, true, true},
		{CreateMessage, `{"messages":[{"role":"user","content":[{"type":"tool_result"},{"type":"text","text":"and?"}]}]}`, false, false},
		{CreateMessage, `{"messages":[{"role":"user","content":[]}]}`, false, false},
		{CreateMessage, `{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"{"}]}`, true, false},
		{CreateMessage, `{"messages":[{"role":"user","content":[{"type":"image"}]},{"role":"assistant","content":"{"}]}`, true, true},
		{CountMessage, `{"messages":[{"role":"user","content":[{"type":"image"}]}]}`, false, true},
		{CreateResponse, `{"input":"hi"}`, false, false},
		{CreateResponse, `{"input":[{"role":"user","content":"hi"}]}`, false, false},
		{CreateResponse, `{"input":[{"role":"user","content":[{"type":"input_image"}]},{"type":"function_call"}]}`, true, true},
		{CreateResponse, `{"input":[{"type":"function_call_output","output":[{"type":"input_image"}]}]}`, true, true},
		{CreateResponse, `{"input":[{"type":"message","role":"assistant","content":"input_image"}]}`, true, false},
		{Embeddings, `{"input":"image"}`, false, false},
		{CreateResponse, `{"input":[`, false, false},
		{CreateResponse, `{"input":[{"role":"user"`, false, false},
	} {
		if got := FollowsUp(c.op, []byte(c.body)); got != c.follow {
			t.Errorf("%s %s: follows up %v", c.op, c.body, got)
		}
		if got := ShowsImage(c.op, []byte(c.body)); got != c.look {
			t.Errorf("%s %s: shows an image %v", c.op, c.body, got)
		}
	}
}
