package audit

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"
)

// segmentSize is that of the segments of a gateway's log.
const segmentSize = 16 << 20

// segment is a file of a log that is being made.
type segment struct {
	b     []byte
	id    [16]byte
	seq   uint64 // the last record
	chain uint32 // its checksum
}

// begin makes the header of the next segment.
func (s *segment) begin(created time.Time) {
	s.b = append(s.b[:0], "flowaylg"...)
	s.b = binary.LittleEndian.AppendUint32(s.b, 1)
	s.b = binary.LittleEndian.AppendUint32(s.b, 0)
	s.b = append(s.b, s.id[:]...)
	s.b = binary.LittleEndian.AppendUint64(s.b, s.seq+1)
	s.b = binary.LittleEndian.AppendUint64(s.b, uint64(created.UnixMicro()))
	s.b = binary.LittleEndian.AppendUint32(s.b, s.chain)
	s.b = binary.LittleEndian.AppendUint64(s.b, 0)
	s.b = binary.LittleEndian.AppendUint32(s.b, crc32.Checksum(s.b, castagnoli))
}

// frame adds a record.
func (s *segment) frame(kind byte, payload []byte) {
	s.seq++
	at := len(s.b)
	s.b = append(s.b, 0xFC, 0xF7, kind, 0)
	s.b = binary.LittleEndian.AppendUint32(s.b, uint32(len(payload)))
	s.b = binary.LittleEndian.AppendUint64(s.b, s.seq)
	s.b = binary.LittleEndian.AppendUint32(s.b, s.chain)
	sum := crc32.Update(crc32.Checksum(s.id[:], castagnoli), castagnoli, s.b[at:])
	s.chain = crc32.Update(sum, castagnoli, payload)
	s.b = binary.LittleEndian.AppendUint32(s.b, s.chain)
	s.b = append(s.b, payload...)
	for len(s.b)%8 != 0 {
		s.b = append(s.b, 0)
	}
}

// attempt adds the records of an attempt that was served: reserved and settled.
func (s *segment) attempt(request, key string, at time.Time, input, output int64) {
	p := text(nil, fieldRequest, request)
	p = number(number(number(p, fieldAttempt, 1), 4, at.UnixMicro()), 42, 900)
	for _, f := range []struct {
		field byte
		name  string
	}{{fieldClient, "alice"}, {fieldGroup, "team-a"}, {fieldUpstream, "mock"}, {fieldKey, key}, {fieldModel, "mock-chat"}, {11, "mock-chat"}, {13, "chat"}} {
		p = text(p, f.field, f.name)
	}
	s.frame(Reserved, p)
	q := append(number(nil, fieldReserve, int64(s.seq)), p...)
	q = number(number(q, fieldTime, at.UnixMicro()), fieldOutcome, Served)
	q = number(number(number(q, 17, 200), fieldFlags, 1), fieldSource, Reported)
	q = number(number(q, fieldInput, input), fieldInput+4, output)
	s.frame(Settled, number(number(q, fieldFirstByte, 90_000), fieldDuration, 150_000))
}

func number(b []byte, field byte, v int64) []byte {
	return binary.AppendVarint(append(b, field<<1), v)
}

func text(b []byte, field byte, s string) []byte {
	return append(binary.AppendUvarint(append(b, field<<1|1), uint64(len(s))), s...)
}

// Grow adds segments to the log in dir, of a gateway that does not run, until all
// of them together have size bytes. They hold attempts of a busy gateway, each
// reserved and settled at the time given. It returns how many attempts it wrote.
func Grow(dir string, size int64, at time.Time) (attempts int, err error) {
	s := segment{b: make([]byte, 0, segmentSize)}
	log, err := ReadLog(dir, func(r *Record) error { s.id = r.Stream; return nil })
	if err != nil {
		return 0, err
	}
	if s.id == [16]byte{} {
		return 0, fmt.Errorf("%s holds no record to go on from", dir)
	}
	s.seq = log.Last
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	if s.chain, err = lastSum(files[len(files)-1], log.Last); err != nil {
		return 0, err
	}
	for ; total+segmentSize <= size; total += segmentSize {
		first := s.seq + 1
		s.begin(at)
		// A segment begins with the list of the attempts that are open: none.
		s.frame('K', text(number(number(number(nil, 95, 1), 96, 1), 90, 1), 97, ""))
		for len(s.b) < segmentSize-1024 {
			s.attempt(fmt.Sprintf("req_%020d", attempts), fmt.Sprint("k", attempts%8+1), at, 100+int64(attempts%50), 20)
			attempts++
		}
		clear(s.b[len(s.b):segmentSize])
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%016x.log", first)), s.b[:segmentSize], 0o600); err != nil {
			return attempts, err
		}
	}
	return attempts, nil
}

// lastSum is the checksum of the record with that number, at the end of a segment.
func lastSum(path string, seq uint64) (uint32, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for off := len(b) - frameHeader; off >= segmentHeader; off-- {
		if b[off] == 0xFC && b[off+1] == 0xF7 && binary.LittleEndian.Uint64(b[off+8:]) == seq {
			return binary.LittleEndian.Uint32(b[off+20:]), nil
		}
	}
	return 0, fmt.Errorf("%s does not end in record %d", path, seq)
}
