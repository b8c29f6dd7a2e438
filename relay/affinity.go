package relay

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
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
		a.ring[i] = e
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
	if !ok || a.ring[i].expiry < now.Unix() {
		return home{}, false
	}
	return a.ring[i].home, true
}

func (a *Affinity) forget(k affinityKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, ok := a.at[k]; ok {
		delete(a.at, k)
		a.ring[i] = affinityEntry{}
	}
}
