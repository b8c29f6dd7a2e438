package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mockopenai"
)

// mixed returns the path and the body of the i-th request of a mix of all that
// is billed by the token, plain and streamed, well and oddly reported.
func mixed(i int) (path, body string) {
	text := fmt.Sprintf("question %d %s", i, strings.Repeat("and more ", i%50))
	switch i % 12 {
	case 0, 1:
		return "/v1/chat/completions", chat("mock-chat", text)
	case 2:
		return "/v1/chat/completions", chat("mock-reasoner", text)
	case 3:
		return "/v1/chat/completions", chat("mock-chat+gzip", text)
	case 4:
		return "/v1/chat/completions", chat("mock-mini", text, streamed)
	case 5:
		return "/v1/chat/completions", chat("mock-mini+gzip", text, streamed)
	case 6:
		return "/v1/chat/completions", chat("mock-chat+usage=every", text, withUsage)
	case 7:
		return "/v1/chat/completions", chat("mock-chat+usage=twice+crlf+comments", text, streamed)
	case 8:
		return "/v1/chat/completions", chat("mock-reasoner+usage=last+pieces=100", text, streamed)
	case 9:
		return "/v1/responses", `{"model":"mock-chat","input":"` + text + `"}`
	case 10:
		return "/v1/responses", `{"model":"mock-reasoner","stream":true,"input":"` + text + `"}`
	default:
		return "/v1/embeddings", `{"model":"mock-embedding","input":"` + text + `"}`
	}
}

// counted is a pool whose file spells the models of the mix: a name that the file
// does not spell is counted under "other" until an upstream has served it.
func counted(mock *harness.Upstream, usage string) harness.Config {
	c := pool(mock, 5, usage)
	names := make(map[string]bool)
	for i := range 12 {
		var q struct{ Model string }
		_, body := mixed(i)
		json.Unmarshal([]byte(body), &q)
		names[q.Model] = true
	}
	c.Floway = strings.Replace(c.Floway, "models *", "models * "+strings.Join(slices.Sorted(maps.Keys(names)), " "), 1)
	c.Quiet = true
	return c
}

// load sends n mixed requests over so many connections and checks that each is
// answered to its end. halfway, if set, is called once in the middle, while the
// rest goes on.
func load(t *testing.T, url string, n, connections int, halfway func()) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var (
		next atomic.Int64
		wg   sync.WaitGroup
		once sync.Once
	)
	for range connections {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if i >= n/2 && halfway != nil {
					once.Do(halfway)
				}
				if err := askMixed(ctx, client, url, i); err != nil {
					cancel(fmt.Errorf("request %d: %w", i, err))
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
}

func askMixed(ctx context.Context, client *http.Client, url string, i int) error {
	path, body := mixed(i)
	req, err := http.NewRequestWithContext(ctx, "POST", url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+alice)
	req.Header.Set("Content-Type", "application/json")
	// A reload closes connections on which nothing is asked. A request that is just
	// on its way there was not served: with this header it is sent again.
	req.Header.Set("Idempotency-Key", strconv.Itoa(i))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != 200:
		return fmt.Errorf("%s: %s", resp.Status, b)
	case !strings.Contains(body, `"stream":true`):
		if !json.Valid(b) {
			return fmt.Errorf("not JSON: %s", b)
		}
	case path == "/v1/responses" && !bytes.Contains(b, []byte("event: response.completed\n")):
		return fmt.Errorf("no end: %s", b)
	case path != "/v1/responses" && !bytes.Contains(b, []byte("data: [DONE]")):
		return fmt.Errorf("no end: %s", b)
	}
	return nil
}

// told sums what the upstream told it used, by what of holds.
func told(entries []mockopenai.Entry, by func(*mockopenai.Entry) string) map[string]harness.Counts {
	sums := make(map[string]harness.Counts)
	for i := range entries {
		e := &entries[i]
		c := sums[by(e)]
		c.Attempts++
		if e.Outcome != mockopenai.Full {
			c.Errors++
		}
		if e.Told {
			c.Input += e.Tokens.Input
			c.CacheRead += e.Tokens.CacheRead
			c.CacheWrite += e.Tokens.CacheWrite
			c.CacheWrite1h += e.Tokens.CacheWrite1h
			c.Output += e.Tokens.Output
			c.Reasoning += e.Tokens.Reasoning
			c.InAudio += e.Tokens.InAudio
			c.InImage += e.Tokens.InImage
			c.OutAudio += e.Tokens.OutAudio
			c.AudioMillis += e.Tokens.AudioMillis
			c.Images += e.Tokens.Images
		}
		sums[by(e)] = c
	}
	return sums
}

// checkCounts waits until the gateway's account has as many attempts as the
// upstream served, and then compares the two to the token: by key, by model and
// in all. requests is what the clients asked.
func checkCounts(t *testing.T, g *harness.Gateway, mock *harness.Upstream, requests int) {
	t.Helper()
	entries := mock.Quiet(t)
	harness.Eventually(t, func() error {
		_, sum := g.Usage(t, "key")
		if sum.Attempts != int64(len(entries)) {
			return fmt.Errorf("the account has %d attempts, the upstream served %d", sum.Attempts, len(entries))
		}
		return nil
	})
	compare := func(what string, got, want map[string]harness.Counts) {
		for name := range want {
			g := got[name]
			if n := g.Requests; what == "in all" && n != int64(requests) {
				t.Errorf("%d requests, want %d", n, requests)
			}
			if g.EstimatedAttempts != 0 || g.UnknownAttempts != 0 {
				t.Errorf("%s %s: %d attempts estimated, %d unknown", what, name, g.EstimatedAttempts, g.UnknownAttempts)
			}
			g.Requests = 0
			if g != want[name] {
				t.Errorf("%s %s:\nthe account has %+v\nthe upstream    %+v", what, name, g, want[name])
			}
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: the account has %s, which the upstream never saw", what, name)
			}
		}
	}
	keys, sum := g.Usage(t, "upstream,key")
	compare("key", keys, told(entries, func(e *mockopenai.Entry) string { return "mock/" + e.Key }))
	models, _ := g.Usage(t, "model")
	compare("model", models, told(entries, func(e *mockopenai.Entry) string { return e.Model }))
	clients, _ := g.Usage(t, "client")
	compare("client", clients, told(entries, func(*mockopenai.Entry) string { return "alice" }))
	groups, _ := g.Usage(t, "group")
	compare("group", groups, told(entries, func(*mockopenai.Entry) string { return "team-a" }))
	compare("in all", map[string]harness.Counts{"": sum}, told(entries, func(*mockopenai.Entry) string { return "" }))
}

// The two stores, as usage directives.
func stores(t *testing.T) map[string]func() string {
	return map[string]func() string{
		"embedded": func() string { return embedded },
		"redis": func() string {
			return `
		usage redis ` + harness.StartRedis(t).URL + ` {
			log DIR/log
		}
`
		},
	}
}

// Ten thousand requests over 32 connections, with answers of all kinds, gzip
// among them, and another configuration loaded in the middle: the account has
// what the upstream has, to the token, and neither connections nor descriptors
// pile up.
func TestCounts(t *testing.T) {
	for store, usage := range stores(t) {
		t.Run(store, func(t *testing.T) {
			mock := harness.StartOpenAI(t)
			c := counted(mock, usage())
			gateway := harness.StartGateway(t, c)
			load(t, gateway.URL, 200, 32, nil)
			files := gateway.Files()
			load(t, gateway.URL, 5000, 32, nil)
			st, err := mock.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if st.Connections > 100 {
				t.Errorf("%d connections to the upstream for 32 of clients", st.Connections)
			}
			if now := gateway.Files(); now > files+50 {
				t.Errorf("%d open files, %d at the start", now, files)
			}
			load(t, gateway.URL, 5000, 32, func() {
				c.Floway += "\n\t\tlb_retries 2\n"
				if err := gateway.Reload(t, c); err != nil {
					t.Error(err)
				}
			})
			checkCounts(t, gateway, mock, 10_200)

			// The account outlives the gateway.
			if err := gateway.Stop(); err != nil {
				t.Errorf("the gateway ended with: %v", err)
			}
			gateway.Start(t)
			checkCounts(t, gateway, mock, 10_200)
		})
	}
}

// One key of five does not work. The clients notice nothing, and nothing is
// counted twice or lost.
func TestCountsWithABadKey(t *testing.T) {
	for store, usage := range stores(t) {
		for name, how := range map[string]mockopenai.Behavior{
			"401":                  {Status: 401},
			"429":                  {Status: 429},
			"429 with Retry-After": {Status: 429, Headers: map[string]string{"Retry-After": "3600"}},
			"503":                  {Status: 503},
		} {
			t.Run(store+" "+name, func(t *testing.T) {
				mock := harness.StartOpenAI(t)
				gateway := harness.StartGateway(t, counted(mock, usage()))
				if err := mock.Script(mockopenai.Rule{Key: "k3", Behavior: how}); err != nil {
					t.Fatal(err)
				}
				load(t, gateway.URL, 1000, 32, nil)
				checkCounts(t, gateway, mock, 1000)
				served := told(mock.Quiet(t), func(e *mockopenai.Entry) string { return e.Key + " " + string(e.Outcome) })
				if n := served["k3 refused"].Attempts; n == 0 || n > 500 {
					t.Errorf("the bad key was tried %d times", n)
				}
				for _, key := range []string{"k1", "k2", "k4", "k5"} {
					if served[key+" full"].Attempts < 100 {
						t.Errorf("%s served %d requests", key, served[key+" full"].Attempts)
					}
				}
			})
		}
	}
}

// What is sent with an error costs nothing; what has no numbers is estimated and
// says so; what was cut or left keeps its place in the account.
func TestCountsOfTrouble(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	type row struct {
		name, model, body string
		// What the account must have of it.
		errors, estimated bool
	}
	rows := []row{
		{"an error", "mock-chat+status=400", chat("mock-chat+status=400", "hi"), true, false},
		{"an error for a stream", "mock-chat+status=422", chat("mock-chat+status=422", "hi", streamed), true, false},
		{"no usage", "mock-chat+usage=absent", chat("mock-chat+usage=absent", "a question of some length"), false, true},
		{"no usage in a stream", "mock-mini+usage=absent", chat("mock-mini+usage=absent", "a question of some length", streamed), false, true},
		{"cut", "mock-chat+words=40+cut=30", chat("mock-chat+words=40+cut=30", "a question of some length", streamed), true, true},
		{"failed", "mock-chat+words=40+fail=30", chat("mock-chat+words=40+fail=30", "a question of some length", streamed), true, true},
		{"no done", "mock-chat+nodone", chat("mock-chat+nodone", "a question of some length", streamed), false, false},
	}
	for _, r := range rows {
		post(t, gateway.URL+"/v1/chat/completions", alice, r.body)
	}
	// A client that leaves in the middle.
	const left = "mock-chat+words=40+hang=30"
	ctx, cancel := context.WithCancel(t.Context())
	resp := openStream(ctx, t, plainHTTP, gateway.URL, "/v1/chat/completions", chat(left, "a question of some length", streamed))
	if _, err := io.ReadFull(resp.Body, make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	rows = append(rows, row{"left", left, "", true, true})

	entries := mock.Quiet(t)
	harness.Eventually(t, func() error {
		_, sum := gateway.Usage(t, "model")
		if sum.Attempts != int64(len(entries)) {
			return fmt.Errorf("the account has %d attempts, the upstream served %d", sum.Attempts, len(entries))
		}
		return nil
	})
	got, sum := gateway.Usage(t, "model")
	if n := int64(len(rows)); sum.Requests != n || sum.Attempts != n {
		t.Errorf("%d requests and %d attempts, want %d", sum.Requests, sum.Attempts, n)
	}
	want := told(entries, func(e *mockopenai.Entry) string { return e.Model })
	for _, r := range rows {
		g, ok := got[r.model]
		if !ok {
			// A name that was never answered with success goes under "other".
			g = got["other"]
			if r.errors && g.Attempts > 0 {
				continue
			}
		}
		tokens := g.Input + g.CacheRead + g.CacheWrite + g.Output
		switch w := want[r.model]; {
		case (g.Errors > 0) != r.errors:
			t.Errorf("%s: %d errors", r.name, g.Errors)
		case (g.EstimatedAttempts > 0) != r.estimated:
			t.Errorf("%s: %d attempts estimated", r.name, g.EstimatedAttempts)
		case r.estimated && (g.Input == 0 || g.Output == 0):
			t.Errorf("%s: estimated at %+v", r.name, g)
		case !r.estimated && tokens != w.Input+w.CacheRead+w.CacheWrite+w.Output:
			t.Errorf("%s: %d tokens, the upstream told %+v", r.name, tokens, w)
		}
	}
	if other := got["other"]; other.EstimatedAttempts == 0 && other.Input+other.Output > 0 {
		t.Errorf("errors cost tokens: %+v", other)
	}
}

// A request may name the group that it is for, where the client's limits allow.
func TestGroups(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	for i, group := range []string{"", "team-b", "x:1_y.z", "team-b"} {
		headers := []string{"Authorization", "Bearer " + alice, "Content-Type", "application/json"}
		if group != "" {
			headers = append(headers, "X-Floway-Group", group)
		}
		if a := do(t, "POST", gateway.URL+"/v1/chat/completions", []byte(chat("mock-chat", fmt.Sprint(i))), headers...); a.status != 200 {
			t.Errorf("%q: %d %s", group, a.status, a.body)
		}
	}
	harness.Eventually(t, func() error {
		rows, _ := gateway.Usage(t, "client,group")
		if rows["alice/team-a"].Requests != 1 || rows["alice/team-b"].Requests != 2 || rows["alice/x:1_y.z"].Requests != 1 {
			return fmt.Errorf("by group: %+v", rows)
		}
		return nil
	})
}

// kill -9 in the middle of the load: what was answered is in the account, and
// what was under way is there as unknown, not lost and not twice.
func TestCountsSurviveACrash(t *testing.T) {
	for store, usage := range stores(t) {
		t.Run(store, func(t *testing.T) {
			mock := harness.StartOpenAI(t)
			gateway := harness.StartGateway(t, counted(mock, usage()))
			load(t, gateway.URL, 1000, 32, nil)
			// Ten streams are under way.
			for range 10 {
				openStream(t.Context(), t, plainHTTP, gateway.URL, "/v1/chat/completions", chat("mock-chat+words=20+hang=10", "hi", streamed))
			}
			gateway.Kill()
			gateway.Start(t)
			load(t, gateway.URL, 100, 8, nil)
			entries := mock.Quiet(t)
			harness.Eventually(t, func() error {
				_, sum := gateway.Usage(t, "key")
				if n := int64(len(entries)); sum.Attempts != n-10 || sum.UnknownAttempts != 10 || sum.Requests != n {
					return fmt.Errorf("the account has %d requests, %d attempts, %d unknown; the upstream served %d, 10 were cut by the crash", sum.Requests, sum.Attempts, sum.UnknownAttempts, n)
				}
				return nil
			})
			_, got := gateway.Usage(t, "key")
			want := told(entries, func(*mockopenai.Entry) string { return "" })[""]
			if got.Input != want.Input || got.CacheRead != want.CacheRead || got.CacheWrite != want.CacheWrite || got.Output != want.Output {
				t.Errorf("the account has %+v\nthe upstream    %+v", got, want)
			}
		})
	}
}

// The mock's ledger on disk says the same as what it says of itself.
func TestLedgerFile(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	load(t, gateway.URL, 50, 4, nil)
	entries := mock.Quiet(t)
	b, err := os.ReadFile(mock.LedgerFile)
	if err != nil {
		t.Fatal(err)
	}
	var last mockopenai.Entry
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
		t.Fatal(err)
	}
	if len(lines) != len(entries) || last != entries[len(entries)-1] {
		t.Errorf("%d lines for %d requests, the last %+v", len(lines), len(entries), last)
	}
}
