package relay

import (
	"bytes"
	"math/bits"
	"sync"
	"sync/atomic"
)

// room is the memory of a large body. It goes back to its pool when the call and
// every attempt have let go of it: a transport may still be reading from a body
// when its answer is already over, and closes the body when it no longer does.
//
// Small bodies have none. They are cheaper to make anew, and a transport sends
// them together with the header because it knows them to lie in memory.
type room struct {
	memory  []byte
	holders atomic.Int32
}

// Rooms are powers of two between these. Larger bodies are rare, and to keep
// their memory would cost more than to make it anew.
const (
	leastRoom = 64 << 10
	mostRoom  = 4 << 20
)

var rooms [32]sync.Pool // by the bits of their size

// newRoom returns a room for n bytes; nil if such are not kept.
func newRoom(n int64) *room {
	if n < leastRoom || n > mostRoom {
		return nil
	}
	class := bits.Len64(uint64(n - 1))
	r, _ := rooms[class].Get().(*room)
	if r == nil {
		r = &room{memory: make([]byte, 1<<class)}
	}
	r.holders.Store(1)
	return r
}

// release lets go of the room. A nil room is none.
func (r *room) release() {
	if r != nil && r.holders.Add(-1) == 0 {
		rooms[bits.Len64(uint64(len(r.memory)-1))].Put(r)
	}
}

// share returns the room to one more who has to release it.
func (r *room) share() *room {
	if r != nil {
		r.holders.Add(1)
	}
	return r
}

// reader returns a body that lies in the room and holds it until it is closed.
func (r *room) reader(body []byte) *roomReader {
	return &roomReader{Reader: *bytes.NewReader(body), room: r.share()}
}

type roomReader struct {
	bytes.Reader
	room   *room
	closed atomic.Bool
}

func (r *roomReader) Close() error {
	if !r.closed.Swap(true) {
		r.room.release()
	}
	return nil
}
