package mock

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// Tokens is what a request used, in buckets: Input, CacheRead, CacheWrite,
// CacheWrite1h and Output are disjoint, the rest are parts of them or no tokens at all.
type Tokens struct {
	Input      int64 `json:"input,omitempty"`
	CacheRead  int64 `json:"cache_read,omitempty"`
	CacheWrite int64 `json:"cache_write,omitempty"`
	// CacheWrite1h was written to be kept for an hour.
	CacheWrite1h int64 `json:"cache_write_1h,omitempty"`
	Output       int64 `json:"output,omitempty"`
	Reasoning    int64 `json:"reasoning,omitempty"`
	InAudio      int64 `json:"in_audio,omitempty"`
	InImage      int64 `json:"in_image,omitempty"`
	OutAudio     int64 `json:"out_audio,omitempty"`
	AudioMillis  int64 `json:"audio_millis,omitempty"`
	Images       int64 `json:"images,omitempty"`
	// ToolPrompt is what the results of the service's own tools took, part of Input.
	ToolPrompt int64 `json:"tool_prompt,omitempty"`
}

// Add raises t by u.
func (t *Tokens) Add(u Tokens) {
	t.Input += u.Input
	t.CacheRead += u.CacheRead
	t.CacheWrite += u.CacheWrite
	t.CacheWrite1h += u.CacheWrite1h
	t.Output += u.Output
	t.Reasoning += u.Reasoning
	t.InAudio += u.InAudio
	t.InImage += u.InImage
	t.OutAudio += u.OutAudio
	t.AudioMillis += u.AudioMillis
	t.Images += u.Images
	t.ToolPrompt += u.ToolPrompt
}

// Prompt is all of the input, read from the cache or not.
func (t *Tokens) Prompt() int64 { return t.Input + t.CacheRead + t.CacheWrite + t.CacheWrite1h }

// Outcome is how a request ended, as the server saw it.
type Outcome string

const (
	Full    Outcome = "full"    // answered to the end
	Refused Outcome = "refused" // answered with an error status
	Cut     Outcome = "cut"     // broken off by the server
	Gone    Outcome = "gone"    // the client left
)

// Entry is one request in the server's ledger.
type Entry struct {
	Seq    int64     `json:"seq"`
	Time   time.Time `json:"time"`
	Ended  time.Time `json:"ended"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	// Request is what the client calls the request, in X-Client-Request-Id.
	Request   string `json:"request,omitempty"`
	Operation string `json:"operation,omitempty"`
	// Key is the label of the credential.
	Key    string `json:"key,omitempty"`
	Model  string `json:"model,omitempty"`
	Stream bool   `json:"stream,omitempty"`
	Status int    `json:"status,omitempty"`
	// Events is how many events of a stream were sent.
	Events  int     `json:"events,omitempty"`
	Outcome Outcome `json:"outcome"`
	// Tokens is what the whole answer uses, sent to its end or not. Told says
	// whether the answer that was sent says so.
	Tokens Tokens `json:"tokens"`
	Told   bool   `json:"told,omitempty"`
}

// Stats is what the server says of itself.
type Stats struct {
	// Requests have ended, Open ones have not.
	Requests int `json:"requests"`
	Open     int `json:"open"`
	// Connections were accepted since the start, those of tests included.
	Connections int64 `json:"connections"`
	// Outcomes counts requests, Keys the requests of each credential by label.
	Outcomes map[Outcome]int `json:"outcomes"`
	Keys     map[string]int  `json:"keys"`
	// Told is the sum over the requests whose answers told what they used.
	Told Tokens `json:"told"`
}

func (s *Server) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Requests:    len(s.entries),
		Open:        len(s.open),
		Connections: s.accepted,
		Outcomes:    make(map[Outcome]int),
		Keys:        make(map[string]int),
	}
	for i := range s.entries {
		e := &s.entries[i]
		st.Outcomes[e.Outcome]++
		st.Keys[e.Key]++
		if e.Told {
			st.Told.Add(e.Tokens)
		}
	}
	return st
}

// Request is what came in, byte for byte.
type Request struct {
	Seq    int64       `json:"seq"`
	Method string      `json:"method"`
	URI    string      `json:"uri"`
	Host   string      `json:"host"`
	Proto  string      `json:"proto"`
	Header http.Header `json:"header"`
	// ContentLength is -1 if the length was not declared.
	ContentLength int64  `json:"content_length"`
	Body          []byte `json:"body"`
}

// At most so many requests are kept as they came, with so many bytes of bodies.
const (
	maxSeen     = 512
	maxSeenSize = 256 << 20
)

func (s *Server) record(x *Exchange) {
	if x.aside {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, Request{
		Seq:           x.Entry.Seq,
		Method:        x.R.Method,
		URI:           x.R.RequestURI,
		Host:          x.R.Host,
		Proto:         x.R.Proto,
		Header:        x.R.Header,
		ContentLength: x.R.ContentLength,
		Body:          x.Body,
	})
	s.seenSize += len(x.Body)
	for len(s.seen) > maxSeen || len(s.seen) > 1 && s.seenSize > maxSeenSize {
		s.seenSize -= len(s.seen[0].Body)
		s.seen[0] = Request{}
		s.seen = s.seen[1:]
	}
}

// control serves what lies below /__.
func (s *Server) control(w http.ResponseWriter, r *http.Request) {
	reply := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /__stats":
		reply(s.stats())
	case "GET /__ledger":
		s.mu.Lock()
		entries := s.entries[:len(s.entries):len(s.entries)]
		s.mu.Unlock()
		reply(entries)
	case "GET /__requests":
		s.mu.Lock()
		seen := slices.Clone(s.seen)
		s.mu.Unlock()
		reply(seen)
	case "POST /__script":
		var rules []*Rule
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&rules); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.rules = rules
		s.mu.Unlock()
	case "POST /__gate":
		s.gate(r.URL.Query().Get("name")).raise(1)
	case "POST /__forget":
		s.mu.Lock()
		s.entries, s.seen, s.seenSize = nil, nil, 0
		s.mu.Unlock()
	default:
		http.NotFound(w, r)
	}
}
