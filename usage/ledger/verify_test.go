package ledger

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

// meddle raises a counter of one row behind everybody's back: no stream's totals
// know of it. It does so under a stream of its own, without totals.
func meddle(t *testing.T, store usage.Store, row usage.Row) {
	t.Helper()
	id := usage.StreamID{15: 1}
	g, err := store.Hello(t.Context(), id)
	if err == nil {
		seq := g.Position.Seq
		_, err = store.Apply(t.Context(), &usage.Batch{Stream: id, From: seq, To: seq + 1, Rows: []usage.Row{row}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Where nobody else counts, a row must be what the log makes it, to the last
// counter; where others do, it must not be less.
func TestVerifyFindsTheRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		a.attempts(t, l, 1, 30)
		flush(t, l)
		v := verify(t, l)
		if !v.Equal() || v.Rows.Compared == 0 || v.Rows.Exact != v.Rows.Compared || v.Rows.Others || !v.Balance.Even() {
			t.Fatalf("%+v", v)
		}
		day := usage.Daily.Start(time.Now())
		row := usage.Row{
			Table: usage.Daily, Bucket: day,
			Key: usage.Key{usage.Client: "client-1", usage.Group: "g", usage.UpstreamName: "openai", usage.KeyLabel: "key2", usage.Model: "gpt"},
		}
		row.Counts[usage.InputTokens] = 7
		meddle(t, store, row)
		other := usage.Row{Table: usage.DailyBy, Dim: usage.Client, Bucket: day, Key: usage.Key{usage.Client: "nobody"}}
		other.Counts[usage.Requests] = 1
		meddle(t, store, other)
		v = verify(t, l)
		if d := v.Rows.Differences; v.Equal() || v.Log != v.Store || len(d) != 2 ||
			d[0].Key != row.Key || d[0].Field != usage.InputTokens || d[0].Store-d[0].Log != 7 || !d[0].Bucket.Equal(day) ||
			d[1].Key != other.Key || d[1].Log != 0 || d[1].Store != 1 {
			t.Errorf("%+v", v.Rows)
		}

		// With another instance nobody can say whose the surplus is.
		second := open(t, Config{Dir: t.TempDir(), Store: store})
		a.attempts(t, second, 31, 40)
		flush(t, second)
		if v := verify(t, l); !v.Equal() || !v.Rows.Others || v.Rows.Exact != 0 || v.Rows.Compared == 0 {
			t.Errorf("%+v", v)
		}
		// That something is missing is seen, however many there are.
		row.Counts[usage.InputTokens] = -1 << 30
		meddle(t, store, row)
		if v := verify(t, l); v.Equal() || len(v.Rows.Differences) != 1 || v.Rows.Differences[0].Table != usage.Daily {
			t.Errorf("%+v", v)
		}
		// A month that is wrong is seen by the balance too.
		month := usage.Row{Table: usage.MonthlyBy, Dim: usage.Model, Bucket: usage.MonthlyBy.Start(time.Now()), Key: usage.Key{usage.Model: "x"}}
		month.Counts[usage.Requests] = 1
		meddle(t, store, month)
		if v := verify(t, l); v.Balance.Even() || !v.Balance.Quiet {
			t.Errorf("%+v", v.Balance)
		}
		shut(t, second)
		shut(t, l)
	})
}

// Of old segments that were let go the sum is remembered; rows are held to be
// equal only where the log has all that belongs there.
func TestVerifyAfterSegmentsWent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		l := open(t, Config{
			Dir: t.TempDir(), Store: store, SegmentBytes: minSegmentBytes, KeepFor: time.Nanosecond, KeepBytes: 3 * minSegmentBytes,
		})
		var a account
		for range 30 {
			a.attempts(t, l, 1, 100)
			flush(t, l)
			time.Sleep(time.Hour)
		}
		v := verify(t, l)
		if !v.Equal() || v.Log != a.sum || v.Unsure || v.Origin == 0 || v.Rows.Exact == 0 || v.Rows.Exact == v.Rows.Compared {
			t.Errorf("%+v", v)
		}
		// A restart does not forget the sum.
		shut(t, l)
		l = open(t, Config{Dir: l.cfg.Dir, Store: store, SegmentBytes: minSegmentBytes})
		if again := verify(t, l); !again.Equal() || again.Unsure || again.Rows.Exact != v.Rows.Exact {
			t.Errorf("%+v", again)
		}
		shut(t, l)
	})
}

func TestVerifyKnowsWhatItCannotSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		l := open(t, Config{Dir: t.TempDir(), Store: store})
		var a account
		a.attempts(t, l, 1, 30)
		flush(t, l)
		store.Forget(l.Stats().Stream)
		if v, err := l.Verify(t.Context()); !errors.Is(err, ErrNothingToCompare) {
			t.Errorf("%+v, %v", v, err)
		}
		closeNow(t, l)
		if v, err := l.Verify(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// The oldest rows are left out if there are too many of them.
func TestVerifyBoundsItsRows(t *testing.T) {
	s := rowSums{sums: make(map[rowID]*usage.Counts)}
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for n := range 40_000 {
		r := attemptNo(n)
		end(r, n)
		r.Client, r.Time = fmt.Sprint("client-", n), at.Add(time.Duration(n/1000)*time.Hour)
		s.add(r, nil)
	}
	s.gather()
	if len(s.sums) > maxRows || len(s.sums) < maxRows/10 || s.since <= at.Unix() {
		t.Errorf("%d rows since %v", len(s.sums), time.Unix(s.since, 0).UTC())
	}
	for id, c := range s.sums {
		if id.bucket < s.since || id.table == usage.Hourly && c[usage.Attempts] != 1 {
			t.Fatalf("%+v", id)
		}
	}
}
