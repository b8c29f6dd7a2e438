package ledger

import (
	"fmt"
	"time"
)

// Alarm tells of trouble that somebody should look at, once when it begins and once
// when it is over; things that happen again and again are told every quietFor.
type Alarm struct {
	// Kind is one of the constants below.
	Kind string
	// Over: the trouble has ended. Countable things have no end.
	Over bool
	// Message says what it is, with numbers.
	Message string
}

// Kinds of alarms.
const (
	// The store has not got what was settled a minute ago.
	AlarmLag = "lag"
	// The disk does not take records.
	AlarmDisk = "disk"
	// Nothing is sent any more until somebody decides.
	AlarmStopped = "stopped"
	// The clocks of store and host differ.
	AlarmClock = "clock"
	// The store is set up so that it may lose counters.
	AlarmStore = "store"
	// Attempts were refused, since they could not be recorded.
	AlarmRefused = "refused"
	// Attempts went on without being recorded.
	AlarmUnrecorded = "unrecorded"
	// The store could not book increments.
	AlarmDeadLetters = "dead_letters"
	// Records are missing.
	AlarmGaps = "gaps"
)

const (
	// lagAfter is how long something may wait for the store without a word.
	lagAfter = time.Minute
	// watchEvery is how often the ledger looks after itself.
	watchEvery = time.Second
	// quietFor is how long nothing more is said of a thing that goes on.
	quietFor = 10 * time.Minute
)

// watchLoop raises alarms.
func (l *Ledger) watchLoop() {
	defer l.keeping.Done()
	w := watch{Ledger: l, begun: make(map[string]bool), counted: make(map[string]uint64), told: make(map[string]time.Time)}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			w.look()
		}
	}
}

// watch remembers what was told.
type watch struct {
	*Ledger
	begun   map[string]bool
	counted map[string]uint64
	told    map[string]time.Time
}

func (w *watch) look() {
	s := w.Stats()
	w.mu.Lock()
	oldLetters := w.tally.oldLetters
	w.mu.Unlock()

	lag := fmt.Sprintf("%d records are not in the store, the oldest since %v", s.LagRecords, s.LagAge.Round(time.Second))
	if s.StoreError != "" {
		lag += ": " + s.StoreError
	}
	if w.state(AlarmLag, s.LagAge >= lagAfter, lag) {
		w.cfg.Log.Warn("the store is far behind the ledger", "dir", s.Dir, "records", s.LagRecords, "age", s.LagAge.Round(time.Second), "error", s.StoreError)
	}
	// The others are in the log already, where they began.
	w.state(AlarmDisk, s.Trouble != "", s.Trouble)
	w.state(AlarmStopped, s.Stopped != "", s.Stopped)
	w.state(AlarmClock, s.Skew.Abs() > maxSkew, fmt.Sprintf("the store's clock is ahead of this host's by %v", s.Skew))
	w.state(AlarmStore, s.Warning != "", s.Warning)

	if n := w.count(AlarmRefused, s.Refused, "%d attempts were refused, since the ledger could not record them"); n > 0 {
		w.cfg.Log.Warn("attempts were refused, since the ledger could not record them", "dir", s.Dir, "attempts", n, "error", s.Trouble)
	}
	if n := w.count(AlarmUnrecorded, s.Unrecorded, "%d attempts went on without being recorded"); n > 0 {
		w.cfg.Log.Error("attempts went on without being recorded", "dir", s.Dir, "attempts", n, "error", s.Trouble)
	}
	letters := s.DeadLetters - min(oldLetters, s.DeadLetters)
	if n := w.count(AlarmDeadLetters, letters, "the store could not book %d increments"); n > 0 {
		w.cfg.Log.Error("the store could not book increments", "dir", s.Dir, "increments", n)
	}
	w.count(AlarmGaps, s.Missing, "%d records of the ledger are missing")
}

// state tells when a trouble begins or ends, and returns whether it begins.
func (w *watch) state(kind string, is bool, message string) bool {
	if is == w.begun[kind] {
		return false
	}
	w.begun[kind] = is
	if !is {
		message = "over"
		if kind == AlarmLag {
			w.cfg.Log.Info("the store has caught up with the ledger", "dir", w.cfg.Dir)
		}
	}
	w.raise(Alarm{kind, !is, message})
	return is
}

// count tells how much a number has grown since it was told last; 0 if it has not,
// or if that was not long ago.
func (w *watch) count(kind string, n uint64, message string) uint64 {
	if n < w.counted[kind] {
		w.counted[kind] = n // another stream
	}
	more := n - w.counted[kind]
	if more == 0 || time.Since(w.told[kind]) < quietFor {
		return 0
	}
	w.counted[kind], w.told[kind] = n, time.Now()
	w.raise(Alarm{kind, false, fmt.Sprintf(message, more)})
	return more
}

func (w *watch) raise(a Alarm) {
	if w.cfg.Alarm != nil {
		w.cfg.Alarm(a)
	}
}
