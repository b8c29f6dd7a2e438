package floway

import (
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/floway/floway/relay"
)

// show makes the trace's values available as placeholders. They are looked up
// when somebody asks for one, which is after the request was served.
func (h *Handler) show(r *http.Request, t *relay.Trace) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	const prefix = "http.floway."
	repl.Map(func(key string) (any, bool) {
		if len(key) <= len(prefix) || key[:len(prefix)] != prefix {
			return nil, false
		}
		switch key[len(prefix):] {
		case "request":
			return t.Request, true
		case "upstream_request":
			return t.UpstreamRequest, true
		case "client":
			return t.Client, true
		case "group":
			return t.Group, true
		case "operation":
			return t.Operation, true
		case "model":
			return t.Model, true
		case "upstream":
			return t.Upstream, true
		case "key":
			return t.Key, true
		case "attempts":
			return t.Attempts, true
		case "outcome":
			return outcomeWord(t), true
		case "tokens.input":
			return t.Tokens.Input, true
		case "tokens.cache_read":
			return t.Tokens.CacheRead, true
		case "tokens.cache_write":
			return t.Tokens.CacheWrite + t.Tokens.CacheWrite1h, true
		case "tokens.output":
			return t.Tokens.Output, true
		case "tokens.reasoning":
			return t.Tokens.Reasoning, true
		case "tokens.source":
			return t.Source.String(), true
		case "first_byte":
			return strconv.FormatFloat(t.FirstByte.Seconds(), 'f', 6, 64), true
		}
		return nil, false
	})
}

func outcomeWord(t *relay.Trace) string {
	if t.Outcome == 0 {
		return ""
	}
	return t.Outcome.String()
}

// log adds what is known of the request to its line in the access log, if the
// server keeps one.
func (h *Handler) log(r *http.Request, t *relay.Trace) {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return
	}
	extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return
	}
	extra.Add(zap.Object("floway", (*traceFields)(t)))
}

// traceFields writes a trace into a log line, as one object.
type traceFields relay.Trace

// MarshalLogObject writes the fields that are known.
func (t *traceFields) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	for _, f := range [...]struct{ name, value string }{
		{"request", t.Request},
		{"client", t.Client},
		{"group", t.Group},
		{"operation", t.Operation},
		{"model", t.Model},
		{"upstream", t.Upstream},
		{"key", t.Key},
		{"upstream_request", t.UpstreamRequest},
	} {
		if f.value != "" {
			enc.AddString(f.name, f.value)
		}
	}
	if t.Attempts == 0 {
		return nil
	}
	enc.AddInt("attempts", t.Attempts)
	enc.AddString("outcome", outcomeWord((*relay.Trace)(t)))
	enc.AddInt64("input_tokens", t.Tokens.Input)
	enc.AddInt64("cache_read_tokens", t.Tokens.CacheRead)
	enc.AddInt64("cache_write_tokens", t.Tokens.CacheWrite+t.Tokens.CacheWrite1h)
	enc.AddInt64("output_tokens", t.Tokens.Output)
	enc.AddString("tokens_source", t.Source.String())
	if t.FirstByte > 0 {
		enc.AddDuration("first_byte", t.FirstByte)
	}
	return nil
}
