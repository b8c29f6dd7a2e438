package relay

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/floway/floway/usage"
)

// Affinity remembers which key served a stored response or a conversation, so
// that what follows finds its way back. It is bounded and outlives reloads.
type Affinity struct {
	mu   sync.Mutex
	at   map[affinityKey]int32 // where in ring
	ring []affinityEntry
	next int32
}

// Bounds of the table.
const (
	affinityEntries = 65_536
	affinityLife    = 24 * time.Hour
)

// affinityKey is a digest of a client's name and what it calls the thing: one
// client cannot name another's.
type affinityKey [16]byte

type affinityEntry struct {
	key    affinityKey
	home   home
	expiry int64 // seconds since 1970
}

// home is a key of an upstream, by names that outlive a reload.
type home struct{ upstream, key string }

// gone is the home of what was deleted. It is kept, because word of where that was
// may come late. No fingerprint of a key looks like this.
const gone = "-"

// NewAffinity returns an empty table.
func NewAffinity() *Affinity { return &Affinity{at: make(map[affinityKey]int32)} }

// responseKey names a response that an upstream keeps.
func responseKey(client, id string) affinityKey { return digest("response", client, id) }

func digest(kind, client, name string) affinityKey {
	buf := make([]byte, 0, 1200)
	for _, s := range [...]string{kind, client, name} {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	sum := sha256.Sum256(buf)
	return affinityKey(sum[:16])
}

func (a *Affinity) put(k affinityKey, h home, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := affinityEntry{k, h, now.Add(affinityLife).Unix()}
	if i, ok := a.at[k]; ok {
		// What Restore brings may be old, and clocks differ.
		was := &a.ring[i]
		if h.key == gone || was.expiry < e.expiry || was.expiry == e.expiry && was.home.key != gone {
			*was = e
		}
		return
	}
	if len(a.ring) < affinityEntries {
		a.at[k] = int32(len(a.ring))
		a.ring = append(a.ring, e)
		return
	}
	delete(a.at, a.ring[a.next].key)
	a.ring[a.next], a.at[k] = e, a.next
	a.next = (a.next + 1) % affinityEntries
}

func (a *Affinity) find(k affinityKey, now time.Time) (home, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.at[k]
	if !ok || a.ring[i].expiry < now.Unix() || a.ring[i].home.key == gone {
		return home{}, false
	}
	return a.ring[i].home, true
}

// note spells what a record says of a home, for Restore to read: the key, and
// what lives there.
func note(at home, keys ...affinityKey) string {
	b := make([]byte, 0, 128)
	b = append(b, at.key...)
	for _, k := range keys {
		b = hex.AppendEncode(append(b, ' '), k[:])
	}
	return string(b)
}

// Restore takes in what the record of an attempt says: after a restart, out of the
// ledger, and of other instances' attempts. What is known better stays.
func (a *Affinity) Restore(n usage.Note) {
	key, rest, ok := strings.Cut(n.Affinity, " ")
	if !ok || len(n.Affinity) > usage.MaxName || len(n.Upstream) > usage.MaxName {
		return
	}
	for text := range strings.SplitSeq(rest, " ") {
		var k affinityKey
		if len(text) != hex.EncodedLen(len(k)) {
			continue
		}
		if _, err := hex.Decode(k[:], []byte(text)); err == nil {
			a.put(k, home{n.Upstream, key}, n.Time)
		}
	}
}
