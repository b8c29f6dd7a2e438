// Package usage counts what requests cost: the tokens of every attempt, the sums
// made of them, the store that keeps the sums and the questions asked of it.
//
// The package itself needs only the standard library. The two stores live in
// boltstore and redisstore; the log that feeds them lives in ledger.
package usage

import "time"

// Tokens is what one attempt used, normalised once from the dialect of the
// upstream that served it.
//
// Input, CacheRead, CacheWrite, CacheWrite1h and Output are disjoint: each is
// priced at a rate of its own and their sum is the billed total. The other
// counts are subsets of those five or are not tokens at all; they are never
// added to a total.
type Tokens struct {
	// Input counts prompt tokens neither read from a cache nor written to one.
	Input int64
	// CacheRead counts prompt tokens that were read from a cache.
	CacheRead int64
	// CacheWrite counts prompt tokens written to a cache with the default life.
	CacheWrite int64
	// CacheWrite1h counts prompt tokens written to a cache that keeps them an hour.
	CacheWrite1h int64
	// Output counts everything generated and billed: reasoning, refusals and
	// tool arguments included.
	Output int64

	// Reasoning is the part of Output that was thought and not said. It means
	// something only if ReasoningKnown; a reported zero is not an absent count.
	Reasoning      int64
	ReasoningKnown bool
	// ToolPrompt is the part of Input that tools of the upstream put there.
	ToolPrompt int64
	// Parts of Input and Output that were not text.
	InAudio, InImage, OutAudio, OutImage int64

	// AudioMillis is audio billed by its length, in milliseconds.
	AudioMillis int64
	// Images is the number of images billed by the piece.
	Images int64

	// Tier is the service tier that the answer names; empty for the standard one.
	Tier string
	// Anomaly says which rule of counting the upstream's numbers broke; empty
	// if none.
	Anomaly string
}

// InputTotal is all of the prompt: fresh, read from a cache and written to one.
func (t *Tokens) InputTotal() int64 {
	return t.Input + t.CacheRead + t.CacheWrite + t.CacheWrite1h
}

// Total is everything that is billed by the token.
func (t *Tokens) Total() int64 { return t.InputTotal() + t.Output }

// Source says where a count comes from.
type Source uint8

const (
	// Unknown: the attempt was sent and nobody can say what it used.
	Unknown Source = iota
	// Upstream: the upstream reported the numbers.
	Upstream
	// Estimated: floway made the numbers from the bytes or the text it saw.
	Estimated
)

func (s Source) String() string {
	switch s {
	case Upstream:
		return "upstream"
	case Estimated:
		return "estimated"
	default:
		return "unknown"
	}
}

// Outcome is how an attempt ended, as the accounts and the metrics name it.
type Outcome uint8

const (
	// Served: the upstream answered with success, to its end.
	Served Outcome = iota + 1
	// Refused: the upstream answered with an error status, or with an error
	// before any content.
	Refused
	// Failed: no answer came: no connection, a broken one, or a time-out.
	Failed
	// Cut: the answer began and broke off, or ended in an error event.
	Cut
	// Left: the client went away before the answer's end.
	Left
)

func (o Outcome) String() string {
	switch o {
	case Served:
		return "served"
	case Refused:
		return "refused"
	case Failed:
		return "failed"
	case Cut:
		return "cut"
	case Left:
		return "left"
	default:
		return "open"
	}
}

// Record is one attempt: one try of one request at one key of one upstream. The
// first part is known before the attempt is sent, the rest when it has ended.
type Record struct {
	// Request is the id of the request, as X-Request-Id gives it.
	Request string
	// Attempt numbers the attempts of the request, from 1.
	Attempt int
	// Start is when the attempt was sent. Time is when it was settled: it
	// decides once, at the settle, in which hour and day the attempt is counted.
	Start, Time time.Time

	// What the sums are kept by. Model is the public name that the target
	// serves; Key is the label of the upstream's key.
	Client, Group, Upstream, Key, Model string
	// Asked is the model that the client named, Answered the one that the
	// upstream named.
	Asked, Answered string
	// Operation is what was asked for: chat, responses, embeddings, …
	Operation string

	// Affinity is what the caller wants to find again in the log after a restart,
	// and other instances to know (see Note): where a conversation lives. It means
	// nothing to the account, which keeps MaxName bytes of it.
	Affinity string

	// Outcome is how the attempt ended; zero while it is open.
	Outcome Outcome
	// Status is the upstream's HTTP status; 0 if none came.
	Status int
	// Final marks the last attempt of its request: exactly one a request.
	Final bool

	Tokens Tokens
	Source Source
	// Partial: the upstream gave some of the numbers, the rest is estimated.
	Partial bool
	// Estimating: the numbers come from byte counts; a correction follows.
	Estimating bool

	// CostNanos is what the tokens cost, in nano-dollars, at the price that held
	// when the attempt was admitted. It means something only if Priced; an
	// attempt without a known price has no cost rather than a cost of zero.
	CostNanos int64
	Priced    bool

	// FirstByte is the time from Start to the first event with content, or to
	// the first byte of an answer without events; 0 if none came. Duration is
	// the time from Start to the end.
	FirstByte, Duration time.Duration
	// RequestBytes and ResponseBytes are the sizes of the bodies exchanged with
	// the upstream.
	RequestBytes, ResponseBytes int64

	// Seq is the number that the ledger gave the reserve; 0 before. It belongs
	// to the ledger.
	Seq uint64
}

// Note is the part of a settled record that other instances want to know.
type Note struct {
	// Upstream, Affinity and Time are as in the record.
	Upstream string    `json:"upstream"`
	Affinity string    `json:"affinity"`
	Time     time.Time `json:"time"`
}

// Note returns the record's.
func (r *Record) Note() Note { return Note{r.Upstream, r.Affinity, r.Time} }
