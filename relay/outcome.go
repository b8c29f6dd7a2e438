package relay

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
)

// outcome is what an attempt that failed means: who is to blame and what comes
// next.
type outcome struct {
	class  keypool.Class
	until  time.Time // the end of the wait that the upstream named
	model  string    // the limit is for this model only
	reason string
	next   next
	// free: the next attempt does not count as a retry.
	free bool
	// lastTry: one more attempt and no further.
	lastTry bool
	// unfit: the target cannot be asked for this at all.
	unfit bool
	// gone: the client has left; nobody is to blame and nothing comes next.
	gone bool
}

// next is what follows an attempt that failed.
type next uint8

const (
	finish       next = iota // the client gets the answer as it is
	otherKey                 // another key of the upstream, then another target
	otherTarget              // another target, the same upstream only if there is none
	withoutUsage             // the same key, without stream_options
	withoutReasoning
	withFreshToken
)

// errSilent is why an attempt is given up that the upstream let wait too long.
var errSilent = errors.New("the upstream is silent")

// silent says that the watchdog ended the attempt.
func (c *call) silent() bool { return context.Cause(c.ctx) == errSilent }

// transportOutcome is that of an attempt which got no answer.
func (c *call) transportOutcome(err error) outcome {
	if c.in.Context().Err() != nil {
		return outcome{gone: true}
	}
	var credential *provider.CredentialError
	if errors.As(err, &credential) && !c.silent() {
		return credentialOutcome(credential)
	}
	o := outcome{class: keypool.Unreachable, next: otherTarget, reason: describe(err)}
	if c.silent() {
		o.reason, o.lastTry = "no answer within first_byte_timeout", true
	}
	return o
}

// credentialOutcome is that of an attempt which could not be authenticated, so that
// nothing was sent: another key has another account.
func credentialOutcome(e *provider.CredentialError) outcome {
	o := outcome{class: keypool.Failed, next: otherKey, until: e.Until, reason: e.Reason}
	switch e.Meaning {
	case provider.BadCredential:
		o.class, o.free = keypool.Invalid, true
	case provider.QuotaSpent:
		o.class, o.free = keypool.Exhausted, true
	case provider.AccountLimit:
		o.class, o.free = keypool.Limited, true
	}
	return o
}

// withoutCredential tells the client that the gateway could not authenticate a
// request. Which account it is, is the operator's to know.
func withoutCredential(m provider.Meaning) *dialect.Error {
	switch m {
	case provider.BadCredential:
		return &dialect.Error{Fault: dialect.BadUpstream, Message: "the gateway has no valid credential for the upstream: its operator has to sign in there, or to renew the key"}
	case provider.QuotaSpent, provider.AccountLimit:
		return &dialect.Error{Fault: dialect.RateLimited, Message: "the gateway's account at the upstream is over a limit"}
	}
	return &dialect.Error{Fault: dialect.BadUpstream, Message: "the service that authenticates the gateway at the upstream cannot be reached"}
}

// problemOutcome is that of an error inside an answer of success.
func (c *call) problemOutcome() outcome {
	p := &c.answer.Problem
	status := problemStatus(p)
	if status == 0 {
		status = http.StatusInternalServerError
	}
	o := c.answerOutcome(status, nil, p)
	o.reason = "error event " + o.reason
	return o
}

// problemStatus returns the status that goes with an error inside an answer of
// success; 0 if it does not say.
func problemStatus(p *dialect.Problem) int {
	if n, err := strconv.Atoi(p.Code); err == nil && n >= 400 && n <= 599 {
		return n
	}
	for _, word := range [...]string{p.Type, p.Code} {
		if status := wordStatus[word]; status != 0 {
			return status
		}
	}
	return 0
}

// wordStatus are the statuses that the services send with these types and codes.
var wordStatus = map[string]int{
	"invalid_request_error": 400,
	"invalid_prompt":        400,
	"authentication_error":  401,
	"permission_error":      403,
	"not_found_error":       404,
	"request_too_large":     413,
	"rate_limit_error":      429,
	"rate_limit_exceeded":   429,
	"insufficient_quota":    429,
	"overloaded_error":      529,
	"timeout_error":         504,
}

// answerOutcome is that of an answer with a status that is no success.
func (c *call) answerOutcome(status int, h http.Header, p *dialect.Problem) outcome {
	meaning := c.target.up.Provider.Meaning(status, p)
	o := outcome{class: keypool.Neutral, reason: strconv.Itoa(status)}
	if p.Code != "" {
		o.reason += " " + clip(p.Code, 64)
	}
	switch {
	case meaning == provider.UnknownField && c.asked:
		o.next, o.free = withoutUsage, true
	case meaning == provider.ForeignReasoning && !c.stripped && c.op == dialect.CreateResponse:
		o.next, o.free = withoutReasoning, true
	case status == http.StatusUnauthorized || meaning == provider.BadCredential:
		o.class, o.next, o.free = keypool.Invalid, otherKey, true
		if !c.renewed && c.credential.Renew(c.sent) {
			o.class, o.next = keypool.Neutral, withFreshToken
		}
	case status == http.StatusPaymentRequired || meaning == provider.QuotaSpent:
		o.class, o.next, o.free = keypool.Exhausted, otherKey, true
		o.until = waitNamed(h, p, c.r.Now(), maxQuotaWait)
		if account, ok := c.credential.(provider.Account); ok {
			// It knows of months where a header speaks of seconds.
			reset, rest := account.Spent()
			if reset.After(o.until) {
				o.until = reset
			}
			if rest {
				o.model = c.target.sent
			}
		}
	case meaning == provider.RequestTooLarge:
		// The request's own fault: it must not take the keys away from others. Where
		// the limits are wider it can be served.
		o.next = otherTarget
	case status == http.StatusTooManyRequests:
		o.class, o.next, o.free = keypool.Limited, otherKey, true
		o.until = waitNamed(h, p, c.r.Now(), maxLimitWait)
		if meaning != provider.AccountLimit {
			o.model = c.target.sent
		}
	case meaning == provider.NoModel:
		o.class, o.model, o.next = keypool.ModelOff, c.target.sent, otherTarget
	case meaning == provider.Moderated:
	case failing(status), meaning == provider.Overloaded:
		o.class, o.next = keypool.Failed, otherKey
	}
	return o
}

// failing says whether a status tells that the upstream failed, so that another
// key may fare better; redirects are not followed. The rest of 4xx is the
// client's own fault, and what is not implemented (501) stays so.
func failing(status int) bool {
	switch {
	case status == http.StatusRequestTimeout:
		return true
	case status >= 400 && status <= 499, status == http.StatusNotImplemented:
		return false
	}
	return true
}

// The longest waits that are heeded of a rate limit and of a quota.
const (
	maxLimitWait = 24 * time.Hour
	maxQuotaWait = 31 * 24 * time.Hour
)

// waitNamed finds the end of the wait that a refusal names, in any of the forms
// that the services use; zero if it names none that lies ahead.
func waitNamed(h http.Header, p *dialect.Problem, now time.Time, most time.Duration) time.Time {
	var found time.Duration
	try := func(d time.Duration, ok bool) bool {
		if ok && d > 0 {
			found = min(d, most)
		}
		return found > 0
	}
	for _, name := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if ms, ok := readNumber(h.Get(name)); ok && try(asDuration(ms/1000), true) {
			return now.Add(found)
		}
	}
	if try(retryAfter(h.Get("Retry-After"), now)) ||
		try(dialect.RetryDelay(p)) ||
		try(limitReset(h, now)) ||
		try(dialect.RetryText(p.Message)) {
		return now.Add(found)
	}
	return time.Time{}
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(v string, now time.Time) (time.Duration, bool) {
	if f, ok := readNumber(v); ok {
		return asDuration(f), true
	}
	t, err := http.ParseTime(strings.TrimSpace(v))
	return t.Sub(now), err == nil
}

// readNumber reads a decimal number; false for words like NaN and Inf too.
func readNumber(v string) (float64, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// asDuration turns seconds into a duration without overflowing.
func asDuration(seconds float64) time.Duration {
	return time.Duration(min(max(seconds, 0), 2*maxQuotaWait.Seconds()) * float64(time.Second))
}

// limitReset reads the headers that say when a limit is over, of those limits
// that have nothing left: OpenAI's durations, Anthropic's times, and the seconds
// or epochs of others. The longest of them counts.
func limitReset(h http.Header, now time.Time) (longest time.Duration, found bool) {
	for name, values := range h {
		if len(values) == 0 || strings.TrimSpace(values[0]) != "0" {
			continue
		}
		var reset string
		if kind, ok := strings.CutPrefix(name, "X-Ratelimit-Remaining"); ok { // alone, or with -Requests, -Tokens …
			reset = "X-Ratelimit-Reset" + kind
		} else if kind, ok := strings.CutSuffix(name, "-Remaining"); ok && strings.HasPrefix(kind, "Anthropic-Ratelimit-") {
			reset = kind + "-Reset"
		} else {
			continue
		}
		if d, ok := resetIn(strings.TrimSpace(h.Get(reset)), now); ok && d > longest {
			longest, found = d, true
		}
	}
	return longest, found
}

func resetIn(v string, now time.Time) (time.Duration, bool) {
	if d, err := time.ParseDuration(v); err == nil {
		return d, true
	}
	if t, err := time.Parse(time.RFC3339, v); err == nil {
		return t.Sub(now), true
	}
	f, ok := readNumber(v)
	switch {
	case !ok:
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
