package relay

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

// Trace is what can be told of a request when it is over.
type Trace struct {
	// Request is the id that floway gave it, UpstreamRequest the upstream's.
	Request, UpstreamRequest string
	Client, Group            string
	Operation                string
	// Model is the name asked for, Upstream and Key who answered in the end.
	Model, Upstream, Key string
	// Status is the one that the client got; 0 if it left before.
	Status   int
	Attempts int
	// Outcome is that of the last attempt; zero if there was none.
	Outcome usage.Outcome
	Tokens  usage.Tokens
	Source  usage.Source
	// FirstByte is the time from the request's arrival to the first content.
	FirstByte time.Duration
}

// call is one request on its way. It belongs to the goroutine that serves the
// request; what a timer shares with it is behind the lock of held.
type call struct {
	passage
	answer dialect.Answer
	down   downstream
}

// passage is what a call forgets when it is over.
type passage struct {
	r       *Relay
	w       http.ResponseWriter
	in      *http.Request
	client  *access.Client
	group   string
	dialect dialect.Dialect
	req     dialect.Request
	trace   *Trace
	start   time.Time

	targets   []target
	progress  []progress
	targetBuf [4]target
	progBuf   [4]progress
	routed    *keypool.Lease // the target that the route's policy chose
	prefer    home
	hash      uint64
	bound     affinityKey // the conversation, if the request is bound to a key
	isBound   bool

	retries int
	most    int // attempts after which there is no other
	backoff time.Duration
	wait    time.Time // the earliest return that anybody named
	last    refusal   // the best of the answers that were refusals

	// The attempt under way.
	target     *target
	at         *progress
	lease      *keypool.Lease
	credential provider.Credential
	rec        usage.Record
	open       bool // reserved and not yet settled
	ctx        context.Context
	cancel     context.CancelCauseFunc
	watchdog   *time.Timer
	headed     bool // the answer's header has come
	sentAt     time.Time
	headerAt   time.Time
	model      string // what body was made for
	body       []byte
	asked      bool // usage was asked for on the client's behalf
	noUsage    bool // and must not be again
	stripped   bool // reasoning was taken out
	renewed    bool // the token was fetched anew
}

// progress is how far a call has got with one of its targets.
type progress struct {
	tried keypool.KeySet // keys that were used
	spent keypool.KeySet // keys that it makes no sense to use again
	fails int
	avoid bool // only if there is no other target
}

// refusal is an answer to give when nothing better came.
type refusal struct {
	status int
	header http.Header
	body   []byte
	yields bool
	class  keypool.Class
	err    *dialect.Error // an answer of our own instead
}

var calls = sync.Pool{New: func() any { return new(call) }}

// Serve answers a request to an upstream's operation. The client has been
// identified and call found; trace is filled in.
func (r *Relay) Serve(w http.ResponseWriter, in *http.Request, found *dialect.Call, client *access.Client, group string, trace *Trace) {
	c := calls.Get().(*call)
	c.r, c.w, c.in, c.client, c.group, c.trace = r, w, in, client, group, trace
	c.dialect = found.Dialect
	c.start = r.Now()
	c.req.Call = *found
	c.req.ContentType = in.Header.Get("Content-Type")
	var held int64
	defer func() {
		c.till()
		r.letGo(held)
		c.clear()
		calls.Put(c)
	}()
	var err error
	c.req.Body, held, err = r.readBody(in)
	if err != nil {
		w.Header()["Connection"] = closeConn
		c.refuse(r.bodyError(err))
		return
	}
	if err := c.req.Read(); err != nil {
		c.refuse(malformed(err))
		return
	}
	trace.Model = c.req.Model
	if e := c.find(); e != nil {
		c.refuse(e)
		return
	}
	c.loop()
}

// clear lets go of everything that belongs to the request. Buffers stay.
func (c *call) clear() {
	c.passage = passage{}
	c.answer.Reset(dialect.None, false, false)
	c.down.clear()
}

func malformed(err error) *dialect.Error {
	var b *dialect.BadRequest
	if errors.As(err, &b) {
		return &dialect.Error{Fault: dialect.Malformed, Message: b.Message, Param: b.Param}
	}
	return &dialect.Error{Fault: dialect.Malformed, Message: err.Error()}
}

// refuse answers with an error of our own.
func (c *call) refuse(e *dialect.Error) {
	e.Request = c.trace.Request
	if e.Fault == dialect.Unavailable && c.w.Header()["Retry-After"] == nil {
		c.w.Header()["Retry-After"] = []string{"1"}
	}
	c.trace.Status = e.HTTPStatus()
	_, _ = e.Write(c.w, c.dialect)
}

// find looks for the targets, and for what binds the request to one of them.
func (c *call) find() *dialect.Error {
	op := c.req.Call.Op
	if op == dialect.StoredResponse {
		return c.mapStored(c.req.Call.ID, "", "the response "+quoted(c.req.Call.ID)+" was not found")
	}
	q := lookup{name: c.req.Model, client: c.client, speaks: speaks(op)}
	var route *Route
	c.targets, route = c.r.resolve(&q, c.targetBuf[:0])
	if len(c.targets) == 0 {
		return c.noTarget(&q)
	}
	c.progress = append(c.progBuf[:0], make([]progress, len(c.targets))...)
	if c.req.PreviousID != "" {
		return c.mapStored(c.req.PreviousID, "previous_response_id",
			"the previous response "+quoted(c.req.PreviousID)+" was not found")
	}
	c.bind()
	if route != nil && len(c.targets) > 1 {
		c.order(route)
	}
	return nil
}

// noTarget says why nothing can serve the request.
func (c *call) noTarget(q *lookup) *dialect.Error {
	q.speaks = nil
	if any, _ := c.r.resolve(q, nil); len(any) > 0 {
		return &dialect.Error{Fault: dialect.NoModel, Param: "model",
			Message: "no upstream that serves the model " + quoted(c.req.Model) + " offers " + c.req.Call.Op.String()}
	}
	return &dialect.Error{Fault: dialect.NoModel, Param: "model",
		Message: "the model " + quoted(c.req.Model) + " does not exist or this key may not use it"}
}

// mapStored narrows the targets to the key that keeps a response. Only its maker
// has it, and only its client may have it.
func (c *call) mapStored(id, param, message string) *dialect.Error {
	home, ok := c.r.Affinity.find(responseKey(c.client.Name, id), c.r.Now())
	u := c.r.byName[home.upstream]
	missing := &dialect.Error{Fault: dialect.NotFound, Message: message, Param: param}
	if param != "" {
		missing.Code = "previous_response_not_found"
	}
	if !ok || u == nil || !c.client.MayUse(u.Name) {
		return missing
	}
	if param == "" {
		c.targets = append(c.targetBuf[:0], target{up: u, model: otherModel})
	} else {
		kept := c.targets[:0]
		for _, t := range c.targets {
			if t.up == u {
				kept = append(kept, t)
			}
		}
		if c.targets = kept; len(kept) == 0 {
			return missing
		}
	}
	c.targets = c.targets[:1]
	c.progress = append(c.progBuf[:0], progress{})
	c.prefer, c.isBound = home, false
	// No other key has it.
	only := &c.progress[0].spent
	found := false
	for i, id := range u.KeyIDs {
		if id == home.key {
			found = true
		} else {
			only.Add(i)
			c.progress[0].tried.Add(i)
		}
	}
	if !found {
		return missing
	}
	return nil
}

// bind looks whether the request should go where its conversation was.
func (c *call) bind() {
	sticky := false
	for i := range c.targets {
		sticky = sticky || c.targets[i].up.Sticky
	}
	if !c.req.Bound && !sticky {
		return
	}
	name := c.req.CacheKey
	for _, h := range [...]string{"Session-Id", "X-Claude-Code-Session-Id"} {
		if name == "" {
			name = c.in.Header.Get(h)
		}
	}
	if name == "" {
		name = string(c.req.Opening())
	}
	if name == "" {
		return
	}
	c.isBound = true
	c.bound = digest("conversation", c.client.Name, name)
	for i := range 8 {
		c.hash = c.hash<<8 | uint64(c.bound[i])
	}
	c.hash |= 1 // zero would mean none
	c.prefer, _ = c.r.Affinity.find(c.bound, c.r.Now())
}

// order puts the target first that the route's policy chooses, or the one that
// served the conversation. The others stay in the order of the file.
func (c *call) order(route *Route) {
	first := -1
	for i := range c.targets {
		if c.targets[i].up.Name == c.prefer.upstream && c.prefer.upstream != "" {
			first = i
			break
		}
	}
	if first < 0 {
		first = c.choose(route)
	}
	if first > 0 {
		t := c.targets[first]
		copy(c.targets[1:first+1], c.targets[:first])
		c.targets[0] = t
	}
}

// choose asks the route's policy for a target.
func (c *call) choose(route *Route) int {
	want := keypool.Want{Hash: c.hash}
	if route.Policy == keypool.First {
		want.Hash = 0
	}
	// Targets that this client may not use, or that do not speak the operation,
	// are none to choose.
	index := make([]int, len(route.To))
	q := lookup{name: c.req.Model, client: c.client, speaks: speaks(c.req.Call.Op)}
	for i, to := range route.To {
		index[i] = -1
		for _, t := range c.r.routeTarget(&q, to, nil) {
			for j := range c.targets {
				if c.targets[j].up == t.up && c.targets[j].sent == t.sent {
					index[i] = j
				}
			}
		}
		if index[i] < 0 {
			want.Tried.Add(i)
		}
	}
	lease, err := route.pool.Take(&want)
	if err != nil {
		return 0
	}
	c.routed = lease
	return index[lease.Key()]
}

// loop makes attempts until one is committed or nothing is left to try.
func (c *call) loop() {
	c.most = math.MaxInt
	for {
		if err := c.take(); err != nil {
			c.giveUp(err)
			return
		}
		o, done := c.try()
		if done {
			return
		}
		c.blame(&o)
		if !c.goOn(&o) {
			c.giveUp(nil)
			return
		}
	}
}

// take finds a key for the next attempt, unless the last one is to be used again.
func (c *call) take() error {
	if c.lease != nil {
		return nil
	}
	var none keypool.Unavailable
	for _, last := range [...]bool{false, true} {
		err := c.takeAny(last)
		if err == nil {
			return nil
		}
		none = *err
		if err.Full {
			// Somebody's answer will soon be over.
			return c.standInLine()
		}
	}
	if !c.again() {
		return &none
	}
	if err := c.takeAny(true); err != nil {
		return err
	}
	return nil
}

// takeAny goes through the targets in order, those to be avoided last.
func (c *call) takeAny(last bool) *keypool.Unavailable {
	var none *keypool.Unavailable
	for _, avoid := range [...]bool{false, true} {
		for i := range c.targets {
			p := &c.progress[i]
			if p.avoid != avoid {
				continue
			}
			lease, err := c.targets[i].up.Pool.Take(c.want(i, last))
			if err == nil {
				c.target, c.at, c.lease = &c.targets[i], p, lease
				return nil
			}
			var u *keypool.Unavailable
			if !errors.As(err, &u) {
				u = &keypool.Unavailable{}
			}
			if none == nil {
				none = u
			} else {
				none.Join(u)
			}
		}
	}
	return none
}

func (c *call) want(i int, last bool) *keypool.Want {
	t := &c.targets[i]
	w := &keypool.Want{Model: t.sent, Tried: c.progress[i].tried, Last: last}
	if c.isBound {
		w.Hash = c.hash
	}
	if c.prefer.upstream == t.up.Name {
		w.Prefer = c.prefer.key
	}
	return w
}

// standInLine waits for a key that is at max_requests.
func (c *call) standInLine() error {
	ctx, cancel := context.WithDeadline(c.in.Context(), c.start.Add(c.r.TryDuration))
	defer cancel()
	pools := make([]*keypool.Pool, len(c.targets))
	wants := make([]*keypool.Want, len(c.targets))
	for i := range c.targets {
		pools[i], wants[i] = c.targets[i].up.Pool, c.want(i, false)
	}
	i, lease, err := keypool.Wait(ctx, pools, wants)
	if err != nil {
		return err
	}
	c.target, c.at, c.lease = &c.targets[i], &c.progress[i], lease
	return nil
}

// again allows keys that failed, and not for a reason that lasts, to be used
// once more after a pause.
func (c *call) again() bool {
	any := false
	for i := range c.progress {
		p := &c.progress[i]
		if p.fails > 0 {
			p.tried, any = p.spent.Clone(), true
		}
	}
	if !any {
		return false
	}
	if c.backoff == 0 {
		c.backoff = firstBackoff
	}
	pause := time.NewTimer(c.backoff)
	defer pause.Stop()
	c.backoff *= 2
	select {
	case <-pause.C:
		return true
	case <-c.in.Context().Done():
		return false
	}
}

// firstBackoff is the pause before a key is used again that has just failed.
const firstBackoff = 250 * time.Millisecond

// blame reports what the attempt said of its key and remembers it for this call.
func (c *call) blame(o *outcome) {
	if o.gone {
		c.endAttempt()
		return
	}
	if !o.until.IsZero() && (c.wait.IsZero() || o.until.Before(c.wait)) {
		c.wait = o.until
	}
	v := keypool.Verdict{Class: o.class, Until: o.until, Model: o.model, Reason: o.reason}
	if o.class == keypool.Failed || o.class == keypool.Unreachable {
		v.Request = c.req.Identity() | 1
		c.at.fails++
	}
	sameKey := o.next == withoutUsage || o.next == withoutReasoning || o.next == renewed
	if !sameKey {
		c.lease.Report(v)
	}
	c.logFailed(o.class, o.reason, waitField(o.until, c.r.Now())...)
	key := c.lease.Key()
	c.at.tried.Add(key)
	switch o.class {
	case keypool.Invalid, keypool.Exhausted, keypool.Limited, keypool.ModelOff:
		c.at.spent.Add(key)
	}
	switch o.next {
	case otherTarget:
		c.at.avoid = true
	case otherKey:
		c.at.avoid = c.at.avoid || !o.free && c.at.fails >= 2
	case withoutUsage:
		c.noUsage = true
		c.target.up.refusesUsage.add(c.target.sent, c.r.Now())
	case withoutReasoning:
		c.stripped = c.req.DropReasoning()
		c.body = nil
	case renewed:
		c.renewed = true
	}
	c.endAttempt()
	if !sameKey {
		c.dropLease()
	}
}

// logFailed writes the one line of an attempt that failed. It never holds what
// was asked or answered.
func (c *call) logFailed(class keypool.Class, reason string, more ...zap.Field) {
	level := zap.WarnLevel
	if class == keypool.Neutral {
		level = zap.DebugLevel // the client's own fault
	}
	if ce := c.r.Log.Check(level, "attempt failed"); ce != nil {
		ce.Write(append([]zap.Field{
			zap.String("request", c.trace.Request), zap.Int("attempt", c.trace.Attempts),
			zap.String("upstream", c.target.up.Name), zap.String("key", c.lease.Label()),
			zap.Stringer("class", class), zap.String("reason", reason),
		}, more...)...)
	}
}

func waitField(until, now time.Time) []zap.Field {
	if until.IsZero() {
		return nil
	}
	return []zap.Field{zap.Duration("wait", until.Sub(now))}
}

// goOn says whether another attempt may follow.
func (c *call) goOn(o *outcome) bool {
	if o.gone || o.next == finish || o.next == withoutReasoning && !c.stripped {
		return false
	}
	if !o.free {
		c.retries++
	}
	if o.lastTry {
		c.most = min(c.most, c.trace.Attempts+1)
	}
	return c.retries <= c.r.Retries && c.trace.Attempts < c.most &&
		c.r.Now().Sub(c.start) < c.r.TryDuration && c.in.Context().Err() == nil
}

// giveUp answers with the best that there is. err says why no key could be had;
// nil if one could, but no further attempt is allowed.
func (c *call) giveUp(err error) {
	c.settlePending(true)
	if c.in.Context().Err() != nil {
		return
	}
	var none *keypool.Unavailable
	if errors.As(err, &none) && !none.Until.IsZero() && (c.wait.IsZero() || none.Until.Before(c.wait)) {
		c.wait = none.Until
	}
	if c.last.status == 0 && c.last.err == nil {
		c.last.err = unavailable(err)
	}
	c.retryAfter()
	if c.last.err != nil {
		c.refuse(c.last.err)
		return
	}
	c.writeRefusal()
}

func unavailable(err error) *dialect.Error {
	var none *keypool.Unavailable
	switch {
	case errors.As(err, &none) && none.Limited:
		return &dialect.Error{Fault: dialect.RateLimited, Message: "every upstream key that could serve this request is over a limit"}
	case errors.As(err, &none) && none.Refused:
		return &dialect.Error{Fault: dialect.BadUpstream, Message: "the upstream refuses the gateway's credentials"}
	}
	return &dialect.Error{Fault: dialect.Unavailable, Message: "no upstream key is free to serve this request; try again in a moment"}
}

// retryAfter tells the client the earliest return that anybody named, if the
// answer is one to be asked again for.
func (c *call) retryAfter() {
	status := c.last.status
	if c.last.err != nil {
		status = c.last.err.HTTPStatus()
	}
	if c.wait.IsZero() || status != http.StatusTooManyRequests && status < 500 {
		return
	}
	if wait := c.wait.Sub(c.r.Now()); wait > 0 {
		c.w.Header()["Retry-After"] = []string{strconv.FormatInt(int64(math.Ceil(wait.Seconds())), 10)}
	}
}

func (c *call) dropLease() {
	if c.lease != nil {
		c.lease.Release()
		c.lease = nil
	}
}

// till is where every call ends, whichever way it left.
func (c *call) till() {
	c.settlePending(true)
	c.endAttempt()
	c.dropLease()
	if c.routed != nil {
		c.routed.Release()
	}
}
