package floway

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// gateway with some history: alice asked thrice (twice in the group research, once
// refused), bob once.
func withHistory(t *testing.T) (*gateway, *upstream) {
	u := newUpstream(t)
	g := start(t, site{block: u.block("models gpt-5 o3") + alice + bob})
	g.chat(hello, asAlice, "X-Floway-Group: research")
	g.chat(streamOf("o3"), asAlice, "X-Floway-Group: research")
	g.chat(hello, asBob)
	u.answerWith(refusing(400, "bad"))
	if a := g.do("POST", chatPath, hello, asAlice); a.status != 400 {
		t.Fatalf("status %d", a.status)
	}
	u.answerWith(nil)
	return g, u
}

func TestAdminEndpoints(t *testing.T) {
	g, u := withHistory(t)
	for _, c := range []struct {
		method, path string
		status       int
		part         string
	}{
		{"GET", "/floway/usage", 200, `"rows":[`},
		{"POST", "/floway/usage", 405, "use GET"},
		{"DELETE", "/floway/usage", 405, "use GET"},
		{"GET", "/floway/usage?by=colour", 400, "by: "},
		{"GET", "/floway/usage?since=yesterdayish", 400, "since: "},
		{"GET", "/floway/usage?until=x", 400, "until: "},
		{"GET", "/floway/usage?bucket=week", 400, "bucket"},
		{"GET", "/floway/usage?zone=Nowhere/Land", 400, "zone: "},
		{"GET", "/floway/usage?format=xml", 400, "is not json or csv"},
		{"GET", "/floway/usage?sinse=7d", 400, "unknown parameter"},
		{"GET", "/floway/usage?store=other", 404, "store"},
		{"GET", "/floway/upstreams", 200, `"state":"ok"`},
		{"POST", "/floway/upstreams", 405, "use GET"},
		{"GET", "/floway/upstreams/reset?upstream=openai&key=main", 405, "use POST"},
		{"POST", "/floway/upstreams/reset?upstream=openai&key=main", 200, `{"reset":true}`},
		{"POST", "/floway/upstreams/reset?upstream=openai&key=nope", 404, "nope"},
		{"POST", "/floway/upstreams/reset?upstream=nope&key=main", 404, "there is no upstream"},
		{"POST", "/floway/upstreams/reset", 404, "there is no upstream"},
		{"GET", "/floway/models", 200, `{"model":"gpt-5","served_by":[{"upstream":"openai","name":"gpt-5","rule":"declared","native":["chat",`},
		{"POST", "/floway/models", 405, "use GET"},
		{"POST", "/floway/check", 200, `"ok":true,"models":1`},
		{"GET", "/floway/check", 405, "use POST"},
		{"GET", "/floway/ledger", 200, `"log":"` + g.dir},
		{"PUT", "/floway/ledger", 405, "use GET"},
		{"GET", "/floway/nothing", 404, ""},
	} {
		a := g.ask(c.method, c.path)
		if a.status != c.status || !strings.Contains(a.body, c.part) {
			t.Errorf("%s %s: status %d, want %d; %q, want %q in it", c.method, c.path, a.status, c.status, a.body, c.part)
		}
		if c.status == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
		if a.status >= 400 && c.part != "" && !strings.Contains(a.body, `"error":`) {
			t.Errorf("%s %s: %q", c.method, c.path, a.body)
		}
		for _, secret := range []string{aliceKey, bobKey, "sk-upstream-0123456789"} {
			if strings.Contains(a.body, secret) {
				t.Errorf("%s %s shows a secret", c.method, c.path)
			}
		}
	}
	u.Close()
	if a := g.ask("POST", "/floway/check"); a.status != 200 || !strings.Contains(a.body, `"ok":false`) || !strings.Contains(a.body, `"error":`) {
		t.Errorf("check of what is gone: status %d, %s", a.status, a.body)
	}
}

// What is the matter with a key, why, since when and until when, and what each has
// served is told of every key; nothing of it is a secret.
func TestKeysAreShown(t *testing.T) {
	u := newUpstream(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		switch key := r.Header.Get("Authorization"); {
		case strings.HasSuffix(key, "first"):
			refusing(401, "invalid_api_key")(w, r)
		case strings.HasSuffix(key, "second"):
			w.Header().Set("Retry-After", "90")
			refusing(429, "rate_limit_exceeded")(w, r)
		default:
			if r.Header.Get("Accept") == "wait" {
				close(entered)
				<-leave
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(completion))
		}
	})
	g := start(t, site{block: "upstream openai {\nbase_url " + u.URL + "\nlb_policy first\n" +
		"key sk-upstream-first as first\nkey sk-upstream-second as second\nkey sk-upstream-third as third\n}\n" + alice})
	before := time.Now().Add(-time.Second)
	g.chat(hello, asAlice)
	g.chat(hello, asAlice)
	waiting := make(chan answer)
	go func() {
		a, _ := do("POST", "http://"+g.addr+chatPath, hello, asAlice, "Accept: wait")
		waiting <- a
	}()
	select {
	case <-entered:
	case <-time.After(patience):
		t.Fatal("the request does not reach the upstream")
	}
	a := g.ask("GET", "/floway/upstreams")
	close(leave)
	if last := <-waiting; last.status != 200 {
		t.Errorf("status %d: %s", last.status, last.body)
	}
	var list struct{ Upstreams []upstreamReport }
	if err := json.Unmarshal([]byte(a.body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Upstreams) != 1 || len(list.Upstreams[0].Keys) != 3 {
		t.Fatal(a.body)
	}
	keys := list.Upstreams[0].Keys
	within := func(at *time.Time, from, to time.Time) bool { return at != nil && !at.Before(from) && !at.After(to) }
	now := time.Now()
	k := keys[0]
	if k.Label != "first" || k.State != "invalid" || k.Reason != "401 invalid_api_key" || k.LastError != "invalid" || k.Served != 0 ||
		!within(k.Since, before, now) || !within(k.LastAt, before, now) || !within(k.Until, before.Add(10*time.Minute), now.Add(10*time.Minute)) {
		t.Errorf("the refused key: %+v", k)
	}
	k = keys[1]
	if k.State != "ok" || k.LastError != "limited" || len(k.Models) != 1 {
		t.Fatalf("the limited key: %+v", k)
	}
	if m := k.Models[0]; m.Model != "gpt-5" || m.State != "limited" || m.Reason != "429 rate_limit_exceeded" ||
		!within(m.Since, before, now) || !within(m.Until, before.Add(90*time.Second), now.Add(90*time.Second)) {
		t.Errorf("the limit: %+v", m)
	}
	k = keys[2]
	if k.State != "ok" || k.Reason != "" || k.Since != nil || k.Until != nil || k.LastError != "" || k.InFlight != 1 || k.Served != 2 || k.Share != 1 || k.Weight != 1 {
		t.Errorf("the key that serves: %+v", k)
	}
	if strings.Contains(a.body, "sk-upstream") {
		t.Errorf("a secret is shown: %s", a.body)
	}
}

func TestUsageReports(t *testing.T) {
	g, _ := withHistory(t)
	rows := func(query string) map[string]counts {
		t.Helper()
		m := map[string]counts{}
		for _, r := range g.usage(query).Rows {
			m[strings.Trim(strings.Join([]string{r.Client, r.Group, r.Upstream, r.Key, r.Model}, " "), " ")] = r
		}
		return m
	}
	for query, want := range map[string]map[string]int{
		"by=client":                                   {"alice": 3, "bob": 1},
		"by=client,model":                             {"alice    gpt-5": 2, "alice    o3": 1, "bob    gpt-5": 1},
		"by=client&by=group":                          {"alice research": 2, "alice": 1, "bob": 1},
		"by=upstream,key":                             {"openai main": 4},
		"by=client&group=research":                    {"alice": 2},
		"by=model&client=bob":                         {"gpt-5": 1},
		"by=client&client=alice,bob&model=o3":         {"alice": 1},
		"by=client&client=nobody":                     {},
		"by=client&since=1h&bucket=total&zone=UTC":    {"alice": 3, "bob": 1},
		"by=client&since=2020-01-01&until=2020-01-02": {},
	} {
		got := rows(query)
		for k, n := range want {
			if got[k].Requests != n {
				t.Errorf("%s: %q has %d requests, want %d", query, k, got[k].Requests, n)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %+v, want %v", query, got, want)
		}
	}
	if r := rows("by=client")["alice"]; r.Errors != 1 || r.Input != 20 || r.Output != 10 || r.Attempts != 3 {
		t.Errorf("%+v", r)
	}
	a := g.ask("GET", "/floway/usage?by=client&format=csv")
	table, err := csv.NewReader(strings.NewReader(a.body)).ReadAll()
	if err != nil || len(table) != 3 || table[0][0] != "client" || !strings.HasPrefix(a.header.Get("Content-Type"), "text/csv") {
		t.Errorf("%v, %v", table, err)
	}
	column := slices.Index(table[0], "requests")
	if column < 0 || table[1][0] != "alice" || table[1][column] != "3" {
		t.Errorf("%v", table)
	}
}

// A client learns what it has used itself, whatever it asks for.
func TestOwnUsage(t *testing.T) {
	g, _ := withHistory(t)
	for _, query := range []string{"", "?by=client", "?by=model", "?client=bob", "?client=bob&by=client", "?by=group&since=1h", "?key=main", "?upstream=openai"} {
		r := parseUsageReport(t, g.do("GET", "/v1/usage"+query, "", asAlice))
		if r.Sum.Requests != 3 {
			t.Errorf("%q: %+v", query, r)
		}
		for _, row := range r.Rows {
			if row.Client != "" && row.Client != "alice" {
				t.Errorf("%q shows %+v", query, row)
			}
		}
	}
	for _, query := range []string{"?by=key", "?by=upstream", "?by=x", "?since=x", "?x=y"} {
		a := g.do("GET", "/v1/usage"+query, "", asAlice)
		if a.status != 400 {
			t.Errorf("%q: status %d: %s", query, a.status, a.body)
		}
		openAIError(t, a)
	}
	if a := g.do("GET", "/v1/usage", ""); a.status != 401 {
		t.Errorf("without a key: status %d", a.status)
	}
	if a := g.do("POST", "/v1/usage", "{}", asAlice); a.status != 405 {
		t.Errorf("POST: status %d", a.status)
	}
}

// metric returns the value of a line of the metrics, 0 if it is not there.
func (g *gateway) metric(series string) float64 {
	g.t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(g.ask("GET", "/metrics").body)
	if m == nil {
		return 0
	}
	var f float64
	fmt.Sscan(m[1], &f)
	return f
}

// Counters go on over a reload; labels are names that the configuration has.
func TestMetrics(t *testing.T) {
	u := newUpstream(t)
	s := site{block: strings.Replace(u.block(), "upstream openai", "upstream openai metered", 1) + alice}
	g := start(t, s)
	const served = `caddy_floway_requests_total{client="alice",operation="chat",outcome="served"}`
	before := g.metric(served)
	g.chat(streamOf("gpt-5"), asAlice)
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	g.chat(hello, asAlice)
	g.do("POST", chatPath, hello) // without a key: nobody's
	for series, want := range map[string]float64{
		served: before + 2,
		`caddy_floway_attempts_total{operation="chat",outcome="served",upstream="metered"}`: 2,
		`caddy_floway_tokens_total{kind="input",upstream="metered"}`:                        20,
		`caddy_floway_tokens_total{kind="output",upstream="metered"}`:                       10,
		`caddy_floway_first_byte_seconds_count{upstream="metered"}`:                         2,
		`caddy_floway_duration_seconds_count{upstream="metered"}`:                           2,
		`caddy_floway_keys{state="ok",upstream="metered"}`:                                  1,
	} {
		eventually(t, func() error {
			if got := g.metric(series); got != want {
				return fmt.Errorf("%s is %v, want %v", series, got, want)
			}
			return nil
		})
	}
	u.answerWith(refusing(401, "invalid_api_key"))
	g.do("POST", chatPath, hello, asAlice)
	if got := g.metric(`caddy_floway_keys{state="invalid",upstream="metered"}`); got != 1 {
		t.Errorf("%v invalid keys", got)
	}
}

// The commands ask a running server and say what they found.
func TestCommands(t *testing.T) {
	g, u := withHistory(t)
	run := func(args ...string) (string, error) {
		return caddyProgram(t, append([]string{"floway"}, args...)...)
	}
	at := "--address=" + g.admin
	for _, c := range []struct {
		args []string
		want []string // parts, in this order
	}{
		{[]string{"usage", at}, []string{"CLIENT", "REQUESTS", "alice", "3", "bob", "1", "TOTAL", "4"}},
		{[]string{"usage", at, "--by", "client,model", "--where", "client=bob"}, []string{"CLIENT", "MODEL", "bob", "gpt-5"}},
		{[]string{"usage", at, "--bucket", "day", "--where", "client=bob", "--where", "model=gpt-5"}, []string{"START", "CLIENT", "bob"}},
		{[]string{"usage", at, "--since", "2020-01-01", "--until", "2020-01-02"}, []string{"No requests in this time."}},
		{[]string{"usage", at, "--csv"}, []string{"client,", "\nalice,", "\nbob,"}},
		{[]string{"upstreams", at}, []string{"UPSTREAM", "KEY", "STATE", "openai", "main", "ok"}},
		{[]string{"models", at}, []string{"MODEL", "NATIVELY", "\ngpt-5", "openai", "declared", "chat", "messages gemini", "\no3", "\nopenai (openai): serves what its lines name\n"}},
		{[]string{"check", at}, []string{"ok", "openai main: 1 models"}},
		{[]string{"upstreams", at, "--reset", "openai/main"}, nil},
		{[]string{"ledger", at}, []string{"LOG", g.dir}},
	} {
		out, err := run(c.args...)
		if err != nil {
			t.Errorf("%v: %v: %s", c.args, err, out)
			continue
		}
		rest := out
		for _, part := range c.want {
			_, after, ok := strings.Cut(rest, part)
			if !ok {
				t.Errorf("%v: no %q in its place in\n%s", c.args, part, out)
				break
			}
			rest = after
		}
	}
	for _, args := range [][]string{{"usage", at, "--json"}, {"upstreams", at, "--json"}, {"models", at, "--json"}, {"ledger", at, "--json"}, {"check", at, "--json"}} {
		out, err := run(args...)
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"usage", at, "--by", "colour"}, "colour"},
		{[]string{"usage", at, "--where", "client"}, "expected <dimension>=<name>"},
		{[]string{"usage", at, "--where", "colour=red"}, "use client, group, upstream, key, model"},
		{[]string{"usage", at, "--json", "--csv"}, "none of the others can be"},
		{[]string{"usage", at, "--store", "nope"}, "`caddy floway ledger` lists them"},
		{[]string{"usage", at, "extra"}, "unknown command"},
		{[]string{"usgae", at}, "unknown command"},
		{[]string{"login", "openai", at}, "unknown command"},
		{[]string{"usage", "--address=" + g.addr}, "is that the admin address of a Caddy with floway?"},
		{[]string{"upstreams", at, "--reset", "openai"}, "expected <upstream>/<label>"},
		{[]string{"upstreams", at, "--reset", "openai/nope"}, "nope"},
		{[]string{"usage", "--address=" + freeAddr(t)}, "connection refused"},
		{[]string{"ledger", "--address=" + freeAddr(t)}, "is a server running there?"},
	} {
		out, err := run(c.args...)
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%v: %v: %s", c.args, err, out)
		}
	}
	u.Close()
	if out, err := run("check", at); err == nil || !strings.Contains(out, "BAD   openai main: ") || !strings.Contains(out, "1 of the upstream keys cannot be used") {
		t.Errorf("check of what is gone: %v: %s", err, out)
	}
}

// What `caddy floway key` prints is a key and the line that lets it in.
func TestKeyCommand(t *testing.T) {
	out, err := caddyProgram(t, "floway", "key")
	key := regexp.MustCompile(`sk-floway-[0-9a-f]{64}`).FindString(out)
	line := regexp.MustCompile(`key sha256:[0-9a-f]{64}`).FindString(out)
	if err != nil || key == "" || line == "" {
		t.Fatalf("%v: %s", err, out)
	}
	again, err := caddyProgramWith(t, key+"\n", "floway", "key", "--digest")
	if err != nil || strings.TrimSpace(again) != line {
		t.Errorf("%v: %q, want %q", err, again, line)
	}
	if out, err := caddyProgramWith(t, "short\n", "floway", "key", "--digest"); err == nil || !strings.Contains(out, "shorter than 8 characters") {
		t.Errorf("%v: %s", err, out)
	}
	u := newUpstream(t)
	g := start(t, site{block: u.block() + "client carol {\n" + line + "\n}"})
	if a := g.do("POST", chatPath, hello, "Authorization: Bearer "+key); a.status != http.StatusOK {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}
