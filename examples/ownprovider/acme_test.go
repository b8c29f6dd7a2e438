package acme

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/floway/floway"
)

// service is the made-up service: it checks the signature of every request.
func service(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	mac := hmac.New(sha256.New, []byte("secret-of-a-test"))
	fmt.Fprintf(mac, "%s\n%s\n%s", r.Method, r.URL.EscapedPath(), r.Header.Get("Date"))
	switch want := "Acme team:" + hex.EncodeToString(mac.Sum(nil)); {
	case r.Header.Get("Authorization") != want || r.Header.Get("Acme-Region") != "us":
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"error":{"code":"E_SIGNATURE","message":"signed wrongly"}}`)
	case r.URL.Path == "/api/list":
		_, _ = io.WriteString(w, `{"acme-small":{"context":8000},"acme-large":{"context":64000}}`)
	case r.URL.Path == "/api/chat" && strings.Contains(string(body), `"model":"acme-small"`):
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"1","object":"chat.completion","model":"acme-small","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error":{"param":"model","message":"not here"}}`)
	}
}

func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A provider that another module registers is one like any other: clients of all
// dialects are served, its list is known, and its keys are told apart.
func TestOwnProvider(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(service))
	defer upstream.Close()
	site, admin := free(t), free(t)
	config := func(options string) string {
		return "{\nadmin " + admin + "\npersist_config off\nlog {\noutput discard\n}\n}\nhttp://" + site + " {\nfloway {\nupstream acme {\nbase_url " + upstream.URL + "\n" + options +
			"\n}\nclient alice {\nkey sk-client-of-a-test\n}\nusage embedded " + t.TempDir() + "\n}\n}\n"
	}
	load := func(options string) error {
		raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config(options)), nil)
		if err != nil {
			return err
		}
		return caddy.Load(raw, true)
	}
	if err := load("key team:secret-of-a-test\nregion mars"); err == nil || !strings.Contains(err.Error(), "region: eu or us was expected") {
		t.Fatalf("a bad option: %v", err)
	}
	defer func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	}()
	do := func(method, url, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer sk-client-of-a-test")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(answer)
	}
	if err := load("key team:secret-of-a-test\nregion us"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // the list comes in the background
		_, answer := do("GET", "http://"+site+"/v1/models", "")
		if strings.Contains(answer, `"acme-large"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("listed are %s", answer)
		}
	}
	if err := load("key team:wrong-secret as old\nkey team:secret-of-a-test as new\nregion us\nlb_policy first"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, body, want string }{
		{"/v1/chat/completions", `{"model":"acme-small","messages":[{"role":"user","content":"hi"}]}`, `"content":"Hello"`},
		{"/v1/messages", `{"model":"acme-small","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`, `"text":"Hello"`},
		{"/v1beta/models/acme-small:generateContent", `{"contents":[{"parts":[{"text":"hi"}]}]}`, `"text":"Hello"`},
	} {
		if status, answer := do("POST", "http://"+site+c.path, c.body); status != 200 || !strings.Contains(answer, c.want) {
			t.Errorf("%s: %d %s", c.path, status, answer)
		}
	}
	if status, answer := do("POST", "http://"+site+"/v1/chat/completions", `{"model":"acme-none","messages":[]}`); status != 404 || !strings.Contains(answer, "not here") {
		t.Errorf("a model that is not there: %d %s", status, answer)
	}
	if _, answer := do("GET", "http://"+admin+"/floway/upstreams", ""); !strings.Contains(answer, `{"label":"old","state":"invalid"`) || !strings.Contains(answer, `{"label":"new","state":"ok"`) {
		t.Errorf("the keys are %s", answer)
	}
}
