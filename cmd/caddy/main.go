// Command caddy is Caddy with its standard modules and floway: what xcaddy.sh
// builds, for `go run`, tests and debuggers.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/floway/floway"
)

func main() {
	caddycmd.Main()
}
