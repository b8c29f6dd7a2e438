package usage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// StreamID names one ledger for ever: random, made with the ledger, never
// configured and never derived from a host's name.
type StreamID [16]byte

// String is the id in hexadecimal.
func (s StreamID) String() string { return hex.EncodeToString(s[:]) }

// MarshalText is String for JSON.
func (s StreamID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText is ParseStreamID for JSON.
func (s *StreamID) UnmarshalText(text []byte) (err error) {
	*s, err = ParseStreamID(string(text))
	return err
}

// ParseStreamID is the inverse of StreamID.String.
func ParseStreamID(text string) (s StreamID, err error) {
	if len(text) != hex.EncodedLen(len(s)) {
		return s, fmt.Errorf("%.40q is not the id of a stream: %d hexadecimal digits expected", text, hex.EncodedLen(len(s)))
	}
	if _, err := hex.Decode(s[:], []byte(text)); err != nil {
		return StreamID{}, fmt.Errorf("%.40q is not the id of a stream: %w", text, err)
	}
	return s, nil
}

// Position is how far a store has taken a stream in.
type Position struct {
	// Seq is the sequence number of the last record applied.
	Seq uint64
	// Epoch is that of the opening that applied it; lower epochs are refused.
	Epoch uint64
	// Chain is the ledger's checksum chain at Seq: a ledger that has another
	// chain at this number is not the one that wrote here.
	Chain uint32
	// Since is the last record before that opening, SinceChain the chain there. A
	// copy of the ledger that has the same chain at this number has the same
	// records up to it. Zero where the store does not keep them, because only one
	// process can have it open.
	Since      uint64
	SinceChain uint32
	// Totals are all sums that this stream ever raised. Over all streams they
	// equal the sums of all rows of one table whenever the store is quiet.
	Totals Counts
	// DeadLetters is how many increments of this stream the store ever had to put
	// aside because a counter could not take them. When it rises somebody must
	// look: Audit lists them.
	DeadLetters uint64
}

// Greeting is what a store says of itself when a ledger opens it, reconnects to
// it or looks whether it still is what it was.
type Greeting struct {
	// Genesis is the random name that the store got when it was made. Another
	// one than last time means that the store was wiped or exchanged.
	Genesis string
	// Known says whether the store has a position for the stream.
	Known bool
	// Lost says, of a stream without a position, that the store has counted some of
	// it all the same, or may have: to send it again could count twice. If not Lost
	// the store has nothing of the stream, perhaps because it went back to a time
	// before it did.
	Lost bool
	// Position is that position.
	Position Position
	// Time is the store's own clock.
	Time time.Time
	// Warning says what an operator should change; empty if nothing. Example:
	// an eviction policy that may drop counters.
	Warning string
}

// Audit is what a check of the accounts looks at beside the sums.
type Audit struct {
	// Streams are the positions of all streams, by ascending id.
	Streams []StreamPosition
	// Late is what came when its bucket was already past its retention: it is in
	// the streams' totals and the months, and in no bucket of the table.
	LateHours, LateDays Counts
	// Retired is the sum of the totals of all streams that the store let go of,
	// because they did not move for StreamLife, and RetiredLetters that of their
	// dead letters. They are no longer in Streams.
	Retired        Counts
	RetiredLetters uint64
	// DeadLetters are the latest increments that could not be booked, oldest
	// first, at most MaxDeadLetters.
	DeadLetters []DeadLetter
}

// StreamLife is how long a store that many instances feed keeps the position of a
// stream after nobody used it any more.
const StreamLife = 90 * 24 * time.Hour

// StreamPosition is the position of one stream.
type StreamPosition struct {
	Stream StreamID
	Position
	// Seen is when the stream last moved, by the store's clock.
	Seen time.Time
}

// DeadLetter is an increment that a counter could not take: it would have passed
// the largest number, or something that is no counter stands in its place.
type DeadLetter struct {
	// Time is when it happened, by the store's clock.
	Time   time.Time `json:"time"`
	Stream StreamID  `json:"stream"`
	// Where says which counter: a table, bucket and key in the store's own words.
	Where  string `json:"where"`
	Field  Field  `json:"field"`
	Delta  int64  `json:"delta"`
	Reason string `json:"reason"`
}

// MaxDeadLetters is how many dead letters a store keeps.
const MaxDeadLetters = 1000

var (
	// ErrMismatch: the store's position is not the batch's From. Nothing was
	// changed; the answer carries the position that the store has. A batch that
	// was applied and whose reply got lost ends here too when it is sent again:
	// the position is then the batch's To.
	ErrMismatch = errors.New("usage: the store stands elsewhere in the stream")
	// ErrFenced: a later opening of the same ledger has written. Nothing was
	// changed, and this opening must not write again.
	ErrFenced = errors.New("usage: a later opening of this ledger has taken over")
)

// What can be wrong with a store, to be found by errors.Is. The message of the
// error that wraps one says which store it is and what to do. All but ErrClosed
// may pass: the ledger keeps everything until the store takes it.
var (
	ErrUnreachable = errors.New("cannot be reached")
	ErrCredentials = errors.New("refuses the credentials")
	ErrForbidden   = errors.New("does not let this user do it")
	ErrReadOnly    = errors.New("is read-only")
	ErrLoading     = errors.New("is not ready yet")
	ErrFull        = errors.New("is full")
	ErrForeign     = errors.New("holds something that floway did not write")
	ErrNewer       = errors.New("was written by a later version of floway")
	ErrInUse       = errors.New("is in use by another process")
	ErrMoved       = errors.New("has given its history away")
	ErrClosed      = errors.New("is closed")
)

// Store keeps sums and the position up to which each stream was taken in. All
// methods may be called at the same time. Errors that are neither ErrMismatch nor
// ErrFenced mean that the store could not be reached or could not do it; the
// caller may call again with the same values, because the position decides what
// counts.
type Store interface {
	// Hello greets the store in the name of a stream. A store that is new makes
	// its genesis now.
	Hello(ctx context.Context, stream StreamID) (Greeting, error)
	// Apply raises the sums and moves the stream's position in one atomic step.
	// It returns the position that the store then has. A stream that the store
	// does not know stands at 0. A single increment that cannot be booked does
	// not hold up the rest: it becomes a dead letter.
	Apply(ctx context.Context, b *Batch) (Position, error)
	// Scan calls yield for each row of one bucket of a table, in no order, until
	// yield returns false. bucket is the start of the hour, day or month in UTC.
	// dim is looked at for the tables of single dimensions only. Each row is as
	// some batch left it; two rows may differ by the batches applied meanwhile.
	// The Counts belong to the store and are valid until yield returns, which
	// must not call the store.
	Scan(ctx context.Context, table Table, dim Dimension, bucket time.Time, yield func(Key, *Counts) bool) error
	// Months lists the starts of the months for which there are sums, ascending.
	Months(ctx context.Context) ([]time.Time, error)
	// Audit reads what a check of the accounts needs.
	Audit(ctx context.Context) (Audit, error)
	// Retention is how long the store keeps hours and days.
	Retention() Retention
	// MaxIncrements is how many counters one batch should raise at most (see
	// Batch.Full). The more, the fewer rows are written again and again; the fewer,
	// the shorter a batch holds others up.
	MaxIncrements() int
	// Close lets go of everything. Positions and sums stay.
	Close() error
}
