package mockopenai

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

var responseFields = fields{
	"access_programs": list, "background": boolean, "client_metadata": structure, "context_management": list, "conversation": anything, "include": list,
	"input": anything, "instructions": text, "max_output_tokens": integer, "max_tool_calls": integer, "metadata": structure,
	"model": text, "moderation": anything, "parallel_tool_calls": boolean, "previous_response_id": text, "prompt": structure,
	"prompt_cache_key": text, "prompt_cache_options": structure, "prompt_cache_retention": text, "reasoning": structure,
	"safety_identifier": text, "service_tier": text, "store": boolean, "stream": boolean, "stream_options": structure,
	"temperature": number, "text": structure, "tool_choice": anything, "tools": list, "top_logprobs": integer,
	"top_p": number, "truncation": text, "user": text,
}

var compactFields = fields{
	"input": anything, "instructions": text, "model": text, "previous_response_id": text, "prompt_cache_key": text,
	"prompt_cache_options": structure, "prompt_cache_retention": text, "service_tier": text,
}

var inputTokenFields = fields{
	"conversation": anything, "input": anything, "instructions": text, "model": text, "parallel_tool_calls": boolean,
	"personality": text, "previous_response_id": text, "reasoning": structure, "text": structure, "tool_choice": anything,
	"tools": list, "truncation": text,
}

// response is a response object; its members stand in the service's order.
type response struct {
	ID                 string           `json:"id"`
	Object             string           `json:"object"`
	CreatedAt          int64            `json:"created_at"`
	CompletedAt        *int64           `json:"completed_at"`
	Status             string           `json:"status"`
	Background         bool             `json:"background"`
	Error              any              `json:"error"`
	IncompleteDetails  any              `json:"incomplete_details"`
	Instructions       *json.RawMessage `json:"instructions"`
	MaxOutputTokens    *json.RawMessage `json:"max_output_tokens"`
	Metadata           json.RawMessage  `json:"metadata"`
	Model              string           `json:"model"`
	Output             []any            `json:"output"`
	ParallelToolCalls  bool             `json:"parallel_tool_calls"`
	PreviousResponseID *json.RawMessage `json:"previous_response_id"`
	Reasoning          json.RawMessage  `json:"reasoning"`
	ServiceTier        string           `json:"service_tier"`
	Store              bool             `json:"store"`
	Temperature        float64          `json:"temperature"`
	Text               json.RawMessage  `json:"text"`
	ToolChoice         json.RawMessage  `json:"tool_choice"`
	Tools              json.RawMessage  `json:"tools"`
	TopP               float64          `json:"top_p"`
	Truncation         string           `json:"truncation"`
	Usage              *responseUsage   `json:"usage"`
}

type responseUsage struct {
	InputTokens        int64 `json:"input_tokens"`
	InputTokensDetails struct {
		CachedTokens     int64 `json:"cached_tokens"`
		CacheWriteTokens int64 `json:"cache_write_tokens"`
	} `json:"input_tokens_details"`
	OutputTokens        int64 `json:"output_tokens"`
	OutputTokensDetails struct {
		ReasoningTokens int64 `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	TotalTokens int64 `json:"total_tokens"`
}

func (x *exchange) responseUsage() *responseUsage {
	t := &x.Entry.Tokens
	u := &responseUsage{InputTokens: t.Prompt(), OutputTokens: t.Output, TotalTokens: t.Prompt() + t.Output}
	u.InputTokensDetails.CachedTokens = t.CacheRead
	u.InputTokensDetails.CacheWriteTokens = t.CacheWrite
	u.OutputTokensDetails.ReasoningTokens = t.Reasoning
	return u
}

type reasoningItem struct {
	ID               string  `json:"id"`
	Type             string  `json:"type"`
	Status           string  `json:"status,omitempty"`
	Summary          []any   `json:"summary"`
	EncryptedContent *string `json:"encrypted_content,omitempty"`
}

type messageItem struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Status  string `json:"status"`
	Role    string `json:"role"`
	Content []any  `json:"content"`
}

type textPart struct {
	Type        string `json:"type"`
	Text        string `json:"text"`
	Annotations []any  `json:"annotations"`
	Logprobs    []any  `json:"logprobs"`
}

type refusalPart struct {
	Type    string `json:"type"`
	Refusal string `json:"refusal"`
}

type callItem struct {
	ID        string  `json:"id"`
	Type      string  `json:"type"`
	Status    string  `json:"status"`
	CallID    string  `json:"call_id"`
	Name      string  `json:"name"`
	Arguments *string `json:"arguments,omitempty"`
	Input     *string `json:"input,omitempty"`
}

// storedResponse is a response that is kept, as its account sees it.
type storedResponse struct {
	key    string // the account: others do not see it
	body   []byte
	status string
	events []event
	input  []json.RawMessage
}

// answerItem is an item of the output with what its stream needs.
type answerItem struct {
	reasoning *reasoningItem
	summary   []string
	message   *messageItem
	words     []string
	call      *callItem
	pieces    []string
	status    string
	refuses   bool // the words are a refusal
}

// response serves POST /v1/responses.
func (s *Server) response(x *exchange) error {
	q, err := x.responseRequest()
	if err != nil {
		return err
	}
	items, incomplete := x.answerItems(q)
	x.prompt(q.prompt)
	for _, it := range items {
		x.Entry.Tokens.Output += int64(len(it.words)) + 4*int64(len(it.pieces))
	}
	if q.reasons {
		x.Entry.Tokens.Reasoning = int64(8 + x.Number(3, 16))
		x.Entry.Tokens.Output += x.Entry.Tokens.Reasoning
	}

	r := x.skeleton(q)
	begun := r // as it stands in the first events
	begun.Status = "in_progress"
	for _, it := range items {
		r.Output = append(r.Output, it.item())
	}
	completed := int64(created + 2)
	r.CompletedAt = &completed
	r.Status = "completed"
	if incomplete != "" {
		r.CompletedAt = nil
		r.Status = "incomplete"
		r.IncompleteDetails = map[string]string{"reason": incomplete}
	}
	if x.How.Usage != UsageAbsent {
		r.Usage = x.responseUsage()
	}
	body := encode(r)
	events := x.responseEvents(begun, items, r)
	if r.Background {
		// Nothing more happens to it here: it waits to be fetched or cancelled.
		begun.Status = "queued"
		body = encode(begun)
		x.Entry.Tokens = Tokens{}
	}
	if r.Store {
		s.mu.Lock()
		s.stored[x.Entry.Key+"/"+r.ID] = storedResponse{x.Entry.Key, body, begun.Status, events, q.input}
		s.mu.Unlock()
	}
	if x.Entry.Stream {
		failed := begun
		failed.Status = "failed"
		failed.Error = map[string]string{"code": "server_error", "message": "The server had an error while processing your request. Sorry about that!"}
		return x.Stream(events, event{
			Name: "response.failed",
			Data: encode(map[string]any{"type": "response.failed", "sequence_number": x.How.Fail, "response": failed}),
		})
	}
	x.Answer("application/json", body)
	return nil
}

// responseID names what an account was answered; no other has such an id.
func (x *exchange) responseID() string {
	sum := sha256.Sum256([]byte(x.Entry.Key + x.Digest))
	return "resp_" + hex.EncodeToString(sum[:16])
}

// skeleton is the response object of a request before anything was said.
func (x *exchange) skeleton(q *responseRequest) response {
	raw := func(name, otherwise string) json.RawMessage {
		if x.has(name) {
			return x.member[name]
		}
		return json.RawMessage(otherwise)
	}
	pointer := func(name string) *json.RawMessage {
		if !x.has(name) {
			return nil
		}
		v := x.member[name]
		return &v
	}
	r := response{
		ID: x.responseID(), Object: "response", CreatedAt: created, Status: "in_progress", Model: x.dated(), Output: []any{},
		Instructions: pointer("instructions"), MaxOutputTokens: pointer("max_output_tokens"), Metadata: raw("metadata", "{}"),
		ParallelToolCalls: true, PreviousResponseID: pointer("previous_response_id"), Reasoning: raw("reasoning", `{"effort":null,"summary":null}`),
		ServiceTier: "default", Store: q.store, Temperature: 1, Text: raw("text", `{"format":{"type":"text"},"verbosity":"medium"}`),
		ToolChoice: raw("tool_choice", `"auto"`), Tools: raw("tools", "[]"), TopP: 1, Truncation: "disabled", Background: q.background,
	}
	x.decode("parallel_tool_calls", &r.ParallelToolCalls)
	x.decode("temperature", &r.Temperature)
	x.decode("top_p", &r.TopP)
	x.decode("truncation", &r.Truncation)
	return r
}

// answerItems makes the output, and says why it broke off if it did.
func (x *exchange) answerItems(q *responseRequest) (items []answerItem, incomplete string) {
	if q.reasons {
		it := answerItem{reasoning: &reasoningItem{ID: "rs_" + x.Digest[:32], Type: "reasoning", Summary: []any{}}}
		if q.summary {
			it.summary, _ = x.Say(77, 6)
			it.reasoning.Summary = append(it.reasoning.Summary, map[string]string{"type": "summary_text", "text": strings.Join(it.summary, "")})
		}
		if q.encrypted {
			sealed := x.seal(it.reasoning.ID)
			it.reasoning.EncryptedContent = &sealed
		}
		items = append(items, it)
	}
	ends := x.How.Scenario // before it is said, or anything is called
	if called := q.chosen(); len(called) > 0 && !q.answersCalls && ends != mock.Refusal && ends != mock.Filter && ends != mock.Length {
		for i, tool := range called {
			c := &callItem{ID: "fc_" + x.Digest[i:i+32], Type: "function_call", Status: "completed", CallID: "call_" + x.Digest[i:i+20], Name: tool.Name}
			it := answerItem{call: c, status: "completed"}
			if tool.Type == "custom" {
				words, _ := x.Say(i, 0)
				input := strings.Join(words, "")
				c.ID, c.Type, c.Input = "ctc_"+x.Digest[i:i+32], "custom_tool_call", &input
				it.pieces = pieces(input, 5)
			} else {
				args := string(encode(x.Example(tool.Parameters, i)))
				if args == "null" {
					args = "{}"
				}
				c.Arguments = &args
				it.pieces = pieces(args, 5)
			}
			items = append(items, it)
		}
		return items, ""
	}
	words, whole := x.Say(0, q.limit)
	if !whole {
		incomplete = "max_output_tokens"
	}
	if len(q.schema) > 0 {
		words, whole = pieces(string(encode(x.Example(q.schema, 0))), 7), true
	}
	switch ends {
	case mock.Refusal:
		words, incomplete = refusal, ""
	case mock.Filter:
		words, incomplete = words[:(len(words)+1)/2], "content_filter"
	case mock.Length:
		words, incomplete = words[:(len(words)+1)/2], "max_output_tokens"
	}
	it := answerItem{words: words, status: "completed", refuses: ends == mock.Refusal}
	if incomplete != "" {
		it.status = "incomplete"
	}
	it.message = &messageItem{ID: "msg_" + x.Digest[:32], Type: "message", Status: it.status, Role: "assistant", Content: []any{it.part(strings.Join(words, ""))}}
	return append(items, it), incomplete
}

// part is the content of a message so far.
func (it *answerItem) part(said string) any {
	if it.refuses {
		return refusalPart{"refusal", said}
	}
	return textPart{"output_text", said, []any{}, []any{}}
}

// item is the item as it stands when it is done.
func (it *answerItem) item() any {
	switch {
	case it.reasoning != nil:
		return it.reasoning
	case it.message != nil:
		return it.message
	default:
		return it.call
	}
}

// seal makes encrypted reasoning that only the same account and item id can
// bring back.
func (x *exchange) seal(id string) string {
	return "gAAAAAB" + base64.URLEncoding.EncodeToString([]byte(x.Entry.Key+"|"+id+"|"+x.Digest))
}

// unseal checks reasoning that a client brings back.
func (x *exchange) unseal(sealed, id string) error {
	invalid := &Error{Status: 400, Code: "invalid_encrypted_content", Message: "The encrypted content could not be verified. Reason: Encrypted content could not be decrypted or parsed."}
	b, err := base64.URLEncoding.DecodeString(strings.TrimPrefix(sealed, "gAAAAAB"))
	if err != nil {
		return invalid
	}
	parts := strings.SplitN(string(b), "|", 3)
	if len(parts) != 3 || parts[0] != x.Entry.Key {
		return invalid
	}
	if parts[1] != id {
		return &Error{Status: 400, Code: "invalid_encrypted_content", Message: "The encrypted content item_id did not match the target item id."}
	}
	return nil
}

// responseEvents is the stream of a response, by the grammar of the API.
func (x *exchange) responseEvents(begun response, items []answerItem, ended response) []event {
	var events []event
	// Members of an event behind its type and number, in pairs.
	emit := func(kind string, members ...any) {
		var b strings.Builder
		b.WriteString(`{"type":"` + kind + `","sequence_number":` + strconv.Itoa(len(events)))
		for i := 0; i < len(members); i += 2 {
			b.WriteString(`,"` + members[i].(string) + `":`)
			b.Write(encode(members[i+1]))
		}
		b.WriteString("}")
		events = append(events, event{Name: kind, Data: []byte(b.String())})
	}
	emit("response.created", "response", begun)
	emit("response.in_progress", "response", begun)
	for i := range items {
		it := &items[i]
		switch {
		case it.reasoning != nil:
			id := it.reasoning.ID
			emit("response.output_item.added", "output_index", i, "item", reasoningItem{ID: id, Type: "reasoning", Summary: []any{}})
			if len(it.summary) > 0 {
				whole := strings.Join(it.summary, "")
				emit("response.reasoning_summary_part.added", "item_id", id, "output_index", i, "summary_index", 0, "part", map[string]string{"type": "summary_text", "text": ""})
				for _, w := range it.summary {
					emit("response.reasoning_summary_text.delta", "item_id", id, "output_index", i, "summary_index", 0, "delta", w, "obfuscation", "Zm9v")
				}
				emit("response.reasoning_summary_text.done", "item_id", id, "output_index", i, "summary_index", 0, "text", whole)
				emit("response.reasoning_summary_part.done", "item_id", id, "output_index", i, "summary_index", 0, "part", map[string]string{"type": "summary_text", "text": whole})
			}
		case it.message != nil:
			id := it.message.ID
			emit("response.output_item.added", "output_index", i, "item", messageItem{id, "message", "in_progress", "assistant", []any{}})
			emit("response.content_part.added", "item_id", id, "output_index", i, "content_index", 0, "part", it.part(""))
			for _, w := range it.words {
				if it.refuses {
					emit("response.refusal.delta", "item_id", id, "output_index", i, "content_index", 0, "delta", w)
					continue
				}
				emit("response.output_text.delta", "item_id", id, "output_index", i, "content_index", 0, "delta", w, "logprobs", []any{}, "obfuscation", "Zm9vYmFy")
			}
			if said := strings.Join(it.words, ""); it.refuses {
				emit("response.refusal.done", "item_id", id, "output_index", i, "content_index", 0, "refusal", said)
			} else {
				emit("response.output_text.done", "item_id", id, "output_index", i, "content_index", 0, "text", said, "logprobs", []any{})
			}
			emit("response.content_part.done", "item_id", id, "output_index", i, "content_index", 0, "part", it.message.Content[0])
		default:
			c := *it.call
			empty := ""
			c.Status = "in_progress"
			if c.Input != nil {
				c.Input = &empty
				emit("response.output_item.added", "output_index", i, "item", c)
				for _, p := range it.pieces {
					emit("response.custom_tool_call_input.delta", "item_id", c.ID, "output_index", i, "delta", p)
				}
				emit("response.custom_tool_call_input.done", "item_id", c.ID, "output_index", i, "input", *it.call.Input)
			} else {
				c.Arguments = &empty
				emit("response.output_item.added", "output_index", i, "item", c)
				for _, p := range it.pieces {
					emit("response.function_call_arguments.delta", "item_id", c.ID, "output_index", i, "delta", p, "obfuscation", "Zm9v")
				}
				emit("response.function_call_arguments.done", "item_id", c.ID, "output_index", i, "arguments", *it.call.Arguments, "name", c.Name)
			}
		}
		emit("response.output_item.done", "output_index", i, "item", it.item())
	}
	emit("response."+ended.Status, "response", ended)
	terminal := &events[len(events)-1]
	terminal.Last, terminal.Told = true, ended.Usage != nil
	return events
}

// stored returns the response that the path names, if the account has it.
func (x *exchange) stored() (storedResponse, error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	r, ok := x.s.stored[x.Entry.Key+"/"+x.id]
	if !ok {
		return storedResponse{}, &Error{Status: 404, Message: "Response with id '" + x.id + "' not found."}
	}
	return r, nil
}

// retrieve serves GET /v1/responses/{id}, as an object or as a stream.
func (s *Server) retrieve(x *exchange) error {
	r, err := x.stored()
	if err != nil {
		return err
	}
	query, err := url.ParseQuery(x.R.URL.RawQuery)
	if err != nil {
		return bad("", "", "Invalid query.")
	}
	for name := range query {
		if err := choice(name, strings.TrimSuffix(name, "[]"), "include", "include_obfuscation", "starting_after", "stream"); err != nil {
			return err
		}
	}
	if query.Get("stream") != "true" {
		x.Answer("application/json", r.body)
		return nil
	}
	after := -1
	if v := query.Get("starting_after"); v != "" {
		if after, err = strconv.Atoi(v); err != nil {
			return bad("starting_after", "invalid_type", "Invalid type for 'starting_after': expected an integer.")
		}
	}
	events := make([]event, 0, len(r.events))
	for _, e := range r.events[min(after+1, len(r.events)):] {
		// What it used was told when it was made.
		e.Told = false
		events = append(events, e)
	}
	return x.Stream(events, event{Name: "error", Data: []byte(`{"type":"error","code":"server_error","message":"The server had an error.","param":null}`)})
}

func (s *Server) delete(x *exchange) error {
	r, err := x.stored()
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.stored, r.key+"/"+x.id)
	s.mu.Unlock()
	return x.AnswerJSON(map[string]any{"id": x.id, "object": "response", "deleted": true})
}

func (s *Server) cancel(x *exchange) error {
	r, err := x.stored()
	if err != nil {
		return err
	}
	var body response
	if err := json.Unmarshal(r.body, &body); err != nil {
		return err
	}
	if !body.Background {
		return bad("", "", "Cannot cancel a synchronous response.")
	}
	body.Status = "cancelled"
	r.body = encode(body)
	s.mu.Lock()
	s.stored[r.key+"/"+x.id] = r
	s.mu.Unlock()
	x.Answer("application/json", r.body)
	return nil
}

func (s *Server) inputItems(x *exchange) error {
	r, err := x.stored()
	if err != nil {
		return err
	}
	type item struct {
		ID string `json:"id"`
	}
	list := struct {
		Object  string            `json:"object"`
		Data    []json.RawMessage `json:"data"`
		FirstID string            `json:"first_id"`
		LastID  string            `json:"last_id"`
		HasMore bool              `json:"has_more"`
	}{"list", r.input, "msg_first", "msg_last", false}
	for i, raw := range r.input {
		var it item
		json.Unmarshal(raw, &it)
		if i == 0 {
			list.FirstID = cmp.Or(it.ID, list.FirstID)
		}
		list.LastID = cmp.Or(it.ID, list.LastID)
	}
	return x.AnswerJSON(list)
}

// compact serves POST /v1/responses/compact.
func (s *Server) compact(x *exchange) error {
	q, err := x.responseRequest()
	if err != nil {
		return err
	}
	x.prompt(q.prompt)
	x.Entry.Tokens.Output = int64(10 + x.Number(4, 30))
	id := "cmp_" + x.Digest[:32]
	output := []any{map[string]any{"id": id, "type": "compaction", "encrypted_content": x.seal(id)}}
	answer := map[string]any{"id": x.responseID(), "object": "response.compaction", "created_at": created, "output": output}
	if x.How.Usage != UsageAbsent {
		answer["usage"] = x.responseUsage()
	}
	return x.AnswerJSON(answer)
}

// inputTokens serves POST /v1/responses/input_tokens, which costs nothing.
func (s *Server) inputTokens(x *exchange) error {
	q, err := x.responseRequest()
	if err != nil {
		return err
	}
	return x.AnswerJSON(map[string]any{"object": "response.input_tokens", "input_tokens": q.prompt})
}
