package translate

import (
	"errors"
	"testing"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

func readBody(t *testing.T, op dialect.Operation, body string) (*Conversation, error) {
	t.Helper()
	r := &dialect.Request{Call: dialect.Call{Op: op, Dialect: op.Dialect()}, Body: []byte(body)}
	if op.Dialect() == dialect.Gemini {
		r.Call.Model = "m"
	}
	if err := r.Read(); err != nil {
		t.Fatal(err)
	}
	return Read(r)
}

func TestEmbeddings(t *testing.T) {
	for name, c := range map[string]struct {
		op       dialect.Operation
		to       dialect.Dialect
		in, sent string
		answer   string
		out      string
	}{
		"OpenAI's to Gemini's": {
			dialect.Embeddings, dialect.Gemini,
			`{"model":"m","input":["a\n","b"],"dimensions":2,"user":"u"}`,
			`{"requests":[{"model":"models/up","content":{"parts":[{"text":"a\n"}]},"outputDimensionality":2},{"model":"models/up","content":{"parts":[{"text":"b"}]},"outputDimensionality":2}]}`,
			`{"embeddings":[{"values":[0.5,-1e-3]},{"values":[1,2]}]}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-0.001]},{"object":"embedding","index":1,"embedding":[1,2]}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}`,
		},
		"in bytes": {
			dialect.Embeddings, dialect.Gemini,
			`{"model":"m","input":"a","encoding_format":"base64"}`,
			`{"requests":[{"model":"models/up","content":{"parts":[{"text":"a"}]}}]}`,
			`{"embeddings":[{"values":[1,-2.5]}]}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAIMA="}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}`,
		},
		"Gemini's batch to OpenAI's": {
			dialect.BatchEmbedContents, dialect.Chat,
			`{"requests":[{"model":"models/m","content":{"parts":[{"text":"a"},{"text":"b"}]},"taskType":"RETRIEVAL_QUERY"},{"content":{"parts":[{"text":"c"}]},"outputDimensionality":3}]}`,
			`{"model":"up","input":["ab","c"],"dimensions":3,"encoding_format":"float"}`,
			`{"data":[{"embedding":[1,2]},{"embedding":"AACAPwAAIMA="}]}`,
			`{"embeddings":[{"values":[1,2]},{"values":[1,-2.5]}]}`,
		},
		"Gemini's single": {
			dialect.EmbedContent, dialect.Chat,
			`{"content":{"parts":[{"text":"a"}]}}`,
			`{"model":"up","input":["a"],"encoding_format":"float"}`,
			`{"data":[{"embedding":[1,2]}]}`,
			`{"embedding":{"values":[1,2]}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			conv, err := readBody(t, c.op, c.in)
			if err != nil {
				t.Fatal(err)
			}
			r, err := conv.Write(c.to, &Options{Model: "up"})
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, string(r.Body), c.sent)
			a := r.Answer(false)
			a.Whole([]byte(c.answer))
			a.End(&usage.Tokens{Input: 3})
			if a.Problem != nil {
				t.Fatal(a.Problem)
			}
			sameJSON(t, string(a.Take()), c.out)
		})
	}
}

func TestEmbeddingsRefused(t *testing.T) {
	for body, param := range map[string]string{
		`{"model":"m","input":[[1,2]]}`:                       "input[0]",
		`{"model":"m","input":[]}`:                            "",
		`{"model":"m"}`:                                       "",
		`{"model":"m","input":7}`:                             "input",
		`{"model":"m","input":"a","encoding_format":"roman"}`: "encoding_format",
		`{"model":"m","input":"a","dimensions":"many"}`:       "dimensions",
	} {
		_, err := readBody(t, dialect.Embeddings, body)
		var b *dialect.BadRequest
		if !errors.As(err, &b) || b.Param != param {
			t.Errorf("%s: %v %+v, want one of the field %q", body, err, b, param)
		}
	}
	conv, err := readBody(t, dialect.Embeddings, `{"model":"m","input":["a","b"],"encoding_format":"base64"}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []string{`[]`, `{}`, `{"embeddings":[{"values":[1]}]}`, `{"embeddings":[{"values":null},{"values":[1]}]}`, `{"embeddings":[{"values":["x"]},{"values":[1]}]}`} {
		r, _ := conv.Write(dialect.Gemini, &Options{})
		a := r.Answer(false)
		a.Whole([]byte(answer))
		a.End(nil)
		if a.Problem == nil {
			t.Errorf("%s was taken for two embeddings: %s", answer, a.Take())
		}
	}
}

func TestCounts(t *testing.T) {
	conv, err := readBody(t, dialect.CountContent, `{"generateContentRequest":{"model":"models/m","contents":[{"parts":[{"text":"a"}]}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	r, err := conv.Write(dialect.Gemini, &Options{Model: "up"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Op != dialect.CountContent {
		t.Errorf("the upstream is asked for %s", r.Op)
	}
	sameJSON(t, string(r.Body), `{"generateContentRequest":{"model":"models/up","contents":[{"role":"user","parts":[{"text":"a"}]}]}}`)
	for answer, want := range map[string]string{
		`{"totalTokens":7}`: `{"totalTokens":7}`,
		`{"object":"response.input_tokens","input_tokens":7}`: `{"totalTokens":7}`,
		`{"input_tokens":-7}`: "",
		`{"tokens":7}`:        "",
		`7`:                   "",
	} {
		a := r.Answer(false)
		a.Whole([]byte(answer))
		a.End(nil)
		if got := string(a.Take()); got != want || (a.Problem == nil) != (want != "") {
			t.Errorf("%s became %s (%v), want %s", answer, got, a.Problem, want)
		}
	}
	sameJSON(t, string(CountAnswer(nil, dialect.Responses, 5)), `{"object":"response.input_tokens","input_tokens":5}`)
	sameJSON(t, string(CountAnswer(nil, dialect.Messages, 5)), `{"input_tokens":5}`)
}
