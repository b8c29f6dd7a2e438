package floway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/floway/floway/relay"
	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/ledger"
)

// account is one generation's use of a ledger and its store. It is made when the
// configuration is read and opened when the app starts.
type account struct {
	settings settings
	log      *slog.Logger
	affinity *relay.Affinity
	books    atomic.Pointer[books]
	opened   chan struct{}
	once     sync.Once
}

func newAccount(s settings, log *slog.Logger, affinity *relay.Affinity) *account {
	return &account{settings: s, log: log, affinity: affinity, opened: make(chan struct{})}
}

// ready says whether attempts can be booked.
func (acc *account) ready() bool { return acc.books.Load() != nil }

// Reserve and Settle make an account a relay.Ledger. A request that books holds
// the books open (see use), so they are there.
func (acc *account) Reserve(r *usage.Record) error { return acc.books.Load().ledger.Reserve(r) }

// Progress books how far an attempt is.
func (acc *account) Progress(r *usage.Record) { acc.books.Load().ledger.Progress(r) }

// Settle books how an attempt ended.
func (acc *account) Settle(r *usage.Record) { acc.books.Load().ledger.Settle(r) }

// Correct books an estimate. It may come when the request is over, and the books
// are closed: they wait for it, but not for long.
func (acc *account) Correct(was, now *usage.Record) { acc.books.Load().ledger.Correct(was, now) }

// estimates counts the tokens that upstreams do not, for all handlers: its bounds
// are those of the process.
var estimates relay.Estimates

func (acc *account) open() error {
	value, shared, err := openBooks.LoadOrNew(acc.settings.log, func() (caddy.Destructor, error) {
		return newBooks(acc.settings, acc.log, acc.affinity)
	})
	if err != nil {
		return err
	}
	b := value.(*books)
	if b.settings.sink != acc.settings.sink {
		_, _ = openBooks.Delete(acc.settings.log)
		return fmt.Errorf("usage: the log in %s belongs to the store %q, which this server still uses, not to %q: give this store a log directory of its own",
			acc.settings.log, b.settings.sink, acc.settings.sink)
	}
	if shared && b.settings != acc.settings {
		acc.log.Warn("changed usage settings take effect when Caddy is restarted", "log", acc.settings.log)
	}
	acc.books.Store(b)
	acc.once.Do(func() { close(acc.opened) })
	return nil
}

func (acc *account) close() error {
	acc.once.Do(func() { close(acc.opened) })
	if acc.books.Load() == nil {
		return nil
	}
	_, err := openBooks.Delete(acc.settings.log)
	return err
}

// openBooks are the ledgers and stores that are open in this process, by the
// ledger's directory. Generations share them.
var openBooks = caddy.NewUsagePool()

// books is an open ledger with the store that it feeds.
type books struct {
	settings settings
	ledger   *ledger.Ledger
	store    *sharedStore
	log      *slog.Logger
	holders  atomic.Int64 // the pool's one, and each request under way
}

func newBooks(s settings, log *slog.Logger, affinity *relay.Affinity) (*books, error) {
	store, err := shareStore(s)
	if err != nil {
		return nil, err
	}
	restored := restore(s.log, affinity)
	b := &books{settings: s, store: store, log: log}
	b.ledger, err = ledger.Open(ledger.Config{
		Dir: s.log, Store: store, Sink: sinkOf(s, store), Durability: s.durability, OnFull: s.onFull, Log: log, Alarm: b.alarm, FS: logFiles,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("usage: %w", err), store.release())
	}
	select {
	case <-restored:
	case <-time.After(restoreTimeout):
	}
	b.holders.Store(1)
	return b, nil
}

// sinkOf is the name by which a log knows its store. An embedded one may have been
// moved to another place together with its log, which then knows the former.
func sinkOf(s settings, store usage.Store) string {
	if s.store != storeEmbedded {
		return s.sink
	}
	who, err := ledger.Identify(s.log)
	if err != nil || who.Genesis == "" {
		return s.sink
	}
	if g, err := store.Hello(context.Background(), who.Stream); err != nil || g.Genesis != who.Genesis {
		return s.sink
	}
	return who.Sink
}

// logFiles is the file layer of ledgers; nil for the operating system's. Tests put
// one in its place whose disk is full.
var logFiles ledger.FS

// alarm makes an event of Caddy's out of trouble, in the name of a handler that
// keeps its account here now. The ledger is quick to say; listeners may be slow.
func (b *books) alarm(a ledger.Alarm) {
	for _, h := range generations.handlers() {
		if h.events == nil || h.account == nil || h.account.books.Load() != b {
			continue
		}
		go h.events.Emit(h.ctx, "floway.ledger_trouble", map[string]any{
			"kind": a.Kind, "over": a.Over, "message": a.Message, "log": b.settings.log, "store": b.settings.sink,
		})
		return
	}
}

// restoreTimeout is how long a start waits for what the log says of conversations;
// a long log is read to its end while requests are served.
const restoreTimeout = time.Second

// restore makes the table of conversations again out of the log. A log that cannot
// be read is the ledger's affair.
func restore(dir string, affinity *relay.Affinity) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		_ = ledger.Read(dir, func(e ledger.Entry) error {
			if e.Kind == ledger.Settled && e.Record.Affinity != "" {
				affinity.Restore(e.Record.Note())
			}
			return nil
		})
	}()
	return done
}

// hold keeps the books open; false if they are closed already.
func (b *books) hold() bool {
	for {
		n := b.holders.Load()
		if n == 0 {
			return false
		}
		if b.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (b *books) release() {
	if b.holders.Add(-1) == 0 {
		b.close()
	}
}

// Destruct is called when no generation uses the books any more. Requests may.
func (b *books) Destruct() error {
	b.release()
	return nil
}

// closeTimeout bounds how long closing waits for a store to take in what is left.
const closeTimeout = 5 * time.Second

func (b *books) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	log := slog.Default()
	waitForEstimates(ctx, closeTimeout/2) // the rest of the time is the store's
	if err := b.ledger.Close(ctx); err != nil {
		log.Warn("floway: closing the ledger; what the store lacks is delivered at the next start", "dir", b.settings.log, "error", err)
	}
	if err := b.store.release(); err != nil {
		log.Warn("floway: closing the store", "error", err)
	}
}

// waitForEstimates waits until what was settled is estimated, or the time is over.
// What comes later leaves the counts by bytes for now.
func waitForEstimates(ctx context.Context, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	_ = estimates.Wait(ctx)
}

func init() {
	// At exit requests that outlive the grace period may still hold books open:
	// what they have settled is delivered, as far as a few seconds go.
	caddy.OnExit(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		waitForEstimates(ctx, closeTimeout/2) // the rest of the time is the store's
		openBooks.Range(func(_, value any) bool {
			if b, ok := value.(*books); ok {
				_ = b.ledger.Flush(ctx)
			}
			return true
		})
	})
}

// sharedStore is a store that several ledgers feed.
type sharedStore struct {
	usage.Store
	sink string

	mu     sync.Mutex
	noted  string // how far the notes of other instances are known
	silent bool   // notes do not get there
}

// stores are the stores that are open in this process, by their identity.
var stores = caddy.NewUsagePool()

func shareStore(s settings) (*sharedStore, error) {
	value, _, err := stores.LoadOrNew(s.sink, func() (caddy.Destructor, error) {
		store, err := s.openStore()
		if err != nil {
			return nil, fmt.Errorf("usage: %w", err)
		}
		return &sharedStore{Store: store, sink: s.sink}, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*sharedStore), nil
}

func (s *sharedStore) release() error {
	_, err := stores.Delete(s.sink)
	return err
}

// Destruct closes the store when its last ledger is closed.
func (s *sharedStore) Destruct() error { return s.Close() }

// generationList holds the apps that were started and not yet cleaned up, the
// newest last. Reports look here when they are asked for, because admin routes
// may belong to a configuration that was refused.
type generationList struct {
	mu   sync.Mutex
	apps []*App
}

var generations generationList

func (g *generationList) started(a *App) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.apps = append(g.apps, a)
}

func (g *generationList) ended(a *App) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, b := range g.apps {
		if b == a {
			g.apps = append(g.apps[:i], g.apps[i+1:]...)
			return
		}
	}
}
