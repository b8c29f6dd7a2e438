package relay

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/usage"
)

// try makes one attempt at c.target with c.lease. done says that the client has
// its answer, or has left; otherwise o says what the failure means.
func (c *call) try() (o outcome, done bool) {
	c.settlePending(false)
	c.trace.Attempts++
	c.credential = c.target.up.Credentials[c.lease.Key()].current()
	c.prepareBody()
	if !c.reserve() {
		return outcome{}, true
	}
	req, err := c.newRequest()
	if err != nil {
		o = c.transportOutcome(err)
		c.rec.RequestBytes = -1 // nothing was sent
		c.failed(&o, err)
		return o, o.gone
	}
	res, err := c.target.up.Transport.RoundTrip(req)
	c.headerAt = c.r.Now()
	if err != nil {
		o = c.transportOutcome(err)
		c.failed(&o, err)
		return o, o.gone
	}
	defer res.Body.Close()
	c.headed = true
	c.rec.Status = res.StatusCode
	if res.StatusCode < 200 || res.StatusCode > 299 {
		o = c.refused(res)
		return o, o.gone
	}
	return c.deliver(res)
}

// prepareBody makes the body for the target, unless the last attempt's serves.
func (c *call) prepareBody() {
	ask := c.req.UsageOnRequest() && !c.noUsage && !c.target.up.refusesUsage.has(c.target.sent, c.r.Now())
	if c.body != nil && ask == c.asked && c.model == c.target.sent {
		return
	}
	c.asked, c.model = ask, c.target.sent
	c.body = c.req.For(c.model, ask)
}

// reserve writes the attempt into the ledger before it is sent.
func (c *call) reserve() bool {
	now := c.r.Now()
	c.rec = usage.Record{
		Request: c.trace.Request, Attempt: c.trace.Attempts, Start: now,
		Client: c.client.Name, Group: c.group,
		Upstream: c.target.up.Name, Key: c.lease.Label(),
		Model: c.r.bookedAs(c.target.up, c.target.model, false),
		Asked: c.req.Model, Operation: c.req.Call.Op.String(),
		RequestBytes: int64(len(c.body)),
	}
	c.sentAt = now
	c.open = true
	if c.r.Ledger == nil {
		return true
	}
	if err := c.r.Ledger.Reserve(&c.rec); err != nil {
		c.open = false
		c.refuse(&dialect.Error{Fault: dialect.Unavailable, Code: "accounting_unavailable",
			Message: "the account of requests cannot be kept at the moment; try again later"})
		return false
	}
	return true
}

// newRequest addresses and authenticates the request upstream.
func (c *call) newRequest() (*http.Request, error) {
	up := c.target.up
	c.ctx, c.cancel = context.WithCancelCause(c.in.Context())
	first := up.FirstByte
	if first == 0 {
		first = DefaultPlainFirstByte
		if c.req.Stream {
			first = DefaultStreamFirstByte
		}
	}
	cancel := c.cancel
	c.headed = false
	c.watchdog = time.AfterFunc(first, func() { cancel(errSilent) })
	h := c.upstreamHeader(up)
	if up.EditHeader != nil {
		up.EditHeader(c.in, h)
	}
	if err := c.credential.Authorize(c.ctx, h); err != nil {
		return nil, err
	}
	at := up.Provider.Address(&c.req.Call, c.target.sent)
	if q := upstreamQuery(c.in.URL.RawQuery); q != "" {
		with := *at
		if with.RawQuery != "" {
			q = with.RawQuery + "&" + q
		}
		with.RawQuery = q
		at = &with
	}
	req := &http.Request{
		Method: c.in.Method, URL: at, Host: at.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if len(c.body) > 0 {
		// A reader of a kind that the transport knows to lie in memory: header
		// and body then leave in one write.
		body := c.body
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return req.WithContext(c.ctx), nil
}

// upstreamQuery is the client's query without its credential.
func upstreamQuery(raw string) string {
	if raw == "" || !strings.Contains(raw, "key=") {
		return raw
	}
	parts := strings.Split(raw, "&")
	kept := parts[:0]
	for _, p := range parts {
		name, _, _ := strings.Cut(p, "=")
		if name, err := url.QueryUnescape(name); err != nil || name == "key" {
			continue
		}
		kept = append(kept, p)
	}
	return strings.Join(kept, "&")
}

// failed ends an attempt that got no answer.
func (c *call) failed(o *outcome, err error) {
	c.rec.Outcome = usage.Failed
	if o.gone {
		c.rec.Outcome = usage.Left
	}
	switch {
	case c.rec.RequestBytes < 0 || c.r.NeverSent != nil && c.r.NeverSent(err):
		// It never left: it costs nothing, and that is known.
		c.rec.RequestBytes, c.rec.Source = 0, usage.Upstream
	case billed(c.req.Call.Op):
		c.rec.Source = usage.Unknown
		c.rec.Tokens.Input = c.req.EstimateInput()
	}
	e := &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream could not be reached: " + o.reason}
	if o.lastTry {
		e = &dialect.Error{Fault: dialect.TimedOut, Message: "the upstream gave " + o.reason}
	}
	c.keep(refusal{err: e, class: o.class})
}

// maxRefusal bounds how much of a refusal is kept; the rest is not read.
const maxRefusal = 256 << 10

// refused ends an attempt whose answer has no status of success.
func (c *call) refused(res *http.Response) outcome {
	c.watch(c.idle())
	body, readErr := io.ReadAll(io.LimitReader(decoded(res), maxRefusal))
	problem := dialect.ReadProblem(body)
	o := c.answerOutcome(res.StatusCode, res.Header, &problem)
	if readErr != nil && c.in.Context().Err() != nil {
		o = outcome{gone: true, reason: "the client left"}
	}
	c.rec.ResponseBytes = int64(len(body))
	c.rec.Outcome, c.rec.Source = usage.Refused, usage.Upstream
	if o.gone {
		c.rec.Outcome = usage.Left
	}
	c.keep(c.refusalOf(res, body, &problem, &o))
	return o
}

// refusalOf makes of an upstream's refusal what the client may see of it.
func (c *call) refusalOf(res *http.Response, body []byte, p *dialect.Problem, o *outcome) refusal {
	kept := refusal{status: res.StatusCode, header: res.Header, body: body, yields: o.yields, class: o.class}
	switch {
	case o.class == keypool.Invalid || o.next == renewed:
		kept.err = &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream refuses the gateway's credential"}
	case res.StatusCode >= 300 && res.StatusCode < 400:
		kept.err = &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream answered with a redirect, which is not followed"}
	case p.Type == "" && p.Code == "" && p.Status == "" || len(body) == maxRefusal:
		// HTML, plain text, nothing at all, or the form of another service.
		kept.err = foreign(res.StatusCode, p)
	}
	return kept
}

// foreign spells in the client's dialect a refusal that was in no dialect.
func foreign(status int, p *dialect.Problem) *dialect.Error {
	e := &dialect.Error{Fault: dialect.FaultOf(status), Status: status, Message: p.Message, Param: p.Param, Code: p.Code}
	if status > 599 || status == http.StatusUnauthorized {
		e.Fault, e.Status = dialect.BadUpstream, 0
	}
	if e.Message == "" {
		e.Message = "the upstream refused the request and gave no reason"
	}
	return e
}

// keep remembers the best of the refusals: one that only says that a model is
// not there yields to any other.
func (c *call) keep(next refusal) {
	if next.yields && (c.last.status != 0 || c.last.err != nil) && !c.last.yields {
		return
	}
	c.last = next
}

// writeRefusal answers with what the upstream said.
func (c *call) writeRefusal() {
	h := c.w.Header()
	retryAfter := h["Retry-After"]
	c.copyHeader(c.last.header)
	if retryAfter == nil {
		for _, name := range [...]string{"Retry-After", "Retry-After-Ms"} {
			if v := c.last.header[name]; len(v) > 0 {
				h[name] = v
			}
		}
	}
	c.trace.Status = c.last.status
	c.w.WriteHeader(c.last.status)
	_, _ = c.w.Write(c.last.body)
}

// decoded returns the answer's body, unpacked where the upstream packed it
// without having been asked.
func decoded(res *http.Response) io.Reader {
	if !strings.EqualFold(res.Header.Get("Content-Encoding"), "gzip") {
		return res.Body
	}
	res.Header.Del("Content-Encoding")
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	return &gunzip{src: res.Body}
}

// gunzip unpacks as it is read, so that opening it waits for nothing.
type gunzip struct {
	src io.Reader
	z   *gzip.Reader
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, err
		}
		g.z = z
	}
	return g.z.Read(p)
}

// watch restarts the watchdog.
func (c *call) watch(d time.Duration) { c.watchdog.Reset(d) }

func (c *call) idle() time.Duration {
	if d := c.target.up.Idle; d > 0 {
		return d
	}
	return DefaultIdle
}

// endAttempt lets go of what the attempt held but its key.
func (c *call) endAttempt() {
	if c.cancel != nil {
		c.watchdog.Stop()
		c.cancel(nil)
		c.cancel = nil
	}
}

// settlePending settles the attempt that has ended and was not settled yet.
func (c *call) settlePending(final bool) {
	if !c.open {
		return
	}
	if c.rec.Outcome == 0 {
		// A panic, or an exit that nobody thought of.
		c.rec.Outcome = usage.Left
		c.count()
	}
	c.settle(final)
}

// settle books the attempt, once.
func (c *call) settle(final bool) {
	if !c.open {
		return
	}
	c.open = false
	c.rec.Final = final
	c.rec.Duration = c.r.Now().Sub(c.rec.Start)
	c.rec.Answered = c.answer.Model
	if c.r.Ledger != nil {
		c.r.Ledger.Settle(&c.rec)
	}
	if c.r.Settled != nil {
		c.r.Settled(&c.rec)
	}
	c.trace.Upstream, c.trace.Key = c.rec.Upstream, c.rec.Key
	c.trace.Outcome, c.trace.Tokens, c.trace.Source = c.rec.Outcome, c.rec.Tokens, c.rec.Source
}

// count fills in what the attempt used.
func (c *call) count() {
	a := &c.answer
	switch {
	case !billed(c.req.Call.Op):
		c.rec.Source = usage.Upstream
	case a.Reported && (a.Finished || c.rec.Outcome == usage.Served):
		c.rec.Tokens, c.rec.Source = a.Tokens(), usage.Upstream
	case a.Reported:
		// Cut: what was reported so far stays, the rest is estimated.
		c.rec.Tokens, c.rec.Source, c.rec.Partial = a.Tokens(), usage.Estimated, true
		c.rec.Tokens.Output = max(c.rec.Tokens.Output, a.EstimateOutput())
	default:
		c.rec.Source, c.rec.Estimating = usage.Estimated, true
		c.rec.Tokens.Input = c.req.EstimateInput()
		c.rec.Tokens.Output = a.EstimateOutput()
	}
}

// billed says whether answers to the operation cost tokens.
func billed(op dialect.Operation) bool {
	switch op {
	case dialect.StoredResponse, dialect.CountResponse, dialect.CountMessage, dialect.CountContent:
		return false
	}
	return true
}
