//go:build unix

package redisstore

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/redisstore/redistest"
	"github.com/floway/floway/usage/storetest"
)

// until waits for something that other processes do by themselves.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// startCluster starts a cluster of masters that share the slots.
func startCluster(t testing.TB, n int) []*redistest.Server {
	t.Helper()
	nodes := make([]*redistest.Server, n)
	for i := range nodes {
		nodes[i] = redistest.Start(t, redistest.Args("--cluster-enabled", "yes", "--cluster-node-timeout", "5000"))
		from, to := i*16384/n, (i+1)*16384/n-1
		nodes[i].Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(from), strconv.Itoa(to))
		host, port, _ := net.SplitHostPort(nodes[0].Addr)
		nodes[i].Do("CLUSTER", "MEET", host, port)
	}
	for _, node := range nodes {
		until(t, "the cluster knows all its slots", func() bool {
			info := node.Do("CLUSTER", "INFO")
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(n))
		})
	}
	return nodes
}

func clusterURL(nodes []*redistest.Server) string {
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.Addr)
	}
	return "redis+cluster://" + strings.Join(addrs, ",")
}

// TestStoreInCluster runs the whole suite on a cluster: no call touches two slots.
func TestStoreInCluster(t *testing.T) {
	nodes := startCluster(t, 3)
	var count atomic.Int64
	storetest.Run(t, func(t testing.TB) usage.Store {
		return open(t, Config{URL: clusterURL(nodes), Namespace: "test" + strconv.FormatInt(count.Add(1), 10)})
	})
}

// TestResharding moves the slot of the store from node to node while it is written
// to.
func TestResharding(t *testing.T) {
	nodes := startCluster(t, 3)
	s := open(t, Config{URL: clusterURL(nodes)})
	l := &log{t: t}
	l.add(20, time.Now())
	l.send(s, 3)

	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				l.add(3, time.Now())
				l.send(s, 1)
			}
		}
	}()
	slot := nodes[0].Do("CLUSTER", "KEYSLOT", s.keys.genesis())
	for range 2 * len(nodes) {
		moveSlot(t, nodes, slot)
	}
	close(stop)
	<-ended
	l.send(s, 5)
	l.check(s)
	if b, err := usage.Weigh(t.Context(), s); err != nil || !b.Even() {
		t.Errorf("the sums are not those of the stream: %v", err)
	}
}

// moveSlot moves a slot to the next node.
func moveSlot(t testing.TB, nodes []*redistest.Server, slot string) {
	t.Helper()
	var from, to *redistest.Server
	for i, n := range nodes {
		if holds(n, n.Do("CLUSTER", "MYID"), slot) {
			from, to = n, nodes[(i+1)%len(nodes)]
		}
	}
	fromID, toID := from.Do("CLUSTER", "MYID"), to.Do("CLUSTER", "MYID")
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	host, port, _ := net.SplitHostPort(to.Addr)
	for {
		keys := from.Do("CLUSTER", "GETKEYSINSLOT", slot, "7")
		if keys == "" {
			break
		}
		from.Do(append([]string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}, strings.Split(keys, "\n")...)...)
	}
	to.Do("CLUSTER", "SETSLOT", slot, "NODE", toID)
	from.Do("CLUSTER", "SETSLOT", slot, "NODE", toID)
	for _, n := range nodes {
		until(t, "all nodes know where the slot is", func() bool { return holds(n, toID, slot) })
	}
}

// holds says whether a node holds a slot, by what n knows.
func holds(n *redistest.Server, id, slot string) bool {
	want, _ := strconv.Atoi(slot)
	for line := range strings.Lines(n.Do("CLUSTER", "NODES")) {
		fields := strings.Fields(line)
		if fields[0] != id {
			continue
		}
		for _, f := range fields[min(8, len(fields)):] {
			low, high, found := strings.Cut(f, "-")
			if !found {
				high = low
			}
			a, err1 := strconv.Atoi(low)
			b, err2 := strconv.Atoi(high)
			if err1 == nil && err2 == nil && a <= want && want <= b {
				return true
			}
		}
	}
	return false
}

// TestFailover kills the master: a sentinel makes the replica one, and the store
// goes on there, without what the replica had not got yet.
func TestFailover(t *testing.T) {
	master := redistest.Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := redistest.Start(t, redistest.Args("--replicaof", host+" "+port))
	until(t, "the replica follows", func() bool {
		return strings.Contains(replica.Do("INFO", "replication"), "master_link_status:up")
	})
	sentinel := redistest.Start(t, redistest.Sentinel("main", master))
	until(t, "the sentinel knows the replica", func() bool {
		return strings.Contains(sentinel.Do("INFO", "sentinel"), "slaves=1")
	})

	s := open(t, Config{URL: "redis+sentinel://" + sentinel.Addr + "/main", Timeout: 2 * time.Second})
	l := &log{t: t}
	l.add(30, time.Now())
	l.send(s, 2)
	before, err := s.Hello(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}

	// The replica misses the last batches.
	until(t, "the replica has everything", func() bool {
		return replica.Do("HGET", s.keys.cursor(stream), "seq") == "30"
	})
	replica.Freeze()
	l.add(30, time.Now())
	l.send(s, 2)
	master.Kill()
	replica.Thaw()

	p := l.send(s, 2)
	if p.Seq != 60 || l.errors == 0 {
		t.Errorf("the store stands at %d after %d errors", p.Seq, l.errors)
	}
	if g, err := s.Hello(t.Context(), stream); err != nil || g.Genesis != before.Genesis {
		t.Errorf("after the failover: %+v, %v", g, err)
	}
	if role := replica.Do("ROLE"); !strings.HasPrefix(role, "master") {
		t.Errorf("the replica is %s", role)
	}
	l.check(s)

	expect(t, greet(t, open(t, Config{URL: "redis+sentinel://" + sentinel.Addr + "/other"})), usage.ErrUnreachable, "master's name")
}

// TestSentinelCredentials: sentinels and servers have passwords of their own, or
// only one of them has any.
func TestSentinelCredentials(t *testing.T) {
	master := redistest.Start(t)
	sentinel := redistest.Start(t, redistest.Sentinel("main", master))
	address := sentinel.Addr + "/main"
	of := func(text string) func() string { return func() string { return text } }
	try := func(url string, p func() string) error {
		t.Helper()
		s := open(t, Config{URL: url, Password: p, Timeout: 2 * time.Second})
		return greet(t, s)
	}

	sentinel.Do("SENTINEL", "SET", "main", "auth-pass", "of-the-master")
	master.Do("CONFIG", "SET", "requirepass", "of-the-master")
	if err := try("redis+sentinel://:of-the-master@"+address, nil); err != nil {
		t.Errorf("the password of the servers in the URL: %v", err)
	}
	if err := try("redis+sentinel://"+address, of("of-the-master")); err != nil {
		t.Errorf("the password of the servers beside the URL: %v", err)
	}

	sentinel.Do("ACL", "SETUSER", "default", "resetpass", ">of-the-sentinel")
	if err := try("redis+sentinel://:of-the-sentinel@"+address, of("of-the-master")); err != nil {
		t.Errorf("a password for each: %v", err)
	}
	for name, err := range map[string]error{
		"none for the sentinels":  try("redis+sentinel://"+address, of("of-the-master")),
		"wrong for the sentinels": try("redis+sentinel://:wrong-one@"+address, of("of-the-master")),
		"wrong for the servers":   try("redis+sentinel://:of-the-sentinel@"+address, of("wrong-one")),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if about := strings.Contains(err.Error(), "the sentinels want"); about != strings.Contains(name, "sentinels") || !errors.Is(err, usage.ErrCredentials) {
			t.Errorf("%s: %v", name, err)
		}
		for _, secret := range []string{"of-the-sentinel", "of-the-master", "wrong-one"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v repeats a password", name, err)
			}
		}
	}
}
