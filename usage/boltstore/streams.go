package boltstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/floway/floway/usage"
)

// streamPosition is a stream's position as the file has it: sequence number,
// epoch, chain, time of the last move and number of dead letters as varints, then
// the totals as usage.Counts.Append has them.
type streamPosition struct {
	usage.StreamPosition
	rest []byte // fields of a later version
}

// position reads the position of a stream; known is false if there is none.
func position(tx *bbolt.Tx, stream usage.StreamID) (p streamPosition, known bool, err error) {
	p.Stream = stream
	v := tx.Bucket(streamsBucket).Get(stream[:])
	if v == nil {
		return p, false, nil
	}
	var numbers [5]uint64
	for i := range numbers {
		n := 0
		if numbers[i], n = binary.Uvarint(v); n <= 0 {
			return p, false, fmt.Errorf("%w: the position of stream %v", errForeign, stream)
		}
		v = v[n:]
	}
	p.Seq, p.Epoch, p.Chain = numbers[0], numbers[1], uint32(numbers[2])
	p.Seen, p.DeadLetters = time.Unix(0, int64(numbers[3])).UTC(), numbers[4]
	totals, rest, err := usage.ParseCounts(v)
	if err != nil {
		return p, false, fmt.Errorf("%w: the totals of stream %v: %w", errForeign, stream, err)
	}
	p.Totals, p.rest = totals, append([]byte(nil), rest...)
	return p, true, nil
}

func (p *streamPosition) append(b []byte) []byte {
	for _, n := range []uint64{p.Seq, p.Epoch, uint64(p.Chain), uint64(p.Seen.UnixNano()), p.DeadLetters} {
		b = binary.AppendUvarint(b, n)
	}
	return append(p.Totals.Append(b), p.rest...)
}

// letter is a dead letter as the file has it.
type letter struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"`
	Where  string    `json:"where"`
	Field  uint8     `json:"field"`
	Delta  int64     `json:"delta"`
	Reason string    `json:"reason"`
}

func encodeLetter(l *usage.DeadLetter) ([]byte, error) {
	return json.Marshal(letter{l.Time, l.Stream.String(), l.Where, uint8(l.Field), l.Delta, l.Reason})
}

func parseLetter(v []byte) (usage.DeadLetter, error) {
	var l letter
	if err := json.Unmarshal(v, &l); err != nil {
		return usage.DeadLetter{}, fmt.Errorf("%w: a dead letter: %w", errForeign, err)
	}
	stream, err := usage.ParseStreamID(l.Stream)
	if err != nil {
		return usage.DeadLetter{}, fmt.Errorf("%w: a dead letter: %w", errForeign, err)
	}
	return usage.DeadLetter{
		Time: l.Time, Stream: stream, Where: l.Where, Field: usage.Field(l.Field), Delta: l.Delta, Reason: l.Reason,
	}, nil
}
