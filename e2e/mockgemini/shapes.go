package mockgemini

import (
	"strings"

	"github.com/floway/floway/e2e/mock"
)

type of = map[string]mock.Shape

// message makes the shape of a protocol buffer in JSON: names in either spelling.
func message(members of) mock.Shape { return mock.Fields{Of: members, Snake: true} }

// word takes one of the names of an enumeration, in any case.
type word []string

func (w word) Check(at mock.At, v any) (any, *mock.Complaint) {
	s, ok := v.(string)
	if !ok {
		return nil, &mock.Complaint{Wrong: mock.Type, At: at, Want: "a string"}
	}
	return mock.Enum(w...).Check(at, strings.ToUpper(s))
}

var (
	functionCall = message(of{"id": mock.String, "name": mock.String, "args": mock.Object})

	functionResponse = message(of{
		"id": mock.String, "name": mock.String, "response": mock.Object, "parts": mock.List(mock.Object), "willContinue": mock.Bool, "scheduling": mock.String,
	})

	part = message(of{
		"text": mock.String, "thought": mock.Bool, "thoughtSignature": mock.String, "videoMetadata": mock.Object, "partMetadata": mock.Object, "mediaResolution": mock.Object,
		"inlineData":   message(of{"mimeType": mock.String, "data": mock.String, "displayName": mock.String}),
		"fileData":     message(of{"mimeType": mock.String, "fileUri": mock.String, "displayName": mock.String}),
		"functionCall": functionCall, "functionResponse": functionResponse,
		"executableCode":      message(of{"language": mock.String, "code": mock.String, "id": mock.String}),
		"codeExecutionResult": message(of{"outcome": mock.String, "output": mock.String, "id": mock.String}),
	})

	content = message(of{"role": mock.String, "parts": mock.List(part)})

	schema mock.Shape // set in init: it is part of itself

	tool = message(of{
		"functionDeclarations": mock.List(message(of{
			"name": mock.String, "description": mock.String, "parameters": mock.Later(func() mock.Shape { return schema }), "parametersJsonSchema": mock.Anything,
			"response": mock.Later(func() mock.Shape { return schema }), "responseJsonSchema": mock.Anything, "behavior": word{"BLOCKING", "NON_BLOCKING"},
		})),
		"googleSearch": mock.Object, "googleSearchRetrieval": mock.Object, "codeExecution": mock.Object, "urlContext": mock.Object, "fileSearch": mock.Object,
		"computerUse": mock.Object, "googleMaps": mock.Object,
	})

	thinkingConfig = message(of{
		"includeThoughts": mock.Bool, "thinkingBudget": mock.Integer, "thinkingLevel": word{"MINIMAL", "LOW", "MEDIUM", "HIGH"},
	})

	generationConfig = message(of{
		"temperature": mock.Number, "topP": mock.Number, "topK": mock.Number, "candidateCount": mock.Integer, "maxOutputTokens": mock.Integer,
		"stopSequences": mock.List(mock.String), "presencePenalty": mock.Number, "frequencyPenalty": mock.Number, "seed": mock.Integer,
		"responseMimeType": mock.String, "responseSchema": mock.Later(func() mock.Shape { return schema }), "responseJsonSchema": mock.Anything,
		"responseModalities": mock.List(mock.String), "responseLogprobs": mock.Bool, "logprobs": mock.Integer, "thinkingConfig": thinkingConfig,
		"speechConfig": mock.Object, "imageConfig": mock.Object, "mediaResolution": mock.String, "enableEnhancedCivicAnswers": mock.Bool,
	})

	generate = of{
		"contents": mock.List(content), "systemInstruction": content, "tools": mock.List(tool), "generationConfig": generationConfig,
		"toolConfig": message(of{
			"functionCallingConfig":            message(of{"mode": word{"MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"}, "allowedFunctionNames": mock.List(mock.String)}),
			"retrievalConfig":                  mock.Object,
			"includeServerSideToolInvocations": mock.Bool,
		}),
		"safetySettings": mock.List(message(of{"category": mock.String, "threshold": mock.String, "method": mock.String})),
		"cachedContent":  mock.String, "serviceTier": mock.String, "store": mock.Bool, "labels": mock.Map(mock.String), "model": mock.String,
	}

	generateShape = message(generate)

	countShape = message(of{"contents": mock.List(content), "generateContentRequest": generateShape})

	embed = of{
		"model": mock.String, "content": content, "taskType": mock.String, "title": mock.String, "outputDimensionality": mock.Integer,
	}

	embedShape = message(embed)

	batchShape = message(of{"requests": mock.List(embedShape)})
)

func init() {
	schema = message(of{
		"type":  word{"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"},
		"anyOf": mock.List(mock.Later(func() mock.Shape { return schema })), "items": mock.Later(func() mock.Shape { return schema }),
		"properties": mock.Map(mock.Later(func() mock.Shape { return schema })),
		"default":    mock.Anything, "example": mock.Anything, "description": mock.String, "title": mock.String, "format": mock.String, "pattern": mock.String,
		"enum": mock.List(mock.String), "required": mock.List(mock.String), "propertyOrdering": mock.List(mock.String), "nullable": mock.Bool,
		"maximum": mock.Number, "minimum": mock.Number,
		"maxItems": size, "minItems": size, "maxLength": size, "minLength": size, "maxProperties": size, "minProperties": size,
	})
}

// size is a 64 bit number, which may be spelled as a string.
var size = mock.Either(mock.String, mock.Integer)
