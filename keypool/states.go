package keypool

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// States returns the state of each key, in the order of the configuration.
func (p *Pool) States() []KeyState {
	h, now := p.health, p.now()
	h.mu.Lock()
	defer h.unlock()
	states := make([]KeyState, len(p.slots))
	total := uint64(0)
	for i := range p.slots {
		p.expire(i, now)
		states[i] = p.state(i, now)
		total += states[i].Served
	}
	for i := range states {
		if total > 0 {
			states[i].Share = float64(states[i].Served) / float64(total)
		}
	}
	return states
}

func (p *Pool) state(i int, now time.Time) KeyState {
	s, u := &p.slots[i], p.up
	r := s.rec
	k := KeyState{
		Label: s.label, ID: r.id, Weight: int(s.weight),
		InFlight: r.inFlight, Served: r.served,
		LastError: r.lastError, LastErrorAt: r.lastErrorAt,
	}
	for _, o := range [...]*outage{u.down, r.outs[byFailure], r.outs[byLimit], r.outs[byQuota], r.outs[byRefusal]} {
		if o != nil && o.shown(now) > k.State {
			k.State, k.Reason, k.Since, k.Until = o.shown(now), o.reason, o.since, o.until
		}
	}
	for name, m := range u.models {
		if o := m.wait(r, now); o != nil {
			k.Models = append(k.Models, ModelState{
				Model: name, State: o.shown(now), Reason: o.reason, Since: o.since, Until: o.until,
			})
		}
	}
	slices.SortFunc(k.Models, func(a, b ModelState) int { return cmp.Compare(a.Model, b.Model) })
	return k
}

// shown is the state that an outage shows.
func (o *outage) shown(now time.Time) State {
	if o.over(now) {
		return StateProbing
	}
	return o.state
}

// Reset makes a key serve again at once, as if nothing were known of it: also
// for waits that the upstream named, those of one model only, and if the
// upstream was unreachable. An empty label is every key of the pool.
func (p *Pool) Reset(label string) error {
	h, now := p.health, p.now()
	h.mu.Lock()
	defer h.unlock()
	found := false
	for i := range p.slots {
		if label == "" || p.slots[i].label == label {
			found = true
			p.reset(i, now)
		}
	}
	if !found {
		return fmt.Errorf("upstream %s has no key %q", p.name, label)
	}
	p.up.row = row{}
	p.endDown()
	p.tellDown()
	h.offerAll(p.up, now)
	return nil
}

func (p *Pool) reset(i int, now time.Time) {
	r := p.slots[i].rec
	r.row = row{}
	for c := range causes {
		if r.outs[c] != nil {
			p.end(r, c, now)
		}
	}
	for name, m := range p.up.models {
		if m.waits[r] != nil {
			p.endFor(name, m, r, now)
		}
	}
	p.tell(i)
}
