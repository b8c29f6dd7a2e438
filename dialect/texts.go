package dialect

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// What of requests and answers is text that a model reads or writes: for a
// tokenizer that counts it where an upstream reports nothing. It is read off the
// request path, out of JSON that may break off anywhere.

// Tokens that no text shows.
const (
	// perTurn and perPrompt are what the frames of a message and of the whole
	// prompt cost, the role included, as OpenAI's cookbook counts them.
	perTurn, perPrompt = 4, 3
	// The price of an image depends on its size, which nobody looks at here. These
	// are OpenAI's for 1024 × 1024 pixels and for low detail, Anthropic's for the
	// largest that it does not make smaller, and Google's for one tile.
	imageOpenAI, imageLow, imageMessages, imageGemini = 765, 85, 1590, 258
)

// PromptTexts calls yield for every text that the model is given by a request's
// body, the definitions of tools among them. It returns how many tokens come on
// top: the frames of messages, images, and input that consists of tokens. Files,
// audio and forms count nothing.
func PromptTexts(op Operation, body []byte, yield func(text string)) (more int64) {
	if op.Form() {
		return 0
	}
	converses := writes(op) && op != Completions || op == CountMessage || op == CountContent || op == CountResponse
	w := walker{p: body, fates: promptFates, other: entered, numbers: !converses}
	w.take = func(_, text string) { yield(text) }
	var turns int64
	w.members(func(name string) {
		switch name {
		case "messages", "input", "contents":
			if w.next() != '[' {
				turns++
				w.value(name, 0)
				return
			}
			w.elements(func() {
				if w.next() == '{' {
					turns++
				}
				w.value(name, 1)
			})
		case "system", "instructions", "systemInstruction", "system_instruction":
			turns++
			w.value(name, 0)
		case "prompt", "suffix", "query", "documents", "content", "requests", "generateContentRequest":
			w.value(name, 0)
		case "tools", "functions", "response_format":
			w.asItStands(name)
		default:
			w.skip()
		}
	})
	if converses && turns > 0 {
		more = perPrompt + perTurn*turns
	}
	image := int64(imageOpenAI)
	switch op.Dialect() {
	case Messages:
		image = imageMessages
	case Gemini:
		image = imageGemini
	}
	low := min(w.low, w.images)
	return more + w.tokens + image*(w.images-low) + imageLow*low
}

// answerTexts calls yield for every text that the model wrote into an answer, or
// into the data of an event. Texts of one lane follow on each other.
func answerTexts(events bool, data []byte, yield func(lane, text string)) {
	if events {
		// Other events repeat the request, or what deltas have said.
		var m members
		m.reset(typeNames, nil, "", 0)
		m.feed(data)
		if kind := word(m.at(0).raw); kind != "" && !isDelta(kind) {
			return
		}
	}
	type piece struct{ name, text string }
	var pieces []piece
	thought := ""
	w := walker{p: data, fates: answerFates}
	w.take = func(name, text string) {
		switch name {
		case "reasoning", "reasoning_content", "reasoning_text": // some say the same under two names
			if text == thought {
				return
			}
			thought = text
		}
		pieces = append(pieces, piece{name, text})
	}
	w.value("", 0)
	for _, p := range pieces { // now that all numbers beside them are known
		yield(string(w.lane)+p.name, p.text)
	}
}

// isDelta says whether events of a kind hold more of a text, or begin something
// that has a name.
func isDelta(kind string) bool {
	return strings.HasSuffix(kind, "delta") || kind == "content_block_start" || kind == "response.output_item.added"
}

// fate is what becomes of a member because of its name.
type fate uint8

const (
	passed   fate = iota // it is no text
	entered              // it is text, and so is what is in it
	enclosed             // it is no text, but may hold some
	entire               // it is text; if it is an object, just as it stands
	noted                // it is no text, but says what something is
)

// promptFates are those of the members of what is asked. Others are entered.
var promptFates = fates(map[fate]string{
	passed: "role id call_id tool_call_id tool_use_id item_id status phase url file_id file_data file_url fileUri file_uri filename " +
		"data media_type signature thoughtSignature thought_signature encrypted_content cache_control format model taskType",
	enclosed: "image_url",
	entire:   "input arguments args response output",
	noted:    "type detail mimeType mime_type",
})

// answerFates are those of the members of answers. Others are passed: they
// describe the answer, or repeat the request.
var answerFates = fates(map[fate]string{
	enclosed: "choices message candidates parts item content_block tool_calls function function_call custom functionCall " +
		"executableCode audio summary",
	entered: "content text refusal reasoning_content reasoning reasoning_text thinking partial_json name delta code transcript",
	entire:  "input arguments args output",
	noted:   "index output_index content_index",
})

func fates(of map[fate]string) map[string]fate {
	m := map[string]fate{}
	for f, names := range of {
		for name := range strings.FieldsSeq(names) {
			m[name] = f
		}
	}
	return m
}

// walker goes through a JSON text. It proves nothing: what it cannot read it passes
// over.
type walker struct {
	p     []byte
	i     int
	fates map[string]fate
	other fate // of names that have none
	take  func(name, text string)
	// numbers says that those in arrays are tokens.
	numbers bool

	lane                []byte // the indexes that were seen
	images, low, tokens int64
}

// maxWalk bounds how deep a walker goes.
const maxWalk = 100

// next passes over blanks and returns what follows, 0 at the end.
func (w *walker) next() byte {
	for w.i < len(w.p) && isBlank(w.p[w.i]) {
		w.i++
	}
	if w.i == len(w.p) {
		return 0
	}
	return w.p[w.i]
}

// members calls each for the members of the object that comes next. It has to go
// past the value.
func (w *walker) members(each func(name string)) {
	if w.next() != '{' {
		w.skip()
		return
	}
	w.i++
	for {
		switch w.next() {
		case '"':
			name, _ := text(w.quoted())
			if w.next() == ':' {
				w.i++
				each(name)
			}
		case '}':
			w.i++
			return
		case 0:
			return
		default: // a comma, or what should not be here
			w.i++
		}
	}
}

// elements calls each for the elements of the array that comes next. It has to go
// past the element.
func (w *walker) elements(each func()) {
	w.i++
	for {
		switch w.next() {
		case ']':
			w.i++
			return
		case 0:
			return
		case ',', ':', '}':
			w.i++
		default:
			each()
		}
	}
}

// quoted goes past a string and returns it with its quotes. One that breaks off is
// given an end.
func (w *walker) quoted() []byte {
	start := w.i
	n, closed, escaped := stringEnd(w.p[start+1:])
	w.i = start + 1 + n
	raw := w.p[start:w.i:w.i]
	if closed {
		return raw
	}
	if escaped {
		raw = raw[: len(raw)-1 : len(raw)-1]
	}
	whole := append(raw, '"')
	if i := bytes.LastIndexByte(raw, '\\'); i >= 0 && i > len(raw)-6 && !json.Valid(whole) {
		return append(raw[:i:i], '"') // without a \u that breaks off
	}
	return whole
}

// raw goes past the value that comes next and returns it.
func (w *walker) raw() []byte {
	w.next()
	start := w.i
	w.skip()
	return w.p[start:w.i]
}

// skip goes past the value that comes next.
func (w *walker) skip() {
	for depth := 0; ; {
		switch w.next() {
		case 0:
			return
		case '"':
			n, _, _ := stringEnd(w.p[w.i+1:])
			w.i += 1 + n
		case '{', '[':
			depth++
			w.i++
		case '}', ']':
			if depth == 0 {
				return // there is no value
			}
			depth--
			w.i++
		case ',', ':':
			if depth == 0 {
				return
			}
			w.i++
		default:
			for w.i < len(w.p) && strings.IndexByte(`,:]}"{[`+" \t\r\n", w.p[w.i]) < 0 {
				w.i++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// value takes the texts of the value that comes next.
func (w *walker) value(name string, depth int) {
	if depth > maxWalk {
		w.skip()
		return
	}
	switch w.next() {
	case '"':
		if s := spoken(w.quoted()); s != "" {
			w.take(name, s)
		}
	case '[':
		w.elements(func() { w.value(name, depth+1) })
	case '{':
		w.members(func(name string) { w.member(name, depth) })
	default:
		if raw := w.raw(); w.numbers && depth > 0 && len(raw) > 0 && raw[0] >= '0' && raw[0] <= '9' {
			w.tokens++
		}
	}
}

func (w *walker) member(name string, depth int) {
	f, known := w.fates[name]
	if !known {
		f = w.other
	}
	c := w.next()
	switch {
	case f == passed, f == enclosed && c == '"':
		w.skip()
	case f == noted:
		w.note(name)
	case f == entire && c == '{':
		w.asItStands(name)
	default:
		w.value(name, depth+1)
	}
}

// asItStands takes the value that comes next as one text.
func (w *walker) asItStands(name string) {
	raw := w.raw()
	var b bytes.Buffer
	if json.Compact(&b, raw) == nil {
		raw = b.Bytes()
	}
	if full(raw) {
		w.take(name, string(raw))
	}
}

// note takes notice of what something is.
func (w *walker) note(name string) {
	raw := w.raw()
	switch name {
	case "type":
		switch string(raw) {
		case `"image_url"`, `"input_image"`, `"image"`:
			w.images++
		}
	case "mimeType", "mime_type":
		if bytes.HasPrefix(raw, []byte(`"image/`)) {
			w.images++
		}
	case "detail":
		if string(raw) == `"low"` {
			w.low++
		}
	default:
		if n, ok := number(raw); ok {
			w.lane = append(strconv.AppendInt(w.lane, n, 10), ' ')
		}
	}
}

// spoken returns the text that raw spells; none if it is the bytes of a file.
func spoken(raw []byte) string {
	if len(raw) > minBase64 && isBase64(raw[1:]) {
		return ""
	}
	if s, ok := text(raw); ok {
		return s
	}
	return string(raw[1 : len(raw)-1]) // with escapes that nobody can read
}
