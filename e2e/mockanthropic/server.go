// Package mockanthropic is an upstream that answers as Anthropic's Messages API
// does, for tests of gateways in front of it. How it misbehaves, keeps its ledger
// and is steered is told in package mock.
//
// What a model's name may have behind it chooses what happens, with the words of
// every mock (mock.Scenarios and mock.Behavior), here so:
//
//	(none)     a short text, or calls of the first two tools in parallel, their
//	           arguments in pieces; JSON if a schema is asked for
//	unicode    letters of two to four bytes, cut anywhere
//	long       3,000 words
//	thinking   with thinking on, a redacted block too
//	refusal    stop_reason refusal, without content
//	filter     stop_reason refusal in the middle of a text
//	length     stop_reason max_tokens
//	cached     3,000 tokens read from the cache, 1,000 written for five minutes
//	           and 200 for an hour
//	status=N   that status; any that the service has
//	fail=N     event N of a stream is an error event
//	cut=N, end=N, hang=N  the connection breaks, ends, falls silent before event N
//	gzip, chunked, garbage, pieces=N, crlf, comments, bare, reset, silent,
//	words=N, slow=N, gate=NAME, usage=absent, usage=twice
//
// With thinking on (enabled or adaptive) every answer begins with a thinking
// block, whose signature is checked when it comes back.
package mockanthropic

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

// Server answers as Anthropic's API does.
type Server struct{ *mock.Server }

// New makes a Server.
func New(c mock.Config) *Server {
	s := new(Server)
	s.Server = mock.New(c, s)
	return s
}

type exchange struct {
	*mock.Exchange
	version string
}

// Serve implements mock.Service.
func (s *Server) Serve(e *mock.Exchange) error {
	x := &exchange{Exchange: e}
	if err := s.authenticate(x); err != nil {
		return err
	}
	path, isModel := strings.CutPrefix(x.R.URL.Path, "/v1/models/")
	routes := map[string]struct {
		operation string
		serve     func() error
	}{
		"POST /v1/messages":              {"messages", func() error { return x.create() }},
		"POST /v1/messages/count_tokens": {"messages.count_tokens", func() error { return x.countTokens() }},
		"GET /v1/models":                 {"models", func() error { return x.listModels() }},
	}
	route, ok := routes[x.R.Method+" "+x.R.URL.Path]
	switch {
	case isModel && x.R.Method == http.MethodGet:
		route.operation, route.serve = "models", func() error { return x.oneModel(path) }
	case !ok && (x.R.URL.Path == "/v1/messages" || x.R.URL.Path == "/v1/models"):
		return &Error{Status: 405, Type: "invalid_request_error", Message: "Method Not Allowed"}
	case !ok:
		return &Error{Status: 404, Message: "Not found"}
	}
	x.Entry.Operation = route.operation
	if err := x.headers(); err != nil {
		return err
	}
	return route.serve()
}

func (s *Server) authenticate(x *exchange) error {
	key := x.R.Header.Get("X-Api-Key")
	if bearer, ok := strings.CutPrefix(x.R.Header.Get("Authorization"), "Bearer "); ok && key == "" {
		key = bearer
	}
	if key == "" {
		return &Error{Status: 401, Message: "x-api-key header is required"}
	}
	label, ok := s.Label(key)
	if !ok {
		return &Error{Status: 401, Message: "invalid x-api-key"}
	}
	x.Entry.Key = label
	return nil
}

// betas are the preview features that the service knows.
var betas = []string{
	"claude-code-20250219", "interleaved-thinking-2025-05-14", "thinking-token-count-2026-05-13", "context-management-2025-06-27",
	"prompt-caching-scope-2026-01-05", "mid-conversation-system-2026-04-07", "effort-2025-11-24", "message-threads-2026-08-12",
	"token-counting-2024-11-01", "extended-cache-ttl-2025-04-11", "fine-grained-tool-streaming-2025-05-14", "files-api-2025-04-14",
}

const (
	oldVersion = "2023-06-01"
	newVersion = "2026-10-21"
)

func (x *exchange) headers() error {
	switch x.version = x.R.Header.Get("Anthropic-Version"); x.version {
	case oldVersion, newVersion:
	case "":
		return invalid("anthropic-version: header is required")
	default:
		return invalid("anthropic-version: %q is not a valid version. Valid versions: %s, %s", x.version, oldVersion, newVersion)
	}
	for _, b := range x.betas() {
		if !slices.Contains(betas, b) {
			return invalid("Unexpected value(s) `%s` for the `anthropic-beta` header. Please consult our documentation at docs.anthropic.com or try again without the header.", b)
		}
	}
	return nil
}

func (x *exchange) betas() (all []string) {
	for _, line := range x.R.Header.Values("Anthropic-Beta") {
		for b := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(b))
		}
	}
	return all
}

// Header implements mock.Service.
func (s *Server) Header(x *mock.Exchange, h http.Header) {
	id := make([]byte, 12)
	rand.Read(id)
	h.Set("Request-Id", "req_"+hex.EncodeToString(id))
	h.Set("Anthropic-Organization-Id", "org-mock-of-"+cmp.Or(x.Entry.Key, "nobody"))
	for _, kind := range []string{"Requests", "Tokens", "Input-Tokens", "Output-Tokens"} {
		h.Set("Anthropic-Ratelimit-"+kind+"-Limit", "4000")
		h.Set("Anthropic-Ratelimit-"+kind+"-Remaining", "3999")
		h.Set("Anthropic-Ratelimit-"+kind+"-Reset", "2026-11-23T00:00:00Z")
	}
}

// NoModel implements mock.Service.
func (s *Server) NoModel(name string) error {
	return &Error{Status: 404, Message: "model: " + name}
}

type model struct {
	Type        string `json:"type"`
	ID          string `json:"id"`
	DisplayName string `json:"display_name"`
	CreatedAt   string `json:"created_at"`
	MaxInput    int64  `json:"max_input_tokens"`
	MaxTokens   int64  `json:"max_tokens"`
}

// models that the service lists. Any other name that begins with "mock" works as
// well.
var models = []model{
	{"model", "mock-chat", "Mock Chat", "2026-09-21T14:13:20Z", 200_000, 64_000},
	{"model", "mock-mini", "Mock Mini", "2026-05-01T00:00:00Z", 200_000, 8_192},
	{"model", "mock-reasoner", "Mock Reasoner", "2026-02-01T00:00:00Z", 1_000_000, 128_000},
}

func (x *exchange) listModels() error {
	q, list := x.R.URL.Query(), models
	limit := 20
	if v := q.Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 1000 {
			return invalid("limit: Input should be between 1 and 1000")
		}
		limit = n
	}
	if id := q.Get("after_id"); id != "" {
		i := slices.IndexFunc(list, func(m model) bool { return m.ID == id })
		if i < 0 {
			return invalid("after_id: unknown id %s", id)
		}
		list = list[i+1:]
	}
	more := len(list) > limit
	list = list[:min(limit, len(list))]
	answer := struct {
		Data    []model `json:"data"`
		HasMore bool    `json:"has_more"`
		First   *string `json:"first_id"`
		Last    *string `json:"last_id"`
	}{Data: list, HasMore: more}
	if len(list) > 0 {
		answer.First, answer.Last = &list[0].ID, &list[len(list)-1].ID
	}
	return x.AnswerJSON(answer)
}

func (x *exchange) oneModel(id string) error {
	for _, m := range models {
		if m.ID == id {
			return x.AnswerJSON(m)
		}
	}
	return &Error{Status: 404, Message: "model: " + id}
}
