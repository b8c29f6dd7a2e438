package provider

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// azureVendor is the row of Azure OpenAI and of Claude in Azure's Foundry. What
// Azure says itself stands before what OpenAI's and Anthropic's services say, whose
// answers it hands on.
// Source: Microsoft's reference of the service and its troubleshooting pages.
var azureVendor = vendor{
	name:     "azure",
	speaks:   []string{"chat", "responses", "completions", "embeddings", "images", "audio", "messages"},
	families: slices.Concat(openAIFamilies, anthropicVendor.families),
	refusals: slices.Concat(refusals{
		{status: 403, code: "AuthenticationTypeDisabled", means: BadCredential},
		// The resource takes no requests from this network, whatever the key.
		{status: 403, text: "virtual network/firewall", means: BadCredential},
		{status: 403, text: "public access is disabled", means: BadCredential},
		{status: 403, text: "out of call volume quota", means: QuotaSpent},
		{code: "ResponsibleAIPolicyViolation", means: Moderated},
		{code: "contentFilter", means: Moderated},
		// So it also answers a path or a version that it does not know.
		{status: 404, code: "404", text: "resource not found", means: NoModel},
		{status: 400, text: "api version not supported", means: NoModel},
		{status: 410, means: NoModel},
	}, openAIRefusals, anthropicVendor.refusals),
}

// azureCloud is one of the clouds, which share nothing.
type azureCloud struct {
	// domain ends the hosts of its services.
	domain string
	// authority is the host where Entra ID gives out tokens.
	authority string
}

var azureClouds = []azureCloud{
	{domain: "azure.com", authority: "login.microsoftonline.com"},
	{domain: "azure.us", authority: "login.microsoftonline.us"},
	{domain: "azure.cn", authority: "login.chinacloudapi.cn"},
}

// Before the cloud's domain in the name of a resource's host.
const (
	azureOpenAIHost    = ".openai."
	azureCognitiveHost = ".cognitiveservices."
	azureFoundryHost   = ".services.ai."
)

// azurePages are the hosts of pages for people, which are taken for endpoints.
var azurePages = []string{"portal.azure.com", "ai.azure.com", "oai.azure.com", "portal.azure.us", "portal.azure.cn"}

// azureEndpoint is what base_url says.
type azureEndpoint struct {
	// root is the resource or, where project is set, a project of it.
	root *url.URL
	// claude is the root below which Claude is served.
	claude  *url.URL
	cloud   *azureCloud // nil for a private host
	project bool
	v1      bool // the address is that of the v1 surface
}

// azureProject is how the path of a project looks.
var azureProject = regexp.MustCompile(`^/api/projects/[^/]+$`)

// azureSuffixes are what may follow the root in an address that was copied from
// somewhere; v1 says that it names the surface too.
var azureSuffixes = []struct {
	path string
	v1   bool
}{
	{"/openai/v1", true},
	{"/openai", false},
	{"/anthropic/v1/messages", false},
	{"/anthropic/v1", false},
	{"/anthropic", false},
}

const azureForm = "write the resource's endpoint, such as https://NAME.openai.azure.com"

func readAzureEndpoint(raw string) (*azureEndpoint, error) {
	if strings.Contains(raw, "/openai/deployments") {
		return nil, fmt.Errorf("base_url: it names a deployment; %s, and the deployment as the name of the model or by an alias line", azureForm)
	}
	if strings.Contains(raw, "api-version=") {
		return nil, fmt.Errorf("base_url: the version does not belong in the address; %s, and the version on a line of its own: api_version <version>", azureForm)
	}
	root, err := parseBase(raw, "")
	if err != nil {
		return nil, err
	}
	e := &azureEndpoint{root: root}
	for _, s := range azureSuffixes {
		if path, ok := strings.CutSuffix(root.EscapedPath(), s.path); ok {
			e.v1 = s.v1
			path = cmp.Or(path, "/")
			if root.Path, err = url.PathUnescape(path); err != nil {
				return nil, fmt.Errorf("base_url: %w", err)
			}
			root.RawPath = path
			break
		}
	}
	if strings.Contains(root.Path, "/openai/") || strings.Contains(root.Path, "/anthropic/") {
		return nil, fmt.Errorf("base_url: %q is the address of one operation; %s", raw, azureForm)
	}
	host := strings.ToLower(root.Hostname())
	if slices.Contains(azurePages, host) {
		return nil, fmt.Errorf("base_url: %s is a page for people; %s", host, azureForm)
	}
	e.project = azureProject.MatchString(root.EscapedPath())
	name := ""
	for i := range azureClouds {
		for _, service := range []string{azureOpenAIHost, azureCognitiveHost, azureFoundryHost} {
			if before, ok := strings.CutSuffix(host, service+azureClouds[i].domain); ok {
				e.cloud, name = &azureClouds[i], before
			}
		}
	}
	switch {
	case e.cloud == nil:
	case root.Scheme != "https":
		return nil, errors.New("base_url: http:// would show the key to everybody on the way; Azure speaks https://")
	case root.Path != "/" && !e.project:
		return nil, fmt.Errorf("base_url: a resource of Azure has nothing at the path %q; %s", root.Path, azureForm)
	}
	claude := *root
	if e.project {
		claude.Path, claude.RawPath = "/", ""
	}
	if e.cloud != nil {
		claude.Host = name + azureFoundryHost + e.cloud.domain
		if root.Port() != "" {
			claude.Host += ":" + root.Port()
		}
	}
	e.claude = claude.JoinPath("anthropic", "v1")
	return e, nil
}

// azureDated is how the versions of the older surface look.
var azureDated = regexp.MustCompile(`^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(-preview)?$`)

// The first dated versions that have the Responses API, edits of images, and
// max_completion_tokens.
const (
	azureResponsesSince = "2025-03-01"
	azureEditsSince     = "2025-04-01"
	azureNewNamesSince  = "2024-09-01"
)

// azure is a resource of Azure's: its OpenAI surface, of deployments or the one that
// is called v1, and Claude.
type azure struct {
	account
	root   *url.URL
	claude *url.URL
	// dated is the version of the surface of deployments; empty for v1.
	dated string
	// query is that of the v1 surface; preview the one of what it has in preview only.
	query, preview string
	// onlyClaude: the block declares messages and nothing else, so that names need not
	// tell.
	onlyClaude bool
	entra      *entra // nil for keys
	// ways are as account.via, by who made the model.
	ways struct{ openai, other, claude [4][]dialect.Dialect }
}

func openAzure(c Config) (Upstream, error) {
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		if name != "api_version" && name != "entra" {
			return nil, fmt.Errorf("%s: the provider azure has no such option", name)
		}
	}
	at, err := readAzureEndpoint(c.BaseURL)
	if err != nil {
		return nil, err
	}
	u := &azure{root: at.root, claude: at.claude, preview: "api-version=preview"}
	if args, ok := c.Options["api_version"]; ok {
		if len(args) != 1 {
			return nil, errors.New("api_version: one value was expected")
		}
		switch v := args[0]; {
		case v == "v1":
		case v == "preview":
			u.query = u.preview
		case !azureDated.MatchString(v):
			return nil, fmt.Errorf("api_version: %q is neither v1 or preview nor a date such as 2024-10-21 or 2025-04-01-preview", v)
		case at.v1:
			return nil, fmt.Errorf("api_version: the address ends in /openai/v1, which takes no dated version such as %s; leave out one of the two", v)
		case at.project:
			return nil, fmt.Errorf("api_version: a project has the v1 surface alone; %s belongs to a resource's endpoint", v)
		default:
			u.dated = v
		}
	}
	options, dialects := c.Options, len(c.Dialects)
	c.Options = nil
	if u.account, err = azureVendor.account(&c, "", azureVendor.speaks); err != nil {
		return nil, err
	}
	u.base = u.root.JoinPath("openai")
	if u.dated == "" {
		u.base = u.root.JoinPath("openai", "v1")
	}
	u.onlyClaude = dialects == 1 && u.speaks["messages"]
	if u.dated != "" && u.dated < azureResponsesSince && dialects == 0 {
		u.speaks["responses"] = false
	}
	u.headers = nil
	u.ways.openai = viaOf(func(d dialect.Dialect) bool { return d != dialect.Messages && u.speaks[d.String()] })
	// Not all that the others make is served in Responses.
	u.ways.other = viaOf(func(d dialect.Dialect) bool { return d == dialect.Chat && u.speaks["chat"] })
	u.ways.claude = viaOf(func(d dialect.Dialect) bool { return d == dialect.Messages && u.speaks["messages"] })
	if args, ok := options["entra"]; ok {
		if u.entra, err = openEntra(args, at, &c); err != nil {
			return nil, fmt.Errorf("entra: %w", err)
		}
	}
	return u, nil
}

// isClaude says whether a deployment is one of Claude's, which have an API of their
// own. Its name tells, which by default is that of the model.
func (u *azure) isClaude(deployment string) bool {
	return u.onlyClaude || u.speaks["messages"] && containsFold(deployment, "claude")
}

// azureOthers are parts of the names of models that others than OpenAI make and
// that Azure serves at its OpenAI surface.
var azureOthers = []string{
	"deepseek", "llama", "mistral", "ministral", "codestral", "phi-", "grok", "cohere", "command-", "jamba", "qwen", "kimi",
}

func isOther(deployment string) bool {
	return slices.ContainsFunc(azureOthers, func(part string) bool { return containsFold(deployment, part) })
}

func (u *azure) Speaks(op dialect.Operation, model string) bool {
	if u.isClaude(model) {
		return u.speaks["messages"] && op.Feature() == "messages"
	}
	switch op {
	case dialect.CreateMessage, dialect.CountMessage, dialect.CountResponse, dialect.ImageVariations:
		return false // Azure has them for Claude alone, or not at all
	case dialect.ImageEdits:
		if u.dated != "" && u.dated < azureEditsSince {
			return false // its 404 would speak for the whole deployment
		}
	case dialect.CompactResponse:
		return u.dated == "" && u.speaks["responses"]
	}
	return u.speaks[op.Feature()]
}

func (u *azure) Via(from dialect.Dialect, model string) []dialect.Dialect {
	switch {
	case u.isClaude(model):
		return u.ways.claude[from]
	case isOther(model):
		return u.ways.other[from]
	}
	return u.ways.openai[from]
}

// Quirks implements Peculiar: the name of a deployment tells nothing of its model,
// and newer models know only the newer name of the bound.
func (u *azure) Quirks(model string) Quirks {
	switch {
	case isOther(model):
		return Quirks{MaxTokensName: "max_tokens"}
	case u.dated != "" && u.dated < azureNewNamesSince:
		return Quirks{MaxTokensName: "max_tokens"}
	}
	return Quirks{MaxTokensName: "max_completion_tokens"}
}

func (u *azure) Address(call *dialect.Call, model string) *url.URL {
	if call.Op.Feature() == "messages" {
		return u.claude.JoinPath(call.Op.Path())
	}
	at := *u.base
	path, escaped := call.Op.Path(), call.Op.Path()
	switch {
	case call.Op == dialect.StoredResponse:
		path, escaped = "/responses/"+call.ID+call.Rest, "/responses/"+url.PathEscape(call.ID)+call.Rest
	case u.dated != "" && call.Op.Feature() != "responses":
		// A name may have anything in it, and is one segment.
		path, escaped = "/deployments/"+model+path, "/deployments/"+url.PathEscape(model)+path
	}
	at.Path, at.RawPath = u.base.Path+path, u.base.EscapedPath()+escaped
	at.RawQuery = u.versionOf(call.Op)
	return &at
}

// versionOf returns the query that names the version for an operation.
func (u *azure) versionOf(op dialect.Operation) string {
	switch f := op.Feature(); {
	case u.dated != "":
		return "api-version=" + u.dated
	case f == "images", f == "audio":
		return u.preview // the v1 surface has them in its preview
	}
	return u.query
}

// azureFixes give groups of tools a description: Azure takes none that is empty, and
// agents send those of servers that describe nothing.
var azureFixes = dialect.NewFixes(dialect.Fix{Path: "tools[].description", Value: `"Tools."`, Only: `""`})

// Fit implements Tailor.
func (u *azure) Fit(op dialect.Operation, body []byte) []byte {
	if op == dialect.CreateResponse && bytes.Contains(body, []byte(`"namespace"`)) {
		return azureFixes.Apply(body)
	}
	return body
}

// Describe implements Tailor: Claude's API has a version of its own.
func (u *azure) Describe(op dialect.Operation, _ []byte, h http.Header) {
	if _, ok := h["Anthropic-Version"]; !ok && op.Feature() == "messages" {
		h["Anthropic-Version"] = []string{anthropicVersion}
	}
}

// azureKey sends a key in the header that the surface looks at. It is a function
// because functions cannot be printed.
type azureKey func(req *http.Request)

func (k azureKey) Authorize(req *http.Request) error {
	k(req)
	return nil
}

func (k azureKey) Renew(http.Header) bool { return false }

// Credential implements Upstream. Without a key it is Entra ID's token, if the block
// says so.
func (u *azure) Credential(s Secret) Credential {
	switch {
	case s.Empty() && u.entra != nil:
		return u.entra
	case s.Empty():
		return noCredential
	}
	value := []string{s.Reveal()} // shared by all requests
	claude := u.claude.Path + "/"
	return azureKey(func(req *http.Request) {
		name := "Api-Key"
		if strings.HasPrefix(req.URL.Path, claude) {
			name = "X-Api-Key"
		}
		req.Header[name] = value
	})
}

// Models implements Upstream. What Azure lists are the models that could be
// deployed and not the deployments, which no key may see: the list proves the
// credential and names nothing.
func (u *azure) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error) {
	l := listing{account: &u.account, do: do, query: url.Values{}}
	if q := u.versionOf(dialect.ListModels); q != "" {
		l.query, _ = url.ParseQuery(q)
	}
	if _, err := l.read(ctx, readModels); err != nil {
		return nil, err
	}
	return []Model{}, nil
}

func init() {
	Register("azure", Kind{New: openAzure, Options: []string{"api_version", "entra"}, NeedsURL: true, Identity: "entra"})
}

var (
	_ Tailor   = (*azure)(nil)
	_ Peculiar = (*azure)(nil)
	_ Account  = (*entra)(nil)
)
