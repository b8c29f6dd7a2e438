package floway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// These tests load whole configurations into this process, as Caddy does, and
// call them over sockets. Caddy is one for the process: none of them is parallel.

// patience bounds waiting for what comes by itself.
const patience = 30 * time.Second

// eventually waits until check has no complaint.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// gateway is Caddy with a site on loopback.
type gateway struct {
	t     testing.TB
	addr  string // host:port of the site
	admin string // host:port of the admin endpoint
	dir   string // the account's
	logs  string // file with everything that is logged
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{t: t, addr: freeAddr(t), admin: freeAddr(t), dir: t.TempDir()}
	g.logs = filepath.Join(t.TempDir(), "log")
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// site is a configuration in parts. {dir} stands for the account's directory.
type site struct {
	global string // global options
	before string // directives beside floway
	after  string // directives that come behind floway
	block  string // the floway block's body
	log    string // the access log's options
	file   string // everything, instead of the others
}

func (g *gateway) caddyfile(s site) string {
	text := s.file
	if text == "" {
		open, shut := "", ""
		if s.after != "" {
			open, shut = "route {\n", s.after+"\n}"
		}
		if !strings.Contains(s.block+s.global, "usage ") {
			s.block += "\nusage embedded {dir}"
		}
		text = fmt.Sprintf(`{
	admin {admin}
	persist_config off
	grace_period 10s
	log {
		output file {logs}
		level DEBUG
	}
	%s
}
http://{addr} {
	bind 127.0.0.1
	log {
		output file {logs}
		%s
	}
	%s
	%sfloway {
		%s
	}
	%s
}
`, s.global, s.log, s.before, open, s.block, shut)
	}
	return strings.NewReplacer("{admin}", g.admin, "{addr}", g.addr, "{dir}", g.dir, "{logs}", g.logs).Replace(text)
}

// load takes over a configuration, as `caddy reload` does.
func (g *gateway) load(s site) error {
	g.t.Helper()
	config, _, err := adapt(g.caddyfile(s), "Caddyfile")
	if err != nil {
		g.t.Fatal(err)
	}
	return caddy.Load(config, true)
}

// start starts a gateway and waits until it is ready.
func start(t testing.TB, s site) *gateway {
	t.Helper()
	g := newGateway(t)
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) logged() string {
	g.t.Helper()
	text, err := os.ReadFile(g.logs)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text)
}

// lines returns the log's lines in which key has that value.
func (g *gateway) lines(key, value string) (found []map[string]any) {
	g.t.Helper()
	for line := range strings.Lines(g.logged()) {
		var v map[string]any
		if json.Unmarshal([]byte(line), &v) == nil && v[key] == value {
			found = append(found, v)
		}
	}
	return found
}

// plain keeps no connections: an exchange of configurations closes those that are
// idle, and a request that was on its way to one fails, as HTTP/1.1 has it.
var plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request. The header's fields are given as "Name: value".
func (g *gateway) do(method, path, body string, header ...string) answer {
	g.t.Helper()
	a, err := do(method, "http://"+g.addr+path, body, header...)
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

func do(method, url, body string, header ...string) (answer, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ":")
		req.Header.Add(name, strings.TrimSpace(value))
	}
	res, err := plain.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(raw)}, err
}

const (
	aliceKey = "sk-floway-alice-0123456789"
	bobKey   = "sk-floway-bob-0123456789"
	asAlice  = "Authorization: Bearer " + aliceKey
	asBob    = "Authorization: Bearer " + bobKey
	alice    = "client alice {\nkey " + aliceKey + "\n}\n"
	bob      = "client bob {\nkey " + bobKey + "\n}\n"
	hello    = `{"model":"gpt-5","messages":[{"role":"user","content":"Hello"}]}`
	chatPath = "/v1/chat/completions"
)

func helloTo(model string) string { return strings.Replace(hello, "gpt-5", model, 1) }

func streamOf(model string) string {
	return strings.Replace(helloTo(model), "{", `{"stream":true,`, 1)
}

// chat asks and expects to be served.
func (g *gateway) chat(body string, header ...string) answer {
	g.t.Helper()
	a := g.do("POST", chatPath, body, header...)
	if a.status != 200 {
		g.t.Fatalf("status %d: %s", a.status, a.body)
	}
	return a
}

// chatSoon is chat right after an exchange of configurations, when Caddy may take
// a connection and drop it.
func (g *gateway) chatSoon(body string, header ...string) {
	g.t.Helper()
	eventually(g.t, func() error {
		a, err := do("POST", "http://"+g.addr+chatPath, body, header...)
		if err == nil && a.status != 200 {
			g.t.Fatalf("status %d: %s", a.status, a.body)
		}
		return err
	})
}

// ask calls the admin endpoint.
func (g *gateway) ask(method, path string) answer {
	g.t.Helper()
	a, err := do(method, "http://"+g.admin+path, "")
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

// counts is a row of a report on usage.
type counts struct {
	Client, Group, Upstream, Key, Model string
	Requests, Attempts, Errors          int
	Input                               int `json:"input_tokens"`
	Output                              int `json:"output_tokens"`
}

type usageReport struct {
	Rows []counts
	Sum  counts
}

func parseUsageReport(t testing.TB, a answer) (r usageReport) {
	t.Helper()
	if a.status != 200 {
		t.Fatalf("usage: status %d: %s", a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// usage asks the admin endpoint who used how much.
func (g *gateway) usage(query string) usageReport {
	g.t.Helper()
	return parseUsageReport(g.t, g.ask("GET", "/floway/usage?"+query))
}

// upstream is a mock of an OpenAI-compatible server. It answers with ten tokens
// in and five out.
type upstream struct {
	*httptest.Server
	mu       sync.Mutex
	received []received
	respond  http.HandlerFunc // instead of the default, for everything but model lists
}

type received struct {
	method, uri string
	header      http.Header
	body        string
}

func newUpstream(t testing.TB) *upstream {
	u := new(upstream)
	u.Server = httptest.NewServer(u)
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

const completion = `{"id":"c1","object":"chat.completion","created":1,"model":"upstreams-own","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}`

func chunk(rest string) string {
	return `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"upstreams-own",` + rest + "}\n\n"
}

var (
	chunkHi    = chunk(`"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"}}]`)
	chunkThere = chunk(`"choices":[{"index":0,"delta":{"content":" there"}}]`)
	chunkEnd   = chunk(`"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]`)
	chunkUsage = chunk(`"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}`)
	done       = "data: [DONE]\n\n"
)

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.HasSuffix(r.URL.Path, "/models") {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"object":"list","data":[{"id":"gpt-5","object":"model"}]}`)
		return
	}
	if r.URL.Path == "/api/tags" { // Ollama's list
		io.WriteString(w, `{"models":[{"name":"qwen3:latest"}]}`)
		return
	}
	u.mu.Lock()
	u.received = append(u.received, received{r.Method, r.RequestURI, r.Header.Clone(), string(body)})
	respond := u.respond
	u.mu.Unlock()
	if respond != nil {
		respond(w, r)
		return
	}
	if bytes.Contains(body, []byte(`"stream":true`)) {
		streamed(chunkHi, chunkThere, chunkEnd, chunkUsage, done)(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, completion)
}

// streamed answers with events, each flushed.
func streamed(events ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			io.WriteString(w, e)
			http.NewResponseController(w).Flush()
		}
	}
}

// refusing answers with an error in OpenAI's form.
func refusing(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":{"message":"no","type":"x","param":null,"code":%q}}`, code)
	}
}

func (u *upstream) answerWith(f http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.respond = f
}

// calls returns what has been received and forgets it.
func (u *upstream) calls() []received {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := u.received
	u.received = nil
	return list
}

// block is the upstream's, with one key.
func (u *upstream) block(lines ...string) string {
	return "upstream openai {\nbase_url " + u.URL + "\nkey sk-upstream-0123456789 as main\n" + strings.Join(lines, "\n") + "\n}\n"
}
