package provider

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"io"
	"math"
	"strings"
)

// What the demo's answers are made of, in all dialects.

// object and list are JSON as it is written down.
type (
	object = map[string]any
	list   = []any
)

// encode spells v in JSON, on one line and with < and > as they are.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // objects of strings and numbers always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// demoEvents are the events of a stream in the making.
type demoEvents [][]byte

// data adds an event without a name.
func (e *demoEvents) data(o object) { *e = append(*e, frame("", encode(o))) }

// named adds an event whose name is its type.
func (e *demoEvents) named(o object) { *e = append(*e, frame(o["type"].(string), encode(o))) }

// numbered adds an event whose name is its type, with its number in the stream.
func (e *demoEvents) numbered(o object) {
	o["sequence_number"] = len(*e)
	e.named(o)
}

func frame(name string, data []byte) []byte {
	var b []byte
	if name != "" {
		b = append(append(append(b, "event: "...), name...), '\n')
	}
	return append(append(append(b, "data: "...), data...), "\n\n"...)
}

// Bounds of embeddings: a request may ask for many texts or for long vectors, but
// not for both.
const (
	demoMaxTexts      = 2048
	demoMaxDimensions = 3072
	demoMaxNumbers    = 1 << 20
	demoDimensions    = 16
)

// dimensions returns how long the vectors of n texts are to be.
func dimensions(field string, asked *int, n int) (int, error) {
	switch d, err := allowed(field, asked, 1, demoDimensions); {
	case err != nil:
		return 0, err
	case d > demoMaxDimensions:
		return 0, malformed(field, "%s: must be at most %d", field, demoMaxDimensions)
	case d*n > demoMaxNumbers:
		return 0, malformed(field, "%s: too many for so many texts", field)
	default:
		return d, nil
	}
}

// embed returns a vector of length 1 that depends on the words of a text: texts
// that share words are close to each other.
func embed(text string, dimensions int) []float32 {
	sums := make([]float64, dimensions)
	for word := range strings.FieldsSeq(strings.ToLower(text)) {
		h := fnv.New64a()
		_, _ = io.WriteString(h, word)
		n := h.Sum64()
		sums[n>>1%uint64(dimensions)] += 1 - 2*float64(n&1)
	}
	squares := 0.0
	for _, s := range sums {
		squares += s * s
	}
	if squares == 0 {
		sums[0], squares = 1, 1 // the words cancel each other out
	}
	vector := make([]float32, dimensions)
	for i, s := range sums {
		vector[i] = float32(s / math.Sqrt(squares))
	}
	return vector
}

// packed spells a vector as the OpenAI SDKs ask for it.
func packed(vector []float32) string {
	b := make([]byte, 0, 4*len(vector))
	for _, f := range vector {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}
