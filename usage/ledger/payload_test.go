package ledger

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/usage"
)

// fill sets every field of a struct to something, so that a field which the
// format forgets is found.
func fill(v reflect.Value, n *int64) {
	for i := range v.NumField() {
		*n++
		switch f := v.Field(i); f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(time.UnixMicro(1_700_000_000_000_000 + *n).UTC()))
		case time.Duration:
			f.SetInt(*n * int64(time.Microsecond))
		default:
			switch f.Kind() {
			case reflect.Struct:
				fill(f, n)
			case reflect.String:
				f.SetString(fmt.Sprint("text ", *n))
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Int, reflect.Int64:
				f.SetInt(*n)
			case reflect.Uint8, reflect.Uint64:
				f.SetUint(uint64(*n))
			default:
				panic(f.Kind())
			}
		}
	}
}

func filled() usage.Record {
	var r usage.Record
	var n int64
	fill(reflect.ValueOf(&r).Elem(), &n)
	return r
}

func TestRecordKeepsEveryField(t *testing.T) {
	want := filled()
	var got, was usage.Record
	if err := takeRecord(putRecord(nil, &want), &got, &was, make(names)); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRecordKeepsExtremes(t *testing.T) {
	for _, want := range []usage.Record{
		{},
		{Tokens: usage.Tokens{Input: math.MaxInt64, Output: math.MinInt64}, CostNanos: -1, Status: math.MaxInt32},
		{Start: time.UnixMicro(-1).UTC(), Time: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{Client: "a\x00b", Asked: "模型 🙂", Seq: math.MaxInt64},
	} {
		var got, was usage.Record
		if err := takeRecord(putRecord(nil, &want), &got, &was, make(names)); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestCorrectionKeepsBothSides(t *testing.T) {
	now := filled()
	was := now
	was.Tokens.Input, was.Tokens.Output, was.Tokens.ReasoningKnown = 7, 0, false
	was.Final, was.Partial, was.Estimating, was.Priced = false, false, false, false
	was.Source, was.Outcome, was.CostNanos, was.Status = usage.Unknown, usage.Cut, 0, 0
	was.FirstByte, was.Duration, was.RequestBytes, was.ResponseBytes = 0, time.Second, 0, 3
	var gotNow, gotWas usage.Record
	if err := takeRecord(putCorrection(nil, &was, &now), &gotNow, &gotWas, make(names)); err != nil {
		t.Fatal(err)
	}
	if gotNow != now {
		t.Errorf("now: got  %+v\nwant %+v", gotNow, now)
	}
	if gotWas != was {
		t.Errorf("was: got  %+v\nwant %+v", gotWas, was)
	}
}

func TestNamesAreBoundedAndValid(t *testing.T) {
	for _, c := range []struct{ give, want string }{
		{strings.Repeat("x", 300), strings.Repeat("x", usage.MaxName)},
		{"a\xffb", "a\uFFFDb"},
		{strings.Repeat("é", 200), strings.Repeat("é", 128)},
		{strings.Repeat("\xff\xfe", 200), strings.Repeat("\uFFFD", 1)},
		{"x" + strings.Repeat("é", 200), "x" + strings.Repeat("é", 127)},
	} {
		var got, was usage.Record
		if err := takeRecord(putRecord(nil, &usage.Record{Asked: c.give}), &got, &was, make(names)); err != nil {
			t.Fatal(err)
		}
		if got.Asked != c.want {
			t.Errorf("%.20q… became %.20q… of %d bytes", c.give, got.Asked, len(got.Asked))
		}
	}
}

// The promise of Reserve is that any end fits the room of one frame.
func TestLargestRecordFitsAFrame(t *testing.T) {
	var r usage.Record
	v := reflect.ValueOf(&r).Elem()
	var set func(reflect.Value)
	set = func(v reflect.Value) {
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.Struct:
				if _, ok := f.Interface().(time.Time); ok {
					f.Set(reflect.ValueOf(time.UnixMicro(math.MinInt64).UTC()))
				} else {
					set(f)
				}
			case reflect.String:
				f.SetString(strings.Repeat("\xff", 5000))
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Int, reflect.Int64:
				f.SetInt(math.MinInt64)
			case reflect.Uint8:
				f.SetUint(255)
			case reflect.Uint64:
				f.SetUint(1 << 63)
			}
		}
	}
	set(v)
	if n := len(putCorrection(nil, &r, &r)); n > maxPayload {
		t.Errorf("the largest correction takes %d bytes", n)
	}
	r.Asked = strings.Repeat("y", 256)
	if n := len(putRecord(nil, &r)); n > maxPayload {
		t.Errorf("the largest record takes %d bytes", n)
	}
}

func TestUnknownFieldsArePassedOver(t *testing.T) {
	want := usage.Record{Seq: 9, Client: "alice", Tokens: usage.Tokens{Output: 5}}
	p := putRecord(nil, &want)
	p = putInt(p, 70, 12345)
	p = putString(p, 85, "later")
	p = putInt(p, fieldImages, 2)
	want.Tokens.Images = 2
	var got, was usage.Record
	if err := takeRecord(p, &got, &was, make(names)); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %+v", got)
	}
}

func TestBrokenPayloadIsAnError(t *testing.T) {
	full := putCorrection(nil, &usage.Record{Client: "alice"}, &usage.Record{Client: "alice", Seq: 300})
	broken := 0
	for n := range full {
		var r, was usage.Record
		if takeRecord(full[:n], &r, &was, make(names)) != nil {
			broken++
		}
	}
	if broken == 0 {
		t.Error("no cut payload was refused")
	}
	var r, was usage.Record
	for _, p := range [][]byte{{fieldClient<<1 | 1, 200, 1}, {fieldInput << 1}, {fieldWas<<1 | 1, 1, 8}} {
		if takeRecord(p, &r, &was, make(names)) == nil {
			t.Errorf("% x was read", p)
		}
	}
}

func TestNamesStayBounded(t *testing.T) {
	n := make(names)
	for i := range 3 * maxInterned {
		if s := fmt.Sprint("name", i); n.of([]byte(s)) != s {
			t.Fatal(s)
		}
	}
	if len(n) > maxInterned {
		t.Errorf("%d names are kept", len(n))
	}
}

func TestListInParts(t *testing.T) {
	var l lister
	part := func(i, n int64, seqs ...uint64) []byte {
		var places []byte
		for _, s := range seqs {
			places = putPlace(places, s, place{s + 1, int64(s) + 2})
		}
		return putList(nil, list{i, n, 7, places})
	}
	if _, _, ok := l.take(part(1, 2, 5, 6)); ok {
		t.Fatal("the first of two parts is a whole list")
	}
	open, epoch, ok := l.take(part(2, 2, 7))
	want := map[uint64]place{5: {6, 7}, 6: {7, 8}, 7: {8, 9}}
	if !ok || epoch != 7 || !reflect.DeepEqual(open, want) {
		t.Errorf("got %v %d %v", open, epoch, ok)
	}
	if open, _, ok := new(lister).take(nil); ok {
		t.Errorf("nothing is read as the list %v", open)
	}
	if open, _, ok := l.take(part(1, 1)); !ok || len(open) != 0 {
		t.Error("an empty list is not read")
	}
	l.take(part(1, 3, 1))
	if _, _, ok := l.take(part(3, 3, 2)); ok {
		t.Error("a list with a part missing is whole")
	}
}
