package floway

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/floway/floway/usage/ledger"
	"github.com/floway/floway/usage/redisstore/redistest"
)

// What an operator sees of everything that can be wrong with a ledger's directory
// and with Redis. docs/accounting.md lists it.

// stop ends the server in this process; load starts it again.
func (g *gateway) stop() {
	g.t.Helper()
	if err := caddy.Stop(); err != nil {
		g.t.Fatal(err)
	}
}

// segments are the ledger's files, with what is in them.
func (g *gateway) segments() map[string]string {
	g.t.Helper()
	names, err := filepath.Glob(filepath.Join(g.dir, "*.log"))
	if err != nil || len(names) == 0 {
		g.t.Fatalf("%v, %v", names, err)
	}
	files := map[string]string{}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			g.t.Fatal(err)
		}
		files[name] = string(raw)
	}
	return files
}

// sees waits until the log has a line with all parts.
func (g *gateway) sees(parts ...string) {
	g.t.Helper()
	eventually(g.t, func() error {
		for line := range strings.Lines(g.logged()) {
			all := true
			for _, part := range parts {
				all = all && strings.Contains(line, part)
			}
			if all {
				return nil
			}
		}
		return fmt.Errorf("no line with %q in\n%s", parts, g.logged())
	})
}

// A directory that cannot be used is told at the start, with its name and what to
// do; what runs goes on.
func TestUnusableLogDirectory(t *testing.T) {
	redis := redistest.Start(t)
	u := newUpstream(t)
	g := start(t, onRedis(u, redis))
	g.chat(hello, asAlice)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		lines []string
		want  []string
	}{
		// Nobody can make a directory there, root neither.
		"not writable":  {[]string{"log /sys/floway"}, []string{"/sys/floway", "let the user of this process write", "another directory"}},
		"no directory":  {[]string{"log " + file + "/ledger"}, []string{file, "move away", "another directory"}},
		"another store": {[]string{"namespace other"}, []string{g.dir, "belongs to the store", "log directory of its own"}},
	} {
		err := g.load(onRedis(u, redis, c.lines...))
		if err == nil {
			t.Errorf("%s: loaded", name)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: no %q in: %v", name, part, err)
			}
		}
		g.chatSoon(hello, asAlice)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "mine" {
		t.Errorf("%q, %v", raw, err)
	}
	g.reaches(4, 4)
}

// fullDisk is a disk that has no room while full.
type fullDisk struct {
	ledger.FS
	full atomic.Bool
}

func (d *fullDisk) Open(name string, flag int) (ledger.File, error) {
	f, err := d.FS.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return fullFile{f, d}, nil
}

type fullFile struct {
	ledger.File
	disk *fullDisk
}

func (f fullFile) Allocate(size int64) error {
	if f.disk.full.Load() {
		return syscall.ENOSPC
	}
	return f.File.Allocate(size)
}

func (f fullFile) WriteAt(p []byte, off int64) (int, error) {
	if f.disk.full.Load() {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(p, off)
}

// On a full disk requests are refused or served, as configured, and it is told;
// with room it goes on by itself.
func TestFullDisk(t *testing.T) {
	for _, policy := range []string{"refuse", "continue"} {
		t.Run(policy, func(t *testing.T) {
			disk := &fullDisk{FS: ledger.Disk()}
			logFiles = disk
			defer func() { logFiles = nil }()
			redis := redistest.Start(t)
			u := newUpstream(t)
			s := onRedis(u, redis, "on_log_full "+policy)
			g := newGateway(t)
			disk.full.Store(true)
			if err := g.load(s); err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), "make room on the disk of "+g.dir) {
				t.Errorf("started on a full disk: %v", err)
			}
			disk.full.Store(false)
			if err := g.load(s); err != nil {
				t.Fatal(err)
			}
			g.chat(hello, asAlice)
			disk.full.Store(true)
			served := 0
			for range 3 {
				switch a := g.do("POST", chatPath, hello, asAlice); {
				case a.status == 200:
					served++
				case a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "accounting_unavailable"):
					t.Errorf("status %d: %s", a.status, a.body)
				}
			}
			g.says(0, []string{"ledger"}, "TROUBLE", "no space left on device")
			series := map[string]float64{"unrecorded_total": 0, "ledger_refused_total": 3, "ledger_trouble": 1}
			want, line := 0, "attempts were refused, since the ledger could not record them"
			if policy == "continue" {
				series = map[string]float64{"unrecorded_total": 3, "ledger_refused_total": 0, "ledger_trouble": 1}
				want, line = 3, "attempts went on without being recorded"
			}
			if served != want {
				t.Errorf("%d requests were served, want %d", served, want)
			}
			for name, v := range series {
				if got := g.metric(fmt.Sprintf(`caddy_floway_%s{log="%s"}`, name, g.dir)); got != v {
					t.Errorf("%s is %v, want %v", name, got, v)
				}
			}
			g.sees(line, g.dir)
			disk.full.Store(false)
			eventually(t, func() error {
				g.do("POST", chatPath, hello, asAlice)
				if got := g.metric(fmt.Sprintf(`caddy_floway_ledger_trouble{log="%s"}`, g.dir)); got != 0 {
					return fmt.Errorf("the trouble stays")
				}
				return nil
			})
			g.chat(hello, asAlice)
			g.says(0, []string{"ledger", "verify"}, "equal")
			if n := len(g.lines("msg", line)); n != 1 {
				t.Errorf("%q stands in the log %d times", line, n)
			}
		})
	}
}

// Damage to the log is told, everything that can be read counts, and nothing is
// deleted.
func TestDamagedLog(t *testing.T) {
	redis := redistest.Start(t, redistest.Persistent())
	u := newUpstream(t)
	s := onRedis(u, redis)
	g := start(t, s)
	g.chat(hello, asAlice)
	g.reaches(1, 1)
	redis.Stop()
	for range 5 {
		g.chat(hello, asAlice)
	}
	g.stop()
	redis.Restart()

	// One settle in the middle of what the store has not got.
	before := g.segments()
	var segment string
	for name, raw := range before {
		if strings.Count(raw, "\xfc\xf7S") >= 5 {
			segment = name
		}
	}
	if segment == "" {
		t.Fatalf("no segment with the requests among %d", len(before))
	}
	raw := []byte(before[segment])
	at := 0
	for range 4 {
		at += strings.Index(string(raw[at+1:]), "\xfc\xf7S") + 1
	}
	raw[at+40] ^= 0xff
	if err := os.WriteFile(segment, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	g.sees("records of the ledger are missing", g.dir, "damaged or deleted")
	g.chat(hello, asAlice)
	// All attempts are there; of the one whose end is damaged the outcome is unknown.
	g.reaches(7, 6)
	g.says(0, []string{"ledger"}, "GAPS", "1, with 1 records", "1 unknown (1 of them left open")
	g.says(2, []string{"ledger", "verify"}, "are missing", "cannot be told")
	for name := range before {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}

	// The end: a process that died while it wrote.
	g.stop()
	var last string
	for name := range g.segments() {
		last = max(last, name)
	}
	info, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, info.Size()-10); err != nil {
		t.Fatal(err)
	}
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	g.sees("the ledger was not closed; if the power was lost, so may be what was written last", g.dir)
	g.chat(hello, asAlice)
	g.reaches(8, 7)
}

// A log that was put back to an older state takes a new name; nothing counts twice.
func TestOlderCopyOfTheLog(t *testing.T) {
	redis := redistest.Start(t)
	u := newUpstream(t)
	s := onRedis(u, redis)
	g := start(t, s)
	g.chat(hello, asAlice)
	g.reaches(1, 1)
	g.stop()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(g.dir)); err != nil {
		t.Fatal(err)
	}
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	g.chat(hello, asAlice)
	g.reaches(2, 2)
	g.stop()
	if err := os.RemoveAll(g.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(g.dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	g.chat(hello, asAlice)
	g.reaches(3, 3)
	g.sees("an older copy of it was restored; going on under a new name", g.dir)
	g.says(0, []string{"ledger", "verify"}, "equal")
}

// Whatever is wrong with Redis: requests are served, the log and the command say
// what it is and what to do, no secret is shown, and it is all delivered once that
// is mended.
func TestRedisInTrouble(t *testing.T) {
	const secret = "hunter2-of-redis"
	redis := redistest.Start(t)
	u := newUpstream(t)
	for name, c := range map[string]struct {
		begin, end func()
		want       []string
	}{
		"a wrong password": {
			func() { redis.Do("ACL", "SETUSER", "floway", "on", "resetpass", ">another", "~*", "+@all") },
			func() { redis.Do("ACL", "SETUSER", "floway", "on", "resetpass", ">"+secret, "~*", "+@all") },
			[]string{"refuses the credentials", "check `username` and `password`"},
		},
		"a replica": {
			func() { redis.Do("REPLICAOF", "127.0.0.1", "1") },
			func() { redis.Do("REPLICAOF", "NO", "ONE") },
			[]string{"is read-only", "this is a replica", "address of the master"},
		},
		"no memory left": {
			func() { redis.Do("CONFIG", "SET", "maxmemory", "1") },
			func() { redis.Do("CONFIG", "SET", "maxmemory", "0") },
			[]string{"is full", "raise its maxmemory"},
		},
		"a replica without its master": {
			func() {
				redis.Do("CONFIG", "SET", "replica-serve-stale-data", "no")
				redis.Do("REPLICAOF", "127.0.0.1", "1")
			},
			func() {
				redis.Do("REPLICAOF", "NO", "ONE")
				redis.Do("CONFIG", "SET", "replica-serve-stale-data", "yes")
			},
			[]string{"is not ready yet", "wait for the failover"},
		},
		"somebody else's key": {
			func() { redis.Do("SET", "fl:{floway}:streams", "mine") },
			func() { redis.Do("DEL", "fl:{floway}:streams") },
			[]string{"holds something that floway did not write", "fl:{floway}:streams", "use another `namespace`"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			redis.Do("FLUSHALL")
			redis.Do("ACL", "SETUSER", "floway", "on", "resetpass", ">"+secret, "~*", "+@all")
			c.begin()
			g := start(t, onRedis(u, redis, "username floway", "password "+secret))
			g.chat(hello, asAlice)
			g.chat(streamOf("gpt-5"), asAlice)
			var shown string
			eventually(t, func() error {
				shown = g.ask("GET", "/floway/ledger").body
				for _, part := range c.want {
					if !strings.Contains(shown, part) {
						return fmt.Errorf("no %q in %s", part, shown)
					}
				}
				return nil
			})
			g.sees(append([]string{`"level":"warn"`, "the ledger does not get into the store"}, c.want...)...)
			// At the level of this log Caddy itself prints the configuration.
			if strings.Contains(shown, secret) || strings.Contains(shown, "another\"") {
				t.Errorf("a secret is shown: %s", shown)
			}
			c.end()
			g.reaches(2, 2)
			g.says(0, []string{"ledger", "verify"}, "equal")
			if n := len(g.lines("msg", "the ledger does not get into the store")); n != 1 {
				t.Errorf("it stands in the log %d times", n)
			}
		})
	}
}

// An embedded store can be moved to another place together with its log; a log
// without its store cannot.
func TestEmbeddedStoreElsewhere(t *testing.T) {
	u := newUpstream(t)
	s := site{block: u.block() + alice + "usage embedded {dir}"}
	g := start(t, s)
	g.chat(hello, asAlice)
	g.reaches(1, 1)
	g.stop()
	former := g.dir
	g.dir = filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(former, g.dir); err != nil {
		t.Fatal(err)
	}
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	g.chat(hello, asAlice)
	g.reaches(2, 2)
	g.says(0, []string{"ledger", "verify"}, "equal")
	g.stop()
	if err := os.Remove(filepath.Join(g.dir, storeFile)); err != nil {
		t.Fatal(err)
	}
	if err := g.load(s); err == nil || !strings.Contains(err.Error(), "belongs to the store") || !strings.Contains(err.Error(), former) {
		t.Errorf("a log without its store: %v", err)
	}
}
