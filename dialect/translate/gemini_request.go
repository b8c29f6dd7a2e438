package translate

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// Requests of Google's generateContent. Source: typings of @google/genai and the
// documentation of the Generative Language API.

// noValidation stands in the place of a thought signature in histories that the
// service did not make: without any it refuses the first call of a step.
const noValidation = "skip_thought_signature_validator"

// camel returns the name of a member as the service spells it: it takes both
// spellings.
func camel(name []byte) string {
	s := string(name)
	if !strings.Contains(s[min(1, len(s)):], "_") {
		return s
	}
	var b strings.Builder
	up := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '_' && i > 0:
			up = true
		case up && c >= 'a' && c <= 'z':
			b.WriteByte(c - 'a' + 'A')
			up = false
		default:
			b.WriteByte(c)
			up = false
		}
	}
	return b.String()
}

func (c *Conversation) readGemini(s *source) {
	s.object(func(name []byte) {
		switch camel(name) {
		case "contents":
			c.readContents(s)
		case "systemInstruction":
			c.readInstruction(s)
		case "tools":
			s.list(func(int) { c.readGeminiTools(s) })
		case "toolConfig":
			c.readToolConfig(s)
		case "generationConfig":
			c.readGenerationConfig(s)
		case "cachedContent":
			if field := s.field(); s.string() != "" {
				c.use(cachedContent, field)
			}
		case "serviceTier":
			c.readTier(s)
		case "store":
			c.useIf(store, s)
		case "labels":
			c.useIf(labels, s)
		case "safetySettings":
			c.useIf(safetySettings, s)
		case "continuationToken":
			c.useIf(serverState, s)
		case "generateContentRequest": // of countTokens
			c.readGemini(s)
		case "model": // repeated here by some clients; the path decides
			s.skip()
		default:
			c.useIf(unknownField, s)
		}
	})
}

// useIf reads a value and notes the feature if it says anything.
func (c *Conversation) useIf(f feature, s *source) {
	field := s.field()
	switch string(s.raw()) {
	case "", "false", "[]", "{}", `""`:
	default:
		c.use(f, field)
	}
}

func (c *Conversation) readTier(s *source) {
	field := s.field()
	if c.Tier = strings.ToLower(s.string()); c.Tier != "" {
		c.use(serviceTier, field)
	}
}

func (c *Conversation) readInstruction(s *source) {
	if text, ok := s.stringOr(); ok {
		c.System = append(c.System, Part{Kind: Text, Text: text})
		return
	}
	_, parts := c.readContent(s)
	for _, p := range parts {
		if p.Kind != Text {
			s.fail("systemInstruction may hold nothing but text")
			return
		}
	}
	c.System = append(c.System, parts...)
}

func (c *Conversation) readContents(s *source) {
	one := func() {
		field := s.field()
		role, parts := c.readContent(s)
		c.Turns = append(c.Turns, Turn{Role: role, Parts: parts, Field: field})
	}
	switch s.next() {
	case '{':
		one()
	case '"':
		c.Turns = append(c.Turns, Turn{Field: s.field(), Parts: []Part{{Kind: Text, Text: s.string()}}})
	default:
		s.list(func(int) { one() })
	}
}

func (c *Conversation) readContent(s *source) (role Role, parts []Part) {
	s.object(func(name []byte) {
		switch camel(name) {
		case "role":
			switch word := s.string(); word {
			case "user", "function", "":
			case "model":
				role = Assistant
			case "system":
				role = System
			default:
				s.fail("the role %q is none of user and model", clip(word))
			}
		case "parts":
			if s.next() == '{' {
				parts = c.readGeminiPart(s, parts)
				return
			}
			s.list(func(int) { parts = c.readGeminiPart(s, parts) })
		default:
			c.useIf(unknownField, s)
		}
	})
	return role, parts
}

func (c *Conversation) readGeminiPart(s *source, into []Part) []Part {
	p := Part{Kind: Text, Field: s.field()}
	thought, known := false, false
	signature := ""
	s.object(func(name []byte) {
		switch word := camel(name); word {
		case "text":
			p.Text, known = s.string(), true
		case "thought":
			thought = s.boolean()
		case "thoughtSignature":
			signature = s.string()
		case "inlineData":
			known = true
			c.readBlob(s, &p)
		case "fileData":
			known = true
			c.readFileData(s, &p)
		case "functionCall":
			known = true
			p.Kind, p.Call = Call, c.readFunctionCall(s)
		case "functionResponse":
			known = true
			p.Kind, p.Result = Result, c.readFunctionResponse(s)
		case "executableCode", "codeExecutionResult", "toolCall", "toolResponse":
			c.useIf(hostedItem, s)
		case "videoMetadata":
			c.useIf(videoIn, s)
		case "mediaResolution":
			c.useIf(mediaDetail, s)
		default:
			c.useIf(unknownField, s)
		}
	})
	if signature != "" && signature != noValidation {
		p.State = stateOf(signature, dialect.Gemini)
	}
	switch {
	case thought, known && p.Kind == Text && p.Text == "" && !p.State.Empty():
		p.Kind = Thought
	case !known:
		return into
	}
	return append(into, p)
}

func (c *Conversation) readBlob(s *source, p *Part) {
	m := &Media{}
	s.object(func(name []byte) {
		switch camel(name) {
		case "mimeType":
			m.Type = s.string()
		case "data":
			m.Data = s.string()
		case "displayName":
			m.Name = s.string()
		default:
			c.useIf(unknownField, s)
		}
	})
	p.Media, p.Kind = m, kindOf(m.Type)
	switch {
	case p.Kind == Audio:
		c.use(audioIn, p.Field)
	case p.Kind == Video:
		c.use(videoIn, p.Field)
	case strings.HasPrefix(m.Type, "text/"):
		plain, err := base64.StdEncoding.DecodeString(m.Data)
		if err != nil {
			s.fail("%s is not valid base64", p.Field)
			return
		}
		m.Data, m.Plain = "", string(plain)
		c.use(documentText, p.Field)
	}
}

// kindOf is what a media type is of.
func kindOf(mediaType string) Kind {
	switch kind, _, _ := strings.Cut(mediaType, "/"); kind {
	case "image":
		return Image
	case "audio":
		return Audio
	case "video":
		return Video
	}
	return File
}

// readFileData tells addresses that everybody can read from files that only
// Google keeps.
func (c *Conversation) readFileData(s *source, p *Part) {
	m := &Media{}
	s.object(func(name []byte) {
		switch camel(name) {
		case "mimeType":
			m.Type = s.string()
		case "fileUri":
			m.URL = s.string()
		case "displayName":
			m.Name = s.string()
		default:
			c.useIf(unknownField, s)
		}
	})
	p.Media, p.Kind = m, kindOf(m.Type)
	web := strings.HasPrefix(m.URL, "https://") || strings.HasPrefix(m.URL, "http://")
	switch {
	case !web, strings.HasPrefix(m.URL, "https://generativelanguage.googleapis.com/"):
		m.ID, m.URL = m.URL, ""
		c.use(fileID, p.Field)
	case p.Kind == Image:
		c.use(imageURL, p.Field)
	case p.Kind == File:
		c.use(documentURL, p.Field)
	case p.Kind == Audio:
		c.use(fileID, p.Field) // no dialect takes the address of a sound
	default:
		c.use(videoIn, p.Field)
	}
}

func (c *Conversation) readFunctionCall(s *source) *ToolCall {
	call := &ToolCall{Arguments: "{}"}
	s.object(func(name []byte) {
		switch camel(name) {
		case "id":
			call.ID = s.string()
		case "name":
			call.Name = s.string()
		case "args":
			if args := s.raw(); len(args) > 0 {
				if args[0] != '{' {
					s.fail("%s must be an object", s.field())
				}
				call.Arguments = string(args)
			}
		default:
			c.useIf(unknownField, s)
		}
	})
	if call.Name == "" {
		s.fail("%s has no name", s.field())
	}
	return call
}

func (c *Conversation) readFunctionResponse(s *source) *ToolResult {
	r := &ToolResult{}
	var more []Part
	s.object(func(name []byte) {
		switch camel(name) {
		case "id":
			r.ID = s.string()
		case "name":
			r.Name = s.string()
		case "response":
			if s.next() != '{' && s.next() != 'n' {
				s.fail("%s must be an object", s.field())
				return
			}
			text, failed := resultText(s.raw())
			r.Failed = failed
			r.Parts = append(r.Parts, Part{Kind: Text, Text: text, Field: s.field()})
		case "parts":
			s.list(func(int) { more = c.readGeminiPart(s, more) })
		default:
			c.useIf(unknownField, s)
		}
	})
	r.Parts = append(r.Parts, more...)
	return r
}

// resultText is the text of a result, which must be an object in this dialect: its
// only member where that is called as the writers call it, else all of it.
func resultText(raw []byte) (text string, failed bool) {
	if len(raw) == 0 {
		return "", false
	}
	members := 0
	key, value := "", []byte(nil)
	s := newSource(raw)
	s.object(func(name []byte) {
		members++
		key = string(name)
		value = s.raw()
	})
	failed = members == 1 && key == "error"
	if members == 1 && (failed || key == "result" || key == "output") {
		if len(value) > 0 && value[0] == '"' {
			return newSource(value).string(), failed
		}
		if failed {
			return string(value), true
		}
	}
	return string(raw), failed
}

func (c *Conversation) readGeminiTools(s *source) {
	s.object(func(name []byte) {
		if camel(name) == "functionDeclarations" {
			s.list(func(int) { c.readDeclaration(s) })
			return
		}
		field := s.field()
		if s.raw() != nil {
			c.use(hostedTool, field)
		}
	})
}

func (c *Conversation) readDeclaration(s *source) {
	t := Tool{Field: s.field()}
	s.object(func(name []byte) {
		switch camel(name) {
		case "name":
			t.Name = s.string()
		case "description":
			t.Description = s.string()
		case "parameters":
			if raw := s.raw(); raw != nil {
				t.Schema = jsonSchema(s, raw)
			}
		case "parametersJsonSchema":
			if raw := s.raw(); raw != nil {
				t.Schema = raw
			}
		default:
			c.useIf(unknownField, s)
		}
	})
	if t.Name == "" {
		s.fail("%s has no name", t.Field)
	}
	c.Tools = append(c.Tools, t)
}

func (c *Conversation) readToolConfig(s *source) {
	s.object(func(name []byte) {
		if camel(name) != "functionCallingConfig" {
			c.useIf(unknownField, s)
			return
		}
		c.Choice.Field = s.field()
		s.object(func(name []byte) {
			switch camel(name) {
			case "mode":
				switch mode := s.string(); strings.ToUpper(mode) {
				case "AUTO", "VALIDATED":
					c.Choice.Mode = Auto
				case "ANY":
					c.Choice.Mode = Required
				case "NONE":
					c.Choice.Mode = None
				case "", "MODE_UNSPECIFIED":
				default:
					s.fail("the mode %q is none of AUTO, ANY, NONE and VALIDATED", clip(mode))
				}
			case "allowedFunctionNames":
				s.list(func(int) { c.Choice.Only = append(c.Choice.Only, s.string()) })
			default:
				c.useIf(unknownField, s)
			}
		})
	})
}

func (c *Conversation) readGenerationConfig(s *source) {
	media, schema := "", []byte(nil)
	s.object(func(name []byte) {
		field := s.field()
		number := func(into *Number, f feature) {
			if *into = s.number(); *into != "" {
				c.use(f, field)
			}
		}
		switch camel(name) {
		case "temperature":
			number(&c.Temperature, temperature)
		case "topP":
			number(&c.TopP, topP)
		case "topK":
			number(&c.TopK, topK)
		case "presencePenalty":
			number(&c.PresencePenalty, presencePenalty)
		case "frequencyPenalty":
			number(&c.FrequencyPenalty, frequencyPenalty)
		case "seed":
			number(&c.Seed, seed)
		case "maxOutputTokens":
			c.MaxTokens = s.integer()
		case "candidateCount":
			if c.Candidates = s.integer(); c.Candidates > 1 {
				c.use(candidates, field)
			}
		case "stopSequences":
			s.list(func(int) { c.Stop = append(c.Stop, s.string()) })
			if len(c.Stop) > 0 {
				c.use(stopSequences, field)
			}
		case "responseMimeType":
			media = s.string()
			c.Format.Field = field
		case "responseSchema":
			if raw := s.raw(); raw != nil {
				schema = jsonSchema(s, raw)
			}
		case "responseJsonSchema", "_responseJsonSchema":
			if raw := s.raw(); raw != nil {
				schema = raw
			}
		case "responseModalities":
			s.list(func(int) {
				switch strings.ToUpper(s.string()) {
				case "AUDIO":
					c.use(audioOut, field)
				case "IMAGE":
					c.use(imageOut, field)
				}
			})
		case "speechConfig":
			c.useIf(audioOut, s)
		case "imageConfig":
			c.useIf(imageOut, s)
		case "mediaResolution":
			c.useIf(mediaDetail, s)
		case "responseLogprobs":
			if c.LogProbs = s.boolean(); c.LogProbs {
				c.use(logProbs, field)
			}
		case "logprobs":
			c.TopLogProbs = s.integer()
		case "thinkingConfig":
			c.readThinkingConfig(s)
		default:
			c.useIf(unknownField, s)
		}
	})
	switch {
	case media == "application/json" && schema != nil:
		c.Format.Kind, c.Format.Schema = SchemaFormat, schema
		c.use(schemaFormat, c.Format.Field)
	case media == "application/json":
		c.Format.Kind = JSONFormat
		c.use(jsonFormat, c.Format.Field)
	case media != "" && media != "text/plain":
		c.use(otherFormat, c.Format.Field)
	}
}

func (c *Conversation) readThinkingConfig(s *source) {
	r := &c.Reasoning
	r.Field = s.field()
	s.object(func(name []byte) {
		switch camel(name) {
		case "includeThoughts":
			r.Visible = s.boolean()
		case "thinkingBudget":
			switch n := s.number(); {
			case n == "":
			case n == "0":
				r.Effort = "none"
			case strings.HasPrefix(string(n), "-"):
				r.Adaptive = true
			default:
				r.Budget = newSource([]byte(n)).integer()
				r.Effort = geminiEffort(r.Budget)
			}
		case "thinkingLevel":
			level := strings.ToLower(s.string())
			if level != "" && level != "thinking_level_unspecified" {
				if !knownEffort(level) {
					s.fail("the thinkingLevel %q is unknown", clip(level))
				}
				r.Effort = level
			}
		default:
			c.useIf(unknownField, s)
		}
	})
	if r.Effort != "" || r.Adaptive {
		c.use(effort, r.Field)
	}
}

// geminiEffort returns the effort whose budget in Gemini is nearest.
func geminiEffort(budget int64) string {
	best := 0
	for i := range budgets {
		if abs(budgets[i].gemini-budget) < abs(budgets[best].gemini-budget) {
			best = i
		}
	}
	return budgets[best].effort
}

// maxSchemaDepth bounds the nesting of a schema that is rewritten.
const maxSchemaDepth = 64

// jsonSchema makes JSON Schema of the service's own kind of schema, which has types
// in capitals, a word for null and counts as strings.
func jsonSchema(at *source, raw []byte) []byte {
	var w writer
	s := newSource(raw)
	s.path = append(s.path, at.path...)
	rewriteSchema(s, &w, 0)
	at.failWith(s.err)
	return w.b
}

func rewriteSchema(s *source, w *writer, depth int) {
	if s.next() != '{' || depth > maxSchemaDepth {
		if depth > maxSchemaDepth {
			s.fail("%s is nested too deep", s.field())
			return
		}
		w.raw(s.raw())
		return
	}
	nullable := false
	ahead := source{in: s.in, at: s.at}
	ahead.object(func(name []byte) {
		if string(name) == "nullable" {
			nullable = ahead.boolean()
			return
		}
		ahead.skip()
	})
	w.open('{')
	s.object(func(name []byte) {
		word := string(name)
		switch camel(name) {
		case "nullable", "propertyOrdering", "example":
			s.skip()
		case "type":
			w.name("type")
			if s.next() != '"' { // JSON Schema already
				w.raw(s.raw())
				return
			}
			kind := strings.ToLower(s.string())
			if !nullable {
				w.string(kind)
				return
			}
			w.open('[')
			w.string(kind)
			w.string("null")
			w.shut(']')
		case "properties":
			w.name("properties")
			w.open('{')
			s.object(func(name []byte) {
				w.escapedName(string(name))
				rewriteSchema(s, w, depth+1)
			})
			w.shut('}')
		case "items":
			w.name("items")
			rewriteSchema(s, w, depth+1)
		case "anyOf":
			w.name("anyOf")
			w.open('[')
			s.list(func(int) { rewriteSchema(s, w, depth+1) })
			w.shut(']')
		case "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties":
			w.name(camel(name))
			if count, ok := s.stringOr(); ok {
				w.literal(numberIn(s, count))
				return
			}
			w.raw(s.raw())
		default:
			w.escapedName(word)
			w.raw(s.raw())
		}
	})
	w.shut('}')
}

// numberIn returns a count that was spelled as a string.
func numberIn(s *source, text string) string {
	for _, c := range text {
		if c < '0' || c > '9' {
			s.fail("%s must be a number", s.field())
			return "0"
		}
	}
	if text == "" {
		return "0"
	}
	return text
}

// geminiNames is what the service allows in names of functions.
var geminiNames = nameRule{most: 64, extra: ".:", first: true}

func (r *Request) writeGemini() error {
	w, c := &r.w, r.c
	w.open('{')
	if c.Counting {
		w.name("generateContentRequest")
		w.open('{')
		w.member("model", "models/"+r.o.Model)
	}
	if len(c.System) > 0 {
		w.name("systemInstruction")
		w.open('{')
		w.name("parts")
		w.open('[')
		for i := range c.System {
			if c.System[i].Text != "" {
				w.textPart(c.System[i].Text)
			}
		}
		w.shut(']')
		w.shut('}')
	}
	if err := r.writeContents(); err != nil {
		return err
	}
	r.writeGeminiTools()
	if !c.Counting {
		r.writeGenerationConfig()
		switch c.Tier {
		case "flex", "priority":
			w.member("serviceTier", c.Tier)
		case "", "auto", "default", "standard", "standard_only":
		default:
			r.dropUsed(serviceTier)
		}
	}
	w.shut('}')
	if c.Counting {
		w.shut('}')
	}
	return nil
}

func (w *writer) textPart(text string) {
	w.open('{')
	w.member("text", text)
	w.shut('}')
}

// dropUsed notes that a feature which the dialect has was not carried all the same.
func (r *Request) dropUsed(f feature) {
	for _, u := range r.c.used {
		if u.feature == f {
			r.drop(u.field)
		}
	}
}

// writeContents writes the turns. Those of one role that follow each other become
// one: the service wants them to alternate.
func (r *Request) writeContents() error {
	w := &r.w
	w.name("contents")
	w.open('[')
	role, open := User, false
	for i := range r.c.Turns {
		t := &r.c.Turns[i]
		if !r.speaks(t) {
			continue
		}
		next := t.Role
		if next == System {
			next = User
		}
		if open && next != role {
			w.shut(']')
			w.shut('}')
			open = false
		}
		if !open {
			w.open('{')
			w.member("role", [...]string{User: "user", Assistant: "model"}[next])
			w.name("parts")
			w.open('[')
			role, open = next, true
		}
		if err := r.writeGeminiTurn(t); err != nil {
			return err
		}
	}
	if open {
		w.shut(']')
		w.shut('}')
	}
	w.shut(']')
	return nil
}

// speaks says whether anything of a turn is left: the service refuses contents
// without parts.
func (r *Request) speaks(t *Turn) bool {
	return slices.ContainsFunc(t.Parts, func(p Part) bool {
		switch p.Kind {
		case Text, Refusal:
			return p.Text != ""
		case Thought:
			return r.readable(&p.State)
		}
		return true
	})
}

func (r *Request) writeGeminiTurn(t *Turn) error {
	w := &r.w
	called := false
	var behind []*Part // images of results
	for i := range t.Parts {
		p := &t.Parts[i]
		switch p.Kind {
		case Text, Refusal:
			switch {
			case t.Role == System && p.Text != "":
				w.textPart("<system>\n" + p.Text + "\n</system>")
			case p.Text != "":
				w.open('{')
				w.member("text", p.Text)
				r.writeSignature(&p.State)
				w.shut('}')
			}
		case Thought:
			if r.readable(&p.State) {
				w.open('{')
				w.member("text", p.Text)
				w.boolMember("thought", true)
				r.writeSignature(&p.State)
				w.shut('}')
			}
		case Image, File, Audio, Video:
			if err := r.writeBlob(p); err != nil {
				return err
			}
		case Call:
			args, err := argumentsObject(p)
			if err != nil {
				return err
			}
			w.open('{')
			w.name("functionCall")
			w.open('{')
			w.member("id", safeID(p.Call.ID, 64))
			w.member("name", r.names.send(toolName{p.Call.Space, p.Call.Name, p.Call.Custom}, geminiNames))
			w.rawMember("args", args)
			w.shut('}')
			switch {
			case r.readable(&p.State):
				r.writeSignature(&p.State)
			case !called && r.validatesSignatures():
				w.member("thoughtSignature", noValidation)
			}
			w.shut('}')
			called = true
		case Result:
			behind = append(behind, r.writeFunctionResponse(p)...)
		}
	}
	for _, p := range behind {
		if err := r.writeBlob(p); err != nil {
			return err
		}
	}
	return nil
}

// validatesSignatures says whether the model refuses calls without a signature.
func (r *Request) validatesSignatures() bool {
	name := r.o.Model
	return !strings.Contains(name, "gemini-2") && !strings.Contains(name, "gemini-1") && !strings.Contains(name, "gemma")
}

func (r *Request) writeSignature(s *State) {
	if r.readable(s) {
		r.w.member("thoughtSignature", s.Data)
	}
}

// argumentsObject returns a call's arguments for dialects where they are an
// object.
func argumentsObject(p *Part) ([]byte, error) {
	args := p.Call.Arguments
	if p.Call.Custom {
		return []byte(wrapInput(args)), nil
	}
	switch args = strings.TrimSpace(args); {
	case args == "" || args == "null":
		return []byte("{}"), nil
	case args[0] == '{' && json.Valid([]byte(args)):
		return []byte(args), nil
	}
	return nil, bad(p.Field, "%s: the arguments of the call %q are not a JSON object", p.Field, clip(p.Call.ID))
}

// writeFunctionResponse writes a result and returns what of it has to follow as
// parts of their own.
func (r *Request) writeFunctionResponse(p *Part) (behind []*Part) {
	w, result := &r.w, p.Result
	var text strings.Builder
	for i := range result.Parts {
		switch part := &result.Parts[i]; {
		case part.Kind == Text:
			text.WriteString(part.Text)
		case part.Media != nil && part.Media.Plain != "":
			text.WriteString(part.Media.Plain)
		case part.Media != nil:
			behind = append(behind, part)
		}
	}
	w.open('{')
	w.name("functionResponse")
	w.open('{')
	w.member("id", safeID(result.ID, 64))
	w.member("name", r.names.send(toolName{r.spaceOf(result.ID), result.Name, result.Custom}, geminiNames))
	w.name("response")
	w.open('{')
	if result.Failed {
		w.member("error", text.String())
	} else {
		w.member("result", text.String())
	}
	w.shut('}')
	w.shut('}')
	w.shut('}')
	return behind
}

// spaceOf is the namespace of the tool that a call was of.
func (r *Request) spaceOf(id string) string {
	for i := range r.c.Turns {
		for j := range r.c.Turns[i].Parts {
			if call := r.c.Turns[i].Parts[j].Call; call != nil && call.ID == id {
				return call.Space
			}
		}
	}
	return ""
}

// writeBlob writes an image, a document, sound or film.
func (r *Request) writeBlob(p *Part) error {
	w, m := &r.w, p.Media
	switch {
	case m.Plain != "":
		w.textPart(m.Plain)
		return nil
	case m.Data == "":
		return bad(p.Field, "%s: only content that is part of the request can be sent to the Gemini API", p.Field)
	}
	kind := m.Type
	if kind == "" {
		kind = [...]string{Image: "image/png", File: "application/pdf", Audio: "audio/wav", Video: "video/mp4"}[p.Kind]
	}
	w.open('{')
	w.name("inlineData")
	w.open('{')
	w.member("mimeType", kind)
	w.member("data", m.Data)
	w.shut('}')
	w.shut('}')
	return nil
}

func (r *Request) writeGeminiTools() {
	w, c := &r.w, r.c
	if len(c.Tools) == 0 {
		return
	}
	w.name("tools")
	w.open('[')
	w.open('{')
	w.name("functionDeclarations")
	w.open('[')
	for i := range c.Tools {
		t := &c.Tools[i]
		w.open('{')
		w.member("name", r.names.send(toolName{t.Space, t.Name, t.Custom}, geminiNames))
		switch {
		case t.Custom:
			w.memberIf("description", wrapDescription(t))
			w.rawMember("parametersJsonSchema", wrapSchema())
		default:
			w.memberIf("description", t.Description)
			if len(t.Schema) > 0 {
				w.rawMember("parametersJsonSchema", t.Schema)
			}
		}
		w.shut('}')
	}
	w.shut(']')
	w.shut('}')
	w.shut(']')
	mode := [...]string{Unsaid: "", Auto: "AUTO", Required: "ANY", None: "NONE"}[c.Choice.Mode]
	if mode == "" {
		return
	}
	if mode == "AUTO" && len(c.Choice.Only) > 0 {
		mode = "VALIDATED" // the only other mode that takes names
	}
	w.name("toolConfig")
	w.open('{')
	w.name("functionCallingConfig")
	w.open('{')
	w.member("mode", mode)
	if len(c.Choice.Only) > 0 && c.Choice.Mode != None {
		w.name("allowedFunctionNames")
		w.open('[')
		for _, name := range c.Choice.Only {
			w.string(r.names.send(c.tool(name), geminiNames))
		}
		w.shut(']')
	}
	w.shut('}')
	w.shut('}')
}

// tool returns the tool that a choice names.
func (c *Conversation) tool(name string) toolName {
	for i := range c.Tools {
		if t := &c.Tools[i]; t.Name == name {
			return toolName{t.Space, t.Name, t.Custom}
		}
	}
	return toolName{name: name}
}

func (r *Request) writeGenerationConfig() {
	w, c := &r.w, r.c
	start := len(w.b)
	w.name("generationConfig")
	w.open('{')
	empty := len(w.b)
	if n := r.bound(); n > 0 {
		w.intMember("maxOutputTokens", n)
	}
	w.numberIf("temperature", c.Temperature)
	w.numberIf("topP", c.TopP)
	w.numberIf("topK", c.TopK)
	w.numberIf("presencePenalty", c.PresencePenalty)
	w.numberIf("frequencyPenalty", c.FrequencyPenalty)
	w.numberIf("seed", c.Seed)
	if len(c.Stop) > 0 {
		w.name("stopSequences")
		w.open('[')
		for _, stop := range c.Stop {
			w.string(stop)
		}
		w.shut(']')
	}
	if c.Format.Kind != AnyFormat {
		w.member("responseMimeType", "application/json")
		if c.Format.Kind == SchemaFormat {
			w.rawMember("responseJsonSchema", c.Format.Schema)
		}
	}
	r.writeThinkingConfig()
	if len(w.b) == empty {
		w.b = w.b[:start]
		return
	}
	w.shut('}')
}

// writeThinkingConfig says how much to think: to models of the third generation by
// a level, to those of the second and a half by a budget. Older ones do not think.
func (r *Request) writeThinkingConfig() {
	w, want := &r.w, &r.c.Reasoning
	thinks := !strings.Contains(r.o.Model, "gemini-1") && !strings.Contains(r.o.Model, "gemini-2.0") && !strings.Contains(r.o.Model, "gemma")
	if want.Effort == "" && want.Budget == 0 && !want.Visible && !want.Adaptive {
		return
	}
	if !thinks {
		r.dropUsed(effort)
		return
	}
	w.name("thinkingConfig")
	w.open('{')
	if want.Visible && want.Effort != "none" {
		w.boolMember("includeThoughts", true)
	}
	budgeted := strings.Contains(r.o.Model, "gemini-2.5")
	switch {
	case want.Effort == "none" && budgeted:
		w.intMember("thinkingBudget", 0)
	case want.Effort == "none":
		w.member("thinkingLevel", "MINIMAL") // it cannot be switched off
		r.dropUsed(effort)
	case budgeted && want.Budget > 0:
		w.intMember("thinkingBudget", min(want.Budget, r.mostThought()))
	case want.Effort != "" && budgeted:
		w.intMember("thinkingBudget", min(budgetOf(want.Effort), r.mostThought()))
	case want.Effort != "":
		w.member("thinkingLevel", levelOf(want.Effort))
	case !budgeted && want.Budget > 0:
		w.member("thinkingLevel", levelOf(effortOf(want.Budget)))
	case budgeted && want.Adaptive:
		w.intMember("thinkingBudget", -1)
	}
	w.shut('}')
}

// mostThought is the largest budget that the model takes.
func (r *Request) mostThought() int64 {
	if strings.Contains(r.o.Model, "flash") {
		return 24576
	}
	return 32768
}

func budgetOf(effort string) int64 {
	for i := range budgets {
		if budgets[i].effort == effort {
			return budgets[i].gemini
		}
	}
	return budgets[2].gemini
}

func levelOf(effort string) string {
	for i := range budgets {
		if budgets[i].effort == effort {
			return budgets[i].level
		}
	}
	return "HIGH"
}
