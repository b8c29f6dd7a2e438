package provider

import (
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/dialect"
)

func newOllama(t *testing.T, base string) Upstream {
	t.Helper()
	kind, _ := Lookup("ollama")
	if kind.FirstByte != 15*time.Minute {
		t.Errorf("a model may take %v to load", kind.FirstByte)
	}
	u, err := kind.New(Config{BaseURL: base})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Ollama lists its models in a form and at a path of its own, whatever stands
// before it.
func TestOllamaModels(t *testing.T) {
	for base, want := range map[string]string{
		"":                          "http://localhost:11434/api/tags",
		"http://h:1":                "http://h:1/api/tags",
		"http://h:1/v1/":            "http://h:1/api/tags",
		"https://ollama.com":        "https://ollama.com/api/tags",
		"http://h/a%2Fb/v1":         "http://h/a%2Fb/api/tags",
		"http://h/behind/a/proxy/":  "http://h/behind/a/proxy/api/tags",
		"http://h/behind/v1/ollama": "http://h/behind/v1/ollama/api/tags",
	} {
		u := newOllama(t, base)
		_, err := u.Models(t.Context(), func(req *http.Request) (*http.Response, error) {
			if req.URL.String() != want {
				t.Errorf("%q: asked %s, want %s", base, req.URL, want)
			}
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"models":[]}`))}, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	for body, want := range map[string][]Model{
		`{"models":[{"name":"qwen3:latest","model":"qwen3:latest","modified_at":"2026-11-01T10:00:00.5+01:00","size":5,"digest":"d","details":{}},{"name":"hf.co/a/b:Q4","modified_at":"never"}]}`: {{ID: "qwen3:latest", Created: 1793523600}, {ID: "hf.co/a/b:Q4"}},
		`{"models":null}`:     {},
		`{"models":[]}`:       {},
		`{"models":{"a":1}}`:  nil,
		`{"data":[]}`:         nil,
		`{}`:                  nil,
		`[]`:                  nil,
		`Ollama is running`:   nil,
		`{"models":[{"name":`: nil,
	} {
		models, err := newOllama(t, "").Models(t.Context(), func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		if (err != nil) != (want == nil) || !reflect.DeepEqual(models, want) {
			t.Errorf("%s: %v, %v", body, models, err)
		}
	}
}

// A name without a tag is that of the latest.
func TestOllamaTags(t *testing.T) {
	u := newOllama(t, "")
	if u.Family("qwen3") {
		t.Error("a name is known before any list")
	}
	u.(Learner).Learn([]Model{{ID: "qwen3:latest"}, {ID: "llama3:8b"}})
	for name, want := range map[string]bool{"qwen3": true, "llama3": false, "qwen3:latest": false, "": false} {
		if u.Family(name) != want {
			t.Errorf("%q is a name of its own: %t", name, !want)
		}
	}
	u.(Learner).Learn([]Model{})
	if u.Family("qwen3") {
		t.Error("a model that is gone is still known")
	}
}

// Versions of Messages below the first are refused, and those without one may be.
func TestOllamaVersion(t *testing.T) {
	u := newOllama(t, "").(Tailor)
	for sent, want := range map[string]string{"": "2023-06-01", "2023-01-01": "2023-06-01", "2023-06-01": "2023-06-01", "2026-10-21": "2026-10-21"} {
		h := http.Header{}
		if sent != "" {
			h.Set("Anthropic-Version", sent)
		}
		u.Describe(dialect.CreateMessage, nil, h)
		if got := h.Get("Anthropic-Version"); got != want {
			t.Errorf("%q becomes %q", sent, got)
		}
		h = http.Header{}
		if u.Describe(dialect.ChatCompletions, nil, h); len(h) > 0 {
			t.Errorf("Chat Completions has %v", h)
		}
	}
	// What is its own passes.
	const body = `{"model":"m","keep_alive":"10m","options":{"num_ctx":32768,"max_completion_tokens":1},"think":true,"messages":[]}`
	if got := u.Fit(dialect.ChatCompletions, []byte(body)); string(got) != body {
		t.Errorf("%s becomes %s", body, got)
	}
}
