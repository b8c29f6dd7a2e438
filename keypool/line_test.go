package keypool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// queue runs Waits in a bubble and notes how they end.
type queue struct {
	*rig
	mu    sync.Mutex
	ended []string // "name label", "name error"
	lease map[string]*Lease
}

func newQueue(t *testing.T, n int, edit func(*Config)) *queue {
	q := &queue{lease: map[string]*Lease{}}
	q.rig = newRig(t, n, func(c *Config) {
		c.Now = time.Now
		c.MaxRequests = 1
		if edit != nil {
			edit(c)
		}
	})
	return q
}

// wait begins a Wait and returns once it stands in line, or has ended.
func (q *queue) wait(ctx context.Context, name string, w Want, pools ...*Pool) {
	if pools == nil {
		pools = []*Pool{q.Pool}
	}
	wants := make([]*Want, len(pools))
	for i := range wants {
		wants[i] = &w
	}
	go func() {
		_, l, err := Wait(ctx, pools, wants)
		q.mu.Lock()
		defer q.mu.Unlock()
		var u *Unavailable
		switch {
		case errors.As(err, &u):
			q.ended = append(q.ended, fmt.Sprintf("%s unavailable %v", name, u.Limited))
		case err != nil:
			q.ended = append(q.ended, name+" "+err.Error())
		default:
			q.ended = append(q.ended, name+" "+l.pool.Name()+"/"+l.Label())
			q.lease[name] = l
		}
	}()
	synctest.Wait()
}

// saw checks and forgets which Waits have ended, in the order of their names.
func (q *queue) saw(want ...string) {
	q.Helper()
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	slices.Sort(q.ended)
	if fmt.Sprint(q.ended) != fmt.Sprint(want) {
		q.Fatalf("ended: %q, want %q", q.ended, want)
	}
	q.ended = nil
}

// empty checks that nobody stands in line any more and no slot is lost.
func (q *queue) empty() {
	q.Helper()
	q.mu.Lock()
	for name, l := range q.lease {
		l.Release()
		delete(q.lease, name)
	}
	q.mu.Unlock()
	h := q.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clock.waiting != 0 || !h.clock.wake.IsZero() {
		q.Errorf("%d still waiting, wake %v", h.clock.waiting, h.clock.wake)
	}
	for _, u := range h.upstreams {
		if u.line.Len() != 0 || u.slots != 0 {
			q.Errorf("%s: %d in line", u.identity, u.line.Len())
		}
		for _, r := range u.records {
			if r.inFlight != 0 {
				q.Errorf("%s: %d in flight", r.id, r.inFlight)
			}
		}
	}
}

func TestWaitIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 2, nil)
		ctx := t.Context()
		a, b := q.begin(Want{}), q.begin(Want{})
		var want []string
		for i := range 6 {
			q.wait(ctx, fmt.Sprint(i), Want{})
		}
		q.saw()
		b.Release()
		q.saw("0 up/b")
		a.Release()
		q.saw("1 up/a")
		q.serves("a", "m", false) // a Take does not come in between
		q.lease["1"].Release()
		q.saw("2 up/a")
		for i := 3; i < 6; i++ {
			q.lease[fmt.Sprint(i-1)].Release()
			want = append(want, fmt.Sprintf("%d up/a", i))
			q.saw(want...)
			want = nil
		}
		for _, l := range q.lease {
			l.Release()
		}
		q.wait(ctx, "at once", Want{})
		q.saw("at once up/b")
		q.empty()
	})
}

func TestWaitPassesThoseWhoCannotUseTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 3, nil)
		ctx := t.Context()
		a, b, c := q.begin(Want{}), q.begin(Want{}), q.begin(Want{Model: "m"})
		q.wait(ctx, "tried", q.on("b", Want{}))
		q.wait(ctx, "model", Want{Model: "m"})
		q.wait(ctx, "any", Want{})
		q.end(c, Verdict{Class: Limited, Model: "m", Until: time.Now().Add(time.Hour)})
		q.saw("any up/c")
		a.Release()
		q.saw("model up/a")
		b.Release()
		q.saw("tried up/b")
		q.empty()
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, nil)
		a := q.begin(Want{})
		short, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		gone, leave := context.WithCancel(t.Context())
		q.wait(gone, "gone", Want{})
		q.wait(short, "short", Want{})
		q.wait(t.Context(), "patient", Want{})
		leave()
		q.saw("gone context canceled")
		time.Sleep(time.Minute)
		q.saw("short context deadline exceeded")
		q.wait(short, "late", Want{})
		q.saw("late context deadline exceeded")
		idle := New(Config{Name: "idle", Keys: keysOf(1)})
		for range 20 {
			if _, _, err := Wait(short, []*Pool{idle}, []*Want{{}}); err == nil {
				t.Fatal("a key after the end")
			}
		}
		a.Release()
		q.saw("patient up/a")
		q.empty()
	})
}

// A slot that is given in the very moment in which the context ends goes to the
// next in line, whichever of the two the waiter sees first.
func TestWaitLosesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 200 {
			q := newQueue(t, 1, nil)
			a := q.begin(Want{})
			ctx, leave := context.WithCancel(t.Context())
			q.wait(ctx, "one", Want{})
			q.wait(t.Context(), "two", Want{})
			go leave()
			go a.Release()
			synctest.Wait()
			if l := q.lease["one"]; l != nil {
				l.Release()
				synctest.Wait()
			}
			if q.lease["two"] == nil {
				t.Fatalf("the slot is lost: %q", q.ended)
			}
			q.empty()
		}
	})
}

func TestWaitForSeveralPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, nil)
		two := New(Config{Name: "two", Keys: []Key{{Label: "x", ID: "x"}}, MaxRequests: 1, Health: q.health})
		ctx := t.Context()
		a := q.begin(Want{})
		x, err := two.Take(&Want{})
		if err != nil {
			t.Fatal(err)
		}
		q.wait(ctx, "1 both", Want{}, q.Pool, two)
		q.wait(ctx, "2 up", Want{}, q.Pool)
		q.wait(ctx, "3 both, up twice", Want{}, q.Pool, two, q.Pool)
		q.wait(ctx, "4 two", Want{}, two)
		x.Release()
		q.saw("1 both two/x")
		a.Release()
		q.saw("2 up up/a")
		q.lease["2 up"].Release()
		q.saw("3 both, up twice up/a")
		q.lease["1 both"].Release()
		q.saw("4 two two/x")
		q.empty()
	})
}

// After a reload the new pool's requests stand behind those of the old one, and
// see its keys become free.
func TestWaitOutlivesThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, nil)
		a := q.begin(Want{})
		q.wait(t.Context(), "old", Want{})
		next := New(Config{Name: "up", Keys: []Key{{Label: "new", ID: "id-a"}}, MaxRequests: 3, Health: q.health})
		for i := range 3 {
			q.wait(t.Context(), fmt.Sprint(i), Want{}, next)
		}
		q.saw("0 up/new", "1 up/new") // three in flight now
		q.wait(t.Context(), "old too", Want{})
		q.lease["0"].Release()
		q.saw("2 up/new")
		q.lease["1"].Release()
		q.lease["2"].Release()
		q.saw()
		a.Release()
		q.saw("old up/a")
		q.lease["old"].Release()
		q.saw("old too up/a")
		q.empty()
	})
}

func TestWaitEndsWhenThereIsNothingToWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 2, nil)
		ctx := t.Context()
		a, b := q.begin(Want{Model: "m"}), q.begin(Want{Model: "m"})
		q.wait(ctx, "m", Want{Model: "m"})
		q.wait(ctx, "n", Want{Model: "n"})
		q.wait(ctx, "last", Want{Model: "m", Last: true})
		a.Report(Verdict{Class: Limited, Model: "m", Until: time.Now().Add(time.Hour)})
		q.saw()
		b.Report(Verdict{Class: Limited, Model: "m"})
		q.saw("m unavailable true")
		a.Release()
		q.saw("n up/a")
		b.Release()
		q.saw("last up/b")
		q.empty()

		q.wait(ctx, "not full", Want{Model: "m"})
		q.saw("not full unavailable true")
		q.empty()

		// Keys that it has tried are no hope.
		a, b = q.begin(q.on("a", Want{})), q.begin(q.on("b", Want{}))
		q.wait(ctx, "only b", q.on("b", Want{}))
		q.wait(ctx, "any", Want{})
		q.end(b, Verdict{Class: Invalid})
		q.saw("only b unavailable false")
		q.wait(ctx, "late", q.on("b", Want{}))
		q.saw("late unavailable false")
		a.Release()
		q.saw("any up/a")
		q.empty()
	})
}

func TestWaitSeesKeysReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 3, nil)
		ctx := t.Context()
		busy := q.begin(q.on("a", Want{}))
		q.try("b", Verdict{Class: Limited, Until: time.Now().Add(time.Minute)})
		q.try("c", Verdict{Class: Limited, Model: "m", Until: time.Now().Add(2 * time.Minute)})
		for i := range 3 {
			q.wait(ctx, fmt.Sprint(i), Want{Model: "m"})
		}
		time.Sleep(time.Minute - 1)
		q.saw()
		time.Sleep(time.Nanosecond)
		q.saw("0 up/b")
		time.Sleep(time.Minute)
		q.saw("1 up/c")
		busy.Release()
		q.saw("2 up/a")
		q.empty()
	})
	// Nobody comes in between, though the timer be late.
	for _, late := range []func(q *queue){
		func(q *queue) { q.serves("b", "m", false) },
		func(q *queue) { q.wait(q.Context(), "late", Want{}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			var ahead atomic.Int64
			q := newQueue(t, 2, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } })
			busy := q.begin(q.on("a", Want{}))
			q.try("b", Verdict{Class: Limited, Until: q.Pool.now().Add(time.Minute)})
			q.wait(t.Context(), "first", Want{})
			ahead.Store(int64(time.Minute))
			late(q)
			q.saw("first up/b")
			busy.Release()
			synctest.Wait()
			q.empty()
		})
	}
	// A clock that lags behind the timer is asked again.
	synctest.Test(t, func(t *testing.T) {
		var behind atomic.Int64
		q := newQueue(t, 2, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) } })
		busy := q.begin(q.on("a", Want{}))
		q.try("b", Verdict{Class: Limited, Until: q.Pool.now().Add(time.Minute)})
		q.wait(t.Context(), "0", Want{})
		behind.Store(int64(time.Second))
		time.Sleep(time.Minute)
		q.saw()
		time.Sleep(time.Second)
		q.saw("0 up/b")
		busy.Release()
		q.empty()
	})
	// A key that was out already goes out for longer, and one goes out later.
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 3, nil)
		a, b, old := q.begin(q.on("a", Want{})), q.begin(q.on("b", Want{})), q.begin(q.on("c", Want{}))
		old.Report(Verdict{Class: Limited, Until: time.Now().Add(30 * time.Second)})
		old.Release()
		q.wait(t.Context(), "0", Want{})
		q.end(b, Verdict{Class: Limited, Until: time.Now().Add(10 * time.Second)})
		time.Sleep(10 * time.Second)
		q.saw("0 up/b")
		a.Release()
		q.empty()
	})
}

// One probe is let through; the rest of the line follows when it has served.
func TestWaitProbesAKeyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 2, func(c *Config) { c.MaxRequests = 2 })
		ctx := t.Context()
		one, two := q.begin(q.on("a", Want{})), q.begin(q.on("a", Want{}))
		q.fail("b", 3)
		for i := range 4 {
			q.wait(ctx, fmt.Sprint(i), Want{})
		}
		time.Sleep(5 * time.Second)
		q.saw("0 up/b")
		q.lease["0"].Release() // said nothing
		q.saw("1 up/b")
		q.lease["1"].Report(Verdict{Class: Served})
		q.saw("2 up/b")
		one.Release()
		q.saw("3 up/a")
		two.Release()
		q.empty()
	})
	// An unreachable upstream is probed by one request in all.
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 2, func(c *Config) { c.Policy = First })
		other := New(Config{Name: "other", Keys: []Key{{Label: "x", ID: "x"}}, MaxRequests: 1, Health: q.health})
		x, err := other.Take(&Want{})
		if err != nil {
			t.Fatal(err)
		}
		q.try("a", Verdict{Class: Limited, Model: "n", Until: time.Now().Add(time.Hour)})
		for range 3 {
			q.try("a", Verdict{Class: Unreachable})
		}
		q.wait(t.Context(), "0", Want{}, q.Pool, other)
		q.wait(t.Context(), "1", Want{Model: "n"}, q.Pool, other)
		q.wait(t.Context(), "2", Want{}, q.Pool, other)
		time.Sleep(5 * time.Second)
		q.saw("0 up/a")
		q.lease["0"].Release()
		q.saw("1 up/b")
		q.lease["1"].Report(Verdict{Class: Neutral})
		q.saw("2 up/a")
		x.Release()
		q.empty()
	})
}

func TestWaitSeesAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 3, nil)
		busy := q.begin(q.on("a", Want{}))
		q.try("b", Verdict{Class: Limited, Until: time.Now().Add(time.Hour)})
		q.try("c", Verdict{Class: Limited, Until: time.Now().Add(time.Hour)})
		for i := range 3 {
			q.wait(t.Context(), fmt.Sprint(i), Want{})
		}
		if err := q.Reset("c"); err != nil {
			t.Fatal(err)
		}
		q.saw("0 up/c")
		n := Notice{Upstream: "up", Key: "id-b", State: StateLimited, Over: true, At: time.Now()}
		q.health.Merge(time.Now(), []Notice{n})
		q.saw("1 up/b")
		n.Key, n.Over, n.Until, n.Named = "id-a", false, time.Now().Add(time.Hour), true
		q.health.Merge(time.Now(), []Notice{n})
		q.saw() // two keys are full, and well
		busy.Release()
		q.saw()
		q.lease["1"].Release()
		q.saw("2 up/b")
		q.empty()
	})
	// One waiter asks the same pool twice; a key comes back with room for two.
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 2, func(c *Config) { c.MaxRequests = 2 })
		q.begin(q.on("a", Want{}))
		q.begin(q.on("a", Want{}))
		q.try("b", Verdict{Class: Limited, Until: time.Now().Add(time.Hour)})
		for i := range 2 {
			q.wait(t.Context(), fmt.Sprint(i), Want{}, q.Pool, q.Pool)
		}
		if err := q.Reset("b"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if q.lease["0"] == nil || q.lease["1"] == nil || q.state("b").InFlight != 2 {
			t.Errorf("ended: %q", q.ended)
		}
	})
	// The same, and the key comes back by its probe.
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, func(c *Config) { c.MaxRequests = 3 })
		q.fail("a", 3)
		held := []*Lease{q.begin(Want{Last: true}), q.begin(Want{Last: true})}
		time.Sleep(5 * time.Second)
		probe := q.begin(Want{})
		q.wait(t.Context(), "0", Want{Last: true}, q.Pool, q.Pool)
		q.wait(t.Context(), "1", Want{Last: true}, q.Pool, q.Pool)
		q.Pool.max, q.up.slots = 5, 5
		probe.Report(Verdict{Class: Served})
		q.saw("0 up/a", "1 up/a")
		for _, l := range append(held, probe) {
			l.Release()
		}
		q.empty()
	})
	// Another instance hears that the model is limited: nothing to wait for.
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, nil)
		busy := q.begin(Want{})
		q.wait(t.Context(), "m", Want{Model: "m"})
		q.wait(t.Context(), "n", Want{Model: "n"})
		q.health.Merge(time.Now(), []Notice{{
			Upstream: "up", Key: "id-a", Model: "m", State: StateLimited, At: time.Now(), Until: time.Now().Add(time.Minute), Named: true,
		}})
		q.saw("m unavailable true")
		q.health.Merge(time.Now(), []Notice{{
			Upstream: "up", Key: "id-a", State: StateInvalid, At: time.Now(), Until: time.Now().Add(time.Minute),
		}})
		q.saw("n unavailable false")
		busy.Release()
		q.empty()
	})
}

func TestLastResortWaitsForARefusedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, nil)
		q.try("a", Verdict{Class: Invalid})
		time.Sleep(10 * time.Second)
		one := q.begin(Want{Last: true})
		q.wait(t.Context(), "too soon", Want{Last: true})
		q.saw("too soon unavailable false")
		time.Sleep(10 * time.Second)
		q.wait(t.Context(), "2", Want{Last: true})
		q.wait(t.Context(), "3", Want{Last: true})
		one.Release()
		q.saw("2 up/a")
		q.lease["2"].Release()
		time.Sleep(10*time.Second - 1)
		q.saw()
		time.Sleep(time.Nanosecond)
		q.saw("3 up/a")
		q.empty()
	})
}

// Slots from the line are turns of the round like any other.
func TestWaitKeepsTheShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 2, nil)
		a := q.begin(q.on("a", Want{}))
		q.picks(100, Want{})
		b := q.begin(Want{})
		q.wait(t.Context(), "0", Want{})
		a.Release()
		q.saw("0 up/a")
		b.Release()
		q.empty()
		if got := counts(q.picks(20, Want{}), 2); max(got[0], got[1]) > 11 {
			t.Errorf("shares after the line: %v", got)
		}
	})
}

func TestWaitRefusesWhatItCannotDo(t *testing.T) {
	p := New(Config{Name: "one", Keys: keysOf(1)})
	alien := New(Config{Name: "two", Keys: keysOf(1)})
	for _, test := range []struct {
		pools []*Pool
		wants []*Want
	}{
		{nil, nil},
		{[]*Pool{p}, nil},
		{[]*Pool{p, alien}, []*Want{{}, {}}},
	} {
		if _, _, err := Wait(t.Context(), test.pools, test.wants); err == nil {
			t.Errorf("Wait(%d pools, %d wants) works", len(test.pools), len(test.wants))
		}
	}
}

// A crowd on few slots: everybody is served, no slot is used twice or lost.
func TestWaitUnderLoad(t *testing.T) {
	const most = 3
	p := New(Config{Name: "up", Keys: keysOf(4), MaxRequests: most, Policy: LeastConn})
	var mu sync.Mutex
	inFlight := make([]int, p.Len())
	served := 0
	var wg sync.WaitGroup
	for worker := range 64 {
		wg.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithCancel(t.Context())
				if (worker+i)%7 == 0 {
					go cancel()
				}
				_, l, err := Wait(ctx, []*Pool{p}, []*Want{{}})
				cancel()
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				inFlight[l.Key()]++
				if inFlight[l.Key()] > most {
					t.Errorf("%d in flight on key %d", inFlight[l.Key()], l.Key())
				}
				served++
				mu.Unlock()
				l.Report(Verdict{Class: Served})
				mu.Lock()
				inFlight[l.Key()]--
				mu.Unlock()
				go l.Release()
				l.Release()
			}
		})
	}
	wg.Wait()
	if served < 64*100*6/7 {
		t.Errorf("served %d", served)
	}
	q := &queue{rig: &rig{T: t, Pool: p}}
	q.empty()
}
