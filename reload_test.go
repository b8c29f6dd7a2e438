package floway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/floway/floway/usage/redisstore/redistest"
)

// open begins a request and returns when its header is there.
func (g *gateway) open(body string, header ...string) *http.Response {
	g.t.Helper()
	req, err := http.NewRequest("POST", "http://"+g.addr+chatPath, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := plain.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	return res
}

// The configuration that is being served can be checked beside it.
func TestValidateBesideARunningServer(t *testing.T) {
	u := newUpstream(t)
	s := site{block: u.block() + alice}
	g := start(t, s)
	g.chat(hello, asAlice)
	out, err := caddyProgram(t, "validate", "--config", writeConfig(t, g.caddyfile(s)))
	if err != nil || !strings.Contains(out, "Valid configuration") {
		t.Errorf("%v: %s", err, out)
	}
	config, _, err := adapt(g.caddyfile(s), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(config); err != nil {
		t.Errorf("in the same process: %v", err)
	}
	g.chat(hello, asAlice)
	if r := g.usage("by=client"); r.Sum.Requests != 2 {
		t.Errorf("%+v", r.Sum)
	}
}

// A stream that is under way when the configuration is exchanged goes on with the
// one it began with, to its end and into the account.
func TestReloadInTheMiddleOfAStream(t *testing.T) {
	u := newUpstream(t)
	reloaded := make(chan struct{})
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		streamed(chunkHi)(w, r)
		<-reloaded
		streamed(chunkThere, chunkEnd, chunkUsage, done)(w, r)
	})
	g := start(t, site{block: u.block() + alice})
	release := sync.OnceFunc(func() { close(reloaded) })
	defer release()
	res := g.open(streamOf("gpt-5"), asAlice)
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	if first, err := lines.ReadString('\n'); err != nil || !strings.Contains(first, `"Hi"`) {
		t.Fatalf("%q, %v", first, err)
	}
	// The new one has another client and another upstream.
	other := newUpstream(t)
	if err := g.load(site{block: other.block() + bob}); err != nil {
		t.Fatal(err)
	}
	if a := g.do("POST", chatPath, hello, asAlice); a.status != 401 {
		t.Errorf("alice is gone, status %d", a.status)
	}
	g.chat(hello, asBob)
	release()
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.HasSuffix(string(rest), done) {
		t.Errorf("the rest of the stream: %q, %v", rest, err)
	}
	want := map[string]counts{
		"alice": {Client: "alice", Requests: 1, Attempts: 1, Input: 10, Output: 5},
		"bob":   {Client: "bob", Requests: 1, Attempts: 1, Input: 10, Output: 5},
	}
	for _, row := range g.usage("by=client").Rows {
		if row != want[row.Client] {
			t.Errorf("%+v, want %+v", row, want[row.Client])
		}
		delete(want, row.Client)
	}
	if len(want) > 0 {
		t.Errorf("not in the account: %v", want)
	}
}

// A stream outlives even that its account is no longer configured.
func TestReloadToAnotherAccount(t *testing.T) {
	u := newUpstream(t)
	reloaded := make(chan struct{})
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		streamed(chunkHi)(w, r)
		<-reloaded
		streamed(chunkThere, chunkEnd, chunkUsage, done)(w, r)
	})
	first, second := t.TempDir(), t.TempDir()
	g := start(t, site{block: u.block() + alice + "usage embedded " + first})
	release := sync.OnceFunc(func() { close(reloaded) })
	defer release()
	res := g.open(streamOf("gpt-5"), asAlice)
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := g.load(site{block: u.block() + alice + "usage embedded " + second}); err != nil {
		t.Fatal(err)
	}
	release()
	if rest, err := io.ReadAll(lines); err != nil || !strings.HasSuffix(string(rest), done) {
		t.Errorf("the rest of the stream: %q, %v", rest, err)
	}
	if r := g.usage("by=client"); r.Sum.Requests != 0 {
		t.Errorf("booked in the new account: %+v", r.Sum)
	}
	// Once the stream is over the old account is closed, and can be opened again.
	eventually(t, func() error { return g.load(site{block: u.block() + alice + "usage embedded " + first}) })
	if r := g.usage("by=client"); r.Sum.Requests != 1 || r.Sum.Output != 5 {
		t.Errorf("the old account: %+v", r.Sum)
	}
}

// A configuration that cannot be started changes nothing, whether it fails before
// floway's app starts or after, and reports go on telling of the one that serves.
func TestFailedReload(t *testing.T) {
	u := newUpstream(t)
	s := site{block: u.block() + alice}
	g := start(t, s)
	g.chat(hello, asAlice)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	config := g.caddyfile(site{block: u.block() + bob + "\nupstream demo other"})
	notADir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notADir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"address taken":  config + "\nhttp://" + taken.Addr().String() + " {\nbind 127.0.0.1\nrespond x\n}\n",
		"no such key":    strings.Replace(config, bobKey, "{env.FLOWAY_TEST_UNSET}", 1),
		"no such folder": strings.Replace(config, "usage embedded "+g.dir, "usage embedded "+notADir, 1),
	} {
		for range 3 { // apps start in no order
			if err := g.load(site{file: file}); err == nil {
				t.Fatalf("%s: loaded", name)
			}
			// The listener of the one that failed may still take a connection
			// with it.
			eventually(t, func() error {
				a, err := do("POST", "http://"+g.addr+chatPath, hello, asAlice)
				if err == nil && a.status != 200 {
					t.Fatalf("%s: status %d: %s", name, a.status, a.body)
				}
				return err
			})
			a := g.ask("GET", "/floway/upstreams")
			if strings.Contains(a.body, `"other"`) || !strings.Contains(a.body, `"openai"`) {
				t.Errorf("%s: upstreams: %s", name, a.body)
			}
		}
	}
	if r := g.usage("by=client"); r.Sum.Requests != 10 {
		t.Errorf("%+v", r.Sum)
	}
	if err := g.load(site{block: u.block() + bob}); err != nil {
		t.Fatal(err)
	}
	g.chatSoon(hello, asBob)
}

// However often the configuration is exchanged, every request is answered and
// counted once, and nothing stays open.
func TestReloadsUnderLoad(t *testing.T) {
	u := newUpstream(t)
	s := site{block: u.block("models gpt-5") + alice}
	g := start(t, s)
	var sent, streams atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				body := hello
				if i%2 == 1 {
					body = streamOf("gpt-5")
				}
				req, _ := http.NewRequest("POST", "http://"+g.addr+chatPath, strings.NewReader(body))
				req.Header.Set("Authorization", "Bearer "+aliceKey)
				res, err := plain.Do(req)
				if err != nil {
					// Caddy's exchange of listeners loses connections that no
					// handler has seen yet, whatever the handler is. The counts
					// below show that it was none that did.
					if s := err.Error(); !strings.HasSuffix(s, "EOF") && !strings.HasSuffix(s, "connection reset by peer") {
						t.Error(err)
						return
					}
					continue
				}
				raw, err := io.ReadAll(res.Body)
				res.Body.Close()
				switch {
				case res.StatusCode != 200 || err != nil:
					t.Errorf("status %d, %v: %s", res.StatusCode, err, raw)
				case i%2 == 1 && !strings.HasSuffix(string(raw), done):
					t.Errorf("%s", raw)
				}
				if i%2 == 1 {
					streams.Add(1)
				}
				sent.Add(1)
			}
		})
	}
	for i := range 30 {
		s.block = u.block("models gpt-5", fmt.Sprintf("max_requests %d", 10+i)) + alice
		if err := g.load(s); err != nil {
			t.Error(err)
		}
		for seen := sent.Load(); sent.Load() < seen+4; { // some requests with each
			if t.Failed() {
				break
			}
		}
	}
	close(stop)
	load.Wait()
	n := int(sent.Load())
	r := g.usage("by=client")
	if r.Sum.Requests != n || r.Sum.Attempts != n || r.Sum.Input != 10*n || r.Sum.Output != 5*n || streams.Load() == 0 {
		t.Errorf("%d requests were answered, the account has %+v", n, r.Sum)
	}
	if got := len(u.calls()); got != n {
		t.Errorf("%d requests were answered, the upstream served %d", n, got)
	}
	generations.mu.Lock()
	apps := len(generations.apps)
	generations.mu.Unlock()
	if apps != 1 {
		t.Errorf("%d generations live", apps)
	}
}

// What is known of keys survives a reload.
func TestHealthSurvivesReload(t *testing.T) {
	u := newUpstream(t)
	s := site{block: strings.Replace(u.block("lb_policy first"), "as main", "as main\nkey sk-upstream-second-one as spare", 1) + alice}
	g := start(t, s)
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer sk-upstream-0123456789" {
			refusing(401, "invalid_api_key")(w, r)
			return
		}
		io.WriteString(w, completion)
	})
	g.chat(hello, asAlice)
	if n := len(u.calls()); n != 2 {
		t.Errorf("%d calls", n)
	}
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	g.chat(hello, asAlice)
	if n := len(u.calls()); n != 1 {
		t.Errorf("after a reload: %d calls", n)
	}
	if a := g.ask("GET", "/floway/upstreams"); !strings.Contains(a.body, `"state":"invalid"`) {
		t.Errorf("%s", a.body)
	}
}

// So is a secret that stands in the place of keys: one that has expired is mended
// by a new file.
func TestIdentitySecretsInFilesAreReadAgain(t *testing.T) {
	var service *httptest.Server
	service = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		at := service.URL + "/contoso.example"
		switch secret := r.PostFormValue("client_secret"); {
		case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
			fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":%q,"token_endpoint":%q}`, at+"/v2.0", at+"/authorize", at+"/oauth2/v2.0/token")
		case strings.HasSuffix(r.URL.Path, "/token") && secret != "entra-second":
			w.WriteHeader(401)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"AADSTS7000222: %s is expired."}`, secret)
		case strings.HasSuffix(r.URL.Path, "/token"):
			io.WriteString(w, `{"token_type":"Bearer","expires_in":3600,"access_token":"token-of-second"}`)
		case r.Header.Get("Authorization") != "Bearer token-of-second":
			w.WriteHeader(401)
		default:
			io.WriteString(w, `{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
		}
	}))
	defer service.Close()
	t.Setenv("AZURE_AUTHORITY_HOST", service.URL)
	file := filepath.Join(t.TempDir(), "secret")
	write := func(secret string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("entra-first")
	g := start(t, site{block: "upstream azure {\nbase_url " + service.URL + "\nentra contoso.example app-1 {file." + file + "}\nmodels gpt-5\ntransport http {\ntls_insecure_skip_verify\n}\n}\nclient alice {\nkey " + aliceKey + "\n}"})
	if a := g.do("POST", chatPath, helloTo("gpt-5"), asAlice); a.status != 502 {
		t.Errorf("with a secret that has expired: status %d: %s", a.status, a.body)
	}
	h := generations.handlers()[0]
	write("short")
	h.readSecrets()
	write("entra-second")
	h.readSecrets()
	if a := g.do("POST", chatPath, helloTo("gpt-5"), asAlice); a.status != 200 {
		t.Errorf("with another: status %d: %s", a.status, a.body)
	}
	for _, s := range []string{"entra-first", "entra-second", "token-of-second"} {
		if strings.Contains(g.logged(), s) {
			t.Errorf("the log has %s", s)
		}
	}
}

// Secrets in files are read again.
func TestSecretsInFilesAreReadAgain(t *testing.T) {
	u := newUpstream(t)
	dir := t.TempDir()
	write := func(name, secret string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	up, mine := write("up", "sk-upstream-first"), write("mine", aliceKey)
	g := start(t, site{block: "upstream openai {\nbase_url " + u.URL + "\nkey {file." + up + "} as main\n}\nclient alice {\nkey {file." + mine + "}\n}"})
	sent := func(header string) string {
		t.Helper()
		g.chat(hello, header)
		return u.calls()[0].header.Get("Authorization")
	}
	if got := sent(asAlice); got != "Bearer sk-upstream-first" {
		t.Errorf("%q", got)
	}
	h := generations.handlers()[0]
	write("up", "sk-upstream-second")
	write("mine", bobKey)
	h.readSecrets()
	if got := sent(asBob); got != "Bearer sk-upstream-second" {
		t.Errorf("%q", got)
	}
	if a := g.do("POST", chatPath, hello, asAlice); a.status != 401 {
		t.Errorf("the old client key: status %d", a.status)
	}
	// A file that is gone, or half written, changes nothing.
	os.Remove(up)
	write("mine", "x")
	h.readSecrets()
	if got := sent(asBob); got != "Bearer sk-upstream-second" {
		t.Errorf("%q", got)
	}
	for _, secret := range []string{"sk-upstream-first", "sk-upstream-second", aliceKey, bobKey} {
		if strings.Contains(g.logged(), secret) {
			t.Errorf("the log has %s", secret)
		}
	}
}

// Two blocks that name the same store share it; what each booked is in one report.
func TestTwoBlocksShareAStore(t *testing.T) {
	u := newUpstream(t)
	second := freeAddr(t)
	block := u.block() + alice + "usage embedded {dir}"
	g := newGateway(t)
	file := g.caddyfile(site{block: block}) + "http://" + second + " {\nbind 127.0.0.1\nfloway {\n" + g.caddyfileOf(block) + "\n}\n}\n"
	if err := g.load(site{file: file}); err != nil {
		t.Fatal(err)
	}
	g.chat(hello, asAlice)
	if a, err := do("POST", "http://"+second+chatPath, hello, asAlice); err != nil || a.status != 200 {
		t.Fatalf("%v, %+v", err, a)
	}
	if r := g.usage("by=client"); r.Sum.Requests != 2 {
		t.Errorf("%+v", r.Sum)
	}
	metrics := g.ask("GET", "/metrics").body
	for _, want := range []string{"caddy_floway_requests_total", "caddy_floway_attempts_total", "caddy_floway_tokens_total", "caddy_floway_keys{", "caddy_floway_ledger_lag_records"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

func (g *gateway) caddyfileOf(block string) string { return strings.ReplaceAll(block, "{dir}", g.dir) }

// Redis may come later than the server: requests are served, the log says so, and
// what was counted is delivered when it is there.
func TestRedisUnreachableAtStart(t *testing.T) {
	redis := redistest.Start(t)
	redis.Stop()
	u := newUpstream(t)
	g := start(t, site{block: u.block() + alice + "usage redis " + redis.URL() + " {\nlog {dir}\n}"})
	if a := g.do("GET", "/floway/health", ""); a.status != 200 {
		t.Errorf("health: status %d", a.status)
	}
	for range 5 {
		g.chat(hello, asAlice)
	}
	eventually(t, func() error {
		for _, l := range strings.Split(g.logged(), "\n") {
			if strings.Contains(l, `"level":"warn"`) && strings.Contains(l, "floway") && strings.Contains(l, strings.TrimPrefix(redis.URL(), "redis://")) {
				return nil
			}
		}
		return fmt.Errorf("no warning that names the server in\n%s", g.logged())
	})
	if a := g.ask("GET", "/floway/usage"); a.status != 502 || !strings.Contains(a.body, "error") {
		t.Errorf("usage without a store: status %d: %s", a.status, a.body)
	}
	redis.Restart()
	eventually(t, func() error {
		a := g.ask("GET", "/floway/usage?by=client")
		if a.status != 200 {
			return fmt.Errorf("status %d: %s", a.status, a.body)
		}
		if r := parseUsageReport(t, a); r.Sum.Requests != 5 || r.Sum.Input != 50 {
			return fmt.Errorf("%+v", r.Sum)
		}
		return nil
	})
}

// A request that outlives its configuration may open a connection after that was
// cleaned up. Nobody will use it again, so it does not stay open.
func TestOldConnectionsAreClosed(t *testing.T) {
	u := new(upstream)
	u.Server = httptest.NewUnstartedServer(u)
	var open atomic.Int64
	u.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	u.Start()
	t.Cleanup(u.Close)
	arrived, reloaded := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() {
		close(arrived)
		<-reloaded
	})
	var calls atomic.Int64
	u.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			first()
			panic(http.ErrAbortHandler) // and with it the connection
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, completion)
	})
	g := start(t, site{block: u.block("models gpt-5") + alice})
	got := make(chan string)
	go func() {
		a, err := do("POST", "http://"+g.addr+chatPath, hello, asAlice)
		got <- fmt.Sprint(a.status, err)
	}()
	<-arrived
	other := newUpstream(t)
	if err := g.load(site{block: other.block("models gpt-5") + alice}); err != nil {
		t.Fatal(err)
	}
	close(reloaded)
	if answer := <-got; answer != "200 <nil>" || calls.Load() != 2 {
		t.Errorf("%s after %d calls", answer, calls.Load())
	}
	eventually(t, func() error {
		if n := open.Load(); n > 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	})
}
