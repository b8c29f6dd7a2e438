package translate

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// The answers of the Responses API, as a client gets them.

// responsesEncoder writes an answer as a stream of events, or quietly gathers it
// to be written as one object. What its events announce are the very items that
// the last of them repeats.
type responsesEncoder struct {
	a       *Answer
	quiet   bool
	id      string
	events  int64 // written so far
	items   []*responsesSaid
	under   *responsesSaid // the message or reasoning that takes more text
	reason  Reason
	started bool
}

// responsesSaid is an item of the output.
type responsesSaid struct {
	kind             Kind // Text for a message, Thought or Call
	id, status       string
	callID           string
	name, space      string
	custom           bool
	call             int
	index            int
	parts            []responsesPart // of a message; others have one
	sealed           string
	head, tail       string // of the frame of a piece, around its number
	open, partIsOpen bool
}

// responsesPart is a text that grows.
type responsesPart struct {
	refusal bool
	text    []byte
	sent    int // how much of it went out; a character that is cut waits for its rest
}

func newResponsesEncoder(a *Answer) encoder { return &responsesEncoder{a: a} }

func (e *responsesEncoder) take(ev *Event) {
	if !e.started {
		e.start(ev.ID)
	}
	switch ev.Kind {
	case TextPiece:
		e.text(false, ev.Text)
	case RefusalPiece:
		e.text(true, ev.Text)
	case ThoughtPiece:
		e.thought(ev.Text)
	case Sealed:
		e.seal(ev.State)
	case BlockEnd:
		if it := e.under; it != nil && it.kind == Thought {
			e.shut("completed")
		} else if it != nil {
			e.shutPart(it)
		}
	case CallStart:
		e.call(ev)
	case CallPiece:
		if it := e.callOf(ev.Call); it != nil {
			e.grow(it, ev.Text)
		}
	case CallEnd:
		if it := e.callOf(ev.Call); it != nil {
			e.done(it, "completed")
		}
	case Finish:
		e.reason = ev.Reason
	}
}

// start announces the answer.
func (e *responsesEncoder) start(id string) {
	e.started = true
	e.id = e.a.answerID("resp_", id)
	for _, kind := range [...]string{"response.created", "response.in_progress"} {
		e.frame(kind, func(w *writer) {
			w.name("response")
			e.response(w, "in_progress", nil, nil)
		})
	}
}

// frame writes an event: its name, its number and what members writes.
func (e *responsesEncoder) frame(kind string, members func(w *writer)) {
	if e.quiet {
		return
	}
	w := &e.a.out
	w.b = append(append(append(w.b, "event: "...), kind...), "\ndata: "...)
	w.open('{')
	w.member("type", kind)
	w.intMember("sequence_number", e.events)
	members(w)
	w.shut('}')
	w.b = append(w.b, "\n\n"...)
	e.events++
}

// place writes where in the answer an event about a part belongs.
func (it *responsesSaid) place(w *writer) {
	w.member("item_id", it.id)
	w.intMember("output_index", int64(it.index))
	switch it.kind {
	case Text:
		w.intMember("content_index", int64(len(it.parts)-1))
	case Thought:
		w.intMember("summary_index", 0)
	}
}

// add announces an item.
func (e *responsesEncoder) add(it *responsesSaid, prefix string) {
	it.id, it.index, it.status, it.open = e.a.newID(prefix), len(e.items), "in_progress", true
	e.items = append(e.items, it)
	e.frame("response.output_item.added", func(w *writer) {
		w.intMember("output_index", int64(it.index))
		w.name("item")
		it.write(w)
	})
}

// prepare makes the frame for the pieces of the part under way.
func (e *responsesEncoder) prepare(it *responsesSaid, kind string) {
	if e.quiet {
		return
	}
	it.head = "event: " + kind + "\ndata: {\"type\":\"" + kind + "\",\"sequence_number\":"
	w := writer{b: make([]byte, 0, 192)}
	w.b = append(w.b, ' ')
	it.place(&w)
	if kind == "response.output_text.delta" {
		w.name("logprobs")
		w.literal("[]")
	}
	w.name("delta")
	w.b[0] = ','
	it.tail = string(append(w.b, '"'))
}

// grow adds to the part under way.
func (e *responsesEncoder) grow(it *responsesSaid, text []byte) {
	p := &it.parts[len(it.parts)-1]
	p.text = append(p.text, text...)
	e.send(it, p, len(p.text)-cutRune(p.text))
}

// send sends a part's text up to an offset.
func (e *responsesEncoder) send(it *responsesSaid, p *responsesPart, to int) {
	if to > p.sent && !e.quiet {
		b := append(e.a.out.b, it.head...)
		b = append(strconv.AppendInt(b, e.events, 10), it.tail...)
		b = appendEscaped(b, p.text[p.sent:to])
		e.a.out.b = append(b, "\"}\n\n"...)
		e.events++
	}
	p.sent = max(p.sent, to)
}

// cutRune counts the bytes at the end of a text that begin a character and do not
// end it.
func cutRune(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if tail := text[len(text)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// text adds to what is said.
func (e *responsesEncoder) text(refusal bool, text []byte) {
	if len(text) == 0 {
		return
	}
	it := e.under
	if it == nil || it.kind != Text {
		e.shut("completed")
		it = &responsesSaid{kind: Text}
		e.add(it, "msg_")
		e.under = it
	}
	if it.partIsOpen && it.parts[len(it.parts)-1].refusal != refusal {
		e.shutPart(it)
	}
	if !it.partIsOpen {
		it.partIsOpen = true
		it.parts = append(it.parts, responsesPart{refusal: refusal})
		e.frame("response.content_part.added", func(w *writer) {
			it.place(w)
			w.name("part")
			it.writePart(w, len(it.parts)-1)
		})
		if refusal {
			e.prepare(it, "response.refusal.delta")
		} else {
			e.prepare(it, "response.output_text.delta")
		}
	}
	e.grow(it, text)
}

// thought adds to what is thought: to the summary, which is what clients show.
func (e *responsesEncoder) thought(text []byte) {
	if len(text) == 0 {
		return
	}
	it := e.under
	if it == nil || it.kind != Thought {
		e.shut("completed")
		it = &responsesSaid{kind: Thought}
		e.add(it, "rs_")
		e.under = it
		it.partIsOpen = true
		it.parts = append(it.parts, responsesPart{})
		e.frame("response.reasoning_summary_part.added", func(w *writer) {
			it.place(w)
			w.name("part")
			it.writePart(w, 0)
		})
		e.prepare(it, "response.reasoning_summary_text.delta")
	}
	e.grow(it, text)
}

// seal gives the thought under way its sealed form, or makes a thought of it that
// has no words.
func (e *responsesEncoder) seal(st State) {
	if it := e.under; it != nil && it.kind == Thought {
		it.sealed = e.a.sealed(st)
		e.shut("completed")
		return
	}
	e.shut("completed")
	it := &responsesSaid{kind: Thought}
	e.add(it, "rs_")
	it.sealed = e.a.sealed(st)
	e.done(it, "completed")
}

// call begins a call. What is sealed in it stands in a reasoning item of its own
// before it, which names the call.
func (e *responsesEncoder) call(ev *Event) {
	e.shut("completed")
	it := &responsesSaid{
		kind: Call, callID: ev.ID, name: ev.Name, space: ev.Space, custom: ev.Custom, call: ev.Call,
		parts: make([]responsesPart, 1),
	}
	if it.callID == "" {
		it.callID = e.a.newID("call_")
	}
	if !ev.State.Empty() {
		st := ev.State
		st.ID = it.callID
		e.seal(st)
	}
	if it.custom {
		e.add(it, "ctc_")
		e.prepare(it, "response.custom_tool_call_input.delta")
	} else {
		e.add(it, "fc_")
		e.prepare(it, "response.function_call_arguments.delta")
	}
}

// callOf finds a call that is open.
func (e *responsesEncoder) callOf(call int) *responsesSaid {
	for i := len(e.items) - 1; i >= 0; i-- {
		if it := e.items[i]; it.kind == Call && it.call == call && it.open {
			return it
		}
	}
	return nil
}

// shut ends the message or reasoning under way.
func (e *responsesEncoder) shut(status string) {
	if it := e.under; it != nil {
		e.under = nil
		e.done(it, status)
	}
}

// shutPart ends the part under way.
func (e *responsesEncoder) shutPart(it *responsesSaid) {
	if !it.partIsOpen {
		return
	}
	it.partIsOpen = false
	last := len(it.parts) - 1
	p := &it.parts[last]
	e.send(it, p, len(p.text))
	kind, name, done := "response.output_text.done", "text", "response.content_part.done"
	switch {
	case it.kind == Thought:
		kind, done = "response.reasoning_summary_text.done", "response.reasoning_summary_part.done"
	case p.refusal:
		kind, name = "response.refusal.done", "refusal"
	}
	e.frame(kind, func(w *writer) {
		it.place(w)
		w.name(name)
		w.bytes(p.text)
		if kind == "response.output_text.done" {
			w.name("logprobs")
			w.literal("[]")
		}
	})
	e.frame(done, func(w *writer) {
		it.place(w)
		w.name("part")
		it.writePart(w, last)
	})
}

// done ends an item.
func (e *responsesEncoder) done(it *responsesSaid, status string) {
	if it.kind != Call {
		e.shutPart(it)
	} else {
		e.argued(it, status)
	}
	if it.kind == Thought && it.sealed == "" {
		it.sealed = e.a.sealedOrMarked(State{})
	}
	it.open, it.status = false, status
	e.frame("response.output_item.done", func(w *writer) {
		w.intMember("output_index", int64(it.index))
		w.name("item")
		it.write(w)
	})
}

// argued ends the arguments of a call. None are an empty object.
func (e *responsesEncoder) argued(it *responsesSaid, status string) {
	p := &it.parts[0]
	if len(p.text) == 0 && !it.custom && status == "completed" {
		e.grow(it, []byte("{}"))
	}
	e.send(it, p, len(p.text))
	kind, name := "response.function_call_arguments.done", "arguments"
	if it.custom {
		kind, name = "response.custom_tool_call_input.done", "input"
	}
	e.frame(kind, func(w *writer) {
		it.place(w)
		if !it.custom {
			w.member("name", it.name)
		}
		w.name(name)
		w.bytes(p.text)
	})
}

// write writes the item as it stands.
func (it *responsesSaid) write(w *writer) {
	w.open('{')
	w.member("id", it.id)
	switch it.kind {
	case Thought:
		w.member("type", "reasoning")
		w.name("summary")
		w.open('[')
		for i := range it.parts {
			it.writePart(w, i)
		}
		w.shut(']')
		w.memberIf("encrypted_content", it.sealed)
	case Call:
		name := "arguments"
		if it.custom {
			name = "input"
			w.member("type", "custom_tool_call")
		} else {
			w.member("type", "function_call")
		}
		w.member("status", it.status)
		w.member("call_id", it.callID)
		w.member("name", it.name)
		w.memberIf("namespace", it.space)
		w.name(name)
		w.bytes(it.parts[0].text)
	default:
		w.member("type", "message")
		w.member("status", it.status)
		w.member("role", "assistant")
		w.name("content")
		w.open('[')
		for i := range it.parts {
			it.writePart(w, i)
		}
		w.shut(']')
	}
	w.shut('}')
}

func (it *responsesSaid) writePart(w *writer, i int) {
	p := &it.parts[i]
	w.open('{')
	switch {
	case it.kind == Thought:
		w.member("type", "summary_text")
		w.name("text")
		w.bytes(p.text)
	case p.refusal:
		w.member("type", "refusal")
		w.name("refusal")
		w.bytes(p.text)
	default:
		w.member("type", "output_text")
		w.name("text")
		w.bytes(p.text)
		w.name("annotations")
		w.literal("[]")
		w.name("logprobs")
		w.literal("[]")
	}
	w.shut('}')
}

// response writes the response object. err is why it failed.
func (e *responsesEncoder) response(w *writer, status string, t *usage.Tokens, err *dialect.Error) {
	created := e.a.r.o.Now.Unix()
	w.open('{')
	w.member("id", e.id)
	w.member("object", "response")
	w.intMember("created_at", created)
	w.name("completed_at")
	if status == "completed" {
		w.integer(max(created, time.Now().Unix()))
	} else {
		w.literal("null")
	}
	w.member("status", status)
	w.boolMember("background", false)
	w.name("error")
	if err != nil {
		w.open('{')
		w.member("code", responsesCode(err))
		w.member("message", err.Message)
		w.shut('}')
	} else {
		w.literal("null")
	}
	w.name("incomplete_details")
	switch {
	case status != "incomplete":
		w.literal("null")
	case e.reason == Filtered:
		w.literal(`{"reason":"content_filter"}`)
	default:
		w.literal(`{"reason":"max_output_tokens"}`)
	}
	e.echo(w, "instructions", "instructions", "null")
	e.echo(w, "max_output_tokens", "max_output_tokens", "null")
	e.echo(w, "max_tool_calls", "max_tool_calls", "null")
	e.echo(w, "metadata", "metadata", "{}")
	w.member("model", e.a.r.c.Asked)
	w.name("output")
	w.open('[')
	for _, it := range e.items {
		it.write(w)
	}
	w.shut(']')
	e.echo(w, "parallel_tool_calls", "parallel_tool_calls", "true")
	w.name("previous_response_id")
	w.literal("null")
	e.echo(w, "prompt_cache_key", "prompt_cache_key", "null")
	w.name("reasoning")
	w.open('{')
	e.echo(w, "effort", "reasoning.effort", "null")
	e.echo(w, "summary", "reasoning.summary", "null")
	w.shut('}')
	e.echo(w, "safety_identifier", "safety_identifier", "null")
	tier := "default"
	if t != nil && t.Tier != "" {
		tier = t.Tier
	}
	w.member("service_tier", tier)
	w.boolMember("store", false)
	e.echo(w, "temperature", "temperature", "1")
	w.name("text")
	w.open('{')
	e.echo(w, "format", "text.format", `{"type":"text"}`)
	e.echo(w, "verbosity", "text.verbosity", `"medium"`)
	w.shut('}')
	e.echo(w, "tool_choice", "tool_choice", `"auto"`)
	e.echo(w, "tools", "tools", "[]")
	e.echo(w, "top_logprobs", "top_logprobs", "0")
	e.echo(w, "top_p", "top_p", "1")
	w.member("truncation", "disabled")
	w.name("usage")
	if t == nil {
		w.literal("null")
	} else {
		w.open('{')
		w.intMember("input_tokens", t.InputTotal())
		w.name("input_tokens_details")
		w.open('{')
		w.intMember("cached_tokens", t.CacheRead)
		w.intMember("cache_write_tokens", t.CacheWrite+t.CacheWrite1h)
		w.shut('}')
		w.intMember("output_tokens", t.Output)
		w.name("output_tokens_details")
		w.open('{')
		w.intMember("reasoning_tokens", t.Reasoning)
		w.shut('}')
		w.intMember("total_tokens", t.Total())
		w.shut('}')
	}
	e.echo(w, "user", "user", "null")
	w.shut('}')
}

// echo repeats a member of the request.
func (e *responsesEncoder) echo(w *writer, name, asked, otherwise string) {
	w.name(name)
	for _, m := range e.a.r.c.Echo {
		if m.Name == asked {
			w.raw(m.Raw)
			return
		}
	}
	w.literal(otherwise)
}

// responsesCode is the code of an error in a response object. Source: the typings'
// list of codes, and those that Codex tells apart.
func responsesCode(err *dialect.Error) string {
	switch {
	case err.Code != "":
		return err.Code
	case err.Fault == dialect.RateLimited:
		return "rate_limit_exceeded"
	case err.Fault == dialect.QuotaSpent:
		return "insufficient_quota"
	}
	return "server_error"
}

// close ends what is open and says how the answer ended.
func (e *responsesEncoder) close() (status string) {
	status = "completed"
	switch e.reason {
	case Length, ContextFull, Filtered:
		status = "incomplete"
	case BadCall:
		return "failed" // a call that was ended would be made by some clients
	}
	e.under = nil
	for _, it := range e.items {
		if it.open {
			e.done(it, status)
		}
	}
	return status
}

var errBadCall = &dialect.Error{Fault: dialect.BadUpstream, Message: "the model called a tool in a way that cannot be read"}

func (e *responsesEncoder) finish(t *usage.Tokens) {
	if !e.started {
		e.start("")
	}
	status := e.close()
	if status == "failed" {
		e.failed(errBadCall, t)
		return
	}
	e.frame("response."+status, func(w *writer) {
		w.name("response")
		e.response(w, status, t, nil)
	})
}

func (e *responsesEncoder) fail(err *dialect.Error) {
	if !e.started {
		e.start("")
	}
	e.failed(err, nil)
}

// failed ends a stream that failed. Codex waits for response.failed; most others
// take that for an event like any and notice only data with a member error.
func (e *responsesEncoder) failed(err *dialect.Error, t *usage.Tokens) {
	for _, it := range e.items {
		if it.open {
			it.status = "incomplete"
		}
	}
	e.frame("response.failed", func(w *writer) {
		w.name("response")
		e.response(w, "failed", t, err)
	})
	e.a.out.b = append(e.a.out.b, err.Event(dialect.CreateResponse, int(e.events))...)
	e.events++
}

// writeResponsesReply writes a whole answer.
func (a *Answer) writeResponsesReply(r *reply, t *usage.Tokens) {
	e := &responsesEncoder{a: a, quiet: true, reason: r.reason}
	e.start(r.id)
	for i := range r.parts {
		p := &r.parts[i]
		said := []byte(p.Text)
		switch p.Kind {
		case Text:
			e.take(&Event{Kind: TextPiece, Text: said})
		case Refusal:
			e.take(&Event{Kind: RefusalPiece, Text: said})
		case Thought:
			e.take(&Event{Kind: ThoughtPiece, Text: said})
			if !p.State.Empty() {
				e.take(&Event{Kind: Sealed, State: p.State})
			}
		case Call:
			e.take(&Event{
				Kind: CallStart, Call: i, ID: p.Call.ID, Name: p.Call.Name,
				Space: p.Call.Space, Custom: p.Call.Custom, State: p.State,
			})
			e.take(&Event{Kind: CallPiece, Call: i, Text: []byte(p.Call.Arguments)})
		}
		e.take(&Event{Kind: BlockEnd})
	}
	var err *dialect.Error
	status := e.close()
	if status == "failed" {
		err = errBadCall
	}
	e.response(&a.out, status, t, err)
}
