package provider

import "github.com/floway/floway/dialect"

// The Responses API, as OpenAI has it. The demo keeps nothing: that a request
// goes on from an earlier response is taken note of and no more.

func (x *demoExchange) responses() (*demoAnswer, error) {
	var r struct {
		Model        string     `json:"model"`
		Input        turns      `json:"input"`
		Instructions prose      `json:"instructions"`
		Stream       bool       `json:"stream"`
		MaxOutput    *int       `json:"max_output_tokens"`
		Tools        []tool     `json:"tools"`
		ToolChoice   toolChoice `json:"tool_choice"`
		Previous     *string    `json:"previous_response_id"`
	}
	if err := decode(x.body, &r); err != nil {
		return nil, err
	}
	if err := knows(r.Model); err != nil {
		return nil, err
	}
	if err := r.Input.check("input", "user", "system", "developer", "assistant"); err != nil {
		return nil, err
	}
	in := r.Input.words() + countWords(string(r.Instructions))
	switch x.call.Op {
	case dialect.CountResponse:
		return demoJSON(object{"object": "response.input_tokens", "input_tokens": max(in, 1)}), nil
	case dialect.CompactResponse:
		return demoJSON(object{
			"id": "resp_" + x.id, "object": "response.compaction", "created_at": demoEpoch,
			"output": list{object{"id": "cmp_" + x.id, "type": "compaction", "encrypted_content": x.id}},
			"usage":  responsesUsage(max(in, 1), 1),
		}), nil
	}
	limit, err := allowed("max_output_tokens", r.MaxOutput, 1, noLimit)
	if err != nil {
		return nil, err
	}
	call, err := r.ToolChoice.forced(r.Tools, "function")
	if err != nil {
		return nil, err
	}
	a := demoSays(r.Model, r.Input.last(), in, limit, call)
	response := func(status string, output list) object {
		return object{
			"id": "resp_" + x.id, "object": "response", "created_at": demoEpoch, "completed_at": nil,
			"status": status, "model": r.Model, "output": output, "usage": nil,
			"error": nil, "incomplete_details": nil, "instructions": nil, "metadata": object{},
			"previous_response_id": r.Previous, "max_output_tokens": r.MaxOutput,
			"parallel_tool_calls": true, "temperature": 1, "top_p": 1, "tool_choice": "auto", "tools": list{},
			"text":      object{"format": object{"type": "text"}},
			"reasoning": object{"effort": nil, "summary": nil},
			"store":     false, "background": false, "truncation": "disabled", "service_tier": "default",
		}
	}
	status := "completed"
	if a.cut {
		status = "incomplete"
	}
	end := response(status, list{x.item(&a, status)})
	end["usage"] = responsesUsage(a.in, a.out)
	if a.cut {
		end["incomplete_details"] = object{"reason": "max_output_tokens"}
	} else {
		end["completed_at"] = demoEpoch
	}
	if !r.Stream {
		return demoJSON(end), nil
	}
	var events demoEvents
	begin := response("in_progress", list{})
	events.numbered(object{"type": "response.created", "response": begin})
	events.numbered(object{"type": "response.in_progress", "response": begin})
	x.itemEvents(&events, &a, status)
	events.numbered(object{"type": "response." + status, "response": end})
	return demoEventStream(r.Model, events), nil
}

// item is the one item of the output: a call or a message.
func (x *demoExchange) item(a *demoReply, status string) object {
	if a.tool != "" {
		return object{
			"id": "fc_" + x.id, "type": "function_call", "call_id": "call_" + x.id,
			"name": a.tool, "arguments": "{}", "status": status,
		}
	}
	return object{
		"id": "msg_" + x.id, "type": "message", "role": "assistant", "status": status,
		"content": list{outputText(a.text())},
	}
}

func outputText(text string) object {
	return object{"type": "output_text", "text": text, "annotations": list{}, "logprobs": list{}}
}

// itemEvents opens the item, fills it piece by piece and closes it.
func (x *demoExchange) itemEvents(events *demoEvents, a *demoReply, status string) {
	whole, opened := x.item(a, status), x.item(a, "in_progress")
	// at makes an event that says which part of the output it is about.
	at := func(kind string, more object) object {
		o := object{"type": kind, "item_id": whole["id"], "output_index": 0}
		for name, v := range more {
			o[name] = v
		}
		return o
	}
	if a.tool != "" {
		opened["arguments"] = ""
		events.numbered(object{"type": "response.output_item.added", "output_index": 0, "item": opened})
		events.numbered(at("response.function_call_arguments.delta", object{"delta": "{}"}))
		events.numbered(at("response.function_call_arguments.done", object{"name": a.tool, "arguments": "{}"}))
	} else {
		opened["content"] = list{}
		events.numbered(object{"type": "response.output_item.added", "output_index": 0, "item": opened})
		events.numbered(at("response.content_part.added", object{"content_index": 0, "part": outputText("")}))
		for _, w := range a.words {
			events.numbered(at("response.output_text.delta", object{"content_index": 0, "delta": w, "logprobs": list{}}))
		}
		events.numbered(at("response.output_text.done", object{"content_index": 0, "text": a.text(), "logprobs": list{}}))
		events.numbered(at("response.content_part.done", object{"content_index": 0, "part": outputText(a.text())}))
	}
	events.numbered(object{"type": "response.output_item.done", "output_index": 0, "item": whole})
}

func responsesUsage(in, out int) object {
	return object{
		"input_tokens": in, "input_tokens_details": object{"cached_tokens": 0, "cache_write_tokens": 0},
		"output_tokens": out, "output_tokens_details": object{"reasoning_tokens": 0},
		"total_tokens": in + out,
	}
}
