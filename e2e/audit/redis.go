package audit

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Sink is what a store holds.
type Sink struct {
	Rows    map[Key]Counts
	Streams map[string]Position
	// Late is what came when its hour, or its day, was gone.
	LateHours, LateDays Counts
	Letters             []Letter
}

// Position is how far a store has taken a stream in, and the stream's totals.
type Position struct {
	Seq, Epoch, Dead uint64
	Totals           Counts
}

// Letter is an increment that could not be booked.
type Letter struct {
	// Row is empty for the totals of a stream.
	Row   Key
	Field int
	Delta int64
}

// ReadRedis reads all keys of a namespace. Rows that no index names are left out,
// as every reader would.
func ReadRedis(ctx context.Context, c redis.Cmdable, namespace string) (*Sink, error) {
	prefix := "fl:{" + namespace + "}:"
	s := &Sink{Rows: make(map[Key]Counts), Streams: make(map[string]Position)}
	var hashes []string
	named := make(map[string]bool)
	for cursor := uint64(0); ; {
		keys, next, err := c.Scan(ctx, cursor, prefix+"*", 1000).Result()
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			kind, err := c.Type(ctx, key).Result()
			if err != nil {
				return nil, err
			}
			switch kind {
			case "hash":
				hashes = append(hashes, key)
			case "set":
				rows, err := c.SMembers(ctx, key).Result()
				if err != nil {
					return nil, err
				}
				for _, row := range rows {
					named[key+":"+row] = true
				}
			}
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	for _, key := range hashes {
		pairs, err := c.HGetAll(ctx, key).Result()
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(key, prefix)
		switch stream, is := strings.CutPrefix(name, "cur:"); {
		case is && named[prefix+"streams:"+stream]:
			var p Position
			for field, to := range map[string]*uint64{"seq": &p.Seq, "epoch": &p.Epoch, "dead": &p.Dead} {
				*to, _ = strconv.ParseUint(pairs[field], 10, 64)
			}
			if p.Totals, err = countsOf(pairs, ""); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			s.Streams[stream] = p
		case name == "late":
			if s.LateHours, err = countsOf(pairs, "h"); err == nil {
				s.LateDays, err = countsOf(pairs, "d")
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		case named[key]:
			row := rowOf(name)
			if s.Rows[row], err = countsOf(pairs, ""); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	letters, err := c.LRange(ctx, prefix+"dl", 0, -1).Result()
	if err != nil {
		return nil, err
	}
	for _, text := range letters {
		// time, stream, field, increment, reason, key
		parts := strings.SplitN(text, "\n", 6)
		if len(parts) != 6 {
			return nil, fmt.Errorf("the dead letter %q", text)
		}
		var l Letter
		if l.Field, err = strconv.Atoi(parts[2]); err == nil {
			l.Delta, err = strconv.ParseInt(parts[3], 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("the dead letter %q: %w", text, err)
		}
		if name := strings.TrimPrefix(parts[5], prefix); !strings.HasPrefix(name, "cur:") {
			l.Row = rowOf(name)
		}
		s.Letters = append(s.Letters, l)
	}
	return s, nil
}

// rowOf names the row of a key behind the namespace: h:2026112310:names, or
// d1:20261123:client:name.
func rowOf(name string) Key {
	n := 3
	if strings.HasPrefix(name, "d1:") || strings.HasPrefix(name, "m1:") {
		n = 4
	}
	return Key(strings.Join(strings.SplitN(name, ":", n), " "))
}

// countsOf reads the fields of a hash that are numbers behind a prefix.
func countsOf(pairs map[string]string, prefix string) (c Counts, err error) {
	for name, value := range pairs {
		name, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		f, err := strconv.Atoi(name)
		if err != nil {
			continue // a field of another kind
		}
		if f >= fields {
			return c, fmt.Errorf("a counter %d, which is not known here", f)
		}
		if c[f], err = strconv.ParseInt(value, 10, 64); err != nil {
			return c, err
		}
	}
	return c, nil
}
