package floway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// listing is a compatible server whose list of models is anything.
func listing(t *testing.T, list http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/models") || strings.HasSuffix(r.URL.Path, "/tags") {
			list(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, completion)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func lists(names ...string) http.HandlerFunc {
	var rows []map[string]string
	for _, n := range names {
		rows = append(rows, map[string]string{"id": n, "object": "model", "owned_by": "own\x1b[2Jer"})
	}
	body, _ := json.Marshal(map[string]any{"object": "list", "data": rows})
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
}

// models asks for what is listed.
func (g *gateway) models() []string {
	g.t.Helper()
	var list struct{ Data []struct{ ID string } }
	a := g.do("GET", "/v1/models", "", asAlice)
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != 200 {
		g.t.Fatalf("status %d: %s", a.status, a.body)
	}
	var names []string
	for _, m := range list.Data {
		names = append(names, m.ID)
	}
	return names
}

// A catalogue that is slow, huge, malformed, refused or hostile takes nothing away
// from other upstreams, and nothing from its own but its list.
func TestBadCatalogues(t *testing.T) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	upstreams := map[string]*httptest.Server{
		"good": listing(t, lists("good-model", "shared")),
		"slow": listing(t, func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-over:
			}
		}),
		"huge": listing(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"data":[`)
			row := strings.Repeat(`{"id":"huge"},`, 1000)
			for range 1000 {
				if _, err := io.WriteString(w, row); err != nil {
					return
				}
			}
		}),
		"page":    listing(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Sign in</html>") }),
		"refused": listing(t, func(w http.ResponseWriter, _ *http.Request) { refusing(401, "invalid_api_key")(w, nil) }),
		"moved": listing(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(302)
		}),
		"hostile": listing(t, lists("declared-model", "good/declared-model", "\x1b]0;owned\x07", "line\nfeed", "\u202eback", "bad\xff", strings.Repeat("n", 600), "route-model", "honest")),
		"gone":    listing(t, lists("never")),
	}
	upstreams["gone"].Close()
	block := ""
	for _, name := range []string{"hostile", "slow", "huge", "page", "refused", "moved", "gone", "good"} {
		block += "upstream openai " + name + " {\nbase_url " + upstreams[name].URL + "\nkey sk-upstream-0123456789\n}\n"
	}
	declares := newUpstream(t)
	block += "upstream ollama declares {\nbase_url " + declares.URL + "\nmodels declared-model\n}\nroute route-model {\nto good/good-model\n}\n"
	g := start(t, site{block: block + alice}) // and does not wait for any list
	var report modelsReport
	eventually(t, func() error {
		report = modelsReport{}
		if err := json.Unmarshal([]byte(g.ask("GET", "/floway/models").body), &report); err != nil {
			return err
		}
		for _, u := range report.Upstreams {
			if u.Fetched == nil && u.Error == "" && !u.Declared && u.Upstream != "slow" {
				return fmt.Errorf("nothing is known of %s", u.Upstream)
			}
		}
		return nil
	})
	want := map[string]string{
		"slow": "", "huge": "longer than 8 MiB", "page": "not JSON", "refused": "the credential was refused",
		"moved": "status 302", "gone": "connection refused", "hostile": "", "good": "", "declares": "",
	}
	for _, u := range report.Upstreams {
		if part, ok := want[u.Upstream]; !ok || (part == "") != (u.Error == "") || !strings.Contains(u.Error, part) || strings.Contains(u.Error, "sk-upstream") {
			t.Errorf("%+v, want %q", u, part)
		}
	}
	if got := g.models(); !slices.Equal(got, []string{"route-model", "declared-model", "good/declared-model", "honest", "good-model", "shared"}) {
		t.Errorf("listed are %q", got)
	}
	for model, by := range map[string]string{
		"declared-model": "declares declared", "route-model": "good route", "good-model": "good listed", "honest": "hostile listed",
		"good/declared-model": "good addressed", // the part before the slash is an upstream's name
	} {
		i := slices.IndexFunc(report.Models, func(m servedReport) bool { return m.Model == model })
		if i < 0 {
			t.Errorf("%s is not told of", model)
		} else if s := report.Models[i].By[0]; s.Upstream+" "+s.Rule != by {
			t.Errorf("%s is served by %+v, want %s", model, s, by)
		}
		g.chat(helloTo(model), asAlice)
	}
	if n := len(declares.calls()); n != 1 {
		t.Errorf("%d calls to the upstream that declares its model", n)
	}
	// Their models are served all the same.
	for _, name := range []string{"slow", "huge", "page", "refused", "moved"} {
		g.chat(helloTo(name+"/anything"), asAlice)
	}
	out, err := caddyProgram(t, "floway", "models", "--address="+g.admin)
	if err != nil || strings.ContainsAny(out, "\x1b\x07\u202e") || !strings.Contains(out, "page (openai): lists 0 models; its list cannot be fetched: model list: the answer is not JSON") {
		t.Errorf("%v: %q", err, out)
	}
}

// What an upstream listed is known after a reload without asking again, and nothing
// at the start needs an upstream.
func TestCataloguesWithoutNetwork(t *testing.T) {
	var asked atomic.Int32
	up := listing(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, `{"models":[{"name":"qwen3:latest","model":"qwen3:latest","modified_at":"2026-11-01T10:00:00Z"},{"name":"llama3:8b"}]}`)
		if r.URL.Path != "/api/tags" {
			t.Errorf("asked for %s", r.URL.Path)
		}
	})
	other := newUpstream(t)
	// Both take any name; the one that has the model under its tag is asked first.
	s := site{block: "upstream openai {\nbase_url " + other.URL + "\nkey sk-upstream-0123456789\n}\nupstream ollama {\nbase_url " + up.URL + "\n}\n" + alice}
	g := start(t, s)
	eventually(t, func() error {
		if got := g.models(); !slices.Contains(got, "qwen3:latest") || !slices.Contains(got, "llama3:8b") || !slices.Contains(got, "gpt-5") {
			return fmt.Errorf("listed are %v", got)
		}
		return nil
	})
	for _, u := range generations.handlers()[0].Upstreams {
		if got := u.upstream.FirstByte; u.Provider == "ollama" && got != 15*time.Minute || u.Provider == "openai" && got != 0 {
			t.Errorf("%s may take %v to answer", u.Name, got)
		}
	}
	g.chat(helloTo("qwen3"), asAlice)
	if n := len(other.calls()); n != 0 {
		t.Error("a model without its tag went to another upstream")
	}
	up.Close()
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	if got := g.models(); !slices.Contains(got, "qwen3:latest") || asked.Load() != 1 {
		t.Errorf("after a reload %v are listed; asked %d times", got, asked.Load())
	}
	g.chat(helloTo("qwen3"), asAlice) // fails over
	if n := len(other.calls()); n != 1 {
		t.Errorf("%d calls to the other upstream", n)
	}

	other.Close()
	fresh := site{block: s.block + "upstream anthropic named {\nbase_url " + up.URL + "\nkey sk-upstream-0123456789\nmodels claude-x\n}\n"}
	fresh.block = strings.Replace(fresh.block, "upstream openai {", "upstream openai again {", 1)
	if err := g.load(fresh); err != nil {
		t.Fatalf("without a network: %v", err)
	}
	for _, model := range []string{"claude-x", "anything"} {
		a := g.do("POST", chatPath, helloTo(model), asAlice)
		if a.status != 502 || !strings.Contains(a.body, "the upstream could not be reached: connection refused") {
			t.Errorf("%s: status %d: %s", model, a.status, a.body)
		}
	}
	if a := g.do("GET", "/floway/health", ""); a.status != 200 {
		t.Errorf("not ready: %d %s", a.status, a.body)
	}
}

// A service that does not tell what it has is served like any other, and its keys
// cannot be tried for nothing.
func TestServiceWithoutList(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: "upstream perplexity {\nbase_url " + u.URL + "\nkey sk-upstream-0123456789\n}\n" + alice})
	g.chat(helloTo("sonar-pro"), asAlice)
	if c := u.calls(); len(c) != 1 || c[0].uri != "/chat/completions" {
		t.Errorf("%+v", c)
	}
	eventually(t, func() error {
		if a := g.ask("GET", "/floway/models"); !strings.Contains(a.body, `"listed_models":0,"fetched":`) {
			return fmt.Errorf("%s", a.body)
		}
		return nil
	})
	out, err := caddyProgram(t, "floway", "check", "--address="+g.admin)
	if err != nil || !strings.Contains(out, "perplexity key1: not tried: ") {
		t.Errorf("%v: %s", err, out)
	}
	if strings.Contains(g.logged(), "model list not fetched") {
		t.Error("a list was missed that does not exist")
	}
}
