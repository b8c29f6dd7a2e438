package mockanthropic

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/floway/floway/e2e/mock"
)

// Error is an answer that says no.
type Error struct {
	Status  int
	Type    string // default: what the service uses with the status
	Message string
	Details any
}

func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Message) }

// invalid is a 400.
func invalid(format string, args ...any) error {
	return &Error{Status: 400, Message: fmt.Sprintf(format, args...)}
}

var types = map[int]string{
	401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error",
	413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}

type errorBody struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Details any    `json:"details"`
	} `json:"error"`
	RequestID string `json:"request_id"`
}

func (e *Error) object() (b errorBody) {
	kind := e.Type
	if kind == "" {
		kind = types[e.Status]
	}
	switch {
	case kind != "":
	case e.Status >= 500:
		kind = "api_error"
	default:
		kind = "invalid_request_error"
	}
	b.Type, b.RequestID = "error", "req_011mock"
	b.Error.Type, b.Error.Message, b.Error.Details = kind, e.Message, e.Details
	return b
}

// Refuse implements mock.Service.
func (s *Server) Refuse(x *mock.Exchange, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Status: 500, Message: err.Error()}
	}
	x.Send(e.Status, "application/json", mock.Encode(e.object()))
}

// Scripted implements mock.Service.
func (s *Server) Scripted(status int) error {
	switch status {
	case 401:
		return &Error{Status: status, Message: "invalid x-api-key"}
	case 402:
		return &Error{Status: status, Message: "There's an issue with your billing."}
	case 403:
		return &Error{Status: status, Message: "Your API key does not have permission to use the specified resource."}
	case 404:
		return &Error{Status: status, Message: "Not found"}
	case 413:
		return &Error{Status: status, Message: "Request exceeds the maximum size"}
	case 429:
		return &Error{Status: status, Message: "This request would exceed your organization's rate limit."}
	case 500:
		return &Error{Status: status, Message: "Internal server error"}
	case 504:
		return &Error{Status: status, Message: "Request timed out."}
	case 529:
		return &Error{Status: status, Message: "Overloaded"}
	}
	return &Error{Status: status, Message: "An error of the status " + http.StatusText(status)}
}

// read checks the body against a shape and reads it.
func (x *exchange) read(shape mock.Shape, into any) error {
	v, err := mock.ReadJSON(x.Body)
	if err != nil {
		return invalid("The request body is not valid JSON: %v", err)
	}
	checked, c := shape.Check(nil, v)
	if c != nil {
		return complaint(c)
	}
	return mock.Decode(checked, into)
}

func complaint(c *mock.Complaint) error {
	where := c.At.Dotted()
	switch c.Wrong {
	case mock.Unknown:
		return invalid("%s: Extra inputs are not permitted", where)
	case mock.Missing:
		return invalid("%s: Field required", where)
	case mock.Value:
		return invalid("%s: Input should be %s", where, c.Want)
	}
	return invalid("%s: Input should be %s", where, c.Want)
}

// digest is of what was asked: neither how the answer is to come nor the order of
// names changes it.
func (x *exchange) digest() {
	body, _ := mock.ReadJSON(x.Body)
	if members, ok := body.(map[string]any); ok {
		delete(members, "stream")
	}
	x.Digest = mock.DigestOf(x.Entry.Operation, string(mock.Encode(body)))
}
