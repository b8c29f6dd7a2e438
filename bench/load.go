package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// answerTimeout is how long the load waits for one whole answer.
const answerTimeout = 60 * time.Second

// round is what one system is asked to do at a time.
type round struct {
	scenario *scenario
	clients  int           // number of client keys to choose from
	duration time.Duration // new requests are sent for so long; each is then waited for
	burst    bool          // begin all streams at once instead of spread over their length
}

// taken is what the load saw in a round.
type taken struct {
	rate      float64         // answers per second: the sum of what each connection got
	latency   []time.Duration // from a request's first byte to its answer's last; one per answer
	firstByte []time.Duration // to the first content, less the upstream's own share; one per answer
	lag       []time.Duration // from the upstream's write of a later chunk to its arrival
}

// run loads addr for one round, by clients of Messages or of the mock's own dialect. answered counts every right answer, those of
// the warm-up included. before is called when all connections are warm, and the
// round is measured from there. The first wrong answer ends the round.
func (r *round) run(ctx context.Context, addr string, messages bool, answered *atomic.Int64, before func() error) (*taken, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := make([]*conn, r.scenario.conns)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := range conns {
		c, err := dial(addr, clientKey(rand.IntN(r.clients)), r.scenario, messages)
		if err != nil {
			return nil, err
		}
		conns[i] = c
	}
	// Blocked reads end when the round is given up.
	stop := context.AfterFunc(ctx, func() {
		for _, c := range conns {
			c.Close()
		}
	})
	defer stop()

	each := func(f func(i int, c *conn) error) error {
		var wg sync.WaitGroup
		for i, c := range conns {
			wg.Go(func() {
				if err := f(i, c); err != nil {
					cancel(err) // only the first is kept
				}
			})
		}
		wg.Wait()
		return context.Cause(ctx)
	}
	warm := func(_ int, c *conn) error {
		if err := c.ask(&c.warm, nil); err != nil {
			return err
		}
		answered.Add(1)
		return nil
	}
	if err := each(warm); err != nil {
		return nil, fmt.Errorf("warm-up: %w", err)
	}
	runtime.GC() // not in the middle of the round, if it can be helped
	if err := before(); err != nil {
		return nil, err
	}
	begin := time.Now()
	load := func(i int, c *conn) error {
		start := begin
		if length := r.scenario.script.length(); r.scenario.stream && !r.burst {
			start = begin.Add(length * time.Duration(i) / time.Duration(len(conns)))
		}
		if err := sleepUntil(ctx, start); err != nil {
			return err
		}
		for time.Since(start) < r.duration {
			if err := c.ask(&c.main, &c.taken); err != nil {
				return err
			}
			answered.Add(1)
		}
		c.taken.rate = float64(len(c.taken.latency)) / time.Since(start).Seconds()
		return nil
	}
	if err := each(load); err != nil {
		return nil, err
	}
	all := new(taken)
	for _, c := range conns {
		all.rate += c.taken.rate
		all.latency = append(all.latency, c.taken.latency...)
		all.firstByte = append(all.firstByte, c.taken.firstByte...)
		all.lag = append(all.lag, c.answers.lags...)
	}
	slices.Sort(all.latency)
	slices.Sort(all.firstByte)
	slices.Sort(all.lag)
	return all, nil
}

// conn is one client with one connection, which asks one thing at a time.
type conn struct {
	net.Conn
	answers *answerReader
	nonces  *rand.PCG
	taken   taken
	main    request
	warm    request // a small one: opens what has to be opened, upstream too
}

// request is a request as it goes over the wire, with a place for the nonce.
type request struct {
	bytes     []byte
	nonceAt   int
	sessionAt int // where the session's name is, which is the nonce too; 0: nowhere
	expect    expectation
}

// dial connects a client; messages says that it is one of Messages.
func dial(addr, key string, s *scenario, messages bool) (*conn, error) {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &conn{
		Conn:    nc,
		answers: newAnswerReader(nc),
		nonces:  rand.NewPCG(rand.Uint64(), rand.Uint64()),
		main:    newRequest(addr, key, s.messages, s.script, s.stream, s.askUsage),
		warm:    newRequest(addr, key, smallMessages, script{}, false, false),
	}
	if messages {
		c.main = newMessagesRequest(addr, key, s.messages, s.script, s.stream)
		c.warm = newMessagesRequest(addr, key, smallMessages, script{}, false)
	}
	if s.sessions {
		c.main.nameSession()
	}
	return c, nil
}

// nameSession makes each of the requests one of another conversation.
func (r *request) nameSession() {
	const name = "Session-Id: "
	end := bytes.Index(r.bytes, []byte("\r\n\r\n")) + len("\r\n")
	header := name + strings.Repeat("0", nonceLen) + "\r\n"
	r.bytes = slices.Insert(r.bytes, end, []byte(header)...)
	r.nonceAt += len(header)
	r.sessionAt = end + len(name)
}

func newRequest(addr, key, messages string, s script, stream, askUsage bool) request {
	body, nonceAt := appendRequest(nil, messages, s, stream, askUsage)
	head := fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
		"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: floway-bench\r\nContent-Length: %d\r\n\r\n",
		addr, key, len(body))
	return request{
		bytes:   append([]byte(head), body...),
		nonceAt: len(head) + nonceAt,
		expect: expectation{
			reply:   reply{model: s.model(), nulls: askUsage},
			stream:  stream,
			usage:   askUsage,
			chunks:  s.chunks,
			lagging: true,
		},
	}
}

// ask sends a request and reads its answer. What it measured goes to t, if any.
func (c *conn) ask(r *request, t *taken) error {
	nonce := c.nonces.Uint64()
	appendNonce(r.bytes[r.nonceAt:r.nonceAt], nonce)
	if r.sessionAt > 0 {
		appendNonce(r.bytes[r.sessionAt:r.sessionAt], nonce)
	}
	r.expect.nonce = nonce
	begin := time.Now()
	if err := c.SetDeadline(begin.Add(answerTimeout)); err != nil {
		return err
	}
	if _, err := c.Write(r.bytes); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	at, err := c.answers.read(&r.expect)
	if err != nil {
		return err
	}
	if t != nil {
		t.latency = append(t.latency, time.Since(begin))
		own := time.Duration(at.first.sent - at.first.received)
		t.firstByte = append(t.firstByte, at.begin.Sub(begin)-own)
	}
	return nil
}

// clientKey is the secret of the client with this number.
func clientKey(i int) string { return fmt.Sprintf("sk-client-%05d-of-the-benchmark", i) }

// upstreamKey is the secret of the key of the pool with this number, from 1.
func upstreamKey(i int) string { return fmt.Sprintf("sk-mock-%07d", i) }
