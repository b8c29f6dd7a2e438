package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// scenario is one kind of load.
type scenario struct {
	name     string
	about    string
	conns    int    // connections, each with one request at a time
	messages string // the request's messages, as JSON
	script   script // what the upstream does
	stream   bool
	askUsage bool // the client asks for usage in the stream
	sessions bool // each request is one of another conversation
	// systems are the names of those that the scenario compares, whatever the
	// command line says; empty: those of the command line.
	systems string
	// targets are what floway has promised relative to reverse_proxy.
	targets []target
}

// target bounds the ratio of a measure of one system to another's. It is shown
// where a table has both.
type target struct {
	system, base string
	measure      measure
	most         bool // the bound is an upper one
	bound        float64
	// each, if not zero, makes it a target for what is beyond the other's measure,
	// for each request that was made again, as a part of the other's measure: so
	// many requests were made for one that was made again.
	each int
}

func atMost(m measure, bound float64) target { return target{"floway", "caddy", m, true, bound, 0} }

func atLeast(m measure, bound float64) target { return target{"floway", "caddy", m, false, bound, 0} }

// accounting bounds what an exact account may cost.
var accounting = []target{
	{"floway", "floway-off", cpuPerAnswer, true, 1.05, 0},
	{"floway-redis", "floway-off", cpuPerAnswer, true, 1.05, 0},
}

var (
	smallMessages = conversation(2, 500)
	textMessages  = conversation(40, 5_000)
	imageMessages = picture(1 << 20)
)

var scenarios = []scenario{
	{
		name: "small", about: "chat, 1 KB in and out",
		conns: 32, messages: smallMessages,
		targets: append([]target{atMost(cpuPerAnswer, 0.70), atLeast(answersPerSecond, 1.4)}, accounting...),
	},
	{
		name: "small1", about: "chat, 1 KB in and out, one after the other",
		conns: 1, messages: smallMessages,
		targets: []target{atMost(latency50, 1.0)},
	},
	{
		name: "small256", about: "chat, 1 KB in and out",
		conns: 256, messages: smallMessages,
		targets: append([]target{{"floway", "caddy-auth", cpuPerAnswer, true, 0.75, 0}}, accounting...),
	},
	{
		name: "wait256", about: "chat, 1 KB in and out, the upstream takes 50 ms",
		conns: 256, messages: smallMessages, script: script{wait: 50 * time.Millisecond},
		targets: []target{{"floway", "direct", answersPerSecond, false, 0.75, 0}},
	},
	{
		name: "retry", about: "chat, 1 KB in and out, every fourth request fails at first and is made again with another key",
		conns: 32, messages: smallMessages, systems: "floway,floway-500,floway-429",
		targets: []target{
			{"floway-500", "floway", cpuPerAnswer, true, 0.70, fail500.every},
			{"floway-429", "floway", cpuPerAnswer, true, 0.70, fail429.every},
		},
	},
	{
		name: "choice", about: "chat, 1 KB in and out, each request another conversation, a key of 8 and of 1,000 by turn and by hash",
		conns: 32, messages: smallMessages, sessions: true,
		systems: "floway-off,floway-1000,floway-sticky,floway-sticky1000",
		targets: []target{
			{"floway-1000", "floway-off", cpuPerAnswer, true, 1.05, 0},
			{"floway-sticky1000", "floway-sticky", cpuPerAnswer, true, 1.05, 0},
		},
	},
	{
		name: "text", about: "chat of 40 messages, 200 KB in, 1 KB out",
		conns: 16, messages: textMessages,
		targets: []target{atMost(cpuPerAnswer, 1.05)},
	},
	{
		name: "translate", about: "chat of 40 messages, 200 KB in, 1 KB out, asked as it is and translated from Messages",
		conns: 16, messages: textMessages, systems: "floway-off,floway-messages",
		targets: []target{{"floway-messages", "floway-off", cpuPerAnswer, true, 3, 0}},
	},
	{
		name: "translate-stream", about: "streams of 100 chunks at once, passed on and translated into Messages",
		conns: 32, messages: smallMessages, stream: true, askUsage: true, systems: "floway-off,floway-messages",
		script:  script{chunks: 100},
		targets: []target{{"floway-messages", "floway-off", cpuPerAnswer, true, 3, 0}},
	},
	{
		name: "image", about: "chat with an image, 1 MB in, 1 KB out",
		conns: 16, messages: imageMessages,
		targets: []target{atMost(cpuPerAnswer, 1.05)},
	},
	{
		name: "stream", about: "streams of 100 chunks at once, after 50 ms",
		conns: 32, messages: smallMessages, stream: true, askUsage: true,
		script:  script{chunks: 100, wait: 50 * time.Millisecond},
		targets: []target{atMost(firstByteAdded50, 1.0)},
	},
	{
		name: "stream-unasked", about: "as stream, but the client does not ask for usage: the gateway has to, and to hide it",
		conns: 32, messages: smallMessages, stream: true,
		script: script{chunks: 100, wait: 50 * time.Millisecond},
	},
	{
		name: "streams250", about: "streams of 50 chunks, 20 ms apart",
		conns: 250, messages: smallMessages, stream: true, askUsage: true,
		script: script{chunks: 50, gap: 20 * time.Millisecond, wait: 20 * time.Millisecond},
		targets: []target{
			atMost(cpuPerAnswer, 0.95), atMost(firstByteAdded99, 0.9), atMost(chunkLag99, 0.9),
		},
	},
	{
		name: "streams1000", about: "streams of 50 chunks, 20 ms apart",
		conns: 1000, messages: smallMessages, stream: true, askUsage: true,
		script:  script{chunks: 50, gap: 20 * time.Millisecond, wait: 20 * time.Millisecond},
		targets: []target{atMost(cpuPerAnswer, 1.10), atMost(peakRSS, 0.85)},
	},
}

// quick are the scenarios that run unless others are named.
var quick = []string{"small", "text", "image", "stream"}

func findScenarios(list string) ([]*scenario, error) {
	names := strings.Split(list, ",")
	switch list {
	case "quick":
		names = quick
	case "all":
		names = nil
		for i := range scenarios {
			names = append(names, scenarios[i].name)
		}
	}
	var found []*scenario
	for _, name := range names {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown scenario %q", name)
		}
		if slices.Contains(found, &scenarios[i]) {
			return nil, fmt.Errorf("scenario %q is named twice", name)
		}
		found = append(found, &scenarios[i])
	}
	return found, nil
}

// conversation is n messages of about size bytes each, with the escapes that
// source code and prose bring along.
func conversation(n, size int) string {
	const text = `func main() {\n\tfmt.Println(\"h\u00e9llo, wörld\")\n}\nWhat does this program print, and why? `
	var b strings.Builder
	b.WriteString("[" + strings.TrimSuffix(systemMessage, ","))
	for i := range n {
		role := "user"
		if i%2 == 1 {
			role = "assistant"
		}
		fmt.Fprintf(&b, `,{"role":"%s","content":"`, role)
		for range max(1, size/len(text)) {
			b.WriteString(text)
		}
		b.WriteString(`"}`)
	}
	b.WriteByte(']')
	return b.String()
}

// picture is one message with an image of size bytes in base64.
func picture(size int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	data := make([]byte, size)
	x := uint32(1)
	for i := range data {
		x = x*1664525 + 1013904223
		data[i] = alphabet[x>>26]
	}
	return `[{"role":"user","content":[{"type":"text","text":"What is in this picture?"},` +
		`{"type":"image_url","image_url":{"url":"data:image/png;base64,` + string(data) + `","detail":"auto"}}]}]`
}
