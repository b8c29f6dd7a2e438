package mockgemini

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

type request struct {
	Model    string     `json:"model"`
	Contents []turn     `json:"contents"`
	System   *turn      `json:"systemInstruction"`
	Tools    []toolSpec `json:"tools"`
	Config   struct {
		Temperature *float64        `json:"temperature"`
		TopP        *float64        `json:"topP"`
		Candidates  *int64          `json:"candidateCount"`
		MaxOutput   *int64          `json:"maxOutputTokens"`
		Stop        []string        `json:"stopSequences"`
		MimeType    string          `json:"responseMimeType"`
		Schema      json.RawMessage `json:"responseSchema"`
		JSONSchema  json.RawMessage `json:"responseJsonSchema"`
		Thinking    struct {
			Include bool   `json:"includeThoughts"`
			Budget  *int64 `json:"thinkingBudget"`
			Level   string `json:"thinkingLevel"`
		} `json:"thinkingConfig"`
	} `json:"generationConfig"`
	ToolConfig struct {
		Calling struct {
			Mode    string   `json:"mode"`
			Allowed []string `json:"allowedFunctionNames"`
		} `json:"functionCallingConfig"`
	} `json:"toolConfig"`

	functions []function
	hosted    bool
}

type toolSpec struct {
	Functions []function      `json:"functionDeclarations"`
	Search    json.RawMessage `json:"googleSearch"`
	Code      json.RawMessage `json:"codeExecution"`
	URLs      json.RawMessage `json:"urlContext"`
}

type function struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
	JSONSchema json.RawMessage `json:"parametersJsonSchema"`
}

// schema is whichever the function has.
func (f *function) schema() json.RawMessage {
	if len(f.JSONSchema) > 0 {
		return f.JSONSchema
	}
	return lower(f.Parameters)
}

type turn struct {
	Role  string  `json:"role"`
	Parts []piece `json:"parts"`
}

type piece struct {
	Text      *string          `json:"text"`
	Thought   bool             `json:"thought"`
	Signature string           `json:"thoughtSignature"`
	Inline    *blob            `json:"inlineData"`
	File      *json.RawMessage `json:"fileData"`
	Call      *call            `json:"functionCall"`
	Response  *response        `json:"functionResponse"`
	Code      *json.RawMessage `json:"executableCode"`
	Result    *json.RawMessage `json:"codeExecutionResult"`
}

type blob struct {
	MimeType string `json:"mimeType"`
	Data     string `json:"data"`
}

type call struct {
	ID   string         `json:"id"`
	Name string         `json:"name"`
	Args map[string]any `json:"args"`
}

type response struct {
	ID       string          `json:"id"`
	Name     string          `json:"name"`
	Response json.RawMessage `json:"response"`
}

var functionName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}$`)

// check checks what a request to generate must be.
func (x *exchange) check(q *request) error {
	for _, f := range []func(*request) error{x.checkConfig, x.checkTools, x.checkContents, x.checkSignatures} {
		if err := f(q); err != nil {
			return err
		}
	}
	return nil
}

func (x *exchange) checkConfig(q *request) error {
	c := &q.Config
	switch {
	case c.Temperature != nil && (*c.Temperature < 0 || *c.Temperature > 2):
		return invalid("* GenerateContentRequest.generation_config.temperature: temperature must be in the range [0.0, 2.0].")
	case c.TopP != nil && (*c.TopP < 0 || *c.TopP > 1):
		return invalid("* GenerateContentRequest.generation_config.top_p: top_p must be in the range [0.0, 1.0].")
	case c.MaxOutput != nil && *c.MaxOutput < 1:
		return invalid("* GenerateContentRequest.generation_config.max_output_tokens: max_output_tokens must be positive.")
	case c.Candidates != nil && *c.Candidates != 1:
		return invalid("Only one candidate can be specified in the current model")
	case len(c.Stop) > 5:
		return invalid("* GenerateContentRequest.generation_config.stop_sequences: the number of stop_sequences must not exceed 5.")
	case len(c.Schema) > 0 && len(c.JSONSchema) > 0:
		return invalid("response_schema and response_json_schema cannot both be set.")
	case (len(c.Schema) > 0 || len(c.JSONSchema) > 0) && c.MimeType != "application/json":
		return invalid("Response schema requires a response_mime_type of application/json.")
	case c.MimeType != "" && c.MimeType != "application/json" && c.MimeType != "text/plain" && c.MimeType != "text/x.enum":
		return invalid("* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are `text/plain`, `application/json`, `application/xml`, `application/yaml` and `text/x.enum`.")
	case c.Thinking.Budget != nil && c.Thinking.Level != "":
		return invalid("You can only set only one of thinking budget and thinking level.")
	case c.Thinking.Budget != nil && *c.Thinking.Budget < -1:
		return invalid("The thinking budget %d is invalid. Please choose a value between 0 and 24576, or -1.", *c.Thinking.Budget)
	}
	return nonEmpty("GenerateContentRequest.generation_config.response_schema", c.Schema)
}

// nonEmpty refuses objects without members in a schema.
func nonEmpty(where string, raw json.RawMessage) error {
	var s struct {
		Type       string                     `json:"type"`
		Properties map[string]json.RawMessage `json:"properties"`
		Items      json.RawMessage            `json:"items"`
		AnyOf      []json.RawMessage          `json:"anyOf"`
		Required   []string                   `json:"required"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &s) != nil {
		return nil
	}
	if s.Type == "OBJECT" && len(s.Properties) == 0 {
		return invalid("* %s.properties: should be non-empty for OBJECT type", where)
	}
	if s.Type == "ARRAY" && len(s.Items) == 0 {
		return invalid("* %s.items: missing field.", where)
	}
	for i, name := range s.Required {
		if _, ok := s.Properties[name]; !ok {
			return invalid("* %s.required[%d]: property is not defined", where, i)
		}
	}
	for _, name := range mock.SortedKeys(s.Properties) {
		if err := nonEmpty(where+".properties["+name+"]", s.Properties[name]); err != nil {
			return err
		}
	}
	for _, inner := range append(s.AnyOf, s.Items) {
		if err := nonEmpty(where+".items", inner); err != nil {
			return err
		}
	}
	return nil
}

func (x *exchange) checkTools(q *request) error {
	names := map[string]bool{}
	for i, t := range q.Tools {
		q.hosted = q.hosted || len(t.Search) > 0 || len(t.Code) > 0 || len(t.URLs) > 0
		for j, f := range t.Functions {
			where := mock.At{"GenerateContentRequest", "tools", i, "function_declarations", j}.Bracketed()
			switch {
			case !functionName.MatchString(f.Name):
				return invalid("* %s.name: Invalid function name. Must start with a letter or an underscore. Must be alphameric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum length of 64.", where)
			case names[f.Name]:
				return invalid("Duplicate function declaration found: %s", f.Name)
			case len(f.Parameters) > 0 && len(f.JSONSchema) > 0:
				return invalid("* %s: parameters and parameters_json_schema cannot both be set.", where)
			}
			names[f.Name] = true
			if err := nonEmpty(where+".parameters", f.Parameters); err != nil {
				return err
			}
			q.functions = append(q.functions, f)
		}
	}
	c := &q.ToolConfig.Calling
	if len(c.Allowed) > 0 && c.Mode != "ANY" && c.Mode != "VALIDATED" {
		return invalid("Function calling config is set with allowed_function_names, so mode must be ANY or VALIDATED.")
	}
	if c.Mode == "ANY" && len(names) == 0 {
		return invalid("Function calling config is set without function_declarations.")
	}
	for _, name := range c.Allowed {
		if !names[name] {
			return invalid("Allowed function name %s is not among the function declarations.", name)
		}
	}
	return nil
}

func (x *exchange) checkContents(q *request) error {
	if len(q.Contents) == 0 {
		return invalid("* GenerateContentRequest.contents: contents is not specified\n")
	}
	if q.System != nil {
		for _, p := range q.System.Parts {
			if p.Text == nil {
				return invalid("* GenerateContentRequest.system_instruction: only text is supported")
			}
		}
	}
	var before *turn
	for i := range q.Contents {
		t := &q.Contents[i]
		where := mock.At{"GenerateContentRequest", "contents", i}.Bracketed()
		switch t.Role {
		case "user", "model", "function":
		case "":
			if len(q.Contents) > 1 {
				return invalid("* %s.role: Please use a valid role: user, model.", where)
			}
		default:
			return invalid("* %s.role: Please use a valid role: user, model.", where)
		}
		if len(t.Parts) == 0 {
			return invalid("* %s.parts: contents.parts must not be empty.\n", where)
		}
		for j := range t.Parts {
			if err := x.checkPart(t, &t.Parts[j], i, j); err != nil {
				return err
			}
		}
		if err := follows(before, t); err != nil {
			return err
		}
		before = t
	}
	if before.calls() > 0 {
		return invalid("Please ensure that multiturn requests end with a user role or a function response.")
	}
	return nil
}

func (t *turn) calls() (n int) {
	for _, p := range t.Parts {
		if p.Call != nil {
			n++
		}
	}
	return n
}

func (t *turn) responses() (n int) {
	for _, p := range t.Parts {
		if p.Response != nil {
			n++
		}
	}
	return n
}

// follows checks that calls are answered by the turn behind them, all at once and
// in order.
func follows(before, t *turn) error {
	calls, responses := 0, t.responses()
	if before != nil {
		calls = before.calls()
	}
	switch {
	case responses > 0 && calls == 0:
		return invalid("Please ensure that function response turn comes immediately after a function call turn.")
	case calls != responses:
		return invalid("Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.")
	case t.calls() > 0 && before == nil:
		return invalid("Please ensure that function call turn comes immediately after a user turn or after a function response turn.")
	case responses == 0:
		return nil
	}
	var names, answered []string
	for _, p := range before.Parts {
		if p.Call != nil {
			names = append(names, p.Call.Name+"/"+p.Call.ID)
		}
	}
	for _, p := range t.Parts {
		if p.Response != nil {
			answered = append(answered, p.Response.Name+"/"+p.Response.ID)
		}
	}
	slices.Sort(names)
	slices.Sort(answered)
	if !slices.Equal(names, answered) {
		return invalid("Function responses %v do not answer the function calls %v.", answered, names)
	}
	return nil
}

func (x *exchange) checkPart(t *turn, p *piece, i, j int) error {
	where := mock.At{"contents", i, "parts", j}.Bracketed()
	kinds := 0
	for _, set := range []bool{p.Text != nil, p.Inline != nil, p.File != nil, p.Call != nil, p.Response != nil, p.Code != nil, p.Result != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return invalid("* GenerateContentRequest.%s.data: required oneof field 'data' must have one initialized field\n", where)
	case kinds > 1:
		return invalid("Invalid value at '%s' (oneof), oneof field 'data' is already set.", where)
	case p.Call != nil && t.Role != "model", p.Response != nil && t.Role == "model":
		return invalid("Please use a valid role for the function part at %s.", where)
	case p.Call != nil && p.Call.Name == "":
		return invalid("* GenerateContentRequest.%s.function_call.name: Name cannot be empty.\n", where)
	case p.Response != nil && (p.Response.Name == "" || len(p.Response.Response) == 0):
		return invalid("* GenerateContentRequest.%s.function_response: name and response cannot be empty.\n", where)
	}
	if p.Inline != nil {
		_, err := base64.StdEncoding.DecodeString(p.Inline.Data)
		switch {
		case err != nil || p.Inline.Data == "":
			return invalid("Invalid value at '%s.inline_data.data' (TYPE_BYTES), Base64 decoding failed for %q", where, p.Inline.Data[:min(20, len(p.Inline.Data))])
		case !strings.Contains(p.Inline.MimeType, "/"):
			return invalid("Unsupported MIME type: %s", p.Inline.MimeType)
		}
	}
	return nil
}

// sealer names this service in what it signs.
const sealer = "gemini"

// signed is what the signature of a part is made of.
func (p *piece) signed() string {
	if p.Call == nil {
		return "part"
	}
	return p.Call.signed()
}

func (c *call) signed() string {
	args := c.Args
	if args == nil {
		args = map[string]any{}
	}
	return c.Name + string(mock.Encode(args))
}

// standIns are what a client writes in the place of a signature that there never
// was.
var standIns = []string{"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"}

func isStandIn(signature string) bool {
	if plain, err := base64.StdEncoding.DecodeString(signature); err == nil && slices.Contains(standIns, string(plain)) {
		return true
	}
	return slices.Contains(standIns, signature)
}

// checkSignatures checks the signatures that came back, and that those of the
// current turn did.
func (x *exchange) checkSignatures(q *request) error {
	current := 0
	for i, t := range q.Contents {
		if t.Role != "model" && t.responses() == 0 {
			current = i
		}
	}
	name, _, _ := strings.Cut(x.Entry.Model, "+")
	for i := range q.Contents {
		t := &q.Contents[i]
		first := true
		for j := range t.Parts {
			p := &t.Parts[j]
			needs := p.Call != nil && first && i > current && name != "mock-mini"
			if p.Call != nil {
				first = false
			}
			switch {
			case p.Signature == "" && needs:
				return invalid("Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, and missing thought_signature may lead to degraded model performance. Additional data, function call `%s`, position %d.", p.Call.Name, j+1)
			case p.Signature == "", isStandIn(p.Signature):
			case t.Role != "model" || !mock.Sealed(sealer, p.Signature, p.signed()):
				return invalid("Thought signature is not valid.")
			}
		}
	}
	return nil
}

// lower turns the words for types into those of JSON Schema.
func lower(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	v, _ := mock.ReadJSON(raw)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if kind, ok := v["type"].(string); ok {
				v["type"] = strings.ToLower(kind)
			}
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(v)
	return mock.Encode(v)
}
