package relay

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/provider"
)

// List returns the models that the client may use and that are known by name, in
// the order of the file, each once. The rules that decide are those of requests.
func (r *Relay) List(client *access.Client) []provider.Model {
	var list []provider.Model
	seen := map[string]bool{}
	var buf [4]target
	add := func(m provider.Model, owner string) {
		if seen[m.ID] {
			return
		}
		seen[m.ID] = true
		q := lookup{name: m.ID, client: client}
		if targets, _ := r.resolve(&q, buf[:0]); len(targets) > 0 {
			m.OwnedBy = cmp.Or(m.OwnedBy, owner)
			list = append(list, m)
		}
	}
	for _, route := range r.Routes {
		if route.Pattern.Literal() {
			add(provider.Model{ID: string(route.Pattern)}, "floway")
		}
	}
	for _, u := range r.Upstreams {
		for _, a := range u.Aliases {
			add(u.about(a.Public, a.Model), u.Name)
		}
		for _, p := range u.Models {
			if p.Literal() {
				add(u.about(string(p), string(p)), u.Name)
			}
		}
		if u.Catalog != nil {
			for _, m := range u.Catalog.Models() {
				if u.open() || u.Models.Match(m.ID) {
					add(m, u.Name)
				}
			}
		}
	}
	return list
}

// about is what the upstream says of its model sent, under a public name.
func (u *Upstream) about(public, sent string) provider.Model {
	var m provider.Model
	if u.Catalog != nil {
		m = u.Catalog.find(sent)
	}
	m.ID = public
	return m
}

// Shape is the dialect in which a call is answered. OpenAI and Anthropic have their
// lists of models at the same path; only Anthropic's clients name a version there.
func Shape(call *dialect.Call, h http.Header) dialect.Dialect {
	if call.Op == dialect.ListModels && call.Dialect == dialect.Chat && h.Get("Anthropic-Version") != "" {
		return dialect.Messages
	}
	return call.Dialect
}

// ServeModels answers a listing, or one model of it, in the caller's shape and in
// pages of the size that it asks for.
func (r *Relay) ServeModels(w http.ResponseWriter, in *http.Request, found *dialect.Call, client *access.Client) {
	shape := Shape(found, in.Header)
	list := r.List(client)
	if found.ID == "" {
		p, err := paged(shape, list, in.URL.Query())
		if err != nil {
			_, _ = err.Write(w, shape)
			return
		}
		answerJSON(w, in, p.spell(shape))
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
func (r *Relay) find(list []provider.Model, name string, client *access.Client) (provider.Model, bool) {
	for _, m := range list {
		if m.ID == name {
			return m, true
		}
	}
	q := lookup{name: name, client: client}
	targets, _ := r.resolve(&q, nil)
	for _, t := range targets {
		if t.up.Name+"/"+t.model == name && t.up.knows(t.model) {
			m := t.up.about(name, t.sent)
			m.OwnedBy = cmp.Or(m.OwnedBy, t.up.Name)
			return m, true
		}
	}
	return provider.Model{}, false
}

// knows says whether the upstream would be listed with that name.
func (u *Upstream) knows(name string) bool {
	p := access.Pattern(name)
	return p.Literal() && slices.Contains(u.Models, p) || u.Catalog != nil && u.Catalog.Has(name) && u.mayServe(name) ||
		slices.ContainsFunc(u.Aliases, func(a Alias) bool { return a.Public == name })
}

// page is a part of a listing.
type page struct {
	models []provider.Model
	more   bool // others follow, in the direction that was asked for
}

// Sizes of pages: what the services give by default, and at most.
const (
	messagesPage = 20
	geminiPage   = 50
	largestPage  = 1000
)

// paged takes the page out of a list that the caller's parameters ask for.
// OpenAI's listing has no pages.
func paged(shape dialect.Dialect, list []provider.Model, q url.Values) (page, *dialect.Error) {
	switch shape {
	case dialect.Messages:
		size, err := pageSize(q, "limit", messagesPage)
		if err != nil {
			return page{}, err
		}
		if before := q.Get("before_id"); before != "" {
			i := position(list, before)
			if i < 0 {
				return page{}, badParam("before_id", "before_id names no model of this listing")
			}
			list = list[:i]
			return page{list[max(0, len(list)-size):], len(list) > size}, nil
		}
		return after(list, q.Get("after_id"), "after_id", size)
	case dialect.Gemini:
		size, err := pageSize(q, "pageSize", geminiPage)
		if err != nil {
			return page{}, err
		}
		return after(list, q.Get("pageToken"), "pageToken", size)
	}
	return page{models: list}, nil
}

// pageSize reads how many models a page is to have.
func pageSize(q url.Values, name string, otherwise int) (int, *dialect.Error) {
	v := q.Get(name)
	if v == "" || v == "0" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, badParam(name, name+" must be a number from 1 to "+strconv.Itoa(largestPage))
	}
	return min(n, largestPage), nil
}

// after is the page behind the model of that name; without one the first.
func after(list []provider.Model, last, param string, size int) (page, *dialect.Error) {
	if last != "" {
		i := position(list, last)
		if i < 0 {
			return page{}, badParam(param, param+" names no model of this listing")
		}
		list = list[i+1:]
	}
	return page{list[:min(size, len(list))], len(list) > size}, nil
}

func position(list []provider.Model, id string) int {
	return slices.IndexFunc(list, func(m provider.Model) bool { return m.ID == id })
}

func badParam(param, message string) *dialect.Error {
	return &dialect.Error{Fault: dialect.Malformed, Message: message, Param: param}
}

func (p *page) spell(shape dialect.Dialect) any {
	rows := make([]any, len(p.models))
	for i, m := range p.models {
		rows[i] = row(shape, m)
	}
	first, last := "", ""
	if len(p.models) > 0 {
		first, last = p.models[0].ID, p.models[len(p.models)-1].ID
	}
	switch shape {
	case dialect.Messages:
		return map[string]any{"data": rows, "has_more": p.more, "first_id": orNull(first), "last_id": orNull(last)}
	case dialect.Gemini:
		if p.more {
			return map[string]any{"models": rows, "nextPageToken": last}
		}
		return map[string]any{"models": rows}
	}
	return map[string]any{"object": "list", "data": rows}
}

// chatMethods are what a model can do of which its upstream does not say it.
var chatMethods = []string{"generateContent", "streamGenerateContent", "countTokens"}

// row spells one model. Limits that nobody told are left out.
func row(shape dialect.Dialect, m provider.Model) any {
	var r map[string]any
	limits := func(in, out string) {
		if m.MaxInput > 0 {
			r[in] = m.MaxInput
		}
		if m.MaxOutput > 0 {
			r[out] = m.MaxOutput
		}
	}
	switch shape {
	case dialect.Messages:
		r = map[string]any{
			"type": "model", "id": m.ID, "display_name": cmp.Or(m.Name, m.ID),
			"created_at": time.Unix(m.Created, 0).UTC().Format(time.RFC3339),
		}
		limits("max_input_tokens", "max_tokens")
	case dialect.Gemini:
		r = map[string]any{"name": "models/" + m.ID, "displayName": cmp.Or(m.Name, m.ID), "supportedGenerationMethods": m.Methods}
		if m.Methods == nil {
			r["supportedGenerationMethods"] = chatMethods
		}
		limits("inputTokenLimit", "outputTokenLimit")
	default:
		r = map[string]any{"id": m.ID, "object": "model", "created": m.Created, "owned_by": m.OwnedBy}
	}
	return r
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
