package mock

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
)

// Event is one event of a stream.
type Event struct {
	Name string // empty: no event line
	Data []byte
	// Last marks events from the finish on: a gate lets them through.
	Last bool
	// Told marks the event that says what the answer used.
	Told bool
}

// Done ends the streams of OpenAI's older endpoints.
var Done = Event{Data: []byte("[DONE]"), Last: true}

// Stream sends events and ends the exchange. failure is how the dialect says
// that it broke down in the middle.
func (x *Exchange) Stream(events []Event, failure Event) error {
	return x.stream("text/event-stream; charset=utf-8", events, failure, nil, x.frame)
}

// StreamList sends events as the elements of one JSON array, as Google does for
// those who ask for no event stream.
func (x *Exchange) StreamList(events []Event, failure Event) error {
	before := "["
	return x.stream("application/json; charset=UTF-8", events, failure, []byte("\n]\n"), func(e Event) []byte {
		out := append([]byte(before), e.Data...)
		before = "\n,\r\n"
		return out
	})
}

func (x *Exchange) stream(contentType string, events []Event, failure Event, tail []byte, frame func(Event) []byte) error {
	x.Entry.Stream = true
	x.Entry.Status = http.StatusOK
	h := x.Header(contentType)
	h.Set("Cache-Control", "no-cache")
	var out io.Writer = writerFunc(x.Write)
	flush := x.Flush
	if x.How.Gzip {
		h.Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(out)
		out, flush = z, func() { z.Flush(); x.Flush() }
		defer z.Close()
	}
	x.W.WriteHeader(http.StatusOK)
	x.Flush()
	gated := 0
	for i, e := range events {
		switch how := &x.How; {
		case at(how.Hang, i):
			x.Hang()
		case at(how.Cut, i):
			x.BreakOff(Cut)
		case at(how.End, i):
			x.End(Cut)
			return nil
		case at(how.Fail, i):
			out.Write(frame(failure))
			out.Write(tail)
			flush()
			x.End(Cut)
			return nil
		case how.NoDone && bytes.Equal(e.Data, Done.Data):
			continue
		}
		if !e.Last {
			x.Wait(gated)
			gated++
		}
		piece := frame(e)
		if i == len(events)-1 {
			piece = append(piece, tail...)
		}
		out.Write(piece)
		flush()
		x.Entry.Events++
		x.Entry.Told = x.Entry.Told || e.Told
	}
	if z, ok := out.(*gzip.Writer); ok {
		z.Close()
		x.Flush()
	}
	x.End(Full)
	return nil
}

func at(n *int, i int) bool { return n != nil && *n == i }

// frame writes an event as it goes over the wire.
func (x *Exchange) frame(e Event) []byte {
	end := "\n"
	if x.How.CRLF {
		end = "\r\n"
	}
	space := " "
	if x.How.Bare {
		space = ""
	}
	var b bytes.Buffer
	if x.How.Comments {
		b.WriteString(": keep-alive" + end + end)
	}
	if e.Name != "" {
		b.WriteString("event:" + space + e.Name + end)
	}
	b.WriteString("data:" + space)
	b.Write(e.Data)
	b.WriteString(end + end)
	return b.Bytes()
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
