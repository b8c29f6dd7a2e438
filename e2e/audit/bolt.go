package audit

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

// ReadBolt reads the embedded store of a gateway that does not run.
func ReadBolt(path string) (*Sink, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	s := &Sink{Rows: make(map[Key]Counts), Streams: make(map[string]Position)}
	err = db.View(func(tx *bbolt.Tx) error {
		for _, t := range []struct {
			bucket, letter string
			layout         string
			single         bool
		}{
			{"hours", "h", "2006010215", false},
			{"days", "d", "20060102", false},
			{"days by dimension", "d1", "20060102", true},
			{"months by dimension", "m1", "200601", true},
		} {
			b := tx.Bucket([]byte(t.bucket))
			if b == nil {
				return fmt.Errorf("no bucket %q", t.bucket)
			}
			if err := b.ForEach(func(k, v []byte) error {
				if len(k) < 4 {
					return errors.New("a row without a time")
				}
				n, rest := int64(binary.BigEndian.Uint32(k)), k[4:]
				at := time.Unix(n*86400, 0).UTC()
				switch t.letter {
				case "h":
					at = time.Unix(n*3600, 0).UTC()
				case "m1":
					at = time.Date(int(n/12), time.Month(n%12+1), 1, 0, 0, 0, 0, time.UTC)
				}
				row := t.letter + " " + at.Format(t.layout) + " "
				if t.single {
					if len(rest) == 0 || int(rest[0]) >= len(dimensions) {
						return errors.New("a row without a dimension")
					}
					row += dimensions[rest[0]] + " "
					rest = rest[1:]
				}
				var names []string
				for len(rest) > 0 {
					size, w := binary.Uvarint(rest)
					if w <= 0 || size > uint64(len(rest)-w) {
						return errors.New("a row whose name is cut")
					}
					names = append(names, string(rest[w:w+int(size)]))
					rest = rest[w+int(size):]
				}
				c, err := parseCounts(v)
				s.Rows[Key(row+strings.Join(names, "|"))] = c
				return err
			}); err != nil {
				return fmt.Errorf("%s: %w", t.bucket, err)
			}
		}
		if err := tx.Bucket([]byte("streams")).ForEach(func(k, v []byte) error {
			var n [5]uint64 // sequence, epoch, chain, time, dead letters
			for i := range n {
				w := 0
				if n[i], w = binary.Uvarint(v); w <= 0 {
					return errors.New("a position that is cut")
				}
				v = v[w:]
			}
			totals, err := parseCounts(v)
			s.Streams[hex.EncodeToString(k)] = Position{Seq: n[0], Epoch: n[1], Dead: n[4], Totals: totals}
			return err
		}); err != nil {
			return err
		}
		return tx.Bucket([]byte("dead letters")).ForEach(func(_, v []byte) error {
			var l struct {
				Field int
				Delta int64
			}
			err := json.Unmarshal(v, &l)
			s.Letters = append(s.Letters, Letter{Field: l.Field, Delta: l.Delta})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

var dimensions = []string{"client", "group", "upstream", "key", "model"}

// parseCounts reads pairs of varints: the number of a counter and its value.
func parseCounts(b []byte) (c Counts, err error) {
	for len(b) > 0 {
		f, n := binary.Uvarint(b)
		if n <= 0 || f >= fields {
			return c, errors.New("counters that are not known here")
		}
		v, m := binary.Varint(b[n:])
		if m <= 0 {
			return c, errors.New("counters that are cut")
		}
		c[f] = v
		b = b[n+m:]
	}
	return c, nil
}
