package boltstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t testing.TB) usage.Store {
		return open(t, filepath.Join(t.TempDir(), "usage.db"), Options{})
	})
}

func open(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var (
	stream = usage.StreamID{1}
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

// clock is an Options.Now that tests set.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func attempt(client string, at time.Time) usage.Record {
	return usage.Record{
		Time: at, Client: client, Group: "g", Upstream: "u", Key: "k", Model: "m",
		Outcome: usage.Served, Final: true, Source: usage.Upstream, Tokens: usage.Tokens{Input: 1, Output: 2},
	}
}

// apply sends one more batch of the stream.
func apply(t testing.TB, s usage.Store, rs ...usage.Record) usage.Position {
	t.Helper()
	g, err := s.Hello(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	b := usage.Batch{Stream: stream, From: g.Position.Seq, To: g.Position.Seq + 1}
	for i := range rs {
		b.Add(&rs[i])
	}
	p, err := s.Apply(t.Context(), &b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func rows(t testing.TB, s usage.Store, table usage.Table, d usage.Dimension, at time.Time) map[usage.Key]usage.Counts {
	t.Helper()
	all := make(map[usage.Key]usage.Counts)
	err := s.Scan(t.Context(), table, d, table.Start(at), func(k usage.Key, c *usage.Counts) bool {
		all[k] = *c
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "some", "where", "usage.db")
	s := open(t, path, Options{Now: (&clock{noon}).now})
	p := apply(t, s, attempt("ann", noon), attempt("bob", noon.Add(-40*24*time.Hour)))
	before, err := s.Hello(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	sums := rows(t, s, usage.Hourly, 0, noon)
	s.Close()

	for name, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700 | fs.ModeDir} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	s = open(t, path, Options{Now: (&clock{noon}).now})
	after, err := s.Hello(t.Context(), stream)
	if err != nil || after != before || after.Position != p {
		t.Errorf("after opening again %+v, %v; before %+v", after, err, before)
	}
	if got := rows(t, s, usage.Hourly, 0, noon); !maps.Equal(got, sums) || len(got) != 1 {
		t.Errorf("after opening again %v, before %v", got, sums)
	}
	if a, err := s.Audit(t.Context()); err != nil || a.LateHours[usage.Attempts] != 1 || !a.Streams[0].Seen.Equal(noon) {
		t.Errorf("audit after opening again: %+v, %v", a, err)
	}
}

// TestInUse opens one file twice, in one process and from another one.
func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	open(t, path, Options{})
	_, err := Open(path, Options{LockTimeout: time.Millisecond})
	if !errors.Is(err, usage.ErrInUse) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another directory") {
		t.Errorf("a second opening: %v", err)
	}
	out, err := child(path, "lock").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is in use by another process") {
		t.Errorf("another process: %v, %s", err, out)
	}
}

// TestKilled kills a writing process in the middle, again and again. What it saw
// applied must be there, whole, and the sums must be those of the positions.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	for round := range 8 {
		cmd := child(path, "write")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It writes a line for each batch that was applied. In the first round
		// it is killed at once, perhaps while it makes the file.
		var told uint64
		lines := bufio.NewScanner(out)
		for range 3 * round {
			if !lines.Scan() {
				t.Fatal("the writing process ended by itself")
			}
			if _, err := fmt.Sscan(lines.Text(), &told); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
		}
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()

		s, err := Open(path, Options{})
		if err != nil {
			t.Fatalf("after kill %d: %v", round, err)
		}
		g, err := s.Hello(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if g.Position.Seq < told {
			t.Errorf("the process was told %d, the file stands at %d", told, g.Position.Seq)
		}
		if got := g.Position.Totals[usage.Attempts]; got != 3*int64(g.Position.Seq) {
			t.Errorf("%d batches of 3 attempts have the total %d", g.Position.Seq, got)
		}
		if b, err := usage.Weigh(t.Context(), s); err != nil || !b.Even() {
			t.Errorf("after kill %d the sums are not those of the stream: %v", round, err)
		}
		s.Close()
	}
}

// child is this test binary in another role, which TestMain plays.
func child(path, role string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BOLTSTORE_TEST_ROLE="+role, "BOLTSTORE_TEST_PATH="+path)
	return cmd
}

func TestMain(m *testing.M) {
	path := os.Getenv("BOLTSTORE_TEST_PATH")
	switch os.Getenv("BOLTSTORE_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "lock":
		_, err := Open(path, Options{LockTimeout: time.Millisecond})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case "write":
		fmt.Fprintln(os.Stderr, write(path))
		os.Exit(1)
	}
}

// write applies batches of three attempts until the process is killed.
func write(path string) error {
	s, err := Open(path, Options{LockTimeout: time.Minute})
	if err != nil {
		return err
	}
	ctx := context.Background()
	g, err := s.Hello(ctx, stream)
	if err != nil {
		return err
	}
	for seq := g.Position.Seq; ; seq++ {
		b := usage.Batch{Stream: stream, From: seq, To: seq + 1}
		for i := range 3 {
			r := attempt(fmt.Sprint(seq%7, i), time.Now())
			b.Add(&r)
		}
		if _, err := s.Apply(ctx, &b); err != nil {
			return err
		}
		fmt.Println(seq + 1)
	}
}

// TestCreateTogether lets several openings make one file: all see the same store.
func TestCreateTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	names := make(chan string, 4)
	for range cap(names) {
		go func() {
			s, err := Open(path, Options{LockTimeout: time.Minute})
			if err != nil {
				names <- err.Error()
				return
			}
			names <- s.genesis
			s.Close()
		}()
	}
	first := <-names
	for range cap(names) - 1 {
		if name := <-names; name != first {
			t.Errorf("two openings made %q and %q", first, name)
		}
	}
}

func TestNoStore(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "usage.db")
	s := open(t, whole, Options{})
	for i := range 200 {
		apply(t, s, attempt(fmt.Sprint("client", i), time.Now()))
	}
	s.Close()
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := bbolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("recipes")); return err })
	db.Close()
	foreign, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	garbled := slices.Clone(content)
	for i := 2 * os.Getpagesize(); i < len(garbled); i++ {
		garbled[i] ^= 0x5a
	}
	for name, content := range map[string][]byte{
		"some text":         []byte(strings.Repeat("not a database ", 2000)),
		"short text":        []byte("x"),
		"of another":        foreign,
		"cut in the middle": content[:len(content)/2],
		"cut to one page":   content[:os.Getpagesize()],
		"garbled":           garbled,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "usage.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path, Options{})
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, usage.ErrForeign) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want ErrForeign", err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(content) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}

	t.Run("an empty file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "usage.db")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		apply(t, open(t, path, Options{}), attempt("ann", noon))
	})
	t.Run("below a file", func(t *testing.T) {
		if _, err := Open(filepath.Join(other, "usage.db"), Options{}); err == nil || !strings.Contains(err.Error(), other) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a directory", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of a later version", func(t *testing.T) {
		s := open(t, whole, Options{})
		s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(layoutKey, []byte{layout + 1}) })
		s.Close()
		if _, err := Open(whole, Options{}); !errors.Is(err, usage.ErrNewer) {
			t.Errorf("got %v, want ErrNewer", err)
		}
	})
}

func TestExplain(t *testing.T) {
	s := &Store{path: "the/path"}
	for cause, class := range map[error]error{
		syscall.ENOSPC: usage.ErrFull, syscall.EROFS: usage.ErrReadOnly, syscall.EACCES: usage.ErrForbidden,
	} {
		err := s.explain(&fs.PathError{Op: "write", Path: "the/path", Err: cause})
		if !errors.Is(err, class) || !errors.Is(err, cause) || !strings.Contains(err.Error(), "the/path") {
			t.Errorf("%v becomes %v", cause, err)
		}
	}
}

// TestPrune moves the clock over more than the retention: hours and days go, a
// bounded number at a time, months and totals stay.
func TestPrune(t *testing.T) {
	c := &clock{noon}
	s := open(t, filepath.Join(t.TempDir(), "usage.db"), Options{
		Now: c.now, Retention: usage.Retention{Hours: 24 * time.Hour, Days: 10 * 24 * time.Hour},
	})
	var many []usage.Record
	for i := range 2 * pruned {
		many = append(many, attempt(fmt.Sprint("client", i), noon))
	}
	apply(t, s, many...)
	apply(t, s, attempt("ann", noon.Add(time.Hour)))

	keys := func(table usage.Table) (n int) {
		s.db.View(func(tx *bbolt.Tx) error {
			n = tx.Bucket(tableBuckets[table]).Stats().KeyN
			return nil
		})
		return n
	}
	const clients = 2*pruned + 1
	if n := keys(usage.Hourly); n != clients {
		t.Fatalf("%d rows of hours, want %d", n, clients)
	}

	// A minute before the end of the first hour's retention all is there.
	c.Time = noon.Add(25*time.Hour - time.Minute)
	apply(t, s)
	if n, m := keys(usage.Hourly), len(rows(t, s, usage.Hourly, 0, noon)); n != clients || m != clients-1 {
		t.Fatalf("%d rows of hours, %d of the first, before the end of their retention", n, m)
	}
	// At the end nobody sees the hour any more, and it goes piece by piece.
	c.Time = noon.Add(25 * time.Hour)
	if n := len(rows(t, s, usage.Hourly, 0, noon)); n != 0 {
		t.Errorf("%d rows of an hour past its retention", n)
	}
	for _, want := range []int{pruned + 1, 1, 1} {
		apply(t, s)
		if n := keys(usage.Hourly); n != want {
			t.Errorf("%d rows of hours are left, want %d", n, want)
		}
	}
	if n := len(rows(t, s, usage.Hourly, 0, noon.Add(time.Hour))); n != 1 {
		t.Errorf("the next hour has %d rows, want 1", n)
	}

	c.Time = noon.Add(12 * 24 * time.Hour)
	for range 5 {
		apply(t, s)
	}
	if h, d, by := keys(usage.Hourly), keys(usage.Daily), keys(usage.DailyBy); h+d+by != 0 {
		t.Errorf("left are %d rows of hours, %d of days, %d of days by dimension", h, d, by)
	}
	if n := len(rows(t, s, usage.MonthlyBy, usage.Client, noon)); n != clients {
		t.Errorf("the month has %d clients, want %d", n, clients)
	}
	if b, err := usage.Weigh(t.Context(), s); err != nil || !b.Even() || b.Streams[usage.Attempts] != clients {
		t.Errorf("months and totals: %+v, %v", b, err)
	}
}

// TestLaterFields plants what a later version adds and sees it survive.
func TestLaterFields(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"), Options{})
	apply(t, s, attempt("ann", time.Now()))
	later := binary.AppendVarint(binary.AppendUvarint(nil, 200), 77)
	each := func(f func(b *bbolt.Bucket, k, v []byte) error) {
		t.Helper()
		err := s.db.Update(func(tx *bbolt.Tx) error {
			for _, name := range append(tableBuckets[:], streamsBucket) {
				b := tx.Bucket(name)
				all := make(map[string][]byte)
				b.ForEach(func(k, v []byte) error { all[string(k)] = slices.Clone(v); return nil })
				for k, v := range all {
					if err := f(b, []byte(k), v); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	each(func(b *bbolt.Bucket, k, v []byte) error { return b.Put(k, append(v, later...)) })
	if p := apply(t, s, attempt("ann", time.Now())); p.Totals[usage.Attempts] != 2 {
		t.Errorf("totals %v", p.Totals)
	}
	n := 0
	each(func(b *bbolt.Bucket, k, v []byte) error {
		n++
		if !strings.HasSuffix(string(v), string(later)) {
			return fmt.Errorf("%q has %x and no longer ends in %x", k, v, later)
		}
		return nil
	})
	if n < 13 {
		t.Errorf("only %d values", n)
	}
}

// TestForeignValue plants something else in the place of one row's counters.
func TestForeignValue(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"), Options{Now: (&clock{noon}).now})
	apply(t, s, attempt("ann", noon), attempt("bob", noon))
	ann := usage.Key{"ann", "g", "u", "k", "m"}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(tableBuckets[usage.Hourly]).Put(rowKey(nil, usage.Hourly, 0, noon, &ann), []byte("no counters"))
	})
	if err != nil {
		t.Fatal(err)
	}
	p := apply(t, s, attempt("ann", noon), attempt("bob", noon))
	raised := attempt("ann", noon)
	c := raised.Counts()
	n := uint64(0)
	for _, v := range c {
		if v != 0 {
			n++
		}
	}
	if p.DeadLetters != n {
		t.Errorf("%d dead letters, want %d", p.DeadLetters, n)
	}
	got := rows(t, s, usage.Hourly, 0, noon)
	if bob := got[usage.Key{"bob", "g", "u", "k", "m"}]; len(got) != 1 || bob[usage.Attempts] != 2 {
		t.Errorf("rows %v", got)
	}
	if b, err := usage.Weigh(t.Context(), s); err != nil || !b.Even() || b.DeadLetters != n {
		t.Errorf("the other tables: %v", err)
	}
	a, err := s.Audit(t.Context())
	if err != nil || len(a.DeadLetters) != int(n) || !strings.Contains(a.DeadLetters[0].Where, `"ann"`) {
		t.Errorf("dead letters: %+v, %v", a.DeadLetters, err)
	}
}

// TestDamaged garbles an open file: calls fail and the process lives.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	s := open(t, path, Options{Now: (&clock{noon}).now})
	for i := range 100 {
		apply(t, s, attempt(fmt.Sprint("client", i), noon))
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := 2 * os.Getpagesize(); i < len(content); i++ {
		content[i] ^= 0x5a
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}

	b := usage.Batch{Stream: stream, From: 100, To: 101}
	r := attempt("ann", noon)
	b.Add(&r)
	_, hello := s.Hello(t.Context(), stream)
	_, apply := s.Apply(t.Context(), &b)
	scan := s.Scan(t.Context(), usage.Hourly, 0, noon, func(usage.Key, *usage.Counts) bool { return true })
	_, again := s.Apply(t.Context(), &b)
	for name, err := range map[string]error{"Hello": hello, "Apply": apply, "Scan": scan, "Apply again": again} {
		if !errors.Is(err, usage.ErrForeign) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s of a damaged store: %v", name, err)
		}
	}
}

// TestDamagedWhileWriting is the worst case: bbolt panics with its writer's lock
// held, and again when it undoes the transaction.
func TestDamagedWhileWriting(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"), Options{})
	err := s.run(t.Context(), func(func(*bbolt.Tx) error) error {
		_, err := s.db.Begin(true) // and never ended
		if err != nil {
			return err
		}
		panic("page 7: not a leaf")
	}, nil)
	_, again := s.Apply(t.Context(), &usage.Batch{To: 1})
	for _, err := range []error{err, again} {
		if !errors.Is(err, usage.ErrForeign) {
			t.Errorf("got %v, want ErrForeign", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestScanPanic sees that a panic of the caller's own stays one.
func TestScanPanic(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"), Options{Now: (&clock{noon}).now})
	apply(t, s, attempt("ann", noon))
	defer func() {
		if p := recover(); p != "mine" {
			t.Errorf("recovered %v", p)
		}
	}()
	s.Scan(t.Context(), usage.Hourly, 0, noon, func(usage.Key, *usage.Counts) bool { panic("mine") })
}

func BenchmarkApply(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "usage.db"), Options{})
	now := time.Now()
	var seq uint64
	for b.Loop() {
		batch := usage.Batch{Stream: stream, From: seq, To: seq + 1}
		for i := range 1000 {
			r := attempt(fmt.Sprint("client", i%20), now)
			r.Model = fmt.Sprint("model", i%5)
			batch.Add(&r)
		}
		if _, err := s.Apply(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
		seq++
	}
}
