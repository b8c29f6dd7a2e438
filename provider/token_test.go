package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// minter gives out tokens that live for half an hour and should be exchanged after
// 25 minutes.
type minter struct {
	mu      sync.Mutex
	count   int
	refused []Secret
	takes   time.Duration
	err     error
}

func (m *minter) fetch(ctx context.Context, refused Secret) (Token, error) {
	if m.takes > 0 {
		select {
		case <-time.After(m.takes):
		case <-ctx.Done():
			return Token{}, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count++
	m.refused = append(m.refused, refused)
	if m.err != nil {
		return Token{}, m.err
	}
	now := time.Now()
	return Token{
		Secret:  NewSecret(fmt.Sprint("token-", m.count)),
		Refresh: now.Add(25 * time.Minute), Expires: now.Add(30 * time.Minute),
	}, nil
}

func (m *minter) want(t *testing.T, s *TokenSource, token string, fetches int) {
	t.Helper()
	got, err := s.Token(t.Context(), m.fetch)
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || got.Secret != NewSecret(token) || m.count != fetches {
		t.Errorf("%q, %v, after %d fetches; want %s after %d", got.Secret.Reveal(), err, m.count, token, fetches)
	}
}

// A token is fetched once, and anew ahead of its end while it still serves.
func TestTokenIsRefreshedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s TokenSource
		m := &minter{}
		m.want(t, &s, "token-1", 1)
		time.Sleep(25*time.Minute - time.Second)
		m.want(t, &s, "token-1", 1)
		time.Sleep(time.Second)
		m.want(t, &s, "token-1", 2) // nobody waits for the fetch
		m.want(t, &s, "token-2", 2)
		time.Sleep(time.Hour)
		m.want(t, &s, "token-3", 3) // an idle hour: the token had expired
	})
}

// However many wait, one fetch is made, and it goes on when one of them leaves.
func TestTokenIsFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s TokenSource
		m := &minter{takes: time.Second}
		leaving, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := s.Token(leaving, m.fetch)
			left <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got, err := s.Token(t.Context(), m.fetch); err != nil || got.Secret != NewSecret("token-1") {
					t.Error(got, err)
				}
			})
		}
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		wg.Wait()
		if m.count != 1 {
			t.Errorf("%d fetches", m.count)
		}
	})
}

// A fetch that failed is not tried again at once, and never before the time that
// the service named; a token that still serves does so meanwhile.
func TestTokenFetchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s TokenSource
		m := &minter{err: errors.New("away")}
		fails := func(fetches int) {
			t.Helper()
			if got, err := s.Token(t.Context(), m.fetch); err == nil || err.Error() != m.err.Error() || m.count != fetches {
				t.Errorf("%v, %v after %d fetches, want %d", got, err, m.count, fetches)
			}
		}
		fails(1)
		fails(1)
		time.Sleep(fetchPause)
		m.err = &CredentialError{Reason: "slow down", Until: time.Now().Add(time.Hour)}
		fails(2)
		time.Sleep(time.Hour - time.Second)
		fails(2)
		time.Sleep(time.Second)
		m.err = nil
		m.want(t, &s, "token-3", 3)
		m.err = errors.New("away")
		time.Sleep(26 * time.Minute)
		m.want(t, &s, "token-3", 4)
		m.want(t, &s, "token-3", 4)
		time.Sleep(4 * time.Minute)
		m.err = errors.New("still away")
		fails(5)
		m.err = nil
		s.Forget()
		m.want(t, &s, "token-6", 6)
	})
}

// A token that the service refuses is exchanged once; whoever was refused with one
// that is gone already takes the new one; and if the new one is refused at once it
// is the account.
func TestTokenIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s TokenSource
		m := &minter{}
		m.want(t, &s, "token-1", 1)
		for range 2 { // two requests were sent with it
			if !s.Refuse(NewSecret("token-1")) {
				t.Error("not exchanged")
			}
		}
		m.want(t, &s, "token-2", 2)
		if m.refused[1] != NewSecret("token-1") {
			t.Errorf("the fetch was not told of the refused token: %v", m.refused)
		}
		if !s.Refuse(NewSecret("token-1")) {
			t.Error("an old token's refusal is held against the new one")
		}
		m.want(t, &s, "token-2", 2)
		if s.Refuse(NewSecret("token-2")) {
			t.Error("exchanged again and again")
		}
		m.want(t, &s, "token-2", 2)
		time.Sleep(leastLife)
		if !s.Refuse(NewSecret("token-2")) {
			t.Error("never exchanged again")
		}
		m.want(t, &s, "token-3", 3)
	})
}

// What a fetch brings that began before everything was forgotten is not kept.
func TestForgottenFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s TokenSource
		m := &minter{takes: time.Second}
		go func() { _, _ = s.Token(t.Context(), m.fetch) }()
		synctest.Wait()
		s.Forget()
		time.Sleep(2 * time.Second)
		if got, _ := s.Current(); !got.Secret.Empty() {
			t.Errorf("%q is kept", got.Secret.Reveal())
		}
	})
}

func TestMemory(t *testing.T) {
	var m Memory
	a := recall[int](&m, "a")
	*a = 7
	if *recall[int](&m, "a") != 7 || *recall[int](&m, "b") != 0 || recall[int](nil, "a") == a {
		t.Error("it is not remembered by its name")
	}
	for i := range 2 * maxMemories {
		recall[int](&m, fmt.Sprint(i))
	}
	if len(m.known) > maxMemories {
		t.Errorf("%d are kept", len(m.known))
	}
}

func TestBearerOf(t *testing.T) {
	for header, want := range map[string]string{"Bearer abc": "abc", "Bearer ": "", "": ""} {
		if got := bearerOf(http.Header{"Authorization": {header}}); got != NewSecret(want) {
			t.Errorf("%q: %q", header, got.Reveal())
		}
	}
}
