// Package redisstore keeps sums of usage in Redis, for any number of instances.
//
// Everything that counts is done by one script, which moves a stream's position
// together with the sums; nothing else in floway raises a counter in Redis. That
// is why a repeated, delayed or lost call cannot count twice, whoever repeats it.
//
// It needs Redis 5 or what is compatible with it, with a maxmemory-policy of
// noeviction. A user that may do no more than necessary is made by
//
//	ACL SETUSER floway on >password ~fl:* +eval +evalsha +type +get +set +hget +hmget
//	  +hgetall +hlen +hset +hdel +hincrby +sadd +sismember +smembers +srem +sscan +rpush
//	  +lrange +ltrim +xadd +xread +del +expire +expireat +time +info +multi +exec +select
package redisstore

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/floway/floway/usage"
)

//go:embed apply.lua
var applySource string

//go:embed hello.lua
var helloSource string

var (
	applyScript = redis.NewScript(applySource)
	helloScript = redis.NewScript(helloSource)
)

// layout is the version of the keys and their contents, which the genesis names.
const layout = "1"

// Store implements usage.Store. Make it by New.
type Store struct {
	client    redis.UniversalClient
	keys      keys
	name      string
	tls       bool
	retention usage.Retention
	timeout   time.Duration
	retired   atomic.Int64 // when streams were retired last, in Unix seconds
}

var _ usage.Store = (*Store)(nil)

// quiet silences the client library, which by itself writes a line to standard
// error for every connection that it cannot make. All of it comes back as errors.
var quiet = sync.OnceFunc(logging.Disable)

// New makes a store. It looks at the config only and connects with the first call.
func New(c Config) (*Store, error) {
	a, err := parse(c.URL)
	if err != nil {
		return nil, err
	}
	namespace, err := c.namespace()
	if err != nil {
		return nil, err
	}
	if c.Retention.Hours < 0 || c.Retention.Days < 0 || c.Timeout < 0 {
		return nil, errors.New("redis store: a negative duration")
	}
	s := &Store{
		keys:      newKeys(namespace),
		name:      "the Redis store at " + a.String(),
		tls:       a.tls,
		retention: c.Retention.WithDefaults(),
		timeout:   c.Timeout,
	}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	quiet()
	s.client = redis.NewUniversalClient(c.options(a, s.timeout))
	return s, nil
}

// String names the store, without credentials.
func (s *Store) String() string { return s.name }

// GoString is String, so that no verb prints what is inside.
func (s *Store) GoString() string { return s.name }

// Retention implements usage.Store.
func (s *Store) Retention() usage.Retention { return s.retention }

// MaxIncrements keeps the script short: Redis does nothing else meanwhile.
func (s *Store) MaxIncrements() int { return usage.MaxIncrements }

// Close implements usage.Store.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return s.explain(err)
	}
	return nil
}

// Hello implements usage.Store.
func (s *Store) Hello(ctx context.Context, stream usage.StreamID) (usage.Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()

	cursor := s.keys.cursor(stream)
	names := []string{s.keys.genesis(), cursor, s.keys.streams(), s.keys.retired()}
	answer, err := helloScript.Run(ctx, s.client, names, genesis(), stream.String()).Slice()
	if err != nil {
		return usage.Greeting{}, s.explain(err)
	}
	if len(answer) != 4 {
		return usage.Greeting{}, s.foreign("answered Hello with %d parts", len(answer))
	}

	var g usage.Greeting
	named, _ := answer[0].(string)
	version, name, ok := strings.Cut(named, " ")
	switch n, err := strconv.ParseUint(version, 10, 32); {
	case !ok || err != nil || name == "":
		return usage.Greeting{}, s.foreign("the key %s holds %.40q", s.keys.genesis(), named)
	case version != layout:
		return usage.Greeting{}, fmt.Errorf("%s %w: its layout is %d, this floway knows %s; update floway, or use another `namespace`",
			s, usage.ErrNewer, n, layout)
	}
	g.Genesis = name
	if g.Position, _, g.Known, err = parsePosition(answer[1]); err != nil {
		return usage.Greeting{}, s.foreign("the key %s: %w", cursor, err)
	}
	if g.Time, err = parseTime(answer[2]); err != nil {
		return usage.Greeting{}, s.foreign("it told the time as %v: %w", answer[2], err)
	}
	g.Warning = s.warning(ctx)
	// The same script names the stream and writes its position: who has neither has
	// no sums, unless the server drops keys one by one.
	g.Lost = !g.Known && (answer[3] != int64(0) || g.Warning != "")
	s.retire(ctx)
	return g, nil
}

// warning looks at the eviction policy: one that drops counters or positions makes
// sums wrong without anybody noticing. A server that does not tell is not blamed.
func (s *Store) warning(ctx context.Context) string {
	info, err := s.client.Info(ctx, "memory").Result()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(info) {
		policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
		if ok && policy != "noeviction" {
			return fmt.Sprintf("%s may drop counters when memory runs short: its maxmemory-policy is %s; set it to noeviction", s, policy)
		}
	}
	return ""
}

// genesis is a value for the genesis key of a store that has none.
func genesis() string { return layout + " " + rand.Text() }

// Apply implements usage.Store.
func (s *Store) Apply(ctx context.Context, b *usage.Batch) (usage.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()

	names, args := s.encode(b)
	answer, err := applyScript.Run(ctx, s.client, names, args...).Slice()
	if err != nil {
		return usage.Position{}, s.explain(err)
	}
	if len(answer) != 2 {
		return usage.Position{}, s.foreign("answered a batch with %d parts", len(answer))
	}
	p, _, _, err := parsePosition(answer[1])
	if err != nil {
		return usage.Position{}, s.foreign("the key %s: %w", s.keys.cursor(b.Stream), err)
	}
	switch answer[0] {
	case "OK":
		return p, nil
	case "FENCED":
		return p, usage.ErrFenced
	case "MISMATCH":
		return p, usage.ErrMismatch
	default:
		return usage.Position{}, s.foreign("answered a batch with %v", answer[0])
	}
}

// bucketID names what a batch has for one index.
type bucketID struct {
	table usage.Table
	dim   usage.Dimension
	start int64
}

// encode makes the keys and arguments of apply.lua. A batch has thousands of
// increments, so those of a bucket are one argument and the names of all rows lie
// in one piece of memory.
func (s *Store) encode(b *usage.Batch) (names []string, args []any) {
	buckets := make(map[bucketID][]int) // where in the batch
	var order []bucketID
	for i := range b.Rows {
		r := &b.Rows[i]
		if r.Counts.IsZero() {
			continue
		}
		id := bucketID{r.Table, r.Dim, r.Bucket.Unix()}
		rows, known := buckets[id]
		if !known {
			order = append(order, id)
		}
		buckets[id] = append(rows, i)
	}

	names = make([]string, 0, 6+len(order)+len(b.Rows))
	names = append(names, s.keys.cursor(b.Stream), s.keys.genesis(), s.keys.streams(), s.keys.months(), s.keys.late(), s.keys.letters())
	args = make([]any, 0, 10+4*len(order))
	args = append(args,
		b.Stream.String(),
		strconv.FormatUint(b.Epoch, 10),
		strconv.FormatUint(b.From, 10),
		strconv.FormatUint(b.To, 10),
		strconv.FormatUint(uint64(b.Chain), 10),
		strconv.FormatUint(b.Since, 10),
		strconv.FormatUint(uint64(b.SinceChain), 10),
		genesis(),
		strconv.Itoa(len(order)))
	var text []byte // names of rows
	var ends []int
	for _, id := range order {
		start, rows := time.Unix(id.start, 0).UTC(), buckets[id]
		index := s.keys.index(id.table, id.dim, start)
		expires, month := "0", ""
		if t := s.retention.Expiry(id.table, start); !t.IsZero() {
			expires = strconv.FormatInt(max(t.Unix(), 1), 10)
		} else {
			month = start.Format(monthLayout)
		}
		text, ends = text[:0], ends[:0]
		packed := packArray(make([]byte, 0, 5+packedRow*len(rows)), len(rows))
		for _, i := range rows {
			r := &b.Rows[i]
			text = append(append(text, index...), ':')
			text = appendRow(text, id.table.Names(id.dim), &r.Key)
			ends = append(ends, len(text))
			packed = packCounts(packed, &r.Counts)
		}
		names = append(names, index)
		all, from := string(text), 0
		for _, end := range ends {
			names = append(names, all[from:end])
			from = end
		}
		args = append(args, expires, late(id.table), month, packed)
	}
	return names, append(args, packCounts(nil, &b.Totals))
}

// late is the letter before the fields of the late hash that count a table. Days
// by single dimensions are not counted: they are late when the days are.
func late(t usage.Table) string {
	switch t {
	case usage.Hourly:
		return "h"
	case usage.Daily:
		return "d"
	default:
		return ""
	}
}

// What follows is the little of MessagePack that apply.lua is given. All numbers go
// as strings: Lua would round them.

// packedRow is about what the counts of a row take.
const packedRow = 128

func packArray(b []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(n))
}

// fieldNames are the names of the hash fields, packed.
var fieldNames = func() (names [usage.Fields]string) {
	for f := range names {
		names[f] = string(packNumber(nil, int64(f)))
	}
	return names
}()

// packCounts packs an array of the fields that are not zero, each with its value.
func packCounts(b []byte, c *usage.Counts) []byte {
	at, n := len(b)+1, 0
	b = append(b, 0xdc, 0, 0)
	for f, v := range c {
		if v != 0 {
			b = packNumber(append(b, fieldNames[f]...), v)
			n += 2
		}
	}
	binary.BigEndian.PutUint16(b[at:], uint16(n))
	return b
}

func packNumber(b []byte, v int64) []byte {
	at := len(b)
	b = strconv.AppendInt(append(b, 0), v, 10)
	b[at] = 0xa0 | byte(len(b)-at-1) // 20 characters at most
	return b
}

// page is how many rows are asked for at a time.
const page = 500

// Scan implements usage.Store.
func (s *Store) Scan(ctx context.Context, t usage.Table, d usage.Dimension, start time.Time, yield func(usage.Key, *usage.Counts) bool) error {
	index := s.keys.index(t, d, start)
	dims := t.Names(d)
	// A set that grows or shrinks while it is read gives some names twice.
	seen := make(map[string]bool)
	for cursor := uint64(0); ; {
		rows, next, err := s.rows(ctx, index, cursor, seen)
		if err != nil {
			return s.explainKey(index, err)
		}
		for _, r := range rows {
			// A row of somebody else's making is passed over: what should have
			// gone there is among the dead letters.
			key, err := parseRow(r.name, dims)
			if err != nil || r.counts.Err() != nil {
				continue
			}
			c := parseCounts(r.counts.Val(), "")
			if !c.IsZero() && !yield(key, &c) {
				return nil
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

type row struct {
	name   string
	counts *redis.MapStringStringCmd
}

// rows reads one page of a bucket.
func (s *Store) rows(ctx context.Context, index string, cursor uint64, seen map[string]bool) (rows []row, next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()

	names, next, err := s.client.SScan(ctx, index, cursor, "", page).Result()
	if err != nil {
		return nil, 0, err
	}
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				rows = append(rows, row{name, p.HGetAll(ctx, index+":"+name)})
			}
		}
		return nil
	})
	if err != nil && !said(err, "WRONGTYPE") {
		return nil, 0, err
	}
	return rows, next, nil
}

// Months implements usage.Store.
func (s *Store) Months(ctx context.Context) ([]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()

	names, err := s.client.SMembers(ctx, s.keys.months()).Result()
	if err != nil {
		return nil, s.explainKey(s.keys.months(), err)
	}
	months := make([]time.Time, 0, len(names))
	for _, name := range names {
		m, err := time.Parse(monthLayout, name)
		if err != nil {
			return nil, s.foreign("the key %s holds %.40q", s.keys.months(), name)
		}
		months = append(months, m)
	}
	slices.SortFunc(months, time.Time.Compare)
	return months, nil
}

// Audit implements usage.Store.
func (s *Store) Audit(ctx context.Context) (usage.Audit, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()

	var streams *redis.StringSliceCmd
	var letters *redis.StringSliceCmd
	var late, retired *redis.MapStringStringCmd
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		streams = p.SMembers(ctx, s.keys.streams())
		late = p.HGetAll(ctx, s.keys.late())
		retired = p.HGetAll(ctx, s.keys.retired())
		letters = p.LRange(ctx, s.keys.letters(), -usage.MaxDeadLetters, -1)
		return nil
	})
	for _, of := range []struct {
		key string
		err error
	}{
		{s.keys.streams(), streams.Err()}, {s.keys.late(), late.Err()}, {s.keys.retired(), retired.Err()}, {s.keys.letters(), letters.Err()}, {"", err},
	} {
		if of.err != nil {
			return usage.Audit{}, s.explainKey(of.key, of.err)
		}
	}
	a := usage.Audit{
		LateHours: parseCounts(late.Val(), "h"),
		LateDays:  parseCounts(late.Val(), "d"),
		Retired:   parseCounts(retired.Val(), ""),
	}
	a.RetiredLetters, _ = strconv.ParseUint(retired.Val()["dead"], 10, 64)
	for _, text := range letters.Val() {
		l, err := parseLetter(text)
		if err != nil {
			return usage.Audit{}, s.foreign("the key %s: %w", s.keys.letters(), err)
		}
		a.DeadLetters = append(a.DeadLetters, l)
	}
	ids := streams.Val()
	slices.Sort(ids)
	for some := range slices.Chunk(ids, page) {
		positions, err := s.positions(ctx, some)
		if err != nil {
			return usage.Audit{}, err
		}
		a.Streams = append(a.Streams, positions...)
	}
	return a, nil
}

func (s *Store) positions(ctx context.Context, ids []string) ([]usage.StreamPosition, error) {
	positions := make([]usage.StreamPosition, len(ids))
	for i, id := range ids {
		var err error
		if positions[i].Stream, err = usage.ParseStreamID(id); err != nil {
			return nil, s.foreign("the key %s: %w", s.keys.streams(), err)
		}
	}
	answers, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range positions {
			p.Do(ctx, "HGETALL", s.keys.cursor(positions[i].Stream))
		}
		return nil
	})
	if err != nil {
		return nil, s.explain(err)
	}
	for i, answer := range answers {
		p := &positions[i]
		if p.Position, p.Seen, _, err = parsePosition(answer.(*redis.Cmd).Val()); err != nil {
			return nil, s.foreign("the key %s: %w", s.keys.cursor(p.Stream), err)
		}
	}
	return positions, nil
}

// explainKey is explain for a call about one key.
func (s *Store) explainKey(key string, err error) error {
	if said(err, "WRONGTYPE") {
		return s.foreign("the key %s: %w", key, err)
	}
	return s.explain(err)
}

// foreign says that what is below our keys is not ours.
func (s *Store) foreign(format string, args ...any) error {
	return fmt.Errorf("%s %w: %w; use another `namespace` or database", s, usage.ErrForeign, fmt.Errorf(format, args...))
}
