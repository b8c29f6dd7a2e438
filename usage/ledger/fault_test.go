package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

// The n-th call to the disk goes wrong, in each way, once or for a while. What was
// settled is counted once, or the ledger says loudly that it is not; nothing is
// invented.
func TestDiskThatFailsOnce(t *testing.T) {
	for _, how := range []struct {
		name  string
		fault fault
		calls int
	}{
		{"fails", fails, 1},
		{"fails after the effect", failsLate, 1},
		{"shortens", shortens, 1},
		{"tears", tears, 1},
		{"fails for a while", fails, 25},
		{"shortens for a while", shortens, 25},
	} {
		t.Run(how.name, func(t *testing.T) {
			step := 1
			if testing.Short() {
				step = 11
			}
			for n := 1; n <= 220; n += step {
				synctest.Test(t, func(t *testing.T) { failOnce(t, n, how.calls, how.fault) })
				if t.Failed() {
					t.Fatalf("at call %d", n)
				}
			}
		})
	}
}

func failOnce(t *testing.T, n, calls int, how fault) {
	disk, store := newMemFS(), storetest.NewMemory()
	hit := ""
	disk.onCall(func(i int, op string) fault {
		if i < n || i >= n+calls {
			return fine
		}
		hit += " " + op
		return how
	})
	c := Config{Dir: "d", Store: store, Sink: "test", FS: disk, SegmentBytes: minSegmentBytes, MaxBytes: 1 << 20}
	var a account
	refused, loud := 0, false
	l, err := Open(c)
	if err == nil {
		for i := range 60 {
			r := attemptNo(i)
			r.Asked = strings.Repeat("long ", 40)
			r.Request = strings.Repeat("id", 100)
			if l.Reserve(r) != nil {
				refused++
			} else {
				end(r, i)
				l.Settle(r)
				a.add(r)
			}
			if i%5 == 4 {
				time.Sleep(150 * time.Millisecond)
			}
		}
		// Trouble ends by itself, without a restart.
		r := attemptNo(100)
		err := l.Reserve(r)
		for i := 0; i < 2*calls && err != nil; i++ {
			time.Sleep(2 * mendEvery)
			err = l.Reserve(r)
		}
		if err != nil && how != tears {
			t.Errorf("reserve after%s: %v", hit, err)
		} else {
			end(r, 100)
			l.Settle(r)
			a.add(r)
		}
		if calls > 1 {
			disk.onCall(nil)
		}
		loud = l.Stats().Gaps > 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			if how != tears && a.sum[usage.Attempts] > 0 && !errors.Is(err, errDisk.Err) {
				t.Errorf("close after%s: %v", hit, err)
			}
			loud = true
		}
	}
	disk.onCall(nil)
	l, err = Open(c)
	if err != nil {
		if how != tears {
			t.Errorf("open after%s: %v", hit, err)
		}
		return
	}
	if how == tears {
		time.Sleep(20 * time.Second) // a flush need not succeed
	} else {
		flush(t, l)
	}
	s, got := l.Stats(), totals(t, store)
	loud = loud || s.Gaps > 0 || s.Doubtful > 0 || s.Recovered > 0 || s.Stopped != "" || s.StoreError != ""
	want := a.sum[usage.Attempts]
	if got[usage.Attempts] > want || got[usage.InputTokens] > a.sum[usage.InputTokens] || got[usage.UnknownAttempts] > int64(refused)+1 {
		t.Errorf("after%s: %d attempts of %d, %d unknown: something was invented", hit, got[usage.Attempts], want, got[usage.UnknownAttempts])
	}
	if got[usage.Attempts] < want && (how != tears || !loud) {
		t.Errorf("after%s: %d attempts of %d, %+v", hit, got[usage.Attempts], want, s)
	}
	if v, err := l.Verify(t.Context()); err != nil || !v.Equal() && !v.Unsure {
		t.Errorf("after%s: %v %+v", hit, err, v)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	l.Close(ctx)
}

// After a loss of power the log has what Stats called synced, strictly settled
// attempts among it, and the store knows nothing that the log does not.
func TestLossOfPower(t *testing.T) {
	for _, d := range []Durability{Batch, Strict, Process} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(uint64(d), 7))
			for range 15 {
				synctest.Test(t, func(t *testing.T) {
					disk, store := newMemFS(), storetest.NewMemory()
					var settled []*usage.Record
					next := 0
					for range 4 {
						l := open(t, Config{Dir: "d", Store: store, FS: disk, Durability: d, SegmentBytes: minSegmentBytes})
						for range rnd.IntN(300) {
							r := attemptNo(next)
							if err := l.Reserve(r); err != nil {
								t.Fatal(err)
							}
							end(r, next)
							next++
							l.Settle(r)
							settled = append(settled, r)
							if rnd.IntN(20) == 0 {
								time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
							}
						}
						synctest.Wait() // what goes on meanwhile would be sent and not be on this disk
						after := disk.losePower(rnd)
						safe := l.Stats().Synced
						kill(l)
						disk = after
						l = open(t, Config{Dir: "d", Store: store, FS: disk, SegmentBytes: minSegmentBytes})
						flush(t, l)
						if n := streams(t, store); n > 1 {
							t.Fatalf("%d streams", n)
						}
						if v := verify(t, l); !v.Equal() || v.Unsure && d == Strict {
							t.Errorf("%+v", v)
						}
						found := make(map[string]bool)
						err := read(disk, "d", func(e Entry) error {
							if e.Kind == Settled {
								if found[e.Record.Request] {
									t.Errorf("%s is there twice", e.Record.Request)
								}
								found[e.Record.Request] = true
							}
							return nil
						})
						if err != nil {
							t.Error(err)
						}
						kept := settled[:0]
						for _, r := range settled {
							switch {
							case found[r.Request]:
								kept = append(kept, r)
							case d == Strict || r.Seq+1 <= safe && r.Seq+1 < l.epochStart():
								t.Errorf("%s with the number %d is lost, although up to %d all was on the disk", r.Request, r.Seq, safe)
							}
						}
						settled = kept
						if got := totals(t, store)[usage.Attempts]; got != int64(len(settled)) || len(found) != len(settled) {
							t.Errorf("%d attempts are counted, %d in the log, %d settled", got, len(found), len(settled))
						}
						shut(t, l)
					}
				})
			}
		})
	}
}

// epochStart is the number of the first record of this opening.
func (l *Ledger) epochStart() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current().first
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, store := newMemFS(), storetest.NewMemory()
		c := Config{Dir: "d", Store: store, FS: disk, SegmentBytes: minSegmentBytes}
		l := open(t, c)
		synctest.Wait()
		disk.mu.Lock()
		disk.room = 0
		disk.mu.Unlock()
		var a account
		var under []*usage.Record
		var err error
		for n := 0; ; n++ {
			r := attemptNo(n)
			if err = l.Reserve(r); err != nil {
				break
			}
			under = append(under, r)
		}
		if !errors.Is(err, ErrFull) || len(under) < 10 {
			t.Fatalf("after %d attempts: %v", len(under), err)
		}
		if s := l.Stats(); s.Refused != 1 || s.Trouble == "" {
			t.Errorf("%+v", s)
		}
		// Those under way are settled, with the longest of names.
		for n, r := range under {
			end(r, n)
			r.Answered, r.Tokens.Anomaly = strings.Repeat("x", 300), strings.Repeat("y", 300)
			l.Progress(r)
			l.Settle(r)
			a.add(r)
		}
		if s := l.Stats(); s.Held != 0 || s.Open != 0 {
			t.Errorf("%+v", s)
		}
		flush(t, l)
		a.check(t, store)
		// With room it goes on without a restart.
		disk.mu.Lock()
		disk.room = -1
		disk.mu.Unlock()
		time.Sleep(2 * mendEvery)
		a.attempts(t, l, 1000, 1100)
		if s := l.Stats(); s.Trouble != "" {
			t.Errorf("%+v", s)
		}
		shut(t, l)
		a.check(t, store)
	})
}

// A bookmark that cannot be written is told once, and again when it went well in
// between: it is tried with every batch.
func TestBookmarkThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		store := storetest.NewMemory()
		l := open(t, Config{Dir: "d", Store: store, FS: newMemFS(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		file := &fullFile{File: l.marks.file}
		l.marking.Lock()
		l.marks.file = file
		l.marking.Unlock()
		var a account
		for n, full := range []bool{true, true, true, false, true, true} {
			l.marking.Lock()
			file.full = full
			l.marking.Unlock()
			a.attempts(t, l, 10*n, 10*n+10)
			flush(t, l)
		}
		shut(t, l)
		a.check(t, store)
		if n := strings.Count(log.String(), "cannot remember its position"); n != 2 {
			t.Errorf("told %d times:\n%s", n, log.String())
		}
	})
}

// fullFile is a file that takes nothing while full.
type fullFile struct {
	File
	full bool
}

func (f *fullFile) WriteAt(p []byte, off int64) (int, error) {
	if f.full {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(p, off)
}

func TestFullLog(t *testing.T) {
	for _, policy := range []OnFull{Refuse, Continue} {
		synctest.Test(t, func(t *testing.T) {
			store := newFickle()
			store.onApply(func(*usage.Batch) (before, after error) { return errDown, nil })
			c := Config{
				Dir: "d", Store: store, FS: newMemFS(), OnFull: policy,
				SegmentBytes: minSegmentBytes, MaxBytes: 4 * minSegmentBytes,
			}
			l := open(t, c)
			var a account
			refused, unrecorded := 0, 0
			for n := range 2000 {
				r := attemptNo(n)
				if err := l.Reserve(r); err != nil {
					if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "limit") {
						t.Fatal(err)
					}
					refused++
					continue
				}
				end(r, n)
				l.Settle(r)
				if n%100 == 0 {
					time.Sleep(time.Second)
				}
				if r.Seq == 0 {
					unrecorded++
					continue
				}
				a.add(r)
			}
			s := l.Stats()
			if s.Bytes > s.MaxBytes || int(s.Refused) != refused || int(s.Unrecorded) != unrecorded ||
				(policy == Refuse) != (refused > 0) || (policy == Continue) != (unrecorded > 0) {
				t.Errorf("%d refused, %d unrecorded: %+v", refused, unrecorded, s)
			}
			// The store comes back: what it takes makes room.
			store.onApply(nil)
			time.Sleep(2 * maxBackoff)
			for i := range 20 {
				a.attempts(t, l, 5000+100*i, 5099+100*i)
				flush(t, l)
			}
			a.check(t, store)
			if s := l.Stats(); s.Bytes > s.MaxBytes {
				t.Errorf("%+v", s)
			}
			if v := verify(t, l); !v.Equal() || v.Unsure {
				t.Errorf("%+v", v)
			}
			shut(t, l)
		})
	}
}

// A segment is kept while an attempt that began in it is open, and progress lets
// it go.
func TestOpenAttemptKeepsItsSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, store := newMemFS(), storetest.NewMemory()
		c := Config{
			Dir: "d", Store: store, FS: disk, SegmentBytes: minSegmentBytes,
			KeepFor: time.Nanosecond, KeepBytes: 1,
		}
		l := open(t, c)
		long := attemptNo(1)
		l.Reserve(long)
		var a account
		for i := range 5 {
			a.attempts(t, l, 1000*i, 1000*i+999)
			flush(t, l)
			time.Sleep(time.Second)
		}
		oldest := func() uint64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.segments[0].first
		}
		if oldest() != 1 {
			t.Fatal("the segment of an open attempt is gone")
		}
		l.Progress(long)
		a.attempts(t, l, 1, 10)
		time.Sleep(2 * checkEvery)
		if oldest() == 1 {
			t.Error("the segment stays although the attempt has moved on")
		}
		kill(l)
		l = open(t, c)
		if s := l.Stats(); s.Recovered != 1 {
			t.Errorf("%+v", s)
		}
		flush(t, l)
		shut(t, l)
	})
}

func TestAcknowledgedSegmentsAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		l := open(t, Config{
			Dir: "d", Store: store, FS: newMemFS(), SegmentBytes: minSegmentBytes,
			KeepFor: time.Hour, KeepBytes: 3 * minSegmentBytes,
		})
		var a account
		a.attempts(t, l, 1, 3000)
		flush(t, l)
		all := l.Stats().Segments
		time.Sleep(59 * time.Minute)
		a.attempts(t, l, 1, 1)
		flush(t, l)
		if n := l.Stats().Segments; n != all {
			t.Errorf("%d of %d segments after less than an hour", n, all)
		}
		time.Sleep(2 * time.Minute)
		time.Sleep(checkEvery + time.Second)
		if n := l.Stats().Segments; n >= all || n < 4 {
			t.Errorf("%d of %d segments after an hour", n, all)
		}
		shut(t, l)
		a.check(t, store)
	})
}

// A disk whose sync fails has not kept what it was given, and a second sync would
// lie about it.
func TestFailedSyncIsNotTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newMemFS()
		l := open(t, Config{Dir: "d", Store: down{}, FS: disk, Durability: Strict})
		var a account
		a.attempts(t, l, 1, 10)
		bad := l.current().path
		failed := false
		disk.onCall(func(n int, op string) fault {
			if op == "sync" && !failed {
				failed = true
				return fails
			}
			return fine
		})
		a.attempts(t, l, 11, 20)
		l.mu.Lock()
		now := l.current().path
		l.mu.Unlock()
		if now == bad || !failed {
			t.Error("the segment is still written to")
		}
		after := disk.losePower(rand.New(rand.NewPCG(1, 1)))
		kill(l)
		n := 0
		if err := read(after, "d", func(e Entry) error {
			if e.Kind == Settled {
				n++
			}
			return nil
		}); err != nil || n != 20 {
			t.Errorf("%d of 20 attempts: %v", n, err)
		}
	})
}

// An attempt that was open while its record moved to another segment is still
// found by the lists that later segments start with.
func TestFailedSyncMovesOpenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newMemFS()
		c := Config{Dir: "d", Store: down{}, FS: disk, SegmentBytes: minSegmentBytes}
		l := open(t, c)
		var a account
		a.attempts(t, l, 1, 100)
		time.Sleep(time.Second)
		a.attempts(t, l, 101, 110)
		long := attemptNo(999)
		long.Tokens.Output = 4321
		l.Reserve(long)
		failed := false
		disk.onCall(func(n int, op string) fault {
			if op == "sync" && !failed {
				failed = true
				return fails
			}
			return fine
		})
		l.mu.Lock()
		bad := disk.names[l.current().path]
		l.mu.Unlock()
		time.Sleep(time.Second)
		a.attempts(t, l, 1000, 2000)
		kill(l)
		bad.data = bad.durable // what the disk really has
		l = open(t, c)
		if s := l.Stats(); !failed || s.Recovered != 1 || s.Doubtful != 0 || s.Gaps != 0 {
			t.Errorf("%+v", s)
		}
		closeNow(t, l)
		read(disk, "d", func(e Entry) error {
			if e.Kind == Unsettled && (e.Record.Request != long.Request || e.Record.Tokens.Output != 4321) {
				t.Errorf("%+v", e.Record)
			}
			return nil
		})
	})
}

// A file that takes nothing more is left for another one.
func TestRottenSegmentIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, store := newMemFS(), storetest.NewMemory()
		c := Config{Dir: "d", Store: store, FS: disk}
		l := open(t, c)
		synctest.Wait() // a spare segment is ready
		var a account
		a.attempts(t, l, 1, 10)
		r := attemptNo(500)
		l.Reserve(r)
		l.mu.Lock()
		disk.names[l.current().path].rotten = true
		l.mu.Unlock()
		end(r, 500)
		l.Settle(r)
		a.add(r)
		if s := l.Stats(); s.Held != 0 || s.Trouble != "" {
			t.Errorf("%+v", s)
		}
		a.attempts(t, l, 11, 20)
		shut(t, l)
		a.check(t, store)
	})
}

// The names of new segments are not on the disk: that is trouble, until they are.
func TestDirectoryThatCannotBeSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, store := newMemFS(), storetest.NewMemory()
		l := open(t, Config{Dir: "d", Store: store, FS: disk, SegmentBytes: minSegmentBytes, Durability: Strict})
		var a account
		broken := true
		disk.onCall(func(n int, op string) fault {
			if op == "syncdir" && broken {
				return fails
			}
			return fine
		})
		var err error
		for n := 0; n < 1000 && err == nil; n++ {
			r := attemptNo(n)
			if err = l.Reserve(r); err == nil {
				end(r, n)
				l.Settle(r)
				a.add(r)
			}
		}
		if !errors.Is(err, ErrFull) || !errors.Is(err, errDisk.Err) {
			t.Errorf("reserve: %v", err)
		}
		disk.onCall(nil)
		time.Sleep(3 * mendEvery)
		a.attempts(t, l, 2000, 2100)
		shut(t, l)
		got := totals(t, store)
		if got != a.sum {
			t.Errorf("%d of %d attempts", got[usage.Attempts], a.sum[usage.Attempts])
		}
	})
}

// A disk that does not end its syncs takes no further attempts once there is much
// in memory, and takes the ends of those that are open.
func TestDiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, store := &hangingFS{memFS: newMemFS(), gate: make(chan struct{})}, storetest.NewMemory()
		l := open(t, Config{Dir: "d", Store: store, FS: disk, SegmentBytes: 96 << 20})
		synctest.Wait() // a spare segment is ready
		disk.hangs.Store(true)
		var under []*usage.Record
		var a account
		var err error
		long := strings.Repeat("long", 64)
		for n := 0; n < 100_000 && err == nil; n++ {
			r := attemptNo(n)
			r.Request, r.Asked, r.Client, r.Group, r.Upstream, r.Key, r.Model, r.Operation = long, long, long, long, long, long, long, long
			if err = l.Reserve(r); err == nil {
				if under = append(under, r); n > 1000 {
					end(r, n)
					l.Settle(r)
					a.add(r)
				}
			}
		}
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "too slow") {
			t.Errorf("after %d: %v", len(under), err)
		}
		for n, r := range under[:1001] {
			end(r, n)
			l.Settle(r)
			a.add(r)
		}
		close(disk.gate)
		time.Sleep(time.Second)
		a.attempts(t, l, 1, 10)
		shut(t, l)
		a.check(t, store)
	})
}

// Nobody waits for ever for a disk that hangs.
func TestStrictDiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, store := &hangingFS{memFS: newMemFS(), gate: make(chan struct{})}, storetest.NewMemory()
		l := open(t, Config{Dir: "d", Store: store, FS: disk, Durability: Strict})
		synctest.Wait()
		var a account
		r := attemptNo(1)
		if err := l.Reserve(r); err != nil {
			t.Fatal(err)
		}
		disk.hangs.Store(true)
		start := time.Now()
		end(r, 1)
		l.Settle(r)
		a.add(r)
		if err := l.Reserve(attemptNo(2)); !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		if d := time.Since(start); d != 2*patience {
			t.Errorf("waited for %v", d)
		}
		close(disk.gate)
		a.attempts(t, l, 3, 4)
		shut(t, l)
		a.check(t, store)
	})
}

// hangingFS hangs in the sync of segments, once it is told to, until its gate is
// open.
type hangingFS struct {
	*memFS
	hangs atomic.Bool
	gate  chan struct{}
}

type hangingFile struct {
	File
	fs *hangingFS
}

func (h *hangingFS) Open(name string, flag int) (File, error) {
	f, err := h.memFS.Open(name, flag)
	return hangingFile{f, h}, err
}

func (f hangingFile) Sync() error {
	if f.fs.hangs.Load() {
		<-f.fs.gate
	}
	return f.File.Sync()
}

// What a process wrote and did not sync is brought to the disk by the next one
// before the store gets it.
func TestLossOfPowerAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, store := newMemFS(), storetest.NewMemory()
		c := Config{Dir: "d", Store: store, FS: disk, SegmentBytes: minSegmentBytes}
		var a account
		l := open(t, c)
		a.attempts(t, l, 1, 100)
		kill(l)
		l = open(t, c)
		flush(t, l)
		a.check(t, store)
		c.FS = disk.losePower(rand.New(rand.NewPCG(5, 5)))
		kill(l)
		l = open(t, c)
		flush(t, l)
		if v := verify(t, l); !v.Equal() || v.Unsure || streams(t, store) != 1 {
			t.Errorf("%+v", v)
		}
		a.check(t, store)
		shut(t, l)
	})
}

// The last segment holds nothing that can be read, and the one before has lost
// its end.
func TestLastSegmentIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newMemFS()
		c := Config{Dir: "d", Store: down{}, FS: disk, SegmentBytes: minSegmentBytes}
		var a account
		l := open(t, c)
		a.attempts(t, l, 1, 500)
		kill(l)
		spans, _ := listSpans(disk, "d")
		last, before := disk.names[spans[len(spans)-1].path], disk.names[spans[len(spans)-2].path]
		clear(last.data[segmentHeader:])
		clear(before.data[len(before.data)-2000:])
		l = open(t, c)
		s := l.Stats()
		if s.Gaps != 1 || s.Last < spans[len(spans)-1].first || s.Missing == 0 {
			t.Errorf("%+v", s)
		}
		a.attempts(t, l, 1, 10)
		closeNow(t, l)
		seen := uint64(0)
		if err := read(disk, "d", func(e Entry) error {
			if e.Seq != 0 && e.Seq <= seen {
				t.Errorf("record %d follows %d", e.Seq, seen)
			}
			seen = max(seen, e.Seq)
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestTornBookmark(t *testing.T) {
	disk := newMemFS()
	s, _, ok, err := openBookmarks(disk, "d")
	if err != nil || ok {
		t.Fatal(ok, err)
	}
	for seq := range uint64(5) {
		if err := s.write(&bookmark{Stream: "x", Seq: seq}); err != nil {
			t.Fatal(err)
		}
	}
	data := disk.names["d/"+bookmarkName].data
	for _, c := range []struct {
		slots []uint64
		want  uint64
	}{{nil, 4}, {[]uint64{5}, 3}, {[]uint64{4}, 4}} {
		whole := bytes.Clone(data)
		for _, counter := range c.slots {
			data[counter%2*slotSize+20] ^= 1
		}
		_, b, ok, err := openBookmarks(disk, "d")
		if err != nil || !ok || b.Seq != c.want {
			t.Errorf("with %v torn: %d %v %v", c.slots, b.Seq, ok, err)
		}
		copy(data, whole)
	}
}

func TestLeftoversAreCleared(t *testing.T) {
	disk := newMemFS()
	c := Config{Dir: "d", Store: down{}, Sink: "test", FS: disk, SegmentBytes: minSegmentBytes}
	l := open(t, c)
	l.mu.Lock()
	if !l.await(func() bool { return len(l.spares) > 0 }) {
		t.Error("no spare segment is made")
	}
	l.mu.Unlock()
	kill(l)
	left := 0
	for name := range disk.names {
		if strings.Contains(name, sparePrefix) {
			left++
			disk.names["d/spare-999"] = disk.names[name]
		}
	}
	if left == 0 {
		t.Fatal("no spare segment was left")
	}
	closeNow(t, open(t, c))
	for name := range disk.names {
		if strings.Contains(name, sparePrefix) {
			t.Errorf("%s is left", name)
		}
	}
}

// The damage hides where an attempt was settled: it is not counted again.
func TestDamageBesideOpenAttempts(t *testing.T) {
	for _, sent := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			disk, store := newMemFS(), newFickle()
			if !sent {
				store.onApply(func(*usage.Batch) (before, after error) { return errDown, nil })
			}
			c := Config{Dir: "d", Store: store, FS: disk}
			l := open(t, c)
			r := attemptNo(1)
			l.Reserve(r)
			l.mu.Lock()
			path, off := l.current().path, l.current().off
			l.mu.Unlock()
			end(r, 1)
			l.Settle(r)
			var a account
			a.attempts(t, l, 2, 50)
			if sent {
				flush(t, l)
			}
			kill(l)
			disk.names[path].data[off+50] ^= 1
			store.onApply(nil)
			l = open(t, c)
			flush(t, l)
			s, got := l.Stats(), totals(t, store)
			if s.Gaps != 1 || s.Missing != 1 {
				t.Errorf("%+v", s)
			}
			if sent && (s.Recovered != 0 || s.Doubtful != 1 || got[usage.Attempts] != 50 || got[usage.UnknownAttempts] != 0) {
				t.Errorf("%d attempts, %d unknown: %+v", got[usage.Attempts], got[usage.UnknownAttempts], s)
			}
			if !sent && (s.Recovered != 1 || got[usage.Attempts] != 49 || got[usage.UnknownAttempts] != 1) {
				t.Errorf("%d attempts, %d unknown: %+v", got[usage.Attempts], got[usage.UnknownAttempts], s)
			}
			shut(t, l)
		})
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	made := func(t *testing.T) (*memFS, Config) {
		disk := newMemFS()
		c := Config{Dir: "d", Store: down{}, Sink: "one", FS: disk}
		closeNow(t, open(t, c))
		return disk, c
	}
	for _, c := range []struct {
		name   string
		change func(disk *memFS, c *Config)
		want   string
	}{
		{"another store", func(_ *memFS, c *Config) { c.Sink = "two" }, `belongs to the store "one", not to "two"`},
		{"no manifest", func(disk *memFS, _ *Config) { delete(disk.names, "d/stream") }, "restore it, or move the directory away"},
		{"damaged manifest", func(disk *memFS, _ *Config) { disk.names["d/stream"].data[5] = 0 }, "which stream the log"},
		{"no room", func(disk *memFS, _ *Config) { disk.room = 10 }, "no space left on device: make room on the disk of d"},
		{"in use", func(disk *memFS, _ *Config) { disk.locks["d/lock"] = true }, "in use by another ledger"},
		{"a disk that fails", func(disk *memFS, _ *Config) {
			disk.fault = func(_ int, op string) fault {
				if op == "read" {
					return fails
				}
				return fine
			}
		}, "input/output error"},
		{"too small a limit", func(_ *memFS, c *Config) { c.MaxBytes = 1000 }, "room for two segments"},
		{"too small a segment", func(_ *memFS, c *Config) { c.SegmentBytes = 1000 }, "64 KiB"},
		{"no store", func(_ *memFS, c *Config) { c.Store = nil }, "needs a directory and a store"},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk, conf := made(t)
			c.change(disk, &conf)
			l, err := Open(conf)
			if err == nil {
				closeNow(t, l)
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			// Nothing is locked or changed by the attempt.
			delete(disk.locks, "d/another")
			if c.name != "in use" && len(disk.locks) != 0 {
				t.Error("the lock is still held")
			}
		})
	}
}

func TestRemovedDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := open(t, Config{Dir: dir, Store: storetest.NewMemory(), SegmentBytes: minSegmentBytes})
	var a account
	a.attempts(t, l, 1, 10)
	flush(t, l)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	// Not only when the next segment is needed.
	var err error
	for n := 0; n < 100 && err == nil; n++ {
		r := attemptNo(n)
		if err = l.Reserve(r); err == nil {
			end(r, n)
			l.Settle(r)
			l.sync()
		}
	}
	if !errors.Is(err, ErrFull) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reserve: %v", err)
	}
	if s := l.Stats(); !strings.Contains(s.Trouble, "no such file") {
		t.Errorf("%+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Close(ctx); err == nil {
		t.Error("closed without a word")
	}
}

// Verify is right while segments go.
func TestVerifyWhileSegmentsGo(t *testing.T) {
	store := storetest.NewMemory()
	l := open(t, Config{
		Dir: t.TempDir(), Store: store, SegmentBytes: minSegmentBytes, KeepFor: time.Nanosecond, KeepBytes: 1,
	})
	var a account
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20 {
			a.attempts(t, l, 500*i, 500*i+499)
			flush(t, l)
		}
	})
	for range 50 {
		if v := verify(t, l); !v.Equal() || v.Unsure {
			t.Errorf("%+v", v)
		}
	}
	wg.Wait()
	if v := verify(t, l); !v.Equal() || v.Log != a.sum || v.Unsure {
		t.Errorf("%+v", v)
	}
	shut(t, l)
}

func TestClockThatJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory()
		var offset atomic.Int64
		base := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		start := time.Now()
		clock := func() time.Time { return base.Add(time.Since(start) + time.Duration(offset.Load())) }
		store.Now = func() time.Time { return base }
		l := open(t, Config{
			Dir: "d", Store: store, FS: newMemFS(), Clock: clock,
			SegmentBytes: minSegmentBytes, KeepBytes: 4 * minSegmentBytes,
		})
		var a account
		for _, jump := range []time.Duration{0, time.Hour, -time.Hour, 10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
			offset.Store(int64(jump))
			a.attempts(t, l, 1, 1000)
			flush(t, l)
			if s := l.Stats(); s.LagAge < 0 || s.Bytes < 4*minSegmentBytes && s.Last > 5000 {
				t.Errorf("%+v", s)
			}
		}
		if got := totals(t, store); got != a.sum {
			t.Errorf("%d of %d attempts", got[usage.Attempts], a.sum[usage.Attempts])
		}
		shut(t, l)
	})
}
