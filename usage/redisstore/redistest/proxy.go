//go:build unix

package redistest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy stands between clients and a server and can lose what the server answers.
// Its methods may be called at any time.
type Proxy struct {
	// Addr is what clients connect to.
	Addr string

	to       string
	listener net.Listener

	mu    sync.Mutex
	lose  func() bool
	conns map[net.Conn]bool
	done  bool
	wg    sync.WaitGroup
}

// NewProxy starts a proxy in front of addr. It ends with the test.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: addr, listener: l, conns: make(map[net.Conn]bool)}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.done = true
		p.mu.Unlock()
		p.Break()
		p.wg.Wait()
	})
	return p
}

// Lose makes the proxy ask f for each piece of an answer: true drops it and breaks
// the connection, when the server has already done what it was asked. nil ends it.
func (p *Proxy) Lose(f func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = f
}

// Break breaks all connections.
func (p *Proxy) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close()
			continue
		}
		if !p.keep(client, server) {
			return
		}
		p.wg.Go(func() {
			io.Copy(server, client)
			server.Close()
		})
		p.wg.Go(func() {
			p.answers(client, server)
			client.Close()
			server.Close()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, client)
			delete(p.conns, server)
		})
	}
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
		if p.done {
			c.Close()
		}
	}
	return !p.done
}

func (p *Proxy) answers(client, server net.Conn) {
	b := make([]byte, 1<<16)
	for {
		n, err := server.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		lost := p.lose != nil && p.lose()
		p.mu.Unlock()
		if lost {
			return
		}
		if _, err := client.Write(b[:n]); err != nil {
			return
		}
	}
}
