package ledger

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/floway/floway/usage"
)

// Open takes the log in c.Dir over, or makes a new one. It recovers what another
// process left, writes down what that one left open, and starts to carry the log
// into the store, which need not be reachable. When it returns, the log is on the
// disk. The error wraps ErrLocked if somebody else has the directory.
func Open(c Config) (*Ledger, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	l, err := openDir(c)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		err = fmt.Errorf("%w: let the user of this process write %s, or give the ledger another directory", err, c.Dir)
	case errors.Is(err, syscall.ENOTDIR):
		err = fmt.Errorf("%w: move away what is in the place of %s, or give the ledger another directory", err, c.Dir)
	case errors.Is(err, syscall.ENOSPC):
		err = fmt.Errorf("%w: make room on the disk of %s, or give the ledger another directory; what it holds stays", err, c.Dir)
	}
	return l, err
}

func openDir(c Config) (*Ledger, error) {
	if err := c.FS.MkdirAll(c.Dir); err != nil {
		return nil, fmt.Errorf("make the ledger's directory: %w", err)
	}
	lock, err := c.FS.Lock(filepath.Join(c.Dir, lockName))
	if errors.Is(err, ErrLocked) {
		return nil, fmt.Errorf("%s is %w: each process needs a directory of its own", c.Dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the ledger's directory: %w", err)
	}
	l := &Ledger{
		cfg:     c,
		lock:    lock,
		stop:    make(chan struct{}),
		dirty:   make(chan struct{}, 1),
		urgent:  make(chan struct{}, 1),
		provide: make(chan struct{}, 1),
		settled: make(chan struct{}, 1),
		hurry:   make(chan struct{}, 1),
		buf:     make([]byte, frameHeader, maxFrame),
		open:    make(map[uint64]attempt),
		gaps:    make(map[uint64]uint64),
		booking: make(chan struct{}, 1),
	}
	l.changed.L = &l.mu
	l.syncDelay, l.syncBytes = c.Durability.leeway()
	l.storing, l.stopStore = context.WithCancel(context.Background())
	l.reading, l.stopReading = context.WithCancel(context.Background())
	if err := l.takeOver(); err != nil {
		l.abandon()
		return nil, err
	}
	l.flushing.Add(1)
	go l.flushLoop()
	l.keeping.Add(3)
	go l.watchLoop()
	go l.syncLoop()
	go l.provideLoop()
	signal(l.provide)
	return l, nil
}

// abandon lets go of everything after an opening that did not succeed.
func (l *Ledger) abandon() {
	l.stopStore()
	l.stopReading()
	for _, s := range l.segments {
		if s.file != nil {
			s.file.Close()
		}
	}
	for _, s := range l.spares {
		s.file.Close()
		l.cfg.FS.Remove(s.path)
	}
	if l.marks != nil {
		l.marks.file.Close()
	}
	l.lock.Close()
}

// takeOver recovers the log and begins a new epoch.
func (l *Ledger) takeOver() error {
	spans, err := l.takeStock()
	if err != nil {
		return err
	}
	var known bool
	l.marks, l.mark, known, err = openBookmarks(l.cfg.FS, l.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open the ledger's position: %w", err)
	}
	if l.mark.Stream != l.manifest.Stream {
		known = false
	}

	// Without a genesis the store has never acknowledged anything.
	rec, err := l.recover(spans, known || l.manifest.Genesis == "")
	if err != nil {
		return fmt.Errorf("recover the ledger in %s: %w", l.cfg.Dir, err)
	}
	l.last, l.chain, l.inherited = rec.last, rec.chain, rec.last
	l.blind = !known && l.manifest.Genesis != ""
	l.epoch = max(rec.epoch, l.mark.Epoch, l.mark.Confirmed) + 1
	oldest := uint64(0)
	if len(l.segments) > 0 {
		oldest = l.segments[0].first - 1
	}
	switch {
	case !known:
		// The store tells where it stands, and in doubt it is believed.
		l.mark = bookmark{
			Stream: l.manifest.Stream, Seq: l.manifest.Base, Confirmed: l.epoch - 1,
			Origin: max(l.manifest.Base, oldest), Unsure: oldest > l.manifest.Base,
		}
	case l.mark.Origin < oldest:
		l.mark.Origin, l.mark.Before, l.mark.Unsure = oldest, nil, true
	}
	if l.mark.Seq > l.last {
		// The log has lost its end, but the store has what is left.
		l.mark.Seq, l.mark.Chain, l.mark.Origin = l.last, l.chain, min(l.mark.Origin, l.last)
	}
	l.clear = l.mark.Seq
	l.lastSettled = l.last
	l.since, l.sinceChain = l.last, l.chain

	if err := l.beginEpoch(rec); err != nil {
		return fmt.Errorf("begin to write the ledger in %s: %w", l.cfg.Dir, err)
	}
	return nil
}

// takeStock reads or writes the manifest, finds the segments, and clears away
// what a former process did not finish making.
func (l *Ledger) takeStock() ([]span, error) {
	c := &l.cfg
	names, err := c.FS.List(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the ledger's directory: %w", err)
	}
	for _, name := range names {
		// A spare file may hold records that then were written elsewhere, so it
		// is not used again.
		if strings.HasPrefix(name, sparePrefix) || name == manifestName+".new" {
			if err := c.FS.Remove(filepath.Join(c.Dir, name)); err != nil {
				return nil, fmt.Errorf("clear the ledger's directory: %w", err)
			}
		}
	}
	spans, err := listSpans(c.FS, c.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the ledger's directory: %w", err)
	}
	l.manifest, err = readManifest(c.FS, c.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(spans) == 0:
		l.manifest = newManifest(c.Sink)
		return nil, l.manifest.write(c.FS, c.Dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s holds segments of a log but not the file %q that says whose they are: "+
			"restore it, or move the directory away", c.Dir, manifestName)
	case err != nil:
		return nil, err
	case l.manifest.Sink != c.Sink:
		return nil, fmt.Errorf("the log in %s belongs to the store %q, not to %q: give this store a log directory of its own, "+
			"or use the old store until the log is in it and then move the directory away", c.Dir, l.manifest.Sink, c.Sink)
	}
	return spans, nil
}

// recovered is what is known of a log after it was read.
type recovered struct {
	last    uint64
	chain   uint32
	epoch   uint64
	open    map[uint64]place
	doubt   map[uint64]bool // open ones of which damage may hide the end
	gaps    []gap
	latest  time.Time // about when the last record was written
	unclean bool
	torn    int64 // bytes behind the last record that are none
}

// recover reads the log from the last list of open attempts on, which is at the
// start of the last segment as a rule.
func (l *Ledger) recover(spans []span, known bool) (rec *recovered, err error) {
	rec = new(recovered)
	if len(spans) == 0 {
		return rec, nil
	}
	if err := l.adoptSegments(spans); err != nil {
		return nil, err
	}
	seeds := l.manifest.seeds()
	start := len(spans) - 1
	for ; start > 0; start-- {
		ok, err := l.hasList(spans[start:start+1], seeds)
		if err != nil {
			return nil, err
		}
		if ok {
			break
		}
	}

	r := &logReader{fs: l.cfg.FS, seeds: seeds, spans: spans}
	defer r.close()
	r.missing = func(from, to uint64) {
		rec.gaps = append(rec.gaps, gap{from, to, "damaged or deleted"})
		if !known || from <= l.mark.Seq {
			rec.doubtOpen()
		}
	}
	if err := rec.read(r, spans[start].first-1); err != nil {
		return nil, err
	}
	l.closeLast(r)
	if known && l.mark.Seq > rec.last {
		rec.doubtOpen()
	}
	return rec, l.syncSegments(start)
}

// read goes through the records behind after.
func (rec *recovered) read(r *logReader, after uint64) error {
	rec.open, rec.doubt = make(map[uint64]place), make(map[uint64]bool)
	r.seek(after)
	var latest []byte
	var lister lister
	for {
		f, at, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		rec.last, rec.chain, rec.unclean = f.seq, f.sum, f.kind != Closed
		switch f.kind {
		case Opened:
			if o, err := takeOpening(f.payload); err == nil {
				rec.epoch = max(rec.epoch, o.epoch)
			}
		case Reserved:
			rec.open[f.seq] = at
			latest = append(latest[:0], f.payload...)
		case Progressed:
			if seq, err := takeReserve(f.payload); err == nil {
				if _, ok := rec.open[seq]; ok {
					rec.open[seq] = at
				}
			}
			latest = append(latest[:0], f.payload...)
		case Settled, Unsettled, Withdrawn:
			if seq, err := takeReserve(f.payload); err == nil {
				delete(rec.open, seq)
				delete(rec.doubt, seq)
			}
			latest = append(latest[:0], f.payload...)
		case Listed:
			if open, epoch, ok := lister.take(f.payload); ok {
				rec.open, rec.epoch = open, max(rec.epoch, epoch)
				clear(rec.doubt)
			}
		}
	}
	if r.file != nil {
		rec.torn = r.scan.dirt
	}
	if before := r.spans[len(r.spans)-1].first - 1; rec.last < before {
		// Nothing of the last segment can be read, but it began behind this one.
		if r.after < before {
			r.missing(r.after+1, before)
		}
		rec.last, rec.chain, rec.unclean = before, r.chain, true
	}
	var when, none usage.Record
	if takeRecord(latest, &when, &none, make(names)) == nil {
		rec.latest = when.Start
		if when.Time.After(when.Start) {
			rec.latest = when.Time
		}
	}
	return nil
}

func (rec *recovered) doubtOpen() {
	for seq := range rec.open {
		rec.doubt[seq] = true
	}
}

// adoptSegments looks whether the segments are of this log, and takes them in.
func (l *Ledger) adoptSegments(spans []span) error {
	for i, s := range spans {
		f, h, err := openSegment(l.cfg.FS, s.path)
		if err != nil && !errors.Is(err, errHeader) {
			return fmt.Errorf("%s: %w", filepath.Base(s.path), err)
		}
		size, serr := f.Size()
		f.Close()
		if serr != nil {
			return fmt.Errorf("%s: %w", filepath.Base(s.path), serr)
		}
		if err == nil && !l.manifest.knows(h.stream) {
			return fmt.Errorf("%s is of another log, with the stream %s: move it away", filepath.Base(s.path), h.stream)
		}
		if err != nil {
			l.cfg.Log.Warn("the header of a segment is damaged", "dir", l.cfg.Dir, "segment", filepath.Base(s.path))
		}
		l.made++
		seg := &segment{
			first: s.first, path: s.path, made: l.made, stream: h.stream, seed: seedOf(h.stream), created: h.created,
			size: size, off: max(size, segmentHeader),
		}
		if i+1 < len(spans) {
			seg.last = spans[i+1].first - 1
			seg.safe = seg.last
		}
		l.segments = append(l.segments, seg)
	}
	return nil
}

// hasList says whether a segment holds a whole list of open attempts.
func (l *Ledger) hasList(spans []span, seeds []uint32) (bool, error) {
	r := &logReader{fs: l.cfg.FS, seeds: seeds, spans: spans}
	defer r.close()
	r.seek(spans[0].first - 1)
	var lister lister
	for {
		f, _, err := r.next()
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if f.kind == Listed {
			if _, _, ok := lister.take(f.payload); ok {
				return true, nil
			}
		}
	}
}

// closeLast sets where the last segment ends and gives back the room behind it.
// Records never go behind a tear: the next one goes to a new segment.
func (l *Ledger) closeLast(r *logReader) {
	s := l.segments[len(l.segments)-1]
	if r.file == nil || r.at.path != s.path {
		return
	}
	s.off, s.last, s.safe = r.scan.tail, r.scan.last, r.scan.last
	if s.size <= s.off {
		return
	}
	f, err := l.cfg.FS.Open(s.path, os.O_RDWR)
	if err != nil {
		return
	}
	defer f.Close()
	if f.Truncate(s.off) == nil {
		s.size = s.off
	}
}

// syncSegments brings to the disk what the process before may not have.
func (l *Ledger) syncSegments(start int) error {
	for _, s := range l.segments[max(0, start-1):] {
		f, err := l.cfg.FS.Open(s.path, os.O_RDWR)
		if err != nil {
			return err
		}
		err = f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("sync %s: %w", filepath.Base(s.path), err)
		}
	}
	return nil
}

// beginEpoch writes that the log has a new owner, ends what the last one left
// open, and brings it all to the disk.
func (l *Ledger) beginEpoch(rec *recovered) error {
	if rec.last > 0 {
		l.tally.unclean = rec.unclean
		if rec.unclean {
			l.cfg.Log.Warn("the ledger was not closed; if the power was lost, so may be what was written last",
				"dir", l.cfg.Dir, "open", len(rec.open), "torn_bytes", rec.torn)
		}
	}
	ready, err := l.makeSpare()
	if err != nil {
		return err
	}
	l.spares = append(l.spares, ready)
	if _, err := l.begin(l.manifest.id, l.last+1, l.chain, nil); err != nil {
		return err
	}
	var nonce [8]byte
	rand.Read(nonce[:])
	l.buf = putOpening(l.buf[:frameHeader], opening{l.epoch, l.cfg.Clock()}, int64(binary.LittleEndian.Uint64(nonce[:])|1))
	if err := l.mustAdd(Opened); err != nil {
		return err
	}
	for _, g := range rec.gaps {
		l.report(g)
	}
	if err := l.endOpen(rec); err != nil {
		return err
	}
	if err := l.writeList(); err != nil {
		return err
	}
	l.sync()
	return l.trouble
}

// mustAdd is add that makes a segment itself if it needs one.
func (l *Ledger) mustAdd(kind Kind) error {
	payload := len(l.buf)
	_, _, err := l.add(kind)
	if errors.Is(err, errNoSpare) {
		sp, err := l.makeSpare()
		if err != nil {
			return err
		}
		l.spares = append(l.spares, sp)
		l.buf = l.buf[:payload]
		_, _, err = l.add(kind)
		return err
	}
	return err
}

// endOpen writes an Unsettled record for each attempt that was open when the
// process died: its outcome is not known. They are counted at the time of the
// last record before that, since none can have been open much longer.
func (l *Ledger) endOpen(rec *recovered) error {
	for seq, at := range rec.open {
		if i, ok := slices.BinarySearchFunc(l.segments, at.segment, bySegment); ok {
			l.segments[i].open++
			l.open[seq] = attempt{in: l.segments[i], off: at.off}
		}
	}
	seeds := l.manifest.seeds()
	lost := len(rec.open) - len(l.open)
	interned := make(names)
	for _, seq := range slices.Sorted(maps.Keys(l.open)) {
		if rec.doubt[seq] {
			l.tally.doubtful++
			l.end(seq)
			continue
		}
		r, err := l.readAttempt(l.open[seq], seq, seeds, interned)
		if err != nil {
			lost++
			l.end(seq)
			continue
		}
		r.Time = r.Start
		if rec.latest.After(r.Time) {
			r.Time = rec.latest
		}
		r.Outcome, r.Source, r.Final = 0, usage.Unknown, true
		r.Partial, r.Estimating = false, false
		l.buf = putRecord(l.buf[:frameHeader], r)
		if err := l.mustAdd(Unsettled); err != nil {
			return err
		}
		l.lastSettled = l.last
		l.end(seq)
		l.tally.recovered++
		l.tally.unknown++
	}
	if l.tally.recovered > 0 {
		l.cfg.Log.Warn("attempts were open when the process ended; their outcome is unknown", "dir", l.cfg.Dir, "attempts", l.tally.recovered)
	}
	if n := l.tally.doubtful + lost; n > 0 {
		l.cfg.Log.Error("attempts were open beside damage to the log, which hides whether they were counted; they are not counted again",
			"dir", l.cfg.Dir, "attempts", n)
		l.tally.doubtful = n
	}
	return nil
}

func bySegment(s *segment, first uint64) int { return cmp.Compare(s.first, first) }

// readAttempt reads the latest record of an open attempt.
func (l *Ledger) readAttempt(a attempt, seq uint64, seeds []uint32, n names) (*usage.Record, error) {
	f, err := l.cfg.FS.Open(a.in.path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, maxFrame)
	got, err := f.ReadAt(b, a.off)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if b = b[:got]; len(b) < frameHeader {
		return nil, errPayload
	}
	size, ok := payloadLength(b)
	if !ok || len(b) < frameHeader+size {
		return nil, errPayload
	}
	for _, seed := range append(seeds, a.in.seed) {
		fr, ok := openFrame(b[:frameHeader+size], seed)
		if !ok || fr.kind != Reserved && fr.kind != Progressed {
			continue
		}
		r := new(usage.Record)
		if err := takeRecord(fr.payload, r, new(usage.Record), n); err != nil {
			return nil, err
		}
		if fr.kind == Reserved {
			r.Seq = fr.seq
		}
		if r.Seq == seq {
			return r, nil
		}
	}
	return nil, errPayload
}

// lister puts the parts of a list together.
type lister struct {
	next   int64
	places map[uint64]place
}

// take takes one part. ok says that it was the last one of a whole list.
func (c *lister) take(p []byte) (open map[uint64]place, epoch uint64, ok bool) {
	l, err := takeList(p)
	if err != nil || l.part != 1 && (c.next == 0 || l.part != c.next) {
		c.next = 0
		return nil, 0, false
	}
	if l.part == 1 {
		c.places = make(map[uint64]place)
	}
	c.next = l.part + 1
	for rest := l.places; len(rest) > 0; {
		seq, at, after, err := takePlace(rest)
		if err != nil {
			c.next = 0
			return nil, 0, false
		}
		c.places[seq], rest = at, after
	}
	if l.part < l.parts {
		return nil, 0, false
	}
	c.next = 0
	return c.places, l.epoch, true
}
