// Package audit looks at what a gateway has left, from outside: the files of its
// log, the keys of its Redis or the rows of its bbolt file, and the ledger of the
// upstream that it called. It says where they differ.
//
// It shares no code with the gateway. It reads formats as they are documented, so
// that a mistake which the gateway makes when it writes and again when it reads
// does not cancel itself out.
package audit

import "fmt"

// Counts are the counters of one row, by the numbers that they have on disk.
type Counts [fields]int64

// The numbers of the counters.
const (
	attempts           = 0
	requests           = 1
	errored            = 2
	inputTokens        = 3
	cacheReadTokens    = 4
	cacheWriteTokens   = 5
	cacheWrite1hTokens = 6
	outputTokens       = 7
	reasoningTokens    = 8
	toolPromptTokens   = 9
	inAudioTokens      = 10
	inImageTokens      = 11
	outAudioTokens     = 12
	outImageTokens     = 13
	audioMillis        = 14
	imageCount         = 15
	costNanos          = 16
	unpricedAttempts   = 17
	estimatedAttempts  = 18
	unknownAttempts    = 19
	unknownInput       = 20
	unknownOutput      = 21
	unknownCost        = 22
	durationMillis     = 23
	firstByteMillis    = 24
	firstByteCount     = 25
	durationHist       = 26 // 20 of them
	firstByteHist      = 46 // 20 of them
	fields             = 66
)

var fieldNames = [...]string{
	"attempts", "requests", "errors", "input", "cache read", "cache write", "cache write 1h", "output", "reasoning",
	"tool prompt", "audio in", "images in", "audio out", "images out", "audio ms", "images", "cost", "unpriced",
	"estimated", "unknown", "unknown input", "unknown output", "unknown cost", "duration", "first byte", "first bytes",
}

func fieldName(f int) string {
	if f < len(fieldNames) {
		return fieldNames[f]
	}
	return fmt.Sprintf("histogram %d", f)
}

func (c *Counts) add(d *Counts, sign int64) {
	for f, v := range d {
		c[f] += sign * v
	}
}

// Key names a row: table, bucket and names, as in
//
//	h 2026112310 alice|team|mock|k1|mock-chat
//	d 20261123 alice|team|mock|k1|mock-chat
//	d1 20261123 client alice
//	m1 202611 key mock|k1
type Key string
