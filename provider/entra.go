package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// entra is the credential of an upstream that authenticates by Entra ID: one token
// for all requests, fetched ahead of its end.
type entra struct {
	tenant, client string // empty for the default chain
	secret         Secret
	scope          string
	options        azcore.ClientOptions
	source         *TokenSource
}

// minClientSecret is the length below which a secret is none: what an unset variable
// leaves behind.
const minClientSecret = 8

// entraTenant is how the id or the domain of a tenant looks, and entraClient that of
// an application.
var (
	entraTenant = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*$`)
	entraClient = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*$`)
)

// openEntra reads the words behind entra: none for the default chain of Azure's
// identity library, or those of an application and its secret. It asks nobody.
func openEntra(args []string, at *azureEndpoint, c *Config) (*entra, error) {
	e := &entra{}
	switch len(args) {
	case 0:
	case 3:
		e.tenant, e.client, e.secret = args[0], args[1], NewSecret(args[2])
		switch {
		case !entraTenant.MatchString(e.tenant):
			return nil, errors.New("the tenant is neither an id nor a domain")
		case !entraClient.MatchString(e.client):
			return nil, errors.New("the client id is not the id of an application")
		case len(args[2]) < minClientSecret:
			return nil, fmt.Errorf("the secret is shorter than %d characters; is a variable unset?", minClientSecret)
		}
	default:
		return nil, fmt.Errorf("nothing, or a tenant, a client id and a secret were expected, not %d words", len(args))
	}
	domain := ""
	if at.cloud != nil {
		domain = at.cloud.domain
		e.options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: "https://" + at.cloud.authority + "/"}
	}
	authority := os.Getenv("AZURE_AUTHORITY_HOST") // where the library looks for the authority of a private host
	for _, known := range azureClouds {
		if domain == "" && strings.Contains(authority, known.authority) {
			domain = known.domain
		}
	}
	if domain == "" {
		domain = azureClouds[0].domain
	}
	// A project wants tokens that were made for Foundry. All else takes those that
	// were made for its services of old.
	e.scope = "https://cognitiveservices." + domain + "/.default"
	if at.project {
		e.scope = "https://ai." + domain + "/.default"
	}
	// A redirect must not carry the secret anywhere.
	e.options.Transport = &http.Client{
		Transport:     boundedAnswers{c.Transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	e.options.Retry = policy.RetryOptions{MaxRetries: 2, RetryDelay: 200 * time.Millisecond, TryTimeout: 10 * time.Second}
	e.source = recall[TokenSource](c.Memory, strings.Join([]string{"entra", e.tenant, e.client, e.secret.ID(), e.scope, authority}, " "))
	return e, nil
}

// maxEntraAnswer bounds what is read of one answer of those who give out tokens.
const maxEntraAnswer = 1 << 20

// boundedAnswers carries requests and cuts answers that do not end.
type boundedAnswers struct{ next http.RoundTripper }

func (b boundedAnswers) RoundTrip(req *http.Request) (*http.Response, error) {
	next := b.next
	if next == nil {
		next = http.DefaultTransport
	}
	res, err := next.RoundTrip(req)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, maxEntraAnswer), res.Body}
	}
	return res, err
}

// credential makes the library's credential anew for each token: its own cache would
// give a token again that the service has refused.
func (e *entra) credential() (azcore.TokenCredential, error) {
	if e.secret.Empty() {
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
			ClientOptions: e.options, DisableInstanceDiscovery: true,
		})
	}
	// Discovery only asks whether the authority is one of Microsoft's; it is, or the
	// operator has named it.
	return azidentity.NewClientSecretCredential(e.tenant, e.client, e.secret.Reveal(), &azidentity.ClientSecretCredentialOptions{
		ClientOptions: e.options, DisableInstanceDiscovery: true,
	})
}

// Times of Entra's tokens.
const (
	// entraAhead is how long before its end a token is exchanged.
	entraAhead = 5 * time.Minute
	// Whether a token has ended is for the service to say, whose clock is not ours: one
	// that seems to be over is tried this long, and none is exchanged more often.
	entraLeastLife = time.Minute
	entraLeastPace = 30 * time.Second
)

func (e *entra) fetch(ctx context.Context, refused Secret) (Token, error) {
	credential, err := e.credential()
	if err != nil {
		return Token{}, e.trouble(err)
	}
	got, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{e.scope}})
	if err != nil {
		return Token{}, e.trouble(err)
	}
	t := Token{Secret: NewSecret(got.Token), Expires: got.ExpiresOn, Refresh: got.ExpiresOn.Add(-entraAhead)}
	if !refused.Empty() && t.Secret == refused {
		return Token{}, &CredentialError{Meaning: BadCredential, Reason: "Entra ID gives the same token again that the service refused"}
	}
	if !got.RefreshOn.IsZero() && got.RefreshOn.Before(t.Refresh) {
		t.Refresh = got.RefreshOn
	}
	now := time.Now()
	if soon := now.Add(entraLeastLife); t.Expires.Before(soon) {
		t.Expires = soon
	}
	if soon := now.Add(entraLeastPace); t.Refresh.Before(soon) {
		t.Refresh = soon
	}
	return t, nil
}

// trouble says why there is no token, and whose fault that is.
func (e *entra) trouble(err error) error {
	var failed *azidentity.AuthenticationFailedError
	switch {
	case !errors.As(err, &failed):
		// Nothing is there that the chain could use, which no waiting changes.
		return &CredentialError{Meaning: BadCredential, Reason: "no token from Entra ID: " + e.harmless(err.Error())}
	case failed.RawResponse == nil:
		return &CredentialError{Reason: "no token from Entra ID: " + e.harmless(err.Error())}
	}
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if body, err := runtime.Payload(failed.RawResponse); err == nil {
		_ = json.Unmarshal(body, &answer) // what is no JSON says nothing
	}
	status := failed.RawResponse.StatusCode
	meaning := Plain
	if status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests {
		meaning = BadCredential
	}
	return &CredentialError{
		Meaning: meaning,
		Reason:  fmt.Sprintf("Entra ID refuses a token with status %d: %s", status, e.harmless(cmp.Or(answer.Description, answer.Error))),
	}
}

// maxTrouble bounds what is shown of the words of others.
const maxTrouble = 600

// harmless is a text of others on one line, without the secret, and of its first part
// only: the rest are numbers for Microsoft's support.
func (e *entra) harmless(text string) string {
	if s := e.secret.Reveal(); s != "" {
		text = strings.ReplaceAll(text, s, "***")
	}
	if i := strings.Index(text, " Trace ID:"); i > 0 {
		text = text[:i]
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxTrouble {
		text = strings.ToValidUTF8(text[:maxTrouble], "") + "…"
	}
	return text
}

// Authorize implements Credential.
func (e *entra) Authorize(req *http.Request) error {
	t, err := e.source.Token(req.Context(), e.fetch)
	if err != nil {
		return err
	}
	req.Header["Authorization"] = []string{"Bearer " + t.Secret.Reveal()}
	return nil
}

// Renew implements Credential.
func (e *entra) Renew(sent http.Header) bool { return e.source.Refuse(bearerOf(sent)) }

// Observe implements Account: answers say nothing of it.
func (e *entra) Observe(http.Header) {}

// Spent implements Account.
func (e *entra) Spent() (until time.Time, rest bool) { return time.Time{}, false }

// State implements Account.
func (e *entra) State() AccountState {
	t, err := e.source.Current()
	st := AccountState{TokenUntil: t.Expires}
	if err != nil {
		st.Trouble = err.Error()
	}
	return st
}

// Forget implements Account.
func (e *entra) Forget() { e.source.Forget() }
