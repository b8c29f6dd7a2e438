package ledger

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// errSharingViolation is ERROR_SHARING_VIOLATION.
const errSharingViolation = syscall.Errno(32)

// openFile lets a file be renamed and removed while it is open, which os.OpenFile
// does not.
func openFile(name string, flag int) (*os.File, error) {
	access, create := uint32(syscall.GENERIC_READ), uint32(syscall.OPEN_EXISTING)
	if flag&(os.O_RDWR|os.O_WRONLY) != 0 {
		access |= syscall.GENERIC_WRITE
	}
	switch {
	case flag&os.O_CREATE != 0 && flag&os.O_TRUNC != 0:
		create = syscall.CREATE_ALWAYS
	case flag&os.O_CREATE != 0:
		create = syscall.OPEN_ALWAYS
	}
	share := uint32(syscall.FILE_SHARE_READ | syscall.FILE_SHARE_WRITE | syscall.FILE_SHARE_DELETE)
	return createFile(name, access, share, create)
}

func createFile(name string, access, share, create uint32) (*os.File, error) {
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	h, err := syscall.CreateFile(path, access, share, nil, create, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(h), name), nil
}

// SyncDir has nothing to do: the file system keeps names in its own journal.
func (disk) SyncDir(string) error { return nil }

// lockFile opens the file so that nobody else can.
func lockFile(name string) (io.Closer, error) {
	f, err := createFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, syscall.OPEN_ALWAYS)
	if errors.Is(err, errSharingViolation) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}
