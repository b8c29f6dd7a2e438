package dialect

import "bytes"

// format is how the answers of an operation are read.
type format struct {
	// body and event are the members to look for in an answer that is one
	// object, and in the data of an event; inner those inside the member enter.
	body, event, inner []string
	enter              string
	// idle says, at the price of a search, that an event cannot hold anything
	// of interest once content has begun.
	idle func(name, data []byte) bool
	// take reads an event out of a.m and says whether it is to be hidden.
	take func(a *Answer, name []byte) (hidden bool)
	// read reads a whole answer out of a.m.
	read func(a *Answer)
}

func formatOf(op Operation) *format {
	switch op {
	case CreateResponse, CompactResponse:
		return &responsesFormat
	case CreateMessage:
		return &messagesFormat
	case GenerateContent, StreamContent, EmbedContent, BatchEmbedContents:
		return &geminiFormat
	case ImageGenerations, ImageEdits, ImageVariations, Speech, Transcriptions, Translations:
		return &mediaFormat
	case StoredResponse, CountResponse, CountMessage, CountContent:
		return &unbilledFormat
	}
	return &chatFormat
}

// The members of an object that is an answer, or a piece of one.
const (
	objUsage = iota
	objError
	objModel
	objID
	objTier
	objChoices // of a chunk of Chat Completions
	objGroq
	objData     = objChoices // of images
	objFeedback = objTier    // of Gemini
)

var objectNames = []string{
	objUsage: "usage", objError: "error", objModel: "model", objID: "id", objTier: "service_tier",
}

// The members of the data of an event that has a type.
const (
	eventType = iota
	eventError
	eventUsage
	eventMessage
	eventCode
	eventParam
	eventItem  // of Responses
	eventBlock // of Messages
)

var eventNames = []string{
	eventType: "type", eventError: "error", eventUsage: "usage", eventMessage: "message",
	eventCode: "code", eventParam: "param", eventItem: "item", eventBlock: "content_block",
}

// kind returns what the data of an event says that it is, or else its name.
func (a *Answer) kind(name []byte) []byte {
	if raw := a.m.at(eventType).raw; len(raw) > 2 && raw[0] == '"' {
		return raw[1 : len(raw)-1]
	}
	return name
}

// readObject reads a whole answer that is one object.
func readObject(a *Answer) {
	a.identify(a.m.at(objModel), a.m.at(objID))
	a.takeTier(a.m.at(objTier))
	a.takeOpenAI(a.m.at(objUsage).raw)
	a.fail(a.m.at(objError).raw)
}

// chatFormat also serves Completions, Embeddings, moderations and rerankers.
var chatFormat = format{
	body: objectNames,
	event: []string{
		objUsage: "usage", objError: "error", objModel: "model", objID: "id", objTier: "service_tier",
		objChoices: "choices", objGroq: "x_groq",
	},
	idle: func(_, data []byte) bool {
		return !has(data, `"`, `usage"`) && !has(data, `"finish`, `_reason"`) &&
			!has(data, `"er`, `ror"`) && !has(data, `"x_gro`, `q"`)
	},
	take: takeChat,
	read: readObject,
}

// has says whether data may have a member of a name that is not null. The name
// stands between quotes, which are escaped where it is part of a text. It comes
// in two parts, of which the second begins with a letter that is rare: that is
// what the search goes for.
func has(data []byte, before, after string) bool {
	for from := 0; ; {
		i := bytes.Index(data[from:], []byte(after))
		if i < 0 {
			return false
		}
		i += from
		from = i + len(after)
		if !bytes.HasSuffix(data[:i], []byte(before)) {
			continue
		}
		rest := trimBlanks(data[from:])
		if len(rest) > 0 && rest[0] == ':' {
			rest = trimBlanks(rest[1:])
		}
		if len(rest) == 0 || rest[0] != 'n' {
			return true
		}
	}
}

func takeChat(a *Answer, _ []byte) (hidden bool) {
	a.identify(a.m.at(objModel), a.m.at(objID))
	a.takeTier(a.m.at(objTier))
	reported := a.m.at(objUsage)
	if groq := a.m.at(objGroq).raw; !a.takeOpenAI(reported.raw) && isObject(groq) {
		var m members
		m.reset(objectNames, nil, "", 0)
		m.feed(groq)
		a.takeOpenAI(m.at(objUsage).raw)
	}
	if a.fail(a.m.at(objError).raw) {
		a.Terminal = true
		return false
	}
	choices := a.m.at(objChoices)
	if choices.long {
		a.Content = true
		return false
	}
	content, bare := a.readChoices(choices.raw)
	a.Content = a.Content || content
	return a.hide && bare && isObject(reported.raw)
}

// readChoices reads the choices of a chunk, and takes notice of a reason to
// finish. content says that one of them has content; bare that a reader misses
// nothing without any of them.
func (a *Answer) readChoices(choices []byte) (content, bare bool) {
	if !full(choices) {
		return false, true
	}
	if choices[0] != '[' {
		return false, false
	}
	bare = true
	var c, d members
	each(choices, func(el []byte) bool {
		c.reset(choiceNames, nil, "", 0)
		c.feed(el)
		if full(c.at(choiceFinish).raw) {
			content, bare, a.Finished = true, false, true
		}
		if full(c.at(choiceText).raw) {
			content, bare = true, false
		}
		delta := c.at(choiceDelta).raw
		bare = bare && !full(delta)
		if !content && isObject(delta) {
			d.reset(deltaNames, nil, "", 0)
			d.feed(delta)
			for i := range deltaNames {
				content = content || full(d.at(i).raw)
			}
		}
		return true
	})
	return content, bare
}

const (
	choiceDelta = iota
	choiceFinish
	choiceText
)

var (
	choiceNames = []string{choiceDelta: "delta", choiceFinish: "finish_reason", choiceText: "text"}
	// deltaNames are the members of a delta that are content.
	deltaNames = []string{
		"content", "tool_calls", "refusal", "function_call", "audio", "images",
		"reasoning_content", "reasoning", "reasoning_text", "reasoning_details",
	}
)

// full says whether a value is there and not empty.
func full(raw []byte) bool {
	switch string(raw) {
	case "", "null", `""`, "[]", "{}":
		return false
	}
	return true
}

func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }

// responsesFormat: the response object stands alone in a plain answer and in the
// member response of the events that carry it.
var responsesFormat = format{
	body:  objectNames,
	event: eventNames,
	enter: "response",
	inner: objectNames,
	idle: func(name, _ []byte) bool {
		switch string(name) {
		case "response.completed", "response.incomplete", "response.failed", "response.cancelled":
			return false
		}
		return bytes.HasPrefix(name, []byte("response."))
	},
	take: takeResponses,
	read: readObject,
}

func takeResponses(a *Answer, name []byte) (hidden bool) {
	a.identify(a.m.in(objModel), a.m.in(objID))
	switch kind := a.kind(name); string(kind) {
	case "response.created", "response.in_progress", "response.queued",
		"response.content_part.added", "response.reasoning_summary_part.added", "ping", "keepalive":
		return false
	case "response.output_item.added":
		// Of a message or of reasoning nothing is known yet; a call has a name.
		switch opened(a.m.at(eventItem).raw) {
		case "message", "reasoning":
			return false
		}
	case "response.completed", "response.incomplete", "response.failed", "response.cancelled":
		a.takeTier(a.m.in(objTier))
		a.takeOpenAI(a.m.in(objUsage).raw)
		a.Terminal, a.Finished = true, true
		if string(kind) == "response.failed" {
			a.fail(a.m.in(objError).raw)
			a.Failed = true
			return false
		}
	case "error":
		if !a.fail(a.m.at(eventError).raw) {
			a.Failed = true
			a.Problem = Problem{
				Message: word(a.m.at(eventMessage).raw),
				Code:    word(a.m.at(eventCode).raw),
				Param:   word(a.m.at(eventParam).raw),
			}
		}
		a.Terminal = true
		return false
	default:
		if a.fail(a.m.at(eventError).raw) {
			a.Terminal = true
			return false
		}
		if len(kind) == 0 {
			return false
		}
	}
	a.Content = true
	return false
}

// opened returns the type of an item or block that an event begins, if nothing
// but its type is known; else "".
func opened(raw []byte) string {
	var m members
	m.reset(openedNames, nil, "", 0)
	m.feed(raw)
	if full(m.at(1).raw) || full(m.at(2).raw) {
		return ""
	}
	return word(m.at(0).raw)
}

var openedNames = []string{"type", "text", "thinking"}

// messagesFormat: usage stands in the message that message_start carries and
// beside the delta of message_delta.
var messagesFormat = format{
	body:  objectNames,
	event: eventNames,
	enter: "message",
	inner: objectNames,
	idle: func(name, _ []byte) bool {
		switch string(name) {
		case "content_block_start", "content_block_delta", "content_block_stop", "ping":
			return true
		}
		return false
	},
	take: takeMessages,
	read: func(a *Answer) {
		a.identify(a.m.at(objModel), a.m.at(objID))
		a.takeMessages(a.m.at(objUsage).raw)
		a.fail(a.m.at(objError).raw)
	},
}

func takeMessages(a *Answer, name []byte) (hidden bool) {
	kind := a.kind(name)
	if failed := a.fail(a.m.at(eventError).raw); failed || string(kind) == "error" {
		a.Failed, a.Terminal = true, true
		return false
	}
	switch string(kind) {
	case "message_start":
		a.identify(a.m.in(objModel), a.m.in(objID))
		a.takeMessages(a.m.in(objUsage).raw)
		return false
	case "", "ping":
		return false
	case "content_block_start":
		switch opened(a.m.at(eventBlock).raw) {
		case "text", "thinking":
			return false
		}
	case "content_block_stop":
		return false
	case "message_delta":
		a.takeMessages(a.m.at(eventUsage).raw)
	case "message_stop":
		a.Terminal, a.Finished = true, true
	}
	a.Content = true
	return false
}

// geminiFormat: every event is an answer of its own, with more of the text.
var geminiFormat = format{
	body:  geminiObject,
	event: geminiObject,
	enter: "candidates",
	inner: []string{"finishReason"},
	take:  takeGemini,
	read: func(a *Answer) {
		takeGemini(a, nil)
		a.Terminal = false
	},
}

var geminiObject = []string{
	objUsage: "usageMetadata", objError: "error", objModel: "modelVersion", objID: "responseId",
	objFeedback: "promptFeedback",
}

func takeGemini(a *Answer, _ []byte) (hidden bool) {
	a.identify(a.m.at(objModel), a.m.at(objID))
	if raw := a.m.at(objUsage).raw; isObject(raw) {
		a.gemini.merge(raw)
		a.Reported = a.gemini.any
		note(&a.tokens, a.gemini.anomaly)
	}
	if a.fail(a.m.at(objError).raw) {
		a.Terminal = true
		return false
	}
	// There is no terminal event: the last candidate has a reason to finish, and
	// a prompt that was refused has none.
	refused := has(a.m.at(objFeedback).raw, `"block`, `Reason"`)
	a.Content = a.Content || refused || a.m.entered > 0
	a.Finished = a.Finished || refused || full(a.m.in(0).raw)
	return false
}

// mediaFormat: images and audio, whose plain answers may be no JSON at all.
var mediaFormat = format{
	body: []string{
		objUsage: "usage", objError: "error", objModel: "model", objID: "id", objTier: "service_tier",
		objData: "data",
	},
	event: eventNames,
	take: func(a *Answer, name []byte) (hidden bool) {
		kind := a.kind(name)
		reported := a.takeOpenAI(a.m.at(eventUsage).raw)
		if failed := a.fail(a.m.at(eventError).raw); failed || string(kind) == "error" {
			a.Failed, a.Terminal = true, true
			return false
		}
		a.Content = true
		a.Finished = a.Finished || reported || bytes.HasSuffix(kind, []byte(".done")) || bytes.HasSuffix(kind, []byte(".completed"))
		return false
	},
	read: func(a *Answer) {
		images := a.m.at(objData).items
		if !a.takeOpenAI(a.m.at(objUsage).raw) && images > 0 {
			a.tokens.Images, a.Reported = int64(images), true
		}
		a.fail(a.m.at(objError).raw)
	},
}

// unbilledFormat: answers that cost nothing, though they may repeat the usage of
// an earlier one.
var unbilledFormat = format{
	event: eventNames,
	take: func(a *Answer, name []byte) (hidden bool) {
		switch string(a.kind(name)) {
		case "response.completed", "response.incomplete", "response.failed", "response.cancelled", "error":
			a.Terminal, a.Finished = true, true
		}
		a.Content = true
		return false
	},
	read: func(*Answer) {},
}

// identify takes the model and the id that an answer names. Azure's first chunk
// has empty ones.
func (a *Answer) identify(model, id *value) {
	if a.Model == "" {
		a.Model = shortText(model.raw)
	}
	if a.ID == "" {
		a.ID = shortText(id.raw)
	}
}

// shortText returns the string that raw spells, unless it is no name.
func shortText(raw []byte) string {
	if len(raw) > 512 {
		return ""
	}
	s, _ := text(raw)
	return s
}

func (a *Answer) takeTier(v *value) {
	if full(v.raw) {
		a.tokens.Tier = tier(v.raw)
	}
}

// fail takes notice of an error; false if raw is none.
func (a *Answer) fail(raw []byte) bool {
	if !full(raw) || raw[0] != '{' && raw[0] != '[' && raw[0] != '"' {
		return false
	}
	a.Failed = true
	if a.Problem = (Problem{Message: word(raw)}); raw[0] != '"' {
		a.Problem = ReadProblem(raw)
	}
	return true
}

func (a *Answer) takeOpenAI(raw []byte) bool {
	if !isObject(raw) {
		return false
	}
	t, ok := openAITokens(raw)
	if ok {
		t.Tier = a.tokens.Tier
		a.tokens, a.Reported = t, true
	} else {
		note(&a.tokens, t.Anomaly)
	}
	return ok
}

func (a *Answer) takeMessages(raw []byte) {
	if isObject(raw) {
		a.messages.merge(raw)
		a.Reported = a.messages.any
		note(&a.tokens, a.messages.anomaly)
	}
}
