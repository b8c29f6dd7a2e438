package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floway/floway/e2e/audit"
)

// question is one kind of request of the load.
type question struct{ path, model, more, client string }

// The load is mixed: short answers of several models, and streams.
var short = []question{
	{"/v1/chat/completions", "mock-chat", "", alice},
	{"/v1/chat/completions", "mock-reasoner", "", bob},
	{"/v1/embeddings", "mock-embedding", "", alice},
	{"/v1/chat/completions", "mock-mini", "", bob},
	{"/v1/chat/completions", "mock-chat+usage=absent", "", alice},
	{"/v1/chat/completions", "mock-chat+status=400", "", bob},
}

func streams() []question {
	long := "mock-chat" + pick("+words=10+slow=5", "+words=50+slow=20")
	return []question{
		{"/v1/chat/completions", long, `,"stream":true`, alice},
		{"/v1/chat/completions", long, `,"stream":true,"stream_options":{"include_usage":true}`, bob},
		{"/v1/responses", long, `,"stream":true`, alice},
	}
}

func (q *question) body(i int64) string {
	text := fmt.Sprintf("question %d %s", i, strings.Repeat("and more ", int(i%40)))
	switch q.path {
	case "/v1/chat/completions":
		return `{"model":"` + q.model + `","messages":[{"role":"user","content":"` + text + `"}]` + q.more + `}`
	default:
		return `{"model":"` + q.model + `","input":"` + text + `"` + q.more + `}`
	}
}

// load asks a gateway all the time, from many clients, and keeps a ledger of what
// they saw. It goes on when the gateway does not answer.
type load struct {
	http   *http.Client
	url    string
	cancel context.CancelFunc
	wg     sync.WaitGroup
	next   atomic.Int64
	// whole counts answers that came to their end, failed those that did not.
	whole, failed atomic.Int64
	ended         chan struct{} // told, without waiting, of each whole answer

	mu    sync.Mutex
	calls []audit.Call
	odd   []string // what no client should see
}

// clients is how many requests can be under way at once.
func clients() int { return *shorts + *concurrent }

// work is what a part of the clients of a load does: each makes a request and
// pauses, over and over.
type work struct {
	clients int
	pause   time.Duration
	kinds   []question
}

// startLoad starts a load on the gateway at url.
func startLoad(t testing.TB, url string, works ...work) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{
		http:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}},
		url:    url,
		cancel: cancel,
		ended:  make(chan struct{}),
	}
	t.Cleanup(l.stop)
	for _, w := range works {
		for range w.clients {
			l.wg.Go(func() {
				for ctx.Err() == nil {
					i := l.next.Add(1)
					pause := w.pause
					if !l.ask(ctx, w.kinds[i%int64(len(w.kinds))], i) {
						pause += 20 * time.Millisecond
					}
					if pause > 0 {
						select {
						case <-ctx.Done():
						case <-time.After(pause):
						}
					}
				}
			})
		}
	}
	return l
}

// stop asks nothing more and waits for the answers that are under way.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
	l.http.CloseIdleConnections()
}

// ask makes one request. It says whether the gateway answered at all.
func (l *load) ask(ctx context.Context, q question, i int64) bool {
	// What is under way when the load ends comes to its end.
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), "POST", l.url+q.path, strings.NewReader(q.body(i)))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+q.client)
	req.Header.Set("Content-Type", "application/json")
	call, body, err := send(l.http, req, strings.Contains(q.more, "stream"))
	l.note(call, body)
	switch {
	case call.Request == "":
		return false
	case err != nil:
		l.failed.Add(1)
	default:
		if call.Status != 200 && !strings.Contains(q.model, "status") {
			l.failed.Add(1)
		}
		l.whole.Add(1)
		select {
		case l.ended <- struct{}{}:
		default:
		}
	}
	return true
}

// note enters a call into the clients' ledger.
func (l *load) note(call audit.Call, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if call.Request != "" {
		l.calls = append(l.calls, call)
	}
	for i, s := range secrets {
		if bytes.Contains(body, []byte(s)) && len(l.odd) < 10 {
			l.odd = append(l.odd, fmt.Sprintf("I8: secret %d is in the answer to %s", i, call.Request))
		}
	}
}

// send sends a request and reads the answer. err says that it is not whole.
func send(c *http.Client, req *http.Request, stream bool) (call audit.Call, body []byte, err error) {
	resp, err := c.Do(req)
	if err != nil {
		return call, nil, err
	}
	defer resp.Body.Close()
	call.Request, call.Status = resp.Header.Get("X-Request-Id"), resp.StatusCode
	body, err = io.ReadAll(resp.Body)
	// A reader of events has the end once the end mark is there.
	switch {
	case resp.StatusCode == 200 && stream:
		call.Ended = bytes.Contains(body, []byte("data: [DONE]")) || bytes.Contains(body, []byte("event: response.completed"))
	default:
		call.Ended = err == nil && json.Valid(body)
	}
	if err == nil && !call.Ended {
		err = fmt.Errorf("%s: %q is not whole", resp.Status, body)
	}
	return call, body, err
}
