package relay

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
)

// vendor is a provider with families of names and few dialects.
type vendor struct {
	provider.Upstream
	families, features []string
}

func (v vendor) Family(model string) bool {
	return slices.ContainsFunc(v.families, func(f string) bool { return strings.HasPrefix(model, f) })
}

func (v vendor) Via(dialect.Dialect, string) []dialect.Dialect { return nil }

func (v vendor) Speaks(op dialect.Operation, _ string) bool {
	return v.features == nil || slices.Contains(v.features, op.Feature())
}

func withFamilies(families ...string) option {
	return func(u *Upstream, _ *keypool.Config) { u.Provider = vendor{u.Provider, families, nil} }
}

func withFeatures(features ...string) option {
	return func(u *Upstream, _ *keypool.Config) { u.Provider = vendor{u.Provider, nil, features} }
}

func withCatalog(models ...string) option {
	return func(u *Upstream, _ *keypool.Config) {
		u.Catalog = &Catalog{index: map[string]int{}}
		for i, m := range models {
			u.Catalog.index[m] = i
			u.Catalog.models = append(u.Catalog.models, provider.Model{ID: m, Created: int64(i), OwnedBy: "vendor"})
		}
	}
}

// mapping builds a relay without a network.
func mapping(t *testing.T, build func(s *setup)) *Relay {
	t.Helper()
	s := newSetup(t)
	build(s)
	r, _, _ := s.make()
	return r
}

// resolved spells the targets of a name: upstream, public name and, if it is
// another, the one that is sent.
func resolved(r *Relay, name string, client *access.Client, op dialect.Operation) string {
	q := lookup{name: name, client: client, op: op}
	targets, _ := r.resolve(&q, nil)
	var s []string
	for _, t := range targets {
		spelled := t.up.Name + ":" + t.model
		if t.sent != t.model {
			spelled += ">" + t.sent
		}
		s = append(s, spelled)
	}
	return strings.Join(s, " ")
}

const url1 = "http://127.0.0.1:1"

// Which upstream serves a model: the rules in order.
func TestRules(t *testing.T) {
	to := func(upstream, model string) RouteTarget { return RouteTarget{Upstream: upstream, Model: model} }
	r := mapping(t, func(s *setup) {
		s.upstream("openai", url1, "a", withModels("gpt-*", "text-embedding-3"), withAlias("nice", "gpt-5-turbo"))
		s.upstream("azure", url1, "b", withAlias("gpt-5", "dep-5"), withModels("gpt-4o"))
		s.upstream("router", url1, "c", withModels("openai/*", "meta/llama", "mistral*"), withFamilies("router-"))
		s.upstream("box", url1, "d", withCatalog("qwen", "org/qwen", "gpt-5", "claude-listed"), withFamilies("qwen"))
		s.upstream("claude", url1, "e", withFamilies("claude-"))
		s.upstream("vec", url1, "f", withFeatures("embeddings"), withModels("gpt-vec", "*"))
		s.route("fast", keypool.First, to("openai", "gpt-5"), to("azure", "gpt-5"), to("box", "qwen"))
		s.route("free*", keypool.First, to("", "gpt-5"), to("", "qwen"), to("", "nice"))
		s.route("any-*", keypool.First, to("claude", "*"), to("", "*"))
		s.route("twice", keypool.First, to("openai", "gpt-5"), to("", "gpt-5"), to("openai", "gpt-5"))
		s.route("loop", keypool.First, to("", "fast"))
		s.route("gpt-routed", keypool.First, to("vec", "x"))
		s.route("gpt-r*", keypool.First, to("claude", "never the second route"))
		s.route("slash", keypool.First, to("router", "openai/gpt-5"))
	})
	everybody := &access.Client{}
	for _, tt := range []struct{ name, want string }{
		// 1: the first route that matches; its lines are its targets.
		{"fast", "openai:gpt-5 azure:gpt-5>dep-5 box:qwen"},
		{"free", "openai:gpt-5 box:qwen openai:nice>gpt-5-turbo"},
		{"free-for-all", "openai:gpt-5 box:qwen openai:nice>gpt-5-turbo"},
		{"any-name", "claude:any-name box:any-name"},
		{"twice", "openai:gpt-5"},
		{"loop", "box:fast"}, // never another route
		{"slash", "router:openai/gpt-5"},
		// A route that leaves none is no route; nor is the next one.
		{"gpt-routed", "openai:gpt-routed"},
		// 2: what lines declare, in the order of the file.
		{"gpt-5", "openai:gpt-5 azure:gpt-5>dep-5"},
		{"gpt-4o", "openai:gpt-4o azure:gpt-4o"},
		{"nice", "openai:nice>gpt-5-turbo"},
		{"mistral-small", "router:mistral-small"},
		// With a slash only if the part before it is spelled.
		{"openai/o9", "router:openai/o9"},
		{"meta/llama", "router:meta/llama"},
		// 3: <upstream>/<model>.
		{"azure/gpt-5", "azure:gpt-5>dep-5"},
		{"azure/gpt-4o", "azure:gpt-4o"},
		{"box/whatever", "box:whatever"},
		{"box/org/qwen", "box:org/qwen"},
		{"claude/gpt-5", "claude:gpt-5"},
		{"azure/claude-9", "box:azure/claude-9 claude:azure/claude-9"}, // azure may not serve the rest
		// 4: what upstreams without models list.
		{"qwen", "box:qwen"},
		{"org/qwen", "box:org/qwen"},
		{"claude-listed", "box:claude-listed"},
		// 5: the rest, own families first.
		{"claude-9", "claude:claude-9 box:claude-9"},
		{"unheard-of", "box:unheard-of claude:unheard-of"},
		{"mistral/large", "router:mistral/large box:mistral/large claude:mistral/large"},
		{"GPT-5", "box:GPT-5 claude:GPT-5"}, // case counts
	} {
		if got := resolved(r, tt.name, everybody, dialect.ChatCompletions); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
	// Who does not speak the operation is no target, so the next rule decides.
	for name, want := range map[string]string{
		"gpt-vec":    "openai:gpt-vec vec:gpt-vec",
		"gpt-routed": "vec:x",
	} {
		if got := resolved(r, name, everybody, dialect.Embeddings); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// 6: nobody.
func TestNoRule(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("openai", m.URL, "a", withModels("gpt-*"))
	s.upstream("vec", m.URL, "b", withModels("vec"), withFeatures("embeddings"))
	g := s.start()
	g.post("/v1/chat/completions", `{"model":"claude"}`).wants(t, 404, "model_not_found")
	g.post("/v1/chat/completions", `{"model":"openai/claude"}`).wants(t, 404, "model_not_found")
	g.post("/v1/chat/completions", `{"model":"vec"}`).wants(t, 404, "no upstream that serves the model `vec` offers chat")
	g.post("/v1/chat/completions", `{"model":"`+strings.Repeat("x\\u0007", 80)+`"}`).wants(t, 404, "xxx…`")
}

func TestPermissions(t *testing.T) {
	r := mapping(t, func(s *setup) {
		s.upstream("openai", url1, "a", withModels("gpt-*"))
		s.upstream("azure", url1, "b", withModels("gpt-*"))
		s.upstream("box", url1, "c")
		s.route("fast", keypool.First, RouteTarget{Upstream: "openai", Model: "gpt-5"}, RouteTarget{Upstream: "box", Model: "qwen"})
	})
	for _, tt := range []struct {
		client *access.Client
		name   string
		want   string
	}{
		{&access.Client{}, "gpt-5", "openai:gpt-5 azure:gpt-5"},
		{&access.Client{Upstreams: []string{"azure"}}, "gpt-5", "azure:gpt-5"},
		{&access.Client{Upstreams: []string{"box"}}, "gpt-5", "box:gpt-5"}, // the first rule that leaves one
		{&access.Client{Upstreams: []string{"box"}}, "fast", "box:qwen"},
		{&access.Client{Upstreams: []string{"azure"}}, "fast", ""},
		{&access.Client{Upstreams: []string{"azure"}}, "openai/gpt-5", ""},
		{&access.Client{Upstreams: []string{"none"}}, "gpt-5", ""},
		{&access.Client{Models: access.Patterns{"gpt-*"}}, "gpt-5", "openai:gpt-5 azure:gpt-5"},
		{&access.Client{Models: access.Patterns{"gpt-*"}}, "fast", ""}, // the name as asked
		{&access.Client{Models: access.Patterns{"fast"}}, "fast", "openai:gpt-5 box:qwen"},
		{&access.Client{Models: access.Patterns{"fast"}}, "gpt-5", ""},
		{&access.Client{Models: access.Patterns{"gpt-*"}}, "azure/gpt-5", "azure:gpt-5"}, // or the bare model
		{&access.Client{Models: access.Patterns{"azure/*"}}, "azure/gpt-5", "azure:gpt-5"},
		{&access.Client{Models: access.Patterns{"azure/*"}}, "gpt-5", ""},
		{&access.Client{Models: access.Patterns{"gpt-5"}}, "other/gpt-5", ""}, // other is no upstream
		{&access.Client{Models: access.Patterns{"gpt-5"}, Upstreams: []string{"azure"}}, "openai/gpt-5", ""},
	} {
		if got := resolved(r, tt.name, tt.client, dialect.ChatCompletions); got != tt.want {
			t.Errorf("%v %v asks for %s: %q, want %q", tt.client.Models, tt.client.Upstreams, tt.name, got, tt.want)
		}
	}
}

// What the relay does not take.
func TestRefusedConfigs(t *testing.T) {
	for want, build := range map[string]func(s *setup){
		"two upstreams": func(s *setup) {
			s.upstream("a", url1, "a")
			s.upstream("a", url1, "a")
		},
		"no target":                func(s *setup) { s.route("m", keypool.First) },
		`there is no upstream "b"`: func(s *setup) { s.route("m", keypool.First, RouteTarget{Upstream: "b", Model: "x"}) },
	} {
		s := newSetup(t)
		build(s)
		if _, err := New(s.config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A route shares its load by the policy, over the targets that the client may use.
func TestRouteSharesLoad(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	var ups []*Upstream
	for _, name := range []string{"a", "b", "c"} {
		ups = append(ups, s.upstream(name, m.URL, name+"1"))
	}
	s.route("m", keypool.WeightedRoundRobin,
		RouteTarget{Upstream: "a", Model: "m", Weight: 5}, RouteTarget{Upstream: "b", Model: "m", Weight: 3}, RouteTarget{Upstream: "c", Model: "m", Weight: 1})
	g := s.start()
	share := func(n int) map[string]int {
		before := len(m.seen())
		for range n {
			g.post("/v1/chat/completions", `{"model":"m"}`).wants(t, 200, "hi")
		}
		shares := map[string]int{}
		for _, c := range m.seen()[before:] {
			shares[c.key]++
		}
		return shares
	}
	if got := fmt.Sprint(share(18)); got != "map[a1:10 b1:6 c1:2]" {
		t.Error(got)
	}
	g.client = &access.Client{Name: "bob", Upstreams: []string{"b", "c"}}
	if got := share(8); got["a1"] != 0 || got["b1"] != 6 {
		t.Error(got)
	}
	// The rest are fallbacks in the order of the file.
	g.client = &access.Client{Name: "carol"}
	for range 3 {
		before := len(m.seen())
		for _, key := range []string{"a1", "b1", "c1"} {
			m.on(key, cutOff)
		}
		g.post("/v1/chat/completions", `{"model":"m"}`).wants(t, 200, "hi")
		var keys []string
		for _, c := range m.seen()[before:] {
			keys = append(keys, c.key)
		}
		if !slices.IsSorted(keys[1:3]) || keys[0] == keys[1] || keys[0] == keys[2] {
			t.Error(keys)
		}
	}
	wantIdle(t, ups...)
}

// listed returns the ids that a client sees.
func listed(r *Relay, c *access.Client) string {
	var ids []string
	for _, m := range r.List(c) {
		ids = append(ids, m.ID)
	}
	return strings.Join(ids, " ")
}

// The listing is what requests would serve, by the same code.
func TestListing(t *testing.T) {
	r := mapping(t, func(s *setup) {
		s.upstream("openai", url1, "a", withModels("gpt-*", "gpt-5"), withAlias("nice", "x"))
		s.upstream("box", url1, "b", withCatalog("qwen", "openai/secret", "gpt-5"))
		s.route("fast", keypool.First, RouteTarget{Upstream: "box", Model: "qwen"})
		s.route("pattern-*", keypool.First, RouteTarget{Upstream: "box", Model: "qwen"})
		s.route("dead", keypool.First, RouteTarget{Upstream: "openai", Model: "gone"})
	})
	for _, tt := range []struct {
		client *access.Client
		want   string
	}{
		{&access.Client{}, "fast dead nice gpt-5 qwen openai/secret"},
		{&access.Client{Upstreams: []string{"box"}}, "fast dead nice gpt-5 qwen openai/secret"},
		{&access.Client{Upstreams: []string{"openai"}}, "dead nice gpt-5"},
		{&access.Client{Models: access.Patterns{"fast", "qwen"}}, "fast qwen"},
		{&access.Client{Models: access.Patterns{"nothing"}}, ""},
	} {
		if got := listed(r, tt.client); got != tt.want {
			t.Errorf("%v %v: %s, want %s", tt.client.Models, tt.client.Upstreams, got, tt.want)
		}
		for _, m := range r.List(tt.client) {
			if resolved(r, m.ID, tt.client, dialect.None) == "" {
				t.Errorf("%s is listed and not served", m.ID)
			}
		}
	}
}

func TestServeModels(t *testing.T) {
	s := newSetup(t)
	s.upstream("openai", url1, "a", withModels("gpt-5", "gpt-*"))
	s.upstream("box", url1, "b", withCatalog("org/qwen"))
	g := s.start()
	get := func(path string, header ...string) got {
		req := g.request(path, "", header...)
		req.Method, req.Body, req.ContentLength = "GET", http.NoBody, 0
		return g.do(req)
	}
	for _, tt := range []struct {
		path, version string
		status        int
		want          string
	}{
		{"/v1/models", "", 200, `{"data":[{"created":0,"id":"gpt-5","object":"model","owned_by":"openai"},{"created":0,"id":"org/qwen","object":"model","owned_by":"vendor"}],"object":"list"}`},
		{"/v1/models", "2023-06-01", 200, `"has_more":false,"last_id":"org/qwen"`},
		{"/v1beta/models", "", 200, `{"models":[{"displayName":"gpt-5","name":"models/gpt-5"`},
		{"/v1/models/gpt-5", "", 200, `{"created":0,"id":"gpt-5","object":"model","owned_by":"openai"}`},
		{"/v1/models/gpt-5", "2023-06-01", 200, `"display_name":"gpt-5"`},
		{"/v1/models/org/qwen", "", 200, `"id":"org/qwen"`},
		{"/v1/models/openai/gpt-5", "", 200, `"id":"openai/gpt-5"`}, // as requests may spell it
		{"/v1/models/box/org/qwen", "", 200, `"id":"box/org/qwen"`},
		{"/v1/models/openai/qwen", "", 404, "model_not_found"},
		{"/v1/models/openai/gpt-6", "", 404, "model_not_found"}, // nobody knows of it, though it would be tried
		{"/v1/models/openai/gpt-*", "", 404, "model_not_found"},
		{"/v1/models/unheard-of", "", 404, "model_not_found"},
		{"/v1/models/box/unheard-of", "", 404, "model_not_found"},
		{"/v1/models/unheard-of", "2023-06-01", 404, "not_found_error"},
		{"/v1beta/models/unheard-of", "", 404, "NOT_FOUND"},
	} {
		var header []string
		if tt.version != "" {
			header = []string{"Anthropic-Version", tt.version}
		}
		res := get(tt.path, header...)
		res.wants(t, tt.status, tt.want)
		if !json.Valid([]byte(res.body)) || res.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s", tt.path, res.body)
		}
	}
	req := g.request("/v1/models", "")
	req.Method, req.Body, req.ContentLength = "HEAD", http.NoBody, 0
	if res := g.do(req); res.status != 200 || res.body != "" || res.header.Get("Content-Length") == "0" {
		t.Errorf("%+v", res)
	}
	g.client = &access.Client{Name: "nobody", Models: access.Patterns{"x"}}
	get("/v1/models").wants(t, 200, `{"data":[],"object":"list"}`)
	get("/v1/models", "Anthropic-Version", "2023-06-01").wants(t, 200, `"first_id":null`)
	get("/v1/models/openai/gpt-5").wants(t, 404, "model_not_found")
}

// Sums use a name only if somebody other than the client vouches for it.
func TestBookedNames(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1", withAlias("public", "x"), withCatalog("listed"))
	s.route("spelled", keypool.First, RouteTarget{Upstream: "a", Model: "*"})
	s.route("r-*", keypool.First, RouteTarget{Upstream: "a", Model: "*"}, RouteTarget{Upstream: "a", Model: "target"})
	g := s.start()
	ask := func(name string) string {
		g.post("/v1/chat/completions", `{"model":"`+name+`"}`)
		all := g.books.records()
		return all[len(all)-1].Model
	}
	for _, name := range []string{"public", "listed", "spelled"} {
		m.on("a1", fails(400, ""))
		if got := ask(name); got != name {
			t.Errorf("%s booked as %s", name, got)
		}
	}
	m.on("a1", fails(400, ""))
	if got := ask("made-up"); got != "other" {
		t.Errorf("booked as %s", got)
	}
	if got := ask("made-up"); got != "made-up" { // answered with success
		t.Errorf("booked as %s", got)
	}
	m.on("a1", fails(400, ""))
	if got := ask("made-up"); got != "made-up" { // today
		t.Errorf("booked as %s", got)
	}
	m.on("a1", fails(400, ""))
	s.clock.advance(24 * 60 * 60 * 1e9)
	if got := ask("made-up"); got != "other" {
		t.Errorf("booked as %s", got)
	}
	for i := range 1000 {
		g.relay.learned.add(fmt.Sprint(i), s.clock.Now())
	}
	if got := ask("one too many"); got != "other" {
		t.Errorf("booked as %s", got)
	}
}

// What is asked of an upstream: its own path, whatever the client's.
func TestAddresses(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL+"/base/v3", "a1")
	g := s.start()
	for _, path := range []string{"/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions", "/openai/deployments/gpt-5/chat/completions", "/v1beta/openai/chat/completions"} {
		g.post(path, chatBody).wants(t, 200, "hi")
		calls := m.seen()
		if got := calls[len(calls)-1].path; got != "/base/v3/chat/completions" {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// forms reach the upstream as they are, with the boundary that they came with.
func TestForms(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1", withAlias("ears", "whisper-1"))
	g := s.start()
	form := "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nears\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n\x00\x01\xff\r\n--b--\r\n"
	m.on("a1", says(200, `{"text":"hello","usage":{"type":"duration","seconds":3}}`))
	g.post("/v1/audio/transcriptions", form, "Content-Type", "multipart/form-data; boundary=b").wants(t, 200, "hello")
	call := m.seen()[0]
	if call.body != strings.Replace(form, "ears", "whisper-1", 1) || call.header.Get("Content-Type") != "multipart/form-data; boundary=b" {
		t.Errorf("%q", call)
	}
	if r := g.books.records()[0]; r.Tokens.AudioMillis != 3000 || r.Asked != "ears" {
		t.Errorf("%+v", r)
	}
}
