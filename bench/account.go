package main

import (
	"context"
	"fmt"
	"net/url"
	"time"
)

// settleTime is how long the last counts may take to reach floway's store.
const settleTime = 15 * time.Second

// checkAccount compares what the load got, what the mock served and, where the
// system keeps an account, what that says. All three have to be equal, for each
// upstream key and each count.
func (s *system) checkAccount(ctx context.Context, keys int) error {
	var served mockStats
	if err := fetchJSON(ctx, "http://"+s.upstream+"/__stats", &served); err != nil {
		return err
	}
	if served.Refused != 0 || served.Broken != 0 {
		return fmt.Errorf("the upstream refused %d requests and could not finish %d answers", served.Refused, served.Broken)
	}
	var requests int64
	for _, t := range served.Keys {
		requests += t.Requests
	}
	if got := s.answered.Load(); got != requests {
		return fmt.Errorf("the load got %d answers, the upstream served %d", got, requests)
	}
	if !s.accounts {
		return nil
	}
	want := make(map[string]tally)
	for i := 1; i <= keys; i++ {
		if t := served.Keys[upstreamKey(i)]; t != nil {
			want[keyLabel(i)] = *t
			requests -= t.Requests
		}
	}
	if requests != 0 {
		return fmt.Errorf("the upstream served %d requests to keys that are not its own", requests)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		got, err := s.flowayAccount(ctx)
		if err == nil {
			err = compareAccounts(got, want)
		}
		if err == nil || sleepUntil(ctx, time.Now().Add(100*time.Millisecond)) != nil {
			return err
		}
	}
}

func compareAccounts(got, want map[string]tally) error {
	for key, w := range want {
		if g := got[key]; g != w {
			return fmt.Errorf("key %s: floway counts %+v, the upstream %+v", key, g, w)
		}
	}
	for key, g := range got {
		if _, ok := want[key]; !ok && g != (tally{}) {
			return fmt.Errorf("key %s: floway counts %+v, the upstream nothing", key, g)
		}
	}
	return nil
}

// flowayAccount asks floway's admin endpoint what each key of the pool has used.
func (s *system) flowayAccount(ctx context.Context) (map[string]tally, error) {
	var answer struct {
		Rows []struct {
			Key       string `json:"key"`
			Attempts  int64  `json:"attempts"`
			Errors    int64  `json:"errors"`
			Input     int64  `json:"input_tokens"`
			CacheRead int64  `json:"cache_read_tokens"`
			Output    int64  `json:"output_tokens"`
			Reasoning int64  `json:"reasoning_tokens"`
		} `json:"rows"`
	}
	// The store is as old as the system is: any time before will do.
	since := url.QueryEscape(time.Now().UTC().Add(-24 * time.Hour).Format(time.RFC3339))
	if err := fetchJSON(ctx, "http://"+s.admin+"/floway/usage?by=key&since="+since, &answer); err != nil {
		return nil, err
	}
	account := make(map[string]tally)
	for _, row := range answer.Rows {
		t := account[row.Key]
		t.Requests += row.Attempts - row.Errors
		t.Failed += row.Errors
		t.add(tokens{
			Prompt:     row.Input + row.CacheRead,
			Cached:     row.CacheRead,
			Completion: row.Output,
			Reasoning:  row.Reasoning,
		})
		account[row.Key] = t
	}
	return account, nil
}
