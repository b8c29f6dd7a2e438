// Package boltstore keeps sums of usage in one file, for one instance.
package boltstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/floway/floway/usage"
)

// Options of a store. The zero value works.
type Options struct {
	// Retention says how long hours and days are kept.
	Retention usage.Retention
	// LockTimeout is how long Open waits for another process to let go of the
	// file; default 1s.
	LockTimeout time.Duration
	// Moved opens the file even if its history has gone to another store. Without
	// it that is an error, for nothing may be counted here any more.
	Moved bool
	// Now is the store's clock; default time.Now.
	Now func() time.Time
}

// Store implements usage.Store. Make it by Open.
type Store struct {
	db        *bbolt.DB
	path      string
	genesis   string
	retention usage.Retention
	now       func() time.Time

	writing sync.Mutex
	// damage is what was found wrong with the file while it was open. bbolt may
	// hold locks for ever then, so that nothing may call it any more.
	damage atomic.Pointer[error]
}

var _ usage.Store = (*Store)(nil)

// layout is the version of the buckets and their contents.
const layout = 1

// The buckets of the file.
var (
	metaBucket    = []byte("meta")         // layout and genesis
	streamsBucket = []byte("streams")      // position of each stream
	lateBucket    = []byte("late")         // what came after its bucket was gone
	lettersBucket = []byte("dead letters") // in order of arrival
	tableBuckets  = [usage.Tables][]byte{  // see rowKey
		usage.Hourly:    []byte("hours"),
		usage.Daily:     []byte("days"),
		usage.DailyBy:   []byte("days by dimension"),
		usage.MonthlyBy: []byte("months by dimension"),
	}

	layoutKey  = []byte("layout")
	genesisKey = []byte("genesis")
)

// Open opens the file at path, or makes it, readable by its owner only, and the
// directories above it. While it is open no other process can open it.
func Open(path string, o Options) (*Store, error) {
	if o.Retention.Hours < 0 || o.Retention.Days < 0 {
		return nil, errors.New("usage store: a negative retention")
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{path: path, retention: o.Retention.WithDefaults(), now: o.Now}
	if err := create(path); err != nil {
		return nil, s.explain(err)
	}
	if err := s.open(o.LockTimeout, o.Moved); err != nil {
		return nil, s.explain(err)
	}
	return s, nil
}

// create makes a new store under another name and gives it its own when it is
// whole and on disk: a crash in between leaves nothing behind that Open would take
// for a store.
func create(path string) error {
	switch info, err := os.Stat(path); {
	case err == nil && info.Mode().IsRegular() && info.Size() == 0:
		// Nothing that was ever a store. bbolt would fill it in place.
		if err := os.Remove(path); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	draft, err := os.CreateTemp(dir, filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(draft.Name())
	draft.Close()

	db, err := bbolt.Open(draft.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range append(tableBuckets[:], metaBucket, streamsBucket, lateBucket, lettersBucket) {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(metaBucket)
		if err := meta.Put(layoutKey, []byte{layout}); err != nil {
			return err
		}
		return meta.Put(genesisKey, []byte(rand.Text()))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, does not replace what another process has made
	// meanwhile; then that one is the store. Some file systems have no links.
	switch err := os.Link(draft.Name(), path); {
	case err == nil, errors.Is(err, os.ErrExist):
	default:
		if err := os.Rename(draft.Name(), path); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// syncDir makes a new name in a directory last.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it cannot, and need not
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// open takes the file's lock and sees whether it is one of ours.
func (s *Store) open(patience time.Duration, moved bool) (err error) {
	defer func() {
		if err != nil && s.db != nil {
			s.db.Close()
		}
	}()
	defer survive(&err)()
	if s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout:      patience,
		FreelistType: bbolt.FreelistMapType,
	}); err != nil {
		if strings.Contains(err.Error(), "file size too small") { // it has no name
			return fmt.Errorf("%w: %w", errForeign, err)
		}
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		if info, err := os.Stat(s.path); err != nil {
			return err
		} else if info.Size() < tx.Size() {
			return fmt.Errorf("%w: it is damaged: %d bytes of %d are there", errForeign, info.Size(), tx.Size())
		}
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			return errForeign
		}
		switch v := meta.Get(layoutKey); {
		case len(v) != 1:
			return errForeign
		case v[0] > layout:
			return fmt.Errorf("%w: its layout is %d, this floway knows %d", usage.ErrNewer, v[0], layout)
		}
		for _, name := range append(tableBuckets[:], streamsBucket, lateBucket, lettersBucket) {
			if tx.Bucket(name) == nil {
				return errForeign
			}
		}
		s.genesis = string(meta.Get(genesisKey))
		m, err := readMoved(tx)
		if err == nil && m != (usage.Moved{}) && !moved {
			return fmt.Errorf("%w to %s", usage.ErrMoved, m.To)
		}
		return err
	})
}

// survive turns what a damaged file does to bbolt into an error: bbolt trusts what
// the file says, and panics or reads beyond its end. The gateway must outlive its
// accounts. The function that it returns is to be deferred.
func survive(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			if p, ok := p.(callers); ok {
				panic(p.value)
			}
			*err = fmt.Errorf("%w: it is damaged (%v)", errForeign, p)
		}
	}
}

// callers is a panic of the caller's own function, which is not ours to stop.
type callers struct{ value any }

var errForeign = errors.New("it is no store of floway")

// explain turns an error of the file into one that names it, says what is wrong in
// the words of package usage and what to do.
func (s *Store) explain(err error) error {
	for _, c := range []struct {
		is, class error
		advice    string
	}{
		{bolterrors.ErrTimeout, usage.ErrInUse, "stop the other one, or give this one another directory"},
		{bolterrors.ErrDatabaseNotOpen, usage.ErrClosed, "it was let go"},
		{bolterrors.ErrInvalid, usage.ErrForeign, "move it away, or give floway another directory"},
		{bolterrors.ErrVersionMismatch, usage.ErrForeign, "move it away, or give floway another directory"},
		{bolterrors.ErrChecksum, usage.ErrForeign, "restore it from a backup, or move it away"},
		{errForeign, usage.ErrForeign, "restore it from a backup, or move it away"},
		{usage.ErrNewer, usage.ErrNewer, "update floway"},
		{usage.ErrMoved, usage.ErrMoved, "use that store, or give floway another directory"},
		{syscall.ENOSPC, usage.ErrFull, "make room on the disk"},
		{syscall.EDQUOT, usage.ErrFull, "make room on the disk"},
		{syscall.EROFS, usage.ErrReadOnly, "the file system is mounted read-only"},
		{os.ErrPermission, usage.ErrForbidden, "let the user of this process read and write it"},
	} {
		if errors.Is(err, c.is) {
			return fmt.Errorf("%s %w: %s (%w)", s, c.class, c.advice, err)
		}
	}
	return fmt.Errorf("%s: %w", s, err)
}

// String names the store.
func (s *Store) String() string { return "the usage store " + s.path }

// Retention implements usage.Store.
func (s *Store) Retention() usage.Retention { return s.retention }

// MaxIncrements is great: a transaction costs most of what it does, however much it
// writes, and nobody else writes here.
func (s *Store) MaxIncrements() int { return 1 << 17 }

// Close implements usage.Store. It waits for calls that are under way. A file that
// turned out to be damaged stays locked until the process ends.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.damage.Load() != nil {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return s.explain(err)
	}
	return nil
}

// view runs f in a reading transaction.
func (s *Store) view(ctx context.Context, f func(*bbolt.Tx) error) error {
	return s.run(ctx, s.db.View, f)
}

// update runs f in a writing transaction.
func (s *Store) update(ctx context.Context, f func(*bbolt.Tx) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.run(ctx, s.db.Update, f)
}

func (s *Store) run(ctx context.Context, transact func(func(*bbolt.Tx) error) error, f func(*bbolt.Tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if damage := s.damage.Load(); damage != nil {
		return *damage
	}
	whole := false
	func() {
		defer survive(&err)()
		err = transact(f)
		whole = true
	}()
	switch {
	case err == nil, err == usage.ErrFenced, err == usage.ErrMismatch:
		return err
	case whole:
		return s.explain(err)
	}
	err = s.explain(err)
	s.damage.Store(&err)
	return err
}

// Hello implements usage.Store.
func (s *Store) Hello(ctx context.Context, stream usage.StreamID) (usage.Greeting, error) {
	g := usage.Greeting{Genesis: s.genesis, Time: s.now()}
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		p, known, err := position(tx, stream)
		g.Known, g.Position = known, p.Position
		return err
	})
	return g, err
}

// Apply implements usage.Store.
func (s *Store) Apply(ctx context.Context, b *usage.Batch) (usage.Position, error) {
	var p streamPosition
	err := s.update(ctx, func(tx *bbolt.Tx) (err error) {
		p, err = s.apply(tx, b)
		return err
	})
	if err != nil && err != usage.ErrFenced && err != usage.ErrMismatch {
		return usage.Position{}, err
	}
	return p.Position, err
}

func (s *Store) apply(tx *bbolt.Tx, b *usage.Batch) (streamPosition, error) {
	p, _, err := position(tx, b.Stream)
	switch {
	case err != nil:
		return p, err
	case b.Epoch < p.Epoch:
		return p, usage.ErrFenced
	case b.From != p.Seq:
		return p, usage.ErrMismatch
	}
	w := writer{tx: tx, now: s.now(), position: &p}
	for i := range b.Rows {
		if err := w.book(&b.Rows[i], s.retention); err != nil {
			return p, err
		}
	}
	w.raise(&p.Totals, &b.Totals, nil)
	if err := w.bury(); err != nil {
		return p, err
	}
	if err := prune(tx, w.now, s.retention); err != nil {
		return p, err
	}
	p.Epoch, p.Seq, p.Chain, p.Seen = b.Epoch, b.To, b.Chain, w.now
	return p, tx.Bucket(streamsBucket).Put(b.Stream[:], p.append(nil))
}

// Scan implements usage.Store. What it reads is of one moment.
func (s *Store) Scan(ctx context.Context, t usage.Table, d usage.Dimension, bucket time.Time, yield func(usage.Key, *usage.Counts) bool) error {
	if gone(s.retention, t, bucket, s.now()) {
		return ctx.Err()
	}
	return s.view(ctx, func(tx *bbolt.Tx) error {
		prefix := bucketKey(nil, t, d, bucket)
		c := tx.Bucket(tableBuckets[t]).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			key, err := parseNames(k[len(prefix):], t.Names(d))
			if err != nil {
				return err
			}
			counts, _, err := usage.ParseCounts(v)
			if err != nil {
				continue // what should have gone there is among the dead letters
			}
			if !call(yield, key, &counts) {
				return nil
			}
		}
		return nil
	})
}

// call keeps a panic of yield apart from those of bbolt.
func call(yield func(usage.Key, *usage.Counts) bool, k usage.Key, c *usage.Counts) bool {
	defer func() {
		if p := recover(); p != nil {
			panic(callers{p})
		}
	}()
	return yield(k, c)
}

// Months implements usage.Store.
func (s *Store) Months(ctx context.Context) (months []time.Time, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(tableBuckets[usage.MonthlyBy]).Cursor()
		for k, _ := c.First(); len(k) >= numberLen; {
			n := binary.BigEndian.Uint32(k)
			months = append(months, start(usage.MonthlyBy, n))
			k, _ = c.Seek(binary.BigEndian.AppendUint32(nil, n+1))
		}
		return nil
	})
	return months, err
}

// Audit implements usage.Store. What it reads is of one moment.
func (s *Store) Audit(ctx context.Context) (a usage.Audit, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		err := tx.Bucket(streamsBucket).ForEach(func(id, _ []byte) error {
			if len(id) != len(usage.StreamID{}) {
				return fmt.Errorf("%w: %x is no stream", errForeign, id)
			}
			p, _, err := position(tx, usage.StreamID(id))
			a.Streams = append(a.Streams, p.StreamPosition)
			return err
		})
		if err != nil {
			return err
		}
		late := tx.Bucket(lateBucket)
		if a.LateHours, _, err = usage.ParseCounts(late.Get(tableBuckets[usage.Hourly])); err != nil {
			return fmt.Errorf("%w: late hours: %w", errForeign, err)
		}
		if a.LateDays, _, err = usage.ParseCounts(late.Get(tableBuckets[usage.Daily])); err != nil {
			return fmt.Errorf("%w: late days: %w", errForeign, err)
		}
		return tx.Bucket(lettersBucket).ForEach(func(_, v []byte) error {
			l, err := parseLetter(v)
			a.DeadLetters = append(a.DeadLetters, l)
			return err
		})
	})
	return a, err
}
