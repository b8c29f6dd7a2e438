package keypool

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// rig is a pool with a clock that the test moves, no jitter, and a record of all
// that it tells.
type rig struct {
	*testing.T
	*Pool
	now     time.Time
	changes []Change
	notices []Notice
	request uint64
}

var epoch = time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)

// newRig makes a pool of n keys, "a", "b" and so on with IDs "id-a" …, after
// edit, if any, has changed its configuration.
func newRig(t *testing.T, n int, edit func(*Config)) *rig {
	t.Helper()
	r := &rig{T: t, now: epoch}
	c := Config{
		Name:     "up",
		Now:      func() time.Time { return r.now },
		Rand:     func() float64 { return 0 },
		OnChange: func(c Change) { r.changes = append(r.changes, c) },
		Health:   NewHealth(func(n Notice) { r.notices = append(r.notices, n) }),
	}
	for i := range n {
		label := string(rune('a' + i))
		c.Keys = append(c.Keys, Key{Label: label, ID: "id-" + label, Weight: 1})
	}
	if edit != nil {
		edit(&c)
	}
	r.Pool = New(c)
	return r
}

func (r *rig) pass(d time.Duration) { r.now = r.now.Add(d) }

// on asks for one key only, which may be in any state that the request accepts.
func (r *rig) on(label string, w Want) Want {
	for i := range r.slots {
		if r.slots[i].label != label {
			w.Tried.Add(i)
		}
	}
	return w
}

// begin takes a key, which must work.
func (r *rig) begin(w Want) *Lease {
	r.Helper()
	l, err := r.Take(&w)
	if err != nil {
		r.Fatalf("take: %v", err)
	}
	return l
}

// end reports and releases.
func (r *rig) end(l *Lease, v Verdict) {
	if v.Class == Failed || v.Class == Unreachable {
		if v.Request == 0 {
			r.request++
			v.Request = 1000 + r.request
		}
	}
	l.Report(v)
	l.Release()
}

// try makes one whole attempt at a key.
func (r *rig) try(label string, v Verdict) {
	r.Helper()
	r.end(r.begin(r.on(label, Want{Model: "m"})), v)
}

// last makes one whole attempt at a key as a last resort.
func (r *rig) last(label string, v Verdict) {
	r.Helper()
	r.end(r.begin(r.on(label, Want{Model: "m", Last: true})), v)
}

// fail lets a key fail in n different requests.
func (r *rig) fail(label string, n int) {
	r.Helper()
	for range n {
		r.try(label, Verdict{Class: Failed})
	}
}

// serves checks whether a request for the model would get the key, without
// leaving a trace.
func (r *rig) serves(label, model string, want bool) {
	r.Helper()
	r.check(r.on(label, Want{Model: model}), want)
}

// lastServes does so for the last resort.
func (r *rig) lastServes(label, model string, want bool) {
	r.Helper()
	r.check(r.on(label, Want{Model: model, Last: true}), want)
}

func (r *rig) check(w Want, want bool) {
	r.Helper()
	l, err := r.Take(&w)
	if (err == nil) != want {
		r.Fatalf("at +%v: served %v (%v), want %v", r.now.Sub(epoch), err == nil, err, want)
	}
	if l != nil {
		l.Release()
	}
}

// out checks that a key is out for exactly d: it does not serve until then, and
// does from then on. The clock ends there.
func (r *rig) out(label, model string, d time.Duration) {
	r.Helper()
	r.serves(label, model, false)
	r.pass(d - time.Nanosecond)
	r.serves(label, model, false)
	r.pass(time.Nanosecond)
	r.serves(label, model, true)
}

func (r *rig) unavailable(w Want) *Unavailable {
	r.Helper()
	l, err := r.Take(&w)
	var u *Unavailable
	if !errors.As(err, &u) {
		r.Fatalf("take: %v, %v; want an *Unavailable", l, err)
	}
	return u
}

func (r *rig) state(label string) KeyState {
	r.Helper()
	for _, s := range r.States() {
		if s.Label == label {
			return s
		}
	}
	r.Fatalf("no key %q", label)
	return KeyState{}
}

// told checks and forgets the changes told of so far, each as "label state" for
// a key that went out and "label ok" for one that came back.
func (r *rig) told(want ...string) {
	r.Helper()
	got := []string{}
	for _, c := range r.changes {
		if c.Pool != r.Name() || c.Out != (c.State != StateOK) || c.Until.IsZero() == c.Out {
			r.Errorf("odd change %+v", c)
		}
		got = append(got, c.Label+" "+c.State.String())
	}
	r.changes = nil
	if fmt.Sprint(got) != fmt.Sprint(append([]string{}, want...)) {
		r.Fatalf("told of %q, want %q", got, want)
	}
}
