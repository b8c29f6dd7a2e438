package mock

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Behavior is how a request is treated. Its zero value is an upstream in good
// health. It comes with a scripted Rule, or with the model's name: words behind
// plus signs, as in
//
//	mock-chat+gzip+usage=every+cut=3
//
// where the words are the names of the JSON members below.
//
// Cut, End, Hang and Fail count events of a stream, comments not included, or
// bytes of an answer without events: so many are sent before it happens.
type Behavior struct {
	// Status, if not 0, is answered instead of anything else, with Body, or with
	// what the service says at that status.
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	// ContentType is that of Body. Default: application/json.
	ContentType string `json:"content_type,omitempty"`
	// Headers are added to the answer, or replace its own.
	Headers map[string]string `json:"headers,omitempty"`
	// Refuse names a top-level field, or a field of stream_options after a dot,
	// that this server does not know: 400 if the request has it.
	Refuse string `json:"refuse,omitempty"`

	// Reset breaks the connection before a byte of the answer, with a TCP reset.
	Reset bool `json:"reset,omitempty"`
	// Silent closes the connection before a byte of the answer.
	Silent bool `json:"silent,omitempty"`
	// Cut breaks the connection in the middle of the answer.
	Cut *int `json:"cut,omitempty"`
	// End ends the stream politely before its time, without a terminal event.
	End *int `json:"end,omitempty"`
	// Hang says nothing more until the client leaves; -1: not even headers.
	Hang *int `json:"hang,omitempty"`
	// Fail sends an error event and ends the stream.
	Fail *int `json:"fail,omitempty"`

	// Gzip compresses the answer, asked for or not.
	Gzip bool `json:"gzip,omitempty"`
	// Chunked leaves out the length of an answer without events.
	Chunked bool `json:"chunked,omitempty"`
	// Garbage sends half of a JSON answer as if it were whole.
	Garbage bool `json:"garbage,omitempty"`
	// Pieces cuts every write into pieces of so many bytes, each flushed.
	Pieces int `json:"pieces,omitempty"`
	// CRLF ends the lines of a stream with CR LF.
	CRLF bool `json:"crlf,omitempty"`
	// Comments puts a comment before each event.
	Comments bool `json:"comments,omitempty"`
	// Bare leaves out the space behind "data:".
	Bare bool `json:"bare,omitempty"`
	// NoDone leaves out the [DONE] of a stream.
	NoDone bool `json:"nodone,omitempty"`
	// Usage says where the usage of an answer stands.
	Usage Usage `json:"usage,omitempty"`
	// Scenario is what the answer is about.
	Scenario Scenario `json:"scenario,omitempty"`
	// Words is the number of words of a text answer. Default: by the question.
	Words int `json:"words,omitempty"`

	// Slow waits so many milliseconds before each event.
	Slow int `json:"slow,omitempty"`
	// Gate names a gate: event n of the stream, from 0, is sent after n
	// acknowledgements. The terminal ones, from the finish on, do not wait.
	Gate string `json:"gate,omitempty"`
}

// Usage says where a server reports what it used.
type Usage string

const (
	UsageOnce   Usage = ""       // as the service does
	UsageEvery  Usage = "every"  // on every chunk of a chat stream, growing
	UsageTwice  Usage = "twice"  // in two chunks at the end; the first is too low
	UsageLast   Usage = "last"   // on the chunk with the finish reason
	UsageAbsent Usage = "absent" // nowhere
)

// Scenario is what an answer is about, the same at every service as far as it has
// such a thing. Without one the answer is a short text, or calls to the first two
// tools that the request declares, if the last turn does not answer calls.
type Scenario string

const (
	Unicode  Scenario = "unicode"  // words of letters of two to four bytes, cut anywhere
	Long     Scenario = "long"     // a text of 3,000 words
	Thinking Scenario = "thinking" // the model thinks before it answers
	Refusal  Scenario = "refusal"  // the model refuses
	Filter   Scenario = "filter"   // the answer is broken off by a filter
	Length   Scenario = "length"   // the answer is broken off at the most tokens
	Cached   Scenario = "cached"   // 3,000 tokens read from the cache, 1,200 written
)

// Scenarios are all of them.
var Scenarios = []Scenario{Unicode, Long, Thinking, Refusal, Filter, Length, Cached}

// Rule treats requests that it matches in a certain way.
type Rule struct {
	// Key is the label of the credential, Model the name asked for, Operation
	// what was asked; empty ones match all.
	Key       string `json:"key,omitempty"`
	Model     string `json:"model,omitempty"`
	Operation string `json:"operation,omitempty"`
	// Times is how many requests the rule treats; 0 means all.
	Times int `json:"times,omitempty"`
	Behavior
}

func (r *Rule) matches(e *Entry) bool {
	return (r.Key == "" || r.Key == e.Key) && (r.Model == "" || r.Model == e.Model) && (r.Operation == "" || r.Operation == e.Operation)
}

// Behave finds out how the request is to be treated, by its entry's model, key and
// operation, and does what comes before the service would look at it.
func (x *Exchange) Behave() error {
	if m := x.Entry.Model; m != "" && !strings.HasPrefix(m, "mock") {
		return x.s.service.NoModel(m)
	}
	how, ok := named(x.Entry.Model)
	if !ok {
		return x.s.service.NoModel(x.Entry.Model)
	}
	x.How = how
	x.s.mu.Lock()
	for i, rule := range x.s.rules {
		if x.aside || !rule.matches(&x.Entry) {
			continue
		}
		x.How = rule.Behavior
		if rule.Times == 1 {
			x.s.rules = append(x.s.rules[:i:i], x.s.rules[i+1:]...)
		} else if rule.Times > 1 {
			rule.Times--
		}
		break
	}
	x.s.mu.Unlock()

	switch how := &x.How; {
	case how.Reset, how.Silent:
		x.End(Cut)
		return x.hangUp(how.Reset)
	case how.Hang != nil && *how.Hang < 0:
		x.Hang()
	case how.Status != 0 && how.Body == "":
		return x.s.service.Scripted(how.Status)
	case how.Status != 0:
		contentType := how.ContentType
		if contentType == "" {
			contentType = "application/json"
		}
		x.Send(how.Status, contentType, []byte(how.Body))
		return errAnswered
	case how.Scenario == Unicode && how.Pieces == 0:
		how.Pieces = 5 // within a character as often as not
	}
	return nil
}

// hangUp closes the connection, or resets it, without a byte of an answer.
func (x *Exchange) hangUp(reset bool) error {
	conn, _, err := http.NewResponseController(x.W).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		tcp.SetLinger(0)
	}
	conn.Close()
	return errAnswered
}

// errAnswered tells ServeHTTP that the exchange has ended already.
var errAnswered = errors.New("the request has been answered")

// named reads the behavior that a model's name spells; false if it spells none.
func named(name string) (Behavior, bool) {
	var how Behavior
	words := strings.Split(name, "+")
	for _, word := range words[1:] {
		word, value, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(value)
		switch word {
		case "gzip":
			how.Gzip = true
		case "chunked":
			how.Chunked = true
		case "garbage":
			how.Garbage = true
		case "crlf":
			how.CRLF = true
		case "comments":
			how.Comments = true
		case "bare":
			how.Bare = true
		case "nodone":
			how.NoDone = true
		case "reset":
			how.Reset = true
		case "silent":
			how.Silent = true
		case "usage":
			how.Usage = Usage(value)
		case "gate":
			how.Gate = value
		case "refuse":
			how.Refuse = value
		case "status", "pieces", "words", "slow", "cut", "end", "hang", "fail":
			if err != nil {
				return how, false
			}
			switch word {
			case "status":
				how.Status = n
			case "pieces":
				how.Pieces = n
			case "words":
				how.Words = n
			case "slow":
				how.Slow = n
			case "cut":
				how.Cut = &n
			case "end":
				how.End = &n
			case "hang":
				how.Hang = &n
			case "fail":
				how.Fail = &n
			}
		default:
			how.Scenario = Scenario(word)
			if value != "" || !slices.Contains(Scenarios, how.Scenario) {
				return how, false
			}
		}
	}
	return how, true
}
