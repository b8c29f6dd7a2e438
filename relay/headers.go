package relay

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
)

// Request headers that go upstream, by dialect. Everything else stays here: the
// client's credentials and cookies, and what SDKs say of themselves.
var passedUp = [...][]string{
	dialect.Chat:      {"Content-Type", "Accept", "Openai-Beta", idempotencyKey},
	dialect.Responses: {"Content-Type", "Accept", "Openai-Beta", idempotencyKey},
	dialect.Messages:  {"Content-Type", "Accept", "Anthropic-Version", "Anthropic-Beta", idempotencyKey},
	dialect.Gemini:    {"Content-Type", "Accept", idempotencyKey},
}

const idempotencyKey = "Idempotency-Key"

var userAgent = []string{"floway"}

// upstreamHeader is the header of a request upstream, but for the credential.
func (c *call) upstreamHeader(u *Upstream) http.Header {
	h := make(http.Header, 8)
	h["User-Agent"] = userAgent
	for name, values := range u.Provider.Headers() {
		h[name] = values
	}
	if c.translated != nil {
		h["Content-Type"] = jsonType
	} else {
		for _, name := range passedUp[c.dialect] {
			if values := c.in.Header[name]; len(values) > 0 {
				h[name] = values
			}
		}
	}
	if c.tailor != nil {
		c.tailor.Describe(c.op, c.body, h)
	}
	if u.EditHeader != nil {
		u.EditHeader(c.in, h)
	}
	// Under their canonical names the transport would take these as leave to send
	// a request twice, of which the account would know nothing.
	for _, name := range [...]string{idempotencyKey, "X-" + idempotencyKey} {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
	return h
}

// Response headers that reach the client. An upstream's limits describe a key
// that is shared, and its cookies are ours.
var passedDown = []string{
	"Content-Type", "Content-Disposition", "Cache-Control",
	"Openai-Processing-Ms", "Openai-Version", "X-Should-Retry",
}

// upstreamIDs are the headers in which upstreams name a request.
var upstreamIDs = []string{"X-Request-Id", "Request-Id", "Apim-Request-Id"}

var (
	jsonType  = []string{"application/json"}
	noStore   = []string{"no-store"}
	noBuffer  = []string{"no"}
	closeConn = []string{"close"}
	inASecond = []string{"1"}
)

// copyHeader puts into the client's header what passes of the upstream's, to go
// with the upstream's body.
func (c *call) copyHeader(from http.Header) {
	h := c.w.Header()
	h["Cache-Control"] = noStore
	for _, name := range passedDown {
		if values := from[name]; len(values) > 0 {
			h[name] = values
		}
	}
}

// copyIDs tells the client, and the log, of the attempt whose answer it gets: its
// name at the upstream and the time that it took.
func (c *call) copyIDs(from http.Header) {
	if from == nil {
		return
	}
	h := c.w.Header()
	for _, name := range upstreamIDs {
		if values := from[name]; len(values) > 0 {
			h["X-Upstream-Request-Id"] = values
			c.trace.UpstreamRequest = values[0]
			break
		}
	}
	up := c.headerAt.Sub(c.sentAt)
	all := c.r.Now().Sub(c.start)
	var buf [64]byte
	timing := append(buf[:0], "upstream;dur="...)
	timing = appendMillis(timing, up)
	timing = append(timing, ", gateway;dur="...)
	timing = appendMillis(timing, all-up)
	h["Server-Timing"] = []string{string(timing)}
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(max(d, 0).Microseconds())/1000, 'f', 3, 64)
}

// NewRequestID returns a name for a request: 100 random bits, which are no secret.
func NewRequestID() string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	b := []byte("req_00000000000000000000")
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := len("req_"); i < len(b); i++ {
		b[i] = letters[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return string(b)
}
