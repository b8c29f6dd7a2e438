package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/floway/floway/usage"
)

// Memory is a store that forgets everything when it is let go: for tests of what
// is built on a store. It passes Run. Its exported fields are set before use.
type Memory struct {
	// Now is the store's clock; time.Now by default.
	Now func() time.Time
	// Keep is how long hours and days are kept.
	Keep usage.Retention

	mu     sync.Mutex
	closed bool
	state  state
	flaw   flaw
}

// state is all that a Memory remembers.
type state struct {
	genesis string
	buckets map[bucketID]map[usage.Key]*usage.Counts
	streams map[usage.StreamID]usage.StreamPosition
	counted map[usage.StreamID]bool
	late    [2]usage.Counts
	letters []usage.DeadLetter
}

type bucketID struct {
	table usage.Table
	dim   usage.Dimension
	start int64
}

// flaw is a defect that the tests of the suite give a Memory, to see that the
// suite finds it.
type flaw int

const (
	sound flaw = iota
	appliesTwice
	ignoresEpoch
	ignoresFrom
	forgetsRowsOnMismatch
	losesOverflow
	stopsAtOverflow
	keepsLate
	joinsNames
	renamesItself
	mixesDimensions
	staysAfterClose
)

// NewMemory makes an empty store.
func NewMemory() *Memory { return &Memory{} }

// Snapshot is a copy of all that the store holds, for Restore.
func (m *Memory) Snapshot() any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.clone()
}

// Restore puts the store back to a snapshot, as a failover that lost writes does.
func (m *Memory) Restore(snapshot any) {
	s := snapshot.(state)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s.clone()
}

// Wipe empties the store: its genesis is another one afterwards.
func (m *Memory) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = state{}
}

// Forget removes the position of one stream and nothing else.
func (m *Memory) Forget(stream usage.StreamID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.state.streams, stream)
}

func (s state) clone() state {
	s.streams = maps.Clone(s.streams)
	s.counted = maps.Clone(s.counted)
	s.letters = slices.Clone(s.letters)
	s.buckets = maps.Clone(s.buckets)
	for id, rows := range s.buckets {
		rows = maps.Clone(rows)
		for key, c := range rows {
			copied := *c
			rows[key] = &copied
		}
		s.buckets[id] = rows
	}
	return s
}

// open locks the store and makes it ready; the caller unlocks.
func (m *Memory) open(ctx context.Context) (now time.Time, err error) {
	m.mu.Lock()
	if m.closed && m.flaw != staysAfterClose {
		return now, usage.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return now, err
	}
	if m.state.buckets == nil {
		m.state.genesis = rand.Text()
		m.state.buckets = make(map[bucketID]map[usage.Key]*usage.Counts)
		m.state.streams = make(map[usage.StreamID]usage.StreamPosition)
		m.state.counted = make(map[usage.StreamID]bool)
	}
	if m.Now != nil {
		return m.Now(), nil
	}
	return time.Now(), nil
}

// Hello implements usage.Store.
func (m *Memory) Hello(ctx context.Context, stream usage.StreamID) (usage.Greeting, error) {
	now, err := m.open(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return usage.Greeting{}, err
	}
	if m.flaw == renamesItself {
		m.state.genesis = rand.Text()
	}
	p, known := m.state.streams[stream]
	lost := !known && m.state.counted[stream]
	return usage.Greeting{Genesis: m.state.genesis, Known: known, Lost: lost, Position: p.Position, Time: now}, nil
}

// Apply implements usage.Store.
func (m *Memory) Apply(ctx context.Context, b *usage.Batch) (usage.Position, error) {
	now, err := m.open(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return usage.Position{}, err
	}
	p := m.state.streams[b.Stream]
	if b.Epoch < p.Epoch && m.flaw != ignoresEpoch {
		return p.Position, usage.ErrFenced
	}
	if m.flaw == appliesTwice && b.To == p.Seq {
		p.Seq = b.From
	}
	if b.From != p.Seq && m.flaw != ignoresFrom {
		if m.flaw == forgetsRowsOnMismatch {
			clear(m.state.buckets)
		}
		return p.Position, usage.ErrMismatch
	}

	p.Stream, p.Seen, p.Epoch, p.Chain = b.Stream, now, b.Epoch, b.Chain
	p.Since, p.SinceChain = b.Since, b.SinceChain
	for i := range b.Rows {
		m.book(&p, &b.Rows[i], now)
	}
	m.raise(&p, &p.Totals, func() string { return "totals" }, &b.Totals, now)
	p.Seq = b.To
	m.state.streams[b.Stream] = p
	m.state.counted[b.Stream] = true
	return p.Position, nil
}

func (m *Memory) book(p *usage.StreamPosition, r *usage.Row, now time.Time) {
	where := func() string { return fmt.Sprintf("%d %v %v %q", r.Table, r.Dim, r.Bucket, r.Key) }
	end := m.Retention().Expiry(r.Table, r.Bucket)
	if !end.IsZero() && !end.After(now) && m.flaw != keepsLate {
		switch r.Table {
		case usage.Hourly:
			m.raise(p, &m.state.late[0], where, &r.Counts, now)
		case usage.Daily:
			m.raise(p, &m.state.late[1], where, &r.Counts, now)
		}
		return
	}
	id := m.bucket(r.Table, r.Dim, r.Bucket)
	rows := m.state.buckets[id]
	if rows == nil {
		rows = make(map[usage.Key]*usage.Counts)
		m.state.buckets[id] = rows
	}
	key := r.Key
	if m.flaw == joinsNames {
		key = usage.Key{strings.Join(key[:], "|")}
	}
	if rows[key] == nil {
		rows[key] = new(usage.Counts)
	}
	m.raise(p, rows[key], where, &r.Counts, now)
}

func (m *Memory) bucket(t usage.Table, d usage.Dimension, start time.Time) bucketID {
	if !t.Single() || m.flaw == mixesDimensions {
		d = 0
	}
	return bucketID{t, d, start.Unix()}
}

func (m *Memory) raise(p *usage.StreamPosition, sum *usage.Counts, where func() string, by *usage.Counts, now time.Time) {
	for f, v := range by {
		s := sum[f] + v
		if (v > 0) == (s > sum[f]) || v == 0 {
			sum[f] = s
			continue
		}
		switch m.flaw {
		case losesOverflow:
			sum[f] = math.MaxInt64
			continue
		case stopsAtOverflow:
			return
		}
		p.DeadLetters++
		m.state.letters = append(m.state.letters, usage.DeadLetter{
			Time: now, Stream: p.Stream, Where: where(), Field: usage.Field(f), Delta: v, Reason: "overflow",
		})
		if n := len(m.state.letters) - usage.MaxDeadLetters; n > 0 {
			m.state.letters = slices.Delete(m.state.letters, 0, n)
		}
	}
}

// Scan implements usage.Store.
func (m *Memory) Scan(ctx context.Context, t usage.Table, d usage.Dimension, bucket time.Time, yield func(usage.Key, *usage.Counts) bool) error {
	now, err := m.open(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if end := m.Retention().Expiry(t, bucket); !end.IsZero() && !end.After(now) && m.flaw != keepsLate {
		return nil
	}
	for key, c := range m.state.buckets[m.bucket(t, d, bucket)] {
		counts := *c
		if !yield(key, &counts) {
			break
		}
	}
	return nil
}

// Months implements usage.Store.
func (m *Memory) Months(ctx context.Context) ([]time.Time, error) {
	_, err := m.open(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	seen := make(map[int64]bool)
	for id := range m.state.buckets {
		if id.table == usage.MonthlyBy {
			seen[id.start] = true
		}
	}
	var months []time.Time
	for _, at := range slices.Sorted(maps.Keys(seen)) {
		months = append(months, time.Unix(at, 0).UTC())
	}
	return months, nil
}

// Audit implements usage.Store.
func (m *Memory) Audit(ctx context.Context) (usage.Audit, error) {
	_, err := m.open(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return usage.Audit{}, err
	}
	a := usage.Audit{
		LateHours:   m.state.late[0],
		LateDays:    m.state.late[1],
		DeadLetters: slices.Clone(m.state.letters),
	}
	for _, id := range slices.SortedFunc(maps.Keys(m.state.streams), func(a, b usage.StreamID) int {
		return slices.Compare(a[:], b[:])
	}) {
		a.Streams = append(a.Streams, m.state.streams[id])
	}
	return a, nil
}

// Retention implements usage.Store.
func (m *Memory) Retention() usage.Retention { return m.Keep.WithDefaults() }

// MaxIncrements is that of Redis.
func (m *Memory) MaxIncrements() int { return usage.MaxIncrements }

// Close implements usage.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
