package faults

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// broken are ways to break the gateway, each a patch in testdata, with the faults
// that must tell.
var broken = []struct {
	patch  string
	faults []string
}{
	{"cursor", []string{"F5"}},         // the store takes any batch, whatever its position
	{"epoch", []string{"F14c"}},        // all openings have the same epoch
	{"reserve", []string{"F1", "F1e"}}, // nothing is written before an attempt is sent
	{"retention", []string{"F9"}},      // what the store has is let go at once
}

// TestBroken breaks the gateway in one way after the other and wants to see
// differences: a table that is always zero proves nothing.
func TestBroken(t *testing.T) {
	if !*breaks {
		t.Skip("only with -break: it builds the gateway once for each way to break it")
	}
	for _, b := range broken {
		if *only != "" && !strings.Contains(","+*only+",", ","+b.patch+",") {
			continue
		}
		t.Run(b.patch, func(t *testing.T) {
			program := breakIt(t, b.patch)
			for _, id := range b.faults {
				for _, f := range faults {
					if f.id == id {
						t.Run(id, func(t *testing.T) { f.run(t, b.patch+" "+id, program, true) })
					}
				}
			}
		})
	}
}

// breakIt builds the gateway of a copy of this checkout to which the patch was
// applied.
func breakIt(t *testing.T, patch string) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		switch {
		case e.IsDir() && (rel == ".git" || rel == "e2e" || rel == "bench" || rel == "build"):
			return fs.SkipDir
		case e.IsDir():
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		case !e.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Abs(filepath.Join("testdata", patch+".patch"))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "broken")
	for _, args := range [][]string{{"git", "apply", "--whitespace=nowarn", file}, {"go", "build", "-o", program, "./cmd/caddy"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "GOFLAGS=-buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	return program
}
