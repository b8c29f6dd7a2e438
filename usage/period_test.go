package usage_test

import (
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/usage"
)

func TestParsePeriod(t *testing.T) {
	now := time.Date(2026, 3, 5, 1, 30, 0, 0, time.UTC)
	berlin := zone(t, "Europe/Berlin")
	losAngeles := zone(t, "America/Los_Angeles")
	for _, c := range []struct {
		text         string
		loc          *time.Location
		since, until string
	}{
		{"now", nil, "2026-03-05T01:30:00Z", "2026-03-05T01:30:00Z"},
		{"24h", nil, "2026-03-04T01:30:00Z", "2026-03-04T01:30:00Z"},
		{"1h30m", nil, "2026-03-05T00:00:00Z", "2026-03-05T00:00:00Z"},
		{"0d", nil, "2026-03-05T00:00:00Z", "2026-03-05T00:00:00Z"},
		{"7d", nil, "2026-02-26T00:00:00Z", "2026-02-26T00:00:00Z"},
		{"2w", nil, "2026-02-19T00:00:00Z", "2026-02-19T00:00:00Z"},
		{"1d", losAngeles, "2026-03-03T08:00:00Z", "2026-03-03T08:00:00Z"}, // it is still the 4th there
		{"2026-02-28", nil, "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"2026-03-29", berlin, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"}, // a day of 23 hours
		{"2026-12", nil, "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"2026-03-05T10:00:00+02:00", nil, "2026-03-05T08:00:00Z", "2026-03-05T08:00:00Z"},
	} {
		since, err := usage.ParseSince(c.text, now, c.loc)
		if got := since.UTC().Format(time.RFC3339); err != nil || got != c.since {
			t.Errorf("since %s: %s, %v; want %s", c.text, got, err, c.since)
		}
		until, err := usage.ParseUntil(c.text, now, c.loc)
		if got := until.UTC().Format(time.RFC3339); err != nil || got != c.until {
			t.Errorf("until %s: %s, %v; want %s", c.text, got, err, c.until)
		}
	}
	if at, err := usage.ParseSince("", now, nil); err != nil || !at.IsZero() {
		t.Errorf("nothing: %v, %v", at, err)
	}
	for _, bad := range []string{
		"yesterday", "7", "d", "-7d", "+7d", "-24h", "7 d", "1.5d", "9999999999d", "65535w", "9999999h", "2026-13-01", "2026-02-30", "2026",
		"23.11.2026", "2026-03-05T10:00:00", " now", strings.Repeat("9", 1e6) + "d",
	} {
		at, err := usage.ParseSince(bad, now, nil)
		if err == nil {
			t.Errorf("%.20q is read as %v", bad, at)
		} else if len(err.Error()) > 300 || !strings.Contains(err.Error(), "2026-03-05") {
			t.Errorf("%.20q: the error does not help: %v", bad, err)
		}
	}
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}
