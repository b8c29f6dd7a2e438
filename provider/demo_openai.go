package provider

// Chat Completions, Completions and Embeddings, as OpenAI's API has them.

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

func openAIUsage(in, out int) object {
	return object{
		"prompt_tokens": in, "completion_tokens": out, "total_tokens": in + out,
		"prompt_tokens_details": object{"cached_tokens": 0, "audio_tokens": 0},
		"completion_tokens_details": object{
			"reasoning_tokens": 0, "audio_tokens": 0,
			"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
		},
	}
}

// openAIStream makes the chunks of a stream out of their choices. Usage, in the
// end, is for those who asked for it.
func openAIStream(head object, choices []list, asked bool, usage object) demoEvents {
	var events demoEvents
	chunk := func(choices list, usage any) {
		o := object{"choices": choices}
		for name, v := range head {
			o[name] = v
		}
		if asked {
			o["usage"] = usage
		}
		events.data(o)
	}
	for _, c := range choices {
		chunk(c, nil)
	}
	if asked {
		chunk(list{}, usage)
	}
	return append(events, frame("", []byte("[DONE]")))
}

func (x *demoExchange) chat() (*demoAnswer, error) {
	var r struct {
		Model         string        `json:"model"`
		Messages      []turn        `json:"messages"`
		Stream        bool          `json:"stream"`
		StreamOptions streamOptions `json:"stream_options"`
		MaxTokens     *int          `json:"max_tokens"`
		MaxCompletion *int          `json:"max_completion_tokens"`
		N             *int          `json:"n"`
		Tools         []tool        `json:"tools"`
		ToolChoice    toolChoice    `json:"tool_choice"`
	}
	if err := decode(x.body, &r); err != nil {
		return nil, err
	}
	if err := knows(r.Model); err != nil {
		return nil, err
	}
	said := turns(r.Messages)
	if err := said.check("messages", "user", "system", "developer", "assistant", "tool", "function"); err != nil {
		return nil, err
	}
	if r.N != nil && *r.N != 1 {
		return nil, malformed("n", "n: the demo gives one choice")
	}
	limit, err := allowed("max_tokens", r.MaxTokens, 1, noLimit)
	if err != nil {
		return nil, err
	}
	if limit, err = allowed("max_completion_tokens", r.MaxCompletion, 1, limit); err != nil {
		return nil, err
	}
	call, err := r.ToolChoice.forced(r.Tools, "function")
	if err != nil {
		return nil, err
	}
	a := demoSays(r.Model, said.last(), said.words(), limit, call)
	head := object{
		"id": "chatcmpl-" + x.id, "object": "chat.completion", "created": demoEpoch, "model": r.Model,
		"service_tier": "default",
	}
	usage := openAIUsage(a.in, a.out)
	if r.Stream {
		head["object"] = "chat.completion.chunk"
		return demoEventStream(r.Model, openAIStream(head, x.chatDeltas(&a), r.StreamOptions.IncludeUsage, usage)), nil
	}
	message := object{"role": "assistant", "content": a.text(), "refusal": nil, "annotations": list{}}
	if a.tool != "" {
		message["content"] = nil
		message["tool_calls"] = list{object{
			"id": "call_" + x.id, "type": "function", "function": object{"name": a.tool, "arguments": "{}"},
		}}
	}
	head["choices"] = list{object{"index": 0, "message": message, "logprobs": nil, "finish_reason": chatFinish(&a)}}
	head["usage"] = usage
	return demoJSON(head), nil
}

// chatDeltas are the choices of the chunks that a stream consists of.
func (x *demoExchange) chatDeltas(a *demoReply) (choices []list) {
	add := func(delta object, finish any) {
		choices = append(choices, list{object{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}})
	}
	if a.tool != "" {
		add(object{"role": "assistant", "content": nil}, nil)
		add(object{"tool_calls": list{object{
			"index": 0, "id": "call_" + x.id, "type": "function", "function": object{"name": a.tool, "arguments": ""},
		}}}, nil)
		add(object{"tool_calls": list{object{"index": 0, "function": object{"arguments": "{}"}}}}, nil)
	} else {
		add(object{"role": "assistant", "content": "", "refusal": nil}, nil)
	}
	for _, w := range a.words {
		add(object{"content": w}, nil)
	}
	add(object{}, chatFinish(a))
	return choices
}

func chatFinish(a *demoReply) string {
	switch {
	case a.tool != "":
		return "tool_calls"
	case a.cut:
		return "length"
	}
	return "stop"
}

// demoMaxPrompts bounds how many prompts one request may have.
const demoMaxPrompts = 128

func (x *demoExchange) completions() (*demoAnswer, error) {
	var r struct {
		Model         string        `json:"model"`
		Prompt        texts         `json:"prompt"`
		Stream        bool          `json:"stream"`
		StreamOptions streamOptions `json:"stream_options"`
		MaxTokens     *int          `json:"max_tokens"`
		N             *int          `json:"n"`
	}
	if err := decode(x.body, &r); err != nil {
		return nil, err
	}
	if err := knows(r.Model); err != nil {
		return nil, err
	}
	if err := r.Prompt.check("prompt", demoMaxPrompts); err != nil {
		return nil, err
	}
	if r.N != nil && *r.N != 1 {
		return nil, malformed("n", "n: the demo gives one choice for each prompt")
	}
	limit, err := allowed("max_tokens", r.MaxTokens, 1, 16)
	if err != nil {
		return nil, err
	}
	in, out := 0, 0
	var whole list
	var pieces []list
	for i, prompt := range r.Prompt {
		a := demoSays(r.Model, prompt, countWords(prompt), limit, "")
		in, out = in+a.in, out+a.out
		choice := func(text string, finish any) object {
			return object{"index": i, "text": text, "logprobs": nil, "finish_reason": finish}
		}
		whole = append(whole, choice(a.text(), chatFinish(&a)))
		for _, w := range a.words {
			pieces = append(pieces, list{choice(w, nil)})
		}
		pieces = append(pieces, list{choice("", chatFinish(&a))})
	}
	head := object{"id": "cmpl-" + x.id, "object": "text_completion", "created": demoEpoch, "model": r.Model}
	usage := openAIUsage(in, out)
	if r.Stream {
		return demoEventStream(r.Model, openAIStream(head, pieces, r.StreamOptions.IncludeUsage, usage)), nil
	}
	head["choices"], head["usage"] = whole, usage
	return demoJSON(head), nil
}

func (x *demoExchange) embeddings() (*demoAnswer, error) {
	var r struct {
		Model      string `json:"model"`
		Input      texts  `json:"input"`
		Dimensions *int   `json:"dimensions"`
		Format     string `json:"encoding_format"`
	}
	if err := decode(x.body, &r); err != nil {
		return nil, err
	}
	if err := knows(r.Model); err != nil {
		return nil, err
	}
	if err := r.Input.check("input", demoMaxTexts); err != nil {
		return nil, err
	}
	if r.Format != "" && r.Format != "float" && r.Format != "base64" {
		return nil, malformed("encoding_format", "encoding_format: %.40q is neither float nor base64", r.Format)
	}
	size, err := dimensions("dimensions", r.Dimensions, len(r.Input))
	if err != nil {
		return nil, err
	}
	in := 0
	data := make(list, len(r.Input))
	for i, text := range r.Input {
		in += max(countWords(text), 1)
		vector := embed(text, size)
		entry := object{"object": "embedding", "index": i, "embedding": vector}
		if r.Format == "base64" {
			entry["embedding"] = packed(vector)
		}
		data[i] = entry
	}
	return demoJSON(object{
		"object": "list", "data": data, "model": r.Model,
		"usage": object{"prompt_tokens": in, "total_tokens": in},
	}), nil
}
