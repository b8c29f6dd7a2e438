package floway

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Every subdirective has a Caddyfile in testdata/caddyfile, and beside it the
// JSON that it becomes. `go test -run Adapt -update .` writes the JSON anew.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/caddyfile/*.caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatal("no Caddyfiles in testdata", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfile")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, warnings, err := adapt(string(text), filepath.Base(file))
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) > 0 {
				t.Errorf("warnings: %v", warnings)
			}
			got := indented(t, config)
			golden := strings.TrimSuffix(file, ".caddyfile") + ".json"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the adapted configuration differs from %s:\n%s", golden, got)
			}
		})
	}
}

// What a Caddyfile becomes can be read as JSON and says the same again.
func TestJSONSaysWhatTheCaddyfileSays(t *testing.T) {
	files, _ := filepath.Glob("testdata/caddyfile/*.json")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range handlersIn(t, raw) {
			var h Handler
			if err := caddy.StrictUnmarshalJSON(block, &h); err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			again, err := json.Marshal(&h)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := indented(t, block), indented(t, again); a != b {
				t.Errorf("%s: read as JSON and written again:\n%s\nwant\n%s", file, b, a)
			}
		}
	}
}

// handlersIn returns the configuration of every floway handler, without its name.
func handlersIn(t *testing.T, config []byte) (found []json.RawMessage) {
	t.Helper()
	var look func(v any)
	look = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				look(e)
			}
		case map[string]any:
			if v["handler"] == "floway" {
				delete(v, "handler")
				raw, _ := json.Marshal(v)
				found = append(found, raw)
				return
			}
			for _, e := range v {
				look(e)
			}
		}
	}
	var v any
	if err := json.Unmarshal(config, &v); err != nil {
		t.Fatal(err)
	}
	look(v)
	return found
}

// hidden is part of every secret in the cases below, and of no error.
const hidden = "MARKER"

// refusals are mistakes, each in a file whose line with the mistake ends in #!.
// Those without a mark can only be found when all is put together; their errors
// name the block instead. A body without a site stands in a floway block.
var refusals = []struct{ name, body, want string }{
	// The block itself.
	{"argument", "FILE\n:8080 {\n\tfloway here { #!\n\t\tupstream demo\n\t}\n}", `unexpected "here": floway takes no argument but a matcher`},
	{"secret as argument", "FILE\n:8080 {\n\tfloway sk-MARKER-0123456789 { #!\n\t\tupstream demo\n\t}\n}", `floway takes no argument but a matcher`},
	{"one line", "FILE\n:8080 {\n\tfloway { upstream demo } #!\n}", "Unexpected next token after '{' on same line"},
	{"empty block", "FILE\n:8080 {\n\tfloway {\n\t} #!\n}", "a floway block needs at least one upstream"},
	{"no block", "FILE\n:8080 {\n\tfloway #!\n}", "a floway block needs at least one upstream"},
	{"unknown subdirective", "upstream demo\nupsteam demo #!", `unrecognized subdirective "upsteam" in floway; there are upstream, route,`},
	{"secret as subdirective", "upstream demo\nMARKERdeadbeef0123456789 #!", "unrecognized subdirective (a word of 24 characters) in floway"},
	{"brace on the line", "upstream demo { models x } #!", "Unexpected next token after '{' on same line"},
	{"closing brace on the line", "upstream openai {\nmodels x } #!\n}", "a brace stands among other words: blocks are written over several lines"},

	// upstream
	{"no provider", "upstream #!", "upstream: the provider is missing; there are "},
	{"provider unset", "upstream {$FLOWAY_TEST_UNSET} { #!\n}", "upstream: the provider is missing"},
	{"three words", "upstream openai a b #!", "upstream: 3 words follow, a provider and a name were expected"},
	{"unknown provider", "upstream opnai #!", `upstream: unknown provider "opnai"; there are anthropic,`},
	{"secret as provider", "upstream MARKER0123456789abcdef #!", "upstream: unknown provider (a word of 22 characters); there are "},
	{"secret as name", "upstream openai sk-MARKER-0123456789 #!", "upstream: the name looks like a secret; write the key on a line of its own"},
	{"name with odd characters", "upstream openai a/b #!", `upstream: the name "a/b" must be 1 to 32 of the characters A-Z a-z 0-9 . _ -`},
	{"empty name", `upstream openai "" #!`, `upstream: the name "" must be 1 to 32 of the characters`},
	{"two of one name", "upstream demo\nupstream demo #!", `upstream: "demo" is there already; give this one another name: upstream demo <name>`},
	{"two of one given name", "upstream openai demo\nupstream demo #!", `upstream: "demo" is there already`},
	{"unknown in upstream", "upstream openai {\nmodel gpt-5 #!\n}", `unrecognized subdirective "model" in an upstream; there are key, base_url, models, alias, dialects, lb_policy, max_requests, default_max_tokens, header_up, first_byte_timeout, idle_timeout, transport, organization, project`},
	{"secret on its own", "upstream openai {\nsk-MARKER-0123456789 #!\n}", "unrecognized subdirective (a word of 20 characters) in an upstream"},

	// key
	{"key without a secret", "upstream openai {\nkey #!\n}", "key: the secret is missing, perhaps because an environment variable is not set; expected: key <secret> [as <label>] [weight <n>]"},
	{"key unset", "upstream openai {\nkey {$FLOWAY_TEST_UNSET} #!\n}", "key: the secret is missing, perhaps because an environment variable is not set"},
	{"key unset with label", "upstream openai {\nkey {$FLOWAY_TEST_UNSET} as main #!\n}", "key: the secret is missing, perhaps because an environment variable is not set"},
	{"key unset with weight", "upstream openai {\nkey {$FLOWAY_TEST_UNSET} weight 2 #!\n}", "key: the secret is missing, perhaps because an environment variable is not set"},
	{"key quoted and unset", "upstream openai {\nkey \"{$FLOWAY_TEST_UNSET}\" as main #!\n}", "key: the secret is missing"},
	{"key too short", "upstream openai {\nkey short #!\n}", "key: the secret is shorter than 8 characters; is an environment variable unset?"},
	{"key with one brace", "upstream openai {\nkey {env.MARKER0123 #!\n}", "key: a variable is written {env.NAME} and a file {file./path}, with both braces"},
	{"key without braces", "upstream openai {\nkey env.MARKER0123 #!\n}", "key: a variable is written {env.NAME}"},
	{"key as in a shell", "upstream openai {\nkey $MARKER0123 #!\n}", "key: a variable is written {env.NAME}"},
	{"key as in a shell, in braces", "upstream openai {\nkey ${MARKER0123} #!\n}", "key: a variable is written {env.NAME}"},
	{"client's key without braces", "upstream demo\nclient a {\nkey file./MARKER0123 #!\n}", "key: a variable is written {env.NAME}"},
	{"key of two words", "upstream openai {\nkey sk-MARKER 0123456789 #!\n}", "key: only `as <label>` and `weight <n>` may follow the secret"},
	{"label is missing", "upstream openai {\nkey sk-MARKER-0123456789 as #!\n}", "key: only `as <label>` and `weight <n>` may follow the secret"},
	{"label without as", "upstream openai {\nkey sk-MARKER-0123456789 main #!\n}", "key: only `as <label>` and `weight <n>` may follow the secret"},
	{"label is a secret", "upstream openai {\nkey {env.A} as sk-MARKER-0123456789 #!\n}", "key: the label looks like a secret"},
	{"label is a placeholder", "upstream openai {\nkey sk-MARKER-0123456789 as {env.LABEL} #!\n}", "key: the label must be 1 to 32 of the characters A-Z a-z 0-9 . _ - and is written as it is, without placeholders"},
	{"label too long", "upstream openai {\nkey sk-MARKER-0123456789 as " + strings.Repeat("x", 33) + " #!\n}", "key: the label must be 1 to 32 of the characters"},
	{"label twice in the line", "upstream openai {\nkey sk-MARKER-0123456789 as a as b #!\n}", "key: as stands in this line twice"},
	{"weight twice in the line", "upstream openai {\nkey sk-MARKER-0123456789 weight 1 weight 2 #!\n}", "key: weight stands in this line twice"},
	{"weight negative", "upstream openai {\nkey sk-MARKER-0123456789 weight -1 #!\n}", "key: the weight must be a whole number above 0"},
	{"weight zero", "upstream openai {\nkey sk-MARKER-0123456789 weight 0 #!\n}", "key: the weight must be a whole number above 0"},
	{"weight is a word", "upstream openai {\nkey sk-MARKER-0123456789 weight MARKER #!\n}", "key: the weight must be a whole number above 0"},
	{"two labels", "upstream openai {\nkey sk-MARKER-0123456789 as a\nkey sk-MARKER-1123456789 as a #!\n}", "key: the label a is there already"},
	{"label is a default", "upstream openai {\nkey sk-MARKER-0123456789 as key2\nkey sk-MARKER-1123456789 #!\n}", "key: the label key2 is there already"},
	{"one secret twice", "upstream openai {\nkey sk-MARKER-0123456789 as a\nkey sk-MARKER-0123456789 as b #!\n}", "key: the secret of b is that of another key of this upstream"},
	{"sign-in of a provider without", "upstream openai {\nkey signin:alice #!\n}", "key: signin:<name> is for providers whose accounts are signed in, such as copilot; openai takes a secret"},
	{"sign-in without a name", "upstream copilot {\nkey signin: #!\n}", "key: the name of a sign-in must be 1 to 32 of the characters"},
	{"sign-in with a bad name", "upstream copilot {\nkey signin:a/b #!\n}", "key: the name of a sign-in must be 1 to 32 of the characters"},
	{"sign-in twice", "upstream copilot {\nkey signin:alice\nkey signin:alice as other #!\n}", "key: the secret of other is that of another key of this upstream"},
	{"copilot without a key", "upstream copilot { #!\n}", "upstream copilot: a key is missing; write one: key signin:<name>"},
	{"copilot at a bad host", "upstream copilot { #!\nkey signin:alice\nhost http://hub.example\n}", "speaks without TLS, which is for this machine alone"},
	{"copilot at no host", "upstream copilot {\nkey signin:alice\nhost #!\n}", "host: a value is missing"},
	{"host of another provider", "upstream openai {\nhost octo.ghe.com #!\n}", "host is an option of the provider copilot, not of openai"},
	{"key of demo", "upstream demo {\nkey sk-MARKER-0123456789 #!\n}", "key: the provider demo takes no keys"},
	{"weight under first", "upstream openai {\nlb_policy first\nkey sk-MARKER-0123456789 weight 2 #!\n}", "a weight has no meaning under lb_policy first"},
	{"weight before random", "upstream openai {\nkey sk-MARKER-0123456789 weight 2 #!\nlb_policy random\n}", "a weight has no meaning under lb_policy random"},
	{"weight under round_robin", "upstream openai {\nkey sk-MARKER-0123456789 weight 2 #!\nlb_policy round_robin\n}", "a weight has no meaning under lb_policy round_robin"},

	// the rest of upstream
	{"base_url of an operation", "upstream openai { #!\nbase_url https://a/v1/chat/completions\n}", `base_url: "https://a/v1/chat/completions" is the address of one operation; end it before /chat/completions`},
	{"base_url of an operation with a slash", "upstream anthropic { #!\nbase_url https://a/v1/messages/\n}", "is the address of one operation; end it before /messages"},
	{"base_url of the models", "upstream gemini { #!\nbase_url https://a/v1beta/models\n}", "is the address of one operation; end it before /models"},
	{"base_url twice", "upstream openai {\nbase_url http://a\nbase_url http://b #!\n}", "base_url stands in this block a second time"},
	{"base_url unset", "upstream openai {\nbase_url {$FLOWAY_TEST_UNSET} #!\n}", "base_url: nothing follows, perhaps because an environment variable is not set; expected was an address"},
	{"base_url empty", "upstream openai {\nbase_url \"\" #!\n}", "base_url: the word is empty, perhaps because an environment variable is not set"},
	{"base_url two words", "upstream openai {\nbase_url http://a http://b #!\n}", "base_url: 2 words follow, one was expected"},
	{"base_url without scheme", "upstream openai gpu { #!\nbase_url localhost:8000\n}", `base_url: "localhost:8000" is not a URL that begins with http:// or https://`},
	{"base_url with a password", "upstream openai gpu { #!\nbase_url http://user:MARKER@localhost\n}", "base_url: a credential does not belong in the URL; write a key line"},
	{"base_url with a key", "upstream openai gpu { #!\nbase_url http://localhost?key=MARKER\n}", "must not be followed by a query"},
	{"base_url of demo", "upstream demo { #!\nbase_url http://localhost\n}", "base_url: the provider demo answers by itself and has no address"},
	{"models without names", "upstream openai {\nmodels #!\n}", "models: nothing follows, expected were one or more model names or patterns"},
	{"models with an empty name", "upstream openai {\nmodels a \"\" #!\n}", "models: a word is empty"},
	{"models twice the same", "upstream openai {\nmodels a\nmodels b a #!\n}", `models: "a" is there already`},
	{"alias of one word", "upstream openai {\nalias a #!\n}", "alias: a public name and the upstream's own name were expected, not 1 words"},
	{"alias empty", "upstream openai {\nalias a \"\" #!\n}", "alias: a name is empty, perhaps because an environment variable is not set"},
	{"alias of a pattern", "upstream openai {\nalias a* b #!\n}", `alias: the public name "a*" is a pattern; an alias is one name`},
	{"alias twice", "upstream openai {\nalias a b\nalias a c #!\n}", `alias: "a" is there already`},
	{"dialects of none", "upstream openai {\ndialects #!\n}", "dialects: nothing follows, expected were one or more of chat, responses, messages, gemini"},
	{"dialects unknown", "upstream openai {\ndialects chat smalltalk #!\n}", `dialects: "smalltalk" is none; there are chat, responses`},
	{"dialects beyond the provider", "upstream openai { #!\ndialects gemini\n}", "upstream openai: dialects:"},
	{"lb_policy twice", "upstream openai {\nlb_policy first\nlb_policy first #!\n}", "lb_policy stands in this block a second time"},
	{"lb_policy unknown", "upstream openai {\nlb_policy ip_hash #!\n}", `lb_policy: "ip_hash" is none; there are round_robin, weighted_round_robin, least_conn, random, first and sticky`},
	{"lb_policy missing", "upstream openai {\nlb_policy #!\n}", "lb_policy: nothing follows"},
	{"max_requests negative", "upstream openai {\nmax_requests -1 #!\n}", `max_requests: "-1" is not a whole number of 1 or more`},
	{"default_max_tokens zero", "upstream openai {\ndefault_max_tokens 0 #!\n}", `default_max_tokens: "0" is not a whole number of 1 or more`},
	{"max_requests zero", "upstream openai {\nmax_requests 0 #!\n}", `max_requests: "0" is not a whole number of 1 or more`},
	{"max_requests huge", "upstream openai {\nmax_requests 99999999999999999999 #!\n}", `is not a whole number of 1 or more`},
	{"max_requests twice", "upstream openai {\nmax_requests 1\nmax_requests 1 #!\n}", "max_requests stands in this block a second time"},
	{"header_up without a field", "upstream openai {\nheader_up #!\n}", "header_up: expected: header_up [+]<field> <value>, or header_up -<field>"},
	{"header_up without a value", "upstream openai {\nheader_up X-A {$FLOWAY_TEST_UNSET} #!\n}", "header_up: expected:"},
	{"header_up of three", "upstream openai {\nheader_up X-A sk-MARKER c #!\n}", "header_up: expected:"},
	{"header_up of no name", "upstream openai {\nheader_up + sk-MARKER #!\n}", "header_up: expected:"},
	{"header_up with a colon", "upstream openai {\nheader_up X-A: sk-MARKER #!\n}", "header_up: expected:"},
	{"header_up out with a value", "upstream openai {\nheader_up -X-A sk-MARKER #!\n}", "header_up: a field that is taken out has no value"},
	{"header_up default", "upstream openai {\nheader_up ?X-A sk-MARKER #!\n}", "header_up: ?X-A: the default header modifier"},
	{"first_byte_timeout negative", "upstream openai {\nfirst_byte_timeout -5s #!\n}", `first_byte_timeout: "-5s" is not a duration above zero, such as 30s, 5m or 7d`},
	{"first_byte_timeout without unit", "upstream openai {\nfirst_byte_timeout 30 #!\n}", `first_byte_timeout: "30" is not a duration above zero`},
	{"first_byte_timeout twice", "upstream openai {\nfirst_byte_timeout 1s\nfirst_byte_timeout 1s #!\n}", "first_byte_timeout stands in this block a second time"},
	{"idle_timeout zero", "upstream openai {\nidle_timeout 0s #!\n}", `idle_timeout: "0s" is not a duration above zero`},
	{"idle_timeout twice", "upstream openai {\nidle_timeout 1s\nidle_timeout 1s #!\n}", "idle_timeout stands in this block a second time"},
	{"transport of another kind", "upstream openai {\ntransport fastcgi { #!\n}\n}", "transport: expected: transport http, and its block"},
	{"transport of none", "upstream openai {\ntransport #!\n}", "transport: expected: transport http"},
	{"transport twice", "upstream openai {\ntransport http {\n}\ntransport http { #!\n}\n}", "transport stands in this block a second time"},
	{"transport unknown", "upstream openai {\ntransport http {\ndail_timeout 3s #!\n}\n}", "unrecognized subdirective dail_timeout"},
	{"transport response_header_timeout", "upstream openai {\ntransport http {\ndial_timeout 3s\nresponse_header_timeout 3s #!\n}\n}", "transport: response_header_timeout does not belong here: write first_byte_timeout in the upstream block instead"},
	{"transport read_timeout", "upstream openai {\ntransport http {\nread_timeout 3s #!\n}\n}", "transport: read_timeout does not belong here: write idle_timeout in the upstream block instead"},
	{"transport proxy_protocol", "upstream openai {\ntransport http {\nproxy_protocol v2 #!\n}\n}", "transport: proxy_protocol does not belong here"},
	{"transport refused after a block", "upstream openai {\ntransport http {\ntls_trust_pool file {\npem_file /x.pem\n}\nread_timeout 3s #!\n}\n}", "transport: read_timeout does not belong here"},
	{"tls and http", "upstream openai {\ntransport http { #!\ntls\n}\nbase_url http://localhost:8000\n}", "transport: tls is set and base_url begins with http://, which speaks without it"},
	{"transport of demo", "upstream demo {\ntransport http {\n}\n}", "upstream demo: transport: the provider demo needs none"},
	{"option of another provider", "upstream demo {\norganization org-1 #!\n}", "organization is an option of the provider openai, not of demo"},
	{"option of the third", "upstream gemini {\nversion 2023-06-01 #!\n}", "version is an option of the provider anthropic, not of gemini"},
	{"version that is none", "upstream anthropic { #!\nversion latest\n}", `upstream anthropic: version: "latest" is not the date of a version, such as 2023-06-01`},
	{"azure without an address", "upstream azure {\nkey sk-MARKER-0123456789\n}", "base_url is missing; this provider has no default"},
	{"azure's address of a deployment", "upstream azure { #!\nbase_url https://a.openai.azure.com/openai/deployments/prod/chat/completions?api-version=2024-10-21\n}", "upstream azure: base_url: it names a deployment; write the resource's endpoint, such as https://NAME.openai.azure.com, and the deployment as the name of the model or by an alias line"},
	{"azure's address with a version", "upstream azure { #!\nbase_url https://a.openai.azure.com/openai/v1?api-version=preview\n}", "base_url: the version does not belong in the address; write the resource's endpoint, such as https://NAME.openai.azure.com, and the version on a line of its own: api_version <version>"},
	{"azure's address of an operation", "upstream azure { #!\nbase_url https://a.openai.azure.com/openai/v1/chat/completions\n}", `base_url: "https://a.openai.azure.com/openai/v1/chat/completions" is the address of one operation`},
	{"azure's portal", "upstream azure { #!\nbase_url https://ai.azure.com/\n}", "base_url: ai.azure.com is a page for people"},
	{"azure without TLS", "upstream azure { #!\nbase_url http://a.openai.azure.com\n}", "base_url: http:// would show the key to everybody on the way"},
	{"azure's other path", "upstream azure { #!\nbase_url https://a.services.ai.azure.com/models\n}", `base_url: a resource of Azure has nothing at the path "/models"`},
	{"api_version of no form", "upstream azure { #!\nbase_url https://a.openai.azure.com\napi_version 2024-13-01\n}", `upstream azure: api_version: "2024-13-01" is neither v1 or preview nor a date such as 2024-10-21 or 2025-04-01-preview`},
	{"api_version on v1", "upstream azure { #!\nbase_url https://a.openai.azure.com/openai/v1\napi_version 2024-10-21\n}", "api_version: the address ends in /openai/v1, which takes no dated version such as 2024-10-21; leave out one of the two"},
	{"api_version of a project", "upstream azure { #!\nbase_url https://a.services.ai.azure.com/api/projects/p\napi_version 2024-10-21\n}", "api_version: a project has the v1 surface alone"},
	{"api_version elsewhere", "upstream openai {\napi_version v1 #!\n}", "api_version is an option of the provider azure, not of openai"},
	{"api_version empty", "upstream azure {\napi_version {$FLOWAY_TEST_UNSET} #!\n}", "api_version: a value is missing, perhaps because an environment variable is not set"},
	{"entra and a key", "upstream azure {\nbase_url https://a.openai.azure.com\nentra #!\nkey sk-MARKER-0123456789\n}", "entra: it authenticates in the place of keys; leave out either this line or the key lines"},
	{"entra with two words", "upstream azure { #!\nbase_url https://a.openai.azure.com\nentra 72f988bf id-1\n}", "upstream azure: entra: nothing, or a tenant, a client id and a secret were expected, not 2 words"},
	{"entra with a short secret", "upstream azure { #!\nbase_url https://a.openai.azure.com\nentra 72f988bf id-1 MARKER\n}", "upstream azure: entra: the secret is shorter than 8 characters; is a variable unset?"},
	{"entra in another order", "upstream azure { #!\nbase_url https://a.openai.azure.com\nentra sk~MARKER~0123 72f988bf id-1\n}", "entra: the tenant is neither an id nor a domain"},
	{"entra twice", "upstream azure {\nentra\nentra #!\n}", "entra stands in this block a second time"},
	{"dialect of another", "upstream anthropic { #!\ndialects chat\n}", `"chat" is not among what this provider may speak: messages`},
	{"option without a value", "upstream openai {\norganization {$FLOWAY_TEST_UNSET} #!\n}", "organization: a value is missing, perhaps because an environment variable is not set"},
	{"option empty", "upstream openai {\norganization \"\" #!\n}", "organization: a value is missing"},
	{"option of two words", "upstream openai { #!\norganization a b\n}", "organization: one value was expected"},
	{"option twice", "upstream openai {\nproject a\nproject b #!\n}", "project stands in this block a second time"},

	// route
	{"route without a name", "upstream demo\nroute { #!\nto demo/x\n}", "route: nothing follows"},
	{"route of two names", "upstream demo\nroute a b { #!\nto demo/x\n}", "route: 2 words follow, one was expected: the public name of a model, or a pattern of names"},
	{"route twice", "upstream demo\nroute a {\nto demo/x\n}\nroute a { #!\nto demo/y\n}", `route: "a" is there already`},
	{"route without a target", "upstream demo\nroute a { #!\n}", "route a: it has no target; write at least one line: to <upstream>/<model>"},
	{"route without a block", "upstream demo\nroute a #!", "route a: it has no target"},
	{"route to an unknown upstream", "upstream demo\nroute a {\nto dmo/x #!\n}", `to: there is no upstream "dmo"; before the first slash stands always an upstream's name`},
	{"route to a model with a slash", "upstream demo\nroute a {\nto meta/llama #!\n}", `to: there is no upstream "meta"`},
	{"route with odd words", "upstream demo\nroute a {\ntarget demo/x #!\n}", `unrecognized subdirective "target" in a route`},
	{"to without a target", "upstream demo\nroute a {\nto #!\n}", "to: expected: to [<upstream>/]<model> [weight <n>]"},
	{"to of two words", "upstream demo\nroute a {\nto demo/x 3 #!\n}", "to: expected: to [<upstream>/]<model> [weight <n>]"},
	{"to without a model", "upstream demo\nroute a {\nto demo/ #!\n}", `to: "demo/" lacks a part`},
	{"to without an upstream", "upstream demo\nroute a {\nto /x #!\n}", `to: "/x" lacks a part`},
	{"to empty", "upstream demo\nroute a {\nto \"\" #!\n}", `to: "" lacks a part`},
	{"to a pattern", "upstream demo\nroute a {\nto demo/x* #!\n}", `to: "demo/x*" is a pattern; a target is one model, or * alone for the name that was asked for`},
	{"to with a negative weight", "upstream demo\nroute a {\nto demo/x weight -3 #!\n}", `to: the weight must be a whole number above 0, not "-3"`},
	{"to with half a weight", "upstream demo\nroute a {\nto demo/x weight 0.5 #!\n}", `to: the weight must be a whole number above 0, not "0.5"`},
	{"to with weight under first", "upstream demo\nroute a {\nto demo/x weight 3 #!\nlb_policy first\n}", "a weight has no meaning under lb_policy first"},
	{"route policy twice", "upstream demo\nroute a {\nto demo/x\nlb_policy first\nlb_policy first #!\n}", "lb_policy stands in this block a second time"},
	{"route policy unknown", "upstream demo\nroute a {\nto demo/x\nlb_policy fastest #!\n}", `lb_policy: "fastest" is none`},

	// client
	{"client without a name", "upstream demo\nclient { #!\n}", "client: nothing follows"},
	{"client twice", "upstream demo\nclient a {\n}\nclient a { #!\n}", `client: "a" is there already`},
	{"client named like a key", "upstream demo\nclient sk-MARKER-0123456789 { #!\n}", "client: the name looks like a secret; write the key on a line of its own: key <secret>"},
	{"client named oddly", "upstream demo\nclient \"al ice\" { #!\n}", `client: the name "al ice" must be 1 to 32 of the characters`},
	{"client with odd words", "upstream demo\nclient a {\nkeys x #!\n}", `unrecognized subdirective "keys" in a client`},
	{"client key missing", "upstream demo\nclient a {\nkey {$FLOWAY_TEST_UNSET} #!\n}", "key: the secret is missing, perhaps because an environment variable is not set; expected: key <secret | sha256:hex>"},
	{"client key empty", "upstream demo\nclient a {\nkey \"\" #!\n}", "key: the secret is missing"},
	{"client key short", "upstream demo\nclient a {\nkey 1234567 #!\n}", "key: the secret is shorter than 8 characters"},
	{"client key with a label", "upstream demo\nclient a {\nkey sk-MARKER-0123456789 as laptop #!\n}", "key: 3 words follow, one was expected: key <secret | sha256:hex>; further keys stand on lines of their own"},
	{"client key half a digest", "upstream demo\nclient a {\nkey sha256:abcdef #!\n}", "key: a SHA-256 has 64 hex digits, not 6"},
	{"client key bad digest", "upstream demo\nclient a {\nkey sha256:" + strings.Repeat("x", 64) + " #!\n}", "key: a SHA-256 is written in hex digits"},
	{"two clients with one key", "upstream demo\nclient a {\nkey sk-MARKER-0123456789\n}\nclient b {\nkey sk-MARKER-0123456789 #!\n}", "key: the client a has this key already; a key belongs to one client"},
	{"one client with one key twice", "upstream demo\nclient a {\nkey sk-MARKER-0123456789\nkey sk-MARKER-0123456789 #!\n}", "key: the client a has this key already"},
	{"two clients with one key, one as digest", "upstream demo\nclient a {\nkey sk-MARKER-0123456789\n}\nclient b {\nkey sha256:" + digestHex("sk-MARKER-0123456789") + "\n}", `the clients "a" and "b" have the same key`},
	{"group twice", "upstream demo\nclient a {\ngroup x\ngroup y #!\n}", "group stands in this block a second time"},
	{"group malformed", "upstream demo\nclient a {\ngroup x/y #!\n}", `group: "x/y" must be 1 to 64 of the characters`},
	{"group is a secret", "upstream demo\nclient a {\ngroup sk-MARKER-0123456789 #!\n}", "group: (a word of 20 characters) must be 1 to 64 of the characters A-Z a-z 0-9 . _ : - and no secret"},
	{"groups malformed", "upstream demo\nclient a {\ngroups x y/* #!\n}", `groups: "y/*" can match no group`},
	{"groups of none", "upstream demo\nclient a {\ngroups #!\n}", "groups: nothing follows"},
	{"client models of none", "upstream demo\nclient a {\nmodels #!\n}", "models: nothing follows"},
	{"client upstreams of none", "upstream demo\nclient a {\nupstreams #!\n}", "upstreams: nothing follows"},
	{"client upstream unknown", "upstream demo\nclient a {\nupstreams demo dmo #!\n}", `upstreams: there is no upstream "dmo"`},
	{"expires twice", "upstream demo\nclient a {\nexpires 2027-01-01\nexpires 2027-01-01 #!\n}", "expires stands in this block a second time"},
	{"expires no date", "upstream demo\nclient a {\nexpires 2027-02-30 #!\n}", `expires: "2027-02-30" is neither a date such as 2027-12-31 nor a time such as 2027-12-31T12:00:00Z`},
	{"expires a word", "upstream demo\nclient a {\nexpires never #!\n}", `expires: "never" is neither a date`},

	// the rest
	{"anonymous of none", "upstream demo\nanonymous #!", "anonymous: nothing follows"},
	{"anonymous twice", "upstream demo\nclient a {\n}\nanonymous a\nanonymous a #!", "anonymous stands in this block a second time"},
	{"anonymous with keys", "upstream demo\nanonymous a #!\nclient a {\nkey sk-MARKER-0123456789\n}", "anonymous: the client a has keys; name one that has none"},
	{"anonymous is a secret", "upstream demo\nanonymous sk-MARKER-0123456789 #!", "anonymous: (a word of 20 characters) is no name of a client"},
	{"anonymous undeclared", "upstream demo\nanonymous nobody #!", `anonymous: there is no client "nobody"; declare it without keys: client nobody`},
	{"anonymous with keys elsewhere", "GLOBAL\nclient a {\nkey sk-MARKER-0123456789\n}\nBLOCK\nupstream demo\nanonymous a #!", "anonymous: the client a has keys; name one that has none"},
	{"lb_retries negative", "upstream demo\nlb_retries -1 #!", `lb_retries: "-1" is not a whole number of 0 or more`},
	{"lb_retries twice", "upstream demo\nlb_retries 1\nlb_retries 1 #!", "lb_retries stands in this block a second time"},
	{"lb_try_duration negative", "upstream demo\nlb_try_duration -1s #!", `lb_try_duration: "-1s" is not a duration above zero`},
	{"lb_try_duration twice", "upstream demo\nlb_try_duration 1s\nlb_try_duration 1s #!", "lb_try_duration stands in this block a second time"},
	{"max_body negative", "upstream demo\nmax_body -1MiB #!", `max_body: "-1MiB" is not a size above zero, such as 64MiB`},
	{"max_body zero", "upstream demo\nmax_body 0 #!", `max_body: "0" is not a size above zero`},
	{"max_body huge", "upstream demo\nmax_body 2TiB #!", `max_body: "2TiB" is not a size above zero`},
	{"max_body twice", "upstream demo\nmax_body 1MiB\nmax_body 1MiB #!", "max_body stands in this block a second time"},
	{"max_body above max_buffered", "upstream demo\nmax_body 2MiB #!\nmax_buffered 1MiB", "max_body: 2097152 bytes are more than max_buffered, which is 1048576"},
	{"max_buffered below the default", "upstream demo\nmax_buffered 1MiB #!", "max_body: 67108864 bytes are more than max_buffered, which is 1048576"},
	{"max_buffered twice", "upstream demo\nmax_buffered 1GiB\nmax_buffered 1GiB #!", "max_buffered stands in this block a second time"},

	// usage
	{"usage of none", "upstream demo\nusage #!", "usage: expected: usage embedded [<dir>], usage redis <url>, or usage off"},
	{"usage unknown", "upstream demo\nusage sqlite #!", `usage: "sqlite" is not a store; there are embedded, redis and off`},
	{"usage with the URL first", "upstream demo\nusage redis://:MARKER@localhost #!", "is not a store; there are embedded, redis and off"},
	{"usage twice", "upstream demo\nusage off\nusage off #!", "usage stands in this block a second time"},
	{"usage redis unset", "upstream demo\nusage redis {$FLOWAY_TEST_UNSET} #!", "usage: expected: usage redis <url>, such as redis://127.0.0.1:6379"},
	{"usage redis empty", "upstream demo\nusage redis \"\" #!", "usage: a word is empty, perhaps because an environment variable is not set"},
	{"usage redis of two", "upstream demo\nusage redis redis://:MARKER@a redis://:MARKER@b #!", "usage: expected: usage redis <url>"},
	{"usage embedded of two", "upstream demo\nusage embedded a b #!", "usage embedded: too many words follow"},
	{"usage off of two", "upstream demo\nusage off now #!", "usage off: too many words follow"},
	{"usage off with a block", "upstream demo\nusage off {\nlog x #!\n}", "usage off: there is nothing to say of an account that is not kept, such as log"},
	{"usage with odd words", "upstream demo\nusage embedded {\nlogs x #!\n}", `unrecognized subdirective "logs" in usage embedded`},
	{"usage password of embedded", "upstream demo\nusage embedded {\npassword MARKER0123456789 #!\n}", "password belongs to usage redis"},
	{"usage password unset", "upstream demo\nusage redis redis://a {\npassword {$FLOWAY_TEST_UNSET} #!\n}", "password: nothing follows, perhaps because an environment variable is not set"},
	{"usage password twice", "upstream demo\nusage redis redis://a {\npassword MARKER0123456789\npassword MARKER0123456789 #!\n}", "password stands in this block a second time"},
	{"usage password of two words", "upstream demo\nusage redis redis://a {\npassword MARKER0123 456789 #!\n}", "password: 2 words follow, one was expected"},
	{"usage namespace empty", "upstream demo\nusage redis redis://a {\nnamespace \"\" #!\n}", "namespace: the word is empty"},
	{"usage namespace malformed", "upstream demo\nusage redis redis://a { #!\nnamespace a*b\n}", `usage: redis namespace "a*b"`},
	{"usage username missing", "upstream demo\nusage redis redis://a {\nusername #!\n}", "username: nothing follows"},
	{"usage of another scheme", "upstream demo\nusage redis http://:MARKER@localhost #!", "usage: the address of the Redis store must begin with redis://"},
	{"usage of a bad host", "upstream demo\nusage redis redis://:MARKER@local:99999999 #!", "usage: "},
	{"usage log missing", "upstream demo\nusage embedded {\nlog #!\n}", "log: nothing follows"},
	{"usage log twice", "upstream demo\nusage embedded {\nlog a\nlog b #!\n}", "log stands in this block a second time"},
	{"usage durability unknown", "upstream demo\nusage embedded {\ndurability high #!\n}", `durability: "high" was not expected; there are process, batch, strict`},
	{"usage durability twice", "upstream demo\nusage embedded {\ndurability batch\ndurability batch #!\n}", "durability stands in this block a second time"},
	{"usage on_log_full unknown", "upstream demo\nusage embedded {\non_log_full drop #!\n}", `on_log_full: "drop" was not expected; there are refuse, continue`},
	{"usage retention with words", "upstream demo\nusage embedded {\nretention 35d #!\n}", "retention: expected: a block with hours <duration> and days <duration>"},
	{"usage retention negative", "upstream demo\nusage embedded {\nretention {\nhours -1h #!\n}\n}", `hours: "-1h" is not a duration above zero`},
	{"usage retention twice", "upstream demo\nusage embedded {\nretention {\nhours 1h\nhours 1h #!\n}\n}", "hours stands in this block a second time"},
	{"usage retention blocks twice", "upstream demo\nusage embedded {\nretention {\nhours 1h\n}\nretention { #!\nhours 1h\n}\n}", "retention stands in this block a second time"},
	{"usage retention unknown", "upstream demo\nusage embedded {\nretention {\nmonths 1h #!\n}\n}", `unrecognized subdirective "months" in retention`},

	// the global option
	{"global argument", "FILE\n{\n\tfloway x #!\n}\n:8080 {\n}", `unexpected "x": the option floway takes a block and no argument`},
	{"global twice", "FILE\n{\n\tfloway {\n\t}\n\tfloway { #!\n\t}\n}\n:8080 {\n}", "the global option floway stands here a second time"},
	{"global upstream", "FILE\n{\n\tfloway {\n\t\tupstream demo #!\n\t}\n}\n:8080 {\n}", `unrecognized subdirective "upstream" in the global option floway`},
	{"global usage twice", "FILE\n{\n\tfloway {\n\t\tusage off\n\t\tusage off #!\n\t}\n}\n:8080 {\n}", "usage stands in this block a second time"},
	{"global client twice", "FILE\n{\n\tfloway {\n\t\tclient a {\n\t\t}\n\t\tclient a { #!\n\t\t}\n\t}\n}\n:8080 {\n}", `client: "a" is there already`},
	{"client global and own", "GLOBAL\nclient a {\n}\nBLOCK\nupstream demo\nclient a { #!\n}", `client: "a" is there already`},
	{"key global and own", "GLOBAL\nclient a {\nkey sk-MARKER-0123456789\n}\nBLOCK\nupstream demo\nclient b {\nkey sk-MARKER-0123456789 #!\n}", "key: the client a has this key already"},
	{"global client of no upstream", "GLOBAL\nclient a {\nupstreams dmo\n}\nBLOCK\nupstream demo", `client a: upstreams: there is no upstream "dmo"`},

	// what shows once placeholders are replaced
	{"variable unset", "upstream openai eu {\nkey {env.FLOWAY_TEST_UNSET} as main\n}", "upstream eu: key main: evaluated placeholder {env.FLOWAY_TEST_UNSET} is empty"},
	{"file missing", "upstream openai eu {\nkey {file./nowhere/at/all} as main\n}", "upstream eu: key main: evaluated placeholder {file./nowhere/at/all} is empty"},
	{"placeholder unknown", "upstream openai {\nkey {enc.OPENAI_KEY}\n}", "upstream openai: key key1: its placeholder is unknown or has no value; there are {env.NAME} and {file./path}"},
	{"brace in a secret", "upstream openai {\nkey \"sk-{MARKER}\"\n}", "upstream openai: key key1: its placeholder is unknown or has no value"},
	{"key short once resolved", "upstream openai {\nkey {env.FLOWAY_TEST_SHORT}\n}", "upstream openai: key key1: the secret is shorter than 8 characters; is a variable unset?"},
	{"key of two lines", "upstream openai {\nkey {env.FLOWAY_TEST_LINES}\n}", "upstream openai: key key1: the secret has more than one line"},
	{"two keys the same once resolved", "upstream openai {\nkey {env.FLOWAY_TEST_SECRET} as a\nkey {$FLOWAY_TEST_SECRET} as b\n}", "upstream openai: the keys a and b are the same"},
	{"base_url unknown once resolved", "upstream openai {\nbase_url {env.FLOWAY_TEST_SECRET}\n}", "upstream openai: base_url: "},
	{"client key unset", "upstream demo\nclient a {\nkey {env.FLOWAY_TEST_UNSET}\n}", "client a: key 1: evaluated placeholder {env.FLOWAY_TEST_UNSET} is empty"},
	{"client key short once resolved", "upstream demo\nclient a {\nkey {env.FLOWAY_TEST_SHORT}\n}", "client a: key 1: the secret is shorter than 8 characters"},
	{"client keys the same once resolved", "upstream demo\nclient a {\nkey {env.FLOWAY_TEST_SECRET}\n}\nclient b {\nkey {$FLOWAY_TEST_SECRET}\n}", `the clients "a" and "b" have the same key`},
	{"client digest unset", "upstream demo\nclient a {\nkey sha256:{env.FLOWAY_TEST_UNSET}\n}", "client a: key 1: its placeholder is unknown or has no value"},
	{"redis URL unset", "upstream demo\nusage redis {env.FLOWAY_TEST_UNSET}", "usage: url: evaluated placeholder {env.FLOWAY_TEST_UNSET} is empty"},
	{"redis password unset", "upstream demo\nusage redis redis://a {\npassword {env.FLOWAY_TEST_UNSET}\n}", "usage: password: evaluated placeholder {env.FLOWAY_TEST_UNSET} is empty"},
	{"two blocks, one log, two stories", "FILE\nGLOBALS\n:8080 {\n\tfloway {\n\t\tupstream demo\n\t\tusage embedded /tmp/a {\n\t\t\tdurability strict\n\t\t}\n\t}\n}\n:8081 {\n\tfloway {\n\t\tupstream demo\n\t\tusage embedded /tmp/a\n\t}\n}", "usage: two floway blocks keep their account in /tmp/a/ledger and say different things of it"},
	{"two blocks, one store, two passwords", "FILE\nGLOBALS\n:8080 {\n\tfloway {\n\t\tupstream demo\n\t\tusage redis redis://a {\n\t\t\tpassword MARKER1\n\t\t\tlog /tmp/a\n\t\t}\n\t}\n}\n:8081 {\n\tfloway {\n\t\tupstream demo\n\t\tusage redis redis://a {\n\t\t\tpassword MARKER2\n\t\t\tlog /tmp/b\n\t\t}\n\t}\n}", "usage: two floway blocks use the store redis://a:6379 floway and say different things of it"},
}

const quiet = "{\n\tadmin off\n\tlog {\n\t\toutput discard\n\t}\n%s}\n"

// whole makes a Caddyfile of a case's body.
func whole(body string) string {
	none := fmt.Sprintf(quiet, "")
	if file, ok := strings.CutPrefix(body, "FILE\n"); ok {
		return strings.Replace(file, "GLOBALS\n", none, 1)
	}
	if both, ok := strings.CutPrefix(body, "GLOBAL\n"); ok {
		global, block, _ := strings.Cut(both, "BLOCK\n")
		return fmt.Sprintf(quiet, "\tfloway {\n"+global+"\t}\n") + ":8080 {\n\tfloway {\n" + block + "\n\t}\n}\n"
	}
	return none + ":8080 {\n\tfloway {\n" + body + "\n\t}\n}\n"
}

// Every mistake is told with its place and with what was expected, and no secret
// gets into the words.
func TestRefusals(t *testing.T) {
	t.Setenv("FLOWAY_TEST_SECRET", "sk-MARKER-from-the-environment")
	t.Setenv("FLOWAY_TEST_SHORT", "MARKER")
	t.Setenv("FLOWAY_TEST_LINES", "sk-MARKER-one\nsk-MARKER-two")
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			text := whole(c.body)
			line := lineOf(text, "#!")
			config, _, err := adapt(text, "Caddyfile")
			switch {
			case line > 0 && err == nil:
				t.Fatal("adapted without an error")
			case line == 0 && err != nil:
				t.Fatalf("the parser found this out and the case has no line: %v", err)
			case line == 0:
				if err = validate(config); err == nil {
					t.Fatal("valid")
				}
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error\n\t%v\nwant\n\t%s", err, c.want)
			}
			if place := fmt.Sprintf("Caddyfile:%d", line); line > 0 && !strings.HasSuffix(err.Error(), place) {
				t.Errorf("error\n\t%v\nwant it to end in\n\t%s", err, place)
			}
			if strings.Contains(err.Error(), hidden) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// What can only be written in JSON is refused there.
func TestRefusalsOfJSON(t *testing.T) {
	for _, c := range []struct{ name, handler, want string }{
		{"no upstream", `{}`, "floway: no upstream is configured"},
		{"null upstream", `{"upstreams":[null]}`, "upstream 1 is null"},
		{"null route", `{"upstreams":[{"provider":"demo"}],"routes":[null]}`, "route 1 is null"},
		{"null client", `{"upstreams":[{"provider":"demo"}],"clients":[null]}`, "a client is null"},
		{"unknown field", `{"upstreams":[{"provider":"demo","colour":"red"}]}`, `unknown field "colour"`},
		{"unknown provider", `{"upstreams":[{"provider":"x"}]}`, `upstream x: unknown provider`},
		{"two of a name", `{"upstreams":[{"provider":"demo"},{"provider":"demo"}]}`, `two upstreams are called "demo"`},
		{"weight negative", `{"upstreams":[{"provider":"openai","keys":[{"secret":"sk-MARKER-0123456789","weight":-1}]}]}`, "key key1: the weight cannot be negative"},
		{"weight unweighted", `{"upstreams":[{"provider":"openai","lb_policy":"random","keys":[{"secret":"sk-MARKER-0123456789","weight":1}]}]}`, "a weight has no meaning under lb_policy random"},
		{"two labels", `{"upstreams":[{"provider":"openai","keys":[{"secret":"sk-MARKER-0123456789","label":"a"},{"secret":"sk-MARKER-0123456780","label":"a"}]}]}`, "two keys have the label a"},
		{"empty secret", `{"upstreams":[{"provider":"openai","keys":[{}]}]}`, "key key1: the secret is empty"},
		{"max_requests negative", `{"upstreams":[{"provider":"openai","max_requests":-1}]}`, "max_requests cannot be negative"},
		{"default_max_tokens negative", `{"upstreams":[{"provider":"openai","default_max_tokens":-1}]}`, "default_max_tokens cannot be negative"},
		{"timeout negative", `{"upstreams":[{"provider":"openai","idle_timeout":-1}]}`, "time-outs cannot be negative"},
		{"option of another", `{"upstreams":[{"provider":"demo","options":{"organization":["x"]}}]}`, "organization is no option of the provider demo"},
		{"alias empty", `{"upstreams":[{"provider":"demo","aliases":[{"name":"a"}]}]}`, `alias "a"`},
		{"route to nowhere", `{"upstreams":[{"provider":"demo"}],"routes":[{"model":"a","to":[{"target":"x/y"}]}]}`, `route a: there is no upstream "x"`},
		{"route without target", `{"upstreams":[{"provider":"demo"}],"routes":[{"model":"a"}]}`, "route a: it has no target"},
		{"route weight negative", `{"upstreams":[{"provider":"demo"}],"routes":[{"model":"a","to":[{"target":"demo/y","weight":-1}]}]}`, "the weight cannot be negative"},
		{"client unnamed", `{"upstreams":[{"provider":"demo"}],"clients":[{}]}`, "the name must be 1 to 32"},
		{"client key empty", `{"upstreams":[{"provider":"demo"}],"clients":[{"name":"a","keys":[""]}]}`, "client a: key 1 is empty"},
		{"client group malformed", `{"upstreams":[{"provider":"demo"}],"clients":[{"name":"a","group":"x/y"}]}`, "client a: group:"},
		{"expires malformed", `{"upstreams":[{"provider":"demo"}],"clients":[{"name":"a","expires":"soon"}]}`, "client a: expires:"},
		{"anonymous with keys", `{"upstreams":[{"provider":"demo"}],"anonymous":"a","clients":[{"name":"a","keys":["sk-MARKER-0123456789"]}]}`, `anonymous names the client "a", which has keys`},
		{"retries negative", `{"upstreams":[{"provider":"demo"}],"lb_retries":-1}`, "lb_retries cannot be negative"},
		{"duration negative", `{"upstreams":[{"provider":"demo"}],"lb_try_duration":-1}`, "lb_try_duration cannot be negative"},
		{"size negative", `{"upstreams":[{"provider":"demo"}],"max_body":-1}`, "max_body and max_buffered cannot be negative"},
		{"sizes at odds", `{"upstreams":[{"provider":"demo"}],"max_buffered":1}`, "max_buffered must not be less than max_body"},
		{"entra and keys", `{"upstreams":[{"provider":"azure","base_url":"https://a.openai.azure.com","keys":[{"secret":"sk-MARKER-0123456789"}],"options":{"entra":[]}}]}`, "entra: it authenticates in the place of keys"},
		{"entra's secret in an error", `{"upstreams":[{"provider":"azure","base_url":"https://a.openai.azure.com","options":{"entra":["t","MARKER"]}}]}`, "not 2 words"},
		{"transport of another kind", `{"upstreams":[{"provider":"openai","transport":{"protocol":"fastcgi"}}]}`, "transport: fastcgi is not supported; there is http"},
		{"transport refused", `{"upstreams":[{"provider":"openai","transport":{"protocol":"http","read_timeout":1}}]}`, "transport: read_timeout is not supported here; idle_timeout serves"},
		{"tls and http", `{"upstreams":[{"provider":"openai","base_url":"http://a","transport":{"protocol":"http","tls":{}}}]}`, "transport: tls is set and base_url begins with http://"},
		{"store unknown", `{"upstreams":[{"provider":"demo"}],"usage":{"store":"x"}}`, `usage: "x" is not a store`},
		{"dir of redis", `{"upstreams":[{"provider":"demo"}],"usage":{"store":"redis","url":"redis://a","dir":"x"}}`, "usage: dir belongs to the store embedded"},
		{"url of embedded", `{"upstreams":[{"provider":"demo"}],"usage":{"url":"redis://:MARKER@a"}}`, "belong to the store redis"},
		{"retention negative", `{"upstreams":[{"provider":"demo"}],"usage":{"keep_days":-1}}`, "usage: a retention cannot be negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			handler := strings.Replace(c.handler, "{", `{"handler":"floway"`, 1)
			if c.handler != "{}" {
				handler = strings.Replace(c.handler, "{", `{"handler":"floway",`, 1)
			}
			err := validate([]byte(`{"admin":{"disabled":true},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}},
				"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[` + handler + `]}]}}}}}`))
			switch {
			case err == nil:
				t.Fatal("valid")
			case !strings.Contains(err.Error(), c.want):
				t.Errorf("error\n\t%v\nwant\n\t%s", err, c.want)
			case strings.Contains(err.Error(), hidden):
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// Placeholders stay what they are in the adapted configuration, and provisioning
// writes nothing of what they stand for into it.
func TestResolvedSecretsStayOut(t *testing.T) {
	t.Setenv("FLOWAY_TEST_SECRET", "sk-MARKER-from-the-environment")
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("sk-MARKER-from-the-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config, _, err := adapt(whole(`upstream openai {
			key {env.FLOWAY_TEST_SECRET} as one
			key {file.`+file+`} as two
			project {env.FLOWAY_TEST_SECRET}
		}
		client a {
			key {env.FLOWAY_TEST_SECRET}
		}
		usage redis redis://127.0.0.1:1 {
			password {env.FLOWAY_TEST_SECRET}
		}`), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(config), hidden) {
		t.Errorf("adapted: %s", config)
	}
	var h Handler
	if err := json.Unmarshal(handlersIn(t, config)[0], &h); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	defer h.Cleanup()
	again, err := json.Marshal(&h)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{string(again), fmt.Sprintf("%v %+v", h.Upstreams[0], h.Clients[0])} {
		if strings.Contains(printed, hidden) {
			t.Errorf("provisioned: %s", printed)
		}
	}
}

// Every subdirective that the parser knows has a golden file.
func TestEverySubdirectiveHasAGolden(t *testing.T) {
	var words []string
	files, _ := filepath.Glob("testdata/caddyfile/*.caddyfile")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 0 {
				words = append(words, f[0])
			}
		}
	}
	for _, word := range parsedWords(t) {
		if !slices.Contains(words, word) {
			t.Errorf("no golden file has the subdirective %s", word)
		}
	}
}

// parsedWords are the subdirectives that the parser knows, by its source.
func parsedWords(t *testing.T) (words []string) {
	source, err := os.ReadFile("caddyfile.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(source)) {
		list, ok := strings.CutPrefix(strings.TrimSpace(line), `case "`)
		if ok && strings.HasSuffix(list, `":`) {
			words = append(words, strings.Split(strings.TrimSuffix(list, `":`), `", "`)...)
		}
	}
	return words
}

// Errors about unknown subdirectives list those that there are, and no others.
func TestEverySubdirectiveIsListed(t *testing.T) {
	var listed []string
	for block, text := range map[string]string{
		"floway":            "x",
		"an upstream":       "upstream openai {\nx\n}",
		"a route":           "upstream demo\nroute a {\nx\n}",
		"a client":          "upstream demo\nclient a {\nx\n}",
		"usage embedded":    "upstream demo\nusage embedded {\nx\n}",
		"usage redis":       "upstream demo\nusage redis redis://a {\nx\n}",
		"retention":         "upstream demo\nusage embedded {\nretention {\nx\n}\n}",
		"the global option": "FILE\n{\n\tfloway {\n\t\tx\n\t}\n}\n:8080 {\n}",
	} {
		_, _, err := adapt(whole(text), "Caddyfile")
		if err == nil {
			t.Fatalf("%s: adapted", block)
		}
		_, list, ok := strings.Cut(err.Error(), "; there are ")
		list, _, _ = strings.Cut(list, ", at Caddyfile:")
		if !ok || list == "" {
			t.Errorf("%s: no list in: %v", block, err)
		}
		for _, name := range strings.Split(list, ", ") {
			listed = append(listed, name)
			_, _, err := adapt(whole(strings.Replace(text, "x\n", name+"\n", 1)), "Caddyfile")
			if text == "x" {
				_, _, err = adapt(whole(name), "Caddyfile")
			}
			if err != nil && strings.Contains(err.Error(), "unrecognized") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, word := range parsedWords(t) {
		if !slices.Contains(listed, word) {
			t.Errorf("no error lists the subdirective %s", word)
		}
	}
}

func digestHex(key string) string {
	return strings.TrimPrefix(digestLine(key), "key sha256:")
}

// The parser takes anything for a Caddyfile without a panic, and what it accepts
// becomes JSON that can be read.
func FuzzCaddyfile(f *testing.F) {
	files, _ := filepath.Glob("testdata/caddyfile/*.caddyfile")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if _, block, ok := strings.Cut(string(text), "floway {"); ok {
			f.Add("floway {" + block)
		}
	}
	for _, c := range refusals {
		f.Add("floway {\n" + c.body + "\n}")
	}
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
		if err != nil {
			return
		}
		_, _ = parseGlobalOption(caddyfile.NewDispenser(tokens), nil)
		var h, again Handler
		if h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)) != nil {
			return
		}
		raw, err := json.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		if err := caddy.StrictUnmarshalJSON(raw, &again); err != nil {
			t.Errorf("%v: %s", err, raw)
		}
	})
}
