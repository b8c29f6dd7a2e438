package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/openaicalls"
)

// The site gets its certificate by ACME, as it would from a public authority:
// here from another Caddy that is one, over a network that is no more than a
// proxy which finds the site's name at this machine.
func TestAutomaticHTTPS(t *testing.T) {
	const name = "gateway.example.test"
	httpPort := harness.FreePort(t)
	asked := make(chan string, 100)
	network := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Hostname() != name {
			http.Error(w, "no such host", http.StatusBadGateway)
			return
		}
		asked <- r.URL.Path
		req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://127.0.0.1:"+strconv.Itoa(httpPort)+r.URL.RequestURI(), nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		req.Host = r.URL.Host
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	}))
	t.Cleanup(network.Close)

	authority := harness.StartAuthority(t, "HTTP_PROXY="+network.URL, "NO_PROXY=")
	mock := harness.StartOpenAI(t)
	c := oneKey(mock)
	c.Site = "https://" + name + ":PORT"
	c.Global = `
	http_port ` + strconv.Itoa(httpPort) + `
	https_port PORT
	acme_ca ` + authority.Directory + `
	acme_ca_root ` + authority.Root + `
`
	c.Before = `
	tls {
		issuer acme {
			disable_tlsalpn_challenge
		}
	}
`
	gateway := harness.StartGateway(t, c)

	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: authority.Pool(t)},
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+strconv.Itoa(gateway.Port))
		},
	}}
	t.Cleanup(client.CloseIdleConnections)
	var resp *http.Response
	sdk := openaicalls.Client(gateway.URL+"/v1", alice, option.WithHTTPClient(client), option.WithResponseInto(&resp))
	stream := sdk.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{
		Model: "mock-chat", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
	})
	defer stream.Close()
	chunks := 0
	for stream.Next() {
		chunks++
	}
	if err := stream.Err(); err != nil || chunks < 3 {
		t.Fatalf("%d chunks, %v", chunks, err)
	}
	if resp.TLS == nil || resp.ProtoMajor != 2 {
		t.Fatalf("over %s, TLS: %v", resp.Proto, resp.TLS != nil)
	}
	leaf := resp.TLS.PeerCertificates[0]
	if err := leaf.VerifyHostname(name); err != nil || !strings.Contains(leaf.Issuer.CommonName, "E2E") {
		t.Errorf("the certificate is %q's, by %q", leaf.DNSNames, leaf.Issuer)
	}
	select {
	case path := <-asked:
		if !strings.HasPrefix(path, "/.well-known/acme-challenge/") {
			t.Errorf("the authority asked for %s", path)
		}
	default:
		t.Error("the authority never asked")
	}
	if kept, _ := filepath.Glob(filepath.Join(gateway.Dir, "data/caddy/certificates/*", name, name+".key")); len(kept) != 1 {
		t.Errorf("certificates kept: %v", kept)
	}
}
