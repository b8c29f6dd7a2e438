package usage_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/usage"
)

var noon = time.Date(2026, 11, 23, 12, 34, 56, 789, time.UTC)

func TestRecordCounts(t *testing.T) {
	tokens := usage.Tokens{Input: 10, CacheRead: 20, CacheWrite: 3, CacheWrite1h: 4, Output: 50, Reasoning: 6, InAudio: 7}
	for _, c := range []struct {
		name   string
		record usage.Record
		want   usage.Counts
	}{
		{"served", usage.Record{
			Outcome: usage.Served, Final: true, Source: usage.Upstream, Tokens: tokens, CostNanos: 99, Priced: true,
			Duration: 1500 * time.Millisecond, FirstByte: 300 * time.Millisecond,
		}, usage.Counts{
			usage.Attempts: 1, usage.Requests: 1,
			usage.InputTokens: 10, usage.CacheReadTokens: 20, usage.CacheWriteTokens: 3, usage.CacheWrite1hTokens: 4,
			usage.OutputTokens: 50, usage.ReasoningTokens: 6, usage.InAudioTokens: 7, usage.CostNanos: 99,
			usage.DurationMillis: 1500, usage.DurationHist + 11: 1,
			usage.FirstByteMillis: 300, usage.FirstByteCount: 1, usage.FirstByteHist + 9: 1,
		}},
		{"refused, another attempt follows", usage.Record{
			Outcome: usage.Refused, Status: 429, Duration: 3 * time.Millisecond,
		}, usage.Counts{
			usage.Attempts: 1, usage.Errors: 1, usage.DurationMillis: 3, usage.DurationHist + 2: 1,
		}},
		{"never connected", usage.Record{
			Outcome: usage.Failed, Final: true,
		}, usage.Counts{
			usage.Attempts: 1, usage.Requests: 1, usage.Errors: 1, usage.DurationHist: 1,
		}},
		{"sent and failed", usage.Record{
			Outcome: usage.Failed, Tokens: tokens, CostNanos: 99, Priced: true,
		}, usage.Counts{
			usage.Attempts: 1, usage.Errors: 1, usage.DurationHist: 1,
			usage.UnknownAttempts: 1, usage.UnknownInputTokens: 37, usage.UnknownOutputTokens: 50, usage.UnknownCostNanos: 99,
		}},
		{"left open by a crash", usage.Record{
			Tokens: tokens,
		}, usage.Counts{
			usage.UnknownAttempts: 1, usage.UnknownInputTokens: 37, usage.UnknownOutputTokens: 50,
		}},
		{"served without a number", usage.Record{
			Outcome: usage.Served, Final: true,
		}, usage.Counts{
			usage.Attempts: 1, usage.Requests: 1, usage.UnknownAttempts: 1, usage.DurationHist: 1,
		}},
		{"cut, partly estimated, no price", usage.Record{
			Outcome: usage.Cut, Final: true, Source: usage.Upstream, Partial: true, Tokens: usage.Tokens{Input: 1}, CostNanos: 5,
		}, usage.Counts{
			usage.Attempts: 1, usage.Requests: 1, usage.Errors: 1, usage.InputTokens: 1,
			usage.EstimatedAttempts: 1, usage.UnpricedAttempts: 1, usage.DurationHist: 1,
		}},
		{"images by the piece, no price", usage.Record{
			Outcome: usage.Served, Source: usage.Upstream, Tokens: usage.Tokens{Images: 2},
		}, usage.Counts{
			usage.Attempts: 1, usage.ImageCount: 2, usage.UnpricedAttempts: 1, usage.DurationHist: 1,
		}},
		{"absurd numbers", usage.Record{
			Outcome: usage.Served, Source: usage.Upstream, Priced: true, CostNanos: -1,
			Tokens:   usage.Tokens{Input: -5, Output: 1 << 62},
			Duration: -time.Hour, FirstByte: 1000 * time.Hour,
		}, usage.Counts{
			usage.Attempts: 1, usage.OutputTokens: 1 << 40, usage.DurationHist: 1,
			usage.FirstByteMillis: 3600e6, usage.FirstByteCount: 1, usage.FirstByteHist + usage.HistBuckets - 1: 1,
		}},
		{"absurd and unknown", usage.Record{
			Tokens: usage.Tokens{Input: 1 << 62, CacheRead: 1 << 62, CacheWrite: 1 << 62, Output: -1},
		}, usage.Counts{
			usage.UnknownAttempts: 1, usage.UnknownInputTokens: 1 << 40,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.record.Counts(); got != c.want {
				t.Errorf("%s", differ(got, c.want))
			}
		})
	}
}

func differ(got, want usage.Counts) string {
	var b strings.Builder
	for f := range want {
		if got[f] != want[f] {
			fmt.Fprintf(&b, "%v is %d, want %d; ", usage.Field(f), got[f], want[f])
		}
	}
	return b.String()
}

func record(client, model string, at time.Time) usage.Record {
	return usage.Record{
		Time: at, Client: client, Group: "g", Upstream: "u", Key: "k", Model: model,
		Outcome: usage.Served, Final: true, Source: usage.Upstream, Tokens: usage.Tokens{Input: 1, Output: 2},
		Duration: time.Second,
	}
}

func TestBatchMergesRows(t *testing.T) {
	var b usage.Batch
	one := record("ann", "m", noon)
	b.Add(&one)
	// attempts, requests, input, output, unpriced, duration and its histogram.
	if n := len(b.Rows); n != 12 || b.Increments() != 12*7 {
		t.Fatalf("one record makes %d rows and %d increments, want 12 and 84", n, b.Increments())
	}
	for range 99 {
		b.Add(&one)
	}
	if n := len(b.Rows); n != 12 || b.Increments() != 12*7 {
		t.Errorf("a hundred equal records make %d rows and %d increments, want 12 and 84", n, b.Increments())
	}
	for _, r := range b.Rows {
		if r.Counts[usage.InputTokens] != 100 || r.Counts[usage.OutputTokens] != 200 {
			t.Errorf("row %+v", r)
		}
	}
	if b.Totals != b.Rows[0].Counts {
		t.Errorf("totals: %s", differ(b.Totals, b.Rows[0].Counts))
	}

	// Another hour of the same day: an hour's row more.
	later := one
	later.Time = noon.Add(time.Hour)
	b.Add(&later)
	if n := len(b.Rows); n != 13 {
		t.Errorf("%d rows after another hour, want 13", n)
	}
	// Another client: the rows of hour and day, and of the client's day and month.
	bob := record("bob", "m", noon)
	b.Add(&bob)
	if n := len(b.Rows); n != 17 {
		t.Errorf("%d rows after another client, want 17", n)
	}
}

// What a record wants others to know goes with the batch, beside the account.
func TestBatchNotes(t *testing.T) {
	var b usage.Batch
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	b.Add(&usage.Record{Upstream: "a", Time: at})
	b.Add(&usage.Record{Upstream: "b", Affinity: "key digest", Time: at})
	b.Correct(&usage.Record{Upstream: "b", Affinity: "key digest", Time: at}, &usage.Record{Upstream: "b", Affinity: "key digest", Time: at})
	if len(b.Notes) != 1 || b.Notes[0] != (usage.Note{"b", "key digest", at}) {
		t.Errorf("%+v", b.Notes)
	}
}

func TestBatchRows(t *testing.T) {
	var b usage.Batch
	r := record("ann", "m", noon.In(time.FixedZone("east", 14*3600)))
	b.Add(&r)
	hour := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	day := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	month := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	full := usage.Key{"ann", "g", "u", "k", "m"}
	type row struct {
		table  usage.Table
		dim    usage.Dimension
		bucket time.Time
		key    usage.Key
	}
	want := map[row]bool{
		{usage.Hourly, 0, hour, full}: true,
		{usage.Daily, 0, day, full}:   true,
	}
	for d, key := range []usage.Key{
		usage.Client:       {usage.Client: "ann"},
		usage.Group:        {usage.Group: "g"},
		usage.UpstreamName: {usage.UpstreamName: "u"},
		usage.KeyLabel:     {usage.UpstreamName: "u", usage.KeyLabel: "k"},
		usage.Model:        {usage.Model: "m"},
	} {
		want[row{usage.DailyBy, usage.Dimension(d), day, key}] = true
		want[row{usage.MonthlyBy, usage.Dimension(d), month, key}] = true
	}
	for _, r := range b.Rows {
		id := row{r.Table, r.Dim, r.Bucket, r.Key}
		if !want[id] {
			t.Errorf("row %+v is too much, or twice", id)
		}
		delete(want, id)
	}
	for id := range want {
		t.Errorf("row %+v is missing", id)
	}
}

func TestBatchCorrect(t *testing.T) {
	was := record("ann", "m", noon)
	was.Source, was.Estimating = usage.Estimated, true
	now := was
	now.Estimating, now.Tokens.Output, now.Final = false, 1, false
	now.Time = noon.Add(48 * time.Hour) // does not move the attempt

	var alone usage.Batch
	alone.Correct(&was, &now)
	want := usage.Counts{usage.Requests: -1, usage.OutputTokens: -1}
	for _, r := range alone.Rows {
		if r.Counts != want {
			t.Errorf("a correction alone: %s", differ(r.Counts, want))
		}
		if r.Table == usage.Hourly && !r.Bucket.Equal(usage.Hourly.Start(noon)) {
			t.Errorf("a correction is booked at %v", r.Bucket)
		}
	}
	if alone.Increments() != 12*2 || alone.Totals != want {
		t.Errorf("a correction alone has %d increments and totals %v", alone.Increments(), alone.Totals)
	}

	var both usage.Batch
	both.Add(&was)
	both.Correct(&was, &now)
	if got := now.Counts(); both.Totals != got || both.Rows[0].Counts != got {
		t.Errorf("a record and its correction: %s", differ(both.Totals, got))
	}
	// Requests fell back to zero.
	if n := both.Increments(); n != 12*(8-1) {
		t.Errorf("%d increments, want %d", n, 12*7)
	}

	var none usage.Batch
	none.Correct(&was, &was)
	if len(none.Rows) != 0 || none.Increments() != 0 {
		t.Errorf("a correction that changes nothing has rows %v", none.Rows)
	}
}

// TestBatchFull fills batches with the records that raise most.
func TestBatchFull(t *testing.T) {
	var b usage.Batch
	for i := 0; !b.Full(usage.MaxIncrements); i++ {
		was := record(fmt.Sprint("client", i), fmt.Sprint("model", i), noon)
		was.Group, was.Upstream, was.Key = fmt.Sprint(i), fmt.Sprint(i), fmt.Sprint(i)
		now := usage.Record{
			Outcome: usage.Cut, Source: usage.Upstream, Partial: true,
			Tokens: usage.Tokens{
				Input: 9, CacheRead: 9, CacheWrite: 9, CacheWrite1h: 9, Output: 9, Reasoning: 9, ToolPrompt: 9,
				InAudio: 9, InImage: 9, OutAudio: 9, OutImage: 9, AudioMillis: 9, Images: 9,
			},
			CostNanos: 9, Priced: true, Duration: time.Minute, FirstByte: time.Second,
		}
		before := b.Increments()
		b.Correct(&was, &now)
		was.Source = usage.Unknown
		if b.Increments() > usage.MaxIncrements {
			t.Fatalf("%d increments after one that added %d to a batch that was not full", b.Increments(), b.Increments()-before)
		}
	}
	if n := b.Increments(); n < usage.MaxIncrements/2 {
		t.Errorf("full with %d increments", n)
	}
}

// TestBatchFullOfRepeats adds attempts until a batch is full that has so many rows
// of attempts to choose from.
func TestBatchFullOfRepeats(t *testing.T) {
	for _, c := range []struct {
		rows int
		most int // increments
	}{
		{50, 0}, // never full
		{500, 3 * usage.MaxIncrements},
		{1 << 20, usage.MaxIncrements},
	} {
		var b usage.Batch
		random := rand.New(rand.NewPCG(1, 2))
		for n := 0; !b.Full(usage.MaxIncrements) && n < 10_000; n++ {
			r := record(fmt.Sprint("client", random.IntN(c.rows)), "m", noon)
			b.Add(&r)
			// That an attempt is corrected makes it no more like others.
			now := r
			now.Tokens.Input++
			b.Correct(&r, &now)
		}
		if full := b.Full(usage.MaxIncrements); full != (c.most > 0) || full && (b.Increments() > c.most || b.Increments() < c.most*3/4) {
			t.Errorf("%d rows: full %v with %d increments, want up to %d", c.rows, full, b.Increments(), c.most)
		}
	}
}

func TestBatchBounds(t *testing.T) {
	r := record(strings.Repeat("é", usage.MaxName), "m", time.Date(99999, 1, 1, 0, 0, 0, 0, time.UTC))
	var b usage.Batch
	b.Add(&r)
	r.Time = time.Time{}
	b.Add(&r)
	for _, row := range b.Rows {
		if n := len(row.Key[usage.Client]); n > usage.MaxName || n%2 != 0 {
			t.Errorf("a name of %d bytes, want whole characters within %d", n, usage.MaxName)
		}
		if y := row.Bucket.Year(); y != 9999 && y != 1970 {
			t.Errorf("a bucket in the year %d", y)
		}
	}
}

func BenchmarkBatchAdd(b *testing.B) {
	records := make([]usage.Record, 1000)
	for i := range records {
		records[i] = record(fmt.Sprint("client", i%20), fmt.Sprint("model", i%5), noon)
	}
	b.ReportAllocs()
	for b.Loop() {
		var batch usage.Batch
		for i := range records {
			batch.Add(&records[i])
		}
	}
}

// BenchmarkBatch sums up attempts of many clients at a few keys, in batches as Redis
// takes them.
func BenchmarkBatch(b *testing.B) {
	for _, clients := range []int{32, 10_000} {
		b.Run(fmt.Sprintf("%d clients", clients), func(b *testing.B) {
			records := make([]usage.Record, 65_536)
			for i := range records {
				r := record(fmt.Sprintf("c%05d", rand.IntN(clients)), "m", noon)
				r.Key = fmt.Sprintf("k%d", rand.IntN(8))
				r.Tokens.CacheRead, r.Tokens.Reasoning, r.FirstByte = 3, 4, r.Duration
				records[i] = r
			}
			var batch usage.Batch
			increments := 0
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				batch.Add(&records[i%len(records)])
				if batch.Full(usage.MaxIncrements) {
					increments += batch.Increments()
					batch.Reset()
				}
			}
			b.ReportMetric(float64(increments+batch.Increments())/float64(b.N), "increments/op")
		})
	}
}
