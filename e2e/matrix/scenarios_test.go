package matrix

import "strings"

// scenario is one thing that clients ask for, in the words of all four dialects.
type scenario struct {
	name string
	// rows are those of the tables that it covers; see rows_test.go.
	rows string
	// model is the upstream's, with what it is to do behind plus signs. Default:
	// mock-chat.
	model string
	// ask has the members of the request in each dialect; "-" where the dialect has
	// no words for it.
	ask [4]string
	// reach says what becomes of it at each upstream: a pattern of the body that the
	// upstream gets (see fits); "400 field" or "400" for a refusal that names the
	// field, by default the innermost one of ask; "drop field" or "drop" if the field
	// is named as dropped; "" for nothing in particular.
	reach [4]string
	// pairs overrules reach for a client and an upstream, as "messages>chat".
	pairs map[string]string
	// end is how the answer ends; empty for stop. calls is how many tools are called.
	end   string
	calls int
	// results are what the tools say in a second turn, if there is one, and replayed
	// is what the upstream then gets.
	results  []result
	replayed [4]string
	// once: streaming makes no difference to what is looked at.
	once bool
	// called is how the client knows the tool, where upstreams have another name for it.
	called string
	// opaque: the answer has reasoning that comes back sealed in the second turn.
	opaque bool
}

type result struct {
	text   string
	failed bool
	image  bool
}

const (
	pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
	pdf   = "JVBERi0xLjQK"

	weather = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":{"city":{"type":"string","minLength":1,"pattern":"^.*$"},"days":{"type":"integer","exclusiveMinimum":0},"kind":{"const":"daily"}},"required":["city","days"],"additionalProperties":false}`
	clock   = `{"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"],"additionalProperties":false}`
	person  = `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],"additionalProperties":false}`
	loose   = `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name"],"additionalProperties":false}`
)

// tools are two functions in each dialect; more is added to the request.
func tools(more [4]string) [4]string {
	all := [4]string{
		`"tools":[{"type":"function","function":{"name":"get_weather","description":"The weather.","parameters":` + weather + `}},{"type":"function","function":{"name":"get_time","parameters":` + clock + `}}]`,
		`"tools":[{"type":"function","name":"get_weather","description":"The weather.","parameters":` + weather + `,"strict":false},{"type":"function","name":"get_time","parameters":` + clock + `,"strict":true}]`,
		`"tools":[{"name":"get_weather","description":"The weather.","input_schema":` + weather + `},{"name":"get_time","input_schema":` + clock + `}]`,
		`"tools":[{"functionDeclarations":[{"name":"get_weather","description":"The weather.","parametersJsonSchema":` + weather + `},{"name":"get_time","parameters":{"type":"OBJECT","properties":{"zone":{"type":"STRING"}},"required":["zone"]}}]}]`,
	}
	for i := range all {
		switch {
		case more[i] == "-":
			all[i] = "-"
		case more[i] != "":
			all[i] += "," + more[i]
		}
	}
	return all
}

// toolsReach is what upstreams get of tools.
func toolsReach(more [4]string) [4]string {
	all := [4]string{
		`"tools":[{"type":"function","function":{"name":"get_weather","description":"The weather.","parameters":` + "\"~exclusiveMinimum\"" + `}},{"function":{"name":"get_time","parameters":"~zone"}}]`,
		`"tools":[{"type":"function","name":"get_weather","parameters":"~exclusiveMinimum"},{"name":"get_time","parameters":"~zone"}]`,
		`"tools":[{"name":"get_weather","input_schema":"~exclusiveMinimum"},{"name":"get_time","input_schema":"~zone"}]`,
		`"tools":"~get_time"`,
	}
	for i := range all {
		if more[i] != "" {
			all[i] += "," + more[i]
		}
		all[i] = "{" + all[i] + "}"
	}
	return all
}

// quoted puts a pattern that looks for a text anywhere in the body.
func anywhere(text string) string { return `"~` + strings.ReplaceAll(text, `"`, `\"`) + `"` }

func same(pattern string) [4]string { return [4]string{pattern, pattern, pattern, pattern} }

const refused, dropped = "400", "drop"

// scenarios are all of them. Same-dialect cells pass with the rest.
var scenarios = []scenario{
	{name: "text", rows: "1/model 1/stream 3/user-text 5/stop"},
	{name: "unicode cut across chunks", model: "mock-chat+unicode"},
	{name: "long", model: "mock-chat+long"},
	{name: "cached tokens", model: "mock-chat+cached"},
	{name: "length", rows: "5/length", model: "mock-chat+length", end: "length"},
	{name: "filter", rows: "5/filtered", model: "mock-chat+filter", end: "filter"},
	{name: "refusal", rows: "5/refused 5/prompt-blocked 3/refusal-history", model: "mock-chat+refusal", end: "refusal"},

	// Section 1.
	{
		name: "system", rows: "1/system",
		ask: [4]string{
			`"messages":[{"role":"system","content":"Be brief."},{"role":"developer","content":"Be kind."},{"role":"user","content":"hi"}]`,
			`"instructions":"Be brief.","input":[{"role":"developer","content":"Be kind."},{"role":"user","content":"hi"}]`,
			`"system":[{"type":"text","text":"Be brief."},{"type":"text","text":"Be kind."}]`,
			`"systemInstruction":{"parts":[{"text":"Be brief."},{"text":"Be kind."}]}`,
		},
		reach: [4]string{
			`{"messages":"~Be kind."}`, anywhere("Be kind."), `{"system":"~Be kind.","messages":[{"role":"user"}]}`,
			`{"systemInstruction":{"parts":"~Be kind."},"contents":[{"role":"user"}]}`,
		},
	},
	{
		name: "later system", rows: "1/later-system",
		ask: [4]string{
			`"messages":[{"role":"user","content":"hi"},{"role":"system","content":"Later rule."}]`,
			`"input":[{"role":"user","content":"hi"},{"role":"developer","content":"Later rule."}]`,
			`"messages":[{"role":"user","content":"hi"},{"role":"system","content":"Later rule."}]`, "-",
		},
		reach: [4]string{
			`{"messages":["~hi",{"role":"*","content":"~Later rule."}]}`, `{"input":["~hi",{"role":"*","content":"~Later rule."}]}`,
			`{"messages":"~Later rule."}`, "drop [1]",
		},
	},
	{
		name: "history", rows: "1/turns 3/assistant-text 3/grouping",
		ask: [4]string{
			`"messages":[{"role":"user","content":"one"},{"role":"assistant","content":"two"},{"role":"user","content":[{"type":"text","text":"three"},{"type":"text","text":"four"}]}]`,
			`"input":[{"role":"user","content":"one"},{"role":"assistant","content":[{"type":"output_text","text":"two"}]},{"role":"user","content":[{"type":"input_text","text":"three"},{"type":"input_text","text":"four"}]}]`,
			`"messages":[{"role":"user","content":"one"},{"role":"assistant","content":"two"},{"role":"user","content":[{"type":"text","text":"three"},{"type":"text","text":"four"}]}]`,
			`"contents":[{"role":"user","parts":[{"text":"one"}]},{"role":"model","parts":[{"text":"two"}]},{"role":"user","parts":[{"text":"three"},{"text":"four"}]}]`,
		},
		reach: [4]string{
			`{"messages":[{"role":"user","content":"~one"},{"role":"assistant","content":"~two"},{"role":"user","content":"~four"}]}`,
			`{"input":[{"role":"user","content":"~one"},{"role":"assistant","content":"~two"},{"role":"user","content":["~three","~four"]}]}`,
			`{"messages":[{"role":"user","content":"~one"},{"role":"assistant","content":"~two"},{"role":"user","content":["~three","~four"]}]}`,
			`{"contents":[{"role":"user","parts":"~one"},{"role":"model","parts":"~two"},{"role":"user","parts":["~three","~four"]}]}`,
		},
	},
	{
		name: "max output", rows: "1/max-output", end: "length", model: "mock-chat+words=40",
		ask:   [4]string{`"max_completion_tokens":20`, `"max_output_tokens":20`, `"max_tokens":20`, `"generationConfig":{"maxOutputTokens":20}`},
		reach: [4]string{anywhere(`_tokens":20`), `{"max_output_tokens":20}`, `{"max_tokens":20}`, `{"generationConfig":{"maxOutputTokens":20}}`},
	},
	{
		name: "stop sequence", rows: "1/stop 5/stop-sequence", model: "mock-chat+words=30",
		ask:   [4]string{`"stop":"river"`, "-", `"stop_sequences":["river"]`, `"generationConfig":{"stopSequences":["river"]}`},
		reach: [4]string{`{"stop":"~river"}`, refused, `{"stop_sequences":["river"]}`, `{"generationConfig":{"stopSequences":["river"]}}`},
	},
	{
		name: "sampling", rows: "1/temperature 1/top_p", once: true,
		ask:   [4]string{`"temperature":0.5,"top_p":0.25`, `"temperature":0.5,"top_p":0.25`, `"temperature":0.5,"top_p":0.25`, `"generationConfig":{"temperature":0.5,"topP":0.25}`},
		reach: [4]string{`{"temperature":0.5,"top_p":0.25}`, `{"temperature":0.5,"top_p":0.25}`, `{"temperature":0.5,"top_p":0.25}`, `{"generationConfig":{"temperature":0.5,"topP":0.25}}`},
	},
	{
		name: "temperature above one", rows: "1/temperature", once: true,
		ask:   [4]string{`"temperature":1.5`, `"temperature":1.5`, "-", `"generationConfig":{"temperature":1.5}`},
		reach: [4]string{`{"temperature":1.5}`, `{"temperature":1.5}`, dropped + " temperature", `{"generationConfig":{"temperature":1.5}}`},
	},
	{
		name: "top_k", rows: "1/top_k", once: true,
		ask:   [4]string{"-", "-", `"top_k":40`, `"generationConfig":{"topK":40}`},
		reach: [4]string{dropped, dropped, `{"top_k":40}`, `{"generationConfig":{"topK":40}}`},
	},
	{
		name: "penalties and seed", rows: "1/penalties-seed", once: true,
		ask:   [4]string{`"presence_penalty":0.5,"frequency_penalty":0.25,"seed":7`, "-", "-", `"generationConfig":{"presencePenalty":0.5,"frequencyPenalty":0.25,"seed":7}`},
		reach: [4]string{`{"presence_penalty":0.5,"frequency_penalty":0.25,"seed":7}`, "drop seed", "drop seed", `{"generationConfig":{"presencePenalty":0.5,"frequencyPenalty":0.25,"seed":7}}`},
	},
	{name: "logit bias", rows: "1/logit_bias", once: true, ask: [4]string{`"logit_bias":{"50256":-100}`, "-", "-", "-"}, reach: [4]string{`{"logit_bias":{"50256":-100}}`, "400 logit_bias", "400 logit_bias", "400 logit_bias"}},
	{
		name: "log probabilities", rows: "1/logprobs", once: true,
		ask:   [4]string{`"logprobs":true,"top_logprobs":2`, `"top_logprobs":2`, "-", `"generationConfig":{"responseLogprobs":true,"logprobs":2}`},
		reach: [4]string{"400 logprobs", "400 logprobs", "400 ogprobs", "400 logprobs"},
		pairs: map[string]string{"chat>chat": "", "responses>responses": "", "gemini>gemini": "", "gemini>chat": "400 ogprobs", "gemini>responses": "400 ogprobs"},
	},
	{
		name: "more than one answer", rows: "1/n", once: true,
		ask:   [4]string{`"n":2`, "-", "-", `"generationConfig":{"candidateCount":2}`},
		reach: same(refused), pairs: map[string]string{"chat>chat": "-", "gemini>gemini": "-"},
	},
	{
		name: "one call at a time", rows: "1/parallel-off 1/tools", calls: 1, end: "tools",
		ask:   tools([4]string{`"parallel_tool_calls":false`, `"parallel_tool_calls":false`, `"tool_choice":{"type":"auto","disable_parallel_tool_use":true}`, "-"}),
		reach: [4]string{`{"parallel_tool_calls":false}`, `{"parallel_tool_calls":false}`, `{"tool_choice":{"type":"auto","disable_parallel_tool_use":true}}`, "drop parallel"},
	},
	{
		name: "JSON of a schema", rows: "1/json-schema",
		ask: [4]string{
			`"response_format":{"type":"json_schema","json_schema":{"name":"person","schema":` + person + `,"strict":true}}`,
			`"text":{"format":{"type":"json_schema","name":"person","schema":` + person + `,"strict":true}}`,
			`"output_config":{"format":{"type":"json_schema","schema":` + person + `}}`,
			`"generationConfig":{"responseMimeType":"application/json","responseJsonSchema":` + person + `}`,
		},
		reach: [4]string{
			`{"response_format":{"type":"json_schema","json_schema":{"name":"*","schema":` + person + `,"strict":true}}}`,
			`{"text":{"format":{"type":"json_schema","name":"*","schema":` + person + `,"strict":true}}}`,
			`{"output_config":{"format":{"type":"json_schema","schema":` + person + `}}}`,
			`{"generationConfig":{"responseMimeType":"application/json","responseJsonSchema":` + person + `}}`,
		},
		// Gemini's schemas do not say whether they are to be followed to the letter.
		pairs: map[string]string{
			"gemini>chat":      `{"response_format":{"type":"json_schema","json_schema":{"name":"*","schema":` + person + `}}}`,
			"gemini>responses": `{"text":{"format":{"type":"json_schema","name":"*","schema":` + person + `}}}`,
		},
	},
	{
		name: "JSON of a loose schema", rows: "1/json-schema", once: true,
		ask: [4]string{
			`"response_format":{"type":"json_schema","json_schema":{"name":"person","schema":` + loose + `}}`,
			`"text":{"format":{"type":"json_schema","name":"person","schema":` + loose + `,"strict":false}}`,
			`"output_config":{"format":{"type":"json_schema","schema":` + loose + `}}`,
			`"generationConfig":{"responseMimeType":"application/json","responseSchema":{"type":"OBJECT","properties":{"name":{"type":"STRING","nullable":true},"age":{"type":"INTEGER"}},"required":["name"]}}`,
		},
		reach: [4]string{`{"response_format":{"json_schema":{"schema":{"type":"object"}}}}`, `{"text":{"format":{"schema":{"type":"object"},"strict":false}}}`, `{"output_config":{"format":{"schema":{"type":"object"}}}}`, anywhere("application/json")},
	},
	{
		name: "any JSON object", rows: "1/json-object",
		ask: [4]string{
			`"messages":[{"role":"user","content":"Give me JSON."}],"response_format":{"type":"json_object"}`,
			`"input":"Give me JSON.","text":{"format":{"type":"json_object"}}`, "-",
			`"contents":[{"role":"user","parts":[{"text":"Give me JSON."}]}],"generationConfig":{"responseMimeType":"application/json"}`,
		},
		reach: [4]string{`{"response_format":{"type":"json_object"}}`, `{"text":{"format":{"type":"json_object"}}}`, `{"system":"~JSON"}`, `{"generationConfig":{"responseMimeType":"application/json"}}`},
	},
	{
		name: "effort", rows: "1/effort 4/effort 4/token-count", model: "mock-chat+thinking",
		ask:   [4]string{`"reasoning_effort":"high"`, `"reasoning":{"effort":"high"}`, `"thinking":{"type":"adaptive"},"output_config":{"effort":"high"}`, `"generationConfig":{"thinkingConfig":{"thinkingLevel":"HIGH"}}`},
		reach: [4]string{`{"reasoning_effort":"high"}`, `{"reasoning":{"effort":"high"}}`, anywhere("thinking"), `{"generationConfig":{"thinkingConfig":{"thinkingLevel":"HIGH"}}}`},
	},
	{
		name: "thinking budget", rows: "4/effort", model: "mock-chat+thinking", once: true,
		ask:   [4]string{"-", "-", `"thinking":{"type":"enabled","budget_tokens":2048}`, `"generationConfig":{"thinkingConfig":{"thinkingBudget":2048}}`},
		reach: [4]string{`{"reasoning_effort":"low"}`, `{"reasoning":{"effort":"low"}}`, `{"thinking":{"type":"*"}}`, `{"generationConfig":{"thinkingConfig":"~thinking"}}`},
	},
	{
		name: "verbosity", rows: "1/verbosity", once: true,
		ask:   [4]string{`"verbosity":"low"`, `"text":{"verbosity":"low"}`, "-", "-"},
		reach: [4]string{`{"verbosity":"low"}`, `{"text":{"verbosity":"low"}}`, dropped, dropped},
	},
	{
		name: "cache hints", rows: "1/cache-hints", once: true,
		ask:   [4]string{`"prompt_cache_key":"k"`, `"prompt_cache_key":"k"`, `"system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}]`, "-"},
		reach: [4]string{`{"prompt_cache_key":"k"}`, `{"prompt_cache_key":"k"}`, dropped, dropped},
		pairs: map[string]string{"messages>messages": `{"system":"~cache_control"}`, "messages>chat": "drop cache_control", "messages>responses": "drop cache_control", "messages>gemini": "drop cache_control"},
	},
	{
		name: "end user", rows: "1/end-user", once: true,
		ask:   [4]string{`"safety_identifier":"u1"`, `"safety_identifier":"u1"`, `"metadata":{"user_id":"u1"}`, "-"},
		reach: [4]string{anywhere(`":"u1"`), `{"safety_identifier":"u1"}`, `{"metadata":{"user_id":"u1"}}`, dropped},
		pairs: map[string]string{"messages>chat": anywhere(`"user":"`), "messages>responses": anywhere(`"safety_identifier":"`), "messages>gemini": "drop user_id"},
	},
	{
		name: "service tier", rows: "1/tier", once: true,
		ask:   [4]string{`"service_tier":"priority"`, `"service_tier":"priority"`, `"service_tier":"standard_only"`, `"serviceTier":"priority"`},
		reach: [4]string{`{"service_tier":"priority"}`, `{"service_tier":"priority"}`, "drop ier", `{"serviceTier":"priority"}`},
		pairs: map[string]string{"messages>chat": `{"service_tier":"default"}`, "messages>responses": `{"service_tier":"default"}`, "messages>messages": `{"service_tier":"standard_only"}`, "messages>gemini": ""},
	},
	{
		name: "metadata and store", rows: "1/metadata-store", once: true,
		ask:   [4]string{`"metadata":{"a":"b"},"store":false`, `"metadata":{"a":"b"},"store":false`, "-", "-"},
		reach: [4]string{"drop metadata", `{"metadata":{"a":"b"},"store":false}`, "drop metadata", "drop metadata"},
		pairs: map[string]string{"chat>chat": `{"metadata":{"a":"b"}}`},
	},
	{
		name: "state kept by the service", rows: "1/server-state", once: true,
		ask:   [4]string{"-", `"conversation":"conv_1"`, `"container":"c1"`, `"cachedContent":"cachedContents/1"`},
		reach: same(refused), pairs: map[string]string{"responses>responses": "", "messages>messages": "", "gemini>gemini": ""},
	},
	{
		name: "a response that nobody keeps", rows: "1/server-state", once: true,
		ask:   [4]string{"-", `"previous_response_id":"resp_1"`, "-", "-"},
		reach: same("404 previous_response_id"), pairs: map[string]string{"responses>responses": "404 previous_response_id"},
	},
	{name: "spoken answers", rows: "1/audio-out", once: true, ask: [4]string{`"modalities":["text","audio"],"audio":{"voice":"alloy","format":"mp3"}`, "-", "-", `"generationConfig":{"responseModalities":["AUDIO"]}`}, reach: [4]string{"", "400 audio", "400 audio", "400 audio"}, pairs: map[string]string{"chat>chat": "-", "gemini>gemini": "", "gemini>chat": "400 odalities", "gemini>responses": "400 odalities", "gemini>messages": "400 odalities"}},
	{name: "prediction", rows: "1/chat-only", once: true, ask: [4]string{`"prediction":{"type":"content","content":"x"}`, "-", "-", "-"}, reach: [4]string{"", "drop prediction", "drop prediction", "drop prediction"}},
	{name: "web search options", rows: "1/chat-only", once: true, ask: [4]string{`"web_search_options":{}`, "-", "-", "-"}, reach: [4]string{"", refused, refused, refused}},
	{name: "safety settings", rows: "1/safety", once: true, ask: [4]string{"-", "-", "-", `"safetySettings":[{"category":"HARM_CATEGORY_HATE_SPEECH","threshold":"BLOCK_NONE"}]`}, reach: [4]string{"drop safetySettings", "drop safetySettings", "drop safetySettings", `{"safetySettings":"~BLOCK_NONE"}`}},

	// Section 2.
	{
		name: "two parallel tools and their results", rows: "2/function 2/order 1/tools 3/tool-call 3/tool-result 5/tools 3/name-on-results 3/call-ids 3/arguments 3/no-result-string", calls: 2, end: "tools",
		ask:      tools([4]string{}),
		reach:    toolsReach([4]string{}),
		results:  []result{{text: "Sunny in Oslo"}, {text: "noon"}},
		replayed: [4]string{`{"messages":["~hi",{"role":"assistant","tool_calls":["~get_weather","~get_time"]},{"role":"tool","content":"~Sunny in Oslo"},{"role":"tool","content":"~noon"}]}`, `{"input":"~Sunny in Oslo"}`, `{"messages":["~hi",{"role":"assistant"},{"role":"user","content":[{"type":"tool_result","content":"~Sunny in Oslo"},{"type":"tool_result","content":"~noon"}]}]}`, `{"contents":["~hi",{"role":"model"},{"role":"*","parts":["~Sunny in Oslo","~noon"]}]}`},
	},
	{
		name: "tool results with an error and an image", rows: "3/result-image 3/error-result", calls: 2, end: "tools", once: true,
		ask:     tools([4]string{}),
		results: []result{{text: "no such city", failed: true}, {text: "see", image: true}},
		replayed: [4]string{
			`{"messages":["~hi","~get_time",{"role":"tool","content":"~no such city"},{"role":"tool","content":"~see"},{"role":"user","content":"~` + pixel + `"}]}`,
			`{"input":"~` + pixel + `"}`,
			`{"messages":["~hi","~get_time","~` + pixel + `"]}`,
			`{"contents":["~hi","~get_time","~` + pixel + `"]}`,
		},
	},
	{
		name: "thinking with tools", rows: "4/visible 4/opaque", calls: 2, end: "tools", model: "mock-chat+thinking", opaque: true,
		ask: tools([4]string{
			`"reasoning_effort":"low"`, `"store":false,"include":["reasoning.encrypted_content"],"reasoning":{"effort":"low","summary":"auto"}`,
			`"thinking":{"type":"enabled","budget_tokens":2048}`, `"generationConfig":{"thinkingConfig":{"includeThoughts":true,"thinkingLevel":"LOW"}}`,
		}),
		results:  []result{{text: "Sunny in Oslo"}, {text: "noon"}},
		replayed: [4]string{``, anywhere(`"encrypted_content":"`), anywhere(`"signature":"`), anywhere(`"thoughtSignature":"`)},
	},
	{
		name: "a tool without parameters", rows: "2/no-parameters", calls: 1, end: "tools", once: true,
		ask:   [4]string{`"tools":[{"type":"function","function":{"name":"go"}}]`, `"tools":[{"type":"function","name":"go","parameters":null,"strict":false}]`, `"tools":[{"name":"go","input_schema":{"type":"object","properties":{}}}]`, `"tools":[{"functionDeclarations":[{"name":"go"}]}]`},
		reach: [4]string{`{"tools":["~go"]}`, `{"tools":["~go"]}`, `{"tools":[{"name":"go","input_schema":{"type":"object"}}]}`, `{"tools":[{"functionDeclarations":[{"name":"go"}]}]}`},
	},
	{
		name: "a tool with free text", rows: "2/custom", calls: 1, end: "tools",
		ask:   [4]string{`"tools":[{"type":"custom","custom":{"name":"shell","description":"Runs."}}]`, `"tools":[{"type":"custom","name":"shell","description":"Runs."}]`, "-", "-"},
		reach: [4]string{anywhere("shell"), `{"tools":[{"type":"custom","name":"shell"}]}`, `{"tools":[{"name":"shell","input_schema":{"properties":{"input":{"type":"string"}}}}]}`, `{"tools":[{"functionDeclarations":["~input"]}]}`},
	},
	{
		name: "a forced tool with free text", rows: "2/choice-custom", calls: 1, end: "tools", once: true,
		ask:   [4]string{`"tools":[{"type":"custom","custom":{"name":"shell"}}],"tool_choice":{"type":"custom","custom":{"name":"shell"}}`, `"tools":[{"type":"custom","name":"shell"}],"tool_choice":{"type":"custom","name":"shell"}`, "-", "-"},
		reach: [4]string{`{"tool_choice":"~shell"}`, `{"tool_choice":{"type":"custom","name":"shell"}}`, `{"tool_choice":{"type":"tool","name":"shell"}}`, `{"toolConfig":{"functionCallingConfig":{"mode":"ANY"}}}`},
	},
	{
		name: "a namespace of tools", rows: "2/namespace", called: "read", calls: 1, end: "tools",
		ask:   [4]string{"-", `"tools":[{"type":"namespace","name":"files","description":"d","tools":[{"type":"function","name":"read","parameters":` + clock + `,"strict":false}]}]`, "-", "-"},
		reach: [4]string{anywhere("files_read"), "", anywhere("files_read"), anywhere("files_read")},
		pairs: map[string]string{"responses>responses": "-"},
	},
	{
		name: "a hosted tool beside others", rows: "2/hosted", once: true, calls: 2, end: "tools",
		ask: [4]string{
			"-", strings.Replace(tools([4]string{})[resp], `"tools":[`, `"tools":[{"type":"web_search"},`, 1),
			strings.Replace(tools([4]string{})[msgs], `"tools":[`, `"tools":[{"type":"web_search_20250305","name":"web_search"},`, 1),
			strings.Replace(tools([4]string{})[gem], `"tools":[`, `"tools":[{"googleSearch":{}},`, 1),
		},
		reach: same("drop tools"), pairs: map[string]string{"responses>responses": "", "messages>messages": "", "gemini>gemini": ""},
	},
	{
		name: "a forced hosted tool", rows: "2/hosted", once: true,
		ask: [4]string{
			"-", strings.Replace(tools([4]string{})[resp], `"tools":[`, `"tool_choice":{"type":"web_search"},"tools":[{"type":"web_search"},`, 1),
			strings.Replace(tools([4]string{})[msgs], `"tools":[`, `"tool_choice":{"type":"tool","name":"web_search"},"tools":[{"type":"web_search_20250305","name":"web_search"},`, 1), "-",
		},
		reach: same("400 tool"), pairs: map[string]string{"responses>responses": "-", "messages>messages": "-"},
	},
	{name: "tool choice auto", rows: "2/choice-auto 2/choice-absent", once: true, calls: 2, end: "tools", ask: choice(`"auto"`, `"auto"`, `{"type":"auto"}`, `{"mode":"AUTO"}`), reach: chosen(`"auto"`, `"auto"`, `{"type":"auto"}`, `{"mode":"AUTO"}`)},
	{name: "tool choice required", rows: "2/choice-required", once: true, calls: 2, end: "tools", ask: choice(`"required"`, `"required"`, `{"type":"any"}`, `{"mode":"ANY"}`), reach: chosen(`"required"`, `"required"`, `{"type":"any"}`, `{"mode":"ANY"}`)},
	{name: "no tool", rows: "2/choice-none", once: true, ask: choice(`"none"`, `"none"`, `{"type":"none"}`, `{"mode":"NONE"}`), reach: chosen(`"none"`, `"none"`, `{"type":"none"}`, `{"mode":"NONE"}`)},
	{
		name: "a forced tool", rows: "2/choice-named", calls: 1, end: "tools",
		ask:   choice(`{"type":"function","function":{"name":"get_time"}}`, `{"type":"function","name":"get_time"}`, `{"type":"tool","name":"get_time"}`, `{"mode":"ANY","allowedFunctionNames":["get_time"]}`),
		reach: chosen(`{"type":"function","function":{"name":"get_time"}}`, `{"type":"function","name":"get_time"}`, `{"type":"tool","name":"get_time"}`, `{"mode":"ANY","allowedFunctionNames":["get_time"]}`),
	},
	{
		name: "allowed tools", rows: "2/choice-allowed-auto", once: true, calls: -1, end: "tools",
		ask:   choice(`{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"get_time"}}]}}`, `{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"get_time"}]}`, "-", `{"mode":"VALIDATED","allowedFunctionNames":["get_time"]}`),
		reach: [4]string{`{"tool_choice":"~allowed_tools"}`, `{"tool_choice":"~allowed_tools"}`, `{"tools":[{"name":"get_time"}],"tool_choice":{"type":"auto"}}`, `{"toolConfig":{"functionCallingConfig":{"mode":"VALIDATED","allowedFunctionNames":["get_time"]}}}`},
	},
	{
		name: "allowed tools, one required", rows: "2/choice-allowed-required", once: true, calls: -1, end: "tools",
		ask:   choice(`{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"get_time"}},{"type":"function","function":{"name":"get_weather"}}]}}`, `{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"get_time"},{"type":"function","name":"get_weather"}]}`, "-", `{"mode":"ANY","allowedFunctionNames":["get_time","get_weather"]}`),
		reach: [4]string{`{"tool_choice":"~required"}`, `{"tool_choice":"~required"}`, `{"tool_choice":{"type":"any"}}`, `{"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["get_time","get_weather"]}}}`},
	},
	{
		name: "tool choice without tools", rows: "2/choice-without-tools", once: true,
		ask:   [4]string{"-", `"tool_choice":"auto"`, "-", `"toolConfig":{"functionCallingConfig":{"mode":"AUTO"}}`},
		reach: same(""),
	},
	{
		name: "names that another dialect refuses", rows: "2/names", called: "files.read:all", calls: 1, end: "tools",
		ask:   [4]string{"-", "-", "-", `"tools":[{"functionDeclarations":[{"name":"files.read:all","parametersJsonSchema":` + clock + `}]}]`},
		reach: same(""), results: []result{{text: "done"}},
	},

	// Section 3.
	{
		name: "image in base64", rows: "3/base64", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"data:image/png;base64,` + pixel + `"}}]}]`,
			`"input":[{"role":"user","content":[{"type":"input_text","text":"see"},{"type":"input_image","detail":"auto","image_url":"data:image/png;base64,` + pixel + `"}]}]`,
			`"messages":[{"role":"user","content":[{"type":"text","text":"see"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + pixel + `"}}]}]`,
			`"contents":[{"role":"user","parts":[{"text":"see"},{"inlineData":{"mimeType":"image/png","data":"` + pixel + `"}}]}]`,
		},
		reach: [4]string{
			`{"messages":[{"role":"user","content":["~see",{"type":"image_url","image_url":{"url":"data:image/png;base64,` + pixel + `"}}]}]}`,
			`{"input":[{"role":"user","content":["~see",{"type":"input_image","image_url":"data:image/png;base64,` + pixel + `"}]}]}`,
			`{"messages":[{"role":"user","content":["~see",{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + pixel + `"}}]}]}`,
			`{"contents":[{"role":"user","parts":["~see",{"inlineData":{"mimeType":"image/png","data":"` + pixel + `"}}]}]}`,
		},
	},
	{
		name: "image by address", rows: "3/url 3/detail", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png","detail":"low"}}]}]`,
			`"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://example.com/a.png","detail":"low"}]}]`,
			`"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://example.com/a.png"}}]}]`, "-",
		},
		reach: [4]string{
			`{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]}`, `{"input":[{"content":[{"type":"input_image","image_url":"https://example.com/a.png"}]}]}`,
			`{"messages":[{"content":[{"type":"image","source":{"type":"url","url":"https://example.com/a.png"}}]}]}`, "400 [0]",
		},
	},
	{
		name: "a file kept by the service", rows: "3/file-id 3/file-ids", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]}]`, `"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]`,
			`"messages":[{"role":"user","content":[{"type":"document","source":{"type":"file","file_id":"file-1"}}]}]`,
			`"contents":[{"role":"user","parts":[{"fileData":{"mimeType":"application/pdf","fileUri":"https://generativelanguage.googleapis.com/v1beta/files/1"}}]}]`,
		},
		reach: same("400 [0]"), pairs: map[string]string{"chat>chat": "", "responses>responses": "", "messages>messages": "", "gemini>gemini": ""},
	},
	{
		name: "PDF", rows: "3/pdf", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":[{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,` + pdf + `"}}]}]`,
			`"input":[{"role":"user","content":[{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,` + pdf + `"}]}]`,
			`"messages":[{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"` + pdf + `"}}]}]`,
			`"contents":[{"role":"user","parts":[{"inlineData":{"mimeType":"application/pdf","data":"` + pdf + `"}}]}]`,
		},
		reach: [4]string{
			`{"messages":[{"content":[{"type":"file","file":{"filename":"*","file_data":"data:application/pdf;base64,` + pdf + `"}}]}]}`,
			`{"input":[{"content":[{"type":"input_file","filename":"*","file_data":"data:application/pdf;base64,` + pdf + `"}]}]}`,
			`{"messages":[{"content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"` + pdf + `"}}]}]}`,
			`{"contents":[{"parts":[{"inlineData":{"mimeType":"application/pdf","data":"` + pdf + `"}}]}]}`,
		},
	},
	{
		name: "a document of plain text", rows: "3/text-document", once: true,
		ask:   [4]string{"-", "-", `"messages":[{"role":"user","content":[{"type":"document","title":"T","source":{"type":"text","media_type":"text/plain","data":"The plain words."}},{"type":"text","text":"sum up"}]}]`, "-"},
		reach: same(anywhere("The plain words.")),
	},
	{
		name: "a document by address", rows: "3/document-url", once: true,
		ask: [4]string{
			"-", `"input":[{"role":"user","content":[{"type":"input_file","file_url":"https://example.com/a.pdf"}]}]`,
			`"messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"https://example.com/a.pdf"}}]}]`, "-",
		},
		reach: [4]string{"400 [0]", `{"input":"~https://example.com/a.pdf"}`, `{"messages":"~https://example.com/a.pdf"}`, "400 [0]"},
	},
	{
		name: "an image of a type that few know", rows: "3/image-types", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/bmp;base64,Qk0="}}]}]`,
			`"input":[{"role":"user","content":[{"type":"input_image","detail":"auto","image_url":"data:image/bmp;base64,Qk0="}]}]`, "-",
			`"contents":[{"role":"user","parts":[{"inlineData":{"mimeType":"image/bmp","data":"Qk0="}}]}]`,
		},
		reach: [4]string{"", "", "400 [0]", ""},
	},
	{
		name: "citations in the history", rows: "3/citations", once: true,
		ask:   [4]string{"-", "-", `"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"text","text":"cited","citations":[{"type":"char_location","cited_text":"x","document_index":0,"document_title":null,"start_char_index":0,"end_char_index":1}]}]},{"role":"user","content":"go"}]`, "-"},
		reach: same("drop citations"), pairs: map[string]string{"messages>messages": `{"messages":"~cited_text"}`},
	},
	{
		name: "a forced tool for a model that thinks", rows: "2/forced-and-thinking", model: "mock-chat+thinking", calls: 1, end: "tools", once: true,
		ask: [4]string{
			choice(`{"type":"function","function":{"name":"get_time"}}`, "", "", "")[chat] + `,"reasoning_effort":"high"`,
			choice("", `{"type":"function","name":"get_time"}`, "", "")[resp] + `,"reasoning":{"effort":"high"}`, "-",
			choice("", "", "", `{"mode":"ANY","allowedFunctionNames":["get_time"]}`)[gem] + `,"generationConfig":{"thinkingConfig":{"thinkingLevel":"HIGH"}}`,
		},
		reach: same(anywhere("get_time")),
	},
	{
		name: "sound", rows: "3/audio-in", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}]}]`,
			`"input":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}]}]`, "-",
			`"contents":[{"role":"user","parts":[{"inlineData":{"mimeType":"audio/wav","data":"UklGRg=="}}]}]`,
		},
		reach: [4]string{`{"messages":"~UklGRg=="}`, `{"input":"~UklGRg=="}`, "400 [0]", `{"contents":"~audio/wav"}`},
	},
	{
		name: "film", rows: "3/video-in", once: true,
		ask:   [4]string{"-", "-", "-", `"contents":[{"role":"user","parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"}}]}]`},
		reach: [4]string{"400 [0]", "400 [0]", "400 [0]", ""},
	},
	{
		name: "names of authors", rows: "3/name-of-author", once: true,
		ask:   [4]string{`"messages":[{"role":"user","name":"ann","content":"hi"}]`, "-", "-", "-"},
		reach: [4]string{`{"messages":[{"name":"ann"}]}`, "drop name", "drop name", "drop name"},
	},
	{
		name: "empty text parts", rows: "3/empty-text", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":[{"type":"text","text":""},{"type":"text","text":"hi"}]},{"role":"assistant","content":""},{"role":"user","content":"go"}]`,
			`"input":[{"role":"user","content":[{"type":"input_text","text":""},{"type":"input_text","text":"hi"}]},{"role":"assistant","content":[{"type":"output_text","text":""}]},{"role":"user","content":"go"}]`,
			"-", `"contents":[{"role":"user","parts":[{"text":""},{"text":"hi"}]},{"role":"model","parts":[{"text":""}]},{"role":"user","parts":[{"text":"go"}]}]`,
		},
		reach: same(anywhere("go")), pairs: map[string]string{"gemini>gemini": "-"},
	},
	{
		name: "a result without a call", rows: "3/orphans", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":"hi"},{"role":"tool","tool_call_id":"call_nowhere","content":"x"}]`,
			`"input":[{"role":"user","content":"hi"},{"type":"function_call_output","call_id":"call_nowhere","output":"x"}]`,
			`"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_nowhere","content":"x"}]}]`,
			`"contents":[{"role":"user","parts":[{"functionResponse":{"name":"call_nowhere","response":{"result":"x"}}}]}]`,
		},
		reach: same("400 call_nowhere"), pairs: map[string]string{"chat>chat": "-", "responses>responses": "-", "messages>messages": "-", "gemini>gemini": "-"},
	},
	{
		name: "a call without a result", rows: "3/orphans", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":"hi"},{"role":"assistant","tool_calls":[{"id":"call_open","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"user","content":"go"}]`,
			`"input":[{"role":"user","content":"hi"},{"type":"function_call","call_id":"call_open","name":"f","arguments":"{}"},{"role":"user","content":"go"}]`,
			`"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"tool_use","id":"call_open","name":"f","input":{}}]},{"role":"user","content":"go"}]`, "-",
		},
		reach: same("400 call_open"), pairs: map[string]string{"chat>chat": "-", "responses>responses": "-", "messages>messages": "-"},
	},
	{
		name: "arguments that are no object", rows: "3/arguments", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":"hi"},{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":"}}]},{"role":"tool","tool_call_id":"c1","content":"x"}]`,
			`"input":[{"role":"user","content":"hi"},{"type":"function_call","call_id":"c1","name":"f","arguments":"{\"a\":"},{"type":"function_call_output","call_id":"c1","output":"x"}]`, "-", "-",
		},
		reach: [4]string{"", "", "400 arguments", "400 arguments"},
	},
	{
		name: "refusal in the history", rows: "3/refusal-history", once: true,
		ask: [4]string{
			`"messages":[{"role":"user","content":"hi"},{"role":"assistant","refusal":"I will not.","content":null},{"role":"user","content":"go"}]`,
			`"input":[{"role":"user","content":"hi"},{"type":"message","role":"assistant","content":[{"type":"refusal","refusal":"I will not."}]},{"role":"user","content":"go"}]`, "-", "-",
		},
		reach: same(anywhere("I will not.")),
	},
	{
		name: "context management", once: true,
		ask:   [4]string{"-", "-", `"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}`, "-"},
		reach: [4]string{"drop context_management", "drop context_management", `{"context_management":"~edits"}`, "drop context_management"},
	},
	{
		name: "fields nobody knows", rows: "1/unknown-fields", once: true,
		ask: [4]string{"-", `"client_metadata":{"a":"b"},"store":false`, "-", "-"}, reach: [4]string{"drop client_metadata", "", "drop client_metadata", "drop client_metadata"},
	},
}

// choice asks for tools with a choice among them.
func choice(c, r, m, g string) [4]string {
	more := [4]string{`"tool_choice":` + c, `"tool_choice":` + r, `"tool_choice":` + m, `"toolConfig":{"functionCallingConfig":` + g + `}`}
	for i, one := range []string{c, r, m, g} {
		if one == "-" {
			more[i] = "-"
		}
	}
	return tools(more)
}

func chosen(c, r, m, g string) [4]string {
	return [4]string{`{"tool_choice":` + c + `}`, `{"tool_choice":` + r + `}`, `{"tool_choice":` + m + `}`, `{"toolConfig":{"functionCallingConfig":` + g + `}}`}
}
