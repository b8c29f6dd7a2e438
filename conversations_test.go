package floway

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/floway/floway/usage/redisstore/redistest"
)

// keeper is an upstream of five accounts, each of which has the responses that it
// made and no other.
type keeper struct {
	mu     sync.Mutex
	made   map[string]string // the account that made a response, by its id
	last   string            // the account that was asked last
	asked  int
	faults int // so many requests fail from now on
}

func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/models") {
		io.WriteString(w, `{"object":"list","data":[{"id":"gpt-5","object":"model"}]}`)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	k.asked++
	if k.faults > 0 {
		k.faults--
		w.WriteHeader(500)
		return
	}
	id := strings.TrimPrefix(r.URL.Path, "/v1/responses")
	if _, rest, ok := strings.Cut(string(body), `"previous_response_id":"`); ok {
		id, _, _ = strings.Cut(rest, `"`)
	}
	if id = strings.TrimPrefix(id, "/"); id != "" && k.made[id] != k.last {
		w.WriteHeader(404)
		io.WriteString(w, `{"error":{"message":"Response not found at this account","type":"invalid_request_error","param":null,"code":null}}`)
		return
	}
	if r.Method != "POST" {
		fmt.Fprintf(w, `{"id":%q,"object":"response"}`, id)
		return
	}
	made := fmt.Sprint("resp_", len(k.made))
	k.made[made] = k.last
	fmt.Fprintf(w, `{"id":%q,"object":"response","status":"completed","model":"gpt-5","output":[],"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}`, made)
}

// seen returns which account was asked last, and how many requests came so far.
func (k *keeper) seen() (account string, asked int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last, k.asked
}

// keeperBlock is a site's block with an upstream of five accounts.
func keeperBlock(t *testing.T, k *keeper) string {
	u := httptest.NewServer(k)
	t.Cleanup(u.Close)
	var keys strings.Builder
	for i := range 5 {
		fmt.Fprintf(&keys, "key sk-upstream-%d-0123456789 as k%d\n", i, i)
	}
	return "upstream openai {\nbase_url " + u.URL + "\n" + keys.String() + "}\n" + alice + bob
}

const responses = "/v1/responses"

// create has alice create a response and returns its id.
func (g *gateway) create(body string) (id string) {
	g.t.Helper()
	a := g.do("POST", responses, body, asAlice)
	_, rest, _ := strings.Cut(a.body, `{"id":"`)
	id, _, ok := strings.Cut(rest, `"`)
	if a.status != 200 || !ok {
		g.t.Fatalf("status %d: %s", a.status, a.body)
	}
	return id
}

// nextTurn goes on after a response.
func nextTurn(id string) string {
	return `{"model":"gpt-5","input":"more","previous_response_id":"` + id + `"}`
}

// Where conversations live is known after a reload, and out of the ledger after a
// restart; so is what was deleted.
func TestConversationsSurvive(t *testing.T) {
	k := &keeper{made: map[string]string{}}
	s := site{block: keeperBlock(t, k)}
	follows := func(g *gateway, id, when string) {
		t.Helper()
		g.create(nextTurn(id))
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.last != k.made[id] {
			t.Errorf("%s the turn after %s went to %s, want %s", when, id, k.last, k.made[id])
		}
	}
	gone := func(g *gateway, id, when string) {
		t.Helper()
		_, before := k.seen()
		if a := g.do("GET", responses+"/"+id, "", asAlice); a.status != 404 {
			t.Errorf("%s a deleted response: status %d", when, a.status)
		}
		if a := g.do("POST", responses, nextTurn(id), asBob); a.status != 404 {
			t.Errorf("%s another client's response: status %d", when, a.status)
		}
		if _, asked := k.seen(); asked != before {
			t.Errorf("%s the upstream was asked", when)
		}
	}
	talk := func(g *gateway) (ids []string) {
		t.Helper()
		for range 7 { // more than there are keys
			ids = append(ids, g.create(`{"model":"gpt-5","input":"hi"}`))
		}
		if a := g.do("DELETE", responses+"/"+ids[3], "", asAlice); a.status != 200 {
			t.Fatalf("delete: status %d: %s", a.status, a.body)
		}
		return ids
	}

	g := start(t, s)
	ids := talk(g)
	if err := g.load(site{block: s.block + "lb_retries 1"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[4:] {
		follows(g, id, "after a reload")
	}
	gone(g, ids[3], "after a reload")

	dir := t.TempDir()
	p := launch(t, ownGateway(t, dir), s)
	ids = talk(p.gateway)
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	p = launch(t, ownGateway(t, dir), s)
	for _, id := range ids[4:] {
		follows(p.gateway, id, "after a restart")
	}
	gone(p.gateway, ids[3], "after a restart")
}

// What one instance knows of conversations, others know once it is in the account;
// also those that start later. And what was deleted at one is gone at all.
func TestInstancesShareConversations(t *testing.T) {
	server := redistest.Start(t)
	k := &keeper{made: map[string]string{}}
	s := site{block: keeperBlock(t, k) + "usage redis " + server.URL() + " {\nlog {dir}\n}"}
	instance := func() *process { return launch(t, ownGateway(t, t.TempDir()), s) }
	here, there := instance(), instance()

	// follows waits until an instance serves the next turn of a conversation.
	follows := func(g *process, id string) {
		t.Helper()
		_, before := k.seen()
		eventually(t, func() error {
			a := g.do("POST", responses, nextTurn(id), asAlice)
			if a.status != 200 {
				return fmt.Errorf("the next turn after %s: status %d: %s", id, a.status, a.body)
			}
			return nil
		})
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.last != k.made[id] {
			t.Errorf("the turn after %s went to %s, want %s", id, k.last, k.made[id])
		}
		if k.asked != before+1 {
			t.Errorf("%d requests for one turn: some went to an account that does not have the response", k.asked-before)
		}
	}

	// The key that the hash chooses fails once, so only who knows where the
	// conversation went finds it.
	conversation := `{"model":"gpt-5","store":false,"include":["reasoning.encrypted_content"],"prompt_cache_key":"our-secret-plan","input":[{"role":"user","content":"a"}%s]}`
	k.mu.Lock()
	k.faults = 1
	k.mu.Unlock()
	here.create(fmt.Sprintf(conversation, ""))
	home, _ := k.seen()

	var ids []string
	for range 7 { // more than there are keys
		ids = append(ids, here.create(`{"model":"gpt-5","input":"hi"}`))
	}
	for _, id := range ids {
		follows(there, id)
	}
	for range 3 {
		there.create(fmt.Sprintf(conversation, `,{"type":"reasoning","encrypted_content":"x"},{"role":"user","content":"b"}`))
		if at, _ := k.seen(); at != home {
			t.Errorf("the conversation was at %s and went on at %s", home, at)
		}
	}

	// Nobody else's.
	_, before := k.seen()
	for _, a := range []answer{
		there.do("POST", responses, nextTurn(ids[0]), asBob),
		there.do("GET", responses+"/"+ids[0], "", asBob),
		there.do("DELETE", responses+"/"+ids[0], "", asBob),
	} {
		if a.status != 404 {
			t.Errorf("another client's response: status %d: %s", a.status, a.body)
		}
	}
	if _, asked := k.seen(); asked != before {
		t.Error("the upstream was asked for another client's response")
	}

	// Deleted there is gone here: the upstream is not even asked.
	if a := there.do("DELETE", responses+"/"+ids[0], "", asAlice); a.status != 200 {
		t.Fatalf("delete: status %d: %s", a.status, a.body)
	}
	gone := func(g *process) {
		t.Helper()
		eventually(t, func() error {
			_, before := k.seen()
			a := g.do("GET", responses+"/"+ids[0], "", asAlice)
			if _, asked := k.seen(); a.status != 404 || asked != before {
				return fmt.Errorf("a deleted response: status %d, %d requests upstream", a.status, asked-before)
			}
			return nil
		})
	}
	gone(here)

	// Who comes late knows it all.
	late := instance()
	follows(late, ids[6])
	gone(late)
	late.create(fmt.Sprintf(conversation, `,{"type":"reasoning","encrypted_content":"x"},{"role":"user","content":"b"}`))
	if at, _ := k.seen(); at != home {
		t.Errorf("a new instance took the conversation from %s to %s", home, at)
	}
	// And so does one that starts again.
	if err := here.end(); err != nil {
		t.Fatal(err)
	}
	again := launch(t, ownGateway(t, here.dir), s)
	follows(again, ids[5])
	gone(again)

	// Redis has digests only.
	stream := server.Do("EVAL", "local s = '' for _, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do s = s .. e[2][2] end return s", "1", "fl:{floway}:notes")
	if !strings.Contains(stream, `"upstream":"openai"`) {
		t.Errorf("the stream has no notes: %s", stream)
	}
	for _, word := range []string{"alice", "resp_", "our-secret-plan", "sk-upstream"} {
		if strings.Contains(stream, word) {
			t.Errorf("%q lies in Redis: %s", word, stream)
		}
	}
}
