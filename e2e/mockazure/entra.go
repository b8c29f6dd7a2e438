package mockazure

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Entra says how tokens are given out. Its zero values leave things as they are.
type Entra struct {
	// URL is where the authority is, Root the certificate that it must be trusted by,
	// as PEM. They are told and cannot be set.
	URL, Root string
	// Life is told of tokens, in seconds; Valid is how long they really serve.
	Life, Valid int64
	// Secret is what the application has; a request with another is refused. Expired,
	// if set, is the one that has expired.
	Secret, Expired string
	// Down makes the authority break every connection, Revoke ends all tokens. Both are
	// set each time.
	Down, Revoke bool
	// Asked is how many tokens were asked for, Given how many given out.
	Asked, Given int
}

// Tenant and Client are those that the authority knows.
const (
	Tenant = "contoso.example"
	Client = "11111111-2222-3333-4444-555555555555"
)

type entra struct {
	server *http.Server

	mu     sync.Mutex
	now    Entra
	tokens map[string]grant
}

type grant struct {
	number int
	until  time.Time
	scope  string
}

func newEntra() *entra {
	cert, root := certify()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	e := &entra{tokens: map[string]grant{}}
	e.now = Entra{URL: "https://" + l.Addr().String(), Root: root, Life: 3600, Valid: 3600, Secret: "entra~secret~1"}
	e.server = &http.Server{Handler: http.HandlerFunc(e.serve), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	go e.server.ServeTLS(l, "", "")
	return e
}

func (e *entra) close() { e.server.Close() }

// certify makes a certificate for the loopback address.
func certify() (tls.Certificate, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Mock Entra ID"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (e *entra) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now.Down {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	tenant, path, _ := strings.Cut(r.URL.Path[1:], "/")
	at := e.now.URL + "/" + tenant
	switch {
	case tenant != Tenant:
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"error":"invalid_tenant","error_description":"AADSTS90002: Tenant '%s' not found. Trace ID: 1"}`, tenant)
	case r.Method == "GET" && path == "v2.0/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":%q,"token_endpoint":%q}`, at+"/v2.0", at+"/oauth2/v2.0/authorize", at+"/oauth2/v2.0/token")
	case r.Method == "POST" && path == "oauth2/v2.0/token":
		e.give(w, r)
	default:
		w.WriteHeader(404)
	}
}

func (e *entra) give(w http.ResponseWriter, r *http.Request) {
	e.now.Asked++
	_ = r.ParseForm()
	scope, _, _ := strings.Cut(r.PostForm.Get("scope"), " ")
	wrong := ""
	switch secret := r.PostForm.Get("client_secret"); {
	case r.PostForm.Get("grant_type") != "client_credentials":
		wrong = "AADSTS70003: The grant type is not supported."
	case r.PostForm.Get("client_id") != Client:
		wrong = "AADSTS700016: Application with identifier '" + r.PostForm.Get("client_id") + "' was not found in the directory."
	case !strings.HasSuffix(scope, "/.default"):
		wrong = "AADSTS1002012: The provided value for scope is not valid."
	case secret == e.now.Expired:
		wrong = "AADSTS7000222: The provided client secret keys for app '" + Client + "' are expired."
	case secret != e.now.Secret:
		wrong = "AADSTS7000215: Invalid client secret provided."
	}
	if wrong != "" {
		w.WriteHeader(401)
		fmt.Fprintf(w, `{"error":"invalid_client","error_description":%q}`, wrong+" Trace ID: 2 Correlation ID: 3")
		return
	}
	e.now.Given++
	token := "sk-mock-entra-" + fmt.Sprint(e.now.Given) // looks like what no log may have
	e.tokens[token] = grant{e.now.Given, time.Now().Add(time.Duration(e.now.Valid) * time.Second), scope}
	fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":%d,"access_token":%q}`, e.now.Life, token)
}

// check says whether a token serves, and which one it is.
func (e *entra) check(token string, project bool) (int, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, ok := e.tokens[token]
	scope := "https://cognitiveservices.azure.com/.default"
	if project {
		scope = "https://ai.azure.com/.default"
	}
	return g.number, ok && time.Now().Before(g.until) && g.scope == scope
}

func (e *entra) control(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Method == "POST" {
		var set Entra
		if err := json.NewDecoder(r.Body).Decode(&set); err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		if set.Life != 0 {
			e.now.Life = set.Life
		}
		if set.Valid != 0 {
			e.now.Valid = set.Valid
		}
		if set.Secret != "" {
			e.now.Secret = set.Secret
		}
		e.now.Expired, e.now.Down = set.Expired, set.Down
		if set.Revoke {
			clear(e.tokens)
		}
	}
	_ = json.NewEncoder(w).Encode(e.now)
}
