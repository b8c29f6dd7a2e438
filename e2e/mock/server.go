// Package mock is what the mock upstreams of these tests share: they answer as a
// vendor's service does, for tests of gateways in front of them.
//
// Each refuses what the real service refuses, answers the same question always
// with the same bytes, and keeps a ledger of its own of what every request used.
// Model names and scripted rules make it misbehave: see Behavior, whose words are
// the same for all services. Everything below /__ is for the test that steers it:
// see Control.
package mock

import (
	"context"
	"io"
	"net"
	"net/http"
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

// Service is what one vendor's service does its own way.
type Service interface {
	// Serve answers a request whose body has been read. Its error is given to
	// Refuse.
	Serve(x *Exchange) error
	// Refuse answers with an error, and ends the exchange with Send.
	Refuse(x *Exchange, err error)
	// Header sets what answers carry besides their content type.
	Header(x *Exchange, h http.Header)
	// NoModel is the error for a model that is not there; Scripted what the
	// service says with a status.
	NoModel(name string) error
	Scripted(status int) error
}

// Server answers as a service does. It may be used by any number of requests at
// the same time.
type Server struct {
	service Service
	keys    map[string]string
	done    chan struct{}

	mu       sync.Mutex
	ledger   io.Writer
	entries  []Entry
	seen     []Request
	seenSize int
	open     map[int64]*Exchange
	next     int64
	accepted int64
	rules    []*Rule
	gates    map[string]*gate
}

// New makes a Server of a service.
func New(c Config, service Service) *Server {
	s := &Server{
		service: service,
		keys:    c.Keys,
		ledger:  c.Ledger,
		done:    make(chan struct{}),
		open:    make(map[int64]*Exchange),
		gates:   make(map[string]*gate),
	}
	if s.keys == nil {
		s.keys = make(map[string]string)
		for i := 1; i <= 64; i++ {
			s.keys["sk-mock-upstream-"+strconv.Itoa(i)] = "k" + strconv.Itoa(i)
		}
	}
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

// Label returns the label of a credential that is accepted.
func (s *Server) Label(key string) (label string, ok bool) {
	label, ok = s.keys[key]
	return label, ok
}

// Exchange is one request on its way.
type Exchange struct {
	W http.ResponseWriter
	R *http.Request
	// Body is the request's.
	Body []byte
	// Digest is of what was asked, as hex: equal questions have equal digests.
	// The service sets it.
	Digest string
	How    Behavior
	Entry  Entry

	s *Server
	// aside: the gateway asks on its own account which models there are, whenever
	// it wants to know. No rule treats that and no ledger has it.
	aside bool
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
	defer x.End(Cut)
	if err := x.serve(); err != nil && err != errAnswered {
		s.service.Refuse(x, err)
	}
}

func (s *Server) begin(w http.ResponseWriter, r *http.Request) *Exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &Exchange{s: s, W: w, R: r}
	if x.aside = r.Method == http.MethodGet && (strings.HasSuffix(r.URL.Path, "/models") || r.URL.Path == "/api/tags") && r.UserAgent() == "floway"; x.aside {
		return x
	}
	s.next++
	x.Entry = Entry{Seq: s.next, Time: time.Now().UTC(), Method: r.Method, Path: r.URL.Path, Request: r.Header.Get("X-Client-Request-Id")}
	s.open[x.Entry.Seq] = x
	return x
}

// End enters the request into the ledger, once.
func (x *Exchange) End(outcome Outcome) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.ended || x.aside {
		return
	}
	x.ended = true
	x.Entry.Outcome = outcome
	x.Entry.Ended = time.Now().UTC()
	delete(x.s.open, x.Entry.Seq)
	x.s.entries = append(x.s.entries, x.Entry)
	if x.s.ledger != nil {
		x.s.ledger.Write(append(Encode(&x.Entry), '\n'))
	}
}

func (x *Exchange) serve() error {
	body, err := io.ReadAll(http.MaxBytesReader(x.W, x.R.Body, maxBody))
	x.Body = body
	x.s.record(x)
	if err != nil {
		x.End(Gone)
		panic(http.ErrAbortHandler)
	}
	return x.s.service.Serve(x)
}

// Answer sends a whole body and ends the exchange.
func (x *Exchange) Answer(contentType string, body []byte) {
	h := x.Header(contentType)
	if x.How.Gzip {
		body = compress(body)
		h.Set("Content-Encoding", "gzip")
	}
	x.Wait(0)
	if x.How.Garbage {
		body = body[:len(body)/2]
	}
	if !x.How.Chunked {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	x.Entry.Status = http.StatusOK
	x.W.WriteHeader(http.StatusOK)
	if n := x.How.Cut; n != nil && *n < len(body) {
		x.Write(body[:*n])
		x.Flush()
		x.BreakOff(Cut)
	}
	if n := x.How.Hang; n != nil && *n < len(body) {
		x.Write(body[:*n])
		x.Flush()
		x.Hang()
	}
	x.Write(body)
	x.Flush()
	x.Entry.Told = x.Entry.Tokens != Tokens{} && x.How.Usage != UsageAbsent
	x.End(Full)
}

// AnswerJSON sends v as the whole body and ends the exchange.
func (x *Exchange) AnswerJSON(v any) error {
	x.Answer("application/json", Encode(v))
	return nil
}

// Header sets what every answer carries, as the service and the network in front
// of it do. Nothing of it but the content type is meant for a gateway's clients.
func (x *Exchange) Header(contentType string) http.Header {
	h := x.W.Header()
	h.Set("Content-Type", contentType)
	h.Set("Set-Cookie", "__cf_bm=mock-cookie; path=/; HttpOnly; Secure; SameSite=None")
	h.Set("Alt-Svc", `h3=":443"; ma=86400`)
	h.Set("Strict-Transport-Security", "max-age=31536000")
	x.s.service.Header(x, h)
	for name, value := range x.How.Headers {
		h.Set(name, value)
	}
	return h
}

// Send answers with a status and a body that used nothing.
func (x *Exchange) Send(status int, contentType string, body []byte) {
	h := x.Header(contentType)
	if x.How.Gzip {
		body = compress(body)
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.Entry.Status = status
	x.Entry.Tokens = Tokens{}
	x.W.WriteHeader(status)
	x.Write(body)
	x.Flush()
	x.End(Refused)
}

// Write sends p; a client that does not take it ends the exchange.
func (x *Exchange) Write(p []byte) {
	size := len(p)
	if x.How.Pieces > 0 {
		size = x.How.Pieces
	}
	for len(p) > 0 {
		n := min(size, len(p))
		if _, err := x.W.Write(p[:n]); err != nil {
			x.BreakOff(Gone)
		}
		p = p[n:]
		if x.How.Pieces > 0 {
			x.Flush()
		}
	}
}

func (x *Exchange) Flush() {
	if err := http.NewResponseController(x.W).Flush(); err != nil {
		x.BreakOff(Gone)
	}
}

// BreakOff ends the exchange and breaks the connection, or the stream of it.
func (x *Exchange) BreakOff(outcome Outcome) {
	x.End(outcome)
	panic(http.ErrAbortHandler)
}

// Hang says nothing more until the client leaves.
func (x *Exchange) Hang() {
	select {
	case <-x.R.Context().Done():
	case <-x.s.done:
	}
	x.BreakOff(Gone)
}

// Wait keeps the pace of a slow server and of one whose event i is gated.
func (x *Exchange) Wait(i int) {
	if x.How.Slow > 0 {
		t := time.NewTimer(time.Duration(x.How.Slow) * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-x.R.Context().Done():
			x.BreakOff(Gone)
		}
	}
	if x.How.Gate == "" || i == 0 {
		return
	}
	ctx, cancel := context.WithCancel(x.R.Context())
	defer cancel()
	go func() {
		select {
		case <-x.s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if !x.s.gate(x.How.Gate).wait(ctx, i) {
		x.BreakOff(Gone)
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

// Wait returns once n events were acknowledged, or false if ctx ends first.
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
