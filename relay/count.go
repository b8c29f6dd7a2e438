package relay

import (
	"net/http"
	"strconv"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/dialect/translate"
)

// errCountedHere says that no upstream of the model can count tokens: floway does.
// Agents ask before each turn, so they are given an estimate rather than an error.
var errCountedHere = &dialect.Error{Fault: dialect.Unsupported, Message: "no upstream counts the tokens of this model"}

// countsAnyway says whether a call that only counts tokens is to be answered with
// an estimate: unless an upstream found fault with the request itself.
func (c *call) countsAnyway() bool {
	if translate.KindOf(c.req.Call.Op) != translate.Counting {
		return false
	}
	status := c.last.status
	if c.last.err != nil {
		status = c.last.err.HTTPStatus()
	}
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return false
	}
	return true
}

// estimatedHeader tells a client that a count is not the upstream's.
const estimatedHeader = "X-Floway-Estimated"

var inputTokens = []string{"input_tokens"}

// countHere answers with what the tokenizer makes of the request. Nothing is
// booked: nobody was paid.
func (c *call) countHere() {
	model := c.req.Model
	if len(c.targets) > 0 {
		model = c.targets[0].sent
	}
	body := translate.CountAnswer(nil, c.dialect, CountPrompt(model, c.req.Call.Op, c.req.Body))
	h := c.w.Header()
	h["Content-Type"] = jsonType
	h["Cache-Control"] = noStore
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h[estimatedHeader] = inputTokens
	c.trace.Status = http.StatusOK
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(body)
}
