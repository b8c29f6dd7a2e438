package usage_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

// accounts is a store with what is in it, and a note of what was read.
type accounts struct {
	*storetest.Memory
	records []usage.Record
	reads   map[usage.Table]int
	dims    map[usage.Dimension]bool
}

func (a *accounts) Scan(ctx context.Context, t usage.Table, d usage.Dimension, bucket time.Time, yield func(usage.Key, *usage.Counts) bool) error {
	a.reads[t]++
	if t.Single() {
		a.dims[d] = true
	}
	return a.Memory.Scan(ctx, t, d, bucket, yield)
}

func (a *accounts) forget() {
	a.reads, a.dims = make(map[usage.Table]int), make(map[usage.Dimension]bool)
}

// now is the present of these tests.
var now = time.Date(2026, 11, 23, 12, 34, 56, 0, time.UTC)

// fill makes accounts of n attempts within a span before now. Each comes in when
// it happens, so that the store keeps what it keeps at now.
func fill(t *testing.T, n int, span time.Duration) *accounts {
	t.Helper()
	clock := now
	m := storetest.NewMemory()
	m.Now = func() time.Time { return clock }
	a := &accounts{Memory: m}
	a.forget()
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		a.records = append(a.records, usage.Record{
			Time:     now.Add(-time.Duration(r.Int64N(int64(span)))),
			Client:   fmt.Sprint("client", r.IntN(3)),
			Group:    fmt.Sprint("group", r.IntN(2)),
			Upstream: fmt.Sprint("upstream", r.IntN(2)),
			Key:      fmt.Sprint("key", r.IntN(2)),
			Model:    fmt.Sprint("model", r.IntN(3)),
			Outcome:  usage.Served, Final: true, Source: usage.Upstream,
			Tokens: usage.Tokens{Input: r.Int64N(100), Output: r.Int64N(100)}, Priced: true, CostNanos: r.Int64N(1000),
		})
	}
	slices.SortFunc(a.records, func(a, b usage.Record) int { return a.Time.Compare(b.Time) })
	var at uint64
	for i := range a.records {
		clock = a.records[i].Time
		b := usage.Batch{From: at, To: at + 1}
		b.Add(&a.records[i])
		if _, err := m.Apply(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		at++
	}
	clock = now
	return a
}

// TestQueryAgainstRecords compares many queries with what the records say.
func TestQueryAgainstRecords(t *testing.T) {
	a := fill(t, 1500, 120*24*time.Hour)
	r := rand.New(rand.NewPCG(3, 4))
	zones := []*time.Location{nil, time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/Los_Angeles")}
	answered := make(map[usage.Bucket]int)
	for i := range 600 {
		q := usage.Query{Bucket: usage.Bucket(r.IntN(4)), Location: zones[r.IntN(len(zones))]}
		span := []time.Duration{3 * time.Hour, 72 * time.Hour, 30 * 24 * time.Hour, 100 * 24 * time.Hour}[r.IntN(4)]
		q.Since = now.Add(-time.Duration(r.Int64N(int64(span))) - time.Minute)
		q.Until = q.Since.Add(time.Duration(r.Int64N(int64(span))) + time.Minute)
		if r.IntN(2) == 0 {
			q.Since = usage.Daily.Start(q.Since)
		}
		if r.IntN(3) == 0 {
			q.Until = time.Time{}
		}
		for d := range usage.Dimension(usage.Dimensions) {
			if r.IntN(4) == 0 {
				q.By = append(q.By, d)
			}
			if r.IntN(8) == 0 {
				q.Where[d] = []string{a.name(r, d), a.name(r, d)}
			}
		}
		res, err := q.Run(t.Context(), a, now)
		if err != nil {
			if !strings.Contains(err.Error(), "no longer kept") {
				t.Fatalf("query %d, %+v: %v", i, q, err)
			}
			continue
		}
		answered[q.Bucket]++
		a.check(t, q, res)
		if t.Failed() {
			t.Fatalf("query %d: %+v", i, q)
		}
	}
	for b := usage.Total; b <= usage.ByMonth; b++ {
		if answered[b] < 50 {
			t.Errorf("only %d queries by %v were answered", answered[b], b)
		}
	}
}

func (a *accounts) name(r *rand.Rand, d usage.Dimension) string {
	return fmt.Sprint(strings.TrimSpace(d.String()), r.IntN(3))
}

// check holds an answer against the records.
func (a *accounts) check(t *testing.T, q usage.Query, res *usage.Result) {
	t.Helper()
	if res.Since.After(q.Since) && !res.Since.Equal(res.Until) && res.Since.After(usage.MonthlyBy.Start(a.records[0].Time)) {
		t.Errorf("asked since %v, answered since %v", q.Since, res.Since)
	}
	if d := q.Since.Sub(res.Since); d >= time.Hour {
		t.Errorf("asked since %v, answered since %v", q.Since, res.Since)
	}
	loc := q.Location
	if loc == nil {
		loc = time.UTC
	}
	type id struct {
		start string
		key   usage.Key
	}
	want := make(map[id]usage.Counts)
	var sum usage.Counts
	for i := range a.records {
		rec := &a.records[i]
		if rec.Time.Before(res.Since) || !rec.Time.Before(res.Until) {
			continue
		}
		key := usage.Key{rec.Client, rec.Group, rec.Upstream, rec.Key, rec.Model}
		out := false
		for d, names := range q.Where {
			out = out || len(names) > 0 && !slices.Contains(names, key[d])
		}
		if out {
			continue
		}
		layout := []string{usage.Total: "", usage.ByHour: "2006-01-02 15 MST", usage.ByDay: "2006-01-02", usage.ByMonth: "2006-01"}[q.Bucket]
		at := id{rec.Time.In(loc).Format(layout), key.Only(res.By)}
		c := rec.Counts()
		have := want[at]
		have.Add(&c)
		want[at] = have
		sum.Add(&c)
	}
	for i, row := range res.Rows {
		layout := []string{usage.Total: "", usage.ByHour: "2006-01-02 15 MST", usage.ByDay: "2006-01-02", usage.ByMonth: "2006-01"}[q.Bucket]
		at := id{row.Start.Format(layout), row.Key}
		if row.Counts != want[at] {
			t.Errorf("row %v: %s", at, differ(row.Counts, want[at]))
		}
		delete(want, at)
		if i > 0 && !less(res.Rows[i-1], row, res.By) {
			t.Errorf("rows %d and %d are in the wrong order: %v %q, %v %q", i-1, i, res.Rows[i-1].Start, res.Rows[i-1].Key, row.Start, row.Key)
		}
	}
	for at, c := range want {
		t.Errorf("row %v is missing: %v", at, c)
	}
	if res.Sum != sum {
		t.Errorf("sum: %s", differ(res.Sum, sum))
	}
}

func less(a, b usage.ResultRow, by []usage.Dimension) bool {
	if !a.Start.Equal(b.Start) {
		return a.Start.Before(b.Start)
	}
	for _, d := range by {
		if a.Key[d] != b.Key[d] {
			return a.Key[d] < b.Key[d]
		}
	}
	return false
}

// TestQueryReads holds which tables are read: the fewest and smallest buckets.
func TestQueryReads(t *testing.T) {
	a := fill(t, 50, 700*24*time.Hour)
	day := func(s string) time.Time {
		at, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	client, key, model := usage.Client, usage.KeyLabel, usage.Model
	for _, c := range []struct {
		name  string
		query usage.Query
		want  map[usage.Table]int
		dim   usage.Dimension
	}{
		{"one sum of the year", usage.Query{Since: day("2026-01-01")}, map[usage.Table]int{usage.MonthlyBy: 11}, usage.UpstreamName},
		{
			"clients of the year by month",
			usage.Query{Since: day("2026-01-01"), By: []usage.Dimension{client}, Bucket: usage.ByMonth},
			map[usage.Table]int{usage.MonthlyBy: 11},
			client,
		},
		{"clients of two years", usage.Query{Since: day("2025-01-01"), By: []usage.Dimension{client}}, map[usage.Table]int{usage.MonthlyBy: 23}, client},
		{
			"keys of a month by day",
			usage.Query{Since: day("2026-10-01"), Until: day("2026-11-01"), By: []usage.Dimension{key}, Bucket: usage.ByDay},
			map[usage.Table]int{usage.DailyBy: 31},
			key,
		},
		{"clients at one upstream", usage.Query{
			Since: day("2026-10-01"), Until: day("2026-11-01"), By: []usage.Dimension{client},
			Where: usage.Filter{usage.UpstreamName: {"upstream1"}},
		}, map[usage.Table]int{usage.Daily: 31}, 0},
		{"keys of one upstream", usage.Query{
			Since: day("2026-10-01"), Until: day("2026-11-01"), By: []usage.Dimension{key},
			Where: usage.Filter{usage.UpstreamName: {"upstream1"}},
		}, map[usage.Table]int{usage.MonthlyBy: 1}, key},
		{"a client's own sum", usage.Query{Since: day("2026-11-01"), Where: usage.Filter{usage.Client: {"client1"}}}, map[usage.Table]int{usage.MonthlyBy: 1}, client},
		{
			"models of the last 24 hours",
			usage.Query{Since: now.Add(-24 * time.Hour), By: []usage.Dimension{model}},
			map[usage.Table]int{usage.Hourly: 12, usage.DailyBy: 1},
			model,
		},
		{"by hour", usage.Query{Since: day("2026-11-22"), Bucket: usage.ByHour}, map[usage.Table]int{usage.Hourly: 37}, 0},
		{
			"half a day by client",
			usage.Query{Since: day("2026-11-20").Add(12 * time.Hour), Until: day("2026-11-22"), By: []usage.Dimension{client}},
			map[usage.Table]int{usage.Hourly: 12, usage.DailyBy: 1},
			client,
		},
		{
			"days elsewhere",
			usage.Query{Since: day("2026-11-20"), Until: day("2026-11-22"), Bucket: usage.ByDay, Location: zone(t, "Asia/Tokyo")},
			map[usage.Table]int{usage.Hourly: 48},
			0,
		},
		{
			"months elsewhere",
			usage.Query{Since: day("2026-10-31"), Until: day("2026-11-03"), Bucket: usage.ByMonth, Location: zone(t, "Asia/Tokyo")},
			map[usage.Table]int{usage.Hourly: 24, usage.DailyBy: 2},
			usage.UpstreamName,
		},
		{"in the future", usage.Query{Since: now.AddDate(1, 0, 0)}, map[usage.Table]int{}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.forget()
			if _, err := c.query.Run(t.Context(), a, now); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(a.reads) != fmt.Sprint(c.want) {
				t.Errorf("reads %v, want %v", a.reads, c.want)
			}
			if c.want[usage.DailyBy]+c.want[usage.MonthlyBy] > 0 && (len(a.dims) != 1 || !a.dims[c.dim]) {
				t.Errorf("reads tables of %v, want those of %v", a.dims, c.dim)
			}
		})
	}
}

func TestQueryRefuses(t *testing.T) {
	a := fill(t, 50, 700*24*time.Hour)
	client, model := usage.Client, usage.Model
	for _, c := range []struct {
		name  string
		query usage.Query
		says  string
	}{
		{"backwards", usage.Query{Since: now, Until: now.Add(-time.Hour)}, "before it begins"},
		{"hours that are gone", usage.Query{Since: now.AddDate(0, 0, -60), Bucket: usage.ByHour}, "hours before 2026-10-19T13:00:00Z are no longer kept"},
		{"days that are gone", usage.Query{Since: now.AddDate(-1, -6, 0), Bucket: usage.ByDay}, "days before 2025-10-20"},
		{"the product in months that are gone", usage.Query{By: []usage.Dimension{client, model}}, "by several dimensions before 2025-10-20"},
		{"a zone of half hours", usage.Query{Since: now.AddDate(0, 0, -2), Bucket: usage.ByDay, Location: zone(t, "Asia/Kolkata")}, "ask in UTC"},
		{"no such dimension", usage.Query{By: []usage.Dimension{77}}, "dimension"},
		{"no such bucket", usage.Query{Bucket: 77}, "bucket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.query.Run(t.Context(), a, now); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error that says %q", err, c.says)
			}
		})
	}

	a.Keep.Hours = 3 * 365 * 24 * time.Hour
	q := usage.Query{Bucket: usage.ByHour}
	if _, err := q.Run(t.Context(), a, now); err == nil || !strings.Contains(err.Error(), "more than 10000 buckets") {
		t.Errorf("two years by hour: %v", err)
	}
	a.Close()
	if _, err := q.Run(t.Context(), a, now); !errors.Is(err, usage.ErrClosed) {
		t.Errorf("a closed store: %v", err)
	}
}

// TestQueryAdvice takes each refusal at its word: what it says is kept is kept.
func TestQueryAdvice(t *testing.T) {
	a := fill(t, 50, 700*24*time.Hour)
	for _, q := range []usage.Query{
		{Since: time.Date(2026, 10, 19, 13, 0, 0, 0, time.UTC), Bucket: usage.ByHour},
		{Since: time.Date(2025, 10, 20, 0, 0, 0, 0, time.UTC), Bucket: usage.ByDay},
		{Since: time.Date(2025, 10, 20, 0, 0, 0, 0, time.UTC), By: []usage.Dimension{usage.Client, usage.Model}},
	} {
		if _, err := q.Run(t.Context(), a, now); err != nil {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// crowded is a store with too many clients.
type crowded struct{ *accounts }

func (crowded) Scan(_ context.Context, _ usage.Table, _ usage.Dimension, _ time.Time, yield func(usage.Key, *usage.Counts) bool) error {
	one := usage.Counts{usage.Attempts: 1}
	for i := 0; yield(usage.Key{usage.Client: strconv.Itoa(i)}, &one); i++ {
		if i > usage.MaxRows {
			return errors.New("the query reads on")
		}
	}
	return nil
}

func TestQueryManyRows(t *testing.T) {
	s := crowded{fill(t, 1, time.Hour)}
	q := usage.Query{By: []usage.Dimension{usage.Client}}
	if _, err := q.Run(t.Context(), s, now); err == nil || !strings.Contains(err.Error(), "more than 100000 rows") {
		t.Errorf("an answer without bounds: %v", err)
	}
}

func TestQueryEmptyStore(t *testing.T) {
	res, err := usage.Query{By: []usage.Dimension{usage.Client}}.Run(t.Context(), storetest.NewMemory(), now)
	if err != nil || len(res.Rows) != 0 || !res.Sum.IsZero() {
		t.Fatalf("%+v, %v", res, err)
	}
	b, err := json.Marshal(res)
	if err != nil || !json.Valid(b) || !strings.Contains(string(b), `"rows":[]`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestResultFormats(t *testing.T) {
	m := storetest.NewMemory()
	m.Now = func() time.Time { return now }
	b := usage.Batch{To: 1}
	hostile := "=cmd|' /C calc'!A1\"</script>\n\xff,"
	r := record(hostile, "m", now)
	r.Priced, r.CostNanos = true, 1_500_000_000
	b.Add(&r)
	if _, err := m.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	res, err := usage.Query{By: []usage.Dimension{usage.KeyLabel, usage.Client}, Bucket: usage.ByDay}.Run(t.Context(), m, now)
	if err != nil {
		t.Fatal(err)
	}

	text, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Since, Until time.Time
		Bucket       string
		By           []string
		Rows         []map[string]any
		Sum          map[string]any
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if answer.Bucket != "day" || !slices.Equal(answer.By, []string{"upstream", "key", "client"}) || len(answer.Rows) != 1 {
		t.Fatalf("%s", text)
	}
	row := answer.Rows[0]
	for name, want := range map[string]any{
		"start": "2026-11-23T00:00:00Z", "upstream": "u", "key": "k", "client": strings.ToValidUTF8(hostile, "\ufffd"),
		"attempts": 1.0, "requests": 1.0, "errors": 0.0, "input_tokens": 1.0, "cache_read_tokens": 0.0, "output_tokens": 2.0,
		"total_tokens": 3.0, "cost_nanos": 1.5e9, "cost_usd": 1.5, "duration_ms": 1000.0,
	} {
		if row[name] != want {
			t.Errorf("%s is %v, want %v", name, row[name], want)
		}
	}
	if _, ok := row["duration_ms_p95"]; !ok || answer.Sum["attempts"] != 1.0 {
		t.Errorf("%s", text)
	}

	var table bytes.Buffer
	if err := res.WriteCSV(&table); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(&table).ReadAll()
	if err != nil || len(lines) != 2 || len(lines[0]) != len(lines[1]) {
		t.Fatalf("%q, %v", lines, err)
	}
	for i, name := range lines[0] {
		switch got := lines[1][i]; {
		case name == "client" && got != "'"+hostile,
			name == "start" && got != "2026-11-23T00:00:00Z",
			name == "cost_usd" && got != "1.5",
			name == "first_byte_ms_p50" && got != "":
			t.Errorf("column %s is %q", name, got)
		}
	}
}

func TestWeigh(t *testing.T) {
	a := fill(t, 200, 100*24*time.Hour)
	b, err := usage.Weigh(t.Context(), a)
	if err != nil || !b.Even() || !b.Quiet || b.Streams[usage.Attempts] != 200 {
		t.Errorf("%+v, %v", b, err)
	}
	// A row that came in without the totals.
	batch := usage.Batch{From: 200, To: 201}
	batch.Add(&a.records[0])
	batch.Totals = usage.Counts{}
	if _, err := a.Apply(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
	if b, err := usage.Weigh(t.Context(), a); err != nil || b.Even() {
		t.Errorf("a row too much is not seen: %v", err)
	}
}
