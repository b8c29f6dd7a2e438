package harness

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Config says how a gateway is set up. In its texts, DIR stands for the
// gateway's directory and PORT for the port of its site; Vars adds more such
// words.
type Config struct {
	// Global are lines of the global options, besides those of the harness.
	Global string
	// Site is the address of the site. Default: http://127.0.0.1:PORT.
	Site string
	// Before are directives of the site that stand before floway's.
	Before string
	// Floway is the inside of the floway block.
	Floway string
	// Rest are sites besides the gateway's.
	Rest string
	// Quiet keeps the log short; otherwise it has everything that Caddy can tell.
	Quiet bool
	Vars  map[string]string
	// Program is the gateway's program. Default: one built of this checkout.
	Program string
	// Env is added to the environment, as NAME=value.
	Env []string
}

// Gateway is a Caddy with floway that runs.
type Gateway struct {
	// URL is the site's, without a path. Admin is the admin endpoint's.
	URL, Admin string
	// Dir is its own directory, Port that of the site.
	Dir  string
	Port int

	config Config
	admin  int
	proc   *process
	log    *logbook
}

// StartGateway starts a gateway and waits until it says that it is healthy. The
// end of the test stops it, and checks that it ends cleanly and has written no
// secret into its log.
func StartGateway(t testing.TB, c Config) *Gateway {
	t.Helper()
	g := Stopped(t, c)
	t.Cleanup(func() { g.finish(t) })
	g.Start(t)
	return g
}

// Stopped makes a gateway that does not run: see TryStart.
func Stopped(t testing.TB, c Config) *Gateway {
	t.Helper()
	g := &Gateway{Dir: t.TempDir(), Port: FreePort(t), admin: FreePort(t), config: c, log: &logbook{}}
	g.Admin = "http://127.0.0.1:" + strconv.Itoa(g.admin)
	g.URL = g.fill("http://127.0.0.1:PORT")
	if strings.HasPrefix(c.Site, "https://") {
		g.URL = g.fill(c.Site)
	}
	return g
}

// Start starts the gateway again after Kill or Stop, with the same directory and
// ports.
func (g *Gateway) Start(t testing.TB) {
	t.Helper()
	if err := g.TryStart(t); err != nil {
		t.Fatal(err)
	}
}

// TryStart is Start for a gateway that may not come up: then it returns why not,
// with the end of its log.
func (g *Gateway) TryStart(t testing.TB) error {
	t.Helper()
	path := g.program(t)
	file := filepath.Join(g.Dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(g.caddyfile(g.config)), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	g.proc, err = launch("caddy", g.log, nil, g.environment(), path, "run", "--config", file, "--adapter", "caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	// The certificate is of no interest here, and perhaps not there yet.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: g.host()}}}
	defer client.CloseIdleConnections()
	return g.proc.wait("healthy", func() error { return g.healthy(client) })
}

// healthy asks the gateway whether it is ready.
func (g *Gateway) healthy(client *http.Client) error {
	req, err := http.NewRequest("GET", g.onLoopback()+"/floway/health", nil)
	if err != nil {
		return err
	}
	req.Host = g.hostPort()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /floway/health: %s: %s", resp.Status, body)
	}
	return nil
}

// program is the path of the gateway's program.
func (g *Gateway) program(t testing.TB) string {
	t.Helper()
	if g.config.Program != "" {
		return g.config.Program
	}
	path, err := caddy()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (g *Gateway) environment() []string {
	return append([]string{
		"HOME=" + g.Dir,
		"XDG_DATA_HOME=" + filepath.Join(g.Dir, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(g.Dir, "config"),
		"GORACE=halt_on_error=0",
	}, g.config.Env...)
}

// onLoopback is the URL with the address instead of a name.
func (g *Gateway) onLoopback() string {
	scheme, _, _ := strings.Cut(g.URL, "://")
	return scheme + "://127.0.0.1:" + strconv.Itoa(g.Port)
}

func (g *Gateway) hostPort() string {
	_, host, _ := strings.Cut(g.URL, "://")
	return host
}

func (g *Gateway) host() string {
	host, _, _ := strings.Cut(g.hostPort(), ":")
	return host
}

// fill puts in what the words of a Config stand for.
func (g *Gateway) fill(text string) string {
	pairs := []string{"DIR", g.Dir, "PORT", strconv.Itoa(g.Port)}
	for word, value := range g.config.Vars {
		pairs = append(pairs, word, value)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func (g *Gateway) caddyfile(c Config) string {
	site := c.Site
	if site == "" {
		site = "http://127.0.0.1:PORT"
	}
	global := c.Global
	if !strings.Contains(global, "auto_https") && !strings.HasPrefix(site, "https://") {
		global += "\n\tauto_https off"
	}
	if !strings.Contains(global, "grace_period") {
		global += "\n\tgrace_period 5s"
	}
	if !c.Quiet {
		global += "\n\tdebug"
	}
	return g.fill("{\n\tadmin 127.0.0.1:" + strconv.Itoa(g.admin) + "\n\tdefault_bind 127.0.0.1\n\tskip_install_trust\n" + global + "\n}\n" +
		site + " {\n" + c.Before + "\n\tfloway {\n" + c.Floway + "\n\t}\n}\n" + c.Rest)
}

// Reload loads another configuration through the admin endpoint. It returns the
// error with which Caddy refuses it.
func (g *Gateway) Reload(t testing.TB, c Config) error {
	t.Helper()
	c.Vars = g.config.Vars
	resp, err := http.Post(g.Admin+"/load", "text/caddyfile", strings.NewReader(g.caddyfile(c)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(string(body))
	}
	env, program := g.config.Env, g.config.Program
	g.config = c
	g.config.Env, g.config.Program = env, program
	g.settle(t)
	return nil
}

// settle waits until the former configuration's server takes no connections any
// more. Until then it may take one and close it at once: Caddy's two servers share
// the socket while one follows the other.
func (g *Gateway) settle(t testing.TB) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: g.host()},
	}}
	deadline := time.Now().Add(20 * time.Second)
	for well := 0; well < 10; {
		err := g.healthy(client)
		if well++; err == nil {
			continue
		}
		if well = 0; time.Now().After(deadline) {
			t.Fatalf("after a reload: %v", err)
		}
	}
}

// Kill ends the gateway as a crash would.
func (g *Gateway) Kill() { g.proc.signal(syscall.SIGKILL) }

// Stop ends the gateway politely and returns how it ended.
func (g *Gateway) Stop() error { return g.proc.signal(syscall.SIGTERM) }

// Signal sends a signal and does not wait for anything.
func (g *Gateway) Signal(sig os.Signal) error { return g.proc.cmd.Process.Signal(sig) }

// Pid is the number of the gateway's process.
func (g *Gateway) Pid() int { return g.proc.cmd.Process.Pid }

// Log is what the gateway has written.
func (g *Gateway) Log() string { return g.log.String() }

// Files is the number of descriptors that the gateway has open; -1 where the
// system does not tell.
func (g *Gateway) Files() int {
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(g.proc.cmd.Process.Pid) + "/fd")
	if err != nil {
		return -1
	}
	return len(entries)
}

// Goroutines is the number of goroutines in the gateway.
func (g *Gateway) Goroutines(t testing.TB) int {
	t.Helper()
	resp, err := http.Get(g.Admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var n int
	if _, err := fmt.Fscanf(resp.Body, "goroutine profile: total %d\n", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// CertPool trusts Caddy's own authority of this gateway, once it exists.
func (g *Gateway) CertPool(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	Eventually(t, func() error {
		pem, err := os.ReadFile(filepath.Join(g.Dir, "data/caddy/pki/authorities/local/root.crt"))
		if err == nil && !pool.AppendCertsFromPEM(pem) {
			err = errors.New("no certificate in root.crt")
		}
		return err
	})
	return pool
}

// secret is what keys look like in these tests.
var secret = regexp.MustCompile(`sk-(mock|client)-[a-z]+-[0-9]+|gh[a-z]_mock_|tid=mock`)

// finish stops the gateway at the end of a test and looks at what it left.
func (g *Gateway) finish(t testing.TB) {
	if g.proc != nil && !g.proc.ended() {
		if err := g.Stop(); err != nil {
			t.Errorf("the gateway ended with: %v", err)
		}
	}
	log := []byte(g.Log())
	for _, bad := range []string{"WARNING: DATA RACE", "panic:", "\"panic", "fatal error:"} {
		if i := bytes.Index(log, []byte(bad)); i >= 0 {
			t.Errorf("%s in the gateway's log:\n%s", bad, log[i:min(len(log), i+8000)])
		}
	}
	if found := secret.FindIndex(log); found != nil {
		t.Errorf("a secret is in the gateway's log: %s", log[max(0, found[0]-300):min(len(log), found[1]+100)])
	}
	if t.Failed() {
		t.Logf("the gateway's log:\n%s", g.log.tail())
	}
}

// Run runs a command of the gateway's program, as somebody would on its machine, and
// returns what it printed once it has ended. seen, if set, is told of all that was
// printed so far, whenever something is.
func (g *Gateway) Run(t testing.TB, seen func(output string), args ...string) (output string, err error) {
	t.Helper()
	path, log := g.program(t), &logbook{}
	p, err := launch("caddy "+strings.Join(args, " "), log, nil, g.environment(), path, args...)
	if err != nil {
		t.Fatal(err)
	}
	late := time.After(patience)
	for shown := ""; ; {
		if now := log.String(); now != shown && seen != nil {
			shown = now
			seen(now)
		}
		select {
		case <-p.done:
			return log.String(), p.err
		case <-late:
			p.signal(syscall.SIGKILL)
			t.Fatalf("%v does not end\n%s", args, log.tail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Interrupt is like Run, but presses Ctrl-C once seen returns true.
func (g *Gateway) Interrupt(t testing.TB, seen func(output string) bool, args ...string) (output string, err error) {
	t.Helper()
	path, log := g.program(t), &logbook{}
	p, err := launch("caddy "+strings.Join(args, " "), log, nil, g.environment(), path, args...)
	if err != nil {
		t.Fatal(err)
	}
	p.until(t, "at work", func() error {
		if !seen(log.String()) {
			return errors.New("it has not said enough")
		}
		return nil
	})
	err = p.signal(syscall.SIGINT)
	return log.String(), err
}

// AdminAddress is what --address of the commands takes.
func (g *Gateway) AdminAddress() string { return strings.TrimPrefix(g.Admin, "http://") }
