package translate

import (
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
)

// What an agent asks for the largest models does not fail with the smaller ones.
func TestBound(t *testing.T) {
	for _, tt := range []struct {
		to    dialect.Dialect
		model string
		want  string
		named bool
	}{
		{dialect.Chat, "gpt-4o-mini", `"max_completion_tokens":16384`, true},
		{dialect.Chat, "openai/gpt-4-turbo-2024-04-09", `:4096`, true},
		{dialect.Responses, "gpt-4o", `"max_output_tokens":16384`, true},
		{dialect.Responses, "gpt-5", `"max_output_tokens":32000`, false},
		{dialect.Gemini, "gemini-2.0-flash", `"maxOutputTokens":8192`, true},
		{dialect.Gemini, "gemini-3-pro", `"maxOutputTokens":32000`, false},
	} {
		c := &Conversation{From: dialect.Messages, MaxTokens: 32_000, Turns: []Turn{{Parts: []Part{{Kind: Text, Text: "hi"}}}}}
		r, err := c.Write(tt.to, &Options{Model: tt.model})
		if err != nil {
			t.Fatal(err)
		}
		if named := slices.Contains(r.Dropped, "max_tokens"); named != tt.named || !strings.Contains(string(r.Body), tt.want) {
			t.Errorf("%s: %s, dropped %v", tt.model, r.Body, r.Dropped)
		}
	}
}
