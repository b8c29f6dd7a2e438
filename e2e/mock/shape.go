package mock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Shape says what a JSON value may be. Check returns the value as the service
// understands it, its names in their first spelling, or what is wrong with it.
type Shape interface {
	Check(at At, v any) (any, *Complaint)
}

// At is the place of a value: names of members, and indexes.
type At []any

func (a At) in(step any) At { return append(slices.Clip(a), step) }

// Dotted spells a place as messages.0.content.
func (a At) Dotted() string {
	var parts []string
	for _, step := range a {
		parts = append(parts, fmt.Sprint(step))
	}
	return strings.Join(parts, ".")
}

// Bracketed spells a place as contents[0].parts.
func (a At) Bracketed() string {
	var b strings.Builder
	for _, step := range a {
		switch step := step.(type) {
		case int:
			b.WriteString("[" + strconv.Itoa(step) + "]")
		case string:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(step)
		}
	}
	return b.String()
}

// Wrong is a kind of complaint.
type Wrong uint8

const (
	Unknown Wrong = iota // a name that is not known
	Missing              // a name that must be there
	Type                 // a value of another type
	Value                // a value that is not among those that are taken
)

// Complaint is what is wrong with a value: Want is what was expected instead.
type Complaint struct {
	Wrong Wrong
	At    At
	Want  string
}

type leaf struct {
	want string
	ok   func(any) bool
}

func (l leaf) Check(at At, v any) (any, *Complaint) {
	if !l.ok(v) {
		return nil, &Complaint{Type, at, l.want}
	}
	return v, nil
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

// Shapes of values that have no parts of interest.
var (
	Anything Shape = leaf{"", func(any) bool { return true }}
	String   Shape = leaf{"a string", is[string]}
	Bool     Shape = leaf{"a boolean", is[bool]}
	Number   Shape = leaf{"a number", is[json.Number]}
	Object   Shape = leaf{"an object", is[map[string]any]}
	Integer  Shape = leaf{"an integer", func(v any) bool {
		n, ok := v.(json.Number)
		return ok && !strings.ContainsAny(string(n), ".eE")
	}}
)

type enum []string

// Enum takes one of these strings.
func Enum(values ...string) Shape { return enum(values) }

func (e enum) Check(at At, v any) (any, *Complaint) {
	s, ok := v.(string)
	if !ok {
		return nil, &Complaint{Type, at, "a string"}
	}
	if !slices.Contains(e, s) {
		return nil, &Complaint{Value, at, "'" + strings.Join(e, "', '") + "'"}
	}
	return s, nil
}

type list struct{ of Shape }

// List takes an array.
func List(of Shape) Shape { return list{of} }

func (l list) Check(at At, v any) (any, *Complaint) {
	all, ok := v.([]any)
	if !ok {
		return nil, &Complaint{Type, at, "an array"}
	}
	out := make([]any, len(all))
	for i, e := range all {
		got, c := l.of.Check(at.in(i), e)
		if c != nil {
			return nil, c
		}
		out[i] = got
	}
	return out, nil
}

type dict struct{ of Shape }

// Map takes an object with any names.
func Map(of Shape) Shape { return dict{of} }

func (d dict) Check(at At, v any) (any, *Complaint) {
	all, ok := v.(map[string]any)
	if !ok {
		return nil, &Complaint{Type, at, "an object"}
	}
	out := make(map[string]any, len(all))
	for _, name := range SortedKeys(all) {
		got, c := d.of.Check(at.in(name), all[name])
		if c != nil {
			return nil, c
		}
		out[name] = got
	}
	return out, nil
}

// Fields takes an object with these names. A null is as good as nothing.
type Fields struct {
	Of   map[string]Shape
	Need []string
	// Snake takes names in snake_case for those in camelCase.
	Snake bool
}

func (f Fields) Check(at At, v any) (any, *Complaint) {
	all, ok := v.(map[string]any)
	if !ok {
		return nil, &Complaint{Type, at, "an object"}
	}
	out := make(map[string]any, len(all))
	for _, name := range SortedKeys(all) {
		spelled := name
		if f.Snake {
			spelled = camel(name)
		}
		shape, known := f.Of[spelled]
		if !known {
			return nil, &Complaint{Unknown, at.in(name), ""}
		}
		if all[name] == nil {
			continue
		}
		got, c := shape.Check(at.in(spelled), all[name])
		if c != nil {
			return nil, c
		}
		out[spelled] = got
	}
	for _, name := range f.Need {
		if out[name] == nil {
			return nil, &Complaint{Missing, at.in(name), ""}
		}
	}
	return out, nil
}

func camel(name string) string {
	parts := strings.Split(name, "_")
	for i, p := range parts[1:] {
		if p != "" {
			parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

// Kinds takes an object whose member type says which of these it is.
type Kinds map[string]Shape

func (k Kinds) Check(at At, v any) (any, *Complaint) {
	all, ok := v.(map[string]any)
	if !ok {
		return nil, &Complaint{Type, at, "an object"}
	}
	kind, ok := all["type"].(string)
	if !ok {
		return nil, &Complaint{Missing, at.in("type"), ""}
	}
	shape, ok := k[kind]
	if !ok {
		return nil, &Complaint{Value, at.in("type"), "'" + strings.Join(SortedKeys(k), "', '") + "'"}
	}
	return shape.Check(at, v)
}

type either []Shape

// Either takes what one of the shapes takes; the last one complains.
func Either(shapes ...Shape) Shape { return either(shapes) }

func (e either) Check(at At, v any) (out any, c *Complaint) {
	for _, s := range e {
		if out, c = s.Check(at, v); c == nil {
			return out, nil
		}
	}
	return nil, c
}

// Later is a shape that is part of itself.
type Later func() Shape

func (l Later) Check(at At, v any) (any, *Complaint) { return l().Check(at, v) }

// errTwice tells a name that stands twice in one object. Services take the last
// one, but a gateway that makes such a body has spliced it wrongly.
type errTwice string

func (e errTwice) Error() string { return "the name " + string(e) + " stands in one object twice" }

// ReadJSON reads a value, with numbers as they are written.
func ReadJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the value")
	}
	return v, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > 200 {
		return nil, errors.New("nested too deep")
	}
	switch t {
	case json.Delim('{'):
		all := map[string]any{}
		for d.More() {
			t, err := d.Token()
			if err != nil {
				return nil, err
			}
			name := t.(string)
			if _, twice := all[name]; twice {
				return nil, errTwice(name)
			}
			if all[name], err = readValue(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return all, err
	case json.Delim('['):
		all := []any{}
		for d.More() {
			v, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, v)
		}
		_, err := d.Token()
		return all, err
	}
	return t, nil
}

// Decode reads what a shape has checked into v.
func Decode(checked, v any) error { return json.Unmarshal(Encode(checked), v) }
