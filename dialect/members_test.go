package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// What the tests of members look for.
var (
	lookFor   = []string{"model", "stream", "usage", "a", "stop"}
	lookFor2  = []string{"usage", "id"}
	lookEnter = "response"
)

// found is what members says of an object.
type found struct {
	Err     string
	Values  [2][5]foundValue
	Entered int
}

type foundValue struct {
	Raw               string
	Start, End, Count int
	Items             int
	Long, Folded      bool
}

// foundIn feeds data in pieces that end at the cuts.
func foundIn(data []byte, limit int, cuts ...int) found {
	var m members
	m.reset(lookFor, lookFor2, lookEnter, limit)
	at := 0
	var piece []byte // of which every piece takes the memory
	for _, cut := range append(cuts, len(data)) {
		if m.state >= atEnd {
			piece = nil // it was the object's last
		}
		clear(piece)
		piece = append(piece[:0], data[at:cut]...)
		m.feed(piece)
		at = cut
	}
	var f found
	if err := m.err(); err != nil {
		f.Err = err.Error()
	}
	f.Entered = m.entered
	for level, names := range m.names {
		for i := range names {
			v := &m.values[level][i]
			f.Values[level][i] = foundValue{string(v.raw), v.start, v.end, v.count, v.items, v.long, v.folded}
		}
	}
	return f
}

// everyByte are the cuts that leave pieces of one byte.
func everyByte(data []byte) []int {
	cuts := make([]int, len(data))
	for i := range cuts {
		cuts[i] = i
	}
	return cuts
}

// reference reads the object with encoding/json. ok is false if it is none.
func reference(data []byte) (f found, ok bool) {
	if !json.Valid(data) || len(trimBlanks(data)) == 0 || trimBlanks(data)[0] != '{' {
		return f, false
	}
	referenceObject(data, 0, 0, &f)
	return f, true
}

func referenceObject(data []byte, offset, level int, f *found) {
	names := [2][]string{lookFor, lookFor2}[level]
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	mustToken(dec)
	for dec.More() {
		key := mustToken(dec).(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			panic(err)
		}
		end := offset + int(dec.InputOffset())
		start := end - len(raw)
		if level == 0 && key == lookEnter {
			referenceEnter(raw, start, f)
			continue
		}
		for i, name := range names {
			v := &f.Values[level][i]
			switch {
			case name == key:
				v.Raw, v.Start, v.End, v.Items = string(raw), start, end, 0
				v.Count++
				var elements []json.RawMessage
				if json.Unmarshal(raw, &elements) == nil {
					for _, el := range elements {
						if el[0] == '{' {
							v.Items++
						}
					}
				} else {
					v.Items = -1 // says nothing
				}
			case strings.EqualFold(name, key):
				v.Folded = true
			}
		}
	}
}

func referenceEnter(raw []byte, offset int, f *found) {
	switch raw[0] {
	case '{':
		f.Entered++
		referenceObject(raw, offset, 1, f)
	case '[':
		dec := json.NewDecoder(bytes.NewReader(raw))
		mustToken(dec)
		for dec.More() {
			var el json.RawMessage
			if err := dec.Decode(&el); err != nil {
				panic(err)
			}
			if el[0] != '{' {
				return
			}
			f.Entered++
			referenceObject(el, offset+int(dec.InputOffset())-len(el), 1, f)
		}
	}
}

func mustToken(dec *json.Decoder) json.Token {
	t, err := dec.Token()
	if err != nil {
		panic(err)
	}
	return t
}

// equalFound compares but for what the reference does not know.
func equalFound(got, want found) error {
	for level := range want.Values {
		for i := range want.Values[level] {
			g, w := got.Values[level][i], want.Values[level][i]
			if w.Items < 0 {
				g.Items, w.Items = 0, 0
			}
			if g != w {
				return fmt.Errorf("level %d, value %d: got %+v, want %+v", level, i, g, w)
			}
		}
	}
	if got.Err != want.Err || got.Entered != want.Entered {
		return fmt.Errorf("got %q and %d entered, want %q and %d", got.Err, got.Entered, want.Err, want.Entered)
	}
	return nil
}

// nasty are objects, valid and not, that have gone wrong for somebody.
var nasty = []string{
	`{}`,
	`{ }`,
	"\r\n\t {\"model\":\"m\"}\n \t",
	`{"model":"gpt","stream":true}`,
	`{"model" : "gpt" , "stream" : true }`,
	`{"stream":  false  ,"usage":null	}`,
	`{"model":1.5e-3,"a":-0}`,
	`{"model":"a\"b\\","a":"\\\\"}`,
	`{"model":"\\\"","a":"\"\\\"\\\\\""}`,
	`{"model":"mod\u0065l","a":"\ud83d\ude00é"}`,
	`{"mod\u0065l":"x","\u0073tream":true,"\u0061":1}`,
	`{"\u006d\u006f\u0064\u0065\u006c":"x"}`,
	`{"mod\\u0065l":"x"}`,
	`{"mod\el":"x"}`,
	`{"Model":"x","STREAM":true}`,
	`{"ſtream":true,"model":"m"}`,
	`{"\u017ftream":true,"ſtop":1}`,
	`{"model":"x","model":"y"}`,
	`{"model":[1,2,3],"model":"y","model":{}}`,
	`{"usage":[{},{"a":[{}]},1,"x",[{}],{}],"usage":[{}]}`,
	`{"usage":{"model":"inner","a":{"stream":1}},"model":"outer"}`,
	`{"response":{"usage":{"a":1},"id":"r","model":"no"},"usage":2}`,
	`{"response":{},"usage":2}`,
	`{"response":[{"id":"1"},{"id":"2","usage":[{}]} , {}],"usage":2}`,
	`{"response":[],"usage":2}`,
	`{"response":[1,{"id":"no"}],"usage":2}`,
	`{"response":[{"id":"1"},"x",{"id":"no"}],"usage":2}`,
	`{"response":["a]}\"",{"id":"no"}],"usage":2}`,
	`{"response":[[{"id":"no"}],{"id":"no"}],"usage":2}`,
	`{"response":"text","usage":2}`,
	`{"response":{"response":{"id":"deep"},"id":"r"},"response":{"id":"second"}}`,
	`{"a":"}","model":"]","usage":["}","]","{\"a\":1}"]}`,
	`{"a":[[[[[[[[{"x":[{}]}]]]]]]]],"model":"m"}`,
	`{"long":"` + strings.Repeat(`x\"`, 50) + `","model":"m"}`,
	`{"` + strings.Repeat("k", maxKey-2) + `":1,"model":"m"}`,
	`{"` + strings.Repeat("k", maxKey-1) + `":1,"model":"m"}`,
	`{"` + strings.Repeat("k", maxKey) + `":1,"model":"m"}`,
	`{"` + strings.Repeat("k", maxKey-3) + `\n\n\u0061":1,"model":"m"}`,
	`{"":1,"model":"m"}`,
	`{"a":` + strings.Repeat(`{"a":`, 300) + `1` + strings.Repeat("}", 300) + `,"model":"m"}`,
	// Not objects, or not whole ones.
	``, ` `, `[]`, `"x"`, `null`, `12`, `{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":"`, `{"a":"\`,
	`{"a":[`, `{"a":[{"`, `{"model":"m"`, `{"response":{`, `{"response":[{"id":1}`, `{,}`, `{"a":1,}`, `{"a",1}`, `{"a":,}`,
	`{a:1}`, `{"a":1}}`, `{"a":1} x`, `{"a":1}{}`, "{\"a\":1}\x00", `{"a":1 "b":2}`, `{"a":1"b":2}`, `{"a":]}`, `{"a":}`,
	`{"a":{]`, `{:`, `}`, `{"model":"m"},`, "\xef\xbb\xbf{}",
}

func TestMembersReadsWhatEncodingJSONReads(t *testing.T) {
	for _, s := range nasty {
		got := foundIn([]byte(s), 1<<20)
		want, ok := reference([]byte(s))
		if !ok {
			if got.Err == "" {
				t.Errorf("%.60q is not a JSON object, but read as one", s)
			}
			continue
		}
		if err := equalFound(got, want); err != nil {
			t.Errorf("%.60q: %v", s, err)
		}
	}
}

func TestMembersIsTheSameForAnyCut(t *testing.T) {
	for _, s := range nasty {
		data := []byte(s)
		want := foundIn(data, 1<<20)
		check := func(cuts ...int) {
			t.Helper()
			if got := foundIn(data, 1<<20, cuts...); got != want {
				t.Fatalf("%.60q cut at %v: got %+v, want %+v", s, cuts, got, want)
			}
		}
		check(everyByte(data)...)
		if len(data) > 600 {
			data = data[:600]
			want = foundIn(data, 1<<20)
		}
		for i := range data {
			check(i)
			if len(data) < 64 {
				for j := i; j < len(data); j++ {
					check(i, j)
				}
			}
		}
	}
}

func TestMembersKeepsNoMoreThanItsLimit(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, tt := range []struct {
		object string
		raw    string // of usage
		long   bool
	}{
		{`{"usage":"` + long + `"}`, "", true},
		{`{"usage":"` + long[:18] + `"}`, `"` + long[:18] + `"`, false},
		{`{"usage":"` + long[:19] + `"}`, "", true},
		{`{"usage":"` + long + `","usage":"short"}`, `"short"`, false},
		{`{"usage":"short","usage":"` + long + `"}`, "", true},
		{`{"usage":[` + strings.Repeat("{},", 50) + `{}],"usage":{"a":1}}`, `{"a":1}`, false},
	} {
		data := []byte(tt.object)
		got := foundIn(data, 20, everyByte(data)...).Values[0][2]
		if got.Raw != tt.raw || got.Long != tt.long || got.Count != strings.Count(tt.object, "usage") {
			t.Errorf("%.50s…: got %+v", tt.object, got)
		}
	}
	// Every way to cut one that is too long in the middle of the next.
	data := []byte(`{"usage":"` + long + `","usage":"ab","a":"` + long + `"}`)
	for i := range data {
		for j := i; j < len(data); j++ {
			if got := foundIn(data, 20, i, j); got.Err != "" || got.Values[0][2].Count != 2 || got.Values[0][2].Raw != `"ab"` {
				t.Fatalf("cut at %d and %d: got %+v", i, j, got.Values[0][2])
			}
		}
	}
}

// The memory of a piece is used again for the next one.
func TestMembersKeepsNothingOfAPieceThatIsOver(t *testing.T) {
	data := []byte(`{"model":"the model","usage":{"prompt_tokens":12345},"a":[1,2,{"x":"yy"}],"response":{"id":"r_1"},"stream":true,"x":0}`)
	want, _ := reference(data)
	for size := 1; size <= len(data); size++ {
		var m members
		m.reset(lookFor, lookFor2, lookEnter, 1<<10)
		piece := make([]byte, size)
		for rest := data; len(rest) > 0; {
			for i := range piece {
				piece[i] = '#'
			}
			n := copy(piece, rest)
			m.feed(piece[:n])
			rest = rest[n:]
		}
		for level := range want.Values {
			for i, v := range want.Values[level] {
				if got := m.values[level][i].raw; string(got) != v.Raw {
					t.Fatalf("pieces of %d: got %q, want %q", size, got, v.Raw)
				}
			}
		}
	}
}

func TestMembersResetLetsGo(t *testing.T) {
	var m members
	m.reset(lookFor, lookFor2, lookEnter, 1<<10)
	m.feed([]byte(`{"model":1,"stop":2,"response":{"id":3}}`))
	m.reset(lookFor[:1], nil, "", 0)
	for level := range m.values {
		for i, v := range m.values[level] {
			if v.raw != nil || v.count != 0 {
				t.Errorf("level %d, value %d is still %q", level, i, v.raw)
			}
		}
	}
	m.reset(lookFor, lookFor2, lookEnter, 1<<10)
	if m.feed([]byte(`{}`)); m.at(4).found() || m.in(1).found() || m.entered != 0 {
		t.Error("found what was in another object")
	}
}

func TestMembersFeedOneStopsAtTheEnd(t *testing.T) {
	var m members
	m.reset(lookFor, nil, "", 0)
	p := []byte(` {"model":{"a":"}"}} , {"model":2}]`)
	if n := m.feedOne(p); string(p[:n]) != ` {"model":{"a":"}"}}` || m.err() != nil {
		t.Fatalf("read %q, %v", p[:n], m.err())
	}
	if n := m.feedOne(p); n != 0 {
		t.Fatalf("read %d more behind the end", n)
	}
}

// Depth costs nothing but the bytes themselves: a reader that calls itself would
// exhaust the stack here.
func TestMembersReadsAnyDepth(t *testing.T) {
	const depth = 1_000_000
	data := slicesOf(`{"a":`, strings.Repeat("[", depth), strings.Repeat("]", depth), `,"model":"m"}`)
	got := foundIn(data, 0)
	if got.Err != "" || got.Values[0][0].Raw != `"m"` || got.Values[0][3].Count != 1 {
		t.Fatalf("got %v, %+v", got.Err, got.Values[0][0])
	}
	elements := 0
	each(data[len(`{"a":`):], func(el []byte) bool { elements++; return true })
	if elements != 1 {
		t.Fatalf("%d elements", elements)
	}
}

func slicesOf(parts ...string) []byte { return []byte(strings.Join(parts, "")) }

func TestEach(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want []string
	}{
		{`[]`, nil},
		{`[ ]`, nil},
		{`[1]`, []string{`1`}},
		{` [ 1 , "a,]" , [2,[3]] , {"b":[4,"}"]} , null ] `, []string{`1`, `"a,]"`, `[2,[3]]`, `{"b":[4,"}"]}`, `null`}},
		{`["\"","\\",""]`, []string{`"\""`, `"\\"`, `""`}},
		{`[{}`, nil},
		{`[{},`, []string{`{}`}},
		{`["`, nil},
		{`["\`, nil},
		{``, nil},
	} {
		var got []string
		each([]byte(tt.raw), func(el []byte) bool { got = append(got, string(el)); return true })
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: got %q, want %q", tt.raw, got, tt.want)
		}
	}
	n := 0
	each([]byte(`[1,2,3]`), func([]byte) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("went on to %d elements after it was told to stop", n)
	}
}

func FuzzMembers(f *testing.F) {
	for i, s := range nasty {
		f.Add([]byte(s), uint64(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		whole := foundIn(data, 1<<20)
		if want, ok := reference(data); ok {
			if err := equalFound(whole, want); err != nil {
				t.Fatal(err)
			}
		}
		cuts := randomCuts(data, seed)
		if got := foundIn(data, 1<<20, cuts...); got != whole {
			t.Fatalf("cut at %v: got %+v, want %+v", cuts, got, whole)
		}
		small := foundIn(data, 8, cuts...)
		for level := range small.Values {
			for i, v := range small.Values[level] {
				w := whole.Values[level][i]
				if !v.Long && v.Raw != w.Raw || v.Count != w.Count || v.Long && v.Raw != "" {
					t.Fatalf("limit 8, cut at %v: got %+v, want %+v", cuts, v, w)
				}
			}
		}
		each(data, func(el []byte) bool {
			if len(el) > 0 && !bytes.Contains(data, el) {
				t.Fatalf("element %q is not of the array", el)
			}
			return true
		})
	})
}

// randomCuts returns up to eight places in data, ascending.
func randomCuts(data []byte, seed uint64) []int {
	r := rand.New(rand.NewPCG(seed, 1))
	var cuts []int
	for at := 0; len(cuts) < 8; {
		at += r.IntN(len(data)/4 + 2)
		if at > len(data) {
			break
		}
		cuts = append(cuts, at)
	}
	return cuts
}

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		raw string
		n   int64
		ok  bool
	}{
		{"0", 0, true},
		{"12", 12, true},
		{"-3", -3, true},
		{"12.0", 12, true},
		{"-12.0", -12, true},
		{"1e3", 1000, true},
		{"9007199254740992", 1 << 53, true},
		{"9007199254740993", 0, false},
		{"-9007199254740993", 0, false},
		{"9999999999999999", 0, false},
		{"99999999999999999999", 0, false},
		{"9007199254740994.0", 0, false},
		{"-9007199254740994.0", 0, false},
		{"1e300", 0, false},
		{"-1e300", 0, false},
		{"1e999999999", 0, false},
		{"12.5", 0, false},
		{`"12"`, 0, false},
		{"null", 0, false},
		{"true", 0, false},
		{"", 0, false},
		{"-", 0, false},
		{"NaN", 0, false},
		{"Infinity", 0, false},
		{"-Infinity", 0, false},
		{"1x", 0, false},
		{"{}", 0, false},
		{"0x10", 0, false},
	} {
		if n, ok := number([]byte(tt.raw)); n != tt.n || ok != tt.ok {
			t.Errorf("%s: got %d, %v", tt.raw, n, ok)
		}
	}
}

func TestText(t *testing.T) {
	for _, tt := range []struct {
		raw, s string
		ok     bool
	}{
		{`""`, "", true},
		{`"a"`, "a", true},
		{`"a\n\u00e9\ud83d\ude00"`, "a\né😀", true},
		{`"\ud83d"`, "\ufffd", true},
		{`"\x"`, "", false},
		{`12`, "", false},
		{`"`, "", false},
		{``, "", false},
		{`null`, "", false},
	} {
		if s, ok := text([]byte(tt.raw)); s != tt.s || ok != tt.ok {
			t.Errorf("%s: got %q, %v", tt.raw, s, ok)
		}
	}
}

// Object bodies of the size that agents send.
var (
	textBody  = chatBody(200<<10, "The quick brown fox said \\\"jumps\\\" over\\n\\tthe lazy dog. ")
	codeBody  = chatBody(200<<10, `if err := f(\"a\", \"b\"); err != nil {\n\t\treturn fmt.Errorf(\"x: %w\", err)\n\t}\n`)
	imageBody = slicesOf(`{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,`,
		strings.Repeat("iVBORw0KGgoAAAANSUhEUgAA", 1<<20/24), `"}},{"type":"text","text":"what is this?"}]}],"max_tokens":100}`)
)

func chatBody(size int, text string) []byte {
	var b bytes.Buffer
	b.WriteString(`{"model":"gpt-4o","stream":true,"messages":[{"role":"system","content":"You are helpful."}`)
	for b.Len() < size {
		fmt.Fprintf(&b, `,{"role":"user","content":"%s"}`, strings.Repeat(text, 20))
	}
	b.WriteString(`],"temperature":0.5,"max_tokens":1000}`)
	return b.Bytes()
}

func BenchmarkMembers(b *testing.B) {
	for _, bb := range []struct {
		name string
		body []byte
	}{{"text200k", textBody}, {"code200k", codeBody}, {"image1M", imageBody}} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				var m members
				m.reset(requestNames, nil, "", 0)
				m.feed(bb.body)
				if m.err() != nil {
					b.Fatal(m.err())
				}
			}
		})
	}
}

func TestMembersAllocatesNothing(t *testing.T) {
	for _, body := range [][]byte{textBody, imageBody} {
		if n := testing.AllocsPerRun(5, func() {
			var m members
			m.reset(requestNames, nil, "", 0)
			m.feed(body)
			if errors.Is(m.err(), io.EOF) {
				panic("never")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}
