package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/floway/floway/usage"
)

const (
	// flushEvery is the time between two batches that are not full. The longer it
	// is, the more records fall into the same rows of a batch; whoever wants to
	// see the sums does not wait for it (see Flush).
	flushEvery = time.Second
	// checkEvery is how often an idle ledger looks whether the store still stands
	// where it did: a store that went back in time would else not be noticed
	// before the next request.
	checkEvery = 10 * time.Second
	// callTimeout bounds one call to the store.
	callTimeout = 30 * time.Second
	// A store in trouble is tried again after firstBackoff, doubling to maxBackoff.
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
	// maxScanned bounds the records that one batch goes through.
	maxScanned = 1 << 16
	// maxSkew is how far the clocks of store and host may differ without a word.
	maxSkew = 5 * time.Second
)

var (
	// ErrFenced: a copy of the log has taken over in the store, so this one must
	// not send under the stream's name. The attempts stay in the log.
	ErrFenced = errors.New("a copy of this log was opened elsewhere and has taken over its stream: " +
		"stop the copy; a restart, or resuming the ledger, sends what is left under a new name")
	// ErrPositionLost: the store still holds its sums but no longer knows how far
	// it took the stream in. To send again could count twice.
	ErrPositionLost = errors.New("the store has lost the position of this stream and nothing else, so nothing is sent that may be counted already: " +
		"look why keys disappear there (eviction, deletion, an instance that was away for 90 days); resuming the ledger goes on behind what was acknowledged last")
)

var errRenamed = errors.New("the stream has a new name")

// flusher carries the log into the store. All of it belongs to one goroutine.
type flusher struct {
	*Ledger
	reader  logReader
	names   names
	batch   usage.Batch // its memory serves for one after the other
	from    uint64      // the position of the store
	greeted bool        // the store was found where it should be
	checked time.Time   // when it was last
	// mismatched: the last batch did not start where the store stood.
	mismatched bool
	lost       []gap // ranges that the reader missed
}

func (l *Ledger) flushLoop() {
	defer l.flushing.Done()
	f := &flusher{Ledger: l, names: make(names)}
	f.reader = logReader{fs: l.cfg.FS, missing: func(from, to uint64) {
		f.lost = append(f.lost, gap{from, to, "damaged or deleted"})
	}}
	defer f.reader.close()
	backoff := time.Duration(0)
	for l.storing.Err() == nil {
		full, err := f.step()
		l.mu.Lock()
		if l.tally.stopped != nil || l.storing.Err() != nil {
			err = nil
		}
		l.tally.storeErr = err
		stopped, hurried := l.tally.stopped != nil, l.flushers > 0
		l.changed.Broadcast()
		l.mu.Unlock()
		switch {
		case stopped:
			f.greeted = false
			f.sleep(checkEvery, l.settled)
		case err != nil:
			if backoff == 0 {
				l.cfg.Log.Warn("the ledger does not get into the store", "dir", l.cfg.Dir, "error", err)
			}
			f.greeted = false
			backoff = min(max(2*backoff, firstBackoff), maxBackoff)
			f.sleep(backoff-rand.N(backoff/4), nil)
			continue
		case full:
		default:
			if !hurried {
				f.sleep(flushEvery, l.hurry)
			}
			f.sleep(time.Until(f.checked.Add(checkEvery)), l.settled)
			if time.Since(f.checked) >= checkEvery {
				f.greeted = false
			}
		}
		if backoff > 0 {
			backoff = 0
			l.cfg.Log.Info("the ledger gets into the store again", "dir", l.cfg.Dir)
		}
	}
}

// sleep waits for d or for a signal.
func (f *flusher) sleep(d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-f.storing.Done():
	case <-t.C:
	case <-wake:
	}
}

// step sends one batch, if there is anything to send. It returns whether there
// may be more.
func (f *flusher) step() (more bool, err error) {
	f.mu.Lock()
	stopped, resume := f.tally.stopped, f.resume
	f.resume = false
	f.mu.Unlock()
	if stopped != nil && !resume {
		return false, nil
	}
	select {
	case f.booking <- struct{}{}:
		defer func() { <-f.booking }()
	case <-f.storing.Done():
		return false, f.storing.Err()
	}
	ctx, cancel := context.WithTimeout(f.storing, callTimeout)
	defer cancel()
	if stopped != nil {
		if err := f.goOn(ctx, stopped); err != nil {
			return false, err
		}
	}
	if !f.greeted {
		err := f.greet(ctx)
		if errors.Is(err, errRenamed) {
			err = f.greet(ctx)
		}
		if err != nil {
			return false, err
		}
		f.greeted, f.checked = true, time.Now()
		f.trimAll()
	}
	b, more, err := f.cut()
	if b == nil || err != nil {
		return more, err
	}
	f.mu.Lock()
	doubt := f.mark.Sending
	f.mark.Sending = max(doubt, b.To)
	f.mu.Unlock()
	f.saveMark()
	p, err := f.cfg.Store.Apply(ctx, b)
	again := f.mismatched
	f.mismatched = errors.Is(err, usage.ErrMismatch)
	if f.mismatched {
		f.mu.Lock()
		f.mark.Sending = doubt // it did not take this
		f.mu.Unlock()
	}
	switch {
	case errors.Is(err, usage.ErrFenced):
		return false, f.halt(ErrFenced)
	case f.mismatched && !again:
		// A lost reply, a store that went back, or another writer: the next
		// greeting tells.
		f.greeted = false
		return true, nil
	case err != nil:
		return false, err
	}
	f.checked = time.Now()
	return more, f.acknowledge(b, p)
}

// cut makes the next batch: what is on the disk behind the position of the store.
// It is nil if nothing there counts. more says whether the batch was cut short.
func (f *flusher) cut() (b *usage.Batch, more bool, err error) {
	f.mu.Lock()
	f.reader.seeds = f.manifest.seeds()
	f.reader.update(f.readable(f.reader.spans[:0], false))
	b = &f.batch
	b.Reset()
	b.Stream, b.Epoch, b.From = f.manifest.id, f.epoch, f.from
	b.Since, b.SinceChain = f.since, f.sinceChain
	f.mu.Unlock()

	var first time.Time
	counted := 0
	for scanned := 0; ; scanned++ {
		if b.Full(f.cfg.Store.MaxIncrements()) || scanned == maxScanned {
			more = true
			break
		}
		fr, _, err := f.reader.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, false, err
		}
		ok, at, err := sum(b, fr, f.names)
		if err != nil {
			f.lost = append(f.lost, gap{fr.seq, fr.seq, "not readable"})
		}
		if ok {
			if counted++; counted == 1 {
				first = at
			}
		}
		b.To, b.Chain = fr.seq, fr.sum
	}
	for _, g := range f.lost {
		f.report(g)
	}
	f.lost = f.lost[:0]

	f.mu.Lock()
	defer f.mu.Unlock()
	if counted > 0 {
		if f.oldest.IsZero() {
			f.oldest = first
		}
		return b, more, nil
	}
	f.batch = usage.Batch{}
	f.clear = max(f.clear, f.reader.after)
	f.changed.Broadcast()
	return nil, more, nil
}

// sum adds what a record says to a batch. ok tells whether it counts anything.
func sum(b *usage.Batch, fr frame, n names) (ok bool, at time.Time, err error) {
	var r, was usage.Record
	switch fr.kind {
	case Settled, Unsettled:
		if err := takeRecord(fr.payload, &r, &was, n); err != nil {
			return false, at, err
		}
		b.Add(&r)
	case Corrected:
		if err := takeRecord(fr.payload, &r, &was, n); err != nil {
			return false, at, err
		}
		b.Correct(&was, &r)
	default:
		return false, at, nil
	}
	return true, r.Time, nil
}

// readable lists the segments with how far they may be read: as far as they are
// on the disk, so that the store never knows what the loss of power can undo, or
// as far as they are written.
func (l *Ledger) readable(spans []span, written bool) []span {
	for _, s := range l.segments {
		limit := s.off
		if !written {
			limit = s.durable()
		}
		spans = append(spans, span{first: s.first, path: s.path, limit: limit, incarnation: s.made})
		if !written && len(s.mem) > 0 {
			break
		}
	}
	bound(spans)
	return spans
}

// acknowledge takes down that the store has a batch.
func (f *flusher) acknowledge(b *usage.Batch, p usage.Position) error {
	f.mu.Lock()
	f.from = b.To
	f.mark.Seq, f.mark.Chain, f.mark.Epoch, f.mark.Confirmed = b.To, b.Chain, b.Epoch, b.Epoch
	f.mark.Sending = 0
	f.clear = max(f.clear, b.To)
	f.oldest = time.Time{}
	f.tally.contact = f.cfg.Clock()
	f.tally.deadLetters = p.DeadLetters
	genesis := f.tally.genesis
	f.changed.Broadcast()
	f.mu.Unlock()
	if err := f.knowGenesis(genesis); err != nil {
		return err
	}
	f.saveMark()
	f.trimAll()
	return nil
}

// knowGenesis remembers the genesis of the store that has a part of this stream.
func (f *flusher) knowGenesis(genesis string) error {
	f.mu.Lock()
	m := f.manifest
	f.mu.Unlock()
	if m.Genesis == genesis {
		return nil
	}
	m.Genesis = genesis
	if err := m.write(f.cfg.FS, f.cfg.Dir); err != nil {
		return err
	}
	f.mu.Lock()
	f.manifest.Genesis = genesis
	f.mu.Unlock()
	return nil
}

// saveMark writes the bookmark. A failure costs no more than a slower answer to a
// rare question, so it is only told, once until it goes well again.
func (l *Ledger) saveMark() {
	l.marking.Lock()
	defer l.marking.Unlock()
	l.mu.Lock()
	mark := l.mark
	l.mu.Unlock()
	err := l.marks.write(&mark)
	if err != nil && !l.unmarked {
		l.cfg.Log.Warn("the ledger cannot remember its position", "dir", l.cfg.Dir, "error", err)
	}
	l.unmarked = err != nil
}

// report tells of records that are missing, once for each range, and leaves word
// of it in the log.
func (l *Ledger) report(g gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if to, ok := l.gaps[g.from]; ok && to == g.to {
		return
	}
	if len(l.gaps) < maxGaps {
		l.gaps[g.from] = g.to
	}
	l.tally.gaps++
	l.tally.missing += g.to - g.from + 1
	l.cfg.Log.Error("records of the ledger are missing", "dir", l.cfg.Dir, "from", g.from, "to", g.to, "why", g.why)
	if l.trouble == nil && !l.closed && l.spacious() {
		l.buf = putGap(l.buf[:frameHeader], g)
		l.write(Missing)
	}
}

const maxGaps = 1024

// greet asks the store where it stands, and goes on from there.
func (f *flusher) greet(ctx context.Context) error {
	f.mu.Lock()
	id := f.manifest.id
	f.mu.Unlock()
	g, err := f.cfg.Store.Hello(ctx, id)
	if err != nil {
		return err
	}
	f.note(g)
	if !g.Known {
		return f.start(g)
	}
	p := g.Position
	chain, held, err := f.chainAt(p.Seq)
	if err != nil {
		return err
	}
	f.mu.Lock()
	epoch, confirmed, oldest := f.epoch, f.mark.Confirmed, f.segments[0].first-1
	f.mu.Unlock()
	switch {
	case p.Epoch > epoch && confirmed == epoch:
		return f.halt(ErrFenced)
	case p.Epoch <= epoch && held && chain == p.Chain:
		return f.follow(g)
	case p.Epoch <= epoch && p.Seq < oldest:
		return f.leap(g, oldest)
	default:
		at, err := f.forkPoint(p)
		if err != nil {
			return err
		}
		f.cfg.Log.Error("the store has records under the name of this ledger that are not in it: a copy of the directory was used, "+
			"or an older copy of it was restored; going on under a new name", "dir", f.cfg.Dir, "position", p.Seq, "from", at)
		if err := f.rename(at, "forked"); err != nil {
			return err
		}
		// The next greeting is under the new name, after a pause if the store
		// claims to know that too.
		return errRenamed
	}
}

// note takes down what the store says of itself.
func (l *Ledger) note(g usage.Greeting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Clock()
	skew := g.Time.Sub(now).Round(time.Millisecond)
	if g.Time.IsZero() {
		skew = 0
	}
	if skew.Abs() > maxSkew && l.tally.skew.Abs() <= maxSkew {
		l.cfg.Log.Warn("the clocks of the store and this host differ", "dir", l.cfg.Dir, "by", skew)
	}
	if g.Warning != "" && g.Warning != l.tally.warning {
		l.cfg.Log.Warn("the store is not set up as it should be", "dir", l.cfg.Dir, "warning", g.Warning)
	}
	l.tally.skew, l.tally.warning, l.tally.genesis, l.tally.contact = skew, g.Warning, g.Genesis, now
	l.tally.deadLetters = g.Position.DeadLetters
	if !l.tally.greeted {
		l.tally.greeted, l.tally.oldLetters = true, g.Position.DeadLetters
	}
}

// start begins with a store that does not know the stream: a new one, or one that
// has forgotten.
func (f *flusher) start(g usage.Greeting) error {
	f.mu.Lock()
	genesis, base, oldest := f.manifest.Genesis, f.manifest.Base, f.segments[0].first-1
	f.mu.Unlock()
	origin := max(base, oldest)
	switch {
	case genesis == "":
	case genesis == g.Genesis && g.Lost:
		return f.halt(ErrPositionLost)
	case genesis == g.Genesis:
		f.cfg.Log.Error("the store went back to before it had anything of this ledger; sending again", "dir", f.cfg.Dir, "from", origin+1)
	default:
		f.cfg.Log.Error("the store has lost everything; sending again what the ledger holds", "dir", f.cfg.Dir, "from", origin+1)
	}
	if oldest > base {
		f.report(gap{base + 1, oldest, "the store lost them after the ledger let them go"})
	}
	f.mu.Lock()
	f.from, f.blind = 0, false
	f.mark = bookmark{Stream: f.manifest.Stream, Seq: origin, Epoch: f.epoch, Confirmed: f.epoch, Origin: origin}
	f.clear = origin
	f.mu.Unlock()
	f.reader.seek(origin)
	return nil
}

// follow goes on from the position of a store that has this log and no other.
func (f *flusher) follow(g usage.Greeting) error {
	p := g.Position
	f.mu.Lock()
	if p.Seq < f.mark.Seq {
		f.cfg.Log.Error("the store went back; sending again", "dir", f.cfg.Dir, "from", p.Seq+1, "to", f.mark.Seq)
		f.clear = p.Seq
	}
	f.from, f.blind = p.Seq, false
	f.clear = max(f.clear, p.Seq)
	f.mark.Sending = 0
	f.mark.Seq, f.mark.Chain, f.mark.Epoch, f.mark.Confirmed = p.Seq, p.Chain, p.Epoch, f.epoch
	if f.mark.Unsure {
		f.beginAt(p.Seq, p.Totals)
	}
	f.changed.Broadcast()
	f.mu.Unlock()
	if f.reader.after != p.Seq {
		f.reader.seek(p.Seq)
	}
	return f.knowGenesis(g.Genesis)
}

// leap goes on with a store that went back to before what the log still holds.
func (f *flusher) leap(g usage.Greeting, oldest uint64) error {
	p := g.Position
	f.report(gap{p.Seq + 1, oldest, "the store lost them after the ledger let them go"})
	f.mu.Lock()
	f.from, f.blind = p.Seq, false
	f.clear = oldest
	f.mark.Sending = 0
	f.mark.Seq, f.mark.Chain, f.mark.Epoch, f.mark.Confirmed = oldest, p.Chain, p.Epoch, f.epoch
	f.beginAt(oldest, p.Totals)
	f.mu.Unlock()
	f.reader.seek(oldest)
	return nil
}

// beginAt takes down what the store had counted of the stream up to a record, as
// the store says. Of what hours that was nobody knows, so of any up to now.
func (f *flusher) beginAt(origin uint64, totals usage.Counts) {
	f.mark.Origin, f.mark.Before, f.mark.Unsure = origin, totals.Append(nil), false
	f.mark.Latest = f.cfg.Clock().Unix()
}

// halt stops the stream until it is resumed or opened again.
func (f *flusher) halt(why error) error {
	f.mu.Lock()
	f.tally.stopped = why
	if errors.Is(why, ErrFenced) {
		f.mark.Fenced = true
	}
	f.changed.Broadcast()
	f.mu.Unlock()
	f.saveMark()
	f.cfg.Log.Error("the ledger's stream has stopped", "dir", f.cfg.Dir, "error", why)
	return why
}

// ErrNotStopped: there is nothing to resume.
var ErrNotStopped = errors.New("the ledger's stream has not stopped")

// Resume lets a stream that has stopped (see Stats.Stopped) go on, under a new
// name, behind what the store acknowledged last. What it may have counted beyond
// that is not sent again and reported as a gap. An operator calls it who has
// understood why the stream stopped. The error is nil or ErrNotStopped.
func (l *Ledger) Resume() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tally.stopped == nil {
		return ErrNotStopped
	}
	l.resume = true
	signal(l.settled)
	return nil
}

// goOn resumes the stream.
func (f *flusher) goOn(ctx context.Context, stopped error) error {
	f.mu.Lock()
	at, sure, id := f.mark.Seq, f.mark.Seq, f.manifest.id
	if errors.Is(stopped, ErrPositionLost) {
		at = max(at, f.mark.Sending)
		if f.blind {
			at = max(at, f.inherited)
		}
	}
	f.mu.Unlock()
	if errors.Is(stopped, ErrFenced) {
		g, err := f.cfg.Store.Hello(ctx, id)
		if err == nil {
			at, err = f.forkPoint(g.Position)
		}
		if err != nil {
			f.mu.Lock()
			f.resume = true // at the next check
			f.mu.Unlock()
			return err
		}
		sure = at // the copy has it, and sends it
	}
	if err := f.rename(at, "resumed"); err != nil {
		return err
	}
	if at > sure {
		f.report(gap{sure + 1, at, "nobody knows whether the store had counted them when it lost its position"})
	}
	return nil
}

// rename goes on under a new stream id, with the records behind at.
func (f *flusher) rename(at uint64, why string) error {
	f.mu.Lock()
	m := f.manifest
	f.mu.Unlock()
	m.Former = slices.Clone(m.Former)
	m.rename()
	m.Base = at
	if err := m.write(f.cfg.FS, f.cfg.Dir); err != nil {
		return err
	}
	f.mu.Lock()
	old := f.manifest.Stream
	f.manifest = m
	f.mark = bookmark{Stream: m.Stream, Seq: at, Origin: at}
	f.tally.stopped = nil
	f.from, f.blind = 0, false
	f.clear = at
	f.mu.Unlock()
	f.saveMark()
	f.reader.seek(at)
	f.cfg.Log.Warn("the ledger has a new stream", "dir", f.cfg.Dir, "why", why, "old", old, "new", m.Stream, "from", at+1)
	return nil
}

// forkPoint finds the last record that the other writer of the stream had too and
// sends, or has sent: copies of a log part at the opening of one of them.
func (f *flusher) forkPoint(p usage.Position) (uint64, error) {
	f.mu.Lock()
	epoch, mark := f.epoch, f.mark
	spans := f.readable(nil, true)
	seeds := f.manifest.seeds()
	f.mu.Unlock()
	if parted, err := f.partedAt(p, mark.Confirmed); parted || err != nil {
		return max(mark.Seq, p.Since), err
	}
	shared := min(p.Epoch, mark.Confirmed)
	if mark.Fenced || shared >= epoch {
		// What this log has written since the store acknowledged it last, only
		// this log has.
		return mark.Seq, nil
	}
	r := logReader{fs: f.cfg.FS, seeds: seeds, spans: spans}
	defer r.close()
	r.seek(mark.Seq)
	for {
		fr, _, err := r.next()
		if err == io.EOF {
			return mark.Seq, nil
		}
		if err != nil {
			return 0, err
		}
		if fr.kind != Opened {
			continue
		}
		o, err := takeOpening(fr.payload)
		if err != nil {
			return 0, fmt.Errorf("read record %d: %w", fr.seq, err)
		}
		if o.epoch > shared {
			return max(mark.Seq, fr.seq-1), nil
		}
	}
}

// partedAt says whether this log and the other writer's parted at p.Since: both
// have the same records up to there, and the opening of the other one, with which
// its own begin, is not in this log.
func (f *flusher) partedAt(p usage.Position, confirmed uint64) (bool, error) {
	if p.Since == 0 {
		return false, nil
	}
	chain, held, err := f.chainAt(p.Since)
	if err != nil || !held || chain != p.SinceChain {
		return false, err
	}
	// An opening of that epoch which the store has seen is the same one.
	return p.Epoch > confirmed, nil
}

// chainAt says what the chain is at a record; held is false if the log does not
// hold it.
func (f *flusher) chainAt(seq uint64) (chain uint32, held bool, err error) {
	f.mu.Lock()
	mark, last := f.mark, f.Ledger.last
	spans := f.readable(nil, true)
	seeds := f.manifest.seeds()
	f.mu.Unlock()
	if seq == 0 {
		return 0, true, nil
	}
	if seq > last || seq+1 < spans[0].first {
		return 0, false, nil
	}
	if mark.Confirmed == f.epoch && seq == mark.Seq {
		return mark.Chain, true, nil
	}
	r := logReader{fs: f.cfg.FS, seeds: seeds, spans: spans}
	defer r.close()
	r.seek(seq - 1)
	fr, _, err := r.next()
	switch {
	case err != nil && err != io.EOF:
		return 0, false, err
	case err == nil && fr.seq == seq:
		return fr.sum, true, nil
	case err == nil && fr.seq == seq+1:
		return fr.chain, true, nil
	case seq == mark.Seq:
		// The record is damaged; what was remembered of it must do.
		return mark.Chain, true, nil
	}
	return 0, false, nil
}
