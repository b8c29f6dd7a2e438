package usage_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/floway/floway/usage"
)

func TestCountsEncoding(t *testing.T) {
	var all usage.Counts
	for f := range all {
		all[f] = int64(f*f) - 100
	}
	for _, c := range []usage.Counts{{}, all, {usage.CostNanos: math.MaxInt64, usage.OutputTokens: math.MinInt64}} {
		b := c.Append(nil)
		got, rest, err := usage.ParseCounts(b)
		if err != nil || len(rest) != 0 || got != c {
			t.Errorf("%v comes back as %v, %v, %v", c, got, rest, err)
		}
	}

	// What a later version adds survives a change by this one.
	b := all.Append(nil)
	later := binary.AppendVarint(binary.AppendUvarint(nil, 300), 7)
	later = binary.AppendVarint(binary.AppendUvarint(later, 301), -8)
	got, rest, err := usage.ParseCounts(append(b, later...))
	if err != nil || got != all || !slices.Equal(rest, later) {
		t.Errorf("with fields of a later version: %v, %v, %v", got, rest, err)
	}

	for _, bad := range [][]byte{{0x80}, {1}, {1, 0x80}, {2, 2, 1, 2}, {1, 2, 1, 2}, []byte("not one of ours")} {
		if _, _, err := usage.ParseCounts(bad); err == nil {
			t.Errorf("%x is taken for counts", bad)
		}
	}
}

func FuzzParseCounts(f *testing.F) {
	c := usage.Counts{usage.Attempts: 1, usage.CostNanos: -5}
	f.Add(c.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, rest, err := usage.ParseCounts(b)
		if err != nil {
			return
		}
		again, restAgain, err := usage.ParseCounts(append(c.Append(nil), rest...))
		if err != nil || again != c || !slices.Equal(rest, restAgain) {
			t.Errorf("%x: %v and %x become %v and %x, %v", b, c, rest, again, restAgain, err)
		}
	})
}

// TestFieldNames holds the numbers and names of the fields, which are in files,
// in Redis and in programs of others: they may be added to and never change.
func TestFieldNames(t *testing.T) {
	names := []string{
		"attempts", "requests", "errors", "input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens",
		"output_tokens", "reasoning_tokens", "tool_prompt_tokens", "in_audio_tokens", "in_image_tokens", "out_audio_tokens",
		"out_image_tokens", "audio_ms", "images", "cost_nanos", "unpriced_attempts", "estimated_attempts", "unknown_attempts",
		"unknown_input_tokens", "unknown_output_tokens", "unknown_cost_nanos", "duration_ms", "first_byte_ms", "first_byte_count",
		"duration_hist_0",
	}
	for f, want := range names {
		if got := usage.Field(f).String(); got != want {
			t.Errorf("field %d is called %q, want %q", f, got, want)
		}
	}
	if got := usage.Field(usage.Fields - 1).String(); got != "first_byte_hist_19" || usage.Fields != 66 {
		t.Errorf("field %d is called %q", usage.Fields-1, got)
	}
	if got := usage.Field(200).String(); got != "field_200" {
		t.Errorf("a field of a later version is called %q", got)
	}
}

func TestCountsAdd(t *testing.T) {
	c := usage.Counts{usage.Attempts: math.MaxInt64 - 1, usage.Errors: math.MinInt64 + 1, usage.Requests: 3}
	c.Add(&usage.Counts{usage.Attempts: 2, usage.Errors: -2, usage.Requests: -4})
	if want := (usage.Counts{usage.Attempts: math.MaxInt64, usage.Errors: math.MinInt64, usage.Requests: -1}); c != want {
		t.Errorf("%s", differ(c, want))
	}
}

func TestPercentile(t *testing.T) {
	var c usage.Counts
	if _, ok := c.Percentile(usage.DurationHist, 0.5); ok {
		t.Error("there is a percentile of nothing")
	}
	// A hundred attempts, one each 10 ms, up to a second.
	for i := range 100 {
		r := usage.Record{Outcome: usage.Served, Duration: time.Duration(i+1) * 10 * time.Millisecond}
		one := r.Counts()
		c.Add(&one)
	}
	for p, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.95: 950 * time.Millisecond, 1: time.Second, 0: 8 * time.Millisecond} {
		got, ok := c.Percentile(usage.DurationHist, p)
		if !ok || got < want*9/10 || got > want*11/10 {
			t.Errorf("percentile %v is %v, want about %v", p, got, want)
		}
	}
	c = usage.Counts{usage.FirstByteHist + usage.HistBuckets - 1: 1}
	if got, ok := c.Percentile(usage.FirstByteHist, 0.5); !ok || got < 262144*time.Millisecond {
		t.Errorf("the percentile of one very long time is %v", got)
	}
	if _, ok := c.Percentile(usage.Attempts, 0.5); ok {
		t.Error("attempts have a percentile")
	}
}

func TestDollars(t *testing.T) {
	for nanos, want := range map[int64]string{
		0: "0", 1: "0.000000001", 1e9: "1", 1_230_000_000: "1.23", 100e9: "100", -1: "-0.000000001", -2_500_000_000: "-2.5",
		math.MaxInt64: "9223372036.854775807", math.MinInt64: "-9223372036.854775808",
	} {
		if got := usage.Dollars(nanos); got != want {
			t.Errorf("%d nano-dollars are written %s, want %s", nanos, got, want)
		}
	}
}

func TestCountsJSON(t *testing.T) {
	// A value in a struct must not fall back to a list of numbers.
	b, err := json.Marshal(struct{ C usage.Counts }{usage.Counts{usage.Attempts: 3, usage.InputTokens: 5, usage.OutputTokens: 7, usage.UnpricedAttempts: 3}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ C map[string]json.Number }
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	if got.C["attempts"] != "3" || got.C["total_tokens"] != "12" || got.C["errors"] != "0" {
		t.Errorf("%s", b)
	}
	for _, absent := range []string{"cost_nanos", "cost_usd", "duration_ms_p50", "first_byte_ms_p95"} {
		if v, ok := got.C[absent]; ok {
			t.Errorf("%s is %s where nobody knows it", absent, v)
		}
	}
}
