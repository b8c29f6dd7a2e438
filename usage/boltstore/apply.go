package boltstore

import (
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/floway/floway/usage"
)

// writer books one batch.
type writer struct {
	tx       *bbolt.Tx
	now      time.Time
	position *streamPosition
	letters  []usage.DeadLetter
	key      []byte
	values   []byte // what was put; it must last as long as the transaction
}

const (
	// maxValue is what the counts of a row take at most.
	maxValue = usage.Fields * (1 + binary.MaxVarintLen64)
	// manyValues is how much memory is taken for values at a time.
	manyValues = 64 << 10
)

// book raises one row.
func (w *writer) book(r *usage.Row, keep usage.Retention) error {
	if r.Counts.IsZero() {
		return nil
	}
	b := w.tx.Bucket(tableBuckets[r.Table])
	w.key = rowKey(w.key[:0], r.Table, r.Dim, r.Bucket, &r.Key)
	if gone(keep, r.Table, r.Bucket, w.now) {
		if r.Table == usage.DailyBy {
			return nil // late when the days are, and counted there
		}
		b = w.tx.Bucket(lateBucket)
		w.key = append(w.key[:0], tableBuckets[r.Table]...)
	}

	if len(w.key) > bbolt.MaxKeySize {
		w.refuse(r, &r.Counts, "the names are too long")
		return nil
	}
	sum, rest, err := usage.ParseCounts(b.Get(w.key))
	if err != nil {
		w.refuse(r, &r.Counts, "no counters there: "+err.Error())
		return nil
	}
	w.raise(&sum, &r.Counts, r)
	if cap(w.values)-len(w.values) < maxValue+len(rest) {
		w.values = make([]byte, 0, manyValues+len(rest))
	}
	at := len(w.values)
	w.values = append(sum.Append(w.values), rest...)
	return b.Put(w.key, w.values[at:])
}

// raise adds by to sum. What would pass the ends of a counter becomes a dead
// letter and leaves the counter as it is. r is the row; nil for the totals.
func (w *writer) raise(sum, by *usage.Counts, r *usage.Row) {
	var over usage.Counts
	for f, v := range by {
		s := sum[f] + v
		if v != 0 && (v > 0) != (s > sum[f]) {
			over[f] = v
			continue
		}
		sum[f] = s
	}
	w.refuse(r, &over, "the counter would pass its end")
}

// refuse makes dead letters of what cannot be booked on a row.
func (w *writer) refuse(r *usage.Row, by *usage.Counts, reason string) {
	if by.IsZero() {
		return
	}
	place := where(r)
	for f, v := range by {
		if v != 0 {
			w.position.DeadLetters++
			w.letters = append(w.letters, usage.DeadLetter{
				Time: w.now, Stream: w.position.Stream, Where: place, Field: usage.Field(f), Delta: v, Reason: reason,
			})
		}
	}
}

// where says for people which row it is.
func where(r *usage.Row) string {
	switch {
	case r == nil:
		return "totals of the stream"
	case r.Table.Single():
		return fmt.Sprintf("%s %s by %v, %q", tableBuckets[r.Table], r.Bucket.Format(time.RFC3339), r.Dim, r.Key[r.Dim])
	default:
		return fmt.Sprintf("%s %s, %q", tableBuckets[r.Table], r.Bucket.Format(time.RFC3339), r.Key)
	}
}

// bury puts the dead letters behind the others and drops the oldest.
func (w *writer) bury() error {
	b := w.tx.Bucket(lettersBucket)
	for _, l := range w.letters[max(len(w.letters)-usage.MaxDeadLetters, 0):] {
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		v, err := encodeLetter(&l)
		if err != nil {
			return err
		}
		if err := b.Put(binary.BigEndian.AppendUint64(nil, n), v); err != nil {
			return err
		}
		if n <= usage.MaxDeadLetters {
			continue
		}
		if err := b.Delete(binary.BigEndian.AppendUint64(nil, n-usage.MaxDeadLetters)); err != nil {
			return err
		}
	}
	return nil
}

// pruned is how many rows one batch removes at most, so that a store which was
// away for long is not held up by cleaning.
const pruned = 1000

// prune removes rows past their retention: they are the first ones of a table.
func prune(tx *bbolt.Tx, now time.Time, keep usage.Retention) error {
	left := pruned
	for _, t := range []usage.Table{usage.Hourly, usage.Daily, usage.DailyBy} {
		c := tx.Bucket(tableBuckets[t]).Cursor()
		for k, _ := c.First(); len(k) >= numberLen && left > 0; k, _ = c.First() {
			if !gone(keep, t, start(t, binary.BigEndian.Uint32(k)), now) {
				break
			}
			if err := c.Delete(); err != nil {
				return err
			}
			left--
		}
	}
	return nil
}
