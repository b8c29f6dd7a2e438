package usage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// History is a store whose account can go to another one. Once that has begun it
// takes nothing in any more, so that its rows stay what they are.
type History interface {
	Store
	// Rows calls yield for each row of every table, without the first skip ones,
	// until yield returns false: always in the same order, those past their
	// retention too. yield must not call the store and not keep the row.
	Rows(ctx context.Context, skip uint64, yield func(*Row) bool) error
	// Moved is where the history went, the zero Moved if nowhere; SetMoved
	// remembers it.
	Moved(ctx context.Context) (Moved, error)
	SetMoved(ctx context.Context, m Moved) error
}

// Moved says where a history went.
type Moved struct {
	// To is the identity of the other store, Genesis its name of itself.
	To      string `json:"to"`
	Genesis string `json:"genesis"`
	// Begun: the other store has a position for it. Done, since At: it has all.
	Begun bool      `json:"begun"`
	Done  bool      `json:"done"`
	At    time.Time `json:"at"`
}

// Move is what a move carried over.
type Move struct {
	// Stream is the stream that the history is in the other store.
	Stream StreamID
	// Rows is how many rows the history has, Expired how many of them are past
	// their retention and stayed behind.
	Rows, Expired uint64
	// Totals is what all streams of the history raised.
	Totals Counts
	// Before says that all of it was there before.
	Before bool
}

var (
	// ErrMovedElsewhere: the history went to another store.
	ErrMovedElsewhere = errors.New("the history was moved to another store")
	// ErrMovedCopy: the store has a history of this name that came from elsewhere.
	ErrMovedCopy = errors.New("the store has this history already, from a copy of this file: to move it again would count it twice")
	// ErrMoveLost: the store no longer knows how far the move had come.
	ErrMoveLost = errors.New("the move had begun, and the store has lost how far it was: to go on could count twice; " +
		"empty the store, or leave out what is missing")
)

// MoveHistory carries all sums of a history into another store. It can be called
// again after whatever went wrong, and goes on where it was: the other store moves
// the position together with the sums, as for any stream. progress is told how many
// rows of how many are over.
func MoveHistory(ctx context.Context, from History, to Store, identity string, progress func(done, all uint64)) (*Move, error) {
	own, err := from.Hello(ctx, StreamID{})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte("history " + own.Genesis))
	m := &Move{Stream: StreamID(sum[:16])}
	g, err := to.Hello(ctx, m.Stream)
	if err != nil {
		return nil, err
	}
	if err := m.look(ctx, from, own.Time); err != nil {
		return nil, err
	}

	moved, err := from.Moved(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case moved == Moved{} && g.Known:
		return nil, ErrMovedCopy
	case moved != Moved{} && moved.Genesis != g.Genesis && moved.To != identity:
		return nil, fmt.Errorf("%w: %s", ErrMovedElsewhere, moved.To)
	case moved.Genesis != g.Genesis:
		// The first time, or the store was wiped since.
		moved = Moved{To: identity, Genesis: g.Genesis}
		if err := from.SetMoved(ctx, moved); err != nil {
			return nil, err
		}
	case moved.Done:
		m.Before = true
		return m, nil
	case moved.Begun && !g.Known:
		return nil, ErrMoveLost
	}

	// A position first, without any sums: whether there is one tells from then on
	// whether sums may be there.
	p := g.Position
	if p.Seq == 0 {
		if p, err = to.Apply(ctx, &Batch{Stream: m.Stream, To: 1}); err != nil && !errors.Is(err, ErrMismatch) {
			return nil, err
		}
	}
	moved.Begun = true
	if err := from.SetMoved(ctx, moved); err != nil {
		return nil, err
	}
	if p.Seq <= m.Rows {
		if err := m.send(ctx, from, to, p.Seq, own.Time, progress); err != nil {
			return nil, err
		}
	}
	if err := m.end(ctx, from, to); err != nil {
		return nil, err
	}
	moved.Done, moved.At = true, own.Time.UTC()
	return m, from.SetMoved(ctx, moved)
}

// look finds out how much there is to move.
func (m *Move) look(ctx context.Context, from History, now time.Time) error {
	keep := from.Retention()
	if err := from.Rows(ctx, 0, func(r *Row) bool {
		m.Rows++
		if expired(keep, r, now) {
			m.Expired++
		}
		return true
	}); err != nil {
		return err
	}
	a, err := from.Audit(ctx)
	m.Totals = a.Retired
	for i := range a.Streams {
		m.Totals.Add(&a.Streams[i].Totals)
	}
	return err
}

func expired(keep Retention, r *Row, now time.Time) bool {
	end := keep.Expiry(r.Table, r.Bucket)
	return !end.IsZero() && !end.After(now)
}

// send sends the rows behind the position at, which is one more than the number of
// rows that are over.
func (m *Move) send(ctx context.Context, from History, to Store, at uint64, now time.Time, progress func(done, all uint64)) error {
	keep := from.Retention()
	b := &Batch{Stream: m.Stream, From: at, To: at}
	flush := func() error {
		if b.To == b.From {
			return nil
		}
		p, err := to.Apply(ctx, b)
		if err != nil {
			return err
		}
		progress(p.Seq-1, m.Rows)
		b = &Batch{Stream: m.Stream, From: p.Seq, To: p.Seq}
		return nil
	}
	var failed error
	err := from.Rows(ctx, at-1, func(r *Row) bool {
		b.To++
		if expired(keep, r, now) {
			return true
		}
		b.Rows = append(b.Rows, *r)
		for _, v := range r.Counts {
			if v != 0 {
				b.increments++
			}
		}
		if b.increments > to.MaxIncrements()-Fields {
			failed = flush()
		}
		return failed == nil
	})
	if err = errors.Join(failed, err); err != nil {
		return err
	}
	return flush()
}

// end sends what belongs to no row: the totals, and what came too late for its
// bucket. That is late in the other store again, as rows of the first hour there is.
func (m *Move) end(ctx context.Context, from History, to Store) error {
	a, err := from.Audit(ctx)
	if err != nil {
		return err
	}
	b := &Batch{Stream: m.Stream, From: m.Rows + 1, To: m.Rows + 2, Totals: m.Totals}
	for t, late := range map[Table]Counts{Hourly: a.LateHours, Daily: a.LateDays} {
		if !late.IsZero() {
			b.Rows = append(b.Rows, Row{Table: t, Bucket: earliest, Counts: late})
		}
	}
	p, err := to.Apply(ctx, b)
	if errors.Is(err, ErrMismatch) && p.Seq == b.To {
		return nil // a reply got lost
	}
	return err
}
