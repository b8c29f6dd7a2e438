package keypool

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// weighted makes a pool of keys with these weights.
func weighted(t *testing.T, policy Policy, weights ...int) *rig {
	return newRig(t, len(weights), func(c *Config) {
		c.Policy = policy
		for i, w := range weights {
			c.Keys[i].Weight = w
		}
	})
}

// picks takes and gives back n times, and returns the labels in order.
func (r *rig) picks(n int, w Want) string {
	r.Helper()
	order := make([]byte, n)
	for i := range order {
		l := r.begin(w)
		order[i] = l.Label()[0]
		l.Report(Verdict{Class: Served})
		l.Release()
	}
	return string(order)
}

// counts returns how often each label occurs.
func counts(order string, n int) []int {
	c := make([]int, n)
	for _, label := range []byte(order) {
		c[label-'a']++
	}
	return c
}

func TestRoundRobinTakesTurns(t *testing.T) {
	r := newRig(t, 3, nil)
	if got := r.picks(9, Want{}); got != "abcabcabc" {
		t.Errorf("order %s", got)
	}
}

// Every window of a full cycle has the exact shares, wherever it begins.
func TestWeightedRoundRobinIsExact(t *testing.T) {
	for _, weights := range [][]int{{5, 3, 1, 1, 1}, {1, 1, 1, 3, 5}, {2, 2}, {7}, {1, 100, 13}, {3, 3, 2, 2, 5, 1, 9}} {
		for _, policy := range []Policy{WeightedRoundRobin, RoundRobin, Sticky} {
			r := weighted(t, policy, weights...)
			cycle := 0
			for _, w := range weights {
				cycle += w
			}
			order := r.picks(5*cycle, Want{})
			for i := range order[:4*cycle] {
				if got := counts(order[i:i+cycle], len(weights)); fmt.Sprint(got) != fmt.Sprint(weights) {
					t.Fatalf("%v: picks %d to %d go %v", weights, i, i+cycle, got)
				}
			}
		}
	}
}

// In every full cycle the shares are exact whatever the requests overlap.
func TestWeightedRoundRobinIsExactUnderConcurrency(t *testing.T) {
	weights := []int{5, 3, 1, 1, 1}
	r := weighted(t, WeightedRoundRobin, weights...)
	r.Pool.now = time.Now
	const workers, cycles = 32, 320
	var mu sync.Mutex
	got := make([]int, len(weights))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range cycles * 11 / workers {
				l, err := r.Take(&Want{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[l.Key()]++
				mu.Unlock()
				l.Report(Verdict{Class: Served})
				l.Release()
			}
		})
	}
	wg.Wait()
	for i, w := range weights {
		if got[i] != w*cycles {
			t.Errorf("key %d served %d of %d, want %d", i, got[i], 11*cycles, w*cycles)
		}
	}
}

func TestAKeyThatComesBackGetsNoFlood(t *testing.T) {
	for _, policy := range []Policy{RoundRobin, LeastConn} {
		r := weighted(t, policy, 2, 2, 1, 1)
		r.try("a", Verdict{Class: Limited, Until: r.now.Add(time.Minute)})
		away := counts(r.picks(500, Want{}), 4)
		if away[0] != 0 || away[1] != 250 || away[2] != 125 || away[3] != 125 {
			t.Errorf("%v: while a was out: %v", policy, away)
		}
		r.pass(time.Minute)
		order := r.picks(600, Want{})
		if got := counts(order[:6], 4); got[0] > 3 {
			t.Errorf("%v: after a came back: %s", policy, order[:12])
		}
		if got := counts(order, 4); math.Abs(float64(got[0]-200)) > 2 {
			t.Errorf("%v: after a came back: %v", policy, got)
		}
		if got := counts(order[300:], 4); fmt.Sprint(got) != "[100 100 50 50]" {
			t.Errorf("%v: exact again: %v", policy, got)
		}
	}
}

// What is passed over for one request, or is full, leaves the shares of the
// others as their weights say.
func TestSkippedKeysDoNotSkewTheOthers(t *testing.T) {
	r := weighted(t, WeightedRoundRobin, 4, 2, 1, 1)
	var w Want
	w.Tried.Add(0)
	if got := counts(r.picks(400, w), 4); fmt.Sprint(got) != "[0 200 100 100]" {
		t.Errorf("without a: %v", got)
	}
	if got := counts(r.picks(16, Want{}), 4); got[0] > 9 {
		t.Errorf("with a again: %v", got)
	}
	r.Pool.max = 1
	busy := r.begin(r.on("b", Want{}))
	r.picks(8, Want{})
	if got := counts(r.picks(600, Want{}), 4); fmt.Sprint(got) != "[400 0 100 100]" {
		t.Errorf("while b is full: %v", got)
	}
	busy.Release()
}

func TestLeastConn(t *testing.T) {
	r := weighted(t, LeastConn, 1, 1, 1)
	if got := r.picks(9, Want{}); got != "abcabcabc" {
		t.Errorf("idle keys in the order %s, want turns", got)
	}
	a := r.begin(r.on("a", Want{}))
	r.begin(r.on("b", Want{}))
	r.begin(r.on("b", Want{}))
	if l := r.begin(Want{}); l.Label() != "c" {
		t.Errorf("took %s, want c, which is idle", l.Label())
	}
	a.Release()
	if l := r.begin(Want{}); l.Label() != "a" {
		t.Errorf("took %s, want a, which is idle", l.Label())
	}

	// The busier one is not taken because it is its turn.
	r = weighted(t, LeastConn, 1, 1, 1)
	r.begin(Want{Prefer: "id-a"})
	r.begin(Want{Prefer: "id-a"})
	r.begin(Want{Prefer: "id-b"})
	if got := r.begin(Want{}).Label() + r.begin(Want{}).Label() + r.begin(Want{}).Label(); got != "cbc" {
		t.Errorf("took %s, want cbc", got)
	}

	r = weighted(t, LeastConn, 3, 1)
	var held string
	for range 40 {
		held += r.begin(Want{}).Label()
	}
	if got := counts(held, 2); got[0] != 30 {
		t.Errorf("in flight %v, want 3 to 1", got)
	}
}

func TestFirst(t *testing.T) {
	r := newRig(t, 3, func(c *Config) { c.Policy, c.MaxRequests = First, 2 })
	if got := r.picks(5, Want{}); got != "aaaaa" {
		t.Errorf("order %s", got)
	}
	var held string
	for range 6 {
		held += r.begin(Want{}).Label()
	}
	if held != "aabbcc" {
		t.Errorf("order %s as they fill up", held)
	}
}

func TestRandomFollowsWeights(t *testing.T) {
	for _, weights := range [][]int{{1, 1, 1, 1}, {6, 3, 1}, {1000, 1}} {
		random := rand.New(rand.NewPCG(1, 2))
		r := newRig(t, len(weights), func(c *Config) {
			c.Policy, c.Rand = Random, random.Float64
			for i, w := range weights {
				c.Keys[i].Weight = w
			}
		})
		near(t, counts(r.picks(20_000, Want{}), len(weights)), weights)
		if len(weights) == 4 {
			r.try("b", Verdict{Class: Limited, Until: r.now.Add(time.Minute)})
			near(t, counts(r.picks(20_000, Want{}), 4), []int{1, 0, 1, 1})
			// Nearly all tried: the throws miss, the key is found all the same.
			if got := r.picks(100, r.on("d", Want{})); counts(got, 4)[3] != 100 {
				t.Errorf("with one key left: %s", got)
			}
		}
	}
}

// near checks that counts follow weights, within 4 standard deviations.
func near(t *testing.T, got, weights []int) {
	t.Helper()
	n, sum := 0, 0
	for i := range got {
		n += got[i]
		sum += weights[i]
	}
	for i := range got {
		p := float64(weights[i]) / float64(sum)
		if d := math.Abs(float64(got[i]) - float64(n)*p); d > 4*math.Sqrt(float64(n)*p*(1-p)) {
			t.Errorf("counts %v of %d, want shares as %v", got, n, weights)
		}
	}
}

func TestHashPointsToAKey(t *testing.T) {
	home := func(r *rig, n int) []string {
		homes := make([]string, n)
		for i := range homes {
			l := r.begin(Want{Hash: uint64(i + 1)})
			homes[i] = l.Label()
			l.Release()
		}
		return homes
	}
	for _, weights := range [][]int{{1, 1, 1, 1}, {5, 3, 1, 1}} {
		r := weighted(t, RoundRobin, weights...)
		const n = 5000
		before := home(r, n)
		order := ""
		for _, label := range before {
			order += label
		}
		near(t, counts(order, 4), weights)

		r.try("b", Verdict{Class: Limited, Until: r.now.Add(time.Minute)})
		for i, label := range home(r, n) {
			if before[i] != "b" && label != before[i] || label == "b" {
				t.Fatalf("weights %v: with b out, hash %d moved from %s to %s", weights, i+1, before[i], label)
			}
		}
		r.pass(time.Minute)
		for i, label := range home(r, n) {
			if label != before[i] {
				t.Fatalf("weights %v: with b back, hash %d is at %s, was at %s", weights, i+1, label, before[i])
			}
		}
		// The place in the configuration and other keys do not matter.
		moved := newRig(t, 5, func(c *Config) {
			c.Keys[0], c.Keys[3] = c.Keys[3], c.Keys[0]
			for i := range c.Keys[:4] {
				c.Keys[i].Weight = weights[c.Keys[i].Label[0]-'a']
			}
		})
		for i, label := range home(moved, n) {
			if label != before[i] && label != "e" {
				t.Fatalf("weights %v: hash %d moved from %s to %s", weights, i+1, before[i], label)
			}
		}
	}
}

func TestPreferComesFirst(t *testing.T) {
	for policy := RoundRobin; policy <= Sticky; policy++ {
		r := newRig(t, 3, func(c *Config) { c.Policy, c.MaxRequests = policy, 2 })
		w := Want{Prefer: "id-c", Hash: 3}
		if got := r.picks(4, w); got != "cccc" {
			t.Errorf("%v: %s", policy, got)
		}
		one, two := r.begin(w), r.begin(w)
		if l := r.begin(w); l.Label() == "c" {
			t.Errorf("%v: took c, which is full", policy)
		} else {
			l.Release()
		}
		one.Release()
		two.Release()
		r.fail("c", 3)
		if got := r.picks(1, w); got == "c" {
			t.Errorf("%v: took c, which cools", policy)
		}
		w.Prefer = "nobody"
		r.picks(3, w)
		for _, label := range []string{"a", "b"} {
			r.fail(label, 3)
		}
		if got := r.picks(1, Want{Prefer: "id-b", Last: true}); got != "b" {
			t.Errorf("%v: the last resort took %s, want b", policy, got)
		}
		if err := r.Reset(""); err != nil {
			t.Fatal(err)
		}
		r.try("b", Verdict{Class: Invalid})
		r.pass(10 * sec)
		r.fail("a", 3)
		r.fail("c", 3)
		if got := r.picks(1, Want{Prefer: "id-b", Last: true}); got == "b" {
			t.Errorf("%v: the last resort took b, which is invalid", policy)
		}
	}
	// Turns taken by affinity are none of the round's.
	r := newRig(t, 3, nil)
	r.picks(100, Want{Prefer: "id-b"})
	r.picks(100, Want{Hash: 5})
	if got := r.picks(6, Want{}); got != "abcabc" {
		t.Errorf("order %s", got)
	}
}

func TestTriedKeysAreNotTakenAgain(t *testing.T) {
	for policy := RoundRobin; policy <= Sticky; policy++ {
		for _, n := range []int{5, 130} {
			p := New(Config{Name: "up", Keys: keysOf(n), Policy: policy})
			w := Want{Hash: uint64(policy / Sticky)}
			for i := range n {
				l, err := p.Take(&w)
				if err != nil {
					t.Fatalf("%v: key %d of %d: %v", policy, i, n, err)
				}
				if w.Tried.Has(l.Key()) {
					t.Fatalf("%v: took key %d again", policy, l.Key())
				}
				w.Tried.Add(l.Key())
			}
			if _, err := p.Take(&w); err == nil {
				t.Errorf("%v: a key although all are tried", policy)
			}
		}
	}
}

func TestPolicyNames(t *testing.T) {
	for p := RoundRobin; p <= Sticky; p++ {
		if got, err := ParsePolicy(p.String()); got != p || err != nil {
			t.Errorf("ParsePolicy(%q) = %v, %v", p, got, err)
		}
	}
	if _, err := ParsePolicy("fastest"); err == nil {
		t.Error("unknown policy taken")
	}
}

func TestKeySetClone(t *testing.T) {
	var s KeySet
	s.Add(3)
	s.Add(200)
	c := s.Clone()
	c.Add(4)
	c.Add(201)
	if s.Has(4) || s.Has(201) || !c.Has(3) || !c.Has(200) || !c.Has(201) || c.Has(199) || c.Has(1000) {
		t.Errorf("%v, clone %v", s, c)
	}
}
