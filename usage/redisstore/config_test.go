package redisstore

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/usage"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]address{
		"redis://localhost":                    {hosts: []string{"localhost:6379"}},
		"redis://localhost:6380/2":             {hosts: []string{"localhost:6380"}, database: 2},
		"redis://localhost/":                   {hosts: []string{"localhost:6379"}},
		"rediss://cache.example":               {tls: true, hosts: []string{"cache.example:6379"}},
		"redis://[::1]":                        {hosts: []string{"[::1]:6379"}},
		"redis://[::1]:7000/0":                 {hosts: []string{"[::1]:7000"}},
		"redis://:pw@host":                     {password: "pw", hosts: []string{"host:6379"}},
		"redis://user:p%40%3A%2F%25w@host":     {username: "user", password: "p@:/%w", hosts: []string{"host:6379"}},
		"redis://user:p@ss:w@host":             {username: "user", password: "p@ss:w", hosts: []string{"host:6379"}},
		"redis+cluster://b:7001,a":             {mode: cluster, hosts: []string{"a:6379", "b:7001"}},
		"rediss+cluster://u:p@a,a":             {mode: cluster, tls: true, username: "u", password: "p", hosts: []string{"a:6379"}},
		"redis+sentinel://s1,s2:26380/main":    {mode: sentinel, hosts: []string{"s1:26379", "s2:26380"}, master: "main"},
		"rediss+sentinel://u:p@s1/main.prod/3": {mode: sentinel, tls: true, username: "u", password: "p", hosts: []string{"s1:26379"}, master: "main.prod", database: 3},
	} {
		a, err := parse(raw)
		if err != nil || fmt.Sprint(*a) != fmt.Sprint(want) || !slices.Equal(a.hosts, want.hosts) {
			t.Errorf("%s: %+v, %v; want %+v", raw, a, err, want)
			continue
		}
		again, err := parse(a.String())
		if err != nil || again.String() != a.String() || again.password+again.username != "" {
			t.Errorf("%s is written %s, which is read as %+v, %v", raw, a, again, err)
		}
	}
}

// TestParseRefuses sees that no malformed address is repeated: any part of it may
// be a piece of a password.
func TestParseRefuses(t *testing.T) {
	for _, raw := range []string{
		"", "s3cret", "://s3cret", "http://s3cret@host", "redis:s3cret@host", "redis://", "redis://user:s3cret@", "redis:///1",
		"redis://user:s3cret%zz@host", "redis://user:s3cret%@host", "redis://user:s3cret/x", "redis://:s3cret/x@y/z",
		"redis://user:s3cret", "redis://host:s3cret", "redis://host:0", "redis://host:70000", "redis://host/s3cret", "redis://host/-1",
		"redis://host?password=s3cret", "redis://user:s3cret#x@host", "redis://a,b", "redis://ho st", "redis://ho\nst", "redis://::1",
		"redis+cluster://a,,b", "redis+cluster://a/1", "redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a/main/s3cret",
		"redis+unknown://s3cret",
	} {
		if raw == "redis://user:s3cret#x@host" {
			continue // the # is part of the password there
		}
		s, err := New(Config{URL: raw})
		if err == nil {
			t.Errorf("%q is read as %v", raw, s)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: the error repeats it: %v", raw, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", Config{URL: raw}, Config{URL: raw}, Config{URL: raw}); strings.Contains(text, "s3cret") {
			t.Errorf("%q: a printed config repeats it: %s", raw, text)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"a namespace with a brace": {URL: "redis://h", Namespace: "a}b"},
		"a namespace with a space": {URL: "redis://h", Namespace: "a b"},
		"a long namespace":         {URL: "redis://h", Namespace: strings.Repeat("n", 65)},
		"a negative retention":     {URL: "redis://h", Retention: usage.Retention{Hours: -1}},
		"a negative time-out":      {URL: "redis://h", Timeout: -1},
	} {
		if s, err := New(c); err == nil {
			t.Errorf("%s is accepted: %v", name, s)
		}
	}
}

func TestIdentity(t *testing.T) {
	same := []Config{
		{URL: "redis+cluster://a,b"},
		{URL: "redis+cluster://b:6379,a:6379"},
		{URL: "redis+cluster://user:pw@a,b", Namespace: "floway", Username: "x"},
	}
	first, err := same[0].Identity()
	if err != nil || first != "redis+cluster://a:6379,b:6379 floway" {
		t.Errorf("identity %q, %v", first, err)
	}
	for _, c := range same {
		if id, err := c.Identity(); err != nil || id != first {
			t.Errorf("identity %q, %v; want %q", id, err, first)
		}
	}
	for _, c := range []Config{{URL: "redis+cluster://a"}, {URL: "redis+cluster://a,b", Namespace: "other"}, {URL: "redis://a"}, {URL: "redis://a/1"}} {
		if id, err := c.Identity(); err != nil || id == first {
			t.Errorf("identity of %v is %q, %v", c, id, err)
		}
	}
}

// TestLazy sees that nothing connects before the first call.
func TestLazy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan bool)
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			c.Close()
			accepted <- true
		}
	}()
	addr := l.Addr().String()
	for _, raw := range []string{"redis://" + addr, "rediss://" + addr, "redis+cluster://" + addr + ",127.0.0.1:1", "redis+sentinel://" + addr + "/main"} {
		s, err := New(Config{URL: raw})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close %s: %v", raw, err)
		}
	}
	// Had any of them connected, the connection would be in the queue by now.
	l.Close()
	if <-accepted {
		t.Error("a store connected before its first call")
	}
}

func TestRows(t *testing.T) {
	key := usage.Key{"a|b", "", "%7C", "\x00\n", "gpt/4é\xff"}
	row := string(appendRow(nil, usage.Hourly.Names(0), &key))
	if want := "a%7Cb||%257C|%00%0A|gpt/4é\xff"; row != want {
		t.Errorf("row %q, want %q", row, want)
	}
	if got, err := parseRow(row, usage.Hourly.Names(0)); err != nil || got != key {
		t.Errorf("%q is read as %q, %v", row, got, err)
	}
	for _, bad := range []string{"", "a|b|c|d", "a|b|c|d|e|f", "a|b|c|d|%", "a|b|c|d|%1", "a|b|c|d|%zz"} {
		if key, err := parseRow(bad, usage.Hourly.Names(0)); err == nil {
			t.Errorf("%q is read as %q", bad, key)
		}
	}
}
