package floway

import (
	"sync"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/relay"
)

// living is what is known of upstreams and conversations and outlives reloads:
// a key that is out of quota is so after a reload as well.
type living struct {
	health   *keypool.Health
	affinity *relay.Affinity
	notices  chan keypool.Notice // for other instances
	accounts provider.Memory
	logins   logins

	mu       sync.Mutex
	catalogs map[string]*relay.Catalog
}

// livingPool holds the one living of the process, while any handler lives.
var livingPool = caddy.NewUsagePool()

const livingKey = "floway"

func joinLiving() (*living, error) {
	value, _, err := livingPool.LoadOrNew(livingKey, func() (caddy.Destructor, error) {
		l := &living{
			affinity: relay.NewAffinity(), notices: make(chan keypool.Notice, noticeQueue),
			catalogs: map[string]*relay.Catalog{},
		}
		l.health = keypool.NewHealth(l.tell)
		return l, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*living), nil
}

func leaveLiving() error {
	_, err := livingPool.Delete(livingKey)
	return err
}

// Destruct ends what waits for people.
func (l *living) Destruct() error {
	l.logins.close()
	return nil
}

// maxCatalogs bounds the lists that are kept for upstreams that are no longer
// configured.
const maxCatalogs = 1000

// catalog returns the list of an upstream, as it was before a reload if nothing
// about the upstream has changed.
func (l *living) catalog(identity string) *relay.Catalog {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.catalogs[identity]; ok {
		return c
	}
	if len(l.catalogs) >= maxCatalogs {
		clear(l.catalogs)
	}
	c := new(relay.Catalog)
	l.catalogs[identity] = c
	return c
}

// keyChanged tells the operator that a key went out or came back: in the log and
// as an event of Caddy's.
func (h *Handler) keyChanged(c keypool.Change) {
	name := "floway.key_back"
	fields := []zap.Field{zap.String("upstream", c.Pool), zap.String("key", c.Label)}
	if c.Out {
		name = "floway.key_out"
		fields = append(fields, zap.Stringer("state", c.State), zap.String("reason", c.Reason), zap.Time("until", c.Until))
		h.logger.Warn("key out", fields...)
	} else {
		h.logger.Info("key back", fields...)
	}
	if h.events == nil {
		return
	}
	// A listener may be slow; the request that found out does not wait for it.
	go h.events.Emit(h.ctx, name, map[string]any{
		"upstream": c.Pool, "key": c.Label, "state": c.State.String(), "reason": c.Reason, "until": c.Until,
	})
}
