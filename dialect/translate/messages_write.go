package translate

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/floway/floway/dialect"
)

// Requests for the Messages API, written so that the service takes them. Source of
// its rules: wire facts of the API, the typings and the errors of its SDKs.

// messagesName is what the older models allow in the name of a tool; newer ones
// take longer names.
var messagesName = nameRule{most: 64}

const (
	// maxMarks is how many cache marks a request may have.
	maxMarks = 4
	// messagesCallID bounds the id of a call.
	messagesCallID = 64
	// jsonInstruction stands for the mode of other dialects in which an answer is
	// some JSON object.
	jsonInstruction = "Answer with one JSON object and nothing else: no other text, no code fence."
	// opening is what the user says where a conversation begins with somebody else.
	opening = "Begin."
)

// messagesWriter writes a conversation.
type messagesWriter struct {
	r     *Request
	c     *Conversation
	w     *writer
	model claude

	// What is written: copies, whose cache marks may change.
	tools  []Tool
	system []Part
	turns  []Turn // user and assistant by turns

	// think is "" where nothing is said of thinking, else disabled, enabled or
	// adaptive.
	think     string
	budget    int64
	effort    string
	maxTokens int64

	surplus int  // cache marks that are too many: the first ones
	short   bool // a mark of five minutes was written
}

func (r *Request) writeMessages() error {
	m := &messagesWriter{r: r, c: r.c, w: &r.w, model: claudeOf(r.o.Model)}
	if err := m.chooseTools(); err != nil {
		return err
	}
	m.decideThinking()
	m.boundAnswer()
	m.gatherSystem()
	if err := m.gatherTurns(); err != nil {
		return err
	}
	m.countMarks()
	return m.write()
}

// chooseTools takes all tools, or those alone that may be called: the dialect has
// no list of them beside the tools.
func (m *messagesWriter) chooseTools() error {
	choice := &m.c.Choice
	for _, name := range choice.Only {
		if !slices.ContainsFunc(m.c.Tools, func(t Tool) bool { return t.Name == name }) {
			return bad(choice.Field, "%s names the tool %q, which the request does not have", choice.Field, clip(name))
		}
	}
	if len(choice.Only) == 0 || choice.Mode == None || m.forcedTool() {
		m.tools = slices.Clone(m.c.Tools)
	} else {
		for i := range m.c.Tools {
			if slices.Contains(choice.Only, m.c.Tools[i].Name) {
				m.tools = append(m.tools, m.c.Tools[i])
			}
		}
	}
	// Tools first, and in their order: their names are the same in each request.
	for i := range m.tools {
		m.toolName(&m.tools[i])
	}
	return nil
}

func (m *messagesWriter) toolName(t *Tool) string {
	return m.r.names.send(toolName{space: t.Space, name: t.Name, custom: t.Custom}, messagesName)
}

func (m *messagesWriter) forcedTool() bool {
	return m.c.Choice.Mode == Required && len(m.c.Choice.Only) == 1
}

// decideThinking turns effort and budget into what the model takes. Where it must
// not think, for the sake of other wishes or of a history that lacks its thoughts,
// the client is told.
func (m *messagesWriter) decideThinking() {
	t := &m.c.Reasoning
	field := t.Field
	if field == "" {
		field = "thinking"
	}
	switch {
	case t.Effort == "" && t.Budget == 0 && !t.Adaptive:
		return
	case !m.model.budget && !m.model.adaptive:
		if t.Effort != "none" || t.Budget > 0 {
			m.r.drop(field)
		}
		return
	case t.Effort == "none" && t.Budget == 0 && !t.Adaptive:
		m.think = "disabled"
		return
	case m.model.adaptive:
		m.think, m.effort = "adaptive", t.Effort
		if m.effort == "" && t.Budget > 0 {
			m.effort = effortOf(t.Budget)
		}
		switch {
		case m.effort == "none":
			m.effort = ""
		case m.effort == "minimal":
			m.effort = "low"
		case m.effort == "xhigh" && !m.model.xhigh:
			m.effort = "high"
			m.r.drop(field)
		}
	default:
		m.think, m.budget = "enabled", max(t.Budget, 1024)
		if t.Budget == 0 {
			m.budget = claudeBudget(t.Effort)
		}
	}
	if m.c.Choice.Mode == Required && len(m.tools) > 0 || !m.mayThinkOn() {
		m.think, m.budget = "disabled", 0
		m.r.drop(field)
	}
}

// claudeBudget returns the budget of an effort; where the model is to decide by
// itself, the middle one.
func claudeBudget(effort string) int64 {
	medium := int64(0)
	for _, b := range budgets {
		switch b.effort {
		case effort:
			return b.messages
		case "medium":
			medium = b.messages
		}
	}
	return medium
}

// mayThinkOn says whether the history is one on which the model may think: its
// last turn is not the beginning of the answer itself, and in the middle of calls
// the turn that made them begins with its own thoughts. Models that decide by
// themselves whether to think may have had none.
func (m *messagesWriter) mayThinkOn() bool {
	turns := m.c.Turns
	for i := len(turns) - 1; i >= 0; i-- {
		t := &turns[i]
		if t.Role != Assistant {
			continue
		}
		calls, lost := false, !m.model.adaptive
		for j := range t.Parts {
			switch p := &t.Parts[j]; {
			case p.Kind == Call:
				calls = true
			case p.Kind == Thought && m.r.readable(&p.State):
				return i < len(turns)-1
			case p.Kind == Thought:
				lost = true
			}
		}
		return i < len(turns)-1 && !(calls && lost)
	}
	return true
}

// replays says whether the upstream gets a thought back. Those of others it could
// not read, and where it does not think it must not get any.
func (m *messagesWriter) replays(p *Part) bool {
	return m.r.readable(&p.State) && (m.think == "enabled" || m.think == "adaptive" || m.think == "" && m.model.adaptive)
}

// boundAnswer decides on max_tokens, which must be there, must be greater than the
// budget of thoughts, and not more than the model can.
func (m *messagesWriter) boundAnswer() {
	n, most := m.c.MaxTokens, m.model.most
	if n == 0 {
		n = m.r.o.MaxTokens
	}
	if n == 0 {
		n = DefaultMaxTokens
	}
	if m.budget >= n {
		n += m.budget
	}
	if most > 0 {
		n = min(n, most)
		m.budget = min(m.budget, most/2)
	}
	m.maxTokens = n
	if m.c.MaxTokens != 0 && m.c.MaxTokens != n {
		m.r.drop(boundFields[m.c.From])
	}
}

func (m *messagesWriter) gatherSystem() {
	for _, p := range m.c.System {
		if !blank(p.Text) {
			m.system = append(m.system, p)
		}
	}
	if m.c.Format.Kind == JSONFormat {
		m.system = append(m.system, Part{Kind: Text, Text: jsonInstruction})
	}
}

// blank says whether the service would refuse a text.
func blank(text string) bool { return strings.TrimSpace(text) == "" }

// gatherTurns brings the turns into the only order that there is: the user's and
// the assistant's by turns, the user's first.
func (m *messagesWriter) gatherTurns() error {
	for i := range m.c.Turns {
		t := &m.c.Turns[i]
		role, parts := t.Role, m.kept(t.Parts)
		if len(parts) == 0 {
			continue
		}
		last := len(m.turns) - 1
		if role == System && (!m.model.system || last < 0 || m.turns[last].Role != User) {
			m.r.drop(t.Field)
			role, parts = User, tagged(parts)
		}
		if last >= 0 && m.turns[last].Role == role {
			m.turns[last].Parts = append(m.turns[last].Parts, parts...)
			continue
		}
		m.turns = append(m.turns, Turn{Role: role, Parts: parts, Field: t.Field})
	}
	if len(m.turns) == 0 && len(m.system) == 0 {
		return bad("", "the request has nothing that could be answered")
	}
	if len(m.turns) == 0 || m.turns[0].Role != User {
		if len(m.turns) > 0 {
			m.r.drop(m.turns[0].Field)
		}
		m.turns = slices.Insert(m.turns, 0, Turn{Role: User, Parts: []Part{{Kind: Text, Text: opening}}})
	}
	last := &m.turns[len(m.turns)-1]
	if last.Role != Assistant {
		return nil
	}
	for i := range last.Parts {
		if p := &last.Parts[i]; p.Kind == Call {
			return bad(p.Field, "the tool call %q has no result", clip(p.Call.ID))
		}
	}
	// The answer goes on behind this turn, which must not end in white space.
	if p := &last.Parts[len(last.Parts)-1]; p.Kind == Text || p.Kind == Refusal {
		p.Text = strings.TrimRight(p.Text, " \t\r\n")
	}
	return nil
}

// kept returns the parts that the upstream gets.
func (m *messagesWriter) kept(parts []Part) []Part {
	kept := make([]Part, 0, len(parts))
	for i := range parts {
		switch p := &parts[i]; p.Kind {
		case Text, Refusal:
			if blank(p.Text) {
				continue
			}
		case Thought:
			if !m.replays(p) {
				continue
			}
		}
		kept = append(kept, parts[i])
	}
	return kept
}

// tagged makes instructions into what the user says.
func tagged(parts []Part) []Part {
	text := "<system>"
	for i := range parts {
		text += "\n" + parts[i].Text
	}
	return []Part{{Kind: Text, Text: text + "\n</system>", Cache: parts[len(parts)-1].Cache, Field: parts[0].Field}}
}

// countMarks finds how many cache marks are too many. Clients of dialects that
// cache by themselves have none: for them the ends of tools, instructions and
// turns are marked, without which nothing would ever be cached.
func (m *messagesWriter) countMarks() {
	marks := 0
	var last *Part // of the turns
	count := func(cache string) {
		if cache != "" {
			marks++
		}
	}
	for i := range m.tools {
		count(m.tools[i].Cache)
	}
	for i := range m.system {
		count(m.system[i].Cache)
	}
	for i := range m.turns {
		for j := range m.turns[i].Parts {
			if last = &m.turns[i].Parts[j]; last.Kind == Thought {
				last.Cache = "" // a thought cannot be marked
			}
			count(last.Cache)
		}
	}
	m.surplus = marks - maxMarks
	if m.surplus > 0 {
		m.r.dropUsed(cacheMark)
	}
	if marks > 0 || m.c.From == dialect.Messages || m.c.Counting {
		return
	}
	if n := len(m.tools); n > 0 {
		m.tools[n-1].Cache = "5m"
	}
	if n := len(m.system); n > 0 {
		m.system[n-1].Cache = "5m"
	}
	if last.Kind != Thought {
		last.Cache = "5m"
	}
}

// mark writes a cache mark, if it is not one too many. Longer lives must stand
// before shorter ones.
func (m *messagesWriter) mark(cache string) {
	if cache == "" {
		return
	}
	if m.surplus > 0 {
		m.surplus--
		return
	}
	m.w.name("cache_control")
	if cache == "1h" && !m.short {
		m.w.literal(`{"type":"ephemeral","ttl":"1h"}`)
		return
	}
	if m.short = true; cache == "1h" {
		m.r.dropUsed(cacheMark)
	}
	m.w.literal(`{"type":"ephemeral"}`)
}

func (m *messagesWriter) write() error {
	w, c := m.w, m.c
	w.open('{')
	w.member("model", m.r.o.Model)
	if !c.Counting {
		w.intMember("max_tokens", m.maxTokens)
		if c.Stream {
			w.boolMember("stream", true)
		}
	}
	if err := m.writeTools(); err != nil {
		return err
	}
	if len(m.system) > 0 {
		w.name("system")
		w.open('[')
		for i := range m.system {
			m.text(&m.system[i])
		}
		w.shut(']')
	}
	w.name("messages")
	w.open('[')
	for i := range m.turns {
		if err := m.turn(&m.turns[i]); err != nil {
			return err
		}
	}
	w.shut(']')
	m.writeThinking()
	if !c.Counting {
		if err := m.writeOutput(); err != nil {
			return err
		}
		m.writeRest()
	}
	w.shut('}')
	return nil
}

func (m *messagesWriter) writeTools() error {
	w, c := m.w, m.c
	if len(m.tools) == 0 {
		if c.Choice.Mode != Unsaid && c.Choice.Mode != None && c.Choice.Mode != Auto {
			m.r.drop(c.Choice.Field)
		}
		return nil
	}
	w.name("tools")
	w.open('[')
	for i := range m.tools {
		if err := m.writeTool(&m.tools[i]); err != nil {
			return err
		}
	}
	w.shut(']')
	kind := map[Mode]string{Auto: "auto", Required: "any", None: "none"}[c.Choice.Mode]
	if m.forcedTool() {
		kind = "tool"
	}
	if kind == "" && (c.Serial || len(c.Choice.Only) > 0) {
		kind = "auto"
	}
	if kind == "" {
		return nil
	}
	w.name("tool_choice")
	w.open('{')
	w.member("type", kind)
	if kind == "tool" {
		at := slices.IndexFunc(m.tools, func(t Tool) bool { return t.Name == c.Choice.Only[0] })
		w.member("name", m.toolName(&m.tools[at]))
	}
	if c.Serial && kind != "none" {
		w.boolMember("disable_parallel_tool_use", true)
	}
	w.shut('}')
	return nil
}

func (m *messagesWriter) writeTool(t *Tool) error {
	w := m.w
	w.open('{')
	w.member("name", m.toolName(t))
	if t.Custom {
		w.memberIf("description", wrapDescription(t))
		w.rawMember("input_schema", wrapSchema())
	} else {
		w.memberIf("description", t.Description)
		schema, err := objectSchema(t)
		if err != nil {
			return err
		}
		w.rawMember("input_schema", schema)
		if t.Strict != nil && *t.Strict {
			if m.model.strict {
				w.boolMember("strict", true)
			} else {
				m.r.drop(t.Field + ".strict")
			}
		}
	}
	m.mark(t.Cache)
	w.shut('}')
	return nil
}

// objectSchema is the schema of a tool's arguments, which has to say that they are
// an object.
func objectSchema(t *Tool) ([]byte, error) {
	if len(t.Schema) == 0 {
		return []byte(`{"type":"object","properties":{}}`), nil
	}
	s := newSource(t.Schema)
	kind, members := "", 0
	s.object(func(name []byte) {
		if members++; string(name) == "type" {
			kind = string(bytes.TrimSpace(s.raw()))
			return
		}
		s.skip()
	})
	switch {
	case s.err != nil || kind != "" && kind != `"object"`:
		return nil, bad(t.Field, "the schema of the tool %q must be that of an object", clip(t.Name))
	case kind != "":
		return t.Schema, nil
	case members == 0:
		return []byte(`{"type":"object","properties":{}}`), nil
	}
	rest := t.Schema[bytes.IndexByte(t.Schema, '{')+1:]
	return slices.Concat([]byte(`{"type":"object",`), rest), nil
}

func (m *messagesWriter) turn(t *Turn) error {
	w := m.w
	w.open('{')
	w.member("role", [...]string{User: "user", Assistant: "assistant", System: "system"}[t.Role])
	w.name("content")
	w.open('[')
	for i := range t.Parts {
		if err := m.part(&t.Parts[i], t.Role); err != nil {
			return err
		}
	}
	w.shut(']')
	w.shut('}')
	return nil
}

func (m *messagesWriter) part(p *Part, role Role) error {
	w := m.w
	switch p.Kind {
	case Text, Refusal:
		m.text(p)
	case Thought:
		w.open('{')
		if p.State.Redacted {
			w.member("type", "redacted_thinking")
			w.member("data", p.State.Data)
		} else {
			w.member("type", "thinking")
			w.member("thinking", p.Text)
			w.member("signature", p.State.Data)
		}
		w.shut('}')
	case Image, File:
		if role == Assistant {
			return bad(p.Field, "%s: the Messages API takes no images or files of the assistant's", p.Field)
		}
		return m.media(p)
	case Audio:
		return m.r.refuse(audioIn, p.Field)
	case Video:
		return m.r.refuse(videoIn, p.Field)
	case Call:
		return m.call(p)
	case Result:
		return m.result(p)
	}
	return nil
}

func (m *messagesWriter) text(p *Part) {
	m.w.open('{')
	m.w.member("type", "text")
	m.w.member("text", p.Text)
	m.mark(p.Cache)
	m.w.shut('}')
}

func (m *messagesWriter) call(p *Part) error {
	w, call := m.w, p.Call
	args, err := argumentsObject(p)
	if err != nil {
		return err
	}
	w.open('{')
	w.member("type", "tool_use")
	w.member("id", safeID(call.ID, messagesCallID))
	w.member("name", m.r.names.send(toolName{space: call.Space, name: call.Name, custom: call.Custom}, messagesName))
	w.rawMember("input", args)
	m.mark(p.Cache)
	w.shut('}')
	return nil
}

func (m *messagesWriter) result(p *Part) error {
	w, result := m.w, p.Result
	w.open('{')
	w.member("type", "tool_result")
	w.member("tool_use_id", safeID(result.ID, messagesCallID))
	if parts := m.kept(result.Parts); len(parts) > 0 {
		w.name("content")
		w.open('[')
		for i := range parts {
			parts[i].Cache = "" // a mark of theirs would be one more
			if err := m.part(&parts[i], User); err != nil {
				return err
			}
		}
		w.shut(']')
	}
	if result.Failed {
		w.boolMember("is_error", true)
	}
	m.mark(p.Cache)
	w.shut('}')
	return nil
}

// media writes an image or a document.
func (m *messagesWriter) media(p *Part) error {
	w, v := m.w, *p.Media
	v.Type, _, _ = strings.Cut(strings.ToLower(v.Type), ";")
	if v.ID != "" {
		return m.r.refuse(fileID, p.Field)
	}
	if v.URL != "" && !strings.HasPrefix(v.URL, "https://") && !strings.HasPrefix(v.URL, "http://") {
		return bad(p.Field, "%s: an address must begin with https:// or http://", p.Field)
	}
	image := p.Kind == Image || strings.HasPrefix(v.Type, "image/")
	if !image && v.Data != "" && isText(v.Type) {
		plain, err := base64.StdEncoding.DecodeString(v.Data)
		if err != nil {
			return bad(p.Field, "%s: the data is not valid base64", p.Field)
		}
		v.Plain, v.Data = string(plain), ""
	}
	switch {
	case image && v.Data != "":
		if v.Type = imageType(v.Type, v.Data); v.Type == "" {
			return bad(p.Field, "%s: the Messages API takes images of the types jpeg, png, gif and webp only", p.Field)
		}
	case v.Data != "" && v.Type == "":
		v.Type = "application/pdf"
	case !image && v.Plain == "" && v.Type != "" && v.Type != "application/pdf":
		return bad(p.Field, "%s: the Messages API takes documents that are PDF or text, not %q", p.Field, clip(v.Type))
	}
	w.open('{')
	if image {
		w.member("type", "image")
	} else {
		w.member("type", "document")
	}
	w.name("source")
	w.open('{')
	switch {
	case v.Data != "":
		w.member("type", "base64")
		w.member("media_type", v.Type)
		w.member("data", v.Data)
	case v.URL != "":
		w.member("type", "url")
		w.member("url", v.URL)
	default:
		w.member("type", "text")
		w.member("media_type", "text/plain")
		w.member("data", v.Plain)
	}
	w.shut('}')
	if !image {
		w.memberIf("title", v.Name)
	}
	m.mark(p.Cache)
	w.shut('}')
	return nil
}

// isText says whether files of a type can be read as they are.
func isText(kind string) bool {
	switch kind {
	case "application/json", "application/xml", "application/yaml", "application/javascript":
		return true
	}
	return strings.HasPrefix(kind, "text/")
}

// imageType returns the type under which the service takes an image; "" if it
// takes none. An image without a type is told by its first bytes.
func imageType(kind, data string) string {
	switch kind {
	case "image/jpg":
		return "image/jpeg"
	case "image/jpeg", "image/png", "image/gif", "image/webp":
		return kind
	case "", "image/*", "application/octet-stream":
		for begin, kind := range map[string]string{"/9j/": "image/jpeg", "iVBORw0KGgo": "image/png", "R0lGOD": "image/gif", "UklGR": "image/webp"} {
			if strings.HasPrefix(data, begin) {
				return kind
			}
		}
	}
	return ""
}

func (m *messagesWriter) writeThinking() {
	w := m.w
	if m.think == "" {
		return
	}
	w.name("thinking")
	w.open('{')
	w.member("type", m.think)
	switch m.think {
	case "enabled":
		w.intMember("budget_tokens", m.budget)
	case "adaptive":
		if m.c.Reasoning.Visible {
			w.member("display", "summarized")
		} else {
			w.member("display", "omitted")
		}
	}
	w.shut('}')
}

// writeOutput writes effort and form of the answer.
func (m *messagesWriter) writeOutput() error {
	w, f := m.w, &m.c.Format
	if m.effort == "" && f.Kind != SchemaFormat {
		return nil
	}
	w.name("output_config")
	w.open('{')
	w.memberIf("effort", m.effort)
	if f.Kind == SchemaFormat {
		if len(f.Schema) == 0 {
			return bad(f.Field, "%s: a schema is required", f.Field)
		}
		w.name("format")
		w.open('{')
		w.member("type", "json_schema")
		schema := f.Schema
		if m.c.From != dialect.Messages {
			schema = closedSchema(schema)
		}
		w.rawMember("schema", schema)
		w.shut('}')
	}
	w.shut('}')
	return nil
}

func (m *messagesWriter) writeRest() {
	w, c := m.w, m.c
	if len(c.Stop) > 0 {
		w.name("stop_sequences")
		w.open('[')
		for _, stop := range c.Stop {
			w.string(stop)
		}
		w.shut(']')
	}
	m.writeSampling()
	if c.EndUser != "" {
		w.name("metadata")
		w.open('{')
		w.member("user_id", m.endUser())
		w.shut('}')
	}
	switch c.Tier {
	case "":
	case "auto":
		w.member("service_tier", "auto")
	case "default", "standard":
		w.member("service_tier", "standard_only")
	default:
		m.r.dropUsed(serviceTier)
	}
	if c.From == dialect.Messages {
		for _, kept := range c.Echo {
			w.rawMember(kept.Name, kept.Raw)
		}
	}
}

// writeSampling writes what the model takes of temperature, top_p and top_k. What
// it does not take is named, unless it is what the model does anyway.
func (m *messagesWriter) writeSampling() {
	w, c := m.w, m.c
	thinks := m.think == "enabled" || m.think == "adaptive"
	warmth, hasWarmth := number(c.Temperature)
	mass, hasMass := number(c.TopP)
	switch {
	case !hasWarmth:
	case !m.model.sampling || thinks:
		hasWarmth = false
		if warmth != 1 {
			m.r.dropUsed(temperature)
		}
	case warmth > 1:
		w.intMember("temperature", 1)
		m.r.dropUsed(temperature)
	default:
		w.numberIf("temperature", c.Temperature)
	}
	switch {
	case !hasMass:
	case !m.model.sampling, thinks && mass < 0.95, m.model.onlyOne && hasWarmth:
		if mass != 1 {
			m.r.dropUsed(topP)
		}
	default:
		w.numberIf("top_p", c.TopP)
	}
	switch {
	case c.TopK == "":
	case !m.model.sampling || thinks:
		m.r.dropUsed(topK)
	default:
		w.numberIf("top_k", c.TopK)
	}
}

func number(n Number) (float64, bool) {
	f, err := strconv.ParseFloat(string(n), 64)
	return f, err == nil
}

// endUser is the client's name for its user, if it cannot be one for a person:
// mail addresses and telephone numbers are refused.
func (m *messagesWriter) endUser() string {
	id := m.c.EndUser
	if m.c.From == dialect.Messages || (nameRule{most: 256}).allowed(id) && strings.Trim(id, "0123456789-") != "" {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16])
}
