// Package harness starts the programs of the end-to-end tests: the gateway, the
// upstreams in front of which it stands, and Redis. Each is a process of its own
// on a free port of the loopback interface, with a directory of its own, and is
// gone when its test is over.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// buildDir holds the programs that were built for this run; made on demand.
var buildDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "floway-e2e-") })

// Main runs the tests, as a testing.M does, and takes away what was built for
// them.
func Main(m interface{ Run() int }) {
	code := m.Run()
	if dir, err := buildDir(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// caddy and mocks are the paths of the programs, built at the first use. The
// variable FLOWAY_CADDY names a gateway that is built already, to test that one.
var (
	caddy = sync.OnceValues(func() (string, error) {
		if path := os.Getenv("FLOWAY_CADDY"); path != "" {
			return path, nil
		}
		return build("caddy", "..", "./cmd/caddy")
	})
	mocks = map[string]func() (string, error){
		"mockopenai":    mockProgram("mockopenai"),
		"mockanthropic": mockProgram("mockanthropic"),
		"mockgemini":    mockProgram("mockgemini"),
		"mockcopilot":   mockProgram("mockcopilot"),
		"mockazure":     mockProgram("mockazure"),
	}
)

func mockProgram(name string) func() (string, error) {
	return sync.OnceValues(func() (string, error) { return build(name, ".", "./cmd/"+name) })
}

// build builds a command, with the race detector if the tests have it. from is
// the module's directory, seen from that of this module.
func build(name, from, command string) (string, error) {
	dir, err := buildDir()
	if err != nil {
		return "", err
	}
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	path := filepath.Join(dir, name)
	args := []string{"build", "-o", path}
	if Race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, command)...)
	cmd.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(module))), from)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return path, nil
}
