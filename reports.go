package floway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/relay"
	"github.com/floway/floway/usage"
)

// What the admin endpoint, the commands and the clients can ask, answered out of
// what is living at that moment.

// parseQuery reads a question about usage: since, until, by, bucket, and a filter
// for each dimension by its name.
func parseQuery(v url.Values, now time.Time) (q usage.Query, err error) {
	for name := range v {
		if !slices.Contains(queryNames, name) {
			return q, fmt.Errorf("unknown parameter %.40q; there are %v", name, queryNames)
		}
	}
	q.Location = time.UTC
	if zone := v.Get("zone"); zone != "" {
		if q.Location, err = time.LoadLocation(zone); err != nil {
			return q, fmt.Errorf("zone: %.40q is no time zone", zone)
		}
	}
	if q.Since, err = usage.ParseSince(v.Get("since"), now, q.Location); err != nil {
		return q, fmt.Errorf("since: %w", err)
	}
	if q.Until, err = usage.ParseUntil(v.Get("until"), now, q.Location); err != nil {
		return q, fmt.Errorf("until: %w", err)
	}
	if b := v.Get("bucket"); b != "" {
		if q.Bucket, err = usage.ParseBucket(b); err != nil {
			return q, err
		}
	}
	for _, names := range v["by"] {
		for name := range splitList(names) {
			d, err := usage.ParseDimension(name)
			if err != nil {
				return q, fmt.Errorf("by: %w", err)
			}
			q.By = append(q.By, d)
		}
	}
	for d := range usage.Dimension(usage.Dimensions) {
		for _, names := range v[d.String()] {
			for name := range splitList(names) {
				q.Where[d] = append(q.Where[d], name)
			}
		}
	}
	return q, nil
}

var queryNames = []string{"since", "until", "zone", "bucket", "by", "format", "store", "client", "group", "upstream", "key", "model"}

// errNoAccount: nobody keeps an account that could be asked.
var errNoAccount = errors.New("no account is kept: usage is off, or no floway block is running")

// errNoStore: the store that was named is none of those that are open.
var errNoStore = errors.New("no account is kept in a store of that name; `caddy floway ledger` lists them")

// maxReportTime bounds how long a report may read from a store.
const maxReportTime = 30 * time.Second

// openStores returns the stores of the configuration that is being served, each
// once, with the ledgers that feed them.
func openStores() []*books {
	var list []*books
	for _, h := range generations.handlers() {
		if h.account == nil {
			continue
		}
		b := h.account.books.Load()
		if b != nil && !slices.ContainsFunc(list, func(o *books) bool { return o.settings.sink == b.settings.sink }) {
			list = append(list, b)
		}
	}
	return list
}

// report answers a question about usage. What was settled before the question is
// in the answer, unless the store cannot be reached in good time.
func report(ctx context.Context, q usage.Query, sink string) (*usage.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, maxReportTime)
	defer cancel()
	list := openStores()
	if sink != "" {
		list = slices.DeleteFunc(list, func(b *books) bool { return b.settings.sink != sink })
	}
	switch len(list) {
	case 0:
		if sink != "" {
			return nil, errNoStore
		}
		return nil, errNoAccount
	case 1:
	default:
		var names []string
		for _, b := range list {
			names = append(names, b.settings.sink)
		}
		return nil, fmt.Errorf("there are several stores; name one of them by store=…: %q", names)
	}
	return list[0].report(ctx, q)
}

// freshness is how long a report waits for the store to take in what is settled.
const freshness = 2 * time.Second

func (b *books) report(ctx context.Context, q usage.Query) (*usage.Result, error) {
	fresh, cancel := context.WithTimeout(ctx, freshness)
	waitForEstimates(fresh, freshness/2)
	_ = b.ledger.Flush(fresh) // else the answer is that of the store as it stands
	cancel()
	return q.Run(ctx, b.store, time.Now())
}

// serveOwnUsage tells a client what it has used, and nobody else.
func (h *Handler) serveOwnUsage(w http.ResponseWriter, r *http.Request, client *access.Client) {
	fail := func(e *dialect.Error) { _, _ = e.Write(w, dialect.Chat) }
	v := r.URL.Query()
	v.Del("client")
	v.Del("store")
	v.Del("key")
	q, err := parseQuery(v, time.Now())
	if err == nil && slices.ContainsFunc(q.By, func(d usage.Dimension) bool { return d == usage.KeyLabel || d == usage.UpstreamName }) {
		err = errors.New("by: a client may ask by group and model")
	}
	if err != nil {
		fail(&dialect.Error{Fault: dialect.Malformed, Message: err.Error()})
		return
	}
	q.Where[usage.UpstreamName], q.Where[usage.KeyLabel] = nil, nil
	q.Where[usage.Client] = []string{client.Name}
	if h.account == nil {
		fail(&dialect.Error{Fault: dialect.NotFound, Message: "this gateway keeps no account"})
		return
	}
	release, err := h.account.use(r.Context())
	if err != nil {
		fail(&dialect.Error{Fault: dialect.Unavailable, Message: "the gateway is not ready yet"})
		return
	}
	defer release()
	ctx, cancel := context.WithTimeout(r.Context(), maxReportTime)
	defer cancel()
	result, err := h.account.books.Load().report(ctx, q)
	if err != nil {
		fail(&dialect.Error{Fault: dialect.Unavailable, Message: "the account cannot be read at the moment"})
		h.logger.Error("reading a client's usage: " + err.Error())
		return
	}
	writeJSON(w, result)
}

// upstreamReport is what is told of one upstream.
type upstreamReport struct {
	Name     string      `json:"name"`
	Provider string      `json:"provider"`
	Policy   string      `json:"lb_policy"`
	Models   []string    `json:"models,omitempty"`
	Listed   int         `json:"listed_models,omitempty"`
	ListErr  string      `json:"list_error,omitempty"`
	Keys     []keyReport `json:"keys"`
}

type keyReport struct {
	Label     string        `json:"label"`
	State     string        `json:"state"`
	Reason    string        `json:"reason,omitempty"`
	Since     *time.Time    `json:"since,omitempty"`
	Until     *time.Time    `json:"until,omitempty"`
	LastError string        `json:"last_error,omitempty"`
	LastAt    *time.Time    `json:"last_error_at,omitempty"`
	InFlight  int           `json:"in_flight"`
	Weight    int           `json:"weight"`
	Served    uint64        `json:"served"`
	Share     float64       `json:"share"`
	Models    []modelReport `json:"models,omitempty"`
	// Account is what is known of the account behind the key, if that is more than
	// the key.
	Account *accountReport `json:"account,omitempty"`
}

// accountReport is what is told of an account. It holds no secret.
type accountReport struct {
	SignIn     string        `json:"sign_in,omitempty"`
	Login      string        `json:"login,omitempty"`
	TokenUntil *time.Time    `json:"token_until,omitempty"`
	Trouble    string        `json:"trouble,omitempty"`
	Quotas     []quotaReport `json:"quotas,omitempty"`
}

type quotaReport struct {
	Name      string     `json:"name"`
	Unlimited bool       `json:"unlimited,omitempty"`
	Entitled  float64    `json:"entitled"`
	Left      float64    `json:"left"`
	Percent   float64    `json:"left_percent"`
	Overage   bool       `json:"overage_permitted,omitempty"`
	Used      float64    `json:"overage,omitempty"`
	Reset     *time.Time `json:"reset,omitempty"`
	Seen      *time.Time `json:"seen,omitempty"`
}

func reportAccount(c *relay.Credential) *accountReport {
	account, ok := c.Account()
	if !ok {
		return nil
	}
	s := account.State()
	r := &accountReport{SignIn: s.SignIn, Login: s.Login, TokenUntil: instant(s.TokenUntil), Trouble: s.Trouble}
	for _, q := range s.Quotas {
		r.Quotas = append(r.Quotas, quotaReport{
			Name: q.Name, Unlimited: q.Unlimited, Entitled: q.Entitled, Left: q.Left, Percent: q.Percent,
			Overage: q.Overage, Used: q.Used, Reset: instant(q.Reset), Seen: instant(q.Seen),
		})
	}
	return r
}

type modelReport struct {
	Model  string     `json:"model"`
	State  string     `json:"state"`
	Reason string     `json:"reason,omitempty"`
	Since  *time.Time `json:"since,omitempty"`
	Until  *time.Time `json:"until,omitempty"`
}

func reportUpstreams() []upstreamReport {
	list := []upstreamReport{}
	for _, h := range generations.handlers() {
		for _, u := range h.Upstreams {
			r := upstreamReport{Name: u.Name, Provider: u.Provider, Policy: u.policy, Models: u.Models}
			if c := u.upstream.Catalog; c != nil {
				r.Listed = len(c.Models())
				if _, err := c.Status(); err != nil {
					r.ListErr = err.Error()
				}
			}
			for i, k := range u.upstream.Pool.States() {
				key := reportKey(k)
				key.Account = reportAccount(u.upstream.Credentials[i])
				r.Keys = append(r.Keys, key)
			}
			list = append(list, r)
		}
	}
	return list
}

// servedReport is who serves one model, in the order in which they are asked.
type servedReport struct {
	Model string          `json:"model"`
	By    []serviceReport `json:"served_by"`
}

type serviceReport struct {
	Upstream   string   `json:"upstream"`
	Name       string   `json:"name"` // of the model at the upstream
	Rule       string   `json:"rule"`
	Native     []string `json:"native,omitempty"`
	Translated []string `json:"translated,omitempty"`
}

// catalogReport is what is known of an upstream's own list.
type catalogReport struct {
	Upstream string     `json:"upstream"`
	Provider string     `json:"provider"`
	Any      bool       `json:"takes_any_name"`
	Declared bool       `json:"declared_only"` // its lines name all models, so it is not asked
	Listed   int        `json:"listed_models"`
	Fetched  *time.Time `json:"fetched,omitempty"`
	Error    string     `json:"error,omitempty"`
}

type modelsReport struct {
	Models    []servedReport  `json:"models"`
	Upstreams []catalogReport `json:"upstreams"`
}

func reportModels() modelsReport {
	report := modelsReport{Models: []servedReport{}, Upstreams: []catalogReport{}}
	for _, h := range generations.handlers() {
		for _, s := range h.relay.Services() {
			if n := len(report.Models); n == 0 || report.Models[n-1].Model != s.Model {
				report.Models = append(report.Models, servedReport{Model: s.Model})
			}
			m := &report.Models[len(report.Models)-1]
			m.By = append(m.By, serviceReport{s.Upstream, s.Sent, s.By.String(), s.Native, s.Translated})
		}
		for _, u := range h.Upstreams {
			r := catalogReport{Upstream: u.Name, Provider: u.Provider, Any: len(u.Models) == 0, Declared: u.upstream.Catalog == nil}
			if c := u.upstream.Catalog; c != nil {
				fetched, err := c.Status()
				r.Listed, r.Fetched = len(c.Models()), instant(fetched)
				if err != nil {
					r.Error = err.Error()
				}
			}
			report.Upstreams = append(report.Upstreams, r)
		}
	}
	return report
}

func reportKey(k keypool.KeyState) keyReport {
	r := keyReport{
		Label: k.Label, State: k.State.String(), Reason: k.Reason, Since: instant(k.Since), Until: instant(k.Until),
		LastAt: instant(k.LastErrorAt), InFlight: k.InFlight, Weight: k.Weight, Served: k.Served, Share: k.Share,
	}
	if k.LastError != keypool.Neutral {
		r.LastError = k.LastError.String()
	}
	for _, m := range k.Models {
		r.Models = append(r.Models, modelReport{m.Model, m.State.String(), m.Reason, instant(m.Since), instant(m.Until)})
	}
	return r
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// checkReport is what became of trying one key.
type checkReport struct {
	Upstream string `json:"upstream"`
	Key      string `json:"key"`
	OK       bool   `json:"ok"`
	Untried  bool   `json:"untried,omitempty"` // there is no call that costs nothing
	Models   int    `json:"models"`
	Error    string `json:"error,omitempty"`
	Millis   int64  `json:"ms"`
}

// checkTimeout bounds the call that tries a key.
const checkTimeout = 20 * time.Second

// checkKeys asks every upstream with every key for its models: a call that costs
// nothing and needs a valid credential.
func checkKeys(ctx context.Context, done func(checkReport)) {
	for _, h := range generations.handlers() {
		for _, u := range h.Upstreams {
			for i, k := range u.upstream.Pool.States() {
				ctx, cancel := context.WithTimeout(ctx, checkTimeout)
				start := time.Now()
				models, err := u.upstream.Check(ctx, i)
				cancel()
				r := checkReport{Upstream: u.Name, Key: k.Label, OK: err == nil, Models: len(models), Millis: time.Since(start).Milliseconds()}
				if err != nil {
					r.Error = err.Error()
				}
				r.Untried = errors.Is(err, provider.ErrNoList)
				done(r)
			}
		}
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	_ = enc.Encode(v)
}
