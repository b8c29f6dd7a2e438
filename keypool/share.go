package keypool

import (
	"strings"
	"time"
)

// Notice is what an upstream said of a key, in a form to pass on: to other
// instances that use the same key, or to a store that a restart reads. Only
// StateLimited, StateExhausted and StateInvalid are passed on; failures and
// unreachable upstreams are each instance's own experience. Keys without an ID
// are never passed on.
type Notice struct {
	Upstream string `json:"upstream"` // Config.Identity
	Key      string `json:"key"`      // Key.ID
	Model    string `json:"model,omitempty"`
	State    State  `json:"state"`
	// Over tells that the state has ended before its time.
	Over bool `json:"over,omitempty"`
	// At is when the upstream said so, Since when the key went out.
	At    time.Time `json:"at"`
	Since time.Time `json:"since"`
	// Until is the end of the wait, Named whether the upstream named it.
	Until time.Time `json:"until"`
	Named bool      `json:"named,omitempty"`
	// Wait is the own wait, from which the next one doubles.
	Wait   time.Duration `json:"wait,omitempty"`
	Reason string        `json:"reason,omitempty"`
}

// causeOf returns the cause of a state that is passed on.
func causeOf(s State) (cause, bool) {
	switch s {
	case StateLimited:
		return byLimit, true
	case StateExhausted:
		return byQuota, true
	case StateInvalid:
		return byRefusal, true
	}
	return 0, false
}

func (o *outage) notice(r *record, model string) Notice {
	return Notice{
		Upstream: r.up.identity, Key: r.id, Model: model, State: o.state, Reason: o.reason,
		At: o.at, Since: o.since, Until: o.until, Named: o.named, Wait: o.wait,
	}
}

// share passes an outage on, or its end before its time. A named wait that has
// moved by less than a second is not worth it: under load each refusal names
// another one.
func (h *Health) share(r *record, model string, o *outage, now time.Time, over bool) {
	if h.notify == nil || r.id == "" {
		return
	}
	if !over && o.named && o.until.Sub(o.shared).Abs() < time.Second {
		return
	}
	o.shared = o.until
	n := o.notice(r, model)
	if n.Over = over; over {
		n.At = now
	}
	h.queue = append(h.queue, func() { h.notify(n) })
}

// Export returns what upstreams said of keys and what still holds at the given
// time, in no order.
func (h *Health) Export(now time.Time) []Notice {
	h.mu.Lock()
	defer h.unlock()
	var all []Notice
	for _, u := range h.upstreams {
		for _, r := range u.records {
			for c, o := range r.outs {
				if cause(c) != byFailure && o != nil && !o.over(now) && r.id != "" {
					all = append(all, o.notice(r, ""))
				}
			}
		}
		for name, m := range u.models {
			for r, o := range m.waits {
				if o.state != StateModelOff && !o.over(now) && r.id != "" {
					all = append(all, o.notice(r, name))
				}
			}
		}
	}
	return all
}

// Merge takes in what other instances, or a store, have to say. It may be given
// the same notices again, late or in any order: the latest word holds, of two
// waits that the upstream named the later one. Notices that are over, make no
// sense or name a time beyond the bounds of their class are ignored or cut to
// those. What comes in is not passed on again, and its Change is told of when a
// pool next looks at the key.
func (h *Health) Merge(now time.Time, notices []Notice) {
	h.mu.Lock()
	defer h.unlock()
	for i := range notices {
		h.merge(&notices[i], now)
	}
}

func (h *Health) merge(n *Notice, now time.Time) {
	c, ok := causeOf(n.State)
	if !ok || n.Key == "" || n.Key[0] == 0 || len(n.Key) > maxName || len(n.Upstream) > maxName ||
		n.Model != "" && (c == byRefusal || len(n.Model) > maxName) {
		return
	}
	if !n.Over && !n.Until.After(now) {
		return
	}
	r := h.record(n, now)
	if r == nil {
		return
	}
	if n.Model == "" {
		h.mergeKey(r, c, n, now)
	} else {
		h.mergeModel(r, c, n, now)
	}
}

// record returns the key that a notice is about, nil if there is no room for
// another one.
func (h *Health) record(n *Notice, now time.Time) *record {
	if u := h.upstreams[n.Upstream]; u != nil && u.keys[n.Key] != nil {
		return u.keys[n.Key]
	}
	if n.Over || h.records >= maxRecords {
		return nil
	}
	r := &record{id: strings.Clone(n.Key), used: now.Unix()}
	h.add(h.upstream(strings.Clone(n.Upstream)), r.id, r)
	return r
}

func (h *Health) mergeKey(r *record, c cause, n *Notice, now time.Time) {
	o := r.outs[c]
	if n.Over {
		if o != nil && !o.at.After(n.At) {
			r.clear(c)
			r.healed[c] = recovery{h.next(), now}
			h.offerAll(r.up, now)
		}
		return
	}
	if n.At.Before(r.healed[c].at) {
		return
	}
	if o = h.told(o, &rules[c], n, now); o != nil {
		r.set(c, o)
		h.worse(r.up, o, now)
	}
}

func (h *Health) mergeModel(r *record, c cause, n *Notice, now time.Time) {
	u := r.up
	m := u.models[n.Model]
	o := m.wait(r, now)
	if n.Over {
		if o != nil && o.state == n.State && !o.at.After(n.At) {
			delete(m.waits, r)
			h.offerAll(u, now)
		}
		return
	}
	if o != nil && o.state != n.State {
		o = nil
	}
	if o = h.told(o, &rules[c], n, now); o != nil {
		h.model(u, n.Model, false).waits[r] = o
		h.worse(u, o, now)
	}
}

// told applies a notice to an outage: to o, or to a new one if o is nil. It
// returns nil if the notice says nothing new.
func (h *Health) told(o *outage, ru *rule, n *Notice, now time.Time) *outage {
	named := n.Named && ru.named > 0
	most := ru.most
	if named {
		most = ru.named
	}
	until := n.Until
	if last := now.Add(most); until.After(last) {
		until = last
	}
	switch {
	case o == nil:
		o = &outage{state: ru.state, since: n.Since, seq: h.next()}
		if o.since.IsZero() || o.since.After(now) {
			o.since = now
		}
	case o.named && !o.over(now):
		if !named || !until.After(o.until) {
			return nil
		}
	case !n.At.After(o.at) || !named && !until.After(o.until):
		return nil
	}
	o.named, o.until = named, until
	o.probe = nil
	o.at = n.At
	if o.at.After(now) {
		o.at = now
	}
	o.tried, o.shared = now, until
	o.wait = 0
	if !named {
		o.wait = min(max(n.Wait, ru.first), ru.most)
	}
	o.reason = clip(n.Reason, maxReason)
	return o
}
