package redisstore

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/floway/floway/usage"
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

// Notes say where conversations live. Each is an entry of a stream, so that an
// instance reads on where it stopped.

const (
	// maxNotes is how many notes there are at a time; the oldest go first.
	maxNotes = 65_536
	// notesLife is how old notes are worth reading to an instance that starts.
	notesLife = 24 * time.Hour
	// notesPage is how many notes are written or read at a time.
	notesPage = 1000
	// noteField is the one field of an entry.
	noteField = "n"
)

func (k keys) notes() string { return string(k) + "notes" }

// Note leaves notes for other instances.
func (s *Store) Note(ctx context.Context, notes []usage.Note) error {
	key := s.keys.notes()
	for page := range slices.Chunk(notes[max(0, len(notes)-maxNotes):], notesPage) {
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, n := range page {
				text, err := json.Marshal(n)
				if err != nil {
					return err
				}
				p.XAdd(ctx, &redis.XAddArgs{Stream: key, MaxLen: maxNotes, Approx: true, Values: []string{noteField, string(text)}})
			}
			p.Expire(ctx, key, noticesLife)
			return nil
		})
		cancel()
		if err != nil {
			return s.explain(err)
		}
	}
	return nil
}

// Noted returns some of the notes behind the position that an earlier call
// returned, in order, and the position now; without a position, of the notes of
// the last day. There are no more when the position stays where it was.
func (s *Store) Noted(ctx context.Context, since string) (notes []usage.Note, position string, err error) {
	from := since
	if from == "" {
		from = strconv.FormatInt(time.Now().Add(-notesLife).UnixMilli(), 10) + "-0"
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	streams, err := s.client.XRead(ctx, &redis.XReadArgs{
		Streams: []string{s.keys.notes(), from}, Count: notesPage, Block: -1, // < 0: does not wait
	}).Result()
	switch {
	case err == redis.Nil:
		return nil, since, nil
	case err != nil:
		return nil, since, s.explain(err)
	}
	position = since
	for _, stream := range streams {
		for _, entry := range stream.Messages {
			position = entry.ID
			text, _ := entry.Values[noteField].(string)
			var n usage.Note
			if json.Unmarshal([]byte(text), &n) == nil {
				notes = append(notes, n)
			}
		}
	}
	return notes, position, nil
}
