package audit

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"strings"
	"time"
)

// The kinds of records that count, and those that say when an attempt began and
// that something is missing.
const (
	Reserved  = 'R'
	Settled   = 'S'
	Unsettled = 'U'
	Corrected = 'X'
	Withdrawn = 'V'
	Missing   = 'G'
)

// Record is one record of a log.
type Record struct {
	Kind byte
	// Seq is its own number, Sum its checksum: together with the stream they
	// tell it from every other, in copies of the log as well.
	Seq    uint64
	Sum    uint32
	Stream [16]byte

	Reserve                             uint64
	Request                             string
	Attempt                             int64
	Time                                time.Time
	Client, Group, Upstream, Key, Model string

	Numbers
	// Was is what a correction replaces.
	Was Numbers
}

// Numbers are what a correction may change.
type Numbers struct {
	Outcome, Source            int64
	Final, Partial, Estimating bool
	Priced                     bool
	Tokens                     [13]int64 // input to images, as their fields are numbered
	Cost                       int64
	FirstByte, Duration        int64 // microseconds
}

// Outcomes and sources.
const (
	Served   = 1
	Refused  = 2
	Failed   = 3
	Cut      = 4
	Left     = 5
	Unknown  = 0
	Reported = 1
	Estimate = 2
)

// The numbers of the fields of a payload.
const (
	fieldReserve   = 1
	fieldRequest   = 2
	fieldAttempt   = 3
	fieldTime      = 5
	fieldClient    = 6
	fieldGroup     = 7
	fieldUpstream  = 8
	fieldKey       = 9
	fieldModel     = 10
	fieldOutcome   = 16
	fieldFlags     = 18
	fieldSource    = 19
	fieldInput     = 20 // to 32
	fieldImages    = 32
	fieldCost      = 35
	fieldFirstByte = 40
	fieldDuration  = 41
	fieldWas       = 50
)

var errPayload = errors.New("a record whose checksum is right cannot be read")

// each calls fn for every field of a payload: a byte of twice the number, plus one
// where bytes follow, then a varint that is the value or their number.
func each(p []byte, fn func(field byte, v int64, s []byte) error) error {
	for len(p) > 0 {
		head := p[0]
		p = p[1:]
		var v int64
		var s []byte
		if head&1 == 0 {
			n := 0
			if v, n = binary.Varint(p); n <= 0 {
				return errPayload
			}
			p = p[n:]
		} else {
			size, n := binary.Uvarint(p)
			if n <= 0 || size > uint64(len(p)-n) {
				return errPayload
			}
			s, p = p[n:n+int(size)], p[n+int(size):]
		}
		if err := fn(head>>1, v, s); err != nil {
			return err
		}
	}
	return nil
}

func (n *Numbers) take(field byte, v int64) {
	switch {
	case field == fieldOutcome:
		n.Outcome = v
	case field == fieldSource:
		n.Source = v
	case field == fieldFlags:
		n.Final, n.Partial, n.Estimating, n.Priced = v&1 != 0, v&2 != 0, v&4 != 0, v&16 != 0
	case field >= fieldInput && field <= fieldImages:
		n.Tokens[field-fieldInput] = v
	case field == fieldCost:
		n.Cost = v
	case field == fieldFirstByte:
		n.FirstByte = v
	case field == fieldDuration:
		n.Duration = v
	}
}

// parse reads a payload.
func (r *Record) parse(p []byte, names map[string]string) error {
	name := func(b []byte) string {
		if s, ok := names[string(b)]; ok {
			return s
		}
		s := string(b)
		names[s] = s
		return s
	}
	return each(p, func(field byte, v int64, s []byte) error {
		switch field {
		case fieldReserve:
			r.Reserve = uint64(v)
		case fieldRequest:
			r.Request = string(s)
		case fieldAttempt:
			r.Attempt = v
		case fieldTime:
			r.Time = time.UnixMicro(v).UTC()
		case fieldClient:
			r.Client = name(s)
		case fieldGroup:
			r.Group = name(s)
		case fieldUpstream:
			r.Upstream = name(s)
		case fieldKey:
			r.Key = name(s)
		case fieldModel:
			r.Model = name(s)
		case fieldWas:
			return each(s, func(field byte, v int64, _ []byte) error {
				r.Was.take(field, v)
				return nil
			})
		default:
			r.Numbers.take(field, v)
		}
		return nil
	})
}

// counts is what a record of those that count raises its rows by.
func (r *Record) counts() Counts {
	c := r.Numbers.counts()
	if r.Kind == Corrected {
		was := r.Was.counts()
		c.add(&was, -1)
	}
	return c
}

// unknown says that nobody can say what the attempt used.
func (n *Numbers) unknown() bool {
	if n.Source != Unknown {
		return false
	}
	return n.Outcome != Refused && (n.Outcome != Failed || n.billed())
}

func (n *Numbers) billed() bool {
	t := &n.Tokens
	return t[0] > 0 || t[1] > 0 || t[2] > 0 || t[3] > 0 || t[4] > 0 || t[11] > 0 || t[12] > 0
}

const most = 1 << 40 // that one attempt raises a counter by

func (n *Numbers) counts() (c Counts) {
	bounded := func(v int64) int64 { return min(max(v, 0), most) }
	one := func(f int, is bool) {
		if is {
			c[f] = 1
		}
	}
	settled := n.Outcome != 0
	one(attempts, settled)
	one(requests, n.Final)
	one(errored, settled && n.Outcome != Served)
	if n.unknown() {
		c[unknownAttempts] = 1
		for _, v := range n.Tokens[:4] {
			c[unknownInput] = bounded(c[unknownInput] + bounded(v))
		}
		c[unknownOutput] = bounded(n.Tokens[4])
		if n.Priced {
			c[unknownCost] = bounded(n.Cost)
		}
	} else {
		for i, v := range n.Tokens {
			c[inputTokens+i] = bounded(v)
		}
		if n.Priced {
			c[costNanos] = bounded(n.Cost)
		}
		one(unpricedAttempts, !n.Priced && n.billed())
		one(estimatedAttempts, n.Source == Estimate || n.Partial)
	}
	millis := func(micros int64) int64 { return bounded(micros / 1000) }
	bucket := func(micros int64) int { return min(bits.Len64(uint64(max(micros/1000, 0))), 19) }
	if settled {
		c[durationMillis] = millis(n.Duration)
		c[durationHist+bucket(n.Duration)] = 1
	}
	if n.FirstByte > 0 {
		c[firstByteMillis] = millis(n.FirstByte)
		c[firstByteCount] = 1
		c[firstByteHist+bucket(n.FirstByte)] = 1
	}
	return c
}

// rows are the rows that the record raises.
func (r *Record) rows() [12]Key {
	at := r.Time.UTC()
	hour, day, month := at.Format("2006010215"), at.Format("20060102"), at.Format("200601")
	all := strings.Join([]string{r.Client, r.Group, r.Upstream, r.Key, r.Model}, "|")
	rows := [12]Key{Key("h " + hour + " " + all), Key("d " + day + " " + all)}
	for i, one := range [...]string{
		"client " + r.Client, "group " + r.Group, "upstream " + r.Upstream, "key " + r.Upstream + "|" + r.Key, "model " + r.Model,
	} {
		rows[2+2*i] = Key("d1 " + day + " " + one)
		rows[3+2*i] = Key("m1 " + month + " " + one)
	}
	return rows
}
