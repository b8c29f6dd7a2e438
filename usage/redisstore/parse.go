package redisstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/floway/floway/usage"
)

// parsePosition reads the answer to HGETALL of a cursor. known is false if there
// is none.
func parsePosition(answer any) (p usage.Position, seen time.Time, known bool, err error) {
	pairs, ok := answer.([]any)
	if !ok || len(pairs)%2 != 0 {
		return p, seen, false, fmt.Errorf("%T is no position", answer)
	}
	if len(pairs) == 0 {
		return p, seen, false, nil
	}
	for i := 0; i < len(pairs); i += 2 {
		name, _ := pairs[i].(string)
		value, _ := pairs[i+1].(string)
		var err error
		switch name {
		case "seq":
			p.Seq, err = strconv.ParseUint(value, 10, 64)
			known = true
		case "epoch":
			p.Epoch, err = strconv.ParseUint(value, 10, 64)
		case "chain":
			var chain uint64
			chain, err = strconv.ParseUint(value, 10, 32)
			p.Chain = uint32(chain)
		case "since":
			p.Since, err = strconv.ParseUint(value, 10, 64)
		case "before":
			var chain uint64
			chain, err = strconv.ParseUint(value, 10, 32)
			p.SinceChain = uint32(chain)
		case "dead":
			p.DeadLetters, err = strconv.ParseUint(value, 10, 64)
		case "seen":
			var at int64
			at, err = strconv.ParseInt(value, 10, 64)
			seen = time.Unix(at, 0).UTC()
		default:
			raise(&p.Totals, name, value)
		}
		if err != nil {
			return usage.Position{}, time.Time{}, false, fmt.Errorf("%.20s is %.40q", name, value)
		}
	}
	if !known {
		return usage.Position{}, time.Time{}, false, errors.New("it is no position")
	}
	return p, seen, true, nil
}

// parseCounts reads those fields of a hash that begin with prefix.
func parseCounts(pairs map[string]string, prefix string) (c usage.Counts) {
	for name, value := range pairs {
		if f, ok := strings.CutPrefix(name, prefix); ok {
			raise(&c, f, value)
		}
	}
	return c
}

// raise sets one field. Fields of later versions, and what is no counter, are
// passed over.
func raise(c *usage.Counts, name, value string) {
	f, err := strconv.ParseUint(name, 10, 8)
	if err != nil || int(f) >= usage.Fields {
		return
	}
	if v, err := strconv.ParseInt(value, 10, 64); err == nil {
		c[f] = v
	}
}

// parseTime reads the answer to TIME.
func parseTime(answer any) (time.Time, error) {
	parts, _ := answer.([]any)
	if len(parts) != 2 {
		return time.Time{}, errors.New("two numbers expected")
	}
	var n [2]int64
	for i, part := range parts {
		text, _ := part.(string)
		var err error
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return time.Time{}, err
		}
	}
	return time.Unix(n[0], n[1]*int64(time.Microsecond)).UTC(), nil
}

// parseLetter reads what bury in apply.lua wrote. The key comes last, because it
// may contain anything.
func parseLetter(text string) (l usage.DeadLetter, err error) {
	parts := strings.SplitN(text, "\n", 6)
	if len(parts) != 6 {
		return l, fmt.Errorf("%.40q is no dead letter", text)
	}
	at, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return l, fmt.Errorf("dead letter: %w", err)
	}
	if l.Stream, err = usage.ParseStreamID(parts[1]); err != nil {
		return l, fmt.Errorf("dead letter: %w", err)
	}
	f, err := strconv.ParseUint(parts[2], 10, 8)
	if err != nil {
		return l, fmt.Errorf("dead letter: %w", err)
	}
	if l.Delta, err = strconv.ParseInt(parts[3], 10, 64); err != nil {
		return l, fmt.Errorf("dead letter: %w", err)
	}
	l.Time, l.Field = time.Unix(at, 0).UTC(), usage.Field(f)
	l.Reason, l.Where = parts[4], parts[5]
	return l, nil
}
