package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
)

// The provider demo is a language model without the model: it answers in the
// process itself, in all four dialects, and says back what it was told. The same
// request has the same answer, byte for byte, its ids and times included. A word
// is a token. Fields about sampling and the form of the text are not looked at.

func init() { Register("demo", Kind{New: openDemo, Keyless: true}) }

// demoModels are the models with the pause that they make before each event of a
// stream: the small one answers at once, the large one at the pace of a reader.
var demoModels = map[string]time.Duration{
	"demo-small": 0,
	"demo-large": 20 * time.Millisecond,
}

const (
	// demoEpoch is when the demo answers, in seconds since 1970.
	demoEpoch = 1_790_000_000
	// demoMaxBody bounds the body of a request.
	demoMaxBody = 8 << 20
)

var demoFeatures = []string{"chat", "responses", "messages", "gemini", "completions", "embeddings"}

var demoRefusals = refusals{
	{code: "model_not_found", means: NoModel},
	{status: 404, text: "model", means: NoModel}, // Messages and Gemini have no codes
}

// demo is an upstream of the kind demo.
type demo struct {
	speaks map[string]bool
	via    [4][]dialect.Dialect
}

func openDemo(c Config) (Upstream, error) {
	if c.BaseURL != "" {
		return nil, errors.New("base_url: the provider demo answers by itself and has no address")
	}
	if names := slices.Sorted(maps.Keys(c.Options)); len(names) > 0 {
		return nil, fmt.Errorf("%s: the provider demo has no such option", names[0])
	}
	speaks, err := declared(&c, demoFeatures, demoFeatures)
	if err != nil {
		return nil, err
	}
	return demo{speaks, viaOf(func(d dialect.Dialect) bool { return speaks[d.String()] })}, nil
}

func (d demo) Speaks(op dialect.Operation, _ string) bool { return d.speaks[op.Feature()] }

func (d demo) Via(from dialect.Dialect, _ string) []dialect.Dialect { return d.via[from] }

// Address returns a URL of the form that the dialect's own service has, on a host
// that cannot exist.
func (d demo) Address(call *dialect.Call, model string) *url.URL {
	at := &url.URL{Scheme: "http", Host: "demo.invalid", Path: "/"} // else JoinPath makes a relative path
	switch action := geminiActions[call.Op]; {
	case action != "":
		return at.JoinPath("v1beta/models", url.PathEscape(model)+":"+action)
	case call.Op == dialect.StoredResponse:
		return at.JoinPath("v1/responses", url.PathEscape(call.ID), call.Rest)
	}
	return at.JoinPath("v1", call.Op.Path())
}

func (d demo) Credential(Secret) Credential { return noCredential }

func (d demo) Headers() http.Header { return nil }

func (d demo) Meaning(status int, p *dialect.Problem) Meaning { return demoRefusals.meaning(status, p) }

func (d demo) Family(model string) bool { return strings.HasPrefix(model, "demo-") }

func (d demo) Models(context.Context, func(*http.Request) (*http.Response, error)) ([]Model, error) {
	var models []Model
	for _, id := range slices.Sorted(maps.Keys(demoModels)) {
		models = append(models, Model{ID: id, Created: demoEpoch, OwnedBy: "floway"})
	}
	return models, nil
}

func (d demo) Transport() http.RoundTripper { return demoTransport{} }

// demoTransport answers requests without a network. It starts nothing that would
// outlive an answer.
type demoTransport struct{}

// RoundTrip fails only if the request's context or body does: what is wrong with
// a request is said in an answer.
func (demoTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := demoBody(req)
	if err != nil {
		return nil, err
	}
	x := demoExchange{
		call: dialect.Find(req.Method, req.URL.Path),
		sse:  req.URL.Query().Get("alt") == "sse",
		body: body,
	}
	x.id = x.name()
	a, err := x.answer()
	if err != nil {
		a = x.refusal(err)
	}
	res := &http.Response{
		Status: strconv.Itoa(a.status) + " " + http.StatusText(a.status), StatusCode: a.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {a.contentType}}, Request: req,
	}
	if x.call.Dialect == dialect.Messages {
		res.Header.Set("Request-Id", "req_"+x.id)
	} else {
		res.Header.Set("X-Request-Id", "req_"+x.id)
	}
	if a.events == nil {
		res.ContentLength = int64(len(a.body))
		res.Header.Set("Content-Length", strconv.Itoa(len(a.body)))
		res.Body = io.NopCloser(bytes.NewReader(a.body))
		return res, nil
	}
	ctx, cancel := context.WithCancel(req.Context())
	res.ContentLength = -1
	res.Body = &demoStream{ctx: ctx, cancel: cancel, events: a.events, pause: a.pause}
	return res, nil
}

// demoBody reads a request's body and closes it. Of one that is too long it
// returns one byte more than is allowed.
func demoBody(req *http.Request) (body []byte, err error) {
	if req.Body != nil {
		defer req.Body.Close()
		body, err = io.ReadAll(io.LimitReader(req.Body, demoMaxBody+1))
	}
	if req.Context().Err() != nil {
		return nil, context.Cause(req.Context())
	}
	return body, err
}

// demoExchange is one request to the demo.
type demoExchange struct {
	call dialect.Call
	sse  bool // the query says alt=sse
	body []byte
	id   string // what the ids in the answer are made of
}

// name makes an id that equal requests share.
func (x *demoExchange) name() string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, x.call.Op.String()+" "+x.call.Model+" ")
	_, _ = h.Write(x.body)
	return fmt.Sprintf("%016x", h.Sum64())
}

// demoAnswer is what comes back: a body, or the events of a stream.
type demoAnswer struct {
	status      int
	contentType string
	body        []byte
	events      [][]byte
	pause       time.Duration // before each event but the first
}

// answer answers. A *dialect.Error says what is wrong with the request.
func (x *demoExchange) answer() (*demoAnswer, error) {
	switch {
	case x.call.Verdict != dialect.Found:
		return nil, &dialect.Error{Fault: dialect.NotFound, Message: "the demo has nothing at this path"}
	case len(x.body) > demoMaxBody:
		return nil, &dialect.Error{Fault: dialect.TooLarge, Message: fmt.Sprintf("the demo reads no bodies longer than %d MiB", demoMaxBody>>20)}
	}
	switch x.call.Op {
	case dialect.ChatCompletions:
		return x.chat()
	case dialect.Completions:
		return x.completions()
	case dialect.Embeddings:
		return x.embeddings()
	case dialect.CreateResponse, dialect.CompactResponse, dialect.CountResponse:
		return x.responses()
	case dialect.StoredResponse:
		return nil, &dialect.Error{Fault: dialect.NotFound, Message: "the demo keeps no responses"}
	case dialect.CreateMessage, dialect.CountMessage:
		return x.messages()
	case dialect.GenerateContent, dialect.StreamContent:
		return x.generate()
	case dialect.CountContent:
		return x.countContent()
	case dialect.EmbedContent, dialect.BatchEmbedContents:
		return x.embedContent()
	}
	return nil, &dialect.Error{Fault: dialect.NotFound, Message: "the demo has nothing at this path"}
}

func (x *demoExchange) refusal(err error) *demoAnswer {
	var e *dialect.Error
	if !errors.As(err, &e) {
		e = &dialect.Error{Fault: dialect.Internal, Message: err.Error()}
	}
	e.Request = "req_" + x.id
	body := e.Body(x.call.Dialect)
	if x.call.Op == dialect.StreamContent && !x.sse {
		body = slices.Concat([]byte("["), body, []byte("]")) // as Google's service does it
	}
	return &demoAnswer{status: e.HTTPStatus(), contentType: "application/json", body: body}
}

// demoJSON answers with one JSON object.
func demoJSON(o object) *demoAnswer {
	return &demoAnswer{status: http.StatusOK, contentType: "application/json", body: encode(o)}
}

// demoEventStream answers with events, at the model's pace.
func demoEventStream(model string, events [][]byte) *demoAnswer {
	return &demoAnswer{status: http.StatusOK, contentType: "text/event-stream", events: events, pause: demoModels[model]}
}

// demoReply is what the demo says: a text, word by word, or a call of a tool.
type demoReply struct {
	words   []string // with the spaces behind them
	tool    string   // the name of the tool to call; empty if none
	cut     bool     // the text was longer than allowed
	in, out int      // tokens
}

// noLimit is the number of tokens allowed where the request names none.
const noLimit = 1 << 30

// demoSays answers the last user's turn in at most limit words.
func demoSays(model, said string, in, limit int, tool string) demoReply {
	if tool != "" {
		return demoReply{tool: tool, in: max(in, 1), out: 2} // its name and {}
	}
	text := "This is " + model + ", the offline model that comes with floway. You said: " + echo(said)
	words := strings.SplitAfter(text, " ")
	r := demoReply{words: words[:min(len(words), limit)], in: max(in, 1)}
	r.out, r.cut = len(r.words), len(r.words) < len(words)
	return r
}

func (r *demoReply) text() string { return strings.Join(r.words, "") }

// echo returns the beginning of what was said, on one line.
func echo(said string) string {
	const most = 400 // bytes
	begin := strings.Join(strings.Fields(strings.ToValidUTF8(said[:min(len(said), most)], "")), " ")
	switch {
	case begin == "":
		return "nothing."
	case len(said) > most:
		return begin + "…"
	}
	return begin
}

// demoStream is the body of a stream: each read gives one event or a part of it.
// It ends with the request's context, or when it is closed.
type demoStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	events [][]byte
	pause  time.Duration
	begun  bool // the first event has been read
	within bool // the first of events has been read in part
}

func (s *demoStream) Read(p []byte) (int, error) {
	if len(s.events) > 0 && s.begun && !s.within && s.pause > 0 {
		select {
		case <-s.ctx.Done():
		case <-time.After(s.pause):
		}
	}
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	if len(s.events) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.events[0])
	s.begun, s.within = true, n < len(s.events[0])
	if s.within {
		s.events[0] = s.events[0][n:]
	} else {
		s.events = s.events[1:]
	}
	return n, nil
}

func (s *demoStream) Close() error {
	s.cancel()
	return nil
}
