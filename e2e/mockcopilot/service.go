package mockcopilot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What Copilot does with requests: it refuses what the real service refuses, and has
// the rest answered as the dialect's own vendor would.

// model is one that the service lists.
type model struct {
	id, kind  string
	endpoints []string
	inner     string // what the vendor's mock calls it
	premium   bool
	disabled  bool
}

// models that the service has. Words behind a plus sign are those of package mock.
var models = []model{
	{id: "gpt-5-mock", kind: "chat", endpoints: []string{"/chat/completions", "/responses", "ws:/responses"}, inner: "mock-chat", premium: true},
	{id: "gpt-mock-mini", kind: "chat", inner: "mock-chat"},
	{id: "mock-codex", kind: "chat", endpoints: []string{"/v1/responses"}, inner: "mock-chat", premium: true},
	{id: "claude-mock-4.5", kind: "chat", endpoints: []string{"/chat/completions"}, inner: "mock-chat", premium: true},
	{id: "claude-mock-reasoner", kind: "chat", endpoints: []string{"/v1/messages"}, inner: "mock-reasoner", premium: true},
	{id: "text-embedding-mock", kind: "embeddings", inner: "mock-embedding"},
	{id: "gpt-mock-off", kind: "chat", inner: "mock-chat", disabled: true},
}

// serves says whether the model is answered at a path.
func (m *model) serves(path string) bool {
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/v1"), "/count_tokens")
	switch {
	case path == "/messages" && strings.HasPrefix(m.id, "claude-"):
		return true
	case len(m.endpoints) > 0:
		return slices.ContainsFunc(m.endpoints, func(e string) bool { return strings.TrimPrefix(e, "/v1") == path })
	case m.kind == "embeddings":
		return path == "/embeddings"
	}
	return path == "/chat/completions"
}

func find(name string) *model {
	base, _, _ := strings.Cut(name, "+")
	i := slices.IndexFunc(models, func(m model) bool { return m.id == base && !m.disabled })
	if i < 0 {
		return nil
	}
	return &models[i]
}

// refusal is an answer that is none.
type refusal struct {
	status        int
	code, message string
}

func no(status int, code, format string, args ...any) *refusal {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// required are the headers of every request with what they must look like.
var required = map[string]*regexp.Regexp{
	"Editor-Version":                      regexp.MustCompile(`^vscode/[0-9.]+$`),
	"Editor-Plugin-Version":               regexp.MustCompile(`^copilot-chat/[0-9.]+$`),
	"User-Agent":                          regexp.MustCompile(`^GitHubCopilotChat/[0-9.]+$`),
	"Copilot-Integration-Id":              regexp.MustCompile(`^vscode-chat$`),
	"X-Github-Api-Version":                regexp.MustCompile(`^2026-06-01$`),
	"X-Vscode-User-Agent-Library-Version": regexp.MustCompile(`^electron-fetch$`),
	"X-Request-Id":                        uuid,
	"X-Agent-Task-Id":                     uuid,
	"Editor-Device-Id":                    uuid,
}

// service serves what is Copilot's, below /base/<account>.
func (s *Server) service(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	account, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/base/"), "/")
	path = "/" + path
	call := Call{Account: account, Path: path, Initiator: r.Header.Get("X-Initiator"), Vision: r.Header.Get("Copilot-Vision-Request") == "true", Betas: r.Header.Get("Anthropic-Beta"), Editor: r.Header.Get("Editor-Version"), Body: string(body)}
	no := s.refuse(r, account, path, body, &call)
	s.mu.Lock()
	seat := s.seats[account]
	if no == nil && path != "/models" {
		no = s.charge(seat, &call)
	}
	if no != nil {
		call.Status, call.Refusal = no.status, no.message
	}
	if path != "/models" || no != nil {
		s.stats.Calls = append(s.stats.Calls, call)
	}
	if seat != nil {
		seat.quotaHeaders(w.Header())
	}
	s.mu.Unlock()
	w.Header().Set("X-Github-Request-Id", "MOCK:1")
	switch {
	case no != nil:
		reply(w, no.status, map[string]any{"error": map[string]any{"message": no.message, "code": no.code}})
	case path == "/models":
		listModels(w)
	default:
		s.delegate(w, r, path, account, body, find(call.Model))
	}
}

// charge counts a premium request against the seat.
func (s *Server) charge(seat *seat, call *Call) *refusal {
	m := find(call.Model)
	if seat.NoChat && !strings.HasSuffix(call.Path, "/embeddings") {
		return no(http.StatusTooManyRequests, "quota_exceeded", "You have exceeded your free chat quota.")
	}
	if !m.premium || call.Initiator != "user" || strings.HasSuffix(call.Path, "/count_tokens") {
		return nil
	}
	if seat.left <= 0 {
		return no(http.StatusPaymentRequired, "quota_exceeded", "You have exceeded your premium request allowance.")
	}
	seat.left--
	return nil
}

func (s *Server) refuse(r *http.Request, account, path string, body []byte, call *Call) *refusal {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	g := s.grants[token]
	alive := g != nil && !g.dead && time.Now().Before(g.ends) && s.seats[g.account] != nil && !s.seats[g.account].Revoked
	s.mu.Unlock()
	switch {
	case !alive:
		return no(http.StatusUnauthorized, "unauthorized", "unauthorized: token expired")
	case g.account != account:
		return no(http.StatusMisdirectedRequest, "misdirected", "the token is for another host")
	}
	for name, form := range required {
		if v := r.Header.Values(name); len(v) != 1 || !form.MatchString(v[0]) {
			return no(http.StatusBadRequest, "bad_request", "missing or bad %s header: %q", name, v)
		}
	}
	intent := "conversation-agent"
	if path == "/models" {
		intent = "model-access"
	}
	for _, name := range []string{"Openai-Intent", "X-Interaction-Type"} {
		if got := r.Header.Get(name); got != intent {
			return no(http.StatusBadRequest, "bad_request", "%s is %q", name, got)
		}
	}
	if r.Header.Get("X-Request-Id") != r.Header.Get("X-Agent-Task-Id") {
		return no(http.StatusBadRequest, "bad_request", "two ids for one request")
	}
	for beta := range strings.SplitSeq(strings.Join(r.Header.Values("Anthropic-Beta"), ","), ",") {
		if beta = strings.TrimSpace(beta); beta != "" && !slices.Contains(betas, beta) {
			return no(http.StatusBadRequest, "bad_request", "unsupported beta header(s): %s", beta)
		}
	}
	if path == "/models" {
		if r.Method != http.MethodGet {
			return no(http.StatusMethodNotAllowed, "", "method not allowed")
		}
		return nil
	}
	check, ok := checks[path]
	if !ok || r.Method != http.MethodPost {
		return no(http.StatusNotFound, "not_found", "404 page not found")
	}
	var b map[string]any
	if err := json.Unmarshal(body, &b); err != nil {
		return no(http.StatusBadRequest, "invalid_request_body", "invalid JSON")
	}
	call.Model, _ = b["model"].(string)
	m := find(call.Model)
	switch {
	case m == nil:
		return no(http.StatusBadRequest, "model_not_supported", "The requested model is not supported.")
	case !m.serves(path):
		return no(http.StatusBadRequest, "unsupported_api_for_model", "model %s is not accessible via the %s endpoint", call.Model, path)
	}
	agent, image, err := check(b)
	switch {
	case err != nil:
		return err
	case image && !call.Vision:
		return no(http.StatusBadRequest, "bad_request", "missing required Copilot-Vision-Request header for vision requests")
	case call.Vision && !image:
		return no(http.StatusBadRequest, "bad_request", "Copilot-Vision-Request without an image")
	}
	want := "user"
	if agent {
		want = "agent"
	}
	if call.Initiator != want {
		return no(http.StatusBadRequest, "bad_request", "x-initiator is %q, and the request is the %s's", call.Initiator, want)
	}
	return nil
}

var betas = []string{"interleaved-thinking-2025-05-14", "context-management-2025-06-27", "advanced-tool-use-2025-11-20"}

// checks look at a body: whether it is the agent's own turn, whether it has an image,
// and what is not taken.
var checks = map[string]func(map[string]any) (agent, image bool, no *refusal){
	"/chat/completions":         checkChat,
	"/responses":                checkResponses,
	"/v1/messages":              checkMessages,
	"/v1/messages/count_tokens": checkMessages,
	"/embeddings": func(b map[string]any) (bool, bool, *refusal) {
		if _, ok := b["input"].([]any); !ok {
			return false, false, no(http.StatusBadRequest, "invalid_request_body", "input must be an array")
		}
		return false, false, nil
	},
}

func objects(v any) (all []map[string]any) {
	list, _ := v.([]any)
	for _, e := range list {
		if o, ok := e.(map[string]any); ok {
			all = append(all, o)
		}
	}
	return all
}

func checkChat(b map[string]any) (agent, image bool, _ *refusal) {
	turns := objects(b["messages"])
	if len(turns) == 0 {
		return false, false, no(http.StatusBadRequest, "invalid_request_body", "no messages")
	}
	if _, ok := b["store"]; ok {
		return false, false, no(http.StatusBadRequest, "unsupported_value", "store is not supported")
	}
	for _, t := range turns {
		for _, p := range objects(t["content"]) {
			image = image || p["type"] == "image_url"
		}
		if _, ok := t["copilot_cache_control"]; ok {
			return false, false, no(http.StatusBadRequest, "", "whose mark is that?")
		}
	}
	last := turns[len(turns)-1]["role"]
	return last == "assistant" || last == "tool", image, nil
}

func checkResponses(b map[string]any) (agent, image bool, _ *refusal) {
	if b["store"] != false {
		return false, false, no(http.StatusBadRequest, "unsupported_value", "store is not supported")
	}
	for _, name := range []string{"service_tier", "background", "conversation"} {
		if _, ok := b[name]; ok {
			return false, false, no(http.StatusBadRequest, "unsupported_value", "%s is not supported", name)
		}
	}
	for _, t := range objects(b["tools"]) {
		if t["type"] == "image_generation" {
			return false, false, no(http.StatusBadRequest, "unsupported_value", "the tool image_generation is not supported")
		}
	}
	items := objects(b["input"])
	for _, i := range items {
		for _, p := range append(objects(i["content"]), objects(i["output"])...) {
			image = image || p["type"] == "input_image"
		}
	}
	if len(items) > 0 {
		role, has := items[len(items)-1]["role"]
		agent = !has || role == "assistant"
	}
	return agent, image, nil
}

func checkMessages(b map[string]any) (agent, image bool, _ *refusal) {
	bad := func(what string) (bool, bool, *refusal) {
		return false, false, no(http.StatusBadRequest, "invalid_request_body", "%s: Extra inputs are not permitted", what)
	}
	if _, ok := b["cache_control"]; ok {
		return bad("cache_control")
	}
	turns := objects(b["messages"])
	blocks := append(objects(b["system"]), objects(b["tools"])...)
	for _, t := range objects(b["tools"]) {
		if _, ok := t["eager_input_streaming"]; ok {
			return bad("eager_input_streaming")
		}
	}
	for _, t := range turns {
		for _, p := range objects(t["content"]) {
			blocks = append(append(blocks, p), objects(p["content"])...)
		}
	}
	for _, p := range blocks {
		image = image || p["type"] == "image"
		if mark, ok := p["cache_control"].(map[string]any); ok && (len(mark) != 1 || mark["type"] != "ephemeral") {
			return bad("cache_control.ttl")
		}
	}
	if len(turns) == 0 {
		return bad("messages")
	}
	last := turns[len(turns)-1]
	parts := objects(last["content"])
	results := slices.DeleteFunc(slices.Clone(parts), func(p map[string]any) bool { return p["type"] != "tool_result" })
	return last["role"] != "user" || len(parts) > 0 && len(results) == len(parts), image, nil
}

func listModels(w http.ResponseWriter) {
	data := []map[string]any{}
	for _, m := range models {
		row := map[string]any{
			"id": m.id, "object": "model", "name": strings.ToUpper(m.id), "vendor": "Mock", "version": m.id, "model_picker_enabled": true,
			"capabilities": map[string]any{
				"type": m.kind, "family": m.id,
				"limits":   map[string]any{"max_context_window_tokens": 200000, "max_prompt_tokens": 128000, "max_output_tokens": 16000},
				"supports": map[string]any{"streaming": true, "tool_calls": true, "vision": true},
			},
		}
		if m.endpoints != nil {
			row["supported_endpoints"] = m.endpoints
		}
		if m.disabled {
			row["policy"] = map[string]any{"state": "disabled"}
		}
		data = append(data, row)
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": data})
}

// delegate has a request answered by the mock of the vendor whose dialect it speaks,
// with the same models under other names.
func (s *Server) delegate(w http.ResponseWriter, r *http.Request, path, account string, body []byte, m *model) {
	var b map[string]json.RawMessage
	json.Unmarshal(body, &b)
	var name string
	json.Unmarshal(b["model"], &name)
	_, words, _ := strings.Cut(name, "+")
	if words != "" {
		words = "+" + words
	}
	b["model"], _ = json.Marshal(m.inner + words)
	if path == "/responses" {
		delete(b, "store") // as the service that stores nothing has it
	}
	body, _ = json.Marshal(b)
	inner := r.Clone(r.Context())
	inner.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + s.inner[account]}}
	inner.Body, inner.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	inner.URL.Path = "/v1" + strings.TrimPrefix(path, "/v1")
	if strings.HasPrefix(inner.URL.Path, "/v1/messages") {
		inner.Header.Set("Anthropic-Version", "2023-06-01")
		s.anthropic.ServeHTTP(w, inner)
		return
	}
	s.openai.ServeHTTP(w, inner)
}
