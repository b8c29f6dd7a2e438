package boltstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/storetest"
)

// pastAndPresent makes a store with some months of history, of two streams, with
// sums that came late and rows past their retention.
func pastAndPresent(t *testing.T, path string, now time.Time) *Store {
	t.Helper()
	at := &clock{now.AddDate(0, -3, 0)}
	s := open(t, path, Options{Now: at.now})
	for month := range 4 {
		at.Time = now.AddDate(0, month-3, 0)
		var rs []usage.Record
		for n := range 50 {
			r := attempt(fmt.Sprint("client-", n%7), at.Add(-time.Duration(n)*time.Hour))
			r.Tokens.Input, r.Tokens.Output = int64(n+1), int64(month+1)
			rs = append(rs, r)
		}
		rs = append(rs, attempt("late", at.AddDate(-2, 0, 0)))
		apply(t, s, rs...)
	}
	return s
}

// failing is a store that gives up after some batches, before or behind its effect.
type failing struct {
	*storetest.Memory
	left   int
	behind bool
}

var errGone = errors.New("gone")

func (f *failing) Apply(ctx context.Context, b *usage.Batch) (usage.Position, error) {
	if f.left--; f.left < 0 && !f.behind {
		return usage.Position{}, errGone
	}
	p, err := f.Memory.Apply(ctx, b)
	if f.left < 0 {
		return usage.Position{}, errGone
	}
	return p, err
}

// MaxIncrements makes many batches of a short history.
func (f *failing) MaxIncrements() int { return 200 }

func move(t *testing.T, from *Store, to usage.Store, name string) (*usage.Move, error) {
	t.Helper()
	last := uint64(0)
	return usage.MoveHistory(t.Context(), from, to, name, func(done, all uint64) {
		if done < last || done > all {
			t.Errorf("%d of %d rows after %d", done, all, last)
		}
		last = done
	})
}

// same holds two stores against each other: all buckets of all tables.
func same(t *testing.T, from *Store, to usage.Store, now time.Time) {
	t.Helper()
	compared := 0
	for table := range usage.Table(usage.Tables) {
		for d := range usage.Dimension(usage.Dimensions) {
			for at := table.Start(now.AddDate(0, -5, 0)); at.Before(now.AddDate(0, 0, 1)); at = table.End(at) {
				want, got := rows(t, from, table, d, at), rows(t, to, table, d, at)
				for k, c := range want {
					compared++
					if got[k] != c {
						t.Errorf("%v %v %v %q: %v, want %v", table, d, at, k, got[k], c)
					}
				}
				if len(got) != len(want) {
					t.Errorf("%v %v %v: %d rows, want %d", table, d, at, len(got), len(want))
				}
			}
		}
	}
	if compared < 500 {
		t.Errorf("only %d rows compared", compared)
	}
	a, err := from.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := to.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a.LateHours != b.LateHours || a.LateDays != b.LateDays || a.LateDays.IsZero() {
		t.Errorf("late: %v, %v; want %v, %v", b.LateHours, b.LateDays, a.LateHours, a.LateDays)
	}
	if w, err := usage.Weigh(t.Context(), to); err != nil || !w.Even() || !w.Quiet || w.Streams.IsZero() {
		t.Errorf("%+v, %v", w, err)
	}
}

// A history arrives whole and once, wherever a move breaks off and however often it
// is begun again.
func TestMove(t *testing.T) {
	now := time.Now().UTC()
	for _, behind := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "usage.db")
		from := pastAndPresent(t, path, now)
		to := &failing{Memory: storetest.NewMemory(), behind: behind}
		var m *usage.Move
		tries := 0
		for err := error(errGone); err != nil; tries++ {
			if !errors.Is(err, errGone) || tries > 500 {
				t.Fatal(err)
			}
			to.left = tries % 4
			if tries%5 == 0 { // as another process
				if err := from.Close(); err != nil {
					t.Fatal(err)
				}
				from = open(t, path, Options{Moved: true})
			}
			m, err = move(t, from, to, "there")
		}
		if tries < 5 || m.Rows == 0 || m.Before || m.Totals[usage.Requests] != 204 {
			t.Errorf("after %d tries: %+v", tries, m)
		}
		same(t, from, to, now)
		// Once more, and years later, when the store has let go of the position.
		to.left = 1 << 30
		for range 2 {
			if m, err := move(t, from, to, "there"); err != nil || !m.Before {
				t.Errorf("%+v, %v", m, err)
			}
			to.Forget(m.Stream)
		}
	}
}

// A history that has gone is not counted in any more; where it went stays known.
func TestMovedStoreIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	from := pastAndPresent(t, path, time.Now())
	to, other := storetest.NewMemory(), storetest.NewMemory()
	if _, err := move(t, from, to, "there"); err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, from, other, "elsewhere"); !errors.Is(err, usage.ErrMovedElsewhere) || !strings.Contains(err.Error(), "there") {
		t.Error(err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(path, Options{})
	if !errors.Is(err, usage.ErrMoved) || !strings.Contains(err.Error(), "there") || !strings.Contains(err.Error(), "another directory") {
		t.Error(err)
	}
	// A store that was wiped gets all of it again.
	from = open(t, path, Options{Moved: true})
	to.Wipe()
	if m, err := move(t, from, to, "there"); err != nil || m.Before {
		t.Errorf("%+v, %v", m, err)
	}
	same(t, from, to, time.Now())
}

// What may be there already is not sent.
func TestMoveRefusesWhatMayDouble(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	from := pastAndPresent(t, path, time.Now())
	to := &failing{Memory: storetest.NewMemory(), left: 4}
	if _, err := move(t, from, to, "there"); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	to.left = 1 << 30
	a, err := to.Audit(t.Context())
	if err != nil || len(a.Streams) != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	// A copy that was made before the move does not know of it.
	if err := from.SetMoved(t.Context(), usage.Moved{}); err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, from, to, "there"); !errors.Is(err, usage.ErrMovedCopy) {
		t.Error(err)
	}
	if err := from.SetMoved(t.Context(), usage.Moved{To: "there", Genesis: hello(t, to).Genesis, Begun: true}); err != nil {
		t.Fatal(err)
	}
	to.Forget(a.Streams[0].Stream)
	if _, err := move(t, from, to, "there"); !errors.Is(err, usage.ErrMoveLost) {
		t.Error(err)
	}
}

func hello(t *testing.T, s usage.Store) usage.Greeting {
	t.Helper()
	g, err := s.Hello(t.Context(), usage.StreamID{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Rows past their retention stay behind; the months and the totals do not.
func TestMoveLeavesWhatIsExpired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	if err := pastAndPresent(t, path, time.Now()).Close(); err != nil {
		t.Fatal(err)
	}
	later := &clock{time.Now().AddDate(0, 0, 40)}
	from, to := open(t, path, Options{Now: later.now}), storetest.NewMemory()
	to.Now = later.now
	m, err := move(t, from, to, "there")
	if err != nil || m.Expired == 0 || m.Expired >= m.Rows {
		t.Errorf("%+v, %v", m, err)
	}
	same(t, from, to, time.Now())
}
