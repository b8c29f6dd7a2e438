package translate

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
)

// names maps the names of tools between what the client says and what the upstream
// takes: it flattens namespaces, and renames what the dialect does not allow.
type names struct {
	sent map[toolName]string
	back map[string]toolName
}

// toolName is a tool as the client knows it.
type toolName struct {
	space, name string
	custom      bool
}

// nameRule is what a dialect allows in the name of a tool.
type nameRule struct {
	most  int
	extra string // allowed besides letters, digits, _ and -
	first bool   // it must begin with a letter or _
}

// allowed says whether a name follows the rule.
func (n nameRule) allowed(name string) bool {
	if name == "" || len(name) > n.most {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
		switch {
		case letter:
		case n.first && i == 0:
			return false
		case c >= '0' && c <= '9', c == '-', strings.IndexByte(n.extra, c) >= 0:
		default:
			return false
		}
	}
	return true
}

// send returns the name under which the upstream knows a tool. The same tool gets
// the same name in every request, so that the upstream's cache of prompts is of
// use; two tools never get one.
func (n *names) send(t toolName, rule nameRule) string {
	if name, ok := n.sent[t]; ok {
		return name
	}
	name := t.name
	if t.space != "" {
		name = t.space + "_" + t.name
	}
	if _, taken := n.back[name]; taken || !rule.allowed(name) {
		name = renamed(name, t, rule)
	}
	if n.sent == nil {
		n.sent, n.back = map[toolName]string{}, map[string]toolName{}
	}
	n.sent[t], n.back[name] = name, t
	return name
}

// renamed makes an allowed name of one that is not: what of it is allowed, and a
// hash of all of it.
func renamed(name string, t toolName, rule nameRule) string {
	clean := []byte{}
	for i := 0; i < len(name) && len(clean) < rule.most-9; i++ {
		if c := name[i]; (nameRule{most: 1, extra: "-0123456789"}).allowed(string(c)) {
			clean = append(clean, c)
		} else {
			clean = append(clean, '_')
		}
	}
	if rule.first && len(clean) > 0 && !rule.allowed(string(clean[:1])) {
		clean[0] = '_'
	}
	sum := sha256.Sum256([]byte(t.space + "\x00" + t.name + "\x00" + strconv.FormatBool(t.custom)))
	return string(clean) + "_" + hex.EncodeToString(sum[:4])
}

// tool returns the tool that the upstream means by a name. What it made up by
// itself stays as it is.
func (n *names) tool(name string) toolName {
	if t, ok := n.back[name]; ok {
		return t
	}
	return toolName{name: name}
}

// mintedID is the id of a call that the dialect gave none. It says where the call
// stands, so that it is the same in every request that repeats the history.
func mintedID(turn, part int) string {
	return "call_fw" + strconv.Itoa(turn) + "x" + strconv.Itoa(part)
}

// safeMark begins an id of a call that was spelled anew.
const safeMark = "fwid_"

// safeID spells the id of a call so that every dialect takes it: letters, digits,
// - and _, most bytes at most. wildID gives it back; an id that is too long for
// that becomes a hash, and stays one.
func safeID(id string, most int) string {
	if (nameRule{most: most}).allowed(id) && !strings.HasPrefix(id, safeMark) {
		return id
	}
	if spelled := safeMark + base64.RawURLEncoding.EncodeToString([]byte(id)); len(spelled) <= most {
		return spelled
	}
	sum := sha256.Sum256([]byte(id))
	return "fwh_" + hex.EncodeToString(sum[:12])
}

// wildID returns the id that safeID was given.
func wildID(id string) string {
	if rest, ok := strings.CutPrefix(id, safeMark); ok {
		if wild, err := base64.RawURLEncoding.DecodeString(rest); err == nil {
			return string(wild)
		}
	}
	return id
}
