package relay

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/floway/floway/dialect"
)

// Request headers that go upstream, by dialect. Everything else stays here: the
// client's credentials and cookies, and what SDKs say of themselves.
var passedUp = [...][]string{
	dialect.Chat:      {"Content-Type", "Accept", "Openai-Beta", "Idempotency-Key"},
	dialect.Responses: {"Content-Type", "Accept", "Openai-Beta", "Idempotency-Key"},
	dialect.Messages:  {"Content-Type", "Accept", "Anthropic-Version", "Anthropic-Beta", "Idempotency-Key"},
	dialect.Gemini:    {"Content-Type", "Accept", "Idempotency-Key"},
}

var userAgent = []string{"floway"}

func (c *call) upstreamHeader(u *Upstream) http.Header {
	h := make(http.Header, 8)
	h["User-Agent"] = userAgent
	for name, values := range u.Provider.Headers() {
		h[name] = values
	}
	for _, name := range passedUp[c.dialect] {
		if values := c.in.Header[name]; len(values) > 0 {
			h[name] = values
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
	noStore   = []string{"no-store"}
	noBuffer  = []string{"no"}
	closeConn = []string{"close"}
)

// copyHeader puts into the client's header what passes of the upstream's.
func (c *call) copyHeader(from http.Header) {
	h := c.w.Header()
	h["Cache-Control"] = noStore
	for _, name := range passedDown {
		if values := from[name]; len(values) > 0 {
			h[name] = values
		}
	}
	for _, name := range upstreamIDs {
		if values := from[name]; len(values) > 0 {
			h["X-Upstream-Request-Id"] = values
			c.trace.UpstreamRequest = values[0]
			break
		}
	}
	now := c.r.Now()
	up := c.headerAt.Sub(c.sentAt)
	all := now.Sub(c.start)
	timing := make([]byte, 0, 48)
	timing = append(timing, "upstream;dur="...)
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
