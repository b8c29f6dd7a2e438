package ledger

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/floway/floway/usage"
)

// Kind says what a record of the log tells.
type Kind byte

const (
	// Opened: a process took the log over, with a new epoch.
	Opened Kind = 'O'
	// Reserved: an attempt is about to be sent.
	Reserved Kind = 'R'
	// Progressed: a long attempt is this far.
	Progressed Kind = 'P'
	// Settled: an attempt has ended.
	Settled Kind = 'S'
	// Unsettled: a process died before an attempt ended; nobody knows its outcome.
	Unsettled Kind = 'U'
	// Corrected: what was settled is known better.
	Corrected Kind = 'X'
	// Withdrawn: a reserved attempt was never sent.
	Withdrawn Kind = 'V'
	// Missing: records that the log should have cannot be read.
	Missing Kind = 'G'
	// Listed: a part of the list of all attempts that are open.
	Listed Kind = 'K'
	// Closed: a process let go of the log in good order.
	Closed Kind = 'C'
)

var kindNames = map[Kind]string{
	Opened: "opened", Reserved: "reserved", Progressed: "progressed", Settled: "settled",
	Unsettled: "unsettled", Corrected: "corrected", Withdrawn: "withdrawn",
	Missing: "missing", Listed: "listed", Closed: "closed",
}

func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// A frame is how a record lies in the log: this header, the payload, and zeros up
// to a multiple of 8. All numbers are little-endian.
//
//	 0  magic           2 bytes
//	 2  kind            1 byte
//	 3  flags           1 byte, zero
//	 4  payload length  4 bytes
//	 8  sequence        8 bytes
//	16  chain           4 bytes, the checksum of the record before
//	20  checksum        4 bytes, CRC-32C of header and payload
//
// The checksum starts from that of the stream's id: what another stream left in
// the same blocks of a disk, or what a stranger smuggled into a name, is no frame.
const (
	frameHeader = 24
	maxPayload  = 4096
	maxFrame    = frameHeader + maxPayload
	alignment   = 8

	// The magic bytes occur in no valid UTF-8, so in no name inside a payload.
	magic0, magic1 = 0xFC, 0xF7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seedOf(stream usage.StreamID) uint32 { return crc32.Checksum(stream[:], castagnoli) }

// frame is one record as it was read. The payload is valid until the next read.
type frame struct {
	kind    Kind
	seq     uint64
	chain   uint32 // checksum of the record before
	sum     uint32 // its own checksum
	payload []byte
	size    int64 // in the file
}

func frameSize(payload int) int64 {
	return int64(frameHeader+payload+alignment-1) &^ (alignment - 1)
}

// seal completes a frame in place. b holds room for the header and the payload
// behind it; the result is padded.
func seal(b []byte, kind Kind, seq uint64, chain, seed uint32) ([]byte, uint32) {
	n := len(b) - frameHeader
	b[0], b[1], b[2], b[3] = magic0, magic1, byte(kind), 0
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint32(b[16:], chain)
	sum := checksum(b, seed)
	binary.LittleEndian.PutUint32(b[20:], sum)
	for int64(len(b)) < frameSize(n) {
		b = append(b, 0)
	}
	return b, sum
}

func checksum(b []byte, seed uint32) uint32 {
	return crc32.Update(crc32.Update(seed, castagnoli, b[:20]), castagnoli, b[frameHeader:])
}

// payloadLength reads the length of the frame that b starts with; false if b,
// which holds a header at least, starts with none.
func payloadLength(b []byte) (int, bool) {
	n := binary.LittleEndian.Uint32(b[4:])
	return int(n), b[0] == magic0 && b[1] == magic1 && n <= maxPayload
}

// openFrame checks the frame that b consists of, without its padding.
func openFrame(b []byte, seed uint32) (frame, bool) {
	sum := binary.LittleEndian.Uint32(b[20:])
	if checksum(b, seed) != sum {
		return frame{}, false
	}
	return frame{
		kind:    Kind(b[2]),
		seq:     binary.LittleEndian.Uint64(b[8:]),
		chain:   binary.LittleEndian.Uint32(b[16:]),
		sum:     sum,
		payload: b[frameHeader:],
		size:    frameSize(len(b) - frameHeader),
	}, true
}
