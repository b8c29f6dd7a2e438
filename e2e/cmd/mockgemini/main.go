// Command mockgemini answers as Google's API does, for tests of gateways.
package main

import (
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockgemini"
)

func main() { mock.Main(func(c mock.Config) mock.Program { return mockgemini.New(c) }) }
