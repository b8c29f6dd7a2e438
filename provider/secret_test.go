package provider

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

const credential = "sk-test-0123456789abcdef"

func TestSecretNeverPrints(t *testing.T) {
	s := NewSecret(credential)
	type holder struct {
		Shown  Secret
		hidden Secret // fmt calls no methods here
		list   []Secret
		named  map[string]Secret
		at     *Secret
	}
	h := holder{s, s, []Secret{s}, map[string]Secret{"k": s}, &s}
	out := map[string]string{"String": s.String(), "an error": fmt.Errorf("key %v: %w", s, errors.New("x")).Error()}
	for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "d", "t", "c", "U", "b", "o", "e", "g", "p", "T", "20s", "-5v", ".3s", "z"} {
		for what, v := range map[string]any{"a secret": s, "its address": &s, "a holder": h, "a holder's address": &h} {
			out["%"+verb+" of "+what] = fmt.Sprintf("%"+verb, v)
		}
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", s, "holder", h)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", s, "holder", h)
	out["slog"] = log.String()
	for what, v := range map[string]any{"a secret": s, "a holder": h, "a key": map[Secret]Secret{s: s}} {
		j, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		out["the JSON of "+what] = string(j)
	}
	x, err := xml.Marshal(s)
	if err != nil {
		t.Error(err)
	}
	out["XML"] = string(x)
	text, _ := s.MarshalText()
	out["text"] = string(text)
	for what, got := range out {
		for _, spelled := range []string{credential, fmt.Sprintf("%x", credential), fmt.Sprintf("%X", credential), fmt.Sprintf("%d", []byte(credential))} {
			if strings.Contains(got, strings.Trim(spelled, "[]")) {
				t.Errorf("%s shows the secret: %s", what, got)
			}
		}
	}
	if got := fmt.Sprintf("%v %q %#v", s, s, s); got != s.ID()+" "+s.ID()+" "+s.ID() {
		t.Errorf("the fingerprint is shown as %s", got)
	}
	if out["the JSON of a secret"] != `"`+s.ID()+`"` {
		t.Errorf("the fingerprint in JSON is %s", out["the JSON of a secret"])
	}
}

func TestSecretIdentity(t *testing.T) {
	s := NewSecret(credential)
	if s.Reveal() != credential || s.Empty() {
		t.Error("the credential is not there")
	}
	// The SHA-256 of the credential, as `sha256sum` has it.
	if s.ID() != "c871f067542d565c" {
		t.Errorf("the fingerprint is %s", s.ID())
	}
	if s != NewSecret(strings.Clone(credential)) || s == NewSecret(credential+"x") {
		t.Error("secrets are not equal as their credentials are")
	}
	for _, none := range []Secret{{}, NewSecret("")} {
		if !none.Empty() || none.ID() != "" || none.Reveal() != "" || none != (Secret{}) || fmt.Sprint(none) != "" {
			t.Error("no credential is something")
		}
	}
}

// What sends a secret cannot print it either.
func TestCredentialNeverPrints(t *testing.T) {
	c := newOpenAI(t, Config{}).Credential(NewSecret(credential))
	held := struct{ c Credential }{c}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if got := fmt.Sprintf(verb, c) + fmt.Sprintf(verb, held); strings.Contains(got, credential) || strings.Contains(got, fmt.Sprintf("%x", credential)) {
			t.Errorf("%s shows the secret: %s", verb, got)
		}
	}
	h := http.Header{}
	if err := c.Authorize(&http.Request{Header: h}); err != nil || h.Get("Authorization") != "Bearer "+credential || len(h) != 1 {
		t.Errorf("%v %v", h, err)
	}
	if c.Renew(h) {
		t.Error("a fixed key claims that it can be renewed")
	}
	h = http.Header{}
	if err := newOpenAI(t, Config{}).Credential(Secret{}).Authorize(&http.Request{Header: h}); err != nil || len(h) != 0 {
		t.Errorf("without a secret the header is %v, %v", h, err)
	}
}
