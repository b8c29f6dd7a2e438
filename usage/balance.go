package usage

import (
	"context"
	"fmt"
)

// Balance compares what the streams say that they raised with what is in the sums
// of the months, which are never removed. Nothing but dead letters, or somebody's
// hand, makes them differ.
type Balance struct {
	// Streams is the sum of the totals of all streams, retired ones included.
	Streams Counts
	// Months are the sums of all months, by each dimension.
	Months [Dimensions]Counts
	// DeadLetters is how many increments could not be booked.
	DeadLetters uint64
	// Quiet says that nothing was booked while this was read. Otherwise a
	// difference means nothing: read again.
	Quiet bool
}

// Even says whether all sums are equal.
func (b *Balance) Even() bool {
	for d := range b.Months {
		if b.Months[d] != b.Streams {
			return false
		}
	}
	return true
}

// Weigh reads the balance of a store.
func Weigh(ctx context.Context, s Store) (*Balance, error) {
	before, err := s.Audit(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the streams: %w", err)
	}
	b := &Balance{Streams: before.Retired, DeadLetters: before.RetiredLetters, Quiet: true}
	for i := range before.Streams {
		b.Streams.Add(&before.Streams[i].Totals)
		b.DeadLetters += before.Streams[i].DeadLetters
	}
	months, err := s.Months(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the months: %w", err)
	}
	for _, m := range months {
		for d := range Dimension(Dimensions) {
			err := s.Scan(ctx, MonthlyBy, d, m, func(_ Key, c *Counts) bool {
				b.Months[d].Add(c)
				return true
			})
			if err != nil {
				return nil, fmt.Errorf("read the sums of %s by %v: %w", m.Format("2006-01"), d, err)
			}
		}
	}
	after, err := s.Audit(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the streams: %w", err)
	}
	if len(before.Streams) != len(after.Streams) || before.Retired != after.Retired {
		b.Quiet = false
		return b, nil
	}
	for i := range before.Streams {
		if before.Streams[i].Position != after.Streams[i].Position {
			b.Quiet = false
		}
	}
	return b, nil
}
