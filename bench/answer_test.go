package main

import (
	"fmt"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"
)

const testNonce = 0x0123456789abcdef

var testScript = script{chunks: 5}

// testEvents are the data lines of a right stream, [DONE] included.
func testEvents(usage bool) []string {
	r := reply{nonce: testNonce, model: testScript.model(), nulls: usage}
	last := testScript.chunks + 1
	if usage {
		last++
	}
	var events []string
	for e := range last + 1 {
		events = append(events, string(r.appendEvent(nil, e, testScript.chunks, stamps{1000, int64(2000 + e)})))
	}
	return append(events, "[DONE]")
}

func testStream(events []string) string {
	var b strings.Builder
	b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	w := httputil.NewChunkedWriter(&b)
	for _, e := range events {
		fmt.Fprintf(w, "data: %s\n\n", e)
	}
	w.Close()
	return b.String() + "\r\n"
}

func testAnswer() string {
	r := reply{nonce: testNonce, model: testScript.model()}
	body := r.appendAnswer(nil, stamps{1000, 2000})
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func testExpectation(stream, usage bool) *expectation {
	return &expectation{
		reply:  reply{nonce: testNonce, model: testScript.model(), nulls: usage},
		stream: stream, usage: usage, chunks: testScript.chunks, lagging: true,
	}
}

func TestReadRightAnswers(t *testing.T) {
	chunkedAnswer := func() string {
		_, body, _ := strings.Cut(testAnswer(), "\r\n\r\n")
		var b strings.Builder
		b.WriteString("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
		w := httputil.NewChunkedWriter(&b)
		fmt.Fprint(w, body[:100])
		fmt.Fprint(w, body[100:])
		w.Close()
		return b.String() + "\r\n"
	}
	for name, c := range map[string]struct {
		wire          string
		stream, usage bool
	}{
		"answer":            {testAnswer(), false, false},
		"answer in pieces":  {chunkedAnswer(), false, false},
		"stream with usage": {testStream(testEvents(true)), true, true},
		"stream":            {testStream(testEvents(false)), true, false},
		"stream, usage asked by the gateway and hidden": {testStream(slices.Delete(testEvents(true), 7, 8)), true, false},
		"comment": {testStream(append([]string{"[x]"}, testEvents(true)...)), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			wire := strings.Replace(c.wire, "data: [x]", ": xxxxxxx", 1)
			a := newAnswerReader(strings.NewReader(wire + wire)) // the second only if the first was left at its end
			e := testExpectation(c.stream, c.usage)
			for i := range 2 {
				// Both lie in the buffer: look only at what the reader itself says of the first.
				at, err := a.read(e)
				if i == 0 && err != nil && strings.Contains(err.Error(), "bytes after the end") {
					err = nil
				}
				if err != nil {
					t.Fatalf("answer %d: %v", i+1, err)
				}
				if at.first.received != 1000 || at.first.sent < 2000 || at.begin.IsZero() {
					t.Errorf("arrival %+v", at)
				}
			}
			if want := 2 * (testScript.chunks - 1); c.stream && len(a.lags) != want {
				t.Errorf("%d lags, want %d", len(a.lags), want)
			}
		})
	}
}

func TestReadWrongAnswers(t *testing.T) {
	other := reply{nonce: testNonce + 1, model: testScript.model(), nulls: true}
	foreign := func(event int) string {
		return string(other.appendEvent(nil, event, testScript.chunks, stamps{1000, 2000}))
	}
	edit := func(f func(events []string) []string) string { return testStream(f(testEvents(true))) }
	for name, c := range map[string]struct {
		wire          string
		stream, usage bool
		want          string
	}{
		"lost chunk":         {edit(func(e []string) []string { return slices.Delete(e, 3, 4) }), true, true, "event 3 of 7 differs"},
		"lost role":          {edit(func(e []string) []string { return e[1:] }), true, true, "event 0 of 7 differs"},
		"doubled chunk":      {edit(func(e []string) []string { return slices.Insert(e, 3, e[3]) }), true, true, "event 4 of 7 differs"},
		"swapped chunks":     {edit(func(e []string) []string { e[2], e[3] = e[3], e[2]; return e }), true, true, "event 2 of 7 differs"},
		"another's chunk":    {edit(func(e []string) []string { e[4] = foreign(4); return e }), true, true, "event 4 of 7 differs"},
		"another's usage":    {edit(func(e []string) []string { e[7] = foreign(7); return e }), true, true, "event 7 of 7 differs"},
		"altered text":       {edit(func(e []string) []string { e[4] = strings.Replace(e[4], "word", "wort", 1); return e }), true, true, "event 4 of 7 differs"},
		"no stamps":          {edit(func(e []string) []string { e[4] = `{"error":{"message":"x"}}`; return e }), true, true, "event 4 of 7: no time stamps"},
		"no usage":           {edit(func(e []string) []string { return slices.Delete(e, 7, 8) }), true, true, "[DONE] where event 7 of 7 was due"},
		"usage not asked":    {testStream(testEvents(true)), true, false, "an event too many"},
		"no [DONE]":          {edit(func(e []string) []string { return e[:8] }), true, true, "the stream ended at event 8 of 7, without [DONE]"},
		"early [DONE]":       {edit(func(e []string) []string { return slices.Insert(e, 3, "[DONE]") }), true, true, "[DONE] where event 3 of 7 was due"},
		"more after [DONE]":  {edit(func(e []string) []string { return append(e, e[3]) }), true, true, "after [DONE]"},
		"cut stream":         {strings.TrimSuffix(testStream(testEvents(true)), "0\r\n\r\n"), true, true, "unexpected EOF"},
		"no data line":       {strings.Replace(testStream(testEvents(true)), "data: {", "date: {", 1), true, true, "a line that is no data"},
		"answer for stream":  {testAnswer(), true, true, "stream is false"},
		"stream for answer":  {testStream(testEvents(true)), false, false, "stream is true"},
		"altered answer":     {strings.Replace(testAnswer(), "bytes", "bites", 1), false, false, "answer differs at byte"},
		"other nonce":        {strings.Replace(testAnswer(), "89abcdef", "89abcdee", 1), false, false, "answer differs at byte"},
		"other usage":        {strings.Replace(testAnswer(), `"prompt_tokens":`, `"prompt_tokens":1`, 1), false, false, "answer"},
		"short answer":       {testAnswer()[:600], false, false, "unexpected EOF"},
		"long answer":        {testAnswer() + "x", false, false, "bytes after the end"},
		"closing connection": {strings.Replace(testAnswer(), "\r\n", "\r\nConnection: close\r\n", 1), false, false, "to be closed"},
		"error status":       {strings.Replace(testAnswer(), "200 OK", "503 No", 1), false, false, "status 503"},
		"silence":            {"", false, false, "unexpected EOF"},
		"no HTTP":            {"SSH-2.0\r\n", false, false, "no status line"},
		"huge":               {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", false, false, "bad content length"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newAnswerReader(strings.NewReader(c.wire)).read(testExpectation(c.stream, c.usage))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
