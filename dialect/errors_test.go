package dialect

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// The shapes that the services' SDKs decode, with every key that they require.
func TestErrorBody(t *testing.T) {
	for _, tt := range []struct {
		e    Error
		d    Dialect
		want string
	}{
		{
			Error{Fault: Malformed, Message: "no such field", Param: "x", Code: "unsupported_parameter"},
			Chat,
			`{"error":{"message":"no such field","type":"invalid_request_error","param":"x","code":"unsupported_parameter"}}`,
		},
		{Error{Fault: Unauthenticated, Message: "m"}, Chat, `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
		{Error{Fault: Internal, Message: "a \"b\" <c>\n"}, Responses, `{"error":{"message":"a \"b\" <c>\n","type":"server_error","param":null,"code":null}}`},
		{Error{Fault: NoModel, Message: "m"}, Responses, `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"model_not_found"}}`},
		{Error{Fault: RateLimited, Message: "m", Request: "req_1"}, Messages, `{"type":"error","error":{"type":"rate_limit_error","message":"m"},"request_id":"req_1"}`},
		{Error{Fault: Unavailable, Message: "m"}, Messages, `{"type":"error","error":{"type":"overloaded_error","message":"m"}}`},
		{Error{Fault: TooLarge, Message: "m"}, Messages, `{"type":"error","error":{"type":"request_too_large","message":"m"}}`},
		{Error{Fault: TooLong, Message: "m"}, Messages, `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: m"}}`},
		{Error{Fault: TooLong, Message: "prompt is too long: 5"}, Messages, `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 5"}}`},
		{Error{Fault: TooLong, Message: "m"}, Chat, `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"context_length_exceeded"}}`},
		{
			Error{Fault: Malformed, Message: "m", Details: []byte(`{"error_code":"thread_unsupported_request","unsupported":["thread"]}`)},
			Messages,
			`{"type":"error","error":{"type":"invalid_request_error","message":"m","details":{"error_code":"thread_unsupported_request","unsupported":["thread"]}}}`,
		},
		{Error{Fault: Malformed, Message: "m", Details: []byte(`{"a":1}`)}, Chat, `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":null}}`},
		{Error{Fault: QuotaSpent, Message: "m"}, Gemini, `{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}`},
		{Error{Fault: Malformed, Status: 415, Message: "m"}, Gemini, `{"error":{"code":415,"message":"m","status":"INVALID_ARGUMENT"}}`},
	} {
		var got, want any
		if err := json.Unmarshal(tt.e.Body(tt.d), &got); err != nil {
			t.Fatalf("%s: %v", tt.e.Body(tt.d), err)
		}
		if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %s, want %s", tt.e.Body(tt.d), tt.want)
		}
	}
}

// Every fault has its status and its words in every dialect: SDKs choose the
// exception by the status.
func TestErrorOfEveryFault(t *testing.T) {
	statuses := map[Fault]int{
		Malformed: 400, Unauthenticated: 401, Forbidden: 403, NoModel: 404, NotFound: 404, BadMethod: 405, TooLarge: 413, TooLong: 400,
		RateLimited: 429, QuotaSpent: 429, Unsupported: 501, Internal: 500, BadUpstream: 502, Unavailable: 503, TimedOut: 504,
	}
	if len(statuses) != len(spellings) {
		t.Fatalf("%d of %d faults", len(statuses), len(spellings))
	}
	for fault, status := range statuses {
		e := &Error{Fault: fault, Message: "what is wrong"}
		if e.HTTPStatus() != status || e.Error() != "what is wrong" {
			t.Errorf("fault %d: status %d, want %d", fault, e.HTTPStatus(), status)
		}
		for _, d := range []Dialect{Chat, Responses, Messages, Gemini} {
			w := httptest.NewRecorder()
			if n, err := e.Write(w, d); n == 0 || err != nil {
				t.Fatal(n, err)
			}
			h := w.Header()
			if w.Code != status || h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" || h.Get("Content-Length") != strconv.Itoa(w.Body.Len()) {
				t.Errorf("fault %d in %v: %d %v", fault, d, w.Code, h)
			}
			// What is written can be read again.
			p := ReadProblem(w.Body.Bytes())
			if !strings.HasSuffix(p.Message, "what is wrong") || (p.Message != "what is wrong") != (fault == TooLong && (d == Messages || d == Gemini)) || d == Gemini && (p.Status == "" || p.Code != strconv.Itoa(status)) || d != Gemini && p.Type == "" {
				t.Errorf("fault %d in %v: %s is read as %+v", fault, d, w.Body, p)
			}
			if d == Chat && p.Code != spellings[fault].code {
				t.Errorf("fault %d: code %q", fault, p.Code)
			}
		}
	}
}

// Headers are shared between answers: adding to one must not change the others.
func TestErrorWriteSharesNothingThatChanges(t *testing.T) {
	w := httptest.NewRecorder()
	_, _ = (&Error{Message: "m"}).Write(w, Chat)
	w.Header().Add("Cache-Control", "private")
	w.Header().Add("Content-Type", "text/html")
	w = httptest.NewRecorder()
	_, _ = (&Error{Message: "m"}).Write(w, Chat)
	if got := w.Header(); len(got["Cache-Control"]) != 1 || len(got["Content-Type"]) != 1 {
		t.Errorf("got %v", got)
	}
}

// The error event is one that our own reader of streams, and readers like it,
// take for an error and for the stream's end.
func TestErrorEvent(t *testing.T) {
	e := &Error{Fault: BadUpstream, Message: "line one\nline two", Request: "req_1"}
	for op := range Operations() {
		event := e.Event(op, 7)
		if !bytes.HasSuffix(event, []byte("\n\n")) || bytes.Count(event, []byte("\n\n")) != 1 {
			t.Fatalf("%v: %q is not one event", op, event)
		}
		head, data, ok := bytes.Cut(bytes.TrimSuffix(event, []byte("\n\n")), []byte("data: "))
		var object map[string]any
		if !ok || json.Unmarshal(data, &object) != nil {
			t.Fatalf("%v: %q", op, event)
		}
		// Readers of all dialects look for a member error.
		if inner, ok := object["error"].(map[string]any); !ok || inner["message"] != e.Message {
			t.Errorf("%v: no error in %s", op, data)
		}
		switch op.Dialect() {
		case Messages:
			if string(head) != "event: error\n" || object["type"] != "error" || object["request_id"] != "req_1" {
				t.Errorf("%v: %q", op, event)
			}
		case Responses:
			if string(head) != "event: error\n" || object["type"] != "error" || object["code"] != "upstream_error" || object["message"] != e.Message || object["sequence_number"] != 7.0 {
				t.Errorf("%v: %q", op, event)
			}
			if param, there := object["param"]; param != nil || !there {
				t.Errorf("%v: %q", op, event)
			}
		case Gemini:
			// Google's reader takes an error for one only by such a number, and
			// wants no event line.
			code, _ := object["error"].(map[string]any)["code"].(float64)
			if len(head) > 0 || code < 400 || code > 599 {
				t.Errorf("%v: %q", op, event)
			}
		default:
			if len(head) > 0 {
				t.Errorf("%v: %q", op, event)
			}
		}
		if op.Local() || op.Dialect() == Responses && op != CreateResponse || formatOf(op) == &unbilledFormat {
			continue
		}
		var a Answer
		a.Reset(op, true, true)
		if ready, _ := a.Split(event, false); len(ready) != len(event) || !a.Failed || !a.Terminal || a.Problem.Message != e.Message {
			t.Errorf("%v: read as %+v", op, marksOf(&a))
		}
	}
	e = &Error{Fault: Internal, Message: "m"}
	if event := e.Event(CreateResponse, 0); !bytes.Contains(event, []byte(`"code":"server_error"`)) {
		t.Errorf("typed readers want a code: %s", event)
	}
}

func TestReadProblem(t *testing.T) {
	for _, tt := range []struct {
		body string
		want Problem
	}{
		// The services.
		{
			`{"error":{"message":"Unsupported parameter: 'x'","type":"invalid_request_error","param":"x","code":"unsupported_parameter"}}`,
			Problem{Type: "invalid_request_error", Code: "unsupported_parameter", Param: "x", Message: "Unsupported parameter: 'x'"},
		},
		{`{"error":{"message":"m","type":"server_error","param":null,"code":null}}`, Problem{Type: "server_error", Message: "m"}},
		{
			`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded","details":null},"request_id":"req_01"}`,
			Problem{Type: "overloaded_error", Message: "Overloaded", Details: []byte("null")},
		},
		{
			`{"type":"error","error":{"type":"invalid_request_error","message":"m","details":{"error_code":"thread_unsupported_request"}}}`,
			Problem{Type: "invalid_request_error", Message: "m", Details: []byte(`{"error_code":"thread_unsupported_request"}`)},
		},
		{
			`{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"22s"}]}}`,
			Problem{Code: "429", Message: "m", Status: "RESOURCE_EXHAUSTED", Details: []byte(`[{"retryDelay":"22s"}]`)},
		},
		{`[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]`, Problem{Code: "400", Message: "m", Status: "INVALID_ARGUMENT"}},
		{"\n[\n {\"error\":{\"code\":400,\"message\":\"m\"}}\n, {}]\n", Problem{Code: "400", Message: "m"}},
		// Azure.
		{
			`{"error":{"message":"The response was filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","message":"inner"}}}`,
			Problem{Code: "content_filter", Param: "prompt", Message: "The response was filtered", Status: "400"},
		},
		{`{"error":{"code":"429","message":"Please retry after 6 seconds."}}`, Problem{Code: "429", Message: "Please retry after 6 seconds."}},
		{`{"statusCode":401,"message":"Access denied"}`, Problem{Message: "Access denied"}},
		// Compatible servers and proxies.
		{`{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}`, Problem{Type: "BadRequestError", Code: "400", Message: "m"}},
		{`{"error":{"code":402,"message":"Insufficient credits","metadata":{"message":"x"}}}`, Problem{Code: "402", Message: "Insufficient credits"}},
		{`{"error":"model 'x' not found"}`, Problem{Message: "model 'x' not found"}},
		{`{"error":"busy","message":"try later"}`, Problem{Message: "try later"}},
		{`{"error":["a","b"]}`, Problem{Message: `["a","b"]`}},
		{`{"detail":"Not Found"}`, Problem{Message: "Not Found"}},
		{`{"detail":[{"loc":["body","x"],"msg":"field required","type":"missing"}]}`, Problem{Message: `[{"loc":["body","x"],"msg":"field required","type":"missing"}]`}},
		{`{"message":"m"}`, Problem{Message: "m"}},
		{`{"error":{"type":"x"}}`, Problem{Type: "x", Message: `{"error":{"type":"x"}}`}},
		{`{"error":null,"detail":null,"message":"m"}`, Problem{Message: "m"}},
		{`{"errors":["e"]}`, Problem{Message: `{"errors":["e"]}`}},
		{`{"error":{"message":"d\u00e9j\u00e0 \ud83d\ude00","code":12.0}}`, Problem{Code: "12", Message: "déjà 😀"}},
		{`{"error":{"message":["m"],"code":true}}`, Problem{Message: `{"error":{"message":["m"],"code":true}}`}},
		// No JSON.
		{"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n</body></html>", Problem{Message: "<html> <head><title>502 Bad Gateway</title></head> <body> </body></html>"}},
		{"upstream connect error\n", Problem{Message: "upstream connect error"}},
		{" \t\x00\x01 x \x7f", Problem{Message: "x \x7f"}},
		{`"just text"`, Problem{Message: `"just text"`}},
		{`{"error":{"message":"cut of`, Problem{Message: `{"error":{"message":"cut of`}},
		{`{"error":{"message":"m"}} trailing`, Problem{Message: `{"error":{"message":"m"}} trailing`}},
		{`[1]`, Problem{Message: "[1]"}},
		{`[]`, Problem{Message: "[]"}},
		{``, Problem{}},
		{" \n", Problem{}},
		{`{}`, Problem{}},
		{strings.Repeat("x", 1000), Problem{Message: strings.Repeat("x", maxPlain)}},
		{strings.Repeat("é", 1000) + "", Problem{Message: strings.Repeat("é", maxPlain/2)}},
		{"a" + strings.Repeat("é", 1000), Problem{Message: "a" + strings.Repeat("é", maxPlain/2-1)}},
	} {
		body := []byte(tt.body)
		got := ReadProblem(body)
		for i := range body {
			body[i] = '#' // nothing of it is kept
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%.100q:\n got %+v\nwant %+v", tt.body, got, tt.want)
		}
	}
}

func FuzzReadProblem(f *testing.F) {
	for _, s := range append(nasty, `[{"error":{"code":400,"details":[{}]}}]`, `{"error":"x"}`, "<html>") {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p := ReadProblem(body)
		if len(p.Message) > 4*len(body)+4 {
			t.Fatalf("%q has become %q", body, p.Message)
		}
		RetryDelay(&p)
		RetryText(p.Message)
	})
}

func TestFaultOf(t *testing.T) {
	for status, want := range map[int]Fault{
		400: Malformed, 401: Unauthenticated, 402: QuotaSpent, 403: Forbidden, 404: NotFound, 405: BadMethod, 408: TimedOut, 409: Malformed,
		413: TooLarge, 418: Malformed, 422: Malformed, 429: RateLimited, 500: Internal, 501: Unsupported, 502: BadUpstream, 503: Unavailable,
		504: TimedOut, 529: Unavailable, 599: Internal,
	} {
		if got := FaultOf(status); got != want {
			t.Errorf("%d: got %d, want %d", status, got, want)
		}
	}
	// Anthropic's own status for being overloaded keeps its word.
	e := Error{Fault: FaultOf(529), Status: 529, Message: "m"}
	if e.HTTPStatus() != 529 || !bytes.Contains(e.Body(Messages), []byte("overloaded_error")) {
		t.Errorf("%d %s", e.HTTPStatus(), e.Body(Messages))
	}
}
