package translate

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// source reads one JSON text from front to back, without building a tree of it.
// After the first error every method returns at once and reads nothing.
//
// A value is read by calling the method of its kind; a member of no interest by
// skip. Every value must be read exactly once.
type source struct {
	in  []byte
	at  int
	err error
	// path is where the value being read stands, as errors name it.
	path []byte
	text []byte // scratch
}

func newSource(in []byte) *source { return &source{in: in} }

// fail notes what is wrong with the value being read.
func (s *source) fail(format string, args ...any) {
	if s.err == nil {
		s.err = bad(s.field(), format, args...)
		s.at = len(s.in)
	}
}

// failWith notes an error as it is.
func (s *source) failWith(err error) {
	if s.err == nil && err != nil {
		s.err = err
		s.at = len(s.in)
	}
}

// field is the name of the value being read: messages[2].content[0].text.
func (s *source) field() string { return string(s.path) }

// next is the first byte of the value that is next, 0 if there is none.
func (s *source) next() byte {
	for s.at < len(s.in) {
		switch c := s.in[s.at]; c {
		case ' ', '\n', '\r', '\t':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// null reads a null if it is next, and says so.
func (s *source) null() bool {
	if s.next() == 'n' && bytes.HasPrefix(s.in[s.at:], []byte("null")) {
		s.at += len("null")
		return true
	}
	return false
}

// object reads an object. visit is called for each member, with its name, and has
// to read the value. A null is an object without members.
func (s *source) object(visit func(name []byte)) {
	if s.err != nil || s.null() {
		return
	}
	if s.next() != '{' {
		s.fail("%s must be an object", s.what())
		return
	}
	s.at++
	if s.next() == '}' {
		s.at++
		return
	}
	base := len(s.path)
	for s.err == nil {
		name := s.name()
		if s.next() != ':' {
			s.malformed()
			return
		}
		s.at++
		if base > 0 {
			s.path = append(s.path, '.')
		}
		s.path = append(s.path, name[:min(len(name), 64)]...)
		visit(name)
		if s.err != nil {
			return
		}
		s.path = s.path[:base]
		switch s.next() {
		case ',':
			s.at++
		case '}':
			s.at++
			return
		default:
			s.malformed()
		}
	}
}

// name reads a member's name. It is good until the next string with escapes.
func (s *source) name() []byte {
	if s.next() != '"' {
		s.malformed()
		return nil
	}
	name := s.bytes()
	return name
}

// list reads an array. visit is called for each element and has to read it. A null
// is an empty one.
func (s *source) list(visit func(i int)) {
	if s.err != nil || s.null() {
		return
	}
	if s.next() != '[' {
		s.fail("%s must be an array", s.what())
		return
	}
	s.at++
	if s.next() == ']' {
		s.at++
		return
	}
	base := len(s.path)
	for i := 0; s.err == nil; i++ {
		s.path = append(s.path, '[')
		s.path = strconv.AppendInt(s.path, int64(i), 10)
		s.path = append(s.path, ']')
		visit(i)
		if s.err != nil {
			return
		}
		s.path = s.path[:base]
		switch s.next() {
		case ',':
			s.at++
		case ']':
			s.at++
			return
		default:
			s.malformed()
		}
	}
}

// string reads a string. A null is the empty one.
func (s *source) string() string {
	if s.err != nil || s.null() {
		return ""
	}
	if s.next() != '"' {
		s.fail("%s must be a string", s.what())
		return ""
	}
	return string(s.bytes())
}

// bytes reads a string that is next. What it returns lies in the input or in
// scratch memory, which the next string with escapes overwrites.
func (s *source) bytes() []byte {
	start := s.at + 1
	n := bytes.IndexByte(s.in[start:], '"')
	if n < 0 {
		s.malformed()
		return nil
	}
	if m := bytes.IndexByte(s.in[start:start+n], '\\'); m >= 0 {
		return s.escaped(start, start+m)
	}
	s.at = start + n + 1
	return s.in[start : start+n]
}

// escaped reads on in a string whose first escape is at i.
func (s *source) escaped(start, i int) []byte {
	in := s.in
	out := append(s.text[:0], in[start:i]...)
	for i < len(in) {
		switch c := in[i]; c {
		case '"':
			s.at, s.text = i+1, out
			return out
		case '\\':
			if i++; i == len(in) {
				break
			}
			switch c := in[i]; c {
			case '"', '\\', '/':
				out = append(out, c)
			case 'b':
				out = append(out, '\b')
			case 'f':
				out = append(out, '\f')
			case 'n':
				out = append(out, '\n')
			case 'r':
				out = append(out, '\r')
			case 't':
				out = append(out, '\t')
			case 'u':
				r, n := s.unicode(i + 1)
				if n == 0 {
					s.malformed()
					return nil
				}
				out = utf8.AppendRune(out, r)
				i += n
			default:
				s.malformed()
				return nil
			}
			i++
		default:
			n := i + 1
			for n < len(in) && in[n] != '"' && in[n] != '\\' {
				n++
			}
			out = append(out, in[i:n]...)
			i = n
		}
	}
	s.malformed()
	return nil
}

// unicode reads the four digits of an escape at i, and the second half of a pair
// behind them. n is how much it read.
func (s *source) unicode(i int) (r rune, n int) {
	first, ok := hex4(s.in, i)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(first) {
		return first, 4
	}
	if bytes.HasPrefix(s.in[i+4:], []byte(`\u`)) {
		if second, ok := hex4(s.in, i+6); ok {
			if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
				return r, 10
			}
		}
	}
	return utf8.RuneError, 4
}

func hex4(in []byte, i int) (rune, bool) {
	if i+4 > len(in) {
		return 0, false
	}
	var r rune
	for _, c := range in[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// number reads a number as it is spelled. A null is none.
func (s *source) number() Number {
	if s.err != nil || s.null() {
		return ""
	}
	c := s.next()
	if c != '-' && (c < '0' || c > '9') {
		s.fail("%s must be a number", s.what())
		return ""
	}
	n := s.scalar()
	if !json.Valid(n) {
		s.malformed()
		return ""
	}
	return Number(n)
}

// integer reads a whole number; 12.0 is one. A null is 0.
func (s *source) integer() int64 {
	n := s.number()
	if n == "" {
		return 0
	}
	i, err := strconv.ParseInt(string(n), 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(string(n), 64)
		if ferr != nil || f != float64(int64(f)) || f > 1<<53 || f < -1<<53 {
			s.fail("%s must be a whole number", s.what())
			return 0
		}
		i = int64(f)
	}
	return i
}

// boolean reads true or false. A null is false.
func (s *source) boolean() bool {
	if s.err != nil || s.null() {
		return false
	}
	switch string(s.scalar()) {
	case "true":
		return true
	case "false":
	default:
		s.fail("%s must be true or false", s.what())
	}
	return false
}

// scalar reads a number or a word.
func (s *source) scalar() []byte {
	s.next()
	start := s.at
	for s.at < len(s.in) && strings.IndexByte(",]} \n\r\t:\"{[", s.in[s.at]) < 0 {
		s.at++
	}
	return s.in[start:s.at]
}

// raw reads any value and returns it as it stands, a piece of the input; nil for
// a null. It is valid JSON, which skip alone would not see to.
func (s *source) raw() []byte {
	if s.err != nil || s.null() {
		return nil
	}
	s.next()
	start := s.at
	s.skip()
	if s.err == nil && !json.Valid(s.in[start:s.at]) {
		s.malformed()
	}
	if s.err != nil {
		return nil
	}
	return s.in[start:s.at:s.at]
}

// skip reads any value and forgets it.
func (s *source) skip() {
	if s.err != nil {
		return
	}
	depth := 0
	for {
		switch s.next() {
		case 0:
			s.malformed()
			return
		case '{', '[':
			depth++
			s.at++
		case '}', ']':
			depth--
			s.at++
		case ',', ':':
			if depth == 0 {
				s.malformed()
				return
			}
			s.at++
		case '"':
			s.skipString()
		default:
			if len(s.scalar()) == 0 {
				s.malformed()
			}
		}
		if s.err != nil {
			return
		}
		if depth <= 0 {
			if depth < 0 {
				s.malformed()
			}
			return
		}
	}
}

func (s *source) skipString() {
	i := s.at + 1
	for {
		n := bytes.IndexByte(s.in[i:], '"')
		if n < 0 {
			s.malformed()
			return
		}
		i += n
		odd := false
		for j := i - 1; j > s.at && s.in[j] == '\\'; j-- {
			odd = !odd
		}
		i++
		if !odd {
			s.at = i
			return
		}
	}
}

// stringOr reads a string, or leaves another value to be read and returns false.
func (s *source) stringOr() (string, bool) {
	if s.next() == '"' {
		return s.string(), true
	}
	return "", false
}

func (s *source) malformed() { s.fail("%s is not valid JSON", s.what()) }

// what names the value being read in a message.
func (s *source) what() string {
	if len(s.path) == 0 {
		return "the body"
	}
	return "the field " + s.field()
}
