package mockcopilot

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// What GitHub itself does: sign-ins by device code, who an account is, tokens for
// Copilot, and what is left of its quotas.

const (
	clientID  = "Iv1.b507a08c87ecfe98"
	grantType = "urn:ietf:params:oauth:grant-type:device_code"
)

// device is a sign-in that waits for a person.
type device struct {
	account  string // who approved it; empty as long as nobody has
	interval time.Duration
	ends     time.Time
	polled   time.Time
	verdict  string // "", or the error that ends it
}

// grant is a Copilot token.
type grant struct {
	account string
	ends    time.Time
	dead    bool
}

// seat is what the service knows of an account.
type seat struct {
	Seat
	left float64 // premium requests
}

func (s *Server) deviceCode(w http.ResponseWriter, form url.Values) {
	if form.Get("client_id") != clientID || form.Get("scope") != "read:user" {
		reply(w, http.StatusOK, map[string]any{"error": "unauthorized_client"})
		return
	}
	code := strings.ToLower(rand.Text())
	s.devices[code] = &device{interval: time.Second, ends: time.Now().Add(s.steer.CodeLife.or(15 * time.Minute))}
	s.stats.Codes++
	reply(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": "ABCD-1234", "verification_uri": "http://127.0.0.1/login/device",
		"expires_in": int(s.steer.CodeLife.or(15 * time.Minute).Seconds()), "interval": 1,
	})
}

func (s *Server) accessToken(w http.ResponseWriter, form url.Values) {
	fail := func(code string, more ...any) {
		v := map[string]any{"error": code, "error_description": "mock", "error_uri": "https://docs.github.com"}
		for i := 0; i < len(more); i += 2 {
			v[more[i].(string)] = more[i+1]
		}
		reply(w, http.StatusOK, v) // errors too come with 200
	}
	s.stats.Polls++
	d := s.devices[form.Get("device_code")]
	now := time.Now()
	switch {
	case form.Get("client_id") != clientID:
		fail("incorrect_client_credentials")
	case form.Get("grant_type") != grantType:
		fail("unsupported_grant_type")
	case d == nil:
		fail("incorrect_device_code")
	case d.verdict != "":
		fail(d.verdict)
	case now.After(d.ends):
		fail("expired_token")
	case now.Sub(d.polled) < d.interval:
		// Asked too soon: every such time five seconds more.
		s.stats.TooSoon++
		d.interval += 5 * time.Second
		fail("slow_down", "interval", int(d.interval.Seconds()))
	case len(s.steer.Polls) > 0:
		answer := s.steer.Polls[0]
		s.steer.Polls = s.steer.Polls[1:]
		if answer == "slow_down" {
			d.interval += time.Second
			d.polled = now
			fail(answer, "interval", int(d.interval.Seconds()))
			return
		}
		d.polled = now
		if answer != "authorization_pending" {
			d.verdict = answer
		}
		fail(answer)
	case d.account == "":
		d.polled = now
		fail("authorization_pending")
	default:
		delete(s.devices, form.Get("device_code"))
		reply(w, http.StatusOK, map[string]any{"access_token": "ghu_mock_" + d.account, "token_type": "bearer", "scope": ""})
	}
}

// account returns the account of a GitHub token, or refuses.
func (s *Server) account(w http.ResponseWriter, r *http.Request) (*seat, string) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "token ")
	_, name, known := strings.Cut(token, "_mock_")
	seat := s.seats[name]
	if !ok || !known || !strings.HasPrefix(token, "gh") || seat == nil || seat.Revoked {
		reply(w, http.StatusUnauthorized, map[string]any{"message": "Bad credentials", "status": "401"})
		return nil, ""
	}
	return seat, name
}

func (s *Server) exchange(w http.ResponseWriter, r *http.Request) {
	if s.steer.FailExchanges > 0 {
		s.steer.FailExchanges--
		reply(w, http.StatusBadGateway, map[string]any{"message": "Server Error"})
		return
	}
	seat, name := s.account(w, r)
	if seat == nil {
		s.stats.RefusedExchanges++
		return
	}
	for header, want := range map[string]string{"X-Github-Api-Version": "2025-04-01", "Accept": "application/json"} {
		if r.Header.Get(header) != want {
			reply(w, http.StatusBadRequest, map[string]any{"message": "bad " + header})
			return
		}
	}
	switch {
	case !strings.HasPrefix(r.UserAgent(), "GitHubCopilotChat/"):
		reply(w, http.StatusForbidden, map[string]any{"message": "Please update your editor"})
	case seat.NoAccess:
		s.stats.RefusedExchanges++
		reply(w, http.StatusForbidden, map[string]any{"message": "Resource not accessible", "error_details": map[string]any{"message": "No access to GitHub Copilot found for " + name + "."}})
	case seat.Limited > 0:
		w.Header().Set("Retry-After", fmt.Sprint(seat.Limited))
		reply(w, http.StatusTooManyRequests, map[string]any{"message": "API rate limit exceeded"})
	default:
		life := s.steer.TokenLife.or(30 * time.Minute)
		refresh := s.steer.RefreshIn.or(25 * time.Minute)
		token := "tid=mock" + rand.Text() + ";exp=1;sku=mock"
		ends := time.Now().Add(life)
		s.grants[token] = &grant{account: name, ends: ends}
		s.stats.Exchanges[name]++
		if s.steer.Skew != 0 {
			ends = ends.Add(time.Duration(s.steer.Skew))
			w.Header().Set("Date", time.Now().Add(time.Duration(s.steer.Skew)).UTC().Format(http.TimeFormat))
		}
		reply(w, http.StatusOK, map[string]any{
			"token": token, "expires_at": ends.Unix(), "refresh_in": int(refresh.Seconds()),
			"endpoints": map[string]any{"api": "http://" + r.Host + "/base/" + name, "telemetry": "http://127.0.0.1:1"},
		})
	}
}

func (s *Server) user(w http.ResponseWriter, r *http.Request) {
	if _, name := s.account(w, r); name != "" {
		reply(w, http.StatusOK, map[string]any{"login": name, "id": 1})
	}
}

// reset is when quotas begin anew.
func reset() time.Time {
	now := time.Now().UTC()
	return time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
}

func (s *Server) copilotUser(w http.ResponseWriter, r *http.Request) {
	seat, name := s.account(w, r)
	if seat == nil {
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"login": name, "copilot_plan": "individual", "quota_reset_date_utc": reset().Format(time.RFC3339),
		"quota_snapshots": map[string]any{
			"chat": map[string]any{"unlimited": !seat.NoChat, "entitlement": 50, "remaining": 0, "quota_remaining": 0, "percent_remaining": 0},
			"premium_interactions": map[string]any{
				"unlimited": false, "entitlement": seat.Premium, "remaining": seat.left, "quota_remaining": seat.left,
				"percent_remaining": 100 * seat.left / max(seat.Premium, 1), "overage_permitted": false, "overage_count": 0,
			},
		},
	})
}

// quotaHeaders tells of the seat's quotas in an answer.
func (s *seat) quotaHeaders(h http.Header) {
	at := url.QueryEscape(reset().Format(time.RFC3339))
	chat := "ent=-1&ov=0.0&ovPerm=false&rem=100.0&rst=" + at + "&totRem=-1"
	if s.NoChat {
		chat = "ent=50&ov=0.0&ovPerm=false&rem=0.0&rst=" + at + "&totRem=0"
	}
	h.Set("X-Quota-Snapshot-Chat", chat)
	h.Set("X-Quota-Snapshot-Premium_interactions", fmt.Sprintf("ent=%g&ov=0.0&ovPerm=false&rem=%.1f&rst=%s&totRem=%g", s.Premium, 100*s.left/max(s.Premium, 1), at, s.left))
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// hub serves what is GitHub's; false if it is not.
func (s *Server) hub(w http.ResponseWriter, r *http.Request) bool {
	routes := map[string]string{
		"/login/device/code": http.MethodPost, "/login/oauth/access_token": http.MethodPost,
		"/user": http.MethodGet, "/copilot_internal/v2/token": http.MethodGet, "/copilot_internal/user": http.MethodGet,
	}
	method, ok := routes[r.URL.Path]
	if !ok {
		return false
	}
	if r.Method != method {
		http.NotFound(w, r) // as GitHub does
		return true
	}
	// The form is read before the lock is taken.
	if err := r.ParseForm(); err != nil || method == http.MethodPost && !slices.Contains(r.Header["Accept"], "application/json") {
		http.Error(w, "bad request", http.StatusBadRequest)
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/login/device/code":
		s.deviceCode(w, r.PostForm)
	case "/login/oauth/access_token":
		s.accessToken(w, r.PostForm)
	case "/user":
		s.user(w, r)
	case "/copilot_internal/v2/token":
		s.exchange(w, r)
	case "/copilot_internal/user":
		s.copilotUser(w, r)
	}
	return true
}
