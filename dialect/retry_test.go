package dialect

import (
	"testing"
	"time"
)

func TestRetryDelay(t *testing.T) {
	for _, tt := range []struct {
		details string
		want    time.Duration
		ok      bool
	}{
		{`[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"x"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"22s"}]`, 22 * time.Second, true},
		{`[{"retryDelay":"1.5s"}]`, 1500 * time.Millisecond, true},
		{`[{"retryDelay":"0s"}]`, 0, true},
		{`[{"retryDelay":"soon"},{"retryDelay":"3s"}]`, 3 * time.Second, true},
		{`[{"retryDelay":7}]`, 0, false},
		{`[{"x":{"retryDelay":"7s"}}]`, 0, false},
		{`["retryDelay"]`, 0, false},
		{`{"retryDelay":"7s"}`, 0, false},
		{`null`, 0, false},
		{``, 0, false},
	} {
		if got, ok := RetryDelay(&Problem{Details: []byte(tt.details)}); got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %v, %v", tt.details, got, ok)
		}
	}
}

func TestRetryText(t *testing.T) {
	for _, tt := range []struct {
		message string
		want    time.Duration
		ok      bool
	}{
		{"Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000. Please try again in 1.2s. Visit https://x", 1200 * time.Millisecond, true},
		{"Please try again in 6m0s.", 6 * time.Minute, true},
		{"please TRY AGAIN IN 20ms", 20 * time.Millisecond, true},
		{"try again in 1h2m3.5s", time.Hour + 2*time.Minute + 3500*time.Millisecond, true},
		{"Please retry after 6 seconds.", 6 * time.Second, true},
		{"retry after 1 second", time.Second, true},
		{"Retry after 30", 30 * time.Second, true},
		{"retry after 5 minutes", 5 * time.Minute, true},
		{"retry in 2 hours", 2 * time.Hour, true},
		{"try again in 250 milliseconds", 250 * time.Millisecond, true},
		{"try again in 250 ms", 250 * time.Millisecond, true},
		{"Please retry in 44.37s.", 44370 * time.Millisecond, true},
		{"try again in 3 days", 72 * time.Hour, true},
		{"try again in 100000 days", 100_000 * 24 * time.Hour, true},
		{"try again later", 0, false},
		{"retry after -5 seconds", 0, false},
		{"retry after 99999999999999999999 seconds", 100_000 * time.Second, true},
		{"", 0, false},
	} {
		if got, ok := RetryText(tt.message); got.Round(time.Microsecond) != tt.want || ok != tt.ok {
			t.Errorf("%s: got %v, %v, want %v", tt.message, got, ok, tt.want)
		}
	}
}
