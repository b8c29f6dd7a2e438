package relay

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/usage"
)

// maxHold is how long an answer without content is kept back after its header
// came: so long another key can still serve the request.
const maxHold = 200 * time.Millisecond

// downstream is the way to the client. Until it is committed, what is to be
// forwarded is held; the call's goroutine and the hold's timer may commit it.
type downstream struct {
	mu        sync.Mutex
	committed bool
	closed    bool // the timer comes too late
	timer     *time.Timer
	held      []byte
	flush     *http.ResponseController
	err       error // of writing to the client
	window    []byte
}

func (d *downstream) clear() {
	held, window := d.held, d.window
	if cap(held) > dialect.MaxEvent {
		held = nil
	}
	if cap(window) > smallWindow {
		window = nil // most calls need little
	}
	d.committed, d.closed, d.timer, d.flush, d.err = false, false, nil, nil, nil
	d.held, d.window = held[:0], window
}

// Sizes of the window through which answers pass: a small one for streams, of
// which thousands may be open, and room for one that has more to give.
const (
	smallWindow = 4 << 10
	plainWindow = 32 << 10
)

// deliver passes an answer of success on. done is false if it failed before the
// point of no return.
func (c *call) deliver(res *http.Response) (o outcome, done bool) {
	events := strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream")
	c.answer.Reset(c.req.Call.Op, events, c.asked && !c.req.AsksUsage)
	src := decoded(res)
	d := &c.down
	d.mu.Lock()
	d.committed, d.closed, d.held, d.err = false, false, d.held[:0], nil
	d.mu.Unlock()
	defer d.close()
	if events {
		return c.deliverEvents(res, src)
	}
	return c.deliverPlain(res, src)
}

// close keeps the timer from touching what is over.
func (d *downstream) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// holdUntil arms the timer that commits an answer which takes its time.
func (c *call) holdUntil(res *http.Response) {
	d := &c.down
	d.timer = time.AfterFunc(max(0, maxHold-c.r.Now().Sub(c.headerAt)), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closed || d.committed {
			return
		}
		c.commit(res)
		if len(d.held) > 0 {
			_, d.err = c.w.Write(d.held)
			d.held = d.held[:0]
		}
		if d.err == nil {
			d.err = d.flush.Flush()
		}
	})
}

// commit sends the header. From here on nothing can be healed. The lock is held.
func (c *call) commit(res *http.Response) {
	d := &c.down
	d.committed = true
	h := c.w.Header()
	c.copyHeader(res.Header)
	if enc := res.Header["Content-Encoding"]; len(enc) > 0 {
		h["Content-Encoding"] = enc
	}
	if c.answer.EventStream() {
		h["X-Accel-Buffering"] = noBuffer
	} else if res.ContentLength >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(res.ContentLength, 10)}
	}
	if d.flush == nil {
		d.flush = http.NewResponseController(c.w)
	}
	c.trace.Status = res.StatusCode
	c.w.WriteHeader(res.StatusCode)
}

// forward sends p to the client, after whatever was held. The lock is held.
func (c *call) forward(p []byte, flush bool) {
	d := &c.down
	if d.err != nil {
		return
	}
	if len(d.held) > 0 {
		d.held = append(d.held, p...)
		p = d.held
		d.held = d.held[:0]
	}
	if len(p) > 0 {
		if _, d.err = c.w.Write(p); d.err != nil {
			return
		}
		c.rec.ResponseBytes += int64(len(p))
	}
	if flush {
		d.err = d.flush.Flush()
	}
}

func (c *call) deliverEvents(res *http.Response, src io.Reader) (o outcome, done bool) {
	d, a := &c.down, &c.answer
	if d.window == nil {
		d.window = make([]byte, smallWindow)
	}
	c.holdUntil(res)
	idle := c.idle()
	n := 0 // bytes in the window
	for {
		c.watch(idle)
		m, err := src.Read(d.window[n:])
		n += m
		ready, used := a.Split(d.window[:n], n == len(d.window) && n >= dialect.MaxEvent)
		if err != nil {
			if a.Rest(d.window[used:n]) {
				ready = append(ready, d.window[used:n]...) // behind it in the window, or past hidden events
			}
			used = n
		}
		if a.Content && c.rec.FirstByte == 0 {
			c.firstByte()
		}
		d.mu.Lock()
		if !d.committed {
			switch {
			case a.Failed:
				d.mu.Unlock()
				return c.failedEarly(), false
			case err != nil && !a.Content && !a.Finished:
				d.mu.Unlock()
				o := c.cutEarly(err)
				return o, o.gone
			case a.Content || a.Finished || err != nil:
				c.commit(res)
			}
		}
		if a.Terminal {
			c.served()
			idle = lingering
		}
		if d.committed {
			c.forward(ready, len(ready) > 0 || len(d.held) > 0)
		} else {
			d.held = append(d.held, ready...)
		}
		d.mu.Unlock()
		if d.err != nil {
			c.left()
			return outcome{}, true
		}
		if err != nil {
			c.endEvents(err)
			return outcome{}, true
		}
		if used > 0 {
			copy(d.window, d.window[used:n])
			n -= used
		}
		if n == len(d.window) {
			d.window = append(make([]byte, 0, 4*len(d.window)), d.window...)
			d.window = d.window[:cap(d.window)]
		}
	}
}

// lingering is how long an upstream may take to end a stream behind its last
// event. Reading to the end keeps the connection in use.
const lingering = 5 * time.Second

// endEvents ends a stream that was committed.
func (c *call) endEvents(err error) {
	a := &c.answer
	switch {
	case a.Terminal:
		return // settled; whatever came behind it does not matter
	case err == io.EOF && (a.Finished || !a.HasEnd()):
		c.served()
	case c.in.Context().Err() != nil:
		c.left()
	default:
		c.cut()
	}
}

// cut ends an answer that broke off: with an error event, and with a broken
// connection, because many readers look for neither errors nor ends.
func (c *call) cut() {
	reason := "the upstream broke off in the middle of the answer"
	if c.silent() {
		reason = "the upstream fell silent in the middle of the answer"
	}
	c.report(keypool.Failed, reason)
	c.rec.Outcome = usage.Cut
	c.count()
	c.settle(true)
	e := &dialect.Error{Fault: dialect.BadUpstream, Message: reason, Request: c.trace.Request}
	c.down.mu.Lock()
	if c.answer.EventStream() {
		c.forward(e.Event(c.req.Call.Op, c.answer.Events), true)
	}
	c.down.mu.Unlock()
	panic(http.ErrAbortHandler)
}

// left ends an answer whose client has gone.
func (c *call) left() {
	c.rec.Outcome = usage.Left
	c.count()
	c.settle(true)
}

// served books an answer that came to its end, or to its error event.
func (c *call) served() {
	if !c.open {
		return
	}
	if c.answer.Failed && c.answer.EventStream() {
		c.rec.Outcome = usage.Cut
		c.report(keypool.Failed, "error event in the middle of the answer")
	} else {
		c.rec.Outcome = usage.Served
		c.rec.Model = c.r.bookedAs(c.target.up, c.target.model, true)
		c.remember()
		c.report(keypool.Served, "")
	}
	c.count()
	c.settle(true)
}

// report says of the key what a committed answer came to.
func (c *call) report(class keypool.Class, reason string) {
	v := keypool.Verdict{Class: class, Reason: reason}
	if class == keypool.Failed {
		v.Request = c.req.Identity() | 1
		c.logFailed(class, reason)
	}
	c.lease.Report(v)
}

// remember notes where the response and the conversation live.
func (c *call) remember() {
	now := c.r.Now()
	at := home{c.target.up.Name, c.lease.ID()}
	switch {
	case c.req.Call.Op == dialect.CreateResponse && c.answer.ID != "":
		c.r.Affinity.put(responseKey(c.client.Name, c.answer.ID), at, now)
	case c.req.Call.Op == dialect.StoredResponse && c.in.Method == http.MethodDelete:
		c.r.Affinity.forget(responseKey(c.client.Name, c.req.Call.ID))
	}
	if c.isBound {
		c.r.Affinity.put(c.bound, at, now)
	}
}

// firstByte takes the time of the first content.
func (c *call) firstByte() {
	now := c.r.Now()
	c.rec.FirstByte = max(now.Sub(c.rec.Start), 1)
	c.trace.FirstByte = now.Sub(c.start)
}

// failedEarly is the outcome of a stream whose error event came before content.
func (c *call) failedEarly() outcome {
	p := &c.answer.Problem
	o := c.cutOutcome("error event " + clip(p.Code, 64))
	if c.rec.Outcome, c.rec.Source = usage.Refused, usage.Upstream; c.answer.Content {
		c.rec.Outcome = usage.Cut
		c.count()
	}
	c.keep(refusal{class: o.class, err: &dialect.Error{Fault: dialect.BadUpstream, Message: message(p), Code: p.Code}})
	return o
}

func message(p *dialect.Problem) string {
	if p.Message != "" {
		return p.Message
	}
	return "the upstream failed before it had answered anything"
}

// cutEarly is the outcome of an answer that ended before its content began.
func (c *call) cutEarly(err error) outcome {
	var o outcome
	if c.silent() {
		o = c.transportOutcome(err)
	} else {
		o = c.cutOutcome("cut before content")
	}
	c.failed(&o, err)
	return o
}

func (c *call) deliverPlain(res *http.Response, src io.Reader) (o outcome, done bool) {
	d, a := &c.down, &c.answer
	size := plainWindow
	if res.ContentLength >= 0 && res.ContentLength <= smallWindow {
		size = smallWindow
	}
	if len(d.window) < size {
		d.window = make([]byte, size)
	}
	// An answer that is JSON is of no use before its end: as much as fits is
	// gathered, so that it leaves in one piece and can still be healed.
	gather := strings.HasPrefix(res.Header.Get("Content-Type"), "application/json")
	idle := c.idle()
	for total := int64(0); ; {
		c.watch(idle)
		n, err := src.Read(d.window)
		p := d.window[:n]
		a.Feed(p)
		if total += int64(n); total == res.ContentLength && err == nil {
			err = io.EOF
		}
		if n > 0 && c.rec.FirstByte == 0 {
			c.firstByte()
		}
		d.mu.Lock()
		if !d.committed {
			switch {
			case err != nil && err != io.EOF:
				d.mu.Unlock()
				o := c.cutEarly(err)
				return o, o.gone
			case err == nil && gather && len(d.held)+n < plainWindow:
				d.held = append(d.held, p...)
				d.mu.Unlock()
				if d.timer == nil {
					c.holdUntil(res)
				}
				continue
			}
			c.commit(res)
		}
		if err == io.EOF {
			c.served()
		}
		c.forward(p, err == nil)
		d.mu.Unlock()
		switch {
		case d.err != nil:
			c.left()
			return outcome{}, true
		case err == io.EOF:
			return outcome{}, true
		case err != nil && c.in.Context().Err() != nil:
			c.left()
			return outcome{}, true
		case err != nil:
			c.cut()
		}
	}
}
