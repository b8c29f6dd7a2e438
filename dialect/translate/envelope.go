package translate

import (
	"encoding/base64"
	"strings"

	"github.com/floway/floway/dialect"
)

// State is reasoning that only its maker can read: a signature, or encrypted
// text. Between dialects it travels in an envelope that names the upstream which
// made it, in a place that the client's dialect has for such things. It goes back
// to that upstream as it was and to no other.
type State struct {
	// Maker is the dialect that the state is of; it says what Data and ID mean.
	// It means something only if Data is not empty.
	Maker dialect.Dialect
	// Redacted: Data is a whole thought (redacted_thinking of Messages), not the
	// signature of one.
	Redacted bool
	// Data is the state as the maker spelled it.
	Data string
	// ID is the reasoning item's (Responses), which belongs to the state.
	ID string
	// Upstream is the name of the upstream that made it; empty if unknown, as for
	// what a client got from the service itself.
	Upstream string
}

// Empty says that there is no state.
func (s *State) Empty() bool { return s.Data == "" }

// sealMark begins every envelope.
const sealMark = "fw1."

// maxSealed bounds an envelope.
const maxSealed = 4 << 20

// seal spells a state for a client: only letters, digits, dots, - and _.
func seal(s *State) string {
	if s.Empty() {
		return ""
	}
	kind := [...]string{"c", "r", "m", "g"}[s.Maker]
	if s.Redacted {
		kind = "x"
	}
	code := base64.RawURLEncoding
	return sealMark + kind + "." + code.EncodeToString([]byte(s.Upstream)) + "." +
		code.EncodeToString([]byte(s.ID)) + "." + code.EncodeToString([]byte(s.Data))
}

// unseal reads an envelope; false if text is none.
func unseal(text string) (State, bool) {
	rest, ok := strings.CutPrefix(text, sealMark)
	if !ok || len(text) > maxSealed {
		return State{}, false
	}
	fields := strings.Split(rest, ".")
	if len(fields) != 4 {
		return State{}, false
	}
	s := State{Redacted: fields[0] == "x"}
	switch fields[0] {
	case "c":
		s.Maker = dialect.Chat
	case "r":
		s.Maker = dialect.Responses
	case "m", "x":
		s.Maker = dialect.Messages
	case "g":
		s.Maker = dialect.Gemini
	default:
		return State{}, false
	}
	for i, into := range [...]*string{&s.Upstream, &s.ID, &s.Data} {
		p, err := base64.RawURLEncoding.DecodeString(fields[i+1])
		if err != nil {
			return State{}, false
		}
		*into = string(p)
	}
	return s, s.Data != ""
}

// sealMarkBytes begins envelopes that are spelled once more in base64: the SDKs for
// Gemini read signatures as bytes and take nothing else.
const sealMarkBytes = "ZncxL"

// plainEnvelope is text, or the envelope that is spelled in base64 in it.
func plainEnvelope(text string) string {
	if !strings.HasPrefix(text, sealMarkBytes) || len(text) > 2*maxSealed {
		return text
	}
	// SDKs spell bytes in either alphabet, with padding or without.
	plain := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	if p, err := base64.RawStdEncoding.DecodeString(plain); err == nil && strings.HasPrefix(string(p), sealMark) {
		return string(p)
	}
	return text
}

// stateOf is what a client's field for sealed reasoning holds: an envelope of
// ours, or the state that the service of that dialect made.
func stateOf(text string, maker dialect.Dialect) State {
	text = plainEnvelope(text)
	if s, ok := unseal(text); ok {
		return s
	}
	if strings.HasPrefix(text, sealMark) {
		return State{} // damaged: of no use to anybody
	}
	return State{Maker: maker, Data: text}
}

// readable says whether the upstream that is asked made the state: only then may
// it see it.
func (r *Request) readable(s *State) bool {
	return !r.o.NoState && !s.Empty() && s.Maker == r.to && s.Upstream != "" && s.Upstream == r.o.Upstream
}

// sealed returns a state that the answering upstream made, for the client.
func (a *Answer) sealed(s State) string {
	s.Maker, s.Upstream = a.r.to, a.r.o.Upstream
	return seal(&s)
}

// sealedOrMarked is sealed; what has no seal gets an envelope with nothing in it. By
// that floway knows again, and keeps from services of the client's own dialect,
// what they would refuse: thoughts that they did not sign.
func (a *Answer) sealedOrMarked(s State) string {
	if s.Empty() {
		return sealMark + "n." + base64.RawURLEncoding.EncodeToString([]byte(a.r.o.Upstream)) + ".."
	}
	return a.sealed(s)
}

// signatureBytes is sealedOrMarked for clients of Gemini.
func (a *Answer) signatureBytes(s State) string {
	return base64.StdEncoding.EncodeToString([]byte(a.sealedOrMarked(s)))
}
