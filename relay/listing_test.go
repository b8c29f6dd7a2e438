package relay

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/floway/floway/access"
	"github.com/floway/floway/provider"
)

// What an upstream lists is listed as far as its patterns match it.
func TestPatternsFilterTheListing(t *testing.T) {
	r := mapping(t, func(s *setup) {
		s.upstream("a", url1, "a", withModels("gpt-*", "mine"), withAlias("nice", "o3"), withCatalog("gpt-5", "o3", "gpt-4"))
		s.upstream("b", url1, "b", withModels("*"), withCatalog("o3", "org/x"))
	})
	for _, tt := range []struct {
		client *access.Client
		want   string
	}{
		{&access.Client{}, "nice mine gpt-5 gpt-4 o3"},
		{&access.Client{Upstreams: []string{"a"}}, "nice mine gpt-5 gpt-4"},
		{&access.Client{Models: access.Patterns{"gpt-5", "o3"}}, "gpt-5 o3"},
	} {
		got := listed(r, tt.client)
		if !strings.HasPrefix(got+" ", tt.want+" ") {
			t.Errorf("%+v: %s, want %s", tt.client, got, tt.want)
		}
	}
	// What the upstream says of a model goes with its other name.
	if m := r.List(&access.Client{})[0]; m.ID != "nice" || m.OwnedBy != "vendor" || m.Created != 1 {
		t.Errorf("%+v", m)
	}
	if _, ok := r.find(nil, "a/o3", &access.Client{}); ok {
		t.Error("a model that its upstream lists and may not serve is found")
	}
}

// The services' pages, as their SDKs turn them.
func TestListingPages(t *testing.T) {
	s := newSetup(t)
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprintf("m%02d", i))
	}
	s.upstream("a", url1, "a", withCatalog(names...))
	g := s.start()
	get := func(path string, header ...string) got {
		req := g.request(path, "", header...)
		req.Method, req.Body, req.ContentLength = "GET", http.NoBody, 0
		return g.do(req)
	}
	type pageOf struct {
		Data        []struct{ ID string }
		Models      []struct{ Name string }
		HasMore     bool    `json:"has_more"`
		First       *string `json:"first_id"`
		Last        *string `json:"last_id"`
		Next        string  `json:"nextPageToken"`
		first, last string
		n           int
	}
	read := func(a got) (p pageOf) {
		t.Helper()
		if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.status != 200 {
			t.Fatalf("%d %v %s", a.status, err, a.body)
		}
		for _, m := range p.Data {
			p.Models = append(p.Models, struct{ Name string }{m.ID})
		}
		if p.n = len(p.Models); p.n > 0 {
			p.first, p.last = p.Models[0].Name, p.Models[p.n-1].Name
		}
		return p
	}
	const anthropic = "Anthropic-Version"
	for _, tt := range []struct {
		query       string
		n           int
		first, last string
		more        bool
	}{
		{"", 20, "m00", "m19", true},
		{"?limit=1000", 60, "m00", "m59", false},
		{"?limit=5000", 60, "m00", "m59", false},
		{"?limit=1", 1, "m00", "m00", true},
		{"?limit=30&after_id=m29", 30, "m30", "m59", false},
		{"?limit=30&after_id=m28", 30, "m29", "m58", true},
		{"?after_id=m59", 0, "", "", false},
		{"?limit=2&before_id=m05", 2, "m03", "m04", true},
		{"?limit=2&before_id=m02", 2, "m00", "m01", false},
	} {
		p := read(get("/v1/models"+tt.query, anthropic, "2026-10-21"))
		if p.n != tt.n || p.first != tt.first || p.last != tt.last || p.HasMore != tt.more ||
			p.n > 0 && (*p.First != tt.first || *p.Last != tt.last) || p.n == 0 && (p.First != nil || p.Last != nil) {
			t.Errorf("%s: %d models from %s to %s, more: %t", tt.query, p.n, p.first, p.last, p.HasMore)
		}
	}
	for _, tt := range []struct {
		query, first, last, next string
		n                        int
	}{
		{"", "models/m00", "models/m49", "m49", 50},
		{"?pageSize=0", "models/m00", "models/m49", "m49", 50},
		{"?pageToken=m49", "models/m50", "models/m59", "", 10},
		{"?pageSize=60", "models/m00", "models/m59", "", 60},
		{"?pageSize=3&pageToken=m49", "models/m50", "models/m52", "m52", 3},
	} {
		p := read(get("/v1beta/models" + tt.query))
		if p.n != tt.n || p.first != tt.first || p.last != tt.last || p.Next != tt.next {
			t.Errorf("%s: %d models from %s to %s, next %q", tt.query, p.n, p.first, p.last, p.Next)
		}
	}
	if p := read(get("/v1/models?limit=1&after_id=m03")); p.n != 60 {
		t.Errorf("OpenAI's listing has %d models", p.n)
	}
	for path, want := range map[string]string{
		"/v1/models?after_id=gone":           `"invalid_request_error"`,
		"/v1/models?before_id=gone":          `"invalid_request_error"`,
		"/v1/models?limit=-1":                `"invalid_request_error"`,
		"/v1beta/models?pageToken=gone":      `"INVALID_ARGUMENT"`,
		"/v1beta/models?pageSize=many&key=x": `"INVALID_ARGUMENT"`,
	} {
		get(path, anthropic, "2023-06-01").wants(t, 400, want)
	}
}

// Each shape has what the upstream's own list told, and nothing that nobody told.
func TestListingRows(t *testing.T) {
	s := newSetup(t)
	u := s.upstream("a", url1, "a")
	u.Catalog = &Catalog{index: map[string]int{"x": 0, "y": 1}, models: []provider.Model{
		{ID: "x", Name: "Model X", Created: 1790000000, OwnedBy: "v", MaxInput: 1000, MaxOutput: 50, Methods: []string{"embedContent"}}, {ID: "y"},
	}}
	g := s.start()
	for _, tt := range []struct{ path, version, want string }{
		{"/v1/models/x", "", `{"created":1790000000,"id":"x","object":"model","owned_by":"v"}`},
		{"/v1/models/y", "", `{"created":0,"id":"y","object":"model","owned_by":"a"}`},
		{"/v1/models/x", "2026-10-21", `{"created_at":"2026-09-21T14:13:20Z","display_name":"Model X","id":"x","max_input_tokens":1000,"max_tokens":50,"type":"model"}`},
		{"/v1/models/y", "2023-06-01", `{"created_at":"1970-01-01T00:00:00Z","display_name":"y","id":"y","type":"model"}`},
		{"/v1beta/models/x", "", `{"displayName":"Model X","inputTokenLimit":1000,"name":"models/x","outputTokenLimit":50,"supportedGenerationMethods":["embedContent"]}`},
		{"/v1beta/models/y", "", `{"displayName":"y","name":"models/y","supportedGenerationMethods":["generateContent","streamGenerateContent","countTokens"]}`},
	} {
		req := g.request(tt.path, "")
		req.Method, req.Body, req.ContentLength = "GET", http.NoBody, 0
		if tt.version != "" {
			req.Header.Set("Anthropic-Version", tt.version)
		}
		if a := g.do(req); a.body != tt.want {
			t.Errorf("%s %s: %s", tt.path, tt.version, a.body)
		}
	}
}
