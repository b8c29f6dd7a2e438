package ledger

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

// sink is a store that takes everything and keeps only the position.
type sink struct {
	usage.Store
	at usage.Position
}

func (s *sink) Hello(context.Context, usage.StreamID) (usage.Greeting, error) {
	return usage.Greeting{Genesis: "g", Known: s.at.Seq > 0, Position: s.at}, nil
}

func (s *sink) Apply(_ context.Context, b *usage.Batch) (usage.Position, error) {
	s.at.Seq, s.at.Chain, s.at.Epoch = b.To, b.Chain, b.Epoch
	return s.at, nil
}

func (s *sink) MaxIncrements() int { return usage.MaxIncrements }

// BenchmarkAttempt is a Reserve and a Settle, so two records.
func BenchmarkAttempt(b *testing.B) {
	for _, c := range []struct {
		name  string
		store func() usage.Store
		d     Durability
	}{
		{"batch", func() usage.Store { return &sink{} }, Batch},
		{"process", func() usage.Store { return &sink{} }, Process},
		{"batch without a store", func() usage.Store { return down{} }, Batch},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := open(b, Config{Dir: b.TempDir(), Store: c.store(), Durability: c.d, KeepBytes: 64 << 20, KeepFor: time.Nanosecond, MaxBytes: 8 << 30})
			defer closeNow(b, l)
			r := attemptNo(1)
			end(r, 1)
			b.ReportAllocs()
			for b.Loop() {
				if err := l.Reserve(r); err != nil {
					b.Fatal(err)
				}
				l.Settle(r)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/append")
		})
	}
}

// BenchmarkAttempts has 512 attempts open at a time.
func BenchmarkAttempts(b *testing.B) {
	for _, d := range []Durability{Batch, Strict} {
		b.Run(fmt.Sprint(d), func(b *testing.B) {
			l := open(b, Config{Dir: b.TempDir(), Store: &sink{}, Durability: d, KeepBytes: 64 << 20, KeepFor: time.Nanosecond, MaxBytes: 8 << 30})
			defer closeNow(b, l)
			var n atomic.Int64
			b.SetParallelism(256)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r := attemptNo(int(n.Add(1)))
				end(r, 1)
				for pb.Next() {
					if err := l.Reserve(r); err != nil {
						b.Error(err)
						return
					}
					l.Settle(r)
				}
			})
		})
	}
}

// BenchmarkEncode is the part of an append that is not the system call.
func BenchmarkEncode(b *testing.B) {
	r := attemptNo(1)
	end(r, 1)
	r.Seq, r.Time = 1e6, time.Now()
	buf := make([]byte, frameHeader, maxFrame)
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		buf, _ = seal(putRecord(buf[:frameHeader], r), Settled, 12345, 1, 2)
		size = len(buf)
	}
	b.ReportMetric(float64(size), "bytes/record")
}

// BenchmarkFlush is the flusher's work for one record, the store's left out.
func BenchmarkFlush(b *testing.B) {
	dir := b.TempDir()
	l := open(b, Config{Dir: dir, Store: down{}})
	var a account
	a.attempts(b, l, 1, 10000)
	closeNow(b, l)
	spans, _ := listSpans(disk{}, dir)
	m, _ := readManifest(disk{}, dir)
	r := logReader{fs: disk{}, seeds: m.seeds(), spans: spans}
	defer r.close()
	batch, interned := new(usage.Batch), make(names)
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := r.next()
		if err == io.EOF {
			r.seek(0)
			continue
		}
		if _, _, err := sum(batch, f, interned); err != nil {
			b.Fatal(err)
		}
		if batch.Full(usage.MaxIncrements) {
			batch = new(usage.Batch)
		}
	}
}

// BenchmarkOpenFull opens a log of 1 GiB: as it is, and without any list of open
// attempts, so that all of it must be read.
func BenchmarkOpenFull(b *testing.B) {
	dir := b.TempDir()
	l := open(b, Config{Dir: dir, Store: down{}, MaxBytes: 2 << 30})
	r := attemptNo(1)
	end(r, 1)
	records := 0
	for l.Stats().Bytes < 1<<30 {
		for range 1000 {
			if err := l.Reserve(r); err != nil {
				b.Fatal(err)
			}
			l.Settle(r)
		}
		records += 2000
	}
	for range 500 {
		l.Reserve(r)
	}
	kill(l)
	b.Run("from the last list", func(b *testing.B) {
		for b.Loop() {
			l := open(b, Config{Dir: dir, Store: down{}, MaxBytes: 4 << 30})
			b.StopTimer()
			kill(l)
			b.StartTimer()
		}
		b.ReportMetric(float64(records), "records")
	})
	b.Run("without lists", func(b *testing.B) {
		spans, err := listSpans(disk{}, dir)
		if err != nil {
			b.Fatal(err)
		}
		m, err := readManifest(disk{}, dir)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			r := &logReader{fs: disk{}, seeds: m.seeds(), spans: spans}
			rec := &recovered{}
			if err := rec.read(r, 0); err != nil || int(rec.last) < records {
				b.Fatal(rec.last, err)
			}
			r.close()
		}
	})
}

// BenchmarkReplay sends a log to a store in memory.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	l := open(b, Config{Dir: dir, Store: down{}})
	var a account
	a.attempts(b, l, 1, 100_000)
	closeNow(b, l)
	for b.Loop() {
		b.StopTimer()
		store, dir := storetest.NewMemory(), copyDir(b, dir)
		b.StartTimer()
		l := open(b, Config{Dir: dir, Store: store})
		flush(b, l)
		b.StopTimer()
		a.check(b, store)
		kill(l)
		b.StartTimer()
	}
	b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "attempts/s")
}
