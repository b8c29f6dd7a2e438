package translate

import (
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// The requests of the Responses API.
// Source: resources/responses of the openai package, version 6.49.0, and what
// Codex was seen to send.

// responsesReader reads one request.
type responsesReader struct {
	c *Conversation
	s *source

	instructions *Part
	input        bool // there is one, or it is kept by the service
	// hosted are the fields of the tools that the service runs, forced the field
	// that wants one of them to be used.
	hosted []string
	forced string
	// gone are the ids of calls of such tools, whose results go with them.
	gone map[string]bool
	// states belong to the calls of those ids.
	states map[string]State
}

func (c *Conversation) readResponses(s *source) {
	r := &responsesReader{c: c, s: s}
	s.object(func(name []byte) {
		s.next()
		start, field := s.at, string(name)
		r.member(field)
		if s.err == nil && slices.Contains(responsesEchoes, field) {
			r.echo(field, s.in[start:s.at:s.at])
		}
	})
	if s.err == nil {
		s.failWith(r.finish())
	}
}

// responsesEchoes are the members of a request that its answers repeat as they
// stand. Of text and reasoning, inner members are repeated.
var responsesEchoes = []string{
	"instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "prompt_cache_key",
	"safety_identifier", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user",
}

func (r *responsesReader) echo(name string, raw []byte) {
	if len(raw) > 0 && string(raw) != "null" {
		r.c.Echo = append(r.c.Echo, Member{name, raw})
	}
}

// finish looks at what can only be judged when all members are read.
func (r *responsesReader) finish() error {
	c := r.c
	if r.instructions != nil {
		c.System = slices.Insert(c.System, 0, *r.instructions)
	}
	if !r.input {
		return bad("input", "you must provide an input")
	}
	for _, name := range c.Choice.Only {
		if !slices.ContainsFunc(c.Tools, func(t Tool) bool { return t.Name == name }) {
			return bad(c.Choice.Field, "the tool %q of %s is not among the tools", clip(name), c.Choice.Field)
		}
	}
	if c.Choice.Mode == Required && len(c.Tools) == 0 && len(r.hosted) > 0 && r.forced == "" {
		r.forced = c.Choice.Field
	}
	if r.forced != "" {
		c.use(forcedHostedTool, r.forced)
	}
	for _, field := range r.hosted {
		c.use(hostedTool, field)
	}
	return nil
}

// object reads an object and returns it as it stands; nil for a null.
func (r *responsesReader) object() []byte {
	if c := r.s.next(); c != '{' && c != 'n' {
		r.s.fail("%s must be an object", r.s.what())
	}
	return r.s.raw()
}

// unknown reads a member that nothing is made of.
func (r *responsesReader) unknown() { r.advice(unknownField) }

// advice reads a member of which it only matters that it is there.
func (r *responsesReader) advice(f feature) {
	if raw := r.s.raw(); raw != nil {
		r.c.use(f, r.s.field())
	}
}

func (r *responsesReader) member(name string) {
	c, s := r.c, r.s
	number := func(f feature, into *Number) {
		if *into = s.number(); *into != "" {
			c.use(f, name)
		}
	}
	text := func(f feature, into *string) {
		if *into = s.string(); *into != "" {
			c.use(f, name)
		}
	}
	switch name {
	case "model", "stream":
		s.skip() // read by package dialect
	case "input":
		r.readInput()
	case "instructions":
		if text := s.string(); text != "" {
			r.instructions = &Part{Kind: Text, Text: text, Field: name}
		}
	case "max_output_tokens":
		if !s.null() {
			if c.MaxTokens = s.integer(); c.MaxTokens < 1 {
				s.fail("the field max_output_tokens must be at least 1")
			}
		}
	case "tools":
		s.list(func(int) { r.tool("") })
	case "tool_choice":
		r.choice()
	case "parallel_tool_calls":
		if !s.null() && !s.boolean() {
			c.Serial = true
			c.use(serialCalls, name)
		}
	case "text":
		s.object(r.text)
	case "reasoning":
		c.Reasoning.Field = name
		s.object(r.reasoningMember)
	case "include":
		s.list(func(int) { r.include() })
	case "store":
		if !s.null() {
			keep := s.boolean()
			c.Store = &keep
			if keep {
				c.use(store, name)
			}
		}
	case "previous_response_id", "conversation", "prompt":
		if s.raw() != nil {
			c.use(serverState, name)
			r.input = true
		}
	case "background":
		if s.boolean() {
			c.use(serverState, name)
		}
	case "truncation":
		switch s.string() {
		case "", "disabled":
		case "auto":
			c.use(truncation, name)
		default:
			s.fail("the field truncation must be auto or disabled")
		}
	case "temperature":
		number(temperature, &c.Temperature)
	case "top_p":
		number(topP, &c.TopP)
	case "top_logprobs":
		if c.TopLogProbs = s.integer(); c.TopLogProbs > 0 {
			c.LogProbs = true
			c.use(logProbs, name)
		}
	case "metadata":
		if raw := r.object(); len(raw) > 2 {
			c.Metadata = raw
			c.use(metadata, name)
		}
	case "safety_identifier":
		text(endUser, &c.EndUser)
	case "user":
		if user := s.string(); user != "" && c.EndUser == "" {
			c.EndUser = user
			c.use(endUser, name)
		}
	case "service_tier":
		text(serviceTier, &c.Tier)
	case "prompt_cache_key":
		text(cacheKey, &c.CacheKey)
	case "prompt_cache_retention", "prompt_cache_options":
		r.advice(cacheRetention)
	case "context_management":
		r.advice(contextManagement)
	case "moderation":
		r.advice(moderation)
	case "stream_options":
		s.object(func(name []byte) {
			if string(name) == "include_obfuscation" {
				s.boolean() // what is made here is never padded
				return
			}
			r.unknown()
		})
	default:
		r.unknown()
	}
}

func (r *responsesReader) include() {
	switch r.s.string() {
	case "reasoning.encrypted_content":
		r.c.Reasoning.Sealed = true
	case "message.output_text.logprobs":
		r.c.LogProbs = true
		r.c.use(logProbs, r.s.field())
	default: // what tools of the service found
		r.c.use(unknownField, r.s.field())
	}
}

// text reads a member of text.
func (r *responsesReader) text(name []byte) {
	c, s := r.c, r.s
	switch string(name) {
	case "verbosity":
		if c.Verbosity = s.string(); c.Verbosity != "" {
			c.use(verbosity, s.field())
			r.echo("text.verbosity", responsesString(nil, c.Verbosity))
		}
	case "format":
		s.next()
		start, field := s.at, s.field()
		f := Format{Field: field}
		kind := ""
		s.object(func(name []byte) {
			switch string(name) {
			case "type":
				kind = s.string()
			case "name":
				f.Name = s.string()
			case "description":
				f.Description = s.string()
			case "schema":
				f.Schema = s.raw()
			case "strict":
				f.Strict = responsesBool(s)
			default:
				r.unknown()
			}
		})
		if s.err != nil {
			return
		}
		switch kind {
		case "", "text":
			return
		case "json_object":
			f.Kind = JSONFormat
			c.use(jsonFormat, field)
		case "json_schema":
			switch {
			case len(f.Schema) == 0:
				s.failWith(bad(field+".schema", "the field %s.schema is missing", field))
			case f.Name == "":
				s.failWith(bad(field+".name", "the field %s.name is missing", field))
			}
			f.Kind = SchemaFormat
			c.use(schemaFormat, field)
		default:
			s.failWith(bad(field+".type", "the field %s.type must be text, json_object or json_schema", field))
		}
		c.Format = f
		r.echo(field, s.in[start:s.at:s.at])
	default:
		r.unknown()
	}
}

// responsesBool reads true or false, or nothing.
func responsesBool(s *source) *bool {
	if s.null() {
		return nil
	}
	b := s.boolean()
	return &b
}

// reasoningMember reads a member of reasoning.
func (r *responsesReader) reasoningMember(name []byte) {
	c, s := r.c, r.s
	switch string(name) {
	case "effort":
		word := s.string()
		switch {
		case word == "":
			return
		case !knownEffort(word):
			s.fail("the field reasoning.effort must be none, minimal, low, medium, high, xhigh or max")
			return
		}
		c.Reasoning.Effort = word
		c.use(effort, s.field())
		r.echo("reasoning.effort", responsesString(nil, word))
	case "summary", "generate_summary": // the second is its old name
		switch word := s.string(); word {
		case "", "none":
		default:
			c.Reasoning.Visible, c.Reasoning.Summary = true, word
			r.echo("reasoning.summary", responsesString(nil, word))
		}
	default:
		r.unknown()
	}
}

func responsesString(out []byte, text string) []byte {
	return append(appendEscaped(append(out, '"'), text), '"')
}

// readInput reads what the model is asked: a text, or a list of items.
func (r *responsesReader) readInput() {
	c, s := r.c, r.s
	if s.null() {
		return
	}
	r.input = true
	if text, ok := s.stringOr(); ok {
		c.Turns = append(c.Turns, Turn{Field: "input", Parts: []Part{{Kind: Text, Text: text, Field: "input"}}})
		return
	}
	if s.next() != '[' {
		s.fail("the field input must be a string or an array")
		return
	}
	s.list(func(int) { r.item() })
}

// responsesType returns the type of the object that is next, without reading it.
func responsesType(s *source) (kind string) {
	at := s.at
	s.object(func(name []byte) {
		if string(name) == "type" && s.next() == '"' {
			kind = s.string()
			return
		}
		s.skip()
	})
	if s.err == nil {
		s.at = at
	}
	return kind
}

func (r *responsesReader) item() {
	c, s := r.c, r.s
	field := s.field()
	switch kind := responsesType(s); kind {
	case "", "message":
		r.message(field)
	case "function_call", "custom_tool_call":
		r.call(field, kind == "custom_tool_call")
	case "function_call_output", "custom_tool_call_output":
		r.result(field)
	case "reasoning":
		r.reasoning(field)
	case "item_reference":
		c.use(serverState, field)
		s.skip()
	default:
		// What tools of the service did, conversations that it compacted, and what
		// is not known here.
		s.object(func(name []byte) {
			if string(name) != "call_id" || s.next() != '"' {
				s.skip()
				return
			}
			if r.gone == nil {
				r.gone = map[string]bool{}
			}
			r.gone[s.string()] = true
		})
		c.use(hostedItem, field)
	}
}

// message reads what somebody said. It needs no type.
func (r *responsesReader) message(field string) {
	c, s := r.c, r.s
	var role, id string
	var parts []Part
	said := false
	s.object(func(name []byte) {
		switch string(name) {
		case "role":
			role = s.string()
		case "content":
			said = !s.null()
			if said {
				parts = r.content()
			}
		case "id":
			id = s.string()
		case "type", "status":
			s.skip()
		default:
			r.unknown()
		}
	})
	if s.err != nil {
		return
	}
	turn := Turn{Parts: parts, Field: field}
	allowed := []Kind{Text}
	switch role {
	case "user":
		allowed = []Kind{Text, Image, File, Audio}
	case "assistant":
		turn.Role = Assistant
		allowed = []Kind{Text, Refusal}
	case "system", "developer":
		turn.Role = System
	case "":
		if id != "" && !said { // a reference to an item needs no type either
			c.use(serverState, field)
			return
		}
		s.failWith(bad(field+".role", "the field %s.role is missing", field))
		return
	default:
		s.failWith(bad(field+".role", "the field %s.role must be user, assistant, system or developer", field))
		return
	}
	if !said {
		s.failWith(bad(field+".content", "the field %s.content is missing", field))
		return
	}
	for i := range parts {
		if !slices.Contains(allowed, parts[i].Kind) {
			s.failWith(bad(parts[i].Field, "%s is nothing that a message of the role %s can hold", parts[i].Field, role))
			return
		}
	}
	switch {
	case turn.Role != System:
		c.Turns = append(c.Turns, turn)
	case len(c.Turns) == 0:
		c.System = append(c.System, parts...)
	default:
		c.use(laterSystem, field)
		c.Turns = append(c.Turns, turn)
	}
}

// content reads a text or a list of parts.
func (r *responsesReader) content() (parts []Part) {
	s := r.s
	if text, ok := s.stringOr(); ok {
		return []Part{{Kind: Text, Text: text, Field: s.field()}}
	}
	if s.next() != '[' {
		s.fail("%s must be a string or an array", s.what())
		return nil
	}
	s.list(func(int) { parts = append(parts, r.part()) })
	return parts
}

// part reads a piece of a message or of a tool's result.
func (r *responsesReader) part() Part {
	c, s := r.c, r.s
	p := Part{Field: s.field()}
	kind := responsesType(s)
	var url, data, format string
	var m Media
	said := false
	s.object(func(name []byte) {
		switch string(name) {
		case "text", "refusal":
			said = !s.null()
			p.Text = s.string()
		case "image_url", "file_url":
			url = s.string()
		case "file_data":
			data = s.string()
		case "file_id":
			m.ID = s.string()
		case "filename":
			m.Name = s.string()
		case "detail":
			if m.Detail = s.string(); m.Detail != "" && m.Detail != "auto" {
				c.use(mediaDetail, s.field())
			}
		case "input_audio":
			s.object(func(name []byte) {
				switch string(name) {
				case "data":
					data = s.string()
				case "format":
					format = s.string()
				default:
					r.unknown()
				}
			})
		case "annotations":
			if raw := s.raw(); len(raw) > 2 {
				c.use(citations, s.field())
			}
		case "prompt_cache_breakpoint":
			if s.raw() != nil {
				p.Cache = "5m"
				c.use(cacheMark, s.field())
			}
		case "type", "logprobs":
			s.skip()
		default:
			r.unknown()
		}
	})
	if s.err != nil {
		return p
	}
	missing := func(name string) {
		s.failWith(bad(p.Field+"."+name, "the field %s.%s is missing", p.Field, name))
	}
	switch kind {
	case "input_text", "output_text", "text":
		if !said {
			missing("text")
		}
		return p
	case "refusal":
		p.Kind = Refusal
		if !said {
			missing("refusal")
		}
		return p
	case "input_image":
		p.Kind = Image
		if m.ID == "" && url == "" {
			missing("image_url")
		}
	case "input_file":
		p.Kind = File
		if m.ID == "" && url == "" && data == "" {
			missing("file_data")
		}
	case "input_audio":
		p.Kind = Audio
		if data == "" {
			missing("input_audio.data")
		}
	case "":
		missing("type")
	default:
		s.failWith(bad(p.Field+".type", "the field %s.type is none of the types of content that are known here", p.Field))
	}
	p.Media = &m
	r.medium(&p, url, data, format)
	return p
}

// medium sorts out where the bytes of an image, file or sound are.
func (r *responsesReader) medium(p *Part, url, data, format string) {
	m := p.Media
	if strings.HasPrefix(url, "data:") {
		url, data = "", url
	}
	if rest, ok := strings.CutPrefix(data, "data:"); ok {
		head, body, _ := strings.Cut(rest, ",")
		kind, base64 := strings.CutSuffix(head, ";base64")
		if !base64 {
			r.s.failWith(bad(p.Field, "%s holds a data URL that is not in base64", p.Field))
			return
		}
		m.Type, _, _ = strings.Cut(kind, ";")
		data = body
	}
	switch {
	case m.ID != "":
		r.c.use(fileID, p.Field)
	case data != "":
		m.Data = data
	case url != "":
		m.URL = url
		if p.Kind == Image {
			r.c.use(imageURL, p.Field)
		} else {
			r.c.use(documentURL, p.Field)
		}
	}
	switch {
	case p.Kind == Audio:
		r.c.use(audioIn, p.Field)
		if m.Type = "audio/" + format; format == "mp3" {
			m.Type = "audio/mpeg"
		}
	case p.Kind == File && m.Type == "" && m.Data != "":
		m.Type = "application/pdf"
	}
}

// say adds to what the assistant did.
func (r *responsesReader) say(p Part) {
	r.c.Turns = append(r.c.Turns, Turn{Role: Assistant, Parts: []Part{p}, Field: p.Field})
}

// call reads a call of one of the client's tools.
func (r *responsesReader) call(field string, custom bool) {
	c, s := r.c, r.s
	call := &ToolCall{Custom: custom}
	wants := "arguments"
	if custom {
		wants = "input"
	}
	said := false
	s.object(func(name []byte) {
		switch name := string(name); name {
		case "call_id":
			call.ID = s.string()
		case "name":
			call.Name = s.string()
		case "namespace":
			if call.Space = s.string(); call.Space != "" {
				c.use(toolSpace, s.field())
			}
		case wants:
			said = !s.null()
			call.Arguments = s.string()
		case "type", "id", "status":
			s.skip()
		default:
			r.unknown()
		}
	})
	if s.err != nil {
		return
	}
	switch {
	case call.ID == "":
		wants = "call_id"
	case call.Name == "":
		wants = "name"
	case said:
		wants = ""
	}
	if wants != "" {
		s.failWith(bad(field+"."+wants, "the field %s.%s is missing", field, wants))
		return
	}
	if custom {
		c.use(customTool, field)
	}
	r.say(Part{Kind: Call, Call: call, State: r.states[call.ID], Field: field})
}

// result reads what a call came to.
func (r *responsesReader) result(field string) {
	c, s := r.c, r.s
	res := &ToolResult{}
	said := false
	s.object(func(name []byte) {
		switch string(name) {
		case "call_id":
			res.ID = s.string()
		case "output":
			if said = !s.null(); said {
				res.Parts = r.content()
			}
		case "type", "id", "status":
			s.skip()
		default:
			r.unknown()
		}
	})
	switch {
	case s.err != nil:
		return
	case res.ID == "":
		s.failWith(bad(field+".call_id", "the field %s.call_id is missing", field))
		return
	case r.gone[res.ID]:
		c.use(hostedItem, field)
		return
	case !said:
		s.failWith(bad(field+".output", "the field %s.output is missing", field))
		return
	}
	for i := range res.Parts {
		switch p := &res.Parts[i]; p.Kind {
		case Text, Image, File:
		default:
			s.failWith(bad(p.Field, "%s is nothing that a tool can give back", p.Field))
			return
		}
	}
	part := Part{Kind: Result, Result: res, Field: field}
	if n := len(c.Turns); n > 0 && c.Turns[n-1].Role == User {
		c.Turns[n-1].Parts = append(c.Turns[n-1].Parts, part)
		return
	}
	c.Turns = append(c.Turns, Turn{Parts: []Part{part}, Field: field})
}

// reasoning reads a thought. Without the sealed form of it an id says nothing:
// the service that answered kept nothing.
func (r *responsesReader) reasoning(field string) {
	s := r.s
	var id, sealed string
	var summary, content []string
	s.object(func(name []byte) {
		switch string(name) {
		case "id":
			id = s.string()
		case "encrypted_content":
			sealed = s.string()
		case "summary":
			summary = r.thoughts()
		case "content":
			content = r.thoughts()
		case "type", "status":
			s.skip()
		default:
			r.unknown()
		}
	})
	if s.err != nil {
		return
	}
	if len(content) == 0 {
		content = summary
	}
	p := Part{Kind: Thought, Text: strings.Join(content, "\n\n"), Field: field}
	if sealed != "" {
		p.State = stateOf(sealed, dialect.Responses)
	}
	switch st := &p.State; {
	case st.Empty():
	case st.Upstream == "":
		st.ID = id
	case st.Maker != dialect.Responses && st.ID != "": // of a call that follows
		if r.states == nil {
			r.states = map[string]State{}
		}
		call := st.ID
		st.ID = ""
		r.states[call], p.State = *st, State{}
	}
	if p.Text != "" || !p.State.Empty() {
		r.say(p)
	}
}

// thoughts reads the texts of a summary, or of the content of reasoning.
func (r *responsesReader) thoughts() (texts []string) {
	s := r.s
	s.list(func(int) {
		s.object(func(name []byte) {
			switch string(name) {
			case "text":
				if text := s.string(); text != "" {
					texts = append(texts, text)
				}
			case "type":
				s.skip()
			default:
				r.unknown()
			}
		})
	})
	return texts
}

// tool reads a tool, or a namespace of tools.
func (r *responsesReader) tool(space string) {
	c, s := r.c, r.s
	t := Tool{Space: space, Field: s.field()}
	switch kind := responsesType(s); {
	case kind == "":
		s.failWith(bad(t.Field+".type", "the field %s.type is missing", t.Field))
		return
	case kind == "namespace" && space == "":
		r.space()
		return
	case kind == "custom":
		t.Custom = true
		c.use(customTool, t.Field)
	case kind != "function":
		r.hosted = append(r.hosted, t.Field)
		s.skip()
		return
	}
	s.object(func(name []byte) {
		switch string(name) {
		case "name":
			t.Name = s.string()
		case "description":
			t.Description = s.string()
		case "parameters":
			t.Schema = r.object()
		case "strict":
			t.Strict = responsesBool(s)
		case "format":
			at := s.at
			if responsesType(s) == "text" {
				s.skip()
				return
			}
			s.at = at
			t.Grammar = s.raw()
		case "type":
			s.skip()
		default:
			r.unknown()
		}
	})
	if s.err != nil {
		return
	}
	if t.Name == "" {
		s.failWith(bad(t.Field+".name", "the field %s.name is missing", t.Field))
		return
	}
	c.Tools = append(c.Tools, t)
}

// space reads a namespace. Its name may stand behind its tools.
func (r *responsesReader) space() {
	c, s := r.c, r.s
	field, first := s.field(), len(c.Tools)
	name := ""
	s.object(func(member []byte) {
		switch string(member) {
		case "name":
			name = s.string()
		case "tools":
			s.list(func(int) { r.tool(field) })
		case "type", "description": // there is no place for a description
			s.skip()
		default:
			r.unknown()
		}
	})
	if s.err == nil && name == "" {
		s.failWith(bad(field+".name", "the field %s.name is missing", field))
	}
	for i := first; i < len(c.Tools); i++ {
		c.Tools[i].Space = name
	}
	c.use(toolSpace, field)
}

// choice reads which tools may or must be called.
func (r *responsesReader) choice() {
	c, s := r.c, r.s
	if s.null() {
		return
	}
	c.Choice.Field = s.field()
	if word, ok := s.stringOr(); ok {
		if c.Choice.Mode = responsesMode(word); c.Choice.Mode == Unsaid {
			s.fail("the field tool_choice must be none, auto, required or an object")
		}
		return
	}
	var name, mode string
	var only []string
	allowed, others := false, false
	kind := responsesType(s)
	s.object(func(member []byte) {
		switch string(member) {
		case "name":
			name = s.string()
		case "mode":
			mode = s.string()
		case "tools":
			allowed = true
			s.list(func(int) {
				own := responsesType(s)
				s.object(func(member []byte) {
					if string(member) != "name" {
						s.skip()
						return
					}
					if name := s.string(); own == "function" || own == "custom" {
						only = append(only, name)
					}
				})
				if own != "function" && own != "custom" {
					others = true
				}
			})
		default:
			s.skip()
		}
	})
	if s.err != nil {
		return
	}
	switch kind {
	case "function", "custom":
		if name == "" {
			s.failWith(bad(c.Choice.Field+".name", "the field %s.name is missing", c.Choice.Field))
			return
		}
		c.Choice.Mode, c.Choice.Only = Required, []string{name}
	case "allowed_tools":
		c.Choice.Mode, c.Choice.Only = responsesMode(mode), only
		switch {
		case c.Choice.Mode != Auto && c.Choice.Mode != Required:
			s.failWith(bad(c.Choice.Field+".mode", "the field %s.mode must be auto or required", c.Choice.Field))
		case !allowed || len(only) == 0 && !others:
			s.failWith(bad(c.Choice.Field+".tools", "the field %s.tools is missing", c.Choice.Field))
		case len(only) == 0 && c.Choice.Mode == Required:
			r.forced = c.Choice.Field
		case len(only) == 0: // none of those that are left
			c.Choice.Mode = None
		}
	case "":
		s.failWith(bad(c.Choice.Field+".type", "the field %s.type is missing", c.Choice.Field))
	default:
		r.forced = c.Choice.Field
	}
}

func responsesMode(word string) Mode {
	switch word {
	case "auto":
		return Auto
	case "required":
		return Required
	case "none":
		return None
	}
	return Unsaid
}
