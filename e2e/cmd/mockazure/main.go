// Command mockazure answers as a resource of Azure's does, for tests of gateways.
package main

import (
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockazure"
)

func main() { mock.Main(func(c mock.Config) mock.Program { return mockazure.New(c) }) }
