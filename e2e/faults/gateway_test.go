package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/floway/floway/e2e/audit"
	"github.com/floway/floway/e2e/harness"
)

// Faults of the gateway's own process.

// gatewayKilled is F1. Each time a client has just got the end of an answer.
func gatewayKilled(r *rig) {
	l := r.load()
	slowest := time.Duration(0)
	for range pick(4, 50) {
		r.served(l, 15)
		r.kill(l)
		begin := time.Now()
		r.gateway.Start(r)
		slowest = max(slowest, time.Since(begin))
		r.rounds++
	}
	r.tell("the slowest start took %.2f s", slowest.Seconds())
	if slowest > 2*time.Second && !harness.Race && *scale == "full" {
		r.wrong("a start took %s", slowest)
	}
	r.settle()
	r.tell("%d answers came to their end, %d broke off", r.whole, r.failed)
}

// gatewayStopped is F2: with streams open. All that is under way ends or is cut
// within the grace time, and nothing is unknown.
func gatewayStopped(r *rig) {
	l := r.load()
	for range pick(3, 20) {
		r.served(l, 30)
		if err := r.gateway.Stop(); err != nil {
			r.wrong("the gateway ended with: %v", err)
		}
		r.gateway.Start(r)
		r.rounds++
	}
	r.settle()
	if r.d.Unknown > 0 {
		r.wrong("%d unknown outcomes", r.d.Unknown)
	}
	if strings.Contains(r.gateway.Log(), "the ledger was not closed") {
		r.wrong("the ledger was not closed")
	}
}

// gatewayFrozen is F14: it wakes up after another instance has worked on the same
// store, with what it had on its way.
func gatewayFrozen(r *rig) {
	l := r.load()
	other := r.another("DIR/log")
	r.logs = append(r.logs, filepath.Join(other.Dir, "log"))
	m := r.loadOn(other)
	for range pick(2, 3) {
		r.served(l, 50)
		r.gateway.Signal(syscall.SIGSTOP)
		r.served(m, 50)
		r.last(pick(2*time.Second, 20*time.Second))
		r.served(m, 50)
		r.gateway.Signal(syscall.SIGCONT)
		r.served(l, 20)
		r.rounds++
	}
	r.settle()
}

// another starts a second gateway with the same configuration, and a log in
// DIR/log if it is given none.
func (r *rig) another(log string) *harness.Gateway {
	g := harness.StartGateway(r, r.withLog(log))
	r.others = append(r.others, g)
	r.dirs = append(r.dirs, g.Dir)
	return g
}

// withLog is the configuration with another directory of the log.
func (r *rig) withLog(log string) harness.Config {
	c := r.config
	c.Floway = logLine.ReplaceAllLiteralString(c.Floway, "log "+log)
	return c
}

var logLine = regexp.MustCompile(`\blog [^\n]*`)

// gatewayCloned is F14 on a machine that was copied: the log with records that the
// store lacks goes on in two places, under one name. What both have is counted
// once.
func gatewayCloned(r *rig) {
	l := r.load()
	r.served(l, 50)
	r.proxy.freeze()
	r.served(l, 100)
	r.quiet() // what is open when a machine is copied ends twice
	r.gateway.Signal(syscall.SIGSTOP)
	clone := filepath.Join(r.TempDir(), "log")
	if err := os.CopyFS(clone, os.DirFS(r.log)); err != nil {
		r.Fatal(err)
	}
	r.logs = append(r.logs, clone)
	r.proxy.reset()
	r.proxy.thaw()
	other := r.another(clone)
	m := r.loadOn(other)
	r.served(m, 100)
	r.last(pick(2*time.Second, 20*time.Second))
	r.gateway.Signal(syscall.SIGCONT)
	l = r.load()
	r.served(l, 50)
	r.says("the copy", func(l ledger) bool { return l.Stopped != "" })
	r.logged(r.gateway, "a copy of this log")
	l.stop()
	// As the message says: a restart sends what is left under a new name.
	if err := r.gateway.Stop(); err != nil {
		r.wrong("the gateway ended with: %v", err)
	}
	r.gateway.Start(r)
	r.served(r.load(), 50)
	r.rounds++
	r.settle()
}

// twice is F18: a second process on the same directory is refused, and two
// handlers share one ledger; two stores cannot.
func twice(r *rig) {
	l := r.load()
	r.served(l, 30)
	output := r.refused(r.withLog(r.log))
	if !strings.Contains(output, "in use by another") || !strings.Contains(output, r.log) {
		r.wrong("a second process says: %s", output)
	}
	r.served(l, 30)

	// Two handlers: a second site with the same block.
	c := r.config
	second := fmt.Sprintf("http://127.0.0.1:%d", harness.FreePort(r))
	c.Rest = second + " {\n\tfloway {\n" + c.Floway + "\n\t}\n}\n"
	if err := r.gateway.Reload(r, c); err != nil {
		r.Fatal(err)
	}
	m := r.begin(second, work{4, 0, short})
	r.served(m, 50)
	if _, err := r.ledger(r.gateway); err != nil {
		r.wrong("two handlers on one directory: %v", err)
	}

	// Two stores in one directory.
	use := c.Floway[strings.Index(c.Floway, "usage "):]
	c.Rest = second + " {\n\tfloway {\n" + strings.Replace(c.Floway, use, "usage embedded DIR/other {\n log DIR/log\n}\n", 1) + "\n\t}\n}\n"
	if err := r.gateway.Reload(r, c); err == nil || !strings.Contains(err.Error(), "two floway blocks") {
		r.wrong("two stores on one directory: %v", err)
	}
	r.served(l, 30)
	r.rounds = 3
	r.unharmed(l)
	r.settle()
}

// refused starts a gateway that is to end by itself, and returns what it says.
func (r *rig) refused(c harness.Config) string {
	r.Helper()
	g := harness.Stopped(r, c)
	err := g.TryStart(r)
	if err == nil {
		r.wrong("a gateway came up that was to be refused")
		g.Stop()
	}
	r.dirs = append(r.dirs, g.Dir)
	return g.Log()
}

// reloaded is F19: other keys, clients and pools under load, and configurations
// that are refused in between.
func reloaded(r *rig) {
	l := r.load()
	r.served(l, 30)
	for i := range pick(9, 100) {
		c := r.config
		if i%3 == 2 {
			c.Floway = strings.Replace(c.Floway, "as k3\n", "as k3\n\t\t\tkey {env.UPSTREAM_4} as k4\n\t\t\tlb_policy least_conn\n", 1) +
				fmt.Sprintf("\n\t\tclient carol%d {\n\t\t\tkey sk-client-carol-%04d\n\t\t}\n\t\tlb_retries %d\n", i, i, i%5)
		}
		if err := r.gateway.Reload(r, c); err != nil {
			r.wrong("reload %d: %v", i, err)
		}
		if i%pick(3, 10) == 0 {
			bad := c
			bad.Floway += []string{
				"\n\t\tclient dave {\n\t\t\tkey {env.NOBODY_SET_THIS}\n\t\t}\n",
				"\n\t\tusage embedded DIR/usage {\n\t\t\tlog /proc/nowhere\n\t\t}\n",
				"\n\t\tnonsense\n",
			}[i%2]
			if err := r.gateway.Reload(r, bad); err == nil {
				r.wrong("a configuration was loaded that is none")
			}
		}
		r.served(l, 10)
		r.rounds++
	}
	if _, err := r.ledger(r.gateway); err != nil {
		r.wrong("one ledger for all generations: %v", err)
	}
	r.unharmed(l)
	r.settle()
}

// clientsLeave is F13: before the headers, at the first chunk, at the last, and
// while they send.
func clientsLeave(r *rig) {
	l := r.load()
	late := 0
	for i := range pick(3, 25) {
		// Nothing of an answer has come.
		r.leave(question{"/v1/chat/completions", "mock-chat+hang=-1", `,"stream":true`, alice}, 0, &late)
		// Some of it has.
		r.leave(question{"/v1/chat/completions", "mock-chat+words=40+hang=3", `,"stream":true`, bob}, 1, &late)
		// All but the end has.
		r.leave(question{"/v1/chat/completions", "mock-chat+words=10+hang=12", `,"stream":true,"stream_options":{"include_usage":true}`, alice}, 11, &late)
		// The request is not whole yet.
		r.leaveEarly(i)
		r.rounds += 4
	}
	if late > 0 {
		r.wrong("%d times the upstream did not see within a second that the client had gone", late)
	}
	r.unharmed(l)
	r.settle()
}

// leave asks for a stream and goes after so many events.
func (r *rig) leave(q question, events int, late *int) {
	r.Helper()
	before, _ := r.lastOf(q.model)
	r.asked++
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", r.gateway.URL+q.path, strings.NewReader(q.body(1_000_000+r.asked)))
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+q.client)
	req.Header.Set("Content-Type", "application/json")
	conn := &http.Transport{DisableKeepAlives: true}
	if events == 0 {
		// The header never comes: go once the upstream has the request.
		go func() {
			defer cancel()
			r.awaitRequest(fmt.Sprintf("question %d ", 1_000_000+r.asked))
		}()
		if resp, err := conn.RoundTrip(req); err == nil {
			resp.Body.Close()
			r.wrong("an answer came from an upstream that says nothing")
		}
	} else {
		resp, err := conn.RoundTrip(req)
		if err != nil {
			r.Fatal(err)
		}
		r.calls = append(r.calls, audit.Call{Request: resp.Header.Get("X-Request-Id"), Status: resp.StatusCode, Left: true})
		readEvents(resp.Body, events)
		resp.Body.Close()
	}
	left := time.Now()
	// The upstream writes a line once it knows.
	for {
		n, ended := r.lastOf(q.model)
		if n > before {
			if ended.Sub(left) > time.Second {
				*late++
			}
			return
		}
		if time.Since(left) > drain {
			*late++
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lastOf counts the upstream's lines of a model, and says when the last one ended.
func (r *rig) lastOf(model string) (n int, ended time.Time) {
	lines, err := audit.ReadServed(r.mock.LedgerFile)
	if err != nil {
		r.wrong("%v", err)
	}
	for _, l := range lines {
		if l.Model == model {
			n++
			ended = l.Ended
		}
	}
	return n, ended
}

// awaitRequest waits until the upstream has a request with a text in it.
func (r *rig) awaitRequest(text string) {
	deadline := time.Now().Add(drain)
	for time.Now().Before(deadline) {
		seen, err := r.mock.Requests()
		if err != nil {
			return
		}
		for i := range seen {
			if bytes.Contains(seen[i].Body, []byte(text)) {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func readEvents(body io.Reader, n int) {
	b := make([]byte, 1)
	var last byte
	for n > 0 {
		if _, err := io.ReadFull(body, b); err != nil {
			return
		}
		if b[0] == '\n' && last == '\n' {
			n--
		}
		last = b[0]
	}
}

// leaveEarly sends half a request.
func (r *rig) leaveEarly(i int) {
	r.Helper()
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(r.Context(), "POST", r.gateway.URL+"/v1/chat/completions", pr)
	if err != nil {
		r.Fatal(err)
	}
	req.ContentLength = 10_000
	req.Header.Set("Authorization", "Bearer "+alice)
	req.Header.Set("Content-Type", "application/json")
	go func() {
		io.WriteString(pw, `{"model":"mock-chat","messages":[{"role":"user","content":"`+strings.Repeat("x", i))
		pw.CloseWithError(io.ErrUnexpectedEOF)
	}()
	conn := &http.Transport{DisableKeepAlives: true}
	if resp, err := conn.RoundTrip(req); err == nil {
		resp.Body.Close()
	}
}

// unitTests is F16: the file layer that fails, shortens or tears the n-th call is
// a test of the ledger's.
func unitTests(r *rig) {
	if *scale == "short" {
		r.notRun = "here; go test ./usage/ledger has it as TestDiskThatFailsOnce"
		return
	}
	cmd := exec.CommandContext(r.Context(), "go", "test", "-count=1", "-run", "TestDiskThatFailsOnce|TestFailedSync|TestFullDisk|TestLossOfPower", "./usage/ledger")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.wrong("go test ./usage/ledger: %v: %s", err, out)
	}
	r.rounds = 200
	r.tell("go test ./usage/ledger: %s", strings.Join(strings.Fields(string(out)), " "))
}
