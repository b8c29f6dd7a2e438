package keypool

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// pair is two instances with the same keys, each told what the other notices.
func pair(t *testing.T) (one, two *rig, sync func()) {
	one, two = newRig(t, 2, nil), newRig(t, 2, nil)
	return one, two, func() {
		t.Helper()
		for _, r := range []*rig{one, two} {
			other := two
			if r == two {
				other = one
			}
			text, err := json.Marshal(r.notices) // as it would travel
			if err != nil {
				t.Fatal(err)
			}
			r.notices = nil
			var notices []Notice
			if err := json.Unmarshal(text, &notices); err != nil {
				t.Fatal(err)
			}
			before := len(other.notices)
			other.health.Merge(other.now, notices)
			other.health.Merge(other.now, notices) // twice is as good as once
			if len(other.notices) > before {
				t.Fatalf("an echo: %+v", other.notices[before:])
			}
		}
	}
}

func (r *rig) passBoth(other *rig, d time.Duration) {
	r.pass(d)
	other.pass(d)
}

func TestNoticesReachOtherInstances(t *testing.T) {
	tests := []struct {
		name    string
		verdict Verdict
		wait    time.Duration
		shared  bool
		told    string
	}{
		{"invalid", Verdict{Class: Invalid}, 10 * mins, true, "a invalid"},
		{"exhausted", Verdict{Class: Exhausted}, 10 * mins, true, "a exhausted"},
		{"exhausted, named", Verdict{Class: Exhausted, Until: epoch.Add(time.Hour)}, time.Hour, true, "a exhausted"},
		{"limited", Verdict{Class: Limited}, 5 * sec, true, "a limited"},
		{"limited, named", Verdict{Class: Limited, Until: epoch.Add(90 * sec)}, 90 * sec, true, "a limited"},
		{"limited for a model", Verdict{Class: Limited, Model: "m", Until: epoch.Add(90 * sec)}, 90 * sec, true, ""},
		{"failed", Verdict{Class: Failed}, 0, false, ""},
		{"unreachable", Verdict{Class: Unreachable}, 0, false, ""},
		{"model off", Verdict{Class: ModelOff}, 0, false, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			one, two, sync := pair(t)
			one.try("a", test.verdict)
			if test.verdict.Class == Failed || test.verdict.Class == Unreachable {
				one.try("a", test.verdict)
				one.try("a", test.verdict)
			}
			sync()
			if !test.shared {
				two.serves("a", "m", true)
				return
			}
			two.serves("b", "m", true)
			two.out("a", "m", test.wait)
			if test.told == "" {
				two.told()
			} else if test.verdict.Until.IsZero() {
				two.told(test.told)
			} else {
				two.told(test.told, "a ok")
			}
		})
	}
	t.Run("a success", func(t *testing.T) {
		for _, v := range []Verdict{{Class: Invalid}, {Class: Exhausted}, {Class: Limited}, {Class: Limited, Model: "m"}, {Class: Exhausted, Model: "m"}} {
			one, two, sync := pair(t)
			one.try("a", v)
			sync()
			two.serves("a", "m", false)
			one.passBoth(two, 10*sec)
			one.last("a", Verdict{Class: Served})
			sync()
			two.serves("a", "m", true)
		}
	})
	t.Run("a reset", func(t *testing.T) {
		one, two, sync := pair(t)
		one.try("a", Verdict{Class: Limited, Until: epoch.Add(time.Hour)})
		one.try("b", Verdict{Class: Limited, Model: "m", Until: epoch.Add(time.Hour)})
		sync()
		if err := two.Reset(""); err != nil {
			t.Fatal(err)
		}
		sync()
		one.serves("a", "m", true)
		one.serves("b", "m", true)
	})
	t.Run("a longer wait", func(t *testing.T) {
		one, two, sync := pair(t)
		one.try("a", Verdict{Class: Invalid})
		sync()
		one.pass(10 * mins)
		one.try("a", Verdict{Class: Invalid})
		two.pass(10 * mins)
		sync()
		two.out("a", "m", 20*mins)
		two.try("a", Verdict{Class: Invalid})
		two.out("a", "m", 40*mins)
	})
	t.Run("a named wait that hardly moves is not worth a notice", func(t *testing.T) {
		r := newRig(t, 1, nil)
		var crowd []*Lease
		for range 100 {
			crowd = append(crowd, r.begin(Want{}))
		}
		for i, l := range crowd {
			r.end(l, Verdict{Class: Limited, Until: r.now.Add(time.Minute + time.Duration(i)*20*time.Millisecond)})
		}
		if n := len(r.notices); n != 2 {
			t.Errorf("%d notices for waits within 2 s, want 2", n)
		}
	})
}

func TestExportSurvivesARestart(t *testing.T) {
	old := newRig(t, 3, nil)
	old.try("c", Verdict{Class: Limited, Until: epoch.Add(sec)})
	old.try("b", Verdict{Class: Limited, Model: "n", Until: epoch.Add(time.Hour)})
	old.try("b", Verdict{Class: Limited, Model: "gone", Until: epoch.Add(sec)})
	old.try("b", Verdict{Class: ModelOff, Model: "off"})
	for range 3 {
		old.try("b", Verdict{Class: Unreachable})
	}
	old.last("a", Verdict{Class: Invalid, Reason: "invalid_api_key"})
	old.pass(2 * sec)
	notices := old.health.Export(old.now)
	if len(notices) != 2 {
		t.Errorf("exported %+v", notices)
	}
	h := NewHealth(func(n Notice) { t.Errorf("an echo: %+v", n) })
	h.Merge(old.now, notices) // before there are pools
	r := newRig(t, 2, func(c *Config) { c.Health = h })
	r.pass(2 * sec)
	s := r.state("a")
	if s.State != StateInvalid || s.Reason != "invalid_api_key" || !s.Since.Equal(epoch) || !s.Until.Equal(epoch.Add(10*mins)) {
		t.Errorf("state %+v", s)
	}
	r.serves("b", "n", false)
	r.serves("b", "off", true)
	r.pass(10*mins - 2*sec)
	r.try("a", Verdict{Class: Neutral})
	r.pass(50 * mins)
	r.serves("b", "n", true)

	bare := newRig(t, 1, func(c *Config) { c.Keys[0].ID = "" })
	bare.try("a", Verdict{Class: Invalid})
	if n := len(bare.health.Export(bare.now)) + len(bare.notices); n != 0 {
		t.Errorf("%d notices of a key without an ID", n)
	}
}

func TestMergeTakesNoNonsense(t *testing.T) {
	good := Notice{Upstream: "up", Key: "id-a", State: StateInvalid, At: epoch, Since: epoch, Until: epoch.Add(mins)}
	tests := []struct {
		name string
		edit func(*Notice)
		wait time.Duration // of key a; 0: it serves
	}{
		{"good", func(n *Notice) {}, mins},
		{"other key", func(n *Notice) { n.Key = "id-c" }, 0},
		{"other upstream", func(n *Notice) { n.Upstream = "down" }, 0},
		{"no key", func(n *Notice) { n.Key = "" }, 0},
		{"a label for a key", func(n *Notice) { n.Key = "\x00a" }, 0},
		{"a long key", func(n *Notice) { n.Key = strings.Repeat("k", 300) }, 0},
		{"a long upstream", func(n *Notice) { n.Upstream = strings.Repeat("k", 300) }, 0},
		{"well", func(n *Notice) { n.State = StateOK }, 0},
		{"cooling", func(n *Notice) { n.State = StateCooling }, 0},
		{"unknown state", func(n *Notice) { n.State = 99 }, 0},
		{"invalid for a model", func(n *Notice) { n.Model = "m" }, 0},
		{"a long model", func(n *Notice) { n.State, n.Model = StateLimited, strings.Repeat("k", 300) }, 0},
		{"over long ago", func(n *Notice) { n.Until = epoch }, 0},
		{"far too long", func(n *Notice) { n.Until = epoch.Add(1000 * time.Hour) }, 6 * time.Hour},
		{"a named refusal", func(n *Notice) { n.Named, n.Until = true, epoch.Add(1000*time.Hour) }, 6 * time.Hour},
		{"far too long a limit", func(n *Notice) { n.State, n.Until = StateLimited, epoch.Add(1000*time.Hour) }, 5 * mins},
		{"far too long a named limit", func(n *Notice) { n.State, n.Named, n.Until = StateLimited, true, epoch.Add(1000*time.Hour) }, 24 * time.Hour},
		{"from the future", func(n *Notice) {
			n.At, n.Since, n.Until = epoch.Add(9*time.Hour), epoch.Add(9*time.Hour), epoch.Add(mins)
		}, mins},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, 1, nil)
			n := good
			test.edit(&n)
			r.health.Merge(r.now, []Notice{n})
			if s := r.state("a"); s.Since.After(r.now) || s.State == StateOK != (test.wait == 0) {
				t.Errorf("state %+v", s)
			}
			if test.wait == 0 {
				r.serves("a", "m", true)
			} else {
				r.out("a", "m", test.wait)
			}
		})
	}
	t.Run("waits for ever to double", func(t *testing.T) {
		r := newRig(t, 1, nil)
		n := good
		n.Wait = 1 << 62
		r.health.Merge(r.now, []Notice{n})
		r.pass(mins)
		r.try("a", Verdict{Class: Invalid})
		r.out("a", "m", 6*time.Hour)
	})
	t.Run("old news", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.pass(20 * sec)
		r.try("a", Verdict{Class: Invalid})
		over := good
		over.Over = true
		r.health.Merge(r.now, []Notice{over}) // before it went out
		r.serves("a", "m", false)
		r.pass(10 * sec)
		r.last("a", Verdict{Class: Served})
		r.health.Merge(r.now, []Notice{good}) // before it was mended
		r.serves("a", "m", true)
	})
	t.Run("an earlier end", func(t *testing.T) {
		r := newRig(t, 1, nil)
		n := good
		n.State, n.Named = StateLimited, true
		r.health.Merge(r.now, []Notice{n})
		n.At, n.Until = n.At.Add(1), n.Until.Add(-10*sec)
		r.health.Merge(r.now, []Notice{n})
		n.Named = false
		r.health.Merge(r.now, []Notice{n})
		r.out("a", "m", mins)
	})
	t.Run("too many keys", func(t *testing.T) {
		r := newRig(t, 1, nil)
		many := make([]Notice, 3*maxRecords)
		for i := range many {
			many[i] = good
			many[i].Key = fmt.Sprint("stranger", i)
			many[i].Upstream = fmt.Sprint("up", i%100)
		}
		r.health.Merge(r.now, append(many, good))
		if r.health.records != maxRecords {
			t.Errorf("%d keys are remembered, want %d", r.health.records, maxRecords)
		}
		r.serves("a", "m", false) // one that is known has its place
	})
}
