package matrix

import (
	"fmt"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/mock"
)

// rows are what translation has rules for: the fields of requests (1), tools and
// the choice among them (2), messages and what is in them (3), reasoning (4), the
// ways in which answers end (5), and pairs of dialects (9). Each must be covered by
// a cell of the matrix; scenarios name theirs.
var rows = strings.Fields(`
	1/model 1/stream 1/system 1/later-system 1/turns 1/max-output 1/stop 1/temperature 1/top_p 1/top_k 1/penalties-seed
	1/logit_bias 1/logprobs 1/n 1/tools 1/parallel-off 1/json-schema 1/json-object 1/effort 1/verbosity 1/cache-hints
	1/end-user 1/tier 1/metadata-store 1/server-state 1/audio-out 1/chat-only 1/safety 1/unknown-fields

	2/function 2/no-parameters 2/custom 2/namespace 2/hosted 2/names 2/order 2/choice-absent 2/choice-auto 2/choice-required
	2/choice-none 2/choice-named 2/choice-allowed-auto 2/choice-allowed-required 2/choice-custom 2/choice-without-tools
	2/forced-and-thinking

	3/user-text 3/assistant-text 3/tool-call 3/tool-result 3/result-image 3/error-result 3/refusal-history 3/name-of-author
	3/arguments 3/no-result-string 3/name-on-results 3/grouping 3/empty-text 3/orphans 3/call-ids 3/base64 3/url 3/file-id
	3/detail 3/pdf 3/audio-in 3/video-in 3/file-ids 3/image-types 3/text-document 3/document-url 3/citations

	4/visible 4/opaque 4/elsewhere 4/token-count 4/effort

	5/stop 5/stop-sequence 5/tools 5/length 5/context-full 5/filtered 5/refused 5/pause 5/bad-call 5/prompt-blocked 5/unknown

	9/chat>messages 9/messages>chat 9/chat>responses 9/responses>chat 9/messages>responses 9/responses>messages
	9/chat>gemini 9/gemini>chat 9/messages>gemini 9/gemini>messages 9/responses>gemini 9/gemini>responses
	9/count-tokens 9/embeddings`)

// byCells are rows that are covered by what is no scenario.
var byCells = map[string]string{
	"4/elsewhere": "sealed reasoning that goes elsewhere", "9/count-tokens": "count tokens", "9/embeddings": "embeddings, base64",
	"5/pause": "end pause_turn", "5/bad-call": "end MALFORMED_FUNCTION_CALL", "5/unknown": "end OTHER", "5/context-full": "end model_context_window_exceeded",
}

// covered checks that no row is without a cell, and no pair without many.
func (g *grid) covered(t *testing.T) {
	known := map[string]bool{}
	by := map[string][]string{}
	for _, r := range rows {
		known[r] = true
	}
	for i := range scenarios {
		for _, r := range strings.Fields(scenarios[i].rows) {
			if !known[r] {
				t.Errorf("the scenario %q covers %q, which is no row", scenarios[i].name, r)
			}
			by[r] = append(by[r], scenarios[i].name)
		}
	}
	for r, name := range byCells {
		by[r] = append(by[r], name)
	}
	for _, r := range rows {
		if pair, ok := strings.CutPrefix(r, "9/"); ok && strings.Contains(pair, ">") {
			n := 0
			for _, row := range g.cells {
				for c := range dialects {
					for u := range dialects {
						if pair == dialects[c]+">"+dialects[u] && row[c][u] != "-" && row[c][u] != "" {
							n++
						}
					}
				}
			}
			if n < 40 {
				t.Errorf("%s has %d cells only", r, n)
			}
			continue
		}
		cells := 0
		for _, name := range by[r] {
			if row := g.cells[name]; row != nil {
				for c := range dialects {
					for u := range dialects {
						if c != u && row[c][u] != "-" && row[c][u] != "" {
							cells++
						}
					}
				}
			}
		}
		if cells == 0 {
			t.Errorf("no cell covers the row %s", r)
		}
	}
}

// ends are answers that end in ways that a mock does not come to by itself.
var ends = []struct {
	reason string
	u      int
	body   string
	// end is how it ends for each client; "error" if that is no answer.
	end [4]string
}{
	{"pause_turn", msgs, claudeEnds("pause_turn"), [4]string{"stop", "stop", "", "stop"}},
	{"model_context_window_exceeded", msgs, claudeEnds("model_context_window_exceeded"), [4]string{"length", "length", "", "length"}},
	{"RECITATION", gem, geminiEnds("RECITATION"), [4]string{"filter", "filter", "refusal", ""}},
	{"OTHER", gem, geminiEnds("OTHER"), [4]string{"stop", "stop", "stop", ""}},
	{"a word that nobody knows", gem, geminiEnds("SOMETHING_NEW"), [4]string{"stop", "stop", "stop", ""}},
	{"MALFORMED_FUNCTION_CALL", gem, geminiEnds("MALFORMED_FUNCTION_CALL"), [4]string{"stop", "error", "stop", ""}},
	{"failed", resp, `{"id":"resp_1","object":"response","created_at":1,"status":"failed","model":"m","output":[],"error":{"code":"server_error","message":"It broke."},"usage":null}`, [4]string{"error", "", "error", "error"}},
	{"no choices", chat, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`, [4]string{"", "error", "error", "error"}},
	{"null for a message", chat, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`, [4]string{"", "stop", "stop", "stop"}},
	{"no usage", chat, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}`, [4]string{"", "stop", "stop", "stop"}},
	{"arguments that are not JSON", chat, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"a\":"}}]},"finish_reason":"tool_calls"}]}`, [4]string{"", "tools", "error", "error"}},
	{"ids twice", chat, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}`, [4]string{"", "tools", "tools", "tools"}},
}

func claudeEnds(reason string) string {
	return `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"hi"}],"stop_reason":"` + reason + `","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`
}

func geminiEnds(reason string) string {
	return `{"candidates":[{"content":{"parts":[{"text":"hi"}],"role":"model"},"finishReason":"` + reason + `","index":0}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":1,"totalTokenCount":2},"modelVersion":"m","responseId":"r"}`
}

// Every end of an answer has one that the client's SDK knows.
func (w *world) ends(t *testing.T, g *grid) {
	for _, e := range ends {
		for c := range dialects {
			if e.end[c] == "" {
				g.set("end "+e.reason, c, e.u, "-")
				continue
			}
			what := "FAIL"
			t.Run(e.reason+" "+dialects[c], func(t *testing.T) {
				if err := w.up[e.u].Script(mock.Rule{Times: 1, Behavior: mock.Behavior{Status: 200, Body: e.body}}); err != nil {
					t.Fatal(err)
				}
				a, err := askers[c](t.Context(), w.URL, clientKey, dialects[e.u]+"/mock-chat", []byte(base[c]), false)
				w.up[e.u].asked(t)
				switch {
				case err != nil && e.end[c] != "error":
					t.Fatal(err)
				case err == nil && a.end != e.end[c]:
					t.Fatalf("it ends with %s: %+v", a.end, a)
				case e.reason == "ids twice" && (len(a.calls) != 2 || a.calls[0].id == a.calls[1].id):
					t.Fatalf("the calls are %+v", a.calls)
				}
				what = "ok"
			})
			g.set(fmt.Sprint("end ", e.reason), c, e.u, what)
		}
	}
}
