package storetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/floway/floway/usage"
)

func stream(n byte) usage.StreamID { return usage.StreamID{0: n, 7: 0xab, 15: ^n} }

// records makes attempts of some variety, the first of them at now, the others in
// hours and days before it.
func records(now time.Time, n int) []usage.Record {
	rs := make([]usage.Record, n)
	for i := range rs {
		k := int64(i)
		rs[i] = usage.Record{
			Request:  fmt.Sprint("request-", i),
			Attempt:  1,
			Time:     now.Add(-time.Duration(i) * 5 * time.Hour),
			Client:   fmt.Sprint("client-", i%3),
			Group:    fmt.Sprint("group-", i%2),
			Upstream: fmt.Sprint("upstream-", i%4),
			Key:      fmt.Sprint("key", i%2),
			Model:    fmt.Sprint("model-", i%5),
			Outcome:  usage.Outcome(i%5 + 1),
			Final:    i%4 != 3,
			Source:   usage.Upstream,
			Tokens: usage.Tokens{
				Input: 100 + k, CacheRead: 10 * (k % 3), CacheWrite: k % 2, Output: 50 + 3*k, Reasoning: k % 7,
			},
			CostNanos: 1000 * k,
			Priced:    i%6 != 5,
			Duration:  time.Duration(k*k+1) * 40 * time.Millisecond,
			FirstByte: time.Duration(k) * 15 * time.Millisecond,
		}
		switch i % 7 {
		case 1:
			rs[i].Source, rs[i].Estimating = usage.Estimated, true
		case 4:
			rs[i].Source = usage.Unknown
		case 6:
			rs[i].Source, rs[i].Outcome = usage.Unknown, 0
		}
	}
	return rs
}

// writer sends batches of one stream, in order.
type writer struct {
	subject
	store    usage.Store
	stream   usage.StreamID
	epoch    uint64
	position usage.Position
}

// batch is a usage.Batch that tests can also fill by hand.
type batch struct{ usage.Batch }

// row adds a row of any content.
func (b *batch) row(t usage.Table, d usage.Dimension, at time.Time, k usage.Key) *usage.Row {
	b.Rows = append(b.Rows, usage.Row{Table: t, Dim: d, Bucket: t.Start(at), Key: k})
	return &b.Rows[len(b.Rows)-1]
}

// batch is the next one of the stream, still empty.
func (w *writer) batch() *batch {
	seq := w.position.Seq
	return &batch{usage.Batch{Stream: w.stream, Epoch: w.epoch, From: seq, To: seq + 3, Chain: uint32(seq)*2654435761 + 1}}
}

func (w *writer) write(rs ...usage.Record) {
	w.Helper()
	b := w.batch()
	for i := range rs {
		b.Add(&rs[i])
	}
	w.send(b)
}

// send applies a batch that the store must take.
func (w *writer) send(b *batch) {
	w.Helper()
	p, err := w.store.Apply(w.Context(), &b.Batch)
	if err != nil {
		w.Fatalf("apply (%d, %d]: %v", b.From, b.To, err)
	}
	if p.Seq != b.To || p.Epoch != b.Epoch || p.Chain != b.Chain {
		w.Fatalf("after the batch to %d of epoch %d the store stands at %+v", b.To, b.Epoch, p)
	}
	w.position = p
}

func (t subject) hello(s usage.Store, id usage.StreamID) usage.Greeting {
	t.Helper()
	g, err := s.Hello(t.Context(), id)
	if err != nil {
		t.Fatalf("hello: %v", err)
	}
	return g
}

func (t subject) audit(s usage.Store) usage.Audit {
	t.Helper()
	a, err := s.Audit(t.Context())
	if err != nil {
		t.Fatalf("audit: %v", err)
	}
	return a
}

func (t subject) scan(s usage.Store, table usage.Table, d usage.Dimension, bucket time.Time) map[usage.Key]usage.Counts {
	t.Helper()
	rows := make(map[usage.Key]usage.Counts)
	err := s.Scan(t.Context(), table, d, bucket, func(k usage.Key, c *usage.Counts) bool {
		if _, twice := rows[k]; twice {
			t.Errorf("the row %q came twice", k)
		}
		rows[k] = *c
		return true
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	return rows
}

// same holds all tables against the records that should be in them, without the
// help of what sums up batches.
func (t subject) same(s usage.Store, rs []usage.Record) {
	t.Helper()
	t.sameTable(s, rs, usage.Hourly, 0)
	t.sameTable(s, rs, usage.Daily, 0)
	for d := range usage.Dimension(usage.Dimensions) {
		t.sameTable(s, rs, usage.DailyBy, d)
		t.sameTable(s, rs, usage.MonthlyBy, d)
	}
}

func (t subject) sameTable(s usage.Store, rs []usage.Record, table usage.Table, d usage.Dimension) {
	t.Helper()
	// Buckets around those of the records must be empty.
	for _, bucket := range around(rs, table) {
		want := make(map[usage.Key]usage.Counts)
		for i := range rs {
			r := &rs[i]
			if !table.Start(r.Time).Equal(bucket) {
				continue
			}
			k := usage.Key{r.Client, r.Group, r.Upstream, r.Key, r.Model}
			if table.Single() {
				only := usage.Key{}
				only[d] = k[d]
				if d == usage.KeyLabel {
					only[usage.UpstreamName] = k[usage.UpstreamName]
				}
				k = only
			}
			sum, counts := want[k], r.Counts()
			sum.Add(&counts)
			want[k] = sum
		}
		got := t.scan(s, table, d, bucket)
		for k, c := range want {
			if got[k] != c {
				t.Errorf("table %d by %v at %v, row %q: %s", table, d, bucket, k, difference(got[k], c))
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				t.Errorf("table %d by %v at %v has a row %q that nobody wrote", table, d, bucket, k)
			}
		}
	}
}

// buckets are the buckets that the records fall into, ascending.
func buckets(rs []usage.Record, table usage.Table) []time.Time {
	seen := make(map[time.Time]bool)
	for i := range rs {
		seen[table.Start(rs[i].Time)] = true
	}
	return slices.SortedFunc(maps.Keys(seen), time.Time.Compare)
}

// around is buckets with those before and after.
func around(rs []usage.Record, table usage.Table) []time.Time {
	var all []time.Time
	for _, b := range buckets(rs, table) {
		all = append(all, table.Start(b.Add(-time.Second)), b, table.End(b))
	}
	slices.SortFunc(all, time.Time.Compare)
	return slices.CompactFunc(all, time.Time.Equal)
}

func total(rs []usage.Record) (sum usage.Counts) {
	for i := range rs {
		c := rs[i].Counts()
		sum.Add(&c)
	}
	return sum
}

// difference says in which fields two counts differ.
func difference(got, want usage.Counts) string {
	var b strings.Builder
	for f := range want {
		if got[f] != want[f] {
			fmt.Fprintf(&b, "%v is %d, want %d; ", usage.Field(f), got[f], want[f])
		}
	}
	if b.Len() == 0 {
		return "equal"
	}
	return strings.TrimSuffix(b.String(), "; ")
}
