package faults

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/floway/floway/e2e/audit"
	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mock"
)

// All credentials. They stand in no file and in no answer.
const (
	alice    = "sk-client-alice-0001"
	bob      = "sk-client-bob-0002"
	password = "correct-horse-battery-7319"
)

var (
	upstreamKeys = []string{"sk-mock-upstream-1", "sk-mock-upstream-2", "sk-mock-upstream-3", "sk-mock-upstream-4"}
	secrets      = append([]string{alice, bob, password}, upstreamKeys...)
)

const (
	redisStore    = "redis"
	embeddedStore = "embedded"
)

// fault is one row of the table.
type fault struct {
	id, what string
	store    string
	// redis are arguments of redis-server.
	redis []string
	// tls: the way to Redis is encrypted.
	tls bool
	// full: the short form of another row is enough.
	full bool
	// later: the fault starts the gateway itself.
	later bool
	// upstream are further lines of the upstream.
	upstream string
	do       func(*rig)
}

// rig is what a fault works with.
type rig struct {
	*testing.T
	*row
	f       *fault
	mock    *harness.Upstream
	redis   *harness.Redis
	proxy   *proxy
	gateway *harness.Gateway
	config  harness.Config
	loads   []*load
	calls   []audit.Call // of clients other than those of the load
	raw     *redis.Client

	// others are gateways beside the first, logs the directories of all logs.
	others []*harness.Gateway
	logs   []string
	dirs   []string // where no secret may be

	program string          // of the gateway; empty for one of this checkout
	log     string          // the directory of the gateway's log, once there is one
	env     []string        // of the gateway, beside the credentials
	lost    map[string]bool // requests whose records were destroyed
	// unserved: the log has attempts that nobody made
	unserved bool
	planted  map[audit.Key]map[int]bool
	start    health
	asked    int64
	crowd    int // clients of all loads
	died     int // how often a gateway was killed; kills may be of others
}

// run runs the fault and enters it into the table. program is the gateway's, if it
// is a broken one: then there must be differences.
func (f *fault) run(t *testing.T, id, program string, expect bool) {
	r := &rig{T: t, f: f, row: &row{id: f.id, what: f.what, expect: expect}, program: program}
	if id != "" {
		r.id = id
	}
	begin := time.Now()
	t.Cleanup(func() {
		r.took = time.Since(begin)
		table.Lock()
		defer table.Unlock()
		table.rows = append(table.rows, r.row)
		switch {
		case r.notRun != "":
		case expect && r.sum() == 0:
			t.Errorf("%s: the table does not tell", r.id)
		case !expect && r.sum() > 0:
			t.Errorf("%s: %d differences: %s", r.id, r.sum(), strings.Join(append(r.d.Notes, r.notes...), "\n"))
		}
	})
	if f.full && *scale != "full" {
		r.notRun = "only in full"
		return
	}
	if f.store != "" && !f.later {
		r.set()
	}
	f.do(r)
}

// set starts an upstream, a store behind a proxy, and a gateway.
func (r *rig) set() {
	r.Helper()
	r.mock = harness.StartOpenAI(r)
	log := r.log
	if log == "" {
		log = "DIR/log"
	}
	use := "\n\t\tusage embedded DIR/usage {\n\t\t\tlog " + log + "\n\t\t}\n"
	if r.f.store == redisStore {
		r.redis = harness.StartRedis(r, append([]string{"--requirepass", password, "--appendfsync", "everysec"}, r.f.redis...)...)
		r.proxy = startProxy(r, r.redis.Addr)
		r.raw = redis.NewClient(&redis.Options{Addr: r.redis.Addr, Password: password, Protocol: 2, MaxRetries: -1})
		r.Cleanup(func() { r.raw.Close() })
		scheme := "redis://"
		if r.f.tls {
			scheme = "rediss://"
			r.encrypt()
		}
		use = "\n\t\tusage redis " + scheme + r.proxy.Addr + " {\n\t\t\tpassword {env.REDIS_PASSWORD}\n\t\t\tlog " + log + "\n\t\t}\n"
		r.dirs = append(r.dirs, r.redis.Dir)
	}
	names := make(map[string]bool)
	for _, q := range append(append(short, streams()...), long()) {
		names[q.model] = true
	}
	models := ""
	for name := range names {
		models += " " + name
	}
	r.config = harness.Config{
		Floway: `
		upstream openai mock {
			base_url MOCK/v1
			key {env.UPSTREAM_1} as k1
			key {env.UPSTREAM_2} as k2
			key {env.UPSTREAM_3} as k3
			models *` + models + `
			header_up X-Client-Request-Id {http.floway.request}
` + r.f.upstream + `
		}
		client alice {
			key {env.ALICE}
			group team-a
		}
		client bob {
			key {env.BOB}
		}
` + use,
		Vars:    map[string]string{"MOCK": r.mock.URL},
		Env:     append(environment(), r.env...),
		Quiet:   true,
		Program: r.program,
	}
	r.gateway = harness.StartGateway(r, r.config)
	if r.log == "" {
		r.log = filepath.Join(r.gateway.Dir, "log")
	}
	r.logs = append(r.logs, r.log)
	r.dirs = append(r.dirs, r.gateway.Dir, r.log)
	r.warm()
}

// encrypt makes the proxy speak TLS, with a certificate that the gateway trusts.
func (r *rig) encrypt() {
	r.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		r.Fatal(err)
	}
	file := filepath.Join(r.TempDir(), "root.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		r.Fatal(err)
	}
	r.env = append(r.env, "SSL_CERT_FILE="+file)
	r.proxy.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	r.proxy.secure.Store(true)
}

func environment() []string {
	env := []string{"ALICE=" + alice, "BOB=" + bob, "REDIS_PASSWORD=" + password}
	for i, k := range upstreamKeys {
		env = append(env, fmt.Sprintf("UPSTREAM_%d=%s", i+1, k))
	}
	return env
}

// warm asks once for each model, and takes down how the gateway is then.
func (r *rig) warm() {
	for i, q := range append(short, streams()...) {
		r.ask(r.gateway, q, int64(i))
	}
	r.start = r.health(r.gateway)
}

// ask asks once, outside the load.
func (r *rig) ask(g *harness.Gateway, q question, i int64) (audit.Call, string, error) {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), "POST", g.URL+q.path, strings.NewReader(q.body(i)))
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+q.client)
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	call, body, err := send(client, req, strings.Contains(q.more, "stream"))
	r.calls = append(r.calls, call)
	return call, string(body), err
}

// load starts a load on the gateway.
func (r *rig) load() *load { return r.loadOn(r.gateway) }

func (r *rig) loadOn(g *harness.Gateway) *load {
	every := time.Duration(*shorts) * time.Second / time.Duration(*rate)
	return r.begin(g.URL, work{*shorts, every, short}, work{*concurrent, 0, streams()})
}

func (r *rig) begin(url string, works ...work) *load {
	l := startLoad(r, url, works...)
	r.loads = append(r.loads, l)
	for _, w := range works {
		r.crowd += w.clients
	}
	return l
}

// served lets the load come to n more whole answers.
func (r *rig) served(l *load, n int64) {
	r.Helper()
	target := l.whole.Load() + n
	harness.Eventually(r, func() error {
		if got := l.whole.Load(); got < target {
			return fmt.Errorf("%d answers of %d", got, target)
		}
		return nil
	})
}

// last lets a fault last: it is how long it takes, nothing waits for anything.
func (r *rig) last(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
}

// kill kills the gateway at the moment at which a client has an answer to its end.
func (r *rig) kill(l *load) {
	select {
	case <-l.ended:
	case <-time.After(30 * time.Second):
		r.Fatal("no client gets an answer")
	}
	r.gateway.Kill()
	r.kills++
	r.died++
}

// drain is how long everything may take to be in the store once the load is over.
const drain = 30 * time.Second

// settle ends the load, waits until the store has everything, and compares, when
// the gateway runs and when it has stopped.
func (r *rig) settle() {
	r.Helper()
	r.quiet()
	r.drained(drain)
	for _, g := range append([]*harness.Gateway{r.gateway}, r.others...) {
		r.checkHealth(g)
		r.fetchMetrics(g)
		if err := g.Stop(); err != nil {
			r.wrong("I9: the gateway ended with: %v", err)
		}
	}
	r.compare()
}

// quiet ends the load and waits until the upstream serves nothing.
func (r *rig) quiet() {
	r.Helper()
	for _, l := range r.loads {
		l.stop()
	}
	r.mock.Quiet(r)
}

// drained waits until the comparison is clean, and leaves it at that if that does
// not happen in time.
func (r *rig) drained(limit time.Duration) {
	r.Helper()
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		if r.redis == nil {
			if l, err := r.ledger(r.gateway); err == nil && l.Lag == 0 && l.Open == 0 {
				return
			}
		} else if e, err := r.evidence(); err == nil {
			if d, err := audit.Compare(e); err == nil && d.Sum() == 0 {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// evidence gathers what is compared.
func (r *rig) evidence() (*audit.Evidence, error) {
	e := &audit.Evidence{Logs: r.logs, Calls: r.calls, Kills: r.died, InFlight: clients(), Planted: r.planted, Lost: r.lost, Unserved: r.unserved}
	for _, l := range r.loads {
		l.mu.Lock()
		e.Calls = append(e.Calls[:len(e.Calls):len(e.Calls)], l.calls...)
		l.mu.Unlock()
	}
	var err error
	if e.Served, err = audit.ReadServed(r.mock.LedgerFile); err != nil {
		return nil, err
	}
	if r.redis != nil {
		e.Sink, err = audit.ReadRedis(context.Background(), r.raw, "floway")
	} else {
		e.Sink, err = audit.ReadBolt(filepath.Join(r.gateway.Dir, "usage/usage.db"))
	}
	return e, err
}

// compare enters the differences into the row.
func (r *rig) compare() {
	r.Helper()
	e, err := r.evidence()
	if err != nil {
		r.Fatal(err)
	}
	d, err := audit.Compare(e)
	if err != nil {
		r.Fatal(err)
	}
	r.d, r.requests = *d, len(e.Calls)
	for _, l := range r.loads {
		r.failed += int(l.failed.Load())
		r.whole += int(l.whole.Load())
		for _, odd := range l.odd {
			r.i8++
			r.notes = append(r.notes, odd)
		}
	}
	if r.d.Attempts == 0 && !r.unserved {
		r.wrong("nothing was recorded")
	}
	found, err := audit.FindSecrets(secrets, append(r.dirs, filepath.Dir(r.mock.LedgerFile))...)
	if err != nil {
		r.Fatal(err)
	}
	for _, g := range append([]*harness.Gateway{r.gateway}, r.others...) {
		for i, s := range secrets {
			if strings.Contains(g.Log(), s) {
				found = append(found, fmt.Sprintf("I8: secret %d is in the gateway's output", i))
			}
		}
	}
	r.i8 += len(found)
	r.notes = append(r.notes, found...)
}

// fetchMetrics looks for secrets in what the admin endpoint tells.
func (r *rig) fetchMetrics(g *harness.Gateway) {
	for _, path := range []string{"/metrics", "/floway/usage", "/floway/upstreams", "/floway/ledger", "/config/"} {
		body, err := get(g.Admin + path)
		if err != nil {
			r.wrong("I9: %s: %v", path, err)
			continue
		}
		for i, s := range secrets {
			if strings.Contains(body, s) {
				r.i8++
				r.notes = append(r.notes, fmt.Sprintf("I8: secret %d is in %s", i, path))
			}
		}
	}
}

func get(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// ledger is what the gateway says of its ledger.
type ledger struct {
	Log     string `json:"log"`
	Lag     uint64 `json:"lag_records"`
	Open    int    `json:"open_attempts"`
	Dead    uint64 `json:"dead_letters"`
	Missing uint64 `json:"missing_records"`
	Unclean bool   `json:"unclean_start"`
	Trouble string `json:"trouble"`
	Error   string `json:"store_error"`
	Stopped string `json:"stopped"`
	Warning string `json:"warning"`
}

func (r *rig) ledger(g *harness.Gateway) (ledger, error) {
	body, err := get(g.Admin + "/floway/ledger")
	if err != nil {
		return ledger{}, err
	}
	var list struct{ Ledgers []ledger }
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		return ledger{}, err
	}
	if len(list.Ledgers) != 1 {
		return ledger{}, fmt.Errorf("%d ledgers", len(list.Ledgers))
	}
	return list.Ledgers[0], nil
}

// says waits until the ledger tells something.
func (r *rig) says(what string, is func(ledger) bool) {
	r.Helper()
	r.saysWithin(drain, what, is)
}

func (r *rig) saysWithin(limit time.Duration, what string, is func(ledger) bool) {
	r.Helper()
	deadline := time.Now().Add(limit)
	for {
		l, err := r.ledger(r.gateway)
		if err == nil && is(l) {
			return
		}
		if time.Now().After(deadline) {
			r.wrong("the ledger does not tell of %s within %s: %+v, %v", what, limit, l, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// logged waits until the gateway's log has a text.
func (r *rig) logged(g *harness.Gateway, text string) {
	r.Helper()
	deadline := time.Now().Add(drain)
	for !strings.Contains(g.Log(), text) {
		if time.Now().After(deadline) {
			r.wrong("the log does not say %q", text)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// health is what a gateway takes of the machine.
type health struct{ goroutines, files, memory int }

var (
	total = regexp.MustCompile(`^goroutine profile: total ([0-9]+)`)
	each  = regexp.MustCompile(`(?m)^([0-9]+) @`)
)

// health measures a gateway. Connections to the upstream that wait for the next
// request have goroutines too; those do not count.
func (r *rig) health(g *harness.Gateway) (h health) {
	r.Helper()
	body, err := get(g.Admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		r.wrong("I9: %v", err)
		return h
	}
	h.goroutines, _ = strconv.Atoi(total.FindStringSubmatch(body)[1])
	for block := range strings.SplitSeq(body, "\n\n") {
		if strings.Contains(block, "net/http.(*persistConn)") {
			n, _ := strconv.Atoi(each.FindStringSubmatch(block)[1])
			h.goroutines -= n
		}
	}
	h.files = g.Files()
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.Pid())); err == nil {
		if _, after, ok := strings.Cut(string(status), "VmRSS:"); ok {
			fmt.Sscan(after, &h.memory) // kB
		}
	}
	return h
}

// checkHealth is I9: ten seconds after the load nothing of it is left.
func (r *rig) checkHealth(g *harness.Gateway) {
	r.Helper()
	const (
		late   = 10 * time.Second
		slack  = 12       // goroutines of timers, the admin endpoint, the store's client
		memory = 64 << 10 // kB
	)
	limit := health{
		goroutines: r.start.goroutines + slack,
		files:      r.start.files + r.crowd + 16,
		memory:     r.start.memory + memory + 64**concurrent,
	}
	if harness.Race || runtime.GOOS != "linux" {
		limit.memory = 1 << 40 // the race detector keeps a shadow of all memory
	}
	deadline := time.Now().Add(late)
	for {
		h := r.health(g)
		if h.goroutines <= limit.goroutines && h.files <= limit.files && h.memory <= limit.memory {
			return
		}
		if time.Now().After(deadline) {
			r.i9++
			r.notes = append(r.notes, fmt.Sprintf("I9: %+v, at the start %+v", h, r.start))
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// lines are the upstream's, of one request.
func (r *rig) lines(request string) (lines []mock.Entry) {
	all, err := audit.ReadServed(r.mock.LedgerFile)
	if err != nil {
		r.Fatal(err)
	}
	for _, l := range all {
		if l.Request == request {
			lines = append(lines, l)
		}
	}
	return lines
}
