// Package provider knows the vendors: how each kind of upstream is addressed and
// authenticated, what it speaks and what its refusals mean. It takes no
// decisions; what follows from a refusal is decided in package relay.
//
// Most vendors are rows of data (see vendors.go). Others add their own kind by
// calling Register from an init function in a Go module that is built in.
package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/floway/floway/dialect"
)

// Config is what an upstream block says that concerns its provider.
type Config struct {
	// Name is the upstream's name, for messages.
	Name string
	// BaseURL is the address that the vendor's own SDK takes; empty for the
	// provider's default.
	BaseURL string
	// Dialects are the features (dialect.Features) that the block declares;
	// empty for the provider's default.
	Dialects []string
	// Options are the provider's own subdirectives with their arguments.
	Options map[string][]string
	// Storage is where sign-ins are kept; nil for nowhere.
	Storage Storage
	// Transport carries requests of the provider's own, such as those for tokens;
	// nil for http.DefaultTransport.
	Transport http.RoundTripper
	// Memory keeps what is known of accounts while upstreams are made anew; nil to
	// forget it.
	Memory *Memory
}

// Storage keeps sign-ins; instances that use the same one share them. What is not
// there is fs.ErrNotExist. Caddy's storage is one.
type Storage interface {
	Load(ctx context.Context, key string) ([]byte, error)
	Store(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string, recursive bool) ([]string, error)
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
}

// Upstream is one configured account at a provider. Its methods may be called at
// the same time.
type Upstream interface {
	// Speaks says whether the upstream answers the operation natively for a
	// model of its own.
	Speaks(op dialect.Operation, model string) bool
	// Via returns the dialects, best first, in which the upstream can be asked for
	// a model on behalf of a client whose dialect it does not speak. The slice is
	// shared.
	Via(from dialect.Dialect, model string) []dialect.Dialect
	// Address returns where the call is answered for that model of the
	// upstream's, without the client's query. The URL is shared: it must not be
	// changed.
	Address(call *dialect.Call, model string) *url.URL
	// Credential makes ready what authenticates requests with a secret. An empty
	// secret means none.
	Credential(s Secret) Credential
	// Headers are sent with every request, unless the client's own or the
	// configuration's stand in their place. The map is shared.
	Headers() http.Header
	// Meaning says what a refusal means at this vendor, where that does not
	// follow from its status.
	Meaning(status int, p *dialect.Problem) Meaning
	// Family says whether a model's name looks like one of the vendor's own.
	Family(model string) bool
	// Models asks the upstream which models it has, with requests made by do,
	// which authenticates them.
	Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error)
	// Transport carries the requests; nil for the network.
	Transport() http.RoundTripper
}

// Credential authenticates requests with one key.
type Credential interface {
	// Authorize puts the credential into a request that is otherwise ready, and
	// sends it to another address where the account has one of its own; the URL is
	// shared and must be replaced, not changed. It may have to fetch a token first
	// and then ends with the request's context. A *CredentialError says whose fault
	// it is when it fails.
	Authorize(req *http.Request) error
	// Renew is called after the upstream refused the credential; sent is the header
	// of the refused request. True means that another try may go better, because
	// the next Authorize will fetch anew.
	Renew(sent http.Header) bool
}

// Account is a Credential that learns of its account from answers.
type Account interface {
	Credential
	// Observe reads what the header of an answer says of the account.
	Observe(answer http.Header)
	// Spent returns when the quotas that are used up begin anew; zero if none is, or
	// nobody said. rest says that another quota has something left, so that only
	// some models cannot be had.
	Spent() (until time.Time, rest bool)
	// State returns what is known of the account, to be shown.
	State() AccountState
	// Forget drops what was fetched and learned: the account behind the key has
	// changed.
	Forget()
}

// AccountState is what is known of an account. It holds no secret.
type AccountState struct {
	// SignIn is the name of the sign-in; empty for a key of another form.
	SignIn string
	// Login is what the service calls the account; empty if unknown.
	Login string
	// TokenUntil is the end of the access token; zero if there is none.
	TokenUntil time.Time
	// Trouble is what was wrong the last time that a token was fetched; empty if
	// nothing was.
	Trouble string
	// Quotas are those that the service has told of, by name.
	Quotas []Quota
}

// Quota is what is left of an account's allowance.
type Quota struct {
	Name string
	// Unlimited: the rest means nothing.
	Unlimited bool
	// Entitled and Left are counts; Percent is what is left of a hundred.
	Entitled, Left, Percent float64
	// Overage says that the account may go on, at a price, and Used by how much it
	// did.
	Overage bool
	Used    float64
	// Reset is when it begins anew; zero if unknown. Seen is when the service said
	// all this.
	Reset, Seen time.Time
}

// Spent says that the quota is used up and nothing may be used beyond it.
func (q *Quota) Spent() bool { return !q.Unlimited && !q.Overage && q.Left <= 0 && q.Percent <= 0 }

// Tailor is an Upstream whose service does not take all of what its dialects have,
// or wants to be told what a request is about.
type Tailor interface {
	Upstream
	// Fit returns the body as the service takes it: body itself if nothing has to
	// change. It never changes body.
	Fit(op dialect.Operation, body []byte) []byte
	// Describe says in the header of a request what its body is about, and takes
	// out of it what the service does not know.
	Describe(op dialect.Operation, body []byte, h http.Header)
}

// Learner is an Upstream that decides by its list of models. Learn is told of
// every list that was fetched, and when the upstream is made anew of the last one.
type Learner interface {
	Upstream
	Learn([]Model)
}

// Renamer is an Upstream that knows its models by other names than clients do.
// OwnName returns the name that it knows, or name itself.
type Renamer interface {
	Upstream
	OwnName(name string) string
}

// Peculiar is an Upstream whose Chat Completions differ from OpenAI's in what a
// request may say. It matters for requests that are translated into them; those
// of Chat Completions' own clients pass as they came.
type Peculiar interface {
	Upstream
	// Quirks returns what is different for a model of the upstream's.
	Quirks(model string) Quirks
}

// Quirks are what a request of Chat Completions has to mind. The zero value is
// OpenAI's own way.
type Quirks struct {
	// MaxTokensName is the member that bounds an answer; empty for
	// max_completion_tokens where the model is OpenAI's by its name, and max_tokens
	// where it is not.
	MaxTokensName string
	// ReasoningName is the member of an assistant's message in which reasoning goes
	// back to the service; empty if it wants none.
	ReasoningName string
	// Omit are members that are advice and that the service refuses. The slice is
	// shared.
	Omit []string
}

// ErrNoList is what Models returns for services that do not tell what they have.
var ErrNoList = errors.New("the service does not tell which models it has")

// Model is a model as an upstream lists it.
type Model struct {
	ID      string
	Created int64 // seconds since 1970; 0 if unknown
	OwnedBy string
	Name    string // for people; empty if unknown
	// MaxInput and MaxOutput are limits in tokens; 0 if unknown.
	MaxInput, MaxOutput int64
	// Methods are what the model can do, in Google's words; nil if unknown.
	Methods []string
	// Features are those of dialect.Features in which the model can be asked, where
	// that depends on the model; nil if it does not, or is unknown.
	Features []string
}

// Meaning is what a refusal means at a vendor.
type Meaning uint8

const (
	// Plain: no more than the status says.
	Plain Meaning = iota
	// BadCredential: the key is not valid, or no longer.
	BadCredential
	// QuotaSpent: a quota, balance or spend limit of the account is used up.
	QuotaSpent
	// AccountLimit: the rate limit is the account's and not the model's.
	AccountLimit
	// Moderated: the content was refused. Another account would refuse it too,
	// and must not be asked to answer what policy refused.
	Moderated
	// NoModel: the model is not there, or not for this account.
	NoModel
	// UnknownField: a field that floway added is not understood.
	UnknownField
	// RequestTooLarge: the request alone is more than the account's limit allows in
	// a minute. No wait helps it, and smaller requests are served.
	RequestTooLarge
	// ForeignReasoning: the request carries reasoning that another account made.
	ForeignReasoning
	// Overloaded: the service has no room at the moment, whatever the status says.
	Overloaded
)

// Factory makes an upstream of one kind. Its errors are shown to the operator
// and name the option that is wrong.
type Factory func(Config) (Upstream, error)

// Kind is what a provider's name stands for.
type Kind struct {
	New Factory
	// Options are the names of the provider's own subdirectives.
	Options []string
	// Keyless says that the provider takes no keys.
	Keyless bool
	// NeedsURL says that there is no default address.
	NeedsURL bool
	// NeedsKey says that nothing is served without a key.
	NeedsKey bool
	// Identity is the option that authenticates in the place of keys: it may stand
	// without a value, and with it no key is taken. Empty if there is none.
	Identity string
	// SignsIn says that a key may be signin:<name>.
	SignsIn bool
	// FirstByte is how long the header of an answer may take where the configuration
	// does not say; 0 for what holds for all providers.
	FirstByte time.Duration
	// ByModel says that what an upstream speaks depends on the model, so that it is
	// asked for its list even if the configuration names all models.
	ByModel bool
}

var (
	kindsMu sync.RWMutex
	kinds   = map[string]Kind{}
)

// Register makes a kind of upstream known under the name that `upstream` takes.
// It panics if the name is taken: two modules that claim one name cannot be
// built into one program.
func Register(name string, k Kind) {
	kindsMu.Lock()
	defer kindsMu.Unlock()
	if _, taken := kinds[name]; taken || name == "" || k.New == nil {
		panic(fmt.Sprintf("provider: %q registered twice, or without a name or factory", name))
	}
	kinds[name] = k
}

// Lookup returns the kind of that name.
func Lookup(name string) (Kind, bool) {
	kindsMu.RLock()
	defer kindsMu.RUnlock()
	k, ok := kinds[name]
	return k, ok
}

// Names returns the names of all kinds, sorted.
func Names() []string {
	kindsMu.RLock()
	defer kindsMu.RUnlock()
	names := make([]string, 0, len(kinds))
	for n := range kinds {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// parseBase reads a base URL and adds the version segment if its path has none.
// Its errors show no more of the URL than cannot be secret.
func parseBase(raw, segment string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return nil, errors.New("base_url: it is missing, and the provider has no default")
	case err != nil || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("base_url: %q is not a URL that begins with http:// or https://", harmless(raw))
	case u.Hostname() == "":
		return nil, fmt.Errorf("base_url: %q has no host", harmless(raw))
	case u.User != nil:
		return nil, errors.New("base_url: a credential does not belong in the URL; write a key line")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("base_url: %q must not be followed by a query or a fragment", harmless(raw))
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && err != nil {
		return nil, fmt.Errorf("base_url: %q has a port beyond 65535", harmless(raw))
	}
	u = u.JoinPath() // cleans the path
	// Not only the last segment may be the version: Google's address for OpenAI
	// clients ends in /v1beta/openai.
	if !slices.ContainsFunc(strings.Split(u.Path, "/"), isVersion) {
		u = u.JoinPath(segment)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	if u.Path == "" {
		u.Path = "/" // what is joined to an empty path would have no slash before it
	}
	return u, nil
}

// harmless is what of a URL may be shown: nothing before an @, where credentials
// stand, and nothing of a query or fragment, where keys may.
func harmless(raw string) string {
	if i := strings.LastIndexByte(raw, '@'); i >= 0 {
		raw = "…" + raw[i:]
	}
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		raw = raw[:i]
	}
	return raw
}

// bridges are the dialects into which requests of each are translated, best first:
// those that keep the most of it.
var bridges = [...][]dialect.Dialect{
	dialect.Chat:      {dialect.Responses, dialect.Messages, dialect.Gemini},
	dialect.Responses: {dialect.Messages, dialect.Chat, dialect.Gemini},
	dialect.Messages:  {dialect.Responses, dialect.Chat, dialect.Gemini},
	dialect.Gemini:    {dialect.Messages, dialect.Responses, dialect.Chat},
}

// viaOf returns, for each dialect of a client, those of the upstream's into which
// its requests can be translated.
func viaOf(speaks func(dialect.Dialect) bool) (via [4][]dialect.Dialect) {
	for from, all := range bridges {
		for _, d := range all {
			if speaks(d) {
				via[from] = append(via[from], d)
			}
		}
	}
	return via
}

// version is how a path segment looks that is a version: v1, v4, v1beta, v1p1beta1.
var version = regexp.MustCompile(`^v[0-9]+(p[0-9]+)?((alpha|beta)[0-9]*)?$`)

func isVersion(segment string) bool { return version.MatchString(segment) }

// declared returns what an upstream speaks: the features that its block declares
// out of those that its provider is able to, or else the provider's default.
func declared(c *Config, able, otherwise []string) (map[string]bool, error) {
	words := c.Dialects
	if len(words) == 0 {
		words = otherwise
	}
	speaks := make(map[string]bool, len(words))
	for _, w := range words {
		if !slices.Contains(able, w) {
			return nil, fmt.Errorf("dialects: %q is not among what this provider may speak: %s", w, strings.Join(able, ", "))
		}
		speaks[w] = true
	}
	return speaks, nil
}
