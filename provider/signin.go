package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
)

// SignInPrefix begins the key of an account that is signed in through floway; the
// sign-in's name follows.
const SignInPrefix = "signin:"

// SignInName returns the name of the sign-in that a key stands for; false if it is
// a key of another form.
func SignInName(key string) (name string, ok bool) { return strings.CutPrefix(key, SignInPrefix) }

// CheckSignInName says what is wrong with the name of a sign-in.
func CheckSignInName(name string) error {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	if name == "" || len(name) > 32 || strings.Trim(name, allowed) != "" {
		return errors.New("the name of a sign-in must be 1 to 32 of the characters A-Z a-z 0-9 . _ -")
	}
	return nil
}

// Registrar is an Upstream whose keys may be accounts that are signed in.
type Registrar interface {
	Upstream
	SignIns() *SignIns
}

// SignIns are the seats that were signed in at GitHub for Copilot. They lie in a
// storage, which instances share.
type SignIns struct {
	Storage Storage
	// Host is where Start signs in: github.com if empty, a tenant such as
	// octo.ghe.com, or a URL.
	Host string
	// Transport carries requests to GitHub; nil for http.DefaultTransport.
	Transport http.RoundTripper
}

// SignIn is a seat that was signed in. It holds no secret.
type SignIn struct {
	Name string `json:"name"`
	Host string `json:"host"`
	// Login is what GitHub calls the account.
	Login string    `json:"login"`
	Since time.Time `json:"since"`
}

// Where sign-ins and their tokens lie in the storage. The two are apart because
// every instance writes tokens, and only a person signs in.
const (
	seatsDir  = "floway/copilot/seats"
	tokensDir = "floway/copilot/tokens"
)

func seatKey(name string) string  { return path.Join(seatsDir, name+".json") }
func tokenKey(name string) string { return path.Join(tokensDir, name+".json") }
func lockName(name string) string { return "floway/copilot/" + name }

// seatRecord is a sign-in as it is stored.
type seatRecord struct {
	Host  string    `json:"host"`
	Login string    `json:"login"`
	Since time.Time `json:"since"`
	Token string    `json:"github_token"`
}

// tokenRecord is a Copilot token as it is stored.
type tokenRecord struct {
	// For is the fingerprint of the GitHub token that it was got for.
	For     string    `json:"for"`
	Token   string    `json:"token"`
	Base    string    `json:"base"`
	Refresh time.Time `json:"refresh"`
	Expires time.Time `json:"expires"`
}

// storageTimeout bounds one look into the storage.
const storageTimeout = 15 * time.Second

// ErrNotSignedIn: nobody has signed in under the name.
var ErrNotSignedIn = errors.New("not signed in")

// ErrNoStorage: there is nowhere to keep sign-ins.
var ErrNoStorage = errors.New("there is no storage to keep sign-ins in")

func loadSeat(ctx context.Context, s Storage, name string) (*seatRecord, error) {
	if s == nil {
		return nil, ErrNoStorage
	}
	raw, err := s.Load(ctx, seatKey(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNotSignedIn
	case err != nil:
		return nil, fmt.Errorf("read the sign-in from the storage: %w", err)
	}
	r := new(seatRecord)
	if err := json.Unmarshal(raw, r); err != nil || r.Token == "" {
		return nil, errors.New("the sign-in in the storage cannot be read; sign in again")
	}
	return r, nil
}

// loadToken returns the token that is stored for a GitHub token and still serves,
// unless it is the one that was refused.
func loadToken(ctx context.Context, s Storage, name string, github, refused Secret) (Token, bool) {
	raw, err := s.Load(ctx, tokenKey(name))
	if err != nil {
		return Token{}, false
	}
	var r tokenRecord
	if json.Unmarshal(raw, &r) != nil || r.Token == "" || r.For != github.ID() {
		return Token{}, false
	}
	base, err := url.Parse(r.Base)
	t := Token{Secret: NewSecret(r.Token), Refresh: r.Refresh, Expires: r.Expires, Base: base}
	return t, err == nil && t.Secret != refused && time.Now().Before(t.Refresh)
}

func storeToken(ctx context.Context, s Storage, name string, github Secret, t Token) error {
	raw, err := json.Marshal(tokenRecord{
		For: github.ID(), Token: t.Secret.Reveal(), Base: t.Base.String(), Refresh: t.Refresh.UTC(), Expires: t.Expires.UTC(),
	})
	if err != nil {
		return err
	}
	return s.Store(ctx, tokenKey(name), raw)
}

// List returns all sign-ins, by their names.
func (s *SignIns) List(ctx context.Context) ([]SignIn, error) {
	if s.Storage == nil {
		return nil, ErrNoStorage
	}
	keys, err := s.Storage.List(ctx, seatsDir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return []SignIn{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the sign-ins in the storage: %w", err)
	}
	slices.Sort(keys)
	list := []SignIn{}
	for _, key := range keys {
		name, ok := strings.CutSuffix(path.Base(key), ".json")
		if !ok || CheckSignInName(name) != nil {
			continue
		}
		if in, err := s.Find(ctx, name); err == nil {
			list = append(list, in)
		}
	}
	return list, nil
}

// Find returns the sign-in of that name; ErrNotSignedIn if there is none.
func (s *SignIns) Find(ctx context.Context, name string) (SignIn, error) {
	r, err := loadSeat(ctx, s.Storage, name)
	if err != nil {
		return SignIn{}, err
	}
	return SignIn{Name: name, Host: r.Host, Login: r.Login, Since: r.Since}, nil
}

// SignOut forgets a sign-in with its tokens. What GitHub granted stays granted
// until it is revoked there.
func (s *SignIns) SignOut(ctx context.Context, name string) error {
	if err := CheckSignInName(name); err != nil {
		return err
	}
	if _, err := loadSeat(ctx, s.Storage, name); errors.Is(err, ErrNotSignedIn) || errors.Is(err, ErrNoStorage) {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, key := range []string{tokenKey(name), seatKey(name)} {
		if err := s.Storage.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take the sign-in out of the storage: %w", err)
		}
	}
	return nil
}

// Login is a sign-in under way: a person has to type a code at GitHub.
type Login struct {
	Name, Host string
	// Code is to be typed at URL, before Expires.
	Code, URL string
	Expires   time.Time

	in       *SignIns
	github   *github
	device   Secret
	interval time.Duration
}

// Ways in which a sign-in ends without success.
var (
	ErrDenied  = errors.New("the sign-in was denied at GitHub")
	ErrExpired = errors.New("the code has expired before anybody typed it; start again")
)

// Bounds of what GitHub says of a sign-in under way.
const (
	leastInterval   = time.Second
	mostInterval    = time.Minute
	defaultInterval = 5 * time.Second
	longestLogin    = time.Hour
)

// Start begins a sign-in under a name. What was signed in under it stays until the
// new sign-in has succeeded.
func (s *SignIns) Start(ctx context.Context, name string) (*Login, error) {
	if err := CheckSignInName(name); err != nil {
		return nil, err
	}
	g, err := openGitHub(s.Host, s.Transport)
	if err != nil {
		return nil, err
	}
	if err := s.writable(ctx); err != nil {
		return nil, err
	}
	r, err := g.call(ctx, g.web, "login/device/code", Secret{}, url.Values{"client_id": {copilotClientID}, "scope": {copilotScope}})
	if err != nil {
		return nil, fmt.Errorf("ask %s for a code: %w", g.web.Host, err)
	}
	var a struct {
		Device   string `json:"device_code"`
		Code     string `json:"user_code"`
		URL      string `json:"verification_uri"`
		Expires  int64  `json:"expires_in"`
		Interval int64  `json:"interval"`
		Error    string `json:"error"`
	}
	err = json.Unmarshal(r.body, &a)
	at, badURL := url.Parse(a.URL)
	switch {
	case err == nil && a.Error != "":
		return nil, fmt.Errorf("ask %s for a code: it says %s", g.web.Host, word(a.Error))
	case r.status != http.StatusOK || err != nil || a.Device == "" || a.Code == "":
		return nil, fmt.Errorf("ask %s for a code: status %d, and no code%s", g.web.Host, r.status, r.said())
	case badURL != nil || at.Scheme != "https" && at.Scheme != "http" || len(a.Code) > 64 || strings.ContainsFunc(a.Code+a.URL, unicode.IsControl):
		return nil, fmt.Errorf("ask %s for a code: the answer makes no sense", g.web.Host)
	}
	return &Login{
		Name: name, Host: g.host, Code: a.Code, URL: a.URL,
		Expires: time.Now().Add(min(max(time.Duration(a.Expires)*time.Second, leastInterval), longestLogin)),
		in:      s, github: g, device: NewSecret(a.Device), interval: interval(a.Interval, defaultInterval),
	}, nil
}

// writable finds out before a person goes to GitHub whether the storage will take
// the sign-in.
func (s *SignIns) writable(ctx context.Context) error {
	if s.Storage == nil {
		return ErrNoStorage
	}
	const probe = "floway/copilot/writable"
	err := s.Storage.Store(ctx, probe, []byte("floway tries whether it may write here\n"))
	if err == nil {
		err = s.Storage.Delete(ctx, probe)
	}
	if err != nil {
		return fmt.Errorf("the storage takes no sign-in: %w", err)
	}
	return nil
}

func interval(seconds int64, otherwise time.Duration) time.Duration {
	if seconds <= 0 {
		return otherwise
	}
	return min(max(time.Duration(min(seconds, 3600))*time.Second, leastInterval), mostInterval)
}

// word is a short word of a service's, fit to be shown.
func word(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, s)
	return s[:min(len(s), 64)]
}

// Wait asks GitHub until the person has typed the code, and keeps the sign-in. It
// ends with ctx, when the code expires, and when the person says no. It is called
// once.
func (l *Login) Wait(ctx context.Context) (SignIn, error) {
	for {
		pause := time.NewTimer(min(l.interval, time.Until(l.Expires)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return SignIn{}, ctx.Err()
		}
		if !time.Now().Before(l.Expires) {
			return SignIn{}, ErrExpired
		}
		token, err := l.poll(ctx)
		switch {
		case err != nil:
			return SignIn{}, err
		case !token.Empty():
			return l.keep(ctx, token)
		}
	}
}

// poll asks once. No token and no error means that nothing has happened yet.
func (l *Login) poll(ctx context.Context) (Secret, error) {
	r, err := l.github.call(ctx, l.github.web, "login/oauth/access_token", Secret{}, url.Values{
		"client_id": {copilotClientID}, "device_code": {l.device.Reveal()},
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"},
	})
	if err != nil || r.status >= 500 || r.status == http.StatusTooManyRequests {
		return Secret{}, ctx.Err() // the code outlives a moment without network
	}
	var a struct {
		Token    string `json:"access_token"`
		Error    string `json:"error"`
		Interval int64  `json:"interval"`
	}
	if err := json.Unmarshal(r.body, &a); err != nil {
		return Secret{}, fmt.Errorf("wait for the sign-in at %s: status %d, and the answer is not JSON", l.github.web.Host, r.status)
	}
	// Errors come with status 200.
	switch a.Error {
	case "":
	case "authorization_pending":
		return Secret{}, nil
	case "slow_down":
		l.interval = max(l.interval, interval(a.Interval, l.interval+5*time.Second))
		return Secret{}, nil
	case "access_denied":
		return Secret{}, ErrDenied
	case "expired_token":
		return Secret{}, ErrExpired
	default:
		return Secret{}, fmt.Errorf("wait for the sign-in at %s: it says %s", l.github.web.Host, word(a.Error))
	}
	if a.Token == "" || strings.ContainsFunc(a.Token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return Secret{}, fmt.Errorf("wait for the sign-in at %s: the answer has no token in it", l.github.web.Host)
	}
	return NewSecret(a.Token), nil
}

// keep stores a sign-in once it is known whose it is and that it may use Copilot.
func (l *Login) keep(ctx context.Context, github Secret) (SignIn, error) {
	login, err := l.github.account(ctx, github)
	if err != nil {
		return SignIn{}, err
	}
	token, err := l.github.exchange(ctx, github)
	if err != nil {
		return SignIn{}, fmt.Errorf("%s has signed in, but: %w", login, err)
	}
	in := SignIn{Name: l.Name, Host: l.Host, Login: login, Since: time.Now().UTC()}
	raw, err := json.Marshal(seatRecord{Host: in.Host, Login: in.Login, Since: in.Since, Token: github.Reveal()})
	if err != nil {
		return SignIn{}, err
	}
	s := l.in.Storage
	if err := s.Store(ctx, seatKey(l.Name), raw); err != nil {
		return SignIn{}, fmt.Errorf("the storage does not take the sign-in: %w", err)
	}
	_ = storeToken(ctx, s, l.Name, github, token) // else the first request gets another
	return in, nil
}

// fetchSeat gets a Copilot token for a sign-in: one that some instance got already,
// or a new one, which it stores. One instance asks at a time.
func fetchSeat(ctx context.Context, g *github, s Storage, name string, refused Secret) (t Token, github Secret, login, trouble string, err error) {
	look := func() (found bool) {
		ctx, cancel := context.WithTimeout(ctx, storageTimeout)
		defer cancel()
		var r *seatRecord
		switch r, err = loadSeat(ctx, s, name); {
		case errors.Is(err, ErrNotSignedIn):
			err = &CredentialError{Meaning: BadCredential, Reason: fmt.Sprintf("%s is not signed in; type: caddy floway login copilot %[1]s", name)}
		case err != nil:
			err = &CredentialError{Reason: name + ": " + err.Error()}
		case cmp.Or(r.Host, githubHost) != g.host:
			err = &CredentialError{Meaning: BadCredential, Reason: fmt.Sprintf("%s is signed in at %s, and the upstream's host is %s", name, harmless(r.Host), harmless(g.host))}
		default:
			github, login = NewSecret(r.Token), r.Login
			t, found = loadToken(ctx, s, name, github, refused)
		}
		return found || err != nil
	}
	if look() {
		return t, github, login, "", err
	}
	lock, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	if err := s.Lock(lock, lockName(name)); err == nil {
		defer func() { _ = s.Unlock(context.WithoutCancel(ctx), lockName(name)) }()
		if look() { // another instance may have been first
			return t, github, login, "", err
		}
	} else {
		trouble = "other instances cannot be kept from asking at the same time: " + err.Error()
	}
	if t, err = g.exchange(ctx, github); err != nil {
		return Token{}, github, login, trouble, err
	}
	if err := storeToken(ctx, s, name, github, t); err != nil {
		trouble = "the storage takes no tokens: " + err.Error()
	}
	return t, github, login, trouble, nil
}
