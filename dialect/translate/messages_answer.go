package translate

import (
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

type messagesDecoder struct{ a *Answer }

func newMessagesDecoder(a *Answer) decoder { return &messagesDecoder{a: a} }

func (d *messagesDecoder) event(name, data []byte) {}
func (d *messagesDecoder) whole(body []byte)       {}
func (d *messagesDecoder) end()                    {}

type messagesEncoder struct{ a *Answer }

func newMessagesEncoder(a *Answer) encoder { return &messagesEncoder{a: a} }

func (e *messagesEncoder) take(ev *Event)          {}
func (e *messagesEncoder) finish(t *usage.Tokens)  {}
func (e *messagesEncoder) fail(err *dialect.Error) {}

func (a *Answer) writeMessagesReply(r *reply, t *usage.Tokens) {}
