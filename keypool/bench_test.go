package keypool

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkAttempt is the whole cost of a key to one attempt: Take, Report and
// Release.
func BenchmarkAttempt(b *testing.B) {
	for _, policy := range []Policy{RoundRobin, WeightedRoundRobin, LeastConn, Random, First, Sticky} {
		for _, n := range []int{8, 1000} {
			keys := keysOf(n)
			if policy == WeightedRoundRobin {
				for i := range keys {
					keys[i].Weight = 1 + i%7
				}
			}
			// Under Sticky each request is another conversation.
			var hash atomic.Uint64
			want := func() Want {
				w := Want{Model: "m"}
				if policy == Sticky {
					w.Hash = mix(hash.Add(1))
				}
				return w
			}
			p := New(Config{Name: "u", Keys: keys, Policy: policy})
			name := fmt.Sprintf("%s/keys=%d", policy, n)
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					attempt(b, p, want())
				}
			})
			b.Run(name+"/parallel", func(b *testing.B) {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						attempt(b, p, want())
					}
				})
			})
		}
	}
}

// BenchmarkAttemptAiling has half of the keys out of service.
func BenchmarkAttemptAiling(b *testing.B) {
	for _, n := range []int{8, 1000} {
		p := New(Config{Name: "u", Keys: keysOf(n)})
		for i := range n / 2 {
			l, err := p.Take(&Want{Prefer: fmt.Sprint("id", i)})
			if err != nil {
				b.Fatal(err)
			}
			l.Report(Verdict{Class: Limited, Until: time.Now().Add(time.Hour)})
			l.Release()
		}
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			for b.Loop() {
				attempt(b, p, Want{Model: "m"})
			}
		})
		b.Run(fmt.Sprintf("hash/keys=%d", n), func(b *testing.B) {
			for i := uint64(1); b.Loop(); i++ {
				attempt(b, p, Want{Model: "m", Hash: mix(i)})
			}
		})
	}
}

// BenchmarkNew makes the table of hashes, where there is one.
func BenchmarkNew(b *testing.B) {
	for _, n := range []int{8, 100, 1000} {
		keys := keysOf(n)
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			for b.Loop() {
				New(Config{Name: "u", Keys: keys})
			}
		})
	}
}

// BenchmarkWait hands slots over in a crowd of 1,000 requests on 32 slots.
func BenchmarkWait(b *testing.B) {
	p := New(Config{Name: "u", Keys: keysOf(8), MaxRequests: 4})
	pools, wants := []*Pool{p}, []*Want{{Model: "m"}}
	b.SetParallelism(max(1, 1000/runtime.GOMAXPROCS(0)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, l, err := Wait(b.Context(), pools, wants)
			if err != nil {
				b.Error(err)
				return
			}
			runtime.Gosched() // the others come and stand in line
			l.Report(Verdict{Class: Served})
			l.Release()
		}
	})
}

func attempt(b *testing.B, p *Pool, want Want) {
	l, err := p.Take(&want)
	if err != nil {
		b.Fatal(err)
	}
	l.Report(Verdict{Class: Served})
	l.Release()
}

func keysOf(n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = Key{Label: fmt.Sprint("key", i+1), ID: fmt.Sprint("id", i), Weight: 1}
	}
	return keys
}
