package translate

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// Answers of the Messages API, read. Source of the events and blocks: the typings
// and the stream readers of Anthropic's SDKs.

// maxHeld bounds what is held of blocks until their turn comes or they are whole.
const maxHeld = 16 << 20

// messagesDecoder reads an answer. Its stream may have several blocks open at a
// time, though the service's has not.
type messagesDecoder struct {
	a       *Answer
	s       source
	e       messagesEvent
	out     Event // the pieces' own, so that they cost no memory
	started bool
	stopped bool // message_stop came
	open    []messagesOpen
	blocks  int64 // that have begun
	calls   int
	ids     map[string]bool
	reason  string
	stop    string // the stop sequence
	told    string // why the model refused
	held    int

	// The methods that read objects, which would be made anew for each event.
	onEvent, onDelta, onBlock, onMessage, onDetails func(name []byte)
}

// messagesEvent is one event of the stream, or one block of a whole answer.
type messagesEvent struct {
	kind, delta, block messagesWord
	index              int64 // -1: it has none
	text               []byte
	signature, data    []byte
	input              []byte
	id, name           string
}

// messagesWord is a type of events, deltas or blocks that means something here.
type messagesWord uint8

const (
	wordUnknown messagesWord = iota
	wordStart
	wordBlockStart
	wordBlockDelta
	wordBlockStop
	wordDelta
	wordStop
	wordError
	wordText
	wordThinking
	wordSignature
	wordInput
	wordRedacted
	wordCall
)

func messagesWordOf(word []byte) messagesWord {
	switch string(word) {
	case "message_start":
		return wordStart
	case "content_block_start":
		return wordBlockStart
	case "content_block_delta":
		return wordBlockDelta
	case "content_block_stop":
		return wordBlockStop
	case "message_delta":
		return wordDelta
	case "message_stop":
		return wordStop
	case "error":
		return wordError
	case "text", "text_delta":
		return wordText
	case "thinking", "thinking_delta":
		return wordThinking
	case "signature_delta":
		return wordSignature
	case "input_json_delta":
		return wordInput
	case "redacted_thinking":
		return wordRedacted
	case "tool_use":
		return wordCall
	}
	return wordUnknown
}

// messagesOpen is a block that has begun and not ended.
type messagesOpen struct {
	index     int64
	kind      messagesWord
	call      int
	custom    bool
	signature []byte
	input     []byte // what the start said
	args      []byte // of a custom tool
	said      bool   // arguments came
}

func newMessagesDecoder(a *Answer) decoder {
	d := &messagesDecoder{a: a}
	d.onEvent, d.onDelta, d.onBlock, d.onMessage, d.onDetails = d.eventMember, d.deltaMember, d.blockMember, d.messageMember, d.detailsMember
	return d
}

func (d *messagesDecoder) event(name, data []byte) {
	if d.stopped {
		return
	}
	d.read(data)
	d.e = messagesEvent{kind: messagesWordOf(name), index: -1, text: d.e.text[:0], signature: d.e.signature[:0], data: d.e.data[:0]}
	if string(data) == "[DONE]" { // some servers mix the dialects up
		return
	}
	d.s.object(d.onEvent)
	if d.s.err != nil {
		d.a.broken(fmt.Errorf("an event of the answer cannot be read: %w", d.s.err))
		return
	}
	switch d.e.kind {
	case wordStart:
		d.start()
	case wordBlockStart:
		d.blockStart()
	case wordBlockDelta:
		d.blockDelta()
	case wordBlockStop:
		if i := d.find(); i >= 0 {
			d.close(i)
		}
	case wordStop:
		d.stopped = true
		for len(d.open) > 0 {
			d.close(0)
		}
	case wordError:
		d.a.broken(errors.New("the answer ends in an error"))
	}
}

// read makes the source ready for another text.
func (d *messagesDecoder) read(data []byte) {
	d.s = source{in: data, path: d.s.path[:0], text: d.s.text}
}

func (d *messagesDecoder) eventMember(name []byte) {
	switch string(name) {
	case "type":
		d.e.kind = d.word()
	case "index":
		if !d.s.null() {
			d.e.index = d.s.integer()
		}
	case "message":
		d.s.object(d.onMessage)
	case "content_block":
		d.s.object(d.onBlock)
	case "delta":
		d.s.object(d.onDelta)
	default:
		d.s.skip()
	}
}

func (d *messagesDecoder) messageMember(name []byte) {
	switch string(name) {
	case "id":
		d.e.id = d.s.string()
	case "model":
		d.e.name = d.s.string()
	default:
		d.s.skip()
	}
}

func (d *messagesDecoder) deltaMember(name []byte) {
	switch string(name) {
	case "type":
		d.e.delta = d.word()
	case "text", "thinking", "partial_json":
		d.e.text = d.append(d.e.text)
	case "signature":
		d.e.signature = d.append(d.e.signature)
	case "stop_reason":
		if word := d.s.string(); word != "" {
			d.reason = word
		}
	case "stop_sequence":
		if word := d.s.string(); word != "" {
			d.stop = word
		}
	case "stop_details":
		d.s.object(d.onDetails)
	default:
		d.s.skip()
	}
}

// word reads a type.
func (d *messagesDecoder) word() messagesWord {
	if d.s.next() == '"' {
		return messagesWordOf(d.s.bytes())
	}
	d.s.skip()
	return wordUnknown
}

// append reads a string, or nothing for a null.
func (d *messagesDecoder) append(to []byte) []byte {
	switch {
	case d.s.null():
	case d.s.next() == '"':
		to = append(to, d.s.bytes()...)
	default:
		d.s.fail("%s must be a string", d.s.what())
	}
	return to
}

func (d *messagesDecoder) detailsMember(name []byte) {
	if string(name) == "explanation" {
		d.told = d.s.string()
		return
	}
	d.s.skip()
}

func (d *messagesDecoder) blockMember(name []byte) {
	switch string(name) {
	case "type":
		d.e.block = d.word()
	case "text", "thinking":
		d.e.text = d.append(d.e.text)
	case "signature":
		d.e.signature = d.append(d.e.signature)
	case "data":
		if d.s.next() == '"' {
			d.e.data = append(d.e.data, d.s.bytes()...)
			return
		}
		d.s.skip()
	case "id":
		d.e.id = d.s.string()
	case "name":
		d.e.name = d.s.string()
	case "input":
		d.e.input = d.s.raw()
	default:
		d.s.skip()
	}
}

// start opens the answer, once.
func (d *messagesDecoder) start() {
	if !d.started {
		d.started = true
		d.a.emit(&Event{Kind: Start, ID: d.e.id, Model: d.e.name})
	}
}

// find returns which open block the event means: the one of its index, or without
// one the youngest. It returns -1 if there is none.
func (d *messagesDecoder) find() int {
	if d.e.index < 0 {
		return len(d.open) - 1
	}
	return slices.IndexFunc(d.open, func(o messagesOpen) bool { return o.index == d.e.index })
}

func (d *messagesDecoder) blockStart() {
	e := &d.e
	id, name := e.id, e.name
	if e.id, e.name = "", ""; !d.started {
		d.start()
	}
	if e.index < 0 {
		e.index = d.blocks
	}
	d.blocks++
	if i := d.find(); i >= 0 {
		d.close(i) // its end was forgotten
	}
	o := messagesOpen{index: e.index, kind: e.block}
	switch e.block {
	case wordText:
		d.piece(TextPiece, e.text)
	case wordThinking:
		d.piece(ThoughtPiece, e.text)
		o.signature = slices.Clone(e.signature)
	case wordRedacted:
		if len(e.data) > 0 {
			d.a.emit(&Event{Kind: BlockEnd})
			d.a.emit(&Event{Kind: Sealed, State: State{Maker: dialect.Messages, Redacted: true, Data: string(e.data)}})
		}
	case wordCall:
		if name == "" {
			d.a.broken(errors.New("the answer calls a tool without a name"))
			return
		}
		o.call, o.custom, o.input = d.callStart(id, name), d.a.r.names.tool(name).custom, slices.Clone(e.input)
	}
	if len(d.open) == maxCalls {
		d.a.broken(errors.New("the answer has too many blocks open"))
		return
	}
	d.open = append(d.open, o)
}

// callStart begins a call and returns its number. Ids that are missing or came
// before are made anew: results must find their calls.
func (d *messagesDecoder) callStart(id, name string) int {
	n := d.calls
	if d.calls++; d.calls > maxCalls {
		d.a.broken(fmt.Errorf("the answer has more than %d calls", maxCalls))
	}
	if d.ids == nil {
		d.ids = map[string]bool{}
	}
	if id == "" || d.ids[id] {
		id = d.a.newID("toolu_")
	}
	d.ids[id] = true
	tool := d.a.r.names.tool(name)
	d.a.emit(&Event{Kind: CallStart, Call: n, ID: id, Name: tool.name, Space: tool.space, Custom: tool.custom})
	return n
}

func (d *messagesDecoder) blockDelta() {
	if !d.started {
		d.start()
	}
	i := d.find()
	switch d.e.delta {
	case wordText:
		d.piece(TextPiece, d.e.text)
	case wordThinking:
		d.piece(ThoughtPiece, d.e.text)
	case wordSignature:
		if i >= 0 && d.hold(len(d.e.signature)) {
			d.open[i].signature = append(d.open[i].signature, d.e.signature...)
		}
	case wordInput:
		switch {
		case i < 0:
			d.a.broken(errors.New("the answer has arguments of a call that never began"))
		case d.open[i].kind != wordCall || len(d.e.text) == 0:
		case d.open[i].custom:
			if d.hold(len(d.e.text)) {
				d.open[i].args = append(d.open[i].args, d.e.text...)
				d.open[i].said = true
			}
		default:
			d.open[i].said = true
			d.out = Event{Kind: CallPiece, Call: d.open[i].call, Text: d.e.text}
			d.a.emit(&d.out)
		}
	}
}

func (d *messagesDecoder) piece(kind EventKind, text []byte) {
	if len(text) > 0 {
		d.out = Event{Kind: kind, Text: text}
		d.a.emit(&d.out)
	}
}

// hold says whether so many bytes more may be held.
func (d *messagesDecoder) hold(n int) bool {
	if d.held += n; d.held > maxHeld {
		d.a.broken(errors.New("the answer has arguments that are too long"))
		return false
	}
	return true
}

// close ends an open block.
func (d *messagesDecoder) close(i int) {
	o := d.open[i]
	d.open = slices.Delete(d.open, i, i+1)
	switch o.kind {
	case wordThinking:
		if len(o.signature) > 0 {
			d.a.emit(&Event{Kind: Sealed, State: State{Maker: dialect.Messages, Data: string(o.signature)}})
			return
		}
		d.a.emit(&Event{Kind: BlockEnd})
	case wordText:
		d.a.emit(&Event{Kind: BlockEnd})
	case wordCall:
		d.callEnd(&o)
	}
}

// callEnd ends a call. Some servers give all arguments at its start, and none
// behind it; none at all are an empty object.
func (d *messagesDecoder) callEnd(o *messagesOpen) {
	args := o.args
	if !o.said {
		args = []byte(wholeInput(o.input))
	}
	if o.custom {
		args = []byte(unwrapInput(string(args)))
	}
	if len(args) > 0 {
		d.a.emit(&Event{Kind: CallPiece, Call: o.call, Text: args})
	}
	d.a.emit(&Event{Kind: CallEnd, Call: o.call})
}

// wholeInput returns the arguments of a call that came as one value: an object,
// or a string that spells one.
func wholeInput(input []byte) string {
	if len(input) == 0 {
		return "{}"
	}
	if input[0] != '"' {
		return compact(input)
	}
	if text := newSource(input).string(); text != "" {
		return text
	}
	return "{}"
}

func (d *messagesDecoder) whole(body []byte) {
	var content []byte
	kind, id, model, said := "", "", "", false
	d.read(body)
	d.s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = d.s.string()
		case "id":
			id = d.s.string()
		case "model":
			model = d.s.string()
		case "content":
			said = true
			content = d.s.raw()
		case "stop_reason", "stop_sequence", "stop_details":
			d.deltaMember(name)
		default:
			d.s.skip()
		}
	})
	switch {
	case d.s.err != nil:
		d.a.broken(fmt.Errorf("the answer cannot be read: %w", d.s.err))
		return
	case kind == "error" || !said && d.reason == "":
		d.a.broken(errors.New("the answer is no message"))
		return
	}
	d.started = true
	d.a.emit(&Event{Kind: Start, ID: id, Model: model})
	if content != nil {
		d.read(content)
		d.s.list(d.wholeBlock)
	}
	if d.s.err != nil {
		d.a.broken(fmt.Errorf("a block of the answer cannot be read: %w", d.s.err))
		return
	}
	if d.a.Problem == nil {
		d.finish()
	}
}

func (d *messagesDecoder) wholeBlock(int) {
	d.e = messagesEvent{index: -1}
	d.s.object(d.onBlock)
	if d.s.err == nil && d.a.Problem == nil {
		d.blockStart()
		if len(d.open) > 0 {
			d.close(0)
		}
	}
}

func (d *messagesDecoder) end() {
	if !d.stopped {
		d.a.broken(errors.New("the answer ended before its end"))
		return
	}
	if !d.started {
		d.start()
	}
	d.finish()
}

func (d *messagesDecoder) finish() {
	e := Event{Kind: Finish, Reason: messagesReason(d.reason), StopSequence: d.stop}
	switch {
	case d.calls > 0 && (e.Reason == Stop || e.Reason == Unknown):
		e.Reason = Calls
	case d.calls == 0 && e.Reason == Calls:
		e.Reason = Stop
	}
	if e.Reason == Filtered && d.told != "" {
		d.a.emit(&Event{Kind: RefusalPiece, Text: []byte(d.told)})
	}
	d.a.emit(&e)
}

func messagesReason(word string) Reason {
	switch word {
	case "end_turn":
		return Stop
	case "stop_sequence":
		return StopSequence
	case "tool_use":
		return Calls
	case "max_tokens":
		return Length
	case "model_context_window_exceeded":
		return ContextFull
	case "refusal":
		return Filtered
	case "pause_turn":
		return Paused
	}
	return Unknown
}

// Answers for clients of the Messages API.

// messagesEncoder writes a stream. Blocks never overlap there: what comes while a
// call is under way waits until that call has ended.
type messagesEncoder struct {
	a       *Answer
	started bool
	index   int // of the block that is open, or else of the next
	now     messagesPart
	wait    []messagesPart
	held    int // bytes in wait, and of custom tools

	reason   Reason
	sequence string
}

// messagesPart is a block of an answer on its way to the client.
type messagesPart struct {
	kind  Kind
	open  bool // it takes more
	shown bool // its start was written
	call  int
	id    string
	name  string
	// custom: its text is held until its end, because it has to be wrapped.
	custom bool
	text   []byte
	state  State
}

func newMessagesEncoder(a *Answer) encoder { return &messagesEncoder{a: a} }

func (e *messagesEncoder) take(ev *Event) {
	if !e.started {
		e.started = true
		id := ""
		if ev.Kind == Start {
			id = ev.ID
		}
		e.start(id)
	}
	switch ev.Kind {
	case TextPiece, RefusalPiece:
		e.text(Text, ev.Text)
	case ThoughtPiece:
		if e.a.r.c.Reasoning.Visible {
			e.text(Thought, ev.Text)
		}
	case Sealed:
		e.sealed(ev.State)
	case BlockEnd:
		if p := e.last(); p != nil && p.kind != Call {
			e.end(p)
		}
	case CallStart:
		if !ev.State.Empty() {
			// A call has no place for a state: a thought without words in front of
			// it has.
			e.add(messagesPart{kind: Thought, state: ev.State})
		}
		e.add(messagesPart{kind: Call, open: true, call: ev.Call, id: ev.ID, name: ev.Name, custom: ev.Custom})
	case CallPiece:
		if p := e.find(ev.Call); p != nil {
			e.more(p, ev.Text)
		}
	case CallEnd:
		if p := e.find(ev.Call); p != nil {
			e.end(p)
		}
	case Finish:
		for i := range e.wait {
			e.wait[i].open = false
		}
		e.end(&e.now)
		e.reason, e.sequence = ev.Reason, ev.StopSequence
	}
}

// text adds to the block of text or thought that came last, or begins one.
func (e *messagesEncoder) text(kind Kind, piece []byte) {
	if len(piece) == 0 {
		return
	}
	p := e.last()
	if p == nil || p.kind != kind {
		p = e.add(messagesPart{kind: kind, open: true})
	}
	e.more(p, piece)
}

// sealed gives the thought that came last its state. Where the client does not see
// thoughts there is none, and the state is a thought without words.
func (e *messagesEncoder) sealed(s State) {
	if !e.a.r.c.Reasoning.Sealed {
		if p := e.last(); p != nil && p.kind == Thought {
			e.end(p)
		}
		return
	}
	p := e.last()
	if p == nil || p.kind != Thought || s.Redacted {
		p = e.add(messagesPart{kind: Thought, open: true})
	}
	p.state = s
	e.end(p)
}

// last returns the block that came last, if it takes more.
func (e *messagesEncoder) last() *messagesPart {
	p := &e.now
	if n := len(e.wait); n > 0 {
		p = &e.wait[n-1]
	}
	if !p.open {
		return nil
	}
	return p
}

func (e *messagesEncoder) find(call int) *messagesPart {
	if e.now.open && e.now.kind == Call && e.now.call == call {
		return &e.now
	}
	for i := range e.wait {
		if p := &e.wait[i]; p.open && p.kind == Call && p.call == call {
			return p
		}
	}
	return nil
}

// add begins a block. It ends one of text or thought before it, and waits for a
// call that is under way.
func (e *messagesEncoder) add(p messagesPart) *messagesPart {
	if last := e.last(); last != nil && last.kind != Call {
		e.end(last)
	}
	if e.now.open {
		e.wait = append(e.wait, p)
		return &e.wait[len(e.wait)-1]
	}
	e.now = p
	if !p.open {
		e.end(&e.now)
	}
	return &e.now
}

// more adds to a block: on the wire at once if it is the one under way.
func (e *messagesEncoder) more(p *messagesPart, piece []byte) {
	if len(piece) == 0 {
		return
	}
	if p == &e.now && !p.custom {
		e.show(p)
		e.delta(p, piece)
		return
	}
	if e.held += len(piece); e.held > maxHeld {
		e.a.broken(errors.New("the answer has calls side by side that are too long"))
		return
	}
	p.text = append(p.text, piece...)
}

// end ends a block. If it is the one under way, those that waited for it follow.
func (e *messagesEncoder) end(p *messagesPart) {
	p.open = false
	if p == &e.now {
		e.close(p)
		e.flush()
	}
}

// flush writes the blocks whose turn has come.
func (e *messagesEncoder) flush() {
	for len(e.wait) > 0 && !e.now.open {
		e.now = e.wait[0]
		e.wait = e.wait[1:]
		if p := &e.now; p.open && !p.custom {
			text := p.text
			p.text = nil
			e.held -= len(text)
			if p.kind == Call || len(text) > 0 {
				e.show(p)
			}
			if len(text) > 0 {
				e.delta(p, text)
			}
			return
		}
		if !e.now.open {
			e.close(&e.now)
		}
	}
}

// close writes what is left of a block, and its end. A block in which nothing was
// said is not written.
func (e *messagesEncoder) close(p *messagesPart) {
	sealed := p.kind == Thought && !p.state.Empty()
	if p.kind == Call || sealed || len(p.text) > 0 {
		e.show(p)
	}
	if !p.shown {
		*p = messagesPart{}
		return
	}
	if p.custom {
		e.held -= len(p.text)
		p.text = []byte(wrapInput(string(p.text)))
	}
	if len(p.text) > 0 {
		e.delta(p, p.text)
	}
	if p.kind == Thought && !p.state.Redacted {
		e.frame("content_block_delta")
		e.indexed(`,"delta":{"type":"signature_delta","signature":"`)
		e.a.out.b = append(e.a.out.b, e.a.sealedOrMarked(p.state)...)
		e.a.out.b = append(e.a.out.b, "\"}}\n\n"...)
	}
	e.frame("content_block_stop")
	e.indexed("}\n\n")
	e.index++
	*p = messagesPart{}
}

// show writes the start of a block.
func (e *messagesEncoder) show(p *messagesPart) {
	if p.shown {
		return
	}
	p.shown = true
	e.frame("content_block_start")
	e.indexed(`,"content_block":`)
	w := &e.a.out
	switch {
	case p.kind == Text:
		w.b = append(w.b, `{"type":"text","text":""}`...)
	case p.kind == Thought && p.state.Redacted:
		w.b = append(w.b, `{"type":"redacted_thinking","data":"`...)
		w.b = append(append(w.b, e.a.sealed(p.state)...), `"}`...)
	case p.kind == Thought:
		w.b = append(w.b, `{"type":"thinking","thinking":"","signature":""}`...)
	default:
		w.b = append(w.b, `{"type":"tool_use"`...)
		w.member("id", safeID(p.id, messagesCallID))
		w.member("name", p.name)
		w.b = append(w.b, `,"input":{}}`...)
	}
	w.b = append(w.b, "}\n\n"...)
}

// delta writes a piece of a block.
func (e *messagesEncoder) delta(p *messagesPart, piece []byte) {
	e.frame("content_block_delta")
	switch p.kind {
	case Text:
		e.indexed(`,"delta":{"type":"text_delta","text":"`)
	case Thought:
		e.indexed(`,"delta":{"type":"thinking_delta","thinking":"`)
	default:
		e.indexed(`,"delta":{"type":"input_json_delta","partial_json":"`)
	}
	out := appendEscaped(e.a.out.b, piece)
	e.a.out.b = append(out, "\"}}\n\n"...)
}

// frame begins an event.
func (e *messagesEncoder) frame(kind string) {
	out := append(e.a.out.b, "event: "...)
	out = append(out, kind...)
	out = append(out, "\ndata: {\"type\":\""...)
	out = append(out, kind...)
	e.a.out.b = append(out, '"')
}

// indexed goes on with the block's index and what is behind it.
func (e *messagesEncoder) indexed(rest string) {
	out := append(e.a.out.b, `,"index":`...)
	out = strconv.AppendInt(out, int64(e.index), 10)
	e.a.out.b = append(out, rest...)
}

// start writes message_start. Nobody knows the usage yet: the whole of it follows
// at the end. Some clients add the two counts of output, which makes 0 the right
// one here.
func (e *messagesEncoder) start(id string) {
	w := &e.a.out
	e.frame("message_start")
	w.b = append(w.b, `,"message":{`...)
	e.a.messageHead(id)
	w.b = append(w.b, `,"content":[],"stop_reason":null,"stop_sequence":null,"stop_details":null,"usage":`...)
	w.messagesUsage(nil)
	w.b = append(w.b, "}}\n\n"...)
}

// messageHead writes the members that a message begins with.
func (a *Answer) messageHead(id string) {
	w := &a.out
	w.member("id", a.answerID("msg_", id))
	w.b = append(w.b, `,"type":"message","role":"assistant"`...)
	w.member("model", a.r.c.Asked)
	w.b = append(w.b, `,"container":null,"diagnostics":null`...)
}

func (e *messagesEncoder) finish(t *usage.Tokens) {
	w := &e.a.out
	if !e.started {
		e.started = true
		e.start("")
	}
	e.frame("message_delta")
	w.b = append(w.b, `,"delta":{`...)
	w.messagesStop(e.reason, e.sequence)
	w.b = append(w.b, `,"container":null},"usage":{`...)
	w.messagesCounts(t)
	w.b = append(w.b, "}}\n\n"...)
	e.frame("message_stop")
	w.b = append(w.b, "}\n\n"...)
}

func (e *messagesEncoder) fail(err *dialect.Error) {
	e.a.out.b = append(e.a.out.b, err.Event(dialect.CreateMessage, 0)...)
}

// messagesStop writes why an answer ended.
func (w *writer) messagesStop(why Reason, sequence string) {
	word := "end_turn"
	switch why {
	case StopSequence:
		word = "stop_sequence"
	case Calls:
		word = "tool_use"
	case Length:
		word = "max_tokens"
	case ContextFull:
		word = "model_context_window_exceeded"
	case Filtered, Declined:
		word = "refusal"
	case Paused:
		word = "pause_turn"
	}
	w.member("stop_reason", word)
	w.name("stop_sequence")
	if why == StopSequence && sequence != "" {
		w.string(sequence)
	} else {
		w.literal("null")
	}
	w.name("stop_details")
	if word == "refusal" {
		w.literal(`{"type":"refusal","category":null,"explanation":null}`)
	} else {
		w.literal("null")
	}
}

// messagesCounts writes the counts that stand in the usage of a whole message and
// of a message_delta: there they are those of the whole message too.
func (w *writer) messagesCounts(t *usage.Tokens) {
	if t == nil {
		t = &usage.Tokens{}
	}
	w.intMember("input_tokens", t.Input)
	w.intMember("cache_creation_input_tokens", t.CacheWrite+t.CacheWrite1h)
	w.intMember("cache_read_input_tokens", t.CacheRead)
	w.intMember("output_tokens", t.Output)
	w.name("output_tokens_details")
	if t.ReasoningKnown {
		w.open('{')
		w.intMember("thinking_tokens", t.Reasoning)
		w.shut('}')
	} else {
		w.literal("null")
	}
	w.b = append(w.b, `,"server_tool_use":null`...)
}

// messagesUsage writes the usage of a message.
func (w *writer) messagesUsage(t *usage.Tokens) {
	w.open('{')
	w.messagesCounts(t)
	w.name("cache_creation")
	if t == nil {
		w.literal("null")
	} else {
		w.open('{')
		w.intMember("ephemeral_5m_input_tokens", t.CacheWrite)
		w.intMember("ephemeral_1h_input_tokens", t.CacheWrite1h)
		w.shut('}')
	}
	w.b = append(w.b, `,"service_tier":null,"speed":null,"inference_geo":null}`...)
}

// writeMessagesReply writes a whole answer.
func (a *Answer) writeMessagesReply(r *reply, t *usage.Tokens) {
	w := &a.out
	w.open('{')
	a.messageHead(r.id)
	w.name("content")
	w.open('[')
	for i := range r.parts {
		if err := a.messagesBlock(&r.parts[i], r.reason); err != nil {
			w.b = w.b[:0]
			a.broken(err)
			return
		}
	}
	w.shut(']')
	w.messagesStop(r.reason, r.stopSequence)
	w.name("usage")
	w.messagesUsage(t)
	w.shut('}')
}

// messagesBlock writes a part of a whole answer, unless it says nothing or is not
// for the client's eyes.
func (a *Answer) messagesBlock(p *Part, why Reason) error {
	w, want := &a.out, &a.r.c.Reasoning
	switch p.Kind {
	case Text, Refusal:
		if p.Text == "" {
			return nil
		}
		w.open('{')
		w.member("type", "text")
		w.member("text", p.Text)
		w.b = append(w.b, `,"citations":null}`...)
	case Thought:
		text, state := "", State{}
		if want.Visible {
			text = p.Text
		}
		if want.Sealed {
			state = p.State
		}
		a.messagesThought(text, state)
	case Call:
		args, err := argumentsObject(p)
		switch {
		case err != nil && why == Length:
			args = []byte("{}") // they were cut off, as the client is told
		case err != nil:
			return errors.New("the answer calls a tool with arguments that are no JSON object")
		}
		a.messagesThought("", p.State)
		w.open('{')
		w.member("type", "tool_use")
		w.member("id", safeID(p.Call.ID, messagesCallID))
		w.member("name", p.Call.Name)
		w.rawMember("input", args)
		w.b = append(w.b, `,"caller":{"type":"direct"}}`...)
	}
	return nil
}

func (a *Answer) messagesThought(text string, state State) {
	w := &a.out
	if text == "" && state.Empty() {
		return
	}
	w.open('{')
	if state.Redacted {
		w.member("type", "redacted_thinking")
		w.member("data", a.sealed(state))
	} else {
		w.member("type", "thinking")
		w.member("thinking", text)
		w.member("signature", a.sealedOrMarked(state))
	}
	w.shut('}')
}
