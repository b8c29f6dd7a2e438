package relay

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/access"
)

// The list is fetched at once and then every 10 minutes; what is known stays when
// it cannot be fetched, which is tried again soon.
func TestDiscover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		start := time.Now()
		var asked []string
		answers := []string{`{"data":[{"id":"one"}]}`, "oops", "oops", `{"data":[{"id":"one"},{"id":"two","owned_by":"x","created":7}]}`}
		u := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
			asked = append(asked, fmt.Sprint(time.Since(start), req.Method, req.URL, req.Header.Get("Authorization"), req.Header.Get("User-Agent")))
			body := answers[0]
			if len(answers) > 1 {
				answers = answers[1:]
			}
			return respond(200, "application/json", readCloser(body)), nil
		}))
		u.Catalog = new(Catalog)
		r, _, logs := s.make()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Discover(ctx)
		}()
		at := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d - time.Since(start))
			synctest.Wait()
			if got := listed(r, &access.Client{}); got != want {
				t.Errorf("after %v: %s, want %s", d, got, want)
			}
		}
		at(0, "one")
		at(10*time.Minute, "one")
		if _, err := u.Catalog.Status(); err == nil {
			t.Error("no word of the error")
		}
		at(10*time.Minute+14*time.Second, "one")
		at(10*time.Minute+15*time.Second, "one two")
		if fetched, err := u.Catalog.Status(); err != nil || !fetched.Equal(time.Now()) {
			t.Error(fetched, err)
		}
		const each = "GEThttp://a.example/v1/modelsBearer sk-a1-secretfloway"
		if got := strings.Join(asked, " "); got != "0s"+each+" 10m0s"+each+" 10m5s"+each+" 10m15s"+each {
			t.Error(got)
		}
		if n := logs.Len(); n != 1 {
			t.Errorf("%d lines", n)
		}
		cancel()
		<-done
		wantIdle(t, u)

		// After a reload what is known is fresh still.
		asked = nil
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.Discover(ctx)
		if len(asked) != 0 {
			t.Error(asked)
		}
	})
}

// An answer that does not come ends with the time-out, or with the relay.
func TestDiscoverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		n := 0
		u := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
			n++
			<-req.Context().Done()
			return nil, req.Context().Err()
		}))
		u.Catalog = new(Catalog)
		r, _, _ := s.make()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.Discover(ctx)
		if n != 2 || time.Since(start) != time.Minute { // at 0 s and at 35 s
			t.Errorf("%d times in %v", n, time.Since(start))
		}
		wantIdle(t, u)
	})
}

func TestNameSet(t *testing.T) {
	now := newClock().Now()
	s := nameSet{most: 2}
	if s.has("a", now) || !s.add("a", now) || !s.add("a", now) || !s.add("b", now) || s.add("c", now) || s.has("c", now) || !s.add("a", now) {
		t.Error("the set is not bounded")
	}
	if tomorrow := now.Add(24 * time.Hour); s.has("a", tomorrow) || !s.add("c", tomorrow) || s.has("a", tomorrow) || !s.has("c", tomorrow) {
		t.Error("the set is not forgotten")
	}
}

func TestDefaults(t *testing.T) {
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if r.TryDuration != DefaultTryDuration || r.MaxBody != DefaultMaxBody || r.MaxBuffered != DefaultMaxBuffered ||
		r.Retries != 0 || r.Affinity == nil || r.Log == nil || r.Now == nil {
		t.Errorf("%+v", r.Config)
	}
}

func TestRequestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewRequestID()
		if seen[id] || len(id) != 24 || !strings.HasPrefix(id, "req_") || strings.ContainsFunc(id[4:], func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '2' || c > '7')
		}) {
			t.Fatal(id)
		}
		seen[id] = true
	}
}
