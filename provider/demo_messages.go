package provider

import "github.com/floway/floway/dialect"

// The Messages API, as Anthropic has it.

func (x *demoExchange) messages() (*demoAnswer, error) {
	var r struct {
		Model      string     `json:"model"`
		Messages   []turn     `json:"messages"`
		System     prose      `json:"system"`
		Stream     bool       `json:"stream"`
		MaxTokens  *int       `json:"max_tokens"`
		Tools      []tool     `json:"tools"`
		ToolChoice toolChoice `json:"tool_choice"`
	}
	if err := decode(x.body, &r); err != nil {
		return nil, err
	}
	if err := knows(r.Model); err != nil {
		return nil, err
	}
	said := turns(r.Messages)
	if err := said.check("messages", "user", "assistant", "system"); err != nil {
		return nil, err
	}
	in := said.words() + countWords(string(r.System))
	if x.call.Op == dialect.CountMessage {
		return demoJSON(object{"input_tokens": max(in, 1)}), nil
	}
	if r.MaxTokens == nil {
		return nil, malformed("max_tokens", "max_tokens: the field is required")
	}
	limit, err := allowed("max_tokens", r.MaxTokens, 0, noLimit)
	if err != nil {
		return nil, err
	}
	call, err := r.ToolChoice.forced(r.Tools, "custom")
	if err != nil {
		return nil, err
	}
	a := demoSays(r.Model, said.last(), in, limit, call)
	message := object{
		"id": "msg_" + x.id, "type": "message", "role": "assistant", "model": r.Model,
		"content": list{}, "stop_reason": nil, "stop_sequence": nil, "stop_details": nil, "container": nil,
		"usage": messagesUsage(a.in, 0),
	}
	stop := "end_turn"
	switch {
	case a.tool != "":
		stop = "tool_use"
	case a.cut:
		stop = "max_tokens"
	}
	if r.Stream {
		return demoEventStream(r.Model, x.messageEvents(message, &a, stop)), nil
	}
	message["stop_reason"], message["usage"] = stop, messagesUsage(a.in, a.out)
	switch {
	case a.tool != "":
		message["content"] = list{x.toolUse(a.tool)}
	case len(a.words) > 0: // with max_tokens 0 there is no block at all
		message["content"] = list{object{"type": "text", "text": a.text(), "citations": nil}}
	}
	return demoJSON(message), nil
}

func (x *demoExchange) messageEvents(message object, a *demoReply, stop string) (events demoEvents) {
	events.named(object{"type": "message_start", "message": message})
	events.named(object{"type": "ping"})
	block := func(opened object, deltas ...object) {
		events.named(object{"type": "content_block_start", "index": 0, "content_block": opened})
		for _, d := range deltas {
			events.named(object{"type": "content_block_delta", "index": 0, "delta": d})
		}
		events.named(object{"type": "content_block_stop", "index": 0})
	}
	switch {
	case a.tool != "":
		block(x.toolUse(a.tool), object{"type": "input_json_delta", "partial_json": "{}"})
	case len(a.words) > 0:
		deltas := make([]object, len(a.words))
		for i, w := range a.words {
			deltas[i] = object{"type": "text_delta", "text": w}
		}
		block(object{"type": "text", "text": ""}, deltas...)
	}
	// The counts are of the whole message: they take the place of those before.
	events.named(object{
		"type": "message_delta", "delta": object{"stop_reason": stop, "stop_sequence": nil},
		"usage": messagesUsage(a.in, a.out),
	})
	events.named(object{"type": "message_stop"})
	return events
}

func (x *demoExchange) toolUse(name string) object {
	return object{"type": "tool_use", "id": "toolu_" + x.id, "name": name, "input": object{}}
}

func messagesUsage(in, out int) object {
	return object{
		"input_tokens": in, "output_tokens": out,
		"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
		"cache_creation": object{"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
		"service_tier":   "standard",
	}
}
