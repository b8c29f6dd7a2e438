// Command mockopenai answers as OpenAI's API does, for tests of gateways.
package main

import (
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockopenai"
)

func main() { mock.Main(func(c mock.Config) mock.Program { return mockopenai.New(c) }) }
