package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRequest(t *testing.T) {
	for _, s := range scenarios {
		body, at := appendRequest(nil, s.messages, s.script, s.stream, s.askUsage)
		appendNonce(body[at:at], testNonce)
		want := question{nonce: testNonce, model: s.script.model(), script: s.script, stream: s.stream, includeUsage: s.askUsage}
		if got, err := parseRequest(body); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", s.name, got, err, want)
		}
	}
	good, _ := appendRequest(nil, smallMessages, script{}, true, false)
	spliced := strings.Replace(string(good), `{"messages"`, `{"stream_options":{"include_usage":true},"messages"`, 1)
	if q, err := parseRequest([]byte(spliced)); err != nil || !q.includeUsage {
		t.Errorf("spliced: %+v, %v", q, err)
	}
	for name, bad := range map[string]string{
		"damaged messages": strings.Replace(string(good), "careful", "careles", 1),
		"damaged JSON":     strings.Replace(string(good), `"stream":true`, `"stream":tru`, 1),
		"cut":              string(good[:len(good)-1]),
		"doubled":          string(good) + string(good),
		"unknown model":    strings.Replace(string(good), `"mock-c0-`, `"gpt-c0-`, 1),
		"short nonce":      strings.Replace(string(good), `"nonce":"00`, `"nonce":"`, 1),
		"empty":            "",
	} {
		if q, err := parseRequest([]byte(bad)); err == nil {
			t.Errorf("%s: taken as %+v", name, q)
		}
	}
}

func TestScript(t *testing.T) {
	want := script{chunks: 50, gap: 20 * time.Millisecond, wait: time.Second}
	if got, err := parseScript(want.model()); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "gpt-5", "mock", "mock-c1-g0s", "mock-c-1-g0s-w0s", "mock-cx-g0s-w0s", "mock-c1-g0s-w0s-z", "mock-c999999-g0s-w0s"} {
		if s, err := parseScript(bad); err == nil {
			t.Errorf("%q: taken as %+v", bad, s)
		}
	}
}

// TestLoadAgainstMock asks the mock itself: right answers of every form, and
// equal books on both sides.
func TestLoadAgainstMock(t *testing.T) {
	var heard sync.Mutex
	sessions := map[string]int{}
	m := newMock()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := r.Header.Get("Session-Id"); s != "" {
			heard.Lock()
			sessions[s]++
			heard.Unlock()
		}
		m.ServeHTTP(w, r)
	}))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	sys := &system{kind: &kind{}, upstream: addr}
	for _, s := range []scenario{
		{name: "answer", messages: smallMessages},
		{name: "sessions", messages: smallMessages, sessions: true},
		{name: "large", messages: imageMessages},
		{name: "stream", messages: smallMessages, stream: true, askUsage: true, script: testScript},
		{name: "stream without usage", messages: smallMessages, stream: true, script: testScript},
	} {
		c, err := dial(addr, clientKey(1), &s, false)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var got taken
		for i := range 20 {
			if err := c.ask(&c.main, &got); err != nil {
				t.Fatalf("%s, request %d: %v", s.name, i, err)
			}
			sys.answered.Add(1)
		}
		if len(got.latency) != 20 || len(got.firstByte) != 20 {
			t.Errorf("%s: %d latencies, %d first bytes", s.name, len(got.latency), len(got.firstByte))
		}
	}
	if len(sessions) != 20 {
		t.Errorf("20 requests in %d sessions", len(sessions))
	}
	if err := sys.checkAccount(context.Background(), 8); err != nil {
		t.Error(err)
	}
	sys.answered.Add(-1)
	if err := sys.checkAccount(context.Background(), 8); err == nil {
		t.Error("an answer too many at the upstream was not seen")
	}
}

// TestRoundFailsOnWrongAnswer puts a server behind the load that knows no nonce.
func TestRoundFailsOnWrongAnswer(t *testing.T) {
	srv := httptest.NewServer(newMock())
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	s := scenario{conns: 4, messages: strings.Repeat(" ", 10) + smallMessages}
	r := round{scenario: &s, clients: 10, duration: time.Hour}
	var answered atomic.Int64
	before := func() error {
		srv.CloseClientConnections()
		return nil
	}
	if _, err := r.run(context.Background(), addr, false, &answered, before); err == nil {
		t.Error("a round over broken connections passed")
	}
	if n := answered.Load(); n != 4 {
		t.Errorf("%d answers, want the 4 of the warm-up", n)
	}
}

func TestMockKeepsTally(t *testing.T) {
	m := newMock()
	var want tokens
	for nonce := range uint64(100) {
		used := tokensOf(nonce << 10 * 7)
		if used.Cached > used.Prompt || used.Reasoning > used.Completion {
			t.Fatalf("impossible usage %+v", used)
		}
		m.count("sk-1", used)
		if nonce%2 == 1 {
			m.uncount("sk-1", used)
		} else {
			want.add(used)
		}
	}
	if got := *m.stats.Keys["sk-1"]; got != (tally{Requests: 50, tokens: want}) || m.stats.Broken != 50 {
		t.Errorf("tally %+v, %d broken; want %+v", got, m.stats.Broken, want)
	}
}

func TestCompareAccounts(t *testing.T) {
	a := tally{Requests: 3, tokens: tokens{100, 20, 30, 4}}
	want := map[string]tally{"k1": a}
	if err := compareAccounts(map[string]tally{"k1": a, "k2": {}}, want); err != nil {
		t.Error(err)
	}
	less := a
	less.Completion--
	for name, got := range map[string]map[string]tally{
		"missing key": {},
		"other count": {"k1": less},
		"other key":   {"k1": a, "k2": a},
	} {
		if compareAccounts(got, want) == nil {
			t.Errorf("%s: taken as equal", name)
		}
	}
}

// TestMockFailsOnPurpose: every fourth request that comes to a key first fails,
// and none fails twice.
func TestMockFailsOnPurpose(t *testing.T) {
	m := newMock()
	srv := httptest.NewServer(m)
	defer srv.Close()
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	ask := func(path, key string, nonce uint64) int {
		body, at := appendRequest(nil, smallMessages, script{}, false, false)
		appendNonce(body[at:at], nonce)
		req, err := http.NewRequest("POST", srv.URL+path+"/v1/chat/completions", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode
	}
	for nonce := range uint64(40) {
		got, want := ask(fail500.path(), "sk-1", nonce), 200
		if nonce%4 == 3 {
			want = 500
			if again := ask(fail500.path(), "sk-2", nonce); again != 200 {
				t.Errorf("request %d failed twice, with %d", nonce, again)
			}
		}
		if got != want {
			t.Errorf("request %d got %d, want %d", nonce, got, want)
		}
	}
	if k := m.stats.Keys["sk-1"]; k.Requests != 30 || k.Failed != 10 || m.stats.Refused != 0 || len(m.failed) != 0 {
		t.Errorf("%+v, %d refused, %d forgotten", k, m.stats.Refused, len(m.failed))
	}
	if got := ask("/failing-200-4", "sk-1", 1); got != 404 {
		t.Errorf("a plan of nonsense got %d", got)
	}
}
