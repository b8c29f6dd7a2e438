// Command mockcopilot is GitHub Copilot, and GitHub as far as it gives access to it,
// for tests of gateways.
package main

import (
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockcopilot"
)

func main() { mock.Main(func(c mock.Config) mock.Program { return mockcopilot.New(c) }) }
