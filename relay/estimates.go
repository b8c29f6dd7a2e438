package relay

import (
	"context"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/estimate"
	"github.com/floway/floway/usage"
)

// Estimates counts the tokens of attempts whose upstream did not, and corrects the
// account. It does so behind the requests, one attempt after the other. Several
// relays may share one; it may be used by many goroutines at once. The zero value
// is ready.
type Estimates struct {
	texts   texts
	skipped atomic.Uint64

	mu      sync.Mutex
	waiting []*estimation
	working chan struct{} // closed when nothing waits any more; nil if nothing does
}

// texts is how many bytes the texts take that estimates are made of.
type texts struct{ held atomic.Int64 }

// maxTexts bounds all texts that are held, in bytes. Of it transcripts of answers
// under way, most of which nobody will ask for, grow into one half.
const maxTexts = 64 << 20

// Grow takes room for the transcript of an answer under way.
func (t *texts) Grow(n int) bool { return t.hold(int64(n), maxTexts/2) }

// Shrink gives room of a transcript back.
func (t *texts) Shrink(n int) { t.held.Add(-int64(n)) }

func (t *texts) hold(n, most int64) bool {
	if t.held.Add(n) > most {
		t.held.Add(-n)
		return false
	}
	return true
}

// estimation is an attempt to be estimated.
type estimation struct {
	was    usage.Record
	ledger Ledger
	done   func(*usage.Record) // Config.Estimated
	log    *zap.Logger

	op     dialect.Operation
	model  string
	bytes  int64 // of texts, but for the script's own
	body   []byte
	room   *room // that the body lies in
	script dialect.Transcript
	events bool
	// What is to be estimated, and what the upstream counted of the answer before
	// it broke off: it is not less.
	input, output bool
	least         int64
}

// estimationSize is about what an estimation takes beside its texts.
const estimationSize = 2 << 10

// Skipped returns how many attempts were not estimated, because too many others
// waited or something broke. The count by bytes stays theirs.
func (e *Estimates) Skipped() uint64 { return e.skipped.Load() }

// Wait waits until no estimate is due any more, or ctx is done.
func (e *Estimates) Wait(ctx context.Context) error {
	e.mu.Lock()
	working := e.working
	e.mu.Unlock()
	if working == nil {
		return nil
	}
	select {
	case <-working:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// admit takes an attempt with so many bytes of texts; false if there is no room.
func (e *Estimates) admit(bytes int64) bool {
	ok := e.texts.hold(bytes, maxTexts)
	if !ok {
		e.skipped.Add(1)
	}
	return ok
}

// add hands over an attempt that was admitted and is settled.
func (e *Estimates) add(next *estimation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = append(e.waiting, next)
	if e.working == nil {
		e.working = make(chan struct{})
		go e.work()
	}
}

// work makes estimates as long as there are any to make.
func (e *Estimates) work() {
	for {
		e.mu.Lock()
		if len(e.waiting) == 0 {
			close(e.working)
			e.waiting, e.working = nil, nil
			e.mu.Unlock()
			return
		}
		next := e.waiting[0]
		e.waiting[0] = nil
		e.waiting = e.waiting[1:]
		e.mu.Unlock()
		e.make(next)
	}
}

// make estimates one attempt and corrects the account: once, whatever happens.
func (e *Estimates) make(x *estimation) {
	now := x.was
	e.count(x, &now)
	x.room.release()
	x.script.Drop()
	e.texts.held.Add(-x.bytes)
	now.Estimating = false
	x.ledger.Correct(&x.was, &now)
	if x.done != nil {
		x.done(&now)
	}
}

func (e *Estimates) count(x *estimation, now *usage.Record) {
	defer func() {
		// The texts are a stranger's and the tokenizer is not ours.
		if r := recover(); r != nil {
			now.Tokens = x.was.Tokens
			e.skipped.Add(1)
			x.log.Error("an attempt could not be estimated; its count by bytes stays",
				zap.String("request", x.was.Request), zap.Any("panic", r), zap.Stack("stack"))
		}
	}()
	if x.input {
		now.Tokens.Input = CountPrompt(x.model, x.op, x.body)
	}
	if x.output {
		c := estimate.For(x.model)
		times := x.script.Texts(x.events, c.Add)
		now.Tokens.Output = max(x.least, int64(float64(c.Tokens())*times+0.5))
	}
}

// CountPrompt returns about how many tokens a request's body is to a model: its
// texts by the tokenizer, and what dialect.PromptTexts adds. It is for answers to
// those who only want to count, too.
func CountPrompt(model string, op dialect.Operation, body []byte) int64 {
	c := estimate.For(model)
	more := dialect.PromptTexts(op, body, c.Add)
	return c.Tokens() + more
}
