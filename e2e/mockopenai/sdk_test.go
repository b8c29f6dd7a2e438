package mockopenai_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/floway/floway/e2e/mockopenai"
	"github.com/floway/floway/e2e/openaicalls"
)

func start(t *testing.T) *httptest.Server {
	t.Helper()
	return startServer(t, mockopenai.New(mockopenai.Config{}))
}

func startServer(t *testing.T, mock *mockopenai.Server) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(mock)
	s.Config.ConnState = mock.CountConnections
	s.Start()
	t.Cleanup(func() {
		mock.Close()
		s.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// wait returns once so many requests have ended.
func wait(t *testing.T, c mockopenai.Control, n int) {
	t.Helper()
	for {
		st, err := c.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if st.Requests >= n {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the test is over")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// The official SDK understands every answer, and equal questions get equal bytes.
func TestOfficialSDK(t *testing.T) {
	s := start(t)
	client := openaicalls.Client(s.URL+"/v1", "sk-mock-upstream-1")
	for _, call := range openaicalls.All {
		t.Run(call.Name, func(t *testing.T) {
			var once, again openaicalls.Tape
			for _, tape := range []*openaicalls.Tape{&once, &again} {
				if err := call.Do(t.Context(), client, tape); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(once.Pieces, again.Pieces) {
				t.Errorf("asked twice, got\n%q\nand\n%q", once.Pieces, again.Pieces)
			}
		})
	}
}
