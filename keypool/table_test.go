package keypool

import (
	"math"
	"testing"
	"time"
)

// crowded makes a pool of many keys, with weights from 1 to 5.
func crowded(t *testing.T, n int, edit func(*Config)) *rig {
	return newRig(t, n, func(c *Config) {
		for i := range c.Keys {
			c.Keys[i].Weight = 1 + i%5
		}
		if edit != nil {
			edit(c)
		}
	})
}

// homes returns the label of the key that each of n hashes points to.
func (r *rig) homes(n int, w Want) []string {
	r.Helper()
	all := make([]string, n)
	for i := range all {
		w.Hash = uint64(i + 1)
		l := r.begin(w)
		all[i] = l.Label()
		l.Release()
	}
	return all
}

// moved holds the homes now against those before: only hashes that were at a key
// that is gone may be elsewhere. It returns how many those are, by their new home.
func (r *rig) moved(before, now []string, gone func(label string) bool) map[string]int {
	r.Helper()
	to := map[string]int{}
	for i := range before {
		switch {
		case gone(now[i]):
			r.Fatalf("hash %d is at %s, which is gone", i+1, now[i])
		case gone(before[i]):
			to[now[i]]++
		case now[i] != before[i]:
			r.Fatalf("hash %d moved from %s to %s", i+1, before[i], now[i])
		}
	}
	return to
}

func TestTableFollowsWeights(t *testing.T) {
	for _, n := range []int{tableKeys, 60, 1000} {
		r := crowded(t, n, nil)
		if r.table == nil {
			t.Fatalf("%d keys have no table", n)
		}
		cells := make([]int, n)
		for _, i := range r.table {
			cells[i]++
		}
		total := 0.0
		for i := range r.slots {
			total += float64(r.slots[i].weight)
		}
		for i, got := range cells {
			p := float64(r.slots[i].weight) / total
			if d := math.Abs(float64(got) - tableCells*p); d > 5*math.Sqrt(tableCells*p*(1-p)) {
				t.Errorf("%d keys: %d cells for weight %d of %g, want %.0f", n, got, r.slots[i].weight, total, tableCells*p)
			}
		}
		if n == 60 { // and so do the hashes
			counted := make([]int, n)
			weights := make([]int, n)
			for i := range r.slots {
				weights[i] = int(r.slots[i].weight)
			}
			for _, label := range r.homes(20_000, Want{}) {
				counted[[]rune(label)[0]-'a']++
			}
			near(t, counted, weights)
		}
	}
}

// Few keys are gone through, many are looked up: both keep the same promises.
func TestHashAmongManyKeys(t *testing.T) {
	const n, hashes = 40, 4000
	r := crowded(t, n, nil)
	before := r.homes(hashes, Want{})
	r.moved(before, r.homes(hashes, Want{}), func(string) bool { return false })

	// A key that is lost, for any reason, gives its own to all others by weight.
	one := func(label string) bool { return label == "e" }
	r.try("e", Verdict{Class: Limited, Until: r.now.Add(time.Minute)})
	if to := r.moved(before, r.homes(hashes, Want{}), one); len(to) < n/2 {
		t.Errorf("what was at a key that is lost went to %d keys only: %v", len(to), to)
	}
	r.pass(time.Minute)
	r.moved(before, r.homes(hashes, Want{}), func(string) bool { return false })
	var tried Want
	tried.Tried.Add(4)
	r.moved(before, r.homes(hashes, tried), one)
	r.Pool.max = 1
	full := r.begin(r.on("e", Want{}))
	r.moved(before, r.homes(hashes, Want{}), one)
	full.Release()
	r.moved(before, r.homes(hashes, Want{}), func(string) bool { return false })

	// One key after the other is lost, up to the last: throws fail more and more
	// often, and nothing moves that has a place.
	now := before
	for i := range n - 1 {
		label := string(rune('a' + i))
		r.try(label, Verdict{Class: Limited, Until: r.now.Add(time.Hour)})
		next := r.homes(hashes/4, Want{})
		r.moved(now[:hashes/4], next, func(l string) bool { return l == label })
		now = next
	}
	r.pass(time.Hour)
	r.moved(before, r.homes(hashes, Want{}), func(string) bool { return false })

	// Affinity comes first, the last resort has the same home.
	if l := r.begin(Want{Hash: 7, Prefer: "id-c"}); l.Label() != "c" {
		t.Errorf("took %s, want c", l.Label())
	} else {
		l.Release()
	}
	for i := range n {
		r.fail(string(rune('a'+i)), 3)
	}
	r.unavailable(Want{Hash: 7})
	desperate := r.homes(100, Want{Last: true})
	r.moved(desperate, r.homes(100, Want{Last: true}), func(string) bool { return false })
}

// The place in the configuration does not matter, and a key that is added takes
// from the others without moving anything between them.
func TestTableDependsOnNoOrder(t *testing.T) {
	const n, hashes = 50, 4000
	before := crowded(t, n, nil).homes(hashes, Want{})
	other := crowded(t, n+1, func(c *Config) {
		for i := range n / 2 {
			j := n - 1 - i
			c.Keys[i], c.Keys[j] = c.Keys[j], c.Keys[i]
		}
	}).homes(hashes, Want{})
	added := string(rune('a' + n))
	taken := 0
	for i := range before {
		if other[i] == added {
			taken++
		} else if other[i] != before[i] {
			t.Fatalf("hash %d moved from %s to %s", i+1, before[i], other[i])
		}
	}
	if taken == 0 || taken > hashes/10 {
		t.Errorf("the new key took %d of %d", taken, hashes)
	}
}

// A table of weights as far apart as they may be is made, and soon.
func TestTableOfExtremeWeights(t *testing.T) {
	r := newRig(t, tableKeys, func(c *Config) { c.Keys[3].Weight = maxWeight })
	cells := 0
	for _, i := range r.table {
		if i == 3 {
			cells++
		}
	}
	if cells < tableCells-20 {
		t.Errorf("%d cells", cells)
	}
}
