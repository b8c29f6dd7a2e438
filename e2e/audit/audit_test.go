package audit

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/e2e/mockopenai"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is an account in which all agrees, and what a test makes of it.
type world struct {
	*Evidence
	log segment
	dir string
}

// newWorld is ten requests over two keys, served, recorded, summed up and seen.
func newWorld(t *testing.T) *world {
	w := &world{dir: t.TempDir(), Evidence: &Evidence{Sink: &Sink{Rows: map[Key]Counts{}, Streams: map[string]Position{}}}}
	w.log.id = [16]byte{1, 2, 3}
	manifest, _ := json.Marshal(map[string]any{"stream": hex.EncodeToString(w.log.id[:])})
	if err := os.WriteFile(filepath.Join(w.dir, "stream"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	w.log.begin(noon)
	for i := range 10 {
		request, key := fmt.Sprint("req_", i), fmt.Sprint("k", i%2)
		w.log.attempt(request, key, noon, int64(10*i), 5)
		w.Served = append(w.Served, mockopenai.Entry{
			Seq: int64(i), Request: request, Operation: "chat", Key: key, Model: "mock-chat", Status: 200,
			Outcome: mockopenai.Full, Told: true, Tokens: mockopenai.Tokens{Input: int64(10 * i), Output: 5},
		})
		w.Calls = append(w.Calls, Call{Request: request, Status: 200, Ended: true})
	}
	w.Logs = []string{w.dir}
	w.write(t)
	if _, err := ReadLog(w.dir, func(r *Record) error { w.book(r); return nil }); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) write(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "0000000000000001.log"), append(w.log.b[:len(w.log.b):len(w.log.b)], make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// book raises the sink by a record that counts.
func (w *world) book(r *Record) {
	if r.Kind != Settled && r.Kind != Unsettled && r.Kind != Corrected {
		return
	}
	c := r.counts()
	for _, row := range r.rows() {
		sum := w.Sink.Rows[row]
		sum.add(&c, 1)
		w.Sink.Rows[row] = sum
	}
	p := w.Sink.Streams["one"]
	p.Totals.add(&c, 1)
	w.Sink.Streams["one"] = p
}

// Each kind of difference is found, and found where it belongs.
func TestCompare(t *testing.T) {
	row := Key("h 2026112312 alice|team-a|mock|k1|mock-chat")
	raise := func(w *world, row Key, field int, by int64) {
		c := w.Sink.Rows[row]
		c[field] += by
		w.Sink.Rows[row] = c
	}
	// frames finds where the n-th frame of a log begins.
	frame := func(w *world, n int) int {
		at := segmentHeader
		for ; n > 0; n-- {
			at += (frameHeader + int(w.log.b[at+4]) + int(w.log.b[at+5])<<8 + 7) &^ 7
		}
		return at
	}
	for name, c := range map[string]struct {
		change func(*testing.T, *world)
		want   string // the invariants that do not hold
	}{
		"all is well":                {func(*testing.T, *world) {}, ""},
		"a counter is too high":      {func(_ *testing.T, w *world) { raise(w, "d 20261123 alice|team-a|mock|k1|mock-chat", outputTokens, 1) }, "I1"},
		"a row is missing":           {func(_ *testing.T, w *world) { delete(w.Sink.Rows, "m1 202611 key mock|k0") }, "I1"},
		"tokens in another hour":     {func(_ *testing.T, w *world) { raise(w, row, inputTokens, -7); raise(w, nextHour(row), inputTokens, 7) }, "I1"},
		"an hour and not the stream": {func(_ *testing.T, w *world) { raise(w, row, requests, 1) }, "I1 I5"},
		"a dead letter": {func(_ *testing.T, w *world) {
			raise(w, row, requests, -1)
			w.Sink.Letters = append(w.Sink.Letters, Letter{Row: row, Field: requests, Delta: 1})
		}, ""},
		"other tokens":          {func(_ *testing.T, w *world) { w.Served[3].Tokens.Output++ }, "I2"},
		"another key":           {func(_ *testing.T, w *world) { w.Served[3].Key = "k0" }, "I3 I4"},
		"another model":         {func(_ *testing.T, w *world) { w.Served[3].Model = "mock-mini" }, "I2"},
		"nothing was told":      {func(_ *testing.T, w *world) { w.Served[3].Told = false }, "I2"},
		"it was cut":            {func(_ *testing.T, w *world) { w.Served[3].Outcome, w.Served[3].Told = mockopenai.Cut, false }, "I2"},
		"served once more":      {func(_ *testing.T, w *world) { w.Served = append(w.Served, w.Served[3]) }, "I3"},
		"served without record": {func(_ *testing.T, w *world) { w.Served = append(w.Served, mockopenai.Entry{Request: "req_x"}) }, "I3"},
		"served without id":     {func(_ *testing.T, w *world) { w.Served = append(w.Served, mockopenai.Entry{}) }, "I4"},
		"invented":              {func(_ *testing.T, w *world) { w.Served = w.Served[1:] }, "I4"},
		"a client's answer": {func(_ *testing.T, w *world) {
			w.Calls = append(w.Calls, Call{Request: "req_x", Status: 200, Ended: true})
		}, "I7"},
		"half an answer":       {func(_ *testing.T, w *world) { w.Calls = append(w.Calls, Call{Request: "req_x", Status: 200}) }, ""},
		"refused and recorded": {func(_ *testing.T, w *world) { w.Calls[3].Status = 401 }, "I4"},
		"settled twice": {func(t *testing.T, w *world) {
			w.log.attempt("req_3", "k1", noon, 30, 5)
			w.write(t)
		}, "I1 I3"},
		"never ended": {func(t *testing.T, w *world) {
			w.log.frame(Reserved, number(text(nil, fieldRequest, "req_x"), fieldAttempt, 1))
			w.write(t)
		}, "I3"},
		"unknown without a kill": {func(t *testing.T, w *world) {
			w.log.frame(Unsettled, number(number(text(nil, fieldRequest, "req_x"), fieldAttempt, 1), fieldTime, noon.UnixMicro()))
			w.write(t)
			if _, err := ReadLog(w.dir, func(r *Record) error {
				if r.Request == "req_x" {
					w.book(r)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}, "I3"},
		"a record is damaged": {func(t *testing.T, w *world) {
			w.log.b[frame(w, 7)+40]++ // the settle of req_3
			w.write(t)
		}, "I1 I3 I7"},
		"a copy of the log": {func(t *testing.T, w *world) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
				t.Fatal(err)
			}
			w.Logs = append(w.Logs, dir)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(t, w)
			d, err := Compare(w.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range []struct {
				name string
				n    int
			}{{"I1", d.I1}, {"I2", d.I2}, {"I3", d.I3}, {"I4", d.I4}, {"I5", d.I5}, {"I7", d.I7}} {
				if i.n > 0 {
					got = append(got, i.name)
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("found %v, want %s: %q", got, c.want, d.Notes)
			}
		})
	}
}

// nextHour is the row an hour later.
func nextHour(row Key) Key { return Key(strings.Replace(string(row), "2026112312", "2026112313", 1)) }

// A correction counts as the difference, in the hour of what it corrects.
func TestCorrection(t *testing.T) {
	w := newWorld(t)
	was := number(number(number(nil, fieldOutcome, Served), fieldSource, Estimate), fieldInput, 70)
	p := number(number(text(nil, fieldRequest, "req_3"), fieldAttempt, 1), fieldTime, noon.UnixMicro())
	p = number(number(number(p, fieldOutcome, Served), fieldSource, Estimate), fieldInput, 30)
	p = append(p, fieldWas<<1|1, byte(len(was)))
	w.log.frame(Corrected, append(p, was...))
	w.write(t)
	var sum Counts
	if _, err := ReadLog(w.dir, func(r *Record) error {
		if r.Kind == Corrected {
			sum = r.counts()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if sum != (Counts{inputTokens: -40}) {
		t.Errorf("%v", sum)
	}
}

// What is behind a tear, or beside damage, is read; nothing is made up.
func TestReadLog(t *testing.T) {
	w := newWorld(t)
	whole, err := ReadLog(w.dir, func(*Record) error { return nil })
	if err != nil || whole.Last != 20 || whole.Gone != 0 || whole.Stream != StreamOf(w.dir) {
		t.Fatalf("%+v, %v", whole, err)
	}
	path := filepath.Join(w.dir, "0000000000000001.log")
	for at := segmentHeader; at < len(w.log.b); at += 100 {
		b := append([]byte(nil), w.log.b...)
		b[at] ^= 0x55
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		records := 0
		l, err := ReadLog(w.dir, func(*Record) error { records++; return nil })
		if err != nil || records < 19 || uint64(records)+l.Gone != l.Last {
			t.Errorf("a bad byte at %d: %d records, %+v, %v", at, records, l, err)
		}
	}
}

func TestFindSecrets(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "a"), []byte("harmless"), 0o600)
	if found, err := FindSecrets([]string{"sk-1", "sk-2"}, dir); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
	os.WriteFile(filepath.Join(dir, "b"), []byte("x\x00sk-2\x00"), 0o600)
	if found, err := FindSecrets([]string{"sk-1", "sk-2"}, dir); err != nil || len(found) != 1 {
		t.Errorf("%v, %v", found, err)
	}
}
