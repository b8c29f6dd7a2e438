package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/keypool"
)

// wire is a network without sockets: a real transport talks over it to a real
// server, and both live by the time of a synctest bubble.
type wire struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newWire() *wire { return &wire{conns: make(chan net.Conn), done: make(chan struct{})} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.done) })
	return nil
}

func (w *wire) Addr() net.Addr { return &net.UnixAddr{Name: "wire", Net: "unix"} }

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case w.conns <- there:
		return here, nil
	case <-w.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// transport is one over the wire. It is closed with the test.
func (w *wire) transport(t *testing.T) *http.Transport {
	tr := &http.Transport{DialContext: w.dial, MaxIdleConnsPerHost: 1000}
	t.Cleanup(func() {
		_ = w.Close()
		tr.CloseIdleConnections()
	})
	return tr
}

// serve answers what comes over the wire until the test ends.
func (w *wire) serve(t *testing.T, answer http.HandlerFunc) {
	srv := &http.Server{Handler: answer}
	t.Cleanup(func() { _ = srv.Close() })
	go func() { _ = srv.Serve(w) }()
}

// spoiled answers the requests that speak of poison as the poison has it, and
// all others well, after the time that answers take.
func spoiled(poison http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if strings.Contains(string(body), "poison") {
			poison(w, r)
			return
		}
		time.Sleep(answerTime)
		wellFor(r.URL.Path, string(body))(w, r)
	}
}

// answerTime is how long good answers take.
const answerTime = 20 * time.Millisecond

// crowd is one client that sends poison without a pause, again after each failure
// as SDKs do, beside 31 with ordinary requests, which are silent at times. It
// holds the gateway to its promise to those: none fails, and none waits.
type crowd struct {
	*setup
	relay *Relay
	books *books
	ups   []*Upstream

	mu      sync.Mutex
	changes []keypool.Change
}

func newCrowd(t *testing.T, policy keypool.Policy, poison http.HandlerFunc) *crowd {
	c := &crowd{setup: newSetup(t)}
	c.config.Now = time.Now
	w := newWire()
	w.serve(t, spoiled(poison))
	tr := w.transport(t)
	c.ups = append(c.ups, c.upstream("a", "http://a.example", "a1 a2 a3 a4 a5 a6 a7 a8", synctestClock, withPolicy(policy), withTransport(tr.RoundTrip),
		func(_ *Upstream, k *keypool.Config) {
			k.OnChange = func(change keypool.Change) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.changes = append(c.changes, change)
			}
		}))
	c.relay, c.books, _ = c.make()
	return c
}

// live lets everybody send for a while. poison makes the body of the n-th request
// of the poisoner, whose answer has to have that status.
func (c *crowd) live(poison func(n int) string, status int) {
	start := time.Now()
	const long = 5 * time.Second
	over := func() bool { return time.Since(start) > long }
	var all sync.WaitGroup
	for client := range 31 {
		all.Go(func() {
			time.Sleep(time.Duration(client) * time.Millisecond)
			for n := 0; !over(); n++ {
				body := fmt.Sprintf(`{"model":"gpt-5","stream":%v,"messages":[{"role":"user","content":"%d %d"}]}`, n%3 == 0, client, n)
				begin := time.Now()
				q := c.run(c.relay, "/v1/chat/completions", body)
				<-q.done
				q.leave()
				if q.sink.status != 200 || q.aborted || q.trace.Attempts != 1 || time.Since(begin) != answerTime {
					c.t.Errorf("an ordinary request got %d after %d attempts and %v: %s", q.sink.status, q.trace.Attempts, time.Since(begin), q.sink.body.String())
					return
				}
				// Everybody is silent for a second at times, and the poisoner alone.
				time.Sleep(100 * time.Millisecond)
				if now := time.Since(start) % (2 * time.Second); now > time.Second {
					time.Sleep(2*time.Second - now)
				}
			}
		})
	}
	all.Go(func() {
		for n := 0; !over(); n++ {
			for range 3 { // an SDK's two retries
				q := c.run(c.relay, "/v1/chat/completions", poison(n))
				<-q.done
				q.leave()
				if q.sink.status != status && !q.aborted {
					c.t.Errorf("the poison got %d, want %d: %s", q.sink.status, status, q.sink.body.String())
					return
				}
				if (status == 400 || status == 403) && q.trace.Attempts != 1 {
					c.t.Errorf("the client's own fault was tried %d times", q.trace.Attempts)
				}
				if status < 500 && status != 429 {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	all.Wait()
	wantIdle(c.t, c.ups...)
}

// A request that nobody can serve, sent again and again, takes no key away.
func TestPoisonTakesNoKey(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
	}{
		{"moderated", fails(403, "content_policy_violation"), 403},
		{"moderated in the stream", events(chunkRole, `data: {"error":{"message":"no","type":"invalid_request_error","code":"content_filter"}}`+"\n\n"), 400},
		{"crashes the upstream", fails(500, ""), 500},
		{"gateway time-out", says(504, "<html>", "Content-Type", "text/html"), 504},
		{"crashes with its connection", cutOff, 502},
		{"broken chunking", raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"id\"\r\nzz\r\n"), 502},
		{"cut before content", then(events(chunkRole), cutOff), 502},
		{"error event", events(chunkRole, chunkError), 502},
		{"too large for the limit", says(429, tooLargeForLimit, "X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Reset-Tokens", "60s"), 429},
		{"cut after content", then(events(chunkRole, chunkWord), cutOff), 200},
	} {
		for _, policy := range []keypool.Policy{keypool.RoundRobin, keypool.First} {
			t.Run(tt.name+"/"+policy.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCrowd(t, policy, tt.answer)
					c.live(func(int) string {
						return `{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"poison"}]}`
					}, tt.status)
					if len(c.changes) > 0 {
						t.Errorf("keys went out: %+v", c.changes)
					}
					for _, k := range c.ups[0].Pool.States() {
						if len(k.Models) > 0 {
							t.Errorf("key %s went out for a model: %+v", k.Label, k.Models)
						}
					}
				})
			})
		}
	}
}

// A client whose every request is another poison can make keys cool: nobody can
// know that it is not the upstream. The others go on all the same.
func TestManyPoisonsFailNobodyElse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
	}{
		{"crashes the upstream", fails(500, ""), 500},
		{"crashes with its connection", cutOff, 502},
		{"cut before content", then(events(chunkRole), cutOff), 502},
		{"too large for the limit", says(429, tooLargeForLimit), 429},
		{"names something like a model", fails(404, "model_not_found"), 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(t, keypool.RoundRobin, tt.answer)
				c.live(func(n int) string {
					return fmt.Sprintf(`{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"poison %d"}]}`, n)
				}, tt.status)
				if len(c.changes) == 0 && tt.status != 429 && tt.status != 404 {
					t.Error("no key ever cooled: the test shows nothing")
				}
			})
		})
	}
}

// Five keys on a dead host cost no client an error while another upstream serves
// the model, and soon nobody waits for the dead host any more.
func TestDeadHost(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close() // nobody listens there
	s := newSetup(t)
	m := newMock(t)
	dead := s.upstream("dead", gone.URL, "d1 d2 d3 d4 d5")
	alive := s.upstream("alive", m.URL, "a1")
	var dialled int
	network := dead.Transport
	dead.Transport = trip(func(req *http.Request) (*http.Response, error) {
		dialled++
		return network.RoundTrip(req)
	})
	g := s.start()
	const minutes = 30
	for n := range minutes * 60 {
		res := g.post("/v1/chat/completions", fmt.Sprintf(`{"model":"gpt-5","messages":[{"role":"user","content":"%d"}]}`, n))
		if res.status != 200 || res.trace.Attempts > 2 {
			t.Fatalf("request %d got %d after %d attempts", n, res.status, res.trace.Attempts)
		}
		s.clock.advance(time.Second)
	}
	// Three in a row, then one probe after 5, 10, 20, 40, 80, 160 and each 300 s.
	if dialled != 3+6+(minutes*60-2-315)/300 {
		t.Errorf("the dead host was asked %d times", dialled)
	}
	wantIdle(t, dead, alive)
}

// An upstream of one key that fails three times and then works serves the fourth
// request: the key cools, but there is nothing better.
func TestFourthRequestOfAFailingKey(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"failing": fails(500, ""), "unreachable": cutOff, "cut": events(chunkRole)} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t)
			s.config.Retries = 0
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1")
			m.on("a1", repeat(3, answer)...)
			g := s.start()
			for n := range 4 {
				res := g.post("/v1/chat/completions", fmt.Sprintf(`{"model":"gpt-5","stream":true,"user":"%d"}`, n))
				if n < 3 && res.status < 500 || n == 3 && (res.status != 200 || res.trace.Attempts != 1) {
					t.Errorf("request %d got %d", n, res.status)
				}
				if got := states(a); n == 2 && got == "a1 ok" || n == 3 && got != "a1 ok" {
					t.Errorf("after request %d: %s", n, got)
				}
			}
		})
	}
}

// Within one request it is the fourth attempt, after pauses that double.
func TestFourthAttemptAtAFailingKey(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"failing": fails(500, ""), "unreachable": cutOff, "cut": events(chunkRole)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t)
				s.config.Now = time.Now
				w := newWire()
				calls := 0
				w.serve(t, func(rw http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if calls++; calls <= 3 {
						answer(rw, r)
						return
					}
					says(200, chatAnswer)(rw, r)
				})
				a := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(w.transport(t).RoundTrip))
				r, books, _ := s.make()
				begin := time.Now()
				q := s.run(r, "/v1/chat/completions", chatBody)
				<-q.done
				q.leave()
				if q.sink.status != 200 || calls != 4 || time.Since(begin) != 1750*time.Millisecond {
					t.Errorf("%d after %d attempts and %v: %s", q.sink.status, calls, time.Since(begin), books.outcomes())
				}
				wantIdle(t, a)
			})
		})
	}
}

// Upstreams that do what no HTTP server would. Every case has a decided end, the
// gateway stays healthy, and the bubble sees that nothing is left behind.
func TestBrokenUpstreams(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	good := head + "Content-Length: " + whole + "\r\n\r\n" + chatAnswer
	// afterHead answers once the request's header is there, and closes.
	afterHead := func(answer string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, answer)
		}
	}
	large := `{"model":"gpt-5","messages":[{"role":"user","content":"` + strings.Repeat("word ", 1<<20) + `"}]}`
	for _, tt := range []struct {
		name   string
		serve  func(net.Conn)
		body   string
		status int
		text   string
		tried  int // attempts
		took   time.Duration
	}{
		{name: "an answer before the request was sent", serve: early(good), body: large, status: 200, text: "hi", tried: 1},
		{name: "a refusal before the request was sent", serve: early("HTTP/1.1 413 Too Large\r\nContent-Type: application/json\r\nContent-Length: 53\r\n\r\n" + `{"error":{"message":"too large","type":"t","code":"c"}}`[:53]), body: large, status: 413, text: "too large", tried: 1},
		{name: "many 1xx", serve: afterHead(strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100) + good), status: 200, text: "hi", tried: 1},
		{name: "1xx without end", serve: flood("HTTP/1.1 103 Early Hints\r\nLink: </" + strings.Repeat("x", 1000) + ">\r\n\r\n"), status: 200, text: "well", tried: 2},
		{name: "another protocol, and silence", serve: stays("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), status: 200, text: "well", tried: 2},
		{name: "another protocol without its name", serve: stays("HTTP/1.1 101 Switching Protocols\r\n\r\n"), status: 200, text: "well", tried: 2},
		{name: "two answers", serve: afterHead(good + strings.Replace(good, `"hi"`, `"no"`, 1)), status: 200, text: "hi", tried: 1},
		{name: "a header that ends", serve: afterHead("HTTP/1.1 200 OK\r\nContent-Ty"), status: 200, text: "well", tried: 2},
		{name: "a header that changes its mind", serve: afterHead("HTTP/1.1 200 OK\r\nContent-Type: app" + "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), status: 200, text: "well", tried: 2},
		{name: "a header in which another answer begins", serve: afterHead("HTTP/1.1 200 OK\r\nHTTP/1.1 500 Oops\r\n\r\n"), status: 200, text: "well", tried: 2},
		{name: "two lengths", serve: afterHead(head + "Content-Length: 5\r\nContent-Length: 7\r\n\r\n{\"a\":1}"), status: 200, text: "well", tried: 2},
		{name: "a length below zero", serve: afterHead(head + "Content-Length: -1\r\n\r\n{}"), status: 200, text: "well", tried: 2},
		{name: "a header without end", serve: flood("X: " + strings.Repeat("y", 1000) + "\r\n"), status: 200, text: "well", tried: 2},
		{name: "a header that stops", serve: stays("HTTP/1.1 200 OK\r\nContent-Ty"), status: 200, text: "well", tried: 2, took: time.Minute},
		{name: "a refusal that stops", serve: stays("HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\n{\"err"), status: 200, text: "well", tried: 2, took: refusalTimeout},
		{name: "silence", serve: stays(""), status: 200, text: "well", tried: 2, took: time.Minute},
		{name: "JSON that is called a stream", serve: afterHead(strings.Replace(good, "application/json", "text/event-stream", 1)), status: 200, text: "well", tried: 2},
		{name: "a stream that is called JSON", serve: afterHead(head + "\r\n" + chunkRole + chunkWord + chunkFinish + chunkDone), status: 200, text: "word", tried: 1},
		{name: "HTML that is called JSON", serve: afterHead("HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n\r\n<html><body>no</body></html>"), status: 400, text: `"type":"invalid_request_error"`, tried: 1},
		{name: "JSON that is called HTML", serve: afterHead("HTTP/1.1 400 Bad\r\nContent-Type: text/html\r\n\r\n" + problem("bad_thing", "no")), status: 400, text: "bad_thing", tried: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t)
				s.config.Now = time.Now
				broken, sound := newWire(), newWire()
				go func() {
					for {
						c, err := broken.Accept()
						if err != nil {
							return
						}
						go func() {
							defer c.Close()
							tt.serve(c)
						}()
					}
				}()
				sound.serve(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					says(200, strings.Replace(chatAnswer, `"hi"`, `"well"`, 1))(w, r)
				})
				a := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(broken.transport(t).RoundTrip))
				b := s.upstream("b", "http://b.example", "b1", synctestClock, withTransport(sound.transport(t).RoundTrip))
				a.FirstByte = time.Minute
				s.config.Retries = 1
				s.route("gpt-5", keypool.First, RouteTarget{Upstream: "a", Model: "gpt-5"}, RouteTarget{Upstream: "b", Model: "gpt-5"})
				r, books, _ := s.make()
				if tt.body == "" {
					tt.body = chatBody
				}
				for range 2 { // the second meets what the first has left behind
					begin := time.Now()
					q := s.run(r, "/v1/chat/completions", tt.body)
					<-q.done
					q.leave()
					if q.sink.status != tt.status || !strings.Contains(q.sink.body.String(), tt.text) || q.aborted || q.trace.Attempts != tt.tried {
						t.Errorf("%d after %s: %.300s", q.sink.status, books.outcomes(), q.sink.body.String())
					}
					if got := time.Since(begin); got != tt.took {
						t.Errorf("took %v, want %v", got, tt.took)
					}
					synctest.Wait()
				}
				if n := r.buffered.Load(); n != 0 {
					t.Errorf("%d bytes of bodies are still counted", n)
				}
				wantIdle(t, a, b)
			})
		})
	}
}

// early answers when the request's header has come, and then takes the rest.
func early(answer string) func(net.Conn) {
	return func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, answer)
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// flood answers with the same again and again until the gateway has had enough.
func flood(piece string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		if strings.HasPrefix(piece, "X") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		}
		for {
			if _, err := io.WriteString(c, piece); err != nil {
				return
			}
		}
	}
}

// stays says what it has to say and then nothing, until the gateway has gone.
func stays(answer string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, answer)
		_, _ = io.Copy(io.Discard, c)
	}
}
