package ledger

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/floway/floway/usage"
)

// A payload is a row of fields, each a byte of twice its number, plus one where
// bytes follow; then a varint, which is the value or the number of those bytes.
// Zero values are left out and unknown fields are passed over, so a log can be
// read by an older floway. The numbers are part of the format; 64 to 79 are kept
// for budgets, 80 to 89 for conversations.
const (
	fieldReserve   = 1 // the number of the reserve that the record is about
	fieldRequest   = 2
	fieldAttempt   = 3
	fieldStart     = 4 // microseconds, as all times
	fieldTime      = 5
	fieldClient    = 6
	fieldGroup     = 7
	fieldUpstream  = 8
	fieldKey       = 9
	fieldModel     = 10
	fieldAsked     = 11
	fieldAnswered  = 12
	fieldOperation = 13

	fieldOutcome = 16
	fieldStatus  = 17
	fieldFlags   = 18
	fieldSource  = 19

	fieldInput        = 20
	fieldCacheRead    = 21
	fieldCacheWrite   = 22
	fieldCacheWrite1h = 23
	fieldOutput       = 24
	fieldReasoning    = 25
	fieldToolPrompt   = 26
	fieldInAudio      = 27
	fieldInImage      = 28
	fieldOutAudio     = 29
	fieldOutImage     = 30
	fieldAudioMillis  = 31
	fieldImages       = 32
	fieldTier         = 33
	fieldAnomaly      = 34
	fieldCost         = 35

	fieldFirstByte     = 40
	fieldDuration      = 41
	fieldRequestBytes  = 42
	fieldResponseBytes = 43

	fieldAffinity = 80

	fieldWas = 50 // of a correction: the numbers before it, as a payload

	fieldEpoch = 90
	fieldNonce = 91 // makes two openings of two copies differ
	fieldFrom  = 92
	fieldTo    = 93
	fieldWhy   = 94
	fieldPart  = 95
	fieldParts = 96
	fieldList  = 97
)

const (
	flagFinal = 1 << iota
	flagPartial
	flagEstimating
	flagReasoningKnown
	flagPriced
)

// putInt and putString are split so that the check for nothing, which most fields
// are, is inlined.
func putInt(b []byte, field byte, v int64) []byte {
	if v == 0 {
		return b
	}
	return putVarint(b, field, v)
}

func putVarint(b []byte, field byte, v int64) []byte {
	u := uint64(v)<<1 ^ uint64(v>>63)
	if u < 0x80 {
		return append(b, field<<1, byte(u))
	}
	return binary.AppendUvarint(append(b, field<<1), u)
}

func putString(b []byte, field byte, s string) []byte {
	if s == "" {
		return b
	}
	return putText(b, field, s)
}

func putText(b []byte, field byte, s string) []byte {
	if len(s) > usage.MaxName || !utf8.ValidString(s) {
		s = tame(s)
	}
	if len(s) < 0x80 {
		b = append(b, field<<1|1, byte(len(s)))
	} else {
		b = binary.AppendUvarint(append(b, field<<1|1), uint64(len(s)))
	}
	return append(b, s...)
}

// tame bounds a name and makes it valid UTF-8, in which no magic bytes occur.
func tame(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), usage.MaxName)], "\uFFFD")
	for len(s) > usage.MaxName {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

func putTime(b []byte, field byte, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return putInt(b, field, t.UnixMicro())
}

// putRecord encodes all of a record: what is settled must be readable without its
// reserve, which may lie in a segment that is gone.
func putRecord(b []byte, r *usage.Record) []byte {
	b = putInt(b, fieldReserve, int64(r.Seq))
	b = putString(b, fieldRequest, r.Request)
	b = putInt(b, fieldAttempt, int64(r.Attempt))
	b = putTime(b, fieldStart, r.Start)
	b = putTime(b, fieldTime, r.Time)
	b = putString(b, fieldClient, r.Client)
	b = putString(b, fieldGroup, r.Group)
	b = putString(b, fieldUpstream, r.Upstream)
	b = putString(b, fieldKey, r.Key)
	b = putString(b, fieldModel, r.Model)
	b = putString(b, fieldAsked, r.Asked)
	b = putString(b, fieldAnswered, r.Answered)
	b = putString(b, fieldOperation, r.Operation)
	b = putString(b, fieldAffinity, r.Affinity)
	b = putString(b, fieldTier, r.Tokens.Tier)
	b = putString(b, fieldAnomaly, r.Tokens.Anomaly)
	return putNumbers(b, r)
}

// putNumbers encodes what a correction may change.
func putNumbers(b []byte, r *usage.Record) []byte {
	flags := int64(0)
	for flag, set := range [...]bool{r.Final, r.Partial, r.Estimating, r.Tokens.ReasoningKnown, r.Priced} {
		if set {
			flags |= 1 << flag
		}
	}
	t := &r.Tokens
	b = putInt(b, fieldOutcome, int64(r.Outcome))
	b = putInt(b, fieldStatus, int64(r.Status))
	b = putInt(b, fieldFlags, flags)
	b = putInt(b, fieldSource, int64(r.Source))
	b = putInt(b, fieldInput, t.Input)
	b = putInt(b, fieldCacheRead, t.CacheRead)
	b = putInt(b, fieldCacheWrite, t.CacheWrite)
	b = putInt(b, fieldCacheWrite1h, t.CacheWrite1h)
	b = putInt(b, fieldOutput, t.Output)
	b = putInt(b, fieldReasoning, t.Reasoning)
	b = putInt(b, fieldToolPrompt, t.ToolPrompt)
	b = putInt(b, fieldInAudio, t.InAudio)
	b = putInt(b, fieldInImage, t.InImage)
	b = putInt(b, fieldOutAudio, t.OutAudio)
	b = putInt(b, fieldOutImage, t.OutImage)
	b = putInt(b, fieldAudioMillis, t.AudioMillis)
	b = putInt(b, fieldImages, t.Images)
	b = putInt(b, fieldCost, r.CostNanos)
	b = putInt(b, fieldFirstByte, r.FirstByte.Microseconds())
	b = putInt(b, fieldDuration, r.Duration.Microseconds())
	b = putInt(b, fieldRequestBytes, r.RequestBytes)
	return putInt(b, fieldResponseBytes, r.ResponseBytes)
}

// putCorrection encodes what is known now and the numbers that it replaces.
func putCorrection(b []byte, was, now *usage.Record) []byte {
	b = putRecord(b, now)
	var room [512]byte
	old := putNumbers(room[:0], was)
	b = binary.AppendUvarint(append(b, fieldWas<<1|1), uint64(len(old)))
	return append(b, old...)
}

var errPayload = errors.New("the content of a record is not readable")

// nextField takes the field that p starts with: its number and its value, which
// is either v or s.
func nextField(p []byte) (field byte, v int64, s, rest []byte, err error) {
	field, isBytes := p[0]>>1, p[0]&1 == 1
	if !isBytes {
		v, n := binary.Varint(p[1:])
		if n <= 0 {
			return 0, 0, nil, nil, errPayload
		}
		return field, v, nil, p[1+n:], nil
	}
	size, n := binary.Uvarint(p[1:])
	if n <= 0 || size > uint64(len(p)-1-n) {
		return 0, 0, nil, nil, errPayload
	}
	p = p[1+n:]
	return field, 0, p[:size], p[size:], nil
}

// names hands out one string for all equal names, so that reading a log does not
// make the same few names over and over.
type names map[string]string

// maxInterned bounds names. Of more, as of many clients, each would be made anew.
const maxInterned = 1 << 14

func (n names) of(b []byte) string {
	if s, ok := n[string(b)]; ok {
		return s
	}
	if len(n) >= maxInterned {
		clear(n)
	}
	s := string(b)
	n[s] = s
	return s
}

// takeRecord decodes what putRecord and putCorrection encoded. Only a correction
// sets was.
func takeRecord(p []byte, r, was *usage.Record, n names) error {
	*r = usage.Record{}
	var old []byte
	for len(p) > 0 {
		field, v, s, rest, err := nextField(p)
		if err != nil {
			return err
		}
		p = rest
		switch field {
		case fieldReserve:
			r.Seq = uint64(v)
		case fieldRequest:
			r.Request = string(s)
		case fieldAttempt:
			r.Attempt = int(v)
		case fieldStart:
			r.Start = time.UnixMicro(v).UTC()
		case fieldTime:
			r.Time = time.UnixMicro(v).UTC()
		case fieldClient:
			r.Client = n.of(s)
		case fieldGroup:
			r.Group = n.of(s)
		case fieldUpstream:
			r.Upstream = n.of(s)
		case fieldKey:
			r.Key = n.of(s)
		case fieldModel:
			r.Model = n.of(s)
		case fieldAsked:
			r.Asked = n.of(s)
		case fieldAnswered:
			r.Answered = n.of(s)
		case fieldOperation:
			r.Operation = n.of(s)
		case fieldAffinity:
			r.Affinity = string(s)
		case fieldTier:
			r.Tokens.Tier = n.of(s)
		case fieldAnomaly:
			r.Tokens.Anomaly = n.of(s)
		case fieldWas:
			old = s
		default:
			takeNumber(r, field, v)
		}
	}
	if old == nil {
		return nil
	}
	*was = *r
	was.Outcome, was.Status, was.Final, was.Source = 0, 0, false, 0
	was.Tokens = usage.Tokens{Tier: r.Tokens.Tier, Anomaly: r.Tokens.Anomaly}
	was.Partial, was.Estimating, was.CostNanos, was.Priced = false, false, 0, false
	was.FirstByte, was.Duration, was.RequestBytes, was.ResponseBytes = 0, 0, 0, 0
	for len(old) > 0 {
		field, v, _, rest, err := nextField(old)
		if err != nil {
			return err
		}
		old = rest
		takeNumber(was, field, v)
	}
	return nil
}

// takeReserve decodes only which reserve a record is about: its first field.
func takeReserve(p []byte) (uint64, error) {
	if len(p) == 0 {
		return 0, errPayload
	}
	field, v, _, _, err := nextField(p)
	if err == nil && field != fieldReserve {
		err = errPayload
	}
	return uint64(v), err
}

func takeNumber(r *usage.Record, field byte, v int64) {
	t := &r.Tokens
	switch field {
	case fieldOutcome:
		r.Outcome = usage.Outcome(v)
	case fieldStatus:
		r.Status = int(v)
	case fieldFlags:
		r.Final = v&flagFinal != 0
		r.Partial = v&flagPartial != 0
		r.Estimating = v&flagEstimating != 0
		t.ReasoningKnown = v&flagReasoningKnown != 0
		r.Priced = v&flagPriced != 0
	case fieldSource:
		r.Source = usage.Source(v)
	case fieldInput:
		t.Input = v
	case fieldCacheRead:
		t.CacheRead = v
	case fieldCacheWrite:
		t.CacheWrite = v
	case fieldCacheWrite1h:
		t.CacheWrite1h = v
	case fieldOutput:
		t.Output = v
	case fieldReasoning:
		t.Reasoning = v
	case fieldToolPrompt:
		t.ToolPrompt = v
	case fieldInAudio:
		t.InAudio = v
	case fieldInImage:
		t.InImage = v
	case fieldOutAudio:
		t.OutAudio = v
	case fieldOutImage:
		t.OutImage = v
	case fieldAudioMillis:
		t.AudioMillis = v
	case fieldImages:
		t.Images = v
	case fieldCost:
		r.CostNanos = v
	case fieldFirstByte:
		r.FirstByte = time.Duration(v) * time.Microsecond
	case fieldDuration:
		r.Duration = time.Duration(v) * time.Microsecond
	case fieldRequestBytes:
		r.RequestBytes = v
	case fieldResponseBytes:
		r.ResponseBytes = v
	}
}

// opening is what an Opened record holds.
type opening struct {
	epoch uint64
	start time.Time
}

func putOpening(b []byte, o opening, nonce int64) []byte {
	b = putInt(b, fieldEpoch, int64(o.epoch))
	b = putTime(b, fieldStart, o.start)
	return putInt(b, fieldNonce, nonce)
}

func takeOpening(p []byte) (o opening, err error) {
	for len(p) > 0 {
		field, v, _, rest, err := nextField(p)
		if err != nil {
			return o, err
		}
		p = rest
		switch field {
		case fieldEpoch:
			o.epoch = uint64(v)
		case fieldStart:
			o.start = time.UnixMicro(v).UTC()
		}
	}
	return o, nil
}

// gap is what a Missing record holds: the numbers of the first and the last
// record that are missing, and why.
type gap struct {
	from, to uint64
	why      string
}

func putGap(b []byte, g gap) []byte {
	b = putInt(b, fieldFrom, int64(g.from))
	b = putInt(b, fieldTo, int64(g.to))
	return putString(b, fieldWhy, g.why)
}

func takeGap(p []byte) (g gap, err error) {
	for len(p) > 0 {
		field, v, s, rest, err := nextField(p)
		if err != nil {
			return g, err
		}
		p = rest
		switch field {
		case fieldFrom:
			g.from = uint64(v)
		case fieldTo:
			g.to = uint64(v)
		case fieldWhy:
			g.why = string(s)
		}
	}
	return g, nil
}

// place is where in the log a record lies.
type place struct {
	segment uint64 // the first number of its segment
	off     int64
}

// list is one part of the list of all open attempts. A list is complete when all
// its parts followed each other.
type list struct {
	part, parts int64 // from 1
	epoch       uint64
	places      []byte
}

const (
	maxListed   = 30 // bytes that one attempt takes in a list, at most
	listPayload = maxPayload - 64
)

func putPlace(b []byte, seq uint64, at place) []byte {
	b = binary.AppendUvarint(b, seq)
	b = binary.AppendUvarint(b, at.segment)
	return binary.AppendUvarint(b, uint64(at.off))
}

func takePlace(p []byte) (seq uint64, at place, rest []byte, err error) {
	var v [3]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(p); n <= 0 {
			return 0, at, nil, errPayload
		}
		p = p[n:]
	}
	return v[0], place{v[1], int64(v[2])}, p, nil
}

func putList(b []byte, l list) []byte {
	b = putInt(b, fieldPart, l.part)
	b = putInt(b, fieldParts, l.parts)
	b = putInt(b, fieldEpoch, int64(l.epoch))
	b = binary.AppendUvarint(append(b, fieldList<<1|1), uint64(len(l.places)))
	return append(b, l.places...)
}

func takeList(p []byte) (l list, err error) {
	for len(p) > 0 {
		field, v, s, rest, err := nextField(p)
		if err != nil {
			return l, err
		}
		p = rest
		switch field {
		case fieldPart:
			l.part = v
		case fieldParts:
			l.parts = v
		case fieldEpoch:
			l.epoch = uint64(v)
		case fieldList:
			l.places = s
		}
	}
	return l, nil
}
