package dialect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"mime"
	"slices"
	"strconv"
	"strings"
)

// Request is what a request says of itself, read in one scan of its body. The
// body is never decoded or encoded: what must change on the way upstream is
// spliced into its bytes.
type Request struct {
	Call Call
	// Body is the request's body as the client sent it; decoded if it came
	// compressed.
	Body []byte
	// ContentType is the body's, with the boundary of a form.
	ContentType string

	// Model is the model that the client asked for.
	Model string
	// Stream says whether the client asked for a stream.
	Stream bool
	// AsksUsage says whether the client itself asked for a stream's usage.
	AsksUsage bool
	// PreviousID is the stored response that this request goes on from.
	PreviousID string
	// CacheKey is the client's prompt_cache_key: a name for the conversation.
	CacheKey string
	// Bound says that the request carries reasoning which only the account that
	// made it can read, or asks for such reasoning: it should stay at one key.
	Bound bool
	// MaxTokens is the greatest number of tokens that the client takes; 0 if it
	// did not say.
	MaxTokens int64

	named   string // the model that the body names
	model   span   // and where
	options span   // of stream_options
	open    int    // just behind the opening bracket of a body in JSON
	input   []byte // messages, input, contents or prompt, as it stands
	inputAt int    // where in the body
}

// span is a piece of something, by its offsets.
type span struct{ start, end int }

func (s span) of(p []byte) []byte { return p[s.start:s.end] }
func (s span) blank() bool        { return s.start == s.end }
func (s span) less(n int) span    { return span{s.start - n, s.end - n} }

// BadRequest is what is wrong with a request, in words for the client.
type BadRequest struct {
	Param   string // the field to blame; empty if none
	Message string
	// Details is what programs read in errors of Messages: a JSON object; nil for
	// none.
	Details []byte
}

func (b *BadRequest) Error() string { return b.Message }

func bad(param, format string, args ...any) error {
	return &BadRequest{Param: param, Message: fmt.Sprintf(format, args...)}
}

const (
	reqModel = iota
	reqStream
	reqOptions
	reqCacheKey
	reqPrevious
	reqInclude
	reqMaxTokens
	reqMaxCompletion
	reqMaxOutput
	reqMessages
	reqInput
	reqThinking
	reqContents
	reqPrompt
	reqConfig // Google takes both spellings
	reqConfigSnake
)

var (
	requestNames = []string{
		reqModel: "model", reqStream: "stream", reqOptions: "stream_options",
		reqCacheKey: "prompt_cache_key", reqPrevious: "previous_response_id", reqInclude: "include",
		reqMaxTokens: "max_tokens", reqMaxCompletion: "max_completion_tokens", reqMaxOutput: "max_output_tokens",
		reqMessages: "messages", reqInput: "input", reqThinking: "thinking", reqContents: "contents",
		reqPrompt: "prompt", reqConfig: "generationConfig", reqConfigSnake: "generation_config",
	}
	optionNames = []string{"include_usage"}
	configNames = []string{"maxOutputTokens", "max_output_tokens"}
	typeNames   = []string{"type"}
	innerNames  = []string{"requests", "generateContentRequest", "generate_content_request"}
	turnNames   = []string{"role", "content", "parts"}
)

// Read scans the body. A *BadRequest says what is wrong with it.
func (r *Request) Read() error {
	if r.Call.Op.Form() && !isJSON(r.ContentType) {
		return r.readForm()
	}
	if len(trimBlanks(r.Body)) == 0 {
		if r.Call.Op == StoredResponse {
			return nil
		}
		return bad("", "the request has no body; a JSON object was expected")
	}
	var m members
	m.reset(requestNames, nil, "", 0)
	m.feed(r.Body)
	if err := m.err(); err != nil {
		return bad("", "the request's body is not a valid JSON object")
	}
	// Two readers of one body may take different ones of two equal names, or
	// take a name of other case for the same. Then what is checked here would
	// not be what is served.
	for _, i := range [...]int{reqModel, reqStream, reqOptions, reqPrevious} {
		switch v := m.at(i); {
		case v.count > 1:
			return bad(requestNames[i], "the field %s stands in the request more than once", requestNames[i])
		case v.folded:
			return bad(requestNames[i], "the request has a field that is %s but for the case of its letters", requestNames[i])
		}
	}
	r.open = bytes.IndexByte(r.Body, '{') + 1
	if err := r.readModel(m.at(reqModel)); err != nil {
		return err
	}
	switch string(m.at(reqStream).raw) {
	case "true":
		r.Stream = true
	case "", "false", "null":
	default:
		return bad("stream", "the field stream must be true or false")
	}
	if r.Call.Op == StreamContent {
		r.Stream = true
	}
	if v := m.at(reqOptions); v.found() {
		r.options = span{v.start, v.end}
		var o members
		o.reset(optionNames, nil, "", 0)
		o.feed(v.raw)
		r.AsksUsage = string(o.at(0).raw) == "true"
	}
	r.CacheKey, _ = text(m.at(reqCacheKey).raw)
	if r.Call.Op.Dialect() == Responses {
		r.PreviousID, _ = text(m.at(reqPrevious).raw)
	}
	r.readMaxTokens(&m)
	if v := m.at(r.inputName()); v.found() {
		r.input, r.inputAt = v.raw, v.start
	}
	r.Bound = r.bound(&m)
	return nil
}

// isJSON says whether a content type is that of JSON.
func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/json")
}

// inputName is the member that holds what the model is asked.
func (r *Request) inputName() int {
	switch r.Call.Op {
	case ChatCompletions, CreateMessage, CountMessage:
		return reqMessages
	case Completions, ImageGenerations, ImageEdits:
		return reqPrompt
	case GenerateContent, StreamContent, CountContent:
		return reqContents
	}
	return reqInput
}

func (r *Request) readMaxTokens(m *members) {
	for _, i := range [...]int{reqMaxTokens, reqMaxCompletion, reqMaxOutput} {
		if n, ok := number(m.at(i).raw); ok {
			r.MaxTokens = max(r.MaxTokens, n)
		}
	}
	if r.Call.Op.Dialect() != Gemini {
		return
	}
	for _, i := range [...]int{reqConfig, reqConfigSnake} {
		var c members
		c.reset(configNames, nil, "", 0)
		c.feed(m.at(i).raw)
		for i := range configNames {
			if n, ok := number(c.at(i).raw); ok {
				r.MaxTokens = max(r.MaxTokens, n)
			}
		}
	}
}

func (r *Request) readModel(v *value) error {
	if v.found() {
		r.model = span{v.start, v.end}
	}
	name, ok := text(v.raw)
	r.named = name
	if r.Call.Model != "" {
		r.Model = r.Call.Model
		return nil
	}
	switch {
	case !v.found() && r.Call.Op == StoredResponse:
		return nil
	case !v.found():
		return bad("model", "you must provide a model parameter")
	case !ok:
		return bad("model", "the field model must be a string")
	}
	r.Model = name
	return r.checkModel()
}

// maxModel is the longest name of a model.
const maxModel = 512

func (r *Request) checkModel() error {
	switch {
	case strings.TrimSpace(r.Model) == "":
		return bad("model", "the field model is empty")
	case len(r.Model) > maxModel:
		return bad("model", "the field model is longer than %d bytes", maxModel)
	}
	return nil
}

// bound looks for reasoning that only its maker can read, and for what brings it.
func (r *Request) bound(m *members) bool {
	switch r.Call.Op.Dialect() {
	case Chat: // only floway gives its clients any
		return has(r.input, `"reasoning`, `_opaque"`) || has(r.input, `__fw`, `1.`)
	case Responses:
		return bytes.Contains(m.at(reqInclude).raw, []byte("reasoning.encrypted_content")) ||
			has(r.input, `"encrypted`, `_content"`)
	case Messages:
		thinking := m.at(reqThinking).raw
		return full(thinking) && !bytes.Contains(thinking, []byte(`"disabled"`)) || has(r.input, `"si`, `gnature"`)
	case Gemini:
		return has(r.input, `"thought`, `Signature"`) || has(r.input, `"thought`, `_signature"`)
	}
	return false
}

// UsageOnRequest says whether the operation reports a stream's usage only to
// those who ask for it by stream_options.
func (r *Request) UsageOnRequest() bool {
	return r.Stream && (r.Call.Op == ChatCompletions || r.Call.Op == Completions)
}

// For returns the body to send to a target that knows the model by that name
// and, if askUsage, asks for the stream's usage. It is r.Body itself when
// nothing has to change, and never changes r.Body. A new body lies in the memory
// that alloc returns for n bytes; a nil alloc makes it.
//
// A model that the path names stands for the one that the body may name beside
// it, so that none is served but the one that was checked. Where the body has
// none it is put in, except into Gemini's, which have no place for it, and into
// forms.
func (r *Request) For(model string, askUsage bool, alloc func(n int) []byte) []byte {
	var room [2]edit
	edits := room[:0]
	switch {
	case r.Call.Op.Dialect() == Gemini:
		edits = r.renameGemini(edits, model)
	case !r.model.blank():
		edits = r.rename(edits, r.model, r.named, model)
	case r.Call.Model != "" && r.open > 0:
		edits = append(edits, r.insert(`"model":`+string(quote(model))))
	}
	if askUsage && r.canAskUsage() {
		edits = append(edits, r.askUsage())
	}
	if alloc == nil {
		alloc = fresh
	}
	return splice(r.Body, edits, alloc)
}

// rename puts model at a place where named stands, unless it is the same.
func (r *Request) rename(edits []edit, at span, named, model string) []edit {
	switch {
	case r.open == 0: // a form
		if named != model {
			edits = append(edits, edit{at, []byte(model)})
		}
	case named != model || r.Body[at.start] != '"':
		edits = append(edits, edit{at, quote(model)})
	}
	return edits
}

// renameGemini renames the model where Google's clients repeat it: beside the
// content to embed, and in the requests inside a request.
func (r *Request) renameGemini(edits []edit, model string) []edit {
	rename := func(at span, named string) {
		to := model
		if strings.HasPrefix(named, "models/") {
			to = "models/" + model
		}
		edits = r.rename(edits, at, named, to)
	}
	if !r.model.blank() {
		rename(r.model, r.named)
	}
	if r.Call.Op != BatchEmbedContents && r.Call.Op != CountContent {
		return edits
	}
	inner := func(request []byte) bool {
		var m members
		m.reset(requestNames[:reqModel+1], nil, "", 0)
		m.feed(request)
		if v := m.at(reqModel); v.found() {
			named, _ := text(v.raw)
			at := offset(r.Body, request)
			rename(span{at + v.start, at + v.end}, named)
		}
		return true
	}
	var m members
	m.reset(innerNames, nil, "", 0)
	m.feed(r.Body)
	for i := range innerNames {
		switch raw := m.at(i).raw; {
		case isObject(raw):
			inner(raw)
		case len(raw) > 0 && raw[0] == '[':
			each(raw, inner)
		}
	}
	return edits
}

// offset returns where in p a slice of it begins.
func offset(p, part []byte) int { return cap(p) - cap(part) }

// insert puts a member in front of all others.
func (r *Request) insert(member string) edit {
	if rest := trimBlanks(r.Body[r.open:]); rest[0] != '}' {
		member += ","
	}
	return edit{span{r.open, r.open}, []byte(member)}
}

// DropReasoning takes the reasoning items out of a Responses request: they are
// bound to the account that made them. False says that there are none.
func (r *Request) DropReasoning() bool {
	if len(r.input) == 0 || r.input[0] != '[' {
		return false
	}
	var m members
	kept := []byte{'['}
	dropped := false
	each(r.input, func(item []byte) bool {
		m.reset(typeNames, nil, "", 0)
		m.feed(item)
		if string(m.at(0).raw) == `"reasoning"` {
			dropped = true
			return true
		}
		if len(kept) > 1 {
			kept = append(kept, ',')
		}
		kept = append(kept, item...)
		return true
	})
	if !dropped {
		return false
	}
	body := splice(r.Body, []edit{{span{r.inputAt, r.inputAt + len(r.input)}, append(kept, ']')}}, fresh)
	*r = Request{Call: r.Call, Body: body, ContentType: r.ContentType}
	return r.Read() == nil
}

// canAskUsage is false where the client asked by itself, and where its options
// are of a kind that the upstream has to refuse.
func (r *Request) canAskUsage() bool {
	if r.AsksUsage || !r.UsageOnRequest() {
		return false
	}
	options := r.options.of(r.Body)
	return len(options) == 0 || isObject(options) || string(options) == "null"
}

func (r *Request) askUsage() edit {
	options := r.options.of(r.Body)
	if len(options) == 0 {
		return r.insert(`"stream_options":{"include_usage":true}`)
	}
	if !isObject(options) {
		return edit{r.options, []byte(`{"include_usage":true}`)}
	}
	// Merged into the client's own options, in place of an include_usage there.
	var o members
	o.reset(optionNames, nil, "", 0)
	o.feed(options)
	if v := o.at(0); v.found() {
		return edit{span{r.options.start + v.start, r.options.start + v.end}, []byte("true")}
	}
	with := `"include_usage":true`
	if trimBlanks(options[1:])[0] != '}' {
		with += ","
	}
	at := r.options.start + 1
	return edit{span{at, at}, []byte(with)}
}

type edit struct {
	span
	with []byte
}

// fresh makes memory for n bytes.
func fresh(n int) []byte { return make([]byte, 0, n) }

// splice returns body with the edits made, in memory that alloc makes for it. Edits
// do not overlap.
func splice(body []byte, edits []edit, alloc func(n int) []byte) []byte {
	if len(edits) == 0 {
		return body
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return a.start - b.start })
	size := len(body)
	for _, e := range edits {
		size += len(e.with) - (e.end - e.start)
	}
	out := alloc(size)
	at := 0
	for _, e := range edits {
		out = append(out, body[at:e.start]...)
		out = append(out, e.with...)
		at = e.end
	}
	return append(out, body[at:]...)
}

var seed = maphash.MakeSeed()

// Identity tells bodies apart: two requests with equal bodies have the same. It
// means nothing outside this process.
func (r *Request) Identity() uint64 { return maphash.Bytes(seed, r.Body) }

// Opening returns the first user turn of the conversation, 1 KiB of it at most:
// it stays the same from turn to turn. It is empty if there is none.
func (r *Request) Opening() []byte {
	opening := r.input
	if len(opening) > 0 && opening[0] == '[' {
		opening = nil
		var m members
		each(r.input, func(turn []byte) bool {
			m.reset(turnNames, nil, "", 0)
			m.feed(turn)
			role := string(m.at(0).raw)
			if role != `"user"` && (role != "" || r.Call.Op.Dialect() != Gemini) {
				return true
			}
			opening = m.at(1).raw
			if opening == nil {
				opening = m.at(2).raw
			}
			return false
		})
	}
	return opening[:min(len(opening), 1<<10)]
}

// EstimateInput guesses the tokens of the request from its size: four bytes to a
// token, files and images in base64 left out. Of a form nothing is known: 0.
func (r *Request) EstimateInput() int64 {
	if r.Call.Op.Form() {
		return 0
	}
	size := len(r.Body)
	if !r.mayHoldFile() {
		return int64(size+3) / 4
	}
	for rest := r.Body; ; {
		i := bytes.IndexByte(rest, '"')
		if i < 0 {
			return int64(size+3) / 4
		}
		rest = rest[i+1:]
		n, _, _ := stringEnd(rest)
		if n > minBase64 && isBase64(rest[:n-1]) {
			size -= n
		}
		rest = rest[n:]
	}
}

// minBase64 is the length from which a text without a blank is taken for the
// bytes of a file.
const minBase64 = 1 << 10

// mayHoldFile says whether there may be a file in base64 in the body: such a text
// covers one of the places that are looked at. That is faster than a look at all.
func (r *Request) mayHoldFile() bool {
	const look = 256
	for i := 0; i+look <= len(r.Body); i += minBase64 - look {
		if isBase64(r.Body[i:]) {
			return true
		}
	}
	return false
}

// isBase64 says whether a long text is base64 or a data URL, by its beginning.
func isBase64(s []byte) bool {
	if s = s[:256]; bytes.HasPrefix(s, []byte("data:")) {
		return bytes.Contains(s, []byte(";base64,"))
	}
	for _, c := range s {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '+' && c != '/' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// each calls f for the elements of an array until f returns false.
func each(raw []byte, f func(element []byte) bool) {
	depth, start := 0, -1
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; c {
		case '"':
			if start < 0 {
				start = i
			}
			n, _, _ := stringEnd(raw[i+1:])
			i += n
		case '{', '[':
			if depth++; depth > 1 && start < 0 {
				start = i
			}
		case '}', ']', ',':
			if c != ',' {
				depth--
			}
			if start >= 0 && (depth == 0 || depth == 1 && c == ',') {
				if !f(bytes.TrimSpace(raw[start:i])) {
					return
				}
				start = -1
			}
		case ' ', '\t', '\r', '\n':
		default:
			if start < 0 {
				start = i
			}
		}
	}
}

// maxParts bounds the parts of a form, maxPartHead the header of one.
const (
	maxParts    = 1_000
	maxPartHead = 16 << 10
)

// readForm finds model and stream among the parts of a multipart body.
//
// It takes nothing that two readers might understand differently, so that the
// model that is checked here is the one that the upstream will find.
func (r *Request) readForm() error {
	kind, params, err := mime.ParseMediaType(r.ContentType)
	boundary := params["boundary"]
	if err != nil || kind != "multipart/form-data" || boundary == "" || strings.ContainsAny(boundary, "\r\n") {
		return bad("", "the request's content type must be multipart/form-data with a boundary")
	}
	f := form{body: r.Body, delimiter: []byte("\r\n--" + boundary)}
	if !f.begin() {
		return bad("", "the request's body is not the multipart form that its content type names")
	}
	for parts := 1; !f.done; parts++ {
		if parts > maxParts {
			return bad("", "the request's form has more than %d parts", maxParts)
		}
		name, value, err := f.part()
		if err != nil {
			return err
		}
		switch {
		case name == "model":
			if !r.model.blank() {
				return bad("model", "the field model stands in the request more than once")
			}
			if value.blank() {
				return bad("model", "the field model is empty")
			}
			r.model, r.named = value, string(value.of(r.Body)[:min(value.end-value.start, maxModel+1)])
		case name == "stream":
			r.Stream = string(value.of(r.Body)) == "true"
		case strings.EqualFold(name, "model"):
			return bad("model", "the request has a field that is model but for the case of its letters")
		}
	}
	if r.Model = r.Call.Model; r.Model != "" {
		return nil
	}
	if r.model.blank() {
		return bad("model", "you must provide a model parameter")
	}
	r.Model = r.named
	return r.checkModel()
}

// form goes through the parts of a multipart body.
type form struct {
	body      []byte
	delimiter []byte // CR LF, two hyphens, the boundary
	at        int    // where the next part begins
	done      bool   // no other part follows
}

// begin goes to the first part. The first delimiter may do without the line end
// before it.
func (f *form) begin() bool {
	if bytes.HasPrefix(f.body, f.delimiter[2:]) && f.open(len(f.delimiter)-2) {
		return true
	}
	_, ok := f.next()
	return ok
}

// next goes behind the next delimiter and returns where that begins.
func (f *form) next() (start int, ok bool) {
	for {
		i := bytes.Index(f.body[f.at:], f.delimiter)
		if i < 0 {
			return 0, false
		}
		start = f.at + i
		if f.at = start + len(f.delimiter); f.open(f.at) {
			return start, true
		}
	}
}

// open goes to the line behind a delimiter that ends at; false if it is none
// because its line goes on.
func (f *form) open(at int) bool {
	rest := f.body[at:]
	if f.done = bytes.HasPrefix(rest, []byte("--")); f.done {
		return true
	}
	rest = bytes.TrimLeft(rest, " \t")
	if !bytes.HasPrefix(rest, []byte("\r\n")) {
		return false
	}
	f.at = len(f.body) - len(rest) + 2
	return true
}

// part returns the name of a part and where its value stands, and goes to the
// next one.
func (f *form) part() (name string, value span, err error) {
	head := f.body[f.at:min(len(f.body), f.at+maxPartHead)]
	end := bytes.Index(head, []byte("\r\n\r\n"))
	if end < 0 {
		return "", span{}, bad("", "the request's form has a part without a header, or with one that is too long")
	}
	name, ok := partName(head[:end])
	if !ok {
		return "", span{}, bad("", "the request's form has a part whose header cannot be understood")
	}
	value.start = f.at + end + 4
	f.at = value.start - 2 // a value may be empty: its delimiter begins with the header's line end
	if value.end, ok = f.next(); !ok {
		return "", span{}, bad("", "the request's form ends in the middle of a part")
	}
	value.end = max(value.end, value.start)
	return name, value, nil
}

// partName returns the name that a part's header gives it; false if it gives
// none, or not in the one way that all readers understand.
func partName(head []byte) (name string, ok bool) {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		field, rest, found := bytes.Cut(line, []byte(":"))
		if !found || bytes.ContainsAny(line, "\r\n\x00") || bytes.ContainsAny(field, " \t") {
			return "", false
		}
		if !strings.EqualFold(string(field), "Content-Disposition") {
			continue
		}
		kind, params, err := mime.ParseMediaType(string(bytes.TrimSpace(rest)))
		if ok || err != nil || kind != "form-data" || !isPartName(params["name"]) {
			return "", false
		}
		name, ok = params["name"], true
	}
	return name, ok
}

// isPartName says whether a name is one of plain letters: others are spelled in
// more than one way.
func isPartName(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '%' {
			return false
		}
	}
	return name != ""
}

// text returns the string that raw spells; false if it spells none.
func text(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// quote spells s as a JSON string.
func quote(s string) []byte {
	out, _ := json.Marshal(s) // a string always marshals
	return out
}

// maxNumber is 2^53: beyond it not every whole number can be told from the next.
const maxNumber = 1 << 53

// number returns the whole number that raw spells, 12.0 included; false if it
// spells none or one beyond 2^53.
func number(raw []byte) (int64, bool) {
	digits := raw
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || digits[0] < '0' || digits[0] > '9' {
		return 0, false
	}
	var n int64
	for i, c := range digits {
		if c < '0' || c > '9' || i > 15 {
			f, ok := float(raw)
			if !ok || f > maxNumber || f < -maxNumber || f != float64(int64(f)) {
				return 0, false
			}
			return int64(f), true
		}
		n = n*10 + int64(c-'0')
	}
	if n > maxNumber {
		return 0, false
	}
	if len(digits) < len(raw) {
		n = -n
	}
	return n, true
}

// float returns the number that raw spells, NaN and the infinite ones included.
func float(raw []byte) (float64, bool) {
	f, err := strconv.ParseFloat(string(raw), 64)
	return f, err == nil
}
