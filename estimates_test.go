package floway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/floway/floway/estimate"
	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/ledger"
)

const silentAnswer = `{"id":"c1","object":"chat.completion","created":1,"model":"upstreams-own","choices":[{"index":0,"message":{"role":"assistant","content":"Nobody counted this."},"finish_reason":"stop"}]}`

// silent answers without usage.
func silent(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, silentAnswer)
}

// asked is a request with one text, and how many tokens that is.
func asked(text string) (body string, tokens int) {
	quoted, _ := json.Marshal(text)
	body = `{"model":"gpt-5","messages":[{"role":"user","content":` + string(quoted) + `}]}`
	return body, int(7 + estimate.Count("gpt-5", text)) // as dialect.PromptTexts counts frames
}

// logSums adds up a ledger's log: what was settled, and what is so after corrections.
func logSums(t *testing.T, dir string) (settled, corrected usage.Counts, records map[string][]ledger.Entry) {
	t.Helper()
	records = map[string][]ledger.Entry{}
	err := ledger.Read(filepath.Join(dir, "ledger"), func(e ledger.Entry) error {
		now := e.Record.Counts()
		switch e.Kind {
		case ledger.Settled, ledger.Unsettled:
			for f := range now {
				settled[f] += now[f]
				corrected[f] += now[f]
			}
		case ledger.Corrected:
			was := e.Was.Counts()
			for f := range now {
				corrected[f] += now[f] - was[f]
			}
		default:
			return nil
		}
		records[e.Record.Request] = append(records[e.Record.Request], e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return settled, corrected, records
}

// Reports show the tokenizer's counts where the upstream gave none, over reloads,
// and the store has what the settled records and their corrections add up to.
func TestUsageIsEstimated(t *testing.T) {
	u := newUpstream(t)
	s := site{block: u.block() + alice, global: "metrics"}
	g := start(t, s)
	metered := func() (n float64) { // since the process began
		const name = `caddy_floway_tokens_total{kind="input",upstream="openai"} `
		_, rest, _ := strings.Cut(g.ask("GET", "/metrics").body, name)
		_, _ = fmt.Sscan(rest, &n)
		return n
	}
	before := metered()
	g.chat(hello, asAlice) // has usage: 10 and 5
	u.answerWith(silent)
	input, output := 10, 5
	for i := range 20 {
		body, n := asked(strings.Repeat(fmt.Sprintf("This is text number %d of some. ", i), 1+i*i))
		g.chat(body, asAlice)
		input, output = input+n, output+int(estimate.Count("gpt-5", "Nobody counted this."))
		if i%7 == 3 {
			if err := g.load(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		streamed(chunkHi, chunkThere)(w, r)
		panic(http.ErrAbortHandler)
	})
	if _, err := do("POST", "http://"+g.addr+chatPath, streamOf("gpt-5"), asAlice); err == nil {
		t.Error("a cut answer looks whole")
	}
	input, output = input+int(7+estimate.Count("gpt-5", "Hello")), output+int(estimate.Count("gpt-5", "Hi there"))
	if r := g.usage("by=client"); r.Sum.Input != input || r.Sum.Output != output || r.Sum.Requests != 22 {
		t.Errorf("reported %+v, want %d and %d", r.Sum, input, output)
	}
	if got := metered() - before; got != float64(input) {
		t.Errorf("the metrics have %v tokens, want %d", got, input)
	}
	_, sums, records := logSums(t, g.dir)
	if sums[usage.InputTokens] != int64(input) || sums[usage.OutputTokens] != int64(output) || sums[usage.Attempts] != 22 || sums[usage.EstimatedAttempts] != 21 {
		t.Errorf("the log adds up to %+v", sums)
	}
	for request, entries := range records {
		if n := len(entries); n > 2 || n == 1 == entries[0].Record.Estimating {
			t.Errorf("%s has %d records", request, n)
		}
	}
}

// What waits for its estimate when the process ends gets it within the time that
// there is for the end.
func TestEstimatesAtExit(t *testing.T) {
	u := newUpstream(t)
	u.answerWith(silent)
	dir := t.TempDir()
	s := site{block: u.block() + alice}
	first := launch(t, ownGateway(t, dir), s)
	want := 0
	for i := range 5 {
		body, n := asked(strings.Repeat(fmt.Sprint("Word and word ", i, "; "), 10_000))
		first.chat(body, asAlice)
		want += n
	}
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	_, sums, _ := logSums(t, dir)
	if sums[usage.InputTokens] != int64(want) {
		t.Errorf("%d tokens of input, want %d", sums[usage.InputTokens], want)
	}
}

// A process that is killed before the tokenizer had its turn leaves the counts by
// bytes, and counts nothing twice; one that is killed in the middle of an answer
// leaves an unknown outcome with its estimate.
func TestKilledBeforeTheEstimate(t *testing.T) {
	u := newUpstream(t)
	u.answerWith(silent)
	dir := t.TempDir()
	s := site{block: u.block() + alice}
	first := launch(t, ownGateway(t, dir), s)
	// Texts that take the tokenizer long: blanks and line feeds in turn.
	first.chat(`{"model":"gpt-5","messages":[{"role":"user","content":"`+strings.Repeat(` \n`, 10<<20)+`"}]}`, asAlice)
	waits, tokens := asked("This one waits behind it.")
	first.chat(waits, asAlice)

	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		streamed(chunkHi, chunkThere)(w, r)
		<-r.Context().Done()
	})
	open, _ := asked("This one is open.")
	req, err := http.NewRequest("POST", "http://"+first.addr+chatPath, strings.NewReader(strings.Replace(open, "{", `{"stream":true,`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+aliceKey)
	res, err := plain.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAtLeast(res.Body, make([]byte, 1), 1); err != nil {
		t.Fatal(err)
	}
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.done

	settled, sums, records := logSums(t, dir)
	if settled != sums || len(records) != 2 {
		t.Fatalf("%d requests in the log; sums %+v and %+v", len(records), settled, sums)
	}
	second := launch(t, ownGateway(t, dir), s)
	r := second.usage("by=client")
	if int64(r.Sum.Input) != settled[usage.InputTokens] || int64(r.Sum.Output) != settled[usage.OutputTokens] || r.Sum.Requests != 3 {
		t.Errorf("reported %+v, settled %+v", r.Sum, settled)
	}
	if r.Sum.Input == tokens {
		t.Error("the tokenizer was there first")
	}
	var unknown struct {
		Sum struct {
			Attempts int64 `json:"unknown_attempts"`
			Input    int64 `json:"unknown_input_tokens"`
		}
	}
	a := second.ask("GET", "/floway/usage?by=client")
	if err := json.Unmarshal([]byte(a.body), &unknown); err != nil {
		t.Fatal(err)
	}
	sent := u.calls()
	last := sent[len(sent)-1].body
	if unknown.Sum.Attempts != 1 || unknown.Sum.Input != int64(len(bytes.TrimSpace([]byte(last)))-len(`"stream_options":{"include_usage":true},`)+3)/4 {
		t.Errorf("%+v for %s; %s", unknown.Sum, last, a.body)
	}
	if err := second.end(); err != nil {
		t.Fatal(err)
	}
}
