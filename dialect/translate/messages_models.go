package translate

import (
	"slices"
	"strings"
)

// claude is what models of Messages take and what they refuse. Source: Anthropic's
// documentation of its models and the typings of its SDKs.
type claude struct {
	// family and from say which models the row is for: those of the family, or of
	// any if empty, from that version on, as major times a hundred and minor.
	family string
	from   int
	// sampling: temperature, top_p and top_k are taken; onlyOne: not temperature
	// and top_p together.
	sampling, onlyOne bool
	// budget and adaptive: the ways in which thinking is switched on. Without
	// either the model does not think.
	budget, adaptive bool
	// xhigh: this effort is one that the model knows.
	xhigh bool
	// strict: tools may be strict.
	strict bool
	// system: instructions may stand in the middle of the conversation.
	system bool
	// most is the greatest bound on an answer; 0 if unknown.
	most int64
}

// claudes are looked through from the newest: the first row that fits counts.
var claudes = []claude{
	{from: 500, adaptive: true, xhigh: true, strict: true, system: true},
	{from: 407, adaptive: true, xhigh: true, strict: true},
	{family: "opus", from: 406, sampling: true, onlyOne: true, adaptive: true, strict: true, most: 128_000},
	{from: 406, adaptive: true, strict: true, most: 64_000},
	{from: 405, sampling: true, onlyOne: true, budget: true, strict: true, most: 64_000},
	{family: "opus", from: 401, sampling: true, onlyOne: true, budget: true, strict: true, most: 32_000},
	{family: "opus", from: 400, sampling: true, budget: true, most: 32_000},
	{from: 307, sampling: true, budget: true, most: 64_000},
	{from: 305, sampling: true, most: 8192},
	{sampling: true, most: 4096},
}

var (
	// namelessClaude is for names that do not say which Claude they mean: what it
	// leaves out no model misses.
	namelessClaude = claude{adaptive: true, strict: true}
	// noClaude is for what other vendors serve by the same API.
	noClaude = claude{sampling: true, budget: true}
)

// claudeOf finds the row of a model by its name at the upstream, with whatever
// cloud services put around it.
func claudeOf(model string) claude {
	name := strings.ToLower(model)
	at := strings.Index(name, "claude")
	if at < 0 {
		return noClaude
	}
	words := strings.FieldsFunc(name[at:], func(c rune) bool { return strings.ContainsRune("-._@:/ ", c) })
	version := versionOf(words)
	if version == 0 {
		return namelessClaude
	}
	for _, row := range claudes {
		if version >= row.from && (row.family == "" || slices.Contains(words, row.family)) {
			return row
		}
	}
	return namelessClaude
}

// versionOf finds the version among the words of a name: one or two short numbers
// beside each other. Longer ones are dates.
func versionOf(words []string) int {
	for i, word := range words {
		major, ok := shortNumber(word)
		if !ok {
			continue
		}
		minor := 0
		if i+1 < len(words) {
			minor, _ = shortNumber(words[i+1])
		}
		return major*100 + minor
	}
	return 0
}

func shortNumber(word string) (n int, ok bool) {
	if len(word) > 2 {
		return 0, false
	}
	for _, c := range word {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, word != ""
}
