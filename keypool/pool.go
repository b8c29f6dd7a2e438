package keypool

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"time"
)

// maxWeight keeps the arithmetic of shares within 64 bits.
const maxWeight = 1 << 20

// Pool holds the keys of one upstream. It is made by [New] and needs no closing.
type Pool struct {
	name     string
	policy   Policy
	max      int // requests in flight on a key
	health   *Health
	up       *upstream
	now      func() time.Time
	rand     func() float64
	onChange func(Change)

	slots    []slot
	byID     map[string]int
	byRec    map[*record]int
	even     bool    // all weights are equal
	heaviest float64 // the largest weight
	table    table   // of hashes; nil for a few keys

	// The round, guarded by the lock of health. level is how far it has come, in
	// turns for each unit of weight: a key that has had no more is next. cursor is
	// where such a key is most likely found.
	level  level
	cursor int
}

// slot is a key's place in its pool.
type slot struct {
	rec    *record
	picks  uint64 // turns taken
	weight uint64
	hash   uint64
	label  string
}

// level is a number for each unit of weight.
type level struct{ n, weight uint64 }

func (s *slot) level() level { return level{s.picks, s.weight} }

// load is the requests in flight for each unit of weight.
func (s *slot) load() level { return level{uint64(s.rec.inFlight), s.weight} }

func (a level) less(b level) bool { return a.n*b.weight < b.n*a.weight }

// New returns a pool. It panics if there are no keys.
func New(c Config) *Pool {
	if len(c.Keys) == 0 {
		panic("keypool: a pool needs a key")
	}
	p := &Pool{
		name:     c.Name,
		policy:   c.Policy,
		max:      max(c.MaxRequests, 0),
		health:   c.Health,
		now:      c.Now,
		rand:     c.Rand,
		onChange: c.OnChange,
		slots:    make([]slot, len(c.Keys)),
		byID:     make(map[string]int, len(c.Keys)),
		byRec:    make(map[*record]int, len(c.Keys)),
		even:     true,
		level:    level{0, 1},
	}
	if p.health == nil {
		p.health = NewHealth(nil)
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.rand == nil {
		p.rand = rand.Float64
	}
	identity := c.Identity
	if identity == "" {
		identity = c.Name
	}

	ids := make([]string, len(c.Keys))
	for i, k := range c.Keys {
		if ids[i] = k.ID; k.ID == "" {
			ids[i] = "\x00" + k.Label
		}
		w := uint64(min(max(k.Weight, 1), maxWeight))
		p.slots[i] = slot{weight: w, hash: hashOf(ids[i]), label: k.Label}
		p.even = p.even && w == p.slots[0].weight
		p.heaviest = max(p.heaviest, float64(w))
	}
	if len(p.slots) >= tableKeys {
		p.table = newTable(p.slots)
	}

	h, now := p.health, p.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	p.up = h.upstream(identity)
	fresh := make([]record, len(c.Keys)) // side by side, as they will be read
	for i, k := range c.Keys {
		id := ids[i]
		r := p.up.keys[id]
		if r == nil {
			r = &fresh[i]
			r.id = k.ID
			h.add(p.up, id, r)
		}
		r.used = now.Unix()
		p.slots[i].rec = r
		if _, ok := p.byRec[r]; !ok {
			p.byRec[r] = i
			if k.ID != "" {
				p.byID[k.ID] = i
			}
		}
	}
	h.forget(now)
	return p
}

// Name returns the upstream's name.
func (p *Pool) Name() string { return p.name }

// Len returns the number of keys.
func (p *Pool) Len() int { return len(p.slots) }

// Take lends a key for one attempt, or returns an [*Unavailable]. It never waits.
// The lease must be released.
func (p *Pool) Take(w *Want) (*Lease, error) {
	h := p.health
	now := p.now()
	l := new(Lease) // outside the lock
	h.mu.Lock()
	h.serveDue(now)
	if !p.take(l, w, now) {
		u := p.survey(w, now)
		h.unlock()
		return nil, u
	}
	h.unlock()
	return l, nil
}

// take fills in the lease if a key can serve.
func (p *Pool) take(l *Lease, w *Want, now time.Time) bool {
	i := p.choose(w, now)
	if i < 0 {
		return false
	}
	p.lend(l, i, w, now)
	return true
}

// lend makes l the lease of key i.
func (p *Pool) lend(l *Lease, i int, w *Want, now time.Time) {
	r := p.slots[i].rec
	r.inFlight++
	r.used = now.Unix()
	l.pool, l.key, l.rec, l.model = p, i, r, w.Model
	l.seq = p.health.next()
	m := p.model(w.Model)
	if r.out == 0 && p.up.down == nil && m == nil {
		return
	}
	for _, o := range r.outs {
		o.begin(l, now)
	}
	p.up.down.begin(l, now)
	m.wait(r, now).begin(l, now)
	if p.up.line.Len() > 0 {
		p.health.wakeBy(p.up.returns(now), now, p.now)
	}
}

// model returns the waits that concern a model; nil, as nearly always, if there
// are none.
func (p *Pool) model(name string) *model {
	if len(p.up.models) == 0 {
		return nil
	}
	m := p.up.models[name]
	if m != nil && len(m.waits) == 0 {
		delete(p.up.models, name)
		return nil
	}
	return m
}

// ask is what a choice looks for.
type ask struct {
	want  *Want
	model *model
	base  rank // the best that the upstream leaves to its keys
	limit rank // the worst that the request accepts
	now   time.Time
}

func (p *Pool) ask(w *Want, now time.Time) ask {
	a := ask{want: w, model: p.model(w.Model), now: now}
	if p.up.down != nil {
		a.base = p.up.down.rank(now)
	}
	if w.Last {
		a.limit = rankRefused
	}
	return a
}

// choose returns the key for a request, -1 if there is none. The better rank
// comes first; affinity and policy choose among equals.
func (p *Pool) choose(w *Want, now time.Time) int {
	a := p.ask(w, now)
	if a.base > a.limit {
		return -1
	}
	if w.Prefer != "" {
		if i, ok := p.byID[w.Prefer]; ok && p.rank(i, &a) <= min(a.limit, rankCooling) {
			return i
		}
	}
	switch {
	case w.Hash != 0:
		return p.byHash(&a, w.Hash)
	case p.policy == Random:
		return p.atRandom(&a)
	case p.policy == First:
		return p.first(&a)
	}
	return p.byTurn(&a)
}

// first returns the first of the best keys.
func (p *Pool) first(a *ask) int {
	best, bestRank := -1, a.limit+1
	for i := range p.slots {
		if rk := p.rank(i, a); rk < bestRank {
			best, bestRank = i, rk
		}
		if bestRank == rankOK {
			break
		}
	}
	return best
}

// atRandom returns any of the best keys, each as likely as its weight: a few
// throws, which nearly always find one, and then a hash of no meaning.
func (p *Pool) atRandom(a *ask) int {
	for range 8 {
		i := min(int(p.rand()*float64(len(p.slots))), len(p.slots)-1)
		if p.rand()*p.heaviest < float64(p.slots[i].weight) && p.rank(i, a) == rankOK {
			return i
		}
	}
	return p.byHash(a, uint64(p.rand()*(1<<53)))
}

// byHash returns the best key that a hash points to by weighted rendezvous, so
// that the loss of a key moves only what was its own. Among many keys the table
// knows it; where nearly none of them can serve, all are asked.
func (p *Pool) byHash(a *ask, hash uint64) int {
	if p.table != nil && a.base == rankOK {
		if i := p.table.find(p, a, hash); i >= 0 {
			return i
		}
	}
	best, bestRank, bestScore := -1, a.limit+1, 0.0
	for i := range p.slots {
		score := p.score(&p.slots[i], hash)
		if bestRank == rankOK && score <= bestScore {
			continue
		}
		rk := p.rank(i, a)
		if rk <= a.limit && (rk < bestRank || rk == bestRank && score > bestScore) {
			best, bestRank, bestScore = i, rk, score
		}
	}
	return best
}

func (p *Pool) score(s *slot, hash uint64) float64 {
	x := float64(mix(hash^s.hash) >> 11) // 53 bits
	if p.even {
		return x
	}
	return math.Log((x+0.5)/(1<<53)) / float64(s.weight)
}

// byTurn returns the best key whose turn it is, under least_conn that with the
// fewest requests in flight, and counts the turn. It begins where the round
// stands, so that the first look nearly always finds the key.
func (p *Pool) byTurn(a *ask) int {
	best, bestRank := -1, a.limit+1
	for k := range p.slots {
		i := p.cursor + k
		if i >= len(p.slots) {
			i -= len(p.slots)
		}
		rk := p.rank(i, a)
		if rk <= a.limit && (rk < bestRank || rk == bestRank && p.sooner(i, best)) {
			best, bestRank = i, rk
			if rk == rankOK && p.unbeaten(i) {
				break
			}
		}
	}
	if best >= 0 {
		p.turn(best)
	}
	return best
}

// turn counts a turn of key i. One that was passed over is brought up to where
// the round has come: turns that were missed are not made up for, so a key that
// comes back gets no flood.
func (p *Pool) turn(i int) {
	s := &p.slots[i]
	if s.level().less(p.level) {
		s.picks = p.level.n * s.weight / p.level.weight
	}
	p.level = s.level()
	s.picks++
	p.cursor = i + 1
	if p.cursor == len(p.slots) {
		p.cursor = 0
	}
}

// sooner reports whether key i comes before key j.
func (p *Pool) sooner(i, j int) bool {
	s, t := &p.slots[i], &p.slots[j]
	if p.policy == LeastConn {
		if a, b := s.load(), t.load(); a.less(b) || b.less(a) {
			return a.less(b)
		}
	}
	a, b := s.level(), t.level()
	return a.less(b) || i < j && !b.less(a)
}

// unbeaten reports whether no key can come before key i.
func (p *Pool) unbeaten(i int) bool {
	s := &p.slots[i]
	return !p.level.less(s.level()) && (p.policy != LeastConn || s.rec.inFlight == 0)
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func hashOf(id string) uint64 {
	f := fnv.New64a()
	f.Write([]byte(id)) // never fails
	return mix(f.Sum64())
}

// rank returns how good a choice key i is: rankNone if it has no slot or the
// request has tried it, else by health.
func (p *Pool) rank(i int, a *ask) rank {
	r := p.slots[i].rec
	if p.max > 0 && r.inFlight >= p.max || a.want.Tried.Has(i) {
		return rankNone
	}
	if a.model == nil && !r.ailing() {
		return a.base
	}
	return p.fitness(i, a)
}

// fitness is the rank of a key by health alone. It notices waits that are over.
func (p *Pool) fitness(i int, a *ask) rank {
	r := p.slots[i].rec
	rk := a.base
	if r.ailing() {
		p.expire(i, a.now)
		for _, o := range r.outs {
			if o != nil {
				rk = max(rk, o.rank(a.now))
			}
		}
	}
	if o := a.model.wait(r, a.now); o != nil {
		rk = max(rk, o.rank(a.now))
	}
	return rk
}

// survey says why no key can serve the request.
func (p *Pool) survey(w *Want, now time.Time) *Unavailable {
	u := &Unavailable{Pool: p.name, Refused: true}
	a := p.ask(w, now)
	for i := range p.slots {
		r := p.slots[i].rec
		rk := p.fitness(i, &a)
		if rk <= a.limit && !w.Tried.Has(i) {
			u.Full = true // what else would have been in the way
		}
		o := a.model.wait(r, now)
		if o != nil && o.state != StateModelOff || r.outs[byLimit] != nil || r.outs[byQuota] != nil {
			u.Limited = true
		}
		if r.outs[byRefusal] == nil {
			u.Refused = false
		}
		if rk > rankOK {
			u.Until = earlier(u.Until, p.returns(r, o, now))
		}
	}
	return u
}

// returns is when a key that is out returns, as far as one can know; o is its
// wait for the model in question.
func (p *Pool) returns(r *record, o *outage, now time.Time) time.Time {
	latest := now
	for _, o := range [...]*outage{r.outs[byFailure], r.outs[byLimit], r.outs[byQuota], r.outs[byRefusal], o, p.up.down} {
		if o != nil {
			if t := o.returns(now); t.After(latest) {
				latest = t
			}
		}
	}
	return latest
}
