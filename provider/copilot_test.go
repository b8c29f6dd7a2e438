package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/dialect"
)

// shelf is a storage in memory.
type shelf struct {
	mu       sync.Mutex
	files    map[string]string
	locks    map[string]chan struct{}
	readOnly bool
	broken   bool
}

func newShelf() *shelf { return &shelf{files: map[string]string{}, locks: map[string]chan struct{}{}} }

var errShelf = errors.New("input/output error")

func (s *shelf) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.files[key]
	switch {
	case s.broken:
		return nil, errShelf
	case !ok:
		return nil, fmt.Errorf("open %s: %w", key, fs.ErrNotExist)
	}
	return []byte(v), nil
}

func (s *shelf) Store(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readOnly {
		return fs.ErrPermission
	}
	s.files[key] = string(value)
	return nil
}

func (s *shelf) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readOnly {
		return fs.ErrPermission
	}
	delete(s.files, key)
	return nil
}

func (s *shelf) List(_ context.Context, prefix string, _ bool) (keys []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.files {
		if strings.HasPrefix(key, prefix+"/") {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		err = fs.ErrNotExist
	}
	return keys, err
}

func (s *shelf) lock(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[name] == nil {
		s.locks[name] = make(chan struct{}, 1)
	}
	return s.locks[name]
}

func (s *shelf) Lock(ctx context.Context, name string) error {
	if s.readOnly {
		return fs.ErrPermission
	}
	select {
	case s.lock(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *shelf) Unlock(_ context.Context, name string) error {
	<-s.lock(name)
	return nil
}

// names are what lies on the shelf.
func (s *shelf) names() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.files)), " ")
}

// hub is GitHub as a transport: a script of answers for each path, and what it does
// where there is none.
type hub struct {
	t testing.TB

	mu      sync.Mutex
	scripts map[string][]string // "<status> <body>"; "away" for a broken connection
	asked   []string            // "<path> <credential>"
	at      []time.Time
	minted  int
	life    time.Duration
	header  http.Header // of answers
	takes   time.Duration
}

const hubBase = "https://api.seats.example/base"

func (h *hub) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
	}
	if h.takes > 0 && req.URL.Path == exchangePath {
		select {
		case <-time.After(h.takes):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	form, _ := url.ParseQuery(string(body))
	who := strings.TrimPrefix(req.Header.Get("Authorization"), "token ") + form.Get("device_code")
	if req.URL.Path != "/copilot_internal/user" { // comes whenever it likes
		h.asked = append(h.asked, strings.TrimSpace(req.URL.Path+" "+who))
		h.at = append(h.at, time.Now())
	}
	if req.Header.Get("Accept") != "application/json" || req.Header.Get("User-Agent") == "" || len(body) > 0 != (req.Method == "POST") {
		h.t.Errorf("%s %s with %v", req.Method, req.URL, req.Header)
	}
	answer := ""
	if script := h.scripts[req.URL.Path]; len(script) > 0 {
		answer, h.scripts[req.URL.Path] = script[0], script[1:]
	}
	if answer == "" {
		switch req.URL.Path {
		case "/login/device/code":
			if form.Get("client_id") == "" || form.Get("scope") != "read:user" {
				h.t.Errorf("the form is %v", form)
			}
			answer = `200 {"device_code":"device-1","user_code":"ABCD-1234","verification_uri":"https://github.com/login/device","expires_in":899,"interval":5}`
		case "/login/oauth/access_token":
			answer = `200 {"access_token":"ghu_alice","token_type":"bearer","scope":""}`
		case "/user":
			answer = `200 {"login":"alice-at-github"}`
		case "/copilot_internal/v2/token":
			h.minted++
			life := h.life
			if life == 0 {
				life = 30 * time.Minute
			}
			answer = fmt.Sprintf(`200 {"token":"tid=%d","expires_at":%d,"refresh_in":1500,"endpoints":{"api":%q}}`, h.minted, time.Now().Add(life).Unix(), hubBase)
		case "/copilot_internal/user":
			answer = `200 {"quota_reset_date_utc":"2026-12-01T00:00:00Z","quota_snapshots":{"premium_interactions":{"entitlement":300,"remaining":12,"quota_remaining":12.5,"percent_remaining":4.2,"unlimited":false,"overage_permitted":false,"overage_count":0},"chat":{"unlimited":true,"percent_remaining":100},"no good":{},"null":null}}`
		}
	}
	if answer == "away" {
		return nil, errors.New("dial tcp: connection refused")
	}
	var status int
	fmt.Sscan(answer, &status)
	_, text, _ := strings.Cut(answer, " ")
	res := &http.Response{StatusCode: status, Header: h.header.Clone(), Body: io.NopCloser(strings.NewReader(text)), Request: req}
	if res.Header == nil {
		res.Header = http.Header{}
	}
	return res, nil
}

// count is how often a path was asked.
func (h *hub) count(path string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, a := range h.asked {
		if name, _, _ := strings.Cut(a, " "); name == path {
			n++
		}
	}
	return n
}

const exchangePath = "/copilot_internal/v2/token"

func newHub(t testing.TB) *hub { return &hub{t: t, scripts: map[string][]string{}} }

// signIn puts a sign-in on the shelf.
func signIn(t testing.TB, h *hub, s *shelf, name string) {
	t.Helper()
	l, err := (&SignIns{Storage: s, Transport: h}).Start(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func openSeats(t *testing.T, h *hub, s Storage, options ...string) *copilot {
	t.Helper()
	c := Config{Transport: h, Storage: s, Memory: new(Memory)}
	if len(options) > 0 {
		c.Options = map[string][]string{"host": options}
	}
	return open(t, "copilot", c).(*copilot)
}

// wear authorizes a request and returns its address and token, or the error.
func wear(t testing.TB, c Credential) string {
	kind, _ := Lookup("copilot")
	u, err := kind.New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	shared := u.Address(&dialect.Call{Op: dialect.ChatCompletions}, "")
	before := shared.String()
	req := (&http.Request{Method: "POST", URL: shared, Host: shared.Host, Header: http.Header{}}).WithContext(t.Context())
	if err := c.Authorize(req); err != nil {
		return err.Error()
	}
	if shared.String() != before {
		t.Error("the shared URL was changed")
	}
	if req.Host != req.URL.Host {
		t.Errorf("the host is %q at %s", req.Host, req.URL)
	}
	return req.URL.String() + " " + strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
}

const atBase = hubBase + "/chat/completions "

func TestCopilotConfig(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{}, ""},
		{Config{Options: map[string][]string{"host": {"octo.ghe.com"}}}, ""},
		{Config{Options: map[string][]string{"host": {"http://127.0.0.1:8080"}}, BaseURL: "http://127.0.0.1:8081"}, ""},
		{Config{Options: map[string][]string{"host": {"http://localhost:8080/"}}}, ""},
		{Config{Options: map[string][]string{"host": {"https://hub.example:8443"}}}, ""},
		{Config{Options: map[string][]string{"host": {"http://hub.example"}}}, "without TLS"},
		{Config{Options: map[string][]string{"host": {"ftp://hub.example"}}}, "neither the name"},
		{Config{Options: map[string][]string{"host": {"https://me:secret@hub.example"}}}, "nothing else"},
		{Config{Options: map[string][]string{"host": {"https://hub.example/path"}}}, "nothing else"},
		{Config{Options: map[string][]string{"host": {"nodots"}}}, "not the name of a host"},
		{Config{Options: map[string][]string{"host": {"a b.com"}}}, "not the name of a host"},
		{Config{Options: map[string][]string{"host": {}}}, "one value"},
		{Config{Options: map[string][]string{"version": {"1"}}}, "no such option"},
		{Config{BaseURL: "ftp://x"}, "base_url"},
		{Config{Dialects: []string{"images"}}, "dialects"},
	} {
		kind, _ := Lookup("copilot")
		_, err := kind.New(c.config)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%+v: %v, want %q", c.config, err, c.want)
		}
	}
	g, err := openGitHub("octo.ghe.com", nil)
	if err != nil || g.web.String() != "https://octo.ghe.com" || g.api.String() != "https://api.octo.ghe.com" {
		t.Errorf("%v %v %v", g.web, g.api, err)
	}
}

// A sign-in as GitHub plays it: the person takes a while, and GitHub wants to be
// asked less often.
func TestSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t), newShelf()
		h.scripts["/login/oauth/access_token"] = []string{
			`200 {"error":"authorization_pending"}`, `200 {"error":"slow_down","interval":10}`, `away`, `503 oops`, `200 {"error":"slow_down"}`,
		}
		in := &SignIns{Storage: s, Transport: h}
		start := time.Now()
		l, err := in.Start(t.Context(), "alice")
		if err != nil || l.Code != "ABCD-1234" || l.URL != "https://github.com/login/device" || l.Host != "github.com" || l.Expires.Sub(start) != 899*time.Second {
			t.Fatalf("%+v %v", l, err)
		}
		if got := fmt.Sprintf("%v %+v", l, l); strings.Contains(got, "device-1") {
			t.Errorf("the device code is printed: %s", got)
		}
		if _, err := in.Find(t.Context(), "alice"); !errors.Is(err, ErrNotSignedIn) {
			t.Error(err)
		}
		got, err := l.Wait(t.Context())
		if err != nil || got.Login != "alice-at-github" || got.Name != "alice" || !got.Since.Equal(time.Now()) {
			t.Errorf("%+v %v", got, err)
		}
		synctest.Wait()
		want := []time.Duration{0, 5, 10, 20, 30, 40, 55, 55, 55}
		for i := range h.at {
			if h.at[i].Sub(start) != want[i]*time.Second {
				t.Errorf("call %d (%s) after %s, want %d s", i, h.asked[i], h.at[i].Sub(start), want[i])
			}
		}
		if got := strings.Join(h.asked[6:], ", "); got != "/login/oauth/access_token device-1, /user ghu_alice, /copilot_internal/v2/token ghu_alice" {
			t.Error(got)
		}
		list, err := in.List(t.Context())
		if err != nil || len(list) != 1 || list[0] != got {
			t.Errorf("%+v %v", list, err)
		}
		if strings.Contains(fmt.Sprintf("%+v", list), "ghu_") {
			t.Error("the list shows a token")
		}
		// The token of the exchange is kept, so that the first request needs no other.
		u := openSeats(t, h, s)
		if got := wear(t, u.Credential(NewSecret("signin:alice"))); got != atBase+"tid=1" {
			t.Error(got)
		}
		if err := in.SignOut(t.Context(), "alice"); err != nil || s.names() != "" {
			t.Errorf("%v, left: %s", err, s.names())
		}
		if err := in.SignOut(t.Context(), "alice"); !errors.Is(err, ErrNotSignedIn) {
			t.Error(err)
		}
	})
}

// A sign-in that fails leaves nothing behind, and what was signed in stays.
func TestSignInFails(t *testing.T) {
	for name, c := range map[string]struct {
		path, answer string
		want         string
	}{
		"denied":          {"/login/oauth/access_token", `200 {"error":"access_denied"}`, ErrDenied.Error()},
		"expired":         {"/login/oauth/access_token", `200 {"error":"expired_token"}`, ErrExpired.Error()},
		"odd":             {"/login/oauth/access_token", "200 {\"error\":\"incorrect_device_code\\n\"}", "incorrect_device_code"},
		"no JSON":         {"/login/oauth/access_token", `200 <html>`, "not JSON"},
		"no token":        {"/login/oauth/access_token", `200 {}`, "no token"},
		"bad token":       {"/login/oauth/access_token", `200 {"access_token":"a\nb"}`, "no token"},
		"no user":         {"/user", `401 {"message":"Bad credentials"}`, "Bad credentials"},
		"nameless":        {"/user", `200 {}`, "who has signed in"},
		"no Copilot":      {exchangePath, `403 {"message":"no","error_details":{"message":"No access to GitHub Copilot found."}}`, "no access to Copilot: No access to GitHub Copilot found."},
		"no base":         {exchangePath, `200 {"token":"tid=1","expires_at":1,"refresh_in":1500}`, "does not say where"},
		"no code":         {"/login/device/code", `404 {"message":"Not Found"}`, "Not Found"},
		"code error":      {"/login/device/code", `200 {"error":"unauthorized_client"}`, "unauthorized_client"},
		"code of nothing": {"/login/device/code", `200 {}`, "no code"},
		"code URL":        {"/login/device/code", `200 {"device_code":"d","user_code":"c","verification_uri":"javascript:alert(1)","expires_in":9}`, "no sense"},
		"code text":       {"/login/device/code", `200 {"device_code":"d","user_code":"a\u001b[31m","verification_uri":"https://x","expires_in":9}`, "no sense"},
		"away":            {"/login/device/code", `away`, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := newHub(t), newShelf()
				signIn(t, h, s, "alice")
				before := maps.Clone(s.files)
				h.scripts[c.path] = []string{c.answer}
				in := &SignIns{Storage: s, Transport: h}
				for _, name := range []string{"alice", "bob"} {
					h.scripts[c.path] = []string{c.answer}
					l, err := in.Start(t.Context(), name)
					if err == nil {
						_, err = l.Wait(t.Context())
					}
					if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "ghu_") {
						t.Errorf("%v, want %q", err, c.want)
					}
				}
				if !maps.Equal(before, s.files) {
					t.Errorf("on the shelf: %s", s.names())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t), newShelf()
		h.scripts["/login/oauth/access_token"] = slices.Repeat([]string{`200 {"error":"authorization_pending"}`}, 1000)
		in := &SignIns{Storage: s, Transport: h}
		l, _ := in.Start(t.Context(), "alice")
		start := time.Now()
		if _, err := l.Wait(t.Context()); !errors.Is(err, ErrExpired) || time.Since(start) != 899*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		l, _ = in.Start(t.Context(), "alice")
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(7*time.Second, cancel)
		if _, err := l.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		for _, name := range []string{"", "a/b", "a b", strings.Repeat("x", 33), "ä"} {
			if _, err := in.Start(t.Context(), name); err == nil || !strings.Contains(err.Error(), "1 to 32") {
				t.Errorf("%q: %v", name, err)
			}
			if err := in.SignOut(t.Context(), name); err == nil {
				t.Errorf("%q can be signed out", name)
			}
		}
		calls := len(h.asked)
		s.readOnly = true
		if _, err := in.Start(t.Context(), "alice"); !errors.Is(err, fs.ErrPermission) || len(h.asked) > calls {
			t.Errorf("%v, and GitHub was asked", err)
		}
		if _, err := (&SignIns{Transport: h}).Start(t.Context(), "alice"); !errors.Is(err, ErrNoStorage) {
			t.Error(err)
		}
		if s.names() != "" {
			t.Errorf("on the shelf: %s", s.names())
		}
	})
}

// What GitHub says to an exchange, and what that means.
func TestExchange(t *testing.T) {
	for name, c := range map[string]struct {
		answer  string
		header  http.Header
		meaning Meaning
		want    string
		wait    time.Duration
		tries   int
	}{
		"revoked":       {`401 {"message":"Bad credentials"}`, nil, BadCredential, "sign in again: Bad credentials", 0, 1},
		"no access":     {`403 {"message":"x"}`, nil, BadCredential, "no access to Copilot: x", 0, 1},
		"nothing there": {`404 {}`, nil, BadCredential, "no access", 0, 1},
		"limited":       {`429 {"message":"too many"}`, http.Header{"Retry-After": {"90"}}, AccountLimit, "no more tokens to this account for now: too many", 90 * time.Second, 1},
		"limited 403":   {`403 {}`, http.Header{"Retry-After": {"30"}}, AccountLimit, "no more tokens", 30 * time.Second, 1},
		"unspecified":   {`429 {}`, nil, AccountLimit, "no more tokens", time.Minute, 1},
		"hostile":       {`429 {}`, http.Header{"Retry-After": {"99999999999"}}, AccountLimit, "no more tokens", 24 * time.Hour, 1},
		"teapot":        {`418 {}`, nil, Plain, "status 418", 0, 1},
		"html":          {`200 <html>`, nil, Plain, "no Copilot token", 0, 1},
		"bad base":      {`200 {"token":"t","endpoints":{"api":"http://api.example"}}`, nil, Plain, "does not say where", 0, 1},
		"odd base":      {`200 {"token":"t","endpoints":{"api":"https://u:p@api.example"}}`, nil, Plain, "does not say where", 0, 1},
		"no base":       {`200 {"token":"t"}`, nil, Plain, "does not say where", 0, 1},
		"failing":       {`500 {}`, nil, Plain, "status 500", 0, 4},
		"away":          {`away`, nil, Plain, "connection refused", 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t)
				h.header = c.header
				h.scripts[exchangePath] = slices.Repeat([]string{c.answer}, 10)
				g, _ := openGitHub("", h)
				start := time.Now()
				_, err := g.exchange(t.Context(), NewSecret("ghu_x"))
				var e *CredentialError
				if !errors.As(err, &e) || e.Meaning != c.meaning || !strings.Contains(e.Reason, c.want) || h.count(exchangePath) != c.tries {
					t.Fatalf("%v after %d tries", err, h.count(exchangePath))
				}
				if got := time.Until(e.Until); c.wait != 0 && got != c.wait || c.wait == 0 && !e.Until.IsZero() {
					t.Errorf("until %s", e.Until)
				}
				if c.tries == 4 && time.Since(start) != 7*time.Second {
					t.Errorf("it took %s", time.Since(start))
				}
			})
		})
	}
}

// GitHub's clock need not be ours.
func TestClockSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			expires, date time.Duration // from now; date 0: none
			refreshIn     int
			refresh, end  time.Duration
		}{
			{30 * time.Minute, 0, 1500, 25 * time.Minute, 30 * time.Minute},
			{30 * time.Minute, 0, 0, 29 * time.Minute, 30 * time.Minute},
			{30 * time.Minute, 0, 7200, 29 * time.Minute, 30 * time.Minute},
			{-90 * time.Minute, -2 * time.Hour, 1500, 25 * time.Minute, 30 * time.Minute},
			{5*time.Hour + 30*time.Minute, 5 * time.Hour, 1500, 25 * time.Minute, 30 * time.Minute},
			{-2 * time.Hour, 0, 1500, 25 * time.Minute, 26 * time.Minute}, // no telling
			{-2 * time.Hour, 0, 0, 5 * time.Minute, 6 * time.Minute},
			{1000 * time.Hour, 0, 1500, 25 * time.Minute, 26 * time.Minute},
			{40 * time.Second, 0, 1500, 20 * time.Second, 40 * time.Second},
		} {
			now := time.Now()
			r := &reply{status: 200, header: http.Header{}, body: []byte(fmt.Sprintf(
				`{"token":"t","expires_at":%d,"refresh_in":%d,"endpoints":{"api":"https://api.example/"}}`, now.Add(c.expires).Unix(), c.refreshIn))}
			if c.date != 0 {
				r.header.Set("Date", now.Add(c.date).UTC().Format(http.TimeFormat))
			}
			tok, err := r.token()
			if err != nil || tok.Refresh.Sub(now) != c.refresh || tok.Expires.Sub(now) != c.end || tok.Base.String() != "https://api.example" {
				t.Errorf("%+v: refresh %s, end %s, %v", c, tok.Refresh.Sub(now), tok.Expires.Sub(now), err)
			}
		}
	})
}

// A token of GitHub's works like a sign-in, and is written nowhere.
func TestGitHubTokenAsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t), newShelf()
		u := openSeats(t, h, s)
		c := u.Credential(NewSecret("ghp_direct"))
		if got := wear(t, c); got != atBase+"tid=1" {
			t.Error(got)
		}
		time.Sleep(25 * time.Minute)
		if got := wear(t, c); got != atBase+"tid=1" {
			t.Error(got)
		}
		synctest.Wait()
		if got := wear(t, c); got != atBase+"tid=2" || s.names() != "" {
			t.Errorf("%s, on the shelf: %s", got, s.names())
		}
		if got := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(got, "ghp_") || strings.Contains(got, "tid=") {
			t.Errorf("a secret is printed: %s", got)
		}
		// The same account made anew, as at a reload, has the token still.
		u2 := open(t, "copilot", u.config)
		if got := wear(t, u2.Credential(NewSecret("ghp_direct"))); got != atBase+"tid=2" {
			t.Error(got)
		}
		if empty := u.Credential(Secret{}); wear(t, empty) != "https://api.githubcopilot.com/chat/completions " {
			t.Error("without a key it is not anonymous")
		}
	})
}

// Instances that share a storage exchange once for all of them, also after one was
// told that the token is dead.
func TestInstancesShareTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t), newShelf()
		signIn(t, h, s, "alice")
		h.takes = time.Second
		seats := make([]Credential, 3)
		for i := range seats {
			seats[i] = openSeats(t, h, s).Credential(NewSecret("signin:alice"))
		}
		all := func(want string, exchanges int) {
			t.Helper()
			var wg sync.WaitGroup
			for _, c := range seats {
				wg.Go(func() {
					if got := wear(t, c); got != atBase+want {
						t.Errorf("%s, want %s", got, want)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			if n := h.count(exchangePath); n != exchanges {
				t.Errorf("%d exchanges, want %d", n, exchanges)
			}
		}
		all("tid=1", 1)
		time.Sleep(time.Hour) // all have expired
		all("tid=2", 2)
		time.Sleep(25 * time.Minute)
		all("tid=2", 2)
		time.Sleep(5 * time.Second)
		all("tid=3", 3)
		// The first is told that the token is dead, then the others are.
		for _, c := range seats {
			if !c.Renew(http.Header{"Authorization": {"Bearer tid=3"}}) {
				t.Error("not renewed")
			}
		}
		all("tid=4", 4)
	})
}

// What keeps a seat from serving says what to do, and ends without a restart.
func TestSeatTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t), newShelf()
		u := openSeats(t, h, s)
		c := u.Credential(NewSecret("signin:alice")).(*seat)
		meaning := func(want Meaning, text string) {
			t.Helper()
			c.Forget()
			req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://x/y", nil)
			err := c.Authorize(req)
			var e *CredentialError
			if !errors.As(err, &e) || e.Meaning != want || !strings.Contains(e.Reason, text) {
				t.Errorf("%v, want %q", err, text)
			}
			if got := c.State().Trouble; !strings.Contains(got, text) {
				t.Errorf("shown is %q, want %q", got, text)
			}
		}
		meaning(BadCredential, "alice is not signed in; type: caddy floway login copilot alice")
		s.broken = true
		meaning(Plain, "input/output error")
		s.broken = false
		s.files[seatKey("alice")] = "garbage"
		meaning(Plain, "sign in again")
		signIn(t, h, s, "alice")
		c.Forget()
		if got := wear(t, c); got != atBase+"tid=1" || c.State().Trouble != "" || c.State().Login != "alice-at-github" {
			t.Errorf("%s %+v", got, c.State())
		}
		// A revoked seat: the data plane says 401, and so does the exchange.
		synctest.Wait() // nothing else asks GitHub
		h.scripts[exchangePath] = []string{`401 {}`}
		if !c.Renew(http.Header{"Authorization": {"Bearer tid=1"}}) {
			t.Error("not renewed")
		}
		if got := wear(t, c); !strings.Contains(got, "sign in again") {
			t.Error(got)
		}
		// A storage that is read only does not keep a seat from serving.
		s.readOnly = true
		c.Forget()
		s.files[tokenKey("alice")] = "{"
		if got := wear(t, c); got != atBase+"tid=2" || !strings.Contains(c.State().Trouble, "takes no tokens") {
			t.Errorf("%s %+v", got, c.State())
		}
		other := openSeats(t, h, s, "octo.ghe.com").Credential(NewSecret("signin:alice"))
		if got := wear(t, other); !strings.Contains(got, "signed in at github.com, and the upstream's host is octo.ghe.com") {
			t.Error(got)
		}
		nowhere := openSeats(t, h, nil).Credential(NewSecret("signin:alice"))
		if got := wear(t, nowhere); !strings.Contains(got, ErrNoStorage.Error()) {
			t.Error(got)
		}
	})
}

// The address can be configured, and whoever names a host in the header is heard.
func TestSeatAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t)
		u := open(t, "copilot", Config{Transport: h, BaseURL: "http://127.0.0.1:9/x"}).(*copilot)
		req, _ := http.NewRequestWithContext(t.Context(), "POST", u.Address(&dialect.Call{Op: dialect.CreateMessage}, "").String(), nil)
		req.Header["Editor-Device-Id"] = []string{"mine"}
		if err := u.Credential(NewSecret("ghp_direct")).Authorize(req); err != nil || req.URL.String() != "http://127.0.0.1:9/x/v1/messages" || req.Header.Get("Editor-Device-Id") != "mine" {
			t.Errorf("%s %v %v", req.URL, req.Header, err)
		}
		a, b := deviceOf(NewSecret("signin:alice")), deviceOf(NewSecret("signin:bob"))
		if a == b || a != deviceOf(NewSecret("signin:alice")) || len(a) != 36 {
			t.Error(a, b)
		}
	})
}

func TestCopilotModels(t *testing.T) {
	u := openSeats(t, newHub(t), nil)
	const list = `{"object":"list","data":[
		{"id":"gpt-5","name":"GPT-5","vendor":"OpenAI","supported_endpoints":["/chat/completions","/responses","ws:/responses"],"capabilities":{"type":"chat","limits":{"max_context_window_tokens":400000,"max_prompt_tokens":128000,"max_output_tokens":64000}}},
		{"id":"gpt-5-codex","supported_endpoints":["/v1/responses"],"capabilities":{"type":"chat"}},
		{"id":"gpt-4.1","capabilities":{"type":"chat","limits":{"max_context_window_tokens":1000}}},
		{"id":"claude-sonnet-4.5","supported_endpoints":["/chat/completions"],"capabilities":{"type":"chat"}},
		{"id":"claude-opus-4","supported_endpoints":["/messages"]},
		{"id":"text-embedding-3-small","capabilities":{"type":"embeddings"}},
		{"id":"text-embedding-x","supported_endpoints":["/v1/embeddings"]},
		{"id":"blocked","policy":{"state":"disabled"},"capabilities":{"type":"chat"}},
		{"id":"gpt-5","supported_endpoints":["/v1/messages"]},
		{"id":"odd","capabilities":{"type":"completion"}}]}`
	var got http.Header
	models, err := u.Models(t.Context(), func(req *http.Request) (*http.Response, error) {
		got = req.Header
		if req.URL.String() != "https://api.githubcopilot.com/models" {
			t.Error(req.URL)
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(list))}, nil
	})
	if err != nil || got.Get("Openai-Intent") != "model-access" || got.Get("X-Interaction-Type") != "model-access" || got.Get("X-Request-Id") == "" {
		t.Errorf("%v %v", err, got)
	}
	features := map[string]string{}
	for _, m := range models {
		features[m.ID] = strings.Join(m.Features, " ")
	}
	if want := map[string]string{
		"gpt-5": "chat responses", "gpt-5-codex": "responses", "gpt-4.1": "chat", "claude-sonnet-4.5": "chat messages",
		"claude-opus-4": "messages", "text-embedding-3-small": "embeddings", "text-embedding-x": "embeddings", "odd": "",
	}; !maps.Equal(features, want) {
		t.Error(features)
	}
	if m := models[0]; m.MaxInput != 128000 || m.MaxOutput != 64000 || m.Name != "GPT-5" || m.OwnedBy != "openai" || models[2].MaxInput != 1000 {
		t.Errorf("%+v", m)
	}
	type speaks struct{ chat, responses, messages, embeddings bool }
	check := func(model string, want speaks, via string) {
		t.Helper()
		if got := (speaks{
			u.Speaks(dialect.ChatCompletions, model), u.Speaks(dialect.CreateResponse, model),
			u.Speaks(dialect.CreateMessage, model), u.Speaks(dialect.Embeddings, model),
		}); got != want {
			t.Errorf("%s: %+v", model, got)
		}
		if got := fmt.Sprint(u.Via(dialect.Gemini, model)); got != via {
			t.Errorf("%s for Gemini: %s", model, got)
		}
		for _, op := range []dialect.Operation{dialect.Completions, dialect.CompactResponse, dialect.StoredResponse, dialect.CountResponse, dialect.ImageGenerations} {
			if u.Speaks(op, model) {
				t.Errorf("%s offers %s", model, op)
			}
		}
	}
	// By name, as long as nobody knows better.
	check("gpt-5", speaks{chat: true, responses: true}, "[responses chat]")
	check("gpt-4.1", speaks{chat: true}, "[chat]")
	check("claude-sonnet-4.5", speaks{chat: true, messages: true}, "[messages chat]")
	check("text-embedding-3-small", speaks{embeddings: true}, "[]")
	u.Learn(models)
	check("gpt-5", speaks{chat: true, responses: true}, "[responses chat]")
	check("gpt-5-codex", speaks{responses: true}, "[responses]")
	check("claude-opus-4", speaks{messages: true}, "[messages]")
	check("text-embedding-x", speaks{embeddings: true}, "[]")
	if u.Speaks(dialect.CountMessage, "gpt-4.1") || !u.Speaks(dialect.CountMessage, "claude-opus-4") {
		t.Error("tokens are counted where messages are spoken")
	}
	limited := open(t, "copilot", Config{Dialects: []string{"chat"}}).(*copilot)
	limited.Learn(models)
	if limited.Speaks(dialect.CreateResponse, "gpt-5") || fmt.Sprint(limited.Via(dialect.Messages, "gpt-5")) != "[chat]" {
		t.Error("dialects are not heeded")
	}
	for _, bad := range []string{`{}`, `[]`, `{"data":7}`, `oops`} {
		if _, err := readCopilotModels([]byte(bad)); err == nil {
			t.Errorf("%s is a list", bad)
		}
	}
}

func TestCopilotNames(t *testing.T) {
	u := openSeats(t, newHub(t), nil)
	names := map[string]string{
		"claude-sonnet-4-5-20250929": "claude-sonnet-4.5",
		"claude-sonnet-4-5":          "claude-sonnet-4.5",
		"claude-sonnet-4.5":          "claude-sonnet-4.5",
		"claude-opus-4-20250514":     "claude-opus-4",
		"claude-3-5-sonnet-20241022": "claude-3.5-sonnet",
		"claude-opus-4-6-fast":       "claude-opus-4.6-fast",
		"claude-opus-4-1m":           "claude-opus-4-1m",
		"gpt-4-1":                    "gpt-4-1",
		"gpt-5-20250807":             "gpt-5-20250807",
	}
	for name, want := range names {
		if got := u.OwnName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	u.Learn([]Model{{ID: "claude-sonnet-4.5", Features: []string{"chat"}}, {ID: "claude-odd-4-5", Features: []string{"chat"}}})
	for name, want := range map[string]string{
		"claude-sonnet-4-5-20250929": "claude-sonnet-4.5", "claude-odd-4-5": "claude-odd-4-5", "claude-none-4-5": "claude-none-4-5",
	} {
		if got := u.OwnName(name); got != want {
			t.Errorf("with a list, %s: %s, want %s", name, got, want)
		}
	}
}

func TestCopilotBodiesAndHeaders(t *testing.T) {
	u := openSeats(t, newHub(t), nil)
	for _, c := range []struct {
		op         dialect.Operation
		body, want string
	}{
		{dialect.ChatCompletions, `{"model":"m","store":true,"messages":[]}`, `{"model":"m","messages":[]}`},
		{dialect.CreateResponse, `{"store":true,"service_tier":"auto","tools":[{"type":"image_generation"},{"type":"function"}]}`, `{"store":false,"tools":[{"type":"function"}]}`},
		{dialect.CreateResponse, `{"input":"x"}`, `{"store":false,"input":"x"}`},
		{
			dialect.CreateMessage,
			`{"cache_control":{"type":"ephemeral"},"system":[{"text":"s","cache_control":{"type":"ephemeral","ttl":"1h"}}],"tools":[{"name":"t","eager_input_streaming":true,"cache_control":{"type":"ephemeral","scope":"global"}}],"messages":[{"role":"user","content":[{"type":"text","cache_control":{"ttl":"5m","type":"ephemeral"}},{"type":"tool_use","input":{"cache_control":{"ttl":1}}}]}]}`,
			`{"system":[{"text":"s","cache_control":{"type":"ephemeral"}}],"tools":[{"name":"t","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":[{"type":"text","cache_control":{"type":"ephemeral"}},{"type":"tool_use","input":{"cache_control":{"ttl":1}}}]}]}`,
		},
		{dialect.CountMessage, `{"cache_control":{},"messages":[]}`, `{"messages":[]}`},
		{dialect.Embeddings, `{"input":"text"}`, `{"input":["text"]}`},
		{dialect.Embeddings, `{"input":["text"]}`, `{"input":["text"]}`},
	} {
		before := strings.Clone(c.body)
		if got := u.Fit(c.op, []byte(c.body)); string(got) != c.want || c.body != before {
			t.Errorf("%s becomes %s", c.body, got)
		}
	}
	h := http.Header{"Anthropic-Beta": {"a-1, interleaved-thinking-2025-05-14", "b,context-management-2025-06-27,interleaved-thinking-2025-05-14"}}
	u.Describe(dialect.CreateMessage, []byte(`{"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"image"}]}]}]}`), h)
	id := h.Get("X-Request-Id")
	want := http.Header{
		"Anthropic-Beta": {"interleaved-thinking-2025-05-14,context-management-2025-06-27"},
		"X-Initiator":    {"agent"}, "Copilot-Vision-Request": {"true"},
		"Openai-Intent": {"conversation-agent"}, "X-Interaction-Type": {"conversation-agent"},
		"X-Request-Id": {id}, "X-Agent-Task-Id": {id},
	}
	if !reflect.DeepEqual(h, want) || len(id) != 36 {
		t.Error(h)
	}
	h = http.Header{"Anthropic-Beta": {"unknown-1"}}
	u.Describe(dialect.CreateMessage, []byte(`{"messages":[{"role":"user","content":"hi"}]}`), h)
	if h.Get("X-Initiator") != "user" || h["Anthropic-Beta"] != nil || h["Copilot-Vision-Request"] != nil || h.Get("X-Request-Id") == id {
		t.Error(h)
	}
	for _, name := range []string{"User-Agent", "Editor-Version", "Editor-Plugin-Version", "Copilot-Integration-Id", "X-Github-Api-Version", "X-Vscode-User-Agent-Library-Version"} {
		if u.Headers().Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
}

func TestCopilotMeaning(t *testing.T) {
	u := openSeats(t, newHub(t), nil)
	for _, c := range []struct {
		status int
		body   string
		want   Meaning
	}{
		{429, `{"error":{"message":"You have exceeded your monthly quota","code":"quota_exceeded"}}`, QuotaSpent},
		{429, `{"error":{"message":"Sorry, you have exhausted this model's allowance. Please try again later."}}`, QuotaSpent},
		{429, `{"error":{"message":"too many requests","code":"rate_limited"}}`, Plain},
		{400, `{"error":{"message":"The requested model is not supported.","code":"model_not_supported","param":"model"}}`, NoModel},
		{400, `{"error":{"message":"store is not supported"}}`, Plain},
		{403, `{"error":{"message":"Access to Copilot has been revoked"}}`, BadCredential},
		{403, `{"error":{"message":"forbidden"}}`, Plain},
	} {
		p := dialect.ReadProblem([]byte(c.body))
		if got := u.Meaning(c.status, &p); got != c.want {
			t.Errorf("%d %s: %d, want %d", c.status, c.body, got, c.want)
		}
	}
}

// What is left of the quotas is known from the account's page and from answers;
// when a spent one begins anew ends the wait.
func TestQuotas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := openSeats(t, newHub(t), nil)
		c := u.Credential(NewSecret("ghp_direct")).(*seat)
		wear(t, c)
		synctest.Wait()
		at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
		premium := Quota{Name: "premium_interactions", Entitled: 300, Left: 12.5, Percent: 4.2, Reset: at, Seen: time.Now()}
		if got := c.State().Quotas; len(got) != 2 || got[0].Name != "chat" || !got[0].Unlimited || got[1] != premium || !spent(c).IsZero() {
			t.Errorf("%+v", got)
		}
		h := http.Header{}
		h.Set("x-quota-snapshot-premium_interactions", "ent=300&rem=0.0&rst=2026-12-01T00%3A00%3A00Z&totRem=0&ov=3.5&ovPerm=false")
		h.Set("x-quota-snapshot-chat", "ent=-1&rem=100&rst=2026-12-01&totRem=-1&ov=0&ovPerm=false")
		h.Set("x-quota-snapshot-part", "rem=10")
		h.Set("x-quota-snapshot-broken", "ent=%zz")
		h.Set("x-quota-snapshot-new_one", "ent=10&rem=50&ovPerm=true")
		h.Set("x-other", "ent=10&rem=50")
		c.Observe(h)
		quotas := map[string]Quota{}
		for _, q := range c.State().Quotas {
			q.Seen = time.Time{}
			quotas[q.Name] = q
		}
		if want := map[string]Quota{
			"premium_interactions": {Name: "premium_interactions", Entitled: 300, Used: 3.5, Reset: at},
			"chat":                 {Name: "chat", Unlimited: true, Entitled: -1, Left: -1, Percent: 100, Reset: at},
			"new_one":              {Name: "new_one", Entitled: 10, Left: 5, Percent: 50, Overage: true},
		}; !maps.Equal(quotas, want) {
			t.Errorf("%+v", quotas)
		}
		if got, rest := c.Spent(); !got.Equal(at) || !rest {
			t.Error(got, rest)
		}
		h.Set("x-quota-snapshot-chat", "ent=50&rem=0&rst=2026-12-08&totRem=0&ov=0&ovPerm=false")
		c.Observe(h)
		if got, rest := c.Spent(); !got.Equal(at.AddDate(0, 0, 7)) || rest {
			t.Error(got, rest)
		}
		h.Set("x-quota-snapshot-chat", "ent=-1&rem=100&rst=2026-12-01&totRem=-1&ov=0&ovPerm=false")
		h.Set("x-quota-snapshot-completions", "ent=100&rem=0&rst=2027-12-01&totRem=0&ov=0&ovPerm=false") // of the editor's own
		h.Set("x-quota-snapshot-premium_interactions", "ent=300&rem=0.0&rst=2026-12-01T00%3A00%3A00Z&totRem=0&ov=3.5&ovPerm=true")
		c.Observe(h)
		if got := spent(c); !got.IsZero() {
			t.Errorf("it may go on at a price, and waits until %s", got)
		}
		many := http.Header{}
		for i := range 100 {
			many.Set(fmt.Sprintf("x-quota-snapshot-q%d", i), "ent=10&rem=50")
		}
		c.Observe(many)
		if got := c.State().Quotas; len(got) > maxQuotas {
			t.Errorf("%d quotas are kept", len(got))
		}
		c.Forget()
		if got := c.State(); got.Quotas != nil || !got.TokenUntil.IsZero() {
			t.Errorf("%+v", got)
		}
	})
}

func spent(a Account) time.Time {
	until, _ := a.Spent()
	return until
}

// What lies in the storage can be read by this version's tests, so that a change of
// form is noticed.
func TestStoredForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t), newShelf()
		signIn(t, h, s, "alice")
		for name, members := range map[string]string{
			"floway/copilot/seats/alice.json": "github_token host login since", "floway/copilot/tokens/alice.json": "base expires for refresh token",
		} {
			var v map[string]any
			if err := json.NewDecoder(bytes.NewReader([]byte(s.files[name]))).Decode(&v); err != nil || strings.Join(slices.Sorted(maps.Keys(v)), " ") != members {
				t.Errorf("%s: %v %v", name, v, err)
			}
		}
	})
}
