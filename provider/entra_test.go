package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// authority is a stand-in for Entra ID.
type authority struct {
	*httptest.Server
	mu     sync.Mutex
	forms  []map[string]string
	life   atomic.Int64 // seconds
	ahead  atomic.Int64 // refresh_in, if not 0
	refuse atomic.Pointer[string]
	status atomic.Int64
}

const entraSecret = "entra~secret~1"

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	a.life.Store(3600)
	a.Server = httptest.NewTLSServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.Close)
	t.Setenv("AZURE_AUTHORITY_HOST", a.URL)
	for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
		t.Setenv(name, "") // so that it comes back after the test
		_ = os.Unsetenv(name)
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential") // the rest of the chain would look around this machine
	return a
}

func (a *authority) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	tenant, path, _ := strings.Cut(r.URL.Path[1:], "/")
	switch path {
	case "v2.0/.well-known/openid-configuration":
		at := a.URL + "/" + tenant
		fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":%q,"token_endpoint":%q}`, at+"/v2.0", at+"/oauth2/v2.0/authorize", at+"/oauth2/v2.0/token")
	case "oauth2/v2.0/token":
		_ = r.ParseForm()
		a.mu.Lock()
		form := map[string]string{"tenant": tenant}
		for name := range r.PostForm {
			form[name] = r.PostForm.Get(name)
		}
		a.forms = append(a.forms, form)
		n := len(a.forms)
		a.mu.Unlock()
		if body := a.refuse.Load(); body != nil {
			w.WriteHeader(int(a.status.Load()))
			fmt.Fprint(w, *body)
			return
		}
		answer := map[string]any{"token_type": "Bearer", "expires_in": a.life.Load(), "access_token": fmt.Sprint("token-", n)}
		if in := a.ahead.Load(); in != 0 {
			answer["refresh_in"] = in
		}
		_ = json.NewEncoder(w).Encode(answer)
	default:
		w.WriteHeader(404)
	}
}

func (a *authority) asked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.forms)
}

func (a *authority) fails(status int, body string) {
	a.status.Store(int64(status))
	a.refuse.Store(&body)
}

func (a *authority) open(t *testing.T, memory *Memory, words ...string) Credential {
	t.Helper()
	u := open(t, "azure", Config{
		BaseURL: "https://gate.example", Options: map[string][]string{"entra": words},
		Transport: a.Client().Transport, Memory: memory,
	})
	return u.Credential(Secret{})
}

func sentBy(t *testing.T, c Credential) string {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://gate.example/", nil)
	if err := c.Authorize(req); err != nil {
		t.Fatal(err)
	}
	return req.Header.Get("Authorization")
}

// One token serves all requests, those of other upstreams with the same account, and
// those after a reload; one that the service refused is given up for another.
func TestEntraTokens(t *testing.T) {
	a := newAuthority(t)
	memory := new(Memory)
	c := a.open(t, memory, "contoso.example", "app-1", entraSecret)
	if n := a.asked(); n != 0 {
		t.Errorf("asked %d times before any request", n)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://gate.example/", nil)
			if err := c.Authorize(req); err != nil || req.Header.Get("Authorization") != "Bearer token-1" || req.Header.Get("Api-Key") != "" {
				t.Errorf("%v %v", req.Header, err)
			}
		})
	}
	all.Wait()
	if got := sentBy(t, a.open(t, memory, "contoso.example", "app-1", entraSecret)); got != "Bearer token-1" || a.asked() != 1 {
		t.Errorf("another upstream sends %s after %d tokens", got, a.asked())
	}
	want := map[string]string{
		"tenant": "contoso.example", "grant_type": "client_credentials", "client_id": "app-1", "client_secret": entraSecret,
		"scope": "https://cognitiveservices.azure.com/.default",
	}
	for name, value := range want {
		if got := a.forms[0][name]; got != value && !strings.HasPrefix(got, value+" ") {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	if until := c.(Account).State().TokenUntil; time.Until(until) < 50*time.Minute {
		t.Errorf("the token is good until %s", until)
	}
	if !c.Renew(http.Header{"Authorization": {"Bearer token-1"}}) || sentBy(t, c) != "Bearer token-2" {
		t.Error("the refused token was not exchanged")
	}
	if c.Renew(http.Header{"Authorization": {"Bearer token-2"}}) {
		t.Error("a token that was refused at once was exchanged again")
	}
	for _, other := range [][]string{{"contoso.example", "app-1", entraSecret + "2"}, {"contoso.example", "app-2", entraSecret}, {"other.example", "app-1", entraSecret}} {
		n := a.asked()
		if sentBy(t, a.open(t, memory, other...)); a.asked() != n+1 {
			t.Errorf("%v shares another account's token", other)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(s, entraSecret) || strings.Contains(s, "token-2") {
		t.Errorf("prints %s", s)
	}
}

// Whether a token has ended is for the service to say: by a clock that runs
// differently a new one may look old. It is used, and not fetched for every request.
func TestEntraClocks(t *testing.T) {
	for _, life := range []int64{-3600, 0, 1, 45, 299} {
		a := newAuthority(t)
		a.life.Store(life)
		c := a.open(t, nil, "contoso.example", "app-1", entraSecret)
		for range 5 {
			if got := sentBy(t, c); got != "Bearer token-1" {
				t.Errorf("life %d: sent %s", life, got)
			}
		}
		if n := a.asked(); n != 1 {
			t.Errorf("life %d: asked %d times", life, n)
		}
	}
}

// A token is exchanged five minutes before its end, or as early as the authority
// wishes.
func TestEntraAhead(t *testing.T) {
	a := newAuthority(t)
	c := a.open(t, nil, "contoso.example", "app-1", entraSecret).(*entra)
	for _, ahead := range []int64{0, 1800, 3599} {
		a.ahead.Store(ahead)
		got, err := c.fetch(t.Context(), Secret{})
		if err != nil {
			t.Fatal(err)
		}
		want := 300 * time.Second
		if ahead == 1800 {
			want = 1800 * time.Second
		}
		if d := got.Expires.Sub(got.Refresh); d < want-2*time.Second || d > want+2*time.Second {
			t.Errorf("refresh_in %d: %s before its end, want %s", ahead, d, want)
		}
	}
}

// What is wrong is told in words and without the secret, and whose fault it is.
func TestEntraTroubles(t *testing.T) {
	for _, c := range []struct {
		status  int
		body    string
		meaning Meaning
		want    string
	}{
		{401, `{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys for app 'app-1' are expired. Trace ID: 0af0 Correlation ID: 1 Timestamp: 2026"}`, BadCredential, "Entra ID refuses a token with status 401: AADSTS7000222: The provided client secret keys for app 'app-1' are expired."},
		{401, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret ` + entraSecret + ` provided."}`, BadCredential, "AADSTS7000215: Invalid client secret *** provided."},
		{400, `{"error":"invalid_request","error_description":"AADSTS90002: Tenant 'x' not found."}`, BadCredential, "AADSTS90002: Tenant 'x' not found."},
		{400, `{"error":"unauthorized_client"}`, BadCredential, "status 400: unauthorized_client"},
	} {
		a := newAuthority(t)
		a.fails(c.status, c.body)
		credential := a.open(t, nil, "contoso.example", "app-1", entraSecret)
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://gate.example/", nil)
		err := credential.Authorize(req)
		var ce *CredentialError
		if !errors.As(err, &ce) || ce.Meaning != c.meaning || !strings.Contains(ce.Reason, c.want) || strings.Contains(ce.Reason, entraSecret) || strings.Contains(ce.Reason, "Trace") {
			t.Errorf("%d %s: %v", c.status, c.body, err)
		}
		if got := credential.(Account).State().Trouble; !strings.Contains(got, c.want) {
			t.Errorf("the state tells %q", got)
		}
		if len(req.Header) > 0 {
			t.Errorf("sent %v", req.Header)
		}
		// The next request does not ask again at once, and finds what another key
		// would have to heal.
		n := a.asked()
		if err := credential.Authorize(req); err == nil || a.asked() != n {
			t.Errorf("%v, asked again", err)
		}
	}
	a := newAuthority(t)
	a.Close()
	err := a.open(t, nil, "contoso.example", "app-1", entraSecret).Authorize(httptest.NewRequestWithContext(t.Context(), "POST", "https://gate.example/", nil))
	var ce *CredentialError
	if !errors.As(err, &ce) || ce.Meaning != Plain || !strings.HasPrefix(ce.Reason, "no token from Entra ID: ") {
		t.Errorf("an authority that is away: %v", err)
	}
}

// Without words it is the library's default chain, here of the environment.
func TestEntraDefaultChain(t *testing.T) {
	a := newAuthority(t)
	c := a.open(t, nil)
	var ce *CredentialError
	if err := c.Authorize(httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)); !errors.As(err, &ce) || ce.Meaning != BadCredential || !strings.Contains(ce.Reason, "AZURE_TENANT_ID") {
		t.Errorf("an empty environment: %v", err)
	}
	t.Setenv("AZURE_TENANT_ID", "contoso.example")
	t.Setenv("AZURE_CLIENT_ID", "app-9")
	t.Setenv("AZURE_CLIENT_SECRET", entraSecret)
	if got := sentBy(t, a.open(t, nil)); got != "Bearer token-1" || a.forms[0]["client_id"] != "app-9" {
		t.Errorf("sent %s, asked with %v", got, a.forms)
	}
}

// A managed identity has no secret; where its tokens come from is told by the machine.
func TestEntraManagedIdentity(t *testing.T) {
	newAuthority(t)
	var asked []string
	machine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("X-Identity-Header")+" "+r.URL.Query().Get("resource"))
		fmt.Fprintf(w, `{"access_token":"machine-1","expires_on":"%d","resource":"r","token_type":"Bearer"}`, time.Now().Add(time.Hour).Unix())
	}))
	defer machine.Close()
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
	t.Setenv("IDENTITY_ENDPOINT", machine.URL)
	t.Setenv("IDENTITY_HEADER", "header-1")
	u := open(t, "azure", Config{BaseURL: "https://res.services.ai.azure.us/api/projects/one", Options: map[string][]string{"entra": {}}})
	c := u.Credential(Secret{})
	if got := sentBy(t, c); got != "Bearer machine-1" || len(asked) != 1 || asked[0] != "header-1 https://ai.azure.us" {
		t.Errorf("sent %s, asked %q", got, asked)
	}
	// The library keeps the machine's tokens, and gives the same again.
	if !c.Renew(http.Header{"Authorization": {"Bearer machine-1"}}) {
		t.Error("a refused token is not given up")
	}
	var ce *CredentialError
	if err := c.Authorize(httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)); !errors.As(err, &ce) || ce.Meaning != BadCredential || !strings.Contains(ce.Reason, "the same token again") {
		t.Error(err)
	}
}

// Each cloud has an authority and services of its own, and a project another scope.
func TestEntraClouds(t *testing.T) {
	for _, c := range []struct{ base, env, authority, scope string }{
		{"https://a.openai.azure.com", "", "https://login.microsoftonline.com/", "https://cognitiveservices.azure.com/.default"},
		{"https://a.openai.azure.com", "https://login.microsoftonline.us/", "https://login.microsoftonline.com/", "https://cognitiveservices.azure.com/.default"},
		{"https://a.openai.azure.us", "", "https://login.microsoftonline.us/", "https://cognitiveservices.azure.us/.default"},
		{"https://a.cognitiveservices.azure.cn", "", "https://login.chinacloudapi.cn/", "https://cognitiveservices.azure.cn/.default"},
		{"https://a.services.ai.azure.com/api/projects/p", "", "https://login.microsoftonline.com/", "https://ai.azure.com/.default"},
		{"https://gate.example", "", "", "https://cognitiveservices.azure.com/.default"},
		{"https://gate.example", "https://login.microsoftonline.us/", "", "https://cognitiveservices.azure.us/.default"},
	} {
		t.Setenv("AZURE_AUTHORITY_HOST", c.env)
		e := open(t, "azure", Config{BaseURL: c.base, Options: map[string][]string{"entra": {}}}).Credential(Secret{}).(*entra)
		if e.options.Cloud.ActiveDirectoryAuthorityHost != c.authority || e.scope != c.scope {
			t.Errorf("%s: %s at %q", c.base, e.scope, e.options.Cloud.ActiveDirectoryAuthorityHost)
		}
	}
}
