package translate

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/translation.md anew")

// The page says of every feature what rules do with it.
func TestPageTellsRules(t *testing.T) {
	const path = "../../docs/translation.md"
	const from, to = "<!-- rules -->\n\n", "\n<!-- /rules -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := bytes.Cut(page, []byte(from))
	table, after, closed := bytes.Cut(rest, []byte(to))
	if !found || !closed {
		t.Fatalf("%s has no place for the table", path)
	}
	want := bytes.NewBufferString("| asked of an upstream of | chat | responses | messages | gemini |\n|---|---|---|---|---|\n")
	for _, r := range rules {
		if r.name == "" {
			t.Fatal("a rule has no name")
		}
		fmt.Fprintf(want, "| %s |", r.name)
		for _, v := range r.to {
			fmt.Fprintf(want, " %s |", [...]string{carry: "kept", change: "changed", drop: "dropped", refuse: "refused"}[v])
		}
		want.WriteByte('\n')
	}
	if *update {
		page = bytes.Join([][]byte{before, []byte(from), want.Bytes(), []byte(to), after}, nil)
		if err := os.WriteFile(path, page, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(table, want.Bytes()) {
		t.Errorf("%s is not up to date: go test ./dialect/translate -run TestPageTellsRules -update", path)
	}
}
