package storetest

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/floway/floway/usage"
)

func TestMemory(t *testing.T) {
	Run(t, func(testing.TB) usage.Store { return NewMemory() })
}

// TestFlaws shows that the suite fails for stores that do it wrong, and where.
func TestFlaws(t *testing.T) {
	for f, check := range map[flaw]string{
		appliesTwice:          "a batch counts once however often it is sent",
		ignoresEpoch:          "a later opening fences the earlier one",
		ignoresFrom:           "a batch from elsewhere changes nothing",
		forgetsRowsOnMismatch: "a batch from elsewhere changes nothing",
		losesOverflow:         "a counter at its end does not hold up the others",
		stopsAtOverflow:       "a counter at its end does not hold up the others",
		keepsLate:             "what is past its retention counts as late",
		joinsNames:            "names are data",
		renamesItself:         "a new store is empty and has a name",
		mixesDimensions:       "sums are exact in every table",
		staysAfterClose:       "a closed store says so",
	} {
		t.Run(fmt.Sprint(f, " ", check), func(t *testing.T) {
			if !fails(t, f, check) {
				t.Errorf("the check %q takes a store with flaw %d for sound", check, f)
			}
			if fails(t, sound, check) {
				t.Errorf("the check %q finds a flaw in a sound store", check)
			}
		})
	}
}

// fails runs one check of the suite and says whether it failed.
func fails(t *testing.T, f flaw, name string) bool {
	for _, c := range checks {
		if c.name != name {
			continue
		}
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() { // of its own, because Fatal ends it
			defer close(done)
			c.run(subject{r, func(testing.TB) usage.Store { return &Memory{flaw: f} }})
		}()
		<-done
		return r.failed
	}
	t.Fatalf("no check is called %q", name)
	return false
}

// recorder is a test that only notes that it failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Error(...any)          { r.failed = true }
func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Fatal(...any)          { r.failed = true; runtime.Goexit() }
func (r *recorder) Fatalf(string, ...any) { r.failed = true; runtime.Goexit() }
