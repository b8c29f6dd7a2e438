package ledger

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/usage"
)

// bell collects alarms.
type bell struct {
	mu   sync.Mutex
	rung []Alarm
}

func (b *bell) ring(a Alarm) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rung = append(b.rung, a)
}

// heard returns the kinds that have rung since it was asked last; those that are
// over begin with a -.
func (b *bell) heard() (kinds []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.rung {
		kind := a.Kind
		if a.Over {
			kind = "-" + kind
		}
		kinds = append(kinds, kind)
	}
	b.rung = nil
	return kinds
}

func (b *bell) wants(t *testing.T, when string, want ...string) {
	t.Helper()
	if got := b.heard(); !slices.Equal(got, want) {
		t.Errorf("%s: alarms %v, want %v", when, got, want)
	}
}

// Each trouble is told when it begins and when it ends, not all the time.
func TestAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, b := newFickle(), new(bell)
		disk := newMemFS()
		l := open(t, Config{Dir: "d", Store: store, FS: disk, SegmentBytes: minSegmentBytes, MaxBytes: 4 * minSegmentBytes, Alarm: b.ring})
		var a account
		a.attempts(t, l, 1, 10)
		time.Sleep(time.Hour)
		b.wants(t, "in peace")

		store.onApply(func(*usage.Batch) (before, after error) { return errDown, nil })
		a.attempts(t, l, 11, 20)
		time.Sleep(lagAfter / 2)
		b.wants(t, "after a short while")
		time.Sleep(time.Hour)
		b.wants(t, "after a long while", AlarmLag)
		for range 2000 {
			if r := attemptNo(0); l.Reserve(r) == nil {
				end(r, 0)
				l.Settle(r)
				a.add(r)
			}
		}
		time.Sleep(quietFor / 2)
		if s := l.Stats(); s.Refused == 0 {
			t.Fatalf("%+v", s)
		}
		got := b.heard()
		slices.Sort(got)
		if !slices.Equal(got, []string{AlarmDisk, AlarmRefused}) {
			t.Errorf("a full log: %v", got)
		}
		// Further refusals are told later, all at once.
		for range 100 {
			_ = l.Reserve(attemptNo(0))
			time.Sleep(time.Second)
		}
		b.wants(t, "further refusals")
		time.Sleep(quietFor)
		b.wants(t, "later", AlarmRefused)

		store.onApply(nil)
		time.Sleep(time.Minute)
		got = b.heard()
		slices.Sort(got)
		if !slices.Equal(got, []string{"-" + AlarmDisk, "-" + AlarmLag}) {
			t.Errorf("the store is back: %v", got)
		}

		store.mu.Lock()
		store.hello = func(g *usage.Greeting) error {
			g.Time = g.Time.Add(-6 * time.Second)
			g.Warning = "evicts"
			return nil
		}
		store.mu.Unlock()
		time.Sleep(time.Hour)
		b.wants(t, "a store that is set up badly", AlarmClock, AlarmStore)
		store.mu.Lock()
		store.hello = nil
		store.mu.Unlock()
		store.Forget(l.Stats().Stream)
		time.Sleep(time.Hour)
		got = b.heard()
		slices.Sort(got)
		if !slices.Equal(got, []string{"-" + AlarmClock, "-" + AlarmStore, AlarmStopped}) {
			t.Errorf("the position is lost: %v", got)
		}
		if err := l.Resume(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		b.wants(t, "resumed", "-"+AlarmStopped)
		shut(t, l)
	})
}

// Dead letters that the store has from before are no news; gaps are.
func TestAlarmsOfWhatIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, b := newFickle(), new(bell)
		letters := uint64(3)
		store.hello = func(g *usage.Greeting) error {
			g.Position.DeadLetters = letters
			return nil
		}
		l := open(t, Config{Dir: t.TempDir(), Store: store, Alarm: b.ring})
		time.Sleep(time.Minute)
		b.wants(t, "at the start")
		store.mu.Lock()
		letters = 5
		store.mu.Unlock()
		time.Sleep(time.Hour)
		if len(b.rung) != 1 || b.rung[0].Kind != AlarmDeadLetters || !strings.Contains(b.rung[0].Message, " 2 increments") {
			t.Errorf("%+v", b.rung)
		}
		b.heard()
		l.report(gap{7, 9, "lost"})
		time.Sleep(time.Hour)
		b.wants(t, "a gap", AlarmGaps)
		shut(t, l)
	})
}

// A stream is resumed behind what the store may have counted.
func TestResumeDoesNotSendWhatMayBeCounted(t *testing.T) {
	t.Run("a batch without a reply", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := newFickle()
			l := open(t, Config{Dir: t.TempDir(), Store: store})
			var a account
			a.attempts(t, l, 1, 10)
			flush(t, l)
			if err := l.Resume(); err != ErrNotStopped {
				t.Errorf("resume of what has not stopped: %v", err)
			}
			// The batch is counted, its reply lost, and then the position.
			id := l.Stats().Stream
			store.onApply(func(*usage.Batch) (before, after error) {
				store.hello = func(g *usage.Greeting) error {
					store.Forget(id)
					g.Known, g.Lost, g.Position, store.hello = false, true, usage.Position{}, nil
					return nil
				}
				return nil, errDown
			})
			a.attempts(t, l, 11, 20)
			time.Sleep(2 * flushEvery)
			store.onApply(nil)
			resumeExact(t, l, store, &a)
		})
	})
	t.Run("a batch that the store did not take", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := newFickle()
			l := open(t, Config{Dir: t.TempDir(), Store: store})
			var a account
			a.attempts(t, l, 1, 10)
			flush(t, l)
			store.Forget(l.Stats().Stream)
			a.attempts(t, l, 11, 20)
			time.Sleep(2 * flushEvery)
			if err := l.Resume(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * flushEvery)
			flush(t, l)
			if got := rowsOf(t, store); got != a.sum || l.Stats().Missing != 0 {
				t.Errorf("%d attempts, want %d", got[usage.Attempts], a.sum[usage.Attempts])
			}
			shut(t, l)
		})
	})
	t.Run("a bookmark that is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store, disk := newFickle(), newMemFS()
			l := open(t, Config{Dir: "d", Store: store, FS: disk})
			var a account
			a.attempts(t, l, 1, 10)
			flush(t, l)
			store.Forget(l.Stats().Stream)
			shut(t, l)
			delete(disk.names, "d/"+bookmarkName)
			l = open(t, Config{Dir: "d", Store: store, FS: disk})
			time.Sleep(time.Second)
			resumeExact(t, l, store, &a)
		})
	})
}

// resumeExact resumes a stream that has lost its position and of which the store
// has counted all that a says.
func resumeExact(t *testing.T, l *Ledger, store *fickle, a *account) {
	t.Helper()
	if s := l.Stats(); s.Stopped != ErrPositionLost.Error() {
		t.Fatalf("%+v", s)
	}
	if err := l.Resume(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
	a.attempts(t, l, 100, 110)
	flush(t, l)
	if got := rowsOf(t, store); got != a.sum {
		t.Errorf("%d attempts, want %d", got[usage.Attempts], a.sum[usage.Attempts])
	}
	if s := l.Stats(); s.Missing == 0 {
		t.Errorf("nothing is said of what was passed over: %+v", s)
	}
	shut(t, l)
}
