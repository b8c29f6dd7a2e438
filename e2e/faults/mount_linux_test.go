package faults

import "syscall"

// mount puts a file system in memory over dir; options such as size=24m.
func mount(dir, options string) error { return syscall.Mount("none", dir, "tmpfs", 0, options) }

// remount changes the options of what is mounted at dir.
func remount(dir, options string, readOnly bool) error {
	flags := uintptr(syscall.MS_REMOUNT)
	if readOnly {
		flags |= syscall.MS_RDONLY
	}
	return syscall.Mount("none", dir, "tmpfs", flags, options)
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
