package mockgemini

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

// chunk is an answer, or a piece of one, its members in the service's order.
type chunk struct {
	Candidates []candidate    `json:"candidates,omitempty"`
	Feedback   map[string]any `json:"promptFeedback,omitempty"`
	Usage      *usage         `json:"usageMetadata,omitempty"`
	Model      string         `json:"modelVersion"`
	ID         string         `json:"responseId"`
}

type candidate struct {
	Content *contentOut `json:"content,omitempty"`
	Finish  string      `json:"finishReason,omitempty"`
	Index   int         `json:"index"`
	Ratings []any       `json:"safetyRatings,omitempty"`
}

type contentOut struct {
	Parts []any  `json:"parts,omitempty"`
	Role  string `json:"role"`
}

type textOut struct {
	Text      string `json:"text"`
	Thought   bool   `json:"thought,omitempty"`
	Signature string `json:"thoughtSignature,omitempty"`
}

type callPart struct {
	Call      callOut `json:"functionCall"`
	Signature string  `json:"thoughtSignature,omitempty"`
}

type callOut struct {
	ID   string          `json:"id,omitempty"`
	Name string          `json:"name"`
	Args json.RawMessage `json:"args"`
}

type usage struct {
	Prompt     int64      `json:"promptTokenCount"`
	Candidates int64      `json:"candidatesTokenCount,omitempty"`
	ToolUse    int64      `json:"toolUsePromptTokenCount,omitempty"`
	Thoughts   int64      `json:"thoughtsTokenCount,omitempty"`
	Cached     int64      `json:"cachedContentTokenCount,omitempty"`
	Total      int64      `json:"totalTokenCount"`
	Details    []modality `json:"promptTokensDetails,omitempty"`
}

type modality struct {
	Modality string `json:"modality"`
	Tokens   int64  `json:"tokenCount"`
}

// generate serves :generateContent and :streamGenerateContent.
func (x *exchange) generate(stream bool) error {
	x.Entry.Stream = stream
	q := new(request)
	if err := x.prepare(generateShape, q); err != nil {
		return err
	}
	if err := x.check(q); err != nil {
		return err
	}
	x.prompt(q)
	parts, finish := x.answer(q)
	if !stream {
		return x.plain(parts, finish)
	}
	events := x.chunks(parts, finish)
	failure := mock.Event{Data: mock.Encode((&Error{Status: 503, Message: "The model is overloaded. Please try again later."}).body())}
	if x.R.URL.Query().Get("alt") != "sse" {
		return x.StreamList(events, failure)
	}
	x.How.CRLF = true // as the service's lines end
	return x.Stream(events, failure)
}

// prepare reads the body and finds out how it is to be treated.
func (x *exchange) prepare(shape mock.Shape, into any) error {
	if err := x.Behave(); err != nil {
		return err
	}
	return x.read(shape, into)
}

// tokens counts a prompt.
func tokens(q *request) int64 {
	n := int64(3)
	turns := q.Contents
	if q.System != nil {
		turns = append(slices.Clip(turns), *q.System)
	}
	for _, t := range turns {
		n += 2 + mock.Count(string(mock.Encode(t.Parts)))
	}
	for _, f := range q.functions {
		n += 7 + mock.Count(string(f.schema()))
	}
	return n
}

// prompt enters the tokens of the prompt. Nothing is paid for by being written to
// the cache; what the service's own tools bring comes on top.
func (x *exchange) prompt(q *request) {
	x.Prompt(tokens(q))
	t := &x.Entry.Tokens
	t.Input += t.CacheWrite + t.CacheWrite1h
	t.CacheWrite, t.CacheWrite1h = 0, 0
	if q.hosted {
		t.ToolPrompt = int64(100 + x.Number(12, 1000))
		t.Input += t.ToolPrompt
	}
}

// answer makes the parts of the answer, each as it is streamed, and counts them.
func (x *exchange) answer(q *request) (parts []any, finish string) {
	t := &x.Entry.Tokens
	think := &q.Config.Thinking
	name, _, _ := strings.Cut(x.Entry.Model, "+")
	thinks := (name == "mock-reasoner" || x.How.Scenario == mock.Thinking || think.Level != "" || think.Include || think.Budget != nil) &&
		(think.Budget == nil || *think.Budget != 0)
	if x.How.Scenario == mock.Refusal {
		return nil, ""
	}
	if thinks {
		if think.Include {
			words, _ := x.Say(50, 8)
			for _, w := range words {
				parts = append(parts, textOut{Text: w, Thought: true})
			}
		}
		t.Reasoning = int64(8 + x.Number(3, 16))
		t.Output += t.Reasoning
	}
	limit := int64(0)
	if q.Config.MaxOutput != nil {
		limit = *q.Config.MaxOutput
	}
	words, whole := x.Say(0, limit)
	finish = "STOP"
	called := x.chosen(q)
	switch schema := q.answerSchema(); {
	case x.How.Scenario == mock.Filter:
		words, finish = words[:(len(words)+1)/2], "SAFETY"
	case x.How.Scenario == mock.Length:
		words, finish = words[:(len(words)+1)/2], "MAX_TOKENS"
	case len(called) > 0:
		return append(parts, x.calls(called)...), finish
	case len(schema) > 0:
		words = mock.Pieces(string(mock.Encode(x.Example(schema, 0))), 7)
	case !whole:
		finish = "MAX_TOKENS"
	}
	for _, s := range q.Config.Stop {
		if before, _, found := strings.Cut(strings.Join(words, ""), s); found {
			words = []string{before}
		}
	}
	for _, w := range words {
		parts = append(parts, textOut{Text: w})
	}
	t.Output += int64(len(words))
	if thinks {
		parts = append(parts, textOut{Signature: mock.Seal(sealer, x.Digest, "part")})
	}
	return parts, finish
}

func (q *request) answerSchema() json.RawMessage {
	if len(q.Config.JSONSchema) > 0 {
		return q.Config.JSONSchema
	}
	return lower(q.Config.Schema)
}

// calls are calls of functions, of which the first is signed; some answers give
// them ids.
func (x *exchange) calls(functions []function) (parts []any) {
	for i := range functions {
		f := &functions[i]
		args := mock.Encode(x.Example(f.schema(), i))
		if string(args) == "null" {
			args = []byte("{}")
		}
		c := call{Name: f.Name}
		json.Unmarshal(args, &c.Args)
		p := callPart{Call: callOut{Name: f.Name, Args: args}}
		if x.Number(8, 2) == 0 {
			p.Call.ID = fmt.Sprintf("call_%s%d", x.Digest[:8], i)
		}
		if i == 0 {
			p.Signature = mock.Seal(sealer, x.Digest, c.signed())
		}
		parts = append(parts, p)
		x.Entry.Tokens.Output += 4 + mock.Count(string(args))
	}
	return parts
}

// chosen are the functions that the answer calls: up to two, if it may call at all.
func (x *exchange) chosen(q *request) []function {
	c := &q.ToolConfig.Calling
	if q.Contents[len(q.Contents)-1].responses() > 0 || c.Mode == "NONE" {
		return nil
	}
	may := q.functions
	if len(c.Allowed) > 0 {
		may = slices.DeleteFunc(slices.Clone(may), func(f function) bool { return !slices.Contains(c.Allowed, f.Name) })
	}
	return may[:min(len(may), 2)]
}

// usage is what is told of the answer when so much of its output has come.
func (x *exchange) usage(last bool) *usage {
	t := &x.Entry.Tokens
	if x.How.Usage == mock.UsageAbsent {
		return nil
	}
	u := &usage{Prompt: t.Input - t.ToolPrompt + t.CacheRead, Cached: t.CacheRead}
	u.Details = []modality{{"TEXT", u.Prompt}}
	if last {
		u.Candidates, u.Thoughts, u.ToolUse = t.Output-t.Reasoning, t.Reasoning, t.ToolPrompt
	}
	u.Total = u.Prompt + u.Candidates + u.Thoughts + u.ToolUse
	return u
}

func (x *exchange) chunk() chunk {
	base, _, _ := strings.Cut(x.Entry.Model, "+")
	return chunk{Model: base + "-001", ID: "resp-" + x.Digest[:16]}
}

// plain answers with one object: texts of one kind are one part.
func (x *exchange) plain(parts []any, finish string) error {
	c := x.chunk()
	c.Usage = x.usage(true)
	if finish == "" {
		c.Feedback = map[string]any{"blockReason": "SAFETY"}
		return x.AnswerJSON(c)
	}
	var joined []any
	for _, p := range parts {
		text, isText := p.(textOut)
		if n := len(joined); isText && n > 0 {
			if before, ok := joined[n-1].(textOut); ok && before.Thought == text.Thought {
				before.Text += text.Text
				before.Signature = text.Signature
				joined[n-1] = before
				continue
			}
		}
		joined = append(joined, p)
	}
	c.Candidates = []candidate{{Content: &contentOut{joined, "model"}, Finish: finish}}
	return x.AnswerJSON(c)
}

// chunks is the stream of an answer: the reason to finish is in a chunk of its own,
// with a part that has no text.
func (x *exchange) chunks(parts []any, finish string) (events []mock.Event) {
	emit := func(c chunk, last bool) {
		c.Usage = x.usage(last)
		events = append(events, mock.Event{Data: mock.Encode(c), Last: last, Told: last && c.Usage != nil})
	}
	c := x.chunk()
	if finish == "" {
		c.Feedback = map[string]any{"blockReason": "SAFETY"}
		emit(c, true)
		return events
	}
	end := textOut{}
	for _, p := range parts {
		if text, ok := p.(textOut); ok && text.Text == "" && text.Signature != "" {
			end = text
			continue
		}
		c := c
		c.Candidates = []candidate{{Content: &contentOut{[]any{p}, "model"}}}
		emit(c, false)
	}
	c.Candidates = []candidate{{Content: &contentOut{[]any{end}, "model"}, Finish: finish}}
	emit(c, true)
	return events
}

// countTokens serves :countTokens, which costs nothing.
func (x *exchange) countTokens() error {
	var q struct {
		Contents []turn   `json:"contents"`
		Request  *request `json:"generateContentRequest"`
	}
	if err := x.prepare(countShape, &q); err != nil {
		return err
	}
	switch {
	case q.Request != nil && q.Contents != nil:
		return invalid("* CountTokensRequest: contents and generate_content_request cannot both be set.")
	case q.Request == nil:
		q.Request = &request{Contents: q.Contents}
	default:
		if q.Request.Model != "models/"+x.Entry.Model {
			return invalid("* CountTokensRequest.generate_content_request.model: unexpected model name format")
		}
		if err := x.checkTools(q.Request); err != nil {
			return err
		}
	}
	if err := x.checkContents(q.Request); err != nil {
		return err
	}
	n := tokens(q.Request)
	return x.AnswerJSON(map[string]any{"totalTokens": n, "promptTokensDetails": []modality{{"TEXT", n}}})
}

type embedRequest struct {
	Model   string `json:"model"`
	Content *turn  `json:"content"`
	Size    int    `json:"outputDimensionality"`
}

type embedding struct {
	Values []float64 `json:"values"`
}

// embedding embeds one content. What it used is not told.
func (x *exchange) embedding(q *embedRequest, salt int) (*embedding, error) {
	if q.Model != "" && q.Model != "models/"+x.Entry.Model {
		return nil, invalid("* EmbedContentRequest.model: unexpected model name format")
	}
	if q.Content == nil || len(q.Content.Parts) == 0 {
		return nil, invalid("* EmbedContentRequest.content: contents is not specified")
	}
	if q.Size == 0 {
		q.Size = 8
	}
	e := &embedding{Values: make([]float64, q.Size)}
	for i := range e.Values {
		e.Values[i] = float64(x.Number(salt*1000+i, 2048)-1024) / 1024
	}
	x.Entry.Tokens.Input += mock.Count(string(mock.Encode(q.Content.Parts)))
	return e, nil
}

func (x *exchange) embed() error {
	var q embedRequest
	if err := x.prepare(embedShape, &q); err != nil {
		return err
	}
	e, err := x.embedding(&q, 0)
	if err != nil {
		return err
	}
	x.How.Usage = mock.UsageAbsent
	return x.AnswerJSON(map[string]any{"embedding": e})
}

func (x *exchange) batchEmbed() error {
	var q struct {
		Requests []embedRequest `json:"requests"`
	}
	if err := x.prepare(batchShape, &q); err != nil {
		return err
	}
	if len(q.Requests) == 0 || len(q.Requests) > 100 {
		return invalid("* BatchEmbedContentsRequest.requests: at least one and at most 100 requests can be in one batch")
	}
	var all []*embedding
	for i := range q.Requests {
		if q.Requests[i].Model == "" {
			return invalid("* BatchEmbedContentsRequest.requests[%d].model: model is required", i)
		}
		e, err := x.embedding(&q.Requests[i], i)
		if err != nil {
			return err
		}
		all = append(all, e)
	}
	x.How.Usage = mock.UsageAbsent
	return x.AnswerJSON(map[string]any{"embeddings": all})
}
