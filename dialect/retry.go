package dialect

import (
	"regexp"
	"strconv"
	"time"
)

// RetryDelay reads Google's RetryInfo among the details of a problem.
func RetryDelay(p *Problem) (time.Duration, bool) {
	var delay time.Duration
	var found bool
	if len(p.Details) == 0 || p.Details[0] != '[' {
		return 0, false
	}
	each(p.Details, func(el []byte) bool {
		var m members
		m.reset([]string{"retryDelay"}, nil, "", 0)
		m.feed(el)
		if s, ok := text(m.at(0).raw); ok {
			if d, err := time.ParseDuration(s); err == nil {
				delay, found = d, true
				return false
			}
		}
		return true
	})
	return delay, found
}

// retryWords are the sentences in which services name a wait: OpenAI's "try
// again in 1.2s" and "in 6m0s", Azure's "retry after 6 seconds".
var retryWords = regexp.MustCompile(`(?i)(?:try again in|retry after|retry in)\s+((?:\d+(?:\.\d+)?(?:ms|h|m|s))+|\d+(?:\.\d+)?)\s*(milliseconds?|seconds?|minutes?|hours?|days?|ms)?\b`)

// RetryText finds the wait that a message names.
func RetryText(message string) (time.Duration, bool) {
	m := retryWords.FindStringSubmatch(message)
	if m == nil {
		return 0, false
	}
	if d, err := time.ParseDuration(m[1]); err == nil {
		return d, true
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, false
	}
	f = min(f, 1e5) // days of it are still a duration
	unit := time.Second
	if len(m[2]) > 0 {
		switch m[2][0] | 0x20 {
		case 'm':
			unit = time.Millisecond
			if len(m[2]) > 2 && m[2][2]|0x20 == 'n' {
				unit = time.Minute
			}
		case 'h':
			unit = time.Hour
		case 'd':
			unit = 24 * time.Hour
		}
	}
	return time.Duration(f * float64(unit)), true
}
