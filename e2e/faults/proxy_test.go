package faults

import (
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between a gateway and Redis, and spoils what passes.
type proxy struct {
	Addr   string
	target string
	tls    *tls.Config // what clients must speak, while secure is set
	secure atomic.Bool

	// lose is how many of a hundred answers are lost, with their connection; the
	// server has done what was asked. lost counts them.
	lose, lost atomic.Int64
	// loseNext is how many of the next long answers are lost: those of scripts.
	loseNext atomic.Int64
	// perPiece and perByte are how long a piece, or a byte, is held up.
	perPiece, perByte atomic.Int64
	cut               chan struct{} // closed to end all waiting

	mu    sync.Mutex
	still chan struct{} // while nothing moves; closed to go on
	conns map[net.Conn]bool
}

// startProxy starts a proxy in front of target. The test's end stops it.
func startProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Addr: l.Addr().String(), target: target, conns: make(map[net.Conn]bool), cut: make(chan struct{})}
	t.Cleanup(func() {
		l.Close()
		close(p.cut)
		p.reset()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

// freeze stops everything that moves; thaw lets it go on.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.still == nil {
		p.still = make(chan struct{})
	}
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.still != nil {
		close(p.still)
		p.still = nil
	}
}

// reset breaks all connections, as a router does that has forgotten them.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.Close()
	}
}

func (p *proxy) keep(c net.Conn, yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if yes {
		p.conns[c] = true
	} else {
		delete(p.conns, c)
	}
}

// moves waits while nothing moves.
func (p *proxy) moves() {
	p.mu.Lock()
	still := p.still
	p.mu.Unlock()
	if still == nil {
		return
	}
	select {
	case <-still:
	case <-p.cut:
	}
}

func (p *proxy) serve(raw net.Conn) {
	p.keep(raw, true)
	defer p.keep(raw, false)
	defer raw.Close()
	p.moves()
	client := raw
	if p.secure.Load() {
		client = tls.Server(raw, p.tls)
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	p.keep(server, true)
	defer p.keep(server, false)
	defer server.Close()
	done := make(chan struct{}, 2)
	go func() { p.carry(server, client, false); done <- struct{}{} }()
	go func() { p.carry(client, server, true); done <- struct{}{} }()
	<-done
}

func (p *proxy) carry(to, from net.Conn, answers bool) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			p.moves()
			if answers && (n > 200 && p.loseNext.Add(-1) >= 0 || rand.Int64N(100) < p.lose.Load()) {
				p.lost.Add(1)
				return
			}
			if !p.deliver(to, b[:n]) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) deliver(to net.Conn, b []byte) bool {
	for len(b) > 0 {
		n := len(b)
		if d := time.Duration(p.perByte.Load()); d > 0 {
			n = 1
			p.hold(d)
		}
		if d := time.Duration(p.perPiece.Load()); d > 0 {
			p.hold(d)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

func (p *proxy) hold(d time.Duration) {
	select {
	case <-time.After(d):
	case <-p.cut:
	}
}

// The proxy does what it says, or the faults made with it are none.
func TestProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var served atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 64)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					served.Add(1)
					c.Write(b[:n])
				}
			}()
		}
	}()
	p := startProxy(t, l.Addr().String())
	ask := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 5))
		return err
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := dial()
	if err := ask(c); err != nil {
		t.Fatal(err)
	}
	p.lose.Store(100)
	if err := ask(c); err == nil || served.Load() != 2 || p.lost.Load() != 1 {
		t.Errorf("an answer was to be lost: %v, served %d", err, served.Load())
	}
	p.lose.Store(0)
	c = dial()
	if err := ask(c); err != nil {
		t.Fatal(err)
	}
	p.freeze()
	c.Write([]byte("hello"))
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 5)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing was to move: %v", err)
	}
	p.reset()
	p.thaw()
	if err := ask(c); err == nil {
		t.Error("the connection was to be broken")
	}
}
