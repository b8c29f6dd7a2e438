package translate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/floway/floway/dialect"
)

// The answers of the Responses API, as an upstream gives them.

// The greatest numbers of items and of calls in one answer.
const (
	responsesMaxItems = 4096
	responsesMaxCalls = 512
)

// responsesDecoder reads an answer. Events come for an item that was added, in
// pieces and then whole; servers leave out some of them, down to a stream that
// holds nothing but the whole response. So everything is taken where it comes
// first, and what comes again is passed over.
type responsesDecoder struct {
	a *Answer
	s source
	e responsesEvent

	ev      Event // the one that is emitted
	items   []*responsesHeard
	under   *responsesHeard // the item whose text is under way
	ids     []string        // of the calls
	started bool
	over    bool // the last event came
	reason  Reason
	refused bool
	calls   int
}

// responsesEvent is what one event says. Its texts are good until the next.
type responsesEvent struct {
	kind, id, text, name string
	delta                []byte
	index, part          int64 // -1 if it says none
	item, piece, whole   []byte
	failed               bool
}

// The forms that reasoning comes in.
const (
	summaryForm = 1 + iota
	contentForm
)

// responsesHeard is what is known of an item of the output.
type responsesHeard struct {
	// index is the item's in the whole answer, wire the one that its events say:
	// some servers use one twice.
	index, wire int64
	id          string
	kind        string
	done        bool
	// Of messages and reasoning: how many parts have begun, and which form of
	// reasoning it is that comes.
	parts int64
	form  byte
	// Of calls.
	call         int
	callID, name string
	space        string
	begun        bool   // CallStart was emitted
	came         bool   // some of the arguments came
	held         []byte // arguments that came before the name
	first        string // arguments that the item was added with
}

func newResponsesDecoder(a *Answer) decoder { return &responsesDecoder{a: a} }

func (d *responsesDecoder) emit(e Event) {
	d.ev = e
	d.a.emit(&d.ev)
}

func (d *responsesDecoder) broken(format string, args ...any) {
	d.a.broken(fmt.Errorf("the upstream's answer: "+format, args...))
}

func (d *responsesDecoder) event(name, data []byte) {
	if d.over || string(name) == "ping" || data[0] != '{' && string(data) == "[DONE]" {
		return
	}
	d.s = source{in: data, path: d.s.path[:0], text: d.s.text}
	if !d.read(&d.s) {
		d.broken("an event that cannot be read: %w", d.s.err)
		return
	}
	e := &d.e
	if e.kind == "" {
		e.kind = string(name)
	}
	switch e.kind {
	case "response.created", "response.in_progress", "response.queued":
		d.start(e.whole)
	case "response.output_item.added":
		d.added()
	case "response.output_item.done":
		d.itemDone(e.item)
	case responsesTextDelta:
		d.say("message", 0, TextPiece, true)
	case "response.output_text.done":
		d.say("message", 0, TextPiece, false)
	case "response.refusal.delta":
		d.say("message", 0, RefusalPiece, true)
	case "response.refusal.done":
		d.say("message", 0, RefusalPiece, false)
	case "response.reasoning_summary_text.delta":
		d.say("reasoning", summaryForm, ThoughtPiece, true)
	case "response.reasoning_summary_text.done":
		d.say("reasoning", summaryForm, ThoughtPiece, false)
	case "response.reasoning_text.delta":
		d.say("reasoning", contentForm, ThoughtPiece, true)
	case "response.reasoning_text.done":
		d.say("reasoning", contentForm, ThoughtPiece, false)
	case "response.content_part.done", "response.reasoning_summary_part.done":
		if it := d.heard(""); it != nil {
			d.piece(it, e.piece, e.part)
		}
	case responsesArgsDelta:
		d.argue("function_call", true)
	case "response.function_call_arguments.done":
		d.argue("function_call", false)
	case "response.custom_tool_call_input.delta":
		d.argue("custom_tool_call", true)
	case "response.custom_tool_call_input.done":
		d.argue("custom_tool_call", false)
	case "response.completed", "response.incomplete", "response.failed", "response.cancelled":
		d.finish(e.whole, e.kind[len("response."):])
	default:
		if e.kind == "error" || e.failed {
			d.broken("an error in the middle of the stream")
		}
	}
}

// read reads the members of an event.
func (d *responsesDecoder) read(s *source) bool {
	e := &d.e
	*e = responsesEvent{index: -1, part: -1, delta: e.delta[:0]}
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			e.kind = responsesEventName(s)
		case "item_id":
			e.id = d.knownID(s)
		case "output_index":
			e.index = responsesIndex(s)
		case "content_index", "summary_index":
			e.part = responsesIndex(s)
		case "delta":
			if s.next() == '"' {
				e.delta = append(e.delta, s.bytes()...)
			} else {
				s.raw()
			}
		case "text", "refusal", "input", "arguments":
			e.text = responsesText(s)
		case "name":
			e.name = s.string()
		case "item":
			e.item = s.raw()
		case "part":
			e.piece = s.raw()
		case "response":
			e.whole = s.raw()
		case "error":
			e.failed = s.raw() != nil
		default:
			s.skip()
		}
	})
	if s.err == nil && s.next() != 0 {
		s.malformed()
	}
	return s.err == nil
}

// responsesIndex reads an index, -1 for a null.
func responsesIndex(s *source) int64 {
	if s.null() {
		return -1
	}
	return s.integer()
}

// responsesText reads a text; what is none, such as arguments that are an object,
// is taken as it is spelled.
func responsesText(s *source) string {
	if text, ok := s.stringOr(); ok {
		return text
	}
	return string(s.raw())
}

// Names of the events that come most often are not made anew for each.
const (
	responsesTextDelta = "response.output_text.delta"
	responsesArgsDelta = "response.function_call_arguments.delta"
)

func responsesEventName(s *source) string {
	if s.next() != '"' {
		return s.string()
	}
	switch name := s.bytes(); string(name) {
	case responsesTextDelta:
		return responsesTextDelta
	case responsesArgsDelta:
		return responsesArgsDelta
	default:
		return string(name)
	}
}

// knownID reads the id of an item; that of one that is known already is not made
// anew.
func (d *responsesDecoder) knownID(s *source) string {
	if s.next() != '"' {
		return s.string()
	}
	id := s.bytes()
	if n := len(d.items); n > 0 && d.items[n-1].id == string(id) {
		return d.items[n-1].id
	}
	return string(id)
}

// start opens the answer, unless it is open.
func (d *responsesDecoder) start(whole []byte) {
	if d.started {
		return
	}
	d.started = true
	s := newSource(whole)
	var id, model string
	s.object(func(name []byte) {
		switch string(name) {
		case "id":
			id = s.string()
		case "model":
			model = s.string()
		default:
			s.skip()
		}
	})
	if s.err != nil {
		d.broken("a response object that cannot be read: %w", s.err)
		return
	}
	d.emit(Event{Kind: Start, ID: id, Model: model})
}

// heard finds the item that the event is about, and takes note of one that was
// not announced. Some servers give one item ever new ids, so what counts is the
// index; where there is none the id, and where that is new the last item of the
// kind. It returns nil if there are too many.
func (d *responsesDecoder) heard(kind string) *responsesHeard {
	d.start(nil)
	e := &d.e
	fits := func(it *responsesHeard) bool { return kind == "" || it.kind == "" || it.kind == kind }
	var best *responsesHeard
	for i := len(d.items) - 1; i >= 0; i-- {
		it := d.items[i]
		if !fits(it) || e.index >= 0 && it.wire != e.index {
			continue
		}
		if e.id != "" && it.id == e.id {
			best = it
			break
		}
		if best == nil && (e.index >= 0 || i == len(d.items)-1 && !it.done) {
			best = it
		}
	}
	if best == nil {
		best = d.note(e.index, kind)
	} else if best.kind == "" {
		best.kind = kind
	}
	return best
}

// note takes note of a new item.
func (d *responsesDecoder) note(wire int64, kind string) *responsesHeard {
	if len(d.items) == responsesMaxItems {
		d.broken("more than %d items", responsesMaxItems)
		return nil
	}
	it := &responsesHeard{index: wire, wire: wire, kind: kind, id: d.e.id}
	next := int64(0)
	taken := wire < 0
	for _, other := range d.items {
		next = max(next, other.index+1)
		taken = taken || other.index == wire
	}
	if taken {
		it.index = next
	}
	d.items = append(d.items, it)
	return it
}

// responsesItem is an item as it stands in an event or in the whole answer.
type responsesItem struct {
	kind, id, callID, name, space string
	args, sealed                  string
	content, summary              []byte
}

func (d *responsesDecoder) item(raw []byte) (it responsesItem, ok bool) {
	s := newSource(raw)
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			it.kind = s.string()
		case "id":
			it.id = responsesText(s)
		case "call_id":
			it.callID = responsesText(s)
		case "name":
			it.name = s.string()
		case "namespace":
			it.space = s.string()
		case "arguments", "input":
			it.args = responsesText(s)
		case "encrypted_content":
			it.sealed = s.string()
		case "content":
			it.content = s.raw()
		case "summary":
			it.summary = s.raw()
		default:
			s.skip()
		}
	})
	if s.err != nil {
		d.broken("an item that cannot be read: %w", s.err)
		return it, false
	}
	return it, true
}

// added takes note of an item that is announced. It is a new one, also where the
// index was used before, unless it was heard of already.
func (d *responsesDecoder) added() {
	raw, ok := d.item(d.e.item)
	if !ok {
		return
	}
	d.start(nil)
	d.e.id = raw.id
	var it *responsesHeard
	if i := slices.IndexFunc(d.items, func(it *responsesHeard) bool {
		return raw.id != "" && it.id == raw.id && it.wire == d.e.index && it.kind == raw.kind
	}); i >= 0 {
		it = d.items[i]
	} else if it = d.note(d.e.index, raw.kind); it == nil {
		return
	}
	it.first = raw.args
	d.know(it, &raw)
}

// know takes over what an item says of a call, and begins the call once its name
// and id are known.
func (d *responsesDecoder) know(it *responsesHeard, raw *responsesItem) {
	if it.kind == "" {
		it.kind = raw.kind
	}
	if raw.callID != "" && !it.begun {
		it.callID = raw.callID
	}
	if raw.space != "" {
		it.space = raw.space
	}
	if raw.name != "" {
		it.name = raw.name
	}
	if it.isCall() && it.name != "" && it.callID != "" {
		d.begin(it)
	}
}

func (it *responsesHeard) isCall() bool {
	return it.kind == "function_call" || it.kind == "custom_tool_call"
}

// begin begins a call.
func (d *responsesDecoder) begin(it *responsesHeard) {
	if it.begun {
		return
	}
	if d.calls == responsesMaxCalls {
		d.broken("more than %d calls", responsesMaxCalls)
		return
	}
	it.begun, it.call = true, d.calls
	d.calls++
	if it.callID == "" || slices.Contains(d.ids, it.callID) {
		it.callID = d.a.newID("call_")
	}
	d.ids = append(d.ids, it.callID)
	d.endText()
	t := d.a.r.names.tool(it.name)
	if it.space != "" {
		t.space = it.space
	}
	d.emit(Event{Kind: CallStart, Call: it.call, ID: it.callID, Name: t.name, Space: t.space, Custom: it.kind == "custom_tool_call"})
	if len(it.held) > 0 {
		d.emit(Event{Kind: CallPiece, Call: it.call, Text: it.held})
		it.held = nil
	}
}

// argue reads a piece of a call's arguments, or all of them.
func (d *responsesDecoder) argue(kind string, piece bool) {
	it := d.heard(kind)
	if it == nil || it.done || !it.isCall() {
		return
	}
	if d.e.name != "" {
		d.know(it, &responsesItem{name: d.e.name})
	}
	if piece {
		d.pass(it, d.e.delta)
	} else if !it.came {
		d.pass(it, []byte(d.e.text))
	}
}

// pass passes arguments on, or holds them until the call has a name.
func (d *responsesDecoder) pass(it *responsesHeard, args []byte) {
	if len(args) == 0 {
		return
	}
	it.came = true
	if !it.begun {
		it.held = append(it.held, args...)
		return
	}
	d.emit(Event{Kind: CallPiece, Call: it.call, Text: args})
}

// say reads a piece of text, or all of a part.
func (d *responsesDecoder) say(kind string, form byte, what EventKind, piece bool) {
	it := d.heard(kind)
	switch {
	case it == nil:
	case piece:
		d.text(it, form, d.e.part, what, d.e.delta, true)
	default:
		d.text(it, form, d.e.part, what, []byte(d.e.text), false)
	}
}

// text emits what a part says. Where pieces of a part came, the whole of it says
// nothing new; where both a summary and the content of reasoning come, the first
// is taken.
func (d *responsesDecoder) text(it *responsesHeard, form byte, part int64, what EventKind, text []byte, piece bool) {
	part = max(part, 0)
	if it.done || len(text) == 0 || !piece && part < it.parts {
		return
	}
	if it.form == 0 {
		it.form = form
	}
	if it.form != form {
		return
	}
	switch {
	case d.under == it && part < it.parts:
	case d.under == it && what == ThoughtPiece:
		d.emit(Event{Kind: ThoughtPiece, Text: blankLine})
	default:
		d.endText()
	}
	d.under, it.parts = it, max(it.parts, part+1)
	d.refused = d.refused || what == RefusalPiece
	d.emit(Event{Kind: what, Text: text})
}

// blankLine stands between the parts of a thought.
var blankLine = []byte("\n\n")

// endText ends the text or thought under way.
func (d *responsesDecoder) endText() {
	if d.under != nil {
		d.under = nil
		d.emit(Event{Kind: BlockEnd})
	}
}

// piece reads a part of a message or of reasoning.
func (d *responsesDecoder) piece(it *responsesHeard, raw []byte, part int64) {
	s := newSource(raw)
	var kind, text string
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "text", "refusal":
			text = responsesText(s)
		default:
			s.skip()
		}
	})
	if s.err != nil {
		d.broken("a part that cannot be read: %w", s.err)
		return
	}
	switch kind {
	case "output_text", "text":
		d.text(it, 0, part, TextPiece, []byte(text), false)
	case "refusal":
		d.text(it, 0, part, RefusalPiece, []byte(text), false)
	case "summary_text":
		d.text(it, summaryForm, part, ThoughtPiece, []byte(text), false)
	case "reasoning_text":
		d.text(it, contentForm, part, ThoughtPiece, []byte(text), false)
	}
}

// itemDone closes an item, with all that did not come before.
func (d *responsesDecoder) itemDone(raw []byte) {
	full, ok := d.item(raw)
	if !ok {
		return
	}
	d.e.id = full.id
	it := d.heard(full.kind)
	if it == nil || it.done {
		return
	}
	d.know(it, &full)
	d.pieces(it, full.summary)
	d.pieces(it, full.content)
	if d.a.Problem != nil {
		return
	}
	it.done = true
	switch it.kind {
	case "message":
		if d.under == it {
			d.endText()
		}
	case "reasoning":
		switch {
		case full.sealed != "" && d.under != it && it.parts > 0:
			// Too late: the thought was ended by what came of it.
		case full.sealed != "":
			if d.under != it {
				d.endText()
			}
			d.under = nil
			d.emit(Event{Kind: Sealed, State: State{Maker: dialect.Responses, Data: full.sealed, ID: full.id}})
		case d.under == it:
			d.endText()
		}
	case "function_call", "custom_tool_call":
		d.endCall(it, full.args)
	}
}

// pieces reads a list of parts.
func (d *responsesDecoder) pieces(it *responsesHeard, list []byte) {
	if it.kind != "message" && it.kind != "reasoning" || len(list) == 0 || list[0] != '[' {
		return
	}
	s := newSource(list)
	s.list(func(i int) {
		if raw := s.raw(); raw != nil {
			d.piece(it, raw, int64(i))
		}
	})
}

func (d *responsesDecoder) endCall(it *responsesHeard, args string) {
	if it.name == "" {
		d.broken("a call without a name")
		return
	}
	if d.begin(it); !it.begun {
		return
	}
	if !it.came {
		if args == "" {
			args = it.first
		}
		d.pass(it, []byte(args))
	}
	it.done = true
	d.emit(Event{Kind: CallEnd, Call: it.call})
}

// finish reads the whole response, which ends the answer. how is what the event
// that it came with says of its status.
func (d *responsesDecoder) finish(whole []byte, how string) {
	d.start(whole)
	var status, why string
	var output []byte
	s := newSource(whole)
	s.object(func(name []byte) {
		switch string(name) {
		case "status":
			status = s.string()
		case "output":
			output = s.raw()
		case "incomplete_details":
			s.object(func(name []byte) {
				if string(name) == "reason" {
					why = s.string()
					return
				}
				s.skip()
			})
		default:
			s.skip()
		}
	})
	if s.err != nil {
		d.broken("a response object that cannot be read: %w", s.err)
		return
	}
	if status == "incomplete" || status == "failed" || status == "cancelled" || how == "" {
		how = status
	}
	switch how {
	case "completed":
	case "incomplete":
		if d.reason = Length; why == "content_filter" {
			d.reason = Filtered
		}
	default:
		d.broken("a response of the status %q", clip(how))
		return
	}
	d.over = true
	d.rest(output)
	if d.a.Problem != nil || how == "incomplete" {
		return
	}
	switch {
	case d.calls > 0:
		d.reason = Calls
	case d.refused:
		d.reason = Declined
	}
}

// rest reads the items of the whole answer that were not heard of, or not to their
// end.
func (d *responsesDecoder) rest(output []byte) {
	if len(output) == 0 || output[0] != '[' {
		return
	}
	s := newSource(output)
	s.list(func(i int) {
		raw := s.raw()
		if raw == nil || d.a.Problem != nil {
			return
		}
		d.e = responsesEvent{index: d.wire(int64(i)), part: -1, delta: d.e.delta[:0]}
		d.itemDone(raw)
	})
}

// wire returns the index that events gave to the item of an index in the whole
// answer.
func (d *responsesDecoder) wire(index int64) int64 {
	for _, it := range d.items {
		if it.index == index {
			return it.wire
		}
	}
	return index
}

func (d *responsesDecoder) whole(body []byte) {
	s := newSource(body)
	var status bool
	if s.next() == '{' {
		s.object(func(name []byte) {
			status = status || string(name) == "status"
			s.skip()
		})
	}
	if !status || s.err != nil || s.next() != 0 {
		d.broken("no response object")
		return
	}
	d.finish(body, "")
	if d.a.Problem == nil {
		d.end()
	}
}

var errResponsesCut = errors.New("the upstream's answer: the stream ended without its last event")

func (d *responsesDecoder) end() {
	if !d.over {
		d.a.broken(errResponsesCut)
		return
	}
	for _, it := range d.items {
		if it.isCall() && !it.done && d.a.Problem == nil {
			d.endCall(it, "")
		}
	}
	d.endText()
	if d.a.Problem == nil {
		d.emit(Event{Kind: Finish, Reason: d.reason})
	}
}
