package floway

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/caddyserver/certmagic"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMain gives Caddy, which keeps its data below the user's home, a home that
// is gone afterwards.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(inNewHome(m))
}

func inNewHome(m *testing.M) int {
	home, err := os.MkdirTemp("", "floway")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(home)
	os.Setenv("XDG_DATA_HOME", home)
	os.Setenv("XDG_CONFIG_HOME", home)
	// These two were made of the environment before anybody could change it.
	caddy.DefaultStorage = &certmagic.FileStorage{Path: filepath.Join(home, "caddy")}
	caddy.ConfigAutosavePath = filepath.Join(home, "autosave.json")
	return m.Run()
}

// adapt makes JSON of a Caddyfile, as `caddy adapt` does.
func adapt(caddyfile, name string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": name})
}

// validate provisions a configuration, as `caddy validate` does.
func validate(config []byte) error {
	var c caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &c); err != nil {
		return err
	}
	return caddy.Validate(&c)
}

// indented makes JSON readable.
func indented(t testing.TB, raw []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

// lineOf returns the number of the line that has the mark in it.
func lineOf(text, mark string) int {
	before, _, ok := strings.Cut(text, mark)
	if !ok {
		return 0
	}
	return strings.Count(before, "\n") + 1
}
