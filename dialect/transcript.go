package dialect

import (
	"encoding/binary"
	"strings"
)

// Transcript keeps what an answer says until it is known whether anybody will ask:
// only when the answer breaks off, or ends without a report of usage, its texts
// are read. Events of a stream are nearly equal but for the text, so of most only
// the difference to an earlier one is kept: about 6 bytes, found in 50 ns.
//
// A Transcript belongs to one goroutine at a time. Its zero value keeps nothing.
type Transcript struct {
	// Room is what it grows in. Without it nothing is kept.
	Room Room

	// kept is a row of entries: how many bytes an event has in common with the
	// anchor at its beginning, twice, plus one for a piece that goes on from the
	// entry before; how many at its end; how many are between; and these.
	kept   []byte
	anchor span // in kept: the last event that was kept whole
	// How many bytes were given to it, and how many of them it has not kept; once
	// something is missing nothing more is kept.
	heard, missed int64
}

// Room bounds how much transcripts take in all.
type Room interface {
	// Grow takes n bytes; false if they are not there.
	Grow(n int) bool
	// Shrink gives n bytes back.
	Shrink(n int)
}

const (
	firstScript = 512
	// freeScript is what a transcript takes without asking for room, and keeps from
	// one answer for the next.
	freeScript = 4 << 10
	// maxScript bounds what is kept of one answer.
	maxScript = 1 << 20
)

// Move returns the transcript with all that it holds, and leaves an empty one.
func (t *Transcript) Move() Transcript {
	moved := *t
	*t = Transcript{}
	return moved
}

// Drop empties the transcript and gives its room back.
func (t *Transcript) Drop() {
	kept := t.kept[:0]
	if grown := cap(kept) - freeScript; grown > 0 {
		t.Room.Shrink(grown)
		kept = nil
	}
	*t = Transcript{kept: kept}
}

// event keeps an event's data. Pieces may follow.
func (t *Transcript) event(data []byte) {
	if !t.hears(data) {
		return
	}
	a := t.anchor.of(t.kept)
	n := min(len(a), len(data))
	head := 0
	for head+8 <= n && binary.LittleEndian.Uint64(a[head:]) == binary.LittleEndian.Uint64(data[head:]) {
		head += 8
	}
	for head < n && a[head] == data[head] {
		head++
	}
	tail := 0
	for n -= head; tail+8 <= n && binary.LittleEndian.Uint64(a[len(a)-tail-8:]) == binary.LittleEndian.Uint64(data[len(data)-tail-8:]); {
		tail += 8
	}
	for tail < n && a[len(a)-1-tail] == data[len(data)-1-tail] {
		tail++
	}
	if head+tail < len(data)/2 {
		head, tail = 0, 0
	}
	if t.entry(2*head, tail, data[head:len(data)-tail], len(data)) && head+tail == 0 {
		t.anchor = span{len(t.kept) - len(data), len(t.kept)}
	}
}

// piece keeps a part of what is too long to be seen at once.
func (t *Transcript) piece(p []byte) {
	if len(p) > 0 && t.hears(p) {
		t.entry(1, 0, p, len(p))
	}
}

func (t *Transcript) hears(data []byte) bool {
	t.heard += int64(len(data))
	if t.missed > 0 {
		t.missed += int64(len(data))
	}
	return t.missed == 0 && t.Room != nil
}

// entry keeps what stands for n bytes.
func (t *Transcript) entry(head, tail int, between []byte, n int) bool {
	need := len(t.kept) + 3*binary.MaxVarintLen32 + len(between)
	if need > cap(t.kept) && !t.grow(need) {
		t.missed += int64(n)
		return false
	}
	t.kept = binary.AppendUvarint(t.kept, uint64(head))
	t.kept = binary.AppendUvarint(t.kept, uint64(tail))
	t.kept = binary.AppendUvarint(t.kept, uint64(len(between)))
	t.kept = append(t.kept, between...)
	return true
}

func (t *Transcript) grow(need int) bool {
	size := max(firstScript, 2*cap(t.kept))
	for size < need {
		size *= 2
	}
	if size > maxScript || size > freeScript && !t.Room.Grow(size-max(cap(t.kept), freeScript)) {
		return false
	}
	t.kept = append(make([]byte, 0, size), t.kept...)
	return true
}

// entries calls each for the data of the events that were kept, or for all of
// another answer.
func (t *Transcript) entries(each func(data []byte)) {
	var data, anchor []byte
	begun := false
	for rest := t.kept; len(rest) > 0; {
		head, n := binary.Uvarint(rest)
		rest = rest[n:]
		tail, n := binary.Uvarint(rest)
		rest = rest[n:]
		size, n := binary.Uvarint(rest)
		between := rest[n : n+int(size)]
		rest = rest[n+int(size):]
		if head&1 == 1 {
			data, begun = append(data, between...), true
			continue
		}
		if begun {
			each(data)
		}
		if head /= 2; head+tail == 0 {
			anchor = between
		}
		data = append(append(append(data[:0], anchor[:head]...), between...), anchor[len(anchor)-int(tail):]...)
		begun = true
	}
	if begun {
		each(data)
	}
}

// Texts calls yield for each text that the model wrote, put together of the pieces
// in which it came. The answer is as many times as long as they are.
func (t *Transcript) Texts(events bool, yield func(text string)) (times float64) {
	lanes := map[string]*strings.Builder{}
	var order []*strings.Builder
	add := func(lane, text string) {
		b := lanes[lane]
		if b == nil {
			if len(order) == maxLanes {
				lane = ""
			}
			if b = lanes[lane]; b == nil {
				b = new(strings.Builder)
				lanes[lane], order = b, append(order, b)
			}
		}
		b.WriteString(text)
	}
	t.entries(func(data []byte) {
		switch first := trimBlanks(data); {
		case len(first) > 0 && (first[0] == '{' || first[0] == '['):
			answerTexts(events, data, add)
		case !events:
			add("", string(data)) // a transcription without JSON around it
		}
	})
	for _, b := range order {
		yield(b.String())
	}
	if kept := t.heard - t.missed; t.missed > 0 && kept > 0 {
		return float64(t.heard) / float64(kept)
	}
	return 1
}

// maxLanes bounds how many texts are told apart.
const maxLanes = 1000
