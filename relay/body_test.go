package relay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func gzipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.String()
}

func zstded(s string) string {
	z, _ := zstd.NewWriter(nil)
	defer z.Close()
	return string(z.EncodeAll([]byte(s), nil))
}

// sized is a chat request of exactly that many bytes.
func sized(n int) string {
	const head, tail = `{"model":"gpt-5","x":"`, `"}`
	return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
}

// What is taken of request bodies, and how the rest is refused: in the dialect,
// and with the end of the connection.
func TestBodies(t *testing.T) {
	const most = 100_000
	for _, tt := range []struct {
		name, body, encoding string
		chunked              bool
		status               int
		part                 string
	}{
		{name: "plain", body: chatBody, status: 200},
		{name: "chunked", body: chatBody, chunked: true, status: 200},
		{name: "identity", body: chatBody, encoding: "identity", status: 200},
		{name: "gzip", body: gzipped(chatBody), encoding: "gzip", status: 200},
		{name: "GZIP, chunked", body: gzipped(chatBody), encoding: " GZIP ", chunked: true, status: 200},
		{name: "gzip in two members", body: gzipped(chatBody[:20]) + gzipped(chatBody[20:]), encoding: "x-gzip", status: 200},
		{name: "zstd", body: zstded(chatBody), encoding: "zstd", status: 200},
		{name: "the largest", body: sized(most), status: 200},
		{name: "the largest, chunked", body: sized(most), chunked: true, status: 200},
		{name: "the largest, gzip", body: gzipped(sized(most)), encoding: "gzip", status: 200},
		{name: "the largest, zstd", body: zstded(sized(most)), encoding: "zstd", status: 200},
		{name: "too large", body: sized(most + 1), status: 413, part: "larger than this server takes, which is 100000 bytes unpacked"},
		{name: "too large, chunked", body: sized(most + 1), chunked: true, status: 413, part: "larger than this server takes"},
		{name: "gzip bomb", body: gzipped(sized(5 << 20)), encoding: "gzip", status: 413, part: "larger than this server takes"},
		{name: "zstd bomb", body: zstded(sized(5 << 20)), encoding: "zstd", status: 413, part: "larger than this server takes"},
		{name: "zstd bomb, chunked", body: zstded(sized(5 << 20)), encoding: "zstd", chunked: true, status: 413, part: "larger than this server takes"},
		{name: "no gzip", body: chatBody, encoding: "gzip", status: 400, part: "cannot be unpacked"},
		{name: "half a gzip", body: gzipped(chatBody)[:30], encoding: "gzip", status: 400, part: "cannot be unpacked"},
		{name: "broken gzip", body: gzipped(chatBody)[:30] + strings.Repeat("!", 50), encoding: "gzip", status: 400, part: "cannot be unpacked"},
		{name: "no zstd", body: chatBody, encoding: "zstd", status: 400, part: "cannot be unpacked"},
		{name: "half a zstd", body: zstded(chatBody)[:20], encoding: "zstd", status: 400, part: "cannot be unpacked"},
		{name: "brotli", body: chatBody, encoding: "br", status: 415, part: "use gzip, zstd or none"},
		{name: "twice", body: gzipped(gzipped(chatBody)), encoding: "gzip, gzip", status: 415, part: "use gzip, zstd or none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			s.config.MaxBody = most
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1")
			g := s.start()
			req := g.request("/v1/chat/completions", tt.body)
			if tt.chunked {
				req.Body, req.ContentLength = io.NopCloser(strings.NewReader(tt.body)), -1
			}
			if tt.encoding != "" {
				req.Header.Set("Content-Encoding", tt.encoding)
			}
			res := g.do(req)
			res.wants(t, tt.status, tt.part)
			if (tt.status != 200) != res.closed {
				t.Errorf("connection closed: %v", res.closed)
			}
			if tt.status == 200 {
				want := tt.body
				switch {
				case strings.Contains(tt.name, "largest"):
					want = sized(most)
				case tt.encoding != "":
					want = chatBody
				}
				c := m.seen()[0]
				if c.body != want || c.header.Get("Content-Encoding") != "" {
					t.Errorf("%d bytes sent, want %d; %v", len(c.body), len(want), c.header)
				}
			} else if len(m.seen()) != 0 || res.trace.Attempts != 0 || !strings.HasPrefix(res.body, `{"error":{`) {
				t.Errorf("%s", res.body)
			}
			if n := g.relay.buffered.Load(); n != 0 {
				t.Errorf("%d bytes are still counted", n)
			}
			wantIdle(t, a)
		})
	}
}

// tcp sends bytes of any kind to the gateway and returns its answer, and whether
// it ended the connection.
func (g *gateway) tcp(request string, halfClose bool) (status int, body string, closed bool) {
	conn, err := net.Dial("tcp", g.server.Listener.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, request)
	if halfClose {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	<-g.traces
	if res.Close {
		_, err = br.ReadByte()
	}
	return res.StatusCode, string(text), res.Close && err != nil
}

// Bodies that break off or are framed wrongly.
func TestBrokenBodies(t *testing.T) {
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for name, request := range map[string]string{
		"broken chunk":   head + "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"mod\r\nzz\r\nel",
		"chunk cut":      head + "Transfer-Encoding: chunked\r\n\r\nff\r\n{\"model\":",
		"length cut":     head + "Content-Length: 500\r\n\r\n{\"model\":",
		"gzip cut":       head + "Content-Encoding: gzip\r\nContent-Length: 500\r\n\r\n" + gzipped(chatBody)[:30],
		"negative chunk": head + "Transfer-Encoding: chunked\r\n\r\n-5\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			s.upstream("a", m.URL, "a1")
			g := s.start()
			status, body, closed := g.tcp(request, true)
			if status != 400 || !closed || !strings.Contains(body, `"type":"invalid_request_error"`) || len(m.seen()) != 0 {
				t.Errorf("%d, closed %v, %s", status, closed, body)
			}
			if n := g.relay.buffered.Load(); n != 0 {
				t.Errorf("%d bytes are still counted", n)
			}
		})
	}
}

// A body that is too large is refused before it has come. (Of one that is small,
// the server reads up to 256 KiB before it lets the answer go.)
func TestTooLargeIsRefusedAtOnce(t *testing.T) {
	s := newSetup(t)
	s.config.MaxBody = 1000
	s.upstream("a", url1, "a1")
	g := s.start()
	status, body, closed := g.tcp("POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", false)
	if status != 413 || !closed || !strings.Contains(body, "request_too_large") {
		t.Errorf("%d, closed %v, %s", status, closed, body)
	}
}

// All bodies that are held at once are bounded, and count as they come: nobody
// takes the room by naming a length.
func TestMaxBuffered(t *testing.T) {
	s := newSetup(t)
	s.config.MaxBody, s.config.MaxBuffered = 64<<20, 8<<20
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	g := s.start()
	asked, free := make(chan struct{}), make(chan struct{})
	m.on("a1", func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-free
		says(200, chatAnswer)(w, r)
	})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		res, err := g.server.Client().Do(g.request("/v1/chat/completions", sized(6<<20)))
		if err != nil {
			t.Error(err)
			return
		}
		_ = res.Body.Close()
	}()
	<-asked
	if n := g.relay.buffered.Load(); n != 6<<20 {
		t.Errorf("%d bytes counted", n)
	}
	res := g.post("/v1/chat/completions", sized(3<<20))
	res.wants(t, 503, `"code":"overloaded"`)
	if res.header.Get("Retry-After") != "1" || !res.closed {
		t.Errorf("%v", res.header)
	}
	g.post("/v1/chat/completions", gzipped(sized(3<<20)), "Content-Encoding", "gzip").wants(t, 503, "overloaded")
	g.post("/v1/chat/completions", sized(1<<20)).wants(t, 200, "hi")
	close(free)
	<-answered
	<-g.traces
	g.post("/v1/chat/completions", sized(8<<20)).wants(t, 200, "hi")
	if n := g.relay.buffered.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}

// A named length takes no more room than has come, but for a first few MiB.
func TestNamedLengthTakesNoRoom(t *testing.T) {
	s := newSetup(t)
	s.upstream("a", url1, "a1")
	g := s.start()
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", "/v1/chat/completions", pr)
	req.ContentLength = 60 << 20
	c := &call{passage: passage{r: g.relay, in: req}}
	done := make(chan error)
	go func() { done <- c.readBody() }()
	_, _ = pw.Write([]byte("{"))
	if n := g.relay.buffered.Load(); n != mostRoom {
		t.Errorf("%d bytes counted", n)
	}
	_ = pw.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-done; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	g.relay.letGo(c.held)
}

// Errors that other handlers' readers give keep their meaning, packed or not.
func TestBodyStatus(t *testing.T) {
	theirs := errors.New("another handler's")
	for _, tt := range []struct {
		err      error
		encoding string
		says     int
		status   int
		part     string
	}{
		{&http.MaxBytesError{Limit: 5}, "", 0, 413, "larger"},
		{&http.MaxBytesError{Limit: 5}, "gzip", 0, 413, "larger"},
		{theirs, "", 413, 413, "larger"},
		{theirs, "gzip", 413, 413, "larger"},
		{theirs, "zstd", 413, 413, "larger"},
		{theirs, "", 408, 408, "could not be read"},
		{theirs, "", 0, 400, "could not be read to its end"},
	} {
		s := newSetup(t)
		if tt.says != 0 {
			s.config.BodyStatus = func(err error) (int, bool) { return tt.says, errors.Is(err, theirs) }
		}
		s.upstream("a", url1, "a1")
		r, _, _ := s.make()
		q, in, _ := inMemory("/v1/chat/completions", "")
		start := map[string]string{"gzip": gzipped(chatBody)[:12], "zstd": zstded(chatBody)[:12]}[tt.encoding]
		in.Body, in.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader(start), failingReader{tt.err})), -1
		if tt.encoding != "" {
			in.Header.Set("Content-Encoding", tt.encoding)
		}
		w := newSink()
		r.Serve(w, in, q, s.client, "", &Trace{Request: "r"})
		if w.status != tt.status || !strings.Contains(w.body.String(), tt.part) || w.header.Get("Connection") != "close" {
			t.Errorf("%v %s: %d %s", tt.err, tt.encoding, w.status, w.body.String())
		}
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestQuoted(t *testing.T) {
	for in, want := range map[string]string{
		"gpt":                    "`gpt`",
		"a\x00b\nc\x7f":          "`abc`",
		strings.Repeat("é", 100): "`" + strings.Repeat("é", 32) + "…`",
	} {
		if got := quoted(in); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
