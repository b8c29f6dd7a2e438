package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/e2e/harness"
)

// bomb is so many bytes in gzip.
func bomb(size int) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	io.WriteString(z, `{"model":"mock-chat","messages":[{"role":"user","content":"`)
	blank := bytes.Repeat([]byte{'a'}, 1<<20)
	for range size >> 20 {
		z.Write(blank)
	}
	io.WriteString(z, `"}]}`)
	z.Close()
	return b.Bytes()
}

// Whatever comes in, the answer is an error of the caller's dialect with the
// right status, and the gateway is as well as before.
func TestBadRequests(t *testing.T) {
	mock := harness.StartOpenAI(t)
	c := oneKey(mock)
	c.Floway = strings.Replace(c.Floway, "models *", "models mock-*", 1)
	c.Quiet = true
	gateway := harness.StartGateway(t, c)
	const chats = "/v1/chat/completions"
	host := strings.TrimPrefix(gateway.URL, "http://")
	large := strings.Repeat("a", 65<<20)
	ok := chat("mock-chat", "hi")
	tests := []struct {
		name, method, path, key string
		body                    string
		headers                 []string
		status                  int
		code                    string // "" is null, "*" anything
	}{
		{"no key", "POST", chats, "", ok, nil, 401, "invalid_api_key"},
		{"blank key", "POST", chats, " ", ok, nil, 401, "invalid_api_key"},
		{"wrong key", "POST", chats, "sk-client-alice-0002", ok, nil, 401, "invalid_api_key"},
		{"the upstream's key", "POST", chats, upstreamKey, ok, nil, 401, "invalid_api_key"},
		{"expired key", "POST", chats, expired, ok, nil, 401, "invalid_api_key"},
		{"no key for the list", "GET", "/v1/models", "", "", nil, 401, "invalid_api_key"},
		{"unknown model", "POST", chats, alice, chat("nothing", "hi"), nil, 404, "model_not_found"},
		{"unknown model in the list", "GET", "/v1/models/nothing", alice, "", nil, 404, "model_not_found"},
		{"model not allowed", "POST", chats, bob, ok, nil, 404, "model_not_found"},
		{"model not allowed in the list", "GET", "/v1/models/mock-chat", bob, "", nil, 404, "model_not_found"},
		{"model not allowed, upstream named", "POST", chats, bob, chat("mock/mock-chat", "hi"), nil, 404, "model_not_found"},
		{"empty body", "POST", chats, alice, "", nil, 400, "*"},
		{"not JSON", "POST", chats, alice, "hello", nil, 400, "*"},
		{"half of JSON", "POST", chats, alice, ok[:len(ok)-3], nil, 400, "*"},
		{"an array", "POST", chats, alice, "[" + ok + "]", nil, 400, "*"},
		{"no model", "POST", chats, alice, `{"messages":[]}`, nil, 400, "*"},
		{"model is a number", "POST", chats, alice, `{"model":7,"messages":[]}`, nil, 400, "*"},
		{"model is null", "POST", chats, alice, `{"model":null,"messages":[]}`, nil, 400, "*"},
		{"model is empty", "POST", chats, alice, `{"model":"","messages":[]}`, nil, 400, "*"},
		{"model twice", "POST", chats, alice, `{"model":"mock-mini","model":"mock-chat","messages":[]}`, nil, 400, "*"},
		{"stream is a string", "POST", chats, alice, chat("mock-chat", "hi", `,"stream":"yes"`), nil, 400, "*"},
		{"deep nesting", "POST", chats, alice, `{"model":"mock-chat","messages":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}", nil, 400, "*"},
		{"a bomb", "POST", chats, alice, string(bomb(256 << 20)), []string{"Content-Encoding", "gzip"}, 413, ""},
		{"broken gzip", "POST", chats, alice, string(bomb(1 << 20)[:500]), []string{"Content-Encoding", "gzip"}, 400, "*"},
		{"not gzip", "POST", chats, alice, ok, []string{"Content-Encoding", "gzip"}, 400, "*"},
		{"malformed group", "POST", chats, alice, ok, []string{"X-Floway-Group", "a b"}, 400, "*"},
		{"form without model", "POST", "/v1/audio/transcriptions", alice, "--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n--b--\r\n", []string{"Content-Type", "multipart/form-data; boundary=b"}, 400, "*"},
		{"form without boundary", "POST", "/v1/audio/transcriptions", alice, "x", []string{"Content-Type", "multipart/form-data"}, 400, "*"},
		{"unknown path", "POST", "/v1/nothing", alice, ok, nil, 404, "*"},
		{"unknown path below Azure's", "POST", "/openai/nothing", alice, ok, nil, 404, "*"},
		{"wrong method", "GET", chats, alice, "", nil, 405, "*"},
		{"wrong method for the list", "POST", "/v1/models", alice, ok, nil, 405, "*"},
		{"files", "GET", "/v1/files", alice, "", nil, 501, "*"},
		{"batches", "POST", "/v1/batches", alice, "{}", nil, 501, "*"},
		{"fine-tuning", "POST", "/v1/fine_tuning/jobs", alice, "{}", nil, 501, "*"},
		{"realtime", "GET", "/v1/realtime", alice, "", nil, 501, "*"},
		{"unknown response", "GET", "/v1/responses/resp_unknown", alice, "", nil, 404, "*"},
		{"unknown previous response", "POST", "/v1/responses", alice, `{"model":"mock-chat","input":"hi","previous_response_id":"resp_unknown"}`, nil, 404, "*"},
	}
	files := gateway.Files()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mock.Clear(t)
			headers := []string{"Content-Type", "application/json"}
			if tt.key != "" {
				headers = append(headers, "Authorization", "Bearer "+tt.key)
			}
			a := do(t, tt.method, gateway.URL+tt.path, []byte(tt.body), append(headers, tt.headers...)...)
			e, err := readError(a.body)
			if a.status != tt.status || err != nil {
				t.Fatalf("%d, want %d: %v", a.status, tt.status, err)
			}
			code := ""
			if e.Code != nil {
				code = *e.Code
			}
			if tt.code != "*" && code != tt.code {
				t.Errorf("code %q, want %q", code, tt.code)
			}
			if got := a.header.Get("Content-Type"); got != "application/json" {
				t.Errorf("content type %q", got)
			}
			if tt.key != "" && len(tt.key) > 8 && strings.Contains(string(a.body), tt.key) {
				t.Errorf("the key is in the answer: %s", a.body)
			}
			if tt.status == 401 && len(mock.Quiet(t)) > 0 {
				t.Error("the upstream was asked")
			}
			if a := post(t, gateway.URL+chats, alice, ok); a.status != 200 {
				t.Errorf("afterwards: %d %s", a.status, a.body)
			}
		})
	}
	for name, broken := range map[string]string{
		"chunk size":          "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		"chunk without end":   "Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n",
		"bare LF in chunks":   "Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
		"negative chunk size": "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
	} {
		t.Run("broken chunking: "+name, func(t *testing.T) {
			resp := raw(t, gateway, "POST "+chats+" HTTP/1.1\r\nHost: "+host+"\r\nAuthorization: Bearer "+alice+"\r\nContent-Type: application/json\r\n"+broken)
			b, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 400 || !resp.Close {
				t.Errorf("%d, close: %v", resp.StatusCode, resp.Close)
			}
			if _, err := readError(b); err != nil {
				t.Error(err)
			}
		})
	}
	// Those who send much must be able to read the answer that comes before they
	// have sent it all; a connection that is closed under their hands is none.
	for name, early := range map[string]struct {
		key, path string
		size      int
		chunked   bool
		status    int
	}{
		"65 MiB":                           {alice, chats, 65 << 20, false, 413},
		"65 MiB in chunks":                 {alice, chats, 65 << 20, true, 413},
		"8 MiB with a wrong key":           {"sk-client-nobody-0000", chats, 8 << 20, false, 401},
		"8 MiB in chunks with a wrong key": {"sk-client-nobody-0000", chats, 8 << 20, true, 401},
		"8 MiB to an unknown path":         {alice, "/v1/nothing", 8 << 20, false, 404},
	} {
		t.Run("early answer: "+name, func(t *testing.T) {
			for range 5 {
				var body io.Reader = strings.NewReader(large[:early.size])
				if early.chunked {
					body = io.MultiReader(body) // whose length nobody knows
				}
				req, err := http.NewRequestWithContext(t.Context(), "POST", gateway.URL+early.path, body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+early.key)
				req.Header.Set("Content-Type", "application/json")
				resp, err := plainHTTP.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if _, err := readError(b); resp.StatusCode != early.status || err != nil {
					t.Errorf("%d, want %d: %v", resp.StatusCode, early.status, err)
				}
			}
		})
	}
	t.Run("a wrong key is refused before the body", func(t *testing.T) {
		// The body never comes: who waits for it waits for ever.
		resp := raw(t, gateway, "POST "+chats+" HTTP/1.1\r\nHost: "+host+"\r\nAuthorization: Bearer sk-client-nobody-0000\r\nContent-Type: application/json\r\nContent-Length: 60000000\r\n\r\n")
		if resp.StatusCode != 401 {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("half a body", func(t *testing.T) {
		conn := dial(t, gateway)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", chats, host, alice)
		conn.Close()
	})
	// Nothing is left of all that.
	harness.Eventually(t, func() error {
		plainHTTP.CloseIdleConnections()
		if now := gateway.Files(); now > files+5 {
			return fmt.Errorf("%d open files, %d at the start", now, files)
		}
		return nil
	})
	if a := post(t, gateway.URL+chats, alice, ok); a.status != 200 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

func dial(t *testing.T, g *harness.Gateway) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// raw sends bytes and reads an answer.
func raw(t *testing.T, g *harness.Gateway, request string) *http.Response {
	t.Helper()
	conn := dial(t, g)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// A configuration that is refused changes nothing.
func TestRefusedReload(t *testing.T) {
	mock := harness.StartOpenAI(t)
	c := oneKey(mock)
	gateway := harness.StartGateway(t, c)
	ok := chat("mock-chat", "hi")
	post(t, gateway.URL+"/v1/chat/completions", alice, ok)
	bad := c
	bad.Floway += "\n\t\tlb_retires 3\n"
	if err := gateway.Reload(t, bad); err == nil || !strings.Contains(err.Error(), "lb_retires") {
		t.Errorf("error %v", err)
	}
	bad.Floway = strings.Replace(c.Floway, "key {env.UPSTREAM_1}", "key {env.NOT_THERE}", 1)
	if err := gateway.Reload(t, bad); err == nil {
		t.Error("a key that is empty was taken")
	}
	if a := post(t, gateway.URL+"/v1/chat/completions", alice, ok); a.status != 200 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
	harness.Eventually(t, func() error {
		if _, sum := gateway.Usage(t, "key"); sum.Requests != 2 {
			return fmt.Errorf("the account has %d requests of 2", sum.Requests)
		}
		return nil
	})
}

// Configurations come and go; nothing of them stays.
func TestManyReloads(t *testing.T) {
	mock := harness.StartOpenAI(t)
	c := oneKey(mock)
	c.Quiet = true
	gateway := harness.StartGateway(t, c)
	turn := func(i int) {
		c.Floway = strings.Replace(oneKey(mock).Floway, "lb_retries 0", fmt.Sprintf("lb_retries %d", 1+i%2), 1)
		if err := gateway.Reload(t, c); err != nil {
			t.Fatal(err)
		}
		plainHTTP.CloseIdleConnections() // the other end may be gone
		if a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", fmt.Sprint(i))); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	for i := range 4 {
		turn(i)
	}
	files, routines := gateway.Files(), gateway.Goroutines(t)
	for i := range 30 {
		turn(i)
	}
	harness.Eventually(t, func() error {
		plainHTTP.CloseIdleConnections()
		if f, r := gateway.Files(), gateway.Goroutines(t); f > files+10 || r > routines+20 {
			return fmt.Errorf("after 30 reloads %d files, %d goroutines; before %d and %d", f, r, files, routines)
		}
		return nil
	})
	harness.Eventually(t, func() error {
		if _, sum := gateway.Usage(t, "key"); sum.Requests != 34 {
			return fmt.Errorf("the account has %d requests of 34", sum.Requests)
		}
		return nil
	})
}
