// Package relay is the way of a request: it finds who can serve it, tries them
// one after the other until content comes, and passes the answer on. All policy
// lives here; what formats look like, what vendors mean and how keys are doing
// is known to the packages below.
package relay

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

// Defaults of Config and Upstream.
const (
	DefaultRetries         = 3
	DefaultTryDuration     = 10 * time.Minute
	DefaultMaxBody         = 64 << 20
	DefaultMaxBuffered     = 1 << 30
	DefaultStreamFirstByte = 5 * time.Minute
	DefaultPlainFirstByte  = 15 * time.Minute
	DefaultIdle            = 5 * time.Minute
)

// Ledger books attempts. A nil Ledger books nothing. Records are the relay's: they
// must not be kept.
type Ledger interface {
	// Reserve writes that the attempt is about to be sent. An error means that
	// it must not be: the account could not be kept.
	Reserve(*usage.Record) error
	// Progress writes how far a long attempt is.
	Progress(*usage.Record)
	// Settle writes how the attempt ended, once for each Reserve.
	Settle(*usage.Record)
	// Correct replaces what was settled by an estimate, once for each Settle of a
	// record that is Estimating. It may come when the request is long over.
	Correct(was, now *usage.Record)
}

// Upstream is one configured account at a provider.
type Upstream struct {
	Name     string
	Provider provider.Upstream
	Pool     *keypool.Pool
	// Credentials are those of the pool's keys, by their index there.
	Credentials []*Credential
	// KeyIDs are the fingerprints of the pool's keys, by their index there.
	KeyIDs    []string
	Transport http.RoundTripper
	// Models says what the upstream serves; empty for any name that no other
	// upstream declares or lists.
	Models  access.Patterns
	Aliases []Alias
	// Catalog is what the upstream lists; nil if Models say every name.
	Catalog *Catalog
	// EditHeader changes the header of a request on its way out; nil for no
	// change. The first argument is the client's request.
	EditHeader func(*http.Request, http.Header)
	// FirstByte bounds the time until the response's header; 0 for the default.
	// Idle bounds silence in the middle of an answer; 0 for the default.
	FirstByte, Idle time.Duration
	// DefaultMaxTokens bounds the answers to translated requests whose dialect wants
	// a bound and whose client gave none; 0 for translate.DefaultMaxTokens.
	DefaultMaxTokens int64
	// Sticky sends every conversation to the key that served it last.
	Sticky bool

	// refusesUsage remembers the models for which the upstream does not know
	// stream_options.
	refusesUsage nameSet
	// again is told when the catalogue should be fetched at once.
	again chan struct{}
}

// Rediscover has the catalogue fetched soon: there is reason to think that it will
// be another one.
func (u *Upstream) Rediscover() {
	select {
	case u.again <- struct{}{}:
	default: // it will be, or there is none
	}
}

// Alias is another name for an upstream's model.
type Alias struct{ Public, Model string }

// Credential holds what authenticates requests with one key. It may be exchanged
// while requests run.
type Credential struct {
	p atomic.Pointer[provider.Credential]
}

// Set exchanges the credential.
func (c *Credential) Set(to provider.Credential) { c.p.Store(&to) }

// Account returns what knows of the account behind the key; false if nothing does.
func (c *Credential) Account() (account provider.Account, ok bool) {
	account, ok = c.current().(provider.Account)
	return account, ok
}

func (c *Credential) current() provider.Credential { return *c.p.Load() }

// Route is a public model name with the targets that serve it.
type Route struct {
	Pattern access.Pattern
	To      []RouteTarget
	// Policy chooses the first target; the rest are fallbacks in order.
	Policy keypool.Policy

	pool *keypool.Pool
}

// RouteTarget is one `to` line. Without an upstream the rules choose one; the
// model `*` is the name that was asked for.
type RouteTarget struct {
	Upstream, Model string
	Weight          int
}

// Config is what a relay works by.
type Config struct {
	Upstreams []*Upstream
	Routes    []*Route
	// Retries is how many further attempts are made before the first content; 0
	// for none.
	Retries int
	// TryDuration bounds when a new attempt may start; 0 for the default.
	TryDuration time.Duration
	// MaxBody bounds a request's body, MaxBuffered all bodies held at once, in
	// bytes; 0 for the defaults.
	MaxBody, MaxBuffered int64
	Ledger               Ledger
	Affinity             *Affinity
	Log                  *zap.Logger
	// Estimates counts what upstreams do not; nil for one of the relay's own.
	Estimates *Estimates
	// Settled, if set, is told of every attempt that has ended, and Estimated of
	// those that were Estimating then, when they no longer are. The record is the
	// relay's: it must not be kept.
	Settled, Estimated func(*usage.Record)
	// BodyStatus, if set, translates errors of reading a request's body that
	// other handlers cause into a status.
	BodyStatus func(error) (status int, ok bool)
	// NeverSent, if set, tells errors of requests that never left.
	NeverSent func(error) bool
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Relay passes requests to upstreams and answers to clients. It may be used by
// many goroutines at once.
type Relay struct {
	Config
	byName   map[string]*Upstream
	bridged  bool            // clients of Chat Completions may be served by translation
	mixed    bool            // clients of Messages may be
	spelled  map[string]bool // model names that the configuration spells
	learned  nameSet         // model names that an upstream answered with success
	buffered atomic.Int64    // bytes of bodies held
	calls    sync.Pool       // of *call
}

// New checks the configuration and returns a relay that works by it.
func New(c Config) (*Relay, error) {
	r := &Relay{Config: c, byName: map[string]*Upstream{}, spelled: map[string]bool{}}
	r.learned.most = 1000
	if r.TryDuration == 0 {
		r.TryDuration = DefaultTryDuration
	}
	if r.MaxBody == 0 {
		r.MaxBody = DefaultMaxBody
	}
	if r.MaxBuffered == 0 {
		r.MaxBuffered = DefaultMaxBuffered
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Log == nil {
		r.Log = zap.NewNop()
	}
	if r.Affinity == nil {
		r.Affinity = NewAffinity()
	}
	if r.Estimates == nil {
		r.Estimates = new(Estimates)
	}
	for _, u := range c.Upstreams {
		if r.byName[u.Name] != nil {
			return nil, fmt.Errorf("two upstreams are called %q", u.Name)
		}
		r.byName[u.Name] = u
		r.bridged = r.bridged || !u.Provider.Speaks(dialect.ChatCompletions, "")
		r.mixed = r.mixed || !u.Provider.Speaks(dialect.CreateMessage, "")
		u.refusesUsage.most = 1000
		if u.again == nil {
			u.again = make(chan struct{}, 1)
		}
		if u.Catalog != nil {
			u.learn(u.Catalog.Models())
		}
		for _, p := range u.Models {
			if p.Literal() {
				r.spelled[string(p)] = true
			}
		}
		for _, a := range u.Aliases {
			r.spelled[a.Public] = true
		}
	}
	for _, route := range c.Routes {
		if err := r.addRoute(route); err != nil {
			return nil, fmt.Errorf("route %s: %w", route.Pattern, err)
		}
	}
	return r, nil
}

func (r *Relay) addRoute(route *Route) error {
	if len(route.To) == 0 {
		return errors.New("it has no target")
	}
	keys := make([]keypool.Key, len(route.To))
	for i, to := range route.To {
		if to.Upstream != "" && r.byName[to.Upstream] == nil {
			return fmt.Errorf("there is no upstream %q", to.Upstream)
		}
		if to.Model != "*" {
			r.spelled[to.Model] = true
		} else if route.Pattern.Literal() {
			r.spelled[string(route.Pattern)] = true
		}
		keys[i] = keypool.Key{Label: fmt.Sprint(i), Weight: max(to.Weight, 1)}
	}
	// The policies that choose keys choose targets too.
	route.pool = keypool.New(keypool.Config{Name: "route " + string(route.Pattern), Keys: keys, Policy: route.Policy, Now: r.Now})
	return nil
}

// Upstream returns the upstream of that name, or nil.
func (r *Relay) Upstream(name string) *Upstream { return r.byName[name] }

// bookedAs returns the name under which a model is summed up: its own if
// somebody other than the client vouches for it.
func (r *Relay) bookedAs(u *Upstream, name string, served bool) string {
	switch {
	case r.spelled[name], u.Catalog != nil && u.Catalog.Has(name):
		return name
	case served && r.learned.add(name, r.Now()), r.learned.has(name, r.Now()):
		return name
	}
	return otherModel
}

const otherModel = "other"
