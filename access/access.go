package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Client is who calls: a person or an application with a name.
type Client struct {
	// Name is unique among the clients.
	Name string
	// Group is that of requests that name none; empty for none.
	Group string
	// Groups says what requests may name; empty for anything well-formed.
	Groups Patterns
	// Models and Upstreams say what the client may use; empty for all.
	Models    Patterns
	Upstreams []string
	// Expires is when the client's keys end; zero for never.
	Expires time.Time

	mu     sync.Mutex
	day    int
	groups map[string]bool
}

// MayUse says whether the client may use an upstream.
func (c *Client) MayUse(upstream string) bool {
	return len(c.Upstreams) == 0 || slices.Contains(c.Upstreams, upstream)
}

// MayAsk says whether the client may ask for a model. A name of the form
// <upstream>/<model> is also allowed where the bare model is.
func (c *Client) MayAsk(name, bare string) bool {
	return len(c.Models) == 0 || c.Models.Match(name) || bare != name && c.Models.Match(bare)
}

// OtherGroup is what groups beyond the bound are booked under.
const OtherGroup = "other"

// maxGroups bounds how many groups of a client's own choice are booked under
// their names: a client, day and instance.
const maxGroups = 100

var (
	// ErrGroupForm: the header names no group that could exist.
	ErrGroupForm = errors.New("X-Floway-Group must be 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
	// ErrGroup: the client may not use the group.
	ErrGroup = errors.New("this key may not use that group")
)

// Tag returns the group that a request is booked under, given what its
// X-Floway-Group header says.
func (c *Client) Tag(header string, now time.Time) (string, error) {
	header = strings.TrimSpace(header)
	if header == "" || header == c.Group {
		return c.Group, nil
	}
	if !WellFormedGroup(header) {
		return "", ErrGroupForm
	}
	if len(c.Groups) > 0 {
		if !c.Groups.Match(header) {
			return "", ErrGroup
		}
		if slices.Contains(c.Groups, Pattern(header)) {
			return header, nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if day := int(now.Unix() / 86400); day != c.day || c.groups == nil {
		c.day, c.groups = day, make(map[string]bool)
	}
	if !c.groups[header] {
		if len(c.groups) >= maxGroups {
			return OtherGroup, nil
		}
		c.groups[strings.Clone(header)] = true
	}
	return header, nil
}

// WellFormedGroup says whether a name can be a group's.
func WellFormedGroup(name string) bool {
	return wellFormed(name, 64, "._:-")
}

// WellFormedLabel says whether a name can be a label of a key, a client's name
// or an upstream's.
func WellFormedLabel(name string) bool {
	return wellFormed(name, 32, "._-")
}

func wellFormed(s string, most int, others string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= most
}

// Digest is the SHA-256 of a client key: the only form in which keys are kept.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a key.
func DigestOf(key string) Digest { return sha256.Sum256([]byte(key)) }

// ParseDigest reads the 64 hex digits behind `sha256:`.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return d, fmt.Errorf("a SHA-256 has 64 hex digits, not %d", len(s))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, errors.New("a SHA-256 is written in hex digits")
	}
	return d, nil
}

// Clients finds clients by their keys. It is built once and then only read.
type Clients struct {
	byKey     map[Digest]*Client
	byName    map[string]*Client
	anonymous *Client
}

// NewClients returns an empty list.
func NewClients() *Clients {
	return &Clients{byKey: map[Digest]*Client{}, byName: map[string]*Client{}}
}

// Add adds a client with its keys. No two clients may share a name or a key.
func (cs *Clients) Add(c *Client, keys ...Digest) error {
	if _, taken := cs.byName[c.Name]; taken {
		return fmt.Errorf("two clients are called %q", c.Name)
	}
	cs.byName[c.Name] = c
	for _, k := range keys {
		if other, taken := cs.byKey[k]; taken {
			if other == c {
				return fmt.Errorf("client %q has one key twice", c.Name)
			}
			return fmt.Errorf("the clients %q and %q have the same key", other.Name, c.Name)
		}
		cs.byKey[k] = c
	}
	return nil
}

// SetAnonymous makes requests whose key is missing or unknown those of the
// client of that name, which must have no keys.
func (cs *Clients) SetAnonymous(name string) error {
	c, ok := cs.byName[name]
	if !ok {
		return fmt.Errorf("anonymous names the client %q, which is not declared", name)
	}
	for _, other := range cs.byKey {
		if other == c {
			return fmt.Errorf("anonymous names the client %q, which has keys", name)
		}
	}
	cs.anonymous = c
	return nil
}

// Named returns the client of that name, or nil.
func (cs *Clients) Named(name string) *Client { return cs.byName[name] }

// All returns the clients' names, sorted.
func (cs *Clients) All() []string {
	names := make([]string, 0, len(cs.byName))
	for n := range cs.byName {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

var (
	// ErrNoKey: the request has no key.
	ErrNoKey = errors.New("no API key was given; send it as a Bearer token in Authorization, or in x-api-key, api-key or x-goog-api-key")
	// ErrUnknownKey: the key is none that is known.
	ErrUnknownKey = errors.New("incorrect API key")
	// ErrExpired: the key's time is over.
	ErrExpired = errors.New("this API key has expired")
)

// maxCandidates bounds how many keys of one request are looked up.
const maxCandidates = 8

// Identify finds the client of a request by its header and, if query is given,
// by the query's member key. Of several keys the first valid one wins; blank
// ones are skipped.
func (cs *Clients) Identify(h http.Header, query string, now time.Time) (*Client, error) {
	err := ErrNoKey
	tried := 0
	try := func(key string) *Client {
		key = strings.TrimSpace(key)
		if key == "" || tried == maxCandidates {
			return nil
		}
		tried++
		c, ok := cs.byKey[DigestOf(key)]
		switch {
		case !ok:
			if err == ErrNoKey {
				err = ErrUnknownKey
			}
			return nil
		case !c.Expires.IsZero() && now.After(c.Expires):
			err = ErrExpired
			return nil
		}
		return c
	}
	for _, v := range h["Authorization"] {
		if len(v) > 7 && strings.EqualFold(v[:7], "Bearer ") {
			if c := try(v[7:]); c != nil {
				return c, nil
			}
		}
	}
	for _, name := range [...]string{"X-Api-Key", "Api-Key", "X-Goog-Api-Key"} {
		for _, v := range h[name] {
			if c := try(v); c != nil {
				return c, nil
			}
		}
	}
	if c := try(query); c != nil {
		return c, nil
	}
	if err != ErrExpired && cs.anonymous != nil {
		return cs.anonymous, nil
	}
	return nil, err
}
