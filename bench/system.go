package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// kind is a sort of system that can be compared.
type kind struct {
	name, about string
	// caddyfile writes the site's block. nil: there is no server in between.
	caddyfile func(b *strings.Builder, s *site)
	redis     bool // needs a Redis of its own
	accounts  bool // has an account to be checked
	failing   failing
	messages  bool // its clients speak Messages, and are served by translation
}

var kinds = []kind{
	{name: "direct", about: "no gateway: the load asks the mock itself"},
	{name: "caddy", about: "Caddy's reverse_proxy as it comes", caddyfile: plainProxy},
	{name: "caddy-auth", about: "reverse_proxy that checks the client key's beginning, sets the upstream key and keeps more idle connections", caddyfile: authProxy},
	{name: "floway", about: "floway with its embedded store", caddyfile: floway("embedded", failing{}, pool{}), accounts: true},
	{name: "floway-off", about: "floway without an account", caddyfile: floway("off", failing{}, pool{})},
	{name: "floway-redis", about: "floway with a Redis on the load's CPUs", caddyfile: floway("redis", failing{}, pool{}), redis: true, accounts: true},
	{name: "floway-1000", about: "floway without an account, 1,000 upstream keys", caddyfile: floway("off", failing{}, pool{keys: 1000})},
	{name: "floway-sticky", about: "floway without an account, lb_policy sticky", caddyfile: floway("off", failing{}, pool{policy: "sticky"})},
	{name: "floway-sticky1000", about: "floway without an account, lb_policy sticky, 1,000 upstream keys", caddyfile: floway("off", failing{}, pool{1000, "sticky"})},
	{name: "floway-messages", about: "floway without an account, its clients speak Messages: what they ask and get is translated", caddyfile: floway("off", failing{}, pool{}), messages: true},
	{name: "floway-500", about: "floway, before an upstream that fails every fourth request at a key at first", caddyfile: floway("embedded", fail500, pool{}), accounts: true, failing: fail500},
	{name: "floway-429", about: "floway, before an upstream that limits every fourth request at a key at first, and names no time", caddyfile: floway("embedded", fail429, pool{}), accounts: true, failing: fail429},
}

var fail500, fail429 = failing{500, 4}, failing{429, 4}

// site is what a Caddyfile is written from.
type site struct {
	admin, listen string // addresses
	upstream      string // the mock's address
	redis         string // the Redis' address, where there is one
	dir           string // for the system's files
	clients, keys int
}

func (s *site) write(k *kind) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{\n\tadmin %s\n\tauto_https off\n\tskip_install_trust\n\tpersist_config off\n\tgrace_period 3s\n}\n", s.admin)
	fmt.Fprintf(&b, "http://%s {\n\tbind 127.0.0.1\n", s.listen)
	k.caddyfile(&b, s)
	b.WriteString("}\n")
	return b.String()
}

func plainProxy(b *strings.Builder, s *site) {
	fmt.Fprintf(b, "\treverse_proxy %s\n", s.upstream)
}

func authProxy(b *strings.Builder, s *site) {
	fmt.Fprintf(b, `	@stranger not header Authorization "Bearer sk-client-*"
	respond @stranger 401
	reverse_proxy %s {
		header_up Authorization "Bearer %s"
		transport http {
			keepalive_idle_conns_per_host 1024
		}
	}
`, s.upstream, upstreamKey(1))
}

// pool is what is special of a pool of keys; zero: nothing.
type pool struct {
	keys   int
	policy string
}

func floway(store string, plan failing, p pool) func(*strings.Builder, *site) {
	return func(b *strings.Builder, s *site) {
		b.WriteString("\tfloway {\n")
		fmt.Fprintf(b, "\t\tupstream openai mock {\n\t\t\tbase_url http://%s%s/v1\n\t\t\tmodels mock-*\n", s.upstream, plan.path())
		if p.policy != "" {
			fmt.Fprintf(b, "\t\t\tlb_policy %s\n", p.policy)
		}
		for i := 1; i <= cmp.Or(p.keys, s.keys); i++ {
			fmt.Fprintf(b, "\t\t\tkey %s as %s\n", upstreamKey(i), keyLabel(i))
		}
		b.WriteString("\t\t}\n")
		for i := range s.clients {
			fmt.Fprintf(b, "\t\tclient c%05d {\n\t\t\tkey sha256:%x\n\t\t}\n", i, sha256.Sum256([]byte(clientKey(i))))
		}
		switch log := filepath.Join(s.dir, "usage"); store {
		case "embedded":
			fmt.Fprintf(b, "\t\tusage embedded %q\n", log)
		case "redis":
			fmt.Fprintf(b, "\t\tusage redis redis://%s {\n\t\t\tlog %q\n\t\t}\n", s.redis, log)
		default:
			fmt.Fprintf(b, "\t\tusage %s\n", store)
		}
		b.WriteString("\t}\n")
	}
}

// keyLabel is the label of the key of the pool with this number, from 1.
func keyLabel(i int) string { return fmt.Sprintf("k%d", i) }

// system is one contestant while it runs.
type system struct {
	*kind
	addr     string        // where the load goes
	admin    string        // Caddy's admin endpoint; empty where there is no server
	upstream string        // its own mock
	server   *process      // nil where there is none
	others   []*process    // what has to be stopped with it
	answered atomic.Int64  // right answers that the load got
	failed   error         // why it is out
	rounds   []measurement // what was measured
}

// starting is what systems are started with.
type starting struct {
	caddy   string // the binary
	dir     string
	env     []string // GOGC and the like
	test    cpuSet   // for the servers under test
	load    cpuSet   // for everything else
	clients int
	keys    int
}

// start starts a system in front of the mock at upstream and waits until it has
// answered a request. The system has to be stopped also where an error is
// returned.
func (st *starting) start(ctx context.Context, k *kind, upstream string) (*system, error) {
	s := &system{kind: k, upstream: upstream, addr: upstream}
	if k.caddyfile == nil {
		return s, s.await(ctx)
	}
	dir, err := os.MkdirTemp(st.dir, k.name+"-")
	if err != nil {
		return s, err
	}
	free, err := freeAddrs(3)
	if err != nil {
		return s, err
	}
	c := site{admin: free[0], listen: free[1], redis: free[2], upstream: upstream, dir: dir, clients: st.clients, keys: st.keys}
	s.addr, s.admin = c.listen, c.admin
	if k.redis {
		p, err := startRedis(ctx, c.redis, dir, st.load)
		if p != nil {
			s.others = append(s.others, p)
		}
		if err != nil {
			return s, err
		}
	}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(c.write(k)), 0o600); err != nil {
		return s, err
	}
	s.server, err = start(command{
		name: k.name,
		argv: []string{st.caddy, "run", "--config", file, "--adapter", "caddyfile"},
		env:  append([]string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, st.env...),
		cpus: st.test,
		log:  filepath.Join(dir, "log"),
	})
	if err != nil {
		return s, err
	}
	return s, s.await(ctx)
}

// await asks until the system answers.
func (s *system) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		err := s.knock()
		if err == nil {
			return nil
		}
		if s.server != nil {
			if died := s.server.died(); died != nil {
				return died
			}
		}
		// No system refuses a good request while it starts: that will not change.
		var status statusError
		refused := errors.As(err, &status) && status.status < 500
		if refused || sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) != nil {
			if s.server != nil {
				err = fmt.Errorf("%w; the server's last words:\n%s", err, s.server.lastWords())
			}
			return fmt.Errorf("%s does not answer: %w", s.name, err)
		}
	}
}

// knock asks for one small answer.
func (s *system) knock() error {
	c, err := dial(s.addr, clientKey(0), &scenario{messages: smallMessages}, s.messages)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.ask(&c.main, nil); err != nil {
		return err
	}
	s.answered.Add(1)
	return nil
}

func (s *system) stop() {
	if s.server != nil {
		s.server.stop()
	}
	for _, p := range s.others {
		p.stop()
	}
}

// allocations is how many objects the server has allocated since its start.
func (s *system) allocations(ctx context.Context) (int64, error) {
	var vars struct {
		Memstats struct{ Mallocs int64 } `json:"memstats"`
	}
	err := fetchJSON(ctx, "http://"+s.admin+"/debug/vars", &vars)
	return vars.Memstats.Mallocs, err
}

// profile takes a CPU profile of the server for so many seconds.
func (s *system) profile(ctx context.Context, seconds int, file string) error {
	body, err := fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.admin, seconds))
	if err != nil {
		return err
	}
	return os.WriteFile(file, body, 0o644)
}

// startMock starts the mock's process with n upstreams and returns their
// addresses.
func startMock(n int, st *starting) (*process, []string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	stdin, life, err := os.Pipe() // life is closed when this process ends, and not before
	if err != nil {
		return nil, nil, err
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	p, err := start(command{
		name:   "mock",
		argv:   []string{self, "mock", fmt.Sprint(n)},
		env:    []string{"GOGC=400"},
		cpus:   st.load,
		log:    filepath.Join(st.dir, "mock.log"),
		stdin:  stdin,
		stdout: stdout,
	})
	stdin.Close()
	stdout.Close()
	defer out.Close()
	if err != nil {
		life.Close()
		return nil, nil, err
	}
	go func() {
		<-p.ended
		life.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	addrs := strings.Fields(line)
	if err != nil || len(addrs) != n {
		p.stop()
		return nil, nil, fmt.Errorf("the mock said %q (%v); its last words:\n%s", line, err, p.lastWords())
	}
	return p, addrs, nil
}

// startRedis starts a Redis as floway's documentation would have it: it never
// evicts and keeps an append-only file.
func startRedis(ctx context.Context, addr, dir string, cpus cpuSet) (*process, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "redis")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	p, err := start(command{
		name: "redis-server",
		argv: []string{
			"redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", data,
			"--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
		},
		cpus: cpus,
		log:  filepath.Join(dir, "redis.log"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if err := p.died(); err != nil {
			return p, err
		}
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			c.Close()
			return p, nil
		}
		if err := sleepUntil(ctx, time.Now().Add(20*time.Millisecond)); err != nil {
			return p, fmt.Errorf("redis-server does not listen: %w", err)
		}
	}
}

// freeAddrs returns loopback addresses whose ports nobody uses now.
func freeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are chosen, so that none is given twice
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}

// asker reads admin endpoints and the mock's ledger: never by way of a proxy.
var asker = &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}

func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := asker.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.300s", url, res.Status, body)
	}
	return body, err
}

func fetchJSON(ctx context.Context, url string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := fetch(ctx, url)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return errors.Join(fmt.Errorf("%s answered %.300s", url, body), err)
	}
	return nil
}
