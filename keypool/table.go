package keypool

import "math"

const (
	// tableKeys is from how many keys on a pool has a table: fewer are gone
	// through as fast. A pool that grows beyond it sends new conversations elsewhere
	// than before; those under way stay (see Want.Prefer).
	tableKeys = 17
	// tableCells is how many cells a table has, a power of two. A share deviates
	// from its weight by one part in the root of its cells: among 1,000 equal keys
	// by 12 % of its thousandth, which only conversations beyond number would show.
	tableCells = 1 << 16
	// tableProbes is how often a hash is thrown anew at a table when the key that
	// it hit cannot serve.
	tableProbes = 32
)

// table says which key a hash points to: the winner of a weighted rendezvous that
// was held for each cell when the pool was made. To choose costs the same for any
// number of keys.
//
// Each key throws darts at the cells, in an order and at times that follow from
// its hash and its weight alone; a cell belongs to the key whose dart was there
// first. So the place in the configuration does not matter, and a key that is
// added takes cells from others and moves none between them. To find the first
// darts needs about twelve a cell, however many keys throw.
//
// A hash whose key cannot serve is thrown again, at another cell: so it has an
// order of all keys, its own and for ever, of which the first that can serve is
// taken. That moves what a lost key had and nothing else, to the others by their
// weights, and brings it back with the key.
type table []int32

func newTable(slots []slot) table {
	type thrower struct {
		dart uint64  // the next one: its cell in the low bits, the time before it in the high
		at   float64 // when it comes
	}
	first := make([]float64, tableCells)
	for i := range first {
		first[i] = math.Inf(1)
	}
	owner := make(table, tableCells)
	throwers := make([]thrower, len(slots))
	total := 0.0
	for i := range slots {
		total += float64(slots[i].weight)
		dart := mix(slots[i].hash)
		throwers[i] = thrower{dart, pause(dart, slots[i].weight)}
	}
	empty := tableCells
	for until := 0.0; empty > 0; {
		// By then one cell is still empty, if fortune has no favourites.
		until += tableCells / total * math.Log(float64(empty)+1)
		for i := range throwers {
			t, s := &throwers[i], &slots[i]
			for t.at < until {
				cell := t.dart % tableCells
				was := first[cell]
				if math.IsInf(was, 1) {
					empty--
				}
				if t.at < was || t.at == was && s.hash < slots[owner[cell]].hash {
					first[cell], owner[cell] = t.at, int32(i)
				}
				t.dart = mix(t.dart)
				t.at += pause(t.dart, s.weight)
			}
		}
	}
	return owner
}

// pause is the time before a dart: exponentially distributed, the heavier the key
// the shorter.
func pause(dart, weight uint64) float64 {
	return -math.Log((float64(dart>>20)+0.5)/(1<<44)) / float64(weight)
}

// find returns a key that can serve properly and that the hash points to, -1 if
// so many throws find none.
func (t table) find(p *Pool, a *ask, hash uint64) int {
	for range tableProbes {
		hash = mix(hash)
		if i := int(t[hash%tableCells]); p.rank(i, a) == rankOK {
			return i
		}
	}
	return -1
}
