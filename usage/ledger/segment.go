package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/floway/floway/usage"
)

// A segment is a file named by the number of its first record. It starts with
// this header; frames follow without space between them, then zeros.
//
//	 0  magic     8 bytes
//	 8  version   4 bytes
//	12  zero      4 bytes
//	16  stream   16 bytes
//	32  first     8 bytes
//	40  created   8 bytes, microseconds
//	48  chain     4 bytes, the checksum of the last record of the segment before
//	52  zero      8 bytes
//	60  checksum  4 bytes
const (
	segmentHeader  = 64
	segmentMagic   = "flowaylg"
	formatVersion  = 1
	segmentSuffix  = ".log"
	sparePrefix    = "spare-"
	maxSegmentSize = 1 << 30
)

type header struct {
	stream  usage.StreamID
	first   uint64
	created time.Time
	chain   uint32
}

func (h header) append(b []byte) []byte {
	at := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(b, h.stream[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.first)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.created.UnixMicro()))
	b = binary.LittleEndian.AppendUint32(b, h.chain)
	b = binary.LittleEndian.AppendUint64(b, 0)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

var (
	errHeader = errors.New("the header is damaged")
	// ErrNewer: a later version of floway has written the log.
	ErrNewer = errors.New("was written by a later version of floway")
)

func parseHeader(b []byte) (header, error) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic ||
		crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]) {
		return header{}, errHeader
	}
	if binary.LittleEndian.Uint32(b[8:]) != formatVersion {
		return header{}, ErrNewer
	}
	return header{
		stream:  usage.StreamID(b[16:32]),
		first:   binary.LittleEndian.Uint64(b[32:]),
		created: time.UnixMicro(int64(binary.LittleEndian.Uint64(b[40:]))).UTC(),
		chain:   binary.LittleEndian.Uint32(b[48:]),
	}, nil
}

func segmentName(first uint64) string { return fmt.Sprintf("%016x%s", first, segmentSuffix) }

// parseSegmentName gives the number of the first record of a segment by the name
// of its file; false for any other file.
func parseSegmentName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	first, err := strconv.ParseUint(hex, 16, 64)
	return first, err == nil && first > 0
}

// span is a segment as a reader sees it.
type span struct {
	first uint64
	path  string
	// until is the first number of the next segment. What this one holds from
	// there on was written again in the next one and does not count here.
	until uint64
	// limit is how far the file may be read; -1 means to its end.
	limit int64
	// incarnation tells two files apart that had the same name one after the other.
	incarnation int
}

// listSpans finds the segments of a directory.
func listSpans(fsys FS, dir string) ([]span, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	var spans []span
	for _, name := range names {
		if first, ok := parseSegmentName(name); ok {
			spans = append(spans, span{first: first, path: filepath.Join(dir, name), limit: -1})
		}
	}
	bound(spans)
	return spans, nil
}

// bound sets where each span gives way to the next. The names of files sort like
// their numbers.
func bound(spans []span) {
	for i := range spans {
		spans[i].until = 1<<64 - 1
		if i+1 < len(spans) {
			spans[i].until = spans[i+1].first
		}
	}
}
