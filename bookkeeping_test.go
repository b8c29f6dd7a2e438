package floway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/boltstore"
	"github.com/floway/floway/usage/redisstore/redistest"
)

// commandAt runs a command against the gateway and returns what it printed and its
// exit code.
func (g *gateway) command(args ...string) (string, int) {
	g.t.Helper()
	out, err := caddyProgram(g.t, append([]string{"floway", "--address=" + g.admin}, args...)...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return out, exit.ExitCode()
	case err != nil:
		g.t.Fatalf("%v: %v: %s", args, err, out)
	}
	return out, 0
}

// says runs a command that must end with a code and say all parts.
func (g *gateway) says(code int, args []string, parts ...string) string {
	g.t.Helper()
	out, got := g.command(args...)
	if got != code {
		g.t.Errorf("%v: exit code %d, want %d:\n%s", args, got, code, out)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			g.t.Errorf("%v: no %q in\n%s", args, part, out)
		}
	}
	return out
}

func onRedis(u *upstream, redis *redistest.Server, more ...string) site {
	lines := strings.Join(more, "\n")
	if !strings.Contains(lines, "log ") {
		lines += "\nlog {dir}"
	}
	return site{block: u.block() + alice + "usage redis " + redis.URL() + " {\n" + lines + "\n}"}
}

// total is the sum that the store has, or an error while it cannot be asked.
func (g *gateway) total() (counts, error) {
	a := g.ask("GET", "/floway/usage?by=client")
	if a.status != 200 {
		return counts{}, fmt.Errorf("status %d: %s", a.status, a.body)
	}
	return parseUsageReport(g.t, a).Sum, nil
}

func (g *gateway) reaches(requests, attempts int) {
	g.t.Helper()
	eventually(g.t, func() error {
		if sum, err := g.total(); err != nil || sum.Requests != requests || sum.Attempts != attempts {
			return fmt.Errorf("%+v, %v; want %d requests and %d attempts", sum, err, requests, attempts)
		}
		return nil
	})
}

// key finds the one key of Redis that has all parts in it.
func redisKey(t *testing.T, redis *redistest.Server, parts ...string) string {
	t.Helper()
	for key := range strings.SplitSeq(redis.Do("KEYS", "fl:*"), "\n") {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(key, part)
		}
		if all {
			return key
		}
	}
	t.Fatalf("no key with %q", parts)
	return ""
}

// What verify says and how it ends: equal, different row by row, or that it cannot
// tell.
func TestVerifyCommand(t *testing.T) {
	redis := redistest.Start(t, redistest.Persistent())
	u := newUpstream(t)
	g := start(t, onRedis(u, redis))
	for range 3 {
		g.chat(hello, asAlice)
	}
	verify := []string{"ledger", "verify"}
	g.says(0, verify, "all of this stream", "TOTALS", "3 requests, 3 attempts, 45 tokens: no difference",
		"STREAMS", "RESULT", "equal")
	out, code := g.command("ledger", "verify", "--json", "--log", g.dir)
	var answer struct{ Ledgers []verifyReport }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 0 || len(answer.Ledgers) != 1 {
		t.Fatalf("%v, %d: %s", err, code, out)
	}
	if r := answer.Ledgers[0]; r.Result != verifiedEqual || r.Exact == 0 || r.Exact != r.Rows || r.Counted[usage.OutputTokens] != 15 || r.First == nil {
		t.Errorf("%+v", r)
	}

	// Somebody raises one counter of one row, by hand.
	day := redisKey(t, redis, ":d:", "alice")
	redis.Do("HINCRBY", day, fmt.Sprint(int(usage.InputTokens)), "7")
	g.says(1, verify, "TOTALS", "no difference", "1 DIFFERENCE", "different", "WHERE", "days", `"alice"`, "input_tokens", "30", "37", "+7",
		"does not have what the ledger says")
	redis.Do("HINCRBY", day, fmt.Sprint(int(usage.InputTokens)), "-7")
	month := redisKey(t, redis, ":m1:", ":client:", "alice")
	redis.Do("HINCRBY", month, fmt.Sprint(int(usage.Requests)), "-1")
	g.says(1, verify, "all streams against all months by client", "months by dimension client", "-1")
	redis.Do("HINCRBY", month, fmt.Sprint(int(usage.Requests)), "1")
	g.says(0, verify, "equal")

	// A store that does not answer, or has forgotten, can say nothing.
	redis.Stop()
	out, code = g.command(verify...)
	redis.Restart()
	if code != 2 || !strings.Contains(out, "unknown") || !strings.Contains(out, "cannot be reached") || strings.Contains(out, "no difference") {
		t.Errorf("exit code %d: %s", code, out)
	}
	g.says(2, []string{"ledger", "verify", "--log", "/nowhere"}, "no such ledger is open")
	redis.Do("DEL", redisKey(t, redis, ":cur:"))
	g.says(2, verify, "does not know this stream any more", "cannot be told")
}

// A stream that lost its position stays stopped until somebody says --yes, and then
// counts nothing twice.
func TestResumeCommand(t *testing.T) {
	redis := redistest.Start(t)
	u := newUpstream(t)
	g := start(t, onRedis(u, redis))
	resume := []string{"ledger", "resume"}
	g.says(0, resume, "nothing to resume")
	if a := g.ask("POST", "/floway/ledger/resume"); a.status != http.StatusConflict || !strings.Contains(a.body, "has not stopped") {
		t.Errorf("%d: %s", a.status, a.body)
	}
	for range 3 {
		g.chat(hello, asAlice)
	}
	g.reaches(3, 3)
	redis.Do("DEL", redisKey(t, redis, ":cur:"))
	g.chat(hello, asAlice)
	g.chat(hello, asAlice)
	eventually(t, func() error {
		if a := g.ask("GET", "/floway/ledger"); !strings.Contains(a.body, `"stopped":"the store has lost the position`) {
			return errors.New(a.body)
		}
		return nil
	})
	g.says(0, []string{"ledger"}, "TROUBLE", "has lost the position of this stream")
	if sum, err := g.total(); err != nil || sum.Requests != 3 {
		t.Errorf("%+v, %v", sum, err)
	}
	g.says(1, resume, "has stopped: the store has lost the position", "takes a new name", "nothing was changed; say --yes")
	if sum, err := g.total(); err != nil || sum.Requests != 3 {
		t.Errorf("without --yes: %+v, %v", sum, err)
	}
	g.says(0, append(resume, "--yes"), "The ledger goes on as stream")
	g.reaches(5, 5)
	if got := g.metric(fmt.Sprintf(`caddy_floway_ledger_stopped{log="%s"}`, g.dir)); got != 0 {
		t.Errorf("stopped: %v", got)
	}
}

// The log of a host that is gone is delivered by another, once however often it is
// asked to; what was under way is unknown.
func TestAdoptCommand(t *testing.T) {
	redis := redistest.Start(t, redistest.Persistent())
	u := newUpstream(t)
	g := start(t, onRedis(u, redis))
	g.chat(hello, asAlice)

	lost := launch(t, ownGateway(t, t.TempDir()), onRedis(u, redis))
	lost.chat(hello, asAlice)
	lost.reaches(2, 2)
	g.says(1, []string{"ledger", "adopt", lost.dir}, "is in use by another process", "stop it first")

	redis.Stop()
	lost.chat(hello, asAlice)
	lost.chat(streamOf("gpt-5"), asAlice)
	hold := make(chan struct{})
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		streamed(chunkHi)(w, r)
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	})
	defer close(hold)
	res := lost.open(streamOf("gpt-5"), asAlice)
	defer res.Body.Close()
	if err := lost.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-lost.done
	redis.Restart()
	g.reaches(2, 2)

	out := g.says(0, []string{"ledger", "adopt", lost.dir}, "ADDED", "3 requests, 2 attempts, 30 tokens, 1 unknown outcomes", "FOUND OPEN", "1 attempts",
		"RESULT", "equal", "is not needed any more")
	if strings.Contains(out, aliceKey) {
		t.Error("a secret is shown")
	}
	g.reaches(5, 4)
	for range 3 {
		g.says(0, []string{"ledger", "adopt", lost.dir}, "0 requests, 0 attempts, 0 tokens, 0 unknown outcomes", "equal")
	}
	g.reaches(5, 4)
	g.says(0, []string{"ledger", "verify"}, "other instances count in this store", "equal")
	var adopted adoptReport
	out, _ = g.command("ledger", "adopt", lost.dir, "--json")
	if err := json.Unmarshal([]byte(out), &adopted); err != nil || adopted.Dir != lost.dir || !adopted.Added.IsZero() || adopted.Verified.Result != verifiedEqual {
		t.Errorf("%v: %s", err, out)
	}

	// What belongs elsewhere, is none, or is this server's own.
	g.says(1, []string{"ledger", "adopt", t.TempDir()}, "holds no ledger")
	g.says(1, []string{"ledger", "adopt", g.dir}, "is a ledger of this server")
	if a := g.ask("POST", "/floway/ledger/adopt?dir=relative"); a.status != 400 {
		t.Errorf("%d: %s", a.status, a.body)
	}
	if err := g.load(onRedis(u, redis, "namespace other", "log {dir}-other")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // the former account is let go of with its last request
		out, code := g.command("ledger", "adopt", lost.dir)
		if code != 1 || !strings.Contains(out, "belongs to the store") || !strings.Contains(out, redis.URL()) || !strings.Contains(out, "other") {
			return fmt.Errorf("%d: %s", code, out)
		}
		return nil
	})
}

// The same store under another address is known by its own name.
func TestAdoptByGenesis(t *testing.T) {
	redis := redistest.Start(t)
	proxy := redistest.NewProxy(t, redis.Addr)
	u := newUpstream(t)
	lost := launch(t, ownGateway(t, t.TempDir()), onRedis(u, redis))
	lost.chat(hello, asAlice)
	lost.reaches(1, 1)
	redis.Stop()
	lost.chat(hello, asAlice)
	_ = lost.cmd.Process.Kill()
	<-lost.done
	redis.Restart() // and it has forgotten everything
	g := start(t, site{block: u.block() + alice + "usage redis redis://" + proxy.Addr + " {\nlog {dir}\n}"})
	g.says(1, []string{"ledger", "adopt", lost.dir}, "belongs to the store", redis.Addr)

	again := launch(t, ownGateway(t, lost.dir), onRedis(u, redis))
	again.reaches(2, 2) // sent again, to a store that is new to it
	redis.Freeze()
	again.chat(hello, asAlice)
	_ = again.cmd.Process.Kill()
	<-again.done
	redis.Thaw()
	g.says(0, []string{"ledger", "adopt", lost.dir}, "equal")
	g.reaches(3, 3)
}

// An embedded history arrives in Redis whole and once; before, during and after,
// whoever would count on both sides is stopped.
func TestMoveCommand(t *testing.T) {
	redis := redistest.Start(t)
	u := newUpstream(t)
	embedded := site{block: u.block() + alice + "usage embedded {dir}"}
	g := start(t, embedded)
	for range 4 {
		g.chat(hello, asAlice, "X-Floway-Group: research")
	}
	g.says(1, []string{"usage", "move", "--dir", g.dir}, "no account is kept in Redis here", "usage redis")
	before := g.usage("by=client,group,model")

	other := filepath.Join(t.TempDir(), "other")
	owner := launch(t, ownGateway(t, other), embedded)
	owner.chat(hello, asAlice)

	if err := g.load(onRedis(u, redis, "log {dir}/redis")); err != nil {
		t.Fatal(err)
	}
	g.chatSoon(hello, asAlice)
	move := []string{"usage", "move", "--dir"}
	g.says(1, append(move, other), "is in use by another process", "stop the other one")
	g.says(1, append(move, t.TempDir()), "holds no embedded store")
	g.says(1, append(move, g.dir, "--log", t.TempDir()), "holds no ledger", "--no-log")
	g.says(0, append(move, g.dir), "FROM", g.dir, "TO", redis.URL(), "MONTHS", time.Now().UTC().Format("2006-01"),
		"4 requests, 4 attempts, 60 tokens", "all streams of the store and all its months are equal", "moved")
	g.reaches(5, 5)
	after := g.usage("by=client,group,model&group=research")
	if len(after.Rows) != 1 || after.Rows[0] != before.Rows[0] {
		t.Errorf("%+v, before %+v", after, before)
	}
	for range 2 {
		g.says(0, append(move, g.dir), "it was all there before")
	}
	g.reaches(5, 5)
	g.says(0, []string{"ledger", "verify"}, "equal")
	out, code := g.command("usage", "move", "--dir", g.dir, "--json")
	var line moveReport
	if err := json.Unmarshal([]byte(out), &line); err != nil || code != 0 || !line.Done || !line.Before || line.Even == nil || !*line.Even {
		t.Errorf("%v: %s", err, out)
	}

	// Nothing is counted in it any more.
	err := g.load(embedded)
	if err == nil || !strings.Contains(err.Error(), "has given its history away") || !strings.Contains(err.Error(), "another directory") {
		t.Errorf("%v", err)
	}
	g.chatSoon(hello, asAlice)
	g.reaches(6, 6)

	// A history whose process died with records that it had not delivered yet.
	_ = owner.cmd.Process.Kill()
	<-owner.done
	g.says(0, append(move, other), "1 requests, 1 attempts, 15 tokens", "moved")
	g.reaches(7, 7)
	g.says(0, []string{"ledger", "verify"}, "equal")
}

// A server that still counts in the history does not move it.
func TestMoveOfWhatIsInUse(t *testing.T) {
	redis := redistest.Start(t)
	u := newUpstream(t)
	second := freeAddr(t)
	g := newGateway(t)
	file := g.caddyfile(site{block: u.block() + alice + "usage embedded {dir}"}) +
		"http://" + second + " {\nbind 127.0.0.1\nfloway {\n" + g.caddyfileOf(onRedis(u, redis, "log {dir}/redis").block) + "\n}\n}\n"
	if err := g.load(site{file: file}); err != nil {
		t.Fatal(err)
	}
	g.says(1, []string{"usage", "move", "--dir", g.dir}, "this server still counts in", "reload")
}

// Trouble of a ledger is an event of Caddy's, once, and a metric.
func TestLedgerTrouble(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	u := newUpstream(t)
	g := newGateway(t)
	config, _, err := adapt(g.caddyfile(onRedis(u, redis)), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	config = bytes.Replace(config, []byte(`"apps":{`), []byte(`"apps":{"events":{"subscriptions":[{"events":["floway.ledger_trouble"],"handlers":[{"handler":"floway_test"}]}]},`), 1)
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	next := func() map[string]any {
		t.Helper()
		select {
		case e := <-heard:
			return e.Data
		case <-time.After(patience):
			t.Fatal("no event")
		}
		return nil
	}
	e := next()
	if e["kind"] != "store" || e["over"] != false || e["log"] != g.dir || !strings.Contains(e["message"].(string), "noeviction") {
		t.Errorf("%v", e)
	}
	if lines := g.lines("msg", "the store is not set up as it should be"); len(lines) != 1 {
		t.Errorf("%v", lines)
	}
	g.says(0, []string{"ledger"}, "TROUBLE", "maxmemory-policy is allkeys-lru; set it to noeviction")

	// What cannot be booked is told once, and counted.
	g.chat(hello, asAlice)
	g.reaches(1, 1)
	row := redisKey(t, redis, ":d:", "alice")
	redis.Do("DEL", row)
	redis.Do("SET", row, "mine")
	for range 3 {
		g.chat(hello, asAlice)
		g.usage("by=client") // when it is in the store
	}
	if e := next(); e["kind"] != "dead_letters" {
		t.Errorf("%v", e)
	}
	for series, want := range map[string]func(float64) bool{
		"ledger_lag_records": func(v float64) bool { return v == 0 }, "ledger_lag_seconds": func(v float64) bool { return v == 0 },
		"ledger_bytes": func(v float64) bool { return v > 0 }, "ledger_max_bytes": func(v float64) bool { return v == 1<<30 },
		"ledger_dead_letters": func(v float64) bool { return v > 0 }, "ledger_trouble": func(v float64) bool { return v == 0 },
		"unrecorded_total": func(v float64) bool { return v == 0 }, "ledger_open_attempts": func(v float64) bool { return v == 0 },
	} {
		name := fmt.Sprintf(`caddy_floway_%s{log="%s"}`, series, g.dir)
		if !strings.Contains(g.ask("GET", "/metrics").body, name+" ") || !want(g.metric(name)) {
			t.Errorf("%s is %v", name, g.metric(name))
		}
	}
	select {
	case e := <-heard:
		t.Errorf("told again: %v", e.Data)
	default:
	}
	if _, err := os.Stat(filepath.Join(g.dir, "stream")); err != nil {
		t.Error(err)
	}
}

// What docs/accounting.md says about redis-cli gives the same number twice.
func TestSumsByHand(t *testing.T) {
	redis := redistest.Start(t)
	u := newUpstream(t)
	g := start(t, onRedis(u, redis))
	for range 3 {
		g.chat(hello, asAlice)
	}
	g.reaches(3, 3)
	doc, err := os.ReadFile("docs/accounting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(doc), "```sh\n")
	script, _, _ = strings.Cut(script, "```")
	real, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Fatal("this test needs redis-cli, which comes with redis-server")
	}
	bin := t.TempDir()
	_, port, _ := strings.Cut(redis.Addr, ":")
	if err := os.WriteFile(filepath.Join(bin, "redis-cli"), []byte("#!/bin/sh\nexec "+real+" -p "+port+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "30\n30\n" {
		t.Errorf("%v: %q", err, out)
	}
}

// A move whose server is killed in the middle goes on in the next one: nothing is
// lost or doubled.
func TestKilledMove(t *testing.T) {
	const clients = 4000
	dir := filepath.Join(t.TempDir(), "history")
	history, err := boltstore.Open(filepath.Join(dir, storeFile), boltstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := usage.Batch{Stream: usage.StreamID{9}, To: 1}
	for n := range clients {
		b.Add(&usage.Record{
			Time: time.Now().Add(-time.Duration(n%500) * time.Hour), Client: fmt.Sprint("client-", n), Upstream: "up", Key: "main", Model: "m",
			Outcome: usage.Served, Final: true, Source: usage.Upstream, Tokens: usage.Tokens{Input: 10, Output: 5}, Duration: time.Second,
		})
	}
	if _, err := history.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if err := history.Close(); err != nil {
		t.Fatal(err)
	}

	redis := redistest.Start(t)
	u := newUpstream(t)
	first := launch(t, ownGateway(t, t.TempDir()), onRedis(u, redis))
	broken := make(chan string)
	go func() {
		out, _ := caddyProgram(t, "floway", "--address="+first.admin, "usage", "move", "--dir", dir, "--no-log")
		broken <- out
	}()
	// The server stands still in the middle, and dies there.
	position := func() (seq int) {
		for key := range strings.SplitSeq(redis.Do("KEYS", "fl:*cur:*"), "\n") {
			if key != "" {
				fmt.Sscan(redis.Do("HGET", key, "seq"), &seq)
			}
		}
		return seq
	}
	eventually(t, func() error {
		if n := position(); n < 2 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	redis.Do("CLIENT", "PAUSE", "100000", "WRITE")
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.done
	redis.Do("CLIENT", "UNPAUSE")
	if n := position(); n < 2 || n > len(b.Rows) {
		t.Fatalf("the move was at %d of %d rows when the server died", n, len(b.Rows))
	}
	if out := <-broken; !strings.Contains(out, "goes on where it was") {
		t.Errorf("the command says: %s", out)
	}

	g := start(t, onRedis(u, redis))
	move := []string{"usage", "move", "--dir", dir, "--no-log"}
	g.says(0, move, fmt.Sprint(clients, " requests, ", clients, " attempts, ", 15*clients, " tokens"), "all its months are equal", "moved")
	g.reaches(clients, clients)
	g.says(0, move, "it was all there before")
	g.chat(hello, asAlice)
	g.reaches(clients+1, clients+1)
	g.says(0, []string{"ledger", "verify"}, "equal")
	for _, by := range []string{"client", "upstream", "key", "model", "client,model"} {
		if r := g.usage("bucket=hour&since=30d&by=" + by); r.Sum.Requests != clients+1 || r.Sum.Input != 10*(clients+1) {
			t.Errorf("by %s: %+v", by, r.Sum)
		}
	}
}
