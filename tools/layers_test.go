// Package tools_test holds the tree to its layers: imports run one way, and the
// heavy libraries have one home each. It lies here, and not in the root, so that
// running it does not build Caddy.
package tools_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const floway = "github.com/floway/floway"

// A layer is a folder with every package in it that lies in no layer of its own.
type layer struct {
	// imports names the layers that it may import, beside itself.
	imports []string
	// standard means that of all others it may import only the standard library.
	standard bool
}

// CONTRIBUTING.md has the same table, with what each layer knows.
var layers = map[string]layer{
	"cmd": {imports: []string{""}},
	"": {imports: []string{
		"access", "dashboard", "dialect", "keypool", "provider", "relay", "usage", "usage/boltstore", "usage/redisstore",
	}},
	"dashboard":        {imports: []string{"access", "keypool", "usage"}},
	"relay":            {imports: []string{"access", "dialect", "estimate", "keypool", "provider", "usage"}},
	"provider":         {imports: []string{"dialect"}},
	"dialect":          {imports: []string{"usage"}},
	"access":           {},
	"estimate":         {},
	"keypool":          {standard: true},
	"usage":            {standard: true},
	"usage/boltstore":  {imports: []string{"usage"}},
	"usage/redisstore": {imports: []string{"usage"}},
}

// reserved are the libraries, by the start of their paths, that only the layers
// named may import, be it by way of another library.
var reserved = map[string][]string{
	"github.com/Azure/":       {"provider"},
	"github.com/AzureAD/":     {"provider"},
	"github.com/caddyserver/": {"", "cmd"},
	"github.com/redis/":       {"usage/redisstore"},
	"go.etcd.io/bbolt":        {"usage/boltstore"},
	"github.com/tiktoken-go/": {"estimate"},
}

func TestImportsRunOneWay(t *testing.T) {
	packages := listPackages(t)
	judged := 0
	for path, p := range packages {
		folder, ours := ourFolder(path)
		if !ours || len(p.GoFiles) == 0 { // only tests: they may import what they like
			continue
		}
		// go list is another process, so this is how the test cache learns
		// what the result depends on.
		if _, err := os.ReadDir(p.Dir); err != nil {
			t.Error(err)
		}
		name, ok := layerOf(folder)
		if !ok {
			t.Errorf("%s lies in no layer: give it a row in layers and in CONTRIBUTING.md", path)
			continue
		}
		judge(t, packages, path, name)
		judged++
	}
	if judged == 0 {
		t.Error("go list found no package of floway")
	}
}

// judge walks the imports of the package at path, a member of the layer called
// name, through libraries but not through packages of ours: those are judged by
// themselves. Nor does it enter a reserved library that the layer may import.
func judge(t *testing.T, packages map[string]goPackage, path, name string) {
	t.Helper()
	me := layers[name]
	from := map[string]string{} // package → who imports it
	queue := []string{path}
	for len(queue) > 0 {
		importer := queue[0]
		queue = queue[1:]
		for _, imported := range packages[importer].Imports {
			if _, seen := from[imported]; seen || packages[imported].Standard {
				continue
			}
			from[imported] = importer
			if folder, ours := ourFolder(imported); ours {
				theirs, _ := layerOf(folder)
				if theirs != name && !slices.Contains(me.imports, theirs) {
					t.Errorf("%s must not import %s", path, imported)
				}
				continue
			}
			if me.standard {
				t.Errorf("%s must import only the standard library, not %s", path, imported)
				continue
			}
			homes, isReserved := reservedFor(imported)
			if isReserved && !slices.Contains(homes, name) {
				t.Errorf("%s must not import %s (imported by %s)", path, imported, importer)
			}
			if !isReserved {
				queue = append(queue, imported)
			}
		}
	}
}

// ourFolder returns the folder of a package of floway, "" for the root package.
func ourFolder(path string) (folder string, ours bool) {
	rest, ours := strings.CutPrefix(path, floway)
	if !ours || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimPrefix(rest, "/"), true
}

// layerOf returns the name of the deepest layer that holds folder. The root
// package is a layer of its own and holds no folder.
func layerOf(folder string) (name string, ok bool) {
	for name = folder; ; {
		if _, ok = layers[name]; ok {
			return name, true
		}
		cut := strings.LastIndexByte(name, '/')
		if cut < 0 {
			return "", false
		}
		name = name[:cut]
	}
}

func reservedFor(path string) (homes []string, isReserved bool) {
	for prefix, homes := range reserved {
		if strings.HasPrefix(path, prefix) {
			return homes, true
		}
	}
	return nil, false
}

// goPackage is what the judgement needs of one entry of `go list -json`.
type goPackage struct {
	ImportPath, Dir  string
	Standard         bool
	GoFiles, Imports []string
}

// listPackages returns the packages of the module and all that they depend on,
// by import path. A package that does not compile is listed all the same.
func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Dir,Standard,GoFiles,Imports", "./...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := map[string]goPackage{}
	for entries := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := entries.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("read the answer of go list: %v", err)
		}
		packages[p.ImportPath] = p
	}
	return packages
}
