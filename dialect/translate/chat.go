package translate

import (
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

func (c *Conversation) readChat(s *source) {}

func (r *Request) writeChat() error { return nil }

type chatDecoder struct{ a *Answer }

func newChatDecoder(a *Answer) decoder { return &chatDecoder{a: a} }

func (d *chatDecoder) event(name, data []byte) {}
func (d *chatDecoder) whole(body []byte)       {}
func (d *chatDecoder) end()                    {}

type chatEncoder struct{ a *Answer }

func newChatEncoder(a *Answer) encoder { return &chatEncoder{a: a} }

func (e *chatEncoder) take(ev *Event)          {}
func (e *chatEncoder) finish(t *usage.Tokens)  {}
func (e *chatEncoder) fail(err *dialect.Error) {}

func (a *Answer) writeChatReply(r *reply, t *usage.Tokens) {}
