package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/floway/floway/dialect"
)

// account is what every upstream on the network has: an address, what it speaks
// there, and what its vendor's row says.
type account struct {
	vendor  *vendor
	base    *url.URL
	speaks  map[string]bool
	via     [4][]dialect.Dialect
	headers http.Header
}

// account reads what every upstream block says. segment is the version that a
// base URL without one gets; able are the features that may be declared.
func (v *vendor) account(c *Config, segment string, able []string) (account, error) {
	base, err := parseBase(cmp.Or(c.BaseURL, v.baseURL), segment)
	if err != nil {
		return account{}, err
	}
	speaks, err := declared(c, able, v.speaks)
	if err != nil {
		return account{}, err
	}
	a := account{vendor: v, base: base, speaks: speaks, headers: http.Header{}}
	// What others than OpenAI itself speak besides Chat Completions is an imitation,
	// or not known at all: clients of it may try, but nothing is translated into it.
	sure := len(c.Dialects) > 0 || !speaks["chat"] || v.original && c.BaseURL == ""
	a.via = viaOf(func(d dialect.Dialect) bool { return speaks[d.String()] && (sure || d == dialect.Chat) })
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		header, ok := v.options[name]
		args := c.Options[name]
		switch {
		case !ok:
			return account{}, fmt.Errorf("%s: the provider %s has no such option", name, v.name)
		case len(args) != 1 || args[0] == "":
			return account{}, fmt.Errorf("%s: one value was expected", name)
		case strings.ContainsFunc(args[0], unicode.IsControl):
			return account{}, fmt.Errorf("%s: the value has characters that no header may have", name)
		}
		a.headers.Set(header, args[0])
	}
	return a, nil
}

// ofOperation refuses base URLs that were copied with the path of one operation.
func (a *account) ofOperation() error {
	for op := range dialect.Operations() {
		if path := op.Path(); path != "" && strings.HasSuffix(a.base.Path, path) {
			return fmt.Errorf("base_url: %q is the address of one operation; end it before %s", a.base, path)
		}
	}
	return nil
}

func (a *account) Speaks(op dialect.Operation, _ string) bool { return a.speaks[op.Feature()] }

func (a *account) Via(from dialect.Dialect, _ string) []dialect.Dialect { return a.via[from] }

func (a *account) Headers() http.Header { return a.headers }

func (a *account) Transport() http.RoundTripper { return nil }

func (a *account) Family(model string) bool {
	return slices.ContainsFunc(a.vendor.families, func(f string) bool { return strings.HasPrefix(model, f) })
}

func (a *account) Meaning(status int, p *dialect.Problem) Meaning {
	return a.vendor.refusals.meaning(status, p)
}

// Quirks implements Peculiar.
func (a *account) Quirks(string) Quirks { return a.vendor.quirks }

// addresses are those of the operations whose paths have no name in them.
func (a *account) addresses() map[dialect.Operation]*url.URL {
	urls := map[dialect.Operation]*url.URL{}
	for op := range dialect.Operations() {
		if op.Path() != "" {
			urls[op] = a.base.JoinPath(op.Path())
		}
	}
	return urls
}

// compatible is an upstream that speaks OpenAI's API, as its vendor's row says.
type compatible struct {
	account
	urls map[dialect.Operation]*url.URL
}

func (v vendor) open(c Config) (Upstream, error) {
	segment := "v1"
	if v.unversioned {
		segment = ""
	}
	a, err := v.account(&c, segment, compatibleFeatures)
	if err == nil {
		err = a.ofOperation()
	}
	if err != nil {
		return nil, err
	}
	u := &compatible{account: a, urls: a.addresses()}
	if err := u.detour(&c); err != nil {
		return nil, err
	}
	switch {
	case v.listing.ollama:
		return &ollama{compatible: u}, nil
	case v.chat != nil:
		return &fitted{u}, nil
	}
	return u, nil
}

// detour sets the addresses of what the vendor has elsewhere.
func (u *compatible) detour(c *Config) error {
	usual, err := parseBase(cmp.Or(u.vendor.baseURL, c.BaseURL), "v1")
	if err != nil {
		return err
	}
	for op := range dialect.Operations() {
		path, ok := u.vendor.paths[op.Feature()]
		switch {
		case !ok || u.urls[op] == nil:
		case u.base.Path == usual.Path:
			at := *u.base
			at.Path, at.RawPath = path+op.Path(), ""
			u.urls[op] = &at
		case !slices.Contains(c.Dialects, op.Feature()):
			delete(u.speaks, op.Feature()) // where it would be behind another path is not known
		}
	}
	return nil
}

// fitted is a compatible upstream that does not take all requests of Chat
// Completions as OpenAI does.
type fitted struct{ *compatible }

// Fit implements Tailor.
func (u *fitted) Fit(op dialect.Operation, body []byte) []byte {
	if op != dialect.ChatCompletions {
		return body
	}
	return u.vendor.chat.Apply(body)
}

// Describe implements Tailor.
func (u *fitted) Describe(dialect.Operation, []byte, http.Header) {}

// compatibleFeatures are what a compatible server may be declared to speak: all
// but Gemini's dialect, whose paths name the model.
var compatibleFeatures = slices.DeleteFunc(slices.Clone(dialect.Features), func(f string) bool { return f == "gemini" })

func (u *compatible) Address(call *dialect.Call, _ string) *url.URL {
	if call.Op == dialect.StoredResponse {
		return u.base.JoinPath("responses", url.PathEscape(call.ID), call.Rest)
	}
	return u.urls[call.Op]
}

// Credential sends the secret as a bearer token.
func (u *compatible) Credential(s Secret) Credential { return bearer(s) }

// fixed is a credential that never changes: it puts the same header into every
// request. It is a function because functions cannot be printed.
type fixed func(http.Header)

func (f fixed) Authorize(req *http.Request) error {
	f(req.Header)
	return nil
}

func (f fixed) Renew(http.Header) bool { return false }

// noCredential is that of upstreams that take none.
var noCredential = fixed(func(http.Header) {})

// bearer sends a secret as RFC 6750 has it.
func bearer(s Secret) Credential { return inHeader("Authorization", "Bearer ", s) }

// inHeader sends a secret in a header, whose name is canonical, behind a prefix.
func inHeader(name, prefix string, s Secret) Credential {
	if s.Empty() {
		return noCredential
	}
	value := []string{prefix + s.Reveal()} // shared by all requests
	return fixed(func(h http.Header) { h[name] = value })
}

func (u *compatible) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error) {
	form := u.vendor.listing
	if form.none {
		return nil, ErrNoList
	}
	l := listing{account: &u.account, do: do}
	if form.private != "" {
		if err := l.knock(ctx, form.private); err != nil {
			return nil, err
		}
	}
	return l.read(ctx, readModels)
}

// readModels reads OpenAI's form of a model list.
func readModels(body []byte) (page, error) {
	var list struct {
		Data []struct {
			ID      string `json:"id"`
			Created stamp  `json:"created"`
			OwnedBy string `json:"owned_by"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &list); err != nil || list.Data == nil {
		return page{}, notAList(err, "OpenAI's")
	}
	p := page{models: make([]Model, len(list.Data))}
	for i, m := range list.Data {
		p.models[i] = Model{ID: m.ID, Created: int64(m.Created), OwnedBy: m.OwnedBy}
	}
	return p, nil
}

// stamp is a time in seconds since 1970; 0 where a server writes anything else,
// which is no reason to do without its list.
type stamp int64

func (s *stamp) UnmarshalJSON(raw []byte) error {
	if f, err := strconv.ParseFloat(string(raw), 64); err == nil && f > 0 && f < 1<<53 {
		*s = stamp(f)
	}
	return nil
}
