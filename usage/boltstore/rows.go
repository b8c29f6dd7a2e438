package boltstore

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/floway/floway/usage"
)

// A row's key begins with the number of its hour, day or month, most significant
// byte first, so that the rows of a bucket lie together and the oldest come first.
// In the tables of single dimensions the dimension follows. Then come the row's
// names, each after its length. The value is usage.Counts.Append.

// numberLen is the length of the bucket's number.
const numberLen = 4

func bucketKey(b []byte, t usage.Table, d usage.Dimension, bucket time.Time) []byte {
	b = binary.BigEndian.AppendUint32(b, number(t, bucket))
	if t.Single() {
		b = append(b, byte(d))
	}
	return b
}

func rowKey(b []byte, t usage.Table, d usage.Dimension, bucket time.Time, key *usage.Key) []byte {
	b = bucketKey(b, t, d, bucket)
	for _, dim := range t.Names(d) {
		b = binary.AppendUvarint(b, uint64(len(key[dim])))
		b = append(b, key[dim]...)
	}
	return b
}

// number numbers the hours and days since 1970 and the months since year 0.
// Buckets before 1970 are all the first one.
func number(t usage.Table, bucket time.Time) uint32 {
	bucket = bucket.UTC()
	switch t {
	case usage.Hourly:
		return uint32(max(bucket.Unix(), 0) / 3600)
	case usage.MonthlyBy:
		return uint32(max(bucket.Year(), 0)*12 + int(bucket.Month()) - 1)
	default:
		return uint32(max(bucket.Unix(), 0) / 86400)
	}
}

// start is the inverse of number.
func start(t usage.Table, n uint32) time.Time {
	switch t {
	case usage.Hourly:
		return time.Unix(int64(n)*3600, 0).UTC()
	case usage.MonthlyBy:
		return time.Date(int(n/12), time.Month(n%12+1), 1, 0, 0, 0, 0, time.UTC)
	default:
		return time.Unix(int64(n)*86400, 0).UTC()
	}
}

// parseNames reads the names at the end of a row's key.
func parseNames(b []byte, dims []usage.Dimension) (key usage.Key, err error) {
	for _, d := range dims {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return key, fmt.Errorf("%w: a row without a name", errForeign)
		}
		key[d] = string(b[n : n+int(size)])
		b = b[n+int(size):]
	}
	if len(b) > 0 {
		return key, fmt.Errorf("%w: a row with too many names", errForeign)
	}
	return key, nil
}

// gone says whether a bucket is past its retention.
func gone(r usage.Retention, t usage.Table, bucket, now time.Time) bool {
	end := r.Expiry(t, bucket)
	return !end.IsZero() && !end.After(now)
}
