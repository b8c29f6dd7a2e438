package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/floway/floway/usage"
)

// Verification compares what a log says with what the store counted of it.
type Verification struct {
	Stream usage.StreamID
	// Position is the record up to which both are compared: that of the store.
	Position uint64
	// Origin is the record behind which the log holds everything. Of what came
	// before, only the sum is known, as it was when those records were let go.
	Origin uint64
	// First is when the first attempt was counted that the log holds; zero if it
	// holds none.
	First time.Time
	// Log is what the records count, Store what the store has for the stream.
	Log, Store usage.Counts
	// Gaps are ranges of records that the log should hold and does not.
	Gaps []Range
	// Unsure: what the stream counted before the log's first record is not known,
	// or the log has gaps, so that a difference proves nothing.
	Unsure bool
	// DeadLetters is how many increments of the stream the store put aside.
	DeadLetters uint64
	// Rows is the comparison of single rows.
	Rows Rows
	// Balance compares all streams of the store with all its rows.
	Balance *usage.Balance
}

// Rows compares the rows of the store with those that the records make.
type Rows struct {
	// Compared is how many rows the records made that the store should still have.
	// In Exact of them nobody else can have counted and the log holds all that
	// belongs there, so they must be equal; in the others the store must have as
	// much at least.
	Compared, Exact int
	// Since, if set, is the start of the first bucket that was compared: there
	// were more rows than a verification looks at.
	Since time.Time
	// Others says that other streams count in this store, too.
	Others bool
	// Differences are those found, in order, MaxDifferences at most; More says how
	// many there are beyond that.
	Differences []Difference
	More        int
}

// Difference is one counter that is not what the records make it.
type Difference struct {
	Table  usage.Table
	Dim    usage.Dimension // for tables of single dimensions
	Bucket time.Time
	Key    usage.Key
	Field  usage.Field
	// Log is what the records make it at least, Store what it is.
	Log, Store int64
}

const (
	// MaxDifferences bounds the list of differences.
	MaxDifferences = 1000
	// maxRows bounds the memory that a verification takes: about 700 bytes a row.
	maxRows = 100_000
	// verifyBatch is how many increments are summed up before they are put to
	// the rest.
	verifyBatch = 1 << 16
)

// Range is a range of records by their numbers, both ends included.
type Range struct{ From, To uint64 }

// Equal says whether the store counted what the log says.
func (v *Verification) Equal() bool { return v.Log == v.Store && len(v.Rows.Differences) == 0 }

// ErrNothingToCompare: the store does not know the stream, or stands where the log
// does not reach.
var ErrNothingToCompare = errors.New("the store and the log cannot be compared")

// Verify adds up the log, from the first record that it holds on, and compares the
// sums with what the store counted for this stream, the rows with those of the
// store, and the store's rows with its streams. It reads the whole log; nothing
// goes into the store meanwhile.
func (l *Ledger) Verify(ctx context.Context) (*Verification, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.reading, cancel)()
	select {
	case l.booking <- struct{}{}:
		defer func() { <-l.booking }()
	case <-ctx.Done(): // told below
	}
	for {
		if ctx.Err() != nil || l.reading.Err() != nil {
			return nil, l.whyNotRead(ctx)
		}
		v, rows, origin, err := l.verify(ctx)
		if err != nil || len(v.Gaps) > 0 {
			l.mu.Lock()
			moved := l.mark.Origin != origin
			l.mu.Unlock()
			if moved || ctx.Err() != nil {
				continue // a segment was let go before it was read
			}
		}
		if err != nil {
			return nil, err
		}
		// Other instances may be writing.
		for try := 0; try < 5 && (v.Balance == nil || !v.Balance.Quiet && !v.Balance.Even()); try++ {
			if v.Balance, err = usage.Weigh(ctx, l.cfg.Store); err != nil {
				return nil, err
			}
		}
		return v, rows.compare(ctx, l.cfg.Store, v, l.cfg.Clock())
	}
}

func (l *Ledger) whyNotRead(ctx context.Context) error {
	if l.reading.Err() != nil {
		return ErrClosed
	}
	return ctx.Err()
}

// verify adds up the log and compares it with the totals. It returns the rows that
// the log makes and the origin from which it added up.
func (l *Ledger) verify(ctx context.Context) (*Verification, *rowSums, uint64, error) {
	l.mu.Lock()
	id := l.manifest.id
	l.mu.Unlock()
	g, err := l.cfg.Store.Hello(ctx, id)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("ask the store for the position of the ledger: %w", err)
	}
	p := g.Position

	l.mu.Lock()
	mark, last := l.mark, l.last
	spans := l.readable(nil, true)
	m := l.manifest
	l.mu.Unlock()
	before, _, err := usage.ParseCounts(mark.Before)
	v := &Verification{
		Stream: id, Position: p.Seq, Origin: mark.Origin, Log: before, Store: p.Totals,
		Unsure: mark.Unsure || err != nil, DeadLetters: p.DeadLetters,
	}
	rows := &rowSums{sums: make(map[rowID]*usage.Counts), all: mark.Origin == 0, after: mark.Latest}
	switch {
	case mark.Stream != id.String():
		return nil, nil, mark.Origin, errors.New("the ledger took a new name while it was verified")
	case !g.Known && m.Genesis == g.Genesis:
		return nil, nil, mark.Origin, fmt.Errorf("%w: the store does not know this stream any more", ErrNothingToCompare)
	case p.Seq > last:
		return nil, nil, mark.Origin, fmt.Errorf("%w: the store has record %d of the ledger, which ends at %d", ErrNothingToCompare, p.Seq, last)
	case p.Seq <= mark.Origin:
		// The store stands where the log begins, or went back behind that.
		v.Unsure = v.Unsure || p.Seq < mark.Origin && v.Log != v.Store
		return v, rows, mark.Origin, nil
	}
	err = each(l.cfg.FS, m.seeds(), spans, mark.Origin, p.Seq, func(r, was *usage.Record) error {
		add(&v.Log, r, was)
		rows.add(r, was)
		if v.First.IsZero() {
			v.First = booked(r, was)
		}
		return ctx.Err()
	}, func(from, to uint64) {
		if len(v.Gaps) < maxGaps {
			v.Gaps = append(v.Gaps, Range{from, to})
		}
		v.Unsure = true
	})
	if err != nil {
		return nil, nil, mark.Origin, fmt.Errorf("add up the ledger: %w", err)
	}
	return v, rows, mark.Origin, nil
}

type rowID struct {
	table  usage.Table
	dim    usage.Dimension
	bucket int64
	key    usage.Key
}

// rowSums are the rows that records make.
type rowSums struct {
	// all: the log holds all that the stream ever counted; else nothing that it
	// does not hold was settled later than after.
	all   bool
	after int64

	batch usage.Batch
	sums  map[rowID]*usage.Counts
	since int64 // buckets that begin earlier are left out
}

func (s *rowSums) add(r, was *usage.Record) {
	if was == nil {
		s.batch.Add(r)
	} else {
		s.batch.Correct(was, r)
	}
	if s.batch.Full(verifyBatch) {
		s.gather()
	}
}

// gather puts the batch to the sums. If they are too many, the older half goes.
func (s *rowSums) gather() {
	for i := range s.batch.Rows {
		r := &s.batch.Rows[i]
		id := rowID{r.Table, 0, r.Bucket.Unix(), r.Key}
		if r.Table.Single() {
			id.dim = r.Dim
		}
		if id.bucket < s.since {
			continue
		}
		if s.sums[id] == nil {
			s.sums[id] = new(usage.Counts)
		}
		s.sums[id].Add(&r.Counts)
	}
	s.batch.Reset()
	for len(s.sums) > maxRows {
		starts := make([]int64, 0, len(s.sums))
		for id := range s.sums {
			starts = append(starts, id.bucket)
		}
		slices.Sort(starts)
		s.since = starts[len(starts)/2] + 1
		for id := range s.sums {
			if id.bucket < s.since {
				delete(s.sums, id)
			}
		}
	}
}

// whole says whether the log holds everything that the stream counted in a bucket.
func (s *rowSums) whole(start time.Time) bool { return s.all || start.Unix() > s.after }

// bucket is one bucket of the store, with the rows that it should have.
type bucket struct {
	table usage.Table
	dim   usage.Dimension
	start time.Time
	rows  map[usage.Key]*usage.Counts
}

// buckets sorts the rows by where they are, the oldest first.
func (s *rowSums) buckets() []*bucket {
	type place struct {
		table usage.Table
		dim   usage.Dimension
		start int64
	}
	at := make(map[place]*bucket)
	var list []*bucket
	for id, c := range s.sums {
		p := place{id.table, id.dim, id.bucket}
		b := at[p]
		if b == nil {
			b = &bucket{id.table, id.dim, time.Unix(id.bucket, 0).UTC(), make(map[usage.Key]*usage.Counts)}
			at[p] = b
			list = append(list, b)
		}
		b.rows[id.key] = c
	}
	slices.SortFunc(list, func(a, b *bucket) int {
		return cmp.Or(a.start.Compare(b.start), cmp.Compare(a.table, b.table), cmp.Compare(a.dim, b.dim))
	})
	return list
}

// compare holds the rows against those of the store. What the store has more than
// the records make is an error only where nobody else can have put it.
func (s *rowSums) compare(ctx context.Context, store usage.Store, v *Verification, now time.Time) error {
	s.gather()
	audit, err := store.Audit(ctx)
	if err != nil {
		return fmt.Errorf("read the streams of the store: %w", err)
	}
	v.Rows.Others = !audit.Retired.IsZero()
	for i := range audit.Streams {
		if p := &audit.Streams[i]; p.Stream != v.Stream && !p.Totals.IsZero() {
			v.Rows.Others = true
		}
	}
	if s.since > 0 {
		v.Rows.Since = time.Unix(s.since, 0).UTC()
	}
	for _, b := range s.buckets() {
		// What is about to go may be gone when it is read.
		if end := store.Retention().Expiry(b.table, b.start); !end.IsZero() && end.Before(now.Add(time.Hour)) {
			continue
		}
		exact := !v.Rows.Others && !v.Unsure && s.whole(b.start)
		if err := b.compare(ctx, store, exact, &v.Rows); err != nil {
			return err
		}
	}
	return nil
}

func (b *bucket) compare(ctx context.Context, store usage.Store, exact bool, found *Rows) error {
	var none usage.Counts
	differ := func(k usage.Key, want, got *usage.Counts) {
		for f := range want {
			if got[f] == want[f] || !exact && got[f] > want[f] {
				continue
			}
			if len(found.Differences) == MaxDifferences {
				found.More++
				continue
			}
			found.Differences = append(found.Differences, Difference{b.table, b.dim, b.start, k, usage.Field(f), want[f], got[f]})
		}
	}
	found.Compared += len(b.rows)
	if exact {
		found.Exact += len(b.rows)
	}
	seen := make(map[usage.Key]bool, len(b.rows))
	err := store.Scan(ctx, b.table, b.dim, b.start, func(k usage.Key, got *usage.Counts) bool {
		want := b.rows[k]
		seen[k] = true
		switch {
		case want != nil:
			differ(k, want, got)
		case exact:
			differ(k, &none, got)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("read the rows of %v %s: %w", b.table, b.start.Format(time.RFC3339), err)
	}
	for k, want := range b.rows {
		if !seen[k] && (exact || !want.IsZero()) {
			differ(k, want, &none)
		}
	}
	return nil
}
