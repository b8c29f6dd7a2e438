package floway

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(Admin{})
}

// Admin answers questions about the gateway on Caddy's admin endpoint:
//
//	GET  /floway/usage      sums by since, until, by, bucket and filters; format=csv for a table
//	GET  /floway/upstreams  pools, keys and how they are doing
//	POST /floway/upstreams/reset?upstream=…&key=…  forgets what is known of a key
//	GET  /floway/models     who serves which model, in which dialects
//	POST /floway/check      tries every upstream key
//	GET  /floway/ledger     how far the store has taken in what was recorded
//	POST /floway/ledger/verify?log=…   compares the ledger with the store
//	POST /floway/ledger/resume?log=…   lets a stream that has stopped go on
//	POST /floway/ledger/adopt?dir=…    delivers the ledger of a host that is gone
//	POST /floway/usage/move?dir=…      carries an embedded history into Redis
//	GET  /floway/login/copilot          the seats that are signed in, and sign-ins under way
//	POST /floway/login/copilot?name=…   begins to sign a seat in: answers with the code to type
//	DELETE /floway/login/copilot?name=… signs a seat out
//	POST /floway/login/copilot/cancel?name=… gives a sign-in under way up
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.floway",
		New: func() caddy.Module { return new(Admin) },
	}
}

// Routes returns the routes. They belong to a configuration that may have been
// refused, so they keep nothing and look for what is living when they are asked.
func (Admin) Routes() []caddy.AdminRoute {
	route := func(method, pattern string, f func(http.ResponseWriter, *http.Request) error) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			if r.Method != method {
				w.Header().Set("Allow", method)
				return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method not allowed; use %s", method)}
			}
			return f(w, r)
		})}
	}
	return []caddy.AdminRoute{
		route(http.MethodGet, "/floway/usage", adminUsage),
		route(http.MethodGet, "/floway/upstreams", func(w http.ResponseWriter, _ *http.Request) error {
			writeJSON(w, map[string]any{"upstreams": reportUpstreams()})
			return nil
		}),
		route(http.MethodPost, "/floway/upstreams/reset", adminReset),
		route(http.MethodGet, "/floway/models", func(w http.ResponseWriter, _ *http.Request) error {
			writeJSON(w, reportModels())
			return nil
		}),
		route(http.MethodPost, "/floway/check", adminCheck),
		route(http.MethodGet, "/floway/ledger", adminLedger),
		route(http.MethodPost, "/floway/ledger/verify", adminVerify),
		route(http.MethodPost, "/floway/ledger/resume", adminResume),
		route(http.MethodPost, "/floway/ledger/adopt", adminAdopt),
		route(http.MethodPost, "/floway/usage/move", adminMove),
		{Pattern: "/floway/login/copilot", Handler: caddy.AdminHandlerFunc(adminLogin)},
		route(http.MethodPost, "/floway/login/copilot/cancel", adminGiveUp),
	}
}

func adminUsage(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r.URL.Query(), time.Now())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	result, err := report(r.Context(), q, r.URL.Query().Get("store"))
	switch {
	case errors.Is(err, errNoAccount), errors.Is(err, errNoStore):
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err}
	case err != nil:
		return caddy.APIError{HTTPStatus: http.StatusBadGateway, Err: err}
	}
	switch format := r.URL.Query().Get("format"); format {
	case "", "json":
		writeJSON(w, result)
	case "csv":
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		return result.WriteCSV(w)
	default:
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("format %.20q is not json or csv", format)}
	}
	return nil
}

func adminReset(w http.ResponseWriter, r *http.Request) error {
	upstream, key := r.URL.Query().Get("upstream"), r.URL.Query().Get("key")
	found := false
	for _, h := range generations.handlers() {
		for _, u := range h.Upstreams {
			if u.Name != upstream {
				continue
			}
			if err := u.upstream.Pool.Reset(key); err != nil {
				return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err}
			}
			found = true
		}
	}
	if !found {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("there is no upstream %.40q", upstream)}
	}
	writeJSON(w, map[string]bool{"reset": true})
	return nil
}

// adminCheck answers line by line, as the keys are tried.
func adminCheck(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	checkKeys(r.Context(), func(c checkReport) {
		_ = enc.Encode(c)
		_ = flush.Flush()
	})
	return nil
}

func adminLedger(w http.ResponseWriter, _ *http.Request) error {
	list := []ledgerReport{}
	for _, b := range booksOf("") {
		list = append(list, reportLedger(b))
		b.release()
	}
	writeJSON(w, map[string]any{"ledgers": list})
	return nil
}

// splitList goes through the names of a list with commas.
func splitList(s string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(s, ",") {
			if name = strings.TrimSpace(name); name != "" && !yield(name) {
				return
			}
		}
	}
}

var _ caddy.AdminRouter = Admin{}
