package keypool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// knowledge is what a simple-minded observer knows of a key for certain: enough
// to say when it must not be used, without the rules for how long it may.
type knowledge struct {
	out    [8]time.Time             // by Class: out at least until then, by a wait of our own
	began  [8]int                   // by Class: the step of that
	named  [8]time.Time             // by Class: out until then, the upstream says
	models map[string]*[2]time.Time // by model: likewise, own and named
	since  map[string]int           // by model: the step of the own one
	leases map[*Lease]int           // in flight, by the step when they began
	reset  int                      // the step of the latest reset
	told   State
}

func (k *knowledge) barred(model string, last bool, now time.Time) string {
	for class := range k.out {
		if now.Before(k.named[class]) {
			return fmt.Sprintf("%v as named", Class(class))
		}
		if !last && now.Before(k.out[class]) {
			return Class(class).String()
		}
	}
	if m := k.models[model]; m != nil {
		if now.Before(m[1]) {
			return "model limited as named"
		}
		if !last && now.Before(m[0]) {
			return "model"
		}
	}
	return ""
}

// TestRandomWalk takes, reports and releases at random, on a clock that jumps,
// and checks after each step that no rule is broken that the observer can check.
func TestRandomWalk(t *testing.T) {
	for policy := RoundRobin; policy <= Sticky; policy++ {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(policy, seed), func(t *testing.T) { randomWalk(t, policy, seed, 5000) })
		}
	}
}

func randomWalk(t *testing.T, policy Policy, seed uint64, steps int) {
	random := rand.New(rand.NewPCG(seed, uint64(policy)))
	n, most := 2+random.IntN(7), random.IntN(4)
	r := newRig(t, n, func(c *Config) {
		c.Policy, c.MaxRequests, c.Rand = policy, most, random.Float64
		for i := range c.Keys {
			c.Keys[i].Weight = 1 + random.IntN(5)
		}
	})
	keys := make([]knowledge, n)
	for i := range keys {
		keys[i] = knowledge{models: map[string]*[2]time.Time{}, since: map[string]int{}, leases: map[*Lease]int{}}
	}
	models := []string{"m", "n", "o"}
	var open []*Lease
	trouble := 0.5 // chance of a bad verdict; it comes and goes

	for step := 1; step <= steps; step++ {
		switch p := random.Float64(); {
		case p < 0.40:
			w := Want{Model: models[random.IntN(3)], Last: random.IntN(4) == 0}
			if random.IntN(3) == 0 {
				w.Hash = random.Uint64()
			}
			if random.IntN(4) == 0 {
				w.Prefer = "id-" + string(rune('a'+random.IntN(n+1)))
			}
			for i := range n {
				if random.IntN(5) == 0 {
					w.Tried.Add(i)
				}
			}
			l, err := r.Take(&w)
			if err != nil {
				for i := range keys {
					k := &keys[i]
					s := r.States()[i]
					well := s.State == StateOK && !slices.ContainsFunc(s.Models, func(m ModelState) bool { return m.Model == w.Model })
					if well && !w.Tried.Has(i) && (most == 0 || len(k.leases) < most) {
						t.Fatalf("step %d: %v, but key %d is well and free: %+v", step, err, i, s)
					}
				}
				break
			}
			k := &keys[l.Key()]
			if why := k.barred(w.Model, w.Last, r.now); why != "" {
				t.Fatalf("step %d: took key %d for %+v, which is out: %s", step, l.Key(), w, why)
			}
			k.leases[l] = step
			open = append(open, l)
			if most > 0 && len(k.leases) > most || w.Tried.Has(l.Key()) {
				t.Fatalf("step %d: took key %d, full or tried", step, l.Key())
			}
		case p < 0.65 && len(open) > 0:
			l := open[random.IntN(len(open))]
			v := Verdict{Class: Served, Request: random.Uint64N(50), Reason: "r"}
			if random.Float64() < trouble {
				v.Class = Class(random.IntN(8))
				if random.IntN(2) == 0 {
					v.Until = r.now.Add(time.Duration(random.Int64N(int64(2 * time.Hour))))
				}
				if v.Class == Limited && random.IntN(2) == 0 {
					v.Model = models[random.IntN(3)]
				}
			}
			if !l.reported {
				keys[l.Key()].learn(&v, l, keys[l.Key()].leases[l], step, r.now)
			}
			l.Report(v)
		case p < 0.90 && len(open) > 0:
			i := random.IntN(len(open))
			l := open[i]
			l.Release()
			if random.IntN(3) == 0 {
				l.Release()
			}
			delete(keys[l.Key()].leases, l)
			open = slices.Delete(open, i, i+1)
		case p < 0.905:
			i := random.IntN(n)
			if err := r.Reset(string(rune('a' + i))); err != nil {
				t.Fatal(err)
			}
			k := &keys[i]
			k.out, k.named, k.reset = [8]time.Time{}, [8]time.Time{}, step
			clear(k.models)
		case p < 0.91:
			trouble = []float64{0, 0.2, 0.5, 0.9}[random.IntN(4)]
		case p < 0.97:
			r.pass(time.Duration(random.Int64N(int64(4 * time.Second))))
		case p < 0.99:
			r.pass(time.Duration(random.Int64N(int64(10 * time.Minute))))
		default:
			r.pass(time.Duration(random.Int64N(int64(8 * time.Hour))))
		}
		for i, s := range r.States() {
			if s.InFlight != len(keys[i].leases) {
				t.Fatalf("step %d: key %d has %d in flight, want %d", step, i, s.InFlight, len(keys[i].leases))
			}
		}
		for _, c := range r.changes {
			if c.Label == "" {
				continue
			}
			k := &keys[c.Label[0]-'a']
			if c.Out == (c.State == StateOK) || c.Out && c.State == k.told || !c.Out && k.told == StateOK {
				t.Fatalf("step %d: told of %+v after %v", step, c, k.told)
			}
			k.told = c.State
		}
		r.changes = r.changes[:0]
	}

	// In the end all is well: every key comes back and gets its share.
	for _, l := range open {
		l.Release()
	}
	r.pass(32 * 24 * time.Hour)
	for i := range n {
		label := string(rune('a' + i))
		for _, model := range models {
			r.end(r.begin(r.on(label, Want{Model: model})), Verdict{Class: Served})
		}
		if s := r.state(label); s.State != StateOK || s.InFlight != 0 || len(s.Models) > 0 {
			t.Errorf("in the end: %+v", s)
		}
	}
	if policy == First {
		return
	}
	seen := map[int]bool{}
	for range 200 * n {
		l := r.begin(Want{Hash: uint64(policy/Sticky) * random.Uint64()})
		seen[l.Key()] = true
		r.end(l, Verdict{Class: Served})
	}
	if len(seen) != n {
		t.Errorf("only %d of %d keys are in use in the end", len(seen), n)
	}
}

// learn notes what a verdict means for certain. began is the step of its lease.
func (k *knowledge) learn(v *Verdict, l *Lease, began, step int, now time.Time) {
	// What an answer proves.
	proved := map[Class][]Class{
		Served:    {Limited, Exhausted, Invalid},
		Limited:   {Invalid},
		Exhausted: {Invalid},
	}
	for _, class := range proved[v.Class] {
		if began >= k.began[class] {
			k.out[class] = time.Time{}
		}
	}
	if v.Class == Served && began >= k.since[l.model] {
		if m := k.models[l.model]; m != nil {
			m[0] = time.Time{}
		}
	}
	// What it puts out, if nothing has been known that may have made it old.
	named := v.Until.After(now)
	fresh := func(class Class, d time.Duration) {
		if named && (class == Limited || class == Exhausted) {
			if v.Until.After(k.named[class]) {
				k.named[class] = v.Until
			}
			k.out[class] = time.Time{}
			return
		}
		if k.began[class] == 0 && began > k.reset && !now.Before(k.named[class]) {
			k.out[class], k.began[class] = now.Add(d), step
		}
	}
	switch v.Class {
	case Invalid:
		fresh(Invalid, 10*time.Minute)
	case Exhausted:
		fresh(Exhausted, 10*time.Minute)
	case Limited:
		if v.Model == "" {
			fresh(Limited, 4*time.Second)
			return
		}
		m := k.models[v.Model]
		if m == nil {
			m = new([2]time.Time)
			k.models[v.Model] = m
		}
		if named {
			if v.Until.After(m[1]) {
				m[1] = v.Until
			}
			m[0] = time.Time{}
		} else if k.since[v.Model] == 0 && !now.Before(m[1]) {
			m[0], k.since[v.Model] = now.Add(4*time.Second), step
		}
	}
}

// TestRandomLine lets requests wait, give up, report and release at random. Once
// all is quiet nobody may stand in line for whom there is a key, or no hope; and
// of those who ask for the same, who came first is served first.
func TestRandomLine(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomLine(t, seed, 1500) })
		})
	}
}

func randomLine(t *testing.T, seed uint64, steps int) {
	random := rand.New(rand.NewPCG(seed, 99))
	h := NewHealth(nil)
	var pools []*Pool
	for i := range 3 {
		pools = append(pools, New(Config{
			Name: fmt.Sprint("up", i), Keys: keysOf(1 + random.IntN(3)), MaxRequests: 1 + random.IntN(2),
			Policy: Policy(random.IntN(6)), Health: h,
		}))
	}
	type result struct {
		lease *Lease
		err   error
	}
	type request struct {
		kind   int
		number int
		leave  context.CancelFunc
		gone   bool
		result chan result
	}
	var waiting []*request
	var open []*Lease
	served := map[int]int{} // by kind: the latest number
	models := []string{"m", "n"}

	for step := range steps {
		switch p := random.Float64(); {
		case p < 0.35 && len(waiting) < 20:
			kind := random.IntN(16)
			ctx, cancel := context.WithCancel(t.Context())
			q := &request{kind: kind, number: step, leave: cancel, result: make(chan result, 1)}
			var ps []*Pool
			var ws []*Want
			for i, p := range pools {
				if kind%8 == i || kind%8 >= 3 && (kind%8-3)>>i&1 == 0 {
					ps = append(ps, p)
					ws = append(ws, &Want{Model: models[kind/8], Last: kind%8 == 4})
				}
			}
			waiting = append(waiting, q)
			go func() {
				_, l, err := Wait(ctx, ps, ws)
				q.result <- result{l, err}
			}()
		case p < 0.45 && len(waiting) > 0:
			q := waiting[random.IntN(len(waiting))]
			q.gone = true
			if random.IntN(2) == 0 && len(open) > 0 { // at the same moment
				go open[0].Release()
				open = open[1:]
			}
			q.leave()
		case p < 0.60 && len(open) > 0:
			v := Verdict{Class: Served, Request: random.Uint64()}
			if random.IntN(3) == 0 {
				v.Class = Class(random.IntN(8))
				if random.IntN(2) == 0 {
					v.Until = time.Now().Add(time.Duration(random.Int64N(int64(time.Minute))))
				}
				if v.Class == Limited && random.IntN(2) == 0 {
					v.Model = models[random.IntN(2)]
				}
			}
			open[random.IntN(len(open))].Report(v)
		case p < 0.90 && len(open) > 0:
			i := random.IntN(len(open))
			open[i].Release()
			open = slices.Delete(open, i, i+1)
		case p < 0.97:
			time.Sleep(time.Duration(random.Int64N(int64(5 * time.Second))))
		default:
			time.Sleep(time.Duration(random.Int64N(int64(30 * time.Minute))))
		}

		synctest.Wait()
		var next []*request
		numbers := map[int]int{}
		for _, q := range waiting {
			select {
			case r := <-q.result:
				q.leave()
				if r.lease == nil {
					continue
				}
				open = append(open, r.lease)
				if q.gone {
					continue
				}
				numbers[q.kind] = max(numbers[q.kind], q.number)
			default:
				next = append(next, q)
			}
		}
		waiting = next
		for kind, number := range numbers {
			served[kind] = number
			for _, q := range waiting {
				if q.kind == kind && q.number < number {
					t.Fatalf("step %d: request %d waits, %d of the same kind is served", step, q.number, number)
				}
			}
		}
		quiet(t, step, h, len(waiting), len(open))
	}
	for len(waiting) > 0 || len(open) > 0 {
		for _, l := range open {
			l.Release()
		}
		open = nil
		synctest.Wait()
		for _, q := range waiting {
			q.leave()
			if r := <-q.result; r.lease != nil {
				open = append(open, r.lease)
			}
		}
		waiting = nil
	}
	quiet(t, steps, h, 0, 0)
	if len(served) < 5 {
		t.Errorf("only %d kinds of requests were served from the line", len(served))
	}
}

// quiet checks the line while nothing happens.
func quiet(t *testing.T, step int, h *Health, waiting, open int) {
	t.Helper()
	now := time.Now()
	h.mu.Lock()
	defer h.unlock()
	if h.clock.waiting != waiting {
		t.Fatalf("step %d: %d in line, want %d", step, h.clock.waiting, waiting)
	}
	inFlight := 0
	for _, u := range h.upstreams {
		for _, r := range u.records {
			inFlight += r.inFlight
		}
		for e := u.line.Front(); e != nil; e = e.Next() {
			pl := e.Value.(*place)
			for _, r := range u.records {
				if i, ok := pl.pool.usable(r, pl.want, now); ok {
					t.Fatalf("step %d: somebody waits for %s, whose key %d is free", step, u.identity, i)
				}
			}
			if !pl.waiter.hopes(now) && !pl.waiter.awaitsProbe(now) {
				t.Fatalf("step %d: somebody waits for %s without hope", step, u.identity)
			}
		}
	}
	if inFlight != open {
		t.Fatalf("step %d: %d in flight, want %d", step, inFlight, open)
	}
}

// awaitsProbe reports whether a key's fate is being decided, or a refused one may
// soon be tried again by the last resort: reason enough to stay in line.
func (w *waiter) awaitsProbe(now time.Time) bool {
	for _, pl := range w.places {
		p := pl.pool
		for i := range p.slots {
			r := p.slots[i].rec
			for _, o := range append(r.outs[:len(r.outs):len(r.outs)], p.up.down, p.model(pl.want.Model).wait(r, now)) {
				if o != nil && (o.probe != nil || pl.want.Last && o.refused() && !o.named) {
					return true
				}
			}
		}
	}
	return false
}
