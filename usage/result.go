package usage

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Cost is the cost in nano-dollars, and whether there is one: tokens without a
// known price do not cost nothing. Where only some attempts had a price it is the
// cost of those; UnpricedAttempts counts the others.
func (c *Counts) Cost() (nanos int64, known bool) {
	return c[CostNanos], c[CostNanos] != 0 || c[UnpricedAttempts] == 0
}

// TotalTokens is everything that is billed by the token.
func (c *Counts) TotalTokens() int64 {
	var sum int64
	for _, f := range []Field{InputTokens, CacheReadTokens, CacheWriteTokens, CacheWrite1hTokens, OutputTokens} {
		sum = saturate(sum, c[f])
	}
	return sum
}

// Percentile estimates a percentile, such as 0.95, from one of the histograms
// DurationHist and FirstByteHist. A bucket's values are taken to lie evenly in it,
// so that the estimate is within a factor of two. It is false if nothing was
// measured.
func (c *Counts) Percentile(hist Field, p float64) (time.Duration, bool) {
	if hist != DurationHist && hist != FirstByteHist {
		return 0, false
	}
	buckets := c[hist : int(hist)+HistBuckets]
	var all float64
	for _, n := range buckets {
		all += float64(max(n, 0))
	}
	if all == 0 {
		return 0, false
	}
	rank := min(max(p, 0), 1) * all
	var below float64
	for i, n := range buckets {
		in := float64(max(n, 0))
		if in > 0 && below+in >= rank {
			from, to := 0.0, 1.0 // milliseconds
			if i > 0 {
				from, to = math.Ldexp(1, i-1), math.Ldexp(1, i)
			}
			millis := from + (to-from)*(rank-below)/in
			return time.Duration(millis * float64(time.Millisecond)), true
		}
		below += in
	}
	return 0, false // not reached: rank is within all
}

// columns are what rows of an answer tell beside their keys, in this order. A
// value that there is none of is empty.
var columns = func() (cs []column) {
	for f := range DurationHist {
		text := func(c *Counts) string { return strconv.FormatInt(c[f], 10) }
		if f == CostNanos {
			text = func(c *Counts) string {
				if nanos, known := c.Cost(); known {
					return strconv.FormatInt(nanos, 10)
				}
				return ""
			}
		}
		cs = append(cs, column{f.String(), text})
	}
	return append(cs,
		column{"total_tokens", func(c *Counts) string { return strconv.FormatInt(c.TotalTokens(), 10) }},
		column{"cost_usd", func(c *Counts) string {
			if nanos, known := c.Cost(); known {
				return Dollars(nanos)
			}
			return ""
		}},
		column{"duration_ms_p50", percentile(DurationHist, 0.50)},
		column{"duration_ms_p95", percentile(DurationHist, 0.95)},
		column{"first_byte_ms_p50", percentile(FirstByteHist, 0.50)},
		column{"first_byte_ms_p95", percentile(FirstByteHist, 0.95)},
	)
}()

// column is one number of a row: a valid number of JSON, or empty.
type column struct {
	name string
	text func(*Counts) string
}

func percentile(hist Field, p float64) func(*Counts) string {
	return func(c *Counts) string {
		if d, ok := c.Percentile(hist, p); ok {
			return strconv.FormatInt(d.Milliseconds(), 10)
		}
		return ""
	}
}

// Dollars writes nano-dollars as dollars, exactly and without needless zeros.
func Dollars(nanos int64) string {
	text := fmt.Sprintf("%d.%09d", nanos/1e9, max(nanos%1e9, -(nanos%1e9)))
	if nanos < 0 && nanos > -1e9 {
		text = "-" + text
	}
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// MarshalJSON gives the counts by name, with the cost in dollars and percentiles
// in milliseconds; cost and percentiles are left out where there are none. The
// names do not change.
func (c Counts) MarshalJSON() ([]byte, error) {
	return append(c.appendJSON([]byte{'{'}), '}'), nil
}

// UnmarshalJSON reads what MarshalJSON wrote, but for the histograms, which that
// leaves out.
func (c *Counts) UnmarshalJSON(data []byte) error {
	var members map[string]json.Number
	if err := json.Unmarshal(data, &members); err != nil {
		return err
	}
	*c = Counts{}
	for f := range DurationHist {
		if n, ok := members[f.String()]; ok {
			v, err := n.Int64()
			if err != nil {
				return fmt.Errorf("%v: %w", f, err)
			}
			c[f] = v
		}
	}
	return nil
}

func (c *Counts) appendJSON(b []byte) []byte {
	for i, col := range columns {
		text := col.text(c)
		if text == "" {
			continue
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, col.name...)
		b = append(b, '"', ':')
		b = append(b, text...)
	}
	return b
}

// MarshalJSON gives the answer as an object: the bounds as RFC 3339, bucket, by,
// rows and sum. A row has start, where time is divided, the names of its
// dimensions and the members of Counts.
func (r Result) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	if !r.Until.IsZero() {
		b = fmt.Appendf(b, `"since":%q,"until":%q,`, r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339))
	}
	b = fmt.Appendf(b, `"bucket":%q,"by":[`, r.Bucket)
	for i, d := range r.By {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, d.String())
	}
	b = append(b, `],"rows":[`...)
	for i := range r.Rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		row := &r.Rows[i]
		if !row.Start.IsZero() {
			b = fmt.Appendf(b, `"start":%q,`, row.Start.Format(time.RFC3339))
		}
		for _, d := range r.By {
			name, err := json.Marshal(row.Key[d])
			if err != nil {
				return nil, err
			}
			b = fmt.Appendf(b, `%q:%s,`, d, name)
		}
		b = append(row.Counts.appendJSON(b), '}')
	}
	b = append(b, `],"sum":{`...)
	return append(r.Sum.appendJSON(b), '}', '}'), nil
}

// WriteCSV writes the answer as a table with a head: start, where time is divided,
// the names of the dimensions, then the members of Counts. A name that a
// spreadsheet would take for a formula gets a ' in front.
func (r *Result) WriteCSV(to io.Writer) error {
	w := csv.NewWriter(to)
	var line []string
	if r.Bucket != Total {
		line = append(line, "start")
	}
	for _, d := range r.By {
		line = append(line, d.String())
	}
	for _, c := range columns {
		line = append(line, c.name)
	}
	w.Write(line) // the writer keeps the first error for the end
	for i := range r.Rows {
		row := &r.Rows[i]
		line = line[:0]
		if r.Bucket != Total {
			line = append(line, row.Start.Format(time.RFC3339))
		}
		for _, d := range r.By {
			line = append(line, harmless(row.Key[d]))
		}
		for _, c := range columns {
			line = append(line, c.text(&row.Counts))
		}
		w.Write(line)
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func harmless(name string) string {
	if name != "" && strings.ContainsRune("=+-@\t\r", rune(name[0])) {
		return "'" + name
	}
	return name
}
