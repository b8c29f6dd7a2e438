package ledger

import (
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/floway/floway/usage"
)

// BenchmarkAppendCPU is what one record costs the goroutine that writes it, in
// processor time, which a busy machine does not distort as it does time.
func BenchmarkAppendCPU(b *testing.B) {
	for _, c := range []struct {
		name  string
		store usage.Store
	}{{"with flusher", &sink{}}, {"alone", down{}}} {
		b.Run(c.name, func(b *testing.B) {
			if s, ok := c.store.(*sink); ok {
				*s = sink{}
			}
			l := open(b, Config{Dir: b.TempDir(), Store: c.store, KeepBytes: 64 << 20, KeepFor: time.Nanosecond, MaxBytes: 8 << 30})
			defer closeNow(b, l)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r := attemptNo(1)
			end(r, 1)
			b.ReportAllocs()
			start := threadTime(b)
			for b.Loop() {
				if err := l.Reserve(r); err != nil {
					b.Fatal(err)
				}
				l.Settle(r)
			}
			b.ReportMetric(float64((threadTime(b)-start).Nanoseconds())/float64(2*b.N), "cpu-ns/append")
		})
	}
}

func threadTime(b *testing.B) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
