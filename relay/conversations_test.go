package relay

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floway/floway/keypool"
)

// vault is a Responses upstream that is as particular as the real one: responses
// are kept by the account that made them, and reasoning can be read by that alone.
type vault struct {
	t *testing.T

	mu    sync.Mutex
	made  map[string]string // who made a response or a piece of reasoning
	dead  map[string]bool   // keys that are refused
	turns []turn
}

// turn is one request that reached the vault.
type turn struct {
	key, conversation string
	previous          string
	reasoning         []string // replayed
	status            int
}

func newVault(t *testing.T) (*vault, string) {
	v := &vault{t: t, made: map[string]string{}, dead: map[string]bool{}}
	srv := httptest.NewServer(v)
	t.Cleanup(srv.Close)
	return v, srv.URL
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	v.mu.Lock()
	status, answer := v.take(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer sk-"), "-secret"), body)
	v.mu.Unlock()
	says(status, answer)(w, r)
}

func (v *vault) take(key string, body []byte) (status int, answer string) {
	var q struct {
		Previous string `json:"previous_response_id"`
		Include  []string
		Metadata struct{ Conversation string }
		Input    []struct {
			Type      string
			Encrypted string `json:"encrypted_content"`
		}
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return 400, problem("bad_json", err.Error())
	}
	now := turn{key: key, conversation: q.Metadata.Conversation, previous: q.Previous, status: 200}
	defer func() {
		now.status = status
		v.turns = append(v.turns, now)
	}()
	if v.dead[key] {
		return 401, problem("invalid_api_key", "no such key")
	}
	if q.Previous != "" && v.made[q.Previous] != key {
		return 400, problem("previous_response_not_found", "no such response")
	}
	for _, item := range q.Input {
		if item.Type != "reasoning" {
			continue
		}
		now.reasoning = append(now.reasoning, item.Encrypted)
		if v.made[item.Encrypted] != key {
			return 400, problem("invalid_encrypted_content", "the encrypted content could not be verified")
		}
	}
	n := len(v.turns)
	id, secret := fmt.Sprintf("resp_%d", n), fmt.Sprintf("gAAAA%d", n)
	v.made[id] = key
	output := `{"type":"message","role":"assistant","content":[{"type":"output_text","text":"well"}]}`
	if slices.Contains(q.Include, "reasoning.encrypted_content") {
		v.made[secret] = key
		output = `{"type":"reasoning","id":"rs_` + secret + `","summary":[],"encrypted_content":"` + secret + `"},` + output
	}
	return 200, `{"id":"` + id + `","object":"response","status":"completed","model":"gpt-5-2026","error":null,"output":[` + output +
		`],"usage":{"input_tokens":9,"output_tokens":2,"total_tokens":11}}`
}

// of returns what a conversation asked of the vault.
func (v *vault) of(conversation string) (turns []turn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.turns {
		if t.conversation == conversation {
			turns = append(turns, t)
		}
	}
	return turns
}

func (v *vault) kill(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dead[key] = true
}

func (v *vault) mend(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.dead, key)
}

// talk is a client's end of a conversation, as Codex holds it.
type talk struct {
	g        *gateway
	name     string
	client   string
	replays  bool // all items each time, with reasoning; else by previous_response_id
	previous string
	items    []json.RawMessage
}

// say has one more turn.
func (c *talk) say() got {
	said := json.RawMessage(fmt.Sprintf(`{"type":"message","role":"user","content":[{"type":"input_text","text":"%s, turn %d"}]}`, c.name, len(c.items)))
	body := map[string]any{"model": "gpt-5", "instructions": "You are Codex.", "metadata": map[string]string{"conversation": c.name}}
	if c.replays {
		body["store"], body["include"], body["prompt_cache_key"] = false, []string{"reasoning.encrypted_content"}, c.name
		body["input"] = append(slices.Clone(c.items), said)
	} else {
		body["input"] = []json.RawMessage{said}
		if c.previous != "" {
			body["previous_response_id"] = c.previous
		}
	}
	text, err := json.Marshal(body)
	if err != nil {
		c.g.t.Fatal(err)
	}
	res := c.g.post("/v1/responses", string(text), "X-Client", c.client)
	var answer struct {
		ID     string
		Output []json.RawMessage
	}
	if res.status == 200 {
		if err := json.Unmarshal([]byte(res.body), &answer); err != nil {
			c.g.t.Fatal(err)
		}
		c.previous = answer.ID
		c.items = append(append(c.items, said), answer.Output...)
	}
	return res
}

// Conversations like those of Codex, some by previous_response_id and some that
// replay encrypted reasoning: every turn goes to the key that had the first.
// When a key dies, those that replay go on elsewhere without the reasoning that
// nobody else can read. A response that went with its key is gone.
func TestCodexConversations(t *testing.T) {
	const keys = "k1 k2 k3 k4 k5 k6 k7 k8"
	s := newSetup(t)
	v, url := newVault(t)
	up := s.upstream("a", url, keys, withPolicy(keypool.RoundRobin))
	g := s.start()
	var talks []*talk
	for n := range 48 {
		talks = append(talks, &talk{g: g, name: fmt.Sprint("conversation ", n), client: fmt.Sprint("client", n%5), replays: n%2 == 0})
	}
	const turns = 4
	for range turns { // all of them at once, so to say
		for _, c := range talks {
			c.say().wants(t, 200, "well")
		}
	}
	perKey := map[string]int{}
	at := func(c *talk) string { all := v.of(c.name); return all[len(all)-1].key }
	for _, c := range talks {
		all := v.of(c.name)
		if len(all) != turns {
			t.Errorf("%s: %d attempts for %d turns", c.name, len(all), turns)
		}
		for n, turn := range all {
			if turn.key != all[0].key {
				t.Errorf("%s: turn %d went to %s, the first to %s", c.name, n+1, turn.key, all[0].key)
			}
			if c.replays && len(turn.reasoning) != n || !c.replays && (turn.previous == "") != (n == 0) {
				t.Errorf("%s: turn %d was changed on its way: %+v", c.name, n+1, turn)
			}
		}
		perKey[all[0].key]++
	}
	if len(perKey) != 8 {
		t.Errorf("the conversations are at %v", perKey)
	}

	// What another client was answered is not there.
	for _, c := range talks {
		if !c.replays {
			thief := *c
			thief.client = "thief"
			before := len(v.of(c.name))
			thief.say().wants(t, 404, "previous_response_not_found")
			if len(v.of(c.name)) != before {
				t.Error("the upstream was asked for another client's response")
			}
		}
	}

	// A key dies.
	dead := at(talks[0])
	v.kill(dead)
	moved := map[*talk]string{}
	for range 3 {
		for _, c := range talks {
			was, before := at(c), len(v.of(c.name))
			lives := was != dead
			if !lives && !c.replays {
				c.say().wants(t, 404, "previous_response_not_found") // nobody else has it
				continue
			}
			c.say().wants(t, 200, "well")
			all := v.of(c.name)[before:]
			last := all[len(all)-1]
			switch {
			case lives && moved[c] == "":
				if last.key != was || len(all) != 1 {
					t.Errorf("%s moved from %s to %s", c.name, was, last.key)
				}
			case !lives: // the first turn elsewhere, without what only the dead key could read
				if last.key == dead || len(last.reasoning) != 0 || all[len(all)-2].status != 400 {
					t.Errorf("%s: %+v", c.name, all)
				}
				moved[c] = last.key
			default:
				if last.key != moved[c] {
					t.Errorf("%s did not stay at %s, which had taken it over: %+v", c.name, moved[c], all)
				}
			}
		}
	}
	if len(moved) == 0 || len(moved) == len(talks)/2 {
		t.Errorf("%d of %d conversations moved: the test shows nothing", len(moved), len(talks))
	}

	// Whoever starts anew is served, and no key that lives has suffered.
	(&talk{g: g, name: "new", client: "client1"}).say().wants(t, 200, "well")
	for _, k := range up.Pool.States() {
		if (k.State == keypool.StateOK) != (k.Label != dead) {
			t.Errorf("key %s is %s", k.Label, k.State)
		}
	}

	// The key is mended: what it had is there again, and what has moved stays.
	v.mend(dead)
	s.clock.advance(10 * time.Minute)
	for _, c := range talks {
		was := at(c)
		c.say().wants(t, 200, "well")
		if now := at(c); now != was {
			t.Errorf("%s moved from %s to %s when the key came back", c.name, was, now)
		}
	}
	if got := states(up); strings.Contains(got, "invalid") {
		t.Error(got)
	}

	// It is taken out of the configuration: what it had is the dialect's 404.
	after := &setup{
		t: t, clock: s.clock, health: s.health, client: s.client,
		config: Config{Retries: DefaultRetries, TryDuration: DefaultTryDuration, Affinity: g.relay.Affinity},
	}
	after.upstream("a", url, strings.Join(slices.DeleteFunc(strings.Fields(keys), func(k string) bool { return k == dead }), " "), withPolicy(keypool.RoundRobin))
	reloaded := after.start()
	lost := 0
	for _, c := range talks {
		was := at(c)
		c.g = reloaded
		if was == dead && !c.replays {
			lost++
			c.say().wants(t, 404, "previous_response_not_found")
			c.previous = "" // as a client does that is told so
			c.say().wants(t, 200, "well")
			continue
		}
		c.say().wants(t, 200, "well")
		if now := at(c); now != was {
			t.Errorf("%s moved from %s to %s with the reload", c.name, was, now)
		}
	}
	if lost == 0 {
		t.Error("no conversation by id was at the dead key: the test shows nothing")
	}
	wantIdle(t, up)
}

// The dead key is mended before its responses are asked for again: they are
// there, without a restart.
func TestStoredResponsesOfAMendedKey(t *testing.T) {
	s := newSetup(t)
	v, url := newVault(t)
	up := s.upstream("a", url, "k1 k2", withPolicy(keypool.RoundRobin))
	g := s.start()
	c := &talk{g: g, name: "c", client: "alice"}
	c.say().wants(t, 200, "well")
	v.kill("k1")
	c.say().wants(t, 404, "previous_response_not_found")
	v.mend("k1")
	s.clock.advance(10 * time.Second) // the last resort tries a refused key so often
	c.say().wants(t, 200, "well")
	if got := states(up); got != "k1 ok, k2 ok" {
		t.Error(got)
	}
}

// Why a stored response cannot be had is the state of its own key, and when it
// can is that key's return, however the others are.
func TestStoredResponseNamesItsOwnKeysWait(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2 a3")
	m.on("a1", says(200, responseAnswer("resp_1")), fails(429, "limit", "Retry-After", "90"), nil)
	m.on("a2", fails(429, "limit", "Retry-After", "5"))
	m.on("a3", fails(401, ""))
	g := s.start()
	follow := func() got {
		return g.post("/v1/responses", `{"model":"gpt-5","input":"x","previous_response_id":"resp_1"}`)
	}
	g.post("/v1/responses", `{"model":"gpt-5","input":"x"}`).wants(t, 200, "resp_1")
	g.post("/v1/responses", `{"model":"gpt-5","input":"y"}`).wants(t, 502, "credential") // of a3, after the limits of the others
	calls := len(m.seen())
	res := follow()
	res.wants(t, 429, "over a limit")
	if got := res.header.Get("Retry-After"); got != "90" || len(m.seen()) != calls {
		t.Errorf("Retry-After %q after %d calls", got, len(m.seen())-calls)
	}
	s.clock.advance(90 * time.Second)
	follow().wants(t, 200, "")
}
