package ledger

import (
	"errors"
	"os"
	"syscall"
)

func allocate(f *os.File, size int64) error {
	err := retryInterrupted(f, func(fd int) error { return syscall.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) {
		return writeZeros(f, size)
	}
	return err
}

// syncData leaves out the times of the file, which nobody needs.
func syncData(f *os.File) error { return retryInterrupted(f, syscall.Fdatasync) }

func retryInterrupted(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for {
			err = call(int(fd))
			if err != syscall.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return &os.PathError{Op: "sync or allocate", Path: f.Name(), Err: err}
	}
	return nil
}
