package usage

import (
	"math/bits"
	"time"
	"unicode/utf8"
)

const (
	// MaxIncrements is how many counters a batch should raise at most in a store
	// that does one thing at a time for many. Where records repeat the rows of
	// others it may be repeating times as many (see Batch.Full).
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
	// A batch of which one attempt in repeatsOf brings no row of its own may become
	// repeating times as large.
	repeatsOf = 32
	repeating = 3
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
	added      int                 // attempts
	repeats    int                 // of them without a row of their own
	attempts   map[attemptID]int32 // where in paths
	paths      []path
	singles    map[singleID]int32 // where in Rows
	last       struct {           // the last rows that were made for a day
		day  int64
		key  Key
		rows [rowsPerRecord]int32
	}
}

// attemptID is what the rows of a record depend on, but for its hour.
type attemptID struct {
	day int64
	key Key
}

// path is where in Rows the rows of a record are. Those of the hours of one day
// form a list.
type path struct {
	hour int64
	rows [rowsPerRecord]int32
	next int32 // in paths; -1: none
}

// singleID names a row of a single dimension.
type singleID struct {
	table  Table
	dim    Dimension
	bucket int64
	name   string
	of     string // the upstream of a key
}

// Reset empties the batch. It keeps its memory for what is added next, so nobody
// may use its Rows or Notes any more.
func (b *Batch) Reset() {
	clear(b.attempts)
	clear(b.singles)
	clear(b.Rows)
	clear(b.Notes)
	*b = Batch{Rows: b.Rows[:0], Notes: b.Notes[:0], attempts: b.attempts, paths: b.paths[:0], singles: b.singles}
}

// Add sums up one more attempt: a settled one, or one that a crash left open
// (Outcome zero). It is booked in the buckets of r.Time.
func (b *Batch) Add(r *Record) {
	c := r.Counts()
	before := len(b.Rows)
	b.raise(r, &c)
	b.added++
	if len(b.Rows) == before {
		b.repeats++
	}
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

// Full says whether another record might raise more counters than a batch should.
// That is most, or three times as many where attempts fall into the same rows:
// another batch would raise the same counters again, dozens of times a second.
func (b *Batch) Full(most int) bool {
	if b.repeats*repeatsOf > b.added {
		most *= repeating
	}
	return b.increments > most-headroom
}

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

// rowsOf finds the rows of a record, or makes them. Most records have some that
// none before them had, so this is most of what a record costs.
func (b *Batch) rowsOf(r *Record) *[rowsPerRecord]int32 {
	key := Key{
		Client:       cut(r.Client),
		Group:        cut(r.Group),
		UpstreamName: cut(r.Upstream),
		KeyLabel:     cut(r.Key),
		Model:        cut(r.Model),
	}
	at := sane(r.Time).Unix()
	hour, day := at-at%3600, at-at%86400
	id := attemptID{day, key}
	first, known := b.attempts[id]
	if !known {
		first = -1
	}
	for i := first; i >= 0; i = b.paths[i].next {
		if b.paths[i].hour == hour {
			return &b.paths[i].rows
		}
	}
	p := path{hour: hour, next: first}
	if known {
		p.rows = b.paths[first].rows
	} else {
		p.rows = b.newDay(day, &key)
	}
	p.rows[0] = b.newRow(Hourly, 0, hour, key)
	if b.attempts == nil {
		b.attempts = make(map[attemptID]int32)
	}
	b.attempts[id] = int32(len(b.paths))
	b.paths = append(b.paths, p)
	return &b.paths[len(b.paths)-1].rows
}

// newDay finds or makes the rows of an attempt that has none on that day. It shares
// most of them with the one before it.
func (b *Batch) newDay(day int64, key *Key) (rows [rowsPerRecord]int32) {
	rows[1] = b.newRow(Daily, 0, day, *key)
	last := &b.last
	sameDay := len(b.paths) > 0 && last.day == day
	for d := range Dimension(Dimensions) {
		i := 2 + 2*int(d)
		if sameDay && key[d] == last.key[d] && (d != KeyLabel || key[UpstreamName] == last.key[UpstreamName]) {
			rows[i], rows[i+1] = last.rows[i], last.rows[i+1]
			continue
		}
		rows[i] = b.single(DailyBy, d, day, key)
		rows[i+1] = b.single(MonthlyBy, d, MonthlyBy.Start(time.Unix(day, 0)).Unix(), key)
	}
	last.day, last.key, last.rows = day, *key, rows
	return rows
}

func (b *Batch) single(t Table, d Dimension, bucket int64, key *Key) int32 {
	id := singleID{table: t, dim: d, bucket: bucket, name: key[d]}
	if d == KeyLabel {
		id.of = key[UpstreamName]
	}
	if i, ok := b.singles[id]; ok {
		return i
	}
	if b.singles == nil {
		b.singles = make(map[singleID]int32)
	}
	i := b.newRow(t, d, bucket, key.Only(singles[d]))
	b.singles[id] = i
	return i
}

func (b *Batch) newRow(t Table, d Dimension, bucket int64, key Key) int32 {
	b.Rows = append(b.Rows, Row{Table: t, Dim: d, Bucket: time.Unix(bucket, 0).UTC(), Key: key})
	return int32(len(b.Rows) - 1)
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
