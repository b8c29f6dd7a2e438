package keypool

import "time"

// report applies a verdict by the rules of its class: first what it proves to be
// over, then what it puts out.
func (p *Pool) report(l *Lease, v *Verdict, now time.Time) {
	r, u := l.rec, p.up
	p.expire(l.key, now)
	key, all := p.heal(l, v.Class, now)

	var worse *outage
	switch v.Class {
	case Served:
		r.served++
	case Failed:
		if r.outs[byFailure] != nil || l.seq > r.healed[byFailure].seq && r.row.add(v.Request) {
			worse = p.putOut(l, byFailure, v, now)
		}
	case Unreachable:
		if u.down != nil || l.seq > u.healed && u.row.add(v.Request) {
			worse = p.putDown(l, v, now)
		}
	case Limited:
		if v.Model == "" {
			worse = p.putOut(l, byLimit, v, now)
		} else {
			worse = p.putOutFor(v.Model, &rules[byLimit], l, v, now)
		}
	case Exhausted:
		if v.Model == "" {
			worse = p.putOut(l, byQuota, v, now)
		} else {
			worse = p.putOutFor(v.Model, &rules[byQuota], l, v, now)
		}
	case Invalid:
		worse = p.putOut(l, byRefusal, v, now)
	case ModelOff:
		name := v.Model
		if name == "" {
			name = l.model
		}
		worse = p.putOutFor(name, &modelOffRule, l, v, now)
	}
	if v.Class != Served && v.Class != Neutral {
		r.lastError, r.lastErrorAt = v.Class, now
	}
	if l.probe {
		key = true
		all = l.endProbe() || all
	}
	p.tell(l.key)
	p.tellDown()

	if u.line.Len() == 0 {
		return
	}
	if worse != nil {
		p.health.worse(u, worse, now)
	}
	if all {
		p.health.offerAll(u, now)
	} else if key {
		p.health.offer(r, now)
	}
}

// heal ends what an answer of this class proves to be over: rows of failures in
// any case, and outages if the attempt began while they stood. A wait that the
// upstream named stands until its time. It reports whether the key or all keys
// of the upstream are better for it.
func (p *Pool) heal(l *Lease, class Class, now time.Time) (key, all bool) {
	r, u := l.rec, p.up
	proof := &healing[class]
	if proof.down {
		u.row = row{}
		if o := u.down; o != nil && o.healedBy(l) {
			p.endDown()
			all = true
		}
	}
	for _, c := range proof.causes {
		if c == byFailure {
			r.row = row{}
		}
		if o := r.outs[c]; o != nil && o.healedBy(l) {
			p.end(r, c, now)
			key = true
		}
	}
	if m := p.model(l.model); m != nil && class == Served {
		if o := m.waits[r]; o != nil && o.healedBy(l) {
			p.endFor(l.model, m, r, now)
			key = true
		}
	}
	return key, all
}

func (o *outage) healedBy(l *Lease) bool { return !o.named && l.seq > o.seq }

// end ends an outage before its time.
func (p *Pool) end(r *record, c cause, now time.Time) {
	o := r.outs[c]
	r.clear(c)
	r.healed[c] = recovery{p.health.next(), now}
	if c != byFailure {
		p.health.share(r, "", o, now, true)
	}
}

// endFor is end for one model.
func (p *Pool) endFor(name string, m *model, r *record, now time.Time) {
	o := m.waits[r]
	delete(m.waits, r)
	if o.state != StateModelOff {
		p.health.share(r, name, o, now, true)
	}
}

// endDown ends the outage of the whole upstream.
func (p *Pool) endDown() {
	p.up.down = nil
	p.up.healed = p.health.next()
}

// putOut puts the lease's key out for a cause, or prolongs that. It returns the
// outage if anything changed.
func (p *Pool) putOut(l *Lease, c cause, v *Verdict, now time.Time) *outage {
	r, ru := l.rec, &rules[c]
	o := r.outs[c]
	if o == nil && l.seq < r.healed[c].seq && !ru.names(v.Until, now) {
		return nil // out of date
	}
	o, changed := p.strike(o, ru, l, v, now)
	if !changed {
		return nil
	}
	r.set(c, o)
	if c != byFailure {
		p.health.share(r, "", o, now, false)
	}
	return o
}

// putOutFor is putOut for one model.
func (p *Pool) putOutFor(name string, ru *rule, l *Lease, v *Verdict, now time.Time) *outage {
	if name == "" || len(name) > maxName {
		return nil
	}
	r := l.rec
	o := p.model(name).wait(r, now)
	if o != nil && o.state != ru.state {
		if o.named {
			return nil
		}
		o = nil
	}
	o, changed := p.strike(o, ru, l, v, now)
	if !changed {
		return nil
	}
	p.health.model(p.up, name, ru.state == StateModelOff).waits[r] = o
	if ru.state != StateModelOff {
		p.health.share(r, name, o, now, false)
	}
	return o
}

// putDown puts the whole upstream out.
func (p *Pool) putDown(l *Lease, v *Verdict, now time.Time) *outage {
	o, changed := p.strike(p.up.down, &downRule, l, v, now)
	if !changed {
		return nil
	}
	p.up.down = o
	return o
}

// strike applies a failing attempt to an outage: to o, or to a new one if o is
// nil. It returns the outage and whether anything has changed.
//
// Only its probe lengthens a wait of our own: an attempt that began before the
// key went out, or one of the last resort, tells nothing new. A wait that the
// upstream named is always heard; of two the later holds.
func (p *Pool) strike(o *outage, ru *rule, l *Lease, v *Verdict, now time.Time) (*outage, bool) {
	named := ru.names(v.Until, now)
	until := v.Until
	if named {
		if last := now.Add(ru.named); until.After(last) {
			until = last
		}
	}
	switch {
	case o == nil:
		o = &outage{state: ru.state, since: now, seq: p.health.next()}
	case named:
		if o.named && !until.After(o.until) {
			return o, false
		}
	case o.probe != l:
		return o, false
	}
	o.named = named
	o.probe = nil
	o.at, o.tried = now, now
	o.reason = clip(v.Reason, maxReason)
	if named {
		o.wait, o.until = 0, until
		return o, true
	}
	o.wait = min(max(2*o.wait, ru.first), ru.most)
	o.until = now.Add(o.wait)
	if ru.jitter { // what went out together shall not come back together
		o.until = now.Add(o.wait - time.Duration(p.rand()*float64(o.wait/5)))
	}
	return o, true
}

// names reports whether the upstream named a wait that the rule heeds.
func (ru *rule) names(until, now time.Time) bool {
	return ru.named > 0 && until.After(now)
}

// expire ends those waits of key i that the upstream named and that are over.
func (p *Pool) expire(i int, now time.Time) {
	r := p.slots[i].rec
	if !r.ailing() {
		return
	}
	for c, o := range r.outs {
		if o != nil && o.named && o.over(now) {
			r.clear(cause(c))
		}
	}
	p.tell(i)
}

// tell makes it known that key i went out, found a graver cause or came back.
// What it is told of stands until it comes back: a key whose gravest cause ends
// before the others is still out.
func (p *Pool) tell(i int) {
	r := p.slots[i].rec
	c := Change{Pool: p.name, Label: p.slots[i].label}
	if o := r.gravest(); o != nil {
		c.State, c.Reason, c.Until, c.Out = o.state, o.reason, o.until, true
	}
	if c.State > r.told || c.State == StateOK && r.told != StateOK {
		r.told = c.State
		p.change(c)
	}
}

// tellDown makes it known that the upstream went out or came back.
func (p *Pool) tellDown() {
	u := p.up
	if u.told == (u.down != nil) {
		return
	}
	u.told = u.down != nil
	c := Change{Pool: p.name}
	if o := u.down; o != nil {
		c.State, c.Reason, c.Until, c.Out = o.state, o.reason, o.until, true
	}
	p.change(c)
}

func (p *Pool) change(c Change) {
	if p.onChange != nil {
		p.health.queue = append(p.health.queue, func() { p.onChange(c) })
	}
}
