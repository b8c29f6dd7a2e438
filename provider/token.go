package provider

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Token is an access token that a service gives out for a while.
type Token struct {
	Secret Secret
	// Refresh is from when on another one is fetched while this one still serves;
	// Expires is from when on it serves no more.
	Refresh, Expires time.Time
	// Base is the address where the service wants to see it; nil for the one that
	// is configured.
	Base *url.URL
}

// Fetch gets a token. refused is the one that the service did not take any longer,
// if that is why it is called: the same must not be returned again. Errors should
// be a *CredentialError where anything is known of whose fault it is.
type Fetch func(ctx context.Context, refused Secret) (Token, error)

// CredentialError is why a request could not be authenticated. Its text is for
// the operator; it holds no secret.
type CredentialError struct {
	// Meaning is that of a refusal: BadCredential, QuotaSpent, AccountLimit; Plain
	// if whoever gives out tokens cannot be reached or fails.
	Meaning Meaning
	// Until is the end of the wait that the service named; zero for none.
	Until time.Time
	// Reason is what is wrong, in words.
	Reason string
}

func (e *CredentialError) Error() string { return e.Reason }

// Times of token sources.
const (
	// fetchTimeout bounds one fetch, with all that it tries again.
	fetchTimeout = 45 * time.Second
	// fetchPause is how long after a failed fetch the next one may begin, unless
	// the service named a longer wait.
	fetchPause = 5 * time.Second
	// leastLife is how long a token must have served that took the place of a
	// refused one, before it is exchanged for being refused itself: what refuses
	// every token means the account.
	leastLife = time.Minute
)

// TokenSource keeps one token: fetched when it is first asked for, fetched anew
// ahead of its end while the old one serves, and by one fetch at a time however
// many wait. The zero TokenSource is ready. It may be used by many goroutines at
// once, and by several upstreams with the same account.
type TokenSource struct {
	mu      sync.Mutex
	token   Token
	since   time.Time // when the token came
	refused Secret    // the last token that was not taken
	instead bool      // token came in place of a refused one
	flight  *flight   // the fetch under way, or nil
	err     error     // why the last fetch failed
	next    time.Time // no fetch begins before
	forgot  int       // how often everything was forgotten
}

// flight is a fetch that others may wait for.
type flight struct {
	done  chan struct{}
	token Token
	err   error
}

// Token returns a token that serves, fetched if there is none. It ends with ctx;
// a fetch that has begun does not, because others may wait for it.
func (s *TokenSource) Token(ctx context.Context, fetch Fetch) (Token, error) {
	s.mu.Lock()
	now := time.Now()
	t := s.token
	serves := !t.Secret.Empty() && now.Before(t.Expires)
	if serves && now.Before(t.Refresh) {
		s.mu.Unlock()
		return t, nil
	}
	if s.flight == nil && !now.Before(s.next) {
		s.flight = &flight{done: make(chan struct{})}
		go s.fetch(s.flight, fetch, s.refused, s.forgot)
	}
	f, err := s.flight, s.err
	s.mu.Unlock()
	switch {
	case serves:
		return t, nil
	case f == nil:
		return Token{}, err
	}
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}

func (s *TokenSource) fetch(f *flight, fetch Fetch, refused Secret, forgot int) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	f.token, f.err = fetch(ctx, refused)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	if s.forgot != forgot {
		return // it is about what was before
	}
	now := time.Now()
	s.flight, s.err = nil, f.err
	if f.err != nil {
		s.next = now.Add(fetchPause)
		if e, ok := f.err.(*CredentialError); ok && e.Until.After(s.next) {
			s.next = e.Until
		}
		return
	}
	s.token, s.since, s.next = f.token, now, time.Time{}
	s.instead = !refused.Empty()
	s.refused = Secret{}
}

// Refuse is told that the service did not take a token. True means that the next
// one may be taken: Token will fetch it, unless it is there already.
func (s *TokenSource) Refuse(used Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.token.Secret.Empty() || s.token.Secret != used:
		return true
	case s.instead && time.Since(s.since) < leastLife:
		return false
	}
	s.token, s.refused, s.next = Token{}, used, time.Time{}
	return true
}

// Forget makes the source as if it had never fetched: the account has changed.
func (s *TokenSource) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.refused, s.instead, s.err, s.next, s.flight = Token{}, Secret{}, false, nil, time.Time{}, nil
	s.forgot++
}

// Current returns the token that is kept, without fetching, and why the last fetch
// failed.
func (s *TokenSource) Current() (Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token, s.err
}

// bearerOf returns the token that a request was sent with.
func bearerOf(sent http.Header) Secret {
	const scheme = "Bearer "
	if v := sent.Get("Authorization"); len(v) > len(scheme) {
		return NewSecret(v[len(scheme):])
	}
	return Secret{}
}

// Memory keeps what is known of accounts while upstreams are made anew, as at a
// reload. The zero Memory is ready; it may be used by many goroutines at once.
type Memory struct {
	mu    sync.Mutex
	known map[string]any
}

// maxMemories bounds what is kept for accounts that are no longer configured.
const maxMemories = 1000

// recall returns what is kept under a name, made anew if there is nothing. A nil
// Memory keeps nothing.
func recall[T any](m *Memory, name string) *T {
	if m == nil {
		return new(T)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if kept, ok := m.known[name].(*T); ok {
		return kept
	}
	if m.known == nil || len(m.known) >= maxMemories {
		m.known = map[string]any{}
	}
	made := new(T)
	m.known[name] = made
	return made
}
