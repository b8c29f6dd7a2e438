package redisstore

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/redisstore/redistest"
)

// A stream that nobody has used for 90 days is summed up with others of its kind:
// once, however many instances look, and the store stays in balance.
func TestRetire(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, Config{URL: server.URL()})
	l := &log{t: t}
	l.add(30, time.Now())
	p := l.send(s, 10)
	idle := func(id usage.StreamID, d time.Duration) {
		server.Do("HSET", s.keys.cursor(id), "seen", strconv.FormatInt(time.Now().Add(-d).Unix(), 10))
	}
	weigh := func() usage.Audit {
		t.Helper()
		b, err := usage.Weigh(t.Context(), s)
		if err != nil || !b.Even() || b.Streams != p.Totals {
			t.Errorf("%+v, %v", b, err)
		}
		a, err := s.Audit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	look := func() {
		t.Helper()
		var wg sync.WaitGroup
		for range 5 {
			one := open(t, Config{URL: server.URL()})
			wg.Go(func() {
				if _, err := one.Hello(t.Context(), usage.StreamID{99}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	idle(stream, usage.StreamLife-time.Minute)
	look()
	if a := weigh(); len(a.Streams) != 1 || !a.Retired.IsZero() {
		t.Errorf("before its time: %+v", a)
	}
	// An instance that has nothing to tell still greets.
	if _, err := s.Hello(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	if a := weigh(); time.Since(a.Streams[0].Seen) > time.Hour {
		t.Errorf("a greeting does not count as use: %+v", a.Streams)
	}

	server.Do("HSET", s.keys.cursor(stream), "dead", "2")
	idle(stream, usage.StreamLife+time.Minute)
	look()
	if a := weigh(); len(a.Streams) != 0 || a.Retired != p.Totals || a.RetiredLetters != 2 {
		t.Errorf("%+v", a)
	}
	if n := server.Do("EXISTS", s.keys.cursor(stream)); n != "0" {
		t.Error("the position is still there")
	}
	// The store is the same and does not know the stream: it must not begin anew.
	if g, err := s.Hello(t.Context(), stream); err != nil || g.Known || !g.Lost {
		t.Errorf("%+v, %v", g, err)
	}
	// Others go on as they were, and join it in their time.
	later := &log{t: t, id: usage.StreamID{7}}
	later.add(5, time.Now())
	q := later.send(s, 5)
	p.Totals.Add(&q.Totals)
	weigh()
	idle(later.id, 2*usage.StreamLife)
	look()
	if a := weigh(); len(a.Streams) != 0 || a.Retired != p.Totals {
		t.Errorf("%+v", a)
	}
	if n := server.Do("HGET", s.keys.retired(), "streams"); n != "2" {
		t.Errorf("%s streams were retired", n)
	}
}

// What is no counter stays as it is.
func TestRetireLeavesWhatItCannotSum(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, Config{URL: server.URL()})
	l := &log{t: t}
	l.add(3, time.Now())
	l.send(s, 3)
	server.Do("HSET", s.keys.cursor(stream), "seen", "1", "5", "much")
	before := dump(server)
	if _, err := s.Hello(t.Context(), usage.StreamID{99}); err != nil {
		t.Fatal(err)
	}
	if after := dump(server); len(after) != len(before) || server.Do("EXISTS", s.keys.retired()) != "0" {
		t.Errorf("%q, before %q", after, before)
	}
}
