package usage

import (
	"math/bits"
	"time"
	"unicode/utf8"
)

const (
	// MaxIncrements is how many counters a batch should raise at most in a store
	// that does one thing at a time for many.
	MaxIncrements = 4096
	// MaxName is the length in bytes to which the names of a row are cut.
	MaxName = 256

	// rowsPerRecord is how many rows a record raises: its hour, its day, and a
	// day and a month of each dimension.
	rowsPerRecord = 2 + 2*Dimensions
	// headroom is what one more record or correction may add to a batch at most:
	// the counters of one record are fewer than 40, most of them shared by a
	// correction and what it corrects.
	headroom = rowsPerRecord * 40
	// maxDelta bounds what one attempt can raise a counter by, whatever an
	// upstream claims.
	maxDelta = 1 << 40
)

// Batch is a range of a ledger, summed up. It is applied whole or not at all.
// The zero Batch is empty and ready to be added to. A batch is not safe for use
// by several goroutines while it is added to.
type Batch struct {
	Stream StreamID
	Epoch  uint64
	// From is the position that the store must have, To the one that it has
	// afterwards: the records (From, To] are in Rows. Chain is the ledger's
	// chain at To.
	From, To uint64
	Chain    uint32
	// Since and SinceChain are as in Position.
	Since      uint64
	SinceChain uint32
	// Rows are the sums to raise, each with its own bucket. Add and Correct merge
	// what falls into the same bucket under the same key.
	Rows []Row
	// Totals is what Rows raise the stream's totals by.
	Totals Counts
	// Notes are those of the records, in their order. They are no part of the
	// account: stores take no notice.
	Notes []Note

	increments int
	rows       map[rowID]int               // where in Rows
	lanes      map[lane][rowsPerRecord]int // a record's rows, found by one look
}

type rowID struct {
	table  Table
	dim    Dimension
	bucket int64
	key    Key
}

type lane struct {
	hour int64
	key  Key
}

// Add sums up one more attempt: a settled one, or one that a crash left open
// (Outcome zero). It is booked in the buckets of r.Time.
func (b *Batch) Add(r *Record) {
	c := r.Counts()
	b.raise(r, &c)
	if r.Affinity != "" {
		b.Notes = append(b.Notes, r.Note())
	}
}

// Correct replaces what was summed up of an attempt, in this or an earlier batch,
// by what is known now. The difference is booked in the buckets of was.
func (b *Batch) Correct(was, now *Record) {
	c, old := now.Counts(), was.Counts()
	for f := range c {
		c[f] -= old[f]
	}
	b.raise(was, &c)
}

// Increments is how many counters of the store the batch raises.
func (b *Batch) Increments() int { return b.increments }

// Full says whether another record might raise more counters than most.
func (b *Batch) Full(most int) bool { return b.increments > most-headroom }

func (b *Batch) raise(r *Record, c *Counts) {
	var fields [Fields]Field
	n := 0
	for f, v := range c {
		if v != 0 {
			fields[n] = Field(f)
			n++
			b.Totals[f] += v
		}
	}
	if n == 0 {
		return
	}
	for _, i := range b.rowsOf(r) {
		sum := &b.Rows[i].Counts
		for _, f := range fields[:n] {
			before := sum[f]
			sum[f] += c[f]
			switch {
			case before == 0:
				b.increments++
			case sum[f] == 0:
				b.increments--
			}
		}
	}
}

// rowsOf finds the rows of a record, or makes them.
func (b *Batch) rowsOf(r *Record) [rowsPerRecord]int {
	key := Key{
		Client:       cut(r.Client),
		Group:        cut(r.Group),
		UpstreamName: cut(r.Upstream),
		KeyLabel:     cut(r.Key),
		Model:        cut(r.Model),
	}
	hour := Hourly.Start(sane(r.Time))
	l := lane{hour.Unix(), key}
	if at, ok := b.lanes[l]; ok {
		return at
	}
	if b.rows == nil {
		b.rows = make(map[rowID]int)
		b.lanes = make(map[lane][rowsPerRecord]int)
	}
	day, month := Daily.Start(hour), MonthlyBy.Start(hour)
	at := [rowsPerRecord]int{
		b.row(Hourly, 0, hour, key),
		b.row(Daily, 0, day, key),
	}
	for d := range Dimension(Dimensions) {
		single := key.Only(singles[d])
		at[2+2*int(d)] = b.row(DailyBy, d, day, single)
		at[3+2*int(d)] = b.row(MonthlyBy, d, month, single)
	}
	b.lanes[l] = at
	return at
}

func (b *Batch) row(t Table, d Dimension, bucket time.Time, key Key) int {
	id := rowID{t, d, bucket.Unix(), key}
	if i, ok := b.rows[id]; ok {
		return i
	}
	i := len(b.Rows)
	b.Rows = append(b.Rows, Row{Table: t, Dim: d, Bucket: bucket, Key: key})
	b.rows[id] = i
	return i
}

// cut bounds a name, at the start of a character.
func cut(name string) string {
	if len(name) <= MaxName {
		return name
	}
	n := MaxName
	for n > MaxName-utf8.UTFMax && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n]
}

// sane bounds the time of a record, so that a broken clock cannot make buckets
// which have no name.
func sane(t time.Time) time.Time {
	switch {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	}
	return t
}

var (
	earliest = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC)
)

// Unknown says that nobody can say what the attempt used: a crash left it open,
// it ended without an answer after it was sent, or it was served and neither
// reported nor estimated. Tokens then hold an estimate, if there is one, which
// the sums keep apart. An attempt that was refused, or that failed without having
// an estimate because it never was sent, used nothing: that is known.
func (r *Record) Unknown() bool {
	if r.Source != Unknown {
		return false
	}
	switch r.Outcome {
	case Refused:
		return false
	case Failed:
		return r.Tokens.billed()
	default:
		return true
	}
}

// billed says whether there is anything that a price could be put on.
func (t *Tokens) billed() bool {
	return t.Input > 0 || t.CacheRead > 0 || t.CacheWrite > 0 || t.CacheWrite1h > 0 ||
		t.Output > 0 || t.AudioMillis > 0 || t.Images > 0
}

// Counts is what the attempt raises every sum by that it belongs to. Each number
// is within 0 and 2^40.
func (r *Record) Counts() Counts {
	var c Counts
	set := func(f Field, v int64) { c[f] = min(max(v, 0), maxDelta) }
	one := func(f Field, is bool) {
		if is {
			c[f] = 1
		}
	}

	settled := r.Outcome != 0
	one(Attempts, settled)
	one(Requests, r.Final)
	one(Errors, settled && r.Outcome != Served)

	t := &r.Tokens
	if r.Unknown() {
		c[UnknownAttempts] = 1
		for _, v := range [...]int64{t.Input, t.CacheRead, t.CacheWrite, t.CacheWrite1h} {
			set(UnknownInputTokens, c[UnknownInputTokens]+min(max(v, 0), maxDelta))
		}
		set(UnknownOutputTokens, t.Output)
		if r.Priced {
			set(UnknownCostNanos, r.CostNanos)
		}
	} else {
		set(InputTokens, t.Input)
		set(CacheReadTokens, t.CacheRead)
		set(CacheWriteTokens, t.CacheWrite)
		set(CacheWrite1hTokens, t.CacheWrite1h)
		set(OutputTokens, t.Output)
		set(ReasoningTokens, t.Reasoning)
		set(ToolPromptTokens, t.ToolPrompt)
		set(InAudioTokens, t.InAudio)
		set(InImageTokens, t.InImage)
		set(OutAudioTokens, t.OutAudio)
		set(OutImageTokens, t.OutImage)
		set(AudioMillis, t.AudioMillis)
		set(ImageCount, t.Images)
		if r.Priced {
			set(CostNanos, r.CostNanos)
		}
		one(UnpricedAttempts, !r.Priced && t.billed())
		one(EstimatedAttempts, r.Source == Estimated || r.Partial)
	}

	if settled {
		set(DurationMillis, r.Duration.Milliseconds())
		c[DurationHist+histBucket(r.Duration)] = 1
	}
	if r.FirstByte > 0 {
		set(FirstByteMillis, r.FirstByte.Milliseconds())
		c[FirstByteCount] = 1
		c[FirstByteHist+histBucket(r.FirstByte)] = 1
	}
	return c
}

// histBucket says which bucket of a histogram counts d.
func histBucket(d time.Duration) Field {
	return Field(min(bits.Len64(uint64(max(d.Milliseconds(), 0))), HistBuckets-1))
}
