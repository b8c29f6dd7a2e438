package relay

import (
	"bytes"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
)

// refusal is an answer to give when nothing better comes.
type refusal struct {
	rank   rank
	header http.Header // of the upstream's answer; nil if there was none
	status int
	body   []byte
	err    *dialect.Error // an answer of our own, instead of status and body
}

// rank says how much a refusal is worth; of equals the last counts.
type rank uint8

const (
	nothing  rank = iota
	noSuch        // it only says that the model is not there
	noAnswer      // the upstream could not be reached, or broke off
	realAnswer
)

// keep remembers the best of the refusals.
func (c *call) keep(next refusal) {
	if next.rank >= c.last.rank {
		c.last = next
	}
}

// refusalOf makes of an upstream's refusal what the client may see of it.
func (c *call) refusalOf(status int, h http.Header, body []byte, p *dialect.Problem, o *outcome) refusal {
	kept := refusal{rank: realAnswer, header: h, status: status, body: body}
	if o.class == keypool.ModelOff {
		kept.rank = noSuch
	}
	switch {
	case c.translated != nil && o.class != keypool.Invalid && o.next != withFreshToken && (status < 300 || status > 399):
		kept.err = foreign(status, p)
		kept.err.Param = "" // a field that the client did not send
	case o.class == keypool.Invalid || o.next == withFreshToken:
		kept.err = &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream refuses the gateway's credential"}
	case status >= 300 && status < 400:
		kept.err = &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream answered with a redirect, which is not followed"}
	case p.Type == "" && p.Code == "" && p.Status == "", !c.shaped(body), len(body) == maxRefusal, status < 400, status > 599,
		status == 529 && c.dialect != dialect.Messages:
		// HTML, plain text, nothing at all, the form of another service, or not
		// what this client's SDK knows.
		kept.err = foreign(status, p)
	}
	if kept.err != nil && status == 529 && c.dialect == dialect.Messages {
		kept.err.Status = status // which only these clients know
	}
	return kept
}

// shaped says whether the body of a refusal may have the form that the client's
// SDK expects: an object, or an array where Google streams one.
func (c *call) shaped(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && (body[0] == '{' || body[0] == '[' && c.req.Call.Op == dialect.StreamContent)
}

// foreign spells in the client's dialect a refusal that was in no dialect.
func foreign(status int, p *dialect.Problem) *dialect.Error {
	e := &dialect.Error{Fault: dialect.FaultOf(status), Status: status, Message: p.Message, Param: p.Param, Code: p.Code}
	switch {
	case status < 400 || status > 599:
		e.Fault, e.Status = dialect.BadUpstream, 0
	case status == 529:
		e.Status = 0
	case (status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge) && p.TooLong():
		e.Fault, e.Status, e.Code = dialect.TooLong, 0, ""
	}
	if e.Message == "" {
		e.Message = "the upstream refused the request and gave no reason"
	}
	return e
}

// giveUp answers with the best that there is. err says why no key could be had;
// nil if one could, but no further attempt is allowed.
func (c *call) giveUp(err error) {
	if c.in.Context().Err() != nil {
		c.deserted()
		return
	}
	c.settlePending(true)
	if c.countsAnyway() {
		c.countHere()
		return
	}
	var none *keypool.Unavailable
	known := errors.As(err, &none)
	if c.missing != nil {
		home := c.homeUnavailable()
		if home.Refused {
			// The account is lost with all that it keeps. Who hears that it is not
			// there can send the whole conversation again.
			c.refuse(c.missing)
			return
		}
		if known {
			none = home
		}
	}
	if none != nil && !none.Until.IsZero() && (c.wait.IsZero() || none.Until.Before(c.wait)) {
		c.wait = none.Until
	}
	if c.last.rank == nothing {
		c.last = refusal{err: unavailable(none)}
	}
	c.copyIDs(c.last.header)
	c.sayWhen()
	if c.last.err != nil {
		c.refuse(c.last.err)
		return
	}
	c.copyHeader(c.last.header)
	c.trace.Status = c.last.status
	c.w.WriteHeader(c.last.status)
	_, _ = c.w.Write(c.last.body)
}

// homeUnavailable says why the one key does not serve that has what is asked for,
// however the others of its pool may be.
func (c *call) homeUnavailable() *keypool.Unavailable {
	none := new(keypool.Unavailable)
	for _, k := range c.targets[0].up.Pool.States() {
		if k.ID != c.home.key {
			continue
		}
		none.Until = k.Until
		none.Refused = k.State == keypool.StateInvalid
		none.Limited = k.State == keypool.StateLimited || k.State == keypool.StateExhausted
		for _, m := range k.Models {
			if m.Model == c.targets[0].sent && (m.State == keypool.StateLimited || m.State == keypool.StateExhausted) && !none.Refused {
				none.Limited = true
				if m.Until.After(none.Until) {
					none.Until = m.Until
				}
			}
		}
	}
	return none
}

func unavailable(none *keypool.Unavailable) *dialect.Error {
	switch {
	case none != nil && none.Limited:
		return &dialect.Error{Fault: dialect.RateLimited, Message: "every upstream key that could serve this request is over a limit"}
	case none != nil && none.Refused:
		return &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream refuses the gateway's credentials"}
	}
	return &dialect.Error{Fault: dialect.Unavailable, Message: "no upstream key is free to serve this request; try again in a moment"}
}

// sayWhen tells the client the earliest return that anybody named, else what the
// upstream said in the answer that is passed on.
func (c *call) sayWhen() {
	h, status := c.w.Header(), c.last.status
	if c.last.err != nil {
		status = c.last.err.HTTPStatus()
	}
	if !c.wait.IsZero() && (status == http.StatusTooManyRequests || status >= 500) {
		if wait := c.wait.Sub(c.r.Now()); wait > 0 {
			h["Retry-After"] = []string{strconv.FormatInt(int64(math.Ceil(wait.Seconds())), 10)}
			return
		}
	}
	for _, name := range [...]string{"Retry-After", "Retry-After-Ms"} {
		if v := c.last.header[name]; len(v) > 0 {
			h[name] = v
		}
	}
}
