package relay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/access"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/usage"
)

// Until the time that a 429 names, in whatever form, the key gets no request, and
// the first one from then on is its own again. Nothing needs a restart.
func TestLimitedKeyComesBack(t *testing.T) {
	const limit = "rate_limit_exceeded"
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		wait   time.Duration
	}{
		{"seconds", fails(429, limit, "Retry-After", "7"), 7 * time.Second},
		{"HTTP date", fails(429, limit, "Retry-After", "Sun, 22 Nov 2026 12:01:30 GMT"), 90 * time.Second},
		{"retry-after-ms", fails(429, limit, "Retry-After-Ms", "1500"), 1500 * time.Millisecond},
		{"x-ms-retry-after-ms", fails(429, limit, "X-Ms-Retry-After-Ms", "250"), 250 * time.Millisecond},
		{"RetryInfo", says(429, `{"error":{"code":429,"message":"quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"22s"}]}}`), 22 * time.Second},
		{"reset of requests", fails(429, limit, "X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "6m0s"), 6 * time.Minute},
		{"reset of tokens", fails(429, limit, "X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Reset-Tokens", "12ms"), 12 * time.Millisecond},
		{"reset, epoch", fails(429, limit, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1795348860"), time.Minute},
		{"anthropic reset", fails(429, limit, "Anthropic-Ratelimit-Input-Tokens-Remaining", "0", "Anthropic-Ratelimit-Input-Tokens-Reset", "2026-11-22T12:00:42Z"), 42 * time.Second},
		{"text", says(429, problem(limit, "Rate limit reached. Please try again in 1.2s.")), 1200 * time.Millisecond},
		{"text of Azure", says(429, problem(limit, "Please retry after 6 seconds.")), 6 * time.Second},
		{"quota", fails(429, "insufficient_quota", "Retry-After", "3600"), time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1 a2")
			alone := s.upstream("alone", m.URL, "b1")
			s.route("one", keypool.First, RouteTarget{Upstream: "alone", Model: "m"})
			s.route("m", keypool.First, RouteTarget{Upstream: "a", Model: "m"})
			m.on("a1", tt.answer)
			m.on("b1", tt.answer)
			g := s.start()
			ask := func(model string) got { return g.post("/v1/chat/completions", `{"model":"`+model+`"}`) }
			ask("m").wants(t, 200, "hi") // of a2
			ask("one").wants(t, 429, "") // of b1
			s.clock.advance(tt.wait - 1) // a nanosecond before
			ask("m").wants(t, 200, "hi") // of a2 still
			res := ask("one")            // nobody is asked, not even as the last resort
			res.wants(t, 429, "over a limit")
			if got := res.header.Get("Retry-After"); got != "1" {
				t.Errorf("Retry-After %q a nanosecond before the time", got)
			}
			s.clock.advance(1)
			ask("m").wants(t, 200, "hi")
			ask("one").wants(t, 200, "hi")
			if got := m.keys(); got != "a1 a2 b1 a2 a1 b1" {
				t.Error(got)
			}
			wantIdle(t, a, alone)
		})
	}
}

// A key that was refused comes back by itself once it is mended, after 10 min or
// 20, and no client sees the probes.
func TestRefusedKeyComesBack(t *testing.T) {
	for _, status := range []int{401, 402} {
		s := newSetup(t)
		m := newMock(t)
		a := s.upstream("a", m.URL, "a1 a2")
		m.on("a1", fails(status, ""), fails(status, ""), nil)
		g := s.start()
		start, asked := s.clock.Now(), 0
		var at []time.Duration
		for range 35 {
			g.chat().wants(t, 200, "hi")
			for _, c := range m.seen()[asked:] {
				if c.key == "a1" {
					at = append(at, s.clock.Now().Sub(start))
				}
				asked++
			}
			s.clock.advance(time.Minute)
		}
		want := []time.Duration{0, 10 * time.Minute, 30 * time.Minute, 31 * time.Minute, 32 * time.Minute, 33 * time.Minute, 34 * time.Minute}
		if !slices.Equal(at, want) {
			t.Errorf("%d: a1 was asked at %v, want %v", status, at, want)
		}
		if got := states(a); got != "a1 ok, a2 ok" {
			t.Error(got)
		}
	}
}

// sky is what a key does at a time.
type sky uint8

const (
	sunny       sky = iota
	failing500      // 500
	limiting        // 429 with the time of its end
	limitingOwn     // 429 that names no time
	refusing        // 401
	hanging         // no answer
	cutting         // before content
	cuttingLate     // after it
	unreachable     // refuses connections
)

// spell is a stretch of one sky over a key; times count from the start.
type spell struct {
	from, to time.Duration
	sky      sky
}

// Three storms in half an hour, and the calm between them.
var storms = [...]spell{
	{from: 2 * time.Minute, to: 4 * time.Minute},
	{from: 10 * time.Minute, to: 12*time.Minute + 30*time.Second},
	{from: 18 * time.Minute, to: 21 * time.Minute},
}

const (
	weatherEnd = 30 * time.Minute
	// calmed is how long after a storm the longest wait of our own may last: each
	// is at most twice as long as all before it, and those fell into the storm.
	calmed = 4 * time.Minute
	// soon is how long it may take at most, by the traffic, until a key gets its turn.
	soon = 20 * time.Second
)

// strike is one attempt in the weather's own record.
type strike struct {
	at, end time.Duration
	request int
	key     int // over all upstreams
	sky     sky
	until   time.Duration // that it named
	in, out int64
}

// weather is three upstreams of five keys without a network, and a record of what
// each attempt met there.
type weather struct {
	start  time.Time
	spells [15][]spell

	mu      sync.Mutex
	rand    *rand.Rand
	strikes []strike
}

func newWeather(seed uint64) *weather {
	w := &weather{start: time.Now(), rand: rand.New(rand.NewPCG(seed, 1))}
	for _, storm := range storms {
		for key := range w.spells {
			for at := storm.from; at < storm.to; {
				length := time.Duration(2+w.rand.IntN(40)) * time.Second
				next := spell{at, min(at+length, storm.to), sky(w.rand.IntN(int(unreachable)))}
				if w.rand.IntN(5) < 2 || next.sky == refusing && key%5 != 1 && key%5 != 4 {
					next.sky = sunny // a refused key may be out for long: not too many of them
				}
				w.spells[key] = append(w.spells[key], next)
				at = next.to
			}
		}
		// A whole upstream goes, for half of the storm.
		gone := w.rand.IntN(3)
		for key := 5 * gone; key < 5*gone+5; key++ {
			w.spells[key] = append(w.spells[key], spell{storm.from, (storm.from + storm.to) / 2, unreachable})
		}
	}
	return w
}

func (w *weather) now() time.Duration { return time.Since(w.start) }

// over returns what is over a key at a time, and until when. Of two spells the
// later in the list counts.
func (w *weather) over(key int, at time.Duration) (sky, time.Duration) {
	for _, s := range slices.Backward(w.spells[key]) {
		if s.from <= at && at < s.to {
			return s.sky, s.to
		}
	}
	return sunny, weatherEnd
}

// upstream is the transport of one of the three.
func (w *weather) upstream(first int) trip {
	return func(req *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		_, user, _ := strings.Cut(string(body), `"user":"`)
		user, _, _ = strings.Cut(user, `"`)
		request, err := strconv.Atoi(user)
		if err != nil {
			return nil, err
		}
		label := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer sk-")
		key := first + int(label[1]-'1')
		w.mu.Lock()
		at := w.now()
		sky, until := w.over(key, at)
		n := len(w.strikes)
		w.strikes = append(w.strikes, strike{at: at, request: request, key: key, sky: sky, in: int64(w.rand.IntN(1000) + 1), out: int64(w.rand.IntN(500) + 1)})
		mine := w.strikes[n]
		took := time.Duration(50+w.rand.IntN(400)) * time.Millisecond
		w.mu.Unlock()
		end := func(f func(*strike)) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.strikes[n].end = w.now()
			if f != nil {
				f(&w.strikes[n])
			}
		}
		stream := strings.Contains(string(body), `"stream":true`)
		switch sky {
		case unreachable:
			end(nil)
			return nil, errors.New("connection refused")
		case hanging:
			<-req.Context().Done()
			end(nil)
			return nil, req.Context().Err()
		}
		time.Sleep(took)
		answer := func(status int, code string) (*http.Response, error) {
			end(nil)
			return respond(status, "application/json", readCloser(problem(code, "it storms"))), nil
		}
		numbers := fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, mine.in, mine.out, mine.in+mine.out)
		switch sky {
		case failing500:
			return answer(500, "server_error")
		case refusing:
			return answer(401, "invalid_api_key")
		case limitingOwn:
			return answer(429, "rate_limit_exceeded")
		case limiting:
			res, err := answer(429, "rate_limit_exceeded")
			if left := until - w.now(); left > 0 {
				end(func(s *strike) { s.until = until })
				res.Header.Set("Retry-After-Ms", strconv.FormatFloat(float64(left)/float64(time.Millisecond), 'f', -1, 64))
			}
			return res, err
		case cutting, cuttingLate:
			end(nil)
			text := chunkRole
			if sky == cuttingLate {
				text += chunkWord
			}
			return respond(200, "text/event-stream", cutBody(text)), nil
		}
		end(nil)
		if stream {
			last := `data: {"id":"chatcmpl-2","model":"gpt-5-2026","choices":[],` + numbers + "}\n\n"
			return respond(200, "text/event-stream", readCloser(chunkRole+chunkWord+chunkFinish+last+chunkDone)), nil
		}
		return respond(200, "application/json", readCloser(`{"id":"chatcmpl-1","model":"gpt-5-2026","choices":[{"message":{"content":"word"},"finish_reason":"stop"}],`+numbers+`}`)), nil
	}
}

// cutBody is a body that breaks off behind its text.
func cutBody(text string) io.ReadCloser {
	return io.NopCloser(io.MultiReader(strings.NewReader(text), failingReader{io.ErrUnexpectedEOF}))
}

// answered is how a request ended for its client.
type answered struct {
	request int
	id      string
	end     time.Duration
	status  int
	aborted bool
	body    string
}

// Half an hour of weather over three upstreams of five keys, in a few seconds:
//   - a client gets an error only where the rules left no attempt that would have
//     served, judged by what the weather knows of each key at that instant;
//   - no attempt goes to a key in a wait that it named, and nobody waits longer
//     than the rules say for a key that could serve;
//   - in the calm the shares are those of the weights;
//   - the account holds what the weather did: each attempt, each token.
func TestWeather(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { weatherOf(t, seed) })
		})
	}
}

var (
	keyWeights = [15]int{1, 2, 3, 2, 1, 1, 1, 1, 1, 1, 4, 3, 2, 1, 1}
	upWeights  = [3]int{3, 2, 1}
)

func weatherOf(t *testing.T, seed uint64) {
	w := newWeather(seed)
	s := newSetup(t)
	s.config.Now = time.Now
	jitter := rand.New(rand.NewPCG(seed, 2))
	var ups []*Upstream
	var to []RouteTarget
	for i, name := range []string{"a", "b", "c"} {
		labels := fmt.Sprintf("%[1]s1 %[1]s2 %[1]s3 %[1]s4 %[1]s5", name)
		up := s.upstream(name, "http://"+name+".example", labels, synctestClock, withPolicy(keypool.WeightedRoundRobin), withTransport(w.upstream(5*i)))
		keys := make([]keypool.Key, 5)
		for k := range keys {
			keys[k] = keypool.Key{Label: fmt.Sprint(name, k+1), ID: up.KeyIDs[k], Weight: keyWeights[5*i+k]}
		}
		up.Pool = keypool.New(keypool.Config{Name: name, Keys: keys, Policy: keypool.WeightedRoundRobin, Health: s.health, Now: time.Now, Rand: jitter.Float64})
		up.FirstByte = 3 * time.Second
		ups = append(ups, up)
		to = append(to, RouteTarget{Upstream: name, Model: "gpt-5", Weight: upWeights[i]})
	}
	s.route("m", keypool.WeightedRoundRobin, to...)
	r, books, _ := s.make()

	var mu sync.Mutex
	var answers []answered
	next := 0
	var clients sync.WaitGroup
	for c := range 12 {
		clients.Go(func() {
			client := &access.Client{Name: fmt.Sprint("client", c)}
			think := rand.New(rand.NewPCG(seed, uint64(100+c)))
			for w.now() < weatherEnd {
				mu.Lock()
				n := next
				next++
				mu.Unlock()
				body := fmt.Sprintf(`{"model":"m","stream":%v,"user":"%d","messages":[]}`, n%2 == 0, n)
				a := w.ask(r, client, n, body)
				mu.Lock()
				answers = append(answers, a)
				mu.Unlock()
				time.Sleep(time.Duration(think.IntN(1600)) * time.Millisecond)
			}
		})
	}
	clients.Wait()
	wantIdle(t, ups...)

	log := &weatherLog{T: t, weather: w, byRequest: make([][]strike, next), byKey: make([][]strike, 15)}
	for _, st := range w.strikes {
		log.byRequest[st.request] = append(log.byRequest[st.request], st)
		log.byKey[st.key] = append(log.byKey[st.key], st)
	}
	failed := 0
	for i := range answers {
		failed += log.judge(&answers[i])
	}
	log.account(answers, books.records())
	log.waits()
	log.shares()
	t.Logf("%d requests, %d attempts, %d of them errors that the rules leave no way around", next, len(w.strikes), failed)
	if failed*100 > next {
		t.Errorf("%d errors: the weather is too bad to show anything", failed)
	}
}

// ask makes one request and notes how it ended.
func (w *weather) ask(r *Relay, client *access.Client, n int, body string) (a answered) {
	call, in, leave := inMemory("/v1/chat/completions", body)
	defer leave()
	sink, trace := newSink(), Trace{Request: NewRequestID()}
	func() {
		defer func() {
			if p := recover(); p == http.ErrAbortHandler {
				a.aborted = true
			} else if p != nil {
				panic(p)
			}
		}()
		r.Serve(sink, in, call, client, "", &trace)
	}()
	a.request, a.id, a.end, a.status, a.body = n, trace.Request, w.now(), sink.status, sink.body.String()
	return a
}

// weatherLog judges by the weather's record.
type weatherLog struct {
	*testing.T
	*weather
	byRequest, byKey [][]strike
}

// judge returns 1 if the client got an error, which the rules must have left no
// way around.
func (l *weatherLog) judge(a *answered) int {
	all := l.byRequest[a.request]
	last := sunny
	if len(all) > 0 {
		last = all[len(all)-1].sky
	}
	switch {
	case a.status == 200 && a.aborted:
		if last != cuttingLate {
			l.Errorf("request %d was cut, but not by the weather: %+v", a.request, all)
		}
		return 0
	case a.status == 200:
		if last != sunny || !strings.Contains(a.body, "word") || !strings.Contains(a.body, "stop") {
			l.Errorf("request %d: a good end for %+v: %s", a.request, all, a.body)
		}
		return 0
	}
	retries, allowed := 0, len(all)
	for i, st := range all {
		switch st.sky {
		case sunny, cuttingLate:
			l.Errorf("request %d got %d though it was served: %+v", a.request, a.status, all)
		case failing500, cutting, unreachable:
			retries++
		case hanging:
			retries++
			allowed = min(allowed, i+1) // one more attempt, and no further
		}
	}
	if retries > DefaultRetries || allowed < len(all) {
		return 1
	}
	for key := range l.byKey {
		if sky, _ := l.over(key, a.end); sky == sunny && !l.excused(key, all, a.end) {
			l.Errorf("request %d got %d at %v though key %d would have served: %+v", a.request, a.status, a.end, key, all)
		}
	}
	return 1
}

// excused says whether the rules leave a key out that could serve: it has told
// this request that it could not, or it was refused, and somebody has looked less
// than 10 s ago whether it still is.
func (l *weatherLog) excused(key int, mine []strike, now time.Duration) bool {
	for _, st := range mine {
		if st.key == key && (st.sky == refusing || st.sky == limiting || st.sky == limitingOwn) {
			return true
		}
	}
	refused := false
	latest := time.Duration(-1)
	for _, st := range l.byKey[key] {
		if st.at > now {
			break
		}
		latest = st.at
		if st.end <= now {
			refused = st.sky == refusing || refused && st.sky != sunny
		}
	}
	return refused && now-latest < 10*time.Second
}

// account compares the books with the weather, attempt by attempt.
func (l *weatherLog) account(answers []answered, records []usage.Record) {
	booked := map[string][]usage.Record{}
	for _, rec := range records {
		booked[rec.Request] = append(booked[rec.Request], rec)
	}
	total := 0
	for i := range answers {
		a := &answers[i]
		all, recs := l.byRequest[a.request], booked[a.id]
		total += len(recs)
		if len(all) != len(recs) {
			l.Errorf("request %d: %d attempts, %d booked", a.request, len(all), len(recs))
			continue
		}
		for n, rec := range recs {
			st := all[n]
			label := fmt.Sprint(string(rune('a'+st.key/5)), st.key%5+1)
			if rec.Key != label || rec.Attempt != n+1 || rec.Final != (n == len(recs)-1) || rec.Outcome != outcomeUnder[st.sky] {
				l.Errorf("request %d, attempt %d: booked %+v for %+v", a.request, n+1, rec, st)
			}
			if st.sky == sunny && (rec.Tokens.Input != st.in || rec.Tokens.Output != st.out || rec.Source != usage.Upstream) {
				l.Errorf("request %d, attempt %d: booked %+v %v for %d and %d tokens", a.request, n+1, rec.Tokens, rec.Source, st.in, st.out)
			}
		}
	}
	if total != len(records) || total != len(l.strikes) {
		l.Errorf("%d attempts, %d booked, %d of known requests", len(l.strikes), len(records), total)
	}
}

var outcomeUnder = [...]usage.Outcome{
	sunny: usage.Served, failing500: usage.Refused, limiting: usage.Refused, limitingOwn: usage.Refused, refusing: usage.Refused,
	hanging: usage.Failed, cutting: usage.Cut, cuttingLate: usage.Cut, unreachable: usage.Failed,
}

// waits holds that no key is used in a wait that it named, and that none is idle
// for longer than the rules allow while it could serve.
func (l *weatherLog) waits() {
	for key, all := range l.byKey {
		var named, told time.Duration // the latest wait and when it was named
		var refusedAt, refusedFor, refusedUntil time.Duration
		previous := time.Duration(0)
		for _, st := range all {
			if st.at > told && st.at < named {
				l.Errorf("key %d was used at %v, in the wait until %v that it had named at %v", key, st.at, named, told)
			}
			l.idle(key, previous, st.at, named, refusedUntil)
			previous = st.at
			switch st.sky {
			case limiting:
				if st.until > named {
					named, told = st.until, st.end
				}
			case refusing:
				// A try of the last resort does not lengthen the wait.
				if st.at >= refusedUntil {
					refusedFor = max(2*refusedFor, 10*time.Minute)
					refusedAt, refusedUntil = st.end, st.end+refusedFor
				}
			case sunny:
				if st.at >= refusedAt { // else it began before, and proves nothing
					refusedFor, refusedUntil = 0, 0
				}
			}
		}
		l.idle(key, previous, weatherEnd, named, refusedUntil)
	}
}

// idle holds the time between two attempts at a key against what excuses it.
func (l *weatherLog) idle(key int, from, to, named, refused time.Duration) {
	could := max(from, named, refused) // from then on it should be used
	for _, storm := range storms {
		if could+soon >= storm.from && could < storm.to+calmed {
			could = storm.to + calmed
		}
	}
	if to > could+soon {
		l.Errorf("key %d, which could serve from %v on, was not used from %v to %v", key, could, from, to)
	}
}

// shares holds the shares of the calm against the weights.
func (l *weatherLog) shares() {
	calm := []spell{{from: 0, to: storms[0].from}}
	for i, storm := range storms {
		end := weatherEnd
		if i+1 < len(storms) {
			end = storms[i+1].from
		}
		calm = append(calm, spell{from: storm.to + calmed + soon, to: end})
	}
	for _, c := range calm {
		counts := [15]int{}
		for key, all := range l.byKey {
			for _, st := range all {
				if st.at >= c.from && st.at < c.to {
					counts[key]++
				}
				if st.at >= c.from && st.at < c.to && st.sky != sunny {
					l.Errorf("no calm: %+v", st)
				}
			}
		}
		var perUp [3]float64
		for up := range perUp {
			var here []int // keys that were in use all the time
			sum, weights := 0, 0
			for key := 5 * up; key < 5*up+5; key++ {
				perUp[up] += float64(counts[key])
				if l.inUse(key, c) {
					here = append(here, key)
					sum += counts[key]
					weights += keyWeights[key]
				}
			}
			for _, key := range here {
				l.near(fmt.Sprintf("key %d from %v to %v", key, c.from, c.to), counts[key], sum, keyWeights[key], weights)
			}
			if len(here) < 2 {
				l.Errorf("upstream %d has %d keys in use from %v to %v: the test shows nothing", up, len(here), c.from, c.to)
			}
		}
		for up, n := range perUp {
			l.near(fmt.Sprintf("upstream %d from %v to %v", up, c.from, c.to), int(n), int(perUp[0]+perUp[1]+perUp[2]), upWeights[up], 6)
		}
	}
}

// inUse says whether a key was used from the beginning of a calm on.
func (l *weatherLog) inUse(key int, c spell) bool {
	first, found := slices.BinarySearchFunc(l.byKey[key], c.from, func(st strike, at time.Duration) int { return cmp.Compare(st.at, at) })
	return found || first < len(l.byKey[key]) && l.byKey[key][first].at < c.from+soon
}

// near holds a share to within 5 %, and one request more for its being whole.
func (l *weatherLog) near(what string, n, sum, weight, weights int) {
	want := float64(sum) * float64(weight) / float64(weights)
	if math.Abs(float64(n)-want) > 0.05*want+1 {
		l.Errorf("%s: %d of %d requests, want %.1f", what, n, sum, want)
	}
}
