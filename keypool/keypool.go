// Package keypool chooses among the credentials ("keys") of an upstream and
// knows how each of them fares.
//
// A [Pool] holds the keys of one upstream. [Pool.Take] lends one of them by the
// pool's [Policy]; the [Lease] is told what the upstream said of the key
// ([Lease.Report]) and given back ([Lease.Release]). Where every key is at its
// limit of concurrent requests, [Wait] stands in line for several pools at once.
//
// What is known of keys lives in a [Health], which outlives pools: a reload
// makes new pools over the same Health. A key is out of service for a time of
// its own for each cause (failures, limit, quota, refusal), alone or for one
// model only; three unreachable requests in a row put the whole upstream out.
// A time that the upstream named ends by itself. A time of our own ends half
// open: one request probes the key while the others still pass it by.
//
// The package knows nothing of HTTP and of vendors: what an answer means comes
// in as the [Class] of a [Verdict]. Everything here is safe for concurrent use
// unless its comment says otherwise.
package keypool

import (
	"fmt"
	"strings"
	"time"
)

// Policy says how a pool chooses among the keys that can serve.
type Policy uint8

// The policies. Affinity ([Want.Prefer], [Want.Hash]) comes before all of them.
const (
	// RoundRobin takes the keys in turn; weights, where given, count.
	RoundRobin Policy = iota
	// WeightedRoundRobin takes the keys in turn by weight, exactly: weights
	// 5, 3 and 1 give every nine requests 5, 3 and 1 to a key.
	WeightedRoundRobin
	// LeastConn takes the key with the fewest requests in flight for its
	// weight, and among equals the one whose turn it is.
	LeastConn
	// Random takes any key, each as likely as its weight.
	Random
	// First takes the first key of the configuration that can serve.
	First
	// Sticky takes the key that the hash of the request points to. Without a
	// hash it is RoundRobin.
	Sticky
)

var policyNames = [...]string{
	RoundRobin:         "round_robin",
	WeightedRoundRobin: "weighted_round_robin",
	LeastConn:          "least_conn",
	Random:             "random",
	First:              "first",
	Sticky:             "sticky",
}

// ParsePolicy returns the policy of that name, as lb_policy spells it.
func ParsePolicy(name string) (Policy, error) {
	for p, n := range policyNames {
		if n == name {
			return Policy(p), nil
		}
	}
	return 0, fmt.Errorf("unknown policy %q: want one of %s", name, strings.Join(policyNames[:], ", "))
}

// String returns the name that ParsePolicy takes.
func (p Policy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return fmt.Sprintf("policy(%d)", uint8(p))
}

// Key is one credential of an upstream, without its secret.
type Key struct {
	// Label names the key for people; unique in its pool.
	Label string
	// Weight is its share under the policies that know weights; below 1 is 1,
	// above 1<<20 is 1<<20.
	Weight int
	// ID is a fingerprint of the secret, never the secret. Health is known by
	// it across reloads and instances. Empty where there is no credential: such
	// a key is known by its label and never shared with other instances.
	ID string
}

// Config describes a pool.
type Config struct {
	// Name is the upstream's name, for people.
	Name string
	// Identity is what the upstream is known by in Health; pools of one identity
	// share the state of equal keys and their requests in flight. Default: Name.
	// Give more than the name (the address, say) where two upstreams of one name
	// may be different ones.
	Identity string
	// Keys holds at least one key. An upstream without a credential has one key
	// with an empty ID.
	Keys []Key
	// Policy chooses among the keys; the zero value is RoundRobin.
	Policy Policy
	// MaxRequests bounds the requests in flight on each key; 0 is unlimited.
	MaxRequests int
	// Health is what is known of keys. Pools that are waited for together must
	// share it. Default: one of the pool's own.
	Health *Health
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Rand returns numbers in [0,1) for jitter and the random policy; it is
	// called under a lock. Default: math/rand/v2.
	Rand func() float64
	// OnChange is told when a key or the whole upstream goes out of service or
	// comes back: once each, in order, outside of locks. It should return soon:
	// a request waits for it.
	OnChange func(Change)
}

// Want says what a request asks of a pool. A Want must not change while a Take
// or Wait uses it.
type Want struct {
	// Model is the upstream's name for the model: waits that concern one model
	// only are looked up by it.
	Model string
	// Tried holds the keys (by [Lease.Key]) that the request has used already;
	// they are not taken again.
	Tried KeySet
	// Hash, if not zero, chooses by weighted rendezvous instead of the policy:
	// equal hashes go to the same key while it can serve.
	Hash uint64
	// Prefer is the ID of the key to take if it can serve.
	Prefer string
	// Last asks for the last resort: when no key can serve properly, keys that
	// cool for failures or for a wait of our own are taken all the same, then
	// those that do not have the model, then each invalid or exhausted key by
	// one request every 10 s. A wait that the upstream named is kept even so.
	Last bool
}

// KeySet is a set of key indices. The zero value is empty; up to 64 keys it
// needs no memory of its own.
type KeySet struct {
	low  uint64
	high []uint64
}

// Add puts key i into the set.
func (s *KeySet) Add(i int) {
	if i < 64 {
		s.low |= 1 << uint(i)
		return
	}
	word := i/64 - 1
	for len(s.high) <= word {
		s.high = append(s.high, 0)
	}
	s.high[word] |= 1 << uint(i%64)
}

// Clone returns a copy that shares nothing with s.
func (s *KeySet) Clone() KeySet {
	return KeySet{low: s.low, high: append([]uint64(nil), s.high...)}
}

// Has reports whether key i is in the set.
func (s *KeySet) Has(i int) bool {
	if i < 64 {
		return s.low&(1<<uint(i)) != 0
	}
	word := i/64 - 1
	return word < len(s.high) && s.high[word]&(1<<uint(i%64)) != 0
}

// Class says what an attempt's outcome means for the key, the upstream or the
// model.
type Class uint8

// The classes.
const (
	// Neutral is an answer that blames nobody, such as a client's own fault.
	// No answer at all (the client left) is no report.
	Neutral Class = iota
	// Served is a success. It heals the key.
	Served
	// Failed is an upstream that answered and failed: an error status, an error
	// event, a cut before content. Three different requests in a row cool the
	// key for 5 s doubling to 5 min.
	Failed
	// Limited is a rate limit, for as long as the upstream names (at most 24 h),
	// else for 5 s doubling to 5 min.
	Limited
	// Exhausted is a quota, balance or spend limit that is used up, for as long
	// as the upstream names (at most 31 days), else for 10 min doubling to 6 h.
	Exhausted
	// Invalid is a credential that is refused, for 10 min doubling to 6 h.
	Invalid
	// ModelOff is a model that the key does not have; it is off for 10 min.
	ModelOff
	// Unreachable is an upstream that gave no answer: no connection, a reset or
	// a time-out before the first byte. Three different requests in a row cool
	// all keys of the upstream for 5 s doubling to 5 min.
	Unreachable
)

var classNames = [...]string{
	Neutral:     "neutral",
	Served:      "served",
	Failed:      "failed",
	Limited:     "limited",
	Exhausted:   "exhausted",
	Invalid:     "invalid",
	ModelOff:    "model_off",
	Unreachable: "unreachable",
}

// String returns the name of the class in lower case.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Verdict is what one attempt said of its key.
type Verdict struct {
	Class Class
	// Until is the end of the wait that the upstream named, for Limited and
	// Exhausted; other classes ignore it. Zero, or a time that has passed, leaves
	// the wait to the pool.
	Until time.Time
	// Model confines Limited and Exhausted to one model; empty means the whole account. For
	// ModelOff it names the model; empty means that of the Want.
	Model string
	// Request identifies the request's body: failures of one identity count
	// once in a row. Zero is a request like no other.
	Request uint64
	// Reason is a few words for people; no more than 200 bytes are kept.
	Reason string
}

// State is the condition of a key.
type State uint8

// The states, the graver the greater. A key with several causes shows the
// gravest.
const (
	// StateOK can serve.
	StateOK State = iota
	// StateProbing has waited out a time of our own: the next request, or one
	// that is under way, decides.
	StateProbing
	// StateModelOff does not have the model; only in [ModelState].
	StateModelOff
	// StateCooling has failed too often.
	StateCooling
	// StateLimited is over a rate limit.
	StateLimited
	// StateUnreachable has an upstream that does not answer.
	StateUnreachable
	// StateExhausted has no quota or balance left.
	StateExhausted
	// StateInvalid is refused by the upstream.
	StateInvalid
)

var stateNames = [...]string{
	StateOK:          "ok",
	StateProbing:     "probing",
	StateModelOff:    "model_off",
	StateCooling:     "cooling",
	StateLimited:     "limited",
	StateUnreachable: "unreachable",
	StateExhausted:   "exhausted",
	StateInvalid:     "invalid",
}

// String returns the name of the state in lower case.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText returns the name of the state.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes what MarshalText returned.
func (s *State) UnmarshalText(text []byte) error {
	for i, n := range stateNames {
		if n == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("unknown key state %q", text)
}

// Change tells that a key went out of service or came back. A key that is out
// and finds a graver cause is told of again.
type Change struct {
	Pool string
	// Label names the key; empty: the whole upstream (StateUnreachable).
	Label  string
	State  State
	Reason string
	// Until is when the key may return; zero when it came back.
	Until time.Time
	// Out is true when it went out, false when it came back.
	Out bool
}

// KeyState describes one key to operators.
type KeyState struct {
	Label  string
	ID     string
	Weight int
	State  State
	Reason string
	// Since and Until are when the key went out and when it may return; zero
	// while it is well.
	Since, Until time.Time
	// LastError is the class of the latest failing report, Neutral if there was
	// none; LastErrorAt is its time.
	LastError   Class
	LastErrorAt time.Time
	// InFlight counts the requests that use the key now, over all pools of the
	// same identity.
	InFlight int
	// Served counts the successes since the key became known, Share is the
	// part of those of the whole pool, 0 to 1.
	Served uint64
	Share  float64
	// Models holds the waits that concern one model only, by name.
	Models []ModelState
}

// ModelState describes a wait of a key that concerns one model only: Limited,
// ModelOff, or Probing once a wait of our own is over.
type ModelState struct {
	Model        string
	State        State
	Reason       string
	Since, Until time.Time
}

// Unavailable is the error of a pool none of whose keys can serve.
type Unavailable struct {
	// Pool is the name of the pool; empty where several were asked.
	Pool string
	// Full tells that a key could serve if it were not at MaxRequests: Wait helps.
	Full bool
	// Limited tells that a limit or quota stands in the way at some key.
	Limited bool
	// Refused tells that every credential is refused.
	Refused bool
	// Until is the earliest return of a key that is out; zero if none is.
	Until time.Time
}

// Error says which upstream has no key, and why.
func (u *Unavailable) Error() string {
	var s strings.Builder
	if u.Pool != "" {
		s.WriteString("upstream " + u.Pool + ": ")
	}
	s.WriteString("no key can serve")
	switch {
	case u.Full:
		s.WriteString(": all at max_requests")
	case u.Limited:
		s.WriteString(": limit or quota reached")
	case u.Refused:
		s.WriteString(": every credential is refused")
	}
	if !u.Until.IsZero() {
		s.WriteString(", earliest return " + u.Until.UTC().Format(time.RFC3339))
	}
	return s.String()
}

// Join adds what another pool answered to the same request: Full and Limited if
// either is, Refused if both are, the earlier return.
func (u *Unavailable) Join(v *Unavailable) {
	if u.Pool != v.Pool {
		u.Pool = ""
	}
	u.Full = u.Full || v.Full
	u.Limited = u.Limited || v.Limited
	u.Refused = u.Refused && v.Refused
	u.Until = earlier(u.Until, v.Until)
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
