// Package mockopenai is an upstream that answers as OpenAI's API does, for
// tests of gateways in front of it.
//
// It refuses what the real service refuses, answers the same question always
// with the same bytes, and keeps a ledger of its own of what every request used.
// Model names and scripted rules make it misbehave: see Behavior. Everything
// below /__ is for the test that steers it: see Control.
package mockopenai

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 256 << 20

// Config says what a Server is made with. The zero value works.
type Config struct {
	// Keys maps the credentials that are accepted to the labels under which the
	// ledger has them. Default: sk-mock-upstream-1 to sk-mock-upstream-64 as k1
	// to k64.
	Keys map[string]string
	// Ledger, if set, gets each Entry as one line of JSON when its request ends.
	Ledger io.Writer
}

// Server answers as OpenAI's API does. It may be used by any number of requests
// at the same time.
type Server struct {
	keys   map[string]string
	routes []route
	done   chan struct{}

	mu       sync.Mutex
	ledger   io.Writer
	entries  []Entry
	seen     []Request
	seenSize int
	open     map[int64]*exchange
	next     int64
	accepted int64
	rules    []*Rule
	gates    map[string]*gate
	stored   map[string]storedResponse
}

// New makes a Server.
func New(c Config) *Server {
	s := &Server{
		keys:   c.Keys,
		ledger: c.Ledger,
		done:   make(chan struct{}),
		open:   make(map[int64]*exchange),
		gates:  make(map[string]*gate),
		stored: make(map[string]storedResponse),
	}
	if s.keys == nil {
		s.keys = make(map[string]string)
		for i := 1; i <= 64; i++ {
			s.keys["sk-mock-upstream-"+strconv.Itoa(i)] = "k" + strconv.Itoa(i)
		}
	}
	s.routes = s.table()
	return s
}

// Close ends all answers that hang or wait.
func (s *Server) Close() { close(s.done) }

// CountConnections is for http.Server's ConnState.
func (s *Server) CountConnections(_ net.Conn, state http.ConnState) {
	if state == http.StateNew {
		s.mu.Lock()
		s.accepted++
		s.mu.Unlock()
	}
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
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	route *route
	id    string // what stands for {id} in the path

	body   []byte
	member map[string]json.RawMessage // the body's members, if it is JSON
	form   *form                      // or its parts
	digest string                     // what was asked, as hex; equal questions have equal digests

	how   Behavior
	entry Entry
	ended bool
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/__") {
		s.control(w, r)
		return
	}
	x := s.begin(w, r)
	// A handler that broke off or panicked is an end like any other.
	defer x.end(Cut)
	if err := x.serve(); err != nil && err != errAnswered {
		x.refuse(err)
	}
}

func (s *Server) begin(w http.ResponseWriter, r *http.Request) *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	x := &exchange{s: s, w: w, r: r}
	x.entry = Entry{Seq: s.next, Time: time.Now().UTC(), Method: r.Method, Path: r.URL.Path}
	s.open[x.entry.Seq] = x
	return x
}

// end enters the request into the ledger, once.
func (x *exchange) end(outcome Outcome) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.ended {
		return
	}
	x.ended = true
	x.entry.Outcome = outcome
	x.entry.Ended = time.Now().UTC()
	delete(x.s.open, x.entry.Seq)
	x.s.entries = append(x.s.entries, x.entry)
	if x.s.ledger != nil {
		line, _ := json.Marshal(&x.entry)
		x.s.ledger.Write(append(line, '\n'))
	}
}

func (x *exchange) serve() error {
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	x.body = body
	x.s.record(x)
	if err != nil {
		x.end(Gone)
		panic(http.ErrAbortHandler)
	}
	if err := x.authenticate(); err != nil {
		return err
	}
	x.route, x.id, err = x.s.find(x.r)
	if err != nil {
		return err
	}
	x.entry.Operation = x.route.operation
	if err := x.parse(); err != nil {
		return err
	}
	if err := x.behave(); err != nil {
		return err
	}
	if err := x.route.fields.check(x); err != nil {
		return err
	}
	return x.route.serve(x)
}

func (x *exchange) authenticate() error {
	values := x.r.Header.Values("Authorization")
	if len(values) == 0 {
		return &Error{Status: 401, Message: "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."}
	}
	key, bearer := strings.CutPrefix(values[0], "Bearer ")
	label, known := x.s.keys[key]
	if !bearer || !known || len(values) > 1 {
		// As the service does, the answer shows the ends of what it was given.
		shown := key
		if len(shown) > 12 {
			shown = shown[:8] + strings.Repeat("*", 8) + shown[len(shown)-4:]
		}
		return &Error{Status: 401, Code: "invalid_api_key", Message: "Incorrect API key provided: " + shown + ". You can find your API key at https://platform.openai.com/account/api-keys."}
	}
	x.entry.Key = label
	return nil
}

// answer sends a whole body and ends the exchange.
func (x *exchange) answer(contentType string, body []byte) {
	h := x.header(contentType)
	if x.how.Gzip {
		body = compress(body)
		h.Set("Content-Encoding", "gzip")
	}
	x.wait(0)
	if x.how.Garbage {
		body = body[:len(body)/2]
	}
	if !x.how.Chunked {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	x.entry.Status = http.StatusOK
	x.w.WriteHeader(http.StatusOK)
	if n := x.how.Cut; n != nil && *n < len(body) {
		x.write(body[:*n])
		x.flush()
		x.breakOff(Cut)
	}
	if n := x.how.Hang; n != nil && *n < len(body) {
		x.write(body[:*n])
		x.flush()
		x.hang()
	}
	x.write(body)
	x.flush()
	x.entry.Told = x.entry.Tokens != Tokens{} && x.how.Usage != UsageAbsent
	x.end(Full)
}

// answerJSON sends v as the whole body and ends the exchange.
func (x *exchange) answerJSON(v any) error {
	x.answer("application/json", encode(v))
	return nil
}

// header sets what every answer carries, as the service and the network in front
// of it do. Nothing of it but the content type is meant for a gateway's clients.
func (x *exchange) header(contentType string) http.Header {
	h := x.w.Header()
	id := make([]byte, 16)
	rand.Read(id)
	h.Set("Content-Type", contentType)
	h.Set("X-Request-Id", "req_"+hex.EncodeToString(id))
	h.Set("Openai-Processing-Ms", "7")
	h.Set("Openai-Version", "2020-10-01")
	h.Set("Openai-Organization", "org-mock-of-"+cmp.Or(x.entry.Key, "nobody"))
	h.Set("X-Ratelimit-Limit-Requests", "10000")
	h.Set("X-Ratelimit-Remaining-Requests", "9999")
	h.Set("X-Ratelimit-Reset-Requests", "6ms")
	h.Set("X-Ratelimit-Limit-Tokens", "2000000")
	h.Set("X-Ratelimit-Remaining-Tokens", "1999980")
	h.Set("X-Ratelimit-Reset-Tokens", "0s")
	h.Set("Set-Cookie", "__cf_bm=mock-cookie; path=/; HttpOnly; Secure; SameSite=None")
	h.Set("Alt-Svc", `h3=":443"; ma=86400`)
	h.Set("Strict-Transport-Security", "max-age=31536000")
	for name, value := range x.how.Headers {
		h.Set(name, value)
	}
	return h
}

// write sends p; a client that does not take it ends the exchange.
func (x *exchange) write(p []byte) {
	size := len(p)
	if x.how.Pieces > 0 {
		size = x.how.Pieces
	}
	for len(p) > 0 {
		n := min(size, len(p))
		if _, err := x.w.Write(p[:n]); err != nil {
			x.breakOff(Gone)
		}
		p = p[n:]
		if x.how.Pieces > 0 {
			x.flush()
		}
	}
}

func (x *exchange) flush() {
	if err := http.NewResponseController(x.w).Flush(); err != nil {
		x.breakOff(Gone)
	}
}

// breakOff ends the exchange and breaks the connection, or the stream of it.
func (x *exchange) breakOff(outcome Outcome) {
	x.end(outcome)
	panic(http.ErrAbortHandler)
}

// hang says nothing more until the client leaves.
func (x *exchange) hang() {
	select {
	case <-x.r.Context().Done():
	case <-x.s.done:
	}
	x.breakOff(Gone)
}

// wait keeps the pace of a slow server and of one whose event i is gated.
func (x *exchange) wait(i int) {
	if x.how.Slow > 0 {
		t := time.NewTimer(time.Duration(x.how.Slow) * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-x.r.Context().Done():
			x.breakOff(Gone)
		}
	}
	if x.how.Gate == "" || i == 0 {
		return
	}
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	go func() {
		select {
		case <-x.s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if !x.s.gate(x.how.Gate).wait(ctx, i) {
		x.breakOff(Gone)
	}
}

// gate lets as many events of a stream through as were acknowledged.
type gate struct {
	mu      sync.Mutex
	allowed int
	raised  chan struct{} // closed, and made anew, when allowed grows
}

func (s *Server) gate(name string) *gate {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gates[name]
	if g == nil {
		g = &gate{raised: make(chan struct{})}
		s.gates[name] = g
	}
	return g
}

func (g *gate) raise(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.allowed += n
	close(g.raised)
	g.raised = make(chan struct{})
}

// wait returns once n events were acknowledged, or false if ctx ends first.
func (g *gate) wait(ctx context.Context, n int) bool {
	for {
		g.mu.Lock()
		allowed, raised := g.allowed, g.raised
		g.mu.Unlock()
		if allowed >= n {
			return true
		}
		select {
		case <-raised:
		case <-ctx.Done():
			return false
		}
	}
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
	return x.answerJSON(map[string]any{"object": "list", "data": data})
}

func (s *Server) getModel(x *exchange) error {
	if !slices.Contains(models, x.id) {
		return noModel(x.id)
	}
	return x.answerJSON(model{x.id, "model", created, "mock"})
}

func noModel(name string) error {
	return &Error{Status: 404, Code: "model_not_found", Message: "The model `" + name + "` does not exist or you do not have access to it."}
}

// sortedKeys returns the keys of a map in order, so that nothing depends on the
// map's own.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
