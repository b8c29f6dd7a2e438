package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mockopenai"
)

// ask sends n chats over so many connections.
func ask(t *testing.T, url, model string, n, connections int) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	work := make(chan int)
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			for i := range work {
				a := post(t, url+"/v1/chat/completions", alice, chat(model, fmt.Sprint(i)))
				if a.status != 200 {
					cancel(fmt.Errorf("%d: %s", a.status, a.body))
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
}

// by counts entries by what of holds.
func by(entries []mockopenai.Entry, of func(*mockopenai.Entry) string) map[string]int {
	n := make(map[string]int)
	for i := range entries {
		n[of(&entries[i])]++
	}
	return n
}

// Weights are kept exactly, over every full cycle, however many ask at once.
func TestWeightedRoundRobin(t *testing.T) {
	mock := harness.StartOpenAI(t)
	c := pool(mock, 5, embedded)
	for i, weight := range []int{5, 3, 1, 1, 1} {
		c.Floway = strings.Replace(c.Floway, fmt.Sprintf(" as k%d\n", i+1), fmt.Sprintf(" as k%d weight %d\n", i+1, weight), 1)
	}
	c.Quiet = true
	key := func(e *mockopenai.Entry) string { return e.Key }
	want := func(cycles int) map[string]int {
		return map[string]int{"k1": 5 * cycles, "k2": 3 * cycles, "k3": cycles, "k4": cycles, "k5": cycles}
	}
	t.Run("1 connection", func(t *testing.T) {
		gateway := harness.StartGateway(t, c)
		mock.Clear(t)
		ask(t, gateway.URL, "mock-chat", 11*10, 1)
		entries := mock.Quiet(t)
		for i := 0; i < len(entries); i += 11 {
			if got := by(entries[i:i+11], key); !maps.Equal(got, want(1)) {
				t.Errorf("cycle %d: %v", i/11, got)
			}
		}
		// In turns, not in a row.
		run := 0
		for i := range entries[:11] {
			if entries[i].Key == "k1" {
				run++
			} else {
				run = 0
			}
			if run > 2 {
				t.Errorf("the heaviest key served %d in a row", run)
			}
		}
	})
	t.Run("32 connections", func(t *testing.T) {
		gateway := harness.StartGateway(t, c)
		mock.Clear(t)
		ask(t, gateway.URL, "mock-chat", 11*100, 32)
		if got := by(mock.Quiet(t), key); !maps.Equal(got, want(100)) {
			t.Errorf("got %v\nwant %v", got, want(100))
		}
	})
}

// A pool without weights takes its keys in turn.
func TestRoundRobin(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, pool(mock, 3, embedded))
	ask(t, gateway.URL, "mock-chat", 90, 8)
	got := by(mock.Quiet(t), func(e *mockopenai.Entry) string { return e.Key })
	if want := map[string]int{"k1": 30, "k2": 30, "k3": 30}; !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// routes is a gateway with two upstreams and two routes over them.
func routes(mock *harness.Upstream) harness.Config {
	c := pool(mock, 0, embedded)
	c.Floway = `
		upstream openai east {
			base_url MOCK/v1
			key {env.UPSTREAM_1} as k1
			models mock-chat mock-mini
		}
		upstream openai west {
			base_url MOCK/v1
			key {env.UPSTREAM_2} as k2
			models mock-chat mock-mini
		}
		route split {
			to east/mock-chat weight 3
			to west/mock-mini weight 1
		}
		route ordered {
			to west/mock-mini
			to east/mock-chat
		}` + clients + embedded
	return c
}

func TestRoutes(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, routes(mock))
	served := func(e *mockopenai.Entry) string { return e.Key + " " + e.Model + " " + string(e.Outcome) }
	t.Run("weighted", func(t *testing.T) {
		ask(t, gateway.URL, "split", 4*50, 8)
		want := map[string]int{"k1 mock-chat full": 150, "k2 mock-mini full": 50}
		if got := by(mock.Quiet(t), served); !maps.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	})
	t.Run("ordered", func(t *testing.T) {
		mock.Clear(t)
		ask(t, gateway.URL, "ordered", 20, 4)
		want := map[string]int{"k2 mock-mini full": 20}
		if got := by(mock.Quiet(t), served); !maps.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	})
	t.Run("ordered, the first fails", func(t *testing.T) {
		mock.Clear(t)
		if err := mock.Script(mockopenai.Rule{Key: "k2", Behavior: mockopenai.Behavior{Status: 429, Headers: map[string]string{"Retry-After": "600"}}}); err != nil {
			t.Fatal(err)
		}
		ask(t, gateway.URL, "ordered", 20, 1)
		want := map[string]int{"k2 mock-mini refused": 1, "k1 mock-chat full": 20}
		if got := by(mock.Quiet(t), served); !maps.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	})
	t.Run("sums have the model that was served", func(t *testing.T) {
		harness.Eventually(t, func() error {
			rows, _ := gateway.Usage(t, "model")
			if rows["mock-chat"].Attempts != 170 || rows["mock-mini"].Attempts != 71 || len(rows) != 2 {
				return fmt.Errorf("sums by model: %+v", rows)
			}
			return nil
		})
	})
}
