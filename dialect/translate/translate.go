// Package translate lets a client of one dialect be served by an upstream of
// another. A request is read into a neutral Conversation and written in the
// upstream's dialect; an answer is read into neutral events and written in the
// client's. Each dialect has one codec; none knows any other.
//
// What a dialect cannot express is decided in one table, rules: what changes the
// answer is refused, advice is dropped and named.
package translate

import (
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// Options are what a translation depends on besides the request.
type Options struct {
	// Upstream is the name of the upstream that is asked: reasoning that only it
	// can read is sealed with it.
	Upstream string
	// Model is the model's name at the upstream.
	Model string
	// MaxTokens is what to ask for where the dialect wants a bound and the client
	// gave none; 0 for DefaultMaxTokens.
	MaxTokens int64
	// NoStreamOptions: the upstream does not know stream_options.
	NoStreamOptions bool
	// NoState: the upstream refused sealed reasoning that it had made itself.
	NoState bool
	// MaxTokensName is the member that bounds an answer in Chat Completions; empty
	// for max_completion_tokens where the model is one of OpenAI's by its name, and
	// max_tokens where it is not.
	MaxTokensName string
	// ReasoningName is the member of an assistant's message in which an upstream
	// of Chat Completions wants its reasoning back, as DeepSeek does in
	// reasoning_content; empty if it wants none.
	ReasoningName string
	// Omit are members of a request of Chat Completions that are advice and that
	// the upstream refuses: they are left out, and the client is told.
	Omit []string
	// Now is when the request came: the answer's time of creation.
	Now time.Time
	// NewID makes the random part of an id; nil for crypto/rand.Text.
	NewID func() string
}

// DefaultMaxTokens is asked for where a dialect wants a bound on the answer and
// neither the client nor the configuration gives one.
const DefaultMaxTokens = 32_000

// CallKind says what an operation asks for, as far as it translates.
type CallKind uint8

const (
	// Untranslated operations only pass through.
	Untranslated CallKind = iota
	// Conversing translates between all dialects.
	Conversing
	// Counting translates between the dialects that can count tokens (CountOf).
	Counting
	// Embedding translates between Chat Completions' side and Gemini's.
	Embedding
)

// KindOf returns the kind of an operation.
func KindOf(op dialect.Operation) CallKind {
	switch op {
	case dialect.ChatCompletions, dialect.CreateResponse, dialect.CreateMessage, dialect.GenerateContent, dialect.StreamContent:
		return Conversing
	case dialect.CountResponse, dialect.CountMessage, dialect.CountContent:
		return Counting
	case dialect.Embeddings, dialect.EmbedContent, dialect.BatchEmbedContents:
		return Embedding
	}
	return Untranslated
}

// Read reads a request of an operation that translates. Its errors are
// *dialect.BadRequest: they name the field and are meant for the client.
func Read(req *dialect.Request) (*Conversation, error) {
	kind := KindOf(req.Call.Op)
	c := &Conversation{From: req.Call.Op.Dialect(), Asked: req.Model, Stream: req.Stream, Counting: kind == Counting, size: len(req.Body)}
	s := newSource(req.Body)
	if kind == Embedding {
		readEmbeddings(c, req.Call.Op, s)
		if s.err != nil {
			return nil, s.err
		}
		return c, nil
	}
	switch c.From {
	case dialect.Chat:
		c.readChat(s)
	case dialect.Responses:
		c.readResponses(s)
	case dialect.Messages:
		c.readMessages(s)
	case dialect.Gemini:
		c.readGemini(s)
	}
	if s.err != nil {
		return nil, s.err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

// Request is a conversation as one upstream is asked for it.
type Request struct {
	// Op is what the upstream is asked for.
	Op dialect.Operation
	// Body is in the upstream's dialect.
	Body []byte
	// Dropped names the client's fields that the upstream does not get, or gets
	// with another meaning, without repetition, in the order of the request.
	Dropped []string

	c     *Conversation
	to    dialect.Dialect
	o     Options
	names names
	w     writer
}

// Write writes the conversation for an upstream. Its errors are
// *dialect.BadRequest: they name the field that the dialect cannot express.
// The conversation stays as it is and may be written again.
func (c *Conversation) Write(to dialect.Dialect, o *Options) (*Request, error) {
	r := &Request{c: c, to: to, o: *o}
	r.w.b = make([]byte, 0, c.size+c.size/8+1024)
	if err := r.applyRules(); err != nil {
		return nil, err
	}
	if c.embed != nil {
		r.writeEmbeddings()
		r.Body = r.w.b
		return r, nil
	}
	var err error
	switch to {
	case dialect.Chat:
		r.Op, err = dialect.ChatCompletions, r.writeChat()
	case dialect.Responses:
		r.Op, err = dialect.CreateResponse, r.writeResponses()
	case dialect.Messages:
		r.Op, err = dialect.CreateMessage, r.writeMessages()
	case dialect.Gemini:
		r.Op, err = dialect.GenerateContent, r.writeGemini()
		if c.Stream {
			r.Op = dialect.StreamContent
		}
	}
	if err != nil {
		return nil, err
	}
	if c.Counting {
		r.Op = CountOf(to)
	}
	r.Body = r.w.b
	return r, nil
}

// drop notes that the upstream does not get a field of the client's, or gets
// something else for it.
func (r *Request) drop(field string) {
	for _, d := range r.Dropped {
		if d == field {
			return
		}
	}
	if len(r.Dropped) < maxDropped {
		r.Dropped = append(r.Dropped, field)
	}
}

// maxDropped bounds how many fields are named.
const maxDropped = 64

// decoder reads an upstream's answer and hands what it finds to emit. The event
// that emit gets, and the text in it, are only good during the call.
type decoder interface {
	// event reads one event of a stream.
	event(name, data []byte)
	// whole reads an answer that is no stream.
	whole(body []byte)
	// end is called when the stream came to its end. It emits what is still to be
	// said: calls that were open, and Finish.
	end()
}

// encoder writes an answer in the client's dialect.
type encoder interface {
	// take writes what one event says.
	take(e *Event)
	// finish ends the answer. t is what it used; nil if nobody knows.
	finish(t *usage.Tokens)
	// fail ends a stream that broke off.
	fail(e *dialect.Error)
}

// Answer translates one answer of an upstream. It belongs to one goroutine.
type Answer struct {
	// Problem is what is wrong with the upstream's answer; nil if nothing is.
	Problem error

	r    *Request
	out  writer
	dec  decoder
	enc  encoder
	from bool // the upstream's answer is an event stream
}

// Answer makes ready for an answer to the request. events says whether the
// upstream's is an event stream; the client's is one if the client asked for it.
func (r *Request) Answer(events bool) *Answer {
	a := &Answer{r: r, from: events}
	switch {
	case r.c.embed != nil:
		e := &embedder{a: a}
		a.dec, a.enc = e, e
		return a
	case r.c.Counting:
		e := &counter{a: a}
		a.dec, a.enc = e, e
		return a
	}
	switch r.to {
	case dialect.Chat:
		a.dec = newChatDecoder(a)
	case dialect.Responses:
		a.dec = newResponsesDecoder(a)
	case dialect.Messages:
		a.dec = newMessagesDecoder(a)
	case dialect.Gemini:
		a.dec = newGeminiDecoder(a)
	}
	switch {
	case !r.c.Stream:
		a.enc = newCollector(a)
	case r.c.From == dialect.Chat:
		a.enc = newChatEncoder(a)
	case r.c.From == dialect.Responses:
		a.enc = newResponsesEncoder(a)
	case r.c.From == dialect.Messages:
		a.enc = newMessagesEncoder(a)
	case r.c.From == dialect.Gemini:
		a.enc = newGeminiEncoder(a)
	}
	return a
}

// Events reads whole events of the upstream's stream.
func (a *Answer) Events(p []byte) {
	dialect.EachEvent(p, func(name, data []byte) {
		if a.Problem == nil && len(data) > 0 {
			a.dec.event(name, data)
		}
	})
}

// Whole reads an upstream's answer that is no stream.
func (a *Answer) Whole(body []byte) {
	if a.Problem == nil {
		a.dec.whole(body)
	}
}

// End ends the answer after the upstream's has come to its end. t is what it
// used; nil if nobody knows. Where the answer turns out to have been broken,
// Problem says so and nothing is written.
func (a *Answer) End(t *usage.Tokens) {
	if a.from && a.Problem == nil {
		a.dec.end()
	}
	if a.Problem == nil {
		a.enc.finish(t)
	}
}

// Fail ends a stream that broke off with the dialect's error event. What follows
// it must be a broken connection.
func (a *Answer) Fail(e *dialect.Error) { a.enc.fail(e) }

// Take returns what has been written for the client since the last call. It is
// good until the next call of any method.
func (a *Answer) Take() []byte {
	out := a.out.b
	a.out.b = a.out.b[:0]
	return out
}

// ContentType is the media type of what is written.
func (a *Answer) ContentType() string {
	if a.r.c.Stream && !a.r.c.Array {
		return "text/event-stream"
	}
	return "application/json"
}

func (a *Answer) emit(e *Event) { a.enc.take(e) }

// broken notes that the upstream's answer makes no sense.
func (a *Answer) broken(err error) {
	if a.Problem == nil {
		a.Problem = err
	}
}
