package relay

import (
	"compress/gzip"
	"errors"
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

// readBody reads a request's body to its end, decoded, within the bounds. held
// is what it counts against MaxBuffered until it is let go; it is set on error too.
//
// The memory is not taken from a pool: the transport may still be reading from a
// body when its answer is already over.
func (r *Relay) readBody(req *http.Request) (body []byte, held int64, err error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, 0, nil
	}
	length := req.ContentLength
	if length > r.MaxBody {
		return nil, 0, errBodyTooLarge
	}
	src := io.Reader(req.Body)
	switch enc := strings.ToLower(strings.TrimSpace(req.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(src)
		if err != nil {
			return nil, 0, decodeError(err)
		}
		src, length = z, -1
	case "zstd":
		z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(r.MaxBody)+1<<20), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, 0, decodeError(err)
		}
		defer z.Close()
		src, length = z, -1
	default:
		return nil, 0, &dialect.Error{Fault: dialect.Malformed, Status: http.StatusUnsupportedMediaType,
			Message: "the content encoding " + quoted(enc) + " is not supported; use gzip, zstd or none"}
	}
	if length >= 0 {
		if !r.hold(length) {
			return nil, 0, errNoRoom
		}
		body = make([]byte, length)
		_, err = io.ReadFull(src, body)
		return body, length, err
	}
	return r.readAll(src, length < 0 && src != io.Reader(req.Body))
}

// readAll reads a body whose length nobody named.
func (r *Relay) readAll(src io.Reader, decoding bool) (body []byte, held int64, err error) {
	body = make([]byte, 0, 4<<10)
	if !r.hold(int64(cap(body))) {
		return nil, 0, errNoRoom
	}
	held = int64(cap(body))
	for {
		if len(body) == cap(body) {
			more := int64(cap(body))
			if !r.hold(more) {
				return nil, held, errNoRoom
			}
			held += more
			body = append(make([]byte, 0, held), body...)
		}
		n, err := src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > r.MaxBody:
			return nil, held, errBodyTooLarge
		case err == io.EOF:
			return body, held, nil
		case err != nil && decoding:
			return nil, held, decodeError(err)
		case err != nil:
			return nil, held, err
		}
	}
}

// decodeError tells a body that cannot be decoded from one that cannot be read.
func decodeError(err error) error {
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return errBodyTooLarge
	}
	var maxBytes *http.MaxBytesError
	if errors.As(err, &maxBytes) {
		return err
	}
	return &dialect.Error{Fault: dialect.Malformed, Message: "the request's body cannot be decoded as its content encoding says"}
}

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
	var maxBytes *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, errNoRoom):
		return &dialect.Error{Fault: dialect.Unavailable, Message: "too many requests are under way to take another body; try again in a moment"}
	case errors.Is(err, errBodyTooLarge), errors.As(err, &maxBytes):
		return &dialect.Error{Fault: dialect.TooLarge, Message: "the request's body is larger than this server takes"}
	}
	if r.BodyStatus != nil {
		if status, ok := r.BodyStatus(err); ok {
			fault := dialect.Malformed
			if status == http.StatusRequestEntityTooLarge {
				fault = dialect.TooLarge
			}
			return &dialect.Error{Fault: fault, Status: status, Message: "the request's body is larger than this server takes"}
		}
	}
	return &dialect.Error{Fault: dialect.Malformed, Message: "the request's body could not be read to its end"}
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
