package mockopenai

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
)

// event is one event of a stream.
type event struct {
	name string // empty: no event line
	data []byte
	// last marks events from the finish on: a gate lets them through.
	last bool
	// told marks the event that says what the answer used.
	told bool
}

// done ends the streams of the older endpoints.
var done = event{data: []byte("[DONE]"), last: true}

// stream sends events and ends the exchange. failure is how the dialect says
// that it broke down in the middle.
func (x *exchange) stream(events []event, failure event) error {
	x.entry.Stream = true
	x.entry.Status = http.StatusOK
	h := x.header("text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	var out io.Writer = writerFunc(x.write)
	flush := x.flush
	if x.how.Gzip {
		h.Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(out)
		out, flush = z, func() { z.Flush(); x.flush() }
		defer z.Close()
	}
	x.w.WriteHeader(http.StatusOK)
	x.flush()
	gated := 0
	for i, e := range events {
		switch how := &x.how; {
		case at(how.Hang, i):
			x.hang()
		case at(how.Cut, i):
			x.breakOff(Cut)
		case at(how.End, i):
			x.end(Cut)
			return nil
		case at(how.Fail, i):
			out.Write(x.frame(failure))
			flush()
			x.end(Cut)
			return nil
		case how.NoDone && bytes.Equal(e.data, done.data):
			continue
		}
		if !e.last {
			x.wait(gated)
			gated++
		}
		out.Write(x.frame(e))
		flush()
		x.entry.Events++
		x.entry.Told = x.entry.Told || e.told
	}
	if z, ok := out.(*gzip.Writer); ok {
		z.Close()
		x.flush()
	}
	x.end(Full)
	return nil
}

func at(n *int, i int) bool { return n != nil && *n == i }

// frame writes an event as it goes over the wire.
func (x *exchange) frame(e event) []byte {
	end := "\n"
	if x.how.CRLF {
		end = "\r\n"
	}
	space := " "
	if x.how.Bare {
		space = ""
	}
	var b bytes.Buffer
	if x.how.Comments {
		b.WriteString(": keep-alive" + end + end)
	}
	if e.name != "" {
		b.WriteString("event:" + space + e.name + end)
	}
	b.WriteString("data:" + space)
	b.Write(e.data)
	b.WriteString(end + end)
	return b.Bytes()
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
