package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/floway/floway/usage"
)

// segment is one file of the log while it is open. Fields are guarded by the
// ledger's mutex; file is used without it for reading and syncing.
type segment struct {
	first   uint64
	path    string
	made    int // tells apart two files that had the same name in turn
	stream  usage.StreamID
	seed    uint32
	created time.Time

	file  File  // nil once everything is on the disk and nothing more comes
	size  int64 // that the file takes
	off   int64 // where the next record goes
	last  uint64
	open  int    // attempts that are open and whose latest record lies here
	mem   []byte // what is written and not known to be on the disk, up to off
	safe  uint64 // the last record that is on the disk
	bad   bool   // a write or a sync failed: the file takes nothing more
	moved bool   // what was not on the disk was written again elsewhere
}

// durable is how far the file is on the disk.
func (s *segment) durable() int64 { return s.off - int64(len(s.mem)) }

// shorten gives back the room that is left, and closes the file.
func (s *segment) shorten() {
	if !s.bad && s.file.Truncate(s.off) == nil {
		s.size = s.off
	}
	s.file.Close()
	s.file = nil
}

// spare is an empty file whose room is set aside.
type spare struct {
	file File
	path string
}

const (
	// promise is the room that is kept for each open attempt: its end, and its
	// place in a list.
	promise = maxFrame + maxListed
	// maxUnsynced bounds what is kept in memory of records that are not on the
	// disk. A disk that is further behind takes no further attempts.
	maxUnsynced = 64 << 20
	// maxMem is how much memory is kept from one segment for the next.
	maxMem = 4 << 20
	// patience is how long a caller waits for the disk.
	patience = 10 * time.Second
	// mendEvery is how often trouble is looked after.
	mendEvery = time.Second
)

func (l *Ledger) current() *segment { return l.segments[len(l.segments)-1] }

// write writes the record in buf as the next one, and tries another segment if
// this one does not take it. It returns the record's number and where it lies.
func (l *Ledger) write(kind Kind) (uint64, int64, error) {
	payload := len(l.buf)
	seq, off, err := l.add(kind)
	if err == nil {
		return seq, off, nil
	}
	first := err
	if l.fail(err); l.heal() {
		l.buf = l.buf[:payload]
		if seq, off, err = l.add(kind); err != nil {
			if errors.Is(err, errNoSpare) {
				err = first // why there is none any more
			}
			l.fail(err)
		}
	}
	return seq, off, err
}

// add writes the record in buf. Nothing but the file has changed if it returns
// an error, and the next record goes to the same place.
func (l *Ledger) add(kind Kind) (uint64, int64, error) {
	size := frameSize(len(l.buf) - frameHeader)
	if s := l.current(); s.bad || s.off+size > s.size {
		if err := l.rotate(); err != nil {
			return 0, 0, err
		}
	}
	var sum uint32
	seq, s := l.last+1, l.current()
	l.buf, sum = seal(l.buf, kind, seq, l.chain, s.seed)
	return l.place(s, l.buf, seq, sum)
}

// place puts a frame at the end of a segment.
func (l *Ledger) place(s *segment, frame []byte, seq uint64, sum uint32) (uint64, int64, error) {
	if _, err := s.file.WriteAt(frame, s.off); err != nil {
		s.bad = true
		return 0, 0, fmt.Errorf("write the ledger: %w", err)
	}
	off := s.off
	s.mem = append(s.mem, frame...)
	s.off += int64(len(frame))
	s.last, l.last, l.chain = seq, seq, sum
	before := l.unsynced
	l.unsynced += int64(len(frame))
	if before == 0 {
		signal(l.dirty)
	}
	if before < l.syncBytes && l.unsynced >= l.syncBytes || l.cfg.Durability == Strict {
		signal(l.urgent)
	}
	return seq, off, nil
}

var errNoSpare = errors.New("no further segment is ready")

// rotate goes on in a new segment. That starts with the list of the attempts that
// are open, so that recovery need not look further back.
func (l *Ledger) rotate() error {
	if _, err := l.begin(l.manifest.id, l.last+1, l.chain, nil); err != nil {
		return err
	}
	signal(l.provide)
	return l.writeList()
}

// begin makes a spare file the segment of the records in mem, which starts with
// the number first, and puts it in its place in the row of segments.
func (l *Ledger) begin(stream usage.StreamID, first uint64, chain uint32, mem []byte) (*segment, error) {
	if len(l.spares) == 0 {
		return nil, errNoSpare
	}
	sp := l.spares[0]
	now := l.cfg.Clock()
	head := header{stream: stream, first: first, created: now, chain: chain}
	path := filepath.Join(l.cfg.Dir, segmentName(first))
	if mem == nil {
		mem, l.mem = l.mem, nil
	}
	_, err := sp.file.WriteAt(append(head.append(nil), mem...), 0)
	if err == nil {
		err = l.cfg.FS.Rename(sp.path, path)
	}
	l.spares = slices.Delete(l.spares, 0, 1)
	if err != nil {
		sp.file.Close()
		l.cfg.FS.Remove(sp.path)
		return nil, fmt.Errorf("begin a segment of the ledger: %w", err)
	}
	l.dirSynced = false
	l.made++
	s := &segment{
		first: first, path: path, made: l.made, stream: stream, seed: seedOf(stream), created: now,
		file: sp.file, size: l.cfg.SegmentBytes, off: segmentHeader + int64(len(mem)),
		mem: mem, last: l.last, safe: first - 1,
	}
	at, same := slices.BinarySearchFunc(l.segments, first, bySegment)
	if same {
		l.segments[at] = s
	} else {
		l.segments = slices.Insert(l.segments, at, s)
	}
	return s, nil
}

// writeList writes which attempts are open and where. A list that a segment has
// no room for stays incomplete; recovery then looks further back.
func (l *Ledger) writeList() error {
	parts := [][]byte{nil}
	for seq, a := range l.open {
		if len(parts[len(parts)-1])+maxListed > listPayload {
			parts = append(parts, nil)
		}
		part := &parts[len(parts)-1]
		*part = putPlace(*part, seq, place{a.in.first, a.off})
	}
	s := l.current()
	for i, part := range parts {
		frame := putList(make([]byte, frameHeader), list{int64(i + 1), int64(len(parts)), l.epoch, part})
		frame, sum := seal(frame, Listed, l.last+1, l.chain, s.seed)
		if s.off+int64(len(frame)) > s.size {
			return nil
		}
		if _, _, err := l.place(s, frame, l.last+1, sum); err != nil {
			return err
		}
	}
	return nil
}

// room is how many bytes of records still fit into the files that are there, if
// each record is as large as can be.
func (l *Ledger) room() int64 {
	if len(l.segments) == 0 {
		return 0
	}
	room := int64(0)
	if s := l.current(); !s.bad {
		room = max(0, s.size-s.off-maxFrame)
	}
	each := l.cfg.SegmentBytes - segmentHeader - 2*maxFrame - int64(len(l.open)+1)*maxListed
	return room + int64(len(l.spares))*max(0, each)
}

// fail begins trouble: no attempts are admitted until it is healed.
func (l *Ledger) fail(err error) {
	if l.trouble == nil {
		l.cfg.Log.Error("the ledger cannot write", "dir", l.cfg.Dir, "error", err)
	}
	l.trouble = err
	l.changed.Broadcast()
	signal(l.provide)
}

// heal tries to end trouble. What a bad file holds and may not be on the disk is
// written again from memory into a new segment; then what was held back. A file
// whose sync failed once is never synced again: the second try would succeed and
// the records be gone.
func (l *Ledger) heal() bool {
	err := func() error {
		for i := 0; i < len(l.segments); i++ {
			if s := l.segments[i]; s.bad && !s.moved {
				if err := l.relocate(s); err != nil {
					return err
				}
			}
		}
		for len(l.held) > 0 {
			h := l.held[0]
			l.buf = append(l.buf[:frameHeader], h.payload...)
			seq, _, err := l.add(h.kind)
			if err != nil {
				return err
			}
			l.concluded(h.kind, h.reserve, seq)
			l.held = l.held[1:]
		}
		if l.dirFailed {
			return l.trouble
		}
		return nil
	}()
	if err != nil {
		if !errors.Is(err, errNoSpare) {
			l.trouble = err
		}
		return false
	}
	l.held = nil
	l.trouble = nil
	l.cfg.Log.Warn("the ledger writes again", "dir", l.cfg.Dir)
	l.changed.Broadcast()
	return true
}

// relocate writes what is not on the disk of a bad segment into a new one, which
// supersedes it from the first of these records on.
func (l *Ledger) relocate(s *segment) error {
	durable := s.durable()
	first, chain := l.last+1, l.chain
	if len(s.mem) > 0 {
		first = binary.LittleEndian.Uint64(s.mem[8:])
		chain = binary.LittleEndian.Uint32(s.mem[16:])
	} else if s != l.current() {
		s.moved = true
		return nil
	}
	ns, err := l.begin(s.stream, first, chain, s.mem)
	if err != nil {
		return err
	}
	ns.last = s.last
	for seq, a := range l.open {
		if a.in == s && a.off >= durable {
			a.in, a.off = ns, a.off-durable+segmentHeader
			s.open--
			ns.open++
			l.open[seq] = a
		}
	}
	s.moved, s.mem, s.off, s.last = true, nil, durable, first-1
	s.file.Close()
	s.file = nil
	signal(l.dirty)
	signal(l.urgent)
	signal(l.provide)
	return nil
}

// provideLoop keeps segments ready and looks after trouble.
func (l *Ledger) provideLoop() {
	defer l.keeping.Done()
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-l.provide:
		case <-again.C:
		}
		l.mu.Lock()
		need := l.needsSpare()
		l.mu.Unlock()
		var err error
		for need && err == nil {
			err = l.provideSpare()
			l.mu.Lock()
			need = l.needsSpare()
			l.mu.Unlock()
		}
		l.mu.Lock()
		if err != nil && l.spareErr == nil {
			l.cfg.Log.Warn("the ledger gets no further segment", "dir", l.cfg.Dir, "error", err)
		}
		l.spareErr = err
		if l.trouble != nil {
			signal(l.dirty)
			signal(l.urgent)
			if !l.heal() && err != nil {
				l.trouble = err
			}
		}
		if l.trouble != nil || err != nil {
			again.Reset(mendEvery)
		}
		l.changed.Broadcast()
		l.mu.Unlock()
	}
}

// needsSpare says whether another segment should be made ready: there is always
// one, and room for as many attempts again as are open.
func (l *Ledger) needsSpare() bool {
	return len(l.spares) == 0 || l.room() < 2*int64(len(l.open)+1)*promise
}

// provideSpare makes another segment ready, if the log may grow by it.
func (l *Ledger) provideSpare() error {
	for {
		l.mu.Lock()
		size, limit := l.size(), l.cfg.MaxBytes
		l.mu.Unlock()
		if size+l.cfg.SegmentBytes <= limit {
			break
		}
		if !l.trim(true) {
			return fmt.Errorf("the log in %s has reached its limit of %d bytes, and the store has not acknowledged what is in it", l.cfg.Dir, limit)
		}
	}
	sp, err := l.makeSpare()
	if err != nil {
		return fmt.Errorf("make a segment of the ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spares = append(l.spares, sp)
	return nil
}

func (l *Ledger) makeSpare() (spare, error) {
	l.mu.Lock()
	l.made++
	path := filepath.Join(l.cfg.Dir, fmt.Sprintf("%s%d", sparePrefix, l.made))
	l.mu.Unlock()
	f, err := l.cfg.FS.Open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return spare{}, err
	}
	err = f.Allocate(l.cfg.SegmentBytes)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		l.cfg.FS.Remove(path)
		return spare{}, err
	}
	return spare{f, path}, nil
}

// size is how many bytes the directory takes.
func (l *Ledger) size() int64 {
	size := int64(len(l.spares)) * l.cfg.SegmentBytes
	for _, s := range l.segments {
		size += s.size
	}
	return size
}
