package usage

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseSince reads the beginning of a time that somebody asks for:
//
//	now                    the present
//	24h, 90m, 1h30m        so long ago
//	7d, 2w                 the start of the day so many days or weeks ago
//	2026-11-23             the start of this day
//	2026-11                the start of this month
//	2026-11-23T10:00:00Z   RFC 3339
//
// now is the present. Days are those of loc; nil means UTC. An empty text is the
// zero time, which Query takes for the beginning of the accounts.
func ParseSince(text string, now time.Time, loc *time.Location) (time.Time, error) {
	at, _, err := parsePeriod(text, now, loc)
	return at, err
}

// ParseUntil reads the end of a time that somebody asks for. It differs from
// ParseSince in that a day or month is meant to its end, that end not included:
// until 2026-11-23 takes this day in.
func ParseUntil(text string, now time.Time, loc *time.Location) (time.Time, error) {
	_, end, err := parsePeriod(text, now, loc)
	return end, err
}

// maxDays bounds spans, so that years keep four digits.
const maxDays = 100 * 365

// parsePeriod reads an instant, for which start and end are the same, or a day or
// month.
func parsePeriod(text string, now time.Time, loc *time.Location) (start, end time.Time, err error) {
	if loc == nil {
		loc = time.UTC
	}
	switch text {
	case "":
		return start, end, nil
	case "now":
		return now, now, nil
	}
	if days, ok := parseDays(text); ok {
		y, m, d := now.In(loc).Date()
		at := time.Date(y, m, d-days, 0, 0, 0, 0, loc)
		return at, at, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 && ago <= maxDays*24*time.Hour {
		return now.Add(-ago), now.Add(-ago), nil
	}
	if at, err := time.ParseInLocation(time.DateOnly, text, loc); err == nil {
		return at, at.AddDate(0, 0, 1), nil
	}
	if at, err := time.ParseInLocation("2006-01", text, loc); err == nil {
		return at, at.AddDate(0, 1, 0), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, at, nil
	}
	return start, end, fmt.Errorf("%.40q is no time: use now, a span such as 24h or 7d, a day such as %s, a month such as %s, or RFC 3339 such as %s",
		text, now.In(loc).Format(time.DateOnly), now.In(loc).Format("2006-01"), now.UTC().Format(time.RFC3339))
}

// parseDays reads 7d or 2w.
func parseDays(text string) (days int, ok bool) {
	unit := 1
	number, ok := strings.CutSuffix(text, "d")
	if !ok {
		number, ok = strings.CutSuffix(text, "w")
		unit = 7
	}
	n, err := strconv.ParseUint(number, 10, 16)
	days = int(n) * unit
	return days, ok && err == nil && days <= maxDays
}
