package ledger

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// down is a store that cannot be reached.
type down struct{ usage.Store }

var errDown = errors.New("the store is down")

func (down) Hello(context.Context, usage.StreamID) (usage.Greeting, error) {
	return usage.Greeting{}, errDown
}

func (down) Apply(context.Context, *usage.Batch) (usage.Position, error) {
	return usage.Position{}, errDown
}

// closeNow closes without waiting for the store.
func closeNow(t testing.TB, l *Ledger) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
}

// account is what a test has settled, to be compared with what a store counts.
type account struct {
	mu  sync.Mutex
	sum usage.Counts
}

func (a *account) add(r *usage.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := r.Counts()
	a.sum.Add(&c)
}

// attemptNo makes the n-th attempt, as it is before it is sent and, by end, after.
func attemptNo(n int) *usage.Record {
	return &usage.Record{
		Request: fmt.Sprintf("req-%06d", n), Attempt: 1, Start: time.Date(2026, 11, 23, 12, 0, 0, n%1000*1000, time.UTC),
		Client: fmt.Sprint("client-", n%3), Group: "g", Upstream: "openai", Key: fmt.Sprint("key", n%2+1),
		Model: "gpt", Asked: "gpt", Operation: "chat",
	}
}

func end(r *usage.Record, n int) {
	r.Outcome, r.Status, r.Final, r.Source = usage.Served, 200, true, usage.Upstream
	r.Tokens.Input, r.Tokens.Output = int64(n%1000+1), int64(n%77+1)
	r.Duration, r.FirstByte = time.Duration(n%5000)*time.Millisecond, time.Duration(n%100+1)*time.Millisecond
}

// attempts makes attempts number from to to, one after the other.
func (a *account) attempts(t testing.TB, l *Ledger, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		r := attemptNo(n)
		if err := l.Reserve(r); err != nil {
			t.Fatalf("reserve %d: %v", n, err)
		}
		end(r, n)
		l.Settle(r)
		a.add(r)
	}
}

// open opens a ledger or fails the test.
func open(t testing.TB, c Config) *Ledger {
	t.Helper()
	if c.Sink == "" {
		c.Sink = "test"
	}
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// shut closes a ledger whose store takes everything.
func shut(t testing.TB, l *Ledger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func flush(t testing.TB, l *Ledger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

// totals are the totals of all streams of a store.
func totals(t testing.TB, s usage.Store) (sum usage.Counts) {
	t.Helper()
	a, err := s.Audit(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range a.Streams {
		sum.Add(&p.Totals)
	}
	return sum
}

func (a *account) check(t testing.TB, s usage.Store) {
	t.Helper()
	if got := totals(t, s); got != a.sum {
		for f := range got {
			if got[f] != a.sum[f] {
				t.Errorf("%v: the store has %d, settled were %d", usage.Field(f), got[f], a.sum[f])
			}
		}
	}
}

func verify(t testing.TB, l *Ledger) *Verification {
	t.Helper()
	v, err := l.Verify(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhatIsSettledReachesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		a.attempts(t, l, 1, 500)
		flush(t, l)
		a.check(t, store)
		if v := verify(t, l); !v.Equal() || v.Unsure || v.Log != a.sum {
			t.Errorf("verify: %+v", v)
		}
		s := l.Stats()
		if s.Settled != 500 || s.Open != 0 || s.LagRecords != 0 || s.LagAge != 0 || s.StoreError != "" || s.Trouble != "" {
			t.Errorf("%+v", s)
		}
		shut(t, l)
	})
}

func TestReserveNumbersAndSettleTimes(t *testing.T) {
	now := time.Date(2026, 11, 23, 23, 59, 59, 999_999_999, time.FixedZone("", 3600))
	l := open(t, Config{Dir: t.TempDir(), Store: down{}, Clock: func() time.Time { return now }})
	defer closeNow(t, l)
	r, q := attemptNo(1), attemptNo(2)
	if l.Reserve(r) != nil || l.Reserve(q) != nil || r.Seq == 0 || q.Seq <= r.Seq {
		t.Errorf("numbers %d and %d", r.Seq, q.Seq)
	}
	end(r, 1)
	l.Settle(r)
	if want := now.UTC().Truncate(time.Microsecond); r.Time != want {
		t.Errorf("settled at %v, not %v", r.Time, want)
	}
}

func TestNothingIsSettledTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		r := attemptNo(1)
		l.Reserve(r)
		end(r, 1)
		l.Settle(r)
		a.add(r)
		l.Settle(r)
		l.Settle(&usage.Record{Seq: 12345})
		l.Settle(&usage.Record{})
		flush(t, l)
		a.check(t, store)
		if n := l.Stats().Stray; n != 2 {
			t.Errorf("%d stray settlements", n)
		}
		shut(t, l)
	})
}

func TestReopenedLogGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, dir := storetest.NewMemory(), t.TempDir()
		var a account
		var id usage.StreamID
		for i := range 5 {
			l := open(t, Config{Dir: dir, Store: store})
			s := l.Stats()
			if s.Epoch != uint64(i+1) || s.Unclean || i > 0 && s.Stream != id {
				t.Errorf("%+v", s)
			}
			id = s.Stream
			a.attempts(t, l, 100*i, 100*i+50)
			shut(t, l)
			a.check(t, store)
		}
	})
}

func TestStoreMayBeDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, Config{Dir: dir, Store: down{}})
		var a account
		a.attempts(t, l, 1, 100)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := l.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errDown) {
			t.Error(err)
		}
		store := storetest.NewMemory()
		l = open(t, Config{Dir: dir, Store: store})
		if s := l.Stats(); s.Unclean || s.Recovered != 0 {
			t.Errorf("%+v", s)
		}
		flush(t, l)
		a.check(t, store)
		shut(t, l)
	})
}

func TestLagIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir(), Store: down{}})
		defer closeNow(t, l)
		var a account
		a.attempts(t, l, 1, 10)
		time.Sleep(90 * time.Second)
		a.attempts(t, l, 1, 10)
		s := l.Stats()
		if s.LagRecords < 40 || s.LagBytes < 40*frameHeader || s.LagAge != 90*time.Second || s.StoreError != errDown.Error() {
			t.Errorf("%+v", s)
		}
	})
}

func TestOpenAttemptsBecomeUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, Config{Dir: dir, Store: down{}, SegmentBytes: minSegmentBytes})
		var a account
		left := attemptNo(1)
		left.Tokens = usage.Tokens{Input: 100, Output: 50}
		left.CostNanos, left.Priced = 777, true
		long := attemptNo(2)
		for _, r := range []*usage.Record{left, long} {
			if err := l.Reserve(r); err != nil {
				t.Fatal(err)
			}
		}
		long.Tokens.Output = 20
		l.Progress(long)
		a.attempts(t, l, 3, 1000) // several segments
		long.Tokens.Output = 4000
		l.Progress(long)
		kill(l)

		store := storetest.NewMemory()
		l = open(t, Config{Dir: dir, Store: store})
		if s := l.Stats(); s.Recovered != 2 || !s.Unclean || s.Unknown != 2 || s.Doubtful != 0 {
			t.Errorf("%+v", s)
		}
		flush(t, l)
		a.sum[usage.UnknownAttempts] += 2
		a.sum[usage.Requests] += 2
		a.sum[usage.UnknownInputTokens] += 100
		a.sum[usage.UnknownOutputTokens] += 50 + 4000
		a.sum[usage.UnknownCostNanos] += 777
		a.check(t, store)
		shut(t, l)

		// Once is enough.
		l = open(t, Config{Dir: dir, Store: store})
		if s := l.Stats(); s.Recovered != 0 || s.Unclean {
			t.Errorf("%+v", s)
		}
		flush(t, l)
		a.check(t, store)
		shut(t, l)
	})
}

// kill ends a ledger as the death of its process does: nothing more is written,
// and the lock goes.
func kill(l *Ledger) {
	l.mu.Lock()
	l.closed, l.closing = true, true
	l.trouble = errors.New("killed")
	l.mu.Unlock()
	l.stopStore()
	l.flushing.Wait()
	close(l.stop)
	l.keeping.Wait()
	for _, s := range l.segments {
		if s.file != nil {
			s.file.Close()
		}
	}
	for _, s := range l.spares {
		s.file.Close()
	}
	l.marks.file.Close()
	l.lock.Close()
}

func TestUnknownIsCountedWhenTheProcessDied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, Config{Dir: dir, Store: down{}})
		r := attemptNo(1)
		r.Start = time.Now()
		l.Reserve(r)
		time.Sleep(time.Minute)
		q := attemptNo(2)
		q.Start = time.Now()
		l.Reserve(q)
		died := time.Now()
		kill(l)
		time.Sleep(48 * time.Hour)
		l = open(t, Config{Dir: dir, Store: down{}})
		closeNow(t, l)
		err := Read(dir, func(e Entry) error {
			if e.Kind == Unsettled && !e.Record.Time.Equal(died) {
				t.Errorf("counted at %v, died at %v", e.Record.Time, died)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestCorrections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		r := attemptNo(1)
		l.Reserve(r)
		r.Outcome, r.Source, r.Estimating = usage.Left, usage.Estimated, true
		r.Tokens = usage.Tokens{Input: 10, Output: 20}
		l.Settle(r)
		flush(t, l)
		time.Sleep(3 * time.Hour)

		was := *r
		r.Estimating, r.Final = false, true
		r.Tokens = usage.Tokens{Input: 13, Output: 7}
		r.Time = time.Now()
		l.Correct(&was, r)
		if r.Time != was.Time {
			t.Error("a correction moved to another time")
		}
		flush(t, l)
		var a account
		a.add(r)
		a.check(t, store)
		if v := verify(t, l); !v.Equal() {
			t.Errorf("%+v", v)
		}
		hour := usage.Hourly.Start(was.Time)
		rows := 0
		store.Scan(t.Context(), usage.Hourly, 0, hour, func(k usage.Key, c *usage.Counts) bool {
			rows++
			if *c != a.sum {
				t.Errorf("the hour has %v", c)
			}
			return true
		})
		if rows != 1 {
			t.Errorf("%d rows", rows)
		}
		shut(t, l)
	})
}

func TestOneOpeningAtATime(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, Store: down{}})
	_, err := Open(Config{Dir: dir, Store: down{}, Sink: "test"})
	if !errors.Is(err, ErrLocked) {
		t.Errorf("a second opening: %v", err)
	}
	closeNow(t, l)
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("a second close: %v", err)
	}
	closeNow(t, open(t, Config{Dir: dir, Store: down{}}))
}

func TestClosedLedgerTakesNothing(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), Store: down{}, OnFull: Continue})
	r := attemptNo(1)
	l.Reserve(r)
	closeNow(t, l)
	if err := l.Reserve(attemptNo(2)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	l.Settle(r)
	l.Progress(r)
	l.Correct(r, r)
	if s := l.Stats(); s.Stray != 1 {
		t.Errorf("%+v", s)
	}
}

func TestConcurrentAttempts(t *testing.T) {
	for _, d := range []Durability{Batch, Process, Strict} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			store, dir := storetest.NewMemory(), t.TempDir()
			l := open(t, Config{Dir: dir, Store: store, SegmentBytes: 256 << 10, Durability: d})
			var a account
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					for n := range 100 {
						r := attemptNo(1000*g + n)
						if err := l.Reserve(r); err != nil {
							t.Error(err)
							return
						}
						l.Progress(r)
						end(r, n)
						l.Settle(r)
						a.add(r)
						if d == Strict {
							if s := l.Stats(); s.Synced < r.Seq {
								t.Errorf("record %d is not on the disk, only up to %d", r.Seq, s.Synced)
							}
						}
						was := *r
						r.Tokens.Input++
						l.Correct(&was, r)
						c := r.Counts()
						c[usage.InputTokens] = 1
						a.mu.Lock()
						a.sum[usage.InputTokens]++
						a.mu.Unlock()
					}
				})
			}
			wg.Wait()
			flush(t, l)
			a.check(t, store)
			if v := verify(t, l); !v.Equal() || len(v.Gaps) > 0 {
				t.Errorf("%+v", v)
			}
			shut(t, l)
		})
	}
}
