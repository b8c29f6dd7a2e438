package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// The clients that the gateways of these tests know, with their keys.
const (
	alice   = "sk-client-alice-0001"
	bob     = "sk-client-bob-0002"   // may use mock-mini only
	expired = "sk-client-carol-0003" // has expired
)

// environment has all keys. The configurations name them by placeholders: what
// stands in a configuration itself, Caddy writes into its log when it debugs.
var environment = func() []string {
	env := []string{"ALICE=" + alice, "BOB=" + bob, "CAROL=" + expired}
	for i := 1; i <= 9; i++ {
		env = append(env, fmt.Sprintf("UPSTREAM_%d=sk-mock-upstream-%d", i, i))
	}
	return env
}()

const clients = `
		client alice {
			key {env.ALICE}
			group team-a
		}
		client bob {
			key {env.BOB}
			models mock-mini
		}
		client carol {
			key {env.CAROL}
			expires 2020-01-01
		}
`

// oneKey is a gateway in front of the mock with a single upstream key, so that
// whatever goes through it is what a direct call with that key would be.
func oneKey(mock *harness.Upstream) harness.Config {
	return harness.Config{
		Floway: `
		upstream openai mock {
			base_url MOCK/v1
			key {env.UPSTREAM_1} as k1
			models *
		}` + clients + `
		usage embedded DIR/usage
		lb_retries 0
`,
		Vars: map[string]string{"MOCK": mock.URL},
		Env:  environment,
	}
}

// pool is a gateway in front of the mock with so many keys, k1 and on. Its store
// is that of the usage directive given.
func pool(mock *harness.Upstream, keys int, usage string) harness.Config {
	var lines strings.Builder
	for i := 1; i <= keys; i++ {
		fmt.Fprintf(&lines, "\t\t\tkey {env.UPSTREAM_%d} as k%d\n", i, i)
	}
	return harness.Config{
		Floway: `
		upstream openai mock {
			base_url MOCK/v1
` + lines.String() + `			models *
		}` + clients + usage + "\n",
		Vars: map[string]string{"MOCK": mock.URL},
		Env:  environment,
	}
}

const embedded = `
		usage embedded DIR/usage
`

// answer is what came back over HTTP.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // in the middle of the body
}

// plainHTTP asks for no compression of its own accord and follows nothing.
var plainHTTP = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// do sends a request with headers given as name, value, name, value …
func do(t testing.TB, method, url string, body []byte, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := plainHTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b, err}
}

// post sends JSON with a key.
func post(t testing.TB, url, key, body string) answer {
	t.Helper()
	return do(t, "POST", url, []byte(body), "Authorization", "Bearer "+key, "Content-Type", "application/json")
}

// chat is the body of a chat completion. more are members in JSON, each with a
// comma before it.
func chat(model, text string, more ...string) string {
	quoted, _ := json.Marshal(text)
	return `{"model":"` + model + `","messages":[{"role":"user","content":` + string(quoted) + `}]` + strings.Join(more, "") + `}`
}

const (
	streamed  = `,"stream":true`
	withUsage = `,"stream":true,"stream_options":{"include_usage":true}`
)

// openAIError is the body of an error in OpenAI's dialects.
type openAIError struct {
	Message string
	Type    string
	Param   *string
	Code    *string
}

// readError reads an error that must be in OpenAI's shape, all members present.
func readError(body []byte) (openAIError, error) {
	var members struct{ Error map[string]json.RawMessage }
	var e struct{ Error openAIError }
	if err := json.Unmarshal(body, &members); err != nil {
		return e.Error, fmt.Errorf("%q: %w", body, err)
	}
	for _, name := range []string{"message", "type", "param", "code"} {
		if _, ok := members.Error[name]; !ok {
			return e.Error, fmt.Errorf("%q has no %s", body, name)
		}
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return e.Error, fmt.Errorf("%q: %w", body, err)
	}
	if e.Error.Message == "" || e.Error.Type == "" {
		return e.Error, fmt.Errorf("%q: an empty message or type", body)
	}
	return e.Error, nil
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
