// Package ledger keeps the log of attempts: what floway writes down before it
// contacts an upstream and when the answer has ended, so that no crash loses or
// doubles a request. One flusher per ledger carries the log into a usage.Store.
//
// The log is a directory of segments, files of framed, checksummed and numbered
// records (see segment.go, frame.go and payload.go). An attempt is a Reserved
// record and then one that ends it: Settled, or Unsettled if the process died.
// The store's sums and its position in the log move in one atomic step, and a
// batch says from which position it starts; so a lost reply, a restart or a store
// that went back in time is answered by sending again.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/floway/floway/usage"
)

// Durability is when a record is safe from the loss of power. It is safe from the
// death of the process at once.
type Durability int

const (
	// Batch brings records to the disk 100 ms after they were written, or once
	// there are 256 KiB of them. Nobody waits for it.
	Batch Durability = iota
	// Process does so after a second, or 8 MiB.
	Process
	// Strict lets Reserve and Settle wait for the disk. Those that wait at the
	// same time share one flush of it.
	Strict
)

// OnFull is what becomes of an attempt that the log has no room for.
type OnFull int

const (
	// Refuse has Reserve return an error.
	Refuse OnFull = iota
	// Continue lets the attempt go on and counts it in Stats.Unrecorded.
	Continue
)

// Config says how a ledger is kept. Only Dir and Store must be set.
type Config struct {
	// Dir is the directory of the log, made if it is not there. One process has
	// it at a time.
	Dir string
	// Store takes in what is settled. The ledger does not close it.
	Store usage.Store
	// Sink is the identity of the store: address, database and namespace. A log
	// belongs to the store that it was made for.
	Sink string
	// Durability is Batch by default.
	Durability Durability
	// OnFull is Refuse by default.
	OnFull OnFull
	// MaxBytes bounds the directory; 1 GiB by default, two segments at least.
	// What the store has not acknowledged is never deleted.
	MaxBytes int64
	// SegmentBytes is the size of one file; 16 MiB by default, 64 KiB to 1 GiB.
	SegmentBytes int64
	// KeepFor and KeepBytes say how much of what the store acknowledged is kept,
	// in case that the store loses it: segments go when they are older than
	// KeepFor, 1 h by default, and newer ones hold KeepBytes, 256 MiB by default;
	// earlier only if MaxBytes would be passed.
	KeepFor   time.Duration
	KeepBytes int64
	// Clock is the wall clock; time.Now by default.
	Clock func() time.Time
	// Log takes what an operator should know; nothing by default.
	Log *slog.Logger
	// Alarm is told of trouble, by one goroutine that waits for it to return; nil
	// for nobody.
	Alarm func(Alarm)
	// FS is the file layer; the operating system's by default.
	FS FS
}

const (
	defaultMaxBytes     = 1 << 30
	defaultSegmentBytes = 16 << 20
	minSegmentBytes     = 64 << 10
	defaultKeepFor      = time.Hour
	defaultKeepBytes    = 256 << 20
)

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Store == nil {
		return c, errors.New("a ledger needs a directory and a store")
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = max(minSegmentBytes, min(defaultSegmentBytes, c.MaxBytes/4))
	}
	if c.KeepFor == 0 {
		c.KeepFor = defaultKeepFor
	}
	if c.KeepBytes == 0 {
		c.KeepBytes = defaultKeepBytes
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.FS == nil {
		c.FS = disk{}
	}
	c.SegmentBytes &^= alignment - 1
	switch {
	case c.SegmentBytes < minSegmentBytes || c.SegmentBytes > maxSegmentSize:
		return c, fmt.Errorf("a segment of the ledger must have 64 KiB to 1 GiB, not %d bytes", c.SegmentBytes)
	case c.MaxBytes < 2*c.SegmentBytes:
		return c, fmt.Errorf("a ledger must have room for two segments, that is %d bytes, not %d", 2*c.SegmentBytes, c.MaxBytes)
	case c.KeepFor < 0 || c.KeepBytes < 0:
		return c, errors.New("what a ledger keeps cannot be negative")
	}
	return c, nil
}

var (
	// ErrFull: the log has no room for another attempt beside what it owes to
	// those that are open, or its disk does not take records.
	ErrFull = errors.New("the ledger cannot take another attempt")
	// ErrClosed: the ledger was closed.
	ErrClosed = errors.New("the ledger is closed")
)

// Ledger is an open log. All methods may be called at the same time.
type Ledger struct {
	cfg   Config
	lock  io.Closer
	marks *bookmarks

	// stop ends the goroutines; storing is the context of calls to the store.
	stop      chan struct{}
	storing   context.Context
	stopStore context.CancelFunc
	// reading is the context of whoever reads the log for long; Close ends it.
	reading     context.Context
	stopReading context.CancelFunc
	flushing    sync.WaitGroup // the flusher
	keeping     sync.WaitGroup // the other goroutines

	// Signals with room for one. Whoever gets one looks at the state.
	dirty   chan struct{} // there are records that the disk does not have
	urgent  chan struct{} // … and somebody waits for them
	provide chan struct{} // a segment is needed, or something is to be mended
	settled chan struct{} // the flusher has something to do
	hurry   chan struct{} // … and somebody waits for it

	// booking has room for the one who may use the store's position: the flusher,
	// or Verify, which wants it to stay.
	booking chan struct{}

	trimming sync.Mutex // held while acknowledged segments are deleted
	marking  sync.Mutex // held while the bookmark is written
	unmarked bool       // the last time it could not be, which was told; under marking

	mu sync.Mutex
	// changed is signalled when records reached the disk or the store, when a
	// segment was provided, and when trouble begins or ends.
	changed sync.Cond

	manifest manifest
	mark     bookmark
	epoch    uint64
	// since is the last record before the epoch, sinceChain its checksum.
	since      uint64
	sinceChain uint32

	segments []*segment // by first number; the last one is written to
	spares   []spare
	made     int    // spares and segments ever made, to tell them apart
	last     uint64 // the number of the last record
	chain    uint32 // its checksum
	synced   uint64 // the last record that is on the disk
	unsynced int64  // bytes that are not
	// syncDelay and syncBytes are how long and how many bytes may wait.
	syncDelay time.Duration
	syncBytes int64
	buf       []byte // the record that is being written
	mem       []byte // for the next segment's mem
	open      map[uint64]attempt
	closing   bool
	closed    bool
	flushers  int // calls of Flush that wait

	// trouble is why records cannot be written or brought to the disk; held are
	// those that wait for its end.
	trouble   error
	held      []heldRecord
	dirSynced bool // the names of all segments are durable
	dirFailed bool
	spareErr  error // why there is no further segment

	lastSettled uint64 // the last record that the store must get
	clear       uint64 // up to here the store has all that counts
	oldest      time.Time
	resume      bool
	// inherited is the last record of the processes before this one. As long as
	// blind, nobody knows which of them the store has.
	inherited uint64
	blind     bool
	tally     tally
	gaps      map[uint64]uint64 // ranges that were reported missing
}

// attempt is one that is open: where its reserve, or its latest progress, lies.
type attempt struct {
	in      *segment
	off     int64
	settled bool // by a record that is held back
}

// heldRecord is a record that could not be written yet.
type heldRecord struct {
	kind    Kind
	reserve uint64
	payload []byte
}

// Reserve writes down that an attempt is about to be sent. It sets r.Seq. If it
// returns an error the attempt must not be sent: errors.Is tells ErrFull and
// ErrClosed. With OnFull Continue an attempt that there is no room for has the
// Seq 0 and no error.
func (l *Ledger) Reserve(r *usage.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Seq = 0
	err := l.reserve(r)
	if err == nil || errors.Is(err, ErrClosed) {
		return err
	}
	if l.cfg.OnFull == Continue {
		l.tally.unrecorded++
		return nil
	}
	l.tally.refused++
	return err
}

func (l *Ledger) reserve(r *usage.Record) error {
	if err := l.admit(); err != nil {
		return err
	}
	l.buf = putRecord(l.buf[:frameHeader], r)
	seq, off, err := l.write(Reserved)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	in := l.current()
	in.open++
	l.open[seq] = attempt{in: in, off: off}
	r.Seq = seq
	if l.cfg.Durability != Strict {
		return nil
	}
	if err := l.awaitSync(seq); err != nil {
		r.Seq = 0
		l.buf = putInt(l.buf[:frameHeader], fieldReserve, int64(seq))
		l.conclude(Withdrawn, seq)
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return nil
}

// admit says whether another attempt may begin. It waits for a segment that is
// being made.
func (l *Ledger) admit() error {
	decided, err := l.admissible()
	if decided {
		return err
	}
	if !l.await(func() bool { decided, err = l.admissible(); return decided }) {
		return fmt.Errorf("%w: %w", ErrFull, errSlow)
	}
	return err
}

// admissible says whether another attempt may begin; decided is false as long as
// that depends on a segment that is being made.
func (l *Ledger) admissible() (decided bool, err error) {
	switch {
	case l.closing:
		return true, ErrClosed
	case l.trouble != nil:
		return true, fmt.Errorf("%w: %w", ErrFull, l.trouble)
	case l.unsynced > maxUnsynced:
		return true, fmt.Errorf("%w: %w", ErrFull, errSlow)
	case l.room() >= int64(len(l.open)+1)*promise:
		return true, nil
	case l.spareErr != nil:
		return true, fmt.Errorf("%w: %w", ErrFull, l.spareErr)
	}
	signal(l.provide)
	return false, nil
}

var errSlow = errors.New("its disk is too slow")

// await waits until done says so, which is asked after each change. It says
// whether that came in time: a disk that hangs must not hold up everybody.
func (l *Ledger) await(done func() bool) bool {
	late := false
	t := time.AfterFunc(patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.changed.Broadcast()
	})
	defer t.Stop()
	for !done() {
		if late {
			return false
		}
		l.changed.Wait()
	}
	return true
}

// Settle writes down how an attempt ended, once for each Reserve. It sets r.Time,
// which decides in which hour and day the attempt is counted. It does nothing
// more for a record with the Seq 0. It does not fail: there is room for it since
// the reserve, and if the disk refuses it is kept and written later.
func (l *Ledger) Settle(r *usage.Record) {
	r.Time = time.UnixMicro(l.cfg.Clock().UnixMicro()).UTC()
	if r.Seq == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, ok := l.open[r.Seq]; !ok || a.settled || l.closed {
		l.tally.stray++
		l.cfg.Log.Error("an attempt was settled that is not open in the ledger", "dir", l.cfg.Dir, "seq", r.Seq, "closed", l.closed)
		return
	}
	l.tally.settled++
	if r.Unknown() {
		l.tally.unknown++
	}
	if r.Source == usage.Estimated || r.Partial {
		l.tally.estimated++
	}
	if l.lastSettled <= l.clear {
		l.oldest = r.Time
	}
	l.buf = putRecord(l.buf[:frameHeader], r)
	if seq := l.conclude(Settled, r.Seq); seq != 0 && l.cfg.Durability == Strict {
		if err := l.awaitSync(seq); err != nil {
			l.cfg.Log.Error("a settled attempt is not on the disk yet", "dir", l.cfg.Dir, "seq", r.Seq, "error", err)
		}
	}
}

// Progress writes down how far a long attempt is, so that a crash does not leave
// its estimate at what was known before it began. It is for attempts that take
// longer than 10 s, every 10 s at most. r is as for Settle, as far as it is known.
func (l *Ledger) Progress(r *usage.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.open[r.Seq]
	if !ok || a.settled || l.closed || l.trouble != nil || !l.spacious() {
		return
	}
	l.buf = putRecord(l.buf[:frameHeader], r)
	if _, off, err := l.write(Progressed); err == nil {
		a.in.open--
		a.in, a.off = l.current(), off
		a.in.open++
		l.open[r.Seq] = a
	}
}

// Correct replaces what was settled by what is known now: an estimate, or that
// the attempt was the last one of its request. The difference is counted in the
// hour and day in which the attempt was settled; now.Time is set to that. Both
// are of the same attempt, and was is as it was settled or corrected last. A
// correction for which there is no room is left out and counted; what was settled
// then stays.
func (l *Ledger) Correct(was, now *usage.Record) {
	now.Time, now.Seq = was.Time, was.Seq
	if was.Seq == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.spacious() {
		l.await(func() bool {
			signal(l.provide)
			return l.spacious() || l.spareErr != nil || l.trouble != nil || l.closed
		})
	}
	if a, ok := l.open[was.Seq]; ok && !a.settled || l.closed || !l.spacious() && l.trouble == nil {
		l.tally.uncorrected++
		return
	}
	l.tally.corrected++
	if l.lastSettled <= l.clear {
		l.oldest = l.cfg.Clock()
	}
	l.buf = putCorrection(l.buf[:frameHeader], was, now)
	l.conclude(Corrected, was.Seq)
}

// spacious says whether there is room for a record that nobody was promised.
func (l *Ledger) spacious() bool {
	return l.room() >= int64(len(l.open))*promise+maxFrame
}

// conclude writes the record in buf, which is about the attempt with the number
// reserve and ends it if it is open, or keeps it until it can be written. It
// returns its number, or 0 if it was kept.
func (l *Ledger) conclude(kind Kind, reserve uint64) uint64 {
	if l.trouble == nil {
		payload := len(l.buf)
		seq, _, err := l.write(kind)
		if err == nil {
			l.concluded(kind, reserve, seq)
			return seq
		}
		l.buf = l.buf[:payload]
	}
	if a, ok := l.open[reserve]; ok {
		a.settled = true
		l.open[reserve] = a
	}
	l.held = append(l.held, heldRecord{kind, reserve, append([]byte(nil), l.buf[frameHeader:]...)})
	return 0
}

func (l *Ledger) concluded(kind Kind, reserve, seq uint64) {
	l.end(reserve)
	if kind != Withdrawn {
		l.lastSettled = seq
	}
}

func (l *Ledger) end(reserve uint64) {
	if a, ok := l.open[reserve]; ok {
		a.in.open--
		delete(l.open, reserve)
	}
}

// Flush waits until the store has all that was settled before the call. It
// returns why not: that ctx is done, or that the stream has stopped.
func (l *Ledger) Flush(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changed.Broadcast()
	})()
	l.flushers++
	defer func() { l.flushers-- }()
	signal(l.urgent)
	signal(l.dirty)
	signal(l.settled)
	signal(l.hurry)
	target := l.lastSettled
	for held := len(l.held) > 0; held || l.clear < target; {
		if held && len(l.held) == 0 {
			held, target = false, l.lastSettled
			continue
		}
		switch {
		case l.closed:
			return ErrClosed
		case l.tally.stopped != nil:
			return l.tally.stopped
		case ctx.Err() != nil:
			return fmt.Errorf("%d records of the ledger are not in the store: %w", l.last-l.clear, l.why(ctx.Err()))
		}
		l.changed.Wait()
	}
	return nil
}

// why names the trouble behind an error, if there is one.
func (l *Ledger) why(err error) error {
	switch {
	case l.trouble != nil:
		return fmt.Errorf("%w (%w)", err, l.trouble)
	case l.tally.storeErr != nil:
		return fmt.Errorf("%w (%w)", err, l.tally.storeErr)
	}
	return err
}

// Close refuses further attempts, waits until the store has what was settled, at
// most until ctx is done, and lets go of the log. What the store has not got by
// then stays in the log for the next opening; the error says so. Attempts that
// are still open will be found without an outcome. Calling it again does nothing.
func (l *Ledger) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return nil
	}
	l.closing = true
	l.changed.Broadcast()
	l.mu.Unlock()
	l.stopReading()

	err := l.Flush(ctx)
	l.stopStore()
	l.flushing.Wait()

	l.mu.Lock()
	l.closed = true
	if l.trouble == nil {
		l.buf = l.buf[:frameHeader]
		l.write(Closed)
	}
	if len(l.held) > 0 {
		err = errors.Join(err, fmt.Errorf("%d records could not be written: %w", len(l.held), l.trouble))
	}
	l.changed.Broadcast()
	l.mu.Unlock()

	close(l.stop)
	l.keeping.Wait()
	return errors.Join(err, l.release())
}

// release brings everything to the disk and lets go of the files.
func (l *Ledger) release() error {
	l.sync()
	l.saveMark()
	err := l.marks.file.Sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trouble != nil {
		err = l.trouble
	}
	for _, s := range l.segments {
		if s.file != nil {
			s.shorten()
		}
	}
	for _, s := range l.spares {
		s.file.Close()
		l.cfg.FS.Remove(s.path)
	}
	l.spares = nil
	return errors.Join(err, l.marks.file.Close(), l.lock.Close())
}

// signal leaves a signal if none is waiting to be seen.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
