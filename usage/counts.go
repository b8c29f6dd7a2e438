package usage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Counts is what the sums hold of a set of attempts. Index it by Field.
type Counts [Fields]int64

// Field is one counter of the sums. The numbers are in files and in Redis: a new
// field goes behind the last one and none ever changes its number or meaning.
type Field uint8

const (
	Attempts Field = iota // attempts settled; not those that a crash left open
	Requests              // attempts flagged final, so requests that were sent on
	Errors                // attempts settled with another outcome than Served
	InputTokens
	CacheReadTokens
	CacheWriteTokens
	CacheWrite1hTokens
	OutputTokens
	ReasoningTokens
	ToolPromptTokens
	InAudioTokens
	InImageTokens
	OutAudioTokens
	OutImageTokens
	AudioMillis
	ImageCount
	CostNanos         // nano-dollars
	UnpricedAttempts  // attempts with tokens and without a known price
	EstimatedAttempts // attempts whose tokens are estimated, wholly or partly
	UnknownAttempts   // attempts whose use of tokens nobody knows; see Record.Unknown
	// What unknown attempts are estimated at. It is in no other column.
	UnknownInputTokens
	UnknownOutputTokens
	UnknownCostNanos
	DurationMillis  // sum over attempts
	FirstByteMillis // sum over attempts that had a first byte
	FirstByteCount
	// Coarse histograms: bucket i counts values below 2^i milliseconds and not
	// below 2^(i-1); the last takes all the rest.
	DurationHist
	_durationHistEnd     = DurationHist + HistBuckets - 1
	FirstByteHist        = _durationHistEnd + 1
	Fields           int = int(FirstByteHist) + HistBuckets
)

// HistBuckets is the number of buckets of a histogram of the sums.
const HistBuckets = 20

var fieldNames = [...]string{
	Attempts:            "attempts",
	Requests:            "requests",
	Errors:              "errors",
	InputTokens:         "input_tokens",
	CacheReadTokens:     "cache_read_tokens",
	CacheWriteTokens:    "cache_write_tokens",
	CacheWrite1hTokens:  "cache_write_1h_tokens",
	OutputTokens:        "output_tokens",
	ReasoningTokens:     "reasoning_tokens",
	ToolPromptTokens:    "tool_prompt_tokens",
	InAudioTokens:       "in_audio_tokens",
	InImageTokens:       "in_image_tokens",
	OutAudioTokens:      "out_audio_tokens",
	OutImageTokens:      "out_image_tokens",
	AudioMillis:         "audio_ms",
	ImageCount:          "images",
	CostNanos:           "cost_nanos",
	UnpricedAttempts:    "unpriced_attempts",
	EstimatedAttempts:   "estimated_attempts",
	UnknownAttempts:     "unknown_attempts",
	UnknownInputTokens:  "unknown_input_tokens",
	UnknownOutputTokens: "unknown_output_tokens",
	UnknownCostNanos:    "unknown_cost_nanos",
	DurationMillis:      "duration_ms",
	FirstByteMillis:     "first_byte_ms",
	FirstByteCount:      "first_byte_count",
}

// String is the name that the field has in answers: attempts, input_tokens, …
func (f Field) String() string {
	switch {
	case f < DurationHist:
		return fieldNames[f]
	case f < FirstByteHist:
		return fmt.Sprintf("duration_hist_%d", f-DurationHist)
	case int(f) < Fields:
		return fmt.Sprintf("first_byte_hist_%d", f-FirstByteHist)
	default:
		return fmt.Sprintf("field_%d", uint8(f))
	}
}

// MarshalText is String for JSON.
func (f Field) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// Add raises c by d. Sums that pass the largest number stay there.
func (c *Counts) Add(d *Counts) {
	for f, v := range d {
		c[f] = saturate(c[f], v)
	}
}

// IsZero says whether nothing was counted.
func (c *Counts) IsZero() bool { return *c == Counts{} }

func saturate(a, b int64) int64 {
	switch s := a + b; {
	case a > 0 && b > 0 && s < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && s >= 0:
		return math.MinInt64
	default:
		return s
	}
}

// Append encodes c: for each field that is not zero, ascending, the field's
// number and its value as varints. The numbers of fields never change.
func (c *Counts) Append(b []byte) []byte {
	for f, v := range c {
		if v != 0 {
			b = binary.AppendUvarint(b, uint64(f))
			b = binary.AppendVarint(b, v)
		}
	}
	return b
}

var errCounts = errors.New("not an encoding of counts")

// ParseCounts decodes what Append encoded. Fields that only a later version
// knows come back in rest as they were; appended to the encoding of the known
// ones they survive.
func ParseCounts(b []byte) (c Counts, rest []byte, err error) {
	next := uint64(0) // the least field that may follow
	for p := b; len(p) > 0; {
		f, n := binary.Uvarint(p)
		if n <= 0 || f < next {
			return Counts{}, nil, errCounts
		}
		v, m := binary.Varint(p[n:])
		if m <= 0 {
			return Counts{}, nil, errCounts
		}
		if f < uint64(Fields) {
			c[f] = v
		} else if rest == nil {
			rest = p
		}
		next, p = f+1, p[n+m:]
	}
	return c, rest, nil
}
