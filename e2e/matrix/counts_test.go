package matrix

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"google.golang.org/genai"

	"github.com/floway/floway/e2e/mock"
)

// counters count tokens by each SDK; Chat Completions has no such call.
var counters = [4]func(ctx context.Context, url, model string, header *http.Header) (int64, error){
	resp: func(ctx context.Context, url, model string, header *http.Header) (int64, error) {
		n, err := openAI(url, clientKey, header).Responses.InputTokens.Count(ctx, responses.InputTokenCountParams{
			Model: openai.String(model), Input: responses.InputTokenCountParamsInputUnion{OfString: openai.String("How many?")}, Instructions: openai.String("Be brief."),
		})
		if err != nil {
			return 0, err
		}
		return n.InputTokens, nil
	},
	msgs: func(ctx context.Context, url, model string, header *http.Header) (int64, error) {
		n, err := claude(url, clientKey, header).Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{
			Model: anthropic.Model(model), Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("How many?"))},
			System: anthropic.MessageCountTokensParamsSystemUnion{OfString: anthropic.String("Be brief.")},
		})
		if err != nil {
			return 0, err
		}
		return n.InputTokens, nil
	},
	gem: func(ctx context.Context, url, model string, header *http.Header) (int64, error) {
		c, err := google(ctx, url, clientKey, header)
		if err != nil {
			return 0, err
		}
		n, err := c.Models.CountTokens(ctx, model, genai.Text("How many?"), nil)
		if err != nil {
			return 0, err
		}
		return int64(n.TotalTokens), nil
	},
}

// Tokens are counted by the upstream where it can, else here, and then it says so.
func (w *world) counting(t *testing.T, g *grid) {
	for u := range w.up {
		for c := range dialects {
			if counters[c] == nil {
				g.set("count tokens", c, u, "-")
				continue
			}
			what := "FAIL"
			t.Run(dialects[c]+" on "+dialects[u], func(t *testing.T) {
				var header http.Header
				n, err := counters[c](t.Context(), w.URL, dialects[u]+"/mock-chat", &header)
				_, requests := w.up[u].asked(t)
				if err != nil {
					t.Fatal(err)
				}
				if u == chat {
					if n < 2 || n > 30 || header.Get("X-Floway-Estimated") != "input_tokens" || len(requests) > 0 {
						t.Fatalf("%d tokens, %v, %d requests", n, header, len(requests))
					}
					what = "ok"
					return
				}
				var own struct {
					Input int64 `json:"input_tokens"`
					Total int64 `json:"totalTokens"`
				}
				w.up[u].again(t, &requests[0], requests[0].Body, requests[0].URI, &own)
				if n == 0 || n != own.Input+own.Total || header.Get("X-Floway-Estimated") != "" {
					t.Fatalf("it is told of %d tokens, the upstream counts %d", n, own.Input+own.Total)
				}
				what = "ok"
			})
			g.set("count tokens", c, u, what)
		}
	}
}

// again asks an upstream what the gateway asked it, and reads the answer.
func (u *upstream) again(t testing.TB, r *mock.Request, body []byte, uri string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", u.URL+uri, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Content-Type", "Anthropic-Version", "Anthropic-Beta", "Authorization", "X-Api-Key", "X-Goog-Api-Key"} {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	defer u.Clear(t) // this was not the gateway's
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("asked again, the upstream says %s %v %s", resp.Status, err, answer)
	}
	if into, ok := into.(*[]byte); ok {
		*into = answer
		return
	}
	if err := json.Unmarshal(answer, into); err != nil {
		t.Fatal(err)
	}
}

// Embeddings pass between OpenAI's call and Gemini's, as numbers and as bytes.
func (w *world) embeddings(t *testing.T, g *grid) {
	texts := []string{"one", "two", "three"}
	run := func(name string, c, u int, do func(t *testing.T) ([][]float32, error)) {
		what := "FAIL"
		t.Run(name+" "+dialects[c]+" on "+dialects[u], func(t *testing.T) {
			got, err := do(t)
			_, requests := w.up[u].asked(t)
			if err != nil {
				t.Fatal(err)
			}
			var own struct {
				Embeddings []struct{ Values []float32 }
				Data       []struct{ Embedding []float32 }
			}
			body := requests[0].Body
			if u == chat {
				body = with(body, "encoding_format", "float")
			}
			w.up[u].again(t, &requests[0], body, requests[0].URI, &own)
			var want [][]float32
			for _, e := range own.Embeddings {
				want = append(want, e.Values)
			}
			for _, e := range own.Data {
				want = append(want, e.Embedding)
			}
			if len(want) != 3 || len(want[0]) != 4 || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("got %v, want %v", got, want)
			}
			what = "ok"
		})
		g.set(name, c, u, what)
	}
	for _, u := range []int{chat, gem} {
		for _, format := range []string{"float", "base64"} {
			run("embeddings, "+format, chat, u, func(t *testing.T) ([][]float32, error) {
				var header http.Header
				r, err := openAI(w.URL, clientKey, &header).Embeddings.New(t.Context(), openai.EmbeddingNewParams{
					Model: dialects[u] + "/mock-embedding", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: texts}, Dimensions: openai.Int(4),
				}, option.WithJSONSet("encoding_format", format))
				if err != nil {
					return nil, err
				}
				var all [][]float32
				for _, d := range r.Data {
					var raw struct{ Embedding json.RawMessage }
					if err := json.Unmarshal([]byte(d.RawJSON()), &raw); err != nil {
						return nil, err
					}
					values, err := floats(raw.Embedding, format)
					if err != nil {
						return nil, err
					}
					all = append(all, values)
				}
				return all, nil
			})
		}
		run("embeddings, float", gem, u, func(t *testing.T) ([][]float32, error) {
			var header http.Header
			c, err := google(t.Context(), w.URL, clientKey, &header)
			if err != nil {
				return nil, err
			}
			var contents []*genai.Content
			for _, s := range texts {
				contents = append(contents, genai.NewContentFromText(s, "user"))
			}
			r, err := c.Models.EmbedContent(t.Context(), dialects[u]+"/mock-embedding", contents, &genai.EmbedContentConfig{OutputDimensionality: genai.Ptr[int32](4)})
			if err != nil {
				return nil, err
			}
			var all [][]float32
			for _, e := range r.Embeddings {
				all = append(all, e.Values)
			}
			return all, nil
		})
	}
}

// floats reads an embedding that must be in the format asked for.
func floats(raw json.RawMessage, format string) (values []float32, err error) {
	if format == "float" {
		return values, json.Unmarshal(raw, &values)
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(text)
	for ; len(b) >= 4; b = b[4:] {
		values = append(values, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return values, err
}
