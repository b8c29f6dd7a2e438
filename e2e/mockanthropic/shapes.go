package mockanthropic

import "github.com/floway/floway/e2e/mock"

// kind makes a shape of its members besides type.
func kind(members map[string]mock.Shape, need ...string) mock.Shape {
	members["type"] = mock.String
	return mock.Fields{Of: members, Need: need}
}

func fields(members map[string]mock.Shape, need ...string) mock.Shape {
	return mock.Fields{Of: members, Need: need}
}

type of = map[string]mock.Shape

var (
	cacheMark = mock.Kinds{"ephemeral": kind(of{"ttl": mock.Enum("5m", "1h"), "scope": mock.String})}

	textBlock = kind(of{"text": mock.String, "cache_control": cacheMark, "citations": mock.List(mock.Object)}, "text")

	imageBlock = kind(of{"cache_control": cacheMark, "source": mock.Kinds{
		"base64": kind(of{"media_type": mock.Enum("image/jpeg", "image/png", "image/gif", "image/webp"), "data": mock.String}, "media_type", "data"),
		"url":    kind(of{"url": mock.String}, "url"),
		"file":   kind(of{"file_id": mock.String}, "file_id"),
	}}, "source")

	documentBlock = kind(of{
		"cache_control": cacheMark, "title": mock.String, "context": mock.String, "citations": fields(of{"enabled": mock.Bool}),
		"source": mock.Kinds{
			"base64":  kind(of{"media_type": mock.Enum("application/pdf"), "data": mock.String}, "media_type", "data"),
			"text":    kind(of{"media_type": mock.Enum("text/plain"), "data": mock.String}, "media_type", "data"),
			"content": kind(of{"content": mock.Either(mock.String, mock.List(mock.Kinds{"text": textBlock, "image": imageBlock}))}, "content"),
			"url":     kind(of{"url": mock.String}, "url"),
			"file":    kind(of{"file_id": mock.String}, "file_id"),
		},
	}, "source")

	searchResult = kind(of{
		"content": mock.List(mock.Kinds{"text": textBlock}), "source": mock.String, "title": mock.String,
		"cache_control": cacheMark, "citations": fields(of{"enabled": mock.Bool}),
	}, "content", "source", "title")

	blocks = mock.Kinds{
		"text": textBlock, "image": imageBlock, "document": documentBlock, "search_result": searchResult,
		"tool_use":          kind(of{"id": mock.String, "name": mock.String, "input": mock.Object, "cache_control": cacheMark, "caller": mock.Object}, "id", "name", "input"),
		"tool_result":       kind(of{"tool_use_id": mock.String, "is_error": mock.Bool, "cache_control": cacheMark, "content": mock.Either(mock.String, mock.List(mock.Kinds{"text": textBlock, "image": imageBlock, "document": documentBlock, "search_result": searchResult}))}, "tool_use_id"),
		"thinking":          kind(of{"thinking": mock.String, "signature": mock.String}, "thinking", "signature"),
		"redacted_thinking": kind(of{"data": mock.String}, "data"),
	}

	message = fields(of{"role": mock.Enum("user", "assistant", "system"), "content": mock.Either(mock.String, mock.List(blocks))}, "role", "content")

	clientTool = fields(of{
		"type": mock.Enum("custom"), "name": mock.String, "description": mock.String, "input_schema": mock.Object, "strict": mock.Bool,
		"cache_control": cacheMark, "eager_input_streaming": mock.Bool, "defer_loading": mock.Bool, "input_examples": mock.List(mock.Object), "allowed_callers": mock.List(mock.String),
	}, "name", "input_schema")

	hostedTool = kind(of{
		"name": mock.String, "cache_control": cacheMark, "max_uses": mock.Integer, "allowed_domains": mock.List(mock.String), "blocked_domains": mock.List(mock.String),
		"user_location": mock.Object, "max_characters": mock.Integer,
	}, "name")

	// prompt are the members that a message and its count have in common.
	prompt = of{
		"model": mock.String, "messages": mock.List(message), "system": mock.Either(mock.String, mock.List(mock.Kinds{"text": textBlock})),
		"tools": mock.List(mock.Object), "cache_control": cacheMark, "thread": mock.Object, "context_management": fields(of{"edits": mock.List(mock.Object)}),
		"tool_choice": mock.Kinds{
			"auto": kind(of{"disable_parallel_tool_use": mock.Bool}),
			"any":  kind(of{"disable_parallel_tool_use": mock.Bool}),
			"tool": kind(of{"disable_parallel_tool_use": mock.Bool, "name": mock.String}, "name"),
			"none": kind(of{}),
		},
		"thinking": mock.Kinds{
			"enabled":       kind(of{"budget_tokens": mock.Integer, "display": mock.Enum("summarized", "omitted")}, "budget_tokens"),
			"adaptive":      kind(of{"display": mock.Enum("summarized", "omitted")}),
			"between_tools": kind(of{}),
			"disabled":      kind(of{}),
		},
		"output_config": fields(of{
			"effort": mock.Enum("low", "medium", "high", "xhigh", "max"),
			"format": mock.Kinds{"json_schema": kind(of{"schema": mock.Object}, "schema")},
		}),
	}

	countShape = fields(prompt, "model", "messages")

	createShape = func() mock.Shape {
		all := of{
			"max_tokens": mock.Integer, "stream": mock.Bool, "stop_sequences": mock.List(mock.String),
			"metadata": fields(of{"user_id": mock.String}), "service_tier": mock.Enum("auto", "standard_only"), "speed": mock.Enum("standard", "fast"),
			"inference_geo": mock.String, "container": mock.String, "diagnostics": mock.Object,
			"temperature": mock.Number, "top_p": mock.Number, "top_k": mock.Integer,
		}
		for name, shape := range prompt {
			all[name] = shape
		}
		return fields(all, "model", "messages", "max_tokens")
	}()
)
