package translate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// Conversation is what a model is asked, in no dialect.
type Conversation struct {
	From dialect.Dialect
	// Asked is the model's name as the client gave it: its answers show it.
	Asked  string
	Stream bool
	// Usage: a client of Chat Completions asked for the stream's usage.
	Usage bool
	// Legacy: a client of Chat Completions uses functions, which came before
	// tools: its answers hold one function_call.
	Legacy bool
	// Array: a client of Gemini wants its stream as one JSON array, not as events.
	Array bool
	// Counting: only the tokens are to be counted. Nothing that bounds or shapes
	// the answer is written.
	Counting bool

	// System are the instructions in front of the first turn: parts of text.
	System []Part
	// Turns go from the oldest to the newest. All calls of one answer stand in one
	// turn, and so do all results that follow it directly.
	Turns []Turn

	Tools  []Tool
	Choice Choice
	// Serial: not more than one call in a turn.
	Serial bool

	MaxTokens int64 // 0: the client did not say
	Stop      []string
	// Numbers as the client spelled them; empty where it gave none.
	Temperature, TopP, TopK           Number
	PresencePenalty, FrequencyPenalty Number
	Seed                              Number
	Candidates                        int64 // answers wanted; 0 or 1 is one
	LogitBias                         []byte
	LogProbs                          bool
	TopLogProbs                       int64

	Format    Format
	Reasoning Reasoning
	Verbosity string

	CacheKey string
	EndUser  string
	Tier     string
	Metadata []byte // a JSON object
	// Store says whether the client wants the answer kept; nil if it did not say.
	Store *bool

	// Echo holds members of a Responses request as they stood, which its answers
	// repeat: a JSON object's members, in the order of the request.
	Echo []Member

	used  []usedField
	embed *embedding // what is asked for are embeddings, and nothing else
	size  int        // of the client's request: about what its translation takes
	uses  [features]uint8
}

// Number is a number as it is spelled in JSON.
type Number string

// Member is a member of a JSON object.
type Member struct {
	Name string
	Raw  []byte
}

// Role says who speaks a turn.
type Role uint8

const (
	// User turns hold what the user said and the results of calls.
	User Role = iota
	// Assistant turns hold what the model said, thought and called.
	Assistant
	// System turns are instructions in the middle of a conversation.
	System
)

// Turn is what one side said.
type Turn struct {
	Role  Role
	Parts []Part
	// Field is where it stands in the client's request, for errors: messages[2].
	Field string
}

// Kind says what a part is.
type Kind uint8

const (
	Text    Kind = iota // Text
	Refusal             // Text: the model's own words of refusal
	Thought             // Text (may be empty) and State: reasoning
	Image               // Media
	File                // Media: a document, PDF by default
	Audio               // Media
	Video               // Media
	Call                // Call, and State if the call carries any
	Result              // Result
)

// Part is a piece of a turn. Which fields mean something, Kind says.
type Part struct {
	Kind   Kind
	Text   string
	Media  *Media
	Call   *ToolCall
	Result *ToolResult
	// State is sealed reasoning that belongs to the part.
	State State
	// Cache marks the end of a prefix to keep: "" for no mark, "5m" or "1h".
	Cache string
	// Field is where the part stands in the client's request, for errors.
	Field string
}

// Media is an image, document, sound or film: its bytes, or where they are. One
// of Data, URL, ID and Plain is set.
type Media struct {
	Type  string // media type; empty if unknown
	Data  string // base64
	URL   string
	ID    string // of a file that a provider keeps
	Plain string // a document that is plain text
	// Name is the file's name, Detail how closely to look at it.
	Name, Detail string
}

// ToolCall is the call of a tool.
type ToolCall struct {
	ID, Name string
	// Arguments are JSON, as the model wrote them, whatever that is; of a custom
	// tool they are free text.
	Arguments string
	Custom    bool
	// Space is the namespace of the tool (Responses).
	Space string
}

// ToolResult is what a call came to.
type ToolResult struct {
	// ID is the call's. Name is the tool's, where the dialect says it.
	ID, Name string
	// Parts are text, images and files.
	Parts []Part
	// Failed: the call went wrong.
	Failed bool
	// Custom: the call was one of a custom tool.
	Custom bool
}

// Tool is a tool that the model may call.
type Tool struct {
	Name, Description string
	// Schema is the JSON Schema of the arguments; nil for none.
	Schema []byte
	// Strict: arguments must follow the schema; nil if the client did not say.
	Strict *bool
	// Custom tools take free text; Grammar is what it must look like (the member
	// format of OpenAI's custom tools), nil for anything.
	Custom  bool
	Grammar []byte
	// Space is the namespace that the tool stands in (Responses).
	Space string
	Cache string
	Field string
}

// Mode says whether the model is to call a tool.
type Mode uint8

const (
	Unsaid Mode = iota
	Auto
	Required
	None
)

// Choice says which tools the model may or must call.
type Choice struct {
	Mode Mode
	// Only are the names of the tools that may be called; empty for all. Required
	// with one name forces that tool.
	Only []string
	// Field is where the choice stands in the client's request.
	Field string
}

// FormatKind says what an answer must look like.
type FormatKind uint8

const (
	AnyFormat FormatKind = iota
	JSONFormat
	SchemaFormat
)

// Format is what the text of the answer must look like.
type Format struct {
	Kind              FormatKind
	Name, Description string
	Schema            []byte
	Strict            *bool
	Field             string
}

// Reasoning says how much to think.
type Reasoning struct {
	// Effort is none, minimal, low, medium, high, xhigh or max; empty if the
	// client did not say.
	Effort string
	// Budget is a bound on the tokens of thought; 0 if the client gave none.
	// Adaptive: the model decides.
	Budget   int64
	Adaptive bool
	// Visible: the client wants to see the thoughts, or a summary of them.
	// Summary is how detailed (Responses).
	Visible bool
	Summary string
	// Sealed: the client keeps sealed reasoning and sends it back.
	Sealed bool
	Field  string
}

// use notes that the request makes use of a feature, by the client's name of the
// field. What becomes of it, rules says.
func (c *Conversation) use(f feature, field string) {
	if c.uses[f] < maxUses {
		c.uses[f]++
		c.used = append(c.used, usedField{f, field})
	}
}

type usedField struct {
	feature feature
	field   string
}

// maxUses bounds how many uses of one feature are noted: one is enough to refuse
// it, and no more fields than that are named.
const maxUses = maxDropped

// bad is an error for the client about a field.
func bad(field, format string, args ...any) error {
	return &dialect.BadRequest{Param: field, Message: fmt.Sprintf(format, args...)}
}

// check puts the turns into the form that the writers expect: one turn for what
// the assistant did at a stretch, and all results of its calls in the user's turn
// directly behind it, in front of everything else. A result without a call and a
// call without a result, in the middle of the history, are errors.
func (c *Conversation) check() error {
	c.join()
	if c.From == dialect.Gemini {
		c.joinThoughts()
	}
	kept := make([]Turn, 0, len(c.Turns))
	var open []openCall
	for i := range c.Turns {
		t := c.Turns[i]
		var results []Part
		if t.Role != System {
			var err error
			if results, t.Parts, err = cutResults(t.Parts, open); err != nil {
				return err
			}
		}
		if len(results) > 0 {
			// Behind the turn with the calls, whatever stood in between.
			at := open[0].turn + 1
			switch {
			case at < len(kept) && kept[at].Role == User && hasResult(&kept[at]):
				kept[at].Parts = append(kept[at].Parts, results...)
			case at == len(kept) && t.Role == User:
				t.Parts = append(results, t.Parts...)
			default:
				kept = slices.Insert(kept, at, Turn{Role: User, Parts: results, Field: t.Field})
			}
		}
		if t.Role == Assistant {
			if err := unanswered(open); err != nil {
				return err
			}
			open = c.calls(&t, len(kept), open[:0])
		}
		if len(t.Parts) > 0 {
			kept = append(kept, t)
		}
	}
	if len(open) > 0 && open[0].turn < len(kept)-1 {
		if err := unanswered(open); err != nil {
			return err
		}
	}
	c.Turns = kept
	return nil
}

// openCall is a call whose result is still to come.
type openCall struct {
	call *ToolCall
	turn int
	done bool
}

// calls lists the calls of a turn. Those of dialects that know no ids get one
// which stays the same from request to request.
func (c *Conversation) calls(t *Turn, turn int, into []openCall) []openCall {
	for i := range t.Parts {
		if call := t.Parts[i].Call; t.Parts[i].Kind == Call {
			if call.ID == "" {
				call.ID = mintedID(turn, i)
			}
			into = append(into, openCall{call: call, turn: turn})
		}
	}
	return into
}

// maxMatching bounds the work of finding the calls of a turn's results: some
// thousands of each.
const maxMatching = 1 << 24

// cutResults takes the results out of parts and tells each its call.
func cutResults(parts []Part, open []openCall) (results, rest []Part, err error) {
	for i := range parts {
		p := parts[i]
		if p.Kind != Result {
			rest = append(rest, p)
			continue
		}
		r := p.Result
		if len(open)*len(parts) > maxMatching {
			return nil, nil, bad(p.Field, "there are too many tool calls and results in one turn")
		}
		at := slices.IndexFunc(open, func(o openCall) bool {
			return !o.done && (r.ID != "" && o.call.ID == r.ID || r.ID == "" && o.call.Name == r.Name)
		})
		if at < 0 {
			name := r.ID
			if name == "" {
				name = r.Name
			}
			return nil, nil, bad(p.Field, "the tool result %q answers no call that is open", clip(name))
		}
		open[at].done = true
		call := open[at].call
		r.ID, r.Name, r.Custom = call.ID, call.Name, call.Custom
		results = append(results, p)
	}
	return results, rest, nil
}

func unanswered(open []openCall) error {
	for _, o := range open {
		if !o.done {
			return bad("", "the tool call %q has no result", clip(o.call.ID))
		}
	}
	return nil
}

// join makes one turn of the assistant's turns that follow each other.
func (c *Conversation) join() {
	kept := c.Turns[:0]
	for _, t := range c.Turns {
		if n := len(kept); n > 0 && t.Role == Assistant && kept[n-1].Role == Assistant {
			kept[n-1].Parts = append(kept[n-1].Parts, t.Parts...)
			continue
		}
		kept = append(kept, t)
	}
	clear(c.Turns[len(kept):])
	c.Turns = kept
}

// joinThoughts makes one part of thoughts that came in pieces of a stream, of which
// the last has the seal of them all: Gemini's SDKs keep the pieces as they are.
func (c *Conversation) joinThoughts() {
	for i := range c.Turns {
		t := &c.Turns[i]
		kept := t.Parts[:0]
		first := 0 // of the pieces under way
		for _, p := range t.Parts {
			switch {
			case p.Kind != Thought:
				first = len(kept) + 1
			case p.State.Redacted:
				first = len(kept) + 1
			case !p.State.Empty():
				var text strings.Builder
				for _, piece := range kept[first:] {
					text.WriteString(piece.Text)
				}
				text.WriteString(p.Text)
				p.Text = text.String()
				kept = kept[:first]
				first++
			}
			kept = append(kept, p)
		}
		clear(t.Parts[len(kept):])
		t.Parts = kept
	}
}

func hasResult(t *Turn) bool {
	return slices.ContainsFunc(t.Parts, func(p Part) bool { return p.Kind == Result })
}

// clip shortens what a client sent for an error message.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
