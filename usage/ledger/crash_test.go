package ledger

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

// remote is a store in another process.
type remote struct {
	usage.Store
	client *rpc.Client
}

func (remote) MaxIncrements() int { return usage.MaxIncrements }

// Server is the other side of a remote.
type Server struct{ Store usage.Store }

// Greet is Hello.
func (s *Server) Greet(id usage.StreamID, g *usage.Greeting) (err error) {
	*g, err = s.Store.Hello(context.Background(), id)
	return err
}

// Applied is what Apply answers.
type Applied struct {
	Position usage.Position
	Error    string
}

// Take is Apply.
func (s *Server) Take(b *usage.Batch, a *Applied) error {
	p, err := s.Store.Apply(context.Background(), b)
	if a.Position = p; err != nil {
		a.Error = err.Error()
	}
	return nil
}

func (r remote) Hello(_ context.Context, id usage.StreamID) (g usage.Greeting, err error) {
	err = r.client.Call("Server.Greet", id, &g)
	return g, err
}

func (r remote) Apply(_ context.Context, b *usage.Batch) (usage.Position, error) {
	var a Applied
	if err := r.client.Call("Server.Take", b, &a); err != nil {
		return usage.Position{}, err
	}
	for _, err := range []error{usage.ErrMismatch, usage.ErrFenced} {
		if a.Error == err.Error() {
			return a.Position, err
		}
	}
	return a.Position, nil
}

const crashVariable = "FLOWAY_LEDGER_CRASH_TEST"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(crashVariable); ok {
		crash(strings.Split(args, "|"))
		return
	}
	os.Exit(m.Run())
}

// crash is the process that is killed: it makes attempts without end and says of
// each that it reserved it before it settles it, and that it settled it.
func crash(args []string) {
	dir, addr := args[0], args[1]
	first, _ := strconv.Atoi(args[2])
	durability, _ := strconv.Atoi(args[3])
	keep, _ := strconv.ParseInt(args[4], 10, 64)
	client, err := rpc.Dial("tcp", addr)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	l, err := Open(Config{
		Dir: dir, Sink: "test", Store: remote{client: client},
		SegmentBytes: minSegmentBytes, Durability: Durability(durability), KeepBytes: keep, KeepFor: time.Nanosecond,
	})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("open")
	var mu sync.Mutex
	say := func(what string, n int) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(what, n)
	}
	for g := range 4 {
		go func() {
			for n := first + g; ; n += 4 {
				r := attemptNo(n)
				if err := l.Reserve(r); err != nil {
					say("refused", n)
					continue
				}
				say("r", n)
				if n%7 == 0 {
					l.Progress(r)
				}
				end(r, n)
				l.Settle(r)
				say("s", n)
			}
		}()
	}
	select {}
}

// The process is killed again and again while it works. Each attempt that it
// settled is counted once, each that it reserved is counted or unknown, and
// nothing else.
func TestKilledProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for _, c := range []struct {
		name       string
		durability Durability
		keep       int64
		rounds     int
	}{
		{"batch", Batch, 1 << 30, 20},
		{"strict", Strict, 1 << 30, 8},
		{"while segments go", Process, 1, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			store := storetest.NewMemory()
			addr := serve(t, store)
			reserved, settled := make(map[int]bool), make(map[int]bool)
			next := 0
			for round := range c.rounds {
				last := killOne(t, round, reserved, settled,
					dir, addr, strconv.Itoa(next), strconv.Itoa(int(c.durability)), strconv.FormatInt(c.keep, 10))
				next = last + 100
			}

			l := open(t, Config{Dir: dir, Store: store, KeepBytes: c.keep})
			flush(t, l)
			if s := l.Stats(); s.Gaps != 0 || s.Doubtful != 0 || s.Trouble != "" {
				t.Errorf("%+v", s)
			}
			if v := verify(t, l); !v.Equal() || v.Unsure {
				t.Errorf("%+v", v)
			}
			shut(t, l)
			got := totals(t, store)
			if n := streams(t, store); n != 1 {
				t.Errorf("%d streams", n)
			}
			// What the process did and had no time to say is at most one attempt a
			// goroutine and round.
			unsaid := int64(4 * c.rounds)
			if n := got[usage.Attempts] - int64(len(settled)); n < 0 || n > unsaid {
				t.Errorf("%d attempts are counted, %d were settled", got[usage.Attempts], len(settled))
			}
			if n := got[usage.Attempts] + got[usage.UnknownAttempts] - int64(len(reserved)); n < 0 || n > unsaid || got[usage.UnknownAttempts] > unsaid {
				t.Errorf("%d attempts and %d unknown are counted, %d were reserved",
					got[usage.Attempts], got[usage.UnknownAttempts], len(reserved))
			}
			t.Logf("%d attempts settled, %d unknown", got[usage.Attempts], got[usage.UnknownAttempts])
			if c.keep > 1 {
				checkEntries(t, dir, settled)
			}
		})
	}
}

// checkEntries looks whether a log has each settled attempt once, as it was.
func checkEntries(t *testing.T, dir string, settled map[int]bool) {
	t.Helper()
	found := make(map[int]bool)
	err := Read(dir, func(e Entry) error {
		if e.Kind != Settled && e.Kind != Unsettled {
			return nil
		}
		n, err := strconv.Atoi(strings.TrimPrefix(e.Record.Request, "req-"))
		if err != nil || found[n] {
			t.Errorf("%s is there twice or is no attempt", e.Record.Request)
		}
		found[n] = true
		want := attemptNo(n)
		if e.Kind == Settled {
			end(want, n)
		} else {
			want.Final = true
			if settled[n] {
				t.Errorf("attempt %d was settled and is unknown", n)
			}
		}
		want.Seq, want.Time = e.Record.Seq, e.Record.Time
		if e.Record != *want {
			t.Errorf("got  %+v\nwant %+v", e.Record, *want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for n := range settled {
		if !found[n] {
			t.Errorf("attempt %d is lost", n)
		}
	}
}

// serve makes a store that other processes reach.
func serve(t *testing.T, store usage.Store) string {
	t.Helper()
	srv := rpc.NewServer()
	if err := srv.Register(&Server{store}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go srv.ServeConn(c)
		}
	}()
	return ln.Addr().String()
}

// killOne runs the process until it has settled some attempts, kills it, and
// returns the number of its last attempt.
func killOne(t *testing.T, round int, reserved, settled map[int]bool, args ...string) (last int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashVariable+"="+strings.Join(args, "|"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	enough := 50 + 97*round
	for lines.Scan() {
		what, number, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.Atoi(number)
		switch what {
		case "r":
			reserved[n] = true
		case "s":
			settled[n] = true
			if enough--; enough == 0 {
				cmd.Process.Kill()
			}
		case "open":
		default:
			t.Errorf("the process says %q", lines.Text())
		}
		last = max(last, n)
	}
	cmd.Wait()
	if last == 0 || ctx.Err() != nil {
		t.Fatalf("round %d: the process did not work: %v", round, ctx.Err())
	}
	return last
}
