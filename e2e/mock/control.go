package mock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Control steers a running server from outside.
type Control struct {
	// URL is the server's, without a path.
	URL string
}

func (c Control) do(method, path string, body, result any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, c.URL+path, r)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(b, result)
}

// Script replaces all rules; the first that matches a request treats it.
func (c Control) Script(rules ...Rule) error {
	if rules == nil {
		rules = []Rule{}
	}
	return c.do("POST", "/__script", rules, nil)
}

// Acknowledge lets one more event through a gate.
func (c Control) Acknowledge(gate string) error {
	return c.do("POST", "/__gate?name="+url.QueryEscape(gate), nil, nil)
}

// Stats returns what the server says of itself.
func (c Control) Stats() (st Stats, err error) {
	err = c.do("GET", "/__stats", nil, &st)
	return st, err
}

// Ledger returns the requests that have ended, in the order of their ends.
func (c Control) Ledger() (entries []Entry, err error) {
	err = c.do("GET", "/__ledger", nil, &entries)
	return entries, err
}

// Requests returns the last requests as they came, the oldest first.
func (c Control) Requests() (seen []Request, err error) {
	err = c.do("GET", "/__requests", nil, &seen)
	return seen, err
}

// Forget empties the ledger and the list of requests.
func (c Control) Forget() error { return c.do("POST", "/__forget", nil, nil) }
