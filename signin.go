package floway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/relay"
)

// Accounts at providers that are signed in rather than given by a secret: seats of
// GitHub Copilot. They lie in Caddy's storage.

// lateTransport is a transport that is known only after the provider was made.
type lateTransport struct{ http.RoundTripper }

// seat is a key of an upstream that stands for a sign-in.
type seat struct {
	name     string
	upstream *relay.Upstream
	index    int
	label    string
	signIns  *provider.SignIns
	// since is when the sign-in was made that is in use; known says that the storage
	// was looked at.
	since time.Time
	known bool
}

// Times between two looks into the storage for sign-ins that came or went at other
// instances: for seats that do not serve, and for all.
const (
	seatInterval  = 10 * time.Second
	seatsInterval = time.Minute
)

// watchSeats sees sign-ins and sign-outs that other processes make.
func (h *Handler) watchSeats(ctx context.Context) {
	tick := time.NewTicker(seatInterval)
	defer tick.Stop()
	all := time.Now()
	for first := true; ; first = false {
		every := first || time.Since(all) >= seatsInterval
		if every {
			all = time.Now()
		}
		for _, s := range h.seats {
			if every || s.invalid() {
				h.lookAtSeat(ctx, s, first)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *seat) invalid() bool {
	return s.upstream.Pool.States()[s.index].State == keypool.StateInvalid
}

// seatTimeout bounds one look at a seat in the storage.
const seatTimeout = 15 * time.Second

func (h *Handler) lookAtSeat(ctx context.Context, s *seat, first bool) {
	ctx, cancel := context.WithTimeout(ctx, seatTimeout)
	defer cancel()
	in, err := s.signIns.Find(ctx, s.name)
	switch {
	case errors.Is(err, provider.ErrNotSignedIn):
		if first {
			h.logger.Warn("a seat is not signed in; type: caddy floway login copilot "+s.name,
				zap.String("upstream", s.upstream.Name), zap.String("key", s.label))
		}
		in.Since = time.Time{}
	case err != nil:
		if first && ctx.Err() == nil {
			h.logger.Warn("a seat's sign-in cannot be looked up", zap.String("upstream", s.upstream.Name), zap.String("key", s.label), zap.Error(err))
		}
		return
	}
	changed, known := !in.Since.Equal(s.since), s.known
	s.since, s.known = in.Since, true
	if changed && (known || s.invalid()) {
		s.renew()
	}
}

// renew makes a seat serve with the sign-in that is there now.
func (s *seat) renew() {
	if account, ok := s.upstream.Credentials[s.index].Account(); ok {
		account.Forget()
	}
	_ = s.upstream.Pool.Reset(s.label) // what was known is about another sign-in
	s.upstream.Rediscover()
}

// renewSeats tells every key that stands for a sign-in that it has changed.
func renewSeats(name string) {
	for _, h := range generations.handlers() {
		for _, s := range h.seats {
			if s.name == name {
				s.renew()
			}
		}
	}
}

var errNoGateway = errors.New("no floway block is running")

// signInsFor finds where a seat belongs: to the upstream whose key it is, else to any
// that has seats.
func signInsFor(name, host string) (*provider.SignIns, error) {
	handlers := generations.handlers()
	if len(handlers) == 0 {
		return nil, errNoGateway
	}
	found := &provider.SignIns{Storage: handlers[0].ctx.Storage()}
	any := false
	for _, h := range handlers {
		for _, u := range h.Upstreams {
			registrar, ok := u.upstream.Provider.(provider.Registrar)
			if !ok {
				continue
			}
			if !any {
				found, any = registrar.SignIns(), true
			}
			if slices.ContainsFunc(h.seats, func(s *seat) bool { return s.name == name && s.upstream == u.upstream }) {
				found = registrar.SignIns()
			}
		}
	}
	if host != "" {
		found.Host = host
	}
	return found, nil
}

// logins are the sign-ins under way, and how the last ones ended, by their names.
// The zero logins are ready.
type logins struct {
	mu  sync.Mutex
	all map[string]*login
}

type login struct {
	cancel context.CancelFunc
	report loginReport
}

// loginReport is what is told of a sign-in under way.
type loginReport struct {
	Name    string    `json:"name"`
	Host    string    `json:"host"`
	Code    string    `json:"user_code"`
	URL     string    `json:"verification_uri"`
	Expires time.Time `json:"expires"`
	// State is pending, done, or failed with an Error.
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// Login is what the account is called, once it is done.
	Login string `json:"login,omitempty"`
}

const (
	loginPending = "pending"
	loginDone    = "done"
	loginFailed  = "failed"
)

// maxLogins bounds how many sign-ins are kept in mind.
const maxLogins = 100

// start begins a sign-in and waits for its end in the background. One under the same
// name is given up.
func (l *logins) start(ctx context.Context, in *provider.SignIns, name string, logger *zap.Logger) (loginReport, error) {
	begun, err := in.Start(ctx, name)
	if err != nil {
		return loginReport{}, err
	}
	waiting, cancel := context.WithCancel(context.Background())
	entry := &login{cancel: cancel, report: newLoginReport(begun)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if before := l.all[name]; before != nil {
		before.cancel()
	} else if len(l.all) >= maxLogins {
		cancel()
		return loginReport{}, fmt.Errorf("%d sign-ins are under way", maxLogins)
	}
	if l.all == nil {
		l.all = map[string]*login{}
	}
	l.all[name] = entry
	go func() {
		defer cancel()
		done, err := begun.Wait(waiting)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			entry.report.State, entry.report.Error = loginFailed, err.Error()
			if errors.Is(err, context.Canceled) {
				entry.report.Error = "given up"
			}
			return
		}
		entry.report.State, entry.report.Login = loginDone, done.Login
		logger.Info("a seat was signed in", zap.String("name", name), zap.String("login", done.Login), zap.String("host", done.Host))
		renewSeats(name)
	}()
	return entry.report, nil
}

func newLoginReport(l *provider.Login) loginReport {
	return loginReport{Name: l.Name, Host: l.Host, Code: l.Code, URL: l.URL, Expires: l.Expires.UTC().Truncate(time.Second), State: loginPending}
}

// list returns the sign-ins under that name, or all.
func (l *logins) list(name string) []loginReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := []loginReport{}
	for _, n := range slices.Sorted(maps.Keys(l.all)) {
		if name == "" || n == name {
			found = append(found, l.all[n].report)
		}
	}
	return found
}

// giveUp ends a sign-in under way; false if there is none.
func (l *logins) giveUp(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := l.all[name]
	if entry == nil {
		return false
	}
	entry.cancel()
	delete(l.all, name)
	return entry.report.State == loginPending
}

// close gives all sign-ins up.
func (l *logins) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entry := range l.all {
		entry.cancel()
	}
}

// adminLogin signs seats of Copilot in and out, and lists them.
func adminLogin(w http.ResponseWriter, r *http.Request) error {
	refuse := func(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }
	q := r.URL.Query()
	name := q.Get("name")
	for param := range q {
		if param != "name" && param != "host" {
			return refuse(http.StatusBadRequest, fmt.Errorf("unknown parameter %.40q; there are name and host", param))
		}
	}
	if name != "" || r.Method != http.MethodGet {
		if err := provider.CheckSignInName(name); err != nil {
			return refuse(http.StatusBadRequest, fmt.Errorf("name: %w", err))
		}
	}
	in, err := signInsFor(name, q.Get("host"))
	if err != nil {
		return refuse(http.StatusNotFound, err)
	}
	h := generations.handlers()[0]
	switch r.Method {
	case http.MethodGet:
		seats, err := in.List(r.Context())
		if err != nil {
			return refuse(http.StatusBadGateway, err)
		}
		if name != "" {
			seats = slices.DeleteFunc(seats, func(s provider.SignIn) bool { return s.Name != name })
		}
		writeJSON(w, loginsReport{Seats: seats, Logins: h.living.logins.list(name)})
	case http.MethodPost:
		report, err := h.living.logins.start(r.Context(), in, name, h.logger)
		if err != nil {
			return refuse(http.StatusBadGateway, err)
		}
		writeJSON(w, report)
	case http.MethodDelete:
		gaveUp := h.living.logins.giveUp(name)
		err := in.SignOut(r.Context(), name)
		switch {
		case errors.Is(err, provider.ErrNotSignedIn) && gaveUp:
		case errors.Is(err, provider.ErrNotSignedIn):
			return refuse(http.StatusNotFound, err)
		case err != nil:
			return refuse(http.StatusBadGateway, err)
		default:
			h.logger.Info("a seat was signed out", zap.String("name", name))
			renewSeats(name)
		}
		writeJSON(w, map[string]bool{"signed_out": err == nil, "given_up": gaveUp})
	default:
		w.Header().Set("Allow", "GET, POST, DELETE")
		return refuse(http.StatusMethodNotAllowed, errors.New("method not allowed; use GET, POST or DELETE"))
	}
	return nil
}

// loginsReport is what the admin endpoint tells of sign-ins.
type loginsReport struct {
	Seats  []provider.SignIn `json:"seats"`
	Logins []loginReport     `json:"logins"`
}

// adminGiveUp ends a sign-in under way and leaves what was signed in before.
func adminGiveUp(w http.ResponseWriter, r *http.Request) error {
	handlers := generations.handlers()
	if len(handlers) == 0 || !handlers[0].living.logins.giveUp(r.URL.Query().Get("name")) {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("no sign-in under that name is under way")}
	}
	writeJSON(w, map[string]bool{"given_up": true})
	return nil
}
