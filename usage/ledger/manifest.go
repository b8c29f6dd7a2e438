package ledger

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/floway/floway/usage"
)

const (
	lockName     = "lock"
	manifestName = "stream"
	bookmarkName = "position"
	maxManifest  = 1 << 20
	maxFormer    = 1000
)

// manifest says whose log a directory holds. It is written when the log is made,
// and again in the rare case that one of its facts changes, always as a whole.
type manifest struct {
	Format int    `json:"format"`
	Stream string `json:"stream"`
	// Sink is the store that the log belongs to.
	Sink string `json:"sink"`
	// Genesis is that of the store when it first acknowledged a batch; empty
	// before. A store of the same genesis that does not know the stream has lost
	// its position; one of another genesis has lost everything.
	Genesis string `json:"genesis,omitempty"`
	// Base is the last record that is not this stream's to send, because another
	// copy of the log has sent it under the former name.
	Base   uint64   `json:"base,omitempty"`
	Former []string `json:"former,omitempty"`

	id usage.StreamID
}

func newManifest(sink string) manifest {
	m := manifest{Format: formatVersion, Sink: sink}
	m.rename()
	return m
}

// rename gives the stream a new id.
func (m *manifest) rename() {
	if m.Stream != "" {
		m.Former = append(m.Former, m.Stream)
		m.Former = m.Former[max(0, len(m.Former)-maxFormer):]
	}
	rand.Read(m.id[:])
	m.Stream = m.id.String()
	m.Genesis = ""
}

// seeds are the seeds of all streams whose records may be in the log.
func (m *manifest) seeds() []uint32 {
	seeds := []uint32{seedOf(m.id)}
	for _, former := range m.Former {
		if id, err := usage.ParseStreamID(former); err == nil {
			seeds = append(seeds, seedOf(id))
		}
	}
	return seeds
}

// knows says whether a segment of this stream belongs to the log.
func (m *manifest) knows(stream usage.StreamID) bool {
	if stream == m.id {
		return true
	}
	for _, former := range m.Former {
		if former == stream.String() {
			return true
		}
	}
	return false
}

// Identity says whose log a directory holds.
type Identity struct {
	Stream usage.StreamID
	// Sink is the store that the log was made for, Genesis the name of that store
	// itself; empty if it has never taken anything in.
	Sink, Genesis string
}

// Identify says whose log dir holds, beside whoever uses it. The error wraps
// fs.ErrNotExist if it holds none.
func Identify(dir string) (Identity, error) {
	m, err := readManifest(disk{}, dir)
	return Identity{m.id, m.Sink, m.Genesis}, err
}

// readManifest reads the manifest of dir. The error wraps fs.ErrNotExist if there
// is none.
func readManifest(fsys FS, dir string) (manifest, error) {
	m, err := func() (m manifest, err error) {
		data, err := readFile(fsys, filepath.Join(dir, manifestName), maxManifest)
		if err != nil {
			return m, err
		}
		var version struct{ Format int }
		if err := json.Unmarshal(data, &version); err != nil {
			return m, err
		}
		if version.Format > formatVersion {
			return m, ErrNewer
		}
		if err := json.Unmarshal(data, &m); err != nil {
			return m, err
		}
		m.id, err = usage.ParseStreamID(m.Stream)
		return m, err
	}()
	switch {
	case err == nil:
		return m, nil
	case errors.Is(err, fs.ErrNotExist):
		return m, fmt.Errorf("%s holds no log: %w", dir, err)
	case errors.Is(err, ErrNewer):
		return m, fmt.Errorf("the log in %s %w", dir, err)
	default:
		return m, fmt.Errorf("read which stream the log in %s is: %w", dir, err)
	}
}

func (m *manifest) write(fsys FS, dir string) error {
	data, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	if err := writeFile(fsys, filepath.Join(dir, manifestName), append(data, '\n')); err != nil {
		return fmt.Errorf("write which stream the log in %s is: %w", dir, err)
	}
	return nil
}

// bookmark is what the ledger remembers of the store between two processes. It
// steers only what the store itself does not know, so it is written without
// waiting for the disk.
type bookmark struct {
	Stream string `json:"stream"`
	// Seq, Chain and Epoch are the position that the store acknowledged last.
	Seq   uint64 `json:"seq"`
	Chain uint32 `json:"chain"`
	Epoch uint64 `json:"epoch"`
	// Confirmed is the last epoch in which the store was seen to follow this log.
	Confirmed uint64 `json:"confirmed"`
	// Fenced: the store refused a batch because a later opening had written.
	Fenced bool `json:"fenced,omitempty"`
	// Sending is the last record of the batch that was sent last, if that is not
	// acknowledged. Should the store lose its position at that moment, nobody knows
	// whether it has counted the batch.
	Sending uint64 `json:"sending,omitempty"`
	// Origin is the record behind which the log holds all that the store counted,
	// and Before what the stream's totals were there, in the encoding of
	// usage.Counts; Latest is the latest instant at which any of that was settled,
	// in Unix seconds. Unsure: nobody knows what they were.
	Origin uint64 `json:"origin"`
	Before []byte `json:"before,omitempty"`
	Latest int64  `json:"latest,omitempty"`
	Unsure bool   `json:"unsure,omitempty"`
}

// bookmarks is the file of the bookmark: two slots that are written in turn, so
// that one is whole whenever the power goes.
type bookmarks struct {
	file    File
	counter uint64
}

const (
	slotSize   = 4096
	slotHeader = 16 // checksum, length, counter
)

// openBookmarks opens the file in dir and reads the later slot; ok is false if
// there is none.
func openBookmarks(fsys FS, dir string) (s *bookmarks, b bookmark, ok bool, err error) {
	f, err := fsys.Open(filepath.Join(dir, bookmarkName), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, b, false, err
	}
	s = &bookmarks{file: f}
	data := make([]byte, 2*slotSize)
	n, err := f.ReadAt(data, 0)
	if n < len(data) {
		clear(data[n:])
	}
	if err != nil && n == 0 {
		// Empty, or not readable: the store knows all that matters.
		return s, b, false, nil
	}
	for i := range 2 {
		slot := data[i*slotSize:][:slotSize]
		size := binary.LittleEndian.Uint32(slot[4:])
		counter := binary.LittleEndian.Uint64(slot[8:])
		if size > slotSize-slotHeader || counter <= s.counter ||
			crc32.Checksum(slot[4:slotHeader+size], castagnoli) != binary.LittleEndian.Uint32(slot) {
			continue
		}
		var read bookmark
		if json.Unmarshal(slot[slotHeader:slotHeader+size], &read) == nil {
			s.counter, b, ok = counter, read, true
		}
	}
	return s, b, ok, nil
}

func (s *bookmarks) write(b *bookmark) error {
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if len(data) > slotSize-slotHeader {
		return errors.New("the position does not fit its slot")
	}
	slot := make([]byte, slotHeader, slotHeader+len(data))
	binary.LittleEndian.PutUint32(slot[4:], uint32(len(data)))
	binary.LittleEndian.PutUint64(slot[8:], s.counter+1)
	slot = append(slot, data...)
	binary.LittleEndian.PutUint32(slot, crc32.Checksum(slot[4:], castagnoli))
	_, err = s.file.WriteAt(slot, int64((s.counter+1)%2)*slotSize)
	if err == nil {
		s.counter++
	}
	return err
}
