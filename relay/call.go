package relay

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/dialect/translate"
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
// request; what the watchdog shares with it lies in down.
type call struct {
	passage
	answer dialect.Answer
	down   *downstream // nil if the last one had to be given up
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
	held    int64 // of Relay.buffered
	room    *room // of the request's body, if it is large

	targets   []target
	progress  []progress
	targetBuf [4]target
	progBuf   [4]progress
	routed    *keypool.Lease // the target that the route's policy chose
	home      home           // where the conversation was, or the stored response is
	missing   *dialect.Error // nobody but home has what is asked for; to be said if home is lost
	hash      uint64         // of the conversation; 0 if the request is not bound to a key
	bound     affinityKey    // the conversation

	retries int
	most    int // attempts after which there is no other
	backoff time.Duration
	wait    time.Time // the earliest return that anybody named
	last    refusal   // the best of the answers that were refusals

	// The attempt under way, or the last one.
	target     *target
	at         *progress
	lease      *keypool.Lease
	credential provider.Credential
	rec        *usage.Record // one of recs
	recs       [2]usage.Record
	open       bool          // reserved and not yet settled
	due        *estimation   // to be handed over when it is settled
	noteAt     time.Duration // when the ledger is told how far it is; since epoch
	answered   bool          // with success: answer is about this attempt
	proved     bool          // the key was reported to serve
	ctx        context.Context
	cancel     context.CancelCauseFunc
	sentAt     time.Time
	headerAt   time.Time
	op         dialect.Operation       // what the upstream is asked for
	conv       *translate.Conversation // the request in no dialect, once it was needed
	native     *dialect.Request        // instead of req, for upstreams of its dialect; nil if req serves
	translated *translate.Request      // the request, if body is a translation of it
	way        *translate.Answer       // of the answer, if it is translated
	gathered   []byte                  // of an answer that is translated as a whole
	model      string                  // what body was made for
	body       []byte
	spliced    *room           // of body, if it is large and not the client's
	tailor     provider.Tailor // whose service body was fitted to; nil if none
	sent       http.Header     // of the attempt
	asked      bool            // usage was asked for on the client's behalf
	noUsage    bool            // and must not be again
	stripped   bool            // reasoning was taken out
	renewed    bool            // the key's token was fetched anew
	lingers    bool            // the last event has passed, the upstream has not ended
	unreadable bool            // the answer cannot be translated
}

// progress is how far a call has got with one of its targets.
type progress struct {
	tried keypool.KeySet // keys that were used
	spent keypool.KeySet // keys that it makes no sense to use again
	fails int
	avoid bool // only if there is no other target
}

// Serve answers a request to an upstream's operation. The client has been
// identified and call found; trace is filled in. An answer that cannot be
// finished ends in a panic with http.ErrAbortHandler: only so does the client
// see that it was cut.
func (r *Relay) Serve(w http.ResponseWriter, in *http.Request, found *dialect.Call, client *access.Client, group string, trace *Trace) {
	c, _ := r.calls.Get().(*call)
	if c == nil {
		c = new(call)
	}
	c.r, c.w, c.in, c.client, c.group, c.trace = r, w, in, client, group, trace
	c.dialect = found.Dialect
	c.start = r.Now()
	c.most = math.MaxInt
	c.req.Call = *found
	c.req.ContentType = in.Header.Get("Content-Type")
	defer c.till()
	if err := c.readBody(); err != nil {
		if in.ProtoMajor < 2 {
			w.Header()["Connection"] = closeConn
		}
		c.refuse(r.bodyError(err))
		return
	}
	if err := c.req.Read(); err != nil {
		c.refuse(malformed(err))
		return
	}
	trace.Model = c.req.Model
	switch e := c.find(); {
	case e == errCountedHere:
		c.countHere()
	case e != nil:
		c.refuse(e)
	default:
		c.loop()
	}
}

// till is where every call ends, whichever way it left.
func (c *call) till() {
	c.endAttempt()
	c.dropLease()
	if c.routed != nil {
		c.routed.Release()
	}
	c.r.letGo(c.held)
	c.room.release()
	c.spliced.release()
	c.settlePending(true)
	// What belongs to the request is let go, buffers stay.
	r := c.r
	c.passage = passage{}
	c.answer.Reset(dialect.None, false, false)
	if c.down != nil {
		c.down.trim()
	}
	r.calls.Put(c)
}

func malformed(err error) *dialect.Error {
	var b *dialect.BadRequest
	if errors.As(err, &b) {
		return &dialect.Error{Fault: dialect.Malformed, Message: b.Message, Param: b.Param, Details: b.Details}
	}
	return &dialect.Error{Fault: dialect.Malformed, Message: err.Error()}
}

// refuse answers with an error of our own.
func (c *call) refuse(e *dialect.Error) {
	e.Request = c.trace.Request
	if e.Fault == dialect.Unavailable && c.w.Header()["Retry-After"] == nil {
		c.w.Header()["Retry-After"] = inASecond
	}
	c.trace.Status = e.HTTPStatus()
	_, _ = e.Write(c.w, c.dialect)
}

// statusLeft is what logs show of a request whose client left before its answer.
// If it is the server that ends requests, at its exit, the client is still there
// and must not take silence for success.
const statusLeft = 499

// deserted ends a call whose client has gone, or which the server gives up,
// before anything was answered.
func (c *call) deserted() { c.w.WriteHeader(statusLeft) }

// find looks for the targets, and for what binds the request to one of them.
func (c *call) find() *dialect.Error {
	op := c.req.Call.Op
	if op == dialect.StoredResponse {
		return c.mapStored(c.req.Call.ID, "", "the response "+quoted(c.req.Call.ID)+" was not found")
	}
	q := lookup{name: c.req.Model, client: c.client, op: op}
	var route *Route
	c.targets, route = c.r.resolve(&q, c.targetBuf[:0])
	if len(c.targets) == 0 {
		return c.noTarget(&q)
	}
	if c.req.PreviousID != "" {
		return c.mapStored(c.req.PreviousID, "previous_response_id",
			"the previous response "+quoted(c.req.PreviousID)+" was not found")
	}
	c.begin(c.targets)
	c.bind(route)
	if len(c.targets) > 1 {
		c.order(route)
	}
	return nil
}

// begin sets out for the targets.
func (c *call) begin(targets []target) {
	c.targets, c.progress = targets, c.progBuf[:]
	if len(targets) > len(c.progBuf) {
		c.progress = make([]progress, len(targets))
	}
	c.progress = c.progress[:len(targets)]
}

// noTarget says why nothing can serve the request.
func (c *call) noTarget(q *lookup) *dialect.Error {
	q.op = dialect.None
	if any, _ := c.r.resolve(q, nil); len(any) > 0 {
		if translate.KindOf(c.req.Call.Op) == translate.Counting {
			return errCountedHere
		}
		return &dialect.Error{
			Fault: dialect.NoModel, Param: "model",
			Message: "no upstream that serves the model " + quoted(c.req.Model) + " offers " + c.req.Call.Op.String(),
		}
	}
	return noModel(c.req.Model)
}

func noModel(name string) *dialect.Error {
	return &dialect.Error{
		Fault: dialect.NoModel, Param: "model",
		Message: "the model " + quoted(name) + " does not exist or this key may not use it",
	}
}

// mapStored narrows the targets to the key that keeps a response. Only its maker
// has it, and only its client may have it.
func (c *call) mapStored(id, param, message string) *dialect.Error {
	missing := &dialect.Error{Fault: dialect.NotFound, Message: message, Param: param}
	if param != "" {
		missing.Code = "previous_response_not_found"
	}
	at, ok := c.r.Affinity.find(responseKey(c.client.Name, id), c.r.Now())
	u := c.r.byName[at.upstream]
	if !ok || u == nil || !c.client.MayUse(u.Name) {
		return missing
	}
	if param == "" {
		c.targets = append(c.targetBuf[:0], target{up: u, model: otherModel})
	}
	i := slices.IndexFunc(c.targets, func(t target) bool { return t.up == u })
	key := slices.Index(u.KeyIDs, at.key)
	if i < 0 || key < 0 {
		return missing
	}
	c.begin(c.targets[i : i+1])
	c.home, c.missing = at, missing
	for other := range u.KeyIDs {
		if other != key { // no other key has it
			c.progress[0].spent.Add(other)
		}
	}
	c.progress[0].tried = c.progress[0].spent.Clone()
	return nil
}

// bind looks whether the request should go where its conversation was.
func (c *call) bind(route *Route) {
	sticky := route != nil && route.Policy == keypool.Sticky
	for i := range c.targets {
		sticky = sticky || c.targets[i].up.Sticky
	}
	if !c.req.Bound && !sticky {
		return
	}
	if !c.named() {
		return
	}
	for _, b := range c.bound[:8] {
		c.hash = c.hash<<8 | uint64(b)
	}
	c.hash |= 1 // zero would mean none
	c.home, _ = c.r.Affinity.find(c.bound, c.r.Now())
}

// named makes the conversation's name; false if it has none.
func (c *call) named() bool {
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
		return false
	}
	c.bound = digest("conversation", c.client.Name, name)
	return true
}

// order puts the target first where the conversation was, else the one that the
// route's policy chooses. The others stay in the order of the file.
func (c *call) order(route *Route) {
	first := slices.IndexFunc(c.targets, func(t target) bool { return t.up.Name == c.home.upstream })
	if first < 0 && route != nil && route.Policy != keypool.First {
		first = c.choose(route)
	}
	if first > 0 {
		t := c.targets[first]
		copy(c.targets[1:first+1], c.targets[:first])
		c.targets[0] = t
	}
}

// choose asks the route's policy for a target, among those whose lines left one.
func (c *call) choose(route *Route) int {
	want := keypool.Want{Hash: c.hash}
	at := func(line int) int {
		return slices.IndexFunc(c.targets, func(t target) bool { return t.line == line })
	}
	for line := range route.To {
		if at(line) < 0 {
			want.Tried.Add(line)
		}
	}
	lease, err := route.pool.Take(&want)
	if err != nil {
		return 0
	}
	c.routed = lease
	return at(lease.Key())
}

// loop makes attempts until one is committed or nothing is left to try.
func (c *call) loop() {
	for {
		if err := c.take(); err != nil {
			c.giveUp(err)
			return
		}
		o, done := c.try()
		if done {
			return
		}
		if o.gone {
			c.deserted()
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
	c.noUsage, c.renewed = false, false
	var none *keypool.Unavailable
	for _, last := range [...]bool{false, true} {
		if none = c.takeAny(last); none == nil {
			return nil
		}
		if none.Full {
			// Somebody's answer will soon be over.
			return c.standInLine(last)
		}
	}
	if c.again() {
		if none = c.takeAny(true); none == nil {
			return nil
		}
	}
	return none
}

// takeAny goes through the targets in order, those to be avoided last.
func (c *call) takeAny(last bool) *keypool.Unavailable {
	var none *keypool.Unavailable
	for _, avoid := range [...]bool{false, true} {
		for i := range c.targets {
			if c.progress[i].avoid != avoid {
				continue
			}
			want := c.want(i, last)
			lease, err := c.targets[i].up.Pool.Take(&want)
			if err == nil {
				c.use(i, lease)
				return nil
			}
			var u *keypool.Unavailable
			switch {
			case !errors.As(err, &u): // Take knows no other error
			case none == nil:
				none = u
			default:
				none.Join(u)
			}
		}
	}
	return none
}

func (c *call) use(i int, lease *keypool.Lease) {
	c.target, c.at, c.lease = &c.targets[i], &c.progress[i], lease
}

func (c *call) want(i int, last bool) keypool.Want {
	t := &c.targets[i]
	w := keypool.Want{Model: t.sent, Tried: c.progress[i].tried, Hash: c.hash, Last: last}
	if c.home.upstream == t.up.Name {
		w.Prefer = c.home.key
	}
	return w
}

// timeLeft is how long further attempts may still start.
func (c *call) timeLeft() time.Duration { return c.r.TryDuration - c.r.Now().Sub(c.start) }

// standInLine waits for a key that is at max_requests.
func (c *call) standInLine(last bool) error {
	ctx, cancel := context.WithTimeout(c.in.Context(), c.timeLeft())
	defer cancel()
	pools := make([]*keypool.Pool, len(c.targets))
	wants := make([]*keypool.Want, len(c.targets))
	for i := range c.targets {
		want := c.want(i, last)
		pools[i], wants[i] = c.targets[i].up.Pool, &want
	}
	i, lease, err := keypool.Wait(ctx, pools, wants)
	if err != nil {
		return err
	}
	c.use(i, lease)
	return nil
}

// firstBackoff is the pause before a key is used again that has just failed.
const firstBackoff = 250 * time.Millisecond

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
	c.backoff = max(2*c.backoff, firstBackoff)
	if !any || c.backoff >= c.timeLeft() {
		return false
	}
	pause := time.NewTimer(c.backoff)
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-c.in.Context().Done():
		return false
	}
}

// blame reports what the attempt said of its key and remembers it for this call.
func (c *call) blame(o *outcome) {
	c.endAttempt()
	c.logFailed(o.class, o.reason, o.until)
	if !o.until.IsZero() && (c.wait.IsZero() || o.until.Before(c.wait)) {
		c.wait = o.until
	}
	switch o.next {
	case withoutUsage:
		c.noUsage = true
		c.target.up.refusesUsage.add(c.target.sent, c.r.Now())
		return
	case withoutReasoning:
		c.stripped = c.translated != nil || c.req.DropReasoning()
		c.conv, c.native = nil, nil
		c.setBody(nil, nil)
		return
	case withFreshToken:
		c.renewed = true
		return
	}
	key := c.lease.Key()
	c.at.tried.Add(key)
	switch o.class {
	case keypool.Failed, keypool.Unreachable:
		c.at.fails++
	case keypool.Invalid, keypool.Exhausted, keypool.Limited, keypool.ModelOff:
		c.at.spent.Add(key)
	}
	c.lease.Report(c.verdict(o))
	if o.unfit {
		for other := range c.target.up.KeyIDs {
			c.at.tried.Add(other)
			c.at.spent.Add(other)
		}
	}
	if o.next == otherTarget || o.next == otherKey && c.failsHere() >= 2 {
		for i := range c.targets {
			if c.targets[i].up == c.target.up {
				c.progress[i].avoid = true
			}
		}
	}
	c.dropLease()
}

func (c *call) verdict(o *outcome) keypool.Verdict {
	v := keypool.Verdict{Class: o.class, Until: o.until, Model: o.model, Reason: o.reason}
	if o.class == keypool.Failed || o.class == keypool.Unreachable {
		v.Request = c.req.Identity() | 1 // zero would be a request like no other
	}
	return v
}

// failsHere counts the attempts that failed at the target's upstream.
func (c *call) failsHere() int {
	n := 0
	for i := range c.targets {
		if c.targets[i].up == c.target.up {
			n += c.progress[i].fails
		}
	}
	return n
}

// logFailed writes the one line of an attempt that failed. It never holds what
// was asked or answered.
func (c *call) logFailed(class keypool.Class, reason string, until time.Time) {
	level := zap.WarnLevel
	if class == keypool.Neutral {
		level = zap.DebugLevel // the client's own fault
	}
	ce := c.r.Log.Check(level, "attempt failed")
	if ce == nil {
		return
	}
	fields := []zap.Field{
		zap.String("request", c.trace.Request), zap.Int("attempt", c.trace.Attempts),
		zap.String("upstream", c.target.up.Name), zap.String("key", c.lease.Label()),
		zap.Stringer("class", class), zap.String("reason", reason),
	}
	if !until.IsZero() {
		fields = append(fields, zap.Duration("wait", until.Sub(c.r.Now())))
	}
	ce.Write(fields...)
}

// goOn says whether another attempt may follow.
func (c *call) goOn(o *outcome) bool {
	if o.next == finish || o.next == withoutReasoning && !c.stripped {
		return false
	}
	if !o.free {
		c.retries++
	}
	if o.lastTry {
		c.most = min(c.most, c.trace.Attempts+1)
	}
	return c.retries <= c.r.Retries && c.trace.Attempts < c.most && c.timeLeft() > 0 && c.in.Context().Err() == nil
}

func (c *call) dropLease() {
	if c.lease != nil {
		c.lease.Release()
		c.lease = nil
	}
}
