package relay

import (
	"strings"
	"sync"
	"time"
)

// nameSet is a bounded set of names that is forgotten every day.
type nameSet struct {
	most int

	mu    sync.RWMutex
	day   int64
	names map[string]bool
}

// add puts a name in; false if there is no more room.
func (s *nameSet) add(name string, now time.Time) bool {
	if s.has(name, now) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if day := now.Unix() / 86400; s.names == nil || day != s.day {
		s.day, s.names = day, make(map[string]bool)
	}
	if len(s.names) >= s.most {
		return s.names[name]
	}
	s.names[strings.Clone(name)] = true
	return true
}

func (s *nameSet) has(name string, now time.Time) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.names[name] && now.Unix()/86400 == s.day
}
