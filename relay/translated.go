package relay

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/dialect/translate"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

// Bounds of what is held of an answer that is translated: one event of it, and one
// that is no stream.
const (
	maxTranslatedEvent  = 16 << 20
	maxTranslatedAnswer = 64 << 20
)

// translate makes the body for a target that does not speak the client's dialect,
// in the first of the target's that can express the request.
func (c *call) translate(askUsage bool) error {
	t := c.target
	if c.conv == nil {
		conv, err := translate.Read(&c.req)
		if err != nil {
			return err
		}
		conv.Array = c.req.Call.Op == dialect.StreamContent && !strings.Contains(c.in.URL.RawQuery, "alt=sse")
		c.conv = conv
	}
	c.asked, c.model = askUsage, t.sent
	o := translate.Options{
		Upstream: t.up.Name, Model: t.sent, MaxTokens: t.up.DefaultMaxTokens,
		NoStreamOptions: !askUsage, NoState: c.stripped, Now: c.start,
	}
	if up, ok := t.up.Provider.(provider.Peculiar); ok {
		q := up.Quirks(t.sent)
		o.MaxTokensName, o.ReasoningName, o.Omit = q.MaxTokensName, q.ReasoningName, q.Omit
	}
	var first error
	for _, d := range t.via {
		made, err := c.conv.Write(d, &o)
		if err == nil {
			c.op, c.translated = made.Op, made
			c.setBody(made.Body, nil)
			tailor, _ := t.up.Provider.(provider.Tailor)
			c.fit(tailor)
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// nativeRequest is the request for an upstream that speaks the client's dialect: as
// it came, or without what upstreams of other dialects had sealed into it.
func (c *call) nativeRequest() *dialect.Request {
	// Only a request that goes back to where it was can hold any, or one of a dialect
	// that has no better place for it than the ids of calls.
	if c.native == nil && (c.req.Bound || c.r.bridged && c.req.Call.Op == dialect.ChatCompletions) {
		if body, changed := translate.Native(&c.req, c.r.mixed); changed {
			r := &dialect.Request{Call: c.req.Call, Body: body, ContentType: c.req.ContentType}
			if r.Read() == nil {
				c.native = r
			}
		}
	}
	if c.native != nil {
		return c.native
	}
	return &c.req
}

// inexpressible ends an attempt that was never sent, because the target's dialects
// cannot express what is asked for. Another target may.
func (c *call) inexpressible(err error) outcome {
	c.keep(refusal{err: malformed(err), rank: noSuch})
	return outcome{class: keypool.Neutral, next: otherTarget, free: true, unfit: true, reason: "the request cannot be translated"}
}

// translatedCall is what the upstream is asked for, and the query that goes with
// it: the client's belongs to the client's dialect.
func (c *call) translatedCall() (*dialect.Call, string) {
	query := ""
	if c.op == dialect.StreamContent {
		query = "alt=sse"
	}
	return &dialect.Call{Op: c.op, Dialect: c.op.Dialect(), Verdict: dialect.Found, Model: c.target.sent}, query
}

// gathers says that an answer is of use only as a whole: the client asked for no
// stream, or the upstream gave none.
func (c *call) gathers() bool {
	return c.way != nil && !(c.req.Stream && c.answer.EventStream())
}

// maxEvent is the greatest event that is held until it is whole.
func (c *call) maxEvent() int {
	if c.way != nil {
		return maxTranslatedEvent
	}
	return dialect.MaxEvent
}

var errUnreadable = errors.New("the answer cannot be translated")

// retell turns a piece of the upstream's answer into what the client gets of it.
// cut says that the piece ends in an event that is longer than can be held.
func (c *call) retell(p *passing, piece []byte, cut bool) []byte {
	w, a := c.way, &c.answer
	switch {
	case p.told:
		return nil
	case cut && len(piece) >= maxTranslatedEvent:
		c.unreadable = true
	case a.EventStream():
		w.Events(piece)
	case len(c.gathered)+len(piece) > maxTranslatedAnswer:
		c.unreadable = true
	default:
		c.gathered = append(c.gathered, piece...)
	}
	switch {
	case a.Failed:
		return w.Take() // what becomes of the error depends on whether anybody has heard of this answer
	case p.whole:
		p.told = true
		if !a.EventStream() {
			w.Whole(c.gathered)
		}
		w.End(c.told())
	}
	if w.Problem != nil || c.unreadable {
		c.unreadable, p.whole = true, false
	}
	return w.Take()
}

// failTranslated tells a client whose answer flows of an error in the upstream's.
func (c *call) failTranslated(p *passing) {
	p.told = true
	e := foreign(problemStatus(&c.answer.Problem), &c.answer.Problem)
	e.Request = c.trace.Request
	c.way.Fail(e)
	c.forward(c.way.Take(), true)
}

// told is what the client is told of the tokens that the answer used.
func (c *call) told() *usage.Tokens {
	t := c.answer.Tokens()
	if !c.answer.Reported {
		t = usage.Tokens{Input: c.req.EstimateInput(), Output: c.answer.EstimateOutput()}
	}
	return &t
}

// commitTranslated sends the header of an answer that is not the upstream's own.
// p is nil if the answer has not come to its end.
func (c *call) commitTranslated(p *passing) {
	h := c.w.Header()
	h["Cache-Control"] = noStore
	h["Content-Type"] = []string{c.way.ContentType()}
	if dropped := c.translated.Dropped; len(dropped) > 0 {
		h["X-Floway-Dropped"] = []string{fieldNames(dropped)}
	}
	switch {
	case c.req.Stream:
		h["X-Accel-Buffering"] = noBuffer
	case p != nil && p.whole:
		h["Content-Length"] = []string{strconv.Itoa(p.length)}
	}
	c.trace.Status = http.StatusOK
	c.w.WriteHeader(http.StatusOK)
}

// fieldNames spells the names of a client's fields for a header: what may not
// stand there, or would look like two names, becomes a question mark.
func fieldNames(names []string) string {
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		for _, r := range name {
			if r <= ' ' || r > '~' || r == ',' {
				r = '?'
			}
			b.WriteRune(r)
		}
		if b.Len() > 4<<10 {
			break
		}
	}
	return b.String()
}
