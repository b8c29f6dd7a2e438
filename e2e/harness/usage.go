package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Counts is what the gateway's account says of a set of attempts.
type Counts struct {
	Attempts          int64 `json:"attempts"`
	Requests          int64 `json:"requests"`
	Errors            int64 `json:"errors"`
	Input             int64 `json:"input_tokens"`
	CacheRead         int64 `json:"cache_read_tokens"`
	CacheWrite        int64 `json:"cache_write_tokens"`
	CacheWrite1h      int64 `json:"cache_write_1h_tokens"`
	Output            int64 `json:"output_tokens"`
	Reasoning         int64 `json:"reasoning_tokens"`
	InAudio           int64 `json:"in_audio_tokens"`
	InImage           int64 `json:"in_image_tokens"`
	OutAudio          int64 `json:"out_audio_tokens"`
	AudioMillis       int64 `json:"audio_ms"`
	Images            int64 `json:"images"`
	EstimatedAttempts int64 `json:"estimated_attempts"`
	UnknownAttempts   int64 `json:"unknown_attempts"`
}

// Usage is the gateway's account, as its admin endpoint tells it: the sums of
// everything since its beginning by the dimensions that were asked for, such as
// "upstream,key". Rows are found by the names of their dimensions, with a slash
// between.
func (g *Gateway) Usage(t testing.TB, by string) (rows map[string]Counts, sum Counts) {
	t.Helper()
	resp, err := http.Get(g.Admin + "/floway/usage?by=" + url.QueryEscape(by))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /floway/usage: %s: %s", resp.Status, body)
	}
	rows, sum, err = parseUsage(body)
	if err != nil {
		t.Fatalf("GET /floway/usage: %v: %s", err, body)
	}
	return rows, sum
}

func parseUsage(body []byte) (map[string]Counts, Counts, error) {
	var result struct {
		By   []string          `json:"by"`
		Rows []json.RawMessage `json:"rows"`
		Sum  Counts            `json:"sum"`
	}
	if err := json.Unmarshal(body, &result); err != nil {
		return nil, result.Sum, err
	}
	rows := make(map[string]Counts)
	for _, raw := range result.Rows {
		var c Counts
		var members map[string]any
		if err := json.Unmarshal(raw, &c); err != nil {
			return nil, result.Sum, err
		}
		if err := json.Unmarshal(raw, &members); err != nil {
			return nil, result.Sum, err
		}
		var names []string
		for _, d := range result.By {
			names = append(names, fmt.Sprint(members[d]))
		}
		rows[strings.Join(names, "/")] = c
	}
	return rows, result.Sum, nil
}
