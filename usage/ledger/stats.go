package ledger

import (
	"errors"
	"time"

	"github.com/floway/floway/usage"
)

// tally is what the ledger counts of itself. It is guarded by the ledger's mutex.
type tally struct {
	settled, corrected, uncorrected  uint64
	unknown, estimated, stray        uint64
	gaps                             int
	missing                          uint64
	recovered, doubtful              int
	refused, unrecorded, deadLetters uint64

	unclean           bool
	storeErr, stopped error
	contact           time.Time
	genesis, warning  string
	skew              time.Duration

	// oldLetters are the dead letters that the store had when it was first asked.
	greeted    bool
	oldLetters uint64
}

// Stats is what a ledger says of itself. Counts are since Open unless stated.
type Stats struct {
	Dir, Sink string
	Stream    usage.StreamID
	// Epoch is the number of this opening.
	Epoch uint64
	// Last is the number of the last record, Synced of the last one that is on
	// the disk, Position of the last one that the store acknowledged.
	Last, Synced, Position uint64

	// LagRecords, LagBytes and LagAge say how far the store is behind: records of
	// all kinds, and how long the oldest settled one waits.
	LagRecords uint64
	LagBytes   int64
	LagAge     time.Duration

	// Segments and Bytes are what the directory holds, spare segments included;
	// MaxBytes is the limit.
	Segments        int
	Bytes, MaxBytes int64
	// Open is how many attempts are reserved and not settled.
	Open int

	// Settled counts attempts, those of Unknown and Estimated use among them.
	// Recovered is how many attempts were found open by Open, their outcome lost
	// with the process; they are in Unknown. Doubtful is how many it found of
	// which damage hides whether they were counted; they were not counted again.
	Settled, Unknown, Estimated, Corrected uint64
	Recovered, Doubtful                    int
	// Uncorrected counts corrections that there was no room for.
	Uncorrected uint64
	// Stray counts settlements of attempts that were not open: a defect of the
	// caller.
	Stray uint64
	// Gaps is the number of ranges of records that could not be read, Missing the
	// number of records in them.
	Gaps    int
	Missing uint64
	// Refused counts attempts that Reserve refused, Unrecorded those that went on
	// without being recorded, since OnFull is Continue. Held is the number of
	// records that wait for the disk to take them.
	Refused, Unrecorded uint64
	Held                int

	// Unclean: the process before this one did not close the ledger. Loss of
	// power may then have cost what it had written last.
	Unclean bool
	// Trouble says why records cannot be written; empty if they can.
	Trouble string
	// StoreError is why the last call to the store failed; empty if it did not.
	StoreError string
	// Stopped says why nothing more is sent until Resume or a restart; empty if
	// it is.
	Stopped string
	// Contact is when the store last answered. Genesis and Warning are what it
	// said, Skew how far its clock is ahead, DeadLetters how many increments of
	// the stream it ever put aside.
	Contact          time.Time
	Genesis, Warning string
	Skew             time.Duration
	DeadLetters      uint64
}

// Stats describes the ledger as it is now.
func (l *Ledger) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.tally
	s := Stats{
		Dir: l.cfg.Dir, Sink: l.manifest.Sink, Stream: l.manifest.id, Epoch: l.epoch,
		Last: l.last, Synced: l.synced, Position: l.mark.Seq,
		Segments: len(l.segments) + len(l.spares), Bytes: l.size(), MaxBytes: l.cfg.MaxBytes,
		Open:    len(l.open),
		Settled: t.settled, Unknown: t.unknown, Estimated: t.estimated, Corrected: t.corrected,
		Recovered: t.recovered, Doubtful: t.doubtful, Uncorrected: t.uncorrected, Stray: t.stray,
		Gaps: t.gaps, Missing: t.missing,
		Refused: t.refused, Unrecorded: t.unrecorded, Held: len(l.held),
		Unclean: t.unclean,
		Trouble: text(l.trouble), StoreError: text(t.storeErr), Stopped: text(t.stopped),
		Contact: t.contact, Genesis: t.genesis, Warning: t.warning, Skew: t.skew, DeadLetters: t.deadLetters,
	}
	if s.Trouble == "" && l.spareErr != nil && !errors.Is(l.spareErr, errNoSpare) {
		s.Trouble = l.spareErr.Error()
	}
	if l.lastSettled > l.clear {
		s.LagRecords = l.last - l.clear
		s.LagBytes = l.bytesBehind(l.clear)
		if !l.oldest.IsZero() {
			s.LagAge = max(0, l.cfg.Clock().Sub(l.oldest))
		}
	}
	return s
}

// bytesBehind is about how many bytes of records follow the one with number seq:
// a segment's records count as equally long.
func (l *Ledger) bytesBehind(seq uint64) (n int64) {
	for _, s := range l.segments {
		switch size := s.off - segmentHeader; {
		case s.last <= seq:
		case s.first > seq:
			n += size
		default:
			n += int64(float64(size) * float64(s.last-seq) / float64(s.last-s.first+1))
		}
	}
	return n
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
