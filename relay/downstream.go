package relay

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of an answer that is held back: how long after its header came, and how
// much of it. So long another key can still serve the request.
const (
	maxHold = 200 * time.Millisecond
	maxHeld = 32 << 10
)

// lingering is how long an upstream may take to end a stream behind its last
// event. Reading to the end keeps the connection in use.
const lingering = 5 * time.Second

// Sizes of the window through which answers pass: a small one for streams, of
// which thousands may be open, and room for one that has more to give.
const (
	smallWindow = 4 << 10
	largeWindow = 32 << 10
)

var largeWindows = sync.Pool{New: func() any { return new([largeWindow]byte) }}

// downstream is the way to the client and the watchdog over the upstream: one
// timer that ends an attempt which gives no sign of life, and that commits an
// answer which takes its time to begin. Until that is committed the call's
// goroutine and the timer may both act, and do so behind the lock.
type downstream struct {
	timer   *time.Timer
	due     atomic.Int64 // when the timer means it, since epoch
	reading atomic.Bool  // the upstream is waited for, and not the client

	mu     sync.Mutex
	phase  phase
	call   *call
	res    *http.Response // until it is committed
	held   []byte         // of its body
	window []byte         // through which it passes
	small  []byte         // a window to begin with, kept from call to call
	large  *[largeWindow]byte
	flush  *http.ResponseController
	err    error // of writing to the client
}

// phase is how far an attempt is.
type phase uint8

const (
	over      phase = iota // the timer comes too late
	waiting                // for the header of the answer
	holding                // the header and what came behind it
	gathering              // an answer that is of use only as a whole
	flowing                // to the client; nothing can be healed
)

// epoch is what due is counted from.
var epoch = time.Now()

// arm sets the timer. A call of it that is already under way finds that it is not
// meant any more. It returns the time since epoch.
func (d *downstream) arm(wait time.Duration) (now time.Duration) {
	now = time.Since(epoch)
	d.due.Store(int64(now + wait))
	d.timer.Reset(wait)
	return now
}

// startWatchdog starts the watchdog over an attempt.
func (c *call) startWatchdog(d time.Duration) {
	if c.down == nil {
		c.down = new(downstream)
	}
	c.noteAt = c.down.start(c, d) + noteEvery
}

// stopWatchdog ends the attempt for the watchdog. One that is just about to act
// is left behind with all that it has in its hands.
func (c *call) stopWatchdog() {
	if !c.down.stop() {
		c.down = nil
	}
}

// idle is how long the upstream may be silent in the middle of an answer.
func (c *call) idle() time.Duration {
	if d := c.target.up.Idle; d > 0 {
		return d
	}
	return DefaultIdle
}

func (d *downstream) start(c *call, wait time.Duration) (now time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phase, d.call = waiting, c
	d.reading.Store(true)
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.bark)
	}
	return d.arm(wait)
}

func (d *downstream) stop() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phase, d.call, d.res = over, nil, nil
	return d.timer.Stop()
}

// hold begins to hold an answer back.
func (d *downstream) hold(res *http.Response, gathers bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.small == nil {
		d.small = make([]byte, smallWindow)
	}
	if d.phase, d.res = holding, res; gathers {
		d.phase = gathering
	}
	d.held, d.window, d.err = d.held[:0], d.small, nil
	if !gathers {
		d.arm(maxHold)
	}
}

// bark is the timer's call.
func (d *downstream) bark() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int64(time.Since(epoch)) < d.due.Load() {
		return
	}
	switch c := d.call; d.phase {
	case waiting, gathering, flowing:
		// Time that the client takes to read is not the upstream's.
		if d.reading.Load() {
			c.cancel(errSilent)
		}
	case holding:
		d.arm(c.idle())
		c.commit(nil)
		c.forward(nil, true)
	}
}

// widen makes the window larger, for events up to most.
func (d *downstream) widen(events bool, most int) {
	switch {
	case events && len(d.window) < most:
		wider := make([]byte, 4*len(d.window))
		copy(wider, d.window)
		d.window = wider
	case !events && d.large == nil:
		d.large = largeWindows.Get().(*[largeWindow]byte)
		d.window = d.large[:]
	}
}

// trim lets go of what is only kept while an answer passes.
func (d *downstream) trim() {
	if d.large != nil {
		largeWindows.Put(d.large)
	}
	d.large, d.window, d.flush, d.err = nil, nil, nil, nil
	if d.held = d.held[:0]; cap(d.held) > maxHeld {
		d.held = nil
	}
}
