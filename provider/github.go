package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What floway says of itself to GitHub and to Copilot: that it is the editor's
// extension, because nobody else is answered. These age: the versions are one set
// and are changed together. Those that are headers of requests to Copilot yield to
// header_up.
// Source: the editor's extension and the programs that follow it.
const (
	copilotClientID    = "Iv1.b507a08c87ecfe98"
	copilotScope       = "read:user"
	copilotEditor      = "vscode/1.124.2"
	copilotPlugin      = "copilot-chat/0.52.0"
	copilotUserAgent   = "GitHubCopilotChat/0.52.0"
	copilotIntegration = "vscode-chat"
	copilotLibrary     = "electron-fetch"
	copilotAPIVersion  = "2026-06-01"
	githubAPIVersion   = "2025-04-01"
)

// github is GitHub itself, or a tenant of it with a domain of its own.
type github struct {
	host      string // as it is configured
	web, api  *url.URL
	transport http.RoundTripper
}

const githubHost = "github.com"

// openGitHub finds the addresses of a host: github.com, a tenant such as
// octo.ghe.com, or the URL of a stand-in that has all of it at one address.
func openGitHub(host string, transport http.RoundTripper) (*github, error) {
	g := &github{host: cmp.Or(host, githubHost), transport: transport}
	if g.transport == nil {
		g.transport = http.DefaultTransport
	}
	if scheme, _, ok := strings.Cut(g.host, "://"); ok {
		u, err := url.Parse(g.host)
		switch {
		case err != nil || scheme != "https" && scheme != "http" || u.Hostname() == "":
			return nil, fmt.Errorf("host: %q is neither the name of a host nor a URL", harmless(g.host))
		case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
			return nil, fmt.Errorf("host: %q must be a scheme and a host, and nothing else", harmless(g.host))
		case scheme == "http" && !isLoopback(u.Hostname()):
			return nil, fmt.Errorf("host: %q speaks without TLS, which is for this machine alone", harmless(g.host))
		}
		u.Path = ""
		g.web, g.api = u, u
		return g, nil
	}
	if !isDomain(g.host) {
		return nil, fmt.Errorf("host: %q is not the name of a host such as github.com or octo.ghe.com", harmless(g.host))
	}
	g.web = &url.URL{Scheme: "https", Host: g.host}
	g.api = &url.URL{Scheme: "https", Host: "api." + g.host}
	return g, nil
}

func isDomain(host string) bool {
	if len(host) > 253 || !strings.Contains(host, ".") {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			return false
		}
	}
	return true
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Bounds of one call to GitHub.
const (
	githubTimeout   = 15 * time.Second
	maxGitHubAnswer = 1 << 20
)

// reply is what GitHub answered.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// call asks GitHub. A form makes it a POST. Redirects are not followed.
func (g *github) call(ctx context.Context, base *url.URL, path string, token Secret, form url.Values) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, githubTimeout)
	defer cancel()
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, base.JoinPath(path).String(), body)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Accept": {"application/json"}, "User-Agent": {copilotUserAgent}}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if !token.Empty() {
		req.Header.Set("Authorization", "token "+token.Reveal())
		req.Header.Set("X-Github-Api-Version", githubAPIVersion)
	}
	res, err := g.transport.RoundTrip(req)
	if err != nil {
		return nil, errors.New(unreachable(err))
	}
	defer res.Body.Close()
	r := &reply{status: res.StatusCode, header: res.Header}
	if r.body, err = io.ReadAll(io.LimitReader(res.Body, maxGitHubAnswer)); err != nil {
		return nil, errors.New(unreachable(err))
	}
	return r, nil
}

// unreachable says what is wrong with a connection, in a few words.
func unreachable(err error) string {
	text := err.Error()
	for _, known := range []string{"connection refused", "connection reset", "no such host", "certificate", "timeout", "deadline exceeded", "EOF"} {
		if strings.Contains(text, known) {
			return known
		}
	}
	return "no answer"
}

// message is what GitHub says of a refusal, for people.
func (r *reply) message() string {
	var e struct {
		Message string `json:"message"`
		Details struct {
			Message string `json:"message"`
		} `json:"error_details"`
	}
	_ = json.Unmarshal(r.body, &e)
	said := cmp.Or(e.Details.Message, e.Message)
	return strings.ToValidUTF8(said[:min(len(said), 200)], "")
}

// said is message behind a colon, if there is one.
func (r *reply) said() string {
	if m := r.message(); m != "" {
		return ": " + m
	}
	return ""
}

// pauses are those between tries of an exchange that failed and not for good.
var pauses = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

// exchange gets a Copilot token for a token of GitHub's.
func (g *github) exchange(ctx context.Context, token Secret) (Token, error) {
	for try := 0; ; try++ {
		r, err := g.call(ctx, g.api, "copilot_internal/v2/token", token, nil)
		if err == nil && r.status < 500 {
			return r.token()
		}
		what := "no token from " + g.api.Host
		if err != nil {
			what += ": " + err.Error()
		} else {
			what += fmt.Sprintf(": status %d", r.status)
		}
		failed := &CredentialError{Reason: what}
		if try == len(pauses) {
			return Token{}, failed
		}
		select {
		case <-time.After(pauses[try]):
		case <-ctx.Done():
			return Token{}, failed
		}
	}
}

// leastRest is what a token must still live for to be given to a request when
// another one can be had.
const leastRest = time.Minute

// token reads the answer to an exchange.
func (r *reply) token() (Token, error) {
	now := time.Now()
	switch {
	case r.status == http.StatusOK:
	case r.status == http.StatusTooManyRequests, r.status == http.StatusForbidden && r.header.Get("Retry-After") != "":
		return Token{}, &CredentialError{
			Meaning: AccountLimit, Until: now.Add(seconds(r.header.Get("Retry-After"))),
			Reason: "GitHub gives out no more tokens to this account for now" + r.said(),
		}
	case r.status == http.StatusUnauthorized:
		return Token{}, &CredentialError{Meaning: BadCredential, Reason: "GitHub refuses the account's token: it was revoked or has expired; sign in again" + r.said()}
	case r.status == http.StatusForbidden, r.status == http.StatusNotFound:
		return Token{}, &CredentialError{Meaning: BadCredential, Reason: "the account has no access to Copilot" + r.said()}
	default:
		return Token{}, &CredentialError{Reason: fmt.Sprintf("GitHub gives out no token: status %d%s", r.status, r.said())}
	}
	var a struct {
		Token     string `json:"token"`
		ExpiresAt int64  `json:"expires_at"`
		RefreshIn int64  `json:"refresh_in"`
		Endpoints struct {
			API string `json:"api"`
		} `json:"endpoints"`
	}
	if err := json.Unmarshal(r.body, &a); err != nil || a.Token == "" || strings.ContainsFunc(a.Token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return Token{}, &CredentialError{Reason: "GitHub's answer has no Copilot token in it"}
	}
	base, err := url.Parse(a.Endpoints.API)
	if err != nil || base.Hostname() == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" ||
		base.Scheme != "https" && (base.Scheme != "http" || !isLoopback(base.Hostname())) {
		return Token{}, &CredentialError{Reason: "GitHub's answer does not say where the account's Copilot is"}
	}
	base.Path, base.RawPath = strings.TrimRight(base.Path, "/"), ""
	// How long it lives is told by GitHub's clock, which need not be ours.
	clock := now
	if date, err := http.ParseTime(r.header.Get("Date")); err == nil {
		clock = date
	}
	life := time.Unix(a.ExpiresAt, 0).Sub(clock)
	refresh := time.Duration(min(max(a.RefreshIn, 0), int64(longestLife/time.Second))) * time.Second
	if life <= 0 || life > longestLife {
		life = cmp.Or(refresh, shortLife) + leastRest
	}
	if refresh == 0 || refresh > life-leastRest {
		refresh = max(life-leastRest, life/2)
	}
	return Token{Secret: NewSecret(a.Token), Refresh: now.Add(refresh), Expires: now.Add(life), Base: base}, nil
}

// longestLife is more than any Copilot token lives; shortLife is what is taken of one
// whose end makes no sense.
const (
	longestLife = 24 * time.Hour
	shortLife   = 5 * time.Minute
)

// seconds reads a Retry-After in seconds: a minute if it says nothing, a day at most.
func seconds(v string) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(v))
	if err != nil || n <= 0 {
		return time.Minute
	}
	return time.Duration(min(n, 24*3600)) * time.Second
}

// account tells what GitHub calls the account of a token.
func (g *github) account(ctx context.Context, token Secret) (login string, err error) {
	r, err := g.call(ctx, g.api, "user", token, nil)
	if err != nil {
		return "", fmt.Errorf("ask %s who has signed in: %w", g.api.Host, err)
	}
	var a struct {
		Login string `json:"login"`
	}
	if err := json.Unmarshal(r.body, &a); r.status != http.StatusOK || err != nil || a.Login == "" {
		return "", fmt.Errorf("ask %s who has signed in: status %d%s", g.api.Host, r.status, r.said())
	}
	return a.Login[:min(len(a.Login), 100)], nil
}

// quotas asks for what is left of the account's allowances.
func (g *github) quotas(ctx context.Context, token Secret) ([]Quota, error) {
	r, err := g.call(ctx, g.api, "copilot_internal/user", token, nil)
	if err != nil {
		return nil, err
	}
	var a struct {
		Snapshots map[string]*struct {
			Entitlement float64  `json:"entitlement"`
			Remaining   *float64 `json:"quota_remaining"`
			Whole       float64  `json:"remaining"`
			Percent     float64  `json:"percent_remaining"`
			Unlimited   bool     `json:"unlimited"`
			Overage     bool     `json:"overage_permitted"`
			Used        float64  `json:"overage_count"`
		} `json:"quota_snapshots"`
		ResetUTC string `json:"quota_reset_date_utc"`
		Reset    string `json:"quota_reset_date"`
	}
	if err := json.Unmarshal(r.body, &a); r.status != http.StatusOK || err != nil {
		return nil, fmt.Errorf("status %d", r.status)
	}
	reset := cmp.Or(readReset(a.ResetUTC), readReset(a.Reset))
	var list []Quota
	for name, s := range a.Snapshots {
		if s == nil || !isQuota(name) || len(list) == maxQuotas {
			continue
		}
		left := s.Whole
		if s.Remaining != nil {
			left = *s.Remaining
		}
		list = append(list, Quota{
			Name: name, Unlimited: s.Unlimited, Entitled: s.Entitlement, Left: left, Percent: s.Percent,
			Overage: s.Overage, Used: s.Used, Reset: reset, Seen: time.Now(),
		})
	}
	return list, nil
}

// maxQuotas bounds how many quotas are kept of an account.
const maxQuotas = 16

func isQuota(name string) bool {
	return name != "" && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// readReset reads a date or a time.
func readReset(v string) time.Time {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, v); err == nil {
			return t
		}
	}
	return time.Time{}
}

const quotaHeader = "X-Quota-Snapshot-"

// readQuotas reads what answers say of quotas: each in a header of its own, in the
// form of a query. What has not all of it is left out.
func readQuotas(h http.Header) []Quota {
	var list []Quota
	for header, values := range h {
		name, ok := strings.CutPrefix(header, quotaHeader)
		if name = strings.ToLower(name); !ok || !isQuota(name) || len(values) == 0 || len(list) == maxQuotas {
			continue
		}
		v, err := url.ParseQuery(values[0])
		if err != nil {
			continue
		}
		q := Quota{Name: name, Overage: v.Get("ovPerm") == "true", Reset: readReset(v.Get("rst")), Seen: time.Now()}
		ok = true
		for name, into := range map[string]*float64{"ent": &q.Entitled, "rem": &q.Percent} {
			n, err := strconv.ParseFloat(v.Get(name), 64)
			*into = n
			ok = ok && err == nil
		}
		q.Used, _ = strconv.ParseFloat(v.Get("ov"), 64)
		if q.Left, err = strconv.ParseFloat(v.Get("totRem"), 64); err != nil {
			q.Left = q.Entitled * q.Percent / 100
		}
		if q.Unlimited = q.Entitled < 0; ok {
			list = append(list, q)
		}
	}
	return list
}

// copilotRefusals are the meanings of Copilot's own answers, and of those that it
// hands on.
var copilotRefusals = append(refusals{
	{code: "quota_exceeded", means: QuotaSpent},
	{status: 429, text: "quota", means: QuotaSpent},
	{status: 429, text: "allowance", means: QuotaSpent},
	{status: 403, text: "quota", means: QuotaSpent},
	{code: "model_not_supported", means: NoModel},
	{code: "model_not_available_for_integrator", means: NoModel},
	{status: 400, text: "model is not supported", means: NoModel},
	{status: 403, text: "access to copilot", means: BadCredential},
	{status: 403, text: "not authorized to use this copilot", means: BadCredential},
}, openAIRefusals...)
