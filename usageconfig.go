package floway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/boltstore"
	"github.com/floway/floway/usage/ledger"
	"github.com/floway/floway/usage/redisstore"
)

// Usage says where the account of requests is kept.
type Usage struct {
	// Store is `embedded`, `redis` or `off`. Default: `embedded`
	Store string `json:"store,omitempty"`
	// Dir is the directory of the embedded store. Default: `floway` in Caddy's
	// data directory
	Dir string `json:"dir,omitempty"`
	// URL is the address of Redis: `redis://`, `rediss://`,
	// `redis+cluster://host,host` or `redis+sentinel://host,host/master`.
	URL string `json:"url,omitempty"`
	// Username and Password are Redis'; they go before those of the URL.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	// Namespace begins the names of all keys in Redis. Default: `floway`
	Namespace string `json:"namespace,omitempty"`
	// Log is the directory of the ledger. Default: one for each store, in
	// Caddy's data directory
	Log string `json:"log,omitempty"`
	// Durability says when a record is safe from the loss of power: `process`
	// (within a second), `batch` (within a tenth of one) or `strict` (before the
	// answer ends). Default: `batch`
	Durability string `json:"durability,omitempty"`
	// OnLogFull says what becomes of requests that cannot be recorded: `refuse`
	// or `continue`. Default: `refuse`
	OnLogFull string `json:"on_log_full,omitempty"`
	// KeepHours and KeepDays say how long hourly and daily sums are kept.
	// Default: `35d` and `400d`; months are kept
	KeepHours caddy.Duration `json:"keep_hours,omitempty"`
	KeepDays  caddy.Duration `json:"keep_days,omitempty"`
}

const (
	storeEmbedded = "embedded"
	storeRedis    = "redis"
	storeOff      = "off"
)

// settings is a Usage with everything resolved. Two that are equal are the same
// account.
type settings struct {
	store      string
	dir        string // of the embedded store
	url        string
	username   string
	password   string
	namespace  string
	log        string // directory of the ledger
	sink       string // identity of the store
	durability ledger.Durability
	onFull     ledger.OnFull
	retention  usage.Retention
}

func (u *Usage) resolve() (settings, error) {
	s := settings{
		store:     u.Store,
		retention: usage.Retention{Hours: time.Duration(u.KeepHours), Days: time.Duration(u.KeepDays)}.WithDefaults(),
	}
	if u.KeepHours < 0 || u.KeepDays < 0 {
		return s, errors.New("usage: a retention cannot be negative")
	}
	switch u.Durability {
	case "", "batch":
		s.durability = ledger.Batch
	case "process":
		s.durability = ledger.Process
	case "strict":
		s.durability = ledger.Strict
	default:
		return s, fmt.Errorf("usage: durability %s is not process, batch or strict", quoted(u.Durability))
	}
	switch u.OnLogFull {
	case "", "refuse":
		s.onFull = ledger.Refuse
	case "continue":
		s.onFull = ledger.Continue
	default:
		return s, fmt.Errorf("usage: on_log_full %s is not refuse or continue", quoted(u.OnLogFull))
	}
	var err error
	for _, f := range []struct {
		name string
		from string
		to   *string
	}{
		{"dir", u.Dir, &s.dir},
		{"url", u.URL, &s.url},
		{"username", u.Username, &s.username},
		{"password", u.Password, &s.password},
		{"namespace", u.Namespace, &s.namespace},
		{"log", u.Log, &s.log},
	} {
		if *f.to, err = resolve(f.from); err != nil {
			return s, fmt.Errorf("usage: %s: %w", f.name, placeholderError(f.from, err))
		}
	}
	switch s.store {
	case "", storeEmbedded:
		s.store = storeEmbedded
		if s.url != "" || s.username != "" || s.password != "" || s.namespace != "" {
			return s, errors.New("usage: url, username, password and namespace belong to the store redis")
		}
		if s.dir == "" {
			s.dir = defaultDir()
		}
		if s.dir, err = filepath.Abs(s.dir); err != nil {
			return s, fmt.Errorf("usage: dir: %w", err)
		}
		s.sink = embeddedSink(s.dir)
	case storeRedis:
		if s.dir != "" {
			return s, errors.New("usage: dir belongs to the store embedded")
		}
		if err := s.checkRedis(); err != nil {
			return s, fmt.Errorf("usage: %w", err)
		}
	default:
		return s, fmt.Errorf("usage: %s is not a store; there are embedded, redis and off", quoted(s.store))
	}
	if s.log == "" {
		if s.store == storeEmbedded {
			s.log = filepath.Join(s.dir, "ledger")
		} else {
			sum := sha256.Sum256([]byte(s.sink))
			s.log = filepath.Join(caddy.AppDataDir(), "floway", "ledger-"+hex.EncodeToString(sum[:6]))
		}
	}
	if s.log, err = filepath.Abs(s.log); err != nil {
		return s, fmt.Errorf("usage: log: %w", err)
	}
	return s, nil
}

// checkRedis finds mistakes in the address without connecting, and makes the
// store's identity of it, which has no credential in it.
func (s *settings) checkRedis() error {
	if s.url == "" {
		return errors.New("redis needs a URL, such as redis://127.0.0.1:6379")
	}
	store, err := s.newRedis()
	if err != nil {
		return err
	}
	_ = store.Close()
	s.sink, err = s.redis().Identity()
	return err
}

func (s *settings) redis() redisstore.Config {
	c := redisstore.Config{URL: s.url, Username: s.username, Namespace: s.namespace, Retention: s.retention}
	if password := s.password; password != "" {
		c.Password = func() string { return password }
	}
	return c
}

func (s *settings) newRedis() (*redisstore.Store, error) { return redisstore.New(s.redis()) }

func (s *settings) openStore() (usage.Store, error) {
	if s.store == storeRedis {
		return s.newRedis()
	}
	return boltstore.Open(filepath.Join(s.dir, storeFile), boltstore.Options{Retention: s.retention})
}

// storeFile is the embedded store's in its directory.
const storeFile = "usage.db"

// defaultDir is the directory of the embedded store where the configuration names
// none.
func defaultDir() string { return filepath.Join(caddy.AppDataDir(), "floway") }

// embeddedSink is the identity of the embedded store in dir.
func embeddedSink(dir string) string { return "embedded:" + dir }

// resolve replaces the placeholders of a configured value. The result belongs
// into unexported fields only: configurations are printed and saved.
func resolve(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return caddy.NewReplacer().ReplaceOrErr(s, true, true)
}
