package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/floway/floway/usage"
)

// window is how much of a segment is read at a time.
const window = 256 << 10

// scanner reads the frames of one segment. Where it finds none it looks for the
// next one that is whole, that carries the stream's seed, and whose number can be
// right: above the last one, and not by more than the bytes between have room for.
type scanner struct {
	r        io.ReaderAt
	seeds    []uint32 // those of the streams that may have written here
	off, end int64
	last     uint64 // the number of the last frame

	buf  []byte
	base int64 // where in the file buf starts

	// tail is where the last frame ended; dirt is how many bytes other than zeros
	// were passed over since.
	tail int64
	dirt int64
}

// next returns the next frame; io.EOF if there is none.
func (s *scanner) next() (frame, error) {
	for {
		b, err := s.peek(frameHeader)
		if err != nil {
			return frame{}, err
		}
		if len(b) < frameHeader {
			return frame{}, io.EOF
		}
		if n, ok := payloadLength(b); ok {
			if b, err = s.peek(frameHeader + n); err != nil {
				return frame{}, err
			}
			if len(b) == frameHeader+n {
				if f, ok := s.check(b); ok {
					s.off += f.size
					s.last, s.tail, s.dirt = f.seq, s.off, 0
					return f, nil
				}
			}
		}
		s.pass()
	}
}

func (s *scanner) check(b []byte) (frame, bool) {
	for _, seed := range s.seeds {
		f, ok := openFrame(b, seed)
		if ok && f.seq > s.last && f.seq-s.last-1 <= uint64(s.off-s.tail)/frameHeader {
			return f, true
		}
	}
	return frame{}, false
}

// peek returns the n bytes at off, or what is left of the file.
func (s *scanner) peek(n int) ([]byte, error) {
	at := s.off - s.base
	if at >= 0 && at+int64(n) <= int64(len(s.buf)) {
		return s.buf[at : at+int64(n)], nil
	}
	size := min(window, s.end-s.off)
	if size <= 0 {
		return nil, nil
	}
	if s.buf == nil {
		s.buf = make([]byte, window)
	}
	s.buf = s.buf[:size]
	s.base = s.off
	if got, err := s.r.ReadAt(s.buf, s.off); got < len(s.buf) {
		if err != io.EOF {
			s.buf = s.buf[:0]
			return nil, err
		}
		s.buf = s.buf[:got]
		s.end = s.off + int64(got)
	}
	return s.buf[:min(n, len(s.buf))], nil
}

// pass goes on to the next place where a frame may start.
func (s *scanner) pass() {
	b := s.buf[s.off-s.base:]
	i := 0
	for ; i+alignment <= len(b); i += alignment {
		if i > 0 && b[i] == magic0 && b[i+1] == magic1 {
			break
		}
		if binary.LittleEndian.Uint64(b[i:]) != 0 {
			s.dirt += alignment
		}
	}
	s.off += int64(i)
}

// logReader reads the records of consecutive segments. It says through missing
// which numbers it did not find.
type logReader struct {
	fs    FS
	seeds []uint32
	spans []span
	// missing is told of each range of numbers that is not there; nil for not.
	missing func(from, to uint64)

	after uint64 // records up to this one are passed over
	i     int    // the span that is read
	file  File
	scan  scanner
	at    span   // what file was opened as
	chain uint32 // what the header of the segment says
	sum   uint32 // checksum of the last record, if summed
	// breaks counts records that do not follow the one before by the chain.
	breaks int
	summed bool
}

// seek makes the reader start behind the record with the number after.
func (r *logReader) seek(after uint64) {
	r.close()
	r.after, r.summed = after, false
	r.i = max(0, sort.Search(len(r.spans), func(i int) bool { return r.spans[i].first > after+1 })-1)
}

// update tells the reader that the log has grown or changed. It goes on behind
// the record that it returned last.
func (r *logReader) update(spans []span) {
	r.spans = spans
	if r.file != nil {
		for i, s := range spans {
			if s.first == r.at.first && s.incarnation == r.at.incarnation {
				r.i, r.scan.end = i, s.limit
				return
			}
		}
	}
	r.seek(r.after)
}

func (r *logReader) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// next returns the next record and where it lies; io.EOF if there is none yet.
func (r *logReader) next() (frame, place, error) {
	for r.i < len(r.spans) {
		s := r.spans[r.i]
		if r.file == nil {
			if err := r.open(s); err != nil {
				return frame{}, place{}, fmt.Errorf("read %s: %w", filepath.Base(s.path), err)
			}
		}
		f, err := r.scan.next()
		if err != nil && err != io.EOF {
			return frame{}, place{}, fmt.Errorf("read %s: %w", filepath.Base(s.path), err)
		}
		if err == io.EOF || f.seq >= s.until {
			if r.i+1 == len(r.spans) {
				return frame{}, place{}, io.EOF
			}
			r.close()
			r.i++
			continue
		}
		if f.seq <= r.after {
			continue
		}
		if f.seq > r.after+1 {
			r.summed = false
			if r.missing != nil {
				r.missing(r.after+1, f.seq-1)
			}
		}
		if r.summed && f.chain != r.sum {
			r.breaks++
		}
		r.after, r.sum, r.summed = f.seq, f.sum, true
		return f, place{s.first, r.scan.off - f.size}, nil
	}
	return frame{}, place{}, io.EOF
}

func (r *logReader) open(s span) error {
	f, h, err := openSegment(r.fs, s.path)
	if err != nil && !errors.Is(err, errHeader) {
		return err
	}
	seeds := r.seeds
	if err == nil {
		if !slices.Contains(seeds, seedOf(h.stream)) {
			f.Close()
			return fmt.Errorf("the segment is of another log, with the stream %s: move it away", h.stream)
		}
		seeds = []uint32{seedOf(h.stream)}
	}
	end := s.limit
	if end < 0 {
		if end, err = f.Size(); err != nil {
			f.Close()
			return err
		}
	}
	r.file, r.at, r.chain = f, s, h.chain
	r.scan = scanner{r: f, seeds: seeds, off: segmentHeader, tail: segmentHeader, end: end, last: s.first - 1, buf: r.scan.buf[:0]}
	return nil
}

// openSegment opens a segment for reading. The file is open even if the error is
// errHeader.
func openSegment(fsys FS, path string) (File, header, error) {
	f, err := fsys.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, header{}, err
	}
	var b [segmentHeader]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		f.Close()
		return nil, header{}, err
	}
	h, err := parseHeader(b[:n])
	if err != nil && !errors.Is(err, errHeader) {
		f.Close()
		return nil, header{}, err
	}
	return f, h, err
}

// Entry is one record of a log.
type Entry struct {
	Kind Kind
	// Seq is the record's own number.
	Seq uint64
	// Record is what Reserved, Progressed, Settled, Unsettled, Corrected and
	// Withdrawn are about; its Seq is that of the reserve.
	Record usage.Record
	// Was is what a Corrected record replaces.
	Was usage.Record
	// Epoch is that of an Opened record.
	Epoch uint64
	// From and To are the first and the last number that a Missing record names,
	// and Why says how they came to miss. Read makes such an entry, without a Seq,
	// for each range that it cannot find.
	From, To uint64
	Why      string
}

// Read calls fn for each record that the log in dir holds, in order, until fn
// returns an error, which it then returns. It takes no lock and changes nothing,
// so it can be used beside the process that writes the log; what that one has not
// finished writing is left out.
func Read(dir string, fn func(Entry) error) error { return read(disk{}, dir, fn) }

func read(fsys FS, dir string, fn func(Entry) error) error {
	m, err := readManifest(fsys, dir)
	if err != nil {
		return err
	}
	spans, err := listSpans(fsys, dir)
	if err != nil {
		return fmt.Errorf("read the log in %s: %w", dir, err)
	}
	if len(spans) == 0 {
		return nil
	}
	var gaps []Entry
	r := logReader{fs: fsys, seeds: m.seeds(), spans: spans}
	defer r.close()
	r.missing = func(from, to uint64) {
		gaps = append(gaps, Entry{Kind: Missing, From: from, To: to, Why: "damaged or deleted"})
	}
	r.seek(spans[0].first - 1)
	interned := make(names)
	for {
		f, _, err := r.next()
		for _, g := range gaps {
			if err := fn(g); err != nil {
				return err
			}
		}
		gaps = gaps[:0]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := entryOf(f, interned)
		if err != nil {
			return fmt.Errorf("read record %d: %w", f.seq, err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

func entryOf(f frame, n names) (e Entry, err error) {
	e.Kind, e.Seq = f.kind, f.seq
	switch f.kind {
	case Reserved, Progressed, Settled, Unsettled, Corrected, Withdrawn:
		err = takeRecord(f.payload, &e.Record, &e.Was, n)
	case Opened:
		var o opening
		o, err = takeOpening(f.payload)
		e.Epoch = o.epoch
	case Missing:
		var g gap
		g, err = takeGap(f.payload)
		e.From, e.To, e.Why = g.from, g.to, g.why
	}
	return e, err
}
