package mockopenai

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockanthropic"
)

// Error is an answer that says no.
type Error struct {
	Status               int
	Type                 string // default: what the service uses with the status
	Code, Param, Message string // empty ones are null
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// body is the error as the service writes it.
func (e *Error) body() []byte {
	return encode(map[string]any{"error": e.object()})
}

type errorObject struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func (e *Error) object() errorObject {
	kind := e.Type
	if kind == "" {
		switch {
		case e.Status == http.StatusTooManyRequests:
			kind = "requests"
		case e.Status >= 500:
			kind = "server_error"
		default:
			kind = "invalid_request_error"
		}
	}
	return errorObject{e.Message, kind, null(e.Param), null(e.Code)}
}

// null turns an empty string into JSON's null.
func null(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// bad is a 400 that names a field.
func bad(param, code, format string, args ...any) error {
	return &Error{Status: 400, Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

// Refuse implements mock.Service.
func (s *Server) Refuse(x *mock.Exchange, err error) {
	if _, ok := errors.AsType[*mockanthropic.Error](err); ok {
		s.messages.Refuse(x, err)
		return
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Status: 500, Message: err.Error()}
	}
	x.Send(e.Status, "application/json", e.body())
}

// Scripted implements mock.Service: the body of a status that a test asked for
// without saying how the body should read is what the service would say.
func (s *Server) Scripted(status int) error {
	switch status {
	case 401:
		return &Error{Status: status, Code: "invalid_api_key", Message: "Incorrect API key provided."}
	case 403:
		return &Error{Status: status, Code: "unsupported_country_region_territory", Message: "Country, region, or territory not supported"}
	case 404:
		return &Error{Status: status, Code: "not_found", Message: "Not found."}
	case 408:
		return &Error{Status: status, Code: "timeout", Message: "The request timed out."}
	case 409:
		return &Error{Status: status, Code: "conflict", Message: "Another request changed the same resource.", Param: "id"}
	case 413:
		return &Error{Status: status, Message: "Request too large."}
	case 422:
		return &Error{Status: status, Code: "unprocessable", Message: "The request could not be processed.", Param: "messages"}
	case 429:
		return &Error{Status: status, Code: "rate_limit_exceeded", Message: "Rate limit reached for requests. Please try again in 1.2s."}
	case 500:
		return &Error{Status: status, Message: "The server had an error while processing your request. Sorry about that!"}
	case 502:
		return &Error{Status: status, Message: "Bad gateway."}
	case 503:
		return &Error{Status: status, Code: "overloaded", Message: "The engine is currently overloaded, please try again later."}
	default:
		return &Error{Status: status, Message: cmp.Or(http.StatusText(status), "An error of the status "+strconv.Itoa(status)) + "."}
	}
}
