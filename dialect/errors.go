package dialect

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// Fault is what is wrong, whoever says it and in whichever dialect.
type Fault uint8

const (
	Malformed       Fault = iota // the request cannot be understood
	Unauthenticated              // no valid client key
	Forbidden                    // a valid key that may not do this
	NoModel                      // no such model for this client
	NotFound                     // no such path, response or other thing
	BadMethod
	TooLarge
	TooLong // the context is longer than the model takes
	RateLimited
	QuotaSpent
	Unsupported // known, and not offered
	Internal
	BadUpstream // unreachable, broken, or our credential was refused
	Unavailable // nothing can serve this now; later perhaps
	TimedOut
)

// spelling is how the dialects say a fault.
// Source: the errors of the three services' SDKs and documentation.
type spelling struct {
	status                    int
	kind, code                string // OpenAI's type and code; no code is null
	messagesKind, geminiState string
}

var spellings = [...]spelling{
	Malformed:       {400, "invalid_request_error", "", "invalid_request_error", "INVALID_ARGUMENT"},
	Unauthenticated: {401, "invalid_request_error", "invalid_api_key", "authentication_error", "UNAUTHENTICATED"},
	Forbidden:       {403, "permission_error", "", "permission_error", "PERMISSION_DENIED"},
	NoModel:         {404, "invalid_request_error", "model_not_found", "not_found_error", "NOT_FOUND"},
	NotFound:        {404, "invalid_request_error", "", "not_found_error", "NOT_FOUND"},
	BadMethod:       {405, "invalid_request_error", "", "invalid_request_error", "INVALID_ARGUMENT"},
	TooLarge:        {413, "invalid_request_error", "", "request_too_large", "INVALID_ARGUMENT"},
	TooLong:         {400, "invalid_request_error", "context_length_exceeded", "invalid_request_error", "INVALID_ARGUMENT"},
	RateLimited:     {429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"},
	QuotaSpent:      {429, "insufficient_quota", "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED"},
	Unsupported:     {501, "invalid_request_error", "unsupported", "invalid_request_error", "UNIMPLEMENTED"},
	Internal:        {500, "server_error", "", "api_error", "INTERNAL"},
	BadUpstream:     {502, "server_error", "upstream_error", "api_error", "UNAVAILABLE"},
	Unavailable:     {503, "server_error", "overloaded", "overloaded_error", "UNAVAILABLE"},
	TimedOut:        {504, "server_error", "timeout", "timeout_error", "DEADLINE_EXCEEDED"},
}

// Error is an answer that says no.
type Error struct {
	Fault   Fault
	Message string
	// Param is the field to blame; empty if none. Code overrules the code that
	// the fault has in OpenAI's dialects.
	Param, Code string
	// Status overrules the status that the fault has.
	Status int
	// Request is the id of the request, which some dialects repeat in the body.
	Request string
	// Details is what programs read in errors of Messages: a JSON object; nil for
	// none. The other dialects have no place for it.
	Details []byte
}

func (e *Error) Error() string { return e.Message }

// HTTPStatus is the status that goes with the error.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	return spellings[e.Fault].status
}

type openAIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// responsesEvent has the members that the typings give an error event, and the
// member error too, without which most readers take no notice of it.
type responsesEvent struct {
	Type     string      `json:"type"`
	Code     string      `json:"code"`
	Message  string      `json:"message"`
	Param    *string     `json:"param"`
	Sequence int         `json:"sequence_number"`
	Error    openAIError `json:"error"`
}

type messagesError struct {
	Type  string `json:"type"`
	Error struct {
		Type    string          `json:"type"`
		Message string          `json:"message"`
		Details json.RawMessage `json:"details,omitempty"`
	} `json:"error"`
	RequestID string `json:"request_id,omitempty"`
}

type geminiError struct {
	Error struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Status  string `json:"status"`
	} `json:"error"`
}

// Body spells the error in the dialect.
func (e *Error) Body(d Dialect) []byte {
	s := spellings[e.Fault]
	switch d {
	case Messages:
		m := messagesError{Type: "error", RequestID: e.Request}
		m.Error.Type, m.Error.Message, m.Error.Details = s.messagesKind, e.Message, e.Details
		if e.Fault == TooLong && !strings.HasPrefix(e.Message, tooLong) {
			m.Error.Message = tooLong + ": " + e.Message
		}
		return marshal(m)
	case Gemini:
		var g geminiError
		g.Error.Code, g.Error.Message, g.Error.Status = e.HTTPStatus(), e.Message, s.geminiState
		if e.Fault == TooLong && !strings.Contains(e.Message, "exceeds the maximum number of tokens") {
			g.Error.Message = tooLongGemini + ": " + e.Message
		}
		return marshal(g)
	default:
		return marshal(struct {
			Error openAIError `json:"error"`
		}{e.openAI()})
	}
}

func (e *Error) openAI() openAIError {
	o := openAIError{Message: e.Message, Type: spellings[e.Fault].kind}
	if e.Param != "" {
		o.Param = &e.Param
	}
	if code := e.code(); code != "" {
		o.Code = &code
	}
	return o
}

func (e *Error) code() string {
	if e.Code != "" {
		return e.Code
	}
	return spellings[e.Fault].code
}

// Event spells the error as the last event of a stream that was already under
// way. What follows it must be a broken connection, so that readers that look
// for neither errors nor terminal events notice too.
func (e *Error) Event(op Operation, sequence int) []byte {
	var out []byte
	switch op.Dialect() {
	case Messages:
		out = append(out, "event: error\ndata: "...)
		out = append(out, e.Body(Messages)...)
	case Responses:
		o := e.openAI()
		code := cmp.Or(e.code(), "server_error")
		out = append(out, "event: error\ndata: "...)
		out = append(out, marshal(responsesEvent{"error", code, e.Message, o.Param, sequence, o})...)
	default:
		out = append(out, "data: "...)
		out = append(out, e.Body(op.Dialect())...)
	}
	return append(out, "\n\n"...)
}

// Write answers with the error in the dialect.
func (e *Error) Write(w http.ResponseWriter, d Dialect) (int, error) {
	body := e.Body(d)
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h["Cache-Control"] = noStore
	w.WriteHeader(e.HTTPStatus())
	return w.Write(body)
}

// Header values that never change are shared by all answers.
var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
)

func marshal(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of strings and numbers always marshal
	}
	return out
}

// Problem is what an upstream's refusal says, whatever its shape.
type Problem struct {
	// Type, Code and Message are empty where the body has none. A number in the
	// place of a code is spelled in decimal.
	Type, Code, Param, Message string
	// Status is Google's name for the kind of error.
	Status string
	// Details is Google's list of details, as it stands.
	Details []byte
}

const (
	problemError = iota
	problemMessage
	problemDetail
	problemType
	problemCode
	problemParam
	problemDetails
	problemStatus
)

var problemNames = []string{
	problemError: "error", problemMessage: "message", problemDetail: "detail", problemType: "type",
	problemCode: "code", problemParam: "param", problemDetails: "details", problemStatus: "status",
}

// ReadProblem reads the body of a refusal: the services' own forms and those
// that compatible servers and proxies were seen to send, plain text and HTML
// included. It never fails; what cannot be read becomes the message. It keeps
// nothing of body.
func ReadProblem(body []byte) Problem {
	object := trimBlanks(body)
	if len(object) > 0 && object[0] == '[' { // Google's streams without SSE
		each(object, func(el []byte) bool { object = el; return false })
	}
	var m members
	m.reset(problemNames, nil, "", 0)
	if m.feed(object); m.err() != nil {
		return Problem{Message: plain(body)}
	}
	if inner := m.at(problemError).raw; isObject(inner) {
		m.reset(problemNames, nil, "", 0)
		m.feed(inner)
	}
	p := Problem{
		Type: word(m.at(problemType).raw), Code: word(m.at(problemCode).raw), Param: word(m.at(problemParam).raw),
		Message: word(m.at(problemMessage).raw), Status: word(m.at(problemStatus).raw),
		Details: bytes.Clone(m.at(problemDetails).raw),
	}
	for _, i := range [...]int{problemError, problemDetail} { // {"error":"text"}, {"detail":…}
		if raw := m.at(i).raw; p.Message == "" && full(raw) {
			if p.Message = word(raw); p.Message == "" {
				p.Message = plain(raw)
			}
		}
	}
	if p.Message == "" && full(object) {
		p.Message = plain(body)
	}
	return p
}

// word returns the string or number that raw spells.
func word(raw []byte) string {
	if s, ok := text(raw); ok {
		return s
	}
	if n, ok := number(raw); ok {
		return strconv.FormatInt(n, 10)
	}
	return ""
}

// maxPlain bounds the message that is made of a body without one.
const maxPlain = 300

// plain makes a message of a body that is none: its beginning, on one line.
func plain(body []byte) string {
	out := make([]byte, 0, maxPlain)
	for _, c := range trimBlanks(body) {
		if c < ' ' {
			c = ' '
		}
		if c == ' ' && len(out) > 0 && out[len(out)-1] == ' ' {
			continue
		}
		if out = append(out, c); len(out) == maxPlain {
			break
		}
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(out)), "")
}

// tooLong begins the message by which agents that speak Messages know that they
// have to shorten the conversation.
const tooLong = "prompt is too long"

// tooLongGemini does so for clients of Gemini.
const tooLongGemini = "The input token count exceeds the maximum number of tokens allowed"

// contextWords are parts of the messages by which services say that a context is
// too long, where they have no code for it. In small letters.
var contextWords = []string{
	tooLong, "maximum context length", "context length exceeded", "context window", "exceed context limit",
	"input token count", "maximum number of tokens allowed", "exceeds the available context size",
}

// TooLong says whether an upstream refused a request because its context is longer
// than the model takes.
func (p *Problem) TooLong() bool {
	if p.Code == "context_length_exceeded" {
		return true
	}
	message := strings.ToLower(p.Message)
	for _, words := range contextWords {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// FaultOf returns the fault that a status stands for.
func FaultOf(status int) Fault {
	switch status {
	case 529: // Anthropic is overloaded
		return Unavailable
	case http.StatusPaymentRequired:
		return QuotaSpent
	case http.StatusRequestTimeout:
		return TimedOut
	case http.StatusForbidden:
		return Forbidden
	case http.StatusNotFound:
		return NotFound
	}
	for f, s := range spellings {
		if s.status == status {
			return Fault(f)
		}
	}
	if status >= 500 {
		return Internal
	}
	return Malformed
}
