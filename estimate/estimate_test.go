package estimate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tiktoken-go/tokenizer"
)

// whole counts a text at once, without cutting it.
func whole(t testing.TB, text string) int64 {
	n, err := o200k().Count(text)
	if err != nil {
		t.Fatal(err)
	}
	return int64(n)
}

// The known counts of OpenAI's own library.
func TestCount(t *testing.T) {
	for _, tt := range []struct {
		model, text string
		want        int64
	}{
		{"gpt-5", "", 0},
		{"gpt-5", "hello world", 2},
		{"gpt-5", "tiktoken is great!", 6},
		{"gpt-4", "tiktoken is great!", 6},
		{"gpt-4", "antidisestablishmentarianism", 6},
		{"gpt-4o", "お誕生日おめでとう", 8},
		{"gpt-4", "お誕生日おめでとう", 9},
		{"gpt-5", "\xff\xfe", 2},
	} {
		if got := Count(tt.model, tt.text); got != tt.want {
			t.Errorf("%s: %q is %d tokens, want %d", tt.model, tt.text, got, tt.want)
		}
	}
}

func TestVocabularies(t *testing.T) {
	for model, want := range map[string]tokenizer.Encoding{
		"gpt-4": tokenizer.Cl100kBase, "gpt-4-turbo": tokenizer.Cl100kBase, "gpt-3.5-turbo": tokenizer.Cl100kBase,
		"gpt-35-turbo": tokenizer.Cl100kBase, "openai/gpt-4-0613": tokenizer.Cl100kBase, "ft:gpt-4:acme": tokenizer.Cl100kBase,
		"text-embedding-3-small": tokenizer.Cl100kBase, "GPT-4": tokenizer.Cl100kBase,
		"gpt-4o": tokenizer.O200kBase, "gpt-4o-mini": tokenizer.O200kBase, "gpt-4.1": tokenizer.O200kBase, "gpt-5": tokenizer.O200kBase,
		"o3": tokenizer.O200kBase, "claude-opus-5": tokenizer.O200kBase, "gemini-3-pro": tokenizer.O200kBase,
		"": tokenizer.O200kBase, "a/b/": tokenizer.O200kBase,
	} {
		if got := codecFor(model).GetName(); got != string(want) {
			t.Errorf("%s: %s, want %s", model, got, want)
		}
	}
}

// A text that is cut into pieces counts as if it were not, where there are words.
func TestPiecesAreExact(t *testing.T) {
	text := prose(100 << 10)
	if got, want := Count("gpt-5", text), whole(t, text); got != want {
		t.Errorf("%d tokens in pieces, %d at once", got, want)
	}
	for name, text := range map[string]string{
		"one word":   strings.Repeat("abcdefghij", 5000),
		"no letters": strings.Repeat("12 34, ", 5000),
		"chinese":    strings.Repeat("今天天气很好,我们去公园散步。", 2000),
		"no UTF-8":   strings.Repeat("\x80", 50000),
		"code":       strings.Repeat("\tif err != nil {\n\t\treturn nil, fmt.Errorf(\"open: %w\", err)\n\t}\n", 1000),
	} {
		got, want := Count("gpt-5", text), whole(t, text)
		if math.Abs(float64(got-want)) > 0.02*float64(want) {
			t.Errorf("%s: %d tokens in pieces, %d at once", name, got, want)
		}
	}
}

// Texts of which only samples are counted come close.
func TestSamples(t *testing.T) {
	text := prose(4 << 20)
	c := For("gpt-5")
	work := &working{Codec: c.codec}
	c.codec = work
	c.Add(text)
	got, want := c.Tokens(), whole(t, text)
	if math.Abs(float64(got-want)) > 0.02*float64(want) {
		t.Errorf("%d tokens by samples, %d at once", got, want)
	}
	if most := 7 * exact; work.bytes > most {
		t.Errorf("%d bytes were counted, want %d at most", work.bytes, most)
	}
}

// The splitter is never given a piece on which its quadratic time tells.
func TestPiecesAreBounded(t *testing.T) {
	for _, text := range []string{strings.Repeat(" \n", 100_000), strings.Repeat("a", 200_000), strings.Repeat("\xff", 200_000), strings.Repeat("é", 100_000)} {
		c := For("gpt-5")
		work := &working{Codec: c.codec}
		c.codec = work
		c.Add(text)
		if work.most > maxPiece {
			t.Errorf("%.4q: a piece of %d bytes", text, work.most)
		}
		if c.Tokens() == 0 {
			t.Errorf("%.4q: no tokens", text)
		}
	}
}

// working is a codec that knows what it was given.
type working struct {
	tokenizer.Codec
	bytes, most int
}

func (w *working) Count(text string) (int, error) {
	w.bytes += len(text)
	w.most = max(w.most, len(text))
	return w.Codec.Count(text)
}

// prose is a text of words and sentences.
func prose(size int) string {
	r := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the of a gateway counts every token that models read and write until someone asks who used how much of it " +
		"Whenever answers break off their estimate follows soon afterwards don't worry 2026 naïve façade Übung")
	var b strings.Builder
	for b.Len() < size {
		b.WriteString(words[r.IntN(len(words))])
		switch r.IntN(12) {
		case 0:
			b.WriteString(", ")
		case 1:
			b.WriteString(".\n\n")
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func FuzzCount(f *testing.F) {
	f.Add("hello world", uint(3))
	f.Add(" \n \n \n", uint(900))
	f.Add("\xf0\x9f\x92", uint(700))
	f.Fuzz(func(t *testing.T, text string, times uint) {
		text = strings.Repeat(text, int(times%1000))
		text = text[:min(len(text), 64<<10)]
		if n := Count("gpt-5", text); n < 0 || n > int64(len(text)) {
			t.Errorf("%d bytes are %d tokens", len(text), n)
		}
	})
}

func BenchmarkCount(b *testing.B) {
	for name, text := range map[string]string{
		"prose":  prose(64 << 10),
		"word":   strings.Repeat("x", 64<<10),
		"blanks": strings.Repeat(" \n", 32<<10),
		"bytes":  strings.Repeat("\xff\x00", 32<<10),
		"1MiB":   prose(1 << 20),
		"64MiB":  strings.Repeat(prose(1<<20), 64),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				Count("gpt-5", text)
			}
		})
	}
}

func ExampleCount() {
	fmt.Println(Count("gpt-5", "hello world"))
	// Output: 2
}
