package mockopenai

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
)

var completionFields = fields{
	"best_of": integer, "echo": boolean, "frequency_penalty": number, "logit_bias": structure, "logprobs": integer,
	"max_tokens": integer, "model": text, "n": integer, "presence_penalty": number, "prompt": anything, "seed": integer,
	"stop": anything, "stream": boolean, "stream_options": structure, "suffix": text, "temperature": number,
	"top_p": number, "user": text,
}

// completion serves POST /v1/completions.
func (s *Server) completion(x *exchange) error {
	q := &chatRequest{n: 1, limit: 16}
	if !x.has("prompt") {
		return bad("prompt", "missing_required_parameter", "Missing required parameter: 'prompt'.")
	}
	if err := x.streamOptions(q); err != nil {
		return err
	}
	for name, high := range map[string]float64{"n": 128, "best_of": 20, "temperature": 2, "top_p": 1} {
		if err := x.between(name, 0, high); err != nil {
			return err
		}
	}
	x.decode("n", &q.n)
	x.decode("max_tokens", &q.limit)
	x.prompt(count(string(x.member["prompt"])))

	type choice struct {
		Index        int     `json:"index"`
		Text         string  `json:"text"`
		Logprobs     any     `json:"logprobs"`
		FinishReason *string `json:"finish_reason"`
	}
	type answer struct {
		ID      string           `json:"id"`
		Object  string           `json:"object"`
		Created int64            `json:"created"`
		Model   string           `json:"model"`
		Choices []choice         `json:"choices"`
		Usage   *json.RawMessage `json:"usage,omitempty"`
	}
	reply := func(choices []choice, usage any, show bool) answer {
		a := answer{ID: "cmpl-" + x.Digest[:24], Object: "text_completion", Created: created, Model: x.dated(), Choices: choices}
		if show {
			raw := json.RawMessage(encode(usage))
			a.Usage = &raw
		}
		return a
	}
	var whole []choice
	var events []event
	for i := range q.n {
		words, all := x.Say(i, q.limit)
		x.Entry.Tokens.Output += int64(len(words))
		finish := "stop"
		if !all {
			finish = "length"
		}
		whole = append(whole, choice{i, strings.Join(words, ""), nil, &finish})
		for j, w := range words {
			c := choice{Index: i, Text: w}
			if j == len(words)-1 {
				c.FinishReason = &finish
			}
			events = append(events, event{Data: encode(reply([]choice{c}, nil, q.usage)), Last: c.FinishReason != nil})
		}
	}
	if !x.Entry.Stream {
		return x.AnswerJSON(reply(whole, x.chatUsage(), x.How.Usage != UsageAbsent))
	}
	if q.usage && x.How.Usage != UsageAbsent {
		events = append(events, event{Data: encode(reply([]choice{}, x.chatUsage(), true)), Last: true, Told: true})
	}
	return x.Stream(append(events, done), event{Data: streamFailure})
}

var embeddingFields = fields{"dimensions": integer, "encoding_format": text, "input": anything, "model": text, "user": text}

// embedding serves POST /v1/embeddings.
func (s *Server) embedding(x *exchange) error {
	if err := x.oneOf("encoding_format", "float", "base64"); err != nil {
		return err
	}
	if err := x.between("dimensions", 1, 4096); err != nil {
		return err
	}
	inputs, err := x.inputs()
	if err != nil {
		return err
	}
	var format string
	dimensions := 64
	x.decode("encoding_format", &format)
	x.decode("dimensions", &dimensions)
	type embedding struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	data := make([]embedding, len(inputs))
	var prompt int64
	for i, input := range inputs {
		prompt += count(string(input))
		floats := make([]float32, dimensions)
		var sum float64
		for j := range floats {
			// What is asked for decides, not how it is to be encoded.
			floats[j] = float32(len(input)%17+1) * float32(math.Sin(float64(1+i*7+j*3+len(input))))
			sum += float64(floats[j]) * float64(floats[j])
		}
		for j := range floats {
			floats[j] /= float32(math.Sqrt(sum))
		}
		data[i] = embedding{"embedding", i, floats}
		if format == "base64" {
			b := make([]byte, 0, 4*dimensions)
			for _, f := range floats {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
			}
			data[i].Embedding = base64.StdEncoding.EncodeToString(b)
		}
	}
	x.Entry.Tokens.Input = prompt
	answer := map[string]any{"object": "list", "data": data, "model": x.dated()}
	if x.How.Usage != UsageAbsent {
		answer["usage"] = map[string]int64{"prompt_tokens": prompt, "total_tokens": prompt}
	}
	return x.AnswerJSON(answer)
}

// inputs divides the input of an embedding: a text, texts, tokens or lists of
// tokens.
func (x *exchange) inputs() ([]json.RawMessage, error) {
	raw := x.member["input"]
	if isNull(raw) {
		return nil, bad("input", "missing_required_parameter", "Missing required parameter: 'input'.")
	}
	if string(raw) == `""` || string(raw) == "[]" {
		return nil, bad("input", "", "Invalid 'input': input cannot be an empty string or array.")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) > 0 && isNumber(list[0]) {
		if !text.holds(raw) && err != nil {
			return nil, bad("input", "invalid_type", "Invalid type for 'input': expected a string or array, but got %s instead.", describe(raw))
		}
		list = []json.RawMessage{raw}
	}
	if len(list) > 2048 {
		return nil, bad("input", "", "Invalid 'input': array too long. Expected an array with maximum length 2048.")
	}
	return list, nil
}

var moderationFields = fields{"input": anything, "model": text}

// moderation serves POST /v1/moderations.
func (s *Server) moderation(x *exchange) error {
	inputs, err := x.inputs()
	if err != nil {
		return err
	}
	if len(inputs) > 0 && inputs[0][0] == '{' {
		inputs = inputs[:1] // parts of one input
	}
	categories := []string{"harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"}
	results := make([]any, len(inputs))
	for i, input := range inputs {
		flags, scores, kinds := map[string]bool{}, map[string]float64{}, map[string][]string{}
		for j, c := range categories {
			scores[c] = float64(x.Number(i*len(categories)+j, 100)) / 1024
			flags[c] = c == "violence" && strings.Contains(string(input), "violent")
			kinds[c] = []string{"text"}
		}
		results[i] = map[string]any{"flagged": flags["violence"], "categories": flags, "category_scores": scores, "category_applied_input_types": kinds}
	}
	model := "mock-moderation-2026-06-01"
	if x.Entry.Model != "" {
		model = x.dated()
	}
	return x.AnswerJSON(map[string]any{"id": "modr-" + x.Digest[:24], "model": model, "results": results})
}

var rerankFields = fields{
	"documents": list, "max_chunks_per_doc": integer, "model": text, "query": text, "return_documents": boolean, "top_n": integer,
}

// rerank serves POST /v1/rerank, which OpenAI lacks and its followers have.
func (s *Server) rerank(x *exchange) error {
	var documents []json.RawMessage
	if err := x.decode("documents", &documents); err != nil {
		return err
	}
	if !x.has("query") || len(documents) == 0 {
		return bad("documents", "missing_required_parameter", "Missing required parameter: 'documents'.")
	}
	top := len(documents)
	x.decode("top_n", &top)
	top = max(1, min(top, len(documents)))
	var withText bool
	x.decode("return_documents", &withText)
	type result struct {
		Index          int             `json:"index"`
		RelevanceScore float64         `json:"relevance_score"`
		Document       json.RawMessage `json:"document,omitempty"`
	}
	results := make([]result, top)
	prompt := count(string(x.member["query"]))
	for _, d := range documents {
		prompt += count(string(d))
	}
	for i := range results {
		results[i] = result{Index: (i + x.Number(9, len(documents))) % len(documents), RelevanceScore: 1 / float64(i+1)}
		if withText {
			results[i].Document = documents[results[i].Index]
		}
	}
	x.Entry.Tokens.Input = prompt
	return x.AnswerJSON(map[string]any{
		"id": "rerank-" + x.Digest[:24], "model": x.dated(), "results": results,
		"usage": map[string]int64{"prompt_tokens": prompt, "total_tokens": prompt},
	})
}
