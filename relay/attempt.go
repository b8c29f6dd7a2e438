package relay

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

// try makes one attempt at c.target with c.lease. done says that the client has
// its answer, or has left in the middle of it; otherwise o says what the failure
// means.
func (c *call) try() (o outcome, done bool) {
	c.credential = c.target.up.Credentials[c.lease.Key()].current()
	if err := c.prepareBody(); err != nil {
		return c.inexpressible(err), false
	}
	if err := c.reserve(); err != nil {
		c.refuse(err)
		return outcome{}, true
	}
	req, err := c.newRequest()
	if err != nil {
		return c.failed(err, false), false
	}
	res, err := c.target.up.Transport.RoundTrip(req)
	c.headerAt = c.r.Now()
	if err != nil {
		return c.failed(err, c.r.NeverSent == nil || !c.r.NeverSent(err)), false
	}
	if account, ok := c.credential.(provider.Account); ok {
		account.Observe(res.Header)
	}
	defer res.Body.Close()
	c.rec.Status = res.StatusCode
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return c.refused(res), false
	}
	return c.deliver(res)
}

// prepareBody makes the body for the target, unless the last attempt's serves.
func (c *call) prepareBody() error {
	ask := !c.noUsage && !c.target.up.refusesUsage.has(c.target.sent, c.r.Now())
	if len(c.target.via) > 0 {
		return c.translate(ask)
	}
	ask = ask && c.req.UsageOnRequest() && !c.req.AsksUsage
	tailor, _ := c.target.up.Provider.(provider.Tailor)
	if c.body != nil && c.translated == nil && ask == c.asked && c.model == c.target.sent && c.tailor == tailor {
		return nil
	}
	c.op, c.translated = c.req.Call.Op, nil
	c.asked, c.model = ask, c.target.sent
	var made *room
	body := c.nativeRequest().For(c.model, ask, func(n int) []byte {
		if made = newRoom(int64(n)); made == nil {
			return make([]byte, 0, n)
		}
		return made.memory[:0:n]
	})
	c.setBody(body, made)
	c.fit(tailor)
	return nil
}

// fit makes the body into what the target's service takes.
func (c *call) fit(tailor provider.Tailor) {
	if c.tailor = tailor; tailor == nil {
		return
	}
	if body := tailor.Fit(c.op, c.body); len(body) != len(c.body) || len(body) > 0 && &body[0] != &c.body[0] {
		c.setBody(body, nil)
	}
}

// setBody exchanges the body for the next attempt, and what it lies in.
func (c *call) setBody(body []byte, in *room) {
	c.spliced.release()
	c.body, c.spliced = body, in
}

// reserve writes the attempt into the ledger before it is sent. The attempt
// before it is settled then, as one that was not the last.
func (c *call) reserve() *dialect.Error {
	rec := &c.recs[c.trace.Attempts&1]
	now := c.r.Now()
	*rec = usage.Record{
		Request: c.trace.Request, Attempt: c.trace.Attempts + 1, Start: now,
		Client: c.client.Name, Group: c.group,
		Upstream: c.target.up.Name, Key: c.lease.Label(),
		Model: c.r.bookedAs(c.target.up, c.target.model, false),
		Asked: c.req.Model, Operation: c.req.Call.Op.String(),
		RequestBytes: int64(len(c.body)),
	}
	if c.r.Ledger != nil {
		if billed(c.req.Call.Op) { // should nobody ever know more
			rec.Tokens.Input = c.req.EstimateInput()
		}
		if err := c.r.Ledger.Reserve(rec); err != nil {
			return &dialect.Error{
				Fault: dialect.Unavailable, Code: "accounting_unavailable",
				Message: "the account of requests cannot be kept at the moment; try again later",
			}
		}
		rec.Tokens.Input = 0
	}
	c.settlePending(false)
	c.trace.Attempts++
	c.rec, c.sentAt = rec, now
	c.open, c.answered, c.proved = true, false, false
	return nil
}

// newRequest addresses and authenticates the request upstream, and starts the
// watchdog.
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
	c.startWatchdog(first)
	h := c.upstreamHeader(up)
	asked, query := &c.req.Call, c.in.URL.RawQuery
	if c.translated != nil {
		asked, query = c.translatedCall()
	}
	at := up.Provider.Address(asked, c.target.sent)
	if q := upstreamQuery(query); q != "" {
		with := *at
		if with.RawQuery != "" {
			q = with.RawQuery + "&" + q
		}
		with.RawQuery = q
		at = &with
	}
	req := (&http.Request{
		Method: c.in.Method, URL: at, Host: at.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(c.ctx)
	if err := c.credential.Authorize(req); err != nil {
		return nil, err
	}
	c.sent = h
	if host := h["Host"]; len(host) > 0 { // header_up may set it
		req.Host = host[0]
	}
	if len(c.body) > 0 {
		body, in := c.body, c.spliced
		if in == nil {
			in = c.room
		}
		req.Body = reader(body, in)
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return reader(body, in), nil }
	}
	return req, nil
}

// reader returns a body to send. Without a room it is of a kind that the transport
// knows to lie in memory: header and body then leave in one write.
func reader(body []byte, in *room) io.ReadCloser {
	if in == nil {
		return io.NopCloser(bytes.NewReader(body))
	}
	return in.reader(body)
}

// upstreamQuery is the client's query without its credential, and without the version
// that Azure's clients name: which one an upstream has is written in the file.
func upstreamQuery(raw string) string {
	if !strings.Contains(raw, "key") && !strings.Contains(raw, "api-version") && !strings.Contains(raw, "%") {
		return raw
	}
	kept := make([]string, 0, 4)
	for p := range strings.SplitSeq(raw, "&") {
		name, _, _ := strings.Cut(p, "=")
		if name, err := url.QueryUnescape(name); err != nil || name == "key" || name == "api-version" {
			continue
		}
		kept = append(kept, p)
	}
	return strings.Join(kept, "&")
}

// failed ends an attempt that got no answer. sent says that the request may have
// left.
func (c *call) failed(err error, sent bool) outcome {
	o := c.transportOutcome(err)
	c.rec.Outcome = usage.Failed
	if o.gone {
		c.rec.Outcome = usage.Left
	}
	if sent {
		c.count()
	} else {
		// It costs nothing, and that is known.
		c.rec.Source, c.rec.RequestBytes = usage.Upstream, 0
	}
	e := &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream could not be reached: " + o.reason}
	var credential *provider.CredentialError
	switch {
	case o.lastTry:
		e = &dialect.Error{Fault: dialect.TimedOut, Message: "the upstream gave " + o.reason}
	case errors.As(err, &credential):
		e = withoutCredential(credential.Meaning)
	}
	c.keep(refusal{err: e, rank: noAnswer})
	return o
}

// Bounds of how much of a refusal is read, and for how long.
const (
	maxRefusal     = 256 << 10
	refusalTimeout = 10 * time.Second
)

// refused ends an attempt whose answer has no status of success.
func (c *call) refused(res *http.Response) outcome {
	c.down.arm(refusalTimeout)
	var body []byte
	var err error
	if res.StatusCode != http.StatusSwitchingProtocols { // what follows is the bare connection, which no timer ends
		body, err = io.ReadAll(io.LimitReader(decoded(res), maxRefusal))
	}
	if err != nil && c.in.Context().Err() != nil {
		c.rec.Outcome, c.rec.Source = usage.Left, usage.Upstream
		return outcome{gone: true}
	}
	body = redact(body, c.sent)
	problem := dialect.ReadProblem(body)
	o := c.answerOutcome(res.StatusCode, res.Header, &problem)
	c.rec.ResponseBytes = int64(len(body))
	c.rec.Outcome, c.rec.Source = usage.Refused, usage.Upstream
	c.keep(c.refusalOf(res.StatusCode, res.Header, body, &problem, &o))
	return o
}

// redact takes the credential out of what an upstream says: some repeat it in
// their errors.
func redact(body []byte, sent http.Header) []byte {
	for _, name := range [...]string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key"} {
		for _, v := range sent[name] {
			secret := []byte(strings.TrimPrefix(v, "Bearer "))
			if len(secret) >= 8 && bytes.Contains(body, secret) {
				body = bytes.ReplaceAll(body, secret, []byte("***"))
			}
		}
	}
	return body
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

// endAttempt lets go of what the attempt held but its key.
func (c *call) endAttempt() {
	if c.cancel == nil {
		return
	}
	c.stopWatchdog()
	c.cancel(nil)
	c.cancel = nil
	if c.open {
		c.rec.Duration = c.r.Now().Sub(c.rec.Start)
	}
}

// settlePending settles the attempt that has ended and was not settled yet: only
// now it is known whether it was the last.
func (c *call) settlePending(final bool) {
	if !c.open {
		return
	}
	if c.rec.Outcome == 0 { // a panic
		c.rec.Outcome = usage.Left
		c.count()
	}
	c.settle(final)
}

// settle books the attempt, once.
func (c *call) settle(final bool) {
	c.open = false
	c.rec.Final = final
	if c.rec.Duration == 0 {
		c.rec.Duration = c.r.Now().Sub(c.rec.Start)
	}
	c.trace.Upstream, c.trace.Key = c.rec.Upstream, c.rec.Key
	c.trace.Outcome, c.trace.Tokens, c.trace.Source = c.rec.Outcome, c.rec.Tokens, c.rec.Source
	if c.r.Ledger != nil {
		c.r.Ledger.Settle(c.rec)
	}
	if c.r.Settled != nil {
		c.r.Settled(c.rec)
	}
	if c.due != nil {
		c.due.was = *c.rec
		c.r.Estimates.add(c.due)
		c.due = nil
	}
}

// count fills in what an attempt used that was sent and not refused. What nobody
// reported is counted by bytes, and soon by the tokenizer.
func (c *call) count() {
	if c.answered {
		c.rec.Answered = c.answer.Model
	}
	input, output := c.reckon(c.rec)
	if (input || output) && c.r.Ledger != nil {
		c.due = c.estimation(input, output)
		c.rec.Estimating = c.due != nil
	}
}

// reckon fills in what the attempt used as far as it is known. It returns whether the
// prompt and the answer were counted by bytes and are to be counted better.
func (c *call) reckon(rec *usage.Record) (input, output bool) {
	a, op := &c.answer, c.op
	switch {
	case !billed(op):
		rec.Source = usage.Upstream
	case c.answered && a.Failed && (!a.Streams() || !a.Content):
		// An error costs no more than the upstream says.
		rec.Tokens, rec.Source = a.Tokens(), usage.Upstream
	case !c.answered || rec.Outcome != usage.Served && !a.Content && !a.Reported:
		rec.Source = usage.Unknown
		rec.Tokens.Input = c.req.EstimateInput()
	case a.Reported:
		// What was reported stays. Of an answer that was cut the rest is estimated,
		// and what cannot be true.
		rec.Tokens, rec.Source = a.Tokens(), usage.Upstream
		cut := !a.Finished && rec.Outcome != usage.Served
		input = a.Miscounted() && rec.Tokens.InputTotal() == 0
		output = writes(op) && (cut || a.Miscounted() && rec.Tokens.Output == 0)
		if cut || input || output {
			rec.Source, rec.Partial = usage.Estimated, true
		}
	default:
		rec.Tokens, rec.Source = usage.Tokens{Anomaly: a.Tokens().Anomaly}, usage.Estimated
		input, output = true, writes(op)
	}
	if input {
		rec.Tokens.Input = c.req.EstimateInput()
	}
	if output {
		rec.Tokens.Output = max(rec.Tokens.Output, a.EstimateOutput())
	}
	return input, output
}

// estimation is the attempt's texts, for the tokenizer; nil if there is no room for
// them.
func (c *call) estimation(input, output bool) *estimation {
	e := c.r.Estimates
	size := int64(estimationSize)
	if input {
		size += int64(len(c.req.Body))
	}
	if !e.admit(size) {
		return nil
	}
	x := &estimation{
		op: c.req.Call.Op, model: c.model, bytes: size, events: c.answer.EventStream(),
		input: input, output: output, least: c.answer.Tokens().Output,
		ledger: c.r.Ledger, done: c.r.Estimated, log: c.r.Log,
	}
	if input {
		x.body, x.room = c.req.Body, c.room.share()
	}
	if output {
		x.script = c.answer.Transcript.Move()
	}
	return x
}

// noteEvery is how often the ledger is told how far a long attempt is, so that a
// crash does not leave less of it.
const noteEvery = 10 * time.Second

// noteProgress tells the ledger how far the attempt is, if it is time.
func (c *call) noteProgress(now time.Duration) {
	if now < c.noteAt || !c.open || c.r.Ledger == nil {
		return
	}
	c.noteAt = now + noteEvery
	so := *c.rec
	c.reckon(&so)
	so.Duration = c.r.Now().Sub(so.Start)
	c.r.Ledger.Progress(&so)
}

// billed says whether answers to the operation cost tokens.
func billed(op dialect.Operation) bool {
	switch op {
	case dialect.StoredResponse, dialect.CountResponse, dialect.CountMessage, dialect.CountContent:
		return false
	}
	return true
}

// writes says whether answers to the operation are text that a model wrote, so
// that their size says how many tokens it took.
func writes(op dialect.Operation) bool {
	switch op {
	case dialect.ChatCompletions, dialect.Completions, dialect.CreateResponse, dialect.CompactResponse,
		dialect.CreateMessage, dialect.GenerateContent, dialect.StreamContent,
		dialect.Transcriptions, dialect.Translations:
		return true
	}
	return false
}
