package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

// What the load and the mock upstream agree on: the form of a request, and for
// every nonce the one right answer. The mock writes answers with the functions
// of this file, the load compares what arrives with what they give, byte for
// byte: a proxy that passes bytes has no reason to change any.

// script is what the mock does with a request. It travels in the model's name,
// the one field that every gateway passes on.
type script struct {
	chunks int           // content chunks of a stream
	gap    time.Duration // between two chunks
	wait   time.Duration // before the first byte of the answer
}

func (s script) model() string {
	return fmt.Sprintf("mock-c%d-g%s-w%s", s.chunks, s.gap, s.wait)
}

// length is how long the mock takes for a stream.
func (s script) length() time.Duration {
	return s.wait + time.Duration(s.chunks)*s.gap
}

func parseScript(model string) (script, error) {
	var s script
	parts := strings.Split(model, "-")
	if len(parts) != 4 || parts[0] != "mock" {
		return s, fmt.Errorf("unknown model %q", model)
	}
	chunks, ok1 := strings.CutPrefix(parts[1], "c")
	gap, ok2 := strings.CutPrefix(parts[2], "g")
	wait, ok3 := strings.CutPrefix(parts[3], "w")
	var err1, err2, err3 error
	s.chunks, err1 = strconv.Atoi(chunks)
	s.gap, err2 = time.ParseDuration(gap)
	s.wait, err3 = time.ParseDuration(wait)
	if !ok1 || !ok2 || !ok3 || errors.Join(err1, err2, err3) != nil || s.chunks < 0 || s.chunks > 100_000 {
		return s, fmt.Errorf("unknown model %q", model)
	}
	return s, nil
}

// tokens is the usage of one answer, or of many.
type tokens struct {
	Prompt     int64 `json:"prompt"`     // all of the prompt
	Cached     int64 `json:"cached"`     // of Prompt, read from a cache
	Completion int64 `json:"completion"` // all that was generated
	Reasoning  int64 `json:"reasoning"`  // of Completion, thought
}

// tokensOf is the usage that the mock reports for a nonce: different for each,
// so that no count can be right by accident.
func tokensOf(nonce uint64) tokens {
	t := tokens{
		Prompt:     100 + int64(nonce&1023),
		Cached:     int64(nonce >> 10 & 63),
		Completion: 4 + int64(nonce>>16&255),
	}
	t.Reasoning = t.Completion * int64(nonce>>24&3) / 4
	return t
}

func (t *tokens) add(o tokens) {
	t.Prompt += o.Prompt
	t.Cached += o.Cached
	t.Completion += o.Completion
	t.Reasoning += o.Reasoning
}

const nonceLen = 16 // hexadecimal digits

func appendNonce(dst []byte, nonce uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[nonce>>shift&15])
	}
	return dst
}

// stamps are the mock's own times, in nanoseconds since 1970: when it had read
// the request, and when it sent this piece. They travel in system_fingerprint.
type stamps struct{ received, sent int64 }

// reply is one answer of the mock.
type reply struct {
	nonce uint64
	model string
	// nulls: the chunks of this stream carry `"usage":null`, as OpenAI's do
	// where usage was asked for.
	nulls bool
}

// The events of a stream with n chunks: 0 is the role, 1 to n the content, n+1
// the reason to finish, n+2 the usage if it was asked for.
const roleEvent = 0

// appendEvent appends the JSON of one event of a stream, without its framing.
func (r *reply) appendEvent(dst []byte, event, chunks int, at stamps) []byte {
	dst = r.appendHead(dst, "chat.completion.chunk", at)
	switch {
	case event == roleEvent:
		dst = append(dst, `[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]`...)
	case event <= chunks:
		dst = append(dst, `[{"index":0,"delta":{"content":" word `...)
		dst = strconv.AppendInt(dst, int64(event), 10)
		dst = append(dst, ` of `...)
		dst = appendNonce(dst, r.nonce)
		dst = append(dst, `"},"finish_reason":null}]`...)
	case event == chunks+1:
		dst = append(dst, `[{"index":0,"delta":{},"finish_reason":"stop"}]`...)
	default:
		dst = append(dst, `[],`...)
		dst = r.appendUsage(dst)
		return append(dst, '}')
	}
	if r.nulls {
		dst = append(dst, `,"usage":null`...)
	}
	return append(dst, '}')
}

// answerText is the JSON form of the text of a plain answer: with it the answer
// is about 1 KB.
var answerText = strings.Repeat(`A gateway passes what it is given.\nIt says \"yes\" to bytes and \"no\" to guesses. `, 6)

// appendAnswer appends a whole answer without a stream.
func (r *reply) appendAnswer(dst []byte, at stamps) []byte {
	dst = r.appendHead(dst, "chat.completion", at)
	dst = append(dst, `[{"index":0,"message":{"role":"assistant","content":"`...)
	dst = append(dst, answerText...)
	dst = appendNonce(dst, r.nonce)
	dst = append(dst, `","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],`...)
	dst = r.appendUsage(dst)
	return append(dst, '}')
}

const fingerprint = `"system_fingerprint":"fp_`

func (r *reply) appendHead(dst []byte, object string, at stamps) []byte {
	dst = append(dst, `{"id":"chatcmpl-`...)
	dst = appendNonce(dst, r.nonce)
	dst = append(dst, `","object":"`...)
	dst = append(dst, object...)
	dst = append(dst, `","created":1790000000,"model":"`...)
	dst = append(dst, r.model...)
	dst = append(dst, `",`...)
	dst = append(dst, fingerprint...)
	dst = strconv.AppendInt(dst, at.received, 10)
	dst = append(dst, '_')
	dst = strconv.AppendInt(dst, at.sent, 10)
	return append(dst, `","choices":`...)
}

func (r *reply) appendUsage(dst []byte) []byte {
	t := tokensOf(r.nonce)
	dst = append(dst, `"usage":{"prompt_tokens":`...)
	dst = strconv.AppendInt(dst, t.Prompt, 10)
	dst = append(dst, `,"completion_tokens":`...)
	dst = strconv.AppendInt(dst, t.Completion, 10)
	dst = append(dst, `,"total_tokens":`...)
	dst = strconv.AppendInt(dst, t.Prompt+t.Completion, 10)
	dst = append(dst, `,"prompt_tokens_details":{"cached_tokens":`...)
	dst = strconv.AppendInt(dst, t.Cached, 10)
	dst = append(dst, `,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":`...)
	dst = strconv.AppendInt(dst, t.Reasoning, 10)
	return append(dst, `,"audio_tokens":0}}`...)
}

// readStamps finds the mock's times in an answer or event.
func readStamps(data []byte) (stamps, error) {
	bad := errors.New("no time stamps in system_fingerprint")
	_, rest, ok := bytes.Cut(data, []byte(fingerprint))
	if !ok {
		return stamps{}, bad
	}
	text, _, ok := bytes.Cut(rest, []byte{'"'})
	if !ok || len(text) > 60 {
		return stamps{}, bad
	}
	received, sent, ok := bytes.Cut(text, []byte{'_'})
	if !ok {
		return stamps{}, bad
	}
	var at stamps
	var err1, err2 error
	at.received, err1 = strconv.ParseInt(string(received), 10, 64)
	at.sent, err2 = strconv.ParseInt(string(sent), 10, 64)
	if err1 != nil || err2 != nil {
		return stamps{}, bad
	}
	return at, nil
}

// question is what the mock reads of a request.
type question struct {
	nonce        uint64
	model        string
	script       script
	stream       bool
	includeUsage bool
}

// appendRequest appends a request's body and returns where its nonce begins.
// The messages come first, as the official Python SDK sends them: who looks for
// the model has to get past all of them.
func appendRequest(dst []byte, messages string, s script, stream, includeUsage bool) (body []byte, nonceAt int) {
	dst = append(dst, `{"messages":`...)
	dst = append(dst, messages...)
	dst = append(dst, `,"model":"`...)
	dst = append(dst, s.model()...)
	dst = append(dst, `","temperature":0.7`...)
	if stream {
		dst = append(dst, `,"stream":true`...)
		if includeUsage {
			dst = append(dst, `,"stream_options":{"include_usage":true}`...)
		}
	}
	dst = fmt.Appendf(dst, `,"metadata":{"crc":"%08x","nonce":"`, crc32.ChecksumIEEE([]byte(messages)))
	nonceAt = len(dst)
	dst = appendNonce(dst, 0)
	return append(dst, `"}}`...), nonceAt
}

// parseRequest reads a request and refuses one that was damaged on its way. It
// checks the messages by their checksum and decodes only what is around them: a
// mock that decodes a megabyte would be what the benchmark measures.
func parseRequest(body []byte) (question, error) {
	var q question
	name := []byte(`"messages":`)
	start := bytes.Index(body, name)
	end := bytes.LastIndex(body, []byte(`,"model":"`))
	if start < 0 || end < start {
		return q, errors.New("no messages, or no model after them")
	}
	start += len(name)
	rest := make([]byte, 0, len(body)-(end-start)+4)
	rest = append(rest, body[:start]...)
	rest = append(rest, "null"...)
	rest = append(rest, body[end:]...)
	var fields struct {
		Model         string
		Stream        bool
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
		Metadata struct{ CRC, Nonce string }
	}
	if err := json.Unmarshal(rest, &fields); err != nil {
		return q, fmt.Errorf("around the messages: %w", err)
	}
	if sum := fmt.Sprintf("%08x", crc32.ChecksumIEEE(body[start:end])); sum != fields.Metadata.CRC {
		return q, fmt.Errorf("messages have checksum %s, sent with %q", sum, fields.Metadata.CRC)
	}
	var err error
	if q.nonce, err = strconv.ParseUint(fields.Metadata.Nonce, 16, 64); err != nil || len(fields.Metadata.Nonce) != nonceLen {
		return q, fmt.Errorf("bad nonce %q", fields.Metadata.Nonce)
	}
	if q.script, err = parseScript(fields.Model); err != nil {
		return q, err
	}
	q.model = fields.Model
	q.stream = fields.Stream
	q.includeUsage = fields.StreamOptions.IncludeUsage
	return q, nil
}
