// Package access knows the clients: their keys, their groups and what they may
// use. It knows nothing of upstreams but their names.
package access

import "strings"

// Pattern matches names. `*` matches any characters, slashes included; nothing
// else is special, and case counts.
type Pattern string

// Match says whether the pattern matches the whole name.
func (p Pattern) Match(name string) bool {
	s := string(p)
	i := strings.IndexByte(s, '*')
	if i < 0 {
		return s == name
	}
	if !strings.HasPrefix(name, s[:i]) {
		return false
	}
	name, s = name[i:], s[i+1:]
	for {
		i = strings.IndexByte(s, '*')
		if i < 0 {
			return strings.HasSuffix(name, s)
		}
		// The leftmost place is as good as any for all but the last piece.
		at := strings.Index(name, s[:i])
		if at < 0 {
			return false
		}
		name, s = name[at+i:], s[i+1:]
	}
}

// Literal says whether the pattern spells one name.
func (p Pattern) Literal() bool { return !strings.Contains(string(p), "*") }

// Patterns is a list of patterns.
type Patterns []Pattern

// Match says whether any of the patterns matches the name.
func (ps Patterns) Match(name string) bool {
	for _, p := range ps {
		if p.Match(name) {
			return true
		}
	}
	return false
}
