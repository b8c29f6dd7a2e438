package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"time"
)

// maxAnswer bounds an answer that comes in one piece.
const maxAnswer = 1 << 20

// arrival is when an answer came.
type arrival struct {
	first stamps    // the mock's own times of the first event with content
	begin time.Time // when that event was here
}

// answerReader reads the answers of one connection and checks every byte of
// them that the mock determines.
type answerReader struct {
	conn  *bufio.Reader
	lines *bufio.Reader // over the body of a stream
	buf   []byte        // what arrived, where it has to be kept
	want  []byte        // what should have
	// lags takes the time from the mock's write to the arrival of every content
	// chunk but the first.
	lags []time.Duration
}

func newAnswerReader(r io.Reader) *answerReader {
	return &answerReader{conn: bufio.NewReaderSize(r, 16<<10), lines: bufio.NewReaderSize(nil, 4<<10)}
}

// expectation says what answer is right.
type expectation struct {
	reply
	stream  bool
	usage   bool // the request asked for usage in the stream
	chunks  int
	lagging bool // note the lag of each chunk
	// messages: the answer is one of Messages, made of the mock's.
	messages bool
}

// read reads one answer. After an error the connection is of no use.
func (a *answerReader) read(e *expectation) (arrival, error) {
	h, err := a.readHead()
	if err != nil {
		return arrival{}, fmt.Errorf("read the head: %w", err)
	}
	if h.status != 200 {
		text, _ := a.readWhole(h)
		return arrival{}, statusError{h.status, string(text)}
	}
	if h.closing {
		return arrival{}, errors.New("the connection is to be closed after a good answer")
	}
	if h.stream != e.stream {
		return arrival{}, fmt.Errorf("stream is %t, asked for %t", h.stream, e.stream)
	}
	var at arrival
	switch {
	case e.messages && e.stream:
		at, err = a.readMessageStream(h, e)
	case e.messages:
		at, err = a.readMessage(h, e)
	case e.stream:
		at, err = a.readStream(h, e)
	default:
		at, err = a.readAnswer(h, e)
	}
	if err == nil && a.conn.Buffered() > 0 {
		err = errors.New("bytes after the end of the answer")
	}
	return at, err
}

// statusError is an answer with another status than 200.
type statusError struct {
	status int
	body   string
}

func (e statusError) Error() string { return fmt.Sprintf("status %d: %.300s", e.status, e.body) }

func (a *answerReader) readAnswer(h head, e *expectation) (arrival, error) {
	at := arrival{begin: time.Now()}
	got, err := a.readWhole(h)
	if err != nil {
		return at, fmt.Errorf("read the answer: %w", err)
	}
	if at.first, err = readStamps(got); err != nil {
		return at, err
	}
	a.want = e.appendAnswer(a.want[:0], at.first)
	if !bytes.Equal(got, a.want) {
		return at, differs("answer", got, a.want)
	}
	return at, nil
}

func (a *answerReader) readStream(h head, e *expectation) (arrival, error) {
	var at arrival
	if !h.chunked {
		return at, errors.New("a stream without chunked transfer coding")
	}
	body := httputil.NewChunkedReader(a.conn)
	a.lines.Reset(body)
	last := e.chunks + 1
	if e.usage {
		last++
	}
	for event, done := 0, false; ; {
		data, err := a.readData()
		switch {
		case err == io.EOF && done:
			return at, a.readTrailer()
		case err == io.EOF:
			return at, fmt.Errorf("the stream ended at event %d of %d, without [DONE]", event, last)
		case err != nil:
			return at, fmt.Errorf("event %d of %d: %w", event, last, err)
		case done:
			return at, fmt.Errorf("after [DONE]: %.300s", data)
		case bytes.Equal(data, []byte("[DONE]")):
			if event != last+1 {
				return at, fmt.Errorf("[DONE] where event %d of %d was due", event, last)
			}
			done = true
			continue
		case event > last:
			return at, fmt.Errorf("an event too many: %.300s", data)
		}
		sent, err := readStamps(data)
		if err != nil {
			return at, fmt.Errorf("event %d of %d: %w: %.300s", event, last, err, data)
		}
		// Who did not ask for usage may see its nulls or not see them: the gateway
		// may have asked for it.
		a.want = e.appendEvent(a.want[:0], event, e.chunks, sent)
		if !bytes.Equal(data, a.want) && (e.usage || !sameButNulls(data, a.want)) {
			return at, differs(fmt.Sprintf("event %d of %d", event, last), data, a.want)
		}
		switch {
		case event == 1:
			at.begin, at.first = time.Now(), sent
		case event > 1 && event <= e.chunks && e.lagging:
			a.lags = append(a.lags, time.Duration(time.Now().UnixNano()-sent.sent))
		}
		event++
	}
}

// readData returns the data of the next event, valid until the next call, or
// io.EOF at the end of the stream.
func (a *answerReader) readData() ([]byte, error) {
	for {
		line, err := a.lines.ReadSlice('\n')
		if err != nil && (err != io.EOF || len(line) == 0) {
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 || line[0] == ':' {
			continue
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			return nil, fmt.Errorf("a line that is no data: %.300s", line)
		}
		return data, nil
	}
}

// sameButNulls reports whether data is want with `"usage":null` at its end.
func sameButNulls(data, want []byte) bool {
	data, ok := bytes.CutSuffix(data, []byte(`,"usage":null}`))
	return ok && bytes.Equal(data, want[:len(want)-1])
}

// head is what matters of a response's head.
type head struct {
	status  int
	length  int // -1 if unknown
	chunked bool
	stream  bool
	closing bool
}

func (a *answerReader) readHead() (head, error) {
	h := head{length: -1}
	line, err := a.readLine()
	if err != nil {
		return h, err
	}
	rest, ok := bytes.CutPrefix(line, []byte("HTTP/1.1 "))
	if !ok || len(rest) < 3 {
		return h, fmt.Errorf("no status line: %.100q", line)
	}
	if h.status, err = strconv.Atoi(string(rest[:3])); err != nil {
		return h, fmt.Errorf("no status line: %.100q", line)
	}
	for {
		line, err := a.readLine()
		if err != nil {
			return h, err
		}
		if len(line) == 0 {
			return h, nil
		}
		name, value, ok := bytes.Cut(line, []byte(": "))
		if !ok {
			return h, fmt.Errorf("bad header line: %.100q", line)
		}
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if h.length, err = strconv.Atoi(string(value)); err != nil || h.length < 0 || h.length > maxAnswer {
				return h, fmt.Errorf("bad content length %.100q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			h.chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Content-Type")):
			h.stream = bytes.HasPrefix(value, []byte("text/event-stream"))
		case bytes.EqualFold(name, []byte("Connection")):
			h.closing = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// readLine returns the next line of the connection without its end. It is valid
// until the next call.
func (a *answerReader) readLine() ([]byte, error) {
	line, err := a.conn.ReadSlice('\n')
	if err != nil {
		return nil, orEOF(err)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// readWhole reads a body to its end. It is valid until the next call.
func (a *answerReader) readWhole(h head) ([]byte, error) {
	var err error
	switch {
	case h.chunked:
		var whole []byte
		whole, err = io.ReadAll(io.LimitReader(httputil.NewChunkedReader(a.conn), maxAnswer))
		a.buf = append(a.buf[:0], whole...)
		if err == nil {
			err = a.readTrailer()
		}
	case h.length >= 0:
		if cap(a.buf) < h.length {
			a.buf = make([]byte, h.length)
		}
		a.buf = a.buf[:h.length]
		_, err = io.ReadFull(a.conn, a.buf)
	default:
		err = errors.New("neither a length nor chunked transfer coding")
	}
	return a.buf, err
}

// readTrailer reads what follows the last chunk.
func (a *answerReader) readTrailer() error {
	for {
		line, err := a.readLine()
		if err != nil || len(line) == 0 {
			return err
		}
	}
}

func orEOF(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// differs names the first difference.
func differs(what string, got, want []byte) error {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	from := max(0, i-20)
	return fmt.Errorf("%s differs at byte %d: got …%.80q, want …%.80q", what, i, got[from:], want[from:])
}
