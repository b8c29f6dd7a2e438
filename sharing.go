package floway

import (
	"context"
	"encoding/json"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/usage/redisstore"
)

// What a vendor said of a key concerns every instance that uses it: through Redis
// they tell each other, best effort and never while a request waits. Failures to
// connect are each instance's own experience and stay here.

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
func (a *App) share(ctx context.Context, store *redisstore.Store, l *living) {
	tick := time.NewTicker(noticeInterval)
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
		}
		if err != nil && !failing && ctx.Err() == nil {
			a.logger.Warn("what vendors say of keys is not shared with other instances at the moment", zap.Error(err))
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
