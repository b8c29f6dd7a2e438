package mockgemini

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/floway/floway/e2e/mock"
)

// Error is an answer that says no.
type Error struct {
	Status  int
	State   string // default: what the service uses with the status
	Message string
	Details []any
	// Text is answered instead of JSON.
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Message) }

func invalid(format string, args ...any) error {
	return &Error{Status: 400, Message: fmt.Sprintf(format, args...)}
}

var badKey = &Error{Status: 400, Message: "API key not valid. Please pass a valid API key.", Details: []any{map[string]any{
	"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com",
}}}

var states = map[int]string{
	400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED", 429: "RESOURCE_EXHAUSTED",
	499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}

type errorBody struct {
	Error struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []any  `json:"details,omitempty"`
	} `json:"error"`
}

func (e *Error) body() errorBody {
	var b errorBody
	b.Error.Code, b.Error.Message, b.Error.Status, b.Error.Details = e.Status, e.Message, e.State, e.Details
	if e.State == "" {
		if b.Error.Status = states[e.Status]; b.Error.Status == "" {
			b.Error.Status = "UNKNOWN"
		}
	}
	return b
}

// Refuse implements mock.Service. A stream that is an array is refused in one.
func (s *Server) Refuse(x *mock.Exchange, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Status: 500, Message: err.Error()}
	}
	switch {
	case e.Text != "":
		x.Send(e.Status, "text/html; charset=UTF-8", []byte(e.Text))
	case x.Entry.Operation == "gemini.stream" && x.R.URL.Query().Get("alt") != "sse":
		x.Send(e.Status, jsonType, mock.Encode([]any{e.body()}))
	default:
		x.Send(e.Status, jsonType, mock.Encode(e.body()))
	}
}

const jsonType = "application/json; charset=UTF-8"

// Scripted implements mock.Service.
func (s *Server) Scripted(status int) error {
	switch status {
	case 401:
		return &Error{Status: status, Message: "Request had invalid authentication credentials."}
	case 403:
		return &Error{Status: status, Message: "The caller does not have permission"}
	case 404:
		return &Error{Status: status, Message: "Requested entity was not found."}
	case 429:
		return &Error{Status: status, Message: "You exceeded your current quota. Please retry in 22s.", Details: []any{
			map[string]any{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []any{map[string]any{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}}},
			map[string]any{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "22s"},
		}}
	case 500:
		return &Error{Status: status, Message: "An internal error has occurred. Please retry."}
	case 503:
		return &Error{Status: status, Message: "The model is overloaded. Please try again later."}
	case 504:
		return &Error{Status: status, Message: "The request timed out. Please try again."}
	}
	return &Error{Status: status, Message: "An error of the status " + http.StatusText(status)}
}

// read checks the body against a shape and reads it.
func (x *exchange) read(shape mock.Shape, into any) error {
	v, err := mock.ReadJSON(x.Body)
	if err != nil {
		return invalid("Invalid JSON payload received. %v", err)
	}
	checked, c := shape.Check(nil, v)
	if c != nil {
		return complaint(c)
	}
	return mock.Decode(checked, into)
}

func complaint(c *mock.Complaint) error {
	switch c.Wrong {
	case mock.Unknown:
		last := len(c.At) - 1
		where := ""
		if last > 0 {
			where = " at '" + c.At[:last].Bracketed() + "'"
		}
		return invalid("Invalid JSON payload received. Unknown name \"%v\"%s: Cannot find field.", c.At[last], where)
	case mock.Missing:
		return invalid("%s: is not specified", c.At.Bracketed())
	}
	return invalid("Invalid value at '%s', want %s", c.At.Bracketed(), c.Want)
}

// digest is of what was asked, however it is to be answered.
func (x *exchange) digest() {
	body, _ := mock.ReadJSON(x.Body)
	op := x.Entry.Operation
	if op == "gemini.stream" {
		op = "gemini"
	}
	x.Digest = mock.DigestOf(op, x.Entry.Model, string(mock.Encode(body)))
}
