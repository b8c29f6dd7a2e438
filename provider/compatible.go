package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/floway/floway/dialect"
)

// compatible is an upstream that speaks OpenAI's API, as its vendor's row says.
type compatible struct {
	vendor  vendor
	base    *url.URL
	speaks  map[string]bool
	via     [4][]dialect.Dialect
	urls    map[dialect.Operation]*url.URL
	headers http.Header
}

func (v vendor) open(c Config) (Upstream, error) {
	raw := c.BaseURL
	if raw == "" {
		raw = v.baseURL
	}
	base, err := parseBase(raw, "v1")
	if err != nil {
		return nil, err
	}
	speaks, err := declared(&c, compatibleFeatures, v.speaks)
	if err != nil {
		return nil, err
	}
	u := &compatible{vendor: v, base: base, speaks: speaks, urls: map[dialect.Operation]*url.URL{}, headers: http.Header{}}
	// What a server behind another address speaks besides Chat Completions is not
	// known: its own clients may try, but nothing is translated into it.
	sure := len(c.Dialects) > 0 || c.BaseURL == "" || !speaks["chat"]
	u.via = viaOf(func(d dialect.Dialect) bool { return speaks[d.String()] && (sure || d == dialect.Chat) })
	for op := range dialect.Operations() {
		if op.Path() != "" {
			u.urls[op] = base.JoinPath(op.Path())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		header, ok := v.options[name]
		args := c.Options[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: the provider %s has no such option", name, v.name)
		case len(args) != 1 || args[0] == "":
			return nil, fmt.Errorf("%s: one value was expected", name)
		case strings.ContainsFunc(args[0], unicode.IsControl):
			return nil, fmt.Errorf("%s: the value has characters that no header may have", name)
		}
		u.headers.Set(header, args[0])
	}
	return u, nil
}

// compatibleFeatures are what a compatible server may be declared to speak: all
// but Gemini's dialect, whose paths name the model.
var compatibleFeatures = slices.DeleteFunc(slices.Clone(dialect.Features), func(f string) bool { return f == "gemini" })

func (u *compatible) Speaks(op dialect.Operation, _ string) bool { return u.speaks[op.Feature()] }

func (u *compatible) Via(from dialect.Dialect, _ string) []dialect.Dialect { return u.via[from] }

func (u *compatible) Address(call *dialect.Call, _ string) *url.URL {
	if call.Op == dialect.StoredResponse {
		return u.base.JoinPath("responses", url.PathEscape(call.ID), call.Rest)
	}
	return u.urls[call.Op]
}

func (u *compatible) Headers() http.Header { return u.headers }

func (u *compatible) Transport() http.RoundTripper { return nil }

func (u *compatible) Family(model string) bool {
	return slices.ContainsFunc(u.vendor.families, func(f string) bool { return strings.HasPrefix(model, f) })
}

func (u *compatible) Meaning(status int, p *dialect.Problem) Meaning {
	return u.vendor.refusals.meaning(status, p)
}

// Credential sends the secret as a bearer token.
func (u *compatible) Credential(s Secret) Credential { return bearer(s) }

// fixed is a credential that never changes: it puts the same header into every
// request. It is a function because functions cannot be printed.
type fixed func(http.Header)

func (f fixed) Authorize(_ context.Context, h http.Header) error {
	f(h)
	return nil
}

func (f fixed) Renew() bool { return false }

// noCredential is that of upstreams that take none.
var noCredential = fixed(func(http.Header) {})

// bearer sends a secret as RFC 6750 has it.
func bearer(s Secret) Credential {
	if s.Empty() {
		return noCredential
	}
	value := []string{"Bearer " + s.Reveal()} // shared by all requests
	return fixed(func(h http.Header) { h["Authorization"] = value })
}

// Bounds of a catalogue, so that a hostile or broken upstream cannot fill the
// memory with one.
const (
	maxCatalogBytes = 8 << 20
	maxModels       = 20_000
	maxModelName    = 512
)

func (u *compatible) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.base.JoinPath("models").String(), nil)
	if err != nil {
		return nil, fmt.Errorf("model list: %w", err)
	}
	res, err := do(req)
	if err != nil {
		return nil, fmt.Errorf("model list: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxCatalogBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("model list: %w", err)
	case res.StatusCode == http.StatusUnauthorized:
		// Not with the upstream's words: some servers repeat the key in them.
		return nil, errors.New("model list: status 401: the credential was refused")
	case res.StatusCode != http.StatusOK:
		p := dialect.ReadProblem(body)
		return nil, fmt.Errorf("model list: status %d: %.200s", res.StatusCode, p.Message)
	case len(body) > maxCatalogBytes:
		return nil, fmt.Errorf("model list: longer than %d MiB", maxCatalogBytes>>20)
	}
	return readModels(body)
}

// readModels reads OpenAI's form of a model list.
func readModels(body []byte) ([]Model, error) {
	var list struct {
		Data []struct {
			ID      string `json:"id"`
			Created stamp  `json:"created"`
			OwnedBy string `json:"owned_by"`
		} `json:"data"`
	}
	err := json.Unmarshal(body, &list)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("model list: the answer is not JSON: %w", err)
	case err != nil || list.Data == nil:
		return nil, errors.New("model list: the answer has not the form of OpenAI's")
	case len(list.Data) > maxModels:
		return nil, fmt.Errorf("model list: more than %d models", maxModels)
	}
	models := make([]Model, 0, len(list.Data))
	for _, m := range list.Data {
		if m.ID != "" && len(m.ID) <= maxModelName {
			models = append(models, Model{ID: m.ID, Created: int64(m.Created), OwnedBy: m.OwnedBy})
		}
	}
	return models, nil
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
