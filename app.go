package floway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/floway/floway/relay"
	"github.com/floway/floway/usage/redisstore"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App holds what all floway handlers of a configuration share: defaults, and the
// life of ledgers and stores. It is there by itself once a handler is.
type App struct {
	// Usage is where handlers keep the account that do not say so themselves.
	// Default: the embedded store in Caddy's data directory
	Usage *Usage `json:"usage,omitempty"`

	// Clients may call every handler, in addition to the handler's own.
	Clients []*Client `json:"clients,omitempty"`

	logger   *zap.Logger
	slog     *slog.Logger
	ctx      caddy.Context
	accounts map[string]*account
	handlers []*Handler
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "floway",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision opens nothing: it also runs when a configuration is only checked,
// beside a server that has everything open.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.slog = ctx, ctx.Logger(), ctx.Slogger()
	a.accounts = map[string]*account{}
	return nil
}

// keep returns the account that is kept as u says; handlers that say the same
// share it.
func (a *App) keep(u *Usage, affinity *relay.Affinity) (*account, error) {
	if u.Store == storeOff {
		return nil, nil
	}
	s, err := u.resolve()
	if err != nil {
		return nil, err
	}
	if other, ok := a.accounts[s.log]; ok {
		if other.settings != s {
			return nil, fmt.Errorf("usage: two floway blocks keep their account in %s and say different things of it", s.log)
		}
		return other, nil
	}
	for _, other := range a.accounts {
		o := &other.settings
		if o.sink == s.sink && (o.retention != s.retention || o.url != s.url || o.username != s.username || o.password != s.password) {
			return nil, fmt.Errorf("usage: two floway blocks use the store %s and say different things of it", s.sink)
		}
	}
	acc := newAccount(s, a.slog, affinity)
	a.accounts[s.log] = acc
	return acc, nil
}

// Start opens the ledgers and stores. Apps start in no order, so requests may
// already wait for them.
func (a *App) Start() error {
	for _, acc := range a.accounts {
		if err := acc.open(); err != nil {
			return err
		}
	}
	reachable := a.reachable()
	for _, h := range a.handlers {
		h.start(reachable)
	}
	generations.started(a)
	a.shareHealth()
	return nil
}

// shareHealth exchanges what vendors say of keys, and where conversations live,
// with the other instances, over each Redis that keeps an account.
func (a *App) shareHealth() {
	var seen []*sharedStore
	for _, h := range a.handlers {
		if h.account == nil {
			continue
		}
		store := h.account.books.Load().store
		redis, ok := store.Store.(*redisstore.Store)
		if !ok || slices.Contains(seen, store) {
			continue
		}
		seen = append(seen, store)
		go a.share(a.ctx, store, redis, h.living)
	}
}

// reachable says whether any HTTP server listens to other machines.
func (a *App) reachable() bool {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return false
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		for _, listen := range server.Listen {
			at, err := caddy.ParseNetworkAddress(listen)
			if err != nil || at.IsUnixNetwork() || at.IsFdNetwork() {
				continue
			}
			if ip := net.ParseIP(at.Host); at.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
				return true
			}
		}
	}
	return false
}

// Stop does nothing: requests may still be under way. Cleanup runs later.
func (a *App) Stop() error { return nil }

// Cleanup lets go of the ledgers and stores; the last to do so closes them.
func (a *App) Cleanup() error {
	generations.ended(a)
	var errs []error
	for _, acc := range a.accounts {
		errs = append(errs, acc.close())
	}
	return errors.Join(errs...)
}

// serves adds a handler to those that reports are made of.
func (a *App) serves(h *Handler) { a.handlers = append(a.handlers, h) }

// handlers returns those of the configuration that is being served.
func (g *generationList) handlers() []*Handler {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.apps) == 0 {
		return nil
	}
	return slices.Clone(g.apps[len(g.apps)-1].handlers)
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)

var errNotReady = errors.New("the account is not open")

// use waits until the account is open and keeps it so until release is called.
func (acc *account) use(ctx context.Context) (release func(), err error) {
	if b := acc.books.Load(); b != nil && b.hold() {
		return b.release, nil
	}
	select {
	case <-acc.opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if b := acc.books.Load(); b != nil && b.hold() {
		return b.release, nil
	}
	return nil, errNotReady
}
