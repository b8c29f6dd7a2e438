package floway

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/relay"
	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/redisstore"
)

// What a vendor said of a key concerns every instance that uses it, and so does
// where conversations live: through Redis they tell each other, best effort and
// never while a request waits. Failures to connect are each instance's own
// experience and stay here.

// noticeInterval is how often an instance looks for what others have to say.
const noticeInterval = time.Second

// noticeQueue bounds what waits to be told; under pressure the oldest words are
// worth the least.
const noticeQueue = 256

// tell queues a notice for the other instances. It is called while a request
// waits, so it never does.
func (l *living) tell(n keypool.Notice) {
	select {
	case l.notices <- n:
	default:
	}
}

// share tells and listens until ctx ends.
func (a *App) share(ctx context.Context, shared *sharedStore, store *redisstore.Store, l *living) {
	tick := time.NewTimer(0) // who starts has much to hear
	defer tick.Stop()
	version, failing := "", false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case n := <-l.notices:
			err = tellNotice(ctx, store, n)
		case <-tick.C:
			version, err = l.listen(ctx, store, version)
			if err == nil {
				err = shared.learn(ctx, store, l.affinity)
			}
			tick.Reset(noticeInterval)
		}
		if err != nil && !failing && ctx.Err() == nil {
			a.logger.Warn("what vendors say of keys and where conversations live is not shared with other instances at the moment", zap.Error(err))
		}
		failing = err != nil
	}
}

func tellNotice(ctx context.Context, store *redisstore.Store, n keypool.Notice) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return store.Tell(ctx, noticeName(n), string(text))
}

// noticeName names what a notice is about, so that the next word on it takes the
// place of the last.
func noticeName(n keypool.Notice) string {
	return n.Upstream + "\n" + n.Key + "\n" + n.Model + "\n" + n.State.String()
}

// listen takes in what others have said since the version, and clears away what
// nobody needs to hear any more.
func (l *living) listen(ctx context.Context, store *redisstore.Store, since string) (version string, err error) {
	texts, version, err := store.Told(ctx, since)
	if err != nil || len(texts) == 0 {
		return version, err
	}
	now := time.Now()
	var notices []keypool.Notice
	var stale []string
	for name, text := range texts {
		var n keypool.Notice
		if json.Unmarshal([]byte(text), &n) != nil || n.Until.Before(now.Add(-time.Hour)) && n.At.Before(now.Add(-time.Hour)) {
			stale = append(stale, name)
			continue
		}
		notices = append(notices, n)
	}
	l.health.Merge(now, notices)
	return version, store.Forget(ctx, stale...)
}

// Apply implements usage.Store. What a Redis has taken in, other instances are told
// of: they may get the next request of a conversation.
func (s *sharedStore) Apply(ctx context.Context, b *usage.Batch) (usage.Position, error) {
	p, err := s.Store.Apply(ctx, b)
	redis, ok := s.Store.(*redisstore.Store)
	if err != nil || !ok || len(b.Notes) == 0 {
		return p, err
	}
	failed := redis.Note(ctx, b.Notes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if failed != nil && !s.silent {
		slog.Warn("floway: other instances are not told where conversations live at the moment", "error", failed)
	}
	s.silent = failed != nil
	return p, nil
}

// learn takes in what other instances have noted of conversations since the last
// time; at first, of the last day.
func (s *sharedStore) learn(ctx context.Context, store *redisstore.Store, affinity *relay.Affinity) error {
	for {
		s.mu.Lock()
		since := s.noted
		s.mu.Unlock()
		notes, noted, err := store.Noted(ctx, since)
		if err != nil || len(notes) == 0 && noted == since {
			return err
		}
		now := time.Now()
		for _, n := range notes {
			if n.Time.After(now) { // by another clock
				n.Time = now
			}
			affinity.Restore(n)
		}
		s.mu.Lock()
		s.noted = noted
		s.mu.Unlock()
	}
}
