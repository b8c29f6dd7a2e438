package relay

import (
	"slices"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
)

// Service is one upstream that serves a model that is known by name.
type Service struct {
	// Model is the name that clients ask for.
	Model    string
	Upstream string
	// Sent is the upstream's own name of the model.
	Sent string
	// By is the rule that finds the upstream.
	By Rule
	// Native and Translated are the features (dialect.Features) in which clients can
	// ask, as the upstream speaks them and by translation.
	Native, Translated []string
}

// Services tells who serves the models that are listed, in the order of the listing
// and, for each, in the order in which they are tried. A feature is served by the
// upstreams of the first rule that leaves one for it. Upstreams that would be asked
// only because they take any name are left out where another has the model.
func (r *Relay) Services() []Service {
	var all []Service
	everybody := new(access.Client)
	for _, m := range r.List(everybody) {
		first := len(all)
		for _, op := range asked {
			q := lookup{name: m.ID, client: everybody, op: op}
			targets, _ := r.resolve(&q, nil)
			for _, t := range targets {
				i := slices.IndexFunc(all[first:], func(s Service) bool {
					return s.Upstream == t.up.Name && s.Sent == t.sent && s.By == t.by
				})
				if i < 0 {
					i = len(all) - first
					all = append(all, Service{Model: m.ID, Upstream: t.up.Name, Sent: t.sent, By: t.by})
				}
				s := &all[first+i]
				if len(t.via) == 0 {
					s.Native = append(s.Native, op.Feature())
				} else {
					s.Translated = append(s.Translated, op.Feature())
				}
			}
		}
		if claimed := func(s Service) bool { return s.By != Unclaimed }; slices.ContainsFunc(all[first:], claimed) {
			all = append(all[:first], slices.DeleteFunc(all[first:], func(s Service) bool { return !claimed(s) })...)
		}
	}
	return all
}

// asked is one operation of each feature, which stands for it.
var asked = func() (ops []dialect.Operation) {
	seen := map[string]bool{}
	for op := range dialect.Operations() {
		if f := op.Feature(); f != "" && !seen[f] {
			seen[f] = true
			ops = append(ops, op)
		}
	}
	return ops
}()
