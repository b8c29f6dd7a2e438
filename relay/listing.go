package relay

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/provider"
)

// Listed is a model that a client may use.
type Listed struct {
	ID      string
	Created int64 // seconds since 1970; 0 if unknown
	OwnedBy string
}

// List returns the models that the client may use and that are known by name, in
// the order of the file, each once. The rules that decide are those of requests.
func (r *Relay) List(client *access.Client) []Listed {
	var list []Listed
	seen := map[string]bool{}
	var buf [4]target
	add := func(m provider.Model, owner string) {
		if seen[m.ID] {
			return
		}
		seen[m.ID] = true
		q := lookup{name: m.ID, client: client}
		if targets, _ := r.resolve(&q, buf[:0]); len(targets) > 0 {
			if m.OwnedBy != "" {
				owner = m.OwnedBy
			}
			list = append(list, Listed{ID: m.ID, Created: m.Created, OwnedBy: owner})
		}
	}
	for _, route := range r.Routes {
		if route.Pattern.Literal() {
			add(provider.Model{ID: string(route.Pattern)}, "floway")
		}
	}
	for _, u := range r.Upstreams {
		for _, a := range u.Aliases {
			add(provider.Model{ID: a.Public}, u.Name)
		}
		for _, p := range u.Models {
			if p.Literal() {
				add(provider.Model{ID: string(p)}, u.Name)
			}
		}
		if u.Catalog != nil {
			for _, m := range u.Catalog.Models() {
				add(m, u.Name)
			}
		}
	}
	return list
}

// ServeModels answers a listing, or one model of it, in the caller's shape.
func (r *Relay) ServeModels(w http.ResponseWriter, in *http.Request, found *dialect.Call, client *access.Client) {
	shape := found.Dialect
	if shape == dialect.Chat && in.Header.Get("Anthropic-Version") != "" {
		shape = dialect.Messages
	}
	list := r.List(client)
	if found.ID == "" {
		answerJSON(w, in, listing(shape, list))
		return
	}
	if m, ok := r.find(list, found.ID, client); ok {
		answerJSON(w, in, row(shape, m))
		return
	}
	_, _ = noModel(found.ID).Write(w, shape)
}

// find looks for one model: listed, or addressed as <upstream>/<model> to an
// upstream that knows it by name.
func (r *Relay) find(list []Listed, name string, client *access.Client) (Listed, bool) {
	for _, m := range list {
		if m.ID == name {
			return m, true
		}
	}
	q := lookup{name: name, client: client}
	targets, _ := r.resolve(&q, nil)
	for _, t := range targets {
		if t.up.Name+"/"+t.model == name && t.up.knows(t.model) {
			return Listed{ID: name, OwnedBy: t.up.Name}, true
		}
	}
	return Listed{}, false
}

// knows says whether the upstream would be listed with that name.
func (u *Upstream) knows(name string) bool {
	p := access.Pattern(name)
	return p.Literal() && slices.Contains(u.Models, p) || u.Catalog != nil && u.Catalog.Has(name) ||
		slices.ContainsFunc(u.Aliases, func(a Alias) bool { return a.Public == name })
}

func listing(shape dialect.Dialect, list []Listed) any {
	rows := make([]any, len(list))
	for i, m := range list {
		rows[i] = row(shape, m)
	}
	switch shape {
	case dialect.Messages:
		first, last := "", ""
		if len(list) > 0 {
			first, last = list[0].ID, list[len(list)-1].ID
		}
		return map[string]any{"data": rows, "has_more": false, "first_id": orNull(first), "last_id": orNull(last)}
	case dialect.Gemini:
		return map[string]any{"models": rows}
	}
	return map[string]any{"object": "list", "data": rows}
}

func row(shape dialect.Dialect, m Listed) any {
	switch shape {
	case dialect.Messages:
		return map[string]any{
			"type": "model", "id": m.ID, "display_name": m.ID,
			"created_at": time.Unix(m.Created, 0).UTC().Format(time.RFC3339),
		}
	case dialect.Gemini:
		return map[string]any{
			"name": "models/" + m.ID, "displayName": m.ID,
			"supportedGenerationMethods": []string{"generateContent", "streamGenerateContent", "countTokens"},
		}
	}
	return map[string]any{"id": m.ID, "object": "model", "created": m.Created, "owned_by": m.OwnedBy}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func answerJSON(w http.ResponseWriter, in *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings and numbers always marshal
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h["Cache-Control"] = noStore
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if in.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}
