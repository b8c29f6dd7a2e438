package translate

import (
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
)

// BenchmarkRequest reads and writes a conversation of 200 KB.
func BenchmarkRequest(b *testing.B) {
	text := strings.Repeat(`func main() {\n\tfmt.Println(\"h\u00e9llo, wörld\")\n}\nWhat does this program print, and why? `, 55)
	var body strings.Builder
	body.WriteString(`{"model":"m","max_tokens":9,"messages":[`)
	for i := range 40 {
		if i > 0 {
			body.WriteByte(',')
		}
		body.WriteString(`{"role":"` + [...]string{"user", "assistant"}[i%2] + `","content":"` + text + `"}`)
	}
	body.WriteString(`]}`)
	r := &dialect.Request{Call: dialect.Call{Op: dialect.CreateMessage, Dialect: dialect.Messages}, Body: []byte(body.String())}
	b.SetBytes(int64(len(r.Body)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := Read(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(dialect.Chat, &Options{Model: "m"}); err != nil {
			b.Fatal(err)
		}
	}
}
