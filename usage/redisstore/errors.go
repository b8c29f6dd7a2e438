package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/floway/floway/usage"
)

// replies says what error replies of a server mean: the word that they begin with,
// what is wrong and what somebody should do.
var replies = []struct {
	begin  string
	class  error
	advice string
}{
	{"WRONGPASS", usage.ErrCredentials, "check `username` and `password`"},
	{"NOAUTH", usage.ErrCredentials, "it wants a password: set `password`"},
	{"ERR invalid password", usage.ErrCredentials, "check `password`"},
	{"ERR AUTH", usage.ErrCredentials, "it knows no password for this user: check `username`, or leave `password` out"},
	{"NOPERM", usage.ErrForbidden, "allow its user this command, and all keys that begin with fl:"},
	{"READONLY", usage.ErrReadOnly, "this is a replica: give the address of the master, or use redis+sentinel://"},
	{"MISCONF", usage.ErrReadOnly, "it cannot save to its disk: look at the disk and the log of the Redis server"},
	{"NOREPLICAS", usage.ErrReadOnly, "it has fewer replicas than it wants to write: see min-replicas-to-write"},
	{"OOM", usage.ErrFull, "raise its maxmemory, or keep less: see `retention`"},
	{"LOADING", usage.ErrLoading, "it is reading its data from disk: wait"},
	{"BUSY", usage.ErrLoading, "a script of somebody holds it up: wait, or type SCRIPT KILL"},
	{"MASTERDOWN", usage.ErrLoading, "the replica has lost its master: wait for the failover"},
	{"CLUSTERDOWN", usage.ErrLoading, "the cluster does not serve all slots: see CLUSTER INFO"},
	{"TRYAGAIN", usage.ErrLoading, "the cluster is moving the slot: wait"},
	{"ERR max number of clients reached", usage.ErrUnreachable, "raise its maxclients"},
	{"WRONGTYPE", usage.ErrForeign, "somebody else writes below fl:* here: use another `namespace` or database"},
	{"FOREIGN", usage.ErrForeign, "somebody else writes below fl:* here: use another `namespace` or database"},
	{"LAYOUT", usage.ErrNewer, "update floway, or use another `namespace`"},
}

// explain turns an error of the client library into one that names the store, says
// what is wrong in the words of package usage and what to do. It adds no
// credentials to what the error says, and servers do not repeat them.
func (s *Store) explain(err error) error {
	advice, class := classify(err)
	if advice == silent && s.tls {
		advice += "; if it never does, it may speak no TLS: use redis:// in place of rediss://"
	}
	if class == nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return fmt.Errorf("%s %w: %s (%w)", s, class, advice, err)
}

// silent is the advice about a server that does not answer.
const silent = "it does not answer in time"

func classify(err error) (advice string, class error) {
	ofSentinels := strings.Contains(err.Error(), "all sentinels specified") // it has no name
	if ofSentinels && (said(err, "NOAUTH") || said(err, "WRONGPASS")) {
		return "the sentinels want a password of theirs: write it into the address, and that of the servers as `password`", usage.ErrCredentials
	}
	for _, r := range replies {
		if said(err, r.begin) {
			return r.advice, r.class
		}
	}

	var handshake tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	var network net.Error
	var dial *net.OpError
	var errno syscall.Errno
	switch {
	case errors.Is(err, redis.ErrClosed):
		return "it was let go", usage.ErrClosed
	case errors.As(err, &handshake):
		return "it does not speak TLS: use redis:// in place of rediss://", usage.ErrUnreachable
	case errors.As(err, &certificate):
		return "its certificate is not trusted", usage.ErrUnreachable
	case errors.As(err, &dial) && dial.Op == "dial":
		return "is it running, and is the address right?", usage.ErrUnreachable
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &network) && network.Timeout():
		return silent, usage.ErrUnreachable
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &dial), errors.As(err, &errno):
		return "the connection broke; if it always does, the server may want rediss://", usage.ErrUnreachable
	case ofSentinels:
		return "no sentinel names a master: check the addresses and the master's name", usage.ErrUnreachable
	}
	return "", nil
}

// said reports whether err is, or wraps, an error reply that begins with a word.
func said(err error, begin string) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	text := strings.TrimPrefix(reply.Error(), "ERR ")
	return strings.HasPrefix(text, strings.TrimPrefix(begin, "ERR "))
}
