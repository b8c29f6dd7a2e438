// Package mockopenai is an upstream that answers as OpenAI's API does, for
// tests of gateways in front of it. How it misbehaves, keeps its ledger and is
// steered is told in package mock.
package mockopenai

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockanthropic"
)

// What all mocks share has its home in package mock.
type (
	Config   = mock.Config
	Behavior = mock.Behavior
	Rule     = mock.Rule
	Usage    = mock.Usage
	Entry    = mock.Entry
	Tokens   = mock.Tokens
	Outcome  = mock.Outcome
	Stats    = mock.Stats
	Request  = mock.Request
	Control  = mock.Control
	event    = mock.Event
)

const (
	UsageOnce   = mock.UsageOnce
	UsageEvery  = mock.UsageEvery
	UsageTwice  = mock.UsageTwice
	UsageLast   = mock.UsageLast
	UsageAbsent = mock.UsageAbsent

	Full    = mock.Full
	Refused = mock.Refused
	Cut     = mock.Cut
	Gone    = mock.Gone

	created = mock.Created
)

// Server answers as OpenAI's API does. It may be used by any number of requests
// at the same time.
type Server struct {
	*mock.Server
	routes []route

	mu     sync.Mutex
	stored map[string]storedResponse

	// vendor is who is imitated instead of OpenAI; nil for OpenAI itself. messages
	// serves its requests of Anthropic's API.
	vendor   *Vendor
	messages *mockanthropic.Server
}

// New makes a Server.
func New(c Config) *Server {
	s := &Server{stored: make(map[string]storedResponse)}
	s.Server = mock.New(c, s)
	s.routes = s.table()
	return s
}

// route is one path of the API. A segment {id} matches anything but nothing.
type route struct {
	method, path string
	operation    string
	// form: the body is multipart/form-data; otherwise JSON, or empty for GET,
	// DELETE and bare POSTs.
	form, bare bool
	fields     fields
	serve      func(*exchange) error
}

func (s *Server) table() []route {
	return []route{
		{method: "POST", path: "/v1/chat/completions", operation: "chat", fields: chatFields, serve: s.chat},
		{method: "POST", path: "/v1/completions", operation: "completions", fields: completionFields, serve: s.completion},
		{method: "POST", path: "/v1/embeddings", operation: "embeddings", fields: embeddingFields, serve: s.embedding},
		{method: "POST", path: "/v1/responses", operation: "responses", fields: responseFields, serve: s.response},
		{method: "POST", path: "/v1/responses/compact", operation: "responses.compact", fields: compactFields, serve: s.compact},
		{method: "POST", path: "/v1/responses/input_tokens", operation: "responses.input_tokens", fields: inputTokenFields, serve: s.inputTokens},
		{method: "GET", path: "/v1/responses/{id}", operation: "responses.stored", bare: true, serve: s.retrieve},
		{method: "DELETE", path: "/v1/responses/{id}", operation: "responses.stored", bare: true, serve: s.delete},
		{method: "POST", path: "/v1/responses/{id}/cancel", operation: "responses.stored", bare: true, serve: s.cancel},
		{method: "GET", path: "/v1/responses/{id}/input_items", operation: "responses.stored", bare: true, serve: s.inputItems},
		{method: "POST", path: "/v1/images/generations", operation: "images.generations", fields: imageFields, serve: s.generateImage},
		{method: "POST", path: "/v1/images/edits", operation: "images.edits", form: true, fields: imageEditFields, serve: s.editImage},
		{method: "POST", path: "/v1/images/variations", operation: "images.variations", form: true, fields: imageVariationFields, serve: s.varyImage},
		{method: "POST", path: "/v1/audio/speech", operation: "audio.speech", fields: speechFields, serve: s.speech},
		{method: "POST", path: "/v1/audio/transcriptions", operation: "audio.transcriptions", form: true, fields: transcriptionFields, serve: s.transcription},
		{method: "POST", path: "/v1/audio/translations", operation: "audio.translations", form: true, fields: translationFields, serve: s.translation},
		{method: "POST", path: "/v1/moderations", operation: "moderations", fields: moderationFields, serve: s.moderation},
		{method: "POST", path: "/v1/rerank", operation: "rerank", fields: rerankFields, serve: s.rerank},
		{method: "GET", path: "/v1/models", operation: "models", bare: true, serve: s.listModels},
		{method: "GET", path: "/v1/models/{id}", operation: "models", bare: true, serve: s.getModel},
	}
}

// find returns the route of a request, or what is wrong with its path.
func (s *Server) find(r *http.Request) (*route, string, error) {
	known := false
	for i := range s.routes {
		id, ok := match(s.routes[i].path, r.URL.Path)
		if !ok {
			continue
		}
		known = true
		if s.routes[i].method == r.Method {
			return &s.routes[i], id, nil
		}
	}
	if known {
		return nil, "", &Error{Status: 405, Code: "method_not_supported", Message: "Not allowed to " + r.Method + " on " + r.URL.Path + ". (HINT: Perhaps you meant to use a different HTTP method?)"}
	}
	return nil, "", &Error{Status: 404, Code: "unknown_url", Message: "Unknown request URL: " + r.Method + " " + r.URL.Path + ". Please check the URL for typos, or see the docs."}
}

// match compares a path with a route's and returns what stands for {id}.
func match(pattern, path string) (id string, ok bool) {
	head, tail, variable := strings.Cut(pattern, "{id}")
	if !variable {
		return "", pattern == path
	}
	rest, ok := strings.CutPrefix(path, head)
	if !ok {
		return "", false
	}
	id, ok = strings.CutSuffix(rest, tail)
	ok = ok && id != "" && !strings.Contains(id, "/")
	// These are POSTs of their own; no response has such an id.
	if head == "/v1/responses/" && (id == "compact" || id == "input_tokens") {
		ok = false
	}
	return id, ok
}

// exchange is one request on its way.
type exchange struct {
	*mock.Exchange
	s     *Server
	route *route
	id    string // what stands for {id} in the path

	member map[string]json.RawMessage // the body's members, if it is JSON
	form   *form                      // or its parts
}

// Serve implements mock.Service.
func (s *Server) Serve(e *mock.Exchange) error {
	if done, err := s.own(e); done {
		return err
	}
	x := &exchange{Exchange: e, s: s}
	if err := x.authenticate(); err != nil {
		return err
	}
	var err error
	x.route, x.id, err = s.find(x.R)
	if err != nil {
		return err
	}
	x.Entry.Operation = x.route.operation
	if err := x.parse(); err != nil {
		return err
	}
	if err := x.Behave(); err != nil {
		return err
	}
	if err := x.refused(); err != nil {
		return err
	}
	if err := x.strict(); err != nil {
		return err
	}
	if err := x.fieldsOf().check(x); err != nil {
		return err
	}
	return x.route.serve(x)
}

// refused says no to the field that the behavior names.
func (x *exchange) refused() error {
	name, inner, nested := strings.Cut(x.How.Refuse, ".")
	value, has := x.member[name]
	if nested && has {
		members, _ := object(value)
		_, has = members[inner]
	}
	if !has {
		return nil
	}
	return bad(x.How.Refuse, "unknown_parameter", "Unknown parameter: '%s'.", x.How.Refuse)
}

func (x *exchange) authenticate() error {
	values := x.R.Header.Values("Authorization")
	if len(values) == 0 {
		return &Error{Status: 401, Message: "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."}
	}
	key, bearer := strings.CutPrefix(values[0], "Bearer ")
	label, known := x.s.Label(key)
	if !bearer || !known || len(values) > 1 {
		// As the service does, the answer shows the ends of what it was given.
		shown := key
		if len(shown) > 12 {
			shown = shown[:8] + strings.Repeat("*", 8) + shown[len(shown)-4:]
		}
		return &Error{Status: 401, Code: "invalid_api_key", Message: "Incorrect API key provided: " + shown + ". You can find your API key at https://platform.openai.com/account/api-keys."}
	}
	x.Entry.Key = label
	return nil
}

// Header implements mock.Service.
func (s *Server) Header(x *mock.Exchange, h http.Header) {
	id := make([]byte, 16)
	rand.Read(id)
	h.Set("X-Request-Id", "req_"+hex.EncodeToString(id))
	h.Set("Openai-Processing-Ms", "7")
	h.Set("Openai-Version", "2020-10-01")
	h.Set("Openai-Organization", "org-mock-of-"+cmp.Or(x.Entry.Key, "nobody"))
	h.Set("X-Ratelimit-Limit-Requests", "10000")
	h.Set("X-Ratelimit-Remaining-Requests", "9999")
	h.Set("X-Ratelimit-Reset-Requests", "6ms")
	h.Set("X-Ratelimit-Limit-Tokens", "2000000")
	h.Set("X-Ratelimit-Remaining-Tokens", "1999980")
	h.Set("X-Ratelimit-Reset-Tokens", "0s")
}

// prompt enters the tokens of a prompt. There is one kind of cache.
func (x *exchange) prompt(n int64) {
	x.Prompt(n)
	t := &x.Entry.Tokens
	t.CacheWrite, t.CacheWrite1h = t.CacheWrite+t.CacheWrite1h, 0
}

// models that the service lists. Any other name that begins with "mock" works as
// well; see Behavior.
var models = []string{
	"mock-audio", "mock-chat", "mock-embedding", "mock-image", "mock-instruct", "mock-mini",
	"mock-moderation", "mock-reasoner", "mock-rerank", "mock-transcribe", "mock-tts", "mock-whisper",
}

type model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *Server) listModels(x *exchange) error {
	data := make([]model, len(models))
	for i, id := range models {
		data[i] = model{id, "model", created, "mock"}
	}
	return x.AnswerJSON(map[string]any{"object": "list", "data": data})
}

func (s *Server) getModel(x *exchange) error {
	if !slices.Contains(models, x.id) {
		return noModel(x.id)
	}
	return x.AnswerJSON(model{x.id, "model", created, "mock"})
}

// NoModel implements mock.Service.
func (s *Server) NoModel(name string) error { return noModel(name) }

func noModel(name string) error {
	return &Error{Status: 404, Code: "model_not_found", Message: "The model `" + name + "` does not exist or you do not have access to it."}
}

func sortedKeys[V any](m map[string]V) []string { return mock.SortedKeys(m) }

var (
	encode = mock.Encode
	count  = mock.Count
	pieces = mock.Pieces
	done   = mock.Done
)
