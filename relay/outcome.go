package relay

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
)

// outcome is what an attempt that was not committed means: who is to blame and
// what comes next.
type outcome struct {
	class  keypool.Class
	until  time.Time // the wait that the upstream named
	model  string    // the limit is for this model only
	reason string
	next   next
	// free: the next attempt does not count as a retry.
	free bool
	// lastTry: one more attempt and no further.
	lastTry bool
	// gone: the client has left; nothing is to blame.
	gone bool
	// yields: the answer gives way to any other when all has failed.
	yields bool
}

// next is what follows an attempt that failed.
type next uint8

const (
	finish       next = iota // the client gets the answer as it is
	otherKey                 // another key of the upstream, then another target
	otherTarget              // another target, the same upstream only if there is none
	withoutUsage             // the same key, without stream_options
	withoutReasoning
	renewed // the same key, with a fresh token
)

// errSilent is why an attempt is given up that the upstream let wait too long.
var errSilent = errors.New("the upstream is silent")

// transportOutcome is that of an attempt which got no answer.
func (c *call) transportOutcome(err error) outcome {
	if c.in.Context().Err() != nil {
		return outcome{gone: true, reason: "the client left"}
	}
	o := outcome{class: keypool.Unreachable, next: otherTarget, reason: describe(err)}
	if c.silent() {
		o.reason, o.lastTry = "no answer within first_byte_timeout", true
		if c.headed {
			o.reason = "no content within idle_timeout"
		}
	}
	return o
}

// silent says that the watchdog ended the attempt.
func (c *call) silent() bool { return context.Cause(c.ctx) == errSilent }

// cutOutcome is that of an answer that broke off, or said in its stream that it
// failed, before any content.
func (c *call) cutOutcome(reason string) outcome {
	if c.in.Context().Err() != nil {
		return outcome{gone: true, reason: "the client left"}
	}
	return outcome{class: keypool.Failed, next: otherKey, reason: reason}
}

// answerOutcome is that of an answer with a status that is no success.
func (c *call) answerOutcome(status int, h http.Header, p *dialect.Problem) outcome {
	meaning := c.target.up.Provider.Meaning(status, p)
	o := outcome{reason: strconv.Itoa(status)}
	if p.Code != "" {
		o.reason += " " + clip(p.Code, 64)
	}
	switch {
	case meaning == provider.UnknownField && c.asked:
		o.class, o.next, o.free = keypool.Neutral, withoutUsage, true
	case meaning == provider.ForeignReasoning && !c.stripped && c.req.Call.Op == dialect.CreateResponse:
		o.class, o.next, o.free = keypool.Neutral, withoutReasoning, true
	case status == http.StatusUnauthorized || meaning == provider.BadCredential:
		o.class, o.next, o.free = keypool.Invalid, otherKey, true
		if !c.renewed && c.credential.Renew() {
			o.class, o.next = keypool.Neutral, renewed
		}
	case status == http.StatusPaymentRequired || meaning == provider.QuotaSpent:
		o.class, o.next, o.free = keypool.Exhausted, otherKey, true
		o.until, _ = waitNamed(h, p, c.r.Now())
	case status == http.StatusTooManyRequests:
		o.class, o.next, o.free = keypool.Limited, otherKey, true
		o.until, _ = waitNamed(h, p, c.r.Now())
		if meaning != provider.AccountLimit {
			o.model = c.target.sent
		}
	case meaning == provider.NoModel:
		o.class, o.model, o.next, o.yields = keypool.ModelOff, c.target.sent, otherTarget, true
	case meaning == provider.Moderated:
		o.class = keypool.Neutral
	case status >= 300 && status < 400, retryable[status]:
		o.class, o.next = keypool.Failed, otherKey
	default:
		o.class = keypool.Neutral
	}
	return o
}

// retryable are the statuses that say that the upstream failed and another key
// may fare better. 529 is Anthropic's way to say that it is overloaded.
var retryable = map[int]bool{408: true, 500: true, 502: true, 503: true, 504: true, 529: true}

// maxNamedWait bounds a wait that an upstream names.
const maxNamedWait = 24 * time.Hour

// waitNamed finds the wait that a refusal names, in any of the forms that the
// services use; false if it names none that lies ahead.
func waitNamed(h http.Header, p *dialect.Problem, now time.Time) (time.Time, bool) {
	after := func(d time.Duration) (time.Time, bool) {
		if d <= 0 {
			return time.Time{}, false
		}
		return now.Add(min(d, maxNamedWait)), true
	}
	for _, name := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if f, err := strconv.ParseFloat(strings.TrimSpace(h.Get(name)), 64); err == nil {
			if t, ok := after(asDuration(f / 1000)); ok {
				return t, true
			}
		}
	}
	if v := strings.TrimSpace(h.Get("Retry-After")); v != "" {
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			if t, ok := after(asDuration(f)); ok {
				return t, true
			}
		} else if t, err := http.ParseTime(v); err == nil {
			if t, ok := after(t.Sub(now)); ok {
				return t, true
			}
		}
	}
	if d, ok := dialect.RetryDelay(p); ok {
		if t, ok := after(d); ok {
			return t, true
		}
	}
	if d, ok := limitReset(h, now); ok {
		if t, ok := after(d); ok {
			return t, true
		}
	}
	if d, ok := dialect.RetryText(p.Message); ok {
		return after(d)
	}
	return time.Time{}, false
}

// asDuration turns seconds into a duration without overflowing.
func asDuration(seconds float64) time.Duration {
	if !(seconds > 0) { // NaN too
		return 0
	}
	return time.Duration(min(seconds, 2*maxNamedWait.Seconds()) * float64(time.Second))
}

// limitReset reads the headers that say when a limit is over, of those limits
// that have nothing left: OpenAI's durations, Anthropic's times, and the seconds
// or epochs of others. The longest of them counts.
func limitReset(h http.Header, now time.Time) (time.Duration, bool) {
	longest, found := time.Duration(0), false
	for name, values := range h {
		lower := strings.ToLower(name)
		var reset string
		switch {
		case strings.HasPrefix(lower, "x-ratelimit-remaining-"):
			reset = "X-Ratelimit-Reset-" + name[len("x-ratelimit-remaining-"):]
		case strings.HasPrefix(lower, "anthropic-ratelimit-") && strings.HasSuffix(lower, "-remaining"):
			reset = name[:len(name)-len("remaining")] + "reset"
		case lower == "x-ratelimit-remaining":
			reset = "X-Ratelimit-Reset"
		default:
			continue
		}
		if len(values) == 0 || strings.TrimSpace(values[0]) != "0" {
			continue
		}
		if d, ok := resetIn(strings.TrimSpace(h.Get(reset)), now); ok && d > longest {
			longest, found = d, true
		}
	}
	return longest, found
}

func resetIn(v string, now time.Time) (time.Duration, bool) {
	if v == "" {
		return 0, false
	}
	if d, err := time.ParseDuration(v); err == nil {
		return d, true
	}
	if t, err := time.Parse(time.RFC3339, v); err == nil {
		return t.Sub(now), true
	}
	f, err := strconv.ParseFloat(v, 64)
	switch {
	case err != nil:
		return 0, false
	case f > 1e12: // milliseconds since 1970
		return time.UnixMilli(int64(min(f, 1e15))).Sub(now), true
	case f > 1e9: // seconds since 1970
		return time.Unix(int64(f), 0).Sub(now), true
	}
	return asDuration(f), true
}

// describe says in a few words what went wrong with a connection, without
// addresses or anything that was sent.
func describe(err error) string {
	text := err.Error()
	for _, known := range [...]string{
		"connection refused", "connection reset", "no such host", "network is unreachable",
		"no route to host", "certificate", "handshake", "timeout", "EOF", "broken pipe", "malformed",
	} {
		if strings.Contains(text, known) {
			return known
		}
	}
	return "no answer"
}

func clip(s string, most int) string {
	if len(s) > most {
		return s[:most]
	}
	return s
}
