package provider

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/floway/floway/dialect"
)

// ollama is a server of Ollama's, or its cloud: a compatible upstream that lists
// its models in a way of its own.
// Source: Ollama's documentation of its API and of its compatibility.
type ollama struct {
	*compatible
	// tagless are the models that can be asked for without their tag; nil as long as
	// no list is known.
	tagless atomic.Pointer[map[string]bool]
}

// Fit implements Tailor.
func (u *ollama) Fit(op dialect.Operation, body []byte) []byte {
	return (&fitted{u.compatible}).Fit(op, body)
}

// Describe implements Tailor. Older versions of Messages than this one are refused.
func (u *ollama) Describe(op dialect.Operation, _ []byte, h http.Header) {
	if v := h["Anthropic-Version"]; op.Dialect() == dialect.Messages && (len(v) == 0 || v[0] < anthropicVersion) {
		h["Anthropic-Version"] = []string{anthropicVersion}
	}
}

// latest is the tag that a name without one stands for.
const latest = ":latest"

// Learn implements Learner.
func (u *ollama) Learn(models []Model) {
	tagless := make(map[string]bool)
	for _, m := range models {
		if name, ok := strings.CutSuffix(m.ID, latest); ok {
			tagless[name] = true
		}
	}
	u.tagless.Store(&tagless)
}

// Family says whether the server has a model that it lists with its tag.
func (u *ollama) Family(model string) bool {
	known := u.tagless.Load()
	return known != nil && (*known)[model]
}

// Models asks for what is there, loaded or not.
func (u *ollama) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error) {
	root := *u.base
	if at := strings.LastIndexByte(root.Path, '/'); at >= 0 && isVersion(root.Path[at+1:]) {
		version := root.Path[at:]
		root.Path, root.RawPath = root.Path[:at], strings.TrimSuffix(root.RawPath, version)
	}
	l := listing{account: &u.account, do: do, at: root.JoinPath("api", "tags")}
	return l.read(ctx, readOllamaModels)
}

// readOllamaModels reads Ollama's form of a model list.
func readOllamaModels(body []byte) (page, error) {
	var list struct {
		Models []struct {
			Name     string `json:"name"`
			Modified string `json:"modified_at"`
		} `json:"models"`
	}
	// Of a server without models the list is null in some versions.
	if err := json.Unmarshal(body, &list); err != nil || list.Models == nil && !strings.Contains(string(body), `"models"`) {
		return page{}, notAList(err, "Ollama's")
	}
	p := page{models: make([]Model, len(list.Models))}
	for i, m := range list.Models {
		p.models[i] = Model{ID: m.Name}
		if at, err := time.Parse(time.RFC3339, m.Modified); err == nil {
			p.models[i].Created = max(at.Unix(), 0)
		}
	}
	return p, nil
}
