package ledger

import (
	"fmt"
	"io"
	"time"

	"github.com/floway/floway/usage"
)

// trimAll deletes what need not be kept, which may make room for new segments.
func (l *Ledger) trimAll() {
	for l.trim(false) {
	}
	signal(l.provide)
}

// trim deletes the oldest segment if the store has all of it, no open attempt
// lies in it, and it need not be kept; under pressure it need not be kept for a
// store that might lose it. It says whether it did.
func (l *Ledger) trim(pressure bool) bool {
	l.trimming.Lock()
	defer l.trimming.Unlock()

	l.mu.Lock()
	ok := l.expendable(pressure)
	var s *segment
	var spans []span
	mark := l.mark
	if ok {
		s = l.segments[0]
		spans = l.readable(nil, true)[:1]
	}
	seeds := l.manifest.seeds()
	l.mu.Unlock()
	if !ok {
		return false
	}

	// What the segment counts must be known when it is gone, for Verify.
	unsure, latest := mark.Unsure, mark.Latest
	before, rest, err := usage.ParseCounts(mark.Before)
	if err == nil {
		err = each(l.cfg.FS, seeds, spans, mark.Origin, s.last, func(r, was *usage.Record) error {
			add(&before, r, was)
			latest = max(latest, booked(r, was).Unix())
			return nil
		}, func(from, to uint64) { unsure = true })
	}
	if err != nil {
		unsure = true
	}

	l.mu.Lock()
	if !l.expendable(pressure) || l.mark.Stream != mark.Stream || l.mark.Origin != mark.Origin {
		l.mu.Unlock()
		return false
	}
	l.segments = l.segments[1:]
	if l.mark.Origin < s.last {
		l.mark.Origin, l.mark.Unsure, l.mark.Latest = s.last, unsure, latest
		l.mark.Before = append(before.Append(nil), rest...)
	}
	l.mu.Unlock()
	l.saveMark()
	if err := l.cfg.FS.Remove(s.path); err != nil {
		l.cfg.Log.Warn("the ledger cannot delete a segment", "dir", l.cfg.Dir, "error", err)
	}
	return true
}

// expendable says whether the oldest segment may be deleted.
func (l *Ledger) expendable(pressure bool) bool {
	if len(l.segments) < 2 || l.mark.Confirmed != l.epoch && !pressure {
		return false
	}
	s := l.segments[0]
	if s.open > 0 || len(s.mem) > 0 || s.last > l.mark.Seq {
		return false
	}
	if pressure {
		return true
	}
	newer := int64(0)
	for _, s := range l.segments[1:] {
		if s.last <= l.mark.Seq {
			newer += s.size
		}
	}
	ended := l.segments[1].created
	return newer >= l.cfg.KeepBytes && l.cfg.Clock().Sub(ended) >= l.cfg.KeepFor
}

// each calls fn for each record behind after, up to and with upto, that counts; was
// is what a correction replaces, else nil. Both are valid until fn returns.
func each(fsys FS, seeds []uint32, spans []span, after, upto uint64, fn func(r, was *usage.Record) error, missing func(from, to uint64)) error {
	r := logReader{fs: fsys, seeds: seeds, spans: spans, missing: func(from, to uint64) {
		if from <= upto {
			missing(from, min(to, upto))
		}
	}}
	defer r.close()
	r.seek(after)
	interned := make(names)
	var rec, old usage.Record
	for {
		f, _, err := r.next()
		if err == io.EOF {
			if r.after < upto {
				missing(r.after+1, upto)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if f.seq > upto {
			return nil
		}
		switch f.kind {
		case Settled, Unsettled, Corrected:
		default:
			continue
		}
		if err := takeRecord(f.payload, &rec, &old, interned); err != nil {
			missing(f.seq, f.seq)
			continue
		}
		was := &old
		if f.kind != Corrected {
			was = nil
		}
		if err := fn(&rec, was); err != nil {
			return err
		}
		if r.breaks > 0 {
			return fmt.Errorf("record %d does not follow the one before", f.seq)
		}
	}
}

// add adds what a record counts to a sum.
func add(sum *usage.Counts, r, was *usage.Record) {
	c := r.Counts()
	sum.Add(&c)
	if was != nil {
		c := was.Counts()
		for i := range c {
			c[i] = -c[i]
		}
		sum.Add(&c)
	}
}

// booked is the instant that decides in which hour a record is counted.
func booked(r, was *usage.Record) time.Time {
	if was != nil {
		return was.Time
	}
	return r.Time
}
