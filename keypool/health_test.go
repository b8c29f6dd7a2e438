package keypool

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	sec  = time.Second
	mins = time.Minute
)

func TestThreeDifferentRequestsInARowCoolAKey(t *testing.T) {
	t.Run("three", func(t *testing.T) {
		r := newRig(t, 2, nil)
		r.fail("a", 2)
		r.serves("a", "m", true)
		r.told()
		r.fail("a", 1)
		r.told("a cooling")
		r.serves("b", "m", true)
		r.out("a", "m", 5*sec)
	})
	t.Run("the same body counts once", func(t *testing.T) {
		r := newRig(t, 1, nil)
		for range 10 {
			r.try("a", Verdict{Class: Failed, Request: 7})
			r.try("a", Verdict{Class: Failed, Request: 8})
		}
		r.serves("a", "m", true)
		r.try("a", Verdict{Class: Failed, Request: 9})
		r.serves("a", "m", false)
	})
	t.Run("requests without an identity all differ", func(t *testing.T) {
		r := newRig(t, 1, nil)
		for range 3 {
			l := r.begin(Want{})
			l.Report(Verdict{Class: Failed})
			l.Release()
		}
		r.serves("a", "m", false)
	})
	for _, v := range []Verdict{
		{Class: Served},
		{Class: Neutral},
		{Class: ModelOff, Model: "other"},
		{Class: Limited, Model: "other"},
	} {
		t.Run(v.Class.String()+" ends the row", func(t *testing.T) {
			r := newRig(t, 1, nil)
			r.fail("a", 2)
			r.try("a", v)
			r.fail("a", 2)
			r.serves("a", "m", true)
			r.fail("a", 1)
			r.serves("a", "m", false)
		})
	}
	t.Run("no answer leaves the row alone", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.fail("a", 2)
		r.try("a", Verdict{Class: Unreachable})
		r.begin(Want{}).Release()
		r.fail("a", 1)
		r.serves("a", "m", false)
	})
	t.Run("each key has its own row", func(t *testing.T) {
		r := newRig(t, 2, nil)
		r.fail("a", 2)
		r.try("b", Verdict{Class: Served})
		r.fail("b", 2)
		r.fail("a", 1)
		r.serves("a", "m", false)
		r.serves("b", "m", true)
	})
	t.Run("a named wait is not for failures", func(t *testing.T) {
		r := newRig(t, 1, nil)
		for i := range 3 {
			r.try("a", Verdict{Class: Failed, Request: uint64(i + 1), Until: r.now.Add(time.Hour)})
		}
		r.out("a", "m", 5*sec)
	})
}

// Each own wait doubles when its probe fails, up to its most, and starts anew
// after a success.
func TestOwnWaitsDouble(t *testing.T) {
	tests := []struct {
		name    string
		verdict Verdict
		row     int // how many it takes
		waits   []time.Duration
	}{
		{"failed", Verdict{Class: Failed}, 3, []time.Duration{5 * sec, 10 * sec, 20 * sec, 40 * sec, 80 * sec, 160 * sec, 300 * sec, 300 * sec}},
		{"unreachable", Verdict{Class: Unreachable}, 3, []time.Duration{5 * sec, 10 * sec, 20 * sec, 40 * sec, 80 * sec, 160 * sec, 300 * sec, 300 * sec}},
		{"limited", Verdict{Class: Limited}, 1, []time.Duration{5 * sec, 10 * sec, 20 * sec, 40 * sec, 80 * sec, 160 * sec, 300 * sec, 300 * sec}},
		{"limited for a model", Verdict{Class: Limited, Model: "m"}, 1, []time.Duration{5 * sec, 10 * sec, 20 * sec, 40 * sec, 80 * sec, 160 * sec, 300 * sec, 300 * sec}},
		{"exhausted", Verdict{Class: Exhausted}, 1, []time.Duration{10 * mins, 20 * mins, 40 * mins, 80 * mins, 160 * mins, 320 * mins, 360 * mins, 360 * mins}},
		{"invalid", Verdict{Class: Invalid}, 1, []time.Duration{10 * mins, 20 * mins, 40 * mins, 80 * mins, 160 * mins, 320 * mins, 360 * mins, 360 * mins}},
		{"model off", Verdict{Class: ModelOff}, 1, []time.Duration{10 * mins, 10 * mins, 10 * mins}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, 1, nil)
			for range 2 {
				for range test.row - 1 {
					r.try("a", test.verdict)
				}
				for _, d := range test.waits {
					r.try("a", test.verdict)
					r.out("a", "m", d)
				}
				r.try("a", Verdict{Class: Served})
				r.serves("a", "m", true)
				if s := r.state("a"); s.State != StateOK || s.Models != nil || !s.Until.IsZero() {
					t.Fatalf("after a success: %+v", s)
				}
			}
		})
	}
}

func TestJitterTakesUpToAFifthOff(t *testing.T) {
	tests := []struct {
		class Class
		waits []time.Duration // with half of the jitter
	}{
		{Limited, []time.Duration{4500 * time.Millisecond, 9 * sec, 18 * sec}}, // it does not add up
		{Exhausted, []time.Duration{10 * mins, 20 * mins}},
		{Invalid, []time.Duration{10 * mins, 20 * mins}},
	}
	for _, test := range tests {
		r := newRig(t, 1, func(c *Config) { c.Rand = func() float64 { return 0.5 } })
		for _, d := range test.waits {
			r.try("a", Verdict{Class: test.class})
			r.out("a", "m", d)
		}
	}
	r := newRig(t, 1, func(c *Config) { c.Rand = func() float64 { return 0.5 } })
	r.try("a", Verdict{Class: Limited, Until: r.now.Add(sec)})
	r.out("a", "m", sec)
}

func TestNamedWaits(t *testing.T) {
	t.Run("exact, and open to all at the end", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Limited, Until: r.now.Add(17*sec + 3)})
		r.out("a", "m", 17*sec+3)
		for range 5 { // no probe
			r.begin(Want{Model: "m"})
		}
	})
	t.Run("cut at 24 h", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Limited, Until: r.now.Add(1000 * time.Hour)})
		r.out("a", "m", 24*time.Hour)
	})
	t.Run("quota as named, cut at 31 days", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Exhausted, Until: r.now.Add(72 * time.Hour)})
		r.out("a", "m", 72*time.Hour)
		r.try("a", Verdict{Class: Exhausted, Until: r.now.Add(10_000 * time.Hour)})
		r.out("a", "m", 31*24*time.Hour)
	})
	t.Run("one that has passed is none", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Limited, Until: r.now})
		r.out("a", "m", 5*sec)
	})
	t.Run("not for a refused credential", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Invalid, Until: r.now.Add(time.Second)})
		r.out("a", "m", 10*mins)
	})
	t.Run("of two the later holds", func(t *testing.T) {
		r := newRig(t, 1, nil)
		one, two, three := r.begin(Want{}), r.begin(Want{}), r.begin(Want{})
		r.end(one, Verdict{Class: Limited, Until: r.now.Add(20 * sec)})
		r.end(two, Verdict{Class: Limited, Until: r.now.Add(30 * sec)})
		r.end(three, Verdict{Class: Limited, Until: r.now.Add(10 * sec)})
		r.out("a", "m", 30*sec)
	})
	t.Run("a named wait takes the place of our own", func(t *testing.T) {
		r := newRig(t, 1, nil)
		one, two := r.begin(Want{}), r.begin(Want{})
		r.end(one, Verdict{Class: Limited})
		r.end(two, Verdict{Class: Limited, Until: r.now.Add(2 * sec)})
		r.out("a", "m", 2*sec)
	})
	t.Run("a wait of our own does not touch a named one", func(t *testing.T) {
		r := newRig(t, 1, nil)
		one, two := r.begin(Want{}), r.begin(Want{})
		r.end(one, Verdict{Class: Limited, Until: r.now.Add(20 * sec)})
		r.end(two, Verdict{Class: Limited})
		r.out("a", "m", 20*sec)
	})
	t.Run("a late success does not cancel it", func(t *testing.T) {
		for _, model := range []string{"", "m"} {
			r := newRig(t, 1, nil)
			old, one := r.begin(Want{Model: "m"}), r.begin(Want{Model: "m"})
			r.end(one, Verdict{Class: Limited, Model: model, Until: r.now.Add(20 * sec)})
			r.end(old, Verdict{Class: Served})
			r.out("a", "m", 20*sec)
		}
	})
	t.Run("nor does that of a last resort that began before it was named", func(t *testing.T) {
		r := newRig(t, 1, nil)
		one, two := r.begin(Want{}), r.begin(Want{})
		r.end(one, Verdict{Class: Limited})
		late := r.begin(Want{Last: true})
		r.end(two, Verdict{Class: Limited, Until: r.now.Add(20 * sec)})
		r.end(late, Verdict{Class: Served})
		r.out("a", "m", 20*sec)
	})
}

func TestLimitsAreForTheModelUnlessForTheAccount(t *testing.T) {
	for _, until := range []time.Time{{}, epoch.Add(5 * sec)} {
		r := newRig(t, 2, nil)
		r.try("a", Verdict{Class: Limited, Model: "m", Until: until})
		r.serves("a", "other", true)
		r.serves("a", "", true)
		r.serves("b", "m", true)
		r.told() // the key as a whole is well
		if s := r.state("a"); s.State != StateOK || len(s.Models) != 1 || s.Models[0].State != StateLimited || s.Models[0].Model != "m" {
			t.Errorf("state %+v", s)
		}
		r.out("a", "m", 5*sec)
	}
	r := newRig(t, 2, nil)
	r.try("a", Verdict{Class: Limited})
	r.serves("a", "other", false)
	r.serves("b", "m", true)
}

func TestUnreachableCoolsAllKeys(t *testing.T) {
	r := newRig(t, 3, nil)
	r.try("a", Verdict{Class: Unreachable})
	r.try("b", Verdict{Class: Unreachable})
	r.try("c", Verdict{Class: Invalid}) // an answer ends the row
	r.try("a", Verdict{Class: Unreachable, Request: 5})
	r.try("b", Verdict{Class: Unreachable, Request: 5})
	r.try("b", Verdict{Class: Unreachable, Request: 6})
	r.serves("a", "m", true)
	r.told("c invalid")
	r.try("a", Verdict{Class: Unreachable, Request: 7})
	r.told(" unreachable")
	if u := r.unavailable(Want{}); u.Full || u.Limited || u.Refused || !u.Until.Equal(r.now.Add(5*sec)) {
		t.Errorf("unavailable %+v", u)
	}
	r.serves("b", "m", false)
	r.lastServes("b", "m", true)
	if s := r.state("b"); s.State != StateUnreachable {
		t.Errorf("state %v", s.State)
	}
	r.out("a", "m", 5*sec)

	// Half open for the upstream as a whole.
	probe := r.begin(r.on("b", Want{}))
	r.serves("a", "m", false)
	r.end(probe, Verdict{Class: Failed}) // it answers
	r.serves("a", "m", true)
	r.told(" ok")
}

func TestHalfOpen(t *testing.T) {
	cool := func(t *testing.T) *rig {
		r := newRig(t, 1, nil)
		r.fail("a", 3)
		r.pass(5 * sec)
		return r
	}
	t.Run("one probe at a time", func(t *testing.T) {
		r := cool(t)
		probe := r.begin(Want{})
		r.serves("a", "m", false)
		r.lastServes("a", "m", true)
		probe.Report(Verdict{Class: Served})
		r.serves("a", "m", true)
		r.told("a cooling", "a ok")
	})
	t.Run("a probe released without a report lets the next", func(t *testing.T) {
		r := cool(t)
		for range 3 {
			probe := r.begin(Want{})
			r.serves("a", "m", false)
			probe.Release()
			r.serves("a", "m", true)
		}
		r.fail("a", 1) // the next probe: doubles
		r.out("a", "m", 10*sec)
	})
	t.Run("so does one whose answer says nothing of it", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Invalid})
		r.pass(10 * mins)
		probe := r.begin(Want{})
		probe.Report(Verdict{Class: Unreachable}) // not released yet
		r.serves("a", "m", true)
		if s := r.state("a"); s.State != StateProbing || s.Reason != "" {
			t.Errorf("state %+v", s)
		}
	})
	t.Run("one that has no answer for long lets the next", func(t *testing.T) {
		r := cool(t)
		r.begin(Want{})
		r.out("a", "m", 5*sec)
	})
	t.Run("a client's fault shows that the upstream works", func(t *testing.T) {
		r := cool(t)
		r.try("a", Verdict{Class: Neutral})
		r.told("a cooling", "a ok")
	})
	t.Run("but not that the credential does", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Invalid})
		r.pass(10 * mins)
		r.try("a", Verdict{Class: Neutral})
		r.told("a invalid")
		if s := r.state("a"); s.State != StateProbing {
			t.Errorf("state %v", s.State)
		}
	})
	t.Run("a limit shows that the credential is accepted", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Invalid})
		r.pass(10 * mins)
		r.try("a", Verdict{Class: Limited})
		if s := r.state("a"); s.State != StateLimited {
			t.Errorf("state %v", s.State)
		}
		if n := r.notices[1]; n.State != StateInvalid || !n.Over {
			t.Errorf("noticed %+v, want the end of invalid", n)
		}
		r.out("a", "m", 5*sec)
	})
	t.Run("of the upstream and of a key", func(t *testing.T) {
		r := newRig(t, 2, nil)
		r.try("a", Verdict{Class: Invalid})
		r.pass(10 * mins)
		for range 3 {
			r.try("b", Verdict{Class: Unreachable})
		}
		r.pass(5 * sec)
		probe := r.begin(r.on("a", Want{}))
		r.serves("b", "m", false)
		probe.Report(Verdict{Class: Failed}) // settles the one and not the other
		r.serves("b", "m", true)
		r.serves("a", "m", true)
	})
	t.Run("per model", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: ModelOff})
		r.pass(10 * mins)
		probe := r.begin(Want{Model: "m"})
		r.serves("a", "m", false)
		r.serves("a", "n", true)
		probe.Release()
		r.serves("a", "m", true)
	})
}

// What began before a key went out, or before it was mended, is no news.
func TestLateNews(t *testing.T) {
	for _, class := range []Class{Failed, Limited, Exhausted, Invalid, Unreachable, ModelOff} {
		t.Run(class.String(), func(t *testing.T) {
			r := newRig(t, 1, nil)
			crowd := make([]*Lease, 14)
			for i := range crowd {
				crowd[i] = r.begin(Want{Model: "m"})
			}
			v := Verdict{Class: class}
			for _, l := range crowd[:9] {
				r.end(l, v) // together, they put it out once
			}
			first := 5 * sec
			switch class {
			case Exhausted, Invalid, ModelOff:
				first = 10 * mins
			}
			r.out("a", "m", first)
			r.end(crowd[9], v) // does not double while half open
			r.end(crowd[10], Verdict{Class: Served})
			if s := r.state("a"); s.State != StateProbing && len(s.Models) == 0 {
				t.Errorf("a late success has healed it: %+v", s)
			}
			r.try("a", Verdict{Class: Served})
			if class == ModelOff {
				return
			}
			r.end(crowd[11], v) // does not put it out again
			r.end(crowd[12], v)
			if class == Failed || class == Unreachable {
				r.try("a", v) // nor does it count in the row
			}
			r.end(crowd[13], v)
			r.serves("a", "m", true)
		})
	}
	t.Run("the last resort does not double", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.fail("a", 3)
		for range 5 {
			r.last("a", Verdict{Class: Failed})
		}
		r.out("a", "m", 5*sec)
	})
	t.Run("but heals", func(t *testing.T) {
		for _, class := range []Class{Failed, Limited, Exhausted, Invalid, Unreachable} {
			r := newRig(t, 1, nil)
			for range 3 {
				r.last("a", Verdict{Class: class})
				r.pass(10 * sec)
			}
			r.last("a", Verdict{Class: Served})
			if s := r.state("a"); s.State != StateOK {
				t.Errorf("%v: %v after a success", class, s.State)
			}
		}
	})
}

func TestLastResort(t *testing.T) {
	t.Run("what is usable", func(t *testing.T) {
		tests := []struct {
			name string
			v    Verdict
			row  int
			want bool
		}{
			{"cooling", Verdict{Class: Failed}, 3, true},
			{"unreachable", Verdict{Class: Unreachable}, 3, true},
			{"limited by ourselves", Verdict{Class: Limited}, 1, true},
			{"limited by ourselves for the model", Verdict{Class: Limited, Model: "m"}, 1, true},
			{"model off", Verdict{Class: ModelOff}, 1, true},
			{"limited by the upstream", Verdict{Class: Limited, Until: epoch.Add(time.Hour)}, 1, false},
			{"limited by the upstream for the model", Verdict{Class: Limited, Model: "m", Until: epoch.Add(time.Hour)}, 1, false},
			{"exhausted for a time that was named", Verdict{Class: Exhausted, Until: epoch.Add(time.Hour)}, 1, false},
		}
		for _, test := range tests {
			r := newRig(t, 1, nil)
			for range test.row {
				r.try("a", test.v)
			}
			r.serves("a", "m", false)
			for range 3 {
				r.lastServes("a", "m", test.want)
			}
			r.pass(11 * sec / 10)
			r.lastServes("a", "m", test.want)
		}
	})
	for _, class := range []Class{Invalid, Exhausted} {
		t.Run(class.String()+" every 10 s", func(t *testing.T) {
			r := newRig(t, 2, nil)
			r.try("a", Verdict{Class: class})
			r.pass(3 * sec)
			r.try("b", Verdict{Class: class})
			r.lastServes("a", "m", false)
			r.pass(7 * sec)
			r.last("a", Verdict{Class: class})
			r.lastServes("a", "m", false)
			r.lastServes("b", "m", false)
			r.pass(3 * sec)
			r.last("b", Verdict{Class: class}) // each key for itself
			r.pass(7 * sec)
			held := r.begin(r.on("a", Want{Last: true}))
			r.lastServes("a", "m", false)
			r.end(held, Verdict{Class: Served})
			r.serves("a", "m", true)
		})
	}
	t.Run("the better comes first", func(t *testing.T) {
		r := newRig(t, 5, func(c *Config) { c.Policy = First })
		r.try("a", Verdict{Class: Invalid})
		r.try("b", Verdict{Class: ModelOff})
		r.try("c", Verdict{Class: Limited, Until: r.now.Add(time.Hour)})
		r.fail("d", 3)
		r.pass(10 * sec)
		r.try("e", Verdict{Class: Limited})
		r.try("d", Verdict{Class: Failed})
		w := Want{Model: "m", Last: true}
		order := ""
		for range 4 {
			l := r.begin(w)
			order += l.Label()
			w.Tried.Add(l.Key())
			l.Release()
		}
		if order != "deba" {
			t.Errorf("taken in the order %s, want deba", order)
		}
		r.unavailable(w)
	})
	t.Run("a key that can serve is taken as ever", func(t *testing.T) {
		r := newRig(t, 3, nil)
		r.fail("a", 3)
		for range 6 {
			if l := r.begin(Want{Last: true}); l.Label() == "a" {
				t.Fatal("took the cooling key")
			}
		}
	})
}

// Each cause is an outage of its own.
func TestCausesDoNotHideEachOther(t *testing.T) {
	r := newRig(t, 1, nil)
	crowd := []*Lease{r.begin(Want{}), r.begin(Want{}), r.begin(Want{}), r.begin(Want{}), r.begin(Want{})}
	for i, l := range crowd[:3] {
		r.end(l, Verdict{Class: Failed, Request: uint64(i + 1), Reason: "500"})
	}
	r.end(crowd[3], Verdict{Class: Invalid, Reason: "401"})
	r.end(crowd[4], Verdict{Class: Limited, Until: r.now.Add(time.Hour), Reason: "429"})
	r.told("a cooling", "a invalid") // limited is less grave
	if s := r.state("a"); s.State != StateInvalid || s.Reason != "401" || s.LastError != Limited {
		t.Errorf("state %+v", s)
	}
	r.pass(10 * mins)
	r.serves("a", "m", false) // the named wait
	r.pass(50 * mins)
	r.try("a", Verdict{Class: Served})
	r.told("a ok")
}

func TestChangesAreToldOnce(t *testing.T) {
	r := newRig(t, 2, nil)
	r.try("a", Verdict{Class: Invalid, Reason: "invalid_api_key"})
	if c := r.changes[0]; c != (Change{Pool: "up", Label: "a", State: StateInvalid, Reason: "invalid_api_key", Until: r.now.Add(10 * mins), Out: true}) {
		t.Errorf("change %+v", c)
	}
	r.told("a invalid")
	r.pass(10 * mins)
	r.try("a", Verdict{Class: Invalid}) // doubles: no news
	r.told()
	r.pass(20 * mins)
	r.try("a", Verdict{Class: Served})
	r.try("a", Verdict{Class: Served})
	r.told("a ok")

	r.try("b", Verdict{Class: Limited, Until: r.now.Add(time.Minute)})
	r.told("b limited")
	r.pass(time.Minute)
	r.told() // nobody has looked
	r.begin(r.on("b", Want{}))
	r.begin(r.on("b", Want{}))
	r.told("b ok")
}

// A key is told of again for a graver cause only, until it is back.
func TestChangesWithinATimeOut(t *testing.T) {
	r := newRig(t, 1, nil)
	crowd := make([]*Lease, 6)
	for i := range crowd {
		crowd[i] = r.begin(Want{})
	}
	r.end(crowd[0], Verdict{Class: Limited, Until: r.now.Add(time.Hour)})
	r.end(crowd[1], Verdict{Class: Exhausted, Until: r.now.Add(time.Minute)})
	r.told("a limited", "a exhausted")
	r.pass(time.Minute)
	r.serves("a", "m", false)
	if s := r.state("a"); s.State != StateLimited {
		t.Errorf("state %v", s.State)
	}
	r.end(crowd[2], Verdict{Class: Exhausted, Until: r.now.Add(time.Minute)})
	r.told()
	r.end(crowd[3], Verdict{Class: Invalid})
	r.told("a invalid")
	if err := r.Reset("a"); err != nil {
		t.Fatal(err)
	}
	r.end(crowd[4], Verdict{Class: Limited, Until: r.now.Add(time.Hour)})
	r.told("a ok", "a limited")
}

func TestAPanicInOnChangeLeavesThePoolWhole(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.OnChange = func(Change) { panic("ours") } })
	l := r.begin(Want{})
	func() {
		defer func() { _ = recover() }()
		l.Report(Verdict{Class: Invalid})
		t.Error("no panic")
	}()
	l.Release()
	if s := r.state("a"); s.State != StateInvalid || s.InFlight != 0 {
		t.Errorf("state %+v", s)
	}
}

func TestChangesMayUseThePool(t *testing.T) {
	var p *Pool
	var seen []State
	p = New(Config{Name: "up", Keys: []Key{{Label: "a", ID: "x"}}, OnChange: func(c Change) {
		seen = append(seen, c.State)
		if c.Out {
			if err := p.Reset(c.Label); err != nil {
				t.Error(err)
			}
		}
	}})
	l, err := p.Take(&Want{})
	if err != nil {
		t.Fatal(err)
	}
	l.Report(Verdict{Class: Invalid})
	if fmt.Sprint(seen) != "[invalid ok]" {
		t.Errorf("seen %v", seen)
	}
}

func TestUnavailable(t *testing.T) {
	r := newRig(t, 3, func(c *Config) { c.MaxRequests = 1 })
	var held []*Lease
	for range 3 {
		held = append(held, r.begin(Want{}))
	}
	want := func(w Want, want Unavailable) {
		t.Helper()
		want.Pool = "up"
		if u := r.unavailable(w); *u != want {
			t.Errorf("unavailable %+v, want %+v", *u, want)
		}
	}
	want(Want{}, Unavailable{Full: true})
	want(Want{Last: true}, Unavailable{Full: true})
	r.end(held[0], Verdict{Class: Limited, Until: r.now.Add(30 * sec)})
	want(Want{}, Unavailable{Full: true, Limited: true, Until: r.now.Add(30 * sec)})
	r.end(held[1], Verdict{Class: Limited, Model: "m", Until: r.now.Add(20 * sec)})
	want(Want{Model: "m"}, Unavailable{Full: true, Limited: true, Until: r.now.Add(20 * sec)})
	r.end(held[2], Verdict{Class: Invalid})
	want(Want{Model: "m"}, Unavailable{Limited: true, Until: r.now.Add(20 * sec)})

	r = newRig(t, 2, nil)
	r.try("a", Verdict{Class: Invalid})
	want(r.on("a", Want{}), Unavailable{Until: r.now.Add(10 * mins)})
	r.try("b", Verdict{Class: Invalid})
	want(Want{}, Unavailable{Refused: true, Until: r.now.Add(10 * mins)})

	r = newRig(t, 1, nil)
	r.try("a", Verdict{Class: ModelOff})
	want(Want{Model: "m"}, Unavailable{Until: r.now.Add(10 * mins)})

	// Keys that the request has tried count for the reason.
	r = newRig(t, 2, nil)
	l := r.begin(Want{})
	r.end(l, Verdict{Class: Exhausted, Until: r.now.Add(time.Hour)})
	var w Want
	w.Tried.Add(0)
	w.Tried.Add(1)
	want(w, Unavailable{Limited: true, Until: r.now.Add(time.Hour)})
}

func TestReset(t *testing.T) {
	r := newRig(t, 2, nil)
	r.try("a", Verdict{Class: Limited, Until: r.now.Add(time.Hour)})
	r.try("b", Verdict{Class: Limited, Until: r.now.Add(time.Hour), Model: "n"})
	for range 3 {
		r.try("b", Verdict{Class: Unreachable})
	}
	r.told("a limited", " unreachable")
	if err := r.Reset("nobody"); err == nil || !strings.Contains(err.Error(), `up has no key "nobody"`) {
		t.Errorf("reset of an unknown key: %v", err)
	}
	if err := r.Reset("a"); err != nil {
		t.Fatal(err)
	}
	r.told("a ok", " ok")
	r.serves("a", "n", true)
	r.serves("b", "n", false)
	if err := r.Reset(""); err != nil {
		t.Fatal(err)
	}
	r.serves("b", "n", true)

	// The rows of failures are forgotten too.
	r.fail("a", 2)
	r.try("b", Verdict{Class: Unreachable})
	r.try("b", Verdict{Class: Unreachable})
	if err := r.Reset("a"); err != nil {
		t.Fatal(err)
	}
	r.try("b", Verdict{Class: Unreachable})
	r.fail("a", 1)
	r.serves("a", "m", true)
}

func TestStates(t *testing.T) {
	r := newRig(t, 2, func(c *Config) { c.Keys[1].Weight = 3 })
	r.try("a", Verdict{Class: Served})
	for range 3 {
		r.try("b", Verdict{Class: Served})
	}
	l := r.begin(r.on("b", Want{}))
	l.Report(Verdict{Class: Limited, Until: r.now.Add(time.Minute), Reason: strings.Repeat("é", 200)})
	r.pass(sec)
	s := r.state("b")
	if s.ID != "id-b" || s.Weight != 3 || s.State != StateLimited || s.Served != 3 || s.Share != 0.75 || s.InFlight != 1 ||
		!s.Since.Equal(epoch) || !s.Until.Equal(epoch.Add(time.Minute)) || s.LastError != Limited || !s.LastErrorAt.Equal(epoch) ||
		s.Reason != strings.Repeat("é", 100) {
		t.Errorf("state %+v", s)
	}
	l.Release()
	l.Release()
	if s := r.state("b"); s.InFlight != 0 {
		t.Errorf("in flight %d after two releases", s.InFlight)
	}
	l.Report(Verdict{Class: Invalid}) // the second report is none
	if s := r.state("b"); s.State != StateLimited {
		t.Errorf("state %v after a second report", s.State)
	}
	r.pass(mins)
	if s := r.state("b"); s.State != StateOK || !s.Until.IsZero() {
		t.Errorf("state %+v after the wait", s)
	}
}

func TestHealthOutlivesThePool(t *testing.T) {
	h := NewHealth(nil)
	old := newRig(t, 2, func(c *Config) { c.Health, c.MaxRequests = h, 1 })
	old.try("a", Verdict{Class: Invalid})
	busy := old.begin(old.on("b", Want{}))

	// The key has another label and place; the limit of its requests holds too.
	next := newRig(t, 0, func(c *Config) {
		c.Health, c.MaxRequests = h, 1
		c.Keys = []Key{{Label: "new", ID: "id-c"}, {Label: "b", ID: "id-b"}, {Label: "was-a", ID: "id-a"}}
	})
	next.serves("was-a", "m", false)
	next.serves("b", "m", false)
	next.serves("new", "m", true)
	busy.Release()
	next.serves("b", "m", true)

	// Another upstream with the same secret is another matter.
	other := newRig(t, 2, func(c *Config) { c.Health, c.Identity = h, "elsewhere" })
	other.serves("a", "m", true)

	// Keys without an ID go by their label.
	for range 2 {
		bare := newRig(t, 0, func(c *Config) { c.Name, c.Health, c.Keys = "bare", h, []Key{{Label: "key1"}} })
		if bare.state("key1").State == StateOK {
			bare.try("key1", Verdict{Class: Limited, Until: bare.now.Add(time.Hour)})
		} else if u := bare.unavailable(Want{}); !u.Limited {
			t.Errorf("unavailable %+v", u)
		}
	}
}

func TestHealthIsBounded(t *testing.T) {
	t.Run("models", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.try("a", Verdict{Class: Limited, Model: "real", Until: r.now.Add(time.Hour)})
		for i := range 3 * maxModels {
			r.try("a", Verdict{Class: ModelOff, Model: fmt.Sprint("made-up-", i)})
		}
		r.try("a", Verdict{Class: ModelOff, Model: strings.Repeat("x", maxName+1)})
		if n := len(r.up.models); n != maxModels {
			t.Errorf("%d models are remembered, want %d", n, maxModels)
		}
		r.serves("a", "made-up-0", true)
		r.serves("a", "made-up-2999", false)
		r.serves("a", "real", false) // made-up names do not push it out
		r.pass(time.Hour)
		r.serves("a", "real", true)
		r.serves("a", "real", true)
		r.pass(10 * mins)
		for name := range r.up.models {
			r.end(r.begin(Want{Model: name}), Verdict{Class: Served})
			r.begin(Want{Model: name}).Release()
		}
		if n := len(r.up.models); n != 0 {
			t.Errorf("%d models are remembered that are well", n)
		}
	})
	t.Run("unused keys", func(t *testing.T) {
		h := NewHealth(nil)
		r := newRig(t, 4, func(c *Config) { c.Health = h })
		r.try("a", Verdict{Class: Invalid})
		r.try("b", Verdict{Class: Exhausted, Until: r.now.Add(72 * time.Hour)})
		busy := r.begin(r.on("c", Want{}))
		later := func(d time.Duration) {
			newRig(t, 0, func(c *Config) {
				c.Name, c.Health, c.Keys = "next", h, []Key{{Label: "x", ID: "x"}}
				c.Now = func() time.Time { return epoch.Add(d) }
			})
		}
		known := func(want string) {
			t.Helper()
			got := ""
			if u := h.upstreams["up"]; u != nil {
				for _, r := range u.records {
					got += r.id[len(r.id)-1:]
				}
				if len(got) != len(u.keys) {
					t.Errorf("%d keys, %d records", len(u.keys), len(got))
				}
			}
			if got != want {
				t.Errorf("known: %q, want %q", got, want)
			}
		}
		later(23 * time.Hour)
		known("abcd")
		later(25 * time.Hour)
		known("bc")
		busy.Release()
		later(80 * time.Hour)
		known("")
		if h.records != 1 || len(h.upstreams) != 1 {
			t.Errorf("%d records of %d upstreams, want one", h.records, len(h.upstreams))
		}
		r.serves("d", "m", true) // the old pool goes on
	})
}
