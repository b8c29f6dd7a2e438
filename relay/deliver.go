package relay

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/usage"
)

// passing is how far an answer is on its way through.
type passing struct {
	whole bool  // the answer has come to its end
	total int64 // bytes that came
	known int64 // bytes that are to come in all; negative if nobody said
	json  bool  // it is to be JSON, and no event stream
	first byte  // of what came, but for blanks
	told  bool  // a translated answer was ended
	// length is how long the part of the answer is that is known when it is
	// committed.
	length int
}

// deliver passes an answer of success on. done is false if it failed before the
// point of no return.
func (c *call) deliver(res *http.Response) (o outcome, done bool) {
	kind := res.Header.Get("Content-Type")
	events := isType(kind, "text/event-stream")
	c.answer.Reset(c.op, events, c.asked)
	c.answered, c.unreadable, c.gathered = true, false, c.gathered[:0]
	if c.r.Ledger != nil && writes(c.op) {
		c.answer.Transcript.Room = &c.r.Estimates.texts
	}
	if c.way = nil; c.translated != nil {
		c.way = c.translated.Answer(events)
	}
	src := decoded(res)
	p := passing{known: res.ContentLength, json: isType(kind, "application/json")}
	d := c.down
	gathers := c.gathers()
	d.hold(res, gathers)
	flows := false // nothing can be healed any more
	n := 0         // bytes in the window
	for {
		if (flows || gathers) && !c.answer.Terminal {
			c.noteProgress(d.arm(c.idle()))
		}
		d.reading.Store(true)
		m, err := src.Read(d.window[n:])
		d.reading.Store(false)
		n += m
		c.rec.ResponseBytes += int64(m)
		full := n == len(d.window)
		var ready, rest []byte
		if events {
			ready, rest = c.lookEvents(&p, d.window[:n], err)
		} else {
			ready, err = d.window[:n], c.lookPlain(&p, d.window[:n], err)
		}
		if c.way != nil {
			ready = c.retell(&p, ready, full && len(rest) == 0)
			if c.unreadable && err == nil {
				err = errUnreadable
			}
		}
		if c.answer.Content && c.rec.FirstByte == 0 {
			c.firstByte()
		}
		if !flows {
			var lost bool
			if flows, lost = c.hold(&p, ready, err); lost {
				return c.lost(res), false
			}
		}
		if flows && c.pass(&p, ready, err) {
			return outcome{}, true
		}
		n = copy(d.window, rest)
		if n == len(d.window) || full && !events {
			d.widen(events, c.maxEvent())
		}
	}
}

// lookEvents watches events that came. ready is what is to be forwarded, rest
// what must stand in front of what comes next.
func (c *call) lookEvents(p *passing, window []byte, err error) (ready, rest []byte) {
	a := &c.answer
	full := len(window) == len(c.down.window) && len(window) >= c.maxEvent()
	ready, used := a.Split(window, full)
	rest = window[used:]
	if err == io.EOF && a.Rest(rest) {
		// It stands behind ready in the window, or beyond events that are hidden.
		ready, rest = append(ready, rest...), nil
	}
	p.whole = a.Terminal || err == io.EOF && (a.Finished || !a.HasEnd())
	return ready, rest
}

// lookPlain watches a piece of another answer. It returns io.EOF also where the
// length of the answer says that this was its end.
func (c *call) lookPlain(p *passing, piece []byte, err error) error {
	a := &c.answer
	a.Feed(piece)
	if p.first == 0 {
		if piece := bytes.TrimLeft(piece, " \t\r\n"); len(piece) > 0 {
			p.first = piece[0]
		}
	}
	if p.total += int64(len(piece)); p.total == p.known && err == nil {
		err = io.EOF
	}
	switch {
	case a.List:
		p.whole = a.Terminal || err == io.EOF && !a.Open()
	case err != io.EOF:
	case p.total == 0:
		// Nothing is no answer where a model was asked to make one.
		p.whole = c.rec.Status != http.StatusOK || !billed(c.req.Call.Op)
	case p.json && p.first == '{':
		p.whole = a.Finished // else it has no end, whatever the connection says
	default:
		p.whole = true
	}
	return err
}

// hold keeps an answer back whose content has not begun, and commits it once that
// has. flows says that it is on its way to the client, lost that it failed before.
func (c *call) hold(p *passing, ready []byte, err error) (flows, lost bool) {
	d, a := c.down, &c.answer
	d.mu.Lock()
	defer d.mu.Unlock()
	more := err == nil && len(d.held)+len(ready) <= maxHeld
	switch {
	case d.phase == gathering:
		lost = err != nil && !p.whole || a.Failed
		more = err == nil && !p.whole
	case a.Streams():
		lost = !a.Content && (a.Failed || err != nil && !p.whole)
		more = more && !a.Content && !p.whole
	default:
		// A JSON object is of no use before its end: as much as fits is gathered,
		// so that it leaves in one piece and can still be healed.
		lost = err != nil && (!p.whole || a.Failed)
		more = more && p.json && p.first != '['
	}
	lost = lost || c.unreadable
	switch {
	case d.phase == flowing: // the timer was first
		return true, false
	case lost:
		d.phase = over
		return false, true
	case more:
		d.held = append(d.held, ready...)
		return false, false
	}
	p.length = len(d.held) + len(ready)
	c.commit(p)
	return true, false
}

// commit sends the header. From here on nothing can be healed. The lock is held.
func (c *call) commit(p *passing) {
	d := c.down
	res := d.res
	d.phase, d.res = flowing, nil
	h := c.w.Header()
	c.copyIDs(res.Header)
	if c.way != nil {
		c.commitTranslated(p)
		return
	}
	c.copyHeader(res.Header)
	if enc := res.Header["Content-Encoding"]; len(enc) > 0 {
		h["Content-Encoding"] = enc
	}
	switch length := res.Header["Content-Length"]; {
	case c.answer.EventStream():
		h["X-Accel-Buffering"] = noBuffer
	case res.ContentLength < 0:
	case len(length) == 1:
		h["Content-Length"] = length
	default:
		h["Content-Length"] = []string{strconv.FormatInt(res.ContentLength, 10)}
	}
	c.trace.Status = res.StatusCode
	c.w.WriteHeader(res.StatusCode)
}

// forward sends p to the client, after whatever was held back.
func (c *call) forward(p []byte, flush bool) {
	d := c.down
	if len(d.held) > 0 {
		d.held = append(d.held, p...)
		p, d.held = d.held, d.held[:0]
	}
	if d.err == nil && len(p) > 0 {
		_, d.err = c.w.Write(p)
	}
	if d.err == nil && flush {
		if d.flush == nil {
			d.flush = http.NewResponseController(c.w)
		}
		if d.err = d.flush.Flush(); errors.Is(d.err, http.ErrNotSupported) {
			d.err = nil
		}
	}
}

// pass forwards a piece of an answer that flows, and says whether it was the
// last. The attempt is settled before the client can see the answer's end.
func (c *call) pass(p *passing, ready []byte, err error) (ended bool) {
	a := &c.answer
	if a.Content && a.Streams() && !a.Failed && !c.proved {
		// Others may be waiting to know that the key serves again.
		c.proved = true
		c.lease.Report(keypool.Verdict{Class: keypool.Served})
	}
	if p.whole && c.open {
		c.served()
	}
	if len(ready) > 0 || len(c.down.held) > 0 {
		// After a polite end the server flushes by itself.
		c.forward(ready, err == nil || !p.whole || a.Failed)
	}
	if c.way != nil && a.Failed && !p.told {
		c.failTranslated(p)
	}
	switch {
	case c.down.err != nil:
		c.left()
	case p.whole && a.Failed && (!a.Finished || c.way != nil):
		panic(http.ErrAbortHandler) // an error event is no polite end
	case err == nil:
		if a.Terminal {
			c.linger()
		}
		return false
	case p.whole:
	case c.in.Context().Err() != nil:
		c.left()
	default:
		c.cut()
	}
	return true
}

// linger gives the upstream a while to end a stream behind its last event.
func (c *call) linger() {
	if !c.lingers {
		c.lingers = true
		c.down.arm(lingering)
	}
}

// served books an answer that came to its end, or to its error event.
func (c *call) served() {
	if c.answer.Failed {
		o := c.problemOutcome()
		c.report(&o)
		c.rec.Outcome = usage.Cut
	} else {
		c.lease.Report(keypool.Verdict{Class: keypool.Served})
		c.rec.Outcome = usage.Served
		c.rec.Model = c.r.bookedAs(c.target.up, c.target.model, true)
		c.remember()
	}
	c.count()
	c.settle(true)
}

// cut ends an answer that broke off: with an error event, and with a broken
// connection, because many readers look for neither errors nor ends.
func (c *call) cut() {
	reason := "the upstream broke off in the middle of the answer"
	switch {
	case c.silent():
		reason = "the upstream fell silent in the middle of the answer"
	case c.unreadable:
		reason = "the upstream's answer cannot be understood"
	}
	c.report(&outcome{class: keypool.Failed, reason: reason})
	c.rec.Outcome = usage.Cut
	c.count()
	c.settle(true)
	e := &dialect.Error{Fault: dialect.BadUpstream, Message: reason, Request: c.trace.Request}
	switch {
	case c.way != nil:
		c.way.Fail(e)
		c.forward(c.way.Take(), true)
	case c.answer.EventStream():
		event := e.Event(c.req.Call.Op, c.answer.Events)
		if c.answer.Unfinished() {
			event = append([]byte("\n\n"), event...)
		}
		c.forward(event, true)
	default:
		if end := c.answer.EndList(e); end != nil {
			c.forward(end, true)
		}
	}
	panic(http.ErrAbortHandler)
}

// left ends an answer whose client has gone, or which the server gives up.
func (c *call) left() {
	if c.open {
		c.rec.Outcome = usage.Left
		c.count()
		if c.answer.Content {
			c.remember() // a response that is kept can be asked for again
		}
		c.settle(true)
	}
	panic(http.ErrAbortHandler)
}

// report says of the key what a committed answer came to. If it was reported to
// serve that stands: what fails behind the first content is held against nobody.
func (c *call) report(o *outcome) {
	c.logFailed(o.class, o.reason, o.until)
	c.lease.Report(c.verdict(o))
}

// lost is the outcome of an answer that failed before the point of no return.
func (c *call) lost(res *http.Response) (o outcome) {
	a := &c.answer
	switch {
	case c.in.Context().Err() != nil:
		o = outcome{gone: true}
		c.rec.Outcome = usage.Left
	case a.Failed:
		o = c.problemOutcome()
		c.rec.Outcome = usage.Refused
		c.keep(c.refusalOf(problemStatus(&a.Problem), res.Header, nil, &a.Problem, &o))
	case c.unreadable:
		o = outcome{class: keypool.Failed, next: otherKey, reason: "unreadable answer"}
		c.rec.Outcome = usage.Cut
		c.keep(refusal{header: res.Header, rank: noAnswer, err: &dialect.Error{
			Fault:   dialect.BadUpstream,
			Message: "the upstream's answer cannot be understood",
		}})
	default:
		o = outcome{class: keypool.Failed, next: otherKey, reason: "cut before content"}
		c.rec.Outcome = usage.Cut
		c.keep(refusal{header: res.Header, rank: noAnswer, err: &dialect.Error{
			Fault:   dialect.BadUpstream,
			Message: "the upstream broke off before it had answered anything",
		}})
	}
	c.count()
	return o
}

// remember notes where the response and the conversation live, in the table and in
// the record, from which the table is made again after a restart.
func (c *call) remember() {
	now := c.r.Now()
	at := home{c.target.up.Name, c.lease.ID()}
	var keys [2]affinityKey
	known := keys[:0]
	switch {
	case c.op == dialect.CreateResponse && c.way == nil && c.answer.ID != "":
		known = append(known, responseKey(c.client.Name, c.answer.ID))
	case c.req.Call.Op == dialect.StoredResponse && c.in.Method == http.MethodDelete:
		at.key = gone
		known = append(known, responseKey(c.client.Name, c.req.Call.ID))
	}
	// A client of another dialect does not say beforehand that it will bring sealed
	// reasoning back.
	if c.hash != 0 || c.way != nil && c.named() {
		known = append(known, c.bound)
	}
	for _, k := range known {
		c.r.Affinity.put(k, at, now)
	}
	if len(known) > 0 {
		c.rec.Affinity = note(at, known...)
	}
}

// firstByte takes the time of the first content.
func (c *call) firstByte() {
	now := c.r.Now()
	c.rec.FirstByte = max(now.Sub(c.rec.Start), 1)
	c.trace.FirstByte = now.Sub(c.start)
}

// isType says whether a Content-Type is of that media type.
func isType(header, media string) bool {
	if len(header) < len(media) || !strings.EqualFold(header[:len(media)], media) {
		return false
	}
	rest := strings.TrimLeft(header[len(media):], " \t")
	return rest == "" || rest[0] == ';'
}
