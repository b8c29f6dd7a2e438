package audit

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Log is what a directory of segments holds.
type Log struct {
	// Stream is the name under which the log is sent now.
	Stream string
	// Last is the number of its last record, Gone how many numbers in between are
	// of no record that can be read, Gaps what Missing records say is missing.
	Last, Gone, Gaps uint64
}

const (
	frameHeader   = 24
	segmentHeader = 64
	maxPayload    = 4096
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ReadLog calls fn for each record of the log in dir. The log may be written to at
// the same time; what is not whole yet ends it.
func ReadLog(dir string, fn func(*Record) error) (Log, error) {
	var l Log
	data, err := os.ReadFile(filepath.Join(dir, "stream"))
	if err != nil {
		return l, err
	}
	var manifest struct {
		Stream string
		Former []string
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return l, err
	}
	l.Stream = manifest.Stream
	var streams [][16]byte
	for _, text := range append(manifest.Former, manifest.Stream) {
		b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
		if err != nil || len(b) != 16 {
			return l, fmt.Errorf("the stream %q has no id", text)
		}
		streams = append(streams, [16]byte(b))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return l, err
	}
	var firsts []uint64
	for _, e := range entries {
		if text, ok := strings.CutSuffix(e.Name(), ".log"); ok && len(text) == 16 {
			if n, err := strconv.ParseUint(text, 16, 64); err == nil {
				firsts = append(firsts, n)
			}
		}
	}
	slices.Sort(firsts)
	names := make(map[string]string)
	for i, first := range firsts {
		until := uint64(1<<64 - 1)
		if i+1 < len(firsts) {
			until = firsts[i+1]
		}
		if i == 0 {
			l.Last = first - 1
		}
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%016x.log", first)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was let go meanwhile
		}
		if err != nil {
			return l, err
		}
		if err := l.segment(b, first, until, streams, names, fn); err != nil {
			return l, err
		}
	}
	return l, nil
}

// StreamOf is the name under which the log in dir is sent; empty if it has none.
func StreamOf(dir string) string {
	l, err := ReadLog(dir, func(*Record) error { return io.EOF })
	if err != nil && err != io.EOF {
		return ""
	}
	return l.Stream
}

// segment reads the frames of one file. Where there is none it looks for the next
// that is whole, and whose number the room between leaves possible.
func (l *Log) segment(b []byte, first, until uint64, streams [][16]byte, names map[string]string, fn func(*Record) error) error {
	if len(b) < segmentHeader {
		return nil
	}
	if crc32.Checksum(b[:60], castagnoli) == binary.LittleEndian.Uint32(b[60:]) {
		streams = [][16]byte{[16]byte(b[16:32])}
	}
	last, tail := first-1, segmentHeader
	for off := segmentHeader; off+frameHeader <= len(b); {
		size := 0
		if b[off] == 0xFC && b[off+1] == 0xF7 {
			size = frameHeader + int(binary.LittleEndian.Uint32(b[off+4:]))
		}
		if size < frameHeader || size > frameHeader+maxPayload || off+size > len(b) {
			off += 8
			continue
		}
		f := b[off : off+size]
		seq, sum := binary.LittleEndian.Uint64(f[8:]), binary.LittleEndian.Uint32(f[20:])
		at := slices.IndexFunc(streams, func(id [16]byte) bool {
			c := crc32.Update(crc32.Checksum(id[:], castagnoli), castagnoli, f[:20])
			return crc32.Update(c, castagnoli, f[frameHeader:]) == sum
		})
		if at < 0 || seq <= last || seq-last-1 > uint64(off-tail)/frameHeader {
			off += 8
			continue
		}
		off += (size + 7) &^ 7
		last, tail = seq, off
		if seq >= until || seq <= l.Last {
			continue
		}
		l.Gone += seq - l.Last - 1
		l.Last = seq
		r := Record{Kind: f[2], Seq: seq, Sum: sum, Stream: streams[at]}
		switch r.Kind {
		case Reserved, Settled, Unsettled, Corrected, Withdrawn:
			if err := r.parse(f[frameHeader:], names); err != nil {
				return fmt.Errorf("record %d: %w", seq, err)
			}
			if r.Kind == Reserved {
				r.Reserve = seq
			}
			if err := fn(&r); err != nil {
				return err
			}
		case Missing:
			var from, to int64
			if err := each(f[frameHeader:], func(field byte, v int64, _ []byte) error {
				switch field {
				case 92:
					from = v
				case 93:
					to = v
				}
				return nil
			}); err != nil {
				return err
			}
			l.Gaps += uint64(to-from) + 1
		}
	}
	return nil
}
