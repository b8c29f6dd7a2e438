package tools

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// traps is how many are known.
const traps = 60

// The tests that docs/traps.md names are there.
func TestTrapsHaveTests(t *testing.T) {
	page, err := os.ReadFile("../docs/traps.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{} // by package and name
	function := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`)
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			tests[filepath.ToSlash(filepath.Dir(path))+" "+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]bool{}
	named := regexp.MustCompile("`([\\w/.]+)` (Test\\w+|Fuzz\\w+)")
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.Contains(cells[3], "#") {
			continue
		}
		numbers[strings.TrimSpace(cells[1])] = true
		found := named.FindAllStringSubmatch(cells[4], -1)
		if len(found) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range found {
			if !tests["../"+m[1]+" "+m[2]] {
				t.Errorf("there is no test %s in %s", m[2], m[1])
			}
		}
	}
	for n := 1; n <= traps; n++ {
		if !numbers[strconv.Itoa(n)] {
			t.Errorf("there is no row %d", n)
		}
	}
}
