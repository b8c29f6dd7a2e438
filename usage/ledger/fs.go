package ledger

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// FS is the file layer below a ledger. The default is the operating system's;
// tests put one in its place that fails. All methods may be called at the same
// time.
type FS interface {
	// MkdirAll makes a directory that only its owner can read.
	MkdirAll(dir string) error
	// List names what is in a directory, ascending.
	List(dir string) ([]string, error)
	// Open opens a file with the flags of os.OpenFile; it makes files that only
	// their owner can read.
	Open(name string, flag int) (File, error)
	// Rename puts a file in the place of another, in one step.
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes a lock file for this process, or says at once that it cannot by
	// an error that wraps ErrLocked. Closing what it returns lets go.
	Lock(name string) (io.Closer, error)
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Allocate makes the file size bytes long and has the room for them set
	// aside, so that no write within them lacks it. What was not written reads as
	// zeros.
	Allocate(size int64) error
	Truncate(size int64) error
	// Sync makes the content durable.
	Sync() error
	Size() (int64, error)
}

// ErrLocked: another process, or another ledger in this one, has the directory.
var ErrLocked = errors.New("in use by another ledger")

// disk is the operating system's file layer.
type disk struct{}

// Disk is the operating system's file layer, to build others on.
func Disk() FS { return disk{} }

func (disk) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (disk) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (disk) Open(name string, flag int) (File, error) {
	f, err := openFile(name, flag)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(name string) error     { return os.Remove(name) }

func (disk) Lock(name string) (io.Closer, error) { return lockFile(name) }

type diskFile struct{ *os.File }

func (f diskFile) Allocate(size int64) error { return allocate(f.File, size) }
func (f diskFile) Sync() error               { return syncData(f.File) }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// writeZeros sets room aside where the system has no call for it.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 256<<10)
	for off := int64(0); off < size; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// writeFile puts data under a name, durably and in one step: whoever reads the
// name sees all of the old content or all of the new.
func writeFile(fsys FS, name string, data []byte) (err error) {
	tmp := name + ".new"
	f, err := fsys.Open(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fsys.Remove(tmp)
		}
	}()
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// readFile reads a small file; one beyond limit is an error.
func readFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, errors.New("the file is too large")
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); err != nil && (err != io.EOF || n < len(data)) {
		return nil, err
	}
	return data, nil
}
