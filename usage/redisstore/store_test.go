package redisstore

import (
	"testing"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/redisstore/redistest"
	"github.com/floway/floway/usage/storetest"
	"strconv"
	"sync/atomic"
)

// namespaces of the tests of one server.
var count atomic.Int64

func TestStore(t *testing.T) {
	server := redistest.Start(t)
	storetest.Run(t, func(t testing.TB) usage.Store {
		return open(t, Config{URL: server.URL(), Namespace: "test" + strconv.FormatInt(count.Add(1), 10)})
	})
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
