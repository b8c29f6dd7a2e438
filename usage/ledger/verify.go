package ledger

import (
	"context"
	"errors"
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
	for {
		v, origin, err := l.verify(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && len(v.Gaps) == 0 {
			return v, nil
		}
		l.mu.Lock()
		same := l.mark.Origin == origin
		l.mu.Unlock()
		if same {
			return v, err
		}
		// A segment was let go before it was read.
	}
}

// verify is Verify, and the origin from which it added up.
func (l *Ledger) verify(ctx context.Context) (*Verification, uint64, error) {
	l.mu.Lock()
	id := l.manifest.id
	l.mu.Unlock()
	g, err := l.cfg.Store.Hello(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("ask the store for the position of the ledger: %w", err)
	}
	p := g.Position

	l.mu.Lock()
	mark, last := l.mark, l.last
	spans := l.readable(nil, true)
	seeds := l.manifest.seeds()
	l.mu.Unlock()
	switch {
	case mark.Stream != id.String():
		return nil, mark.Origin, errors.New("the ledger took a new name while it was verified")
	case p.Seq > last:
		return nil, mark.Origin, fmt.Errorf("the store has record %d of the ledger, which ends at %d", p.Seq, last)
	}
	v := &Verification{Stream: id, Position: p.Seq, Store: p.Totals, Unsure: mark.Unsure}
	if v.Log, _, err = usage.ParseCounts(mark.Before); err != nil {
		v.Unsure = true
	}
	if p.Seq <= mark.Origin {
		return v, mark.Origin, nil
	}
	err = total(l.cfg.FS, seeds, spans, mark.Origin, p.Seq, &v.Log, func(from, to uint64) {
		if len(v.Gaps) < maxGaps {
			v.Gaps = append(v.Gaps, Range{from, to})
		}
		v.Unsure = true
	})
	if err != nil {
		return nil, mark.Origin, fmt.Errorf("add up the ledger: %w", err)
	}
	return v, mark.Origin, nil
}
