package redisstore

import (
	"context"
	_ "embed"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/floway/floway/usage"
)

// Instances come and go, and each of them leaves a stream. Those that nobody has
// used for usage.StreamLife are summed up in one place. An instance that merely has
// nothing to do is not among them: greetings count as use (see hello.lua).

//go:embed retire.lua
var retireSource string

var retireScript = redis.NewScript(retireSource)

const (
	// retireEvery is how often a store looks for streams to retire.
	retireEvery = 24 * time.Hour
	// maxRetired bounds how many go at a time: a greeting waits for it.
	maxRetired = 100
)

// retire lets go of streams, if it is time to look for some. It is housekeeping: if
// it fails, another instance does it, or this one a day later.
func (s *Store) retire(ctx context.Context) {
	now := time.Now().Unix()
	last := s.retired.Load()
	if now-last < int64(retireEvery/time.Second) || !s.retired.CompareAndSwap(last, now) {
		return
	}
	ids, err := s.client.SMembers(ctx, s.keys.streams()).Result()
	if err != nil {
		return
	}
	slices.Sort(ids)
	left := maxRetired
	for some := range slices.Chunk(ids, page) {
		positions, err := s.positions(ctx, some)
		if err != nil {
			return
		}
		for i := range positions {
			// By the clock of the store, which the script asks; this only saves calls.
			p := &positions[i]
			if now-p.Seen.Unix() < int64(usage.StreamLife/time.Second)/2 {
				continue
			}
			if left--; left < 0 {
				return
			}
			keys := []string{s.keys.cursor(p.Stream), s.keys.streams(), s.keys.retired()}
			life := strconv.FormatInt(int64(usage.StreamLife/time.Second), 10)
			if retireScript.Run(ctx, s.client, keys, p.Stream.String(), life).Err() != nil {
				return
			}
		}
	}
}
