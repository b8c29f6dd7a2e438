package mock

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// sealKey is the mocks' own; nobody else can make what they seal.
var sealKey = []byte("a key that only the mocks have")

// Seal signs what a client has to bring back as it was. The service's name is part
// of it, so that no other takes it; nonce tells equal texts apart.
func Seal(service, nonce, text string) string {
	n := sha256.Sum256([]byte(nonce))
	return base64.StdEncoding.EncodeToString(append(n[:12], sealOf(service, n[:12], text)...))
}

// Sealed says whether a signature is the service's own, of that text.
func Sealed(service, signature, text string) bool {
	b, err := base64.StdEncoding.DecodeString(signature)
	return err == nil && len(b) == 12+sha256.Size && hmac.Equal(b[12:], sealOf(service, b[:12], text))
}

func sealOf(service string, nonce []byte, text string) []byte {
	h := hmac.New(sha256.New, sealKey)
	h.Write([]byte(service))
	h.Write(nonce)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// DigestOf makes the digest of a question.
func DigestOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}
