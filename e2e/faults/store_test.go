package faults

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/floway/floway/e2e/audit"
)

// Faults of the store, and of the way to it.

var lagMetric = regexp.MustCompile(`(?m)^caddy_floway_ledger_lag_records\{.*\} ([0-9.e+]+)$`)

// lag is the metric.
func (r *rig) lag() float64 {
	body, err := get(r.gateway.Admin + "/metrics")
	if err != nil {
		r.wrong("%v", err)
		return 0
	}
	if m := lagMetric.FindStringSubmatch(body); m != nil {
		v, _ := strconv.ParseFloat(m[1], 64)
		return v
	}
	return 0
}

// unharmed says that clients got all their answers.
func (r *rig) unharmed(l *load) {
	if n := l.failed.Load(); n > 0 {
		r.wrong("%d requests failed", n)
	}
}

// redisStopped is F3: requests go on, the lag rises and returns to 0.
func redisStopped(r *rig) {
	l := r.load()
	r.served(l, 50)
	r.redis.Stop()
	r.last(pick(2*time.Second, 30*time.Second))
	r.served(l, 50)
	if lag := r.lag(); lag == 0 {
		r.wrong("the metric of the lag is 0 while Redis is away")
	} else {
		r.tell("the lag rose to %.0f records", lag)
	}
	r.redis.Start(r)
	r.rounds++
	r.quiet()
	r.says("no lag", func(l ledger) bool { return l.Lag == 0 })
	if lag := r.lag(); lag != 0 {
		r.wrong("the metric of the lag is %.0f in the end", lag)
	}
	r.unharmed(l)
	r.settle()
}

// redisKilled is F4: with an append-only file that is synced every second.
func redisKilled(r *rig) {
	l := r.load()
	for range pick(3, 20) {
		r.flushed() // with something that the kill may take away
		r.redis.Kill()
		r.rounds++
		r.kills++
		r.redis.Start(r)
	}
	r.unharmed(l)
	r.settle()
	if r.d.Unknown > 0 {
		r.wrong("%d unknown outcomes", r.d.Unknown)
	}
}

// repliesLost is F5. What the server did and nobody heard of is asked again.
func repliesLost(r *rig) {
	l := r.load()
	for range pick(3, 10) {
		r.flushed()
		r.proxy.loseNext.Store(1)
		r.proxyLost(1)
	}
	r.proxy.lose.Store(30)
	r.proxyLost(pick[int64](2, 40))
	r.rounds = int(r.proxy.lost.Load())
	r.quiet()
	r.proxy.lose.Store(0)
	r.tell("%d answers of Redis lost", r.proxy.lost.Load())
	r.unharmed(l)
	r.settle()
}

// flushed waits until the store has taken in another batch.
func (r *rig) flushed() {
	r.Helper()
	at := func() string {
		keys, err := r.raw.Keys(r.Context(), "fl:{floway}:cur:*").Result()
		if err != nil || len(keys) == 0 {
			return ""
		}
		seq, _ := r.raw.HGet(r.Context(), keys[0], "seq").Result()
		return seq
	}
	before := at()
	r.await(2*drain, "another batch", func() bool { now := at(); return now != "" && now != before })
}

// proxyLost waits until n more answers were lost.
func (r *rig) proxyLost(n int64) {
	r.Helper()
	target := r.proxy.lost.Load() + n
	deadline := time.Now().Add(3 * time.Minute)
	for r.proxy.lost.Load() < target {
		if time.Now().After(deadline) {
			r.wrong("only %d answers of Redis were lost", r.proxy.lost.Load())
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// redisSlow is F6: 200 ms a piece, then 20 ms a byte.
func redisSlow(r *rig) {
	l := r.load()
	r.served(l, 20)
	r.proxy.perPiece.Store(int64(200 * time.Millisecond))
	r.last(pick(2*time.Second, 15*time.Second))
	r.served(l, 20)
	r.proxy.perPiece.Store(0)
	r.proxy.perByte.Store(int64(20 * time.Millisecond))
	r.last(pick(2*time.Second, 30*time.Second))
	r.served(l, 20)
	r.quiet()
	r.proxy.perByte.Store(0)
	r.proxy.reset() // what is on its way would take minutes
	r.rounds = 2
	r.unharmed(l)
	r.settle()
}

// redisFrozen is F7: connections do not pile up.
func redisFrozen(r *rig) {
	l := r.load()
	r.served(l, 20)
	r.redis.Signal(syscall.SIGSTOP)
	r.Cleanup(func() { r.redis.Signal(syscall.SIGCONT) })
	end := time.Now().Add(pick(6*time.Second, 20*time.Second))
	most := 0
	for time.Now().Before(end) {
		most = max(most, r.gateway.Files())
		r.last(100 * time.Millisecond)
	}
	r.served(l, 20)
	r.redis.Signal(syscall.SIGCONT)
	r.rounds++
	// Each client has a connection on both sides, the store at most eight.
	if limit := r.start.files + 2*clients() + 16; most > limit {
		r.wrong("%d descriptors, at most %d", most, limit)
	}
	r.tell("at most %d descriptors, %d at the start", most, r.start.files)
	r.unharmed(l)
	r.settle()
}

// partition is F8: nothing moves, then all connections break.
func partition(r *rig) {
	l := r.load()
	r.served(l, 20)
	r.proxy.freeze()
	r.last(pick(3*time.Second, 60*time.Second))
	r.served(l, 20)
	r.proxy.reset()
	r.proxy.thaw()
	r.rounds++
	r.unharmed(l)
	r.settle()
}

// copyRedis copies the data of Redis, as it is on the disk, to a directory that
// rollback makes it go back to.
func (r *rig) copyRedis() string {
	r.Helper()
	r.redis.Stop()
	dir := r.TempDir()
	if err := os.CopyFS(dir, os.DirFS(r.redis.Dir)); err != nil {
		r.Fatal(err)
	}
	r.redis.Start(r)
	return dir
}

func (r *rig) rollback(dir string) {
	r.Helper()
	r.redis.Kill()
	if err := os.RemoveAll(r.redis.Dir); err != nil {
		r.Fatal(err)
	}
	if err := os.CopyFS(r.redis.Dir, os.DirFS(dir)); err != nil {
		r.Fatal(err)
	}
	r.redis.Start(r)
	r.rounds++
}

// rolledBack is F9: to a copy that is older than the gateway's last start, under
// load and while nothing happens.
func rolledBack(r *rig) {
	l := r.load()
	r.served(l, 50)
	if *scale == "full" {
		r.flushed() // the short form goes back to before the first batch
	}
	old := r.copyRedis()
	for range pick(1, 3) {
		r.served(l, 100)
		if err := r.gateway.Stop(); err != nil {
			r.wrong("the gateway ended with: %v", err)
		}
		r.gateway.Start(r)
		r.flushed()
		r.flushed()
		r.rollback(old)
		r.logged(r.gateway, "the store went back")
	}
	r.quiet()
	r.drained(drain)
	for range pick(1, 2) {
		r.says("no lag", func(l ledger) bool { return l.Lag == 0 })
		before := strings.Count(r.gateway.Log(), "the store went back")
		r.rollback(old)
		// An idle ledger looks every ten seconds; a broken connection is found
		// broken then, and made again.
		back := time.Now()
		for strings.Count(r.gateway.Log(), "the store went back") == before {
			if time.Since(back) > 12*time.Second {
				r.wrong("a rollback of an idle gateway's store is not seen within ten seconds")
				break
			}
			r.last(20 * time.Millisecond)
		}
		r.tell("seen after %.1f s while idle", time.Since(back).Seconds())
	}
	r.settle()
}

// wiped is F10: everything is lost and comes back.
func wiped(r *rig) {
	l := r.load()
	for range pick(2, 10) {
		r.flushed()
		if err := r.raw.FlushAll(r.Context()).Err(); err != nil {
			r.Fatal(err)
		}
		r.rounds++
	}
	r.logged(r.gateway, "the store has lost everything")
	r.unharmed(l)
	r.settle()
}

// cursorLost is F10 too: the position vanishes and the sums stay. The stream stops
// and nothing is counted twice, after a restart neither.
func cursorLost(r *rig) {
	l := r.load()
	r.flushed()
	keys, err := r.raw.Keys(r.Context(), "fl:{floway}:cur:*").Result()
	if err != nil || len(keys) != 1 {
		r.Fatalf("%v, %v", keys, err)
	}
	if err := r.raw.Del(r.Context(), keys[0]).Err(); err != nil {
		r.Fatal(err)
	}
	r.rounds++
	stopped := func(l ledger) bool { return strings.Contains(l.Stopped, "lost the position") }
	r.says("the lost position", stopped)
	r.served(l, 50)
	r.quiet()
	sink := func() *audit.Sink {
		e, err := r.evidence()
		if err != nil {
			r.Fatal(err)
		}
		return e.Sink
	}
	before := sink()
	if err := r.gateway.Stop(); err != nil {
		r.wrong("the gateway ended with: %v", err)
	}
	r.gateway.Start(r)
	r.says("the lost position after a restart", stopped)
	for row, c := range sink().Rows {
		if c != before.Rows[row] {
			r.wrong("%s has changed although the stream is stopped", row)
		}
	}
	r.unharmed(l)
	r.checkHealth(r.gateway)
	r.fetchMetrics(r.gateway)
	r.gateway.Stop()
	r.compare()
	// What was recorded after the position was lost is not in the sink: that it
	// lacks records is right, that it has too many is not.
	if excess := r.excess(); excess > 0 {
		r.wrong("%d counters of the sink are higher than the log allows", excess)
	}
	r.tell("%d counters behind the log, as they must be", r.d.I1)
	r.d.I1, r.d.I5, r.d.Notes = 0, 0, nil
}

// excess counts counters of the sink that are higher than the log's sums.
func (r *rig) excess() int {
	e, err := r.evidence()
	if err != nil {
		r.Fatal(err)
	}
	n, err := audit.Excess(e)
	if err != nil {
		r.Fatal(err)
	}
	return n
}

// memoryShort is F22: a store that is full refuses as a whole.
func memoryShort(r *rig) {
	l := r.load()
	for range pick(1, 5) {
		r.served(l, 50)
		if err := r.raw.ConfigSet(r.Context(), "maxmemory", "1mb").Err(); err != nil {
			r.Fatal(err)
		}
		r.says("a store without memory", func(l ledger) bool { return strings.Contains(l.Error, "maxmemory") })
		r.served(l, 50)
		if err := r.raw.ConfigSet(r.Context(), "maxmemory", "0").Err(); err != nil {
			r.Fatal(err)
		}
		r.rounds++
	}
	r.quiet()
	r.drained(drain)
	r.raw.ConfigSet(r.Context(), "maxmemory-policy", "allkeys-lru")
	if err := r.gateway.Stop(); err != nil {
		r.wrong("the gateway ended with: %v", err)
	}
	r.gateway.Start(r)
	r.says("a policy that drops keys", func(l ledger) bool { return strings.Contains(l.Warning, "allkeys-lru") })
	r.logged(r.gateway, "maxmemory-policy is allkeys-lru")
	r.unharmed(l)
	r.settle()
}

// planted is F23: something else under the name of a row, under that of a list of
// rows, and a counter that can rise no more.
func planted(r *rig) {
	day := time.Now().UTC().Format("20060102")
	ctx := r.Context()
	row := "fl:{floway}:d1:" + day + ":client:alice"
	l := r.load()
	r.served(l, 50)
	r.quiet()
	r.says("no lag", func(l ledger) bool { return l.Lag == 0 })
	for key, row := range map[string]audit.Key{
		"fl:{floway}:d1:" + day + ":model:mock-mini": audit.Key("d1 " + day + " model mock-mini"),
		"fl:{floway}:d1:" + day + ":group":           "",
	} {
		if err := r.raw.Set(ctx, key, "somebody else's", 0).Err(); err != nil {
			r.Fatal(err)
		}
		r.plant(row)
	}
	for _, group := range []string{"", "team-a"} {
		r.plant(audit.Key("d1 " + day + " group " + group))
	}
	const input = 3
	if err := r.raw.HSet(ctx, row, strconv.Itoa(input), "9223372036854775807").Err(); err != nil {
		r.Fatal(err)
	}
	r.planted[audit.Key("d1 "+day+" client alice")] = map[int]bool{input: true}
	r.rounds = 3
	l = r.load()
	r.served(l, pick[int64](150, 2000))
	r.says("dead letters", func(l ledger) bool { return l.Dead > 0 })
	r.logged(r.gateway, "could not book")
	r.unharmed(l)
	r.settle()
	r.tell("%d dead letters", r.d.Letters)
	if r.d.Letters == 0 {
		r.wrong("no dead letter")
	}
}

// plant says that a row is not what it was.
func (r *rig) plant(row audit.Key) {
	if r.planted == nil {
		r.planted = make(map[audit.Key]map[int]bool)
	}
	all := make(map[int]bool)
	for f := range len(audit.Counts{}) {
		all[f] = true
	}
	r.planted[row] = all
}

// redisRefuses is F25: another password, a replica, a script that holds the server
// up, and one that is loading.
func redisRefuses(r *rig) {
	ctx := context.Background()
	l := r.load()
	hold := func(what, says string) {
		r.Helper()
		r.says(what, func(l ledger) bool { return strings.Contains(l.Error, says) })
		r.last(pick(time.Second, 10*time.Second))
		r.served(l, 20)
		r.rounds++
	}
	r.served(l, 20)

	do := func(args ...any) {
		r.Helper()
		if err := r.raw.Do(ctx, args...).Err(); err != nil {
			r.Fatalf("%v: %v", args, err)
		}
	}
	do("CONFIG", "SET", "requirepass", "another")
	r.proxy.reset()
	hold("a wrong password", "password")
	if cpu := r.cpu(pick(2*time.Second, 10*time.Second), l); !r.Failed() {
		r.tell("%.1f %% of a CPU while Redis refuses, without load", cpu)
		if cpu >= 5 && *scale == "full" {
			r.wrong("%.1f %% of a CPU while Redis refuses: it spins", cpu)
		}
	}
	l = r.load()
	do("CONFIG", "SET", "requirepass", password)
	r.says("its return", func(l ledger) bool { return l.Error == "" })

	do("REPLICAOF", "127.0.0.1", "1")
	hold("a replica", "replica")
	do("REPLICAOF", "NO", "ONE")
	r.says("its return", func(l ledger) bool { return l.Error == "" })

	do("CONFIG", "SET", "busy-reply-threshold", "50")
	go func() {
		c := redis.NewClient(&redis.Options{Addr: r.redis.Addr, Password: password, Protocol: 2, MaxRetries: -1, ReadTimeout: time.Minute})
		defer c.Close()
		c.Eval(ctx, "while true do end", nil)
	}()
	hold("a busy server", "SCRIPT KILL")
	do("SCRIPT", "KILL")
	r.says("its return", func(l ledger) bool { return l.Error == "" })

	// Slow loading: so many microseconds a key.
	r.redis.Stop()
	r.redis.Start(r, "--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024")
	r.rounds++
	r.says("its return", func(l ledger) bool { return l.Error == "" })
	if strings.Contains(r.gateway.Log(), "LOADING") {
		r.tell("a server that loads was seen")
	}
	r.unharmed(l)
	r.settle()
}

// cpu is how much of a CPU the gateway takes in the time given, in percent, once
// the load is over. The load is to be started again.
func (r *rig) cpu(d time.Duration, l *load) float64 {
	l.stop()
	ticks := func() (n float64) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.gateway.Pid()))
		if err != nil {
			return 0
		}
		// The name may have spaces; behind it come the state and ten more.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, i := range []int{11, 12} {
			v, _ := strconv.ParseFloat(f[i], 64)
			n += v
		}
		return n
	}
	before := ticks()
	r.last(d)
	return (ticks() - before) / d.Seconds() // a tick is a hundredth of a second
}

// tlsOff is F25 too: a store that speaks TLS, and suddenly no more.
func tlsOff(r *rig) {
	l := r.load()
	r.served(l, 50)
	r.proxy.secure.Store(false)
	r.proxy.reset()
	r.says("a store without TLS", func(l ledger) bool { return strings.Contains(l.Error, "TLS") })
	r.served(l, 50)
	r.proxy.secure.Store(true)
	r.proxy.reset()
	r.rounds++
	r.unharmed(l)
	r.settle()
}
