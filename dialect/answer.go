package dialect

import (
	"bytes"

	"github.com/floway/floway/usage"
)

// Answer watches one answer of an upstream on its way to the client: what it
// used, where its content begins, whether it came to its end. Events are taken
// from the bytes that pass; nothing is decoded and encoded again.
//
// An Answer belongs to one goroutine. Its zero value is not ready: call Reset.
type Answer struct {
	// Content says that an event with content has come; for answers that are no
	// event streams, that something else than blanks has.
	Content bool
	// Finished says that the answer itself said that it is complete: by a
	// terminal event, a reason to finish, or the end of its JSON.
	Finished bool
	// Terminal says that the last event has come and none may follow.
	Terminal bool
	// Failed says that the answer holds an error; Problem is what it says.
	Failed  bool
	Problem Problem
	// List says that the answer is Google's other form of a stream: one array,
	// whose elements are what events hold elsewhere.
	List bool
	// Reported says that the upstream reported usage.
	Reported bool
	// Model and ID are those that the answer names.
	Model, ID string
	// Events counts the events that came, without comments and other events
	// that hold no data.
	Events int
	// Bytes counts the data of the events, or the bytes of another answer.
	Bytes int64
	// Transcript is what the answer says, if it was given room after Reset.
	Transcript Transcript

	op     Operation
	events bool
	hide   bool
	format *format
	m      members

	tokens   usage.Tokens
	messages messagesUsage
	gemini   geminiUsage

	// Events behind the first content that carry a piece of it.
	deltas     int
	deltaBytes int64
	frame      int // data of the smallest of them: about what framing costs

	event  event  // the one at the front of the window, as far as it is read
	joined []byte // data of an event that has several lines of it
	over   bool   // inside an event too long for the window
	long   longEvent
	ragged bool // what was forwarded ends inside an event

	json  jsonState // of an answer that is no event stream
	comma bool      // a list has no comma to come before its next element
}

// MaxEvent is the greatest event that is held until it is whole. Longer ones
// pass as they come.
const MaxEvent = 64 << 10

// maxValue is the greatest value that is put together out of pieces.
const maxValue = 64 << 10

// Reset makes a ready for the answer to an operation. events says whether the
// answer is an event stream; hide whether an event that holds only usage is to
// be kept from the client, who did not ask for it.
func (a *Answer) Reset(op Operation, events, hide bool) {
	m, joined := a.m, a.joined[:0]
	a.Transcript.Drop()
	*a = Answer{op: op, events: events, hide: hide, format: formatOf(op), m: m, joined: joined, Transcript: a.Transcript}
	a.m.reset(a.format.body, a.format.inner, a.format.enter, maxValue)
}

// EventStream says whether the answer is one.
func (a *Answer) EventStream() bool { return a.events }

// Streams says whether the answer comes in pieces that are of use by themselves.
func (a *Answer) Streams() bool { return a.events || a.List }

// Open says that the answer is a list whose end has not come.
func (a *Answer) Open() bool { return a.json == jsonList || a.json == jsonItem }

// EndList spells the error as the last element of a list that broke off, and ends
// the list. It returns nil if the list broke off inside an element, so that no
// reader takes it for whole, or was none.
func (a *Answer) EndList(e *Error) []byte {
	if a.json != jsonList {
		return nil
	}
	var out []byte
	if !a.comma {
		out = append(out, ',')
	}
	return append(append(out, e.Body(Gemini)...), ']')
}

// HasEnd says whether streams of the operation say by themselves that they are
// complete, so that one which does not was cut.
func (a *Answer) HasEnd() bool { return a.format != &mediaFormat && a.format != &unbilledFormat }

// Unfinished says that what was forwarded so far ends in the middle of an event
// or just before its blank line. Anything that is to follow needs a blank line
// of its own first.
func (a *Answer) Unfinished() bool { return a.over || a.ragged }

// Tokens returns what the upstream reported so far.
func (a *Answer) Tokens() usage.Tokens {
	switch {
	case a.messages.any:
		return a.messages.tokens()
	case a.gemini.any:
		return a.gemini.tokens()
	}
	return a.tokens
}

// Miscounted says that one of the numbers which the upstream reported cannot be
// true: it is negative, absurd or no whole number. It was left out.
func (a *Answer) Miscounted() bool {
	t := a.Tokens()
	return t.Anomaly == anomalyAbsurd || t.Anomaly == anomalyFraction
}

// EstimateOutput guesses the tokens of an answer whose usage was not reported
// from the bytes that came: four to a token, framing left out, and not less than
// one for each event. Answers that are no text are not paid by the token.
func (a *Answer) EstimateOutput() int64 {
	switch {
	case !writes(a.op):
		return 0
	case !a.events:
		return (a.Bytes + 3) / 4
	}
	least := int64(a.deltas)
	if a.Content {
		least = max(least, 1)
	}
	text := a.deltaBytes - int64(a.deltas)*int64(min(a.frame, maxFrame))
	return max(least, (text+3)/4)
}

// writes says whether the operation's answers are text that is paid by the token.
func writes(op Operation) bool {
	switch op {
	case ChatCompletions, Completions, CreateResponse, CompactResponse, CreateMessage,
		GenerateContent, StreamContent, Transcriptions, Translations:
		return true
	}
	return false
}

// maxFrame is about the most that framing a piece of text costs.
const maxFrame = 300

// jsonState is how far an answer that is no event stream has been read.
type jsonState uint8

const (
	jsonStart  jsonState = iota
	jsonObject           // one object
	jsonList             // between the elements of an array
	jsonItem             // inside one of them
	jsonOver             // at its end, or no JSON that anything is known of
)

// Feed reads the next piece of an answer that is no event stream.
func (a *Answer) Feed(p []byte) {
	a.Bytes += int64(len(p))
	a.Transcript.piece(p)
	for len(p) > 0 {
		switch a.json {
		case jsonStart:
			if p = trimBlanks(p); len(p) == 0 {
				return
			}
			a.json = jsonObject
			// Gemini streams an array to those who do not ask for events.
			if p[0] == '[' && a.op == StreamContent {
				a.List, a.comma = true, true
				a.json, p = jsonList, p[1:]
				continue
			}
			a.Content = true
		case jsonObject:
			p = p[a.m.feedOne(p):]
			switch a.m.state {
			case atEnd:
				a.Finished = true
				a.format.read(a)
				a.json = jsonOver
			case broken:
				a.json = jsonOver
			}
		case jsonList:
			p = trimBlanks(p)
			switch {
			case len(p) == 0:
			case p[0] == ',':
				a.comma, p = true, p[1:]
			case p[0] == '{':
				a.m.reset(a.format.event, a.format.inner, a.format.enter, maxValue)
				a.json, a.comma = jsonItem, false
				a.Events++
			case p[0] == ']':
				// The end of a list with an error in it is no good end.
				a.Finished, a.Terminal, a.json = a.Finished || !a.Failed, true, jsonOver
			default:
				a.Content, a.json = true, jsonOver
			}
		case jsonItem:
			p = p[a.m.feedOne(p):]
			switch a.m.state {
			case atEnd:
				a.format.take(a, nil)
				a.json = jsonList
			case broken:
				a.Content, a.json = true, jsonOver
			}
		case jsonOver:
			return
		}
	}
}

// Split takes the whole events off the front of window and watches them. ready
// is what is to be forwarded, a prefix of window's memory without the events
// that are hidden; used is how much of window it stands for. What is left of
// the window must stand at the front of the next one. full says that the window
// cannot grow: then an event that fills it is passed on unfinished.
func (a *Answer) Split(window []byte, full bool) (ready []byte, used int) {
	if a.over {
		used = a.passLong(window)
	}
	out := used
	l := lines{p: window, pos: used + a.event.next, lf: -1}
	for {
		line, ok := l.next()
		if !ok {
			break
		}
		if !line.blank() {
			a.event.add(window[used:], line.less(used), &a.joined)
			a.event.next = l.pos - used
			continue
		}
		raw := window[used:l.pos]
		if hidden := a.watch(window[used:]); !hidden {
			if out != used {
				copy(window[out:], raw)
			}
			out += len(raw)
		}
		used, a.event = l.pos, event{}
	}
	if used == 0 && full && len(window) > 0 {
		a.beginLong(window)
		return window, len(window)
	}
	return window[:out], used
}

// Rest watches what is left of a stream that ended without the blank line behind
// its last event, and returns whether it is to be forwarded: only an event that
// lacks nothing else is.
func (a *Answer) Rest(window []byte) bool {
	if a.over {
		if a.m.err() == nil {
			a.endLong()
		}
		a.over, a.ragged = false, true
		return true
	}
	l := lines{p: window, pos: a.event.next, lf: -1, last: true}
	ended := false // by a CR whose LF might have followed
	for !ended {
		line, ok := l.next()
		if !ok {
			break
		}
		if ended = line.blank(); !ended {
			a.event.add(window, line, &a.joined)
		}
	}
	if !ended && !isWhole(a.event.text(window, a.joined)) {
		return false
	}
	forward := !a.watch(window)
	a.event, a.ragged = event{}, forward && !ended
	return forward
}

// isWhole says whether data, behind which a stream ended, is all that was to be.
func isWhole(data []byte) bool {
	if isDone(data) {
		return true
	}
	var m members
	m.reset(nil, nil, "", 0)
	m.feed(data)
	return m.err() == nil
}

// watch reads the event at the front of window and says whether to hide it.
func (a *Answer) watch(window []byte) (hidden bool) {
	e := &a.event
	data := e.text(window, a.joined)
	if len(data) == 0 {
		return false // a comment, or something else that readers take no notice of
	}
	a.Events++
	a.Bytes += int64(len(data))
	if isDone(data) {
		a.Terminal, a.Finished = true, true
		return false
	}
	name := e.name.of(window)
	if !a.Content || a.format.idle == nil || !a.format.idle(name, data) {
		a.m.reset(a.format.event, a.format.inner, a.format.enter, maxValue)
		a.m.feed(data)
		hidden = a.format.take(a, name)
	}
	if a.Content && !hidden && (len(name) == 0 || bytes.HasSuffix(name, deltaSuffix) && string(name) != "message_delta") {
		a.deltas++
		a.deltaBytes += int64(len(data))
		if a.frame == 0 || len(data) < a.frame {
			a.frame = len(data)
		}
	}
	if a.Content && !hidden && (len(name) == 0 || isDelta(string(name))) {
		a.Transcript.event(data)
	}
	return hidden
}

var deltaSuffix = []byte("delta")

func isDone(data []byte) bool {
	return len(data) < 16 && string(bytes.TrimSpace(data)) == "[DONE]"
}

// event is what lines of an event stream say of one event. Its spans count from
// the event's first byte.
type event struct {
	name  span
	data  span // of the only line of data
	lines int  // lines of data
	next  int  // where the first line begins that was not whole
}

// add reads one line that is not blank.
func (e *event) add(p []byte, line span, joined *[]byte) {
	field, val := line.of(p), span{line.end, line.end}
	if i := bytes.IndexByte(field, ':'); i >= 0 {
		val.start = line.start + i + 1
		if field = field[:i]; val.start < val.end && p[val.start] == ' ' {
			val.start++
		}
	}
	switch string(field) {
	case "data":
		if e.lines++; e.lines == 1 {
			e.data = val
			return
		}
		if e.lines == 2 {
			*joined = append((*joined)[:0], e.data.of(p)...)
		}
		*joined = append(append(*joined, '\n'), val.of(p)...)
	case "event":
		e.name = val
	}
}

// text returns the event's data.
func (e *event) text(p, joined []byte) []byte {
	if e.lines > 1 {
		return joined
	}
	return e.data.of(p)
}

// lines goes through the lines of p, which end in LF, CR LF or CR alone.
type lines struct {
	p    []byte
	pos  int  // where the next line begins
	lf   int  // the LF that is next, len(p) if there is none; it may lie behind pos
	last bool // nothing follows p: its end is a line's end too
}

// next returns a line without its end; false if there is no other whole one.
func (l *lines) next() (line span, ok bool) {
	if l.lf < l.pos {
		l.lf = len(l.p)
		if i := bytes.IndexByte(l.p[l.pos:], '\n'); i >= 0 {
			l.lf = l.pos + i
		}
	}
	line = span{l.pos, l.lf}
	if i := bytes.IndexByte(line.of(l.p), '\r'); i >= 0 {
		line.end = l.pos + i
	}
	after := line.end + 1
	switch {
	case line.end == len(l.p): // no end of a line
		l.pos = len(l.p)
		return line, l.last && !line.blank()
	case line.end == l.lf:
	case after == len(l.p):
		if !l.last {
			return line, false // the LF that belongs to the CR may follow
		}
	case after == l.lf: // CR LF
		after++
	}
	l.pos = after
	return line, true
}

// longEvent is what is known of an event that does not fit the window.
type longEvent struct {
	kind    lineKind
	colon   bool // the line's last byte so far is the colon behind its field
	afterCR bool // an LF belongs to the line end that came last
	head    [len("event:")]byte
	headLen int
	name    [48]byte
	nameLen int
	data    int // lines of data
}

type lineKind uint8

const (
	lineHead  lineKind = iota // not enough of the line is known
	lineData                  // its content is data
	lineName                  // its content is the event's name
	lineOther                 // its content does not matter
)

// beginLong starts on an event that does not fit the window. From here its data
// is read as it passes, until its blank line.
func (a *Answer) beginLong(window []byte) {
	a.over, a.long, a.event = true, longEvent{}, event{}
	a.Transcript.event(nil)
	a.m.reset(a.format.event, a.format.inner, a.format.enter, maxValue)
	a.passLong(window)
}

// passLong reads on in an event that does not fit and returns how much of p
// belongs to it.
func (a *Answer) passLong(p []byte) int {
	l := &a.long
	lf := -1 // the LF that is next, len(p) if there is none
	for i := 0; i < len(p); {
		if l.afterCR {
			if l.afterCR = false; p[i] == '\n' {
				i++
				continue
			}
		}
		if lf < i {
			lf = len(p)
			if j := bytes.IndexByte(p[i:], '\n'); j >= 0 {
				lf = i + j
			}
		}
		end := lf
		if j := bytes.IndexByte(p[i:end], '\r'); j >= 0 {
			end = i + j
		}
		a.passLine(p[i:end])
		if end == len(p) {
			break
		}
		i = end + 1
		l.afterCR = p[end] == '\r'
		if l.kind == lineHead && l.headLen == 0 { // a blank line
			if l.afterCR && i < len(p) && p[i] == '\n' {
				i++
			}
			a.over = false
			a.endLong()
			return i
		}
		l.kind, l.headLen, l.colon = lineHead, 0, false
	}
	return len(p)
}

// passLine reads a part of a line.
func (a *Answer) passLine(p []byte) {
	l := &a.long
	for l.kind == lineHead && len(p) > 0 {
		l.head[l.headLen] = p[0]
		l.headLen++
		p = p[1:]
		switch head := l.head[:l.headLen]; {
		case string(head) == "data:":
			l.kind, l.colon = lineData, true
			if l.data++; l.data > 1 {
				a.Bytes++ // the line feed that joins the lines
			}
		case string(head) == "event:":
			l.kind, l.colon, l.nameLen = lineName, true, 0
		case l.headLen == len(l.head):
			l.kind = lineOther
		}
	}
	if l.colon && len(p) > 0 {
		if l.colon = false; p[0] == ' ' {
			p = p[1:]
		}
	}
	switch l.kind {
	case lineData:
		a.m.feed(p)
		a.m.keepLoose() // p may be over before the event is
		a.Transcript.piece(p)
		a.Bytes += int64(len(p))
	case lineName:
		l.nameLen += copy(l.name[l.nameLen:], p)
	}
}

// endLong reads what the long event said. That the lines of its data were read
// without what joins them makes no difference: no token of JSON goes over the
// end of a line.
func (a *Answer) endLong() {
	if a.long.data > 0 {
		a.Events++
		a.format.take(a, a.long.name[:a.long.nameLen])
	}
}

// EachEvent goes through the events of p, which holds whole ones, and calls visit
// with the name and the data of each that has data. Both are good only during the
// call.
func EachEvent(p []byte, visit func(name, data []byte)) {
	var e event
	var joined []byte
	start := 0
	l := lines{p: p, lf: -1, last: true}
	for {
		line, ok := l.next()
		if ok && !line.blank() {
			e.add(p[start:], line.less(start), &joined)
			continue
		}
		if data := e.text(p[start:], joined); len(data) > 0 {
			visit(e.name.of(p[start:]), data)
		}
		if !ok {
			return
		}
		start, e = l.pos, event{}
	}
}
