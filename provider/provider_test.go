package provider

import (
	"slices"
	"strings"
	"testing"
)

func TestParseBase(t *testing.T) {
	for raw, want := range map[string]string{
		"http://localhost:8000":             "http://localhost:8000/v1",
		"http://localhost:8000/":            "http://localhost:8000/v1",
		"https://api.example.com/v1":        "https://api.example.com/v1",
		"https://api.example.com/v1///":     "https://api.example.com/v1",
		"HTTPS://api.example.com/v1/":       "https://api.example.com/v1",
		"https://api.example.com//v1":       "https://api.example.com/v1",
		"https://api.example.com/openai/v1": "https://api.example.com/openai/v1",
		"https://api.example.com/openai/":   "https://api.example.com/openai/v1",
		"https://api.example.com/v4":        "https://api.example.com/v4",
		"https://api.example.com/v1beta":    "https://api.example.com/v1beta",
		// The version need not stand last, and not everything with a v is one.
		"https://api.example.com/v1beta/openai/": "https://api.example.com/v1beta/openai",
		"https://api.example.com/v8engine":       "https://api.example.com/v8engine/v1",
		"https://api.example.com/vault":          "https://api.example.com/vault/v1",
		"https://api.example.com/v":              "https://api.example.com/v/v1",
		"https://api.example.com/v1/../x":        "https://api.example.com/x/v1",
		"https://api.example.com/a%2Fb":          "https://api.example.com/a%2Fb/v1",
		"https://api.example.com/a%2Fb/v1/":      "https://api.example.com/a%2Fb/v1",
		"http://[::1]:8000":                      "http://[::1]:8000/v1",
	} {
		u, err := parseBase(raw, "v1")
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if u.String() != want {
			t.Errorf("%s becomes %s, want %s", raw, u, want)
		}
		if got := u.JoinPath("/models").String(); got != want+"/models" {
			t.Errorf("%s: the models are at %s", raw, got)
		}
	}
}

func TestParseBaseRefuses(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                "missing",
		"api.example.com":                 "http://",
		"localhost:8000":                  "http://",
		"127.0.0.1:8000/v1":               "http://",
		"ftp://api.example.com":           "http://",
		"file:///etc/passwd":              "http://",
		"http:api.example.com":            "no host",
		"http://":                         "no host",
		"http://:8000":                    "no host",
		"http:///v1":                      "no host",
		"http://localhost:80000":          "65535",
		"http://localhost:x":              "http://",
		"http://localhost/%zz":            "http://",
		"http://local host/":              "http://",
		"https://h/v1?":                   "query",
		"https://h/v1?key=hunter2":        "query",
		"https://h/v1#hunter2":            "fragment",
		"https://hunter2@h/v1":            "key line",
		"https://user:hunter2@h/v1":       "key line",
		"ftp://user:hunter2@h/v1":         "http://",
		"https://user:hunter2@h:x/v1":     "http://",
		"https://user:hun#ter2@h/v1":      "http://",
		"https://user:hun?ter2@h/v1":      "http://",
		"https://user:hunter2 @h/v1":      "http://",
		"https://h:x/v1?key=hunter2@more": "http://",
	} {
		u, err := parseBase(raw, "v1")
		if err == nil {
			t.Errorf("%s is taken for %s", raw, u)
			continue
		}
		if !strings.HasPrefix(err.Error(), "base_url: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", raw, err)
		}
		for _, secret := range []string{"hun", "ter2", "user"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows a secret: %v", raw, err)
			}
		}
	}
}

func TestRegister(t *testing.T) {
	factory := func(Config) (Upstream, error) { return nil, nil }
	for what, register := range map[string]func(){
		"a name that is taken": func() { Register("openai", Kind{New: factory}) },
		"no name":              func() { Register("", Kind{New: factory}) },
		"no factory":           func() { Register("registered-by-a-test", Kind{}) },
	} {
		before := Names()
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			register()
		}()
		if !slices.Equal(before, Names()) {
			t.Errorf("%s: the kinds are now %v", what, Names())
		}
	}
	if _, ok := Lookup("registered-by-a-test"); ok {
		t.Error("a kind is there that nobody registered")
	}
	if all := Names(); !slices.IsSorted(all) || !slices.Contains(all, "openai") || !slices.Contains(all, "demo") {
		t.Errorf("the kinds are %v", all)
	}
	if k, _ := Lookup("openai"); !slices.Equal(k.Options, []string{"organization", "project"}) || k.Keyless || k.NeedsURL {
		t.Errorf("%+v", k)
	}
}
