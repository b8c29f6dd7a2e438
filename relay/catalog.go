package relay

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
)

// Catalog is what an upstream says that it has. It is fetched in the background
// and read at any time; a list that cannot be fetched again stays as it was.
type Catalog struct {
	mu      sync.RWMutex
	models  []provider.Model
	index   map[string]int // of models, by their names
	fetched time.Time
	err     error
}

// Times between two looks at an upstream's list.
const (
	catalogFresh   = 10 * time.Minute
	catalogRetry   = 5 * time.Second
	catalogTimeout = 30 * time.Second
)

// Has says whether the upstream lists the model.
func (c *Catalog) Has(model string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.index[model]
	return ok
}

// Models returns the list; it must not be changed.
func (c *Catalog) Models() []provider.Model {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.models
}

// find returns what the list says of a model; nothing if it is not in it.
func (c *Catalog) find(model string) provider.Model {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if i, ok := c.index[model]; ok {
		return c.models[i]
	}
	return provider.Model{}
}

// Status returns when the list was fetched, zero if never, and what was wrong
// the last time it was tried.
func (c *Catalog) Status() (fetched time.Time, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.fetched, c.err
}

// Discover keeps the catalogues fresh until ctx ends.
func (r *Relay) Discover(ctx context.Context) {
	var wg sync.WaitGroup
	for _, u := range r.Upstreams {
		if u.Catalog != nil {
			wg.Go(func() { r.discover(ctx, u) })
		}
	}
	wg.Wait()
}

func (r *Relay) discover(ctx context.Context, u *Upstream) {
	retry := catalogRetry
	fetched, _ := u.Catalog.Status()
	wait := max(0, catalogFresh-r.Now().Sub(fetched))
	if fetched.IsZero() {
		wait = 0
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.again:
			retry = catalogRetry
		case <-time.After(wait):
		}
		err := r.fetchCatalog(ctx, u)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			wait, retry = catalogFresh, catalogRetry
		default:
			// One whose models are declared may well list none.
			if retry == catalogRetry && u.open() {
				r.Log.Warn("model list not fetched; going on with what is known",
					zap.String("upstream", u.Name), zap.Error(err))
			}
			wait, retry = retry, min(2*retry, catalogFresh)
		}
	}
}

func (r *Relay) fetchCatalog(ctx context.Context, u *Upstream) error {
	ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
	defer cancel()
	models, err := u.Provider.Models(ctx, u.do)
	if errors.Is(err, provider.ErrNoList) {
		models, err = []provider.Model{}, nil
	}
	u.Catalog.mu.Lock()
	defer u.Catalog.mu.Unlock()
	u.Catalog.err = err
	if err != nil {
		return err
	}
	index := make(map[string]int, len(models))
	for i, m := range models {
		index[m.ID] = i
	}
	u.learn(models)
	u.Catalog.models, u.Catalog.index, u.Catalog.fetched = models, index, r.Now()
	return nil
}

// learn tells the provider of the models that its upstream lists.
func (u *Upstream) learn(models []provider.Model) {
	if learner, ok := u.Provider.(provider.Learner); ok && models != nil {
		learner.Learn(models)
	}
}

// do sends a request of floway's own, with the first key that can serve.
func (u *Upstream) do(req *http.Request) (*http.Response, error) {
	lease, err := u.Pool.Take(&keypool.Want{Last: true})
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	return u.doWith(lease.Key(), req)
}

func (u *Upstream) doWith(key int, req *http.Request) (*http.Response, error) {
	req.Header["User-Agent"] = userAgent
	for name, values := range u.Provider.Headers() {
		req.Header[name] = values
	}
	if u.EditHeader != nil {
		u.EditHeader(req, req.Header)
	}
	credential := u.Credentials[key].current()
	if err := credential.Authorize(req); err != nil {
		return nil, err
	}
	res, err := u.Transport.RoundTrip(req)
	if account, ok := credential.(provider.Account); ok && err == nil {
		account.Observe(res.Header)
	}
	return res, err
}

// Check asks the upstream for its models with one of its keys, by its index.
func (u *Upstream) Check(ctx context.Context, key int) ([]provider.Model, error) {
	return u.Provider.Models(ctx, func(req *http.Request) (*http.Response, error) { return u.doWith(key, req) })
}
