package translate

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/floway/floway/dialect"
)

// The codec of Chat Completions: requests. Source of the members: the typings of
// OpenAI's SDK; what compatible servers and their clients do besides is said
// where it matters.

// chatNames: what OpenAI takes for the name of a function.
var chatNames = nameRule{most: 64}

// maxChatList bounds the tools of a request, the names in a choice and the calls
// in a message: they are compared with each other. OpenAI takes 128 tools.
const maxChatList = 2048

// maxChatID is the longest id of a call that OpenAI takes.
const maxChatID = 40

// readChat reads a request.
func (c *Conversation) readChat(s *source) {
	asked, choice := false, ""
	s.object(func(name []byte) {
		switch string(name) {
		case "model", "stream":
			s.skip() // dialect.Request has read them
		case "stream_options":
			s.object(func(name []byte) {
				switch string(name) {
				case "include_usage":
					c.Usage = s.boolean()
				case "include_obfuscation":
					s.skip() // padding against eavesdroppers: there is none to leave out
				default:
					c.chatUse(s, unknownField)
				}
			})
		case "messages":
			asked = true
			s.list(func(int) { c.readChatMessage(s) })
		case "max_completion_tokens":
			if n := chatCount(s); n > 0 {
				c.MaxTokens = n
			}
		case "max_tokens":
			if n := chatCount(s); c.MaxTokens == 0 {
				c.MaxTokens = n
			}
		case "stop":
			c.readChatStop(s)
		case "temperature":
			c.Temperature = c.chatNumber(s, temperature)
		case "top_p":
			c.TopP = c.chatNumber(s, topP)
		case "presence_penalty":
			c.PresencePenalty = c.chatNumber(s, presencePenalty)
		case "frequency_penalty":
			c.FrequencyPenalty = c.chatNumber(s, frequencyPenalty)
		case "seed":
			c.Seed = c.chatNumber(s, seed)
		case "n":
			if c.Candidates = chatCount(s); c.Candidates > 1 {
				c.use(candidates, s.field())
			}
		case "logit_bias":
			if c.LogitBias = chatObject(s); c.LogitBias != nil {
				c.use(logitBias, s.field())
			}
		case "logprobs":
			if c.LogProbs = s.boolean(); c.LogProbs {
				c.use(logProbs, s.field())
			}
		case "top_logprobs":
			c.TopLogProbs = s.integer()
		case "tools":
			s.list(func(int) { c.readChatTool(s) })
		case "functions":
			s.list(func(i int) {
				if i == 0 {
					c.Legacy, c.Serial = true, true
					c.use(serialCalls, "functions")
				}
				t := Tool{Field: s.field()}
				c.readChatFunction(s, &t)
				c.Tools = append(c.Tools, t)
			})
		case "tool_choice", "function_call":
			choice = s.field()
			c.readChatChoice(s)
		case "parallel_tool_calls":
			if !s.null() {
				if c.Serial = !s.boolean() || c.Legacy; c.Serial {
					c.use(serialCalls, s.field())
				}
			}
		case "response_format":
			c.readChatFormat(s)
		case "reasoning_effort":
			c.readChatEffort(s)
		case "verbosity":
			c.Verbosity = c.chatWord(s, verbosity)
		case "modalities":
			s.list(func(int) {
				if s.string() == "audio" {
					c.use(audioOut, s.field())
				}
			})
		case "audio":
			c.chatUse(s, audioOut)
		case "prediction":
			c.chatUse(s, prediction)
		case "web_search_options":
			c.chatUse(s, webSearchOptions)
		case "moderation":
			c.chatUse(s, moderation)
		case "prompt_cache_key":
			c.CacheKey = c.chatWord(s, cacheKey)
		case "prompt_cache_retention", "prompt_cache_options":
			c.chatUse(s, cacheRetention)
		case "safety_identifier":
			if word := c.chatWord(s, endUser); word != "" {
				c.EndUser = word
			}
		case "user":
			if word := c.chatWord(s, endUser); c.EndUser == "" {
				c.EndUser = word
			}
		case "service_tier":
			c.Tier = c.chatWord(s, serviceTier)
		case "metadata":
			if c.Metadata = chatObject(s); c.Metadata != nil {
				c.use(metadata, s.field())
			}
		case "store":
			if !s.null() {
				keep := s.boolean()
				c.Store = &keep
				c.use(store, s.field())
			}
		default:
			c.chatUse(s, unknownField)
		}
	})
	switch {
	case s.err != nil:
	case len(c.Tools) > maxChatList:
		s.failWith(bad("tools", "the field tools has more than %d elements", maxChatList))
	case len(c.Choice.Only) > maxChatList:
		s.failWith(bad(choice, "the field %s names more than %d tools", choice, maxChatList))
	case !asked:
		s.failWith(bad("messages", "the field messages is required"))
	case len(c.System)+len(c.Turns) == 0:
		s.failWith(bad("messages", "the field messages is empty"))
	default:
		s.failWith(c.checkChatChoice(choice))
	}
}

// chatUse notes a use of a feature whose value is of no interest; a null is none.
func (c *Conversation) chatUse(s *source, f feature) {
	if s.err == nil && !s.null() {
		c.use(f, s.field())
		s.skip()
	}
}

func (c *Conversation) chatNumber(s *source, f feature) Number {
	n := s.number()
	if n != "" {
		c.use(f, s.field())
	}
	return n
}

func (c *Conversation) chatWord(s *source, f feature) string {
	word := s.string()
	if word != "" {
		c.use(f, s.field())
	}
	return word
}

// chatCount reads a number that is at least 1; 0 if there is none.
func chatCount(s *source) int64 {
	if s.null() {
		return 0
	}
	n := s.integer()
	if s.err == nil && n < 1 {
		s.fail("%s must be at least 1", s.what())
	}
	return n
}

// chatObject reads an object as it stands; nil for a null.
func chatObject(s *source) []byte {
	if c := s.next(); c != '{' && !s.null() {
		s.fail("%s must be an object", s.what())
	} else if c == '{' {
		return s.raw()
	}
	return nil
}

func chatFlag(s *source) *bool {
	if s.null() {
		return nil
	}
	b := s.boolean()
	return &b
}

func (c *Conversation) readChatStop(s *source) {
	c.Stop = nil
	if one, ok := s.stringOr(); ok {
		c.Stop = []string{one}
	} else {
		s.list(func(int) { c.Stop = append(c.Stop, s.string()) })
	}
	if len(c.Stop) > 0 {
		c.use(stopSequences, s.field())
	}
}

// readChatEffort: a client that says how much to think is one that can make use
// of what was thought.
func (c *Conversation) readChatEffort(s *source) {
	word := s.string()
	switch {
	case word == "":
	case !knownEffort(word):
		s.fail("%s must be one of none, minimal, low, medium, high, xhigh and max", s.what())
	default:
		shown := word != "none"
		c.Reasoning = Reasoning{Effort: word, Visible: shown, Sealed: shown, Field: s.field()}
		c.use(effort, s.field())
	}
}

func (c *Conversation) readChatFormat(s *source) {
	kind := ""
	c.Format = Format{Field: s.field()}
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "json_schema":
			s.object(func(name []byte) {
				switch string(name) {
				case "name":
					c.Format.Name = s.string()
				case "description":
					c.Format.Description = s.string()
				case "schema":
					c.Format.Schema = chatObject(s)
				case "strict":
					c.Format.Strict = chatFlag(s)
				default:
					c.chatUse(s, unknownField)
				}
			})
		default:
			c.chatUse(s, unknownField)
		}
	})
	switch field := c.Format.Field; kind {
	case "", "text":
		c.Format = Format{}
	case "json_object":
		c.Format = Format{Kind: JSONFormat, Field: field}
		c.use(jsonFormat, field)
	case "json_schema":
		c.Format.Kind = SchemaFormat
		if c.Format.Schema == nil {
			s.failWith(bad(field+".json_schema.schema", "the field %s.json_schema.schema is required", field))
		}
		c.use(schemaFormat, field)
	default:
		s.failWith(bad(field+".type", "the field %s.type must be one of text, json_object and json_schema", field))
	}
}

func (c *Conversation) readChatTool(s *source) {
	t := Tool{Field: s.field()}
	kind, function := "function", false
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "function":
			function = true
			c.readChatFunction(s, &t)
		case "custom":
			s.object(func(name []byte) {
				switch string(name) {
				case "name":
					t.Name = s.string()
				case "description":
					t.Description = s.string()
				case "format":
					t.Grammar = chatObject(s)
				default:
					c.chatUse(s, unknownField)
				}
			})
		case "cache_control":
			t.Cache = c.readChatMark(s)
		default:
			if kind == "function" || kind == "custom" {
				c.chatUse(s, unknownField)
			} else {
				s.skip() // of a tool that is left out as a whole
			}
		}
	})
	switch {
	case kind == "custom":
		t.Custom = true
		c.use(customTool, t.Field)
	case kind != "function":
		c.use(hostedTool, t.Field)
		return
	case !function:
		s.failWith(bad(t.Field+".function", "the field %s.function is required", t.Field))
	}
	if t.Name == "" {
		s.failWith(bad(t.Field+"."+kind+".name", "the field %s.%s.name is required", t.Field, kind))
	}
	c.Tools = append(c.Tools, t)
}

func (c *Conversation) readChatFunction(s *source, t *Tool) {
	s.object(func(name []byte) {
		switch string(name) {
		case "name":
			if t.Name = s.string(); t.Name == "" {
				s.fail("%s is empty", s.what())
			}
		case "description":
			t.Description = s.string()
		case "parameters":
			t.Schema = chatObject(s)
		case "strict":
			t.Strict = chatFlag(s)
		default:
			c.chatUse(s, unknownField)
		}
	})
}

// readChatChoice reads tool_choice, and function_call of the time before it.
func (c *Conversation) readChatChoice(s *source) {
	if s.null() {
		return
	}
	c.Choice = Choice{Field: s.field()}
	if word, ok := s.stringOr(); ok {
		switch word {
		case "auto":
			c.Choice.Mode = Auto
		case "required", "any": // Mistral's clients say any
			c.Choice.Mode = Required
		case "none":
			c.Choice.Mode = None
		default:
			s.fail("%s must be none, auto, required or an object that names a tool", s.what())
		}
		return
	}
	kind, mode := "function", Required
	named := func(name []byte) {
		if string(name) != "name" {
			c.chatUse(s, unknownField)
			return
		}
		c.Choice.Only = append(c.Choice.Only, s.string())
	}
	tool := func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "function", "custom":
			s.object(named)
		default:
			named(name) // {"name"} is what function_call looks like
		}
	}
	s.object(func(name []byte) {
		if string(name) != "allowed_tools" {
			tool(name)
			return
		}
		mode = Auto
		s.object(func(name []byte) {
			switch string(name) {
			case "mode":
				if s.string() == "required" {
					mode = Required
				}
			case "tools":
				s.list(func(int) { s.object(tool) })
			default:
				c.chatUse(s, unknownField)
			}
		})
	})
	c.Choice.Mode = mode
	if s.err != nil {
		return
	}
	switch {
	case kind != "function" && kind != "custom" && kind != "allowed_tools":
		c.use(forcedHostedTool, c.Choice.Field)
	case len(c.Choice.Only) == 0:
		s.fail("%s names no tool", s.what())
	}
}

// checkChatChoice: a tool that is asked for has to be there.
func (c *Conversation) checkChatChoice(field string) error {
	for _, name := range c.Choice.Only {
		if !slices.ContainsFunc(c.Tools, func(t Tool) bool { return t.Name == name }) {
			return bad(field, "the field %s names the tool %q, which the request does not have", field, clip(name))
		}
	}
	return nil
}

// readChatMark reads the mark of a prefix to cache: OpenAI's, and the one of
// Messages that OpenRouter takes.
func (c *Conversation) readChatMark(s *source) string {
	if s.null() {
		return ""
	}
	life := "5m"
	c.use(cacheMark, s.field())
	s.object(func(name []byte) {
		if string(name) == "ttl" && s.next() == '"' {
			if s.string() == "1h" {
				life = "1h"
			}
			return
		}
		s.skip()
	})
	return life
}

// chatMessage is one element of messages.
type chatMessage struct {
	role     string
	parts    []Part
	calls    []Part
	refusal  string
	thoughts string
	opaque   string
	callID   string
	name     string
}

func (c *Conversation) readChatMessage(s *source) {
	var m chatMessage
	s.object(func(name []byte) {
		switch string(name) {
		case "role":
			m.role = s.string()
		case "content":
			m.parts = c.readChatContent(s)
		case "name":
			m.name = s.string()
		case "refusal":
			m.refusal = s.string()
		case "tool_call_id":
			m.callID = s.string()
		case "tool_calls":
			s.list(func(int) { m.calls = append(m.calls, c.readChatCall(s)) })
		case "function_call":
			if !s.null() {
				p := Part{Kind: Call, Call: &ToolCall{}, Field: s.field()}
				c.readChatCalled(s, p.Call)
				m.calls = append(m.calls, p)
			}
		case "reasoning_content", "reasoning", "reasoning_text":
			if text, ok := s.stringOr(); !ok {
				c.chatUse(s, unknownField)
			} else if m.thoughts == "" {
				m.thoughts = text
			}
		case "reasoning_opaque":
			m.opaque = s.string()
		case "annotations":
			if raw := s.raw(); len(raw) > len("[]") {
				c.use(citations, s.field())
			}
		case "audio":
			c.chatUse(s, audioOut)
		default:
			c.chatUse(s, unknownField)
		}
	})
	if s.err == nil {
		s.failWith(c.addChatMessage(&m, s.field()))
	}
}

// addChatMessage makes turns of a message that stands at field.
func (c *Conversation) addChatMessage(m *chatMessage, field string) error {
	if len(m.calls) > 0 && m.role != "assistant" {
		return bad(field+".tool_calls", "%s: only the assistant calls tools", field)
	}
	if m.name != "" && m.role != "tool" && m.role != "function" {
		c.use(authorName, field+".name")
	}
	t := Turn{Role: User, Parts: m.parts, Field: field}
	switch m.role {
	case "system", "developer":
		if err := onlyChat(m, field, Text); err != nil {
			return err
		}
		if len(c.Turns) == 0 {
			c.System = append(c.System, m.parts...)
			return nil
		}
		t.Role = System
		c.use(laterSystem, field)
	case "user":
		if err := onlyChat(m, field, Text, Image, File, Audio); err != nil {
			return err
		}
	case "assistant":
		if len(m.parts) > 0 {
			if err := onlyChat(m, field, Text, Refusal, Thought); err != nil {
				return err
			}
		}
		if len(m.calls) > maxChatList {
			return bad(field+".tool_calls", "the field %s.tool_calls has more than %d elements", field, maxChatList)
		}
		t.Role = Assistant
		t.Parts = append(chatThoughts(m.thoughts, m.opaque, field), m.parts...)
		if m.refusal != "" {
			t.Parts = append(t.Parts, Part{Kind: Refusal, Text: m.refusal, Field: field + ".refusal"})
		}
		for i := range m.calls {
			id := m.calls[i].Call.ID
			if id != "" && slices.ContainsFunc(m.calls[:i], func(p Part) bool { return p.Call.ID == id }) {
				return bad(m.calls[i].Field+".id", "%s: the id %q stands in the message twice", m.calls[i].Field, clip(id))
			}
		}
		t.Parts = append(t.Parts, m.calls...)
	case "tool", "function":
		if len(m.parts) > 0 {
			if err := onlyChat(m, field, Text, Image, File); err != nil {
				return err
			}
		}
		r := &ToolResult{Parts: m.parts}
		need := "tool_call_id"
		if m.role == "function" {
			need, r.Name = "name", m.name
		} else {
			r.ID, _ = splitChatID(m.callID)
		}
		if r.ID+r.Name == "" {
			return bad(field+"."+need, "the field %s.%s is required", field, need)
		}
		t.Parts = []Part{{Kind: Result, Result: r, Field: field}}
	case "":
		return bad(field+".role", "the field %s.role is required", field)
	default:
		return bad(field+".role", "%s.role is %q; it must be one of developer, system, user, assistant, tool and function", field, clip(m.role))
	}
	c.Turns = append(c.Turns, t)
	return nil
}

// onlyChat checks that the content of a message is there, and of certain kinds.
func onlyChat(m *chatMessage, field string, kinds ...Kind) error {
	if len(m.parts) == 0 {
		return bad(field+".content", "the field %s.content is required", field)
	}
	for i := range m.parts {
		if !slices.Contains(kinds, m.parts[i].Kind) {
			at := m.parts[i].Field
			return bad(at, "%s: content of this type cannot stand in a message of the role %s", at, m.role)
		}
	}
	return nil
}

// readChatCall reads an element of tool_calls.
func (c *Conversation) readChatCall(s *source) Part {
	p := Part{Kind: Call, Call: &ToolCall{}, Field: s.field()}
	s.object(func(name []byte) {
		switch string(name) {
		case "id":
			p.Call.ID, p.State = splitChatID(s.string())
		case "type":
			p.Call.Custom = s.string() == "custom"
		case "function", "custom":
			c.readChatCalled(s, p.Call)
		case "index":
			s.skip() // left over from a stream's fragments
		default:
			c.chatUse(s, unknownField)
		}
	})
	switch {
	case s.err != nil:
	case p.Call.ID == "":
		s.failWith(bad(p.Field+".id", "the field %s.id is required", p.Field))
	case p.Call.Name == "":
		s.failWith(bad(p.Field+".function.name", "%s has no name of a function", p.Field))
	}
	return p
}

// readChatCalled reads what was called, and with which arguments.
func (c *Conversation) readChatCalled(s *source, call *ToolCall) {
	s.object(func(name []byte) {
		switch string(name) {
		case "name":
			call.Name = s.string()
		case "arguments", "input":
			if s.next() == '{' { // as Ollama's own dialect has them
				call.Arguments = string(s.raw())
			} else {
				call.Arguments = s.string()
			}
		default:
			c.chatUse(s, unknownField)
		}
	})
}

func (c *Conversation) readChatContent(s *source) []Part {
	switch s.next() {
	case '"':
		return []Part{{Kind: Text, Text: s.string(), Field: s.field()}}
	case '[', 'n':
	default:
		s.fail("%s must be a string or an array", s.what())
	}
	var parts []Part
	s.list(func(int) { parts = append(parts, c.readChatPart(s)) })
	return parts
}

// chatPartTypes are the types of content; each has a member of its name.
var chatPartTypes = []string{"text", "refusal", "image_url", "input_audio", "file", "thinking"}

func (c *Conversation) readChatPart(s *source) Part {
	p := Part{Field: s.field()}
	kind, text, have := "", "", uint(0)
	s.object(func(name []byte) {
		for i, member := range chatPartTypes {
			if string(name) == member {
				have |= 1 << i
			}
		}
		switch string(name) {
		case "type":
			kind = s.string()
		case "text", "refusal":
			text = s.string()
		case "image_url":
			p.Kind, p.Media = Image, &Media{}
			c.readChatImage(s, p.Media)
		case "input_audio":
			p.Kind, p.Media = Audio, &Media{}
			c.readChatAudio(s, p.Media)
		case "file":
			p.Kind, p.Media = File, &Media{}
			c.readChatFile(s, p.Media)
		case "thinking": // of Mistral
			text = readChatThinking(s)
		case "prompt_cache_breakpoint", "cache_control":
			p.Cache = c.readChatMark(s)
		default:
			c.chatUse(s, unknownField)
		}
	})
	i := slices.Index(chatPartTypes, kind)
	switch {
	case s.err != nil:
	case kind == "":
		s.failWith(bad(p.Field+".type", "the field %s.type is required", p.Field))
	case i < 0:
		s.failWith(bad(p.Field+".type", "%s: content of the type %q is not known", p.Field, clip(kind)))
	case have>>i&1 == 0:
		s.failWith(bad(p.Field+"."+kind, "the field %s.%s is required", p.Field, kind))
	case kind == "text":
		p.Kind, p.Text, p.Media = Text, text, nil
	case kind == "refusal":
		p.Kind, p.Text, p.Media = Refusal, text, nil
	case kind == "thinking":
		p.Kind, p.Text, p.Media = Thought, text, nil
	case strings.HasPrefix(p.Media.Type, "image/"):
		p.Kind = Image // also one that came as a file
	}
	return p
}

// readChatThinking reads the reasoning of Mistral's models: text, or parts of it.
func readChatThinking(s *source) (text string) {
	if text, ok := s.stringOr(); ok {
		return text
	}
	s.list(func(int) {
		s.object(func(name []byte) {
			if string(name) == "text" {
				text += s.string()
				return
			}
			s.skip()
		})
	})
	return text
}

func (c *Conversation) readChatImage(s *source, m *Media) {
	if url, ok := s.stringOr(); ok { // as some clients spell it
		c.chatURL(s, m, url, imageURL)
		return
	}
	s.object(func(name []byte) {
		switch string(name) {
		case "url":
			c.chatURL(s, m, s.string(), imageURL)
		case "detail":
			if m.Detail = s.string(); m.Detail != "" && m.Detail != "auto" {
				c.use(mediaDetail, s.field())
			}
		default:
			c.chatUse(s, unknownField)
		}
	})
	if s.err == nil && m.URL+m.Data == "" {
		s.fail("%s has no url", s.what())
	}
}

// chatURL takes a URL that holds the bytes or says where they are.
func (c *Conversation) chatURL(s *source, m *Media, url string, byAddress feature) {
	scheme, _, _ := strings.Cut(url, ":")
	switch strings.ToLower(scheme) {
	case "http", "https":
		m.URL = url
		c.use(byAddress, s.field())
	case "data":
		var ok bool
		if m.Type, m.Data, ok = cutDataURL(url); !ok {
			s.fail("%s is no data URL with base64 in it", s.what())
		}
	default:
		if s.err == nil {
			s.fail("%s must be an http, https or data URL", s.what())
		}
	}
}

// cutDataURL takes a data URL apart; false if it does not hold base64.
func cutDataURL(url string) (mediaType, data string, ok bool) {
	head, data, found := strings.Cut(url, ",")
	head, base64 := strings.CutSuffix(head, ";base64")
	if !found || !base64 || data == "" {
		return "", "", false
	}
	mediaType, _, _ = strings.Cut(head[len("data:"):], ";")
	return strings.ToLower(mediaType), data, true
}

func (c *Conversation) readChatAudio(s *source, m *Media) {
	c.use(audioIn, s.field())
	s.object(func(name []byte) {
		switch string(name) {
		case "data":
			m.Data = s.string()
		case "format":
			m.Type = "audio/" + s.string()
		default:
			c.chatUse(s, unknownField)
		}
	})
	if s.err == nil && (m.Data == "" || len(m.Type) <= len("audio/")) {
		s.fail("%s must have data and a format", s.what())
	}
}

func (c *Conversation) readChatFile(s *source, m *Media) {
	s.object(func(name []byte) {
		switch string(name) {
		case "file_data":
			data := s.string()
			if strings.Contains(data[:min(len(data), len("https:"))], ":") {
				c.chatURL(s, m, data, documentURL)
			} else {
				m.Type, m.Data = "application/pdf", data
			}
		case "file_id":
			if m.ID = s.string(); m.ID != "" {
				c.use(fileID, s.field())
			}
		case "filename":
			m.Name = s.string()
		default:
			c.chatUse(s, unknownField)
		}
	})
	if s.err == nil && m.URL+m.Data+m.ID == "" {
		s.fail("%s has neither file_data nor file_id", s.what())
		return
	}
	if m.Type == "text/plain" {
		text, err := base64.StdEncoding.DecodeString(m.Data)
		if err != nil || !utf8.Valid(text) {
			s.fail("%s.file_data is no plain text in base64", s.what())
			return
		}
		m.Plain, m.Data = string(text), ""
		c.use(documentText, s.field())
	}
}

// The place of sealed reasoning at a client of Chat Completions. A call's state
// stands behind the id of the call, which every client sends back. States of
// thoughts stand in reasoning_opaque beside reasoning_content, separated by
// blanks: a number says at which byte of that text the thought begins, none
// stands for its beginning.

// chatStateMark separates the id of a call from its state.
const chatStateMark = "__"

// maxChatState bounds an id with a state in it.
const maxChatState = 8 << 10

// splitChatID takes the state off an id.
func splitChatID(id string) (string, State) {
	bare, envelope, ok := strings.Cut(id, chatStateMark+sealMark)
	if !ok {
		return id, State{}
	}
	state, _ := unseal(sealMark + envelope)
	return bare, state
}

// chatThoughts makes the thoughts of a message.
func chatThoughts(text, opaque, field string) []Part {
	var parts []Part
	add := func(text string, state State) {
		if text != "" || !state.Empty() {
			parts = append(parts, Part{Kind: Thought, Text: text, State: state, Field: field})
		}
	}
	var last State
	from := 0
	for word := range strings.FieldsSeq(opaque) {
		at := 0
		if digits, rest, ok := strings.Cut(word, ":"); ok {
			if at = chatOffset(digits, text); at < from {
				return nil // the text is another one than the states belong to
			}
			word = rest
		}
		add(text[from:at], last)
		from = at
		if last, _ = unseal(word); last.Empty() && strings.HasPrefix(word, sealMark) {
			return nil
		}
	}
	add(text[from:], last)
	return parts
}

// chatOffset reads where in text a thought begins; -1 if nowhere.
func chatOffset(digits, text string) int {
	n := 0
	for _, c := range []byte(digits) {
		if n = n*10 + int(c-'0'); c < '0' || c > '9' || n > len(text) {
			return -1
		}
	}
	if n < len(text) && !utf8.RuneStart(text[n]) {
		return -1
	}
	return n
}

// writeChat writes the request for an upstream.
func (r *Request) writeChat() error {
	c, w := r.c, &r.w
	// The tools of the request come first: they keep their names.
	for i := range c.Tools {
		r.chatName(&c.Tools[i])
	}
	w.open('{')
	w.member("model", r.o.Model)
	w.name("messages")
	w.open('[')
	if text := chatText(c.System, "\n\n"); text != "" {
		r.openChat("system")
		w.member("content", text)
		w.shut('}')
	}
	for i := range c.Turns {
		if err := r.writeChatTurn(&c.Turns[i]); err != nil {
			return err
		}
	}
	w.shut(']')
	r.writeChatTools()
	r.writeChatFormat()
	if c.Counting {
		w.shut('}')
		return nil
	}
	if n := r.bound(); n > 0 {
		w.intMember(r.maxTokensName(), n)
	}
	if len(c.Stop) > 0 {
		w.name("stop")
		w.open('[')
		for _, stop := range c.Stop {
			w.string(stop)
		}
		w.shut(']')
	}
	r.writeChatSampling()
	if c.LogitBias != nil {
		w.rawMember("logit_bias", c.LogitBias)
	}
	if c.Verbosity != "" && r.takes("verbosity", verbosity) {
		w.member("verbosity", c.Verbosity)
	}
	if c.CacheKey != "" && r.takes("prompt_cache_key", cacheKey) {
		w.member("prompt_cache_key", c.CacheKey)
	}
	if c.EndUser != "" && r.takes("user", endUser) {
		w.member("user", chatUser(c.EndUser))
	}
	if tier := chatTier(c.Tier); tier != "" && r.takes("service_tier", serviceTier) {
		w.member("service_tier", tier)
	} else if tier == "" {
		r.dropUsed(serviceTier)
	}
	if c.Stream {
		w.boolMember("stream", true)
		if !r.o.NoStreamOptions {
			w.name("stream_options")
			w.literal(`{"include_usage":true}`)
		}
	}
	w.shut('}')
	return nil
}

// maxTokensName is the member that bounds the answer. OpenAI's models that think
// take only the newer one, and many servers of others only the older, or worse:
// they take no notice of the newer one.
func (r *Request) maxTokensName() string {
	thinking, plain := openAIModel(r.o.Model)
	switch {
	case r.o.MaxTokensName != "":
		return r.o.MaxTokensName
	case thinking || plain:
		return "max_completion_tokens"
	}
	return "max_tokens"
}

// takes says whether the upstream takes a member of the request. Where it does
// not, the client is told that its feature was left out.
func (r *Request) takes(member string, f feature) bool {
	if !slices.Contains(r.o.Omit, member) {
		return true
	}
	r.dropUsed(f)
	return false
}

// chatUser: OpenAI takes 64 bytes at most; longer names become a hash.
func chatUser(user string) string {
	if len(user) <= 64 {
		return user
	}
	sum := sha256.Sum256([]byte(user))
	return hex.EncodeToString(sum[:])
}

// chatTier returns OpenAI's word for a service tier; empty if it has none.
func chatTier(tier string) string {
	switch tier {
	case "auto", "default", "flex", "scale", "priority":
		return tier
	case "standard", "standard_only": // of Gemini and Messages
		return "default"
	}
	return ""
}

// writeChatSampling writes how to choose words and how much to think. OpenAI's
// models either think, and then choose by themselves, or do not.
func (r *Request) writeChatSampling() {
	c, w := r.c, &r.w
	thinking, plain := openAIModel(r.o.Model)
	think := c.Reasoning.Effort
	if think == "" && c.Reasoning.Budget > 0 {
		think = effortOf(c.Reasoning.Budget)
	}
	for _, n := range [...]struct {
		member string
		f      feature
		value  Number
	}{
		{"temperature", temperature, c.Temperature},
		{"top_p", topP, c.TopP},
		{"presence_penalty", presencePenalty, c.PresencePenalty},
		{"frequency_penalty", frequencyPenalty, c.FrequencyPenalty},
	} {
		switch {
		case n.value == "":
		case thinking && think != "none":
			r.dropUsed(n.f)
		case r.takes(n.member, n.f):
			w.numberIf(n.member, n.value)
		}
	}
	if r.takes("seed", seed) {
		w.numberIf("seed", c.Seed)
	}
	switch {
	case think == "":
	case plain:
		r.dropUsed(effort)
	case r.takes("reasoning_effort", effort):
		w.member("reasoning_effort", think)
	}
}

// openAIModel tells OpenAI's own models by their names: those that think refuse
// temperature and its like, the plain ones refuse an effort. Of other models
// neither is known.
func openAIModel(name string) (thinking, plain bool) {
	name = strings.TrimPrefix(name[strings.LastIndexByte(name, '/')+1:], "ft:")
	if strings.HasPrefix(name, "chatgpt-") {
		return false, true
	}
	if len(name) > 1 && name[0] == 'o' && name[1] >= '1' && name[1] <= '9' {
		return true, false
	}
	version, ok := strings.CutPrefix(name, "gpt-")
	if !ok || version == "" || version[0] < '1' || version[0] > '9' {
		return false, false
	}
	old := version[0] < '5' && (len(version) == 1 || version[1] < '0' || version[1] > '9')
	plain = old || strings.Contains(version, "-chat")
	return !plain, plain
}

func (r *Request) writeChatFormat() {
	f, w := &r.c.Format, &r.w
	switch f.Kind {
	case JSONFormat:
		w.name("response_format")
		w.literal(`{"type":"json_object"}`)
	case SchemaFormat:
		w.name("response_format")
		w.open('{')
		w.member("type", "json_schema")
		w.name("json_schema")
		w.open('{')
		name := f.Name
		if !chatNames.allowed(name) {
			name = "response" // the dialect wants one
		}
		w.member("name", name)
		w.memberIf("description", f.Description)
		w.rawMember("schema", f.Schema)
		strict := f.Strict
		if r.c.From == dialect.Messages || r.c.From == dialect.Gemini {
			// They always are strict and take more of JSON Schema.
			can := strictSchema(f.Schema)
			strict = &can
		}
		if strict != nil {
			w.boolMember("strict", *strict)
		}
		w.shut('}')
		w.shut('}')
	}
}

// chatName is the name under which the upstream knows a tool.
func (r *Request) chatName(t *Tool) string {
	return r.names.send(toolName{t.Space, t.Name, t.Custom}, chatNames)
}

func (r *Request) writeChatTools() {
	c, w := r.c, &r.w
	if len(c.Tools) == 0 {
		if c.Choice.Mode != Unsaid {
			r.drop(c.Choice.Field) // servers refuse it where there are no tools
		}
		return
	}
	w.name("tools")
	w.open('[')
	for i := range c.Tools {
		t := &c.Tools[i]
		schema, told, strict := t.Schema, t.Description, t.Strict
		if t.Custom {
			schema, told, strict = wrapSchema(), wrapDescription(t), nil
		}
		w.open('{')
		w.member("type", "function")
		w.name("function")
		w.open('{')
		w.member("name", r.chatName(t))
		w.memberIf("description", told)
		if schema != nil {
			w.rawMember("parameters", schema)
		}
		if strict != nil {
			w.boolMember("strict", *strict && (c.From != dialect.Messages || strictSchema(schema)))
		}
		w.shut('}')
		w.shut('}')
	}
	w.shut(']')
	r.writeChatChoice()
	if c.Serial && r.takes("parallel_tool_calls", serialCalls) {
		w.boolMember("parallel_tool_calls", false)
	}
}

func (r *Request) writeChatChoice() {
	choice, w := &r.c.Choice, &r.w
	word := [...]string{Auto: "auto", Required: "required", None: "none"}[choice.Mode]
	switch {
	case word == "":
	case choice.Mode == None || len(choice.Only) == 0:
		w.member("tool_choice", word)
	case choice.Mode == Required && len(choice.Only) == 1:
		w.name("tool_choice")
		r.writeChatNamed(choice.Only[0])
	default:
		w.name("tool_choice")
		w.open('{')
		w.member("type", "allowed_tools")
		w.name("allowed_tools")
		w.open('{')
		w.member("mode", word)
		w.name("tools")
		w.open('[')
		for _, name := range choice.Only {
			r.writeChatNamed(name)
		}
		w.shut(']')
		w.shut('}')
		w.shut('}')
	}
}

// writeChatNamed writes which function is meant by the client's name of a tool.
func (r *Request) writeChatNamed(name string) {
	if i := slices.IndexFunc(r.c.Tools, func(t Tool) bool { return t.Name == name }); i >= 0 {
		name = r.chatName(&r.c.Tools[i])
	}
	w := &r.w
	w.open('{')
	w.member("type", "function")
	w.name("function")
	w.open('{')
	w.member("name", name)
	w.shut('}')
	w.shut('}')
}

func (r *Request) openChat(role string) {
	r.w.open('{')
	r.w.member("role", role)
}

func (r *Request) writeChatTurn(t *Turn) error {
	switch t.Role {
	case System:
		if text := chatText(t.Parts, "\n\n"); text != "" {
			r.openChat("system")
			r.w.member("content", text)
			r.w.shut('}')
		}
		return nil
	case Assistant:
		return r.writeChatAssistant(t)
	}
	// All results stand directly behind the calls, and tools answer in text: what
	// else they found stands behind the last of them.
	var rest []Part
	results := false
	for i := range t.Parts {
		if p := &t.Parts[i]; p.Kind == Result {
			results = true
			rest = append(rest, r.writeChatResult(p.Result)...)
		}
	}
	for i := range t.Parts {
		if p := t.Parts[i]; p.Kind != Result && (p.Kind != Text || p.Text != "") {
			rest = append(rest, p)
		}
	}
	if len(rest) == 0 && results {
		return nil
	}
	return r.writeChatUser(rest)
}

// writeChatResult writes what a call came to and returns what of it is no text.
func (r *Request) writeChatResult(result *ToolResult) (lifted []Part) {
	for _, p := range result.Parts {
		if p.Kind != Text {
			lifted = append(lifted, p)
		}
	}
	text := chatText(result.Parts, "\n\n")
	switch {
	case result.Failed:
		text = "Error: " + text
	case text == "" && len(lifted) > 0:
		text = "The result is in the next message."
	}
	r.openChat("tool")
	r.w.member("tool_call_id", chatCallID(result.ID))
	r.w.member("content", text)
	r.w.shut('}')
	return lifted
}

// chatCallID: every id goes that is short enough.
func chatCallID(id string) string {
	if len(id) <= maxChatID {
		return id
	}
	return safeID(id, maxChatID)
}

// writeChatUser writes what the user said. Text alone is written as one string:
// not every compatible server takes an array.
func (r *Request) writeChatUser(parts []Part) error {
	w := &r.w
	r.openChat("user")
	if !slices.ContainsFunc(parts, func(p Part) bool { return p.Media != nil }) {
		w.member("content", chatText(parts, "\n\n"))
		w.shut('}')
		return nil
	}
	w.name("content")
	w.open('[')
	for i := range parts {
		if err := r.writeChatPart(&parts[i]); err != nil {
			return err
		}
	}
	w.shut(']')
	w.shut('}')
	return nil
}

func (r *Request) writeChatPart(p *Part) error {
	w, m := &r.w, p.Media
	switch {
	case m == nil:
		r.writeChatText(p.Text)
		return nil
	case m.ID != "":
		return r.refuse(fileID, p.Field)
	case m.Plain != "":
		text := m.Plain
		if m.Name != "" {
			text = m.Name + ":\n\n" + text
		}
		r.writeChatText(text)
		return nil
	case p.Kind == Image && m.URL != "":
		if scheme, _, _ := strings.Cut(m.URL, ":"); !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return bad(p.Field, "%s: an image's address must be an http or https URL", p.Field)
		}
	case p.Kind == Video:
		return r.refuse(videoIn, p.Field)
	case m.Data == "":
		return r.refuse(documentURL, p.Field)
	case m.Type == "" && p.Kind != Audio:
		return bad(p.Field, "%s: its media type is missing", p.Field)
	}
	w.open('{')
	switch p.Kind {
	case Image:
		w.member("type", "image_url")
		w.name("image_url")
		w.open('{')
		if m.URL != "" {
			w.member("url", m.URL)
		} else {
			w.member("url", "data:"+m.Type+";base64,"+m.Data)
		}
		w.memberIf("detail", m.Detail)
	case Audio:
		format := ""
		switch m.Type {
		case "audio/wav", "audio/x-wav", "audio/wave":
			format = "wav"
		case "audio/mp3", "audio/mpeg":
			format = "mp3"
		default:
			return bad(p.Field, "%s: the Chat Completions API, which serves the model, takes sound as wav and mp3 only", p.Field)
		}
		w.member("type", "input_audio")
		w.name("input_audio")
		w.open('{')
		w.member("data", m.Data)
		w.member("format", format)
	default:
		name := m.Name
		if name == "" {
			name = "document.pdf" // OpenAI wants one
		}
		w.member("type", "file")
		w.name("file")
		w.open('{')
		w.member("filename", name)
		w.member("file_data", "data:"+m.Type+";base64,"+m.Data)
	}
	w.shut('}')
	w.shut('}')
	return nil
}

func (r *Request) writeChatText(text string) {
	w := &r.w
	w.open('{')
	w.member("type", "text")
	w.member("text", text)
	w.shut('}')
}

func (r *Request) writeChatAssistant(t *Turn) error {
	w := &r.w
	text, refusal, calls := "", "", 0
	for i := range t.Parts {
		switch p := &t.Parts[i]; p.Kind {
		case Text:
			text += p.Text
		case Refusal:
			refusal += p.Text
		case Call:
			calls++
		}
	}
	if text == "" && refusal == "" && calls == 0 {
		return nil // nothing is left of the turn
	}
	r.openChat("assistant")
	w.name("content")
	if text == "" {
		w.literal("null")
	} else {
		w.string(text)
	}
	w.memberIf("refusal", refusal)
	r.writeChatThoughts(t, calls > 0)
	if calls > 0 {
		w.name("tool_calls")
		w.open('[')
		for i := range t.Parts {
			if t.Parts[i].Kind == Call {
				r.writeChatCall(t.Parts[i].Call)
			}
		}
		w.shut(']')
	}
	w.shut('}')
	return nil
}

// writeChatThoughts gives an upstream its reasoning back: the state that it made,
// and text where it wants that. Text with another's state belongs to another.
func (r *Request) writeChatThoughts(t *Turn, calls bool) {
	w := &r.w
	text, owned, opaque := "", "", ""
	details := []byte{'['}
	for i := range t.Parts {
		p := &t.Parts[i]
		switch {
		case p.Kind == Thought && p.State.Empty():
			text += p.Text
		case !r.readable(&p.State):
		case strings.HasPrefix(p.State.Data, "[") && json.Valid([]byte(p.State.Data)):
			text += p.Text
			if len(details) > 1 {
				details = append(details, ',')
			}
			details = append(details, strings.TrimSuffix(p.State.Data[1:], "]")...)
		default:
			text, owned, opaque = text+p.Text, owned+p.Text, p.State.Data
		}
	}
	if r.o.ReasoningName != "" && calls {
		// DeepSeek refuses a turn with calls that comes without, an empty one is
		// taken; of turns without calls it wants none.
		w.member(r.o.ReasoningName, text)
	}
	if len(details) > 1 {
		w.rawMember("reasoning_details", append(details, ']'))
	}
	if opaque != "" {
		w.memberIf("reasoning_text", owned)
		w.member("reasoning_opaque", opaque)
	}
}

func (r *Request) writeChatCall(call *ToolCall) {
	w := &r.w
	args := call.Arguments
	switch {
	case call.Custom:
		args = wrapInput(args)
	case args == "":
		args = "{}" // servers that put it into a template read it as JSON
	}
	w.open('{')
	w.member("id", chatCallID(call.ID))
	w.member("type", "function")
	w.name("function")
	w.open('{')
	w.member("name", r.names.send(toolName{call.Space, call.Name, call.Custom}, chatNames))
	w.member("arguments", args)
	w.shut('}')
	w.shut('}')
}

// chatText joins the texts of parts that are not empty.
func chatText(parts []Part, between string) string {
	var texts []string
	for i := range parts {
		if p := &parts[i]; p.Kind == Text && p.Text != "" {
			texts = append(texts, p.Text)
		}
	}
	return strings.Join(texts, between)
}
