package ledger

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

// fickle is a store whose calls can be made to fail, before or after they had
// their effect.
type fickle struct {
	*storetest.Memory
	calls, applied atomic.Int64

	mu    sync.Mutex
	apply func(b *usage.Batch) (before, after error)
	hello func(g *usage.Greeting) error
}

func newFickle() *fickle { return &fickle{Memory: storetest.NewMemory()} }

func (s *fickle) Hello(ctx context.Context, id usage.StreamID) (usage.Greeting, error) {
	s.calls.Add(1)
	g, err := s.Memory.Hello(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.hello != nil {
		err = s.hello(&g)
	}
	return g, err
}

func (s *fickle) Apply(ctx context.Context, b *usage.Batch) (usage.Position, error) {
	s.calls.Add(1)
	var before, after error
	s.mu.Lock()
	if s.apply != nil {
		before, after = s.apply(b)
	}
	s.mu.Unlock()
	if before != nil {
		return usage.Position{}, before
	}
	p, err := s.Memory.Apply(ctx, b)
	if err == nil {
		s.applied.Add(1)
		err = after
	}
	return p, err
}

func (s *fickle) onApply(f func(b *usage.Batch) (before, after error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply = f
}

// copyDir copies a log as a backup of its disk does.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	for {
		to := t.TempDir()
		err := os.CopyFS(to, os.DirFS(dir))
		if err == nil {
			return to
		}
		if !errors.Is(err, os.ErrNotExist) { // a file went meanwhile
			t.Fatal(err)
		}
	}
}

func streams(t testing.TB, s usage.Store) int {
	t.Helper()
	a, err := s.Audit(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return len(a.Streams)
}

func TestLostRepliesDoNotDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		rnd, pause := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4))
		store.onApply(func(*usage.Batch) (before, after error) {
			switch n := rnd.IntN(10); {
			case n < 3:
				return nil, errors.New("the reply got lost")
			case n < 5:
				return errors.New("the request got lost"), nil
			}
			return nil, nil
		})
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		for i := range 50 {
			a.attempts(t, l, 20*i, 20*i+19)
			time.Sleep(time.Duration(pause.IntN(500)) * time.Millisecond)
		}
		flush(t, l)
		a.check(t, store)
		if v := verify(t, l); !v.Equal() {
			t.Errorf("%+v", v)
		}
		shut(t, l)
	})
}

func TestBatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, dir := newFickle(), t.TempDir()
		largest := 0
		store.onApply(func(b *usage.Batch) (before, after error) {
			largest = max(largest, b.Increments())
			return nil, nil
		})
		l := open(t, Config{Dir: dir, Store: down{}})
		var a account
		for n := range 500 {
			r := attemptNo(n)
			r.Client = string(rune('A' + n))
			if err := l.Reserve(r); err != nil {
				t.Fatal(err)
			}
			end(r, n)
			l.Settle(r)
			a.add(r)
		}
		closeNow(t, l)
		l = open(t, Config{Dir: dir, Store: store})
		flush(t, l)
		a.check(t, store)
		if largest > usage.MaxIncrements || largest < usage.MaxIncrements/2 || store.applied.Load() < 5 {
			t.Errorf("%d batches of up to %d increments", store.applied.Load(), largest)
		}
		shut(t, l)
	})
}

func TestRollbackIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		a.attempts(t, l, 1, 100)
		flush(t, l)
		snapshot := store.Snapshot()
		a.attempts(t, l, 101, 200)
		flush(t, l)
		store.Restore(snapshot)
		a.attempts(t, l, 201, 210)
		flush(t, l)
		a.check(t, store)

		// Also while nothing is going on, within the time of one check.
		store.Restore(snapshot)
		time.Sleep(checkEvery + 2*flushEvery)
		a.check(t, store)
		if v := verify(t, l); !v.Equal() || streams(t, store) != 1 {
			t.Errorf("%+v", v)
		}
		shut(t, l)

		// And while no process runs.
		store.Restore(snapshot)
		l = open(t, Config{Dir: l.cfg.Dir, Store: store})
		flush(t, l)
		a.check(t, store)
		shut(t, l)
	})
}

// rotateAway writes attempts until a log of small segments has let its first ones
// go.
func rotateAway(t *testing.T, l *Ledger, a *account) {
	t.Helper()
	for n := 0; ; n++ {
		a.attempts(t, l, 1000*n, 1000*n+999)
		flush(t, l)
		time.Sleep(time.Second)
		l.mu.Lock()
		oldest := l.segments[0].first
		l.mu.Unlock()
		if oldest > 1 {
			return
		}
		if n == 100 {
			t.Fatal("no segment goes")
		}
	}
}

func TestRollbackBeyondTheLogIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		l := open(t, Config{
			Dir: t.TempDir(), Store: store,
			SegmentBytes: minSegmentBytes, KeepFor: time.Nanosecond, KeepBytes: 1,
		})
		var a account
		a.attempts(t, l, 1, 10)
		flush(t, l)
		snapshot := store.Snapshot()
		rotateAway(t, l, &a)
		if v := verify(t, l); !v.Equal() || v.Unsure || v.Log != a.sum {
			t.Errorf("after segments went: %+v", v)
		}
		store.Restore(snapshot)
		time.Sleep(2 * checkEvery)
		a.attempts(t, l, 1, 10)
		flush(t, l)
		s := l.Stats()
		got := totals(t, store)
		if s.Gaps != 1 || s.Missing == 0 || got[usage.Attempts] >= a.sum[usage.Attempts] || got[usage.Attempts] < 20 {
			t.Errorf("%d of %d attempts: %+v", got[usage.Attempts], a.sum[usage.Attempts], s)
		}
		if v := verify(t, l); !v.Equal() {
			t.Errorf("%+v", v)
		}
		shut(t, l)
		told := false
		Read(l.cfg.Dir, func(e Entry) error {
			told = told || e.Kind == Missing && e.To-e.From+1 == s.Missing
			return nil
		})
		if !told {
			t.Error("the log does not tell of the gap")
		}
	})
}

func TestWipedStoreIsFilledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		a.attempts(t, l, 1, 100)
		flush(t, l)
		store.Wipe()
		time.Sleep(checkEvery + 2*flushEvery)
		a.check(t, store)
		store.Wipe()
		a.attempts(t, l, 101, 200)
		flush(t, l)
		a.check(t, store)
		shut(t, l)
		store.Wipe()
		l = open(t, Config{Dir: l.cfg.Dir, Store: store})
		flush(t, l)
		a.check(t, store)
		if v := verify(t, l); !v.Equal() {
			t.Errorf("%+v", v)
		}
		shut(t, l)
	})
}

func TestWipeBeyondTheLogIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		l := open(t, Config{
			Dir: t.TempDir(), Store: store,
			SegmentBytes: minSegmentBytes, KeepFor: time.Nanosecond, KeepBytes: 1,
		})
		var a account
		rotateAway(t, l, &a)
		store.Wipe()
		time.Sleep(2 * checkEvery)
		flush(t, l)
		s, got := l.Stats(), totals(t, store)
		if s.Gaps != 1 || s.Missing == 0 || got[usage.Attempts] == 0 || got[usage.Attempts] >= a.sum[usage.Attempts] {
			t.Errorf("%d of %d attempts: %+v", got[usage.Attempts], a.sum[usage.Attempts], s)
		}
		if v := verify(t, l); !v.Equal() {
			t.Errorf("%+v", v)
		}
		shut(t, l)
	})
}

func TestLostPositionStopsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		a.attempts(t, l, 1, 100)
		flush(t, l)
		counted := rowsOf(t, store)
		store.Forget(l.Stats().Stream)
		time.Sleep(checkEvery + 2*flushEvery)
		if s := l.Stats(); s.Stopped != ErrPositionLost.Error() {
			t.Errorf("%+v", s)
		}
		a.attempts(t, l, 101, 150)
		if err := l.Flush(t.Context()); !errors.Is(err, ErrPositionLost) {
			t.Error(err)
		}
		if got := rowsOf(t, store); got != counted {
			t.Error("something was counted")
		}
		// A restart does not change what is known.
		if err := l.Close(t.Context()); !errors.Is(err, ErrPositionLost) {
			t.Error(err)
		}
		l = open(t, Config{Dir: l.cfg.Dir, Store: store})
		time.Sleep(time.Second)
		if s := l.Stats(); s.Stopped == "" || s.LagRecords == 0 {
			t.Errorf("%+v", s)
		}

		if err := l.Resume(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		flush(t, l)
		if got := rowsOf(t, store); got != a.sum {
			t.Errorf("after the stream was resumed: %v", got)
		}
		if s := l.Stats(); s.Stopped != "" {
			t.Errorf("%+v", s)
		}
		shut(t, l)
	})
}

// A store that goes back to a time before it had anything of the stream has lost
// its sums together with its position: they are sent again.
func TestRollbackBeforeTheFirstBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		if _, err := store.Hello(t.Context(), usage.StreamID{1}); err != nil { // it has a name
			t.Fatal(err)
		}
		snapshot := store.Snapshot()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		a.attempts(t, l, 1, 100)
		flush(t, l)
		store.Restore(snapshot)
		time.Sleep(checkEvery + 2*flushEvery)
		if s := l.Stats(); s.Stopped != "" {
			t.Errorf("%+v", s)
		}
		a.attempts(t, l, 101, 110)
		flush(t, l)
		a.check(t, store)
		shut(t, l)
	})
}

// rowsOf adds up all hours of a store that the tests count in.
func rowsOf(t testing.TB, s usage.Store) (sum usage.Counts) {
	t.Helper()
	now := usage.Hourly.Start(time.Now())
	for h := -200; h <= 2; h++ {
		err := s.Scan(context.Background(), usage.Hourly, 0, now.Add(time.Duration(h)*time.Hour), func(_ usage.Key, c *usage.Counts) bool {
			sum.Add(c)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return sum
}

// A copy that goes on under the same name: the copy, opened later, takes the
// stream over; the original must not send under it any longer, and loses nothing.
func TestCopyFencesTheOriginal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		var a account
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		a.attempts(t, l, 1, 100)
		flush(t, l)

		c := open(t, Config{Dir: copyDir(t, l.cfg.Dir), Store: store})
		a.attempts(t, c, 101, 150)
		flush(t, c)
		a.attempts(t, l, 151, 300)
		if err := l.Flush(t.Context()); !errors.Is(err, ErrFenced) {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		a.attempts(t, c, 301, 310)
		flush(t, c)
		closeNowFenced(t, l)
		l = open(t, Config{Dir: l.cfg.Dir, Store: store})
		flush(t, l)
		a.check(t, store)
		if n := streams(t, store); n != 2 {
			t.Errorf("%d streams", n)
		}
		for _, l := range []*Ledger{l, c} {
			if v := verify(t, l); !v.Equal() {
				t.Errorf("%+v", v)
			}
			shut(t, l)
		}
	})
}

func closeNowFenced(t *testing.T, l *Ledger) {
	t.Helper()
	if err := l.Close(t.Context()); !errors.Is(err, ErrFenced) {
		t.Error(err)
	}
}

func TestFencedStreamCanBeResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		var a account
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		a.attempts(t, l, 1, 100)
		flush(t, l)
		c := open(t, Config{Dir: copyDir(t, l.cfg.Dir), Store: store})
		a.attempts(t, c, 101, 150)
		shut(t, c)
		time.Sleep(2 * checkEvery) // the check finds it, without a batch
		if s := l.Stats(); s.Stopped != ErrFenced.Error() {
			t.Errorf("%+v", s)
		}
		a.attempts(t, l, 151, 300)
		if err := l.Resume(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		flush(t, l)
		a.check(t, store)
		shut(t, l)
	})
}

// A copy that is made while the store lacks records: both the copy and the original
// have them, and they count once.
func TestCopyWithUnsentRecords(t *testing.T) {
	for name, goOn := range map[string]func(*testing.T, *Ledger, usage.Store) *Ledger{
		"restarted": func(t *testing.T, l *Ledger, s usage.Store) *Ledger {
			closeNowFenced(t, l)
			return open(t, Config{Dir: l.cfg.Dir, Store: s})
		},
		"resumed": func(t *testing.T, l *Ledger, _ usage.Store) *Ledger {
			if err := l.Resume(); err != nil {
				t.Error(err)
			}
			time.Sleep(checkEvery)
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, after := range []int{0, 150} { // attempts of the original behind the copy
				synctest.Test(t, func(t *testing.T) {
					store := newFickle()
					var a account
					l := open(t, Config{Dir: t.TempDir(), Store: store})
					a.attempts(t, l, 1, 100)
					flush(t, l)
					away := errors.New("away")
					store.mu.Lock()
					store.apply = func(*usage.Batch) (error, error) { return away, nil }
					store.mu.Unlock()
					a.attempts(t, l, 101, 150)
					time.Sleep(time.Second)
					c := open(t, Config{Dir: copyDir(t, l.cfg.Dir), Store: store})
					a.attempts(t, c, 151, 200)
					a.attempts(t, l, 201, 200+after)
					store.mu.Lock()
					store.apply = func(b *usage.Batch) (error, error) {
						if b.Epoch == 1 && b.Stream == c.Stats().Stream {
							return away, nil // the copy is first
						}
						return nil, nil
					}
					store.mu.Unlock()
					flush(t, c)
					store.mu.Lock()
					store.apply = nil
					store.mu.Unlock()
					time.Sleep(2 * checkEvery)
					if s := l.Stats(); s.Stopped != ErrFenced.Error() {
						t.Errorf("%+v", s)
					}
					l = goOn(t, l, store)
					a.attempts(t, l, 1001, 1010)
					flush(t, l)
					a.check(t, store)
					shut(t, l)
					shut(t, c)
				})
			}
		})
	}
}

// A copy whose original goes on: the copy finds the stream ahead of it.
func TestCopyBehindTheOriginalForks(t *testing.T) {
	for _, c := range []struct {
		name            string
		unsent          int  // attempts that were not in the store when the copy was made
		again, unseen   bool // the original was opened again; the copy was, without the store
		closedByTheCopy bool
	}{
		{name: "as it ran"},
		{name: "with a tail that the original sent", unsent: 50},
		{name: "and was opened again", again: true, unsent: 20},
		{name: "and the copy ran without the store first", unseen: true, unsent: 20},
		{name: "both opened again", unseen: true, again: true, unsent: 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFickle()
				var a account
				l := open(t, Config{Dir: t.TempDir(), Store: store})
				a.attempts(t, l, 1, 100)
				flush(t, l)
				if c.unsent > 0 {
					store.onApply(func(*usage.Batch) (before, after error) { return errDown, nil })
					a.attempts(t, l, 1000, 1000+c.unsent)
					time.Sleep(time.Second)
				}
				dir := copyDir(t, l.cfg.Dir)
				store.onApply(nil)
				a.attempts(t, l, 101, 200)
				flush(t, l)
				if c.again {
					shut(t, l)
					l = open(t, Config{Dir: l.cfg.Dir, Store: store})
					a.attempts(t, l, 201, 220)
					flush(t, l)
				}

				if c.unseen {
					d := open(t, Config{Dir: dir, Store: down{}})
					a.attempts(t, d, 3000, 3010)
					closeNow(t, d)
				}
				d := open(t, Config{Dir: dir, Store: store})
				a.attempts(t, d, 301, 400)
				flush(t, d)
				a.attempts(t, l, 401, 410)
				flush(t, l)
				a.check(t, store)
				if n := streams(t, store); n != 2 {
					t.Errorf("%d streams", n)
				}
				for _, l := range []*Ledger{l, d} {
					if v := verify(t, l); !v.Equal() {
						t.Errorf("%+v", v)
					}
					shut(t, l)
				}
				// The new name stays.
				d = open(t, Config{Dir: dir, Store: store})
				a.attempts(t, d, 501, 510)
				flush(t, d)
				a.check(t, store)
				if n := streams(t, store); n != 2 {
					t.Errorf("%d streams", n)
				}
				shut(t, d)
			})
		})
	}
}

func TestOlderCopyRestored(t *testing.T) {
	for _, openings := range []int{0, 1, 3} {
		synctest.Test(t, func(t *testing.T) {
			store := newFickle()
			var a account
			l := open(t, Config{Dir: t.TempDir(), Store: store})
			a.attempts(t, l, 1, 100)
			flush(t, l)
			backup := copyDir(t, l.cfg.Dir)
			a.attempts(t, l, 101, 200)
			shut(t, l)
			for i := range openings {
				l = open(t, Config{Dir: l.cfg.Dir, Store: store})
				a.attempts(t, l, 1000*i, 1000*i+10)
				shut(t, l)
			}
			l = open(t, Config{Dir: backup, Store: store})
			a.attempts(t, l, 201, 300)
			flush(t, l)
			a.check(t, store)
			if v := verify(t, l); !v.Equal() {
				t.Errorf("%+v", v)
			}
			shut(t, l)
		})
	}
}

// The log lost its end, which the store has: nothing is sent twice.
func TestLogThatLostItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		var a account
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		a.attempts(t, l, 1, 100)
		flush(t, l)
		path, cut := l.current().path, l.current().off-500
		kill(l)
		if err := os.Truncate(path, cut); err != nil {
			t.Fatal(err)
		}
		l = open(t, Config{Dir: l.cfg.Dir, Store: store})
		a.attempts(t, l, 101, 150)
		flush(t, l)
		a.check(t, store)
		if s := l.Stats(); s.Doubtful == 0 || s.Recovered != 0 {
			t.Errorf("%+v", s)
		}
		shut(t, l)
	})
}

func TestLostBookmarkChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		var a account
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		a.attempts(t, l, 1, 100)
		shut(t, l)
		os.Remove(l.cfg.Dir + "/" + bookmarkName)
		l = open(t, Config{Dir: l.cfg.Dir, Store: store})
		a.attempts(t, l, 101, 150)
		flush(t, l)
		a.check(t, store)
		if v := verify(t, l); !v.Equal() || streams(t, store) != 1 {
			t.Errorf("%+v", v)
		}
		shut(t, l)
	})
}

func TestStoreInTroubleIsNotPressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{errDown, usage.ErrMismatch} {
			store := newFickle()
			store.onApply(func(*usage.Batch) (error, error) { return err, nil })
			l := open(t, Config{Dir: t.TempDir(), Store: store})
			var a account
			for range 600 {
				a.attempts(t, l, 1, 1)
				time.Sleep(time.Second)
			}
			if n := store.calls.Load(); n > 250 || n < 50 {
				t.Errorf("%d calls in ten minutes", n)
			}
			if s := l.Stats(); s.StoreError == "" {
				t.Errorf("%+v", s)
			}
			store.onApply(nil)
			time.Sleep(maxBackoff + time.Second)
			a.check(t, store)
			if s := l.Stats(); s.StoreError != "" {
				t.Errorf("%+v", s)
			}
			shut(t, l)
		}
	})
}

func TestIdleLedgerRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		time.Sleep(time.Hour)
		if n := store.calls.Load(); n > 3600/10+1 {
			t.Errorf("%d calls in an hour", n)
		}
		shut(t, l)
	})
}

func TestStoreThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir(), Store: hanging{}})
		time.Sleep(callTimeout + time.Second)
		if s := l.Stats(); !strings.Contains(s.StoreError, "deadline") {
			t.Errorf("%+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var a account
		a.attempts(t, l, 1, 1)
		start := time.Now()
		if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("closed after %v", d)
		}
	})
}

type hanging struct{ usage.Store }

func (hanging) Hello(ctx context.Context, _ usage.StreamID) (usage.Greeting, error) {
	<-ctx.Done()
	return usage.Greeting{}, ctx.Err()
}

func TestWhatTheStoreSaysIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFickle()
		store.hello = func(g *usage.Greeting) error {
			g.Warning = "evicts"
			g.Time = g.Time.Add(time.Minute)
			g.Position.DeadLetters = 3
			return nil
		}
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		synctest.Wait()
		if s := l.Stats(); s.Warning != "evicts" || s.Skew != time.Minute || s.DeadLetters != 3 || s.Genesis == "" || s.Contact.IsZero() {
			t.Errorf("%+v", s)
		}
		shut(t, l)
	})
}
