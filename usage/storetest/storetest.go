// Package storetest holds what every usage.Store must do, as tests that each
// implementation runs, and a store in memory for tests of what builds on one.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floway/floway/usage"
)

// Run holds a store against the contract of usage.Store. open makes an empty one
// with a retention of at most 1,000 days; it sees to its end by itself.
func Run(t *testing.T, open func(testing.TB) usage.Store) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(subject{t, open})
		})
	}
}

// subject is one test with what it needs.
type subject struct {
	testing.TB
	open func(testing.TB) usage.Store
}

func (t subject) store() usage.Store { return t.open(t.TB) }

var checks = []struct {
	name string
	run  func(subject)
}{
	{"a new store is empty and has a name", testNew},
	{"sums are exact in every table", testSums},
	{"a correction replaces what it corrects", testCorrection},
	{"large numbers are exact", testLargeNumbers},
	{"a batch as large as batches get", testLargeBatch},
	{"an empty batch moves the position", testEmptyBatch},
	{"a batch from elsewhere changes nothing", testMismatch},
	{"a batch counts once however often it is sent", testResend},
	{"one of many senders of a batch wins", testSenders},
	{"a store that fell back is brought up again", testRollback},
	{"a later opening fences the earlier one", testFencing},
	{"streams do not disturb each other", testStreams},
	{"the sum of all rows is the sum of all streams", testTotals},
	{"names are data", testNames},
	{"a scan ends when it is told to", testScanEnds},
	{"what is past its retention counts as late", testLate},
	{"a counter at its end does not hold up the others", testDeadLetters},
	{"dead letters are bounded", testManyDeadLetters},
	{"a call that was given up changes nothing", testCancelled},
	{"a closed store says so", testClosed},
}

func testNew(t subject) {
	s := t.store()
	one := t.hello(s, stream(1))
	two := t.hello(s, stream(2))
	if one.Genesis == "" || one.Genesis != two.Genesis {
		t.Errorf("the store calls itself %q and %q", one.Genesis, two.Genesis)
	}
	if one.Known || one.Lost || one.Position != (usage.Position{}) {
		t.Errorf("a new store knows %+v", one)
	}
	if one.Time.IsZero() {
		t.Errorf("the store does not tell the time")
	}
	months, err := s.Months(t.Context())
	if err != nil || len(months) != 0 {
		t.Errorf("months of an empty store: %v, %v", months, err)
	}
	if a := t.audit(s); len(a.Streams)+len(a.DeadLetters) != 0 || a.LateHours != (usage.Counts{}) || a.LateDays != (usage.Counts{}) {
		t.Errorf("audit of an empty store: %+v", a)
	}
	if r := s.Retention(); r != r.WithDefaults() || r.Hours <= 0 || r.Days <= 0 {
		t.Errorf("retention: %+v", r)
	}
	if other := t.hello(t.store(), stream(1)); other.Genesis == one.Genesis {
		t.Errorf("two stores have the name %q", one.Genesis)
	}
}

func testSums(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	records := records(now, 60)
	w := writer{subject: t, store: s, stream: stream(1)}
	for some := range slices.Chunk(records, 7) {
		w.write(some...)
	}
	t.same(s, records)

	g := t.hello(s, stream(1))
	if !g.Known || g.Position != w.position {
		t.Errorf("Hello tells the position %+v, Apply told %+v", g.Position, w.position)
	}
	months, err := s.Months(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := buckets(records, usage.MonthlyBy); !slices.Equal(months, want) {
		t.Errorf("months %v, want %v", months, want)
	}
}

func testCorrection(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	first := records(now, 4)
	w.write(first...)

	better := slices.Clone(first)
	better[1].Estimating = false
	better[1].Tokens = usage.Tokens{Input: 3, Output: 5, Reasoning: 1}
	better[1].CostNanos = 11
	better[2].Final = !better[2].Final
	b := w.batch()
	for i := range better {
		b.Correct(&first[i], &better[i])
	}
	w.send(b)
	t.same(s, better)
}

func testLargeNumbers(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	var want int64
	for _, v := range []int64{1<<53 + 1, 1, 1e15, -1, 1 << 62, 1<<62 - 1<<54, -(1 << 40)} {
		want += v
		b := w.batch()
		row := b.row(usage.Daily, 0, now, usage.Key{usage.Client: "ann"})
		row.Counts[usage.CostNanos] = v
		b.Totals[usage.CostNanos] = v
		w.send(b)
	}
	rows := t.scan(s, usage.Daily, 0, usage.Daily.Start(now))
	if got := rows[usage.Key{usage.Client: "ann"}][usage.CostNanos]; got != want {
		t.Errorf("the row has %d, want %d", got, want)
	}
	if got := w.position.Totals[usage.CostNanos]; got != want {
		t.Errorf("the totals have %d, want %d", got, want)
	}
	if n := w.position.DeadLetters; n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

func testLargeBatch(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	var all []usage.Record
	b := w.batch()
	for i := 0; !b.Full(usage.MaxIncrements); i++ {
		r := records(now, 1)[0]
		r.Client, r.Model = fmt.Sprintf("client-%d", i), fmt.Sprintf("model-%d", i)
		b.Add(&r)
		all = append(all, r)
	}
	w.send(b)
	t.same(s, all)
}

func testEmptyBatch(t subject) {
	s := t.store()
	t.hello(s, stream(1))
	w := writer{subject: t, store: s, stream: stream(1)}
	w.send(w.batch())
	if g := t.hello(s, stream(1)); !g.Known || g.Position.Seq != w.position.Seq {
		t.Errorf("after an empty batch to %d: %+v", w.position.Seq, g)
	}
	t.same(s, nil)
}

func testMismatch(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1), epoch: 3}
	rs := records(now, 6)

	b := w.batch()
	b.From, b.To = 5, 6
	b.Add(&rs[5])
	if p, err := s.Apply(t.Context(), &b.Batch); !errors.Is(err, usage.ErrMismatch) || p != (usage.Position{}) {
		t.Errorf("a batch from 5 on an unknown stream: %+v, %v", p, err)
	}
	if t.hello(s, stream(1)).Known {
		t.Errorf("a refused batch made the stream known")
	}

	w.write(rs[:3]...)
	for _, from := range []uint64{w.position.Seq - 1, w.position.Seq + 1, 0, math.MaxUint64} {
		b := w.batch()
		b.From, b.To = from, from+1
		b.Add(&rs[5])
		p, err := s.Apply(t.Context(), &b.Batch)
		if !errors.Is(err, usage.ErrMismatch) || p != w.position {
			t.Errorf("a batch from %d at %d: position %+v, %v", from, w.position.Seq, p, err)
		}
	}
	t.same(s, rs[:3])
}

func testResend(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	rs := records(now, 5)
	w.write(rs[:2]...)
	b := w.batch()
	for i := range rs[2:] {
		b.Add(&rs[2+i])
	}
	w.send(b)
	for range 3 {
		p, err := s.Apply(t.Context(), &b.Batch)
		if !errors.Is(err, usage.ErrMismatch) || p != w.position {
			t.Errorf("sent again: position %+v, %v; want %+v", p, err, w.position)
		}
	}
	t.same(s, rs)
}

func testSenders(t subject) {
	const senders, rounds = 4, 5
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	all := records(now, rounds)
	for round := range rounds {
		var batches [senders]*batch
		for i := range batches {
			batches[i] = w.batch()
			batches[i].Add(&all[round])
		}
		var positions [senders]usage.Position
		var errs [senders]error
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() { positions[i], errs[i] = s.Apply(t.Context(), &batches[i].Batch) })
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
				w.position = positions[i]
			case !errors.Is(err, usage.ErrMismatch):
				t.Fatalf("sender %d: %v", i, err)
			}
		}
		if won != 1 {
			t.Fatalf("%d senders of one batch were told that it was applied", won)
		}
	}
	t.same(s, all)
}

func testRollback(t subject) {
	// The store that fell back is one that has seen the beginning only.
	s := t.store()
	now := t.hello(s, stream(1)).Time
	rs := records(now, 9)
	w := writer{subject: t, store: s, stream: stream(1), epoch: 7}
	w.write(rs[:3]...)
	behind := w.position

	b := w.batch()
	b.From, b.To = 6, 9
	p, err := s.Apply(t.Context(), &b.Batch)
	if !errors.Is(err, usage.ErrMismatch) || p != behind {
		t.Fatalf("the store tells %+v, %v; it stands at %+v", p, err, behind)
	}
	w.write(rs[3:8]...) // cut in another way than before
	w.write(rs[8])
	t.same(s, rs)
}

func testFencing(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	rs := records(now, 4)
	// Numbers of different lengths, so that they are not compared as text.
	old := writer{subject: t, store: s, stream: stream(1), epoch: 9}
	old.write(rs[0])
	later := writer{subject: t, store: s, stream: stream(1), epoch: 10, position: old.position}
	later.write(rs[1])

	// The earlier opening knows where the store stands, and yet must not write.
	old.position = later.position
	b := old.batch()
	b.Add(&rs[3])
	if p, err := s.Apply(t.Context(), &b.Batch); !errors.Is(err, usage.ErrFenced) || p != later.position {
		t.Errorf("an earlier opening is told %+v, %v; want %+v and ErrFenced", p, err, later.position)
	}
	// Being fenced goes before standing elsewhere.
	b.From++
	if _, err := s.Apply(t.Context(), &b.Batch); !errors.Is(err, usage.ErrFenced) {
		t.Errorf("an earlier opening that stands elsewhere: %v, want ErrFenced", err)
	}
	later.write(rs[2])
	t.same(s, rs[:3])
	if got := t.hello(s, stream(1)).Position; got.Epoch != 10 || got != later.position {
		t.Errorf("position %+v, want %+v", got, later.position)
	}
}

func testStreams(t subject) {
	const streams, each = 5, 6
	s := t.store()
	now := t.hello(s, stream(1)).Time
	var all []usage.Record
	var writers [streams]writer
	for i := range writers {
		writers[i] = writer{subject: t, store: s, stream: stream(byte(i + 1)), epoch: uint64(i)}
		all = append(all, records(now, each)...)
	}
	var wg sync.WaitGroup
	errs := make(chan error, streams*each)
	for i := range writers {
		wg.Go(func() {
			w := &writers[i]
			for j := range each {
				b := w.batch()
				b.Add(&all[i*each+j])
				p, err := s.Apply(t.Context(), &b.Batch)
				if err != nil {
					errs <- fmt.Errorf("stream %d, batch %d: %w", i, j, err)
					return
				}
				w.position = p
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	t.same(s, all)

	a := t.audit(s)
	if len(a.Streams) != streams {
		t.Fatalf("audit has %d streams, want %d", len(a.Streams), streams)
	}
	for i, p := range a.Streams {
		if p.Stream != writers[i].stream || p.Position != writers[i].position {
			t.Errorf("audit has %+v in place %d, want %+v", p, i, writers[i].position)
		}
		if p.Seen.Before(now.Add(-time.Hour)) || p.Seen.After(now.Add(time.Hour)) {
			t.Errorf("stream seen at %v, it is %v", p.Seen, now)
		}
	}
}

func testTotals(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	one := writer{subject: t, store: s, stream: stream(1)}
	two := writer{subject: t, store: s, stream: stream(2)}
	rs := records(now, 20)
	one.write(rs[:11]...)
	two.write(rs[11:]...)

	var totals usage.Counts
	for _, p := range t.audit(s).Streams {
		totals.Add(&p.Totals)
	}
	months, err := s.Months(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for d := range usage.Dimension(usage.Dimensions) {
		var sum usage.Counts
		for _, m := range months {
			for _, c := range t.scan(s, usage.MonthlyBy, d, m) {
				sum.Add(&c)
			}
		}
		if sum != totals {
			t.Errorf("months by %v: %s", d, difference(sum, totals))
		}
	}
}

func testNames(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	long := strings.Repeat("n", usage.MaxName)
	names := []string{
		"", "a", "A", "a ", " ", "|", "a|b", "%", "%7C", "%7c", "a%", ":", "a:b", "/", "{a}", "}{", "*", "?", "[a]",
		"\x00", "\x00\x00", "\n", "\r\n", "\t", "\x1f", "\x7f", "\xff", "\xc3\x28", "ä", "a\u0308", "名前", "\u202e", "\U0001F600",
		"0", "-1", "1e5", "nil", "seq", "\"", "'", "\\", "<script>", "=1+1", long, long[:len(long)-1] + "m",
	}
	var rs []usage.Record
	for i, n := range names {
		r := records(now, i%3+1)[i%3]
		r.Client, r.Group, r.Upstream, r.Key, r.Model = n, "g", "u", "k", "m"
		rs = append(rs, r)
		// The same names in other places are other rows.
		r.Client, r.Model = "m", n
		rs = append(rs, r)
		r.Upstream, r.Key = n, names[(i+1)%len(names)]
		rs = append(rs, r)
		r.Client, r.Group, r.Upstream, r.Key, r.Model = n, n, n, n, n
		rs = append(rs, r)
	}
	w := writer{subject: t, store: s, stream: stream(1)}
	for some := range slices.Chunk(rs, 16) {
		w.write(some...)
	}
	t.same(s, rs)
}

func testScanEnds(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	var rs []usage.Record
	for i := range 12 {
		r := records(now, 1)[0]
		r.Client = fmt.Sprint("client", i)
		rs = append(rs, r)
	}
	w.write(rs...)
	n := 0
	err := s.Scan(t.Context(), usage.DailyBy, usage.Client, usage.Daily.Start(now), func(usage.Key, *usage.Counts) bool {
		n++
		return n < 5
	})
	if err != nil || n != 5 {
		t.Errorf("a scan told to end after 5 rows gave %d, %v", n, err)
	}
}

func testLate(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	keep := s.Retention()
	// One record that everything still has, one too late for its hour, one too
	// late for its day as well.
	rs := records(now, 3)
	rs[1].Time = usage.Hourly.Start(now.Add(-keep.Hours)).Add(-2 * time.Hour)
	rs[2].Time = usage.Daily.Start(now.Add(-keep.Days)).AddDate(0, 0, -2)
	w := writer{subject: t, store: s, stream: stream(1)}
	w.write(rs[0])
	w.write(rs[1], rs[2])

	for _, r := range rs[1:] {
		if rows := t.scan(s, usage.Hourly, 0, usage.Hourly.Start(r.Time)); len(rows) != 0 {
			t.Errorf("an hour past its retention has rows: %v", rows)
		}
	}
	day := usage.Daily.Start(rs[2].Time)
	if rows := t.scan(s, usage.Daily, 0, day); len(rows) != 0 {
		t.Errorf("a day past its retention has rows: %v", rows)
	}
	if rows := t.scan(s, usage.DailyBy, usage.Model, day); len(rows) != 0 {
		t.Errorf("a day by model past its retention has rows: %v", rows)
	}
	t.sameTable(s, rs[:1], usage.Hourly, 0)
	t.sameTable(s, rs[:2], usage.Daily, 0)
	t.sameTable(s, rs[:2], usage.DailyBy, usage.Client)
	t.sameTable(s, rs, usage.MonthlyBy, usage.Client)

	a := t.audit(s)
	if want := total(rs[1:]); a.LateHours != want {
		t.Errorf("late hours: %s", difference(a.LateHours, want))
	}
	if want := total(rs[2:]); a.LateDays != want {
		t.Errorf("late days: %s", difference(a.LateDays, want))
	}
	if want := total(rs); w.position.Totals != want {
		t.Errorf("totals: %s", difference(w.position.Totals, want))
	}
}

func testDeadLetters(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	ann, bob := usage.Key{usage.Client: "ann"}, usage.Key{usage.Client: "bob"}
	w := writer{subject: t, store: s, stream: stream(1)}

	b := w.batch()
	row := b.row(usage.Hourly, 0, now, ann)
	row.Counts[usage.InputTokens], row.Counts[usage.OutputTokens] = math.MaxInt64, math.MinInt64
	b.Totals[usage.InputTokens] = math.MaxInt64
	w.send(b)
	if n := w.position.DeadLetters; n != 0 {
		t.Errorf("%d dead letters for the largest numbers", n)
	}

	b = w.batch()
	row = b.row(usage.Hourly, 0, now, ann)
	row.Counts[usage.Attempts], row.Counts[usage.InputTokens], row.Counts[usage.OutputTokens], row.Counts[usage.CostNanos] = 1, 2, -3, 4
	b.row(usage.Hourly, 0, now, bob).Counts[usage.InputTokens] = 5
	b.Totals[usage.Attempts], b.Totals[usage.InputTokens], b.Totals[usage.CostNanos] = 1, 7, 4
	w.send(b)

	rows := t.scan(s, usage.Hourly, 0, usage.Hourly.Start(now))
	want := map[usage.Key]usage.Counts{
		ann: {usage.Attempts: 1, usage.InputTokens: math.MaxInt64, usage.OutputTokens: math.MinInt64, usage.CostNanos: 4},
		bob: {usage.InputTokens: 5},
	}
	if !maps.Equal(rows, want) {
		t.Errorf("rows %v, want %v", rows, want)
	}
	if want := (usage.Counts{usage.Attempts: 1, usage.InputTokens: math.MaxInt64, usage.CostNanos: 4}); w.position.Totals != want {
		t.Errorf("totals: %s", difference(w.position.Totals, want))
	}
	if got := t.hello(s, stream(1)).Position; got != w.position || got.DeadLetters != 3 {
		t.Errorf("position %+v, want %+v with 3 dead letters", got, w.position)
	}

	letters := t.audit(s).DeadLetters
	if len(letters) != 3 {
		t.Fatalf("%d dead letters, want 3: %+v", len(letters), letters)
	}
	deltas := make(map[int64]usage.Field)
	for _, l := range letters {
		deltas[l.Delta] = l.Field
		if l.Stream != stream(1) || l.Where == "" || l.Reason == "" || l.Time.Before(now.Add(-time.Hour)) {
			t.Errorf("a dead letter says too little: %+v", l)
		}
	}
	if want := map[int64]usage.Field{2: usage.InputTokens, -3: usage.OutputTokens, 7: usage.InputTokens}; !maps.Equal(deltas, want) {
		t.Errorf("dead letters are of %v, want %v", deltas, want)
	}
}

func testManyDeadLetters(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	const clients = 50
	fill := func(v int64) *batch {
		b := w.batch()
		for i := range clients {
			row := b.row(usage.Hourly, 0, now, usage.Key{usage.Client: fmt.Sprint(i)})
			for f := range row.Counts {
				row.Counts[f] = v
			}
		}
		return b
	}
	w.send(fill(math.MaxInt64))
	w.send(fill(1))
	if n := w.position.DeadLetters; n != clients*uint64(usage.Fields) {
		t.Errorf("%d dead letters, want %d", n, clients*usage.Fields)
	}
	w.send(fill(2))
	letters := t.audit(s).DeadLetters
	if n := len(letters); n != usage.MaxDeadLetters {
		t.Fatalf("the store lists %d dead letters, want %d", n, usage.MaxDeadLetters)
	}
	for _, l := range letters {
		if l.Delta != 2 {
			t.Fatalf("the store lists a dead letter that is not of the latest: %+v", l)
		}
	}
}

func testCancelled(t subject) {
	s := t.store()
	now := t.hello(s, stream(1)).Time
	w := writer{subject: t, store: s, stream: stream(1)}
	rs := records(now, 2)
	w.write(rs[0])

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := w.batch()
	b.Add(&rs[1])
	if _, err := s.Apply(ctx, &b.Batch); err == nil || errors.Is(err, usage.ErrMismatch) || errors.Is(err, usage.ErrFenced) {
		t.Errorf("Apply with a cancelled context: %v", err)
	}
	if _, err := s.Hello(ctx, stream(1)); err == nil {
		t.Errorf("Hello with a cancelled context gives no error")
	}
	if err := s.Scan(ctx, usage.Hourly, 0, usage.Hourly.Start(now), func(usage.Key, *usage.Counts) bool { return true }); err == nil {
		t.Errorf("Scan with a cancelled context gives no error")
	}
	t.same(s, rs[:1])
}

func testClosed(t subject) {
	s := t.store()
	t.hello(s, stream(1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	_, hello := s.Hello(t.Context(), stream(1))
	_, apply := s.Apply(t.Context(), &usage.Batch{Stream: stream(1), To: 1})
	_, months := s.Months(t.Context())
	_, audit := s.Audit(t.Context())
	scan := s.Scan(t.Context(), usage.Hourly, 0, time.Now(), func(usage.Key, *usage.Counts) bool { return true })
	for name, err := range map[string]error{"Hello": hello, "Apply": apply, "Months": months, "Audit": audit, "Scan": scan} {
		if !errors.Is(err, usage.ErrClosed) {
			t.Errorf("%s of a closed store: %v, want ErrClosed", name, err)
		}
	}
}
