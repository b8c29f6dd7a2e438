package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// leeway is how long a record may wait for the disk, and how many bytes of them.
func (d Durability) leeway() (time.Duration, int64) {
	if d == Process {
		return time.Second, 8 << 20
	}
	return 100 * time.Millisecond, 256 << 10
}

// syncLoop brings records to the disk, many at a time.
func (l *Ledger) syncLoop() {
	defer l.keeping.Done()
	delay := time.NewTimer(0)
	defer delay.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-l.dirty:
		}
		delay.Reset(l.syncDelay)
		select {
		case <-l.stop:
			return
		case <-l.urgent:
		case <-delay.C:
		}
		l.sync()
	}
}

// sync brings what is written to the disk. The mutex is not held meanwhile.
func (l *Ledger) sync() {
	type work struct {
		s    *segment
		file File
		n    int
		upto uint64
	}
	var todo []work
	l.mu.Lock()
	for _, s := range l.segments {
		if len(s.mem) > 0 && !s.bad {
			todo = append(todo, work{s, s.file, len(s.mem), s.last})
		}
	}
	names := !l.dirSynced
	l.dirSynced = true
	last := l.current()
	l.mu.Unlock()

	var dirErr error
	if names {
		dirErr = l.cfg.FS.SyncDir(l.cfg.Dir)
	}
	errs := make([]error, len(todo))
	for i, w := range todo {
		errs[i] = w.file.Sync()
	}

	removed := l.lookFor(last.path)

	l.mu.Lock()
	defer l.mu.Unlock()
	if removed != nil {
		last.bad = true
		l.fail(fmt.Errorf("the ledger's directory was removed: %w", removed))
	}
	l.dirFailed = dirErr != nil
	if l.dirFailed {
		l.dirSynced = false
		l.fail(fmt.Errorf("sync the ledger's directory: %w", dirErr))
	}
	for i, w := range todo {
		switch {
		case w.s.moved:
		case errs[i] != nil:
			w.s.bad = true
			l.fail(fmt.Errorf("sync the ledger: %w", errs[i]))
		default:
			w.s.mem = slices.Delete(w.s.mem, 0, w.n)
			w.s.safe = w.upto
		}
	}
	l.retire()
	if l.trouble != nil {
		l.heal()
	}
	if l.unsynced > 0 && l.trouble == nil {
		signal(l.dirty)
	}
	signal(l.settled)
	l.changed.Broadcast()
}

// retire counts what is on the disk, and closes the files of segments that are
// full and wholly there.
func (l *Ledger) retire() {
	l.unsynced = 0
	whole := !l.dirFailed
	for i, s := range l.segments {
		l.unsynced += int64(len(s.mem))
		if !whole {
			continue
		}
		whole = len(s.mem) == 0
		l.synced = max(l.synced, s.safe)
		if whole && s.file != nil && i+1 < len(l.segments) {
			s.shorten()
			if cap(s.mem) <= maxMem {
				l.mem = s.mem
			}
			s.mem = nil
		}
	}
}

// awaitSync waits until the disk has a record, or says why it will not soon.
func (l *Ledger) awaitSync(seq uint64) error {
	if !l.await(func() bool { return l.synced >= seq || l.trouble != nil }) {
		return errSlow
	}
	if l.synced < seq {
		return l.trouble
	}
	return nil
}

// lookFor says whether a file has vanished. A file that is open can be written to
// when its name is gone, and everything in it is lost with the process.
func (l *Ledger) lookFor(path string) error {
	f, err := l.cfg.FS.Open(path, os.O_RDONLY)
	if err == nil {
		f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
