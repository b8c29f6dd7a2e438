package relay

import (
	"strings"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/dialect/translate"
	"github.com/floway/floway/provider"
)

// target is one upstream that can serve a request, with the model's names there.
type target struct {
	up *Upstream
	// model is the public name that the target serves, sent the upstream's own.
	model, sent string
	// via are the dialects in which the upstream can be asked, best first; empty if
	// it speaks the client's.
	via []dialect.Dialect
	// line is the index of the route's line that names the target.
	line int
	// by is the rule that found the upstream.
	by Rule
}

// Rule is one of those that decide which upstream serves a model.
type Rule uint8

const (
	// Routed: a route names the upstream.
	Routed Rule = iota
	// Declared: a line of the upstream spells the name, or has a pattern for it.
	Declared
	// Addressed: the name begins with the upstream's.
	Addressed
	// Listed: the upstream lists the name.
	Listed
	// Unclaimed: no other claims the name, and the upstream takes any.
	Unclaimed
)

func (r Rule) String() string {
	return [...]string{"route", "declared", "addressed", "listed", "unclaimed"}[r]
}

// found notes the rule by which the targets behind the first n were found.
func found(targets []target, n int, by Rule) []target {
	for i := n; i < len(targets); i++ {
		targets[i].by = by
	}
	return targets
}

// lookup is what is asked of the rules: a model's name, for whom and for what.
type lookup struct {
	name   string
	client *access.Client
	op     dialect.Operation // None: any
}

// resolve finds the targets for a name, best first. The first rule that leaves
// one decides alone; within a rule the order of the file holds. The route is the
// one that decided, if it was one.
func (r *Relay) resolve(q *lookup, into []target) ([]target, *Route) {
	if !q.client.MayAsk(q.name, r.bare(q.name)) {
		return into, nil
	}
	for _, route := range r.Routes {
		if !route.Pattern.Match(q.name) {
			continue
		}
		for i := range route.To {
			into = r.routeTarget(q, route, i, into)
		}
		if len(into) > 0 {
			return into, route
		}
		break
	}
	return r.rules(q, q.name, into), nil
}

// routeTarget adds the target that a line of a route names, unless a line before
// it named the same.
func (r *Relay) routeTarget(q *lookup, route *Route, line int, into []target) []target {
	to := &route.To[line]
	name := to.Model
	if name == "*" {
		name = q.name
	}
	var buf [4]target
	one := buf[:0]
	if to.Upstream != "" {
		u := r.byName[to.Upstream]
		one = q.offer(one, u, name, u.sent(name))
	} else {
		one = r.rules(q, name, one)
	}
	if len(one) == 0 {
		return into
	}
	t := one[0]
	for i := range into {
		if into[i].up == t.up && into[i].sent == t.sent {
			return into
		}
	}
	t.line, t.by = line, Routed
	return append(into, t)
}

// rules are the rules 2 to 5.
func (r *Relay) rules(q *lookup, name string, into []target) []target {
	n := len(into)
	for _, u := range r.Upstreams {
		if sent, ok := u.declares(name); ok {
			into = q.offer(into, u, name, sent)
		}
	}
	if len(into) > n {
		return found(into, n, Declared)
	}
	if first, rest, ok := strings.Cut(name, "/"); ok {
		if u := r.byName[first]; u != nil && u.mayServe(rest) {
			if into = q.offer(into, u, rest, u.sent(rest)); len(into) > n {
				return found(into, n, Addressed)
			}
		}
	}
	for _, u := range r.Upstreams {
		if u.open() && u.Catalog != nil && u.Catalog.Has(name) {
			into = q.offer(into, u, name, name)
		}
	}
	if len(into) > n {
		return found(into, n, Listed)
	}
	for _, family := range [...]bool{true, false} {
		for _, u := range r.Upstreams {
			if (u.open() || u.Models.Match(name)) && u.Provider.Family(name) == family {
				into = q.offer(into, u, name, u.sent(name))
			}
		}
	}
	return found(into, n, Unclaimed)
}

// offer adds a target if the client may use it and it speaks the operation, or
// one into which that translates.
func (q *lookup) offer(into []target, u *Upstream, model, sent string) []target {
	if !q.client.MayUse(u.Name) {
		return into
	}
	t := target{up: u, model: model, sent: sent}
	if q.op != dialect.None && !u.Provider.Speaks(q.op, sent) {
		if t.via = u.via(q.op, sent); len(t.via) == 0 {
			return into
		}
	}
	return append(into, t)
}

// via returns the dialects into which a call of that operation can be translated
// for the upstream, best first.
func (u *Upstream) via(op dialect.Operation, model string) []dialect.Dialect {
	switch translate.KindOf(op) {
	case translate.Conversing:
		return u.Provider.Via(op.Dialect(), model)
	case translate.Counting:
		var via []dialect.Dialect
		for _, d := range u.Provider.Via(op.Dialect(), model) {
			if count := translate.CountOf(d); count != dialect.None && u.Provider.Speaks(count, model) {
				via = append(via, d)
			}
		}
		return via
	case translate.Embedding:
		switch {
		case op.Dialect() == dialect.Gemini && u.Provider.Speaks(dialect.Embeddings, model):
			return embeddingsVia[dialect.Chat]
		case op.Dialect() == dialect.Chat && u.Provider.Speaks(dialect.BatchEmbedContents, model):
			return embeddingsVia[dialect.Gemini]
		}
	}
	return nil
}

// embeddingsVia are the ways of requests for embeddings, by the upstream's dialect.
var embeddingsVia = [...][]dialect.Dialect{dialect.Chat: {dialect.Chat}, dialect.Gemini: {dialect.Gemini}}

// bare returns the model of <upstream>/<model>, or the name itself.
func (r *Relay) bare(name string) string {
	if first, rest, ok := strings.Cut(name, "/"); ok && r.byName[first] != nil {
		return rest
	}
	return name
}

// open says that the upstream serves any name that no other claims.
func (u *Upstream) open() bool { return len(u.Models) == 0 }

// sent returns the upstream's own name for a model.
func (u *Upstream) sent(name string) string {
	for _, a := range u.Aliases {
		if a.Public == name {
			return a.Model
		}
	}
	if renamer, ok := u.Provider.(provider.Renamer); ok {
		return renamer.OwnName(name)
	}
	return name
}

// declares says whether the upstream's lines declare this whole name. A pattern
// does so for a name with a slash only if it spells the part before the slash:
// otherwise `*` would take the names that begin with another upstream's.
func (u *Upstream) declares(name string) (sent string, ok bool) {
	for _, a := range u.Aliases {
		if a.Public == name {
			return a.Model, true
		}
	}
	slash := strings.IndexByte(name, '/')
	for _, p := range u.Models {
		if p.Match(name) && (slash < 0 || strings.HasPrefix(string(p), name[:slash+1])) {
			return u.sent(name), true
		}
	}
	return "", false
}

// mayServe says whether the upstream may be asked for a name that is addressed
// to it.
func (u *Upstream) mayServe(name string) bool {
	if u.open() || u.Models.Match(name) {
		return true
	}
	_, ok := u.declares(name)
	return ok
}
