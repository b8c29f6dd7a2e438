package keypool

// Lease is a key lent for one attempt.
type Lease struct {
	pool  *Pool
	rec   *record
	key   int
	model string
	seq   uint64

	// Guarded by the lock of health.
	probe    bool // of some outage
	reported bool
	released bool
}

// Key returns the index of the key in its pool.
func (l *Lease) Key() int { return l.key }

// Label returns the key's label.
func (l *Lease) Label() string { return l.pool.slots[l.key].label }

// ID returns the key's fingerprint.
func (l *Lease) ID() string { return l.rec.id }

// Report tells what the attempt said of the key. Only the first report of a
// lease counts; an attempt that said nothing (the client left) makes none.
// Report a success when its first content has come rather than at the end of
// the answer: other requests may be waiting to know.
func (l *Lease) Report(v Verdict) {
	p := l.pool
	h := p.health
	now := p.now()
	h.mu.Lock()
	defer h.unlock()
	if l.reported {
		return
	}
	l.reported = true
	p.report(l, &v, now)
}

// Release gives the key's slot back, to whoever waits longest for it. It may be
// called more than once and from any goroutine.
func (l *Lease) Release() {
	p := l.pool
	h := p.health
	h.mu.Lock()
	defer h.unlock()
	if l.released {
		return
	}
	l.released = true
	l.rec.inFlight--
	all := l.endProbe()
	if p.up.line.Len() == 0 {
		return
	}
	if all {
		h.offerAll(p.up, p.now())
	} else {
		h.offer(l.rec, p.now())
	}
}

// endProbe lets other requests probe what l was the probe of. It reports whether
// that was the whole upstream.
func (l *Lease) endProbe() (all bool) {
	if !l.probe {
		return false
	}
	l.probe = false
	for _, o := range l.rec.outs {
		o.endProbe(l)
	}
	if m := l.pool.model(l.model); m != nil {
		m.waits[l.rec].endProbe(l)
	}
	return l.pool.up.down.endProbe(l)
}

func (o *outage) endProbe(l *Lease) bool {
	if o == nil || o.probe != l {
		return false
	}
	o.probe = nil
	return true
}
