package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/usage"
)

// testLog is a log made by hand: one segment a call, records numbered through.
type testLog struct {
	dir      string
	manifest manifest
	seq      uint64
	chain    uint32
	offsets  map[uint64]int64 // where each record lies in its segment
}

func newTestLog(t testing.TB) *testLog {
	l := &testLog{dir: t.TempDir(), manifest: newManifest("test"), offsets: make(map[uint64]int64)}
	if err := l.manifest.write(disk{}, l.dir); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *testLog) segment(t testing.TB, n int, change func([]byte) []byte) string {
	t.Helper()
	first := l.seq + 1
	b := header{stream: l.manifest.id, first: first, chain: l.chain}.append(nil)
	for range n {
		l.seq++
		r := usage.Record{Seq: l.seq, Client: "alice", Request: fmt.Sprint("request-", l.seq), Outcome: usage.Served}
		f := putRecord(make([]byte, frameHeader), &r)
		l.offsets[l.seq] = int64(len(b))
		f, l.chain = seal(f, Settled, l.seq, l.chain, seedOf(l.manifest.id))
		b = append(b, f...)
	}
	if change != nil {
		b = change(b)
	}
	path := filepath.Join(l.dir, segmentName(first))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// numbers reads a log and returns the numbers of its records, and of what misses
// as negative pairs.
func numbers(t testing.TB, dir string) (got []int) {
	t.Helper()
	err := Read(dir, func(e Entry) error {
		if e.Kind == Missing && e.Seq == 0 {
			got = append(got, -int(e.From), -int(e.To))
			return nil
		}
		if want := fmt.Sprint("request-", e.Seq); e.Record.Request != want {
			t.Errorf("record %d is %q", e.Seq, e.Record.Request)
		}
		got = append(got, int(e.Seq))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func count(from, to int) (s []int) {
	for i := from; i <= to; i++ {
		s = append(s, i)
	}
	return s
}

func TestReadGoesThroughSegments(t *testing.T) {
	l := newTestLog(t)
	l.segment(t, 3, nil)
	l.segment(t, 4000, func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) })
	l.segment(t, 2, nil)
	if got := numbers(t, l.dir); !slices.Equal(got, count(1, 4005)) {
		t.Errorf("got %d records", len(got))
	}
}

func TestReadStopsWhenToldTo(t *testing.T) {
	l := newTestLog(t)
	l.segment(t, 3, nil)
	stop := errors.New("enough")
	calls := 0
	if err := Read(l.dir, func(Entry) error { calls++; return stop }); err != stop || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestReadOfNoLog(t *testing.T) {
	if err := Read(t.TempDir(), func(Entry) error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	l := newTestLog(t)
	if got := numbers(t, l.dir); got != nil {
		t.Error(got)
	}
}

func TestDamageIsPassedOverAndTold(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(l *testLog, b []byte) []byte
		want   []int
	}{
		{
			"a bit", func(l *testLog, b []byte) []byte { b[l.offsets[5]+40] ^= 1; return b },
			append(append(count(1, 4), -5, -5), count(6, 20)...),
		},
		{
			"a sequence number", func(l *testLog, b []byte) []byte { b[l.offsets[5]+8]++; return b },
			append(append(count(1, 4), -5, -5), count(6, 20)...),
		},
		{
			"a length", func(l *testLog, b []byte) []byte { b[l.offsets[5]+5] = 0xff; return b },
			append(append(count(1, 4), -5, -5), count(6, 20)...),
		},
		{
			"zeros in the middle", func(l *testLog, b []byte) []byte { clear(b[l.offsets[5]:l.offsets[9]]); return b },
			append(append(count(1, 4), -5, -8), count(9, 20)...),
		},
		{
			"the first record", func(l *testLog, b []byte) []byte { clear(b[l.offsets[1]:l.offsets[2]]); return b },
			append([]int{-1, -1}, count(2, 20)...),
		},
		{"torn end", func(l *testLog, b []byte) []byte { return b[:l.offsets[20]+30] }, count(1, 19)},
		{"torn end before zeros", func(l *testLog, b []byte) []byte {
			clear(b[l.offsets[20]+30:])
			return append(b, make([]byte, 4096)...)
		}, count(1, 19)},
		{"zeros at the end", func(l *testLog, b []byte) []byte { return append(b, make([]byte, 333)...) }, count(1, 20)},
		{"the header", func(l *testLog, b []byte) []byte { b[20] ^= 1; return b }, count(1, 20)},
		{"nothing but the header", func(l *testLog, b []byte) []byte { return b[:segmentHeader] }, nil},
		{"less than the header", func(l *testLog, b []byte) []byte { return b[:10] }, nil},
		{"empty", func(l *testLog, b []byte) []byte { return nil }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTestLog(t)
			l.segment(t, 20, func(b []byte) []byte { return c.change(l, b) })
			if got := numbers(t, l.dir); !slices.Equal(got, c.want) {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

func TestMissingSegmentIsTold(t *testing.T) {
	l := newTestLog(t)
	l.segment(t, 3, nil)
	path := l.segment(t, 3, nil)
	l.segment(t, 3, nil)
	os.Remove(path)
	if got := numbers(t, l.dir); !slices.Equal(got, []int{1, 2, 3, -4, -6, 7, 8, 9}) {
		t.Error(got)
	}
}

func TestLaterSegmentSupersedes(t *testing.T) {
	l := newTestLog(t)
	l.segment(t, 5, nil)
	// Records 4 and 5 were written again into a segment of their own.
	l.seq = 3
	l.segment(t, 4, nil)
	if got := numbers(t, l.dir); !slices.Equal(got, count(1, 7)) {
		t.Error(got)
	}
}

func TestForeignSegmentIsRefused(t *testing.T) {
	l, other := newTestLog(t), newTestLog(t)
	l.segment(t, 3, nil)
	other.seq = 3
	data, err := os.ReadFile(other.segment(t, 3, nil))
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(l.dir, segmentName(4)), data, 0o600)
	err = Read(l.dir, func(Entry) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "another log") {
		t.Error(err)
	}
}

func TestLaterFormatIsRefused(t *testing.T) {
	l := newTestLog(t)
	l.segment(t, 1, func(b []byte) []byte {
		h := header{stream: l.manifest.id, first: 1}.append(nil)
		binary.LittleEndian.PutUint32(h[8:], formatVersion+1)
		binary.LittleEndian.PutUint32(h[60:], crcOf(h[:60]))
		return append(h, b[segmentHeader:]...)
	})
	if err := Read(l.dir, func(Entry) error { return nil }); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
	l.manifest.Format++
	l.manifest.write(disk{}, l.dir)
	if err := Read(l.dir, func(Entry) error { return nil }); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
}

// A client that writes a frame into a name, and damage to the record around it,
// must not make a record: neither by the real checksum's seed, which nobody
// outside knows, nor if it were known.
func TestSmuggledFrameIsNoRecord(t *testing.T) {
	l := newTestLog(t)
	seed := seedOf(l.manifest.id)
	evil, _ := seal(putRecord(make([]byte, frameHeader), &usage.Record{Client: "evil"}), Settled, 2, 0, seed)
	f := putRecord(make([]byte, frameHeader), &usage.Record{Asked: strings.Repeat("\x00", 6) + string(evil)})
	if bytes.Contains(f, evil[:frameHeader]) {
		t.Fatal("a frame can be smuggled into a name")
	}
	// Even so: the seed of another stream opens nothing.
	if _, ok := openFrame(evil, seedOf(newManifest("").id)); ok {
		t.Error("a frame of another stream is accepted")
	}
	if _, ok := openFrame(evil[:len(evil)-int(frameSize(0))%8], seed); !ok && len(evil)%8 == 0 {
		t.Log("padding is not part of the checksum")
	}
}

func TestSequenceMustBePlausible(t *testing.T) {
	l := newTestLog(t)
	seed := seedOf(l.manifest.id)
	l.segment(t, 5, func(b []byte) []byte {
		// Stale records behind the end: one from before, and one from far ahead.
		old, _ := seal(putRecord(make([]byte, frameHeader), &usage.Record{Request: "request-3"}), Settled, 3, 0, seed)
		far, _ := seal(putRecord(make([]byte, frameHeader), &usage.Record{Request: "request-900"}), Settled, 900, 0, seed)
		return append(append(b, old...), far...)
	})
	if got := numbers(t, l.dir); !slices.Equal(got, count(1, 5)) {
		t.Error(got)
	}
}

func TestBreakOfTheChainIsCounted(t *testing.T) {
	l := newTestLog(t)
	l.segment(t, 3, nil)
	l.chain++
	l.segment(t, 3, nil)
	spans, err := listSpans(disk{}, l.dir)
	if err != nil {
		t.Fatal(err)
	}
	r := logReader{fs: disk{}, seeds: l.manifest.seeds(), spans: spans}
	defer r.close()
	r.seek(0)
	n := 0
	for {
		if _, _, err := r.next(); err == io.EOF {
			break
		}
		n++
	}
	if n != 6 || r.breaks != 1 {
		t.Errorf("%d records, %d breaks", n, r.breaks)
	}
}

func TestSeek(t *testing.T) {
	l := newTestLog(t)
	l.segment(t, 10, nil)
	l.segment(t, 10, nil)
	l.segment(t, 10, nil)
	spans, _ := listSpans(disk{}, l.dir)
	r := logReader{fs: disk{}, seeds: l.manifest.seeds(), spans: spans}
	defer r.close()
	for after := range uint64(30) {
		r.seek(after)
		f, at, err := r.next()
		if err != nil || f.seq != after+1 {
			t.Fatalf("behind %d came %d, %v", after, f.seq, err)
		}
		if at.off != l.offsets[f.seq] || at.segment != (after/10)*10+1 {
			t.Errorf("record %d is said to be at %v", f.seq, at)
		}
	}
	r.seek(30)
	if _, _, err := r.next(); err != io.EOF {
		t.Error(err)
	}
}

// FuzzSegment: whatever the bytes of a segment are, reading gives records that
// were written, in order, or an error.
func FuzzSegment(f *testing.F) {
	l := newTestLog(f)
	path := l.segment(f, 6, nil)
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	written := make(map[uint64]Entry)
	Read(l.dir, func(e Entry) error { written[e.Seq] = e; return nil })
	f.Add(whole)
	f.Add(append(bytes.Clone(whole), make([]byte, 100)...))
	for _, at := range []int{0, 30, 64, 66, 68, 72, 80, 84, 100, 200} {
		b := bytes.Clone(whole)
		b[at] ^= 0x40
		f.Add(b)
		f.Add(whole[:at])
		f.Add(append(bytes.Clone(whole[:at]), whole[min(len(whole), at+8):]...))
	}
	dir := l.dir
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		err := Read(dir, func(e Entry) error {
			if e.Seq == 0 {
				return nil
			}
			if e.Seq <= last {
				t.Errorf("record %d follows %d", e.Seq, last)
			}
			last = e.Seq
			if !reflect.DeepEqual(e, written[e.Seq]) {
				t.Errorf("record %d was invented: %+v", e.Seq, e)
			}
			return nil
		})
		if err != nil && !strings.Contains(err.Error(), segmentName(1)) && !strings.Contains(err.Error(), "record") {
			t.Errorf("the error does not say what is wrong: %v", err)
		}
	})
}

// FuzzFrames gives the bytes right checksums, so that what is behind them is
// reached: payloads of any content.
func FuzzFrames(f *testing.F) {
	f.Add(byte(Settled), putRecord(nil, &usage.Record{Client: "a", Seq: 4, Tokens: usage.Tokens{Output: 3}}))
	f.Add(byte(Corrected), putCorrection(nil, &usage.Record{Client: "a"}, &usage.Record{Final: true}))
	f.Add(byte(Listed), putList(nil, list{1, 1, 3, putPlace(nil, 4, place{1, 64})}))
	f.Add(byte(Listed), []byte("0")) // a part without a number is no list
	f.Add(byte(Missing), putGap(nil, gap{1, 2, "x"}))
	f.Add(byte(Opened), putOpening(nil, opening{epoch: 3}, 5))
	l := newTestLog(f)
	path := filepath.Join(l.dir, segmentName(1))
	seed := seedOf(l.manifest.id)
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		if len(payload) > maxPayload {
			return
		}
		b := header{stream: l.manifest.id, first: 1}.append(nil)
		fr, chain := seal(append(make([]byte, frameHeader), payload...), Kind(kind), 1, 0, seed)
		b = append(b, fr...)
		fr, _ = seal(putRecord(make([]byte, frameHeader), &usage.Record{Client: "good"}), Reserved, 2, chain, seed)
		os.WriteFile(path, append(b, fr...), 0o600)
		var got []uint64
		err := Read(l.dir, func(e Entry) error { got = append(got, e.Seq); return nil })
		if err == nil && !slices.Equal(got, []uint64{1, 2}) {
			t.Errorf("read %v", got)
		}
		c, err := Open(Config{Dir: l.dir, Store: down{}, Sink: "test"})
		if err != nil {
			t.Fatal(err)
		}
		closeNow(t, c)
		os.RemoveAll(filepath.Join(l.dir, segmentName(3)))
	})
}
