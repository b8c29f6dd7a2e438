package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/floway/floway/dialect"
)

// Bounds of a catalogue, so that a hostile or broken upstream cannot fill the
// memory with one, nor keep floway turning its pages for ever.
const (
	maxCatalogBytes = 8 << 20
	maxModels       = 20_000
	maxModelName    = 512
	maxPages        = 100
)

// listing asks an upstream for its models, page by page.
type listing struct {
	*account
	do func(*http.Request) (*http.Response, error)
	// at is where the list is; nil for models below the account's address.
	at *url.URL
	// query is that of the first page.
	query url.Values
	// bytes were read so far.
	bytes int
}

// page is a part of a list of models.
type page struct {
	models []Model
	// param and next are the parameter of the query that brings the next page;
	// next is empty on the last one.
	param, next string
}

// wellFormed says whether a name may be passed on: it ends up in logs, headers,
// terminals and the memory of many requests.
func wellFormed(name string) bool {
	return len(name) <= maxModelName && !strings.ContainsFunc(name, func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r) // controls, and what changes the direction of writing
	})
}

// knock asks for a path that wants a valid key. Whatever else is the matter with it
// does not matter.
func (l *listing) knock(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base.JoinPath(path).String(), nil)
	if err != nil {
		return err
	}
	res, err := l.do(req)
	if err != nil {
		return fmt.Errorf("model list: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden {
		return fmt.Errorf("model list: %w", l.refused(http.StatusUnauthorized, nil))
	}
	return nil
}

// read returns the models of all pages. Those whose names are empty, too long or
// not fit to print are left out.
func (l *listing) read(ctx context.Context, parse func([]byte) (page, error)) ([]Model, error) {
	var all []Model
	query := l.query
	for pages := 1; ; pages++ {
		p, err := l.page(ctx, query, parse)
		if err != nil {
			return nil, fmt.Errorf("model list: %w", err)
		}
		for _, m := range p.models {
			if wellFormed(m.ID) && m.ID != "" {
				if !wellFormed(m.OwnedBy) {
					m.OwnedBy = ""
				}
				if !wellFormed(m.Name) {
					m.Name = ""
				}
				all = append(all, m)
			}
		}
		switch {
		case len(all) > maxModels:
			return nil, fmt.Errorf("model list: more than %d models", maxModels)
		case p.next == "":
			if all == nil {
				all = []Model{}
			}
			return all, nil
		case pages == maxPages:
			return nil, fmt.Errorf("model list: more than %d pages", maxPages)
		}
		query = url.Values{p.param: {p.next}}
		for name, values := range l.query {
			query[name] = values
		}
	}
}

func (l *listing) page(ctx context.Context, query url.Values, parse func([]byte) (page, error)) (page, error) {
	at := l.base.JoinPath("models")
	if l.at != nil {
		*at = *l.at
	}
	at.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return page{}, err
	}
	res, err := l.do(req)
	if err != nil {
		return page{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(maxCatalogBytes-l.bytes+1)))
	if err != nil {
		return page{}, err
	}
	if res.StatusCode != http.StatusOK {
		return page{}, l.refused(res.StatusCode, body)
	}
	if l.bytes += len(body); l.bytes > maxCatalogBytes {
		return page{}, fmt.Errorf("longer than %d MiB", maxCatalogBytes>>20)
	}
	return parse(body)
}

func (l *listing) refused(status int, body []byte) error {
	p := dialect.ReadProblem(body)
	if status == http.StatusUnauthorized || l.Meaning(status, &p) == BadCredential {
		// Not with the upstream's words: some servers repeat the key in them.
		return fmt.Errorf("status %d: the credential was refused", status)
	}
	return fmt.Errorf("status %d: %.200s", status, p.Message)
}

// notAList says what is wrong with an answer that is no list of models. err is
// that of decoding it.
func notAList(err error, whose string) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	return fmt.Errorf("the answer has not the form of %s", whose)
}
