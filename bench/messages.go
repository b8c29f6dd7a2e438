package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"
)

// Clients of Anthropic's Messages, which a gateway serves by translation from the
// mock's chat completions. What they get is made anew on the way, so it is not
// compared byte for byte: every piece of the answer must be there, and what it used.

// systemMessage is what conversations begin with.
const systemMessage = `{"role":"system","content":"You are a careful reader."},`

// nonceMark stands before the nonce of a request that is translated: it goes in the
// instructions, the one text that every dialect carries.
const nonceMark = "nonce="

func newMessagesRequest(addr, key, messages string, s script, stream bool) request {
	body := []byte(`{"max_tokens":1000,"messages":[`)
	body = append(body, strings.TrimPrefix(messages, "["+systemMessage)...)
	body = append(body, `,"model":"`+s.model()+`","temperature":0.7,"stream":`...)
	body = strconv.AppendBool(body, stream)
	body = append(body, `,"system":"You are a careful reader. `+nonceMark...)
	nonceAt := len(body)
	body = appendNonce(body, 0)
	body = append(body, `"}`...)
	head := fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nAnthropic-Version: 2023-06-01\r\n"+
		"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: floway-bench\r\nContent-Length: %d\r\n\r\n",
		addr, key, len(body))
	return request{
		bytes: append([]byte(head), body...), nonceAt: len(head) + nonceAt,
		expect: expectation{reply: reply{model: s.model()}, stream: stream, chunks: s.chunks, messages: true},
	}
}

// parseTranslated reads a request that a gateway has made of one of these.
func parseTranslated(body []byte) (question, error) {
	var q question
	_, rest, found := bytes.Cut(body, []byte(nonceMark))
	if !found || len(rest) < nonceLen {
		return q, errors.New("no nonce in the instructions")
	}
	var fields struct {
		Messages      []struct{ Role, Content json.RawMessage }
		Model         string
		Stream        bool
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	err := json.Unmarshal(body, &fields)
	if err == nil && len(fields.Messages) < 2 {
		err = errors.New("messages are missing")
	}
	if err == nil {
		q.nonce, err = strconv.ParseUint(string(rest[:nonceLen]), 16, 64)
	}
	if err == nil {
		q.script, err = parseScript(fields.Model)
	}
	q.model, q.stream, q.includeUsage = fields.Model, fields.Stream, fields.StreamOptions.IncludeUsage
	return q, err
}

// wants says which of the parts a piece of an answer lacks.
func wants(what string, data []byte, parts ...string) error {
	for _, part := range parts {
		if !bytes.Contains(data, []byte(part)) {
			return fmt.Errorf("%s lacks %s: %.300s", what, part, data)
		}
	}
	return nil
}

func (e *expectation) used() string {
	return `"output_tokens":` + strconv.FormatInt(tokensOf(e.nonce).Completion, 10)
}

func (a *answerReader) readMessage(h head, e *expectation) (arrival, error) {
	at := arrival{begin: time.Now()}
	got, err := a.readWhole(h)
	if err != nil {
		return at, fmt.Errorf("read the answer: %w", err)
	}
	return at, wants("the answer", got, answerText+string(appendNonce(nil, e.nonce)), `"stop_reason":"end_turn"`, e.used())
}

func (a *answerReader) readMessageStream(h head, e *expectation) (arrival, error) {
	var at arrival
	if !h.chunked {
		return at, errors.New("a stream without chunked transfer coding")
	}
	a.lines.Reset(httputil.NewChunkedReader(a.conn))
	nonce := appendNonce(nil, e.nonce)
	for pieces, last := 0, ""; ; {
		line, err := a.lines.ReadSlice('\n')
		switch {
		case err == io.EOF && len(line) == 0 && last == "message_stop" && pieces == e.chunks:
			return at, a.readTrailer()
		case err != nil:
			return at, fmt.Errorf("the stream ended at piece %d of %d, with %s: %w", pieces, e.chunks, last, orEOF(err))
		}
		line = bytes.TrimRight(line, "\r\n")
		if name, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			last = string(name)
			continue
		}
		switch last {
		case "content_block_delta":
			if len(line) == 0 {
				continue
			}
			if !bytes.Contains(line, nonce) {
				return at, fmt.Errorf("piece %d is another's: %.300s", pieces, line)
			}
			if pieces++; pieces == 1 {
				at.begin = time.Now()
			}
		case "message_delta":
			if len(line) > 0 {
				if err := wants("the end", line, `"stop_reason":"end_turn"`, e.used()); err != nil {
					return at, err
				}
			}
		case "error":
			return at, fmt.Errorf("an error in the stream: %.300s", line)
		}
	}
}
