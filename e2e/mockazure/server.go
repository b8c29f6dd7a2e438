// Package mockazure is an upstream that answers as a resource of Azure's does, for
// tests of gateways in front of it: the surface of deployments, the one that is
// called v1, and Claude; with keys, and with tokens of an Entra ID of its own.
//
// It is a door in front of mockopenai and mockanthropic. A deployment's name is that
// of a model of theirs, or prod- and that; Claude's is claude- and that. How it
// misbehaves and is steered is told in package mock; of what came to the door,
// Seen tells, and SetEntra says how tokens are given out.
package mockazure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockanthropic"
	"github.com/floway/floway/e2e/mockopenai"
)

// Server is the service.
type Server struct {
	openai *mockopenai.Server
	claude *mockanthropic.Server
	entra  *entra

	mu   sync.Mutex
	seen []Visit
}

// Visit is what the door saw of a request.
type Visit struct {
	Method, Path, Query string
	// By is how the caller authenticated: api-key, x-api-key, bearer key or token.
	By string
	// Token is the number of the token, from 1.
	Token int
	// Body is the request's.
	Body string
}

// New makes a Server.
func New(c mock.Config) *Server {
	s := &Server{openai: mockopenai.New(c), claude: mockanthropic.New(c), entra: newEntra()}
	return s
}

// Close ends all answers that hang, and Entra ID.
func (s *Server) Close() {
	s.openai.Close()
	s.claude.Close()
	s.entra.close()
}

// CountConnections implements mock.Program.
func (s *Server) CountConnections(c net.Conn, state http.ConnState) {
	s.openai.CountConnections(c, state)
}

// refusal is an error in Azure's shape.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) send(w http.ResponseWriter) {
	body, _ := json.Marshal(map[string]any{"error": map[string]string{"code": r.code, "message": r.message}})
	send(w, r.status, body)
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Apim-Request-Id", "apim-refused")
	w.WriteHeader(status)
	w.Write(body)
}

var (
	notFound     = &refusal{404, "404", "Resource not found"}
	badVersion   = &refusal{400, "BadRequest", "API version not supported"}
	noDeployment = &refusal{404, "DeploymentNotFound", "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}
	denied       = &refusal{401, "401", "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource."}
	badToken     = &refusal{401, "Unauthorized", "Unauthorized. Access token is missing, invalid, audience is incorrect, or have expired."}
)

// versions are the dated ones that the service has.
var versions = []string{"2024-06-01", "2024-10-21", "2025-03-01-preview", "2025-04-01-preview"}

// deployed are the paths behind a deployment's name.
var deployed = []string{
	"/completions", "/chat/completions", "/embeddings", "/audio/transcriptions", "/audio/translations",
	"/audio/speech", "/images/generations", "/images/edits",
}

var responsesPath = regexp.MustCompile(`^/responses(/[A-Za-z0-9_]+(/input_items|/cancel)?)?$`)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/__seen":
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(s.seen)
		return
	case r.URL.Path == "/__entra":
		s.entra.control(w, r)
		return
	case strings.HasPrefix(r.URL.Path, "/__"):
		s.openai.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	v := Visit{Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Body: string(body)}
	q, refused := s.open(r, body, &v)
	s.mu.Lock()
	s.seen = append(s.seen, v)
	s.mu.Unlock()
	if refused != nil {
		refused.send(w)
		return
	}
	q.serve(w)
}

// query is a request that has passed the door.
type query struct {
	s    *Server
	r    *http.Request
	body []byte
	path string // at the service behind
	name string // of the deployment
	old  bool   // a version before stream_options
}

// open is the door.
func (s *Server) open(r *http.Request, body []byte, v *Visit) (*query, *refusal) {
	q := &query{s: s, r: r, body: body}
	path, version := r.URL.EscapedPath(), r.URL.Query().Get("api-version")
	if len(r.URL.Query()["api-version"]) > 1 {
		return nil, badVersion
	}
	project := false
	if rest, ok := strings.CutPrefix(path, "/api/projects/"); ok {
		_, rest, _ = strings.Cut(rest, "/")
		project, path = true, "/"+rest
	}
	key, refused := s.authenticate(r, v, project)
	if refused != nil {
		return nil, refused
	}
	q.r = r.Clone(r.Context())
	q.r.Header.Del("Api-Key")
	q.r.Header.Del("X-Api-Key")
	q.r.Header.Set("Authorization", "Bearer "+key)
	if rest, ok := strings.CutPrefix(path, "/anthropic/v1/"); ok && !project {
		return q, q.toClaude(rest, v.By)
	}
	if v.By == "x-api-key" {
		return nil, denied
	}
	rest, ok := strings.CutPrefix(path, "/openai/v1/")
	if ok {
		return q, q.toV1("/"+rest, version, r.Method)
	}
	rest, ok = strings.CutPrefix(path, "/openai/")
	if !ok || project {
		return nil, notFound
	}
	return q, q.toDeployment("/"+rest, version, r.Method)
}

func (s *Server) authenticate(r *http.Request, v *Visit, project bool) (key string, refused *refusal) {
	var given []string
	for _, name := range []string{"Api-Key", "X-Api-Key", "Authorization"} {
		for _, value := range r.Header.Values(name) {
			given = append(given, strings.ToLower(name))
			key = value
		}
	}
	if len(given) != 1 { // one of them and not both
		return "", denied
	}
	v.By = given[0]
	if token, ok := strings.CutPrefix(key, "Bearer "); ok && v.By == "authorization" {
		if _, isKey := s.openai.Label(token); isKey && strings.HasPrefix(r.URL.Path, "/openai/v1/") {
			v.By = "bearer key"
			return token, nil
		}
		v.By = "token"
		if v.Token, ok = s.entra.check(token, project); !ok {
			return "", badToken
		}
		return "sk-mock-upstream-64", nil // what lies behind knows no tokens
	}
	if _, ok := s.openai.Label(key); !ok || project {
		return "", denied
	}
	return key, nil
}

// deployment finds the model of a deployment.
func deployment(name, prefix string) (model string, ok bool) {
	model = strings.TrimPrefix(name, prefix)
	return model, strings.HasPrefix(model, "mock") && model != "mock-retired"
}

func (q *query) toClaude(rest, by string) *refusal {
	if by == "api-key" {
		return denied
	}
	if q.r.Method != "POST" || rest != "messages" && rest != "messages/count_tokens" {
		return notFound
	}
	q.path = "/v1/" + rest
	if !q.named("claude-") {
		return noDeployment
	}
	return nil
}

func (q *query) toV1(rest, version, method string) *refusal {
	if version != "" && version != "v1" && version != "preview" {
		return badVersion
	}
	q.path = "/v1" + rest
	switch {
	case method == "GET" && rest == "/models":
		return nil
	case responsesPath.MatchString(rest):
		if method == "POST" && rest == "/responses" || rest == "/responses/compact" {
			return q.known()
		}
		if rest == "/responses/input_tokens" {
			return notFound
		}
		return nil
	case method != "POST" || !slices.Contains(deployed, rest):
		return notFound
	case (strings.HasPrefix(rest, "/images") || strings.HasPrefix(rest, "/audio")) && version != "preview":
		return notFound
	}
	return q.known()
}

func (q *query) toDeployment(rest, version, method string) *refusal {
	switch {
	case version == "":
		return notFound
	case !slices.Contains(versions, version):
		return badVersion
	}
	q.old = version < "2024-09-01"
	switch {
	case method == "GET" && rest == "/models":
		q.path = "/v1/models"
		return nil
	case responsesPath.MatchString(rest) && rest != "/responses/compact" && rest != "/responses/input_tokens":
		if version < "2025-03-01" {
			return notFound
		}
		q.path = "/v1" + rest
		if method == "POST" && rest == "/responses" {
			return q.known()
		}
		return nil
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(rest, "/deployments/"), "/")
	if rest = "/" + rest; method != "POST" || !slices.Contains(deployed, rest) {
		return notFound
	}
	name, err := url.PathUnescape(name)
	model, ok := deployment(name, "prod-")
	if err != nil || !ok {
		return noDeployment
	}
	q.path, q.name = "/v1"+rest, name
	q.set(model) // whatever the body says
	return q.newer()
}

// known finds the deployment in the body.
func (q *query) known() *refusal {
	if !q.named("prod-") {
		return noDeployment
	}
	return q.newer()
}

func (q *query) named(prefix string) bool {
	if strings.HasPrefix(q.r.Header.Get("Content-Type"), "multipart/") {
		if m := formModel.FindSubmatch(q.body); m != nil {
			q.name = string(m[2])
		}
	} else {
		var b struct{ Model string }
		_ = json.Unmarshal(q.body, &b)
		q.name = b.Model
	}
	model, ok := deployment(q.name, prefix)
	if ok {
		q.set(model)
	}
	return ok
}

var (
	formModel = regexp.MustCompile(`(name="model"\r\n(?:[^\r\n]+\r\n)*\r\n)([^\r\n]*)`)
	jsonModel = regexp.MustCompile(`("model"\s*:\s*)"[^"]*"`)
)

// set puts the model's name into the body, for what lies behind.
func (q *query) set(model string) {
	if strings.HasPrefix(q.r.Header.Get("Content-Type"), "multipart/") {
		q.body = formModel.ReplaceAll(q.body, []byte("${1}"+model))
		return
	}
	if at := jsonModel.FindSubmatchIndex(q.body); at != nil {
		q.body = slices.Concat(q.body[:at[3]], []byte(`"`+model+`"`), q.body[at[1]:])
	} else if i := bytes.IndexByte(q.body, '{'); i >= 0 {
		q.body = slices.Concat(q.body[:i+1], []byte(`"model":"`+model+`",`), q.body[i+1:])
	}
}

// newer refuses what an old version does not know.
func (q *query) newer() *refusal {
	if !q.old {
		return nil
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(q.body, &members)
	for _, name := range []string{"stream_options", "max_completion_tokens"} {
		if _, ok := members[name]; ok {
			return &refusal{400, "", "Unrecognized request argument supplied: " + name}
		}
	}
	return nil
}

// filtered is the answer to a prompt that the filter does not let through.
const filtered = `{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":false,"severity":"safe"},"violence":{"filtered":true,"severity":"high"}}}}}`

// Forbidden in a prompt makes the filter refuse it.
const Forbidden = "something forbidden"

func (q *query) serve(w http.ResponseWriter) {
	q.r.URL.Path, q.r.URL.RawPath, q.r.URL.RawQuery = q.path, "", without(q.r.URL.Query(), "api-version")
	q.r.Body, q.r.ContentLength = io.NopCloser(bytes.NewReader(q.body)), int64(len(q.body))
	w.Header().Set("Apim-Request-Id", fmt.Sprintf("apim-%d", time.Now().UnixNano()))
	w.Header().Set("X-Ms-Region", "Mock Central")
	switch {
	case strings.HasPrefix(q.path, "/v1/messages"):
		q.s.claude.ServeHTTP(w, q.r)
	case bytes.Contains(q.body, []byte(Forbidden)):
		send(w, 400, []byte(filtered))
	case q.path == "/v1/chat/completions":
		d := &decorated{ResponseWriter: w}
		q.s.openai.ServeHTTP(d, q.r)
		d.end()
	default:
		q.s.openai.ServeHTTP(w, q.r)
	}
}

func without(q url.Values, name string) string {
	q = maps.Clone(q)
	q.Del(name)
	return q.Encode()
}

// decorated adds to a chat completion what Azure's filter says.
type decorated struct {
	http.ResponseWriter
	status  int
	stream  bool
	plain   bool // passes as it is
	held    []byte
	started bool
	told    bool
}

const (
	promptResults = `"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"jailbreak":{"filtered":false,"detected":false}}}]`
	choiceResults = `"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"protected_material_code":{"error":{"code":"content_filter_error","message":"The contents are not filtered"}}}`
	firstChunk    = `data: {"id":"","object":"","created":0,"model":"","choices":[],` + promptResults + `}` + "\n\n"
	asyncChunk    = `data: {"id":"","object":"","created":0,"model":"","choices":[{"index":0,"finish_reason":null,` + choiceResults + `,"content_filter_offsets":{"check_offset":1,"start_offset":1,"end_offset":9}}]}` + "\n\n"
)

func (d *decorated) Unwrap() http.ResponseWriter { return d.ResponseWriter }

func (d *decorated) WriteHeader(status int) {
	h := d.Header()
	d.status, d.started = status, true
	d.stream = strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
	d.plain = status != 200 || h.Get("Content-Encoding") != ""
	if !d.plain && !d.stream {
		h.Del("Content-Length")
	}
	d.ResponseWriter.WriteHeader(status)
	if d.stream && !d.plain {
		io.WriteString(d.ResponseWriter, firstChunk)
	}
}

func (d *decorated) Write(p []byte) (int, error) {
	if d.plain {
		return d.ResponseWriter.Write(p)
	}
	d.held = append(d.held, p...)
	if !d.stream {
		return len(p), nil
	}
	for {
		i := bytes.Index(d.held, []byte("\n\n"))
		if i < 0 {
			return len(p), nil
		}
		event := d.held[:i+2]
		// The filter is not done when the text is.
		verdict := !d.told && bytes.Contains(event, []byte(`"finish_reason":"`))
		if verdict {
			io.WriteString(d.ResponseWriter, asyncChunk)
		}
		if _, err := d.ResponseWriter.Write(event); err != nil {
			return 0, err
		}
		if verdict {
			io.WriteString(d.ResponseWriter, asyncChunk)
			d.told = true
		}
		d.held = d.held[i+2:]
	}
}

// end writes what was held back.
func (d *decorated) end() {
	switch {
	case !d.started || d.plain:
	case !d.stream && bytes.HasPrefix(d.held, []byte("{")):
		body := slices.Concat([]byte("{"+promptResults+","), d.held[1:])
		body = bytes.ReplaceAll(body, []byte(`"finish_reason":`), []byte(choiceResults+`,"finish_reason":`))
		d.ResponseWriter.Write(body)
	default:
		d.ResponseWriter.Write(d.held)
	}
}
