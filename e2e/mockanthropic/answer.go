package mockanthropic

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

// answer is what a model said.
type answer struct {
	content []said
	stop    string
	stopAt  *string // the stop sequence
	details any
}

// said is one block of it with the pieces of its stream.
type said struct {
	kind      string
	pieces    []string
	signature string // of thinking; the data of redacted thinking
	id, name  string // of a call
}

func (s *said) whole() string { return strings.Join(s.pieces, "") }

type usage struct {
	Input         int64          `json:"input_tokens"`
	Write         int64          `json:"cache_creation_input_tokens"`
	Read          int64          `json:"cache_read_input_tokens"`
	Split         *split         `json:"cache_creation,omitempty"`
	Output        int64          `json:"output_tokens"`
	OutputDetails *outputDetails `json:"output_tokens_details,omitempty"`
	Tier          string         `json:"service_tier,omitempty"`
}

type split struct {
	Short int64 `json:"ephemeral_5m_input_tokens"`
	Long  int64 `json:"ephemeral_1h_input_tokens"`
}

type outputDetails struct {
	Thinking int64 `json:"thinking_tokens"`
}

// reply is a message of the model's, its members in the service's order.
type reply struct {
	ID           string  `json:"id"`
	Type         string  `json:"type"`
	Role         string  `json:"role"`
	Model        string  `json:"model"`
	Content      []any   `json:"content"`
	StopReason   *string `json:"stop_reason"`
	StopSequence *string `json:"stop_sequence"`
	StopDetails  any     `json:"stop_details,omitempty"`
	Usage        *usage  `json:"usage,omitempty"`
}

// create serves POST /v1/messages.
func (x *exchange) create() error {
	q, err := x.request(createShape)
	if err != nil {
		return err
	}
	x.prompt(q)
	a := x.answer(q)
	if !q.Stream {
		r := x.reply(&a)
		if x.How.Usage != mock.UsageAbsent {
			r.Usage = x.usage()
		}
		return x.AnswerJSON(r)
	}
	return x.Stream(x.events(q, &a), mock.Event{
		Name: "error",
		Data: mock.Encode((&Error{Status: 529, Message: "Overloaded"}).object()),
	})
}

// countTokens serves POST /v1/messages/count_tokens, which costs nothing.
func (x *exchange) countTokens() error {
	q, err := x.request(countShape)
	if err != nil {
		return err
	}
	return x.AnswerJSON(map[string]int64{"input_tokens": tokens(q)})
}

// tokens counts a prompt.
func tokens(q *request) int64 {
	n := 3 + mock.Count(string(q.System))
	for _, m := range q.Messages {
		n += 3 + mock.Count(string(m.Content))
	}
	for _, t := range q.tools {
		n += 7 + mock.Count(string(t.Schema))
	}
	return n
}

// prompt enters the tokens of the prompt; of what is written to the cache now and
// then a part stays for an hour.
func (x *exchange) prompt(q *request) {
	x.Prompt(tokens(q))
	if t := &x.Entry.Tokens; t.CacheWrite1h == 0 && x.Number(5, 2) == 0 {
		t.CacheWrite1h = t.CacheWrite / 3
		t.CacheWrite -= t.CacheWrite1h
	}
}

// answer makes the answer and counts it.
func (x *exchange) answer(q *request) (a answer) {
	t := &x.Entry.Tokens
	if q.thinks() {
		words, _ := x.Say(50, 8)
		if q.Thinking.Display == "omitted" {
			words = nil
		}
		s := said{kind: "thinking", pieces: words}
		s.signature = mock.Seal(sealer, x.Digest, s.whole())
		a.content = append(a.content, s)
		if x.How.Scenario == mock.Thinking {
			a.content = append(a.content, said{kind: "redacted_thinking", signature: mock.Seal(sealer, x.Digest+"r", "redacted")})
		}
		t.Reasoning = int64(8 + x.Number(3, 16))
		t.Output += t.Reasoning
	}
	limit := int64(0)
	if q.MaxTokens != nil {
		limit = max(*q.MaxTokens, 1)
	}
	words, whole := x.Say(0, limit)
	half := words[:(len(words)+1)/2]
	a.stop = "end_turn"
	switch called := x.chosen(q); {
	case x.How.Scenario == mock.Refusal:
		a = answer{stop: "refusal", details: refused}
		t.Output, t.Reasoning = 1, 0
		return a
	case x.How.Scenario == mock.Filter:
		words, a.stop, a.details = half, "refusal", refused
	case x.How.Scenario == mock.Length:
		words, a.stop = half, "max_tokens"
	case len(called) > 0:
		a.stop = "tool_use"
		if x.Number(9, 2) == 0 { // it says what it is about to do
			a.say(t, words[:1])
		}
		for i, tool := range called {
			args := string(mock.Encode(x.Example(tool.Schema, i)))
			if args == "null" || args == "{}" {
				args = "" // a tool without arguments
			}
			a.content = append(a.content, said{kind: "tool_use", id: "toolu_" + x.Digest[i:i+20], name: tool.Name, pieces: mock.Pieces(args, 5)})
			t.Output += 4 + mock.Count(args)
		}
		return a
	case len(q.Output.Format.Schema) > 0:
		words = mock.Pieces(string(mock.Encode(x.Example(q.Output.Format.Schema, 0))), 7)
	case !whole:
		a.stop = "max_tokens"
	}
	if text, found := x.stopped(q, words); found != nil {
		words, a.stop, a.stopAt = []string{text}, "stop_sequence", found
	}
	a.say(t, words)
	return a
}

var refused = map[string]any{"type": "refusal", "category": "cyber", "explanation": "This request was refused."}

// say says words; not blanks alone, which the service would not take back.
func (a *answer) say(t *mock.Tokens, words []string) {
	if strings.TrimSpace(strings.Join(words, "")) != "" {
		a.content = append(a.content, said{kind: "text", pieces: words})
	}
	t.Output += int64(len(words))
}

// stopped cuts what is said before the first stop sequence in it.
func (x *exchange) stopped(q *request, words []string) (string, *string) {
	text := strings.Join(words, "")
	for i := range q.Stop {
		if before, _, found := strings.Cut(text, q.Stop[i]); found {
			return before, &q.Stop[i]
		}
	}
	return "", nil
}

// chosen are the tools that the answer calls: up to two, if it may call at all.
func (x *exchange) chosen(q *request) []tool {
	last := q.Messages[q.spoken()-1]
	if slices.ContainsFunc(last.blocks, func(b block) bool { return b.Type == "tool_result" }) || q.Choice.Type == "none" {
		return nil
	}
	if q.Choice.Type == "tool" {
		i := slices.IndexFunc(q.tools, func(t tool) bool { return t.Name == q.Choice.Name })
		return q.tools[max(i, 0) : i+1]
	}
	n := min(len(q.tools), 2)
	if q.Choice.NotParallel {
		n = min(n, 1)
	}
	return q.tools[:n]
}

func (x *exchange) usage() *usage {
	t := &x.Entry.Tokens
	u := &usage{Input: t.Input, Write: t.CacheWrite + t.CacheWrite1h, Read: t.CacheRead, Output: t.Output, Tier: "standard"}
	u.Split = &split{t.CacheWrite, t.CacheWrite1h}
	if t.Reasoning > 0 {
		u.OutputDetails = &outputDetails{t.Reasoning}
	}
	return u
}

// reply is the whole message, without its usage.
func (x *exchange) reply(a *answer) *reply {
	base, _, _ := strings.Cut(x.Entry.Model, "+")
	r := &reply{ID: "msg_" + x.Digest[:24], Type: "message", Role: "assistant", Model: base + "-20260601", Content: []any{}}
	for i := range a.content {
		r.Content = append(r.Content, a.content[i].block(false))
	}
	r.StopReason, r.StopSequence, r.StopDetails = &a.stop, a.stopAt, a.details
	return r
}

type (
	textBlockOut struct {
		Type      string `json:"type"`
		Text      string `json:"text"`
		Citations any    `json:"citations,omitempty"`
	}
	thinkingOut struct {
		Type      string `json:"type"`
		Thinking  string `json:"thinking"`
		Signature string `json:"signature"`
	}
	redactedOut struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	callOut struct {
		Type  string          `json:"type"`
		ID    string          `json:"id"`
		Name  string          `json:"name"`
		Input json.RawMessage `json:"input"`
	}
)

// block is the block as it stands at its end, or as it begins.
func (s *said) block(begins bool) any {
	whole, signature := s.whole(), s.signature
	if begins {
		whole, signature = "", ""
	}
	switch s.kind {
	case "thinking":
		return thinkingOut{"thinking", whole, signature}
	case "redacted_thinking":
		return redactedOut{"redacted_thinking", s.signature}
	case "tool_use":
		if whole == "" {
			whole = "{}"
		}
		return callOut{"tool_use", s.id, s.name, json.RawMessage(whole)}
	}
	return textBlockOut{"text", whole, nil}
}

// events is the stream of an answer.
func (x *exchange) events(_ *request, a *answer) []mock.Event {
	var events []mock.Event
	emit := func(kind string, v any) {
		events = append(events, mock.Event{Name: kind, Data: mock.Encode(v)})
	}
	type obj = map[string]any
	type ordered struct {
		Type    string `json:"type"`
		Index   *int   `json:"index,omitempty"`
		Message any    `json:"message,omitempty"`
		Block   any    `json:"content_block,omitempty"`
		Delta   any    `json:"delta,omitempty"`
		Usage   any    `json:"usage,omitempty"`
	}
	begun := x.reply(a)
	begun.Content, begun.StopReason, begun.StopSequence, begun.StopDetails = []any{}, nil, nil, nil
	tells := x.How.Usage != mock.UsageAbsent
	if tells {
		u := *x.usage()
		u.Output, u.OutputDetails = 2, nil
		begun.Usage = &u
	}
	emit("message_start", ordered{Type: "message_start", Message: begun})
	emit("ping", ordered{Type: "ping"})
	for i := range a.content {
		s := &a.content[i]
		emit("content_block_start", ordered{Type: "content_block_start", Index: &i, Block: s.block(true)})
		delta := func(v any) {
			emit("content_block_delta", ordered{Type: "content_block_delta", Index: &i, Delta: v})
		}
		switch s.kind {
		case "tool_use":
			delta(obj{"type": "input_json_delta", "partial_json": ""})
			for _, p := range s.pieces {
				delta(obj{"type": "input_json_delta", "partial_json": p})
			}
		case "thinking":
			for _, p := range s.pieces {
				delta(obj{"type": "thinking_delta", "thinking": p})
			}
			delta(obj{"type": "signature_delta", "signature": s.signature})
		case "text":
			for _, p := range s.pieces {
				delta(obj{"type": "text_delta", "text": p})
			}
		}
		emit("content_block_stop", ordered{Type: "content_block_stop", Index: &i})
	}
	end := func(u *usage) {
		d := obj{"stop_reason": a.stop, "stop_sequence": a.stopAt}
		if a.details != nil {
			d["stop_details"] = a.details
		}
		o := ordered{Type: "message_delta", Delta: d}
		if u != nil {
			o.Usage = u
		}
		emit("message_delta", o)
		events[len(events)-1].Last = true
		events[len(events)-1].Told = u != nil
	}
	if tells {
		u := *x.usage()
		u.Split, u.Tier = nil, "" // they were told at the start
		if x.How.Usage == mock.UsageTwice {
			first := u
			first.Output = u.Output / 2
			end(&first)
		}
		end(&u)
	} else {
		end(nil)
	}
	emit("message_stop", ordered{Type: "message_stop"})
	events[len(events)-1].Last = true
	return events
}
