package keypool

import (
	"container/list"
	"context"
	"errors"
	"math"
	"slices"
	"time"
)

// waiter stands in the lines of all pools that it waits for, and leaves all of
// them at once.
type waiter struct {
	places []*place
	ready  chan struct{} // closed when what follows is set
	which  int
	lease  *Lease
	err    error
}

// place is a waiter's place in the line of one pool's upstream.
type place struct {
	waiter *waiter
	which  int
	pool   *Pool
	want   *Want
	elem   *list.Element // nil once the waiter has left
}

// clock wakes the line when a key returns by the mere passing of time.
type clock struct {
	waiting int
	wake    time.Time
	timer   *time.Timer
	now     func() time.Time
}

// Wait takes a key from the first of the pools that can serve, waiting in line
// while a key of one of them is only at MaxRequests. wants[i] is what the request
// asks of pools[i]. It returns which pool served.
//
// A slot that becomes free goes to whoever waits longest and can use it; a call
// of Take cannot come in between. Wait fails with the context's error when that
// ends, and with an [*Unavailable] as soon as there is nothing left to wait for.
// The pools must share one [Health].
func Wait(ctx context.Context, pools []*Pool, wants []*Want) (which int, l *Lease, err error) {
	if len(pools) == 0 || len(pools) != len(wants) {
		return -1, nil, errors.New("wait for a key: want one Want for each pool")
	}
	h := pools[0].health
	for _, p := range pools[1:] {
		if p.health != h {
			return -1, nil, errors.New("wait for a key: the pools do not share their Health")
		}
	}
	if err := ctx.Err(); err != nil {
		return -1, nil, err
	}
	w := h.enter(pools, wants)
	select {
	case <-w.ready:
		return w.which, w.lease, w.err
	case <-ctx.Done():
		h.leave(w)
		return -1, nil, ctx.Err()
	}
}

// enter serves the request at once if that is possible, else puts it in line.
func (h *Health) enter(pools []*Pool, wants []*Want) *waiter {
	w := &waiter{ready: make(chan struct{})}
	l := new(Lease)
	now := pools[0].now()
	h.mu.Lock()
	defer h.unlock()
	h.serveDue(now)
	for i, p := range pools {
		if p.take(l, wants[i], now) {
			w.which, w.lease = i, l
			close(w.ready)
			return w
		}
	}
	w.places = make([]*place, len(pools))
	for i, p := range pools {
		w.places[i] = &place{waiter: w, which: i, pool: p, want: wants[i]}
	}
	if !w.hopes(now) {
		w.fail(now)
		return w
	}
	h.clock.waiting++
	for _, pl := range w.places {
		u := pl.pool.up
		pl.elem = u.line.PushBack(pl)
		u.slots = max(u.slots, pl.pool.limit())
		h.wakeBy(u.returns(now), now, pl.pool.now)
	}
	return w
}

// limit is MaxRequests, without zero's special meaning.
func (p *Pool) limit() int {
	if p.max == 0 {
		return math.MaxInt
	}
	return p.max
}

// leave takes a waiter out of line whose context has ended. What it was given in
// the same moment goes on to the next.
func (h *Health) leave(w *waiter) {
	h.mu.Lock()
	select {
	case <-w.ready:
		h.unlock()
		if w.lease != nil {
			w.lease.Release()
		}
		return
	default:
	}
	h.remove(w)
	h.unlock()
}

// remove takes a waiter out of all lines.
func (h *Health) remove(w *waiter) {
	for _, pl := range w.places {
		if pl.elem == nil {
			continue
		}
		u := pl.pool.up
		u.line.Remove(pl.elem)
		pl.elem = nil
		if u.line.Len() == 0 {
			u.slots = 0
		}
	}
	c := &h.clock
	c.waiting--
	if c.waiting == 0 && c.timer != nil {
		c.timer.Stop()
		c.wake = time.Time{}
	}
}

// offer gives a key that has a free slot, or has become better, to those in line
// who can use it, as long as it has slots.
func (h *Health) offer(r *record, now time.Time) {
	u := r.up
	for pl := u.front(); pl != nil && r.inFlight < u.slots; {
		next := pl.behind()
		if i, ok := pl.pool.usable(r, pl.want, now); ok {
			next = pl.behindAll()
			pl.pool.turn(i)
			h.grant(pl, i, now)
		}
		pl = next
	}
}

// offerAll gives all keys of an upstream to those in line who can use one.
func (h *Health) offerAll(u *upstream, now time.Time) {
	for pl := u.front(); pl != nil && u.hasSlot(); {
		next := pl.behind()
		if i := pl.pool.choose(pl.want, now); i >= 0 {
			next = pl.behindAll()
			h.grant(pl, i, now)
		}
		pl = next
	}
}

// hasSlot reports whether a key may have a slot for somebody in line.
func (u *upstream) hasSlot() bool {
	return slices.ContainsFunc(u.records, func(r *record) bool { return r.inFlight < u.slots })
}

// front returns the first place in line, nil if nobody waits.
func (u *upstream) front() *place {
	if e := u.line.Front(); e != nil {
		return e.Value.(*place)
	}
	return nil
}

// behind returns the next place in line, nil at its end.
func (pl *place) behind() *place {
	if e := pl.elem.Next(); e != nil {
		return e.Value.(*place)
	}
	return nil
}

// behindAll returns the place of the next waiter. A waiter's places in one line
// follow each other and are left together.
func (pl *place) behindAll() *place {
	next := pl.behind()
	for next != nil && next.waiter == pl.waiter {
		next = next.behind()
	}
	return next
}

// usable returns the index of a key if the request can use it now.
func (p *Pool) usable(r *record, w *Want, now time.Time) (int, bool) {
	i, ok := p.byRec[r]
	if !ok {
		return 0, false
	}
	a := p.ask(w, now)
	return i, p.rank(i, &a) <= a.limit
}

// grant gives key i of its pool to the waiter at a place.
func (h *Health) grant(pl *place, i int, now time.Time) {
	w := pl.waiter
	w.which, w.lease = pl.which, new(Lease)
	pl.pool.lend(w.lease, i, pl.want, now)
	h.remove(w)
	close(w.ready)
}

// worse sees to the line after an outage has begun or grown.
func (h *Health) worse(u *upstream, o *outage, now time.Time) {
	h.dismiss(u, now)
	if pl := u.front(); pl != nil {
		h.wakeBy(o.until, now, pl.pool.now)
	}
}

// dismiss ends the wait of those for whom there is nothing left to wait for.
func (h *Health) dismiss(u *upstream, now time.Time) {
	for pl := u.front(); pl != nil; {
		w, next := pl.waiter, pl.behindAll()
		if !w.hopes(now) {
			h.remove(w)
			w.fail(now)
		}
		pl = next
	}
}

// hopes reports whether a key of some pool could serve but for its slots.
func (w *waiter) hopes(now time.Time) bool {
	for _, pl := range w.places {
		p := pl.pool
		a := p.ask(pl.want, now)
		for i := range p.slots {
			if !pl.want.Tried.Has(i) && p.fitness(i, &a) <= a.limit {
				return true
			}
		}
	}
	return false
}

// fail ends a wait with the reasons of all pools.
func (w *waiter) fail(now time.Time) {
	var all *Unavailable
	for _, pl := range w.places {
		u := pl.pool.survey(pl.want, now)
		if all == nil {
			all = u
		} else {
			all.Join(u)
		}
	}
	w.which, w.err = -1, all
	close(w.ready)
}

// wakeBy has the line served at time t at the latest; zero is never.
func (h *Health) wakeBy(t, now time.Time, clock func() time.Time) {
	c := &h.clock
	if t.IsZero() || !c.wake.IsZero() && !t.Before(c.wake) {
		return
	}
	c.wake, c.now = t, clock
	d := max(t.Sub(now), time.Millisecond)
	if c.timer == nil {
		c.timer = time.AfterFunc(d, h.tick)
	} else {
		c.timer.Reset(d)
	}
}

// tick is the timer's call.
func (h *Health) tick() {
	h.mu.Lock()
	defer h.unlock()
	c := &h.clock
	if c.waiting == 0 || c.wake.IsZero() {
		return
	}
	now := c.now()
	if now.Before(c.wake) { // an old call, or a clock that is not the timer's
		c.timer.Reset(max(c.wake.Sub(now), time.Millisecond))
		return
	}
	h.serveDue(now)
}

// serveDue offers the keys that have returned by the passing of time.
func (h *Health) serveDue(now time.Time) {
	c := &h.clock
	if c.wake.IsZero() || now.Before(c.wake) {
		return
	}
	c.wake = time.Time{}
	for _, u := range h.upstreams {
		if u.line.Len() > 0 {
			h.offerAll(u, now)
		}
	}
	for _, u := range h.upstreams {
		if u.line.Len() > 0 {
			h.wakeBy(u.returns(now), now, c.now)
		}
	}
}

// returns is when the next outage of the upstream, its keys and their models
// ends, takes a probe or may be tried by the last resort; zero if there is none
// to come.
func (u *upstream) returns(now time.Time) time.Time {
	var next time.Time
	see := func(o *outage) {
		if o == nil {
			return
		}
		if t := o.returns(now); t.After(now) {
			next = earlier(next, t)
		}
		if t := o.tried.Add(retryRefused); o.refused() && t.After(now) {
			next = earlier(next, t)
		}
	}
	see(u.down)
	for _, r := range u.records {
		for _, o := range r.outs {
			see(o)
		}
	}
	for _, m := range u.models {
		for _, o := range m.waits {
			see(o)
		}
	}
	return next
}
