package translate

import (
	"crypto/rand"
	"strings"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// EventKind says what an event is.
type EventKind uint8

const (
	// Start opens the answer: ID and Model. It comes first, and once.
	Start EventKind = iota
	// TextPiece, RefusalPiece and ThoughtPiece add Text to a block of their kind.
	// Another kind of event ends the block before it.
	TextPiece
	RefusalPiece
	ThoughtPiece
	// Sealed is the State of the thought under way; where none is, of a thought
	// without words. It ends the thought.
	Sealed
	// BlockEnd ends the block of text or thought under way: what follows is a new
	// one, also of the same kind.
	BlockEnd
	// CallStart begins the call number Call: ID, Name, Custom, Space and State.
	// CallPiece adds Text to its arguments, CallEnd ends it. Calls may overlap.
	CallStart
	CallPiece
	CallEnd
	// Finish says why the answer ended. It comes last, and once.
	Finish
)

// Event is one step of an answer, in no dialect.
type Event struct {
	Kind EventKind
	// Text is a piece of text, decoded. A piece may end in the middle of a
	// character only if the upstream cut it there.
	Text []byte

	ID, Model string

	Call   int
	Name   string
	Space  string
	Custom bool
	State  State

	Reason Reason
	// StopSequence is the one that ended the answer, if the upstream says it.
	StopSequence string
}

// Reason says why an answer ended.
type Reason uint8

const (
	Stop         Reason = iota
	StopSequence        // one of the client's stop sequences
	Calls               // tools are to be called
	Length              // the bound on tokens was reached
	ContextFull         // the context window was
	Filtered            // content was filtered, or the prompt blocked
	Declined            // the model refused, in words of its own
	Paused
	BadCall // the model called a tool in a way that cannot be read
	Unknown
)

// reply is a whole answer.
type reply struct {
	id, model    string
	parts        []Part
	reason       Reason
	stopSequence string
}

// gather puts a whole answer together from its events.
type gather struct {
	reply
	bufs  [][]byte    // of the parts: text or arguments, until Finish
	open  bool        // the last part takes more text
	calls map[int]int // by number: index of the part
	ended bool
}

func (g *gather) take(e *Event) {
	switch e.Kind {
	case Start:
		g.id, g.model = e.ID, e.Model
	case TextPiece:
		g.text(Text, e.Text)
	case RefusalPiece:
		g.text(Refusal, e.Text)
	case ThoughtPiece:
		g.text(Thought, e.Text)
	case Sealed:
		if n := len(g.parts); !g.open || g.parts[n-1].Kind != Thought {
			g.add(Part{Kind: Thought})
		}
		g.parts[len(g.parts)-1].State = e.State
		g.open = false
	case BlockEnd:
		g.open = false
	case CallStart:
		if g.calls == nil {
			g.calls = map[int]int{}
		}
		g.calls[e.Call] = len(g.parts)
		g.add(Part{
			Kind: Call, State: e.State,
			Call: &ToolCall{ID: e.ID, Name: e.Name, Space: e.Space, Custom: e.Custom},
		})
		g.open = false
	case CallPiece:
		if i, ok := g.calls[e.Call]; ok {
			g.bufs[i] = append(g.bufs[i], e.Text...)
		}
	case CallEnd:
	case Finish:
		g.reason, g.stopSequence, g.ended = e.Reason, e.StopSequence, true
		for i := range g.parts {
			if p := &g.parts[i]; p.Kind == Call {
				p.Call.Arguments = string(g.bufs[i])
			} else {
				p.Text = string(g.bufs[i])
			}
		}
	}
}

func (g *gather) add(p Part) {
	g.parts = append(g.parts, p)
	g.bufs = append(g.bufs, nil)
}

// text adds a piece to the block under way, or begins one.
func (g *gather) text(kind Kind, piece []byte) {
	if n := len(g.parts); g.open && g.parts[n-1].Kind == kind {
		g.bufs[n-1] = append(g.bufs[n-1], piece...)
		return
	}
	g.add(Part{Kind: kind})
	g.bufs[len(g.bufs)-1] = append([]byte(nil), piece...)
	g.open = true
}

// answerID is the id of an answer as the client sees it: the upstream's with the
// prefix of the client's dialect, or one of floway's own.
func (a *Answer) answerID(prefix, upstream string) string {
	for _, p := range [...]string{"chatcmpl-", "resp_", "msg_"} {
		upstream = strings.TrimPrefix(upstream, p)
	}
	if upstream == "" || len(upstream) > 256 || !(nameRule{most: 256, extra: ".:"}).allowed(upstream) {
		return a.newID(prefix)
	}
	return prefix + upstream
}

// newID makes an id that no other answer has.
func (a *Answer) newID(prefix string) string {
	if a.r.o.NewID != nil {
		return prefix + a.r.o.NewID()
	}
	return prefix + rand.Text()
}

// collector is the encoder for clients that asked for no stream.
type collector struct {
	a *Answer
	g gather
}

func newCollector(a *Answer) encoder { return &collector{a: a} }

func (c *collector) take(e *Event) { c.g.take(e) }

func (c *collector) finish(t *usage.Tokens) {
	a := c.a
	switch a.r.c.From {
	case dialect.Chat:
		a.writeChatReply(&c.g.reply, t)
	case dialect.Responses:
		a.writeResponsesReply(&c.g.reply, t)
	case dialect.Messages:
		a.writeMessagesReply(&c.g.reply, t)
	case dialect.Gemini:
		a.writeGeminiReply(&c.g.reply, t)
	}
}

// fail has nothing to do: nothing was sent, and the error is an answer of its own.
func (c *collector) fail(*dialect.Error) {}
