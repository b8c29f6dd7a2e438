package dialect

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// Fix is a change to bodies of requests that a quirk of a vendor's makes necessary:
// data of the vendor's row.
type Fix struct {
	// Path leads to a member: names with dots between, and [] behind the name of an
	// array for each of its elements, as in messages[].content[].cache_control. What
	// is not there, or of another kind, is passed by.
	Path string
	// Drop takes out what stands there.
	Drop bool
	// Type, with Drop and a path that ends in [], takes out only elements of that
	// type, by their member of this name.
	Type string
	// Value is put there in place of what stands there, as JSON, and into the body
	// itself also if nothing does. With Only it replaces nothing but that, as JSON.
	Value, Only string
	// Wrap makes an array with one element of what is none.
	Wrap bool
	// Rename gives a member of the body itself another name, unless the body has a
	// member of that name too.
	Rename string
	// Letters makes of a text that does not consist of so many letters and digits one
	// that does. Equal texts become equal ones, and others others.
	Letters int
}

// Fixes are fixes that are made in one pass over a body.
type Fixes struct{ root step }

// step is what is to be done at a place, and further down.
type step struct {
	fix     *Fix
	members map[string]*step
	each    *step
}

// NewFixes prepares fixes. Their paths must differ, and of two that change the same
// text only one may be needed.
func NewFixes(fixes ...Fix) *Fixes {
	f := new(Fixes)
	for i := range fixes {
		at := &f.root
		for name := range strings.SplitSeq(fixes[i].Path, ".") {
			name, list := strings.CutSuffix(name, "[]")
			if at.members == nil {
				at.members = map[string]*step{}
			}
			if at.members[name] == nil {
				at.members[name] = new(step)
			}
			if at = at.members[name]; list {
				if at.each == nil {
					at.each = new(step)
				}
				at = at.each
			}
		}
		at.fix = &fixes[i]
	}
	return f
}

// Apply returns the body with all fixes made: body itself if it needs none, or is
// no JSON object. It never changes body.
func (f *Fixes) Apply(body []byte) []byte {
	start := len(body) - len(trimBlanks(body))
	if start == len(body) || body[start] != '{' {
		return body
	}
	w := fixer{body: body, seen: map[string]bool{}}
	if w.object(start, &f.root); w.bad {
		return body
	}
	for _, r := range w.renames {
		if !w.seen[r.to] {
			w.edits = append(w.edits, edit{r.span, quote(r.to)})
		}
	}
	var missing []byte
	for _, name := range slices.Sorted(maps.Keys(f.root.members)) {
		if s := f.root.members[name]; s.fix != nil && s.fix.Value != "" && s.fix.Only == "" && !w.seen[name] {
			missing = append(append(append(append(missing, quote(name)...), ':'), s.fix.Value...), ',')
		}
	}
	if len(missing) > 0 {
		if w.left == 0 {
			missing = missing[:len(missing)-1]
		}
		w.edits = slices.Insert(w.edits, 0, edit{span{start + 1, start + 1}, missing})
	}
	return splice(body, w.edits, fresh)
}

// fixer goes through a body and notes what has to be changed.
type fixer struct {
	body  []byte
	edits []edit
	seen  map[string]bool // names of the body's members
	left  int             // how many of them stay
	bad   bool            // it is not JSON
	depth int

	renames []rename // names of the body's members that get another
}

type rename struct {
	span
	to string
}

// part is a member of an object or an element of an array.
type part struct {
	span
	drop bool
}

// object goes through the object at i and returns where it ends.
func (w *fixer) object(i int, s *step) (end int) {
	return w.parts(i, '}', func(i int) (int, bool) {
		if i >= len(w.body) || w.body[i] != '"' {
			w.bad = true
			return i, false
		}
		n, closed, _ := stringEnd(w.body[i+1:])
		at := span{i, min(i+1+n, len(w.body))}
		name, _ := text(at.of(w.body))
		if i = w.blanks(i + 1 + n); !closed || i >= len(w.body) || w.body[i] != ':' {
			w.bad = true
			return i, false
		}
		to := s.members[name]
		if w.depth == 1 {
			w.seen[name] = true
			if to != nil && to.fix != nil && to.fix.Rename != "" {
				w.renames = append(w.renames, rename{at, to.fix.Rename})
			}
		}
		return w.value(w.blanks(i+1), to)
	})
}

// array goes through the array at i and returns where it ends.
func (w *fixer) array(i int, each *step) (end int) {
	return w.parts(i, ']', func(i int) (int, bool) { return w.value(i, each) })
}

// parts goes through what stands between brackets, each part by one call of read,
// which says where it ends and whether it is to go.
func (w *fixer) parts(i int, closing byte, read func(i int) (end int, drop bool)) int {
	w.depth++
	defer func() { w.depth-- }()
	var room [16]part
	all, drops := room[:0], false
	i = w.blanks(i + 1)
	for !w.bad && i < len(w.body) && w.body[i] != closing {
		p := part{span: span{start: i}}
		p.end, p.drop = read(i)
		all, drops = append(all, p), drops || p.drop
		if w.depth == 1 && !p.drop {
			w.left++
		}
		if i = w.blanks(p.end); i < len(w.body) && w.body[i] == ',' {
			i = w.blanks(i + 1)
		} else {
			break
		}
	}
	if w.bad = w.bad || i >= len(w.body) || w.body[i] != closing; w.bad || !drops {
		return i + 1
	}
	w.take(all)
	return i + 1
}

// take takes out the parts that are to go, each with one of the commas beside it.
func (w *fixer) take(all []part) {
	kept := -1 // the last part that stays
	for i, p := range all {
		if !p.drop {
			kept = i
		}
	}
	for i, p := range all[:kept+1] {
		if p.drop {
			w.edits = append(w.edits, edit{span{p.start, all[i+1].start}, nil})
		}
	}
	if tail := all[kept+1:]; len(tail) > 0 {
		from := tail[0].start
		if kept >= 0 {
			from = all[kept].end
		}
		w.edits = append(w.edits, edit{span{from, tail[len(tail)-1].end}, nil})
	}
}

// maxFixDepth bounds how deep fixes are looked for; all lie far above it.
const maxFixDepth = 16

// value goes through the value at i, and says where it ends and whether it is to go.
func (w *fixer) value(i int, s *step) (end int, drop bool) {
	if i >= len(w.body) {
		w.bad = true
		return i, false
	}
	c := w.body[i]
	switch {
	case s == nil, w.depth > maxFixDepth:
		return w.skip(i), false
	case s.members != nil && c == '{' && s.fix == nil:
		return w.object(i, s), false
	case s.each != nil && c == '[' && s.fix == nil:
		return w.array(i, s.each), false
	case s.fix == nil:
		return w.skip(i), false
	}
	edits := len(w.edits)
	switch {
	case s.members != nil && c == '{':
		end = w.object(i, s)
	case s.each != nil && c == '[':
		end = w.array(i, s.each)
	default:
		end = w.skip(i)
	}
	raw, fix := w.body[i:min(end, len(w.body))], s.fix
	switch {
	case fix.Drop && (fix.Type == "" || typeOf(raw) == fix.Type):
		w.edits = w.edits[:edits] // what lies in it goes with it
		return end, true
	case fix.Value != "" && string(raw) != fix.Value && (fix.Only == "" || string(raw) == fix.Only):
		w.edits = append(w.edits[:edits], edit{span{i, end}, []byte(fix.Value)})
	case fix.Wrap && c != '[' && string(raw) != "null":
		w.edits = append(w.edits[:edits], edit{span{i, end}, bytes.Join([][]byte{[]byte("["), raw, []byte("]")}, nil)})
	case fix.Letters > 0 && c == '"':
		if s, ok := text(raw); ok && !lettersOnly(s, fix.Letters) {
			w.edits = append(w.edits[:edits], edit{span{i, end}, quote(lettersOf(s, fix.Letters))})
		}
	}
	return end, false
}

// lettersOnly says whether s consists of n letters and digits.
func lettersOnly(s string, n int) bool {
	return len(s) == n && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// lettersOf returns n letters and digits that stand for s: of its hash, 40 at most.
func lettersOf(s string, n int) string {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(s))
	h, base := new(big.Int).SetBytes(sum[:]), big.NewInt(int64(len(letters)))
	out := make([]byte, n)
	for i := range out {
		digit := new(big.Int)
		h.DivMod(h, base, digit)
		out[i] = letters[digit.Int64()]
	}
	return string(out)
}

// skip returns where the value at i ends.
func (w *fixer) skip(i int) int {
	for depth := 0; i < len(w.body); i++ {
		switch w.body[i] {
		case '"':
			n, _, _ := stringEnd(w.body[i+1:])
			if i += n; depth == 0 {
				return min(i+1, len(w.body))
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // behind a number or a word
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

func (w *fixer) blanks(i int) int {
	for i < len(w.body) && isBlank(w.body[i]) {
		i++
	}
	return i
}

// typeOf returns the type of a part of a conversation; empty if it has none.
func typeOf(raw []byte) string {
	if !isObject(raw) {
		return ""
	}
	var m members
	m.reset(typeNames, nil, "", 0)
	m.feed(raw)
	name, _ := text(m.at(0).raw)
	return name
}

var (
	turnPartNames = []string{"role", "content", "output", "type"}
	listNames     = []string{"messages", "input"}
)

// FollowsUp says whether a request goes on with what the model itself began, instead
// of with what a person says: its last turn is the model's own, or a tool's result.
func FollowsUp(op Operation, body []byte) bool {
	var last []byte
	for turn := range turns(op, body) {
		last = turn
	}
	if last == nil {
		return false
	}
	var m members
	m.reset(turnPartNames, nil, "", 0)
	m.feed(last)
	role, _ := text(m.at(0).raw)
	switch op {
	case ChatCompletions:
		return role == "assistant" || role == "tool" || role == "function"
	case CreateResponse:
		return role == "" || role == "assistant"
	}
	return role != "user" || onlyResults(m.at(1).raw)
}

// onlyResults says whether the content of a turn is nothing but tools' results.
func onlyResults(content []byte) bool {
	if len(content) == 0 || content[0] != '[' {
		return false
	}
	any, only := false, true
	each(content, func(block []byte) bool {
		any, only = true, typeOf(block) == "tool_result"
		return only
	})
	return any && only
}

// ShowsImage says whether there is an image in a conversation, in a tool's result too.
func ShowsImage(op Operation, body []byte) bool {
	image, ok := imageTypes[op]
	if !ok || !bytes.Contains(body, []byte(image)) {
		return false
	}
	for turn := range turns(op, body) {
		var m members
		m.reset(turnPartNames, nil, "", 0)
		m.feed(turn)
		if hasPart(m.at(1).raw, image) || hasPart(m.at(2).raw, image) {
			return true
		}
	}
	return false
}

// imageTypes are the types of the parts that are images.
var imageTypes = map[Operation]string{
	ChatCompletions: "image_url", CreateResponse: "input_image", CreateMessage: "image", CountMessage: "image",
}

// hasPart looks for a part of that type, also in what tools returned.
func hasPart(content []byte, kind string) bool {
	found := false
	if len(content) == 0 || content[0] != '[' {
		return false
	}
	each(content, func(p []byte) bool {
		if !isObject(p) {
			return true
		}
		var m members
		m.reset(turnPartNames, nil, "", 0)
		m.feed(p)
		is, _ := text(m.at(3).raw)
		found = is == kind || is == "tool_result" && hasPart(m.at(1).raw, kind)
		return !found
	})
	return found
}

// turns goes through the turns of a conversation as they stand in the body.
func turns(op Operation, body []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		i := 0
		switch op {
		case ChatCompletions, CreateMessage, CountMessage:
		case CreateResponse:
			i = 1
		default:
			return
		}
		var m members
		m.reset(listNames, nil, "", 0)
		m.feed(body)
		if list := m.at(i).raw; len(list) > 0 && list[0] == '[' {
			each(list, yield)
		}
	}
}
