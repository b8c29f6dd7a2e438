package relay

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/access"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

func TestAffinityIsBounded(t *testing.T) {
	a, now := NewAffinity(), newClock().Now()
	key := func(i int) (k affinityKey) {
		binary.LittleEndian.PutUint64(k[:], uint64(i))
		return k
	}
	for i := range affinityEntries + 10 {
		a.put(key(i), home{"a", strconv.Itoa(i)}, now)
	}
	if len(a.at) != affinityEntries || len(a.ring) != affinityEntries {
		t.Errorf("%d, %d entries", len(a.at), len(a.ring))
	}
	for i, want := range map[int]bool{0: false, 9: false, 10: true, affinityEntries + 9: true} {
		if h, ok := a.find(key(i), now); ok != want || ok && h.key != strconv.Itoa(i) {
			t.Errorf("%d: %v %v", i, h, ok)
		}
	}
	k := key(100)
	if _, ok := a.find(k, now.Add(affinityLife+time.Second)); ok {
		t.Error("found after its time")
	}
	a.put(k, home{"b", "k"}, now.Add(time.Hour)) // used again: lives on
	if h, ok := a.find(k, now.Add(affinityLife+time.Second)); !ok || h.upstream != "b" {
		t.Error("lost before its time")
	}
	later := now.Add(2 * time.Hour)
	a.put(k, home{"b", gone}, later)
	a.put(k, home{"b", "k"}, later) // word of it that comes late
	a.put(k, home{"b", "k"}, now)
	if _, ok := a.find(k, later); ok {
		t.Error("found though deleted")
	}
	for i := range 2 * affinityEntries {
		a.put(key(-1-i), home{"a", ""}, now)
	}
	if len(a.at) != affinityEntries {
		t.Errorf("%d entries", len(a.at))
	}
	if responseKey("a", "b\x00c") == responseKey("a\x00b", "c") || digest("x", "y", "z") == digest("xy", "", "z") {
		t.Error("two names for one thing")
	}
}

// Stored responses go back to the key that made them, for the client that asked.
func TestStoredResponses(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1 a2 a3", withPolicy(keypool.RoundRobin))
	g := s.start()
	for i := range 3 { // at a1, a2, a3
		m.on(fmt.Sprint("a", i+1), says(200, responseAnswer(fmt.Sprint("resp_", i+1))))
		g.post("/v1/responses", fmt.Sprintf(`{"model":"gpt-5","input":"%d"}`, i)).wants(t, 200, "resp_")
	}
	if got := m.keys(); got != "a1 a2 a3" {
		t.Fatal(got)
	}
	last := func() seen { all := m.seen(); return all[len(all)-1] }
	for range 3 {
		g.post("/v1/responses", `{"model":"gpt-5","input":"x","previous_response_id":"resp_2"}`).wants(t, 200, "")
		if got := last().key; got != "a2" {
			t.Errorf("went to %s", got)
		}
	}
	byID := func(method, path string, header ...string) got {
		req := g.request(path, "", header...)
		req.Method, req.Body, req.ContentLength = method, nil, 0
		return g.do(req)
	}
	byID("GET", "/v1/responses/resp_3/input_items?limit=5").wants(t, 200, "")
	if c := last(); c.key != "a3" || c.method != "GET" || c.path != "/v1/responses/resp_3/input_items" || c.query != "limit=5" || c.body != "" {
		t.Errorf("%+v", c)
	}
	byID("POST", "/v1/responses/resp_1/cancel").wants(t, 200, "")
	if c := last(); c.key != "a1" || c.path != "/v1/responses/resp_1/cancel" {
		t.Errorf("%+v", c)
	}
	for _, r := range g.books.records()[6:] { // calls by id cost nothing
		if r.Source != usage.Upstream || r.Tokens != (usage.Tokens{}) || r.Model != "other" {
			t.Errorf("%+v", r)
		}
	}
	n := len(m.seen())
	// Unknown, another client's, and not for this client any more.
	g.post("/v1/responses", `{"model":"gpt-5","input":"x","previous_response_id":"resp_9"}`).wants(t, 404, "previous_response_not_found")
	g.post("/v1/responses", `{"model":"gpt-5","input":"x","previous_response_id":"resp_2"}`, "X-Client", "bob").wants(t, 404, "previous_response_not_found")
	byID("GET", "/v1/responses/resp_1", "X-Client", "bob").wants(t, 404, "was not found")
	byID("GET", "/v1/responses/resp_9").wants(t, 404, "was not found")
	alice := g.client
	g.client = &access.Client{Name: "alice", Upstreams: []string{"none"}}
	byID("GET", "/v1/responses/resp_1").wants(t, 404, "was not found")
	g.client = alice
	if len(m.seen()) != n {
		t.Error("the upstream was asked")
	}
	// The owner's key is dead: no other has it.
	m.on("a2", fails(401, ""))
	g.post("/v1/responses", `{"model":"gpt-5","input":"x","previous_response_id":"resp_2"}`).wants(t, 404, "previous_response_not_found")
	// It only fails: it is asked again, and nobody else.
	n = len(m.seen())
	m.on("a1", fails(500, ""))
	byID("GET", "/v1/responses/resp_1").wants(t, 200, "")
	if all := m.seen(); len(all) != n+2 || all[n].key != "a1" || all[n+1].key != "a1" {
		t.Errorf("%+v", all[n:])
	}
	// Deleted is gone.
	byID("DELETE", "/v1/responses/resp_1").wants(t, 200, "")
	byID("GET", "/v1/responses/resp_1").wants(t, 404, "was not found")
	s.clock.advance(affinityLife + time.Second)
	byID("GET", "/v1/responses/resp_3").wants(t, 404, "was not found")
	wantIdle(t, a)
}

// A response is remembered also if its client left the stream: it can come back.
func TestStoredThoughLeft(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2 a3")
	created := "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_7\",\"model\":\"gpt-5-2026\"}}\n\n"
	delta := "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"word\"}\n\n"
	m.on("a1", then(events(created, delta), untilLeft))
	g := s.start()
	req := g.request("/v1/responses", `{"model":"gpt-5","stream":true,"background":true,"input":"x"}`)
	res, err := g.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, len(created+delta))
	for n := 0; n < len(p); {
		k, err := res.Body.Read(p[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	_ = res.Body.Close()
	<-g.traces
	get := g.request("/v1/responses/resp_7", "")
	get.Method, get.Body, get.ContentLength = "GET", nil, 0
	g.do(get).wants(t, 200, "")
	if all := m.seen(); all[1].key != "a1" {
		t.Errorf("%+v", all)
	}
}

// Another upstream has taken the name, or the key has gone, since.
func TestStoredElsewhere(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	g := s.start()
	now := s.clock.Now()
	g.relay.Affinity.put(responseKey("alice", "resp_1"), home{"a", "another key"}, now)
	g.relay.Affinity.put(responseKey("alice", "resp_2"), home{"gone", "key"}, now)
	for _, id := range []string{"resp_1", "resp_2"} {
		g.post("/v1/responses", `{"model":"gpt-5","input":"x","previous_response_id":"`+id+`"}`).wants(t, 404, "was not found")
		g.post("/v1/responses/"+id+"/cancel", "").wants(t, 404, "was not found")
	}
	if len(m.seen()) != 0 {
		t.Error(m.keys())
	}
}

// Conversations whose reasoning only one account can read stay at its key, the
// first turn included.
func TestConversationsStay(t *testing.T) {
	first := `{"model":"gpt-5","store":false,"include":["reasoning.encrypted_content"],"prompt_cache_key":"%s","input":[{"role":"user","content":"a"}]}`
	second := `{"model":"gpt-5","store":false,"prompt_cache_key":"%s","input":[{"role":"user","content":"a"},{"type":"reasoning","encrypted_content":"x"},{"role":"user","content":"b"}]}`
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2 a3 a4", withPolicy(keypool.RoundRobin))
	g := s.start()
	used := map[string]bool{}
	for i := range 12 {
		name := fmt.Sprint("conversation ", i)
		before := len(m.seen())
		g.post("/v1/responses", fmt.Sprintf(first, name)).wants(t, 200, "")
		g.post("/v1/responses", `{"model":"gpt-5","input":"something else in between"}`).wants(t, 200, "")
		for range 3 {
			g.post("/v1/responses", fmt.Sprintf(second, name)).wants(t, 200, "")
		}
		calls := m.seen()[before:]
		used[calls[0].key] = true
		for _, c := range calls[2:] {
			if c.key != calls[0].key {
				t.Errorf("%s moved from %s to %s", name, calls[0].key, c.key)
			}
		}
	}
	if len(used) < 2 {
		t.Errorf("all conversations at %v", used)
	}

	// The key fails: the conversation goes on elsewhere, and stays there.
	name := "conversation 0"
	before := len(m.seen())
	g.post("/v1/responses", fmt.Sprintf(second, name))
	at := m.seen()[before].key
	m.on(at, fails(429, "limit", "Retry-After", "60"))
	for range 3 {
		g.post("/v1/responses", fmt.Sprintf(second, name)).wants(t, 200, "")
	}
	calls := m.seen()[before+1:]
	if calls[0].key != at || calls[1].key == at || calls[2].key != calls[1].key || calls[3].key != calls[1].key {
		t.Errorf("%s then %v", at, m.keys())
	}
	// Also when the first key is back: the new one has the conversation now.
	s.clock.advance(time.Hour)
	g.post("/v1/responses", fmt.Sprintf(second, name)).wants(t, 200, "")
	if all := m.seen(); all[len(all)-1].key != calls[1].key {
		t.Error("went back")
	}
	// The same name of another client is another conversation.
	if g.relay.Affinity.at[digest("conversation", "alice", name)] == g.relay.Affinity.at[digest("conversation", "bob", name)] {
		t.Error("clients share a conversation")
	}
}

// What names a conversation, in this order: prompt_cache_key, the headers of
// agents, the first user turn.
func TestConversationNames(t *testing.T) {
	body := func(key, opening string) string {
		return fmt.Sprintf(`{"model":"gpt-5","include":["reasoning.encrypted_content"]%s,"input":[{"role":"developer","content":"d"},{"role":"user","content":"%s"}]}`, key, opening)
	}
	for _, tt := range []struct {
		body   string
		header []string
		want   string
	}{
		{body(`,"prompt_cache_key":"k"`, "o"), []string{"Session-Id", "s"}, "k"},
		{body("", "o"), []string{"Session-Id", "s", "X-Claude-Code-Session-Id", "c"}, "s"},
		{body("", "o"), []string{"X-Claude-Code-Session-Id", "c"}, "c"},
		{body("", "o"), nil, `"o"`},
		{body("", strings.Repeat("x", 5000)), nil, `"` + strings.Repeat("x", 1023)},
		{`{"model":"gpt-5","input":"plain"}`, nil, ""}, // not bound
	} {
		s := newSetup(t)
		m := newMock(t)
		s.upstream("a", m.URL, "a1")
		g := s.start()
		g.post("/v1/responses", tt.body, tt.header...).wants(t, 200, "")
		_, ok := g.relay.Affinity.find(digest("conversation", "alice", tt.want), s.clock.Now())
		if ok != (tt.want != "") || tt.want == "" && len(g.relay.Affinity.at) != 1 { // the response
			t.Errorf("%.100s %v: not called %.50s", tt.body, tt.header, tt.want)
		}
	}
}

// Under `sticky` every conversation stays, of keys and of routes, and one that
// was served by a fallback stays there.
func TestSticky(t *testing.T) {
	chat := func(g *gateway, session int) {
		g.post("/v1/chat/completions", `{"model":"m","messages":[]}`, "Session-Id", fmt.Sprint(session)).wants(t, 200, "hi")
	}
	t.Run("keys", func(t *testing.T) {
		s := newSetup(t)
		m := newMock(t)
		s.upstream("a", m.URL, "a1 a2 a3", withPolicy(keypool.Sticky))
		g := s.start()
		keys := map[string]int{}
		for session := range 20 {
			before := len(m.seen())
			chat(g, session)
			chat(g, session)
			calls := m.seen()[before:]
			if calls[0].key != calls[1].key {
				t.Errorf("%v", calls)
			}
			keys[calls[0].key]++
		}
		if len(keys) != 3 {
			t.Error(keys)
		}
	})
	t.Run("routes", func(t *testing.T) {
		s := newSetup(t)
		m := newMock(t)
		s.upstream("a", m.URL, "a1 a2", withPolicy(keypool.RoundRobin))
		s.upstream("b", m.URL, "b1 b2", withPolicy(keypool.RoundRobin))
		s.route("m", keypool.Sticky, RouteTarget{Upstream: "a", Model: "m"}, RouteTarget{Upstream: "b", Model: "m"})
		g := s.start()
		keys := map[string]int{}
		for session := range 20 {
			before := len(m.seen())
			chat(g, session)
			chat(g, session)
			calls := m.seen()[before:]
			if calls[0].key != calls[1].key {
				t.Errorf("%v", calls)
			}
			keys[calls[0].key]++
		}
		if len(keys) != 4 {
			t.Error(keys)
		}
	})
	t.Run("fallback", func(t *testing.T) {
		s := newSetup(t)
		m := newMock(t)
		s.upstream("a", m.URL, "a1", withModels("m"), withPolicy(keypool.Sticky))
		s.upstream("b", m.URL, "b1", withModels("m"))
		g := s.start()
		m.on("a1", cutOff)
		chat(g, 1)
		chat(g, 1)
		chat(g, 2)
		if got := m.keys(); got != "a1 b1 b1 a1" {
			t.Error(got)
		}
	})
}

// Without a key there is nothing to choose, and responses find their way all the same.
func TestUpstreamWithoutKey(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", m.URL, "")
	a.KeyIDs = []string{""}
	a.Credentials = []*Credential{new(Credential)}
	a.Credentials[0].Set(a.Provider.Credential(provider.Secret{}))
	a.Pool = keypool.New(keypool.Config{Name: "a", Keys: []keypool.Key{{Label: "none"}}, Health: s.health, Now: s.clock.Now})
	g := s.start()
	g.post("/v1/responses", `{"model":"gpt-5","input":"x"}`).wants(t, 200, "resp_new")
	g.post("/v1/responses", `{"model":"gpt-5","input":"x","previous_response_id":"resp_new"}`).wants(t, 200, "")
	if h := m.seen()[1].header; h.Get("Authorization") != "" {
		t.Error(h)
	}
}

// Reasoning that was sealed into an answer of another dialect finds its way back to
// the key that made it, though the first request said nothing of reasoning.
func TestSealedReasoningComesBackToItsKey(t *testing.T) {
	for dialect, c := range map[string]struct{ path, first, next, mark string }{
		"chat": {
			"/v1/chat/completions", `{"model":"m","reasoning_effort":"low","messages":[{"role":"user","content":"go"}]}`,
			`{"model":"m","reasoning_effort":"low","messages":[{"role":"user","content":"go"},{"role":"assistant","content":"hi","reasoning_opaque":"%s"},{"role":"user","content":"on"}]}`,
			`"reasoning_opaque":"`,
		},
		"gemini": {
			"/v1beta/models/m:generateContent", `{"contents":[{"role":"user","parts":[{"text":"go"}]}],"generationConfig":{"thinkingConfig":{"includeThoughts":true}}}`,
			`{"contents":[{"role":"user","parts":[{"text":"go"}]},{"role":"model","parts":[{"text":"hm","thought":true,"thoughtSignature":"%s"},{"text":"hi"}]},{"role":"user","parts":[{"text":"on"}]}],"generationConfig":{"thinkingConfig":{"includeThoughts":true,"thinkingBudget":2048}}}`,
			`"thoughtSignature":"`,
		},
	} {
		t.Run(dialect, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			s.upstreamOf("anthropic", "a", m.URL, "a1 a2 a3 a4", withModels("m"))
			g := s.start()
			for _, key := range []string{"a1", "a2", "a3", "a4"} {
				thinks := says(200, `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"thinking","thinking":"hm","signature":"c2ln"},{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`)
				m.on(key, thinks, thinks, thinks, thinks)
			}
			a := g.post(c.path, c.first)
			_, rest, found := strings.Cut(a.body, c.mark)
			if a.status != 200 || !found {
				t.Fatalf("%d %s", a.status, a.body)
			}
			sealed, _, _ := strings.Cut(rest, `"`)
			for range 3 {
				g.post(c.path, fmt.Sprintf(c.next, sealed)).wants(t, 200, "hi")
			}
			for _, sent := range m.seen()[1:] {
				if sent.key != m.seen()[0].key || !strings.Contains(sent.body, `"signature":"c2ln"`) {
					t.Errorf("the key %s got %s, the conversation was with %s", sent.key, sent.body, m.seen()[0].key)
				}
			}
		})
	}
}
