package redisstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/floway/floway/usage"
)

// Config says where the store is. The zero value of everything but URL works.
type Config struct {
	// URL is one of
	//
	//	redis://[user:password@]host[:port][/database]
	//	redis+cluster://[user:password@]host[:port][,host[:port]…]
	//	redis+sentinel://[user:password@]sentinel[:port][,sentinel[:port]…]/master[/database]
	//
	// or the same with rediss for redis: over TLS, the certificate checked against
	// the system's roots. User and password may be percent-encoded. They are those
	// of the servers; with sentinels, and if Password is set, those of the sentinels.
	URL string
	// Username and Password, if set, go before those of the URL, each by itself, or
	// for sentinels both in their place. Password is
	// called for every connection, at the same time by several goroutines.
	Username string
	Password func() string
	// Namespace begins the names of all keys; default floway. Letters, digits and
	// "._:-", 64 at most.
	Namespace string
	// Retention says how long hours and days are kept.
	Retention usage.Retention
	// TLS, if set, is used for rediss in place of the default.
	TLS *tls.Config
	// Timeout bounds every call of the store, retries included; default 10s.
	// Reading a large bucket is several calls.
	Timeout time.Duration
}

// String is the address without any credentials.
func (c Config) String() string {
	a, err := parse(c.URL)
	if err != nil {
		return "redis store with a malformed address"
	}
	return a.String()
}

// GoString is String, so that no verb prints credentials.
func (c Config) GoString() string { return c.String() }

// Identity names the place in which the sums are kept, without credentials: two
// configs with the same identity share sums.
func (c Config) Identity() (string, error) {
	a, err := parse(c.URL)
	if err != nil {
		return "", err
	}
	namespace, err := c.namespace()
	if err != nil {
		return "", err
	}
	return a.String() + " " + namespace, nil
}

var namespaces = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func (c Config) namespace() (string, error) {
	switch {
	case c.Namespace == "":
		return "floway", nil
	case !namespaces.MatchString(c.Namespace):
		return "", fmt.Errorf("redis namespace %.80q: use 1 to 64 letters, digits and . _ : -", c.Namespace)
	}
	return c.Namespace, nil
}

type mode string

const (
	single   mode = ""
	cluster  mode = "+cluster"
	sentinel mode = "+sentinel"
)

// address is a parsed URL.
type address struct {
	tls                bool
	mode               mode
	username, password string
	hosts              []string // host:port
	master             string
	database           int
}

// String is the address as a URL without credentials, the same for the same place.
func (a *address) String() string {
	s := "redis"
	if a.tls {
		s = "rediss"
	}
	s += string(a.mode) + "://" + strings.Join(a.hosts, ",")
	if a.master != "" {
		s += "/" + a.master
	}
	if a.database != 0 {
		s += "/" + strconv.Itoa(a.database)
	}
	return s
}

// parse does without net/url, which does not know lists of hosts and repeats the
// URL, password included, in its errors. No error of parse repeats anything that
// comes before the last @.
func parse(raw string) (*address, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	a := new(address)
	switch scheme {
	case "redis", "redis+cluster", "redis+sentinel":
		a.mode = mode(strings.TrimPrefix(scheme, "redis"))
	case "rediss", "rediss+cluster", "rediss+sentinel":
		a.mode, a.tls = mode(strings.TrimPrefix(scheme, "rediss")), true
	default:
		ok = false
	}
	if !ok {
		return nil, errors.New("the address of the Redis store must begin with redis://, rediss://, redis+cluster:// or redis+sentinel://")
	}
	// The last @ ends the credentials: a password may well have one unescaped.
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		user, password, _ := strings.Cut(rest[:i], ":")
		rest = rest[i+1:]
		var err error
		if a.username, err = url.PathUnescape(user); err == nil {
			a.password, err = url.PathUnescape(password)
		}
		if err != nil {
			return nil, errors.New("the credentials in the address of the Redis store have a % that begins no percent-encoding: write %25, or use `password`")
		}
	}
	if strings.ContainsAny(rest, "?#") {
		return nil, errors.New("the address of the Redis store takes no ? or #: percent-encode them in a password, or use `password`")
	}

	hosts, path, _ := strings.Cut(rest, "/")
	port := "6379"
	if a.mode == sentinel {
		port = "26379"
	}
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := hostPort(host, port)
		if err != nil {
			return nil, err
		}
		a.hosts = append(a.hosts, addr)
	}
	if a.mode == single && len(a.hosts) > 1 {
		return nil, errors.New("several Redis hosts: use redis+cluster:// or redis+sentinel://")
	}
	// The order in which they are written does not make it another place.
	slices.Sort(a.hosts)
	a.hosts = slices.Compact(a.hosts)

	if a.mode == sentinel {
		a.master, path, _ = strings.Cut(path, "/")
		if a.master == "" {
			return nil, errors.New("the address of the Redis store lacks the master's name: redis+sentinel://host,host/master")
		}
	}
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		return a, nil
	}
	if a.mode == cluster {
		return nil, errors.New("a Redis cluster has no databases: leave out what follows the hosts")
	}
	n, err := strconv.Atoi(path)
	if err != nil || n < 0 {
		return nil, errors.New("the address of the Redis store must end in the number of a database, or in none; a / in a password is written %2F")
	}
	a.database = n
	return a, nil
}

func hostPort(text, defaultPort string) (string, error) {
	// Without an @ the text may be a password with a / in it: never repeat it.
	bad := errors.New("the address of the Redis store has a host that is not host, host:port or [IPv6]:port")
	host, port := text, defaultPort
	if bare, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(text, "]") {
		host = strings.TrimSuffix(bare, "]")
	} else if strings.Contains(text, ":") {
		var err error
		if host, port, err = net.SplitHostPort(text); err != nil {
			return "", bad
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", bad
	}
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", bad
	}
	return net.JoinHostPort(host, port), nil
}

const (
	defaultTimeout = 10 * time.Second
	// connections bounds the descriptors that a hanging server can hold.
	connections = 8
)

// options are those of the client library. It may try a call again by itself:
// the cursor sees to it that nothing counts twice.
func (c Config) options(a *address, timeout time.Duration) *redis.UniversalOptions {
	o := &redis.UniversalOptions{
		Addrs:         a.hosts,
		DB:            a.database,
		MasterName:    a.master,
		IsClusterMode: a.mode == cluster,

		Protocol:    2,
		MaxRetries:  1,
		DialTimeout: timeout / 2, DialerRetries: 1,
		ReadTimeout: timeout / 2, WriteTimeout: timeout / 2,
		ContextTimeoutEnabled: true,

		PoolSize: connections, MaxActiveConns: connections, PoolTimeout: timeout / 2,

		// Those are for a hosted product; elsewhere they cost a round trip.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DisableIdentity:          true,
	}
	if a.tls {
		o.TLSConfig = c.TLS
		if o.TLSConfig == nil {
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	if a.mode == sentinel && c.Password != nil {
		o.SentinelUsername, o.SentinelPassword = a.username, a.password
		o.CredentialsProvider = func() (string, string) { return c.Username, c.Password() }
		return o
	}
	o.CredentialsProvider = func() (string, string) {
		username, password := a.username, a.password
		if c.Username != "" {
			username = c.Username
		}
		if c.Password != nil {
			password = c.Password()
		}
		return username, password
	}
	return o
}
