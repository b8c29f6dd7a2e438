package relay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// books is a ledger that holds the relay to its promises: a Settle for each
// Reserve, and for each request that had an attempt exactly one that is final,
// the last.
type books struct {
	t       testing.TB
	refuses func(*usage.Record) error

	mu      sync.Mutex
	seq     uint64
	open    map[uint64]string
	settled []usage.Record
	due     map[uint64]usage.Record // settled as estimating, and not yet corrected
	fixed   []usage.Record          // corrected
	noted   []usage.Record          // progress
}

func newBooks(t testing.TB) *books {
	b := &books{t: t, open: map[uint64]string{}, due: map[uint64]usage.Record{}}
	t.Cleanup(b.check)
	return b
}

func (b *books) Reserve(r *usage.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuses != nil {
		if err := b.refuses(r); err != nil {
			return err
		}
	}
	if r.Seq != 0 || r.Outcome != 0 || r.Request == "" || r.Client == "" || r.Upstream == "" || r.Key == "" || r.Model == "" || r.Start.IsZero() {
		b.t.Errorf("reserve of an odd record: %+v", r)
	}
	b.seq++
	r.Seq = b.seq
	b.open[r.Seq] = fmt.Sprint(r.Request, " ", r.Attempt)
	return nil
}

func (b *books) Settle(r *usage.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[r.Seq] != fmt.Sprint(r.Request, " ", r.Attempt) {
		b.t.Errorf("settle of what is not open: %+v", r)
	}
	if r.Outcome == 0 {
		b.t.Errorf("settle without an outcome: %+v", r)
	}
	delete(b.open, r.Seq)
	b.settled = append(b.settled, *r)
	if r.Estimating {
		b.due[r.Seq] = *r
	}
}

func (b *books) Progress(r *usage.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[r.Seq] != fmt.Sprint(r.Request, " ", r.Attempt) {
		b.t.Errorf("progress of what is not open: %+v", r)
	}
	b.noted = append(b.noted, *r)
}

func (b *books) Correct(was, now *usage.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if settled, ok := b.due[was.Seq]; !ok || settled != *was {
		b.t.Errorf("correction of what is not due: %+v, settled was %+v", was, settled)
	}
	want := *was
	want.Tokens, want.Estimating = now.Tokens, false
	if *now != want {
		b.t.Errorf("correction of more than tokens: %+v to %+v", was, now)
	}
	delete(b.due, was.Seq)
	b.fixed = append(b.fixed, *now)
}

func (b *books) check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, what := range b.open {
		b.t.Errorf("never settled: %s", what)
	}
	for _, r := range b.due {
		b.t.Errorf("never estimated: %+v", r)
	}
	attempts, final := map[string]int{}, map[string]int{}
	for _, r := range b.settled {
		if attempts[r.Request]++; r.Attempt != attempts[r.Request] {
			b.t.Errorf("request %s: attempt %d settled as the %d.", r.Request, r.Attempt, attempts[r.Request])
		}
		if final[r.Request] > 0 {
			b.t.Errorf("request %s: attempt %d settled after the final one", r.Request, r.Attempt)
		}
		if r.Final {
			final[r.Request]++
		}
	}
	for request := range attempts {
		if final[request] != 1 {
			b.t.Errorf("request %s has %d final attempts", request, final[request])
		}
	}
}

// records returns what was settled so far.
func (b *books) records() []usage.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.settled)
}

// outcomes spells what was settled: who was asked and how it ended.
func (b *books) outcomes() string {
	var s []string
	for _, r := range b.records() {
		s = append(s, fmt.Sprintf("%s/%s %s", r.Upstream, r.Key, r.Outcome))
	}
	return strings.Join(s, ", ")
}

// seen is a request that reached a mock.
type seen struct {
	key, method, path, query string
	header                   http.Header
	body                     string
}

// mock is an upstream with a script for each key: its answers in order. After
// them, and for keys without a script, it answers well.
type mock struct {
	*httptest.Server
	t testing.TB

	mu      sync.Mutex
	scripts map[string][]http.HandlerFunc
	calls   []seen
}

func newMock(t testing.TB) *mock {
	m := &mock{t: t, scripts: map[string][]http.HandlerFunc{}}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *mock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	key := r.Header.Get("Authorization") + r.Header.Get("X-Api-Key") + r.Header.Get("X-Goog-Api-Key")
	key = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(key, "Bearer "), "sk-"), "-secret")
	m.mu.Lock()
	m.calls = append(m.calls, seen{key, r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Clone(), string(body)})
	var answer http.HandlerFunc
	if script := m.scripts[key]; len(script) > 0 {
		answer, m.scripts[key] = script[0], script[1:]
	}
	m.mu.Unlock()
	if answer == nil {
		answer = wellFor(r.URL.Path, string(body))
	}
	answer(w, r)
}

// on sets what a key is answered.
func (m *mock) on(key string, answers ...http.HandlerFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scripts[key] = answers
}

func (m *mock) seen() []seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

// keys are the keys that were used, in order.
func (m *mock) keys() string {
	var keys []string
	for _, s := range m.seen() {
		keys = append(keys, s.key)
	}
	return strings.Join(keys, " ")
}

const (
	chatAnswer = `{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-5-2026","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}`

	chunkRole   = `data: {"id":"chatcmpl-2","model":"gpt-5-2026","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}` + "\n\n"
	chunkWord   = `data: {"id":"chatcmpl-2","model":"gpt-5-2026","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}],"usage":null}` + "\n\n"
	chunkFinish = `data: {"id":"chatcmpl-2","model":"gpt-5-2026","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}` + "\n\n"
	chunkUsage  = `data: {"id":"chatcmpl-2","model":"gpt-5-2026","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}` + "\n\n"
	chunkDone   = "data: [DONE]\n\n"
	chunkError  = `data: {"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}` + "\n\n"
)

func responseAnswer(id string) string {
	return `{"id":"` + id + `","object":"response","status":"completed","model":"gpt-5-2026","error":null,"output":[],"usage":{"input_tokens":9,"output_tokens":2,"total_tokens":11}}`
}

// wellFor answers a request as it should be.
func wellFor(path, body string) http.HandlerFunc {
	switch {
	case strings.Contains(body, `"stream":true`):
		if strings.Contains(body, `"include_usage":true`) {
			return events(chunkRole, chunkWord, chunkFinish, chunkUsage, chunkDone)
		}
		return events(chunkRole, chunkWord, chunkFinish, chunkDone)
	case strings.Contains(path, "/responses"):
		return says(200, responseAnswer("resp_new"))
	}
	return says(200, chatAnswer)
}

// says answers with a status, a body and header fields: name, value …
func says(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// fails answers with an error in OpenAI's form.
func fails(status int, code string, header ...string) http.HandlerFunc {
	return says(status, problem(code, "it says "+code), header...)
}

func problem(code, message string) string {
	return fmt.Sprintf(`{"error":{"message":%q,"type":"some_error","param":null,"code":%q}}`, message, code)
}

// tooLargeForLimit is what OpenAI says to a request that alone is more than a limit.
const tooLargeForLimit = `{"error":{"message":"Request too large for gpt-5 in organization org-1 on tokens per min (TPM): ` +
	`Limit 30000, Requested 45000. The input or output tokens must be reduced in order to run successfully.",` +
	`"type":"tokens","param":null,"code":"rate_limit_exceeded"}}`

// events answers with an event stream, piece by piece.
func events(pieces ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, p := range pieces {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// then answers with one thing after the other.
func then(answers ...http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, a := range answers {
			a(w, r)
		}
	}
}

// cutOff breaks the connection.
func cutOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// untilLeft waits until the gateway has gone.
func untilLeft(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// raw answers with bytes of any kind and closes the connection.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	}
}

// setup is what a gateway is made of.
type setup struct {
	t      testing.TB
	clock  *clock
	health *keypool.Health
	client *access.Client
	config Config
}

func newSetup(t testing.TB) *setup {
	return &setup{
		t: t, clock: newClock(), health: keypool.NewHealth(nil), client: &access.Client{Name: "alice"},
		config: Config{Retries: DefaultRetries, TryDuration: DefaultTryDuration},
	}
}

// option changes an upstream, or what its pool is made of.
type option func(*Upstream, *keypool.Config)

func withPolicy(p keypool.Policy) option {
	return func(u *Upstream, c *keypool.Config) { c.Policy, u.Sticky = p, p == keypool.Sticky }
}

func withMax(n int) option { return func(_ *Upstream, c *keypool.Config) { c.MaxRequests = n } }

func withModels(models ...access.Pattern) option {
	return func(u *Upstream, _ *keypool.Config) { u.Models = models }
}

func withAlias(public, model string) option {
	return func(u *Upstream, _ *keypool.Config) { u.Aliases = append(u.Aliases, Alias{public, model}) }
}

// upstream adds one with keys of those labels, the secrets of which are
// sk-<label>-secret.
func (s *setup) upstream(name, baseURL string, labels string, options ...option) *Upstream {
	return s.upstreamOf("openai", name, baseURL, labels, options...)
}

// upstreamOf adds one of another provider.
func (s *setup) upstreamOf(vendor, name, baseURL string, labels string, options ...option) *Upstream {
	kind, _ := provider.Lookup(vendor)
	made, err := kind.New(provider.Config{Name: name, BaseURL: baseURL})
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true} // as in Caddy
	s.t.Cleanup(transport.CloseIdleConnections)
	up := &Upstream{Name: name, Provider: made, Transport: transport}
	pool := keypool.Config{Name: name, Policy: keypool.First, Health: s.health, Now: s.clock.Now, Rand: func() float64 { return 0 }}
	for _, o := range options {
		o(up, &pool)
	}
	for _, label := range strings.Fields(labels) {
		secret := provider.NewSecret("sk-" + label + "-secret")
		credential := new(Credential)
		credential.Set(up.Provider.Credential(secret))
		up.Credentials = append(up.Credentials, credential)
		up.KeyIDs = append(up.KeyIDs, secret.ID())
		pool.Keys = append(pool.Keys, keypool.Key{Label: label, ID: secret.ID()})
	}
	if len(pool.Keys) > 0 {
		up.Pool = keypool.New(pool)
	}
	s.config.Upstreams = append(s.config.Upstreams, up)
	return up
}

// route adds one: a pattern and its targets.
func (s *setup) route(pattern string, policy keypool.Policy, to ...RouteTarget) {
	s.config.Routes = append(s.config.Routes, &Route{Pattern: access.Pattern(pattern), Policy: policy, To: to})
}

// gateway is a relay behind a door that lets everybody in.
type gateway struct {
	*setup
	relay  *Relay
	books  *books
	logs   *observer.ObservedLogs
	server *httptest.Server
	traces chan Trace
}

func (s *setup) make() (*Relay, *books, *observer.ObservedLogs) {
	s.t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	b := newBooks(s.t)
	s.config.Ledger, s.config.Log = b, zap.New(core)
	if s.config.Now == nil {
		s.config.Now = s.clock.Now
	}
	r, err := New(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := r.Estimates.Wait(context.Background()); err != nil || r.Estimates.texts.held.Load() != 0 {
			s.t.Errorf("%d bytes of texts are still held (%v)", r.Estimates.texts.held.Load(), err)
		}
	})
	return r, b, logs
}

func (s *setup) start() *gateway {
	s.t.Helper()
	g := &gateway{setup: s, traces: make(chan Trace, 1000)}
	g.relay, g.books, g.logs = s.make()
	g.server = httptest.NewServer(g)
	s.t.Cleanup(func() {
		g.server.Client().CloseIdleConnections()
		g.server.Close()
	})
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	call := dialect.Find(in.Method, in.URL.Path)
	if call.Verdict != dialect.Found {
		http.Error(w, "no such path", http.StatusTeapot)
		return
	}
	client := g.client
	if name := in.Header.Get("X-Client"); name != "" {
		client = &access.Client{Name: name}
	}
	trace := Trace{Request: NewRequestID()}
	w.Header().Set("X-Request-Id", trace.Request)
	defer func() { g.traces <- trace }()
	if call.Op == dialect.ListModels {
		g.relay.ServeModels(w, in, &call, client)
		return
	}
	g.relay.Serve(w, in, &call, client, "team", &trace)
}

// got is an answer of the gateway.
type got struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
	closed bool  // the connection was announced to close
	trace  Trace
}

// do sends a request and waits until the gateway is done with it.
func (g *gateway) do(req *http.Request) got {
	g.t.Helper()
	res, err := g.server.Client().Do(req)
	if err != nil {
		<-g.traces
		return got{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return got{res.StatusCode, res.Header, string(body), err, res.Close, <-g.traces}
}

func (g *gateway) request(path, body string, header ...string) *http.Request {
	req, err := http.NewRequest("POST", g.server.URL+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func (g *gateway) post(path, body string, header ...string) got {
	g.t.Helper()
	return g.do(g.request(path, body, header...))
}

const (
	chatBody   = `{"model":"gpt-5","messages":[{"role":"user","content":"hi"}]}`
	streamBody = `{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hi"}]}`
)

func (g *gateway) chat() got {
	g.t.Helper()
	return g.post("/v1/chat/completions", chatBody)
}
func (g *gateway) stream() got { g.t.Helper(); return g.post("/v1/chat/completions", streamBody) }

// wants holds an answer to what was expected.
func (a got) wants(t testing.TB, status int, part string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, part) || a.err != nil {
		t.Errorf("answer %d %q (%v), want %d with %q", a.status, a.body, a.err, status, part)
	}
}

// states spells the states of an upstream's keys.
func states(u *Upstream) string {
	var s []string
	for _, k := range u.Pool.States() {
		s = append(s, k.Label+" "+k.State.String())
		for _, m := range k.Models {
			s = append(s, k.Label+":"+m.Model+" "+m.State.String())
		}
	}
	return strings.Join(s, ", ")
}

// idle says whether no key of the upstream is in use.
func wantIdle(t testing.TB, ups ...*Upstream) {
	t.Helper()
	for _, u := range ups {
		for _, k := range u.Pool.States() {
			if k.InFlight != 0 {
				t.Errorf("upstream %s: %d leases of key %s are not given back", u.Name, k.InFlight, k.Label)
			}
		}
	}
}

// sink is a client's end in tests without a network.
type sink struct {
	mu      sync.Mutex
	header  http.Header
	status  int
	body    bytes.Buffer
	flushed int // bytes that have left
	err     error
	delay   time.Duration // that a flush takes
}

func newSink() *sink { return &sink{header: http.Header{}} }

func (s *sink) Header() http.Header { return s.header }

func (s *sink) WriteHeader(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status != 0 {
		panic("WriteHeader called twice")
	}
	s.status = status
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.body.Write(p)
}

func (s *sink) FlushError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	time.Sleep(s.delay)
	s.flushed = s.body.Len()
	return s.err
}

func (s *sink) text() (status int, flushed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.body.String()[:s.flushed]
}

// trip is a transport without a network.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func withTransport(f trip) option {
	return func(u *Upstream, _ *keypool.Config) { u.Transport = f }
}

// respond makes an answer of a transport.
func respond(status int, kind string, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {kind}}, Body: body, ContentLength: -1}
}

// tied is a body that ends with its request, as those of the network do.
type tied struct {
	*io.PipeReader
	stop func() bool
}

func (b tied) Close() error {
	b.stop()
	return b.PipeReader.Close()
}

func newTied(ctx context.Context) (tied, *io.PipeWriter) {
	r, w := io.Pipe()
	return tied{r, context.AfterFunc(ctx, func() { _ = r.CloseWithError(context.Cause(ctx)); _ = w.CloseWithError(context.Cause(ctx)) })}, w
}

// run is a request without a network, on its way.
type run struct {
	sink    *sink
	trace   Trace
	leave   context.CancelFunc
	aborted bool // by a panic with http.ErrAbortHandler
	done    chan struct{}
}

// inMemory makes a request without a network, and the means to leave it.
func inMemory(path, body string) (*dialect.Call, *http.Request, context.CancelFunc) {
	call := dialect.Find("POST", path)
	at, _ := url.Parse(path)
	ctx, leave := context.WithCancel(context.Background())
	return &call, (&http.Request{
		Method: "POST", URL: at, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(ctx), leave
}

func (s *setup) run(r *Relay, path, body string) *run {
	call, in, leave := inMemory(path, body)
	q := &run{sink: newSink(), trace: Trace{Request: NewRequestID()}, leave: leave, done: make(chan struct{})}
	go func() {
		defer close(q.done)
		defer func() {
			if p := recover(); p == http.ErrAbortHandler {
				q.aborted = true
			} else if p != nil {
				panic(p)
			}
		}()
		r.Serve(q.sink, in, call, s.client, "", &q.trace)
	}()
	return q
}

func readCloser(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }
