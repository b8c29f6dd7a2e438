package faults

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/floway/floway/e2e/audit"
	"github.com/floway/floway/e2e/harness"
)

var (
	scale      = flag.String("scale", "short", "short: seconds a fault, for every change; full: the numbers of the specification")
	only       = flag.String("run", "", "the faults to run, such as F3,F9; all by default")
	breaks     = flag.Bool("break", false, "break the gateway in known ways and see that the table tells")
	shorts     = flag.Int("shorts", 0, "clients with short requests; default 6, full 32")
	rate       = flag.Int("rate", 0, "short requests a second; default 150, full 400")
	concurrent = flag.Int("streams", 0, "streams at the same time; default 10, full 200")
)

// pick is what a number is in the short and in the full scale.
func pick[T any](short, full T) T {
	if *scale == "full" {
		return full
	}
	return short
}

// row is what the table says of one fault.
type row struct {
	id, what                string
	rounds, kills, requests int
	whole, failed           int
	d                       audit.Differences
	i8, i9, other           int
	notes                   []string
	info                    []string // figures worth knowing
	notRun                  string
	took                    time.Duration
	expect                  bool // differences, because something was broken
}

func (r *row) sum() int { return r.d.Sum() + r.i8 + r.i9 + r.other }

// wrong notes something that was not as it must be, beside the invariants.
func (r *row) wrong(format string, args ...any) {
	r.other++
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *row) tell(format string, args ...any) { r.info = append(r.info, fmt.Sprintf(format, args...)) }

// table gathers the rows.
var table struct {
	sync.Mutex
	rows []*row
}

type tests struct{ m *testing.M }

func (t tests) Run() int {
	start := time.Now()
	code := t.m.Run()
	if len(table.rows) > 0 {
		printTable(time.Since(start))
	}
	return code
}

func TestMain(m *testing.M) {
	flag.Parse()
	defaults := func(n *int, short, full int) {
		if *n == 0 {
			*n = pick(short, full)
		}
	}
	if *scale != "short" && *scale != "full" {
		fmt.Fprintln(os.Stderr, "-scale is short or full")
		os.Exit(2)
	}
	if *breaks {
		*scale = "short"
	}
	defaults(shorts, 6, 32)
	defaults(rate, 150, 400)
	defaults(concurrent, 10, 200)
	// Most of the time of most faults is waiting for timers of the gateway.
	flag.Set("test.parallel", pick("5", "3"))
	harness.Main(tests{m})
}

func printTable(took time.Duration) {
	table.Lock()
	defer table.Unlock()
	number := regexp.MustCompile(`[0-9]+`)
	order := func(r *row) string {
		return number.ReplaceAllStringFunc(r.id, func(n string) string { return fmt.Sprintf("%04s", n) })
	}
	slices.SortFunc(table.rows, func(a, b *row) int { return strings.Compare(order(a), order(b)) })
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Println("\nDifferences after each fault. I1 log and sink, I2 tokens, I3 unknown outcomes, I4 invented, I5 streams, I7 clients,\n" +
		"I8 secrets, I9 health, + what the fault itself demands.")
	fmt.Fprintln(w, "fault\trounds\tkills\trequests\tunknown\tI1\tI2\tI3\tI4\tI5\tI7\tI8\tI9\t+\tsum\tseconds\t")
	var rounds, kills, requests, sum, notRun int
	for _, r := range table.rows {
		if r.notRun != "" {
			notRun++
			fmt.Fprintf(w, "%s\tnot run\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\n", r.id)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t\n", r.id, r.rounds, r.kills, r.requests, r.d.Unknown,
			r.d.I1, r.d.I2, r.d.I3, r.d.I4, r.d.I5, r.d.I7, r.i8, r.i9, r.other, r.sum(), r.took.Seconds())
		rounds, kills, requests, sum = rounds+r.rounds, kills+r.kills, requests+r.requests, sum+r.sum()
	}
	fmt.Fprintf(w, "all\t%d\t%d\t%d\t\t\t\t\t\t\t\t\t\t\t%d\t%.0f\t\n", rounds, kills, requests, sum, took.Seconds())
	w.Flush()
	for _, r := range table.rows {
		head := fmt.Sprintf("%s %s", r.id, r.what)
		if r.notRun != "" {
			head += ": not run: " + r.notRun
		}
		if len(r.info) > 0 {
			head += ": " + strings.Join(r.info, "; ")
		}
		fmt.Println(head)
		if !r.expect {
			for _, n := range append(r.d.Notes, r.notes...) {
				fmt.Println("    ", n)
			}
		}
	}
	fmt.Printf("%d rounds, %d kills, %d requests, %d differences, %d faults not run\n", rounds, kills, requests, sum, notRun)
}

// selected says whether -run names a fault; F1 also names F1e.
func selected(id string) bool {
	if *only == "" {
		return true
	}
	return slices.ContainsFunc(strings.Split(*only, ","), func(name string) bool {
		rest, ok := strings.CutPrefix(id, strings.TrimSpace(name))
		return ok && (rest == "" || rest[0] < '0' || rest[0] > '9')
	})
}

// TestFaults runs each fault with a gateway, an upstream and a store of its own.
func TestFaults(t *testing.T) {
	if *breaks {
		t.Skip("the gateway is to be broken: see TestBroken")
	}
	for _, f := range faults {
		if selected(f.id) {
			t.Run(f.id, func(t *testing.T) {
				t.Parallel()
				f.run(t, "", "", false)
			})
		}
	}
}
