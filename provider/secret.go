package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"unique"
)

// Secret is a credential that cannot be printed: every way of showing it gives
// its fingerprint. Two secrets are equal if their credentials are. The zero
// Secret is no credential.
type Secret struct {
	// A handle and not the string: fmt calls no methods of what it finds in
	// unexported fields, and would print a string that it finds there.
	value unique.Handle[string]
}

// NewSecret wraps a credential; an empty one makes the zero Secret.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{unique.Make(value)}
}

// Reveal returns the credential itself. It belongs into requests and nowhere else.
func (s Secret) Reveal() string {
	if s.Empty() {
		return ""
	}
	return s.value.Value()
}

// Empty says that there is no credential.
func (s Secret) Empty() bool { return s == Secret{} }

// ID returns the fingerprint: the first 16 hex digits of the SHA-256, enough to
// tell keys apart and useless for guessing one. It is empty for no credential.
func (s Secret) ID() string {
	if s.Empty() {
		return ""
	}
	sum := sha256.Sum256([]byte(s.Reveal()))
	return hex.EncodeToString(sum[:8])
}

// String returns the fingerprint.
func (s Secret) String() string { return s.ID() }

// Format prints the fingerprint, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.ID()) }

// MarshalJSON gives the fingerprint.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.ID()) }

// MarshalText gives the fingerprint.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.ID()), nil }
