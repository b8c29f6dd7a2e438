package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxRequest bounds what the mock reads of a request's body.
const maxRequest = 64 << 20

// mock is an upstream that speaks chat completions and keeps a ledger of what
// it served.
type mock struct {
	buffers sync.Pool // of *[]byte

	mu     sync.Mutex
	stats  mockStats
	failed map[uint64]bool // nonces of requests that were failed on purpose
}

// mockStats is what GET /__stats answers.
type mockStats struct {
	Keys    map[string]*tally `json:"keys"`    // by API key
	Refused int64             `json:"refused"` // requests answered with an error
	Broken  int64             `json:"broken"`  // answers that could not be written to their end
}

// tally is what was counted for one key.
type tally struct {
	Requests int64 `json:"requests"`
	Failed   int64 `json:"failed"` // requests failed on purpose
	tokens
	first int64 // requests that had not failed before
}

func newMock() *mock {
	return &mock{
		buffers: sync.Pool{New: func() any { return new([]byte) }},
		stats:   mockStats{Keys: make(map[string]*tally)},
		failed:  make(map[uint64]bool),
	}
}

func (m *mock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var plan failing
	if rest, ok := strings.CutPrefix(r.URL.Path, "/"+failingPrefix); ok {
		name, path, _ := strings.Cut(rest, "/")
		var err error
		if plan, err = parseFailing(name); err != nil {
			m.refuse(w, http.StatusNotFound, "not_found", err.Error())
			return
		}
		r.URL.Path = "/" + path
	}
	switch {
	case r.URL.Path == "/v1/chat/completions" && r.Method == http.MethodPost:
		m.chat(w, r, plan)
	case r.URL.Path == "/__stats" && r.Method == http.MethodGet:
		m.mu.Lock()
		defer m.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(m.stats)
	case r.URL.Path == "/v1/models" && r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"object":"list","data":[]}`)
	default:
		m.refuse(w, http.StatusNotFound, "not_found", "no such path: "+r.Method+" "+r.URL.Path)
	}
}

func (m *mock) chat(w http.ResponseWriter, r *http.Request, plan failing) {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !strings.HasPrefix(key, "sk-") {
		m.refuse(w, http.StatusUnauthorized, "invalid_api_key", "no API key, or not one of ours")
		return
	}
	buf := m.buffers.Get().(*[]byte)
	defer m.buffers.Put(buf)
	body, err := readBody(r, *buf)
	*buf = body
	if err != nil {
		m.refuse(w, http.StatusBadRequest, "bad_body", err.Error())
		return
	}
	received := time.Now().UnixNano()
	parse := parseRequest
	if bytes.Contains(body, []byte(nonceMark)) {
		parse = parseTranslated
	}
	q, err := parse(body)
	if err != nil {
		m.refuse(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	if m.fails(plan, key, q.nonce) {
		writeError(w, plan.status, "failed_on_purpose", "try another key")
		return
	}
	// The answer is built where the request was: the question holds no part of it.
	re := reply{nonce: q.nonce, model: q.model, nulls: q.includeUsage}
	if q.stream {
		*buf, err = m.stream(w, r, key, &re, q, received, body[:0])
	} else {
		*buf, err = m.answer(w, r, key, &re, q, received, body[:0])
	}
	if err != nil {
		m.uncount(key, tokensOf(q.nonce))
	}
}

func (m *mock) answer(w http.ResponseWriter, r *http.Request, key string, re *reply, q question, received int64, buf []byte) ([]byte, error) {
	m.count(key, tokensOf(q.nonce))
	if q.script.wait > 0 {
		if err := sleepUntil(r.Context(), time.Unix(0, received).Add(q.script.wait)); err != nil {
			return buf, err
		}
	}
	buf = re.appendAnswer(buf, stamps{received, time.Now().UnixNano()})
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(buf))}
	_, err := w.Write(buf)
	return buf, err
}

// stream sends the role with the first chunk, as OpenAI does, every chunk in a
// write of its own, and all that follows the last chunk in one.
func (m *mock) stream(w http.ResponseWriter, r *http.Request, key string, re *reply, q question, received int64, buf []byte) ([]byte, error) {
	m.count(key, tokensOf(q.nonce))
	w.Header()["Content-Type"] = []string{"text/event-stream; charset=utf-8"}
	w.Header()["Cache-Control"] = []string{"no-cache"}
	flusher := http.NewResponseController(w)
	n := q.script.chunks
	begin := time.Unix(0, received).Add(q.script.wait)
	frame := func(buf []byte, event int) []byte {
		buf = append(buf, "data: "...)
		buf = re.appendEvent(buf, event, n, stamps{received, time.Now().UnixNano()})
		return append(buf, "\n\n"...)
	}
	for i := 1; i <= n; i++ {
		if at := begin.Add(time.Duration(i-1) * q.script.gap); q.script.gap > 0 || (i == 1 && q.script.wait > 0) {
			if err := sleepUntil(r.Context(), at); err != nil {
				return buf, err
			}
		}
		buf = buf[:0]
		if i == 1 {
			buf = frame(buf, roleEvent)
		}
		buf = frame(buf, i)
		if _, err := w.Write(buf); err != nil {
			return buf, err
		}
		if err := flusher.Flush(); err != nil {
			return buf, err
		}
	}
	buf = frame(buf[:0], n+1)
	if q.includeUsage {
		buf = frame(buf, n+2)
	}
	buf = append(buf, "data: [DONE]\n\n"...)
	_, err := w.Write(buf)
	return buf, err
}

func sleepUntil(ctx context.Context, at time.Time) error {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func readBody(r *http.Request, buf []byte) ([]byte, error) {
	n := r.ContentLength
	if n > maxRequest {
		return buf, fmt.Errorf("body of %d bytes", n)
	}
	if n < 0 {
		return io.ReadAll(io.LimitReader(r.Body, maxRequest))
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r.Body, buf)
	return buf, err
}

// failing is a plan to fail requests on purpose. It stands in front of the path,
// as in /failing-500-4/v1/…: the base URL says which upstream fails.
type failing struct {
	status int
	every  int // the n-th of the requests that come to a key first; 0: none
}

const failingPrefix = "failing-"

func (f failing) path() string {
	if f.every == 0 {
		return ""
	}
	return fmt.Sprintf("/%s%d-%d", failingPrefix, f.status, f.every)
}

func parseFailing(name string) (failing, error) {
	status, every, _ := strings.Cut(name, "-")
	var f failing
	var err1, err2 error
	f.status, err1 = strconv.Atoi(status)
	f.every, err2 = strconv.Atoi(every)
	if err1 != nil || err2 != nil || f.status < 400 || f.status > 599 || f.every < 1 {
		return f, fmt.Errorf("unknown plan %q", name)
	}
	return f, nil
}

// fails says whether a request is to fail, and books it. None fails twice: every
// request that failed is one more attempt of the gateway's, and no more.
func (m *mock) fails(plan failing, key string, nonce uint64) bool {
	if plan.every == 0 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed[nonce] {
		delete(m.failed, nonce)
		return false
	}
	k := m.tally(key)
	k.first++
	if k.first%int64(plan.every) != 0 {
		return false
	}
	k.Failed++
	m.failed[nonce] = true
	return true
}

// tally returns a key's, which has to be kept by the lock.
func (m *mock) tally(key string) *tally {
	k := m.stats.Keys[key]
	if k == nil {
		k = new(tally)
		m.stats.Keys[key] = k
	}
	return k
}

// count books an answer before its last byte is written: whoever has the whole
// answer finds it in the ledger.
func (m *mock) count(key string, t tokens) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.tally(key)
	k.Requests++
	k.add(t)
}

// uncount takes back an answer that could not be delivered.
func (m *mock) uncount(key string, t tokens) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.stats.Keys[key]
	k.Requests--
	k.add(tokens{-t.Prompt, -t.Cached, -t.Completion, -t.Reasoning})
	m.stats.Broken++
}

func (m *mock) refuse(w http.ResponseWriter, status int, code, message string) {
	m.mu.Lock()
	m.stats.Refused++
	m.mu.Unlock()
	writeError(w, status, code, message)
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"message": message, "type": "invalid_request_error", "param": nil, "code": code,
	}})
}

// runMock is the mock's process: n upstreams, each with a ledger of its own, on
// loopback ports of the system's choice, which it prints. It ends when its
// standard input does, so it cannot outlive the benchmark.
func runMock(n int) error {
	addrs := make([]string, n)
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addrs[i] = l.Addr().String()
		srv := &http.Server{Handler: newMock(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
		go func() { _ = srv.Serve(l) }()
	}
	fmt.Println(strings.Join(addrs, " "))
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
