//go:build unix

package redisstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/redisstore/redistest"
)

const secret = "s3cret-Pa55word"

// expect holds an error against its class, what it must say, and what no error
// may say.
func expect(t testing.TB, err, class error, says string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("got %v, want one that is %v", err, class)
		return
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("%v does not say %q", err, says)
	}
	if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, secret) {
		t.Errorf("the error has the password in it: %s", text)
	}
}

func greet(t testing.TB, s *Store) error {
	t.Helper()
	_, err := s.Hello(t.Context(), stream)
	return err
}

func password(p string) func() string { return func() string { return p } }

func TestCredentials(t *testing.T) {
	server := redistest.Start(t)
	open := func(c Config) *Store {
		s := open(t, c)
		if text := fmt.Sprintf("%v %+v %#v %v %+v %#v", c, c, c, s, s, s); strings.Contains(text, secret) {
			t.Errorf("a printed config or store has the password in it: %s", text)
		}
		return s
	}
	withUser := func(credentials string) string { return "redis://" + credentials + "@" + server.Addr }

	server.Do("ACL", "SETUSER", "floway", "on", ">"+secret, "~fl:*", "+@all")
	server.Do("ACL", "SETUSER", "reader", "on", ">"+secret, "~fl:*", "+@read", "+ping")
	server.Do("ACL", "SETUSER", "default", "off")
	expect(t, greet(t, open(Config{URL: server.URL()})), usage.ErrCredentials, "set `password`")
	expect(t, greet(t, open(Config{URL: withUser("floway:" + secret + "x")})), usage.ErrCredentials, "check `username` and `password`")
	expect(t, greet(t, open(Config{URL: withUser("nobody:" + secret)})), usage.ErrCredentials, "check `username` and `password`")
	expect(t, greet(t, open(Config{URL: withUser("reader:" + secret)})), usage.ErrForbidden, "allow its user")

	// Those that work; username and password go before those of the URL.
	for name, c := range map[string]Config{
		"in the URL":  {URL: withUser("floway:" + secret)},
		"beside it":   {URL: server.URL(), Username: "floway", Password: password(secret)},
		"in place of": {URL: withUser("nobody:wrong"), Username: "floway", Password: password(secret)},
	} {
		if err := greet(t, open(c)); err != nil {
			t.Errorf("credentials %s: %v", name, err)
		}
	}
}

// TestLeastUser works as the user of the package's comment.
func TestLeastUser(t *testing.T) {
	source, err := os.ReadFile("store.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(source), "//	ACL SETUSER floway on >password ")
	line, _, _ = strings.Cut(line, "\npackage")
	rules := strings.Fields(strings.ReplaceAll(line, "//", ""))

	server := redistest.Start(t)
	server.Do(append([]string{"ACL", "SETUSER", "floway", "on", ">" + secret}, rules...)...)
	s := open(t, Config{URL: "redis://floway:" + secret + "@" + server.Addr + "/1"})
	l := &log{t: t}
	l.add(3, time.Now().AddDate(0, 0, -60)) // hours that are late
	l.add(3, time.Now())
	server.Do("EVAL", "redis.call('SELECT', 1) return redis.call('HSET', KEYS[1], ARGV[1], 'x')", "1",
		s.keys.index(usage.Hourly, 0, time.Now())+":client3|g|u|k|m", fmt.Sprint(int(usage.InputTokens)))
	if p := l.send(s, 2); p.DeadLetters != 1 || l.errors != 0 {
		t.Errorf("%d dead letters and %d errors, want 1 and none", p.DeadLetters, l.errors)
	}
	l.check(s)
	if b, err := usage.Weigh(t.Context(), s); err != nil || !b.Even() {
		t.Errorf("audit: %v", err)
	}
	if err := s.Tell(t.Context(), "key", "limited"); err != nil {
		t.Error(err)
	}
	if told, _, err := s.Told(t.Context(), ""); err != nil || told["key"] != "limited" {
		t.Errorf("%v, %v", told, err)
	}
	if err := s.Forget(t.Context(), "key"); err != nil {
		t.Error(err)
	}
	if err := s.Note(t.Context(), []usage.Note{{Upstream: "a"}}); err != nil {
		t.Error(err)
	}
	if notes, _, err := s.Noted(t.Context(), ""); err != nil || len(notes) != 1 {
		t.Errorf("%v, %v", notes, err)
	}
	if g, err := s.Hello(t.Context(), stream); err != nil || g.Warning != "" {
		t.Errorf("%+v, %v", g, err)
	}
	server.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	if g, err := s.Hello(t.Context(), stream); err != nil || g.Warning == "" {
		t.Errorf("%+v, %v", g, err)
	}
}

// TestPasswordChange changes the password of a running server. The store asks for
// the password anew with each connection.
func TestPasswordChange(t *testing.T) {
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "floway", "on", ">old"+secret, "~fl:*", "+@all")
	current := "old" + secret
	s := open(t, Config{URL: server.URL(), Username: "floway", Password: func() string { return current }})
	l := &log{t: t}
	l.add(3, time.Now())
	l.send(s, 1)

	server.Do("ACL", "SETUSER", "floway", "resetpass", ">new"+secret)
	server.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	err := greet(t, s)
	for range connections {
		if errors.Is(err, usage.ErrUnreachable) { // a connection that was killed
			err = greet(t, s)
		}
	}
	expect(t, err, usage.ErrCredentials, "password")
	current = "new" + secret
	l.add(3, time.Now())
	l.send(s, 1)
	l.check(s)
}

// TestServerTrouble puts a server into states in which it takes nothing. Each is
// told apart, nothing is written, and afterwards all goes on.
func TestServerTrouble(t *testing.T) {
	server := redistest.Start(t)
	for name, c := range map[string]struct {
		begin, end func()
		class      error
		says       string
		hello      bool // whether Hello is refused as well
	}{
		"no memory": {
			func() { server.Do("CONFIG", "SET", "maxmemory", "1") },
			func() { server.Do("CONFIG", "SET", "maxmemory", "0") },
			usage.ErrFull, "maxmemory", false,
		},
		"a replica": {
			func() { server.Do("REPLICAOF", "127.0.0.1", "1") },
			func() { server.Do("REPLICAOF", "NO", "ONE") },
			usage.ErrReadOnly, "replica", false,
		},
		"too few replicas": {
			func() { server.Do("CONFIG", "SET", "min-replicas-to-write", "1") },
			func() { server.Do("CONFIG", "SET", "min-replicas-to-write", "0") },
			usage.ErrReadOnly, "min-replicas-to-write", false,
		},
		"a replica without data": {
			func() {
				server.Do("CONFIG", "SET", "replica-serve-stale-data", "no")
				server.Do("REPLICAOF", "127.0.0.1", "1")
			},
			func() {
				server.Do("REPLICAOF", "NO", "ONE")
				server.Do("CONFIG", "SET", "replica-serve-stale-data", "yes")
			},
			usage.ErrLoading, "master", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			l := &log{t: t}
			l.add(5, time.Now())
			s := open(t, Config{URL: server.URL()})
			l.send(s, 2)
			l.add(5, time.Now()) // of the same clients: no row is new
			state := dump(server)

			c.begin()
			_, err := s.Apply(t.Context(), l.batch(5, 2))
			expect(t, err, c.class, c.says)
			if c.hello {
				expect(t, greet(t, s), c.class, c.says)
			} else if err := greet(t, s); err != nil {
				t.Errorf("Hello: %v", err)
			}
			c.end()
			if after := dump(server); !slices.Equal(after, state) {
				t.Errorf("something was written:\n%q\nbefore\n%q", after, state)
			}
			l.send(s, 3)
			l.check(s)
		})
	}
}

func TestTooManyClients(t *testing.T) {
	server := redistest.Start(t)
	hold := open(t, Config{URL: server.URL()})
	if err := greet(t, hold); err != nil {
		t.Fatal(err)
	}
	server.Do("CONFIG", "SET", "maxclients", "1")
	expect(t, greet(t, open(t, Config{URL: server.URL()})), usage.ErrUnreachable, "")
}

// TestBusyScript has somebody's endless script hold the server up.
func TestBusyScript(t *testing.T) {
	server := redistest.Start(t, redistest.Args("--lua-time-limit", "1"))
	s := open(t, Config{URL: server.URL()})
	l := &log{t: t}
	l.add(4, time.Now())
	l.send(s, 1)
	l.add(4, time.Now())

	ended := make(chan error, 1)
	somebody := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, ReadTimeout: time.Minute})
	defer somebody.Close()
	go func() { ended <- somebody.Eval(context.Background(), "while true do end", nil).Err() }()
	var err error
	for err == nil { // until the script has begun
		err = greet(t, s)
	}
	expect(t, err, usage.ErrLoading, "SCRIPT KILL")
	_, err = s.Apply(t.Context(), l.batch(4, 2))
	expect(t, err, usage.ErrLoading, "SCRIPT KILL")
	server.Do("SCRIPT", "KILL")
	<-ended
	l.send(s, 3)
	l.check(s)
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for _, raw := range []string{"redis://", "rediss://", "redis+cluster://", "redis+sentinel://"} {
		raw += "floway:" + secret + "@" + addr
		if strings.Contains(raw, "sentinel") {
			raw += "/main"
		}
		s := open(t, Config{URL: raw, Timeout: time.Second})
		err := greet(t, s)
		expect(t, err, usage.ErrUnreachable, addr)
	}
}

// TestFrozenServer has a server that accepts and never answers: calls end, and
// connections do not pile up.
func TestFrozenServer(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, Config{URL: server.URL(), Timeout: 200 * time.Millisecond})
	l := &log{t: t}
	l.add(4, time.Now())
	l.send(s, 1)
	l.add(4, time.Now())

	server.Freeze()
	for range 2 * connections {
		_, err := s.Apply(t.Context(), l.batch(4, 4))
		expect(t, err, usage.ErrUnreachable, "does not answer")
	}
	server.Thaw()
	l.send(s, 2) // whatever the server still finds in its sockets
	l.check(s)
	if n := strings.Count(server.Do("CLIENT", "LIST"), "addr="); n > connections+1 {
		t.Errorf("%d connections, want at most %d", n-1, connections)
	}
}

func TestEvictionWarning(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, Config{URL: server.URL()})
	for policy, warned := range map[string]bool{"noeviction": false, "allkeys-lru": true, "volatile-ttl": true} {
		server.Do("CONFIG", "SET", "maxmemory-policy", policy)
		g, err := s.Hello(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(g.Warning, policy) && strings.Contains(g.Warning, "noeviction"); got != warned {
			t.Errorf("under %s the warning is %q", policy, g.Warning)
		}
	}
}

// TestTLS speaks TLS with a server, and sees what is said where one side does not.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	roots := certificate(t, dir)
	plain := redistest.Start(t)
	server := redistest.Start(t, redistest.Args(
		"--tls-port", "0", "--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--tls-ca-cert-file", filepath.Join(dir, "cert.pem"), "--tls-auth-clients", "no"))
	// The port is changed at run time, because redistest knows only one.
	server.Do("CONFIG", "SET", "tls-port", free(t))
	addr := net.JoinHostPort("127.0.0.1", strings.TrimPrefix(server.Do("CONFIG", "GET", "tls-port"), "tls-port\n"))

	trusting := Config{URL: "rediss://" + addr, TLS: &tls.Config{RootCAs: roots}}
	if err := greet(t, open(t, trusting)); err != nil {
		t.Errorf("with TLS: %v", err)
	}
	expect(t, greet(t, open(t, Config{URL: "rediss://" + addr})), usage.ErrUnreachable, "certificate is not trusted")
	expect(t, greet(t, open(t, Config{URL: "rediss://" + plain.Addr, Timeout: 200 * time.Millisecond})), usage.ErrUnreachable, "use redis://")
	expect(t, greet(t, open(t, Config{URL: "redis://" + addr})), usage.ErrUnreachable, "rediss://")
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// certificate writes a certificate for the loopback and its key, and returns a
// pool that trusts it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return pool
}

// reply is an error reply of a server.
type reply string

func (r reply) Error() string { return string(r) }
func (r reply) RedisError()   {}

// TestReplies holds the meaning of replies that no test can make a server give,
// in the servers' own words.
func TestReplies(t *testing.T) {
	s := open(t, Config{URL: "redis://user:" + secret + "@host"})
	for text, class := range map[string]error{
		"LOADING Redis is loading the dataset in memory":                                                   usage.ErrLoading,
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": usage.ErrReadOnly,
		"CLUSTERDOWN The cluster is down":                                                                  usage.ErrLoading,
		"TRYAGAIN Multiple keys request during rehashing of slot":                                          usage.ErrLoading,
		"ERR AUTH <password> called without any password configured for the default user.":                 usage.ErrCredentials,
		"ERR invalid password": usage.ErrCredentials,
		"OOM command not allowed when used memory > 'maxmemory'. script: 1, on @user_script:1.": usage.ErrFull,
	} {
		err := s.explain(fmt.Errorf("some call: %w", reply(text)))
		expect(t, err, class, "the Redis store at redis://host:6379")
		expect(t, err, class, text)
	}
	if err := s.explain(reply("ERR unknown command")); !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("got %v", err)
	}
}
