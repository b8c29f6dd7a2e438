// Command mockanthropic answers as Anthropic's API does, for tests of gateways.
package main

import (
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockanthropic"
)

func main() { mock.Main(func(c mock.Config) mock.Program { return mockanthropic.New(c) }) }
