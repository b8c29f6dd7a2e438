package provider

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/floway/floway/dialect"
)

// copilotVendor is the row of GitHub Copilot, whose service has no documentation.
// Its address is that of no account: tokens name the account's own.
var copilotVendor = vendor{
	name: "copilot", baseURL: "https://api.githubcopilot.com",
	speaks:   []string{"chat", "responses", "messages", "embeddings"},
	refusals: copilotRefusals,
}

// copilotPaths are the paths of what Copilot offers. It has no others.
var copilotPaths = map[dialect.Operation]string{
	dialect.ChatCompletions: "/chat/completions",
	dialect.CreateResponse:  "/responses",
	dialect.CreateMessage:   "/v1/messages",
	dialect.CountMessage:    "/v1/messages/count_tokens",
	dialect.Embeddings:      "/embeddings",
}

// copilotFixes are what of its dialects Copilot does not take: it keeps no answers,
// knows no tiers and no tool that makes images, and of cache marks the bare ones.
var copilotFixes = map[dialect.Operation]*dialect.Fixes{
	dialect.ChatCompletions: dialect.NewFixes(
		dialect.Fix{Path: "store", Drop: true},
	),
	dialect.CreateResponse: dialect.NewFixes(
		dialect.Fix{Path: "store", Value: "false"},
		dialect.Fix{Path: "service_tier", Drop: true},
		dialect.Fix{Path: "tools[]", Drop: true, Type: "image_generation"},
	),
	dialect.CreateMessage: copilotMessagesFixes,
	dialect.CountMessage:  copilotMessagesFixes,
	dialect.Embeddings: dialect.NewFixes(
		dialect.Fix{Path: "input", Wrap: true},
	),
}

var copilotMessagesFixes = func() *dialect.Fixes {
	fixes := []dialect.Fix{
		{Path: "cache_control", Drop: true},
		{Path: "tools[].eager_input_streaming", Drop: true},
	}
	for _, at := range []string{"system[]", "tools[]", "messages[].content[]", "messages[].content[].content[]"} {
		for _, extra := range []string{"ttl", "scope"} {
			fixes = append(fixes, dialect.Fix{Path: at + ".cache_control." + extra, Drop: true})
		}
	}
	return dialect.NewFixes(fixes...)
}()

// copilotBetas are the values of anthropic-beta that Copilot knows; it refuses
// requests with any other.
var copilotBetas = []string{
	"interleaved-thinking-2025-05-14", "context-management-2025-06-27", "advanced-tool-use-2025-11-20",
}

// copilot is one or more seats of GitHub Copilot.
type copilot struct {
	account
	config Config
	github *github
	// fixed: the configuration names the address, whatever tokens say.
	fixed  bool
	urls   map[dialect.Operation]*url.URL
	models atomic.Pointer[map[string]uint8] // what each can be asked in; nil as long as unknown
}

func openCopilot(c Config) (Upstream, error) {
	host := ""
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		if name != "host" {
			return nil, fmt.Errorf("%s: the provider copilot has no such option", name)
		}
		if len(c.Options[name]) != 1 || c.Options[name][0] == "" {
			return nil, fmt.Errorf("%s: one value was expected", name)
		}
		host = c.Options[name][0]
	}
	u := &copilot{config: c, fixed: c.BaseURL != "", urls: map[dialect.Operation]*url.URL{}}
	c.Options = nil
	var err error
	if u.account, err = copilotVendor.account(&c, "", copilotVendor.speaks); err != nil {
		return nil, err
	}
	if u.github, err = openGitHub(host, c.Transport); err != nil {
		return nil, err
	}
	for op, path := range copilotPaths {
		u.urls[op] = u.base.JoinPath(path)
	}
	u.headers = http.Header{
		"User-Agent":                          {copilotUserAgent},
		"Editor-Version":                      {copilotEditor},
		"Editor-Plugin-Version":               {copilotPlugin},
		"Copilot-Integration-Id":              {copilotIntegration},
		"X-Github-Api-Version":                {copilotAPIVersion},
		"X-Vscode-User-Agent-Library-Version": {copilotLibrary},
	}
	return u, nil
}

// SignIns implements Registrar.
func (u *copilot) SignIns() *SignIns {
	return &SignIns{Storage: u.config.Storage, Host: u.github.host, Transport: u.github.transport}
}

// Bits of what a model can be asked in.
const (
	inChat uint8 = 1 << iota
	inResponses
	inMessages
	inEmbeddings
)

var featureBits = map[string]uint8{"chat": inChat, "responses": inResponses, "messages": inMessages, "embeddings": inEmbeddings}

// copilotVia are the ways into each set of dialects, as account.via.
var copilotVia = func() (via [inEmbeddings][4][]dialect.Dialect) {
	for set := range via {
		via[set] = viaOf(func(d dialect.Dialect) bool { return uint8(set)&featureBits[d.String()] != 0 })
	}
	return via
}()

// asked returns what a model can be asked in: as the list says, or by its name as
// long as the list is not known.
func (u *copilot) asked(model string) uint8 {
	if list := u.models.Load(); list != nil {
		if set, ok := (*list)[model]; ok {
			return set
		}
	}
	switch {
	case strings.HasPrefix(model, "claude-"):
		return inMessages | inChat
	case strings.Contains(model, "embedding"):
		return inEmbeddings
	case strings.Contains(model, "codex"):
		return inResponses
	case strings.HasPrefix(model, "gpt-5"):
		return inResponses | inChat
	}
	return inChat
}

func (u *copilot) Speaks(op dialect.Operation, model string) bool {
	return u.urls[op] != nil && u.speaks[op.Feature()] && u.asked(model)&featureBits[op.Feature()] != 0
}

func (u *copilot) Via(from dialect.Dialect, model string) []dialect.Dialect {
	set := u.asked(model) &^ inEmbeddings
	for feature, bit := range featureBits {
		if !u.speaks[feature] {
			set &^= bit
		}
	}
	return copilotVia[set][from]
}

func (u *copilot) Address(call *dialect.Call, _ string) *url.URL { return u.urls[call.Op] }

// Copilot writes the versions of Claude with dots and knows no dates.
var (
	datedClaude   = regexp.MustCompile(`^(claude-.*?)-[0-9]{8}(-.*)?$`)
	spelledClaude = regexp.MustCompile(`^(claude-(?:[a-z]+-)*[0-9]{1,2})-([0-9]{1,2})((?:-.*)?)$`)
)

// OwnName implements Renamer.
func (u *copilot) OwnName(name string) string {
	if !strings.HasPrefix(name, "claude-") {
		return name
	}
	list := u.models.Load()
	if list != nil {
		if _, ok := (*list)[name]; ok {
			return name
		}
	}
	own := spelledClaude.ReplaceAllString(datedClaude.ReplaceAllString(name, "$1$2"), "$1.$2$3")
	if list != nil {
		if _, ok := (*list)[own]; !ok {
			return name
		}
	}
	return own
}

// Fit implements Tailor.
func (u *copilot) Fit(op dialect.Operation, body []byte) []byte {
	if fixes := copilotFixes[op]; fixes != nil {
		return fixes.Apply(body)
	}
	return body
}

// Describe implements Tailor. Who speaks decides what a request costs: one that
// goes on with a tool's result is the agent's own.
func (u *copilot) Describe(op dialect.Operation, body []byte, h http.Header) {
	initiator := "user"
	if dialect.FollowsUp(op, body) {
		initiator = "agent"
	}
	h["X-Initiator"] = []string{initiator}
	if dialect.ShowsImage(op, body) {
		h["Copilot-Vision-Request"] = []string{"true"}
	}
	intend(h, "conversation-agent")
	if betas, ok := h["Anthropic-Beta"]; ok {
		if known := knownBetas(betas); known != "" {
			h["Anthropic-Beta"] = []string{known}
		} else {
			delete(h, "Anthropic-Beta")
		}
	}
}

// intend says what a request is for, and gives it a name.
func intend(h http.Header, intent string) {
	id := newUUID()
	h["Openai-Intent"], h["X-Interaction-Type"] = []string{intent}, []string{intent}
	h["X-Request-Id"], h["X-Agent-Task-Id"] = []string{id}, []string{id}
}

func knownBetas(values []string) string {
	var known []string
	for _, v := range values {
		for beta := range strings.SplitSeq(v, ",") {
			if beta = strings.TrimSpace(beta); slices.Contains(copilotBetas, beta) && !slices.Contains(known, beta) {
				known = append(known, beta)
			}
		}
	}
	return strings.Join(known, ",")
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return uuid(b)
}

// uuid spells a UUID of random bytes (version 4).
func uuid(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Models implements Upstream.
func (u *copilot) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error) {
	l := listing{account: &u.account, do: func(req *http.Request) (*http.Response, error) {
		intend(req.Header, "model-access")
		return do(req)
	}}
	return l.read(ctx, readCopilotModels)
}

// Learn implements Learner.
func (u *copilot) Learn(models []Model) {
	list := make(map[string]uint8, len(models))
	for _, m := range models {
		var set uint8
		for _, f := range m.Features {
			set |= featureBits[f]
		}
		if set != 0 {
			list[m.ID] = set
		}
	}
	u.models.Store(&list)
}

// readCopilotModels reads Copilot's form of a model list. Models that the account's
// owner has not allowed are left out.
func readCopilotModels(body []byte) (page, error) {
	var list struct {
		Data []struct {
			ID        string   `json:"id"`
			Name      string   `json:"name"`
			Vendor    string   `json:"vendor"`
			Endpoints []string `json:"supported_endpoints"`
			Policy    struct {
				State string `json:"state"`
			} `json:"policy"`
			Capabilities struct {
				Type   string `json:"type"`
				Limits struct {
					Window    int64 `json:"max_context_window_tokens"`
					MaxPrompt int64 `json:"max_prompt_tokens"`
					MaxOutput int64 `json:"max_output_tokens"`
				} `json:"limits"`
			} `json:"capabilities"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &list); err != nil || list.Data == nil {
		return page{}, notAList(err, "Copilot's")
	}
	var p page
	seen := map[string]bool{}
	for _, m := range list.Data {
		if m.Policy.State == "disabled" || seen[m.ID] {
			continue
		}
		seen[m.ID] = true
		limits := m.Capabilities.Limits
		p.models = append(p.models, Model{
			ID: m.ID, Name: m.Name, OwnedBy: strings.ToLower(m.Vendor), MaxInput: cmp.Or(limits.MaxPrompt, limits.Window), MaxOutput: limits.MaxOutput,
			Features: copilotFeatures(m.ID, m.Capabilities.Type, m.Endpoints),
		})
	}
	return p, nil
}

// copilotFeatures are what a model can be asked in. Paths come with a version and
// without; Claude takes messages even where its list does not say so.
func copilotFeatures(id, kind string, endpoints []string) []string {
	var features []string
	add := func(f string) {
		if !slices.Contains(features, f) {
			features = append(features, f)
		}
	}
	for _, path := range endpoints {
		switch strings.TrimPrefix(path, "/v1") {
		case "/chat/completions":
			add("chat")
		case "/responses":
			add("responses")
		case "/messages":
			add("messages")
		case "/embeddings":
			add("embeddings")
		}
	}
	if len(endpoints) == 0 {
		switch kind {
		case "chat":
			add("chat")
		case "embeddings":
			add("embeddings")
		}
	}
	if strings.HasPrefix(id, "claude-") {
		add("messages")
	}
	return features
}

// Credential implements Upstream: a seat that is signed in, or a token of GitHub's.
func (u *copilot) Credential(s Secret) Credential {
	if s.Empty() {
		return noCredential
	}
	c := &seat{up: u, device: deviceOf(s), known: recall[seatMemory](u.config.Memory, "copilot "+u.github.host+" "+s.ID())}
	if name, ok := SignInName(s.Reveal()); ok {
		c.name = name
	} else {
		c.token = s
	}
	return c
}

// deviceOf makes the id of the device that a seat is used from: always the same for
// a seat, and nothing that leads back to it.
func deviceOf(s Secret) string {
	sum := sha256.Sum256([]byte("floway device " + s.Reveal()))
	return uuid([16]byte(sum[:16]))
}

// seat is the credential of one account at GitHub.
type seat struct {
	up     *copilot
	name   string // of the sign-in; empty for a token of GitHub's
	token  Secret // of GitHub's; empty for a sign-in
	device string
	known  *seatMemory
}

// seatMemory is what is known of a seat. It outlives reloads.
type seatMemory struct {
	source TokenSource

	mu      sync.Mutex
	login   string
	trouble string
	quotas  map[string]Quota
}

// Authorize implements Credential.
func (s *seat) Authorize(req *http.Request) error {
	t, err := s.known.source.Token(req.Context(), s.fetch)
	if err != nil {
		return err
	}
	if !s.up.fixed && t.Base != nil {
		to := *req.URL
		if req.Host == to.Host {
			req.Host = t.Base.Host
		}
		to.Scheme, to.Host, to.Path = t.Base.Scheme, t.Base.Host, t.Base.Path+"/"+strings.TrimPrefix(to.Path, "/")
		req.URL = &to
	}
	req.Header["Authorization"] = []string{"Bearer " + t.Secret.Reveal()}
	if _, ok := req.Header["Editor-Device-Id"]; !ok {
		req.Header["Editor-Device-Id"] = []string{s.device}
	}
	return nil
}

// Renew implements Credential.
func (s *seat) Renew(sent http.Header) bool { return s.known.source.Refuse(bearerOf(sent)) }

func (s *seat) fetch(ctx context.Context, refused Secret) (t Token, err error) {
	github, login, trouble := s.token, "", ""
	if s.name == "" {
		t, err = s.up.github.exchange(ctx, github)
	} else {
		t, github, login, trouble, err = fetchSeat(ctx, s.up.github, s.up.config.Storage, s.name, refused)
	}
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	s.known.login, s.known.trouble = cmp.Or(login, s.known.login), trouble
	if err == nil {
		// Not all answers tell of quotas, and a spent one is better known beforehand.
		go s.askQuotas(github)
	}
	return t, err
}

func (s *seat) askQuotas(github Secret) {
	if list, err := s.up.github.quotas(context.Background(), github); err == nil {
		s.note(list)
	}
}

// Observe implements Account.
func (s *seat) Observe(answer http.Header) {
	if list := readQuotas(answer); len(list) > 0 {
		s.note(list)
	}
}

// note keeps what was said last of each quota.
func (s *seat) note(list []Quota) {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	if s.known.quotas == nil {
		s.known.quotas = map[string]Quota{}
	}
	for _, q := range list {
		if _, ok := s.known.quotas[q.Name]; ok || len(s.known.quotas) < maxQuotas {
			s.known.quotas[q.Name] = q
		}
	}
}

// modelQuotas are the quotas that models are paid out of.
var modelQuotas = []string{"chat", "premium_interactions"}

// Spent implements Account. A seat whose premium requests are used up still has the
// models that cost none.
func (s *seat) Spent() (until time.Time, rest bool) {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	for _, name := range modelQuotas {
		q, ok := s.known.quotas[name]
		switch {
		case !ok:
		case !q.Spent():
			rest = true
		case q.Reset.After(until) && q.Reset.After(time.Now()):
			until = q.Reset
		}
	}
	return until, rest && !until.IsZero()
}

// State implements Account.
func (s *seat) State() AccountState {
	t, err := s.known.source.Current()
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	st := AccountState{SignIn: s.name, Login: s.known.login, TokenUntil: t.Expires, Trouble: s.known.trouble}
	if err != nil {
		st.Trouble = err.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(s.known.quotas)) {
		st.Quotas = append(st.Quotas, s.known.quotas[name])
	}
	return st
}

// Forget implements Account.
func (s *seat) Forget() {
	s.known.source.Forget()
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	s.known.login, s.known.trouble, s.known.quotas = "", "", nil
}

func init() {
	Register("copilot", Kind{New: openCopilot, Options: []string{"host"}, NeedsKey: true, SignsIn: true, ByModel: true})
}

var (
	_ Tailor    = (*copilot)(nil)
	_ Learner   = (*copilot)(nil)
	_ Renamer   = (*copilot)(nil)
	_ Registrar = (*copilot)(nil)
	_ Account   = (*seat)(nil)
)
