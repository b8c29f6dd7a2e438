package ledger

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// memFS is a file system in memory that knows what a loss of power would leave,
// and whose calls can be made to fail.
type memFS struct {
	mu      sync.Mutex
	names   map[string]*memFile
	durable map[string]*memFile
	locks   map[string]bool
	room    int64 // left on the disk; -1 without limit

	calls int
	// fault is asked before each call, with its number and name.
	fault func(n int, op string) fault
}

// fault is how a call goes wrong.
type fault int

const (
	fine      fault = iota
	fails           // an error, and no effect
	failsLate       // an error after the whole effect
	shortens        // an error after half of the effect
	tears           // half of the effect, and no error
)

type memFile struct {
	fs      *memFS
	data    []byte
	durable []byte
	rotten  bool // nothing more can be written
}

var errDisk = &os.PathError{Op: "test", Path: "disk", Err: syscall.EIO}

func newMemFS() *memFS {
	return &memFS{names: map[string]*memFile{}, durable: map[string]*memFile{}, locks: map[string]bool{}, room: -1}
}

// call counts a call and says how it goes. The lock is held afterwards.
func (m *memFS) call(op string) fault {
	m.mu.Lock()
	m.calls++
	if m.fault == nil {
		return fine
	}
	return m.fault(m.calls, op)
}

func (m *memFS) onCall(f func(n int, op string) fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// do runs a call whose effect cannot be halved.
func (m *memFS) do(op string, effect func() error) error {
	f := m.call(op)
	defer m.mu.Unlock()
	switch f {
	case fails, shortens:
		return errDisk
	case failsLate:
		effect()
		return errDisk
	case tears:
		return nil
	}
	return effect()
}

func (m *memFS) MkdirAll(string) error { return m.do("mkdir", func() error { return nil }) }

func (m *memFS) List(dir string) (names []string, err error) {
	err = m.do("list", func() error {
		for name := range m.names {
			if filepath.Dir(name) == dir {
				names = append(names, filepath.Base(name))
			}
		}
		slices.Sort(names)
		return nil
	})
	return names, err
}

func (m *memFS) Open(name string, flag int) (File, error) {
	var f *memFile
	op := "open"
	if flag&os.O_CREATE != 0 {
		op = "create"
	}
	if m.call(op) != fine {
		m.mu.Unlock()
		return nil, errDisk
	}
	defer m.mu.Unlock()
	f = m.names[name]
	switch {
	case f == nil && flag&os.O_CREATE == 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case f == nil:
		f = &memFile{fs: m}
		m.names[name] = f
	case flag&os.O_TRUNC != 0:
		f.resize(0)
	}
	return f, nil
}

func (m *memFS) Rename(from, to string) error {
	return m.do("rename", func() error {
		f := m.names[from]
		if f == nil {
			return &os.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
		}
		delete(m.names, from)
		m.names[to] = f
		return nil
	})
}

func (m *memFS) Remove(name string) error {
	return m.do("remove", func() error {
		if f := m.names[name]; f != nil && m.room >= 0 {
			m.room += int64(len(f.data))
		}
		delete(m.names, name)
		return nil
	})
}

func (m *memFS) SyncDir(dir string) error {
	return m.do("syncdir", func() error {
		maps.DeleteFunc(m.durable, func(name string, _ *memFile) bool { return filepath.Dir(name) == dir })
		for name, f := range m.names {
			if filepath.Dir(name) == dir {
				m.durable[name] = f
			}
		}
		return nil
	})
}

func (m *memFS) Lock(name string) (io.Closer, error) {
	if m.call("lock") != fine {
		m.mu.Unlock()
		return nil, errDisk
	}
	defer m.mu.Unlock()
	if m.locks[name] {
		return nil, ErrLocked
	}
	m.locks[name] = true
	return memLock{m, name}, nil
}

type memLock struct {
	fs   *memFS
	name string
}

func (l memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.locks, l.name)
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	how := f.fs.call("read")
	defer f.fs.mu.Unlock()
	if how != fine && how != tears {
		return 0, errDisk
	}
	n := 0
	if off < int64(len(f.data)) {
		n = copy(p, f.data[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	how := f.fs.call("write")
	defer f.fs.mu.Unlock()
	whole := len(p)
	if f.rotten {
		return 0, errDisk
	}
	switch how {
	case fails:
		return 0, errDisk
	case shortens, tears:
		p = p[:len(p)/2]
	}
	if end := off + int64(len(p)); end > int64(len(f.data)) && !f.resize(end) {
		return 0, syscall.ENOSPC
	}
	copy(f.data[off:], p)
	if how == failsLate || how == shortens {
		return len(p), errDisk
	}
	return whole, nil
}

// resize makes the file as long as size; false if there is no room.
func (f *memFile) resize(size int64) bool {
	more := size - int64(len(f.data))
	if f.fs.room >= 0 {
		if more > f.fs.room {
			return false
		}
		f.fs.room -= more
	}
	if more < 0 {
		f.data = f.data[:size:size]
	} else {
		f.data = append(f.data, make([]byte, more)...)
	}
	return true
}

func (f *memFile) Allocate(size int64) error {
	return f.fs.do("allocate", func() error {
		if !f.resize(size) {
			return syscall.ENOSPC
		}
		return nil
	})
}

func (f *memFile) Truncate(size int64) error {
	return f.fs.do("truncate", func() error { f.resize(size); return nil })
}

func (f *memFile) Sync() error {
	return f.fs.do("sync", func() error { f.durable = slices.Clone(f.data); return nil })
}

func (f *memFile) Size() (int64, error) {
	if how := f.fs.call("size"); how != fine && how != tears {
		f.fs.mu.Unlock()
		return 0, errDisk
	}
	defer f.fs.mu.Unlock()
	return int64(len(f.data)), nil
}

func (f *memFile) Close() error { return nil }

// losePower gives what the disk holds after a loss of power: what was synced, and
// of what was not, some blocks and some names.
func (m *memFS) losePower(rnd *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := newMemFS()
	names := maps.Clone(m.durable)
	for name, f := range m.names {
		if names[name] != f && rnd.IntN(2) == 0 {
			names[name] = f
		}
	}
	for name := range m.durable {
		if m.names[name] == nil && rnd.IntN(2) == 0 {
			delete(names, name)
		}
	}
	const block = 512
	for name, f := range names {
		data := slices.Clone(f.durable)
		for at := 0; at < len(f.data); at += block {
			if rnd.IntN(2) == 0 {
				continue
			}
			b := f.data[at:min(at+block, len(f.data))]
			if need := at + len(b); need > len(data) {
				data = append(data, make([]byte, need-len(data))...)
			}
			copy(data[at:], b)
		}
		after.names[name] = &memFile{fs: after, data: data, durable: slices.Clone(data)}
	}
	after.durable = maps.Clone(after.names)
	return after
}

func (m *memFS) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		fmt.Fprintf(&b, "%s %d\n", name, len(m.names[name].data))
	}
	return b.String()
}
