package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mock"
)

func TestMain(m *testing.M) { harness.Main(m) }

const clientKey = "sk-client-alice-0001"

// world is one gateway in front of one mock for each dialect.
type world struct {
	*harness.Gateway
	up [4]*upstream
}

// lonely is how many upstreams with one key there are of each kind.
const lonely = 8 * 3

// keys are credentials of an upstream: many, since some are refused.
func keys() (lines string, env []string) {
	var b strings.Builder
	for i := 1; i <= 64; i++ {
		fmt.Fprintf(&b, "\t\t\tkey {env.UPSTREAM_%d} as k%d\n", i, i)
		env = append(env, fmt.Sprintf("UPSTREAM_%d=sk-mock-upstream-%d", i, i))
	}
	return b.String(), env
}

// start starts the gateway. Only one OpenAI mock speaks each of OpenAI's dialects.
func start(t *testing.T) *world {
	t.Helper()
	w := new(world)
	for d, run := range [4]func(testing.TB) *harness.Upstream{harness.StartOpenAI, harness.StartOpenAI, harness.StartAnthropic, harness.StartGemini} {
		w.up[d] = &upstream{Upstream: run(t), d: d}
	}
	lines, env := keys()
	// Beside each stand upstreams that have one key only, which errors put out of use.
	block := func(provider, name, url, more string) string {
		one := func(name, keys string) string {
			return "upstream " + provider + " " + name + " {\n\t\t\tbase_url " + url + "\n\t\t\tmodels mock-*\n" + more + keys + "\t\t}\n\t\t"
		}
		all := one(name, lines)
		for i := range lonely {
			all += one(fmt.Sprintf("%s-%d", name, i), "\t\t\tkey {env.UPSTREAM_1}\n")
		}
		return all
	}
	w.Gateway = harness.StartGateway(t, harness.Config{
		Floway: block("openai", "chat", "CHAT/v1", "\t\t\tdialects chat embeddings\n") + block("openai", "responses", "RESP/v1", "\t\t\tdialects responses\n") +
			block("anthropic", "messages", "MSGS", "") + block("gemini", "gemini", "GEM", "") + `
		client alice {
			key {env.ALICE}
		}
		usage embedded DIR/usage
		lb_retries 0
`,
		Vars:  map[string]string{"CHAT": w.up[chat].URL, "RESP": w.up[resp].URL, "MSGS": w.up[msgs].URL, "GEM": w.up[gem].URL},
		Env:   append(env, "ALICE="+clientKey),
		Quiet: true,
	})
	return w
}

// base are the shortest requests.
var base = [4]string{
	`{"messages":[{"role":"user","content":"hi"}]}`,
	`{"input":"hi"}`,
	`{"max_tokens":4096,"messages":[{"role":"user","content":"hi"}]}`,
	`{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}`,
}

// request is a scenario in a dialect; false if it has no words for it.
func (s *scenario) request(d int) ([]byte, bool) {
	if s.ask[d] == "-" {
		return nil, false
	}
	var all, more map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal([]byte(base[d]), &all), json.Unmarshal([]byte("{"+s.ask[d]+"}"), &more)); err != nil {
		panic(s.name + ": " + err.Error())
	}
	for name, v := range more {
		all[name] = v
	}
	return mock.Encode(all), true
}

// field is the innermost name of what a scenario asks, for messages about it.
func (s *scenario) field(d int) string {
	var all map[string]any
	if err := json.Unmarshal([]byte("{"+s.ask[d]+"}"), &all); err != nil {
		panic(err)
	}
	field := ""
	for len(all) == 1 {
		for name, v := range all {
			field = name
			all, _ = v.(map[string]any)
		}
	}
	return field
}

// becomes is what is to become of a scenario in a cell.
func (s *scenario) becomes(c, u int) string {
	if v, ok := s.pairs[dialects[c]+">"+dialects[u]]; ok {
		return v
	}
	if c == u && (strings.HasPrefix(s.reach[u], refused) || strings.HasPrefix(s.reach[u], dropped)) {
		return ""
	}
	return s.reach[u]
}

// grid keeps what each cell came to.
type grid struct {
	mu    sync.Mutex
	names []string
	cells map[string]*[4][4]string
}

func (g *grid) set(name string, c, u int, what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	row := g.cells[name]
	if row == nil {
		row = new([4][4]string)
		g.cells[name] = row
		g.names = append(g.names, name)
	}
	if row[c][u] != "FAIL" {
		row[c][u] = what
	}
}

func (g *grid) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-42s", "client")
	for c := range dialects {
		fmt.Fprintf(&b, "| %-23s", dialects[c])
	}
	fmt.Fprintf(&b, "\n%-42s", "upstream")
	for range dialects {
		b.WriteString("| chat  resp  msgs  gem   ")
	}
	b.WriteByte('\n')
	for _, name := range g.names {
		fmt.Fprintf(&b, "%-42s", name)
		for c := range dialects {
			b.WriteString("| ")
			for u := range dialects {
				fmt.Fprintf(&b, "%-6s", g.cells[name][c][u])
			}
		}
		b.WriteByte('\n')
	}
	b.WriteString("ok: served as it should be   drop: served without what was named as dropped   400: refused as it should be   -: the client has no words for it   FAIL: see above\n")
	return b.String()
}

// Every client on every upstream.
func TestMatrix(t *testing.T) {
	w := start(t)
	g := &grid{cells: map[string]*[4][4]string{}}
	for i := range scenarios { // in their order
		g.set(scenarios[i].name, 0, 0, "-")
	}
	t.Run("cells", func(t *testing.T) {
		for u := range w.up {
			t.Run(dialects[u], func(t *testing.T) {
				t.Parallel()
				for i := range scenarios {
					for c := range dialects {
						w.cell(t, g, &scenarios[i], c, u)
					}
				}
			})
		}
	})
	t.Run("foreign", func(t *testing.T) { w.foreign(t, g) })
	t.Run("count", func(t *testing.T) { w.counting(t, g) })
	t.Run("agents", func(t *testing.T) { w.agents(t, g) })
	t.Run("account", func(t *testing.T) { w.account(t) })
	t.Run("embeddings", func(t *testing.T) { w.embeddings(t, g) })
	t.Run("ends", func(t *testing.T) { w.ends(t, g) })
	t.Run("failures", func(t *testing.T) {
		for u := range w.up {
			t.Run(dialects[u], func(t *testing.T) {
				t.Parallel()
				w.failures(t, g, u)
				w.breaks(t, g, u)
				w.abort(t, g, u)
			})
		}
	})
	t.Log(g)
	t.Run("rows", g.covered)
}

func (w *world) cell(t *testing.T, g *grid, s *scenario, c, u int) {
	want := s.becomes(c, u)
	if _, ok := s.request(c); !ok || want == "-" {
		g.set(s.name, c, u, "-")
		return
	}
	for _, stream := range []bool{false, true} {
		if s.once && stream {
			continue
		}
		what := "ok"
		t.Run(fmt.Sprintf("%s/%s stream=%v", s.name, dialects[c], stream), func(t *testing.T) {
			var err error
			if what, err = w.try(t, s, c, u, stream, want); err != nil {
				t.Error(err)
				what = "FAIL"
			}
		})
		g.set(s.name, c, u, what)
	}
}

// try makes one call, or a conversation of two turns.
func (w *world) try(t *testing.T, s *scenario, c, u int, stream bool, want string) (string, error) {
	body, _ := s.request(c)
	// What a conversation begins with is what it is known by.
	opening := mock.Encode(fmt.Sprintf("hi %s %s %s %v", s.name, dialects[c], dialects[u], stream))
	body = bytes.ReplaceAll(body, []byte(`"hi"`), opening)
	model := dialects[u] + "/mock-chat"
	if s.model != "" {
		model = dialects[u] + "/" + s.model
	}
	up := w.up[u]
	a, err := askers[c](t.Context(), w.URL, clientKey, model, body, stream)
	entries, requests := up.asked(t)
	if strings.HasPrefix(want, "4") {
		status, _ := strconv.Atoi(want[:3])
		field := strings.TrimSpace(want[3:])
		if field == "" {
			field = s.field(c)
		}
		var r *raised
		switch {
		case !errors.As(err, &r) || r.status != status || !strings.Contains(r.text, field):
			return "", fmt.Errorf("want a %d that names %s, got %v", status, field, err)
		case c != u && len(requests) > 0:
			return "", fmt.Errorf("the upstream was asked: %s", requests[0].Body)
		}
		return want[:3], nil
	}
	if err != nil {
		if len(requests) > 0 {
			err = fmt.Errorf("%w\nsent %.3000s", err, requests[len(requests)-1].Body)
		}
		return "", err
	}
	if err := w.same(t, s, c, u, a, entries, requests); err != nil {
		return "", err
	}
	sent := requests[0].Body
	if field, ok := strings.CutPrefix(want, dropped); ok {
		field = strings.TrimSpace(field)
		if field == "" {
			field = s.field(c)
		}
		if got := a.header.Get("X-Floway-Dropped"); !strings.Contains(got, field) {
			return "", fmt.Errorf("what was dropped is %q, want %s", got, field)
		}
	} else if want != "" {
		if err := fits(want, sent); err != nil {
			return "", fmt.Errorf("%w\nsent %.3000s", err, sent)
		}
	}
	if end := s.end; end != "" && !sameEnd(a.end, end, c, u) || end == "" && a.end != "stop" {
		return "", fmt.Errorf("the end is %s", a.end)
	}
	if (s.calls >= 0 || len(s.results) > 0) && len(a.calls) != s.calls && !strings.HasPrefix(want, "drop parallel") {
		return "", fmt.Errorf("%d calls: %+v", len(a.calls), a.calls)
	}
	what := "ok"
	if strings.HasPrefix(want, dropped) {
		what = dropped
	}
	if len(s.results) == 0 {
		return what, nil
	}
	next := answered[c](body, a, s.results)
	b, err := askers[c](t.Context(), w.URL, clientKey, model, next, stream)
	entries, requests = up.asked(t)
	if err != nil {
		if len(requests) > 0 {
			err = fmt.Errorf("%w\nsent %.3000s", err, requests[len(requests)-1].Body)
		}
		return "", fmt.Errorf("the second turn: %w", err)
	}
	if err := w.same(t, s, c, u, b, entries, requests); err != nil {
		return "", fmt.Errorf("the second turn: %w", err)
	}
	// With an image behind the results some mocks take it for a new question.
	if b.end != "stop" && !s.results[len(s.results)-1].image {
		return "", fmt.Errorf("the second turn ends with %s", b.end)
	}
	sent = requests[0].Body
	if strings.Contains(string(sent), "fw1.") {
		return "", fmt.Errorf("an envelope reached the upstream: %.3000s", sent)
	}
	if p := s.replayed[u]; p != "" {
		if err := fits(p, sent); err != nil {
			return "", fmt.Errorf("the second turn: %w\nsent %.3000s", err, sent)
		}
	}
	return what, nil
}

// same checks that the SDK got what the upstream said, and was told what it used.
func (w *world) same(t *testing.T, s *scenario, c, u int, a *said, entries []mock.Entry, requests []mock.Request) error {
	if len(entries) != 1 || entries[0].Status != 200 || entries[0].Outcome != mock.Full {
		return fmt.Errorf("the upstream's ledger is %+v", entries)
	}
	want, err := w.up[u].scripted(t, &requests[0])
	if err != nil {
		return err
	}
	switch {
	case c == u && (a.text != want.text || a.refusal != want.refusal):
		return fmt.Errorf("it says %q, want %q", a.text+a.refusal, want.text+want.refusal)
	case a.text+a.refusal != want.text+want.refusal && (want.refusal == "" || a.text != want.text):
		return fmt.Errorf("it says %q, want %q", a.text+a.refusal, want.text+want.refusal)
	case !sameEnd(a.end, want.end, c, u):
		return fmt.Errorf("it ends with %s, want %s", a.end, want.end)
	case a.thought != want.thought && (a.thought != "" || s.opaque):
		return fmt.Errorf("it thinks %q, want %q", a.thought, want.thought)
	case s.opaque && want.opaque && !a.opaque && len(a.calls) > 0 && c != chat:
		return errors.New("sealed reasoning is lost")
	case len(a.calls) != len(want.calls):
		return fmt.Errorf("it calls %+v, want %+v", a.calls, want.calls)
	}
	for i, got := range a.calls {
		want := want.calls[i]
		if !sameArgs(got.args, want.args) || got.id == "" && c != gem || i > 0 && got.id == a.calls[0].id && got.id != "" {
			return fmt.Errorf("it calls %+v, want %+v", got, want)
		}
		if s.called != "" {
			want.name = s.called // the upstream has it by another name
		}
		if got.name != want.name {
			return fmt.Errorf("it calls %+v, want %+v", got, want)
		}
	}
	tells := usedOf(&entries[0].Tokens)
	if c == gem {
		tells.written = 0
	}
	if a.used != tells {
		return fmt.Errorf("it is told that %+v was used, the upstream used %+v", a.used, tells)
	}
	return nil
}

// sameEnd compares how answers end. Messages and Gemini have one word for answers
// that are filtered and for those that are refused.
func sameEnd(a, b string, c, u int) bool {
	if c >= msgs || u >= msgs {
		a, b = strings.Replace(a, "refusal", "filter", 1), strings.Replace(b, "refusal", "filter", 1)
	}
	return a == b
}

func sameArgs(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(b), &y) != nil {
		return a == b
	}
	if m, ok := y.(map[string]any); ok && len(m) == 1 { // free text that was wrapped
		if s, ok := m["input"].(string); ok && s == a {
			return true
		}
	}
	if json.Unmarshal([]byte(a), &x) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}

// fits says what of a pattern a body does not fit. Objects may have more members
// than the pattern; "*" is anything, "~text" anything whose JSON has the text in it.
func fits(pattern string, body []byte) error {
	p, err := mock.ReadJSON([]byte(pattern))
	if err != nil {
		panic(pattern + ": " + err.Error())
	}
	v, err := mock.ReadJSON(body)
	if err != nil {
		return err
	}
	return fit(nil, p, v)
}

func fit(at mock.At, p, v any) error {
	switch p := p.(type) {
	case string:
		part, ok := strings.CutPrefix(p, "~")
		if p == "*" && v != nil || p == v || ok && strings.Contains(string(mock.Encode(v)), part) {
			return nil
		}
	case map[string]any:
		all, ok := v.(map[string]any)
		if !ok {
			break
		}
		for _, name := range mock.SortedKeys(p) {
			if err := fit(append(at[:len(at):len(at)], name), p[name], all[name]); err != nil {
				return err
			}
		}
		return nil
	case []any:
		all, ok := v.([]any)
		if !ok || len(all) != len(p) {
			break
		}
		for i := range p {
			if err := fit(append(at[:len(at):len(at)], i), p[i], all[i]); err != nil {
				return err
			}
		}
		return nil
	default:
		if reflect.DeepEqual(p, v) {
			return nil
		}
	}
	return fmt.Errorf("at %q the upstream gets %.600s, want %s", at.Bracketed(), mock.Encode(v), mock.Encode(p))
}

// answered are a request's next turn: what the model said, and what its tools say.
var answered = [4]func(body []byte, a *said, results []result) []byte{
	func(body []byte, a *said, results []result) []byte {
		more := []any{a.turn}
		for i, r := range results {
			text := r.text
			if r.failed {
				text = "Error: " + text
			}
			more = append(more, map[string]any{"role": "tool", "tool_call_id": a.calls[i].id, "content": text})
		}
		for _, r := range results {
			if r.image {
				more = append(more, map[string]any{"role": "user", "content": []any{map[string]any{"type": "image_url", "image_url": map[string]any{"url": "data:image/png;base64," + pixel}}}})
			}
		}
		return appended(body, "messages", more)
	},
	func(body []byte, a *said, results []result) []byte {
		var items []any
		if err := json.Unmarshal(a.turn, &items); err != nil {
			panic(err)
		}
		for i, r := range results {
			var output any = r.text
			if r.image {
				output = []any{map[string]any{"type": "input_text", "text": r.text}, map[string]any{"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64," + pixel}}
			}
			items = append(items, map[string]any{"type": "function_call_output", "call_id": a.calls[i].id, "output": output})
		}
		var q struct{ Input any }
		if err := json.Unmarshal(body, &q); err != nil {
			panic(err)
		}
		return appended(with(body, "input", []any{map[string]any{"role": "user", "content": q.Input}}), "input", items)
	},
	func(body []byte, a *said, results []result) []byte {
		var blocks []any
		for i, r := range results {
			content := []any{map[string]any{"type": "text", "text": r.text}}
			if r.image {
				content = append(content, map[string]any{"type": "image", "source": map[string]any{"type": "base64", "media_type": "image/png", "data": pixel}})
			}
			blocks = append(blocks, map[string]any{"type": "tool_result", "tool_use_id": a.calls[i].id, "content": content, "is_error": r.failed})
		}
		return appended(body, "messages", []any{a.turn, map[string]any{"role": "user", "content": blocks}})
	},
	func(body []byte, a *said, results []result) []byte {
		var parts, images []any
		for i, r := range results {
			said := map[string]any{"result": r.text}
			if r.failed {
				said = map[string]any{"error": r.text}
			}
			response := map[string]any{"name": a.calls[i].name, "response": said}
			if a.calls[i].id != "" {
				response["id"] = a.calls[i].id
			}
			parts = append(parts, map[string]any{"functionResponse": response})
			if r.image {
				images = append(images, map[string]any{"inlineData": map[string]any{"mimeType": "image/png", "data": pixel}})
			}
		}
		return appended(body, "contents", []any{a.turn, map[string]any{"role": "user", "parts": append(parts, images...)}})
	},
}

func appended(body []byte, name string, more []any) []byte {
	var all map[string]json.RawMessage
	var list []any
	if err := errors.Join(json.Unmarshal(body, &all), json.Unmarshal(all[name], &list)); err != nil {
		if json.Unmarshal(body, &all); json.Unmarshal(all[name], &list) != nil {
			panic(err)
		}
	}
	return with(body, name, append(list, more...))
}

// account checks that the account has what the upstreams told, to the token.
func (w *world) account(t *testing.T) {
	want := map[string]harness.Counts{}
	for _, up := range w.up {
		var n harness.Counts
		for _, e := range up.told {
			if !e.Told {
				continue
			}
			n.Input += e.Tokens.Input
			n.CacheRead += e.Tokens.CacheRead
			n.CacheWrite += e.Tokens.CacheWrite
			n.CacheWrite1h += e.Tokens.CacheWrite1h
			n.Output += e.Tokens.Output
			n.Reasoning += e.Tokens.Reasoning
		}
		want[dialects[up.d]] = n
	}
	harness.Eventually(t, func() error {
		rows, _ := w.Usage(t, "upstream")
		for name, n := range want {
			r := rows[name]
			got := harness.Counts{Input: r.Input, CacheRead: r.CacheRead, CacheWrite: r.CacheWrite, CacheWrite1h: r.CacheWrite1h, Output: r.Output, Reasoning: r.Reasoning}
			if got != n || r.EstimatedAttempts > 0 {
				return fmt.Errorf("%s: the account has %+v (%d estimated), the upstream told %+v", name, got, r.EstimatedAttempts, n)
			}
		}
		return nil
	})
}
