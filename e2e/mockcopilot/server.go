// Package mockcopilot is GitHub Copilot with the part of GitHub that gives access to
// it, for tests of gateways: sign-ins by device code, accounts, tokens for Copilot
// with a life of their own, quotas, and a service that refuses what the real one
// refuses. Each account has an address of its own, which only its tokens name.
//
// What is answered in the end, and how, is that of mockopenai and mockanthropic.
// Everything below /__ is for the test that steers it.
package mockcopilot

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockanthropic"
	"github.com/floway/floway/e2e/mockopenai"
)

// Seat is an account at GitHub that may use Copilot. Its token is gh?_mock_<name>.
type Seat struct {
	// Revoked: no token of the account is taken any longer.
	Revoked bool `json:"revoked,omitempty"`
	// NoAccess: the account may not use Copilot.
	NoAccess bool `json:"no_access,omitempty"`
	// Limited, if not 0, refuses exchanges with that many seconds to wait.
	Limited int `json:"limited,omitempty"`
	// Premium is how many premium requests it has a month.
	Premium float64 `json:"premium,omitempty"`
	// NoChat: what costs no premium requests is used up as well.
	NoChat bool `json:"no_chat,omitempty"`
}

// Duration is a time in JSON, spelled as Go does.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d Duration) or(otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return time.Duration(d)
}

// Steer is how GitHub behaves.
type Steer struct {
	// TokenLife is how long Copilot tokens live, RefreshIn after what time they say
	// that they should be exchanged. Default: 30 minutes and 25.
	TokenLife Duration `json:"token_life,omitempty"`
	RefreshIn Duration `json:"refresh_in,omitempty"`
	// Skew is how far GitHub's clock is ahead.
	Skew Duration `json:"skew,omitempty"`
	// CodeLife is how long the code of a sign-in is good. Default: 15 minutes.
	CodeLife Duration `json:"code_life,omitempty"`
	// Polls are answers to the next polls of sign-ins.
	Polls []string `json:"polls,omitempty"`
	// FailExchanges is how many of the next exchanges fail.
	FailExchanges int `json:"fail_exchanges,omitempty"`
}

// Call is a request to Copilot.
type Call struct {
	Account   string `json:"account"`
	Path      string `json:"path"`
	Model     string `json:"model,omitempty"`
	Initiator string `json:"initiator,omitempty"`
	Vision    bool   `json:"vision,omitempty"`
	Betas     string `json:"betas,omitempty"`
	Editor    string `json:"editor,omitempty"`
	Body      string `json:"body,omitempty"`
	// Status and Refusal are set if it was refused.
	Status  int    `json:"status,omitempty"`
	Refusal string `json:"refusal,omitempty"`
}

// Stats are what happened so far.
type Stats struct {
	Codes, Polls, TooSoon int
	// Exchanges are the tokens that each account got.
	Exchanges        map[string]int
	RefusedExchanges int
	Calls            []Call
}

// Server is the mock.
type Server struct {
	openai    *mockopenai.Server
	anthropic *mockanthropic.Server
	inner     map[string]string // the accounts' keys at those

	mu      sync.Mutex
	steer   Steer
	seats   map[string]*seat
	devices map[string]*device
	grants  map[string]*grant
	stats   Stats
}

// accounts are those that GitHub knows, until a test says more of them.
var accounts = []string{"octo", "mona", "hubot", "lone"}

// New makes a Server.
func New(c mock.Config) *Server {
	c.Keys = map[string]string{}
	s := &Server{
		inner: map[string]string{}, seats: map[string]*seat{}, devices: map[string]*device{}, grants: map[string]*grant{},
		stats: Stats{Exchanges: map[string]int{}},
	}
	for _, name := range accounts {
		s.inner[name] = "sk-inner-" + name
		c.Keys[s.inner[name]] = name
		s.seats[name] = &seat{Seat: Seat{Premium: 1000}, left: 1000}
	}
	s.openai, s.anthropic = mockopenai.New(c), mockanthropic.New(c)
	return s
}

// Close ends all answers that hang or wait.
func (s *Server) Close() {
	s.openai.Close()
	s.anthropic.Close()
}

// CountConnections is for http.Server's ConnState.
func (s *Server) CountConnections(c net.Conn, state http.ConnState) {
	s.openai.CountConnections(c, state)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/__copilot/"):
		s.control(w, r)
	case strings.HasPrefix(r.URL.Path, "/__"):
		s.openai.ServeHTTP(w, r)
	case strings.HasPrefix(r.URL.Path, "/base/"):
		s.service(w, r)
	case !s.hub(w, r):
		http.NotFound(w, r)
	}
}

func (s *Server) control(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := r.URL.Query().Get("account")
	read := func(v any) bool {
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		err := d.Decode(v)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		return err == nil
	}
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, "/__copilot") {
	case "GET /stats":
		reply(w, http.StatusOK, s.stats)
	case "POST /forget":
		s.stats = Stats{Exchanges: map[string]int{}}
	case "POST /steer":
		var steer Steer
		if read(&steer) {
			s.steer = steer
		}
	case "POST /seat":
		var to Seat
		if read(&to) {
			s.seats[name] = &seat{Seat: to, left: to.Premium}
		}
	case "POST /spend": // all that is left
		s.seats[name].left = 0
	case "POST /kill": // the account's Copilot tokens, not the account
		for _, g := range s.grants {
			g.dead = g.dead || g.account == name
		}
	case "POST /approve": // every code that waits
		for _, d := range s.devices {
			if d.account = name; s.seats[name] == nil {
				http.Error(w, fmt.Sprintf("no account %q", name), http.StatusBadRequest)
				return
			}
		}
	default:
		http.NotFound(w, r)
	}
}
