// Package acme is an example of a provider of one's own, in a module of its own:
// built in with
//
//	./xcaddy.sh --with example.com/acme=./examples/ownprovider
//
// it is there as `upstream acme`. docs/providers.md walks through it.
//
// The service is made up. It speaks Chat Completions at a path of its own, lists its
// models in a form of its own, and wants every request signed.
package acme

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/provider"
)

func init() {
	provider.Register("acme", provider.Kind{New: open, Options: []string{"region"}})
}

// acme is an account at the service.
type acme struct {
	chat, list *url.URL
	headers    http.Header
}

// open reads the upstream block. Its errors are shown with the block's name.
func open(c provider.Config) (provider.Upstream, error) {
	base := c.BaseURL
	if base == "" {
		base = "https://llm.acme.example"
	}
	root, err := url.Parse(strings.TrimRight(base, "/") + "/")
	if err != nil || root.Host == "" {
		return nil, errors.New("base_url: it is no URL")
	}
	if slices.ContainsFunc(c.Dialects, func(d string) bool { return d != "chat" }) {
		return nil, errors.New("dialects: the service speaks chat alone")
	}
	region := "eu"
	if args, ok := c.Options["region"]; ok {
		if len(args) != 1 || args[0] != "eu" && args[0] != "us" {
			return nil, errors.New("region: eu or us was expected")
		}
		region = args[0]
	}
	return &acme{
		chat: root.JoinPath("api", "chat"), list: root.JoinPath("api", "list"),
		headers: http.Header{"Acme-Region": {region}}, // names have to be canonical
	}, nil
}

func (*acme) Speaks(op dialect.Operation, _ string) bool { return op == dialect.ChatCompletions }

// Via lets clients of all other dialects be served by translation.
func (*acme) Via(from dialect.Dialect, _ string) []dialect.Dialect {
	if from == dialect.Chat {
		return nil
	}
	return []dialect.Dialect{dialect.Chat}
}

func (u *acme) Address(*dialect.Call, string) *url.URL { return u.chat }

func (u *acme) Headers() http.Header { return u.headers }

func (*acme) Family(model string) bool { return strings.HasPrefix(model, "acme-") }

func (*acme) Transport() http.RoundTripper { return nil }

// Meaning: what is not said here follows from the status.
func (*acme) Meaning(status int, p *dialect.Problem) provider.Meaning {
	switch {
	case p.Code == "E_SIGNATURE":
		return provider.BadCredential
	case p.Code == "E_BUDGET":
		return provider.QuotaSpent
	case status == http.StatusNotFound && p.Param == "model":
		return provider.NoModel
	}
	return provider.Plain
}

// Credential takes a key of the form <account>:<secret>.
func (*acme) Credential(s provider.Secret) provider.Credential {
	account, secret, _ := strings.Cut(s.Reveal(), ":")
	return &signer{account, []byte(secret)}
}

// signer signs requests.
type signer struct {
	account string
	secret  []byte
}

func (s *signer) Authorize(req *http.Request) error {
	if len(s.secret) == 0 {
		return &provider.CredentialError{Meaning: provider.BadCredential, Reason: "the key has not the form <account>:<secret>"}
	}
	date := time.Now().UTC().Format(time.RFC3339)
	mac := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mac, "%s\n%s\n%s", req.Method, req.URL.EscapedPath(), date)
	req.Header.Set("Date", date)
	req.Header.Set("Authorization", "Acme "+s.account+":"+hex.EncodeToString(mac.Sum(nil)))
	return nil
}

// Renew: there is nothing to fetch anew.
func (*signer) Renew(http.Header) bool { return false }

// maxList bounds the service's list, in bytes.
const maxList = 1 << 20

// Models is called in the background, and by `caddy floway check`.
func (u *acme) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]provider.Model, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.list.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("model list: status %d", res.StatusCode)
	}
	var list map[string]struct {
		Context int64 `json:"context"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxList)).Decode(&list); err != nil {
		return nil, fmt.Errorf("model list: %w", err)
	}
	models := make([]provider.Model, 0, len(list))
	for name, m := range list {
		models = append(models, provider.Model{ID: name, MaxInput: m.Context, OwnedBy: "acme"})
	}
	slices.SortFunc(models, func(a, b provider.Model) int { return strings.Compare(a.ID, b.ID) })
	return models, nil
}
