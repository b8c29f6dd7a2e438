// Package dialect knows the API formats: which path asks for what, what a
// request says of itself, how an answer's stream is framed, what it used, and
// how errors look. It knows nothing of money, keys or upstreams.
package dialect

import (
	"iter"
	"strings"
)

// Dialect is an API format.
type Dialect uint8

const (
	// Chat is OpenAI's Chat Completions and everything that shares its errors.
	Chat Dialect = iota
	// Responses is OpenAI's Responses API.
	Responses
	// Messages is Anthropic's Messages API.
	Messages
	// Gemini is Google's generateContent API.
	Gemini
)

func (d Dialect) String() string {
	return [...]string{"chat", "responses", "messages", "gemini"}[d]
}

// Operation is what a request asks for.
type Operation uint8

const (
	None Operation = iota
	ChatCompletions
	Completions
	Embeddings
	CreateResponse
	CompactResponse
	CountResponse  // POST /v1/responses/input_tokens
	StoredResponse // GET, DELETE /v1/responses/{id}, and what lies below it
	ImageGenerations
	ImageEdits
	ImageVariations
	Speech
	Transcriptions
	Translations
	Moderations
	Rerank
	CreateMessage
	CountMessage
	GenerateContent
	StreamContent
	CountContent
	EmbedContent
	BatchEmbedContents
	ListModels
	OwnUsage // GET /v1/usage: what the caller has used
	operations
)

// info is what is the same for every request of an operation.
type info struct {
	name    string
	dialect Dialect
	path    string // below the version; "" if the path has a name in it
	form    bool   // the body is multipart/form-data
	local   bool   // floway answers by itself
	// feature is the word under which upstreams declare that they speak it.
	feature string
}

var infos = [operations]info{
	ChatCompletions:    {name: "chat", path: "/chat/completions", feature: "chat"},
	Completions:        {name: "completions", path: "/completions", feature: "completions"},
	Embeddings:         {name: "embeddings", path: "/embeddings", feature: "embeddings"},
	CreateResponse:     {name: "responses", dialect: Responses, path: "/responses", feature: "responses"},
	CompactResponse:    {name: "responses.compact", dialect: Responses, path: "/responses/compact", feature: "responses"},
	CountResponse:      {name: "responses.input_tokens", dialect: Responses, path: "/responses/input_tokens", feature: "responses"},
	StoredResponse:     {name: "responses.stored", dialect: Responses, feature: "responses"},
	ImageGenerations:   {name: "images.generations", path: "/images/generations", feature: "images"},
	ImageEdits:         {name: "images.edits", path: "/images/edits", form: true, feature: "images"},
	ImageVariations:    {name: "images.variations", path: "/images/variations", form: true, feature: "images"},
	Speech:             {name: "audio.speech", path: "/audio/speech", feature: "audio"},
	Transcriptions:     {name: "audio.transcriptions", path: "/audio/transcriptions", form: true, feature: "audio"},
	Translations:       {name: "audio.translations", path: "/audio/translations", form: true, feature: "audio"},
	Moderations:        {name: "moderations", path: "/moderations", feature: "moderations"},
	Rerank:             {name: "rerank", path: "/rerank", feature: "rerank"},
	CreateMessage:      {name: "messages", dialect: Messages, path: "/messages", feature: "messages"},
	CountMessage:       {name: "messages.count_tokens", dialect: Messages, path: "/messages/count_tokens", feature: "messages"},
	GenerateContent:    {name: "gemini", dialect: Gemini, feature: "gemini"},
	StreamContent:      {name: "gemini.stream", dialect: Gemini, feature: "gemini"},
	CountContent:       {name: "gemini.count_tokens", dialect: Gemini, feature: "gemini"},
	EmbedContent:       {name: "gemini.embed", dialect: Gemini, feature: "gemini"},
	BatchEmbedContents: {name: "gemini.batch_embed", dialect: Gemini, feature: "gemini"},
	ListModels:         {name: "models", path: "/models", local: true},
	OwnUsage:           {name: "usage", path: "/usage", local: true},
}

// String returns the operation's name, as records and metrics spell it.
func (o Operation) String() string { return infos[o].name }

// Dialect returns the format of the operation's bodies and errors.
func (o Operation) Dialect() Dialect { return infos[o].dialect }

// Path returns the operation's path below the version segment, with a leading
// slash; empty where the path has a name in it.
func (o Operation) Path() string { return infos[o].path }

// Form says whether the body is multipart/form-data and not JSON.
func (o Operation) Form() bool { return infos[o].form }

// Local says whether floway answers by itself, without an upstream.
func (o Operation) Local() bool { return infos[o].local }

// Feature is the word under which an upstream declares that it speaks the
// operation: one of Features.
func (o Operation) Feature() string { return infos[o].feature }

// Features are the words that the subdirective `dialects` takes: the four
// dialects that translate and the operations that only pass through.
var Features = []string{
	"chat", "responses", "messages", "gemini",
	"completions", "embeddings", "images", "audio", "moderations", "rerank",
}

// posts maps paths without a version to the operations that are POSTed there.
var posts = func() map[string]Operation {
	m := make(map[string]Operation)
	for o := range infos {
		if infos[o].path != "" && !infos[o].local {
			m[infos[o].path] = Operation(o)
		}
	}
	return m
}()

// actions are the verbs behind the colon of Gemini's paths.
var actions = map[string]Operation{
	"generateContent":       GenerateContent,
	"streamGenerateContent": StreamContent,
	"countTokens":           CountContent,
	"embedContent":          EmbedContent,
	"batchEmbedContents":    BatchEmbedContents,
}

// actionsNotOffered are those that floway does not serve.
var actionsNotOffered = map[string]bool{
	"predict": true, "predictLongRunning": true, "batchGenerateContent": true, "asyncBatchEmbedContent": true,
}

// notOffered are the first segments of known OpenAI and Anthropic paths that
// floway does not serve.
var notOffered = map[string]bool{
	"files": true, "uploads": true, "batches": true, "fine_tuning": true,
	"realtime": true, "assistants": true, "threads": true, "vector_stores": true,
	"conversations": true, "evals": true, "containers": true, "videos": true,
	"organization": true, "skills": true, "chatkit": true, "cachedContents": true,
	"tunedModels": true, "operations": true, "agents": true,
}

// Call is what a method and a path ask for.
type Call struct {
	Op Operation
	// Dialect is the one that the answer must have: that of the operation, and
	// for paths that are known only by their prefix that of the prefix.
	Dialect Dialect
	// Verdict says whether the call can be served.
	Verdict Verdict
	// Allow lists the methods that the path takes; set with WrongMethod.
	Allow string
	// Model is the model that the path names; empty if the body names it.
	Model string
	// ID is what the path asks for by id: a stored response or one model. Rest
	// is what follows the id, with its slash.
	ID, Rest string
}

// Verdict is what Find says of a path.
type Verdict uint8

const (
	// NotOurs: the path belongs to the next handler.
	NotOurs Verdict = iota
	// Found: Op says what is asked for.
	Found
	// Unknown: below one of floway's prefixes, but nothing that exists.
	Unknown
	// WrongMethod: the path exists, for other methods.
	WrongMethod
	// NotOffered: the services have it, floway does not.
	NotOffered
)

// Find says what a method and a path ask for. All below /v1/, /v1beta/ and
// /openai/ is floway's; without a version only the exact POST endpoints and
// GET /models are.
func Find(method, path string) Call {
	if method == "OPTIONS" {
		return Call{}
	}
	switch {
	case strings.HasPrefix(path, "/v1/"):
		return find(method, path[len("/v1"):], true)
	case strings.HasPrefix(path, "/v1beta/"):
		return findGemini(method, path[len("/v1beta"):])
	case strings.HasPrefix(path, "/openai/"):
		return findAzure(method, path[len("/openai"):])
	}
	return find(method, path, false)
}

func find(method, path string, versioned bool) Call {
	if op, ok := posts[path]; ok {
		if method == "POST" {
			return Call{Op: op, Dialect: op.Dialect(), Verdict: Found}
		}
		if !versioned {
			return Call{}
		}
		if op == CreateResponse && method == "GET" {
			// The Responses API over a WebSocket.
			return Call{Dialect: Responses, Verdict: NotOffered}
		}
		return Call{Op: op, Dialect: op.Dialect(), Verdict: WrongMethod, Allow: "POST"}
	}
	if path == "/models" && (method == "GET" || method == "HEAD") {
		return Call{Op: ListModels, Verdict: Found}
	}
	if !versioned {
		return Call{}
	}
	switch {
	case path == "/models":
		return Call{Op: ListModels, Verdict: WrongMethod, Allow: "GET, HEAD"}
	case path == "/usage":
		if method != "GET" && method != "HEAD" {
			return Call{Op: OwnUsage, Verdict: WrongMethod, Allow: "GET, HEAD"}
		}
		return Call{Op: OwnUsage, Verdict: Found}
	case strings.HasPrefix(path, "/models/"):
		id := path[len("/models/"):]
		// Google's own clients call the paths of v1 as well as those of v1beta.
		if model, action, ok := cutLast(id, ':'); ok && actions[action] != None {
			return geminiCall(method, model, action)
		}
		if method != "GET" && method != "HEAD" {
			return Call{Op: ListModels, Verdict: WrongMethod, Allow: "GET, HEAD"}
		}
		return Call{Op: ListModels, Verdict: Found, ID: id}
	case strings.HasPrefix(path, "/responses/"):
		return findStored(method, path[len("/responses/"):])
	}
	first, _, _ := strings.Cut(path[1:], "/")
	d := Chat
	if first == "messages" {
		d = Messages
		if strings.HasPrefix(path, "/messages/batches") {
			return Call{Dialect: d, Verdict: NotOffered}
		}
	}
	if stored := strings.TrimPrefix(path, "/chat/completions/"); stored != path && stored != "" ||
		notOffered[first] || strings.HasPrefix(path, "/audio/voice") {
		return Call{Dialect: d, Verdict: NotOffered}
	}
	return Call{Dialect: d, Verdict: Unknown}
}

// findStored reads the paths of responses that an upstream keeps.
func findStored(method, path string) Call {
	id, rest, _ := strings.Cut(path, "/")
	if rest != "" {
		rest = "/" + rest
	}
	c := Call{Op: StoredResponse, Dialect: Responses, Verdict: Found, ID: id, Rest: rest}
	allow := ""
	switch rest {
	case "":
		allow = "GET, DELETE"
	case "/cancel":
		allow = "POST"
	case "/input_items":
		allow = "GET"
	default:
		c.Verdict = Unknown
		return c
	}
	if !wellFormedID(id) {
		c.Verdict = Unknown
		return c
	}
	for m := range strings.SplitSeq(allow, ", ") {
		if m == method {
			return c
		}
	}
	c.Verdict, c.Allow = WrongMethod, allow
	return c
}

// wellFormedID keeps everything out of upstream paths that could lead anywhere
// but to a response.
func wellFormedID(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= 256
}

func findGemini(method, path string) Call {
	switch {
	case path == "/models" || strings.HasPrefix(path, "/models/"):
		id := strings.TrimPrefix(strings.TrimPrefix(path, "/models"), "/")
		model, action, acts := cutLast(id, ':')
		switch {
		case acts && actions[action] != None:
			return geminiCall(method, model, action)
		case acts && actionsNotOffered[action]:
			return Call{Dialect: Gemini, Verdict: NotOffered}
		case acts && method == "POST":
			return Call{Dialect: Gemini, Verdict: Unknown}
		case method != "GET" && method != "HEAD":
			return Call{Op: ListModels, Dialect: Gemini, Verdict: WrongMethod, Allow: "GET, HEAD"}
		}
		return Call{Op: ListModels, Dialect: Gemini, Verdict: Found, ID: id}
	case strings.HasPrefix(path, "/openai/"):
		// Google's own layer for OpenAI clients has OpenAI's paths here.
		return find(method, path[len("/openai"):], true)
	}
	first, _, _ := strings.Cut(path[1:], "/")
	if notOffered[first] {
		return Call{Dialect: Gemini, Verdict: NotOffered}
	}
	return Call{Dialect: Gemini, Verdict: Unknown}
}

func geminiCall(method, model, action string) Call {
	op := actions[action]
	if model == "" {
		return Call{Dialect: Gemini, Verdict: Unknown}
	}
	c := Call{Op: op, Dialect: Gemini, Verdict: Found, Model: model}
	if method != "POST" {
		c.Verdict, c.Allow = WrongMethod, "POST"
	}
	return c
}

// findAzure reads the paths of Azure's clients: those of OpenAI below
// /openai/v1, and the classic ones that name the deployment.
func findAzure(method, path string) Call {
	if rest, ok := strings.CutPrefix(path, "/v1"); ok && strings.HasPrefix(rest, "/") {
		return find(method, rest, true)
	}
	if rest, ok := strings.CutPrefix(path, "/deployments/"); ok && !strings.HasPrefix(rest, "/") {
		// The name may have slashes in it: clients escape them, and here they
		// have been unescaped.
		for i := 1; i < len(rest); i++ {
			if rest[i] == '/' && posts[rest[i:]] != None {
				c := find(method, rest[i:], true)
				c.Model = rest[:i]
				return c
			}
		}
		if _, rest, ok = strings.Cut(rest, "/"); ok && notOffered[rest] {
			return Call{Verdict: NotOffered}
		}
		return Call{Verdict: Unknown}
	}
	return find(method, path, true)
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// Operations goes through all operations.
func Operations() iter.Seq[Operation] {
	return func(yield func(Operation) bool) {
		for op := None + 1; op < operations; op++ {
			if !yield(op) {
				return
			}
		}
	}
}
