// Command mockopenai answers as OpenAI's API does, or as a compatible service, for
// tests of gateways.
package main

import (
	"flag"
	"log"
	"maps"
	"slices"

	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockopenai"
)

func main() {
	name := flag.String("vendor", "", "the compatible `service` to imitate")
	mock.Main(func(c mock.Config) mock.Program {
		if *name == "" {
			return mockopenai.New(c)
		}
		v := mockopenai.Vendors[*name]
		if v == nil {
			log.Fatalf("no such service: %s; there are %v", *name, slices.Sorted(maps.Keys(mockopenai.Vendors)))
		}
		return mockopenai.NewVendor(c, v)
	})
}
