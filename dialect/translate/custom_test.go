package translate

import "testing"

func TestFreeTextIsWrappedAndUnwrapped(t *testing.T) {
	for _, text := range []string{"", "plain", "*** Begin Patch\n+\"quoted\" \\ back\x00\u2028é😀", `{"input":"inner"}`} {
		if got := unwrapInput(wrapInput(text)); got != text {
			t.Errorf("%q came back as %q", text, got)
		}
	}
	for args, want := range map[string]string{
		`{"input":"a","more":1}`: "a",
		`{"input": null}`:        `{"input": null}`,
		`{"input":{"a":1}}`:      `{"input":{"a":1}}`,
		`{"text":"a"}`:           `{"text":"a"}`,
		`plain`:                  "plain",
		`{"input":"a"`:           `{"input":"a"`,
		`{"input":"a"}x`:         `{"input":"a"}x`,
		``:                       "",
	} {
		if got := unwrapInput(args); got != want {
			t.Errorf("%s is unwrapped to %q, want %q", args, got, want)
		}
	}
}

func TestGrammarIsTold(t *testing.T) {
	for _, tt := range []struct{ about, grammar, want string }{
		{"about", "", "about"},
		{"about", `{"type":"text"}`, "about"},
		{"about", `{"type":"grammar","syntax":"lark","definition":"start: A"}`, "about\n\nThe input must follow this grammar (lark):\nstart: A"},
		{"", `{"type":"grammar","grammar":{"syntax":"regex","definition":"a+"}}`, "The input must follow this grammar (regex):\na+"},
		{"about", `{"definition":[]}`, "about"},
	} {
		if got := wrapDescription(&Tool{Description: tt.about, Grammar: []byte(tt.grammar)}); got != tt.want {
			t.Errorf("%q with %s: %q, want %q", tt.about, tt.grammar, got, tt.want)
		}
	}
}
