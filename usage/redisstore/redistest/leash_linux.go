package redistest

import (
	"os/exec"
	"syscall"
)

// leash makes the system kill a server when the thread that started it goes, so
// that a test which dies without cleaning up leaves nothing behind.
func leash(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
