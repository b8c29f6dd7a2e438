package boltstore

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/floway/floway/usage"
)

var _ usage.History = (*Store)(nil)

// movedKey is in the bucket meta, with a usage.Moved as JSON, once the history has
// gone to another store.
var movedKey = []byte("moved")

// Moved implements usage.History.
func (s *Store) Moved(ctx context.Context) (m usage.Moved, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		m, err = readMoved(tx)
		return err
	})
	return m, err
}

func readMoved(tx *bbolt.Tx) (m usage.Moved, err error) {
	v := tx.Bucket(metaBucket).Get(movedKey)
	if v == nil {
		return m, nil
	}
	if err := json.Unmarshal(v, &m); err != nil {
		return m, fmt.Errorf("%w: where it was moved: %w", errForeign, err)
	}
	return m, nil
}

// SetMoved implements usage.History.
func (s *Store) SetMoved(ctx context.Context, m usage.Moved) error {
	v, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(movedKey, v) })
}

// Rows implements usage.History: table by table, in the order of the keys.
func (s *Store) Rows(ctx context.Context, skip uint64, yield func(*usage.Row) bool) error {
	return s.view(ctx, func(tx *bbolt.Tx) error {
		for t := range usage.Table(usage.Tables) {
			c := tx.Bucket(tableBuckets[t]).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if skip > 0 {
					skip--
					continue
				}
				r, err := parseRow(t, k, v)
				if err != nil {
					return err
				}
				if !callRow(yield, r) {
					return nil
				}
			}
		}
		return nil
	})
}

// parseRow is the inverse of rowKey. A row whose value is not ours is empty: what
// should have gone there is among the dead letters.
func parseRow(t usage.Table, k, v []byte) (*usage.Row, error) {
	if len(k) <= numberLen {
		return nil, fmt.Errorf("%w: a row without a name", errForeign)
	}
	r := &usage.Row{Table: t, Bucket: start(t, binary.BigEndian.Uint32(k))}
	names := k[numberLen:]
	if t.Single() {
		if r.Dim = usage.Dimension(names[0]); int(r.Dim) >= usage.Dimensions {
			return nil, fmt.Errorf("%w: a row of dimension %d", errForeign, r.Dim)
		}
		names = names[1:]
	}
	var err error
	if r.Key, err = parseNames(names, t.Names(r.Dim)); err != nil {
		return nil, err
	}
	if r.Counts, _, err = usage.ParseCounts(v); err != nil {
		r.Counts = usage.Counts{}
	}
	return r, nil
}

// callRow is call for rows.
func callRow(yield func(*usage.Row) bool, r *usage.Row) bool {
	defer func() {
		if p := recover(); p != nil {
			panic(callers{p})
		}
	}()
	return yield(r)
}
