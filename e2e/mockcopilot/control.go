package mockcopilot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Control steers a running server from outside.
type Control struct {
	// URL is the server's, without a path.
	URL string
}

func (c Control) do(method, path string, body, result any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, c.URL+"/__copilot"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, err = io.ReadAll(resp.Body); err != nil {
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

// Stats returns what happened so far.
func (c Control) Stats() (st Stats, err error) {
	err = c.do("GET", "/stats", nil, &st)
	return st, err
}

// Forget begins to count anew.
func (c Control) Forget() error { return c.do("POST", "/forget", nil, nil) }

// Steer says how GitHub behaves from now on.
func (c Control) Steer(s Steer) error { return c.do("POST", "/steer", s, nil) }

// Seat says what an account is from now on.
func (c Control) Seat(account string, s Seat) error {
	return c.do("POST", "/seat?account="+account, s, nil)
}

// Spend uses up what an account has left of its premium requests.
func (c Control) Spend(account string) error {
	return c.do("POST", "/spend?account="+account, nil, nil)
}

// Kill ends an account's Copilot tokens before their time.
func (c Control) Kill(account string) error {
	return c.do("POST", "/kill?account="+account, nil, nil)
}

// Approve is the person who types the codes of all sign-ins that wait, as that
// account.
func (c Control) Approve(account string) error {
	return c.do("POST", "/approve?account="+account, nil, nil)
}
