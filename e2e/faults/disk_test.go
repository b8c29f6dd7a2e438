package faults

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/floway/floway/e2e/audit"
	"github.com/floway/floway/e2e/harness"
)

// Faults of the log and of the disk that it is on.

// disk gives the log a file system of its own, of so many MiB. It says whether
// that was possible.
func (r *rig) disk(mib int) bool {
	r.Helper()
	if os.Geteuid() != 0 {
		r.notRun = "it mounts a small file system, for which it must be root"
		return false
	}
	dir := r.TempDir()
	if err := mount(dir, fmt.Sprintf("size=%dm", mib)); err != nil {
		r.notRun = "it mounts a small file system: " + err.Error()
		return false
	}
	r.Cleanup(func() {
		if err := unmount(dir); err != nil {
			r.Errorf("unmount %s: %v", dir, err)
		}
	})
	r.log = filepath.Join(dir, "log")
	return true
}

// long is a question whose records are as large as names can make them.
func long() question {
	return question{"/v1/chat/completions", "mock-chat" + strings.Repeat("+words=1", 30), "", alice}
}

// diskFull is F15: what is under way is settled, new requests are refused, and
// once there is room they are served without a restart. The disk has room for one
// segment of the log and none for the next.
func diskFull(r *rig) {
	if !r.disk(24) {
		return
	}
	r.set()
	l := r.load()
	full := r.begin(r.gateway.URL, work{16, 0, []question{long()}})
	refused := func() bool {
		call, body, _ := r.ask(r.gateway, short[0], 1)
		if call.Status == 503 && !strings.Contains(body, "accounting_unavailable") {
			r.wrong("refused with %s", body)
		}
		return call.Status == 503
	}
	r.await(3*time.Minute, "a refusal", refused)
	r.says("the full disk", func(l ledger) bool { return strings.Contains(l.Trouble, "no space left") })
	full.stop()
	served := l.whole.Load() - l.failed.Load()
	r.last(pick(time.Second, 10*time.Second))
	// Attempts that end give back what their records did not need: there may be
	// room for some now and then.
	r.await(drain, "a refusal again", refused)
	r.tell("full after %d requests", full.whole.Load()+served)
	if err := remount(filepath.Dir(r.log), "size=200m", false); err != nil {
		r.Fatal(err)
	}
	r.await(drain, "a request is served again", func() bool { return !refused() })
	r.says("no trouble", func(l ledger) bool { return l.Trouble == "" })
	r.served(l, 50)
	r.rounds++
	r.settle()
}

// await waits until something is so.
func (r *rig) await(limit time.Duration, what string, is func() bool) {
	r.Helper()
	deadline := time.Now().Add(limit)
	for !is() {
		if time.Now().After(deadline) {
			r.wrong("not within %s: %s", limit, what)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// readOnly is F17: a log that cannot be written is refused at the start, with a
// message that names it, and nothing is changed.
func readOnly(r *rig) {
	if os.Geteuid() == 0 && !r.disk(100) { // root may write what it likes
		return
	}
	r.set()
	l := r.load()
	r.served(l, 30)
	r.quiet()
	r.drained(drain)
	r.gateway.Stop()
	forbid := func(yes bool) {
		r.Helper()
		err := remount(filepath.Dir(r.log), "size=100m", yes)
		if os.Geteuid() != 0 {
			err = os.Chmod(r.log, map[bool]os.FileMode{true: 0o500, false: 0o700}[yes])
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	forbid(true)
	if err := r.gateway.TryStart(r); err == nil {
		r.wrong("a gateway came up that cannot write its log")
	} else if text := err.Error(); !strings.Contains(text, r.log) ||
		!strings.Contains(text, "read-only") && !strings.Contains(text, "permission denied") {
		r.wrong("a log that cannot be written: %v", err)
	}
	forbid(false)
	r.gateway.Start(r)
	r.served(r.load(), 30)
	r.rounds++
	r.settle()
}

// removed is F17: the directory is taken away from a gateway that does not run,
// and then from one that runs.
func removed(r *rig) {
	l := r.load()
	r.served(l, 50)
	r.quiet()
	r.drained(drain)
	r.gateway.Stop()
	aside := r.setAside()
	if err := os.RemoveAll(r.log); err != nil {
		r.Fatal(err)
	}
	r.gateway.Start(r)
	if audit.StreamOf(aside) == audit.StreamOf(r.log) {
		r.wrong("a new log has the name of the old one")
	}
	l = r.load()
	r.served(l, 50)
	r.quiet()
	r.drained(drain)
	r.link()
	if err := os.RemoveAll(r.log); err != nil {
		r.Fatal(err)
	}
	// It is noticed with the first record, and from then on nothing is served that
	// cannot be recorded.
	r.ask(r.gateway, short[0], 1)
	r.says("the log that is gone", func(l ledger) bool { return strings.Contains(l.Trouble, "no such file") })
	if call, body, _ := r.ask(r.gateway, short[0], 1); call.Status != 503 {
		r.wrong("served without a log: %d %s", call.Status, body)
	}
	r.logged(r.gateway, "directory was removed")
	r.gateway.Stop()
	r.gateway.Start(r)
	r.served(r.load(), 50)
	r.rounds = 2
	r.settle()
}

// setAside copies the log to where the comparison finds it.
func (r *rig) setAside() string {
	r.Helper()
	aside := filepath.Join(r.TempDir(), "log")
	if err := os.CopyFS(aside, os.DirFS(r.log)); err != nil {
		r.Fatal(err)
	}
	r.logs = append(r.logs, aside)
	r.dirs = append(r.dirs, aside)
	return aside
}

// link gives the files of the log a second name, by which the comparison finds
// them, and what is still written to them, when they are deleted.
func (r *rig) link() {
	r.Helper()
	aside := filepath.Join(r.TempDir(), "log")
	if err := os.Mkdir(aside, 0o700); err != nil {
		r.Fatal(err)
	}
	files, err := os.ReadDir(r.log)
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range files {
		if err := os.Link(filepath.Join(r.log, f.Name()), filepath.Join(aside, f.Name())); err != nil {
			r.Fatal(err)
		}
	}
	r.logs = append(r.logs, aside)
}

// torn is F17: bad bytes at the end, such as a crash of the machine leaves.
func torn(r *rig) {
	l := r.load()
	for i := range pick(2, 10) {
		r.served(l, 40)
		r.kill(l)
		path, b, records := r.lastSegment()
		end := records[len(records)-1]
		bad := [][]byte{
			b[end.at : end.at+40],                         // half of a record
			[]byte("nothing that was ever a record ...."), // bytes of another file
			b[end.at : end.at+end.size],                   // a record that was there before
		}[i%3]
		copy(b[end.at+end.size:], bad)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			r.Fatal(err)
		}
		r.gateway.Start(r)
		r.rounds++
	}
	r.logged(r.gateway, "the ledger was not closed")
	r.settle()
}

// damaged is F17: bad bytes in the middle. The record is missing and the rest
// counts; the loss is told.
func damaged(r *rig) {
	l := r.load()
	r.served(l, 50)
	r.proxy.freeze() // so that it is damaged before the store has it
	r.served(l, 50)
	r.quiet()
	r.gateway.Kill()
	r.kills++
	r.died++
	path, b, records := r.lastSegment()
	bad := records[len(records)-20]
	for i := len(records) - 20; records[i].kind != audit.Settled; i-- {
		bad = records[i-1]
	}
	copy(b[bad.at+30:], "damage")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		r.Fatal(err)
	}
	r.lost = map[string]bool{bad.request: true}
	r.proxy.reset()
	r.proxy.thaw()
	r.gateway.Start(r)
	r.says("the missing record", func(l ledger) bool { return l.Missing > 0 })
	r.logged(r.gateway, "records of the ledger are missing")
	r.served(r.load(), 50)
	r.rounds++
	r.settle()
	if n := r.d.Logs[0].Gone; n != 1 {
		r.wrong("%d records cannot be read, not 1", n)
	}
}

// segmentRecord is where in a segment a record lies.
type segmentRecord struct {
	at, size int
	kind     byte
	request  string
}

// lastSegment reads the segment that was written last.
func (r *rig) lastSegment() (path string, b []byte, records []segmentRecord) {
	r.Helper()
	files, err := filepath.Glob(filepath.Join(r.log, "*.log"))
	if err != nil || len(files) == 0 {
		r.Fatalf("%v, %v", files, err)
	}
	slices.Sort(files)
	path = files[len(files)-1]
	if b, err = os.ReadFile(path); err != nil {
		r.Fatal(err)
	}
	requests := make(map[uint64]string)
	if _, err := audit.ReadLog(r.log, func(r *audit.Record) error {
		requests[r.Seq] = r.Request
		return nil
	}); err != nil {
		r.Fatal(err)
	}
	for at := 64; at+24 < len(b) && b[at] == 0xFC && b[at+1] == 0xF7; {
		size := (24 + int(binary.LittleEndian.Uint32(b[at+4:])) + 7) &^ 7
		records = append(records, segmentRecord{at, size, b[at+2], requests[binary.LittleEndian.Uint64(b[at+8:])]})
		at += size
	}
	if len(records) == 0 {
		r.Fatal("the last segment has no record")
	}
	return path, b, records
}

// restored is F17: an older copy of the log is put in its place. It goes on under
// a new name, or what it writes would be taken for what the store has already.
func restored(r *rig) {
	l := r.load()
	for range pick(1, 3) {
		r.served(l, 50)
		if err := r.gateway.Stop(); err != nil {
			r.wrong("the gateway ended with: %v", err)
		}
		old := r.setAside()
		r.gateway.Start(r)
		r.served(l, 50)
		if err := r.gateway.Stop(); err != nil {
			r.wrong("the gateway ended with: %v", err)
		}
		r.setAside()
		if err := os.RemoveAll(r.log); err != nil {
			r.Fatal(err)
		}
		if err := os.CopyFS(r.log, os.DirFS(old)); err != nil {
			r.Fatal(err)
		}
		r.gateway.Start(r)
		r.logged(r.gateway, "an older copy of it was restored")
		r.served(l, 50)
		if audit.StreamOf(old) == audit.StreamOf(r.log) {
			r.wrong("the older copy has its old name")
		}
		r.rounds++
	}
	r.settle()
}

// elsewhere is about a log that belongs to another store.
func elsewhere(r *rig) {
	l := r.load()
	r.served(l, 30)
	r.quiet()
	r.drained(drain)
	r.gateway.Stop()
	c := r.withLog(r.log)
	c.Floway = strings.Replace(c.Floway, "usage redis redis://"+r.proxy.Addr, "usage redis redis://"+r.redis.Addr, 1)
	if output := r.refused(c); !strings.Contains(output, "belongs to the store") {
		r.wrong("a log of another store: %s", output)
	}
	r.gateway.Start(r)
	r.served(r.load(), 30)
	r.rounds++
	r.settle()
}

// fullLog is about a log that has reached its limit of 1 GiB: the gateway is there
// within two seconds, and the store gets it all behind that.
func fullLog(r *rig) {
	r.gateway.Stop()
	size := int64(pick(32<<20, 1<<30))
	n, err := audit.Grow(r.log, size, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	r.link() // at its limit it lets go of what the store has
	begin := time.Now()
	r.gateway.Start(r)
	call, body, err := r.ask(r.gateway, short[0], 1)
	took := time.Since(begin)
	if err != nil || call.Status != 200 {
		r.wrong("the first answer: %d %s %v", call.Status, body, err)
	}
	r.tell("first answer %.2f s after the start, with %d MiB of log and %d attempts", took.Seconds(), size>>20, n)
	if took > 2*time.Second && !harness.Race && *scale == "full" {
		r.wrong("the first answer took %s", took)
	}
	r.says("a lag", func(ledger) bool { return true })
	r.saysWithin(10*time.Minute, "no lag", func(l ledger) bool { return l.Lag == 0 })
	r.tell("all of it in the store after %.0f s", time.Since(begin).Seconds())
	r.unserved = true
	r.rounds++
	r.start = r.health(r.gateway) // of a process that has read all this
	r.settle()
}
