package floway

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/dustin/go-humanize"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("floway", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(Handler)
		return handler, handler.read(h.Dispenser, globalClients(h.Option("floway")))
	})
	httpcaddyfile.RegisterDirectiveOrder("floway", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterGlobalOption("floway", parseGlobalOption)
}

// UnmarshalCaddyfile reads a floway block:
//
//	floway [<matcher>] {
//		upstream <provider> [<name>] {
//			key                <secret | signin:name> [as <label>] [weight <n>]
//			base_url           <url>
//			models             <pattern...>
//			alias              <public> <upstream-model>
//			dialects           <dialect...>
//			lb_policy          round_robin | weighted_round_robin | least_conn | random | first | sticky
//			max_requests       <n>
//			default_max_tokens <n>
//			header_up          [+|-]<field> [<value>]
//			first_byte_timeout <duration>
//			idle_timeout       <duration>
//			transport http {
//				...
//			}
//			<option of the provider> <value>
//		}
//		route <public-model-pattern> {
//			to        [<upstream>/]<model> [weight <n>]
//			lb_policy <policy>
//		}
//		client <name> {
//			key       <secret | sha256:hex>
//			group     <name>
//			groups    <pattern...>
//			models    <pattern...>
//			upstreams <name...>
//			expires   <date | time>
//		}
//		anonymous       <client>
//		lb_retries      <n>
//		lb_try_duration <duration>
//		max_body        <size>
//		max_buffered    <size>
//		usage embedded [<dir>] {
//			log         <dir>
//			durability  process | batch | strict
//			on_log_full refuse | continue
//			retention {
//				hours <duration>
//				days  <duration>
//			}
//		}
//		usage redis <url> {
//			username  <name>
//			password  <secret>
//			namespace <name>
//			...
//		}
//		usage off
//	}
//
// Blocks are written over several lines. Everything has a default but the
// upstreams.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return h.read(d, nil) }

// read reads a block beside the clients of the global option.
func (h *Handler) read(d *caddyfile.Dispenser, everywhere []*Client) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("unexpected %s: floway takes no argument but a matcher, and a block", quoted(d.Val()))
	}
	p := newParser(d)
	for _, c := range everywhere {
		p.declared(c)
	}
	for d.NextBlock(0) {
		name := d.Val()
		var err error
		switch name {
		case "upstream":
			err = p.upstream(h)
		case "route":
			err = p.route(h)
		case "client":
			err = p.client(&h.Clients)
		case "anonymous":
			err = p.anonymous(h)
		case "lb_retries":
			var n int
			if n, err = p.count(name, 0); err == nil {
				h.LBRetries = &n
			}
		case "lb_try_duration":
			h.LBTryDuration, err = p.duration(name)
		case "max_body":
			h.MaxBody, err = p.size(name)
			p.bounds(h)
		case "max_buffered":
			h.MaxBuffered, err = p.size(name)
			p.bounds(h)
		case "usage":
			h.Usage, err = p.usage()
		default:
			err = p.unknown(name, "floway", blockNames)
		}
		if err != nil {
			return err
		}
	}
	return p.finish(h)
}

// parseGlobalOption reads the option that gives every floway block its defaults:
//
//	{
//		floway {
//			usage  ...
//			client <name> {
//				...
//			}
//		}
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next()
	if existing != nil {
		return nil, d.Err("the global option floway stands here a second time")
	}
	if d.NextArg() {
		return nil, d.Errf("unexpected %s: the option floway takes a block and no argument", quoted(d.Val()))
	}
	app := new(App)
	p := newParser(d)
	for d.NextBlock(0) {
		name := d.Val()
		var err error
		switch name {
		case "usage":
			app.Usage, err = p.usage()
		case "client":
			err = p.client(&app.Clients)
		default:
			err = p.unknown(name, "the global option floway", "usage, client")
		}
		if err != nil {
			return nil, err
		}
	}
	return httpcaddyfile.App{Name: "floway", Value: caddyconfig.JSON(app, nil)}, nil
}

// globalClients are those of the global option, which Caddy reads first.
func globalClients(option any) []*Client {
	var app App
	if a, ok := option.(httpcaddyfile.App); !ok || json.Unmarshal(a.Value, &app) != nil {
		return nil
	}
	return app.Clients
}

// parser reads one block. Its errors say where and what was expected; they never
// repeat a word that may be a secret.
type parser struct {
	*caddyfile.Dispenser
	seen      map[string]bool // single-valued subdirectives of the block at hand
	upstreams map[string]bool
	clients   map[string]*Client
	keys      map[string]string // client keys as they are written, and whose they are
	later     []func() error    // what can be checked when all was read
}

func newParser(d *caddyfile.Dispenser) *parser {
	return &parser{Dispenser: d, seen: map[string]bool{}, upstreams: map[string]bool{}, clients: map[string]*Client{}, keys: map[string]string{}}
}

// finish checks what the order of the lines does not allow to check earlier.
func (p *parser) finish(h *Handler) error {
	if len(h.Upstreams) == 0 {
		return p.Err("a floway block needs at least one upstream")
	}
	for _, check := range p.later {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// bounds checks max_body against max_buffered once both may have been read.
func (p *parser) bounds(h *Handler) {
	here := p.at()
	p.later = append(p.later, func() error {
		if bodyBound(h.MaxBody) > bufferBound(h.MaxBuffered) {
			return here("max_body: %d bytes are more than max_buffered, which is %d", bodyBound(h.MaxBody), bufferBound(h.MaxBuffered))
		}
		return nil
	})
}

func (p *parser) anonymous(h *Handler) error {
	if err := p.once("anonymous"); err != nil {
		return err
	}
	name, err := p.one("anonymous", "the name of a client")
	switch {
	case err != nil:
		return err
	case looksSecret(name) || !access.WellFormedLabel(name):
		return p.Errf("anonymous: %s is no name of a client", quoted(name))
	}
	h.Anonymous = name
	here := p.at()
	p.later = append(p.later, func() error {
		switch c := p.clients[name]; {
		case c == nil:
			return here("anonymous: there is no client %s; declare it without keys: client %s", quoted(name), name)
		case len(c.Keys) > 0:
			return here("anonymous: the client %s has keys; name one that has none", name)
		}
		return nil
	})
	return nil
}

// inner runs f with a fresh list of what was seen: for a block within a block.
func (p *parser) inner(f func() error) error {
	outer := p.seen
	p.seen = map[string]bool{}
	err := f()
	p.seen = outer
	return err
}

// at makes an error about the line that is being read now, to be used later.
func (p *parser) at() func(format string, args ...any) error {
	file, line := p.File(), p.Line()
	return func(format string, args ...any) error {
		return fmt.Errorf("%s, at %s:%d", fmt.Sprintf(format, args...), file, line)
	}
}

func (p *parser) upstream(h *Handler) error {
	args, err := p.args()
	switch {
	case err != nil:
		return err
	case len(args) == 0:
		return p.Errf("upstream: the provider is missing; there are %s", strings.Join(provider.Names(), ", "))
	case len(args) > 2:
		return p.Errf("upstream: %d words follow, a provider and a name were expected", len(args))
	}
	u := &Upstream{Provider: args[0]}
	kind, ok := provider.Lookup(u.Provider)
	if !ok {
		return p.Errf("upstream: unknown provider %s; there are %s", quoted(u.Provider), strings.Join(provider.Names(), ", "))
	}
	name := u.Provider
	if len(args) == 2 {
		name, u.Name = args[1], args[1]
	}
	switch {
	case looksSecret(name):
		return p.Err("upstream: the name looks like a secret; write the key on a line of its own: key <secret>")
	case !access.WellFormedLabel(name):
		return p.Errf("upstream: the name %s must be 1 to 32 of the characters A-Z a-z 0-9 . _ -", quoted(name))
	case p.upstreams[name]:
		return p.Errf("upstream: %q is there already; give this one another name: upstream %s <name>", name, u.Provider)
	}
	p.upstreams[name] = true
	h.Upstreams = append(h.Upstreams, u)
	return p.inner(func() error { return p.upstreamBlock(u, kind) })
}

func (p *parser) upstreamBlock(u *Upstream, kind provider.Kind) error {
	labels := map[string]bool{}
	aliases := map[string]bool{}
	var weighted, transport, identity func(string, ...any) error
	here := p.at()
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		var err error
		switch name {
		case "key":
			err = p.upstreamKey(u, kind, labels)
			if err == nil && u.Keys[len(u.Keys)-1].Weight != 0 && weighted == nil {
				weighted = p.at()
			}
		case "base_url":
			if err = p.once(name); err == nil {
				u.BaseURL, err = p.one(name, "an address such as https://api.openai.com/v1")
			}
		case "models":
			u.Models, err = p.more(u.Models, name, "one or more model names or patterns")
		case "alias":
			var args []string
			if args, err = p.args(); err == nil {
				switch {
				case len(args) != 2:
					err = p.Errf("alias: a public name and the upstream's own name were expected, not %d words", len(args))
				case args[0] == "" || args[1] == "":
					err = p.Err("alias: a name is empty, perhaps because an environment variable is not set")
				case strings.Contains(args[0], "*"):
					err = p.Errf("alias: the public name %q is a pattern; an alias is one name", args[0])
				case aliases[args[0]]:
					err = p.Errf("alias: %q is there already", args[0])
				default:
					aliases[args[0]] = true
					u.Aliases = append(u.Aliases, Alias{Name: args[0], Model: args[1]})
				}
			}
		case "dialects":
			if u.Dialects, err = p.more(u.Dialects, name, "one or more of "+strings.Join(dialect.Features, ", ")); err == nil {
				for _, f := range u.Dialects {
					if !slices.Contains(dialect.Features, f) {
						err = p.Errf("dialects: %s is none; there are %s", quoted(f), strings.Join(dialect.Features, ", "))
					}
				}
			}
		case "lb_policy":
			u.LBPolicy, err = p.policy()
		case "max_requests":
			u.MaxRequests, err = p.count(name, 1)
		case "default_max_tokens":
			u.DefaultMaxTokens, err = p.count(name, 1)
		case "header_up":
			err = p.headerUp(u)
		case "first_byte_timeout":
			u.FirstByteTimeout, err = p.duration(name)
		case "idle_timeout":
			u.IdleTimeout, err = p.duration(name)
		case "transport":
			transport = p.at()
			err = p.transport(u)
		default:
			if name == kind.Identity {
				identity = p.at()
			}
			err = p.option(u, kind, name)
		}
		if err != nil {
			return err
		}
	}
	if identity != nil && len(u.Keys) > 0 {
		return identity("%s", keysBeside(kind.Identity))
	}
	if weighted != nil && u.LBPolicy != "" {
		if _, err := parsePolicy(u.LBPolicy, true); err != nil {
			return weighted("%s", err)
		}
	}
	if transport != nil && strings.HasPrefix(u.BaseURL, "http://") && speaksTLS(u.TransportRaw) {
		return transport("transport: tls is set and base_url begins with http://, which speaks without it")
	}
	if kind.NeedsKey && len(u.Keys) == 0 {
		return here("upstream %s: a key is missing; write one: key %s<name>", u.Provider, provider.SignInPrefix)
	}
	return u.refused(kind, here)
}

// keysBeside says that an upstream has both keys and the option that stands in their
// place.
func keysBeside(option string) error {
	return fmt.Errorf("%s: it authenticates in the place of keys; leave out either this line or the key lines", option)
}

func speaksTLS(transport json.RawMessage) bool {
	var t struct{ TLS json.RawMessage }
	return json.Unmarshal(transport, &t) == nil && t.TLS != nil
}

// refused asks the provider what it thinks of the block, as far as that is known
// before placeholders are replaced.
func (u *Upstream) refused(kind provider.Kind, here func(string, ...any) error) error {
	c := provider.Config{Name: u.Name, BaseURL: u.BaseURL, Dialects: u.Dialects, Options: u.Options}
	words := append(slices.Concat(slices.Collect(maps.Values(u.Options))...), u.BaseURL)
	if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "{") }) || kind.NeedsURL && u.BaseURL == "" {
		return nil
	}
	if _, err := kind.New(c); err != nil {
		return here("upstream %s: %s", u.Provider, err)
	}
	return nil
}

// secretPrefixes are how credentials begin that people take for labels.
var secretPrefixes = []string{"sk-", "sk_", "gsk_", "xai-", "hf_", "ghp_", "gho_", "ghu_", "github_pat_", "AIza", "r8_", "pplx-"}

func looksSecret(s string) bool {
	return slices.ContainsFunc(secretPrefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// quoted repeats a word that was not expected, unless it may be a secret that stands
// in the wrong place: errors are printed and logged.
func quoted(s string) string {
	switch {
	case looksSecret(s), strings.Contains(s, "://"), len(s) > 20,
		len(s) >= minSecret && strings.ContainsAny(s, "0123456789") && strings.ContainsFunc(s, unicode.IsLetter):
		return fmt.Sprintf("(a word of %d characters)", len(s))
	}
	return strconv.Quote(s)
}

func (p *parser) upstreamKey(u *Upstream, kind provider.Kind, labels map[string]bool) error {
	const form = "key <secret> [as <label>] [weight <n>]"
	if kind.Keyless {
		return p.Errf("key: the provider %s takes no keys", u.Provider)
	}
	args, err := p.args()
	if err != nil {
		return err
	}
	if len(args) == 0 || args[0] == "as" || args[0] == "weight" || args[0] == "" {
		return p.Errf("key: the secret is missing, perhaps because an environment variable is not set; expected: %s", form)
	}
	k := Key{Secret: args[0]}
	if name, ok := provider.SignInName(k.Secret); ok && !strings.Contains(name, "{") {
		if err := checkSignIn(name, kind, u.Provider); err != nil {
			return p.Errf("key: %s", err)
		}
	}
	if err := p.secretForm(k.Secret); err != nil {
		return err
	}
	for rest := args[1:]; len(rest) > 0; rest = rest[2:] {
		if len(rest) == 1 || rest[0] != "as" && rest[0] != "weight" {
			return p.Errf("key: only `as <label>` and `weight <n>` may follow the secret; expected: %s", form)
		}
		switch {
		case rest[0] == "weight" && k.Weight != 0, rest[0] == "as" && k.Label != "":
			return p.Errf("key: %s stands in this line twice", rest[0])
		case rest[0] == "weight":
			n, err := strconv.Atoi(rest[1])
			if err != nil || n < 1 {
				return p.Errf("key: the weight must be a whole number above 0")
			}
			k.Weight = n
		case looksSecret(rest[1]):
			return p.Errf("key: the label looks like a secret; expected: %s", form)
		case !access.WellFormedLabel(rest[1]):
			return p.Errf("key: the label must be 1 to 32 of the characters A-Z a-z 0-9 . _ - and is written as it is, without placeholders")
		default:
			k.Label = rest[1]
		}
	}
	label := k.Label
	if label == "" {
		label = fmt.Sprintf("key%d", len(u.Keys)+1)
	}
	if labels[label] {
		return p.Errf("key: the label %s is there already", label)
	}
	if slices.ContainsFunc(u.Keys, func(other Key) bool { return other.Secret == k.Secret }) {
		return p.Errf("key: the secret of %s is that of another key of this upstream", label)
	}
	labels[label] = true
	u.Keys = append(u.Keys, k)
	return nil
}

// shellVariable is a variable as a shell would have it.
var shellVariable = regexp.MustCompile(`^\$(\w+|\{\w+\})$`)

// secretForm refuses words that are no secrets, as far as can be seen before
// placeholders are replaced: short ones, and names of variables and files that
// are not written as placeholders.
func (p *parser) secretForm(s string) error {
	name, opened := strings.CutPrefix(s, "{")
	named := strings.HasPrefix(name, "env.") || strings.HasPrefix(name, "file.")
	switch {
	case shellVariable.MatchString(s), named && !(opened && strings.Contains(s, "}")):
		return p.Err("key: a variable is written {env.NAME} and a file {file./path}, with both braces")
	case !strings.Contains(s, "{") && len(s) < minSecret:
		return p.Errf("key: the secret is shorter than %d characters; is an environment variable unset?", minSecret)
	}
	return nil
}

func (p *parser) headerUp(u *Upstream) error {
	args, err := p.args()
	if err != nil {
		return err
	}
	if len(args) != 1 && len(args) != 2 || len(args) == 1 && !strings.HasPrefix(args[0], "-") ||
		strings.Trim(args[0], "+-?>") == "" || strings.ContainsAny(args[0], ": \t\r\n") {
		return p.Err("header_up: expected: header_up [+]<field> <value>, or header_up -<field>")
	}
	if strings.HasPrefix(args[0], "-") && len(args) == 2 {
		return p.Err("header_up: a field that is taken out has no value")
	}
	if u.Headers == nil {
		u.Headers = new(headers.HeaderOps)
	}
	value := ""
	if len(args) == 2 {
		value = args[1]
	}
	if err := headers.CaddyfileHeaderOp(u.Headers, args[0], value, nil); err != nil {
		return p.Errf("header_up: %v", err)
	}
	return nil
}

// refusedTransport are options of Caddy's transport that floway has its own for.
var refusedTransport = map[string]string{
	"response_header_timeout": "write first_byte_timeout in the upstream block instead",
	"read_timeout":            "write idle_timeout in the upstream block instead",
	"proxy_protocol":          "there is no client connection to speak of",
}

func (p *parser) transport(u *Upstream) error {
	if err := p.once("transport"); err != nil {
		return err
	}
	if !p.NextArg() || p.Val() != "http" {
		return p.Err("transport: expected: transport http, and its block")
	}
	segment := p.NextSegment()
	// Look for what is refused first, so that the error has its own line.
	look := caddyfile.NewDispenser(segment)
	for look.Next() {
		for nesting := look.Nesting(); look.NextBlock(nesting); {
			if instead, ok := refusedTransport[look.Val()]; ok {
				return look.Errf("transport: %s does not belong here: %s", look.Val(), instead)
			}
		}
	}
	block := caddyfile.NewDispenser(segment)
	block.Next()
	mod, err := caddyfile.UnmarshalModule(block, "http.reverse_proxy.transport.http")
	if err != nil {
		return err
	}
	if _, ok := mod.(http.RoundTripper); !ok {
		return p.Errf("transport: %T is no transport", mod)
	}
	u.TransportRaw = caddyconfig.JSONModuleObject(mod, "protocol", "http", nil)
	return nil
}

// option reads a subdirective of the provider's own.
func (p *parser) option(u *Upstream, kind provider.Kind, name string) error {
	if slices.Contains(kind.Options, name) {
		if err := p.once(name); err != nil {
			return err
		}
		args, err := p.args()
		if err != nil {
			return err
		}
		if len(args) == 0 && name != kind.Identity || slices.Contains(args, "") {
			return p.Errf("%s: a value is missing, perhaps because an environment variable is not set", name)
		}
		if u.Options == nil {
			u.Options = map[string][]string{}
		}
		u.Options[name] = append([]string{}, args...) // not null where nothing follows
		return nil
	}
	for _, other := range provider.Names() {
		if k, _ := provider.Lookup(other); slices.Contains(k.Options, name) {
			return p.Errf("%s is an option of the provider %s, not of %s", name, other, u.Provider)
		}
	}
	return p.unknown(name, "an upstream", strings.Join(append([]string{upstreamNames}, kind.Options...), ", "))
}

func (p *parser) route(h *Handler) error {
	model, err := p.one("route", "the public name of a model, or a pattern of names")
	if err != nil {
		return err
	}
	for _, other := range h.Routes {
		if other.Model == model {
			return p.Errf("route: %q is there already", model)
		}
	}
	r := &Route{Model: model}
	h.Routes = append(h.Routes, r)
	here := p.at()
	return p.inner(func() error {
		var weighted func(string, ...any) error
		for nesting := p.Nesting(); p.NextBlock(nesting); {
			name := p.Val()
			switch name {
			case "to":
				t, err := p.target()
				if err != nil {
					return err
				}
				if t.Weight != 0 && weighted == nil {
					weighted = p.at()
				}
				r.To = append(r.To, t)
			case "lb_policy":
				if r.LBPolicy, err = p.policy(); err != nil {
					return err
				}
			default:
				return p.unknown(name, "a route", "to, lb_policy")
			}
		}
		if len(r.To) == 0 {
			return here("route %s: it has no target; write at least one line: to <upstream>/<model>", model)
		}
		if weighted != nil && r.LBPolicy != "" {
			if _, err := parsePolicy(r.LBPolicy, true); err != nil {
				return weighted("%s", err)
			}
		}
		return nil
	})
}

func (p *parser) target() (Target, error) {
	const form = "to [<upstream>/]<model> [weight <n>]"
	args, err := p.args()
	if err != nil {
		return Target{}, err
	}
	if len(args) != 1 && (len(args) != 3 || args[1] != "weight") {
		return Target{}, p.Errf("to: expected: %s", form)
	}
	t := Target{Target: args[0]}
	if len(args) == 3 {
		n, err := strconv.Atoi(args[2])
		if err != nil || n < 1 {
			return t, p.Errf("to: the weight must be a whole number above 0, not %s", quoted(args[2]))
		}
		t.Weight = n
	}
	upstream, model, ok := strings.Cut(t.Target, "/")
	if !ok {
		model = upstream
	}
	switch {
	case model == "" || upstream == "":
		return t, p.Errf("to: %s lacks a part; expected: %s", quoted(t.Target), form)
	case model != "*" && strings.Contains(model, "*"):
		return t, p.Errf("to: %s is a pattern; a target is one model, or * alone for the name that was asked for", quoted(t.Target))
	}
	if ok {
		here := p.at()
		p.later = append(p.later, func() error {
			if !p.upstreams[upstream] {
				return here("to: there is no upstream %s; before the first slash stands always an upstream's name", quoted(upstream))
			}
			return nil
		})
	}
	return t, nil
}

func (p *parser) client(list *[]*Client) error {
	name, err := p.one("client", "a name")
	if err != nil {
		return err
	}
	switch {
	case looksSecret(name):
		return p.Err("client: the name looks like a secret; write the key on a line of its own: key <secret>")
	case !access.WellFormedLabel(name):
		return p.Errf("client: the name %s must be 1 to 32 of the characters A-Z a-z 0-9 . _ -", quoted(name))
	case p.clients[name] != nil:
		return p.Errf("client: %q is there already", name)
	}
	c := &Client{Name: name}
	p.declared(c)
	*list = append(*list, c)
	return p.inner(func() error { return p.clientBlock(c) })
}

// declared remembers a client, with the keys that it has so far.
func (p *parser) declared(c *Client) {
	p.clients[c.Name] = c
	for _, k := range c.Keys {
		p.keys[k] = c.Name
	}
}

func (p *parser) clientBlock(c *Client) error {
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		var err error
		switch name {
		case "key":
			err = p.clientKey(c)
		case "group":
			if err = p.once(name); err == nil {
				if c.Group, err = p.one(name, "a name"); err == nil && (looksSecret(c.Group) || !access.WellFormedGroup(c.Group)) {
					err = p.Errf("group: %s must be 1 to 64 of the characters A-Z a-z 0-9 . _ : - and no secret", quoted(c.Group))
				}
			}
		case "groups":
			if c.Groups, err = p.more(c.Groups, name, "one or more names or patterns"); err == nil {
				for _, g := range c.Groups {
					if !access.WellFormedGroup(strings.ReplaceAll(g, "*", "x")) {
						err = p.Errf("groups: %s can match no group: a group is 1 to 64 of the characters A-Z a-z 0-9 . _ : -", quoted(g))
					}
				}
			}
		case "models":
			c.Models, err = p.more(c.Models, name, "one or more model names or patterns")
		case "upstreams":
			if c.Upstreams, err = p.more(c.Upstreams, name, "one or more names of upstreams"); err == nil {
				here, names := p.at(), slices.Clone(c.Upstreams)
				p.later = append(p.later, func() error {
					for _, u := range names {
						if !p.upstreams[u] {
							return here("upstreams: there is no upstream %s", quoted(u))
						}
					}
					return nil
				})
			}
		case "expires":
			if err = p.once(name); err == nil {
				if c.Expires, err = p.one(name, "a date such as 2027-12-31"); err == nil {
					if _, bad := parseExpiry(c.Expires); bad != nil {
						err = p.Err(bad.Error())
					}
				}
			}
		default:
			err = p.unknown(name, "a client", "key, group, groups, models, upstreams, expires")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) clientKey(c *Client) error {
	args, err := p.args()
	switch {
	case err != nil:
		return err
	case len(args) == 0 || args[0] == "":
		return p.Err("key: the secret is missing, perhaps because an environment variable is not set; expected: key <secret | sha256:hex>")
	case len(args) > 1:
		return p.Errf("key: %d words follow, one was expected: key <secret | sha256:hex>; further keys stand on lines of their own", len(args))
	case strings.HasPrefix(args[0], "sha256:"):
		if _, err := access.ParseDigest(strings.TrimPrefix(args[0], "sha256:")); err != nil && !strings.Contains(args[0], "{") {
			return p.Errf("key: %v", err)
		}
	default:
		if err := p.secretForm(args[0]); err != nil {
			return err
		}
	}
	if other, taken := p.keys[args[0]]; taken {
		return p.Errf("key: the client %s has this key already; a key belongs to one client", other)
	}
	p.keys[args[0]] = c.Name
	c.Keys = append(c.Keys, args[0])
	return nil
}

func (p *parser) usage() (*Usage, error) {
	if err := p.once("usage"); err != nil {
		return nil, err
	}
	args, err := p.args()
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		return nil, p.Err("usage: expected: usage embedded [<dir>], usage redis <url>, or usage off")
	}
	u := &Usage{Store: args[0]}
	switch {
	case slices.Contains(args, ""):
		return nil, p.Err("usage: a word is empty, perhaps because an environment variable is not set")
	case u.Store == storeEmbedded && len(args) <= 2:
		if len(args) == 2 {
			u.Dir = args[1]
		}
	case u.Store == storeRedis && len(args) == 2:
		u.URL = args[1]
	case u.Store == storeOff && len(args) == 1:
	case u.Store == storeRedis:
		return nil, p.Err("usage: expected: usage redis <url>, such as redis://127.0.0.1:6379")
	case u.Store == storeEmbedded || u.Store == storeOff:
		return nil, p.Errf("usage %s: too many words follow", u.Store)
	default:
		return nil, p.Errf("usage: %s is not a store; there are embedded, redis and off", quoted(u.Store))
	}
	here := p.at()
	if err := p.inner(func() error { return p.usageBlock(u) }); err != nil {
		return nil, err
	}
	if u.Store == storeRedis && !strings.Contains(u.URL+u.Username+u.Namespace, "{") {
		s := settings{url: u.URL, username: u.Username, namespace: u.Namespace}
		if err := s.checkRedis(); err != nil {
			return nil, here("usage: %s", err)
		}
	}
	return u, nil
}

func (p *parser) usageBlock(u *Usage) error {
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		if u.Store == storeOff {
			return p.Errf("usage off: there is nothing to say of an account that is not kept, such as %s", name)
		}
		if err := p.once(name); err != nil {
			return err
		}
		var err error
		switch name {
		case "log":
			u.Log, err = p.one(name, "a directory")
		case "durability":
			u.Durability, err = p.choice(name, "process", "batch", "strict")
		case "on_log_full":
			u.OnLogFull, err = p.choice(name, "refuse", "continue")
		case "retention":
			err = p.inner(func() error { return p.retention(u) })
		case "username", "password", "namespace":
			if u.Store != storeRedis {
				return p.Errf("%s belongs to usage redis", name)
			}
			switch name {
			case "username":
				u.Username, err = p.one(name, "a name")
			case "password":
				u.Password, err = p.one(name, "the password; is an environment variable unset?")
			default:
				u.Namespace, err = p.one(name, "a name")
			}
		default:
			names := "log, durability, on_log_full, retention"
			if u.Store == storeRedis {
				names = "username, password, namespace, " + names
			}
			err = p.unknown(name, "usage "+u.Store, names)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) retention(u *Usage) error {
	if args, err := p.args(); err != nil || len(args) > 0 {
		if err != nil {
			return err
		}
		return p.Err("retention: expected: a block with hours <duration> and days <duration>")
	}
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		var err error
		switch name {
		case "hours":
			u.KeepHours, err = p.duration(name)
		case "days":
			u.KeepDays, err = p.duration(name)
		default:
			err = p.unknown(name, "retention", "hours, days")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) policy() (string, error) {
	if err := p.once("lb_policy"); err != nil {
		return "", err
	}
	const policies = "round_robin, weighted_round_robin, least_conn, random, first and sticky"
	name, err := p.one("lb_policy", policies)
	if err != nil {
		return "", err
	}
	if _, err := keypool.ParsePolicy(name); err != nil {
		return "", p.Errf("lb_policy: %s is none; there are %s", quoted(name), policies)
	}
	return name, nil
}

// args returns the words behind a subdirective, and catches blocks that were
// written on one line.
func (p *parser) args() ([]string, error) {
	args := p.RemainingArgs()
	if slices.Contains(args, "}") || slices.Contains(args, "{") {
		return nil, p.Err("a brace stands among other words: blocks are written over several lines, the closing brace on its own")
	}
	return args, nil
}

// once refuses a subdirective that is there already.
func (p *parser) once(name string) error {
	if p.seen[name] {
		return p.Errf("%s stands in this block a second time", name)
	}
	p.seen[name] = true
	return nil
}

func (p *parser) one(name, what string) (string, error) {
	args, err := p.args()
	switch {
	case err != nil:
		return "", err
	case len(args) == 0:
		return "", p.Errf("%s: nothing follows, perhaps because an environment variable is not set; expected was %s", name, what)
	case len(args) > 1:
		return "", p.Errf("%s: %d words follow, one was expected: %s", name, len(args), what)
	case args[0] == "":
		return "", p.Errf("%s: the word is empty, perhaps because an environment variable is not set; expected was %s", name, what)
	}
	return args[0], nil
}

func (p *parser) more(list []string, name, what string) ([]string, error) {
	args, err := p.args()
	switch {
	case err != nil:
		return nil, err
	case len(args) == 0:
		return nil, p.Errf("%s: nothing follows, expected were %s", name, what)
	}
	for _, a := range args {
		if a == "" {
			return nil, p.Errf("%s: a word is empty, expected were %s", name, what)
		}
		if slices.Contains(list, a) {
			return nil, p.Errf("%s: %q is there already", name, a)
		}
		list = append(list, a)
	}
	return list, nil
}

func (p *parser) choice(name string, words ...string) (string, error) {
	given, err := p.one(name, strings.Join(words, ", "))
	if err != nil {
		return "", err
	}
	if !slices.Contains(words, given) {
		return "", p.Errf("%s: %s was not expected; there are %s", name, quoted(given), strings.Join(words, ", "))
	}
	return given, nil
}

func (p *parser) count(name string, least int) (int, error) {
	if err := p.once(name); err != nil {
		return 0, err
	}
	word, err := p.one(name, "a whole number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < least {
		return 0, p.Errf("%s: %s is not a whole number of %d or more", name, quoted(word), least)
	}
	return n, nil
}

func (p *parser) duration(name string) (caddy.Duration, error) {
	if err := p.once(name); err != nil {
		return 0, err
	}
	word, err := p.one(name, "a duration such as 30s, 5m or 7d")
	if err != nil {
		return 0, err
	}
	d, err := caddy.ParseDuration(word)
	if err != nil || d <= 0 {
		return 0, p.Errf("%s: %s is not a duration above zero, such as 30s, 5m or 7d", name, quoted(word))
	}
	return caddy.Duration(d), nil
}

func (p *parser) size(name string) (int64, error) {
	if err := p.once(name); err != nil {
		return 0, err
	}
	word, err := p.one(name, "a size such as 64MiB")
	if err != nil {
		return 0, err
	}
	n, err := humanize.ParseBytes(word)
	if err != nil || n == 0 || n > 1<<40 {
		return 0, p.Errf("%s: %s is not a size above zero, such as 64MiB", name, quoted(word))
	}
	return int64(n), nil
}

// The names of the subdirectives, for those who mistook one.
const (
	blockNames = "upstream, route, client, anonymous, lb_retries, lb_try_duration, max_body, max_buffered, usage"

	upstreamNames = "key, base_url, models, alias, dialects, lb_policy, max_requests, default_max_tokens, header_up, first_byte_timeout, idle_timeout, transport"
)

func (p *parser) unknown(name, where, names string) error {
	return p.Errf("unrecognized subdirective %s in %s; there are %s", quoted(name), where, names)
}

var _ caddyfile.Unmarshaler = (*Handler)(nil)
