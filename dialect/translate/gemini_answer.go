package translate

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// Answers of Google's generateContent. Source: typings of @google/genai and streams
// that were seen.

// maxCalls bounds the calls in one answer.
const maxCalls = 512

type geminiDecoder struct {
	a       *Answer
	started bool
	calls   int
	blocked bool
	reason  string
}

func newGeminiDecoder(a *Answer) decoder { return &geminiDecoder{a: a} }

func (d *geminiDecoder) event(_, data []byte) { d.read(data) }

func (d *geminiDecoder) whole(body []byte) {
	d.read(body)
	d.end()
}

// read reads one response: all of an answer, or a piece of a streamed one.
func (d *geminiDecoder) read(data []byte) {
	if trimmed := newSource(data); trimmed.next() != '{' {
		d.a.broken(errors.New("a response of Gemini is not an object"))
		return
	}
	// The id may stand behind the content, and must come first.
	id, model := "", ""
	s := newSource(data)
	var list, feedback []byte
	failed := false
	s.object(func(name []byte) {
		switch string(name) {
		case "responseId":
			id = s.string()
		case "modelVersion":
			model = s.string()
		case "candidates":
			list = s.raw()
		case "promptFeedback":
			feedback = s.raw()
		case "error":
			failed = s.raw() != nil
		default:
			s.skip()
		}
	})
	if s.err != nil || failed {
		d.a.broken(fmt.Errorf("a response of Gemini cannot be read: %w", errors.Join(s.err, errFailed(failed))))
		return
	}
	if !d.started {
		d.started = true
		d.a.emit(&Event{Kind: Start, ID: id, Model: model})
	}
	d.readCandidates(list)
	f := newSource(feedback)
	if len(feedback) > 0 {
		f.object(func(name []byte) {
			if string(name) == "blockReason" {
				d.blocked = d.blocked || f.string() != ""
				return
			}
			f.skip()
		})
	}
}

func errFailed(failed bool) error {
	if failed {
		return errors.New("it is an error")
	}
	return nil
}

// readCandidates reads the first candidate: more than one is never asked for.
func (d *geminiDecoder) readCandidates(list []byte) {
	if len(list) == 0 {
		return
	}
	s := newSource(list)
	s.list(func(i int) {
		if i > 0 {
			s.skip()
			return
		}
		s.object(func(name []byte) {
			switch string(name) {
			case "content":
				s.object(func(name []byte) {
					if string(name) != "parts" {
						s.skip()
						return
					}
					s.list(func(int) { d.readPart(s) })
				})
			case "finishReason":
				if reason := s.string(); reason != "" {
					d.reason = reason
				}
			default:
				s.skip()
			}
		})
	})
	if s.err != nil {
		d.a.broken(fmt.Errorf("a response of Gemini cannot be read: %w", s.err))
	}
}

func (d *geminiDecoder) readPart(s *source) {
	var text []byte
	signature := ""
	thought := false
	var call *ToolCall
	s.object(func(name []byte) {
		switch string(name) {
		case "text":
			if s.null() {
				return
			}
			if s.next() != '"' {
				s.fail("the text of a part is not a string")
				return
			}
			text = append(text, s.bytes()...)
		case "thought":
			thought = s.boolean()
		case "thoughtSignature":
			signature = s.string()
		case "functionCall":
			call = d.readCall(s)
		default:
			s.skip()
		}
	})
	if s.err != nil {
		return
	}
	state := State{Maker: dialect.Gemini, Data: signature}
	switch {
	case call != nil:
		d.emitCall(call, state)
	case thought:
		if len(text) > 0 {
			d.a.emit(&Event{Kind: ThoughtPiece, Text: text})
		}
		if signature != "" {
			d.a.emit(&Event{Kind: Sealed, State: state})
		}
	case len(text) > 0:
		// A signature on text need not come back, and would have no place.
		d.a.emit(&Event{Kind: TextPiece, Text: text})
	}
}

func (d *geminiDecoder) readCall(s *source) *ToolCall {
	call := &ToolCall{Arguments: "{}"}
	s.object(func(name []byte) {
		switch string(name) {
		case "id":
			call.ID = s.string()
		case "name":
			call.Name = s.string()
		case "args":
			if args := s.raw(); args != nil {
				if call.Arguments = string(args); !json.Valid(args) {
					s.fail("the arguments of a call are no JSON")
				}
			}
		default:
			s.skip()
		}
	})
	return call
}

func (d *geminiDecoder) emitCall(call *ToolCall, state State) {
	if d.calls++; d.calls > maxCalls || call.Name == "" {
		d.a.broken(errors.New("an answer of Gemini has too many calls, or one without a name"))
		return
	}
	t := d.a.r.names.tool(call.Name)
	id, args := wildID(call.ID), call.Arguments
	if id == "" {
		id = d.a.newID("call_")
	}
	if t.custom {
		args = unwrapInput(args)
	}
	n := d.calls - 1
	d.a.emit(&Event{Kind: CallStart, Call: n, ID: id, Name: t.name, Space: t.space, Custom: t.custom, State: state})
	d.a.emit(&Event{Kind: CallPiece, Call: n, Text: []byte(args)})
	d.a.emit(&Event{Kind: CallEnd, Call: n})
}

func (d *geminiDecoder) end() {
	switch {
	case d.reason == "" && !d.blocked, !d.started:
		d.a.broken(errors.New("an answer of Gemini has no end"))
		return
	case d.reason == "":
		d.a.emit(&Event{Kind: Finish, Reason: Filtered})
		return
	}
	reason := geminiReason(d.reason)
	if reason == Stop && d.calls > 0 {
		reason = Calls
	}
	d.a.emit(&Event{Kind: Finish, Reason: reason})
}

func geminiReason(word string) Reason {
	switch word {
	case "STOP":
		return Stop
	case "MAX_TOKENS":
		return Length
	case "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE",
		"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION":
		return Filtered
	case "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS":
		return BadCall
	}
	return Unknown
}

// geminiReasons spells the reasons.
var geminiReasons = [...]string{
	Stop: "STOP", StopSequence: "STOP", Calls: "STOP", Length: "MAX_TOKENS", ContextFull: "MAX_TOKENS",
	Filtered: "SAFETY", Declined: "SAFETY", Paused: "STOP", BadCall: "MALFORMED_FUNCTION_CALL", Unknown: "OTHER",
}

// geminiEncoder writes a stream: events, or the elements of one array.
type geminiEncoder struct {
	a      *Answer
	before string // what stands in front of a part, and behind it
	after  string
	id     string
	chunks int
	calls  []*openPart // that have not been written, in order
	reason Reason
}

// openPart is a call whose arguments are still coming: the dialect has it whole.
type openPart struct {
	number int
	call   ToolCall
	args   []byte
	state  State
	ended  bool
}

// maxArguments bounds the arguments of one call that has to be held.
const maxArguments = 16 << 20

func newGeminiEncoder(a *Answer) encoder {
	return &geminiEncoder{a: a}
}

func (e *geminiEncoder) start(id string) {
	e.id = e.a.answerID("", id)
	var w writer
	w.b = append(w.b, `}`...) // a comma follows
	w.intMember("index", 0)
	w.shut('}')
	w.shut(']')
	e.geminiNames(&w)
	w.shut('}')
	e.before = `{"candidates":[{"content":{"role":"model","parts":[`
	e.after = "]" + string(w.b)
}

// geminiNames writes who answers.
func (e *geminiEncoder) geminiNames(w *writer) {
	w.member("modelVersion", e.a.r.c.Asked)
	w.member("responseId", e.id)
}

// open begins a chunk, shut ends it.
func (e *geminiEncoder) open() {
	out := &e.a.out
	if e.a.r.c.Array {
		if e.chunks++; e.chunks == 1 {
			out.b = append(out.b, '[')
		} else {
			out.b = append(out.b, ",\r\n"...)
		}
	} else {
		out.b = append(out.b, "data: "...)
	}
}

func (e *geminiEncoder) shut() {
	if !e.a.r.c.Array {
		e.a.out.b = append(e.a.out.b, "\r\n\r\n"...)
	}
}

func (e *geminiEncoder) take(ev *Event) {
	switch ev.Kind {
	case Start:
		e.start(ev.ID)
	case TextPiece, RefusalPiece:
		e.text(ev.Text, false)
	case ThoughtPiece:
		if e.a.r.c.Reasoning.Visible {
			e.text(ev.Text, true)
		}
	case Sealed:
		e.part(func(w *writer) {
			w.member("text", "")
			w.boolMember("thought", true)
			w.member("thoughtSignature", e.a.signatureBytes(ev.State))
		})
	case BlockEnd:
	case CallStart:
		e.calls = append(e.calls, &openPart{
			number: ev.Call, state: ev.State,
			call: ToolCall{ID: ev.ID, Name: ev.Name, Space: ev.Space, Custom: ev.Custom},
		})
	case CallPiece:
		for _, p := range e.calls {
			if p.number == ev.Call {
				if p.args = append(p.args, ev.Text...); len(p.args) > maxArguments {
					e.a.broken(errors.New("the arguments of a call are too long"))
				}
			}
		}
	case CallEnd:
		for _, p := range e.calls {
			p.ended = p.ended || p.number == ev.Call
		}
		e.flush(false)
	case Finish:
		e.flush(true)
		e.reason = ev.Reason
	}
}

// flush writes the calls that are whole, in the order in which they began.
func (e *geminiEncoder) flush(all bool) {
	for len(e.calls) > 0 && (all || e.calls[0].ended) && e.a.Problem == nil {
		p := e.calls[0]
		e.calls = e.calls[1:]
		p.call.Arguments = string(p.args)
		part := Part{Kind: Call, Call: &p.call, State: p.state}
		args, err := argumentsObject(&part)
		if err != nil {
			e.a.broken(err)
			return
		}
		e.part(func(w *writer) { e.a.writeGeminiCall(w, &part, args) })
	}
}

// writeGeminiCall writes the inside of a part that is a call.
func (a *Answer) writeGeminiCall(w *writer, p *Part, args []byte) {
	w.name("functionCall")
	w.open('{')
	w.member("id", p.Call.ID)
	w.member("name", p.Call.Name)
	w.rawMember("args", args)
	w.shut('}')
	w.member("thoughtSignature", a.signatureBytes(p.State))
}

// text writes a chunk with a piece of text, the most frequent of all.
func (e *geminiEncoder) text(piece []byte, thought bool) {
	e.open()
	out := &e.a.out
	out.b = append(out.b, e.before...)
	out.b = append(out.b, `{"text":"`...)
	out.b = appendEscaped(out.b, piece)
	if thought {
		out.b = append(out.b, `","thought":true}`...)
	} else {
		out.b = append(out.b, `"}`...)
	}
	out.b = append(out.b, e.after...)
	e.shut()
}

// part writes a chunk with one part, whose inside write writes.
func (e *geminiEncoder) part(write func(*writer)) {
	e.open()
	out := &e.a.out
	out.b = append(out.b, e.before...)
	out.b = append(out.b, '{')
	write(out)
	out.b = append(out.b, '}')
	out.b = append(out.b, e.after...)
	e.shut()
}

func (e *geminiEncoder) finish(t *usage.Tokens) {
	e.open()
	w := &e.a.out
	w.b = append(w.b, `{"candidates":[{"content":{"role":"model","parts":[{"text":""}]}`...)
	w.member("finishReason", geminiReasons[e.reason])
	w.intMember("index", 0)
	w.b = append(w.b, `}]`...)
	w.geminiUsage(t)
	e.geminiNames(w)
	w.shut('}')
	e.shut()
	if e.a.r.c.Array {
		w.b = append(w.b, ']')
	}
}

func (e *geminiEncoder) fail(err *dialect.Error) {
	w := &e.a.out
	if !e.a.r.c.Array {
		w.b = append(w.b, err.Event(dialect.StreamContent, 0)...)
		return
	}
	e.open()
	w.b = append(w.b, err.Body(dialect.Gemini)...)
	w.b = append(w.b, ']')
}

// geminiUsage tells the client what the answer used, in its own terms: the prompt
// with what was cached, thoughts beside the answer.
func (w *writer) geminiUsage(t *usage.Tokens) {
	if t == nil {
		return
	}
	w.name("usageMetadata")
	w.open('{')
	w.intMember("promptTokenCount", t.InputTotal()-t.ToolPrompt)
	output := t.Output
	if t.ReasoningKnown {
		output = max(0, output-t.Reasoning)
	}
	w.intMember("candidatesTokenCount", output)
	if t.ToolPrompt > 0 {
		w.intMember("toolUsePromptTokenCount", t.ToolPrompt)
	}
	if t.CacheRead > 0 {
		w.intMember("cachedContentTokenCount", t.CacheRead)
	}
	if t.ReasoningKnown {
		w.intMember("thoughtsTokenCount", t.Output-output)
	}
	w.intMember("totalTokenCount", t.Total())
	w.shut('}')
}

func (a *Answer) writeGeminiReply(r *reply, t *usage.Tokens) {
	w := &a.out
	w.open('{')
	w.name("candidates")
	w.open('[')
	w.open('{')
	w.name("content")
	w.open('{')
	w.member("role", "model")
	w.name("parts")
	w.open('[')
	for i := range r.parts {
		a.writeGeminiAnswerPart(&r.parts[i])
	}
	w.shut(']')
	w.shut('}')
	w.member("finishReason", geminiReasons[r.reason])
	w.intMember("index", 0)
	w.shut('}')
	w.shut(']')
	w.geminiUsage(t)
	w.member("modelVersion", a.r.c.Asked)
	w.member("responseId", a.answerID("", r.id))
	w.shut('}')
}

func (a *Answer) writeGeminiAnswerPart(p *Part) {
	w := &a.out
	visible := a.r.c.Reasoning.Visible
	switch p.Kind {
	case Text, Refusal:
		w.textPart(p.Text)
	case Thought:
		if !visible && p.State.Empty() {
			return
		}
		w.open('{')
		if text := p.Text; visible {
			w.member("text", text)
		} else {
			w.member("text", "")
		}
		w.boolMember("thought", true)
		if !p.State.Empty() {
			w.member("thoughtSignature", a.signatureBytes(p.State))
		}
		w.shut('}')
	case Call:
		args, err := argumentsObject(p)
		if err != nil {
			a.broken(err)
			return
		}
		w.open('{')
		a.writeGeminiCall(w, p, args)
		w.shut('}')
	}
}
