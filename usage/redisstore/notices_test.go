//go:build unix

package redisstore

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/redisstore/redistest"
)

// notesFrom makes the notes with numbers [from, to).
func notesFrom(from, to int) []usage.Note {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	notes := make([]usage.Note, 0, to-from)
	for i := from; i < to; i++ {
		notes = append(notes, usage.Note{Upstream: "a", Affinity: "key " + strconv.Itoa(i), Time: at.Add(time.Duration(i) * time.Second)})
	}
	return notes
}

func TestNotes(t *testing.T) {
	server := redistest.Start(t)
	s, other := open(t, Config{URL: server.URL()}), open(t, Config{URL: server.URL()})
	// all reads on until there are no more.
	all := func(since string) (notes []usage.Note, position string) {
		t.Helper()
		for {
			page, at, err := other.Noted(t.Context(), since)
			if err != nil {
				t.Fatal(err)
			}
			if at == since {
				return notes, at
			}
			notes, since = append(notes, page...), at
		}
	}
	leave := func(notes []usage.Note) {
		t.Helper()
		if err := s.Note(t.Context(), notes); err != nil {
			t.Fatal(err)
		}
	}
	want := func(got, want []usage.Note) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%d notes, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i].Upstream != want[i].Upstream || got[i].Affinity != want[i].Affinity || !got[i].Time.Equal(want[i].Time) {
				t.Fatalf("note %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	}

	none, at := all("")
	want(none, nil)
	leave(notesFrom(0, 2*notesPage+10)) // more than a page
	got, at := all(at)
	want(got, notesFrom(0, 2*notesPage+10))
	again, at := all(at)
	want(again, nil)
	leave(notesFrom(5000, 5003))
	key := s.keys.notes()
	server.Do("XADD", key, "*", noteField, "no JSON")
	server.Do("XADD", key, "*", "another", "field")
	got, _ = all(at)
	want(got, notesFrom(5000, 5003))
	// What is older than a day is not for those who start.
	yesterday := server.Do("EVAL", "redis.call('DEL', KEYS[1]) return redis.call('XADD', KEYS[1], ARGV[1], 'n', ARGV[2])", "1", key,
		fmt.Sprint(time.Now().Add(-notesLife-time.Minute).UnixMilli(), "-0"), `{"upstream":"old","affinity":"key 1"}`)
	if yesterday == "" {
		t.Fatal("no old note")
	}
	leave(notesFrom(1, 2))
	got, _ = all("")
	want(got, notesFrom(1, 2))

	// There is a bound to them, and they do not stay for ever.
	leave(notesFrom(0, maxNotes+5000))
	if n, err := strconv.Atoi(server.Do("XLEN", key)); err != nil || n < maxNotes || n > maxNotes+1000 {
		t.Errorf("%d notes (%v), want about %d", n, err, maxNotes)
	}
	if ttl, err := strconv.Atoi(server.Do("TTL", key)); err != nil || ttl <= 0 || ttl > int(noticesLife.Seconds()) {
		t.Errorf("time to live %d (%v)", ttl, err)
	}

	server.Do("DEL", key)
	server.Do("SET", key, "x")
	expect(t, s.Note(t.Context(), notesFrom(0, 1)), usage.ErrForeign, "namespace")
	_, _, err := s.Noted(t.Context(), "")
	expect(t, err, usage.ErrForeign, "namespace")
}
