package keypool

import (
	"container/list"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of what Health remembers.
const (
	maxModels  = 1000           // names of models with waits, for each upstream
	maxName    = 256            // bytes of a model name or identity worth remembering
	maxReason  = 200            // bytes of a reason
	maxRecords = 10_000         // keys that are known only from other instances
	forgetful  = 24 * time.Hour // a key unused for so long is forgotten
)

// retryRefused is how often the last resort tries a key that is invalid or
// exhausted.
const retryRefused = 10 * time.Second

// rowLength is how many different requests must fail in a row.
const rowLength = 3

// Health is what is known of keys and upstreams. It outlives pools: keep one for
// the whole process and give it to every pool, so that a reload forgets nothing.
// Keys that nobody used for 24 h and that have no wait running are forgotten
// when a pool is made.
//
// One mutex guards everything: the choice of a key, its health and the waiting
// line. A choice takes a fraction of a microsecond among any number of keys that
// serve: little beside the request that it serves. In return shares are exact,
// the line is fair over all pools and no state can be seen half changed.
type Health struct {
	notify func(Notice)

	mu        sync.Mutex
	upstreams map[string]*upstream
	records   int
	seq       uint64 // orders leases, outages and recoveries

	clock clock    // of the waiting line
	queue []func() // callbacks due, in order
	busy  bool     // somebody is making them
}

// NewHealth returns an empty Health. If notify is not nil it is told what an
// upstream said of a key, to be passed on to other instances and given to
// [Health.Merge] there. It is called in order, outside of locks, and should
// return soon.
func NewHealth(notify func(Notice)) *Health {
	return &Health{notify: notify}
}

// unlock unlocks and makes the callbacks that are due. Only one goroutine makes
// them at a time, so that they arrive in the order of the events.
func (h *Health) unlock() {
	if len(h.queue) == 0 || h.busy {
		h.mu.Unlock()
		return
	}
	h.busy = true
	defer func() {
		h.busy = false
		h.mu.Unlock()
	}()
	for len(h.queue) > 0 {
		f := h.queue[0]
		h.queue = h.queue[1:]
		h.unlocked(f)
	}
}

func (h *Health) unlocked(f func()) {
	h.mu.Unlock()
	defer h.mu.Lock()
	f()
}

func (h *Health) next() uint64 {
	h.seq++
	return h.seq
}

// add makes a key known.
func (h *Health) add(u *upstream, id string, r *record) {
	r.up = u
	u.keys[id] = r
	u.records = append(u.records, r)
	h.records++
}

// upstream returns what is known of an upstream.
func (h *Health) upstream(identity string) *upstream {
	u := h.upstreams[identity]
	if u == nil {
		if h.upstreams == nil {
			h.upstreams = make(map[string]*upstream)
		}
		u = &upstream{identity: identity, keys: make(map[string]*record)}
		h.upstreams[identity] = u
	}
	return u
}

// forget drops the keys that nobody has used for long and that have nothing
// worth remembering. A pool that still has such a key keeps its record.
func (h *Health) forget(now time.Time) {
	unused := now.Add(-forgetful).Unix()
	for name, u := range h.upstreams {
		for id, r := range u.keys {
			if r.used > unused || r.inFlight > 0 || r.waits(now) {
				continue
			}
			delete(u.keys, id)
			u.records = slices.DeleteFunc(u.records, func(other *record) bool { return other == r })
			h.records--
			for _, m := range u.models {
				delete(m.waits, r)
			}
		}
		if len(u.keys) == 0 && u.line.Len() == 0 {
			delete(h.upstreams, name)
		}
	}
}

// upstream is what is known of one upstream and its keys.
type upstream struct {
	identity string
	keys     map[string]*record // by Key.ID; without one by NUL and the label
	records  []*record          // the same, in the order they became known
	models   map[string]*model  // only those with waits
	down     *outage            // unreachable
	row      row                // of unreachable attempts
	healed   uint64             // when down ended last
	told     bool               // down was told of

	line  list.List // of *place: who waits for a key here, oldest first
	slots int       // the largest MaxRequests of their pools
}

// record is what is known of one key. What each choice reads comes first.
type record struct {
	inFlight int
	out      uint8 // how many outs are set
	told     State // what was told of last
	outs     [causes]*outage
	used     int64 // Unix time of the latest lease

	up          *upstream
	id          string
	row         row // of failures
	healed      [causes]recovery
	served      uint64
	lastError   Class
	lastErrorAt time.Time
}

// recovery is when an outage ended last.
type recovery struct {
	seq uint64 // attempts that began earlier are out of date
	at  time.Time
}

// cause is one of the reasons that put a key out. Each has its own outage, so
// that none hides another.
type cause uint8

const (
	byFailure cause = iota
	byLimit
	byQuota
	byRefusal
	causes
)

// rule says how long a cause puts a key out.
type rule struct {
	state       State
	first, most time.Duration // own waits: from first, doubling to most
	named       time.Duration // longest wait that the upstream may name; 0: none
	jitter      bool
}

var rules = [causes]rule{
	byFailure: {state: StateCooling, first: 5 * time.Second, most: 5 * time.Minute, jitter: true},
	byLimit:   {state: StateLimited, first: 5 * time.Second, most: 5 * time.Minute, named: 24 * time.Hour, jitter: true},
	byQuota:   {state: StateExhausted, first: 10 * time.Minute, most: 6 * time.Hour, named: 31 * 24 * time.Hour},
	byRefusal: {state: StateInvalid, first: 10 * time.Minute, most: 6 * time.Hour},
}

var (
	downRule     = rule{state: StateUnreachable, first: 5 * time.Second, most: 5 * time.Minute, jitter: true}
	modelOffRule = rule{state: StateModelOff, first: 10 * time.Minute, most: 10 * time.Minute}
)

// healing lists what each class proves to be over: an answer at all proves that
// the upstream is reachable, a limit that the credential is accepted.
var healing = [...]struct {
	down   bool
	causes []cause
}{
	Neutral:     {true, []cause{byFailure}},
	Served:      {true, []cause{byFailure, byLimit, byQuota, byRefusal}},
	Failed:      {true, nil},
	Limited:     {true, []cause{byFailure, byRefusal}},
	Exhausted:   {true, []cause{byFailure, byRefusal}},
	Invalid:     {true, []cause{byFailure}},
	ModelOff:    {true, []cause{byFailure}},
	Unreachable: {false, nil},
}

// outage is a time out of service for one cause: of an upstream, a key, or a
// key's model. Once until has passed, a named one is over; one of our own is
// half open, and a request that begins then is its probe.
type outage struct {
	state  State
	since  time.Time
	until  time.Time
	at     time.Time     // of the latest word on it
	shared time.Time     // the until that was passed on last
	named  bool          // until is the upstream's word
	wait   time.Duration // own wait, without jitter
	seq    uint64        // attempts that began earlier say nothing of it
	probe  *Lease
	probed time.Time // when the probe began
	tried  time.Time // when an invalid or exhausted key was last used
	reason string
}

// rank says how good a choice a key is; the last resort accepts what a proper
// choice does not.
type rank uint8

const (
	rankOK      rank = iota
	rankCooling      // out by failures or by a wait of our own
	rankOff          // does not have the model
	rankRefused      // invalid or exhausted, and not tried for 10 s
	rankNone         // not to be used
)

func (o *outage) over(now time.Time) bool { return !now.Before(o.until) }

func (o *outage) rank(now time.Time) rank {
	switch {
	case o.over(now) && o.mayProbe(now):
		return rankOK
	case o.named:
		return rankNone
	case o.refused() && now.Sub(o.tried) < retryRefused:
		return rankNone
	case o.refused():
		return rankRefused
	case o.state == StateModelOff:
		return rankOff
	}
	return rankCooling
}

func (o *outage) refused() bool { return o.state == StateInvalid || o.state == StateExhausted }

// mayProbe reports whether an outage whose wait is over takes a probe. A probe
// that has no answer for as long as the wait was (a long answer is no sign of
// trouble) does not keep the key out any longer.
func (o *outage) mayProbe(now time.Time) bool {
	return o.probe == nil || now.Sub(o.probed) >= o.wait
}

// returns is when the outage is over or takes its next probe; zero for now.
func (o *outage) returns(now time.Time) time.Time {
	if !o.over(now) {
		return o.until
	}
	if !o.mayProbe(now) {
		return o.probed.Add(o.wait)
	}
	return time.Time{}
}

// begin notes that the lease begins while the outage, if not nil, stands.
func (o *outage) begin(l *Lease, now time.Time) {
	if o == nil {
		return
	}
	if o.over(now) && o.mayProbe(now) {
		o.probe, o.probed = l, now
		l.probe = true
	}
	o.tried = now
}

// row counts different requests that failed in a row.
type row struct {
	n   int
	ids [rowLength]uint64
}

// add counts a failed request and reports whether the row is full.
func (w *row) add(id uint64) bool {
	if id != 0 {
		for _, known := range w.ids[:w.n] {
			if known == id {
				return false
			}
		}
	}
	w.ids[w.n] = id
	w.n++
	if w.n < rowLength {
		return false
	}
	*w = row{}
	return true
}

// model holds the waits of an upstream's keys that concern one model only.
type model struct {
	waits map[*record]*outage
	seq   uint64 // of the latest word; the oldest is forgotten first
	off   bool   // holds nothing but ModelOff
}

// wait returns what keeps key r from the model, or nil. Waits that the upstream
// named are dropped once they are over. m may be nil.
func (m *model) wait(r *record, now time.Time) *outage {
	if m == nil {
		return nil
	}
	o := m.waits[r]
	if o != nil && o.named && o.over(now) {
		delete(m.waits, r)
		return nil
	}
	return o
}

// model returns the waits that concern a model, making room for it if need be:
// names that clients made up go before those with a rate limit.
func (h *Health) model(u *upstream, name string, off bool) *model {
	m := u.models[name]
	if m == nil {
		if len(u.models) >= maxModels {
			u.dropModel()
		}
		if u.models == nil {
			u.models = make(map[string]*model)
		}
		m = &model{waits: make(map[*record]*outage), off: true}
		u.models[strings.Clone(name)] = m
	}
	m.seq = h.next()
	m.off = m.off && off
	return m
}

func (u *upstream) dropModel() {
	var oldest string
	var found *model
	for name, m := range u.models {
		if found == nil || m.off && !found.off || m.off == found.off && m.seq < found.seq {
			oldest, found = name, m
		}
	}
	delete(u.models, oldest)
}

// ailing reports whether there is anything to look at but the requests in
// flight.
func (r *record) ailing() bool { return r.out > 0 || r.told != StateOK }

// set puts a key out for a cause.
func (r *record) set(c cause, o *outage) {
	if r.outs[c] == nil {
		r.out++
	}
	r.outs[c] = o
}

// clear ends the outage for a cause.
func (r *record) clear(c cause) {
	if r.outs[c] != nil {
		r.out--
	}
	r.outs[c] = nil
}

// waits reports whether a wait is running.
func (r *record) waits(now time.Time) bool {
	for _, o := range r.outs {
		if o != nil && !o.over(now) {
			return true
		}
	}
	return false
}

// gravest returns the gravest outage, nil if there is none.
func (r *record) gravest() *outage {
	var found *outage
	for _, o := range r.outs {
		if o != nil && (found == nil || o.state > found.state) {
			found = o
		}
	}
	return found
}

// clip returns a copy of at most n bytes of s, cut between characters.
func clip(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return strings.Clone(s)
}
