package usage

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bucket is how the answer to a query is divided in time.
type Bucket uint8

const (
	Total Bucket = iota // not at all
	ByHour
	ByDay
	ByMonth
)

var bucketNames = [...]string{Total: "total", ByHour: "hour", ByDay: "day", ByMonth: "month"}

// String is the name by which the bucket is asked for: total, hour, day or month.
func (b Bucket) String() string {
	if int(b) < len(bucketNames) {
		return bucketNames[b]
	}
	return fmt.Sprintf("bucket %d", uint8(b))
}

// MarshalText is String for JSON.
func (b Bucket) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// ParseBucket is the inverse of String.
func ParseBucket(name string) (Bucket, error) {
	if i := slices.Index(bucketNames[:], name); i >= 0 {
		return Bucket(i), nil
	}
	return 0, fmt.Errorf("unknown bucket %.40q: use %s", name, strings.Join(bucketNames[:], ", "))
}

// Filter lists for each dimension the names that count; none means all.
type Filter [Dimensions][]string

func (f *Filter) passes(k *Key) bool {
	for d, names := range f {
		if len(names) > 0 && !slices.Contains(names, k[d]) {
			return false
		}
	}
	return true
}

// Query asks for sums. The zero Query asks for one sum of everything.
type Query struct {
	// Since and Until bound the time of the attempts: from Since on, before Until.
	// Sums are kept by the hour, so that both are moved outwards to full hours.
	// A zero Since is the beginning of the accounts, a zero Until is now.
	Since, Until time.Time
	// By is what to divide the sums by. A key's label means nothing without its
	// upstream: KeyLabel brings UpstreamName along.
	By []Dimension
	// Bucket divides the sums in time; Location says whose days and months are
	// meant, by default those of UTC.
	Bucket   Bucket
	Location *time.Location
	// Where leaves out what has another name.
	Where Filter
}

const (
	// MaxReads is how many buckets of a store one query may read.
	MaxReads = 10_000
	// MaxRows is how many rows the answer to one query may have.
	MaxRows = 100_000
)

// Result answers a query.
type Result struct {
	// Since and Until are the bounds that the sums have in fact; both are zero
	// if there are no sums at all.
	Since, Until time.Time
	Bucket       Bucket
	// By is that of the query, without repetitions.
	By []Dimension
	// Rows are ordered by time, then by the names in the order of By. Buckets and
	// keys without attempts have no row.
	Rows []ResultRow
	// Sum is that of all rows.
	Sum Counts
}

// ResultRow is one row of the answer.
type ResultRow struct {
	// Start is the start of the row's hour, day or month, in the query's location;
	// zero if the query does not divide in time.
	Start time.Time
	// Key has the names of the dimensions that were asked by.
	Key    Key
	Counts Counts
}

// Run answers q from the sums of s. now is the present time. Each of several
// tables is asked for the part of the time that it answers exactly at the least
// cost. An error is the store's, or says which sums are no longer kept.
func (q Query) Run(ctx context.Context, s Store, now time.Time) (*Result, error) {
	p, err := q.plan(ctx, s, now)
	if err != nil {
		return nil, err
	}
	res := &Result{Since: p.since, Until: p.until, Bucket: q.Bucket, By: p.by}

	type id struct {
		start int64
		key   Key
	}
	sums := make(map[id]int)
	for _, r := range p.reads {
		start := p.slot(r.start)
		full := true
		err := s.Scan(ctx, r.table, p.dim, r.start, func(k Key, c *Counts) bool {
			if !q.Where.passes(&k) || c.IsZero() {
				return true
			}
			at := id{start.Unix(), k.Only(p.by)}
			i, ok := sums[at]
			if !ok {
				if i = len(res.Rows); i == MaxRows {
					full = false
					return false
				}
				sums[at] = i
				res.Rows = append(res.Rows, ResultRow{Start: start, Key: at.key})
			}
			res.Rows[i].Counts.Add(c)
			res.Sum.Add(c)
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("read the sums of %s: %w", r.start.Format(time.RFC3339), err)
		}
		if !full {
			return nil, fmt.Errorf("the answer has more than %d rows: ask for a shorter time, by fewer dimensions or with a filter", MaxRows)
		}
	}
	slices.SortFunc(res.Rows, func(a, b ResultRow) int {
		if c := a.Start.Compare(b.Start); c != 0 {
			return c
		}
		for _, d := range p.by {
			if c := cmp.Compare(a.Key[d], b.Key[d]); c != 0 {
				return c
			}
		}
		return 0
	})
	return res, nil
}

// plan says how a query is answered.
type plan struct {
	since, until time.Time
	by           []Dimension
	// single: one dimension is enough, dim is that one.
	single bool
	dim    Dimension
	// slot is the start of the answer's bucket that an instant falls into.
	slot  func(time.Time) time.Time
	reads []read
}

// read is one bucket of one table.
type read struct {
	table Table
	start time.Time
}

func (q Query) plan(ctx context.Context, s Store, now time.Time) (*plan, error) {
	p := &plan{slot: q.slot}
	if int(q.Bucket) >= len(bucketNames) {
		return nil, fmt.Errorf("no such bucket: %v", q.Bucket)
	}
	if err := p.dimensions(q); err != nil {
		return nil, err
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return nil, fmt.Errorf("the time asked for ends at %s, before it begins at %s",
			q.Until.Format(time.RFC3339), q.Since.Format(time.RFC3339))
	}
	months, err := s.Months(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for the first month: %w", err)
	}
	if len(months) == 0 {
		return p, nil
	}

	p.since = Hourly.Start(q.Since)
	if p.since.Before(months[0]) {
		p.since = months[0]
	}
	last := now.Add(-1)
	if !q.Until.IsZero() && q.Until.Before(now) {
		last = q.Until.Add(-1)
	}
	p.until = Hourly.End(Hourly.Start(last))
	if !p.since.Before(p.until) {
		p.since = p.until
		return p, nil
	}
	return p, p.divide(s.Retention(), now)
}

// dimensions finds out what the query is by, and whether one dimension will do.
func (p *plan) dimensions(q Query) error {
	var used [Dimensions]bool
	for _, d := range q.By {
		if int(d) >= Dimensions {
			return fmt.Errorf("no such dimension: %v", d)
		}
		if d == KeyLabel && !slices.Contains(p.by, UpstreamName) {
			p.by = append(p.by, UpstreamName)
			used[UpstreamName] = true
		}
		if !slices.Contains(p.by, d) {
			p.by = append(p.by, d)
			used[d] = true
		}
	}
	for d, names := range q.Where {
		used[d] = used[d] || len(names) > 0
	}
	// Of those tables that would do, the one with the fewest rows comes first.
	for _, d := range []Dimension{UpstreamName, Group, KeyLabel, Client, Model} {
		covers := true
		for u := range used {
			covers = covers && (!used[u] || slices.Contains(singles[d], Dimension(u)))
		}
		if covers {
			p.single, p.dim = true, d
			break
		}
	}
	return nil
}

// slot is the start of the answer's bucket that an instant falls into.
func (q Query) slot(at time.Time) time.Time {
	loc := q.Location
	if loc == nil {
		loc = time.UTC
	}
	y, m, d := at.In(loc).Date()
	switch q.Bucket {
	case ByHour:
		return Hourly.Start(at).In(loc)
	case ByDay:
		return time.Date(y, m, d, 0, 0, 0, 0, loc)
	case ByMonth:
		return time.Date(y, m, 1, 0, 0, 0, 0, loc)
	default:
		return time.Time{}
	}
}

// divide cuts the time into reads: always the longest bucket that lies within the
// time asked for and within one bucket of the answer, and is still kept.
func (p *plan) divide(keep Retention, now time.Time) error {
	// Nothing lies ahead, so the bucket that now falls into may be read as a
	// whole: a month up to now is one read.
	end := p.until
	if !end.Before(now) {
		end = MonthlyBy.End(MonthlyBy.Start(now))
	}
	tables := []Table{Daily, Hourly}
	if p.single {
		tables = []Table{MonthlyBy, DailyBy, Hourly}
	}
	for at := p.since; at.Before(p.until); {
		t, ok := p.table(tables, at, end, keep, now)
		if !ok {
			return p.missing(at, keep, now)
		}
		if len(p.reads) == MaxReads {
			return fmt.Errorf("the time asked for takes more than %d buckets of the store: ask for a shorter time or larger buckets", MaxReads)
		}
		p.reads = append(p.reads, read{t, at})
		at = t.End(at)
	}
	return nil
}

// table is the first of some tables that can answer for the time from at on.
func (p *plan) table(tables []Table, at, end time.Time, keep Retention, now time.Time) (Table, bool) {
	for _, t := range tables {
		to := t.End(at)
		whole := t.Start(at).Equal(at) && !to.After(end)
		if whole && p.slot(at).Equal(p.slot(to.Add(-1))) && kept(keep, t, at, now) {
			return t, true
		}
	}
	return 0, false
}

// kept says whether a bucket will still be there when it is read.
func kept(r Retention, t Table, start, now time.Time) bool {
	end := r.Expiry(t, start)
	return end.IsZero() || end.After(now.Add(time.Minute))
}

// missing says why nothing can answer for the time from at on.
func (p *plan) missing(at time.Time, keep Retention, now time.Time) error {
	if !p.slot(at).Equal(p.slot(Hourly.End(at).Add(-1))) {
		return fmt.Errorf("sums are kept by full hours of UTC, and a day of %s begins within one: ask in UTC", p.slot(at).Location())
	}
	// The first hour, and the first day, that still is there.
	hours := Hourly.Start(now.Add(-keep.Hours)).Add(time.Hour)
	days := Daily.Start(now.Add(-keep.Days)).AddDate(0, 0, 1)
	switch {
	case p.single && at.Before(days):
		return fmt.Errorf("days before %s and hours before %s are no longer kept: ask for whole months of UTC, or since then",
			days.Format(time.DateOnly), hours.Format(time.RFC3339))
	case at.Before(days):
		return fmt.Errorf("sums by several dimensions before %s are no longer kept: ask by a single dimension and for whole months of UTC, or since then",
			days.Format(time.DateOnly))
	default:
		return fmt.Errorf("hours before %s are no longer kept: ask for whole days of UTC, or since then", hours.Format(time.RFC3339))
	}
}
