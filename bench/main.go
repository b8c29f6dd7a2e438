// Command bench compares floway with Caddy's own reverse_proxy: the same load,
// the same upstream, the same machine, in turns.
//
//	go run .                                  # floway / caddy, the quick scenarios
//	go run . -scenario all                    # all of them
//	go run . -systems floway-off,floway,floway-redis -scenario small   # what the account costs
//
// It builds Caddy with floway from the checkout that it lies in, starts a mock
// upstream and each system on free loopback ports, and lets every system have a
// turn in every round. Every answer is checked byte for byte, and afterwards the
// load, the mock's ledger and floway's account have to agree on every count. One
// wrong answer or count makes the run a failed one.
//
// # How to read a table
//
// The first system named is the base: its column has its medians over the
// rounds. Every other system has three columns: its median, the median of its
// ratios to the base in the same round, and the lowest and highest of these
// ratios. A difference that is smaller than the spread is none.
//
//   - CPU per answer is the figure to compare: user and system time of the server's
//     process, divided by its answers. It hardly depends on what else the
//     machine does.
//   - Answers per second and latency mean something on a quiet machine only, and
//     answers per second only as long as "load side busy" is well below 100 %:
//     at 100 % they measure the load and the mock.
//   - First byte added is the time from sending a request to the first event with
//     content, less the time that the upstream says to have taken itself.
//   - Chunk lag is the time from the upstream's write of a chunk to its arrival.
//   - Peak RSS is that of a round, not counting what the start took (on other
//     systems than Linux: the resident memory after the round).
//
// On Linux the system under test has one CPU to itself and load, mock and Redis
// have the others.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	scenarios []*scenario
	kinds     []*kind
	rounds    int
	duration  time.Duration
	clients   int
	keys      int
	gogc      string
	pin       bool
	burst     bool
	root      string
	caddy     string
	profiles  string
	json      string
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "mock" {
		n, err := strconv.Atoi(os.Args[2])
		if err == nil {
			err = runMock(n)
		}
		exitOn(err)
		return
	}
	o, err := parseOptions()
	exitOn(err)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends it at once
	ok, err := run(ctx, o)
	exitOn(err)
	if !ok {
		exitOn(errors.New("at least one system failed: see above"))
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseOptions() (*options, error) {
	var o options
	var scenarioList, systemList string
	flag.StringVar(&scenarioList, "scenario", "quick", "`names` of scenarios, separated by commas; or quick, or all")
	flag.StringVar(&systemList, "systems", "caddy,floway", "`names` of systems, separated by commas; the first is the base of the ratios")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds that count; one more comes before them")
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "of a system's turn in a round; at least two streams' length")
	flag.IntVar(&o.clients, "clients", 10_000, "client keys that floway knows; each connection has one of them")
	flag.IntVar(&o.keys, "keys", 8, "keys of floway's upstream")
	flag.StringVar(&o.gogc, "gogc", "100", "GOGC of the systems under test")
	flag.BoolVar(&o.pin, "pin", true, "give the system under test a CPU of its own (Linux)")
	flag.BoolVar(&o.burst, "burst", false, "begin all streams of a round at once, not spread over their length")
	flag.StringVar(&o.root, "root", "..", "floway's checkout")
	flag.StringVar(&o.caddy, "caddy", "", "use this Caddy `binary` instead of building one")
	flag.StringVar(&o.profiles, "profiles", "", "`directory` to write a CPU profile of each system to, from a round of its own")
	flag.StringVar(&o.json, "json", "", "`file` to write all rounds to")
	flag.Usage = func() {
		out := flag.CommandLine.Output()
		fmt.Fprintln(out, "Compares floway with Caddy's reverse_proxy. Flags:")
		flag.PrintDefaults()
		fmt.Fprintf(out, "\nScenarios (quick: %s):\n", strings.Join(quick, ", "))
		for _, s := range scenarios {
			fmt.Fprintf(out, "  %-15s %s; %d connections\n", s.name, s.about, s.conns)
		}
		fmt.Fprintln(out, "\nSystems:")
		for _, k := range kinds {
			fmt.Fprintf(out, "  %-15s %s\n", k.name, k.about)
		}
	}
	flag.Parse()
	if flag.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	if o.rounds < 1 || o.clients < 1 || o.keys < 1 || o.duration <= 0 {
		return nil, errors.New("rounds, clients, keys and duration have to be above zero")
	}
	if o.clients > 100_000 || o.keys > 1000 {
		return nil, errors.New("more than 100,000 clients or 1,000 keys")
	}
	if _, err := strconv.ParseUint(o.gogc, 10, 31); err != nil && o.gogc != "off" {
		return nil, fmt.Errorf("GOGC is a percentage or off, not %q", o.gogc)
	}
	var err error
	if o.scenarios, err = findScenarios(scenarioList); err != nil {
		return nil, err
	}
	if o.kinds, err = findKinds(systemList); err != nil {
		return nil, err
	}
	return &o, nil
}

func findKinds(list string) (found []*kind, err error) {
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown system %q", name)
		}
		if slices.Contains(found, &kinds[i]) {
			return nil, fmt.Errorf("system %q is named twice", name)
		}
		found = append(found, &kinds[i])
	}
	return found, nil
}

// systems are the kinds that a scenario compares.
func (o *options) systems(s *scenario) ([]*kind, error) {
	if s.systems == "" {
		return o.kinds, nil
	}
	return findKinds(s.systems)
}

// run runs all scenarios and reports whether all systems did well.
func run(ctx context.Context, o *options) (bool, error) {
	st := starting{caddy: o.caddy, env: []string{"GOGC=" + o.gogc}, clients: o.clients, keys: o.keys}
	needsCaddy := slices.ContainsFunc(o.kinds, func(k *kind) bool { return k.caddyfile != nil }) ||
		slices.ContainsFunc(o.scenarios, func(s *scenario) bool { return s.systems != "" })
	if needsCaddy && st.caddy == "" {
		var err error
		if st.caddy, err = build(ctx, o.root); err != nil {
			return false, err
		}
	}
	for _, dir := range []string{o.profiles, filepath.Dir(o.json)} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return false, err
		}
	}
	cores := runtime.NumCPU()
	if test, load, ok := splitCPUs(); o.pin && ok {
		if err := pinSelf(load); err != nil {
			return false, err
		}
		st.test, st.load = test, load
		cores = runtime.GOMAXPROCS(0)
		fmt.Printf("one CPU for the system under test, %d for load and mock", cores)
	} else {
		fmt.Printf("%d CPUs, shared by all", cores)
	}
	fmt.Printf("; GOGC=%s; %d client keys, %d upstream keys; %d rounds of %s\n", o.gogc, o.clients, o.keys, o.rounds, o.duration)
	debug.SetGCPercent(400) // of the load: its own collections disturb what it measures

	var all []record
	sound := true
	for _, s := range o.scenarios {
		systems, err := runScenario(ctx, o, st, s, cores)
		if ctx.Err() != nil {
			return false, errors.New("interrupted")
		}
		if err != nil {
			return false, fmt.Errorf("scenario %s: %w", s.name, err)
		}
		sound = report(os.Stdout, s, systems) && sound
		all = append(all, records(s, systems)...)
	}
	if o.json != "" {
		text, err := json.MarshalIndent(all, "", "\t")
		if err != nil {
			return false, err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return false, err
		}
	}
	return sound, nil
}

// build builds Caddy with floway. The binary is kept in the user's cache, where
// Go finds it up to date the next time.
func build(ctx context.Context, root string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(cache, "floway-bench", "caddy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/caddy")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Caddy with floway in %s: %w\n%s", root, err, out)
	}
	return binary, nil
}

// runScenario runs one scenario with fresh systems. What goes wrong with one
// system is noted there; an error is what makes the whole of no use.
func runScenario(ctx context.Context, o *options, st starting, s *scenario, cores int) ([]*system, error) {
	chosen, err := o.systems(s)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "floway-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	st.dir = dir
	mock, upstreams, err := startMock(len(chosen), &st)
	if err != nil {
		return nil, err
	}
	defer mock.stop()
	var systems []*system
	for i, k := range chosen {
		sys, err := st.start(ctx, k, upstreams[i])
		defer sys.stop()
		sys.failed = err
		systems = append(systems, sys)
	}
	r := round{scenario: s, clients: o.clients, duration: max(o.duration, 2*s.script.length()), burst: o.burst}
	for n := range o.rounds + 1 {
		for i := range systems {
			// Nobody always comes after the same neighbour or first.
			sys := systems[(i+n)%len(systems)]
			if sys.failed != nil || ctx.Err() != nil {
				continue
			}
			m, err := sys.turn(ctx, &r, mock.pid(), cores, nil)
			switch {
			case err != nil && sys.server != nil:
				sys.failed = errors.Join(err, sys.server.died())
			case err != nil:
				sys.failed = err
			case n > 0: // the first is for caches, pools and branch predictors
				sys.rounds = append(sys.rounds, m)
			}
		}
	}
	if err := mock.died(); err != nil {
		return nil, err
	}
	for _, sys := range systems {
		if sys.failed == nil && o.profiles != "" && sys.server != nil {
			sys.failed = sys.profileTurn(ctx, &r, mock.pid(), cores, filepath.Join(o.profiles, s.name+"-"+sys.name+".pprof"))
		}
		if sys.failed == nil {
			sys.failed = sys.checkAccount(ctx, o.keys)
		}
	}
	return systems, nil
}

// turn gives a system its turn in a round. before, if any, is called when the
// connections are warm.
func (s *system) turn(ctx context.Context, r *round, mock, cores int, before func()) (measurement, error) {
	var m measurement
	for i := range m {
		m[i] = math.NaN()
	}
	var at mark
	t, err := r.run(ctx, s.addr, s.messages, &s.answered, func() (err error) {
		if before != nil {
			before()
		}
		if s.server != nil {
			if err := forgetPeak(s.server.pid()); err != nil {
				return err
			}
		}
		at, err = s.mark(ctx, mock, true)
		return err
	})
	if err != nil {
		return m, err
	}
	end, err := s.mark(ctx, mock, false)
	if err != nil {
		return m, err
	}
	answers := float64(len(t.latency))
	m[answersPerSecond] = t.rate
	m[latency50], m[latency99] = percentile(t.latency, 50), percentile(t.latency, 99)
	if r.scenario.script != (script{}) { // else it is the latency, once more
		m[firstByteAdded50], m[firstByteAdded99] = percentile(t.firstByte, 50), percentile(t.firstByte, 99)
	}
	m[chunkLag50], m[chunkLag99] = percentile(t.lag, 50), percentile(t.lag, 99)
	m[loadBusy] = (end.load - at.load).Seconds() / end.time.Sub(at.time).Seconds() / float64(cores)
	if s.server != nil {
		m[cpuPerAnswer] = (end.cpu - at.cpu).Seconds() / answers
		m[allocationsPerAnswer] = float64(end.allocations-at.allocations) / answers
		m[peakRSS] = float64(end.memory)
	}
	return m, nil
}

// mark is a reading of all meters.
type mark struct {
	time        time.Time
	load        time.Duration // CPU time of load, mock and Redis
	cpu         time.Duration // CPU time of the server
	allocations int64
	memory      int64 // bytes, at the end only
}

// mark reads the meters. The one that costs CPU time itself is read outside of
// what the others measure: first at the beginning, last at the end.
func (s *system) mark(ctx context.Context, mock int, beginning bool) (mark, error) {
	var k mark
	var err error
	if s.server != nil && beginning {
		if k.allocations, err = s.allocations(ctx); err != nil {
			return k, err
		}
	}
	k.time = time.Now()
	load := []int{os.Getpid(), mock}
	for _, p := range s.others {
		load = append(load, p.pid())
	}
	for _, pid := range load {
		cpu, err := cpuTime(pid)
		if err != nil {
			return k, err
		}
		k.load += cpu
	}
	if s.server == nil {
		return k, nil
	}
	if k.cpu, err = cpuTime(s.server.pid()); err != nil {
		return k, err
	}
	if k.memory, err = peakMemory(s.server.pid()); err != nil {
		return k, err
	}
	if !beginning {
		k.allocations, err = s.allocations(ctx)
	}
	return k, err
}

// profileTurn is a turn for a profile: it is not measured, for profiling costs.
func (s *system) profileTurn(ctx context.Context, r *round, mock, cores int, file string) error {
	done := make(chan error, 1)
	seconds := max(1, int(r.duration.Seconds()))
	_, err := s.turn(ctx, r, mock, cores, func() {
		go func() { done <- s.profile(ctx, seconds, file) }()
	})
	if err != nil {
		return err
	}
	return <-done
}

// record is one system in one scenario, as it is written to a file.
type record struct {
	Scenario string               `json:"scenario"`
	System   string               `json:"system"`
	Failed   string               `json:"failed,omitempty"`
	Rounds   []map[string]float64 `json:"rounds"` // seconds, bytes and plain numbers
}

func records(s *scenario, systems []*system) []record {
	var all []record
	for _, sys := range systems {
		r := record{Scenario: s.name, System: sys.name, Rounds: []map[string]float64{}}
		if sys.failed != nil {
			r.Failed = sys.failed.Error()
		}
		for _, m := range sys.rounds {
			values := make(map[string]float64)
			for i, v := range m {
				if !math.IsNaN(v) {
					values[measure(i).String()] = v
				}
			}
			r.Rounds = append(r.Rounds, values)
		}
		all = append(all, r)
	}
	return all
}
