//go:build unix

package redisstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/redisstore/redistest"
	"github.com/floway/floway/usage/storetest"
)

func TestStore(t *testing.T) {
	server := redistest.Start(t)
	var count atomic.Int64 // a namespace for each test
	storetest.Run(t, func(t testing.TB) usage.Store {
		return open(t, Config{URL: server.URL(), Namespace: "test" + strconv.FormatInt(count.Add(1), 10)})
	})
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var stream = usage.StreamID{1}

func attempt(client string, at time.Time) usage.Record {
	return usage.Record{
		Time: at, Client: client, Group: "g", Upstream: "u", Key: "k", Model: "m",
		Outcome: usage.Served, Final: true, Source: usage.Upstream, Tokens: usage.Tokens{Input: 1, Output: 2},
	}
}

// increments is how many counters of a row an attempt raises.
var increments = func() (n uint64) {
	r := attempt("", time.Now())
	for _, v := range r.Counts() {
		if v != 0 {
			n++
		}
	}
	return n
}()

// log is a stream of attempts that are to be counted once each, as a ledger is:
// attempt i has the sequence number i+1.
type log struct {
	t       testing.TB
	id      usage.StreamID // stream by default
	records []usage.Record
	errors  int
}

func (l *log) stream() usage.StreamID {
	if l.id != (usage.StreamID{}) {
		return l.id
	}
	return stream
}

func (l *log) add(n int, at time.Time) {
	for range n {
		l.records = append(l.records, attempt(fmt.Sprint("client", len(l.records)%5), at))
	}
}

// send brings the store up to the end of the log, whatever goes wrong on the way,
// as ledgers do: after an error it asks where the store stands and goes on there.
func (l *log) send(s usage.Store, size int) usage.Position {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		g, err := s.Hello(l.t.Context(), l.stream())
		p := g.Position
		for p.Seq < uint64(len(l.records)) && err == nil {
			b := l.batch(p.Seq, size)
			p, err = s.Apply(l.t.Context(), b)
			if errors.Is(err, usage.ErrMismatch) {
				err = nil // p is where to go on
			}
		}
		if err == nil {
			return p
		}
		l.errors++
		if time.Now().After(deadline) {
			l.t.Fatalf("the store does not get to the end of the log: %v", err)
		}
		time.Sleep(time.Millisecond) // as one who tries again should
	}
}

func (l *log) batch(from uint64, size int) *usage.Batch {
	to := min(from+uint64(size), uint64(len(l.records)))
	b := &usage.Batch{Stream: l.stream(), Epoch: 1, From: from, To: to, Chain: uint32(to) * 7}
	for i := from; i < to; i++ {
		b.Add(&l.records[i])
	}
	return b
}

// check holds the sums against the log.
func (l *log) check(s usage.Store) {
	l.t.Helper()
	want := make(map[usage.Key]usage.Counts)
	at := make(map[time.Time]bool)
	for i := range l.records {
		r := &l.records[i]
		key := usage.Key{usage.Client: r.Client}
		sum, c := want[key], r.Counts()
		sum.Add(&c)
		want[key] = sum
		at[usage.MonthlyBy.Start(r.Time)] = true
	}
	got := make(map[usage.Key]usage.Counts)
	for month := range at {
		for k, c := range rows(l.t, s, usage.MonthlyBy, usage.Client, month) {
			sum := got[k]
			sum.Add(&c)
			got[k] = sum
		}
	}
	if !maps.Equal(got, want) {
		l.t.Errorf("the sums are not those of the log:\n%v\nwant\n%v", got, want)
	}
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

// TestKilledServer kills a server that keeps everything: sums and position come
// back together, and nothing counts twice or not at all.
func TestKilledServer(t *testing.T) {
	server := redistest.Start(t, redistest.Persistent())
	s := open(t, Config{URL: server.URL()})
	l := &log{t: t}
	for range 4 {
		l.add(20, time.Now())
		before := l.send(s, 3)
		server.Kill()
		server.Restart()
		if g, err := hello(t, s); err != nil || g.Position != before {
			t.Errorf("after the kill the store stands at %+v, %v; before at %+v", g.Position, err, before)
		}
	}
	l.check(s)
}

// hello tries until the client library has noticed that connections broke.
func hello(t testing.TB, s *Store) (g usage.Greeting, err error) {
	for range 2 * connections {
		if g, err = s.Hello(t.Context(), stream); err == nil {
			break
		}
	}
	return g, err
}

// TestRollback puts a server back to an older copy: it says so by its position,
// keeps its name, and is brought up again from there.
func TestRollback(t *testing.T) {
	server := redistest.Start(t, redistest.Persistent())
	s := open(t, Config{URL: server.URL()})
	l := &log{t: t}
	l.add(10, time.Now())
	older := l.send(s, 4)
	genesis, err := hello(t, s)
	if err != nil {
		t.Fatal(err)
	}
	server.Stop()
	files := server.Files()
	server.Restart()

	l.add(15, time.Now())
	l.send(s, 4)
	server.Kill()
	server.Restore(files)
	server.Restart()

	g, err := hello(t, s)
	if err != nil || g.Genesis != genesis.Genesis || g.Position != older {
		t.Fatalf("after the rollback: %+v, %v; want %+v", g, err, older)
	}
	if p, err := s.Apply(t.Context(), l.batch(20, 5)); !errors.Is(err, usage.ErrMismatch) || p != older {
		t.Errorf("going on where the store stood before: %+v, %v", p, err)
	}
	l.send(s, 7)
	l.check(s)
}

// TestWiped tells a wiped server from one that only lost a cursor.
func TestWiped(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, Config{URL: server.URL()})
	l := &log{t: t}
	l.add(10, time.Now())
	l.send(s, 4)
	before, err := hello(t, s)
	if err != nil {
		t.Fatal(err)
	}

	server.Do("DEL", s.keys.cursor(stream))
	g, err := hello(t, s)
	if err != nil || g.Known || !g.Lost || g.Genesis != before.Genesis {
		t.Errorf("without the cursor: %+v, %v", g, err)
	}
	if p, err := s.Apply(t.Context(), l.batch(10, 1)); !errors.Is(err, usage.ErrMismatch) || p.Seq != 0 {
		t.Errorf("a batch after the cursor is gone: %+v, %v", p, err)
	}

	server.Do("FLUSHALL")
	g, err = hello(t, s)
	if err != nil || g.Known || g.Lost || g.Genesis == before.Genesis {
		t.Errorf("after a wipe: %+v, %v", g, err)
	}
	l.send(s, 4)
	l.check(s)

	// Wiped between two calls of a ledger that knows it is at the beginning.
	server.Do("FLUSHALL")
	if _, err := s.Apply(t.Context(), l.batch(0, 10)); err != nil {
		t.Fatal(err)
	}
	if got := server.Do("GET", s.keys.genesis()); !strings.HasPrefix(got, layout+" ") {
		t.Errorf("a batch on an empty server left it with the name %q", got)
	}
}

// TestLostReplies loses answers of batches that were applied. The client library
// tries again by itself, and so does the log.
func TestLostReplies(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	s := open(t, Config{URL: "redis://" + proxy.Addr})
	l := &log{t: t}
	l.add(60, time.Now())
	dice := rand.New(rand.NewPCG(1, 2))
	proxy.Lose(func() bool { return dice.IntN(10) < 6 }) // the proxy asks one at a time
	l.send(s, 2)
	proxy.Lose(nil)
	if l.errors == 0 {
		t.Error("no call failed: the test tests nothing")
	}
	l.check(s)
}

// TestScriptsForgotten makes the server forget the scripts.
func TestScriptsForgotten(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, Config{URL: server.URL()})
	l := &log{t: t}
	for range 3 {
		l.add(2, time.Now())
		l.send(s, 1)
		server.Do("SCRIPT", "FLUSH")
	}
	if l.errors > 0 {
		t.Errorf("%d errors", l.errors)
	}
	l.check(s)
}

// TestOtherNamespace keeps two namespaces of one server apart.
func TestOtherNamespace(t *testing.T) {
	server := redistest.Start(t)
	one, two := open(t, Config{URL: server.URL(), Namespace: "one"}), open(t, Config{URL: server.URL(), Namespace: "two"})
	l := &log{t: t}
	l.add(5, time.Now())
	l.send(one, 2)
	if g, err := two.Hello(t.Context(), stream); err != nil || g.Known {
		t.Errorf("%+v, %v", g, err)
	}
	for key := range strings.SplitSeq(server.Do("KEYS", "*"), "\n") {
		if !strings.HasPrefix(key, "fl:{one}:") && key != "fl:{two}:gen" {
			t.Errorf("key %q", key)
		}
	}
}

// TestForeignValues plants values of other kinds under the keys. What can still
// be booked is booked exactly, the rest is put aside.
func TestForeignValues(t *testing.T) {
	server := redistest.Start(t)
	start := func(t *testing.T) (*Store, *log) {
		server.Do("FLUSHALL")
		s := open(t, Config{URL: server.URL()})
		l := &log{t: t}
		now := time.Now()
		l.records = []usage.Record{attempt("ann", now), attempt("bob", now)}
		l.send(s, 2)
		l.records = append(l.records, attempt("ann", now), attempt("bob", now))
		return s, l
	}
	hour := func(l *log, s *Store) string { return s.keys.index(usage.Hourly, 0, l.records[0].Time) }
	const ann = ":ann|g|u|k|m"

	for name, c := range map[string]struct {
		plant func(s *Store, l *log)
		dead  uint64
	}{
		"a string for a row": {func(s *Store, l *log) {
			server.Do("DEL", hour(l, s)+ann)
			server.Do("SET", hour(l, s)+ann, "x")
		}, increments},
		"a list for a row": {func(s *Store, l *log) {
			server.Do("DEL", hour(l, s)+ann)
			server.Do("RPUSH", hour(l, s)+ann, "x")
		}, increments},
		"text for a counter": {func(s *Store, l *log) {
			server.Do("HSET", hour(l, s)+ann, strconv.Itoa(int(usage.InputTokens)), "many")
		}, 1},
		"a counter at its end": {func(s *Store, l *log) {
			server.Do("HSET", hour(l, s)+ann, strconv.Itoa(int(usage.InputTokens)), strconv.Itoa(math.MaxInt64))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := start(t)
			c.plant(s, l)
			p := l.send(s, 2)
			if p.Seq != 4 || p.DeadLetters != c.dead {
				t.Errorf("the store stands at %d with %d dead letters, want 4 with %d", p.Seq, p.DeadLetters, c.dead)
			}
			a, err := s.Audit(t.Context())
			if err != nil || uint64(len(a.DeadLetters)) != c.dead {
				t.Fatalf("dead letters %+v, %v", a.DeadLetters, err)
			}
			for _, d := range a.DeadLetters {
				if d.Where != hour(l, s)+ann || d.Reason == "" || d.Stream != stream || time.Since(d.Time).Abs() > time.Hour {
					t.Errorf("dead letter %+v", d)
				}
			}
			l.check(s) // by month and client all is exact
			bob := rows(t, s, usage.Hourly, 0, l.records[0].Time)[usage.Key{"bob", "g", "u", "k", "m"}]
			if bob[usage.Attempts] != 2 || bob[usage.InputTokens] != 2 {
				t.Errorf("the other row has %v", bob)
			}
		})
	}

	t.Run("a string for the index of a bucket", func(t *testing.T) {
		s, l := start(t)
		server.Do("DEL", hour(l, s))
		server.Do("SET", hour(l, s), "x")
		if p := l.send(s, 2); p.Seq != 4 || p.DeadLetters != 2*increments {
			t.Errorf("the store stands at %d with %d dead letters, want 4 with %d", p.Seq, p.DeadLetters, 2*increments)
		}
		err := s.Scan(t.Context(), usage.Hourly, 0, usage.Hourly.Start(l.records[0].Time), func(usage.Key, *usage.Counts) bool { return true })
		if !errors.Is(err, usage.ErrForeign) {
			t.Errorf("reading that bucket: %v", err)
		}
		l.check(s)
	})

	t.Run("something for the dead letters", func(t *testing.T) {
		s, l := start(t)
		server.Do("HSET", hour(l, s)+ann, strconv.Itoa(int(usage.InputTokens)), "many")
		server.Do("SET", s.keys.letters(), "x")
		if p := l.send(s, 2); p.Seq != 4 || p.DeadLetters != 1 {
			t.Errorf("the store stands at %d with %d dead letters, want 4 with 1", p.Seq, p.DeadLetters)
		}
		if _, err := s.Audit(t.Context()); !errors.Is(err, usage.ErrForeign) || !strings.Contains(err.Error(), s.keys.letters()) {
			t.Errorf("audit: %v", err)
		}
		l.check(s)
	})

	t.Run("many dead letters", func(t *testing.T) {
		s, l := start(t)
		for range 2 * usage.MaxDeadLetters / increments {
			server.Do("SET", hour(l, s)+ann, "x")
			l.records = append(l.records, l.records[0])
			l.send(s, 2)
		}
		if n := server.Do("LLEN", s.keys.letters()); n != strconv.Itoa(usage.MaxDeadLetters) {
			t.Errorf("%s dead letters are kept, want %d", n, usage.MaxDeadLetters)
		}
		if ttl := server.Do("TTL", s.keys.letters()); ttl == "-1" {
			t.Error("dead letters are kept for ever")
		}
		l.check(s)
	})

	t.Run("something for late sums", func(t *testing.T) {
		s, l := start(t)
		server.Do("SET", s.keys.late(), "x")
		l.records = append(l.records, attempt("ann", time.Now().AddDate(0, 0, -60)))
		if p := l.send(s, 3); p.Seq != 5 || p.DeadLetters != increments {
			t.Errorf("the store stands at %d with %d dead letters, want 5 with %d", p.Seq, p.DeadLetters, increments)
		}
		l.check(s)
	})

	// Where these are not ours nothing can be done, and nothing is.
	for name, key := range map[string]func(s *Store) string{
		"genesis": func(s *Store) string { return s.keys.genesis() },
		"cursor":  func(s *Store) string { return s.keys.cursor(stream) },
		"streams": func(s *Store) string { return s.keys.streams() },
		"months":  func(s *Store) string { return s.keys.months() },
	} {
		t.Run("something for the "+name, func(t *testing.T) {
			s, l := start(t)
			before := dump(server)
			saved := server.Do("DUMP", key(s))
			server.Do("DEL", key(s))
			server.Do("RPUSH", key(s), "x")
			_, err := s.Apply(t.Context(), l.batch(2, 2))
			if !errors.Is(err, usage.ErrForeign) || !strings.Contains(err.Error(), key(s)) {
				t.Errorf("got %v, want ErrForeign and the key's name", err)
			}
			server.Do("DEL", key(s))
			server.Do("RESTORE", key(s), "0", saved)
			if after := dump(server); !slices.Equal(after, before) {
				t.Errorf("something was written:\n%q\nbefore\n%q", after, before)
			}
			l.send(s, 2)
			l.check(s)
		})
	}

	t.Run("a genesis of a later version", func(t *testing.T) {
		s, l := start(t)
		server.Do("SET", s.keys.genesis(), "2 ABC")
		_, err := s.Apply(t.Context(), l.batch(2, 2))
		if !errors.Is(err, usage.ErrNewer) {
			t.Errorf("Apply: %v, want ErrNewer", err)
		}
		if _, err := s.Hello(t.Context(), stream); !errors.Is(err, usage.ErrNewer) {
			t.Errorf("Hello: %v, want ErrNewer", err)
		}
		server.Do("SET", s.keys.genesis(), "hello")
		if _, err := s.Hello(t.Context(), stream); !errors.Is(err, usage.ErrForeign) {
			t.Errorf("Hello: %v, want ErrForeign", err)
		}
	})
}

// dump is all that the server holds, in order.
func dump(server *redistest.Server) []string {
	var all []string
	for key := range strings.SplitSeq(server.Do("KEYS", "fl:*"), "\n") {
		value := ""
		switch server.Do("TYPE", key) {
		case "hash":
			value = server.Do("HGETALL", key)
		case "set":
			value = server.Do("SORT", key, "ALPHA")
		case "string":
			value = server.Do("GET", key)
		}
		all = append(all, key+"\n"+value)
	}
	slices.Sort(all)
	return all
}

// TestExpiry sees that keys go at the end of their own bucket, however late they
// were written.
func TestExpiry(t *testing.T) {
	server := redistest.Start(t)
	keep := usage.Retention{Hours: 48 * time.Hour, Days: 96 * time.Hour}
	s := open(t, Config{URL: server.URL(), Retention: keep})
	l := &log{t: t}
	at := time.Now().Add(-30 * time.Hour)
	l.records = []usage.Record{attempt("ann", at)}
	l.send(s, 1)
	l.records = append(l.records, attempt("ann", at))
	l.send(s, 1)
	for index, want := range map[string]time.Time{
		s.keys.index(usage.Hourly, 0, at):                 usage.Hourly.Start(at).Add(49 * time.Hour),
		s.keys.index(usage.Daily, 0, at):                  usage.Daily.Start(at).Add(120 * time.Hour),
		s.keys.index(usage.DailyBy, usage.Model, at):      usage.Daily.Start(at).Add(120 * time.Hour),
		s.keys.index(usage.MonthlyBy, usage.Model, at):    {},
		s.keys.index(usage.MonthlyBy, usage.KeyLabel, at): {},
	} {
		text := "-1"
		if !want.IsZero() {
			text = strconv.FormatInt(want.Unix(), 10)
		}
		row := index + ":" + server.Do("SRANDMEMBER", index)
		for _, key := range []string{index, row} {
			if got := server.Do("EXPIRETIME", key); got != text {
				t.Errorf("%s expires at %s, want %s", key, got, text)
			}
		}
	}
	for _, key := range []string{s.keys.genesis(), s.keys.streams(), s.keys.months(), s.keys.cursor(stream)} {
		if got := server.Do("EXPIRETIME", key); got != "-1" {
			t.Errorf("%s expires at %s", key, got)
		}
	}
}

// TestLargeScan reads a bucket of many pages while it is written to.
func TestLargeScan(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, Config{URL: server.URL()})
	now := time.Now()
	l := &log{t: t}
	for i := range 3*page + 7 {
		l.records = append(l.records, attempt(fmt.Sprint("client", i), now))
	}
	l.send(s, 40)
	seen := make(map[usage.Key]int)
	more := *l
	err := s.Scan(t.Context(), usage.DailyBy, usage.Client, usage.Daily.Start(now), func(k usage.Key, c *usage.Counts) bool {
		if len(seen)%100 == 0 {
			for i := range 20 {
				more.records = append(more.records, attempt(fmt.Sprint("late", len(more.records), i), now))
			}
			more.send(s, 20)
		}
		seen[k]++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range l.records {
		if n := seen[usage.Key{usage.Client: r.Client}]; n != 1 {
			t.Errorf("%s came %d times", r.Client, n)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	server := redistest.Start(b)
	s := open(b, Config{URL: server.URL()})
	now := time.Now()
	for name, clients := range map[string]int{"1000 settles, 100 rows": 20, "4096 increments": 1 << 30} {
		b.Run(name, func(b *testing.B) {
			id := usage.StreamID{byte(clients)}
			var seq uint64
			for b.Loop() {
				batch := usage.Batch{Stream: id, From: seq, To: seq + 1}
				for i := 0; i < 1000 && !batch.Full(usage.MaxIncrements); i++ {
					r := attempt(fmt.Sprint("client", i%clients), now)
					r.Model, r.FirstByte = fmt.Sprint("model", i%5), time.Second
					batch.Add(&r)
				}
				if _, err := s.Apply(context.Background(), &batch); err != nil {
					b.Fatal(err)
				}
				seq++
			}
		})
	}
}
