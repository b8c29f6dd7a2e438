package harness

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the process killed when the tests die without tidying up.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
