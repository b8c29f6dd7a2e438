package redisstore

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// Beside sums a store carries notices between instances: small texts by name,
// such as what a vendor said of a key. They are a courtesy. Nothing is lost if one
// is, and they expire.

const (
	// noticesLife is how long notices stay when no new one comes.
	noticesLife = 25 * time.Hour
	// maxNotices bounds how many names there can be.
	maxNotices = 20_000
	// versionField counts the notices that ever came, so that a look which finds
	// nothing new costs one number.
	versionField = "\x00"
)

func (k keys) notices() string { return string(k) + "health" }

// Tell leaves a notice under a name, for other instances to find. It takes the
// place of an earlier one of that name.
func (s *Store) Tell(ctx context.Context, name, text string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	key := s.keys.notices()
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, key, name, text)
		p.HIncrBy(ctx, key, versionField, 1)
		p.Expire(ctx, key, noticesLife)
		return nil
	})
	if err != nil {
		return s.explain(err)
	}
	return nil
}

// Told returns the notices if there was one since the version that an earlier call
// returned, and the version now. Without anything new it returns nil.
func (s *Store) Told(ctx context.Context, since string) (notices map[string]string, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	key := s.keys.notices()
	version, err = s.client.HGet(ctx, key, versionField).Result()
	switch {
	case err == redis.Nil:
		return nil, "", nil
	case err != nil:
		return nil, since, s.explain(err)
	case version == since:
		return nil, version, nil
	}
	n, err := s.client.HLen(ctx, key).Result()
	if err != nil {
		return nil, since, s.explain(err)
	}
	if n > maxNotices {
		return nil, version, s.foreign("the key %s has %d fields", key, n)
	}
	notices, err = s.client.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, since, s.explain(err)
	}
	delete(notices, versionField)
	return notices, version, nil
}

// Forget takes notices away that are of no use any more.
func (s *Store) Forget(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.client.HDel(ctx, s.keys.notices(), names...).Err(); err != nil {
		return s.explain(err)
	}
	return nil
}
