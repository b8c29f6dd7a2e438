package mockopenai

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockanthropic"
)

// Vendor is in what a compatible service differs from OpenAI's.
type Vendor struct {
	// Base is the path of the API, Messages that of Anthropic's; empty if it has none.
	Base, Messages string
	// Paths are those below Base that it has.
	Paths []string
	// Tags: the models are listed at /api/tags, in Ollama's form.
	Tags bool
	// Refuses are members of chat completions that it does not take, and developer for
	// the role, with the status Strict; Knows are members of its own.
	Refuses, Knows []string
	Strict         int
	// IDs is the form of the ids of calls; nil for any. Those that it makes have it.
	IDs *regexp.Regexp
	// Reasoning is the member in which reasoning comes; Back says that turns with
	// calls are refused that come without.
	Reasoning string
	Back      bool
	// Whole: calls come whole, in one event, and the answer ends with stop.
	Whole bool
	// Unasked: usage is told without being asked for, with the last content.
	Unasked bool
	// Version is the least that Messages takes; empty for what Anthropic does.
	Version string
}

// older are what servers refuse that keep to the API of before the models that
// think.
var older = []string{"developer", "max_completion_tokens"}

// Vendors are the services that can be imitated.
var Vendors = map[string]*Vendor{
	"ollama": {
		Base: "/v1", Messages: "/v1", Tags: true, Paths: []string{"/chat/completions", "/completions", "/embeddings", "/responses", "/models"},
		Refuses: older, Strict: 400, Knows: []string{"keep_alive", "options", "think"},
		Reasoning: "reasoning", Whole: true, Version: "2023-06-01",
	},
	"deepseek": {
		Base: "/v1", Messages: "/anthropic/v1", Paths: []string{"/chat/completions", "/models"},
		Refuses: older, Strict: 400, Knows: []string{"thinking"}, Reasoning: "reasoning_content", Back: true,
	},
	"mistral": {
		Base: "/v1", Paths: []string{"/chat/completions", "/embeddings", "/models"},
		Refuses: append([]string{"stream_options", "seed", "user", "service_tier", "prompt_cache_key", "verbosity"}, older...), Strict: 422,
		Knows: []string{"random_seed", "safe_prompt", "prompt_mode"}, IDs: regexp.MustCompile(`^[a-zA-Z0-9]{9}$`), Unasked: true,
	},
	"groq": {
		Base: "/openai/v1", Paths: []string{"/chat/completions", "/responses", "/models"},
		Refuses: []string{"max_tokens", "service_tier", "logprobs", "logit_bias"}, Strict: 400, Reasoning: "reasoning",
	},
}

// NewVendor makes a Server that answers as a compatible service does.
func NewVendor(c Config, v *Vendor) *Server {
	s := New(c)
	s.vendor, s.messages = v, mockanthropic.New(c)
	return s
}

// own does what the vendor does its own way. done says that the request is answered.
func (s *Server) own(e *mock.Exchange) (done bool, err error) {
	v, path := s.vendor, e.R.URL.Path
	if v == nil {
		return false, nil
	}
	if values := e.R.Header.Values("Authorization"); len(values) != 1 || !strings.HasPrefix(values[0], "Bearer ") {
		return true, &Error{Status: 401, Message: "unauthorized"} // x-api-key alone is none
	}
	switch rest, ok := strings.CutPrefix(path, v.Base); {
	case v.Tags && e.R.Method+path == "GET/api/tags":
		e.Entry.Operation = "models"
		list := []map[string]any{}
		for _, m := range models {
			list = append(list, map[string]any{"name": m + ":latest", "model": m + ":latest", "modified_at": "2026-09-21T14:13:20+00:00", "size": 1, "digest": "d", "details": map[string]any{}})
		}
		return true, e.AnswerJSON(map[string]any{"models": list})
	case v.Messages != "" && path == v.Messages+"/messages":
		if v.Version != "" && e.R.Header.Get("Anthropic-Version") < v.Version {
			return true, &mockanthropic.Error{Status: 400, Message: "anthropic-version must not be before " + v.Version}
		}
		e.R.URL.Path = "/v1/messages"
		return true, s.messages.Serve(e)
	case ok && slices.Contains(v.Paths, rest):
		e.R.URL.Path = "/v1" + rest
		return false, nil
	}
	return true, &Error{Status: 404, Message: "404 page not found"}
}

// fieldsOf are the members that the server takes.
func (x *exchange) fieldsOf() fields {
	v := x.s.vendor
	if v == nil || x.route.operation != "chat" {
		return x.route.fields
	}
	f := maps.Clone(x.route.fields)
	for _, name := range v.Knows {
		f[name] = anything
	}
	return f
}

// strict refuses what the vendor does not take.
func (x *exchange) strict() error {
	v := x.s.vendor
	if v == nil || x.route.operation != "chat" {
		return nil
	}
	no := func(format string, args ...any) error {
		return &Error{Status: v.Strict, Message: fmt.Sprintf(format, args...)}
	}
	for _, name := range v.Refuses {
		if x.has(name) {
			return no("%s: extra inputs are not permitted", name)
		}
	}
	var turns []map[string]json.RawMessage
	if err := x.decode("messages", &turns); err != nil {
		return err
	}
	for _, t := range turns {
		var role, id string
		var calls []struct{ ID string }
		_ = json.Unmarshal(t["role"], &role)
		_ = json.Unmarshal(t["tool_call_id"], &id)
		_ = json.Unmarshal(t["tool_calls"], &calls)
		if role == "developer" && slices.Contains(v.Refuses, role) {
			return no("the role %s is not known", role)
		}
		if v.Back && len(calls) > 0 && t[v.Reasoning] == nil {
			return no("The `%s` in the thinking mode must be passed back to the API", v.Reasoning)
		}
		if id != "" {
			calls = append(calls, struct{ ID string }{id})
		}
		for _, c := range calls {
			if v.IDs != nil && !v.IDs.MatchString(c.ID) {
				return no("Tool call id was %s but must be a-z, A-Z, 0-9, with a length of 9.", c.ID)
			}
		}
		delete(t, v.Reasoning) // the rest is OpenAI's
	}
	x.member["messages"] = encode(turns)
	return nil
}

// callID makes the id of a call.
func (x *exchange) callID(i int) string {
	if v := x.s.vendor; v != nil && v.IDs != nil {
		return x.Digest[i : i+9]
	}
	return "call_" + x.Digest[i:i+20]
}

// reasoning is what the model thinks, in the member of the vendor's.
func (x *exchange) reasoning(d *chatDelta) bool {
	if v := x.s.vendor; v == nil || x.How.Scenario != mock.Thinking {
		return false
	} else if v.Reasoning == "reasoning" {
		d.Reasoning = "Let me think."
	} else {
		d.ReasoningContent = "Let me think."
	}
	return true
}

// whole says that calls come whole.
func (x *exchange) whole() bool { return x.s.vendor != nil && x.s.vendor.Whole }

// unasked says that usage is told without being asked for.
func (x *exchange) unasked() bool { return x.s.vendor != nil && x.s.vendor.Unasked }
