package translate

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// Requests of the Messages API, read. Source of the fields and blocks: the typings
// of Anthropic's SDKs, beta members included.

// messagesReader reads a request.
type messagesReader struct {
	c *Conversation
	s *source
	// What came: the turns, the bound on the answer, a thread at the service.
	messages, bound, thread bool
	leading                 []Part   // instructions that stand in front of all turns
	hosted                  []string // names of tools that the service runs
	mark                    string   // the cache mark of the whole request
	marked                  bool     // any mark was seen
	depth                   int      // of content in content
}

func (c *Conversation) readMessages(s *source) {
	r := messagesReader{c: c, s: s}
	s.object(r.member)
	switch {
	case s.err != nil:
		return
	case r.thread:
		// The history lies at the service, so that what is left of it here proves
		// nothing. The rules refuse the thread itself.
		c.Turns = nil
		return
	case !r.messages || len(c.Turns) == 0:
		r.wrong("messages", "must hold at least one message")
	case !r.bound && !c.Counting:
		r.wrong("max_tokens", "is required")
	}
	c.System = append(c.System, r.leading...)
	r.finish()
}

// finish does what could not be done before everything was read.
func (r *messagesReader) finish() {
	c := r.c
	if r.mark != "" {
		last := &c.Turns[len(c.Turns)-1]
		if n := len(last.Parts); n > 0 && last.Parts[n-1].Cache == "" {
			last.Parts[n-1].Cache = r.mark
		}
	}
	for _, name := range c.Choice.Only {
		switch {
		case slices.Contains(r.hosted, name):
			c.use(forcedHostedTool, c.Choice.Field)
		case !slices.ContainsFunc(c.Tools, func(t Tool) bool { return t.Name == name }):
			r.wrong("tool_choice.name", "names no tool of the request")
		}
	}
}

func (r *messagesReader) member(name []byte) {
	c, s := r.c, r.s
	switch string(name) {
	case "model", "stream":
		s.skip()
	case "messages":
		r.messages = true
		s.list(r.message)
	case "system":
		c.System = r.texts(r.content())
	case "max_tokens":
		r.maxTokens()
	case "stop_sequences":
		s.list(func(int) { c.Stop = append(c.Stop, s.string()) })
		if len(c.Stop) > 0 {
			c.use(stopSequences, "stop_sequences")
		}
	case "temperature":
		c.Temperature = r.sampling(temperature, "temperature")
	case "top_p":
		c.TopP = r.sampling(topP, "top_p")
	case "top_k":
		c.TopK = r.sampling(topK, "top_k")
	case "metadata":
		s.object(r.metadata)
	case "tools":
		s.list(func(int) { r.tool() })
	case "tool_choice":
		r.toolChoice()
	case "thinking":
		r.thinking()
	case "output_config":
		s.object(r.outputConfig)
	case "output_format":
		r.format()
	case "cache_control":
		r.mark = r.cacheMark()
	case "service_tier":
		if c.Tier = s.string(); c.Tier != "" {
			c.use(serviceTier, "service_tier")
		}
		if c.Tier == "standard_only" {
			c.Tier = "default"
		}
	case "speed":
		r.keep(speed, "speed")
	case "inference_geo":
		r.keep(region, "inference_geo")
	case "container":
		r.keep(container, "container")
	case "mcp_servers":
		r.keep(mcpServers, "mcp_servers")
	case "context_management":
		r.keep(contextManagement, "context_management")
	case "compaction":
		r.keep(serverState, "compaction")
	case "thread":
		if s.raw() != nil {
			r.thread = true
			c.use(thread, "thread")
		}
	default:
		r.unknown()
	}
}

// wrong refuses the request because of a field.
func (r *messagesReader) wrong(field, why string) {
	r.s.failWith(bad(field, "the field %s %s", field, why))
}

// unknown notes a member that means nothing to the other dialects.
func (r *messagesReader) unknown() {
	field := r.s.field()
	if r.s.raw() != nil {
		r.c.use(unknownField, field)
	}
}

// keep notes a member that only an upstream of the same dialect understands, which
// gets it as it is.
func (r *messagesReader) keep(f feature, name string) {
	raw := r.s.raw()
	if raw == nil || f == mcpServers && isEmptyList(raw) {
		return
	}
	r.c.use(f, name)
	r.c.Echo = append(r.c.Echo, Member{Name: name, Raw: raw})
}

func isEmptyList(raw []byte) bool {
	return len(raw) > 1 && raw[0] == '[' && len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
}

func (r *messagesReader) sampling(f feature, name string) Number {
	n := r.s.number()
	if n != "" {
		r.c.use(f, name)
	}
	return n
}

func (r *messagesReader) maxTokens() {
	if r.s.null() {
		return
	}
	r.bound = true
	switch n := r.s.integer(); {
	case n < 0:
		r.wrong("max_tokens", "must not be negative")
	case n == 0:
		// It only fills the service's cache. The least that others can do for it
		// is the shortest answer.
		r.c.MaxTokens = 1
		r.c.use(unknownField, "max_tokens")
	default:
		r.c.MaxTokens = n
	}
}

func (r *messagesReader) metadata(name []byte) {
	if string(name) != "user_id" {
		r.unknown()
		return
	}
	if r.c.EndUser = r.s.string(); r.c.EndUser != "" {
		r.c.use(endUser, "metadata.user_id")
	}
}

func (r *messagesReader) thinking() {
	s, t := r.s, &r.c.Reasoning
	kind, display, budget := "", "", int64(0)
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "display":
			display = s.string()
		case "budget_tokens":
			budget = s.integer()
		default:
			r.unknown()
		}
	})
	switch kind {
	case "":
		return
	case "enabled":
		if t.Budget = budget; budget < 1024 {
			r.wrong("thinking.budget_tokens", "must be at least 1024")
		}
	case "adaptive", "between_tools":
		t.Adaptive = true
	case "disabled":
		if t.Effort == "" {
			t.Effort = "none"
		}
	default:
		r.wrong("thinking.type", "must be enabled, adaptive, between_tools or disabled")
	}
	if t.Field == "" {
		t.Field = "thinking"
		r.c.use(effort, "thinking")
	}
	if kind != "disabled" {
		t.Visible, t.Sealed = display != "omitted", true
	}
}

func (r *messagesReader) outputConfig(name []byte) {
	s, t := r.s, &r.c.Reasoning
	switch string(name) {
	case "effort":
		word := s.string()
		if word == "" {
			return
		}
		if word == "none" || !knownEffort(word) {
			r.wrong("output_config.effort", "must be low, medium, high, xhigh or max")
		}
		t.Effort = word
		t.Field = "output_config.effort"
		r.c.use(effort, t.Field)
	case "format":
		r.format()
	default:
		r.unknown()
	}
}

// format reads what the answer must look like, in its old or its new place.
func (r *messagesReader) format() {
	s, field := r.s, r.s.field()
	kind, given := "", false
	var schema []byte
	s.object(func(name []byte) {
		given = true
		switch string(name) {
		case "type":
			kind = s.string()
		case "schema":
			schema = s.raw()
		default:
			r.unknown()
		}
	})
	switch {
	case !given:
	case kind != "json_schema":
		r.wrong(field+".type", "must be json_schema")
	case len(schema) == 0 || schema[0] != '{':
		r.wrong(field+".schema", "must be an object")
	default:
		r.c.Format = Format{Kind: SchemaFormat, Schema: schema, Field: field}
		r.c.use(schemaFormat, field)
	}
}

func (r *messagesReader) toolChoice() {
	c, s := r.c, r.s
	kind, tool := "", ""
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "name":
			tool = s.string()
		case "disable_parallel_tool_use":
			if c.Serial = s.boolean(); c.Serial {
				c.use(serialCalls, s.field())
			}
		default:
			r.unknown()
		}
	})
	c.Choice.Field = "tool_choice"
	switch kind {
	case "":
	case "auto":
		c.Choice.Mode = Auto
	case "any":
		c.Choice.Mode = Required
	case "none":
		c.Choice.Mode = None
	case "tool":
		c.Choice.Mode, c.Choice.Only = Required, []string{tool}
		if tool == "" {
			r.wrong("tool_choice.name", "is required")
		}
	default:
		r.wrong("tool_choice.type", "must be auto, any, tool or none")
	}
}

func (r *messagesReader) tool() {
	s := r.s
	t := Tool{Field: s.field()}
	kind := ""
	var rest []string // members that only the service's own tools have, or none
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "name":
			t.Name = s.string()
		case "description":
			t.Description = s.string()
		case "input_schema":
			t.Schema = s.raw()
		case "strict":
			if !s.null() {
				strict := s.boolean()
				t.Strict = &strict
			}
		case "cache_control":
			t.Cache = r.cacheMark()
		default:
			if field := s.field(); s.raw() != nil {
				rest = append(rest, field)
			}
		}
	})
	if kind != "" && kind != "custom" {
		r.hosted = append(r.hosted, t.Name)
		r.c.use(hostedTool, t.Field)
		return
	}
	for _, field := range rest {
		r.c.use(unknownField, field)
	}
	switch {
	case t.Name == "":
		r.wrong(t.Field+".name", "is required")
	case len(t.Schema) == 0 || t.Schema[0] != '{':
		r.wrong(t.Field+".input_schema", "must be an object")
	}
	r.c.Tools = append(r.c.Tools, t)
}

// cacheMark reads a cache_control: how long the prefix is to be kept. It stands in
// many places and is one hint: so it is named once.
func (r *messagesReader) cacheMark() string {
	s := r.s
	kind, life := "", "5m"
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "ttl":
			if s.string() == "1h" {
				life = "1h"
			}
		default:
			s.skip()
		}
	})
	if kind == "" {
		return ""
	}
	if !r.marked {
		r.marked = true
		r.c.use(cacheMark, "cache_control")
	}
	return life
}

func (r *messagesReader) message(int) {
	s := r.s
	t := Turn{Field: s.field()}
	role, said, configured := "", false, false
	s.object(func(name []byte) {
		switch string(name) {
		case "role":
			role = s.string()
		case "content":
			said = !s.null()
			if said {
				t.Parts = r.content()
			}
		case "output_config": // of a system message
			configured = true
			r.unknown()
		default:
			r.unknown()
		}
	})
	switch role {
	case "user":
		t.Role = User
	case "assistant":
		t.Role = Assistant
	case "system":
		t.Role = System
		t.Parts = r.texts(t.Parts)
	default:
		r.wrong(t.Field+".role", "must be user, assistant or system")
	}
	if !said && !configured {
		r.wrong(t.Field+".content", "is required")
	}
	for i := range t.Parts {
		switch p := &t.Parts[i]; {
		case (p.Kind == Call || p.Kind == Thought) && t.Role != Assistant:
			r.wrong(p.Field, "is a block that only the assistant may have")
		case (p.Kind == Result || p.Kind == Image || p.Kind == File) && t.Role == Assistant:
			r.wrong(p.Field, "is a block that the assistant may not have")
		}
	}
	switch {
	case t.Role == System && len(r.c.Turns) == 0:
		r.leading = append(r.leading, t.Parts...)
		return
	case t.Role == System && len(t.Parts) > 0:
		r.c.use(laterSystem, t.Field)
	}
	r.c.Turns = append(r.c.Turns, t)
}

// texts refuses parts that are no text, and leaves out the one line of Claude
// Code's that says nothing to a model and is another one in each request: no
// upstream's cache of prompts would ever be of use.
func (r *messagesReader) texts(parts []Part) []Part {
	kept := parts[:0]
	for _, p := range parts {
		if p.Kind != Text {
			r.wrong(p.Field, "must be a block of text")
		}
		if strings.HasPrefix(p.Text, "x-anthropic-billing-header:") {
			r.c.use(unknownField, p.Field)
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// maxContentDepth is how deep content may lie in content: a document's in that of
// a tool's result in that of a message.
const maxContentDepth = 3

// content reads a text or a list of blocks.
func (r *messagesReader) content() []Part {
	s := r.s
	field := s.field()
	if text, ok := s.stringOr(); ok {
		return []Part{{Kind: Text, Text: text, Field: field}}
	}
	if r.depth == maxContentDepth {
		r.wrong(field, "is nested too deeply")
		return nil
	}
	var parts []Part
	r.depth++
	s.list(func(int) { parts = r.block(parts) })
	r.depth--
	return parts
}

// messagesBlock is a block of content as it is written.
type messagesBlock struct {
	kind                      string
	text, title, context      string
	thinking, signature, data string
	id, name, toolUse, file   string
	input                     []byte
	media                     *Media
	parts                     []Part // of a document's source
	inner                     int    // where the content is, which the kind gives its meaning; 0 for none
	failed, cites             bool
	cache                     string
}

// block reads a block and adds what it is to parts.
func (r *messagesReader) block(parts []Part) []Part {
	s := r.s
	field := s.field()
	var b messagesBlock
	s.object(func(name []byte) { r.blockMember(&b, name) })
	if s.err != nil {
		return parts
	}
	if b.cites {
		r.c.use(citations, field+".citations")
	}
	p := Part{Field: field, Cache: b.cache}
	switch b.kind {
	case "text":
		p.Kind, p.Text = Text, b.text
	case "image":
		if p.Kind, p.Media = Image, b.media; b.media == nil {
			r.wrong(field+".source", "is required")
			return parts
		}
		if p.Media.URL != "" {
			r.c.use(imageURL, field)
		}
	case "document":
		return r.document(parts, &b, p)
	case "search_result":
		inner := r.inner(&b)
		p.Kind, p.Text = Text, strings.TrimSpace(b.title+"\n"+b.text)
		for _, q := range inner {
			p.Text += "\n\n" + q.Text
		}
		r.c.use(documentText, field)
	case "thinking":
		p.Kind, p.Text, p.State = Thought, b.thinking, stateOf(b.signature, dialect.Messages)
	case "redacted_thinking":
		p.Kind, p.State = Thought, stateOf(b.data, dialect.Messages)
		if p.State.Maker == dialect.Messages {
			p.State.Redacted = true
		}
	case "tool_use":
		return r.toolUse(parts, &b, p)
	case "tool_result":
		return r.toolResult(parts, &b, p)
	case "compaction":
		// What is left of the turns that it stands for.
		p.Kind = Text
		for _, q := range r.inner(&b) {
			p.Text += q.Text
		}
		if p.Text == "" {
			return parts
		}
	case "container_upload":
		r.c.use(fileID, field)
		return parts
	case "server_tool_use", "mcp_tool_use", "mcp_tool_listing", "tool_reference", "tool_addition", "tool_removal", "browser_state", "fallback":
		r.c.use(hostedItem, field)
		return parts
	default:
		if !strings.HasSuffix(b.kind, "_tool_result") {
			r.wrong(field+".type", "is no kind of block that is known")
			return parts
		}
		r.c.use(hostedItem, field)
		return parts
	}
	return append(parts, p)
}

func (r *messagesReader) blockMember(b *messagesBlock, name []byte) {
	s := r.s
	switch string(name) {
	case "type":
		b.kind = s.string()
	case "text":
		b.text = s.string()
	case "thinking":
		b.thinking = s.string()
	case "signature":
		b.signature = s.string()
	case "data":
		b.data = s.string()
	case "id":
		b.id = s.string()
	case "name":
		b.name = s.string()
	case "tool_use_id":
		b.toolUse = s.string()
	case "title":
		b.title = s.string()
	case "context":
		b.context = s.string()
	case "input":
		b.input = s.raw()
	case "is_error":
		b.failed = s.boolean()
	case "cache_control":
		b.cache = r.cacheMark()
	case "citations":
		raw := s.raw()
		b.cites = raw != nil && !isEmptyList(raw) && !bytes.Contains(raw, []byte(`"enabled":false`))
	case "source":
		if text, ok := s.stringOr(); ok { // of a search result
			b.text = text
			return
		}
		r.source(b)
	case "content":
		s.next()
		b.inner = s.at
		s.skip()
	case "caller": // who called the tool: nobody but the model may, here
		s.skip()
	default:
		switch b.kind {
		case "", "text", "image", "document", "tool_use", "tool_result", "thinking":
			r.unknown()
		default:
			s.skip()
		}
	}
}

// inner reads the content that a block has inside.
func (r *messagesReader) inner(b *messagesBlock) []Part {
	if b.inner == 0 {
		return nil
	}
	s := r.s
	after, base := s.at, len(s.path)
	s.at, s.path = b.inner, append(s.path, ".content"...)
	parts := r.content()
	if s.err == nil {
		s.at, s.path = after, s.path[:base]
	}
	return parts
}

// source reads where an image or a document is.
func (r *messagesReader) source(b *messagesBlock) {
	s := r.s
	kind, media, data, url := "", "", "", ""
	var parts []Part
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			kind = s.string()
		case "media_type":
			media = s.string()
		case "data":
			data = s.string()
		case "url":
			url = s.string()
		case "file_id":
			b.file = s.string()
		case "content":
			parts = r.content()
		default:
			r.unknown()
		}
	})
	switch {
	case s.err != nil:
	case kind == "base64" && data != "":
		b.media = &Media{Type: media, Data: data}
	case kind == "url" && url != "":
		b.media = &Media{URL: url}
	case kind == "file" && b.file != "":
		b.media = &Media{ID: b.file}
		r.c.use(fileID, s.field())
	case kind == "text":
		b.media = &Media{Type: "text/plain", Plain: data}
	case kind == "content":
		b.media, b.parts = &Media{}, parts
	default:
		r.wrong(s.field(), "must have a type and what belongs to it")
	}
}

// document adds a document. One that is text, or blocks of it, is marked as such:
// few dialects have it.
func (r *messagesReader) document(parts []Part, b *messagesBlock, p Part) []Part {
	m := b.media
	if m == nil {
		r.wrong(p.Field+".source", "is required")
		return parts
	}
	if b.context != "" {
		parts = append(parts, Part{Kind: Text, Text: b.context, Field: p.Field})
	}
	p.Kind, p.Media = File, m
	m.Name = b.title
	var images []Part
	switch {
	case m.Data != "":
		if m.Type == "" {
			m.Type = "application/pdf"
		}
	case m.URL != "":
		r.c.use(documentURL, p.Field)
	case m.ID == "":
		r.c.use(documentText, p.Field)
		m.Type = "text/plain"
		for _, q := range b.parts {
			switch {
			case q.Kind == Image:
				images = append(images, q)
			case m.Plain != "":
				m.Plain += "\n\n" + q.Text
			default:
				m.Plain = q.Text
			}
		}
		if m.Plain == "" {
			return append(parts, images...)
		}
	}
	return append(append(parts, p), images...)
}

func (r *messagesReader) toolUse(parts []Part, b *messagesBlock, p Part) []Part {
	s := r.s
	switch {
	case b.id == "":
		r.wrong(p.Field+".id", "is required")
	case b.name == "":
		r.wrong(p.Field+".name", "is required")
	case b.input != nil && b.input[0] != '{':
		r.wrong(p.Field+".input", "must be an object")
	}
	if s.err != nil {
		return parts
	}
	p.Kind = Call
	p.Call = &ToolCall{ID: wildID(b.id), Name: b.name, Arguments: compact(b.input)}
	// A call's own state came as a thought without words in front of it.
	if n := len(parts); n > 0 {
		if q := &parts[n-1]; q.Kind == Thought && q.Text == "" && q.State.Maker == dialect.Gemini && !q.State.Empty() {
			p.State = q.State
			parts = parts[:n-1]
		}
	}
	return append(parts, p)
}

// compact spells arguments without blanks, and none as an empty object.
func compact(object []byte) string {
	if len(object) == 0 {
		return "{}"
	}
	var out bytes.Buffer
	out.Grow(len(object))
	_ = json.Compact(&out, object) // raw has seen that it is valid
	return out.String()
}

func (r *messagesReader) toolResult(parts []Part, b *messagesBlock, p Part) []Part {
	if b.toolUse == "" {
		r.wrong(p.Field+".tool_use_id", "is required")
		return parts
	}
	inner := r.inner(b)
	for i := range inner {
		q := &inner[i]
		if q.Kind == Call || q.Kind == Result || q.Kind == Thought {
			r.wrong(q.Field, "is a block that a tool's result may not have")
		}
		if q.Cache != "" {
			p.Cache, q.Cache = q.Cache, ""
		}
	}
	p.Kind = Result
	p.Result = &ToolResult{ID: wildID(b.toolUse), Parts: inner, Failed: b.failed}
	return append(parts, p)
}
