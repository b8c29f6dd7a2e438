// Package floway is an LLM API gateway that lives inside Caddy: one endpoint in
// front of many providers and keys, a key for every client, and an exact account
// of what was used.
//
// This package alone knows Caddy: it reads the configuration, checks who calls
// and hands requests to package relay.
package floway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/relay"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler is an LLM API gateway. It answers everything below `/v1/`, `/v1beta/`
// and `/openai/`, the POST endpoints of those APIs also without a version, and
// `/floway/health`; all else goes to the next handler.
//
// These placeholders are available after a request was served, for example to
// access logs:
//
// Placeholder | Description
// ------------|---------------
// `{http.floway.request}` | The request's id, as in the header `X-Request-Id`
// `{http.floway.client}` | The client's name
// `{http.floway.group}` | The group that the request is booked under
// `{http.floway.operation}` | What was asked for: `chat`, `responses`, `embeddings` …
// `{http.floway.model}` | The model that was asked for
// `{http.floway.upstream}` | The upstream that answered
// `{http.floway.key}` | The label of the upstream's key
// `{http.floway.attempts}` | The number of attempts that were made
// `{http.floway.outcome}` | How the last attempt ended: `served`, `refused`, `failed`, `cut` or `left`
// `{http.floway.tokens.input}` | Prompt tokens that were neither read from a cache nor written to one
// `{http.floway.tokens.cache_read}` | Prompt tokens read from a cache
// `{http.floway.tokens.cache_write}` | Prompt tokens written to a cache
// `{http.floway.tokens.output}` | Tokens of the answer, reasoning included
// `{http.floway.tokens.reasoning}` | Those of them that were reasoning
// `{http.floway.tokens.source}` | Where the counts come from: `upstream`, `estimated` or `unknown`
// `{http.floway.first_byte}` | Seconds from the request's arrival to the first content
// `{http.floway.upstream_request}` | The upstream's own id of the request
type Handler struct {
	// Upstreams are the accounts at providers that requests can be sent to.
	Upstreams []*Upstream `json:"upstreams,omitempty"`

	// Routes are public model names with the targets that serve them. The first
	// whose pattern matches counts.
	Routes []*Route `json:"routes,omitempty"`

	// Clients are the people and applications that may call, in addition to
	// those of the floway app.
	Clients []*Client `json:"clients,omitempty"`

	// Anonymous names a client without keys, whose requests all those are that
	// come without a key or with one that is not known. Default: none; such
	// requests are refused.
	Anonymous string `json:"anonymous,omitempty"`

	// LBRetries is how many further attempts are made before the first content.
	// Changing to another key because a credential was refused or a limit
	// reached is none. Default: `3`
	LBRetries *int `json:"lb_retries,omitempty"`

	// LBTryDuration is how long after a request's arrival new attempts may
	// start. Default: `10m`
	LBTryDuration caddy.Duration `json:"lb_try_duration,omitempty"`

	// MaxBody is the largest request body that is taken, in bytes, unpacked.
	// Default: 64 MiB
	MaxBody int64 `json:"max_body,omitempty"`

	// MaxBuffered is how many bytes of request bodies are held at once in all;
	// beyond it requests are answered with status 503. Default: 1 GiB
	MaxBuffered int64 `json:"max_buffered,omitempty"`

	// Usage is where the account is kept. Default: that of the floway app, or
	// the embedded store in Caddy's data directory.
	Usage *Usage `json:"usage,omitempty"`

	ctx     caddy.Context
	logger  *zap.Logger
	events  *caddyevents.App
	app     *App
	relay   *relay.Relay
	account *account // nil if none is kept
	living  *living
	clients atomic.Pointer[access.Clients]
	people  []*person
	secrets []*fileSecret
	seats   []*seat
	stop    func()
	// transports are those to the upstreams; retired: the handler was cleaned up.
	transports []*http.Transport
	retired    atomic.Bool
}

// Upstream is one account at a provider: an address, a pool of keys and models.
type Upstream struct {
	// Provider is the kind of upstream: `openai` for OpenAI and every server
	// that is compatible with it, `anthropic`, `gemini`, a vendor or server of
	// floway's list such as `groq` or `ollama`, or `demo` for the built-in
	// upstream that answers without a network.
	Provider string `json:"provider,omitempty"`

	// Name is what routes, clients and reports call the upstream. Default: the
	// provider's name.
	Name string `json:"name,omitempty"`

	// Keys are the credentials of the account. Default: requests are sent
	// without one.
	Keys []Key `json:"keys,omitempty"`

	// BaseURL is the address that the vendor's own SDK takes. A missing version
	// segment is added. Default: the provider's.
	BaseURL string `json:"base_url,omitempty"`

	// Models are the names that the upstream serves; `*` in them matches any
	// characters. Default: any name that no other upstream declares or lists.
	Models []string `json:"models,omitempty"`

	// Aliases are other names for models of the upstream.
	Aliases []Alias `json:"aliases,omitempty"`

	// Dialects are what the upstream speaks, where the provider cannot know:
	// `chat`, `responses`, `messages`, `gemini`, `completions`, `embeddings`,
	// `images`, `audio`, `moderations`, `rerank`. Requests in another of the
	// first four are translated. Default: all that the provider speaks.
	Dialects []string `json:"dialects,omitempty"`

	// LBPolicy chooses among the keys: `round_robin`, `weighted_round_robin`,
	// `least_conn`, `random`, `first` or `sticky`. Default: `round_robin`;
	// `weighted_round_robin` once a key has a weight.
	LBPolicy string `json:"lb_policy,omitempty"`

	// MaxRequests is how many requests each key may serve at once. When all keys
	// of all targets are taken, requests wait. Default: no limit
	MaxRequests int `json:"max_requests,omitempty"`

	// DefaultMaxTokens bounds the answers to requests that are translated into a
	// dialect which wants a bound (Messages), where the client gives none.
	// Default: 32000
	DefaultMaxTokens int `json:"default_max_tokens,omitempty"`

	// Headers changes the header of requests to the upstream.
	Headers *headers.HeaderOps `json:"headers,omitempty"`

	// FirstByteTimeout is how long the upstream may take until the header of its
	// answer. Default: `5m` for streams, `15m` otherwise
	FirstByteTimeout caddy.Duration `json:"first_byte_timeout,omitempty"`

	// IdleTimeout is how long the upstream may be silent in the middle of an
	// answer. Default: `5m`
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// TransportRaw is the transport to the upstream: Caddy's own, with 1024 idle
	// connections a host and without compression unless it says otherwise.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// Options are those of the provider, by name.
	Options map[string][]string `json:"options,omitempty"`

	upstream *relay.Upstream
	policy   string // as it is in effect
}

// Key is a credential of an upstream.
type Key struct {
	// Secret is the credential. Write `{env.NAME}` or `{file./path}` to keep it
	// out of the configuration; a file is read again when it changes. For providers
	// whose accounts are signed in, `signin:` and the sign-in's name.
	Secret string `json:"secret,omitempty"`
	// Label is what reports call the key. Default: `key1`, `key2` …
	Label string `json:"label,omitempty"`
	// Weight is the key's share under `weighted_round_robin` and `sticky`.
	// Default: `1`
	Weight int `json:"weight,omitempty"`
}

// Alias is another name for an upstream's model.
type Alias struct {
	// Name is the public name.
	Name string `json:"name,omitempty"`
	// Model is the upstream's own.
	Model string `json:"model,omitempty"`
}

// Route is a public model name with the targets that serve it.
type Route struct {
	// Model is the public name, or a pattern of names.
	Model string `json:"model,omitempty"`
	// To are the targets.
	To []Target `json:"to,omitempty"`
	// LBPolicy chooses the first target; the rest are fallbacks in order.
	// Default: `first`; `weighted_round_robin` once a target has a weight
	LBPolicy string `json:"lb_policy,omitempty"`
}

// Target is one of those who serve a route.
type Target struct {
	// Target is `<upstream>/<model>` or `<model>`; the model `*` is the name
	// that was asked for.
	Target string `json:"target,omitempty"`
	// Weight is the target's share under `weighted_round_robin`. Default: `1`
	Weight int `json:"weight,omitempty"`
}

// Client is a person or an application that calls.
type Client struct {
	// Name is what reports call the client.
	Name string `json:"name,omitempty"`
	// Keys are the client's keys, or `sha256:` and their digest in hex.
	Keys []string `json:"keys,omitempty"`
	// Group is that of requests which name none by `X-Floway-Group`.
	Group string `json:"group,omitempty"`
	// Groups says what `X-Floway-Group` may name. Default: anything well-formed
	Groups []string `json:"groups,omitempty"`
	// Models says what the client may ask for. Default: everything
	Models []string `json:"models,omitempty"`
	// Upstreams says what the client may be served by. Default: all
	Upstreams []string `json:"upstreams,omitempty"`
	// Expires is when the keys end: a date, whose last second in UTC counts, or
	// a time as RFC 3339 has it. Default: never
	Expires string `json:"expires,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.floway",
		New: func() caddy.Module { return new(Handler) },
	}
}

// healthPath answers whether the gateway is ready, to anybody.
const healthPath = "/floway/health"

// ServeHTTP is the door: it finds out what is asked for and who asks.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	call := dialect.Find(r.Method, r.URL.Path)
	if call.Verdict == dialect.NotOurs {
		if r.URL.Path == healthPath {
			h.serveHealth(w, r)
			return nil
		}
		return next.ServeHTTP(w, r)
	}
	call.Dialect = relay.Shape(&call, r.Header)
	trace := &relay.Trace{Request: relay.NewRequestID(), Operation: call.Op.String()}
	header := w.Header()
	header["X-Request-Id"] = []string{trace.Request}
	if call.Dialect == dialect.Messages {
		header["Request-Id"] = header["X-Request-Id"]
	}
	h.show(r, trace)
	if e := h.refusal(&call, header); e != nil {
		h.refuse(w, r, &call, trace, e)
		return nil
	}
	client, err := h.identify(r)
	if err != nil {
		header["Www-Authenticate"] = []string{"Bearer"}
		h.refuse(w, r, &call, trace, &dialect.Error{Fault: dialect.Unauthenticated, Message: err.Error()})
		return nil
	}
	trace.Client = client.Name
	group, err := client.Tag(r.Header.Get("X-Floway-Group"), time.Now())
	if err != nil {
		fault := dialect.Malformed
		if errors.Is(err, access.ErrGroup) {
			fault = dialect.Forbidden
		}
		h.refuse(w, r, &call, trace, &dialect.Error{Fault: fault, Message: err.Error()})
		return nil
	}
	trace.Group = group
	switch call.Op {
	case dialect.ListModels:
		defer h.log(r, trace)
		h.relay.ServeModels(w, r, &call, client)
	case dialect.OwnUsage:
		defer h.log(r, trace)
		h.serveOwnUsage(w, r, client)
	default:
		h.serve(w, r, &call, client, group, trace)
	}
	return nil
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, call *dialect.Call, client *access.Client, group string, trace *relay.Trace) {
	if h.account != nil {
		// The account stays open until the last request that uses it is over,
		// however often the configuration is exchanged meanwhile.
		release, err := h.account.use(r.Context())
		if err != nil {
			h.refuse(w, r, call, trace, &dialect.Error{Fault: dialect.Unavailable, Message: "the gateway is not ready yet"})
			return
		}
		defer release()
	}
	defer h.leave()
	defer h.log(r, trace) // an answer that was cut ends in a panic
	h.relay.Serve(w, r, call, client, group, trace)
	linger(w, r)
}

// refusal says no to calls that cannot be served, whoever makes them.
func (h *Handler) refusal(call *dialect.Call, header http.Header) *dialect.Error {
	switch call.Verdict {
	case dialect.Unknown:
		return &dialect.Error{Fault: dialect.NotFound, Message: "there is no such endpoint"}
	case dialect.WrongMethod:
		header["Allow"] = []string{call.Allow}
		return &dialect.Error{Fault: dialect.BadMethod, Message: "this endpoint takes " + call.Allow}
	case dialect.NotOffered:
		return &dialect.Error{Fault: dialect.Unsupported, Message: "this gateway does not offer this endpoint"}
	}
	return nil
}

// refuse answers with an error before the request was handed on. The body was
// not read, so the connection cannot be used again unless there is none.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, call *dialect.Call, trace *relay.Trace, e *dialect.Error) {
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header()["Connection"] = []string{"close"}
	}
	e.Request = trace.Request
	trace.Status = e.HTTPStatus()
	_, _ = e.Write(w, call.Dialect)
	linger(w, r)
	h.log(r, trace)
}

// Bounds of lingering.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 128 << 20
)

// linger lets a client that is still sending its body read the answer: if the
// connection is closed under its hands, the answer is lost with it. Caddy wraps
// the body, so that Go's server does not do this by itself.
func linger(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Body == nil || w.Header().Get("Connection") != "close" {
		return
	}
	control := http.NewResponseController(w)
	if control.Flush() != nil || control.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, lingerBytes)
}

func (h *Handler) identify(r *http.Request) (*access.Client, error) {
	query := ""
	if r.URL.RawQuery != "" && strings.HasPrefix(r.URL.Path, "/v1beta/") {
		query = r.URL.Query().Get("key")
	}
	return h.clients.Load().Identify(r.Header, query, time.Now())
}

func (h *Handler) serveHealth(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	status, word := http.StatusOK, "ready\n"
	if h.account != nil && !h.account.ready() {
		status, word = http.StatusServiceUnavailable, "not ready\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method == http.MethodGet {
		_, _ = w.Write([]byte(word))
	}
}

// dialFailed tells errors of connections that were never made: nothing was sent.
func dialFailed(err error) bool {
	var dial reverseproxy.DialError
	return errors.As(err, &dial)
}

// handlerStatus is the status of an error that another handler's reader gave.
func handlerStatus(err error) (int, bool) {
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode >= 400 {
		return he.StatusCode, true
	}
	return 0, false
}

// what names an upstream in messages of configuration errors.
func (u *Upstream) what() string { return fmt.Sprintf("upstream %s", u.Name) }

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
