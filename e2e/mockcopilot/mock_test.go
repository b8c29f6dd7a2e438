package mockcopilot

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/mock"
)

const anID = "01234567-89ab-4def-8123-456789abcdef"

// The mock takes what the service takes and refuses the rest.
func TestRefusals(t *testing.T) {
	s := New(mock.Config{})
	defer s.Close()
	srv := httptest.NewServer(s)
	defer srv.Close()
	do := func(method, url, body string, header http.Header) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	exchange := http.Header{"Authorization": {"token ghu_mock_octo"}, "User-Agent": {"GitHubCopilotChat/0.52.0"}, "X-Github-Api-Version": {"2025-04-01"}, "Accept": {"application/json"}}
	if status, body := do("POST", srv.URL+"/copilot_internal/v2/token", "", exchange); status != 404 {
		t.Errorf("a POST for a token: %d %s", status, body)
	}
	if status, body := do("GET", srv.URL+"/copilot_internal/v2/token", "", http.Header{"Authorization": {"token ghu_mock_nobody"}}); status != 401 {
		t.Errorf("a stranger: %d %s", status, body)
	}
	_, body := do("GET", srv.URL+"/copilot_internal/v2/token", "", exchange)
	var got struct {
		Token     string
		Endpoints struct{ API string }
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || got.Endpoints.API != srv.URL+"/base/octo" {
		t.Fatalf("%v: %s", err, body)
	}
	good := func() http.Header {
		return http.Header{
			"Authorization": {"Bearer " + got.Token}, "Content-Type": {"application/json"},
			"Editor-Version": {"vscode/1.124.2"}, "Editor-Plugin-Version": {"copilot-chat/0.52.0"}, "User-Agent": {"GitHubCopilotChat/0.52.0"},
			"Copilot-Integration-Id": {"vscode-chat"}, "X-Github-Api-Version": {"2026-06-01"}, "X-Vscode-User-Agent-Library-Version": {"electron-fetch"},
			"X-Request-Id": {anID}, "X-Agent-Task-Id": {anID}, "Editor-Device-Id": {anID},
			"Openai-Intent": {"conversation-agent"}, "X-Interaction-Type": {"conversation-agent"}, "X-Initiator": {"user"},
		}
	}
	const chat, image = `{"model":"gpt-5-mock","messages":[{"role":"user","content":"hi"}]}`, `{"model":"gpt-5-mock","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]}`
	for name := range good() {
		if name == "Content-Type" {
			continue
		}
		h := good()
		delete(h, name)
		if name == "User-Agent" {
			h.Set(name, "floway")
		}
		if status, body := do("POST", got.Endpoints.API+"/chat/completions", chat, h); status < 400 {
			t.Errorf("without %s: %d %s", name, status, body)
		}
	}
	for _, c := range []struct {
		path, body string
		change     func(http.Header)
		status     int
		part       string
	}{
		{"/chat/completions", chat, nil, 200, "chat.completion"},
		{"/chat/completions", image, nil, 400, "Copilot-Vision-Request"},
		{"/chat/completions", image, func(h http.Header) { h.Set("Copilot-Vision-Request", "true") }, 200, ""},
		{"/chat/completions", chat, func(h http.Header) { h.Set("Copilot-Vision-Request", "true") }, 400, "without an image"},
		{"/chat/completions", chat, func(h http.Header) { h.Set("X-Initiator", "agent") }, 400, "the request is the user's"},
		{"/chat/completions", strings.Replace(chat, "{", `{"store":true,`, 1), nil, 400, "store is not supported"},
		{"/chat/completions", strings.Replace(chat, "gpt-5-mock", "gpt-mock-off", 1), nil, 400, "model_not_supported"},
		{"/chat/completions", strings.Replace(chat, "gpt-5-mock", "mock-codex", 1), nil, 400, "unsupported_api_for_model"},
		{"/v1/chat/completions", chat, nil, 404, "not found"},
		{"/responses", `{"model":"mock-codex","input":"hi"}`, nil, 400, "store is not supported"},
		{"/responses", `{"model":"mock-codex","input":"hi","store":true}`, nil, 400, "store is not supported"},
		{"/responses", `{"model":"mock-codex","input":"hi","store":false,"service_tier":"auto"}`, nil, 400, "service_tier"},
		{"/responses", `{"model":"mock-codex","input":"hi","store":false,"tools":[{"type":"image_generation"}]}`, nil, 400, "image_generation"},
		{"/responses", `{"model":"mock-codex","input":[{"type":"function_call_output","call_id":"c","output":"x"}],"store":false}`, nil, 400, "the request is the agent's"},
		{"/responses", `{"model":"mock-codex","input":"hi","store":false}`, nil, 200, "response"},
		{"/v1/messages", `{"model":"claude-mock-4.5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`, nil, 200, "message"},
		{"/v1/messages", `{"model":"claude-mock-4.5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`, func(h http.Header) { h.Set("Anthropic-Beta", "context-1m-2025-08-07") }, 400, "unsupported beta"},
		{"/v1/messages", `{"model":"claude-mock-4.5","max_tokens":9,"cache_control":{"type":"ephemeral"},"messages":[{"role":"user","content":"hi"}]}`, nil, 400, "cache_control"},
		{"/v1/messages", `{"model":"claude-mock-4.5","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral","ttl":"1h"}}]}]}`, nil, 400, "cache_control"},
		{"/embeddings", `{"model":"text-embedding-mock","input":"hi"}`, nil, 400, "must be an array"},
		{"/embeddings", `{"model":"text-embedding-mock","input":["hi"]}`, nil, 200, "embedding"},
		{"/completions", chat, nil, 404, "not found"},
	} {
		h := good()
		if c.change != nil {
			c.change(h)
		}
		if status, body := do("POST", got.Endpoints.API+c.path, c.body, h); status != c.status || !strings.Contains(body, c.part) {
			t.Errorf("%s %s: %d %s, want %d", c.path, c.body, status, body, c.status)
		}
	}
	if status, body := do("POST", srv.URL+"/base/mona/chat/completions", chat, good()); status != http.StatusMisdirectedRequest {
		t.Errorf("at another account's address: %d %s", status, body)
	}
	if err := (Control{URL: srv.URL}).Kill("octo"); err != nil {
		t.Fatal(err)
	}
	if status, body := do("POST", got.Endpoints.API+"/chat/completions", chat, good()); status != 401 {
		t.Errorf("with a dead token: %d %s", status, body)
	}
}
