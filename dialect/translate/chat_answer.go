package translate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// The codec of Chat Completions: answers. Servers differ most in how they stream
// calls of tools; what is put up with is said at find.

var (
	errChatFailed  = errors.New("the upstream's answer holds an error")
	errChatCut     = errors.New("the upstream's stream ended without a reason to finish")
	errChatEmpty   = errors.New("the upstream's answer has no choices")
	errChatCalls   = errors.New("the upstream's answer has too many calls of tools")
	errChatUnnamed = errors.New("the upstream's answer calls a tool without a name")
)

// chatDecoder reads answers.
type chatDecoder struct {
	a  *Answer
	s  source
	ev Event

	id, model string
	started   bool // Start is out
	done      bool // [DONE] has come
	heard     bool // a choice has come
	entire    bool // the answer is no stream
	// voice is the choice whose words count, the first to say any; -1 before.
	// Nobody asked for several answers, but some servers spread one over several
	// choices: calls are taken from all of them.
	voice    int
	finished bool // a reason to finish has come
	reason   Reason
	refused  bool   // the model said why it does not answer
	stop     string // the stop sequence that ended the answer, which vLLM tells
	calls    []chatCall
	details  []chatDetail
	sealed   int // bytes in details
	opaque   string
}

// chatCall is a call of a tool as far as it has come.
type chatCall struct {
	choice, index int // index is -1 if the server gives none
	id, name      string
	shown         string // the id that the client gets
	custom        bool
	// held are arguments that cannot go out yet: the name is still to come, or
	// the tool takes free text, which has to be unwrapped.
	held []byte
	args jsonShape
}

// chatFragment is an element of tool_calls.
type chatFragment struct {
	choice, index int
	id, name      string
	args          int // where the arguments stand; -1 if there are none
}

func newChatDecoder(a *Answer) decoder { return &chatDecoder{a: a, voice: -1} }

func (d *chatDecoder) event(_, data []byte) {
	switch {
	case d.done:
	case string(bytes.TrimSpace(data)) == "[DONE]":
		d.done = true
	default:
		d.read(data, false)
	}
}

func (d *chatDecoder) whole(body []byte) {
	d.entire = true
	d.read(body, true)
	if d.a.Problem == nil && !d.heard {
		d.a.broken(errChatEmpty)
	}
	if d.a.Problem == nil {
		d.finish()
	}
}

func (d *chatDecoder) end() {
	if said := d.voice >= 0 || len(d.calls) > 0; !d.finished && !(d.done && said) {
		d.a.broken(errChatCut)
		return
	}
	d.finish()
}

// read reads a chunk of a stream, or a whole answer.
func (d *chatDecoder) read(data []byte, whole bool) {
	s := &d.s
	s.in, s.at, s.err, s.path = data, 0, nil, s.path[:0]
	choices := -1
	s.object(func(name []byte) {
		switch string(name) {
		case "id":
			d.identify(&d.id)
		case "model":
			d.identify(&d.model)
		case "error":
			if raw := s.raw(); len(raw) > 2 && raw[0] != 'f' { // {}, "" and false are none
				d.a.broken(errChatFailed)
			}
		case "choices":
			if d.started {
				d.readChoices(whole)
				return
			}
			choices = s.at // the id may stand behind them
			s.skip()
		default:
			s.skip()
		}
	})
	if s.err == nil && s.next() != 0 {
		s.malformed()
	}
	if s.err == nil && choices >= 0 {
		s.at = choices
		d.readChoices(whole)
	}
	if s.err != nil {
		d.a.broken(fmt.Errorf("read the upstream's answer: %w", s.err))
		return
	}
	if d.id != "" {
		d.start()
	}
}

// identify reads an id or name of a model. The first that is not empty counts:
// Azure's first chunk has empty ones, and Ollama may give every chunk its own.
func (d *chatDecoder) identify(into *string) {
	if *into != "" {
		d.s.skip()
		return
	}
	*into = d.word()
}

// word reads a string; another value is none.
func (d *chatDecoder) word() string {
	if word, ok := d.s.stringOr(); ok {
		return word
	}
	d.s.skip()
	return ""
}

// index reads a whole number from 0 on; another value is -1.
func (d *chatDecoder) index() int {
	d.s.next()
	if n, err := strconv.Atoi(string(d.s.raw())); err == nil && n >= 0 {
		return n
	}
	return -1
}

func (d *chatDecoder) readChoices(whole bool) {
	s := &d.s
	s.list(func(at int) {
		d.heard = true
		choice, delta := -1, -1
		if whole {
			choice = at // some give all of them the index 0
		}
		s.object(func(name []byte) {
			switch string(name) {
			case "index":
				if n := d.index(); !whole {
					choice = n
				}
			case "delta", "message":
				switch {
				case whole != (string(name) == "message"):
					s.skip() // Perplexity repeats in message all that was said
				case choice < 0:
					delta = s.at // the index may stand behind it
					s.skip()
				default:
					d.readDelta(choice)
				}
			case "finish_reason":
				d.takeReason(d.word())
			case "stop_reason":
				d.stop = d.word()
			default:
				s.skip()
			}
		})
		if s.err == nil && delta >= 0 {
			end := s.at
			s.at = delta
			if d.readDelta(max(choice, 0)); s.err == nil {
				s.at = end
			}
		}
	})
}

// takeReason notes why a choice ended. That something is missing counts more than
// that nothing is.
func (d *chatDecoder) takeReason(word string) {
	if word == "" {
		return
	}
	reason := Unknown
	switch word {
	case "stop":
		reason = Stop
	case "tool_calls", "function_call":
		reason = Calls
	case "length", "model_length", "max_tokens":
		reason = Length
	case "content_filter":
		reason = Filtered
	case "error":
		d.a.broken(errChatFailed)
	}
	if !d.finished || d.reason != Length && d.reason != Filtered {
		d.reason = reason
	}
	d.finished = true
}

// readDelta reads a delta, or the message of an answer that is no stream.
func (d *chatDecoder) readDelta(choice int) {
	s := &d.s
	thought := false
	s.object(func(name []byte) {
		switch string(name) {
		case "content":
			d.readContent(choice)
		case "reasoning_content", "reasoning", "reasoning_text":
			if thought { // the same again under another name
				s.skip()
				return
			}
			thought = d.piece(ThoughtPiece, choice)
		case "refusal":
			d.piece(RefusalPiece, choice)
		case "tool_calls":
			s.list(func(int) { d.readCall(choice) })
		case "function_call":
			if !s.null() {
				f := chatFragment{choice: choice, index: 0, args: -1}
				d.readCalled(&f)
				d.addFragment(&f)
			}
		case "reasoning_details":
			d.readDetails()
		case "reasoning_opaque":
			if word := d.word(); word != "" && len(word) <= maxSealed/2 {
				d.opaque = word
			}
		default:
			s.skip()
		}
	})
}

// readContent reads text, or Mistral's array of pieces of text and reasoning.
func (d *chatDecoder) readContent(choice int) {
	s := &d.s
	if s.next() != '[' {
		d.piece(TextPiece, choice)
		return
	}
	part := func(name []byte) {
		switch string(name) {
		case "text":
			d.piece(TextPiece, choice)
		case "refusal":
			d.piece(RefusalPiece, choice)
		case "thinking":
			if s.next() != '[' {
				d.piece(ThoughtPiece, choice)
				return
			}
			s.list(func(int) {
				s.object(func(name []byte) {
					if string(name) != "text" {
						s.skip()
						return
					}
					d.piece(ThoughtPiece, choice)
				})
			})
		default:
			s.skip()
		}
	}
	s.list(func(int) {
		if s.next() == '{' {
			s.object(part)
			return
		}
		d.piece(TextPiece, choice)
	})
}

// piece reads a text and hands it on; false if it is empty or none.
func (d *chatDecoder) piece(kind EventKind, choice int) bool {
	if d.s.next() != '"' {
		d.s.skip()
		return false
	}
	text := d.s.bytes()
	if len(text) == 0 || d.s.err != nil {
		return false
	}
	if d.voice < 0 {
		d.voice = choice
	}
	if d.voice != choice {
		return true
	}
	if kind != ThoughtPiece {
		d.seal()
	}
	d.refused = d.refused || kind == RefusalPiece
	d.start()
	d.ev = Event{Kind: kind, Text: text}
	d.a.emit(&d.ev)
	return true
}

func (d *chatDecoder) start() {
	if !d.started {
		d.started = true
		d.a.emit(&Event{Kind: Start, ID: d.id, Model: d.model})
	}
}

func (d *chatDecoder) readCall(choice int) {
	s := &d.s
	f := chatFragment{choice: choice, index: -1, args: -1}
	s.object(func(name []byte) {
		switch string(name) {
		case "index":
			f.index = d.index()
		case "id":
			f.id = d.word()
		case "function", "custom":
			d.readCalled(&f)
		default:
			s.skip()
		}
	})
	if s.err == nil {
		d.addFragment(&f)
	}
}

func (d *chatDecoder) readCalled(f *chatFragment) {
	s := &d.s
	s.object(func(name []byte) {
		switch string(name) {
		case "name":
			f.name = d.word()
		case "arguments", "input":
			s.next()
			f.args = s.at // to be read when it is known whose they are
			s.skip()
		default:
			s.skip()
		}
	})
}

// find returns the call that a fragment belongs to; -1 if it begins a new one.
//
// Index and id should say it. But servers leave out the index, give all calls the
// index 0, repeat the id or give none, and repeat the name: so a name that comes
// with another id than the call under way, is another name, or comes when the
// arguments are complete begins a new call. Everything else goes on with the last.
func (d *chatDecoder) find(f *chatFragment) int {
	last := -1
	for i := range d.calls {
		c := &d.calls[i]
		if c.choice != f.choice || f.index >= 0 && c.index != f.index {
			continue
		}
		if f.index < 0 && f.id != "" && f.id == c.id && (f.name == "" || f.name == c.name) {
			return i
		}
		last = i
	}
	if last < 0 {
		return -1
	}
	switch c := &d.calls[last]; {
	case f.name == "" || c.name == "":
		return last
	case f.id != "" && c.id != "":
		if f.id == c.id && f.name == c.name {
			return last
		}
	case f.name == c.name && !c.args.whole():
		return last
	}
	return -1
}

// addFragment adds a fragment to its call.
func (d *chatDecoder) addFragment(f *chatFragment) {
	s := &d.s
	if s.err != nil || d.a.Problem != nil {
		return
	}
	i := -1
	if !d.entire { // there each is a call of its own, whatever its id
		i = d.find(f)
	}
	if i < 0 {
		if len(d.calls) == maxCalls {
			d.a.broken(errChatCalls)
			return
		}
		i = len(d.calls)
		d.calls = append(d.calls, chatCall{choice: f.choice, index: f.index})
	}
	c := &d.calls[i]
	if c.id == "" {
		c.id = f.id
	}
	if c.name == "" && f.name != "" {
		c.name = f.name
		d.open(i)
	}
	if f.args < 0 {
		return
	}
	end := s.at
	s.at = f.args
	switch s.next() {
	case '"':
		d.argue(i, s.bytes())
	case 'n':
	default: // an object, as Ollama has them
		var compact bytes.Buffer
		if raw := s.raw(); s.err == nil && json.Compact(&compact, raw) == nil {
			d.argue(i, compact.Bytes())
		}
	}
	if s.err == nil {
		s.at = end
	}
}

// open begins a call whose name is known.
func (d *chatDecoder) open(i int) {
	c := &d.calls[i]
	if c.shown = c.id; c.shown == "" || len(c.shown) > 512 || slices.ContainsFunc(d.calls[:i], func(o chatCall) bool { return o.shown == c.shown }) {
		c.shown = d.a.newID("call_")
	}
	d.seal()
	d.start()
	tool := d.a.r.names.tool(c.name)
	c.custom = tool.custom
	d.a.emit(&Event{Kind: CallStart, Call: i, ID: c.shown, Name: tool.name, Space: tool.space, Custom: tool.custom})
	if held := c.held; !c.custom && len(held) > 0 {
		c.held = nil
		d.a.emit(&Event{Kind: CallPiece, Call: i, Text: held})
	}
}

// argue adds a piece to the arguments of a call.
func (d *chatDecoder) argue(i int, piece []byte) {
	c := &d.calls[i]
	switch c.args.add(piece); {
	case len(piece) == 0:
	case c.custom || c.shown == "":
		c.held = append(c.held, piece...)
	default:
		d.ev = Event{Kind: CallPiece, Call: i, Text: piece}
		d.a.emit(&d.ev)
	}
}

// finish ends the answer: the dialect does not say where a call ends.
func (d *chatDecoder) finish() {
	d.start()
	d.seal()
	for i := range d.calls {
		c := &d.calls[i]
		switch {
		case c.shown == "":
			d.a.broken(errChatUnnamed)
			return
		case c.custom:
			d.a.emit(&Event{Kind: CallPiece, Call: i, Text: []byte(unwrapInput(string(c.held)))})
		case !c.args.begun:
			d.a.emit(&Event{Kind: CallPiece, Call: i, Text: []byte("{}")})
		}
		d.a.emit(&Event{Kind: CallEnd, Call: i})
	}
	e := Event{Kind: Finish, Reason: d.reason}
	if !d.finished {
		e.Reason = Unknown
	}
	switch called := len(d.calls) > 0; {
	case called && e.Reason != Length && e.Reason != Filtered:
		e.Reason = Calls // whatever the server says: many say stop
	case !called && e.Reason == Calls:
		e.Reason = Stop
	case e.Reason == Stop && d.refused:
		e.Reason = Declined
	case e.Reason == Stop && d.stop != "" && slices.Contains(d.a.r.c.Stop, d.stop):
		e.Reason, e.StopSequence = StopSequence, d.stop
	}
	d.a.emit(&e)
}

// jsonShape follows JSON that comes in pieces, to see where it ends.
type jsonShape struct {
	depth             int
	inString, escaped bool
	begun             bool // something else than blanks has come
}

func (j *jsonShape) add(piece []byte) {
	for _, c := range piece {
		switch {
		case j.escaped:
			j.escaped = false
		case j.inString:
			j.escaped, j.inString = c == '\\', c != '"'
		case c == '"':
			j.inString = true
		case c == '{', c == '[':
			j.depth++
		case c == '}', c == ']':
			j.depth--
		}
		j.begun = j.begun || c > ' '
	}
}

func (j *jsonShape) whole() bool { return j.begun && j.depth <= 0 && !j.inString }

// chatDetail is an element of OpenRouter's reasoning_details, which the service
// wants back as it gave them. In a stream the text of one comes in several pieces.
type chatDetail struct {
	kind, index, id, format, signature string
	member                             string // that holds text
	text                               []byte
}

// maxDetails bounds the elements of reasoning_details.
const maxDetails = 1024

func (d *chatDecoder) readDetails() {
	s := &d.s
	if s.next() != '[' {
		s.skip()
		return
	}
	s.list(func(int) {
		var p chatDetail
		s.object(func(name []byte) {
			switch string(name) {
			case "type":
				p.kind = d.word()
			case "index":
				if n := d.index(); n >= 0 {
					p.index = strconv.Itoa(n)
				}
			case "id":
				p.id = d.word()
			case "format":
				p.format = d.word()
			case "signature":
				p.signature = d.word()
			case "text", "summary", "data":
				member := string(name)
				if word := d.word(); word != "" {
					p.member, p.text = member, []byte(word)
				}
			default:
				s.skip()
			}
		})
		d.addDetail(&p)
	})
}

func (d *chatDecoder) addDetail(p *chatDetail) {
	if d.sealed += len(p.text) + len(p.signature); d.sealed > maxSealed/2 || len(d.details) == maxDetails {
		d.details = nil // too much to keep: the service has to do without
		return
	}
	if n := len(d.details); n > 0 && p.member != "data" {
		if last := &d.details[n-1]; last.kind == p.kind && last.index == p.index {
			last.text = append(last.text, p.text...)
			for _, m := range [...]struct{ old, new *string }{
				{&last.id, &p.id}, {&last.format, &p.format}, {&last.signature, &p.signature}, {&last.member, &p.member},
			} {
				if *m.new != "" {
					*m.old = *m.new
				}
			}
			return
		}
	}
	d.details = append(d.details, *p)
}

// seal hands on the state of the thought under way, if the server gave any.
func (d *chatDecoder) seal() {
	data := d.opaque
	if len(d.details) > 0 {
		var w writer
		w.open('[')
		for i := range d.details {
			p := &d.details[i]
			w.open('{')
			w.memberIf("type", p.kind)
			if p.member != "" {
				w.name(p.member)
				w.bytes(p.text)
			}
			w.memberIf("signature", p.signature)
			w.memberIf("id", p.id)
			w.memberIf("format", p.format)
			w.numberIf("index", Number(p.index))
			w.shut('}')
		}
		w.shut(']')
		data = string(w.b)
	}
	if data == "" {
		return
	}
	d.details, d.opaque = nil, ""
	d.start()
	d.a.emit(&Event{Kind: Sealed, State: State{Maker: dialect.Chat, Data: data}})
}

// chatEncoder writes a stream.
type chatEncoder struct {
	a *Answer
	// A chunk is head, the members of its delta, and tail. base is what every
	// chunk begins with.
	base, head, tail string
	calls            []chatShown
	opaque           chatOpaque
	reason           Reason
}

// chatShown is a call that the client knows; its index is where it stands in the
// list.
type chatShown struct {
	call   int
	custom bool
	said   bool // arguments have come
}

func newChatEncoder(a *Answer) encoder { return &chatEncoder{a: a} }

func (e *chatEncoder) start(id string) {
	var w writer
	w.b = append(w.b, "data: "...)
	e.a.openChatAnswer(&w, id, "chat.completion.chunk")
	w.name("choices")
	w.open('[')
	e.base = string(w.b)
	e.head = e.base + `{"index":0,"delta":{`
	e.tail = `},"finish_reason":null}]` + e.unused() + "}\n\n"
}

// openChatAnswer writes what every answer and every chunk begins with.
func (a *Answer) openChatAnswer(w *writer, id, object string) {
	w.open('{')
	w.member("id", a.answerID("chatcmpl-", id))
	w.member("object", object)
	w.intMember("created", a.r.o.Now.Unix())
	w.member("model", a.r.c.Asked)
}

// unused stands in every chunk but the last for a client that asked for usage.
func (e *chatEncoder) unused() string {
	if e.a.r.c.Usage {
		return `,"usage":null`
	}
	return ""
}

func (e *chatEncoder) take(ev *Event) {
	w := &e.a.out
	if e.base == "" {
		e.start(ev.ID)
		w.b = append(w.b, e.head...)
		w.b = append(w.b, `"role":"assistant","content":""`...)
		w.b = append(w.b, e.tail...)
	}
	e.opaque.take(ev)
	switch ev.Kind {
	case TextPiece:
		e.text("content", ev.Text)
	case RefusalPiece:
		e.text("refusal", ev.Text)
	case ThoughtPiece:
		e.text("reasoning_content", ev.Text)
	case Sealed:
		e.text("reasoning_opaque", []byte(e.opaque.spell(e.a.sealed(ev.State))))
	case CallStart:
		e.calls = append(e.calls, chatShown{call: ev.Call, custom: ev.Custom})
		e.callStart(ev)
	case CallPiece:
		if len(ev.Text) > 0 {
			e.callPiece(ev.Call, ev.Text)
		}
	case CallEnd:
		if i := e.find(ev.Call); i >= 0 && !e.calls[i].said && !e.calls[i].custom {
			e.callPiece(ev.Call, []byte("{}")) // clients read it as JSON
		}
	case Finish:
		e.reason = ev.Reason
	}
}

func (e *chatEncoder) text(member string, text []byte) {
	w := &e.a.out
	w.b = append(w.b, e.head...)
	w.name(member)
	w.bytes(text)
	w.b = append(w.b, e.tail...)
}

func (e *chatEncoder) find(call int) int {
	for i := len(e.calls) - 1; i >= 0; i-- {
		if e.calls[i].call == call {
			return i
		}
	}
	return -1
}

// callStart begins a call. A client of functions knows of one call in an answer:
// what is called besides, it will be asked for again.
func (e *chatEncoder) callStart(ev *Event) {
	w, i := &e.a.out, len(e.calls)-1
	if e.a.r.c.Legacy && i > 0 {
		return
	}
	w.b = append(w.b, e.head...)
	if e.a.r.c.Legacy {
		w.name("function_call")
	} else {
		w.name("tool_calls")
		w.open('[')
		w.open('{')
		w.intMember("index", int64(i))
		e.a.writeChatCallHead(w, ev.ID, ev.State, ev.Custom)
	}
	w.open('{')
	w.member("name", ev.Name)
	w.member(chatArguments(ev.Custom), "")
	w.shut('}')
	if !e.a.r.c.Legacy {
		w.shut('}')
		w.shut(']')
	}
	w.b = append(w.b, e.tail...)
}

// writeChatCallHead writes the members of a call in front of the object that says
// what is called.
func (a *Answer) writeChatCallHead(w *writer, id string, state State, custom bool) {
	if id == "" {
		id = a.newID("call_")
	}
	if !state.Empty() {
		if with := id + chatStateMark + a.sealed(state); len(with) <= maxChatState {
			id = with
		}
	}
	w.member("id", id)
	w.member("type", chatCallType(custom))
	w.name(chatCallType(custom))
}

func chatCallType(custom bool) string {
	if custom {
		return "custom"
	}
	return "function"
}

func chatArguments(custom bool) string {
	if custom {
		return "input"
	}
	return "arguments"
}

func (e *chatEncoder) callPiece(call int, piece []byte) {
	i := e.find(call)
	if i < 0 || e.a.r.c.Legacy && i > 0 {
		return
	}
	c, w := &e.calls[i], &e.a.out
	c.said = true
	w.b = append(w.b, e.head...)
	if e.a.r.c.Legacy {
		w.name("function_call")
	} else {
		w.name("tool_calls")
		w.open('[')
		w.open('{')
		w.intMember("index", int64(i))
		w.name(chatCallType(c.custom))
	}
	w.open('{')
	w.name(chatArguments(c.custom))
	w.bytes(piece)
	w.shut('}')
	if !e.a.r.c.Legacy {
		w.shut('}')
		w.shut(']')
	}
	w.b = append(w.b, e.tail...)
}

func (e *chatEncoder) finish(t *usage.Tokens) {
	w := &e.a.out
	w.b = append(w.b, e.head...)
	w.b = append(w.b, `},"finish_reason":"`...)
	w.b = append(w.b, e.a.chatReason(e.reason, len(e.calls) > 0)...)
	w.b = append(w.b, `"}]`...)
	w.b = append(w.b, e.unused()...)
	w.b = append(w.b, "}\n\n"...)
	if e.a.r.c.Usage && t != nil {
		w.b = append(w.b, e.base...)
		w.shut(']')
		w.chatUsage(t)
		w.b = append(w.b, "}\n\n"...)
	}
	w.b = append(w.b, "data: [DONE]\n\n"...)
}

// fail: no [DONE] follows, which a reader that looks for no errors would take for
// a good end.
func (e *chatEncoder) fail(err *dialect.Error) {
	e.a.out.b = append(e.a.out.b, err.Event(dialect.ChatCompletions, 0)...)
}

// chatReason is the word for why an answer ended.
func (a *Answer) chatReason(reason Reason, called bool) string {
	switch reason {
	case Length, ContextFull:
		return "length"
	case Filtered:
		return "content_filter"
	}
	switch {
	case !called:
		return "stop"
	case a.r.c.Legacy:
		return "function_call"
	}
	return "tool_calls"
}

// chatOpaque spells the states of thoughts for reasoning_opaque, as chatThoughts
// reads them.
type chatOpaque struct {
	total, from int // bytes of thought so far, and where the thought under way begins
	thinking    bool
	states      int
}

func (o *chatOpaque) take(ev *Event) {
	switch ev.Kind {
	case ThoughtPiece:
		if !o.thinking {
			o.thinking, o.from = true, o.total
		}
		o.total += len(ev.Text)
	case Sealed: // spell ends the thought
	default:
		o.thinking = false
	}
}

func (o *chatOpaque) spell(envelope string) string {
	at := o.total
	if o.thinking {
		at = o.from
	}
	o.thinking = false
	if at > 0 {
		envelope = strconv.Itoa(at) + ":" + envelope
	}
	if o.states++; o.states > 1 {
		envelope = " " + envelope // clients put the pieces one behind the other
	}
	return envelope
}

// chatUsage writes the member usage.
func (w *writer) chatUsage(t *usage.Tokens) {
	w.name("usage")
	w.open('{')
	w.intMember("prompt_tokens", t.InputTotal())
	w.intMember("completion_tokens", t.Output)
	w.intMember("total_tokens", t.Total())
	w.name("prompt_tokens_details")
	w.open('{')
	w.intMember("cached_tokens", t.CacheRead)
	w.intMember("cache_write_tokens", t.CacheWrite+t.CacheWrite1h)
	w.shut('}')
	if t.ReasoningKnown {
		w.name("completion_tokens_details")
		w.open('{')
		w.intMember("reasoning_tokens", t.Reasoning)
		w.shut('}')
	}
	w.shut('}')
}

// writeChatReply writes a whole answer.
func (a *Answer) writeChatReply(r *reply, t *usage.Tokens) {
	w := &a.out
	var text, refusal, thoughts, sealed strings.Builder
	var opaque chatOpaque
	said, calls := false, 0
	for i := range r.parts {
		switch p := &r.parts[i]; p.Kind {
		case Text:
			said = true
			text.WriteString(p.Text)
		case Refusal:
			refusal.WriteString(p.Text)
		case Thought:
			thoughts.WriteString(p.Text)
			opaque.take(&Event{Kind: ThoughtPiece, Text: []byte(p.Text)})
			if !p.State.Empty() {
				sealed.WriteString(opaque.spell(a.sealed(p.State)))
			}
			opaque.take(&Event{Kind: BlockEnd})
		case Call:
			calls++
		}
	}
	a.openChatAnswer(w, r.id, "chat.completion")
	w.name("choices")
	w.open('[')
	w.open('{')
	w.intMember("index", 0)
	w.name("message")
	w.open('{')
	w.member("role", "assistant")
	w.name("content")
	if said || calls == 0 && refusal.Len() == 0 {
		w.string(text.String())
	} else {
		w.literal("null")
	}
	w.name("refusal")
	if refusal.Len() > 0 {
		w.string(refusal.String())
	} else {
		w.literal("null")
	}
	w.memberIf("reasoning_content", thoughts.String())
	w.memberIf("reasoning_opaque", sealed.String())
	if calls > 0 {
		a.writeChatReplyCalls(r)
	}
	w.shut('}')
	w.name("logprobs")
	w.literal("null")
	w.member("finish_reason", a.chatReason(r.reason, calls > 0))
	w.shut('}')
	w.shut(']')
	if t != nil {
		w.chatUsage(t)
	}
	w.shut('}')
}

func (a *Answer) writeChatReplyCalls(r *reply) {
	w, legacy := &a.out, a.r.c.Legacy
	if legacy {
		w.name("function_call")
	} else {
		w.name("tool_calls")
		w.open('[')
	}
	for i := range r.parts {
		p := &r.parts[i]
		if p.Kind != Call {
			continue
		}
		if !legacy {
			w.open('{')
			a.writeChatCallHead(w, p.Call.ID, p.State, p.Call.Custom)
		}
		w.open('{')
		w.member("name", p.Call.Name)
		args := p.Call.Arguments
		if args == "" && !p.Call.Custom {
			args = "{}"
		}
		w.member(chatArguments(p.Call.Custom), args)
		w.shut('}')
		if legacy {
			return
		}
		w.shut('}')
	}
	w.shut(']')
}
