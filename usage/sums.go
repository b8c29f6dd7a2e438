package usage

import (
	"fmt"
	"strings"
	"time"
)

// Dimension is what sums can be asked by.
type Dimension uint8

const (
	Client Dimension = iota
	Group
	UpstreamName
	KeyLabel
	Model
	Dimensions int = iota // the number of them
)

var dimensionNames = [Dimensions]string{"client", "group", "upstream", "key", "model"}

// String is the name by which the dimension is asked for: client, group,
// upstream, key or model.
func (d Dimension) String() string {
	if int(d) < Dimensions {
		return dimensionNames[d]
	}
	return fmt.Sprintf("dimension %d", uint8(d))
}

// ParseDimension is the inverse of String.
func ParseDimension(name string) (Dimension, error) {
	for d, n := range dimensionNames {
		if n == name {
			return Dimension(d), nil
		}
	}
	return 0, fmt.Errorf("unknown dimension %.40q: use %s", name, strings.Join(dimensionNames[:], ", "))
}

// Key says whose a row is: the client, group, upstream, key and model, indexed
// by Dimension. A row of a single-dimension table has only that one set. A key's
// label means nothing without its upstream, so KeyLabel rows of single-dimension
// tables carry the upstream's name too.
type Key [Dimensions]string

// Only is k with the names of some dimensions and no others.
func (k Key) Only(dims []Dimension) (only Key) {
	for _, d := range dims {
		only[d] = k[d]
	}
	return only
}

// Table is one of the layouts in which the sums are kept.
type Table uint8

const (
	// Hourly and Daily hold the full product of the dimensions.
	Hourly Table = iota
	Daily
	// DailyBy and MonthlyBy hold each single dimension, so that a year over
	// many clients is read without the product.
	DailyBy
	MonthlyBy
	Tables int = iota // the number of them
)

var tableNames = [Tables]string{"hours", "days", "days by dimension", "months by dimension"}

// String names the table for people.
func (t Table) String() string {
	if int(t) < Tables {
		return tableNames[t]
	}
	return fmt.Sprintf("table %d", uint8(t))
}

// Single says whether the table keeps each dimension by itself.
func (t Table) Single() bool { return t == DailyBy || t == MonthlyBy }

// Names are the dimensions whose names make up a row's key in the table: all, or
// for a table of single dimensions d alone, with the upstream if d is KeyLabel.
// The slice must not be changed.
func (t Table) Names(d Dimension) []Dimension {
	if t.Single() {
		return singles[d]
	}
	return product
}

var (
	product = []Dimension{Client, Group, UpstreamName, KeyLabel, Model}
	singles = [Dimensions][]Dimension{
		Client:       {Client},
		Group:        {Group},
		UpstreamName: {UpstreamName},
		KeyLabel:     {UpstreamName, KeyLabel},
		Model:        {Model},
	}
)

// Start is the start of the bucket that an instant falls into, in UTC.
func (t Table) Start(at time.Time) time.Time {
	at = at.UTC()
	y, m, d := at.Date()
	switch t {
	case Hourly:
		return time.Date(y, m, d, at.Hour(), 0, 0, 0, time.UTC)
	case MonthlyBy:
		return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	default:
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	}
}

// End is the end of the bucket that starts at start, which is the start of the
// next one.
func (t Table) End(start time.Time) time.Time {
	switch t {
	case Hourly:
		return start.Add(time.Hour)
	case MonthlyBy:
		return start.AddDate(0, 1, 0)
	default:
		return start.AddDate(0, 0, 1)
	}
}

// Retention is how long a store keeps the buckets of its tables after their end.
// Months are kept for ever.
type Retention struct {
	// Hours is for the table Hourly, Days for Daily and DailyBy. Zero means the
	// default: 35 days and 400 days.
	Hours, Days time.Duration
}

// The default of Retention.
const (
	DefaultHours = 35 * 24 * time.Hour
	DefaultDays  = 400 * 24 * time.Hour
)

// WithDefaults is r with the defaults in place of zeros.
func (r Retention) WithDefaults() Retention {
	if r.Hours == 0 {
		r.Hours = DefaultHours
	}
	if r.Days == 0 {
		r.Days = DefaultDays
	}
	return r
}

// Expiry is when the bucket that starts at start goes; zero if never.
func (r Retention) Expiry(t Table, start time.Time) time.Time {
	switch t {
	case Hourly:
		return t.End(start).Add(r.Hours)
	case Daily, DailyBy:
		return t.End(start).Add(r.Days)
	default:
		return time.Time{}
	}
}

// Row is what a batch raises: one key in one bucket of one table.
type Row struct {
	Table  Table
	Dim    Dimension // for DailyBy and MonthlyBy
	Bucket time.Time // start of the hour, day or month, UTC
	Key    Key
	Counts Counts
}
