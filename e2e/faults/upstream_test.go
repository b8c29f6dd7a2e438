package faults

import (
	"net/http"
	"strings"
	"sync"
)

// Faults of the upstream.

// upstreamCuts is F11: no client takes a cut stream for a whole one, and nothing
// is tried again once a client has a part of an answer.
func upstreamCuts(r *rig) {
	l := r.load()
	kinds := []question{
		{"/v1/chat/completions", "mock-chat+words=20+cut=5", `,"stream":true`, alice},
		{"/v1/chat/completions", "mock-chat+words=20+end=5", `,"stream":true,"stream_options":{"include_usage":true}`, bob},
		{"/v1/chat/completions", "mock-chat+words=20+fail=5", `,"stream":true`, alice},
		{"/v1/chat/completions", "mock-chat+words=20+cut=5+usage=every", `,"stream":true`, alice},
		{"/v1/responses", "mock-chat+words=20+cut=9", `,"stream":true`, bob},
		{"/v1/responses", "mock-chat+words=20+end=9", `,"stream":true`, alice},
	}
	for i := range pick(12, 120) {
		q := kinds[i%len(kinds)]
		call, body, err := r.ask(r.gateway, q, int64(i))
		if call.Ended || err == nil {
			r.wrong("%s ended as if it were whole: %q", q.model, body)
		}
		if call.Status == 200 {
			if !strings.Contains(body, "error") {
				r.wrong("%s: no error event in %q", q.model, body)
			}
			if n := len(r.lines(call.Request)); n != 1 {
				r.wrong("%s: %d attempts after the first byte", q.model, n)
			}
		}
		r.rounds++
	}
	r.unharmed(l)
	r.settle()
}

// upstreamHangs is F12: before the headers, and in the middle of a stream. The
// time-outs fire, the records are settled, and the keys are free again.
func upstreamHangs(r *rig) {
	l := r.load()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range pick(6, 60) {
		wg.Go(func() {
			q := question{"/v1/chat/completions", "mock-chat+words=20+hang=" + []string{"-1", "4"}[i%2], `,"stream":true`, alice}
			req, err := http.NewRequestWithContext(r.Context(), "POST", r.gateway.URL+q.path, strings.NewReader(q.body(int64(i))))
			if err != nil {
				panic(err)
			}
			req.Header.Set("Authorization", "Bearer "+q.client)
			req.Header.Set("Content-Type", "application/json")
			call, body, err := send(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, req, true)
			mu.Lock()
			defer mu.Unlock()
			r.calls = append(r.calls, call)
			switch {
			case i%2 == 0 && call.Status != 504:
				r.wrong("an upstream that never answers is status %d: %s", call.Status, body)
			case i%2 == 1 && (call.Status != 200 || call.Ended || !strings.Contains(string(body), "error")):
				r.wrong("an upstream that falls silent: %d, %q, %v", call.Status, body, err)
			}
			r.rounds++
		})
	}
	wg.Wait()
	l.stop()
	r.says("no open attempt", func(l ledger) bool { return l.Open == 0 })
	body, err := get(r.gateway.Admin + "/floway/upstreams")
	if err != nil || strings.Contains(body, `"in_flight":1`) || !strings.Contains(strings.ReplaceAll(body, " ", ""), `"in_flight":0`) {
		r.wrong("the keys are not free: %v, %s", err, body)
	}
	r.settle()
}
