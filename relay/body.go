package relay

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/floway/floway/dialect"
)

var (
	errBodyTooLarge = errors.New("the request's body is too large")
	errNoRoom       = errors.New("too many bodies are held at once")
)

// readBody reads the request's body to its end, decoded, within the bounds.
func (c *call) readBody() error {
	r, in := c.r, c.in
	if in.Body == nil || in.Body == http.NoBody {
		return nil
	}
	length := in.ContentLength
	switch {
	case length == 0:
		return nil
	case length > r.MaxBody:
		return errBodyTooLarge
	}
	var src io.Reader
	switch enc := strings.ToLower(strings.TrimSpace(in.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
		return c.readAll(in.Body, length)
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(in.Body)
		if err != nil {
			return &decodeError{err}
		}
		src = z
	case "zstd":
		z, err := zstd.NewReader(in.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return &decodeError{err}
		}
		defer z.Close()
		src = z
	default:
		return &dialect.Error{
			Fault: dialect.Malformed, Status: http.StatusUnsupportedMediaType,
			Message: "the content encoding " + quoted(enc) + " is not supported; use gzip, zstd or none",
		}
	}
	if err := c.readAll(src, -1); err != nil {
		return &decodeError{err}
	}
	return nil
}

// firstRoom is for bodies whose length nobody named. On the word of somebody who
// did, mostRoom is taken at the most.
const firstRoom = 4 << 10

// readAll reads src into c.req.Body; length is negative if nobody named it. Room
// is taken, and counted, as the body comes: a length is easily named.
func (c *call) readAll(src io.Reader, length int64) error {
	room := min(length, mostRoom)
	if length < 0 {
		room = min(firstRoom, c.r.MaxBody+1)
	}
	var body []byte
	for {
		if !c.r.hold(room) {
			return errNoRoom
		}
		c.held += room
		if c.room == nil && length == c.held {
			c.room = newRoom(length)
		}
		if c.room != nil {
			body = append(c.room.memory[:0:length], body...)
		} else {
			body = append(make([]byte, 0, c.held), body...)
		}
		for len(body) < cap(body) {
			n, err := src.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			switch {
			case int64(len(body)) > c.r.MaxBody:
				return errBodyTooLarge
			case int64(len(body)) == length, err == io.EOF && length < 0:
				c.req.Body = body
				return nil
			case err == io.EOF:
				return io.ErrUnexpectedEOF
			case err != nil:
				return err
			}
		}
		room = c.held // twice as much
		if length >= 0 {
			room = min(room, length-c.held)
		} else {
			room = min(room, c.r.MaxBody+1-c.held)
		}
	}
}

// decodeError is an error of reading a body that came packed.
type decodeError struct{ err error }

func (e *decodeError) Error() string { return "unpack the request's body: " + e.err.Error() }

func (e *decodeError) Unwrap() error { return e.err }

// hold takes n bytes of what all bodies together may take.
func (r *Relay) hold(n int64) bool {
	if r.buffered.Add(n) > r.MaxBuffered {
		r.buffered.Add(-n)
		return false
	}
	return true
}

func (r *Relay) letGo(n int64) { r.buffered.Add(-n) }

// bodyError says to the client what was wrong with its body.
func (r *Relay) bodyError(err error) *dialect.Error {
	var e *dialect.Error
	var tooMany *http.MaxBytesError
	var packed *decodeError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, errNoRoom):
		return &dialect.Error{Fault: dialect.Unavailable, Message: "too many requests are under way to take another body; try again in a moment"}
	case errors.Is(err, errBodyTooLarge), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return tooLarge(r.MaxBody)
	case errors.As(err, &tooMany):
		return tooLarge(tooMany.Limit)
	}
	if r.BodyStatus != nil {
		if status, ok := r.BodyStatus(err); ok && status == http.StatusRequestEntityTooLarge {
			return tooLarge(0)
		} else if ok {
			return &dialect.Error{Fault: dialect.FaultOf(status), Status: status, Message: "the request's body could not be read"}
		}
	}
	if errors.As(err, &packed) {
		return &dialect.Error{Fault: dialect.Malformed, Message: "the request's body cannot be unpacked as its content encoding says"}
	}
	return &dialect.Error{Fault: dialect.Malformed, Message: "the request's body could not be read to its end"}
}

// tooLarge names the limit in bytes, if it is known.
func tooLarge(limit int64) *dialect.Error {
	e := &dialect.Error{Fault: dialect.TooLarge, Message: "the request's body is larger than this server takes"}
	if limit > 0 {
		e.Message += fmt.Sprintf(", which is %d bytes unpacked", limit)
	}
	return e
}

func quoted(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return "`" + strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, s) + "`"
}
