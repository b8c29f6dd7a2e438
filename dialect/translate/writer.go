package translate

import (
	"strconv"
	"unicode/utf8"
)

// writer builds JSON front to back. It puts commas by itself: members and elements
// are simply written one after the other.
type writer struct {
	b []byte
}

// comma separates a value or name from what stands before it.
func (w *writer) comma() {
	if n := len(w.b); n > 0 {
		switch w.b[n-1] {
		case '{', '[', ':', ' ', '\n', ',':
		default:
			w.b = append(w.b, ',')
		}
	}
}

// open begins an object or array: { or [. shut ends it.
func (w *writer) open(bracket byte) {
	w.comma()
	w.b = append(w.b, bracket)
}

func (w *writer) shut(bracket byte) { w.b = append(w.b, bracket) }

// name begins a member. The name needs no escapes.
func (w *writer) name(name string) {
	w.comma()
	w.b = append(w.b, '"')
	w.b = append(w.b, name...)
	w.b = append(w.b, '"', ':')
}

// escapedName begins a member whose name may need escapes.
func (w *writer) escapedName(name string) {
	w.string(name)
	w.b = append(w.b, ':')
}

// literal writes JSON that is known to be valid: a word, a number, a whole value.
func (w *writer) literal(json string) {
	w.comma()
	w.b = append(w.b, json...)
}

// raw writes a value as it stands; null if there is none.
func (w *writer) raw(json []byte) {
	if len(json) == 0 {
		w.literal("null")
		return
	}
	w.comma()
	w.b = append(w.b, json...)
}

func (w *writer) integer(n int64) {
	w.comma()
	w.b = strconv.AppendInt(w.b, n, 10)
}

func (w *writer) boolean(b bool) {
	w.comma()
	w.b = strconv.AppendBool(w.b, b)
}

// string writes a text as a JSON string.
func (w *writer) string(text string) {
	w.comma()
	w.b = append(w.b, '"')
	w.b = appendEscaped(w.b, text)
	w.b = append(w.b, '"')
}

// bytes does what string does.
func (w *writer) bytes(text []byte) {
	w.comma()
	w.b = append(w.b, '"')
	w.b = appendEscaped(w.b, text)
	w.b = append(w.b, '"')
}

// Members in one call.

func (w *writer) member(name, text string) {
	w.name(name)
	w.string(text)
}

// memberIf writes a member unless its text is empty.
func (w *writer) memberIf(name, text string) {
	if text != "" {
		w.member(name, text)
	}
}

func (w *writer) rawMember(name string, json []byte) {
	w.name(name)
	w.raw(json)
}

func (w *writer) intMember(name string, n int64) {
	w.name(name)
	w.integer(n)
}

func (w *writer) boolMember(name string, b bool) {
	w.name(name)
	w.boolean(b)
}

// numberIf writes a member unless the client gave no number.
func (w *writer) numberIf(name string, n Number) {
	if n != "" {
		w.name(name)
		w.literal(string(n))
	}
}

// plain marks the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// appendEscaped appends a text as it stands between the quotes of a JSON string.
// What is no UTF-8 becomes U+FFFD.
func appendEscaped[T string | []byte](out []byte, text T) []byte {
	done := 0
	for i := 0; i < len(text); {
		c := text[i]
		if plain[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			// The most frequent letters of two and three bytes, without a call.
			if 0xc2 <= c && c <= 0xdf && i+1 < len(text) && text[i+1]&0xc0 == 0x80 {
				i += 2
				continue
			}
			if 0xe1 <= c && c <= 0xec && i+2 < len(text) && text[i+1]&0xc0 == 0x80 && text[i+2]&0xc0 == 0x80 {
				i += 3
				continue
			}
			r, n := decodeRune(text[i:])
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			out = append(append(out, text[done:i]...), "\ufffd"...)
			i++
			done = i
			continue
		}
		out = append(out, text[done:i]...)
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		done = i
	}
	return append(out, text[done:]...)
}

func decodeRune[T string | []byte](text T) (rune, int) {
	var p [utf8.UTFMax]byte
	n := copy(p[:], text)
	return utf8.DecodeRune(p[:n])
}
