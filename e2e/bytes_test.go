package e2e

import (
	"bytes"
	"encoding/json"
	"mime/multipart"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/harness"
)

// odd is a chat request as no encoder writes it: what a tree would lose, round,
// sort or escape differently.
const odd = " {\n\t\"messages\" : [ {\"role\":\"user\",\"content\":\"\\u00e9\\/\\ud83d\\ude80 <&> \u2028 é \\\"model\\\":\\\"x\\\"\"} ],\r\n" +
	`  "seed":9007199254740993, "temperature":1.0E0,"logit_bias":{"9007199254740993":-1e0},` +
	`"metadata":{"model":"not me","stream":"nor me","b":"1","a":"2"} , "model" : "mock-chat" }` + "\n\n"

// spliced are requests with what the upstream must receive: the same bytes, but
// for the fields that the gateway has to set.
func TestRequestBytes(t *testing.T) {
	mock := harness.StartOpenAI(t)
	c := oneKey(mock)
	c.Floway = strings.Replace(c.Floway, "models *", "models *\n\t\t\talias fast mock-mini", 1)
	gateway := harness.StartGateway(t, c)
	asks := `"stream_options":{"include_usage":true}`
	tests := []struct {
		name, path, body string
		// want is the body at the upstream; empty: as sent. In it, ASKS stands for
		// the request for usage, wherever it was put.
		want string
	}{
		{"chat", "/v1/chat/completions", odd, ""},
		{"chat without a version", "/chat/completions", odd, ""},
		{"stream with usage", "/v1/chat/completions", chat("mock-chat", "hi", withUsage), ""},
		{"stream with other options", "/v1/chat/completions", chat("mock-chat", "hi", `,"stream":true,"stream_options":{"include_obfuscation":false}`), "MERGED"},
		{"stream that refuses usage", "/v1/chat/completions", chat("mock-chat", "hi", `,"stream":true,"stream_options": {"include_usage": false, "include_obfuscation":true}`), "MERGED"},
		{"stream with null options", "/v1/chat/completions", chat("mock-chat", "hi", `,"stream":true,"stream_options":null`), "MERGED"},
		{"stream with empty options", "/v1/chat/completions", chat("mock-chat", "hi", `,"stream":true,"stream_options":{ }`), "MERGED"},
		{"stream", "/v1/chat/completions", chat("mock-chat", "hi", streamed), "ASKS"},
		{"odd stream", "/v1/chat/completions", strings.Replace(odd, `"temperature":1.0E0`, `"stream" : true`, 1), "ASKS"},
		{"stream false", "/v1/chat/completions", chat("mock-chat", "hi", `,"stream":false`), ""},
		{"alias", "/v1/chat/completions", chat("fast", "the model is fast", `,"user":"fast"`), chat("mock-mini", "the model is fast", `,"user":"fast"`)},
		{"escaped alias", "/v1/chat/completions", `{"m\u006fdel":"f\u0061st","messages":[{"role":"user","content":"hi"}]}`, `{"m\u006fdel":"mock-mini","messages":[{"role":"user","content":"hi"}]}`},
		{"named upstream", "/v1/chat/completions", chat("mock/mock-chat", "mock/mock-chat"), chat("mock-chat", "mock/mock-chat")},
		{"completions", "/v1/completions", `{"prompt":"a" ,"model":"mock-instruct"}`, ""},
		{"completions stream", "/v1/completions", `{"prompt":"a" ,"model":"mock-instruct","stream":true}`, "ASKS"},
		{"responses", "/v1/responses", `{"input":"h\u0069" , "model":"mock-chat","metadata":{}}`, ""},
		{"responses stream", "/v1/responses", `{"input":"h\u0069" , "model":"mock-chat","stream":true}`, ""},
		{"embeddings", "/v1/embeddings", `{"input":["h\u0069"] , "model":"mock-embedding","encoding_format":"base64"}`, ""},
		{"images", "/v1/images/generations", `{"prompt":"h\u0069" , "model":"mock-image"}`, ""},
		{"speech", "/v1/audio/speech", `{"input":"h\u0069" , "model":"mock-tts","voice":"x"}`, ""},
		{"moderations", "/v1/moderations", `{"input":"h\u0069" , "model":"mock-moderation"}`, ""},
		{"rerank", "/v1/rerank", `{"query":"h\u0069" , "model":"mock-rerank","documents":["a"]}`, ""},
		{"a megabyte", "/v1/chat/completions", chat("mock-chat", strings.Repeat("é\n\"x\\", 200_000)), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := post(t, gateway.URL+tt.path, alice, tt.body)
			if a.status != 200 {
				t.Fatalf("%d: %s", a.status, a.body)
			}
			r := mock.Last(t)
			got := string(r.Body)
			if r.ContentLength != int64(len(got)) {
				t.Errorf("declared length %d, sent %d", r.ContentLength, len(got))
			}
			switch tt.want {
			case "":
				if got != tt.body {
					t.Errorf("the upstream received\n%.2000q\nsent was\n%.2000q", got, tt.body)
				}
			case "ASKS":
				// One piece was put in: the request for usage and a comma.
				spaced := regexp.MustCompile(`,?\s*` + regexp.QuoteMeta(asks) + `\s*,?`)
				where := spaced.FindStringIndex(got)
				if where == nil || !one(got[:where[0]], got[where[1]:], tt.body) {
					t.Errorf("the upstream received\n%q\nsent was\n%q", got, tt.body)
				}
			case "MERGED":
				checkMerged(t, got, tt.body)
			default:
				if got != tt.want {
					t.Errorf("the upstream received\n%q\nwant\n%q", got, tt.want)
				}
			}
		})
	}
}

// one says whether whole is head and tail with at most a comma between.
func one(head, tail, whole string) bool { return whole == head+tail || whole == head+","+tail }

// checkMerged checks that usage is asked for, that the caller's own options are
// still there, and that all before and behind them is as it was sent.
func checkMerged(t *testing.T, got, sent string) {
	t.Helper()
	type body struct {
		Options map[string]any `json:"stream_options"`
	}
	var g, s body
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(sent), &s); err != nil {
		t.Fatal(err)
	}
	if g.Options["include_usage"] != true {
		t.Errorf("usage was not asked for: %s", got)
	}
	for name, value := range s.Options {
		if name != "include_usage" && g.Options[name] != value {
			t.Errorf("option %s is %v: %s", name, g.Options[name], got)
		}
	}
	head, _, _ := strings.Cut(sent, `"stream_options"`)
	if !strings.HasPrefix(got, head) || !strings.HasSuffix(got, "}") {
		t.Errorf("the upstream received\n%q\nsent was\n%q", got, sent)
	}
}

// A form goes on as it came, boundary and all.
func TestFormBytes(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	w.SetBoundary("----odd'boundary=1")
	w.WriteField("prompt", "a river\r\n--not the boundary")
	p, _ := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="file"; filename="a \"b\".wav"`}, "Content-Type": {"audio/wav"}})
	p.Write(bytes.Repeat([]byte{0, 0xff, '\r', '\n', '-', '-'}, 300_000))
	w.WriteField("model", "mock-transcribe")
	w.Close()
	a := do(t, "POST", gateway.URL+"/v1/audio/transcriptions", b.Bytes(), "Authorization", "Bearer "+alice, "Content-Type", w.FormDataContentType())
	if a.status != 200 {
		t.Fatalf("%d: %s", a.status, a.body)
	}
	r := mock.Last(t)
	if !bytes.Equal(r.Body, b.Bytes()) || r.Header.Get("Content-Type") != w.FormDataContentType() || r.ContentLength != int64(b.Len()) {
		t.Errorf("the upstream received %d bytes (%d declared) of %s, sent were %d of %s", len(r.Body), r.ContentLength, r.Header.Get("Content-Type"), b.Len(), w.FormDataContentType())
	}
}

// Answers come as the upstream wrote them. The usage chunk that only the gateway
// asked for is taken out, and nothing else.
func TestResponseBytes(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	words := []string{"", "+gzip", "+chunked", "+pieces=1", "+pieces=7", "+crlf", "+comments", "+bare", "+nodone", "+usage=every", "+usage=twice", "+usage=last", "+crlf+comments+pieces=3"}
	bodies := map[string]struct{ path, body string }{
		"chat":                   {"/v1/chat/completions", chat("MODEL", "hi")},
		"chat stream with usage": {"/v1/chat/completions", chat("MODEL", "hi", withUsage)},
		"responses":              {"/v1/responses", `{"model":"MODEL","input":"hi"}`},
		"responses stream":       {"/v1/responses", `{"model":"MODEL","input":"hi","stream":true}`},
		"embeddings":             {"/v1/embeddings", `{"model":"MODEL","input":"hi"}`},
		"speech":                 {"/v1/audio/speech", `{"model":"MODEL","input":"hi","voice":"x"}`},
		"images stream":          {"/v1/images/generations", `{"model":"MODEL","prompt":"hi","stream":true,"partial_images":2}`},
	}
	for name, b := range bodies {
		for _, word := range words {
			t.Run(name+word, func(t *testing.T) {
				body := strings.Replace(b.body, "MODEL", "mock-chat"+word, 1)
				// Directly, gzip is taken off by the client.
				want := post(t, mock.URL+b.path, upstreamKey, body)
				if want.header.Get("Content-Encoding") == "gzip" {
					want.body = gunzip(t, want.body)
				}
				got := post(t, gateway.URL+b.path, alice, body)
				if got.status != 200 || got.err != nil || got.header.Get("Content-Encoding") != "" {
					t.Fatalf("%d %v, encoding %q: %s", got.status, got.err, got.header.Get("Content-Encoding"), got.body)
				}
				if !bytes.Equal(got.body, want.body) {
					t.Errorf("got\n%q\ndirectly\n%q", got.body, want.body)
				}
				if g, w := got.header.Get("Content-Type"), want.header.Get("Content-Type"); g != w {
					t.Errorf("content type %q, directly %q", g, w)
				}
			})
		}
	}
	for _, word := range []string{"", "+gzip", "+pieces=1", "+crlf", "+comments", "+usage=twice"} {
		t.Run("chat stream"+word, func(t *testing.T) {
			// What the gateway gets when it asks for usage, without that chunk.
			want := post(t, mock.URL+"/v1/chat/completions", upstreamKey, chat("mock-chat"+word, "hi", withUsage))
			if word == "+gzip" {
				want.body = gunzip(t, want.body)
			}
			usage := regexp.MustCompile(`(: keep-alive\r?\n\r?\n)?data: \{[^\n]*"choices":\[\],"usage":\{[^\n]*\}\r?\n\r?\n`)
			stripped := usage.ReplaceAll(want.body, nil)
			if len(stripped) == len(want.body) {
				t.Fatalf("no usage chunk in\n%s", want.body)
			}
			got := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat"+word, "hi", streamed))
			gotBody := got.body
			if word == "+comments" {
				// Whether the comment before the chunk stays is of no importance.
				comment := []byte(": keep-alive\n\n")
				gotBody, stripped = bytes.ReplaceAll(gotBody, comment, nil), bytes.ReplaceAll(stripped, comment, nil)
			}
			if !bytes.Equal(gotBody, stripped) {
				t.Errorf("got\n%s\nwant\n%s", gotBody, stripped)
			}
		})
	}
}

// No credential of the client goes up, none of ours comes down, and neither does
// what is between the upstream and us.
func TestHeaders(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	for _, credential := range []string{"Authorization", "X-Api-Key", "Api-Key"} {
		t.Run(credential, func(t *testing.T) {
			value := alice
			if credential == "Authorization" {
				value = "Bearer " + alice
			}
			a := do(t, "POST", gateway.URL+"/v1/chat/completions", []byte(chat("mock-chat", credential)),
				credential, value, "Content-Type", "application/json", "X-Floway-Group", "team-b", "Cookie", "session=secret",
				"X-Forwarded-For", "203.0.113.9", "X-Stainless-Lang", "go", "User-Agent", "an application/1",
				"Openai-Organization", "org-of-the-client", "Openai-Project", "proj-of-the-client", "Accept-Encoding", "br",
				"Connection", "Authorization, X-Request-Id", "Proxy-Authorization", "Basic eA==", "X-Custom", "something",
				"Idempotency-Key", "idem-1", "Openai-Beta", "responses=v1", "Te", "trailers")
			if a.status != 200 {
				t.Fatalf("%d: %s", a.status, a.body)
			}
			r := mock.Last(t)
			if got := r.Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+upstreamKey {
				t.Errorf("Authorization at the upstream: %q", got)
			}
			if want := strings.TrimPrefix(mock.URL, "http://"); r.Host != want {
				t.Errorf("Host at the upstream: %q", r.Host)
			}
			for _, name := range []string{"Idempotency-Key", "Openai-Beta"} {
				if r.Header.Get(name) == "" {
					t.Errorf("%s did not go up", name)
				}
			}
			for name, values := range r.Header {
				all := strings.Join(values, " ")
				switch {
				case strings.Contains(all, alice), strings.HasPrefix(name, "X-Floway"), strings.HasPrefix(name, "X-Stainless"), strings.HasPrefix(name, "X-Forwarded"),
					name == "Cookie", name == "X-Api-Key", name == "Api-Key", name == "Proxy-Authorization", name == "X-Custom", name == "Te",
					name == "Openai-Organization", name == "Openai-Project", name == "Via", name == "Accept-Encoding" && strings.Contains(all, "br"):
					t.Errorf("%s went up: %q", name, values)
				}
			}
			for name, values := range a.header {
				all := strings.Join(values, " ")
				switch {
				case strings.Contains(all, upstreamKey), name == "Set-Cookie", name == "Alt-Svc", name == "Openai-Organization",
					strings.HasPrefix(name, "X-Ratelimit"), name == "Strict-Transport-Security":
					t.Errorf("%s came down: %q", name, values)
				}
			}
			ours, theirs := a.header.Get("X-Request-Id"), a.header.Get("X-Upstream-Request-Id")
			if ours == "" || ours == theirs || !strings.HasPrefix(theirs, "req_") {
				t.Errorf("X-Request-Id is %q, X-Upstream-Request-Id %q", ours, theirs)
			}
			if got := a.header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control is %q", got)
			}
			if got := a.header.Get("Content-Length"); got != strconv.Itoa(len(a.body)) {
				t.Errorf("Content-Length is %q for %d bytes", got, len(a.body))
			}
		})
	}
}
