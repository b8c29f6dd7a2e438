package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a program that the benchmark has started.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string        // file with what it prints
	ended chan struct{} // closed once it has ended
}

// command is what start needs to know.
type command struct {
	name string   // for messages
	argv []string // program and arguments
	env  []string // beyond this process's own
	cpus cpuSet
	log  string // file for its output
	// stdout takes standard output instead of the log; stdin is what it reads.
	stdout io.Writer
	stdin  io.Reader
}

func start(c command) (*process, error) {
	log, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, log
	if c.stdout == nil {
		cmd.Stdout = log
	}
	if err := startOn(cmd, c.cpus); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	p := &process{name: c.name, cmd: cmd, log: c.log, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process, politely at first.
func (p *process) stop() {
	if p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		select {
		case <-p.ended:
			return
		case <-time.After(10 * time.Second):
		}
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// died is the error of a process that ended by itself; nil while it runs.
func (p *process) died() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended (%s); its last words:\n%s", p.name, p.cmd.ProcessState, p.lastWords())
	default:
		return nil
	}
}

// lastWords is the end of what the process printed.
func (p *process) lastWords() string {
	const most = 2000
	f, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, err = f.Seek(-most, io.SeekEnd)
		if err != nil && !errors.Is(err, io.EOF) {
			return err.Error()
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text))
}
