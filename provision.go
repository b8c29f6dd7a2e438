package floway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/floway/floway/access"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/relay"
)

// Provision checks the configuration and makes everything ready. It opens
// neither files to write nor sockets: the app's Start does.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.ctx, h.logger = ctx, ctx.Logger()
	if err := h.provision(ctx); err != nil {
		return fmt.Errorf("floway: %w", err)
	}
	return nil
}

func (h *Handler) provision(ctx caddy.Context) error {
	app, err := ctx.App("floway")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	h.events = events.(*caddyevents.App)
	if h.living, err = joinLiving(); err != nil {
		return err
	}
	if len(h.Upstreams) == 0 {
		return errors.New("no upstream is configured; write at least one upstream block")
	}
	c := relay.Config{
		Retries: relay.DefaultRetries, TryDuration: relay.DefaultTryDuration,
		Affinity: h.living.affinity, Log: h.logger, Settled: settled,
		Estimates: &estimates, Estimated: countTokens,
		NeverSent: dialFailed, BodyStatus: handlerStatus,
	}
	if err := h.limits(&c); err != nil {
		return err
	}
	for i, u := range h.Upstreams {
		if u == nil {
			return fmt.Errorf("upstream %d is null", i+1)
		}
		if err := u.provision(ctx, h); err != nil {
			return fmt.Errorf("%s: %w", u.what(), err)
		}
		c.Upstreams = append(c.Upstreams, u.upstream)
	}
	for i, r := range h.Routes {
		if r == nil {
			return fmt.Errorf("route %d is null", i+1)
		}
		route, err := r.route()
		if err != nil {
			return fmt.Errorf("route %s: %w", r.Model, err)
		}
		c.Routes = append(c.Routes, route)
	}
	if err := h.provisionClients(); err != nil {
		return err
	}
	where := h.Usage
	if where == nil {
		where = h.app.Usage
	}
	if where == nil {
		where = new(Usage)
	}
	if h.account, err = h.app.keep(where, h.living.affinity); err != nil {
		return err
	}
	if h.account != nil {
		c.Ledger = h.account
	} else {
		h.logger.Warn("usage is off: no account of requests is kept")
	}
	if h.relay, err = relay.New(c); err != nil {
		return err
	}
	if err := registerMetrics(ctx); err != nil {
		return err
	}
	h.app.serves(h)
	return nil
}

// start begins what runs in the background, until Cleanup.
func (h *Handler) start(reachable bool) {
	background, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go h.relay.Discover(background)
	if len(h.secrets) > 0 {
		go h.watchSecrets(background)
	}
	if len(h.seats) > 0 {
		go h.watchSeats(background)
	}
	if h.Anonymous != "" && reachable {
		h.logger.Warn("anonymous is on, and not only this machine can call: requests without a valid key are served",
			zap.String("client", h.Anonymous))
	}
}

func (h *Handler) limits(c *relay.Config) error {
	if h.LBRetries != nil {
		if c.Retries = *h.LBRetries; c.Retries < 0 {
			return errors.New("lb_retries cannot be negative")
		}
	}
	switch {
	case h.LBTryDuration < 0:
		return errors.New("lb_try_duration cannot be negative")
	case h.MaxBody < 0 || h.MaxBuffered < 0:
		return errors.New("max_body and max_buffered cannot be negative")
	}
	if h.LBTryDuration > 0 {
		c.TryDuration = time.Duration(h.LBTryDuration)
	}
	c.MaxBody, c.MaxBuffered = bodyBound(h.MaxBody), bufferBound(h.MaxBuffered)
	if c.MaxBody > c.MaxBuffered {
		return errors.New("max_buffered must not be less than max_body")
	}
	return nil
}

func bodyBound(configured int64) int64 { return cmp.Or(configured, relay.DefaultMaxBody) }

func bufferBound(configured int64) int64 { return cmp.Or(configured, relay.DefaultMaxBuffered) }

func (u *Upstream) provision(ctx caddy.Context, h *Handler) error {
	if u.Name == "" {
		u.Name = u.Provider
	}
	if !access.WellFormedLabel(u.Name) {
		return errors.New("the name must be 1 to 32 of the characters A-Z a-z 0-9 . _ -")
	}
	kind, ok := provider.Lookup(u.Provider)
	if !ok {
		return fmt.Errorf("unknown provider %q; there are %s", u.Provider, strings.Join(provider.Names(), ", "))
	}
	transport := new(lateTransport)
	config := provider.Config{
		Name: u.Name, Dialects: u.Dialects, Options: map[string][]string{},
		Storage: ctx.Storage(), Transport: transport, Memory: &h.living.accounts,
	}
	var err error
	if config.BaseURL, err = resolve(u.BaseURL); err != nil {
		return fmt.Errorf("base_url: %w", err)
	}
	if config.BaseURL == "" && kind.NeedsURL {
		return errors.New("base_url is missing; this provider has no default")
	}
	for name, args := range u.Options {
		if !slices.Contains(kind.Options, name) {
			return fmt.Errorf("%s is no option of the provider %s", name, u.Provider)
		}
		config.Options[name] = make([]string, len(args))
		for i, a := range args {
			v, err := resolve(a)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			config.Options[name][i] = strings.TrimSpace(v) // files end in a new line
		}
	}
	if _, ok := config.Options[kind.Identity]; ok && len(u.Keys) > 0 {
		return keysBeside(kind.Identity)
	}
	if kind.Keyless && len(u.Keys) > 0 {
		return fmt.Errorf("the provider %s takes no keys", u.Provider)
	}
	if kind.NeedsKey && len(u.Keys) == 0 {
		return fmt.Errorf("the provider %s needs a key", u.Provider)
	}
	made, err := kind.New(config)
	if err != nil {
		return u.unresolved(err, &config)
	}
	up := &relay.Upstream{
		Name: u.Name, Provider: made,
		FirstByte: cmp.Or(time.Duration(u.FirstByteTimeout), kind.FirstByte), Idle: time.Duration(u.IdleTimeout),
		DefaultMaxTokens: int64(u.DefaultMaxTokens),
	}
	if u.DefaultMaxTokens < 0 {
		return errors.New("default_max_tokens cannot be negative")
	}
	if u.FirstByteTimeout < 0 || u.IdleTimeout < 0 {
		return errors.New("time-outs cannot be negative")
	}
	for _, m := range u.Models {
		if m == "" {
			return errors.New("models: a name is empty")
		}
		up.Models = append(up.Models, access.Pattern(m))
	}
	for _, a := range u.Aliases {
		if a.Name == "" || a.Model == "" || strings.Contains(a.Name, "*") {
			return fmt.Errorf("alias %q: a public name without * and the upstream's own were expected", a.Name)
		}
		up.Aliases = append(up.Aliases, relay.Alias{Public: a.Name, Model: a.Model})
	}
	if err := u.provisionKeys(h, up, kind); err != nil {
		return err
	}
	u.watchIdentity(h, up, kind, config)
	if len(u.Models) == 0 || kind.ByModel || slices.ContainsFunc(up.Models, func(p access.Pattern) bool { return !p.Literal() }) {
		up.Catalog = h.living.catalog(u.Provider + " " + u.Name + " " + config.BaseURL + " " + strings.Join(up.KeyIDs, " "))
	}
	if err := u.provisionTransport(ctx, h, up, config.BaseURL); err != nil {
		return err
	}
	transport.RoundTripper = up.Transport
	if u.Headers != nil {
		if err := u.Headers.Provision(ctx); err != nil {
			return fmt.Errorf("header_up: %w", err)
		}
		up.EditHeader = func(r *http.Request, header http.Header) {
			repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			if repl == nil {
				repl = caddy.NewReplacer()
			}
			u.Headers.ApplyTo(header, repl)
		}
	}
	u.upstream = up
	return nil
}

// unresolved is an error of the provider's in the words of the configuration: what
// placeholders stand for is not shown.
func (u *Upstream) unresolved(err error, c *provider.Config) error {
	said := err.Error()
	if c.BaseURL != u.BaseURL {
		said = strings.ReplaceAll(said, c.BaseURL, u.BaseURL)
	}
	for name, args := range u.Options {
		for i, a := range args {
			if a != c.Options[name][i] {
				said = strings.ReplaceAll(said, c.Options[name][i], a)
			}
		}
	}
	return errors.New(said)
}

func (u *Upstream) provisionKeys(h *Handler, up *relay.Upstream, kind provider.Kind) error {
	policy, err := keyPolicy(u.LBPolicy, slices.ContainsFunc(u.Keys, func(k Key) bool { return k.Weight != 0 }))
	if err != nil {
		return err
	}
	if u.MaxRequests < 0 {
		return errors.New("max_requests cannot be negative")
	}
	u.policy = policy.String()
	up.Sticky = policy == keypool.Sticky
	keys := u.Keys
	if len(keys) == 0 {
		keys = []Key{{Label: "none"}}
		if _, ok := u.Options[kind.Identity]; ok {
			keys[0].Label = kind.Identity
		}
	}
	pool := keypool.Config{
		Name: u.Name, Identity: u.Provider + " " + u.Name + " " + u.BaseURL,
		Policy: policy, MaxRequests: u.MaxRequests, Health: h.living.health, OnChange: h.keyChanged,
	}
	labels, ids := map[string]bool{}, map[string]string{}
	for i, k := range keys {
		label := k.Label
		if label == "" {
			label = fmt.Sprintf("key%d", i+1)
		}
		if !access.WellFormedLabel(label) {
			return fmt.Errorf("key %d: the label must be 1 to 32 of the characters A-Z a-z 0-9 . _ -", i+1)
		}
		if labels[label] {
			return fmt.Errorf("two keys have the label %s", label)
		}
		labels[label] = true
		if k.Weight < 0 {
			return fmt.Errorf("key %s: the weight cannot be negative", label)
		}
		var secret provider.Secret
		if len(u.Keys) > 0 {
			if secret, err = resolveSecret(k.Secret); err != nil {
				return fmt.Errorf("key %s: %w", label, err)
			}
			if other, twice := ids[secret.ID()]; twice {
				return fmt.Errorf("the keys %s and %s are the same", other, label)
			}
			ids[secret.ID()] = label
			if name, ok := provider.SignInName(secret.Reveal()); ok {
				if err := checkSignIn(name, kind, u.Provider); err != nil {
					return fmt.Errorf("key %s: %w", label, err)
				}
				if registrar, ok := up.Provider.(provider.Registrar); ok {
					h.seats = append(h.seats, &seat{name: name, upstream: up, index: i, label: label, signIns: registrar.SignIns()})
				}
			}
		}
		credential := new(relay.Credential)
		credential.Set(up.Provider.Credential(secret))
		up.Credentials = append(up.Credentials, credential)
		id := secret.ID()
		up.KeyIDs = append(up.KeyIDs, id)
		pool.Keys = append(pool.Keys, keypool.Key{Label: label, Weight: max(k.Weight, 1), ID: id})
		if inFile(k.Secret) {
			h.secrets = append(h.secrets, &fileSecret{config: k.Secret, now: secret, set: func(s provider.Secret) {
				credential.Set(up.Provider.Credential(s))
				_ = up.Pool.Reset(label) // what was known is about another key
			}})
		}
	}
	up.Pool = keypool.New(pool)
	return nil
}

// watchIdentity sees to it that a secret of the option in the place of keys is read
// again when its file changes, as keys are.
func (u *Upstream) watchIdentity(h *Handler, up *relay.Upstream, kind provider.Kind, c provider.Config) {
	for i, a := range u.Options[kind.Identity] {
		if !inFile(a) {
			continue
		}
		words := c.Options[kind.Identity]
		h.secrets = append(h.secrets, &fileSecret{config: a, now: provider.NewSecret(words[i]), set: func(s provider.Secret) {
			words[i] = s.Reveal()
			made, err := kind.New(c)
			if err != nil {
				h.logger.Warn("a secret that was read again is of no use", zap.String("upstream", u.Name), zap.Error(u.unresolved(err, &c)))
				return
			}
			up.Credentials[0].Set(made.Credential(provider.Secret{}))
			_ = up.Pool.Reset(kind.Identity) // what was known is about another secret
		}})
	}
}

// checkSignIn says what is wrong with a key that stands for a sign-in.
func checkSignIn(name string, kind provider.Kind, of string) error {
	if !kind.SignsIn {
		return fmt.Errorf("%s<name> is for providers whose accounts are signed in, such as copilot; %s takes a secret", provider.SignInPrefix, of)
	}
	return provider.CheckSignInName(name)
}

// minSecret is the length below which a secret is none: an unset variable leaves
// other words of the line in its place.
const minSecret = 8

func resolveSecret(configured string) (provider.Secret, error) {
	if configured == "" {
		return provider.Secret{}, errors.New("the secret is empty")
	}
	s, err := resolve(configured)
	if err != nil {
		return provider.Secret{}, placeholderError(configured, err)
	}
	s = strings.TrimSpace(s)
	switch {
	case len(s) < minSecret:
		return provider.Secret{}, fmt.Errorf("the secret is shorter than %d characters; is a variable unset?", minSecret)
	case strings.ContainsAny(s, "\r\n\x00"):
		return provider.Secret{}, errors.New("the secret has more than one line")
	}
	return provider.NewSecret(s), nil
}

// placeholderError repeats err only if it speaks of nothing but a variable or a
// file: a brace may as well be part of a secret.
func placeholderError(configured string, err error) error {
	for _, prefix := range []string{"{env.", "{file."} {
		if strings.HasPrefix(configured, prefix) && strings.Count(configured, "{") == 1 && strings.HasSuffix(configured, "}") {
			return err
		}
	}
	return errors.New("its placeholder is unknown or has no value; there are {env.NAME} and {file./path}, and a brace that belongs to the secret is written \\{")
}

func keyPolicy(name string, weighted bool) (keypool.Policy, error) {
	if name == "" {
		if weighted {
			return keypool.WeightedRoundRobin, nil
		}
		return keypool.RoundRobin, nil
	}
	return parsePolicy(name, weighted)
}

func parsePolicy(name string, weighted bool) (keypool.Policy, error) {
	p, err := keypool.ParsePolicy(name)
	if err != nil {
		return p, fmt.Errorf("lb_policy: %w", err)
	}
	if weighted && p != keypool.WeightedRoundRobin && p != keypool.Sticky && p != keypool.LeastConn {
		return p, fmt.Errorf("a weight has no meaning under lb_policy %s", name)
	}
	return p, nil
}

// provisionTransport loads Caddy's transport with floway's defaults.
func (u *Upstream) provisionTransport(ctx caddy.Context, h *Handler, up *relay.Upstream, baseURL string) error {
	if up.Transport = up.Provider.Transport(); up.Transport != nil {
		if u.TransportRaw != nil {
			return fmt.Errorf("transport: the provider %s needs none", u.Provider)
		}
		return nil
	}
	t := map[string]any{}
	if u.TransportRaw != nil {
		if err := json.Unmarshal(u.TransportRaw, &t); err != nil {
			return fmt.Errorf("transport: %w", err)
		}
	}
	if p, ok := t["protocol"]; ok && p != "http" {
		return fmt.Errorf("transport: %v is not supported; there is http", p)
	}
	for field, instead := range map[string]string{
		"response_header_timeout": "first_byte_timeout", "read_timeout": "idle_timeout", "proxy_protocol": "nothing",
	} {
		if _, ok := t[field]; ok {
			return fmt.Errorf("transport: %s is not supported here; %s serves", field, instead)
		}
	}
	if at, err := url.Parse(baseURL); err == nil && at.Scheme == "http" && t["tls"] != nil {
		return errors.New("transport: tls is set and base_url begins with http://, which speaks without it")
	}
	t["protocol"] = "http"
	if _, ok := t["compression"]; !ok {
		// Packed streams are held up by whoever packs them, and usage is read
		// from what passes.
		t["compression"] = false
	}
	keepAlive, _ := t["keep_alive"].(map[string]any)
	if keepAlive == nil {
		keepAlive = map[string]any{}
	}
	if _, ok := keepAlive["max_idle_conns_per_host"]; !ok {
		keepAlive["max_idle_conns_per_host"] = 1024
	}
	t["keep_alive"] = keepAlive
	raw, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	u.TransportRaw = raw
	mod, err := ctx.LoadModule(u, "TransportRaw")
	if err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	up.Transport = mod.(http.RoundTripper)
	if t, ok := mod.(*reverseproxy.HTTPTransport); ok && t.Transport != nil {
		h.transports = append(h.transports, t.Transport)
	}
	return nil
}

func (r *Route) route() (*relay.Route, error) {
	if r.Model == "" {
		return nil, errors.New("the model's name is missing")
	}
	weighted := slices.ContainsFunc(r.To, func(t Target) bool { return t.Weight != 0 })
	route := &relay.Route{Pattern: access.Pattern(r.Model), Policy: keypool.First}
	var err error
	switch {
	case r.LBPolicy != "":
		if route.Policy, err = parsePolicy(r.LBPolicy, weighted); err != nil {
			return nil, err
		}
	case weighted:
		route.Policy = keypool.WeightedRoundRobin
	}
	for _, t := range r.To {
		upstream, model, ok := strings.Cut(t.Target, "/")
		if !ok {
			upstream, model = "", t.Target
		}
		switch {
		case model == "" || ok && upstream == "":
			return nil, fmt.Errorf("to %q: <upstream>/<model> or <model> was expected", t.Target)
		case model != "*" && strings.Contains(model, "*"):
			return nil, fmt.Errorf("to %q: a target is one model, or * alone for the name that was asked for", t.Target)
		case model == "*" && upstream == "" && r.Model == "*":
			// harmless: the rules decide, as they would without the route
		case t.Weight < 0:
			return nil, fmt.Errorf("to %q: the weight cannot be negative", t.Target)
		}
		route.To = append(route.To, relay.RouteTarget{Upstream: upstream, Model: model, Weight: max(t.Weight, 1)})
	}
	return route, nil
}

// person is a client with its keys as they are configured.
type person struct {
	client *access.Client
	keys   []string
}

func (h *Handler) provisionClients() error {
	for _, c := range append(slices.Clone(h.app.Clients), h.Clients...) {
		if c == nil {
			return errors.New("a client is null")
		}
		p, err := h.person(c)
		if err != nil {
			return fmt.Errorf("client %s: %w", c.Name, err)
		}
		if end := p.client.Expires; !end.IsZero() && end.Before(time.Now()) {
			h.logger.Warn("the time of a client is over: its requests are refused", zap.String("client", c.Name), zap.Time("since", end))
		}
		h.people = append(h.people, p)
	}
	if err := h.loadClients(); err != nil {
		return err
	}
	if len(h.people) == 0 {
		h.logger.Warn("no client is declared: every request will be refused; write a client block, or make a key with `caddy floway key`")
	}
	return nil
}

func (h *Handler) person(c *Client) (*person, error) {
	if !access.WellFormedLabel(c.Name) {
		return nil, errors.New("the name must be 1 to 32 of the characters A-Z a-z 0-9 . _ -")
	}
	client := &access.Client{Name: c.Name, Group: c.Group, Upstreams: c.Upstreams}
	if c.Group != "" && !access.WellFormedGroup(c.Group) {
		return nil, errors.New("group: it must be 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
	}
	for _, g := range c.Groups {
		if g == "" || !access.WellFormedGroup(strings.ReplaceAll(g, "*", "x")) {
			return nil, fmt.Errorf("groups: %q can match no group", g)
		}
		client.Groups = append(client.Groups, access.Pattern(g))
	}
	for _, m := range c.Models {
		if m == "" {
			return nil, errors.New("models: a pattern is empty")
		}
		client.Models = append(client.Models, access.Pattern(m))
	}
	for _, name := range c.Upstreams {
		if !slices.ContainsFunc(h.Upstreams, func(u *Upstream) bool { return u.Name == name }) {
			return nil, fmt.Errorf("upstreams: there is no upstream %q", name)
		}
	}
	var err error
	if client.Expires, err = parseExpiry(c.Expires); err != nil {
		return nil, err
	}
	for i, k := range c.Keys {
		if inFile(k) {
			h.secrets = append(h.secrets, &fileSecret{config: k, client: true})
		}
		if k == "" {
			return nil, fmt.Errorf("key %d is empty", i+1)
		}
	}
	return &person{client: client, keys: c.Keys}, nil
}

func parseExpiry(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("expires: %s is neither a date such as 2027-12-31 nor a time such as 2027-12-31T12:00:00Z", quoted(s))
	}
	return t, nil
}

// loadClients makes the list of clients out of the keys as they resolve now.
func (h *Handler) loadClients() error {
	list := access.NewClients()
	for _, p := range h.people {
		var digests []access.Digest
		for i, k := range p.keys {
			d, err := digestOf(k)
			if err != nil {
				return fmt.Errorf("client %s: key %d: %w", p.client.Name, i+1, err)
			}
			digests = append(digests, d)
		}
		if err := list.Add(p.client, digests...); err != nil {
			return err
		}
	}
	if h.Anonymous != "" {
		if err := list.SetAnonymous(h.Anonymous); err != nil {
			return err
		}
	}
	h.clients.Store(list)
	return nil
}

func digestOf(configured string) (access.Digest, error) {
	s, err := resolveSecret(configured)
	if err != nil {
		return access.Digest{}, err
	}
	if hex, ok := strings.CutPrefix(s.Reveal(), "sha256:"); ok {
		return access.ParseDigest(hex)
	}
	return access.DigestOf(s.Reveal()), nil
}

// Cleanup ends what runs in the background. Requests may still be under way.
func (h *Handler) Cleanup() error {
	h.retired.Store(true)
	if h.stop != nil {
		h.stop()
	}
	if h.living != nil {
		return leaveLiving()
	}
	return nil
}

// leave is called at the end of each request. The transports of a configuration
// that is not in use any more close their idle connections at Cleanup, and keep
// those that a request made after it: nobody would use them again.
func (h *Handler) leave() {
	if !h.retired.Load() {
		return
	}
	for _, t := range h.transports {
		t.CloseIdleConnections()
	}
}

// fileSecret is a secret that stands in a file and may change there.
type fileSecret struct {
	config string
	now    provider.Secret
	set    func(provider.Secret)
	client bool // a client's key: the whole list is made anew
}

func inFile(configured string) bool { return strings.Contains(configured, "{file.") }

// secretInterval is how often files with secrets are looked at.
const secretInterval = time.Minute

func (h *Handler) watchSecrets(ctx context.Context) {
	tick := time.NewTicker(secretInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.readSecrets()
		}
	}
}

// readSecrets takes over what has changed. A file that cannot be read leaves the
// secret as it was.
func (h *Handler) readSecrets() {
	clients := false
	for _, f := range h.secrets {
		if f.client {
			clients = true
			continue
		}
		s, err := resolveSecret(f.config)
		switch {
		case err != nil:
			h.logger.Warn("a secret cannot be read again; going on with the old one", zap.Error(err))
		case s != f.now:
			f.now = s
			f.set(s)
			h.logger.Info("a secret was read again from its file", zap.Stringer("fingerprint", s))
		}
	}
	if clients {
		if err := h.loadClients(); err != nil {
			h.logger.Warn("client keys cannot be read again; going on with the old ones", zap.Error(err))
		}
	}
}
