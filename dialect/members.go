package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// members reads chosen members of one JSON object that arrives in pieces cut
// anywhere. It builds nothing and copies nothing of an object in one piece.
//
// It looks at the object itself and, if enter is set, into the one member of
// that name: when that is an object, or else an array, into the objects standing
// directly in it. Everything deeper is skipped by its brackets and quotes alone,
// so a body is read at about the speed of a search for quotes. It therefore does
// not prove that the whole is valid JSON: it finds out where the members begin
// and end, and errs where it cannot.
type members struct {
	names [2][]string // what to look for in the object, and in the entered member
	enter string
	limit int // the longest value to keep when the object goes on in another piece

	values  [2][maxNames]value
	entered int // objects that were entered

	state    state
	inString bool
	escaped  bool // the last byte seen was a backslash that escapes the next
	list     bool // the entered member is an array
	level    int  // 0: reading members of the object, 1: of an entered one
	base     int  // brackets open around the members being read
	depth    int  // brackets open
	read     int  // bytes in earlier pieces

	key      [maxKey]byte // the name being read
	keyLen   int
	keyPlain bool // it has no escapes
	keyLong  bool // it is longer than any that is looked for
	want     int  // index of the value being read; -1: of no interest
	entering bool
	valueAt  int // where it begins, counted from the first byte fed
	held     []byte
	keep     bool // held takes part of the value
	loose    bool // some value is loose
}

// value is a member that was found. Of one that occurs more than once it is the
// last.
type value struct {
	raw   []byte // as it stands; nil if absent, or not kept because it is too long
	start int    // offset of its first byte from the first byte fed
	end   int
	count int  // how often the member occurred
	items int  // objects standing directly in it, if it is an array
	long  bool // it was there, but too long to keep
	loose bool // raw is a slice of the piece being read
	// folded: a name stood there that some readers take for this one, because
	// they do not mind case.
	folded bool
}

func (v *value) found() bool { return v.count > 0 }

const (
	// maxNames bounds how many members can be looked for at one level.
	maxNames = 16
	// maxKey is room for every name that is looked for, spelled in escapes of
	// six bytes a letter.
	maxKey = 6 * 32
)

type state uint8

const (
	atStart state = iota
	atFirstKey
	atKey
	inKey
	atColon
	atValue
	inScalar
	inText
	inNested
	inList // between the elements of the entered array
	afterValue
	atEnd
	broken
)

var (
	errNotObject = errors.New("not a JSON object")
	errNoEnd     = errors.New("JSON object without an end")
)

// reset makes m ready for a new object. What it held before is let go.
func (m *members) reset(names, inner []string, enter string, limit int) {
	clear(m.values[0][:len(m.names[0])])
	clear(m.values[1][:len(m.names[1])])
	m.names[0], m.names[1] = names, inner
	m.enter, m.limit = enter, limit
	m.entered = 0
	m.state, m.inString, m.escaped, m.list = atStart, false, false, false
	m.level, m.base, m.depth, m.read = 0, 1, 0, 0
	m.want, m.entering = -1, false
	m.held, m.keep, m.loose = m.held[:0], false, false
}

// structural marks the bytes that matter inside values that are skipped.
var structural = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true}

// feed reads the next piece of an object that nothing but blanks may follow.
// Values that lie in the piece are slices of it as long as it is the last one;
// the memory of earlier pieces may be used again.
func (m *members) feed(p []byte) {
	if rest := p[m.feedOne(p):]; m.state == atEnd && len(trimBlanks(rest)) > 0 {
		m.state = broken
	}
}

// feedOne is feed for an object that anything may follow: it reads no further
// than the object's end and returns how much of p belongs to it.
func (m *members) feedOne(p []byte) int {
	if m.state >= atEnd {
		return 0
	}
	i := 0
	for i < len(p) {
		if m.inString {
			n, closed := m.skipString(p[i:])
			if m.state == inKey {
				m.growKey(p[i : i+n])
			}
			i += n
			if !closed {
				break
			}
			m.inString = false
			switch m.state {
			case inKey:
				m.endKey()
			case inText:
				m.endValue(p, i)
			}
			continue
		}
		c := p[i]
		if m.state == inNested {
			for !structural[c] {
				if i++; i == len(p) {
					break
				}
				c = p[i]
			}
			if i == len(p) {
				break
			}
			i++
			switch c {
			case '"':
				m.inString = true
			case '{', '[':
				if c == '{' && m.want >= 0 && m.depth == m.base+1 {
					m.values[m.level][m.want].items++
				}
				m.depth++
			default:
				m.depth--
				if m.depth == m.base {
					m.endValue(p, i)
				}
			}
			continue
		}
		if isBlank(c) {
			i++
			continue
		}
		switch m.state {
		case atStart:
			if c != '{' {
				m.state = broken
				break
			}
			m.depth = 1
			m.state = atFirstKey
		case atFirstKey, atKey:
			switch {
			case c == '"':
				m.inString = true
				m.state = inKey
				m.keyLen, m.keyPlain, m.keyLong = 0, true, false
			case c == '}' && m.state == atFirstKey:
				m.closeObject()
			default:
				m.state = broken
			}
		case atColon:
			if c != ':' {
				m.state = broken
				break
			}
			m.state = atValue
		case atValue:
			m.beginValue(i)
			switch c {
			case '"':
				m.inString = true
				m.state = inText
			case '{':
				m.depth++
				m.state = inNested
				if m.entering {
					m.open(2)
				}
			case '[':
				m.depth++
				m.state = inNested
				if m.entering {
					m.state, m.list = inList, true
				}
			case ',', ':', '}', ']':
				m.state = broken
			default:
				m.state = inScalar
			}
		case inList:
			switch c {
			case '{':
				m.depth++
				m.open(3)
			case ']':
				m.depth--
				m.state = afterValue
			case ',':
			default:
				// Not a list of objects: the rest of it is skipped.
				m.state = inNested
				continue
			}
		case inScalar:
			switch c {
			case ',', '}':
				m.endValue(p, i)
				continue // look at the same byte again, after the value
			case '"', '{', '[', ']', ':':
				m.state = broken
			}
		case afterValue:
			switch c {
			case ',':
				m.state = atKey
			case '}':
				m.closeObject()
			default:
				m.state = broken
			}
		}
		if m.state == broken {
			return i
		}
		i++
		if m.state == atEnd {
			return i
		}
	}
	if m.want >= 0 && m.state >= inScalar && m.state <= inNested {
		m.hold(p[max(0, m.valueAt-m.read):])
	}
	m.keepLoose()
	m.read += len(p)
	return len(p)
}

// keepLoose copies the values that lie in a piece whose memory is used again.
func (m *members) keepLoose() {
	if !m.loose {
		return
	}
	m.loose = false
	for level := range m.values {
		for i := range m.names[level] {
			v := &m.values[level][i]
			switch {
			case !v.loose:
				continue
			case len(v.raw) > m.limit:
				v.raw, v.long = nil, true
			default:
				v.raw = bytes.Clone(v.raw)
			}
			v.loose = false
		}
	}
}

// err says whether what was fed is a whole object.
func (m *members) err() error {
	switch m.state {
	case atEnd:
		return nil
	case broken:
		return errNotObject
	default:
		return errNoEnd
	}
}

// at returns the i-th of the names looked for.
func (m *members) at(i int) *value { return &m.values[0][i] }

// in returns the i-th of the names looked for in the entered member.
func (m *members) in(i int) *value { return &m.values[1][i] }

func (m *members) skipString(p []byte) (n int, closed bool) {
	if m.escaped {
		m.escaped = false
		n = 1
	}
	end, closed, escaped := stringEnd(p[n:])
	m.escaped = escaped
	return n + end, closed
}

// stringEnd returns where the string ends whose inside begins p, its closing
// quote included. If it is not closed in p, escaped says that p ends in a
// backslash that escapes what follows.
func stringEnd(p []byte) (n int, closed, escaped bool) {
	for i := 0; ; {
		// Many strings are short, and quotes that are escaped come in crowds:
		// only where there is none for a while a search for one pays.
		for near := min(i+nearby, len(p)); i < near; {
			switch p[i] {
			case '"':
				return i + 1, true, false
			case '\\':
				i += 2
			default:
				i++
			}
		}
		if i >= len(p) {
			return len(p), false, i > len(p)
		}
		end := len(p)
		if j := bytes.IndexByte(p[i:], '"'); j >= 0 {
			end = i + j
		}
		k := end
		for k > i && p[k-1] == '\\' {
			k--
		}
		escaped = (end-k)%2 == 1
		switch {
		case end == len(p):
			return len(p), false, escaped
		case !escaped:
			return end + 1, true, false
		}
		i = end + 1
	}
}

// nearby is how far stringEnd looks byte by byte.
const nearby = 8

func (m *members) growKey(p []byte) {
	n := copy(m.key[m.keyLen:], p)
	m.keyLen += n
	m.keyLong = m.keyLong || n < len(p)
	m.keyPlain = m.keyPlain && bytes.IndexByte(p, '\\') < 0
}

func (m *members) endKey() {
	m.state = atColon
	m.want, m.entering = -1, false
	if m.keyLong {
		return
	}
	key := m.key[:m.keyLen-1] // without its quote
	if !m.keyPlain {
		var s string
		if json.Unmarshal([]byte(`"`+string(key)+`"`), &s) != nil {
			m.state = broken
			return
		}
		key = []byte(s)
	}
	foreign := false // it has letters beyond ASCII
	for _, c := range key {
		foreign = foreign || c >= utf8.RuneSelf
	}
	for i, name := range m.names[m.level] {
		if name == string(key) {
			m.want = i
			break
		}
		// Two letters beyond ASCII fold into s and k; they are longer.
		if (len(name) == len(key) || len(name) < len(key) && foreign) && strings.EqualFold(name, string(key)) {
			m.values[m.level][i].folded = true
		}
	}
	if m.level == 0 && m.enter != "" && m.enter == string(key) {
		m.want, m.entering = -1, true
	}
}

// open goes into an object that stands below base-1 brackets.
func (m *members) open(base int) {
	m.level, m.base = 1, base
	m.state = atFirstKey
	m.entered++
}

func (m *members) closeObject() {
	m.depth--
	switch {
	case m.level == 0:
		m.state = atEnd
		return
	case m.list:
		m.state = inList
	default:
		m.state = afterValue
	}
	m.level, m.base = 0, 1
}

func (m *members) beginValue(i int) {
	m.valueAt = m.read + i
	m.held, m.keep = m.held[:0], false
	if m.want >= 0 {
		v := &m.values[m.level][m.want]
		v.raw, v.items, v.long, v.loose = nil, 0, false, false
	}
}

// hold keeps the part of a value that a piece ends with.
func (m *members) hold(p []byte) {
	m.keep = true
	v := &m.values[m.level][m.want]
	if v.long || len(m.held)+len(p) > m.limit {
		v.long = true
		m.held = m.held[:0]
		return
	}
	m.held = append(m.held, p...)
}

// endValue ends the value that ends before p[i].
func (m *members) endValue(p []byte, i int) {
	m.state = afterValue
	if m.want < 0 {
		return
	}
	v := &m.values[m.level][m.want]
	v.count++
	v.start, v.end = m.valueAt, m.read+i
	switch {
	case !m.keep:
		v.raw = trimBlanksRight(p[v.start-m.read : i])
		v.loose, m.loose = true, true
	default:
		if m.hold(p[:i]); !v.long {
			v.raw = trimBlanksRight(m.held)
			m.held = nil // it belongs to the value now
		}
	}
	if v.raw != nil {
		v.end = v.start + len(v.raw) // without the blanks behind a scalar
	}
	m.want = -1
}

// isBlank marks the bytes that may stand between the tokens of JSON.
func isBlank(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// trimBlanks returns p without the blanks that it begins with.
func trimBlanks(p []byte) []byte {
	for len(p) > 0 && isBlank(p[0]) {
		p = p[1:]
	}
	return p
}

func trimBlanksRight(p []byte) []byte {
	for len(p) > 0 && isBlank(p[len(p)-1]) {
		p = p[:len(p)-1]
	}
	return p
}
