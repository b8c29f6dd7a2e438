// Package mockgemini is an upstream that answers as Google's Gemini API does, for
// tests of gateways in front of it. How it misbehaves, keeps its ledger and is
// steered is told in package mock.
//
// What a model's name may have behind it chooses what happens, with the words of
// every mock (mock.Scenarios and mock.Behavior), here so:
//
//	(none)     a short text, or calls of the first two functions in parallel, the
//	           finish in a chunk of its own; JSON if a schema is asked for
//	unicode    letters of two to four bytes, cut anywhere
//	long       3,000 words
//	thinking   thoughts are counted, and shown if asked for; a part without text has
//	           the signature
//	refusal    promptFeedback.blockReason, and no candidate
//	filter     finishReason SAFETY in the middle of a text
//	length     finishReason MAX_TOKENS
//	cached     3,000 tokens read from the cache
//	status=N   that status; any that the service has
//	fail=N     chunk N of a stream is an error
//	cut=N, end=N, hang=N  the connection breaks, ends, falls silent before chunk N
//	gzip, chunked, garbage, pieces=N, comments, bare, reset, silent, words=N,
//	slow=N, gate=NAME, usage=absent
//
// Lines end in CR LF, as the service's do. The first call of each step, and the
// last part of each text, have a signature: the first must come back as it was, or
// as one of the words that stand for none.
package mockgemini

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

// Server answers as the Gemini API does.
type Server struct{ *mock.Server }

// New makes a Server.
func New(c mock.Config) *Server {
	s := new(Server)
	s.Server = mock.New(c, s)
	return s
}

type exchange struct {
	*mock.Exchange
}

const base = "/v1beta/models"

// Serve implements mock.Service.
func (s *Server) Serve(e *mock.Exchange) error {
	x := &exchange{e}
	if err := s.authenticate(x); err != nil {
		return err
	}
	rest, ok := strings.CutPrefix(x.R.URL.Path, base)
	if !ok || rest != "" && rest[0] != '/' {
		return &Error{Status: 404, Text: "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>"}
	}
	name := strings.TrimPrefix(rest, "/")
	if x.R.Method == http.MethodGet {
		x.Entry.Operation = "models"
		if rest == "" {
			return x.listModels()
		}
		return x.oneModel(name)
	}
	i := strings.LastIndexByte(name, ':')
	operations := map[string]struct {
		operation string
		serve     func() error
	}{
		"generateContent":       {"gemini", func() error { return x.generate(false) }},
		"streamGenerateContent": {"gemini.stream", func() error { return x.generate(true) }},
		"countTokens":           {"gemini.count_tokens", x.countTokens},
		"embedContent":          {"gemini.embed", x.embed},
		"batchEmbedContents":    {"gemini.batch_embed", x.batchEmbed},
	}
	op, ok := operations[name[i+1:]]
	if i < 1 || !ok || x.R.Method != http.MethodPost {
		return &Error{Status: 404, Text: "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>"}
	}
	x.Entry.Operation, x.Entry.Model = op.operation, name[:i]
	if err := x.query(); err != nil {
		return err
	}
	x.digest()
	return op.serve()
}

func (s *Server) authenticate(x *exchange) error {
	key := x.R.Header.Get("X-Goog-Api-Key")
	if key == "" {
		key = x.R.URL.Query().Get("key")
	}
	if key == "" {
		return &Error{Status: 403, Message: "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API."}
	}
	label, ok := s.Label(key)
	if !ok {
		return badKey
	}
	x.Entry.Key = label
	return nil
}

// query refuses parameters that are not known.
func (x *exchange) query() error {
	for name, values := range x.R.URL.Query() {
		switch name {
		case "key", "$alt", "prettyPrint", "$prettyPrint", "$httpMethod", "fields":
		case "alt":
			if values[0] != "sse" && values[0] != "json" {
				return invalid("Invalid value for the query parameter 'alt': %q", values[0])
			}
		default:
			return invalid("Invalid JSON payload received. Unknown name \"%s\": Cannot bind query parameter. Field '%s' could not be found in request message.", name, name)
		}
	}
	return nil
}

// Header implements mock.Service.
func (s *Server) Header(_ *mock.Exchange, h http.Header) {
	h.Set("Server", "scaffolding on HTTPServer2")
	h.Set("Vary", "Origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Server-Timing", "gfet4t7; dur=7")
}

// NoModel implements mock.Service.
func (s *Server) NoModel(name string) error {
	return &Error{Status: 404, Message: "models/" + name + " is not found for API version v1beta, or is not supported for generateContent. Call ListModels to see the list of available models and their supported methods."}
}

type model struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	DisplayName string   `json:"displayName"`
	Description string   `json:"description"`
	InputLimit  int64    `json:"inputTokenLimit"`
	OutputLimit int64    `json:"outputTokenLimit"`
	Methods     []string `json:"supportedGenerationMethods"`
}

var (
	chats = []string{"generateContent", "countTokens"}

	// models that the service lists. Any other name that begins with "mock" works
	// as well.
	models = []model{
		{"models/mock-chat", "001", "Mock Chat", "A mock.", 1 << 20, 1 << 16, chats},
		{"models/mock-mini", "001", "Mock Mini", "A smaller mock.", 1 << 17, 1 << 13, chats},
		{"models/mock-reasoner", "001", "Mock Reasoner", "A mock that thinks.", 1 << 20, 1 << 16, chats},
		{"models/mock-embedding", "001", "Mock Embedding", "A mock that embeds.", 2048, 1, []string{"embedContent", "batchEmbedContents"}},
	}
)

func (x *exchange) listModels() error {
	q, list := x.R.URL.Query(), models
	size := 50
	if v := q.Get("pageSize"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return invalid("Invalid value at 'page_size' (TYPE_INT32), %q", v)
		}
		if n > 0 {
			size = min(n, 1000)
		}
	}
	if token := q.Get("pageToken"); token != "" {
		i := slices.IndexFunc(list, func(m model) bool { return "after "+m.Name == token })
		if i < 0 {
			return invalid("Invalid page token.")
		}
		list = list[i+1:]
	}
	answer := struct {
		Models []model `json:"models"`
		Next   string  `json:"nextPageToken,omitempty"`
	}{Models: list[:min(size, len(list))]}
	if len(list) > size {
		answer.Next = "after " + list[size-1].Name
	}
	return x.AnswerJSON(answer)
}

func (x *exchange) oneModel(name string) error {
	for _, m := range models {
		if m.Name == "models/"+name {
			return x.AnswerJSON(m)
		}
	}
	return &Error{Status: 404, Message: "Model is not found: models/" + name + " for api version v1beta"}
}
