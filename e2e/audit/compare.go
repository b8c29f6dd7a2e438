package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/floway/floway/e2e/mock"
)

// Call is one request as its client saw it.
type Call struct {
	// Request is the id that the gateway gave it; empty if no header came.
	Request string
	Status  int
	// Ended: the end mark of a stream came, or the last byte of another answer.
	Ended bool
	// Left: the client broke it off.
	Left bool
}

// Evidence is what a comparison looks at.
type Evidence struct {
	Sink *Sink
	// Logs are the directories of all logs that were sent to the sink, copies of
	// others among them.
	Logs []string
	// Served is the upstream's ledger, Calls that of the clients.
	Served []mock.Entry
	Calls  []Call
	// Kills is how often a gateway was killed, InFlight how many requests were
	// under way at most each time.
	Kills, InFlight int
	// Planted are counters that a test has written over.
	Planted map[Key]map[int]bool
	// Lost are requests whose records a test has destroyed.
	Lost map[string]bool
	// Unserved: the log holds attempts of which Served and Calls know nothing.
	Unserved bool
}

// Differences counts what does not agree, by invariant. All zero is well.
type Differences struct {
	// I1: counters of the sink that are not the sum of the logs' records.
	I1 int
	// I2: answers of the upstream whose settle records are not as they must be.
	I2 int
	// I3: requests at the upstream without a record of their end; attempts that
	// have both an end and an unknown outcome; unknown outcomes beyond those that
	// kills can leave.
	I3 int
	// I4: settled attempts that never were at the upstream; refused requests that
	// were recorded.
	I4 int
	// I5: counters whose sum over all rows is not the sum over all streams.
	I5 int
	// I7: answers that clients have to the end and that are not settled as served.
	I7 int

	// Attempts, Unknown and Letters are found in the logs and in the sink.
	Attempts, Unknown, Letters int
	// Logs are the logs that were read.
	Logs []Log
	// Notes are the first few differences, for people.
	Notes []string
}

// Sum is all differences.
func (d *Differences) Sum() int { return d.I1 + d.I2 + d.I3 + d.I4 + d.I5 + d.I7 }

func (d *Differences) note(n *int, format string, args ...any) {
	*n++
	if *n <= 5 {
		d.Notes = append(d.Notes, fmt.Sprintf(format, args...))
	}
}

// attempt is all that the logs say of one attempt.
type attempt struct {
	request            string
	number             int64
	key                string
	settles, unsettles int
	settle             *Record
}

// Compare looks for differences.
func Compare(e *Evidence) (*Differences, error) {
	d := new(Differences)
	want := make(map[Key]Counts)
	found := make(map[string][]*attempt) // by request
	type identity struct {
		stream [16]byte
		seq    uint64
		sum    uint32
	}
	var seen map[identity]bool
	if len(e.Logs) > 1 {
		seen = make(map[identity]bool) // copies of a log have records in common
	}
	for _, dir := range e.Logs {
		log, err := ReadLog(dir, func(r *Record) error {
			if seen != nil {
				id := identity{r.Stream, r.Seq, r.Sum}
				if seen[id] {
					return nil
				}
				seen[id] = true
			}
			if r.Kind == Settled || r.Kind == Unsettled || r.Kind == Corrected {
				c := r.counts()
				for _, row := range r.rows() {
					sum := want[row]
					sum.add(&c, 1)
					want[row] = sum
				}
			}
			if r.Kind == Unsettled {
				d.Unknown++
			}
			if !e.Unserved {
				d.take(found, r)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		d.Logs = append(d.Logs, log)
	}
	d.compareSums(e, want)
	if !e.Unserved {
		d.compareServed(e, found)
		d.compareCalls(e, found)
	}
	return d, nil
}

// take notes what a record says of its attempt.
func (d *Differences) take(found map[string][]*attempt, r *Record) {
	i := slices.IndexFunc(found[r.Request], func(a *attempt) bool { return a.number == r.Attempt })
	if i < 0 {
		if r.Kind == Withdrawn {
			return
		}
		i = len(found[r.Request])
		found[r.Request] = append(found[r.Request], &attempt{request: r.Request, number: r.Attempt, key: r.Key})
		d.Attempts++
	}
	a := found[r.Request][i]
	switch r.Kind {
	case Settled:
		a.settles++
		own := *r
		a.settle = &own
	case Unsettled:
		a.unsettles++
	}
}

// compareSums is I1 and I5.
func (d *Differences) compareSums(e *Evidence, want map[Key]Counts) {
	have := make(map[Key]Counts)
	var rows, totals Counts
	for row, c := range e.Sink.Rows {
		have[row] = c
		if row[:2] == "h " {
			rows.add(&c, 1)
		}
	}
	for _, l := range e.Sink.Letters {
		d.Letters++
		if l.Row == "" {
			continue
		}
		c := have[l.Row]
		c[l.Field] += l.Delta
		have[l.Row] = c
		if l.Row[:2] == "h " {
			rows[l.Field] += l.Delta
		}
	}
	all := make(map[Key]bool)
	for row := range have {
		all[row] = true
	}
	for row := range want {
		all[row] = true
	}
	for row := range all {
		h, w := have[row], want[row]
		for f := range h {
			if h[f] != w[f] && !e.Planted[row][f] {
				d.note(&d.I1, "I1: %s: %s is %d in the sink and %d in the log", row, fieldName(f), h[f], w[f])
			}
		}
	}
	rows.add(&e.Sink.LateHours, 1)
	for _, p := range e.Sink.Streams {
		totals.add(&p.Totals, 1)
	}
	for f := range rows {
		if rows[f] != totals[f] {
			d.note(&d.I5, "I5: %s: the rows have %d, the streams %d", fieldName(f), rows[f], totals[f])
		}
	}
}

// Excess counts the counters of the sink that are higher than the logs allow: a
// stream that has stopped may be behind its log, never before it.
func Excess(e *Evidence) (n int, err error) {
	want := make(map[Key]Counts)
	for _, dir := range e.Logs {
		if _, err := ReadLog(dir, func(r *Record) error {
			if r.Kind == Settled || r.Kind == Unsettled || r.Kind == Corrected {
				c := r.counts()
				for _, row := range r.rows() {
					sum := want[row]
					sum.add(&c, 1)
					want[row] = sum
				}
			}
			return nil
		}); err != nil {
			return 0, err
		}
	}
	for row, c := range e.Sink.Rows {
		for f, v := range c {
			if v > want[row][f] {
				n++
			}
		}
	}
	return n, nil
}

// compareServed is I2, I3 and I4: each line of the upstream's ledger and each
// attempt has one other that belongs to it.
func (d *Differences) compareServed(e *Evidence, found map[string][]*attempt) {
	lines := make(map[string][]*mock.Entry)
	for i := range e.Served {
		l := &e.Served[i]
		if l.Operation == "models" {
			continue // the gateway's own question
		}
		if l.Request == "" {
			d.note(&d.I4, "I4: the upstream served a request without an id: %s %s", l.Method, l.Path)
			continue
		}
		lines[l.Request] = append(lines[l.Request], l)
	}
	left := make(map[string]bool)
	for i := range e.Calls {
		if e.Calls[i].Left {
			left[e.Calls[i].Request] = true
		}
	}
	stray := 0
	for request, list := range found {
		if e.Lost[request] {
			delete(lines, request)
			continue
		}
		slices.SortFunc(list, func(a, b *attempt) int { return cmp.Compare(a.number, b.number) })
		at := lines[request]
		slices.SortFunc(at, func(a, b *mock.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
		for _, a := range list {
			i := slices.IndexFunc(at, func(l *mock.Entry) bool { return l.Key == a.key || l.Key == "" })
			var line *mock.Entry
			if i >= 0 {
				line = at[i]
				at = slices.Delete(at, i, i+1)
			}
			switch {
			case a.settles+a.unsettles > 1:
				d.note(&d.I3, "I3: attempt %d of %s has %d settle records and %d unknown outcomes", a.number, request, a.settles, a.unsettles)
			case a.settles+a.unsettles == 0:
				d.note(&d.I3, "I3: attempt %d of %s has no end", a.number, request)
			case a.unsettles == 1 && line == nil:
				stray++ // killed between the record and the call
			case a.settle != nil && line == nil && (a.settle.Outcome == Served || a.settle.Outcome == Refused || a.settle.Outcome == Cut):
				d.note(&d.I4, "I4: attempt %d of %s was settled with outcome %d and never was at the upstream", a.number, request, a.settle.Outcome)
			case a.settle != nil && line != nil:
				if wrong := settledWrong(line, a.settle); wrong != "" {
					d.note(&d.I2, "I2: attempt %d of %s: %s", a.number, request, wrong)
				}
			}
		}
		for _, l := range at {
			d.note(&d.I3, "I3: %s was once more at the upstream (%s, key %s) than the log says", request, l.Outcome, l.Key)
		}
		delete(lines, request)
	}
	for request := range lines {
		if e.Lost[request] {
			continue
		}
		d.note(&d.I3, "I3: %s was at the upstream, and the log knows nothing of it", request)
	}
	if d.Unknown > e.Kills*e.InFlight {
		d.note(&d.I3, "I3: %d unknown outcomes (%d never sent) after %d kills with at most %d requests under way", d.Unknown, stray, e.Kills, e.InFlight)
	}
}

// settledWrong says what of a settle record does not agree with the upstream's
// line; empty if all does.
func settledWrong(l *mock.Entry, s *Record) string {
	if l.Key != "" && l.Model != "" && s.Outcome == Served && (l.Key != s.Key || l.Model != s.Model) {
		return fmt.Sprintf("served with key %s for %s, settled with key %s for %s", l.Key, l.Model, s.Key, s.Model)
	}
	used := [13]int64{
		0: l.Tokens.Input, 1: l.Tokens.CacheRead, 2: l.Tokens.CacheWrite, 4: l.Tokens.Output, 5: l.Tokens.Reasoning,
		7: l.Tokens.InAudio, 8: l.Tokens.InImage, 9: l.Tokens.OutAudio, 11: l.Tokens.AudioMillis, 12: l.Tokens.Images,
	}
	exact := s.Source == Reported && !s.Partial
	switch l.Outcome {
	case mock.Full:
		switch {
		case s.Outcome == Left || s.Outcome == Failed:
			// The gateway, or its client, was gone before it had read the end.
			if exact && s.Tokens != used {
				return fmt.Sprintf("used %d, settled as reported with %d", used, s.Tokens)
			}
		case l.Told && (!exact || s.Tokens != used):
			return fmt.Sprintf("used %d, settled with %d (source %d)", used, s.Tokens, s.Source)
		case !l.Told && s.Outcome == Served && s.Source != Estimate:
			return fmt.Sprintf("nothing was told of its use, settled with source %d", s.Source)
		}
	case mock.Refused:
		if s.Tokens != [13]int64{} || s.Outcome == Served {
			return fmt.Sprintf("refused, settled with outcome %d and %d", s.Outcome, s.Tokens)
		}
	default: // cut, or gone
		switch {
		case exact && l.Told && s.Tokens == used:
		case exact && s.Tokens == [13]int64{} && l.Status != 200:
		case exact:
			return fmt.Sprintf("broken off (%s), settled as reported with %d", l.Outcome, s.Tokens)
		}
	}
	return ""
}

// compareCalls is I7, and the part of I4 that is about refused requests.
func (d *Differences) compareCalls(e *Evidence, found map[string][]*attempt) {
	for i := range e.Calls {
		c := &e.Calls[i]
		list := found[c.Request]
		switch {
		case c.Request == "" || e.Lost[c.Request]:
		case c.Status == 200 && c.Ended:
			final := func(a *attempt) bool { return a.settle != nil && a.settle.Final && a.settle.Outcome == Served }
			if !slices.ContainsFunc(list, final) {
				d.note(&d.I7, "I7: a client has the whole answer to %s, and the log no settle record", c.Request)
			}
		case (c.Status == 401 || c.Status == 503) && len(list) > 0 && !slices.ContainsFunc(list, func(a *attempt) bool { return a.settle != nil && a.settle.Outcome == Refused }):
			d.note(&d.I4, "I4: %s was refused with %d, and the log has %d attempts", c.Request, c.Status, len(list))
		}
	}
}

// ReadServed reads an upstream's ledger file. A line that is being written is
// left out.
func ReadServed(path string) (entries []mock.Entry, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		var e mock.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		entries = append(entries, e)
	}
}

// FindSecrets is I8: it returns in which of the files below the directories which
// secret stands, as name of the file and number of the secret.
func FindSecrets(secrets []string, dirs ...string) (found []string, err error) {
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			for i, s := range secrets {
				if bytes.Contains(data, []byte(s)) {
					found = append(found, fmt.Sprintf("I8: secret %d is in %s", i, path))
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
