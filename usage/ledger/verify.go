package ledger

import (
	"context"
	"fmt"

	"github.com/floway/floway/usage"
)

// Verification compares what a log says with what the store counted of it.
type Verification struct {
	Stream usage.StreamID
	// Position is the record up to which both are compared: that of the store.
	Position uint64
	// Log is what the records count, Store what the store has for the stream.
	Log, Store usage.Counts
	// Gaps are ranges of records that the log should hold and does not.
	Gaps []Range
	// Unsure: what the stream counted before the log's first record is not known,
	// or the log has gaps, so that a difference proves nothing.
	Unsure bool
}

// Range is a range of records by their numbers, both ends included.
type Range struct{ From, To uint64 }

// Equal says whether the store counted what the log says.
func (v *Verification) Equal() bool { return v.Log == v.Store }

// Verify adds up the log, from the first record that it ever had on, and compares
// the sums with what the store counted for this stream. It reads the whole log.
func (l *Ledger) Verify(ctx context.Context) (*Verification, error) {
	// No segment goes while they are added up.
	l.trimming.Lock()
	defer l.trimming.Unlock()

	l.mu.Lock()
	id := l.manifest.id
	l.mu.Unlock()
	g, err := l.cfg.Store.Hello(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("ask the store for the position of the ledger: %w", err)
	}
	p := g.Position

	l.mu.Lock()
	mark, last := l.mark, l.last
	spans := l.readable(nil, true)
	seeds := l.manifest.seeds()
	l.mu.Unlock()
	if mark.Stream != id.String() {
		return nil, fmt.Errorf("the stream has changed while it was verified")
	}
	v := &Verification{Stream: id, Position: p.Seq, Store: p.Totals, Unsure: mark.Unsure}
	if p.Seq > last {
		return nil, fmt.Errorf("the store has record %d of the ledger, which ends at %d", p.Seq, last)
	}
	if v.Log, _, err = usage.ParseCounts(mark.Before); err != nil {
		v.Unsure = true
	}
	if p.Seq <= mark.Origin {
		return v, nil
	}
	err = total(l.cfg.FS, seeds, spans, mark.Origin, p.Seq, &v.Log, func(from, to uint64) {
		if len(v.Gaps) < maxGaps {
			v.Gaps = append(v.Gaps, Range{from, to})
		}
		v.Unsure = true
	})
	if err != nil {
		return nil, fmt.Errorf("add up the ledger: %w", err)
	}
	return v, ctx.Err()
}
