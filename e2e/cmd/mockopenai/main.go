// Command mockopenai answers as OpenAI's API does, for tests of gateways.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/floway/floway/e2e/mockopenai"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "the `address` to listen at")
	ledger := flag.String("ledger", "", "the `file` that gets a line of JSON for each request")
	flag.Parse()

	var c mockopenai.Config
	if *ledger != "" {
		f, err := os.OpenFile(*ledger, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			log.Fatal(err)
		}
		defer f.Close()
		c.Ledger = f
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	s := mockopenai.New(c)
	server := &http.Server{Handler: s, ConnState: s.CountConnections}
	// Whoever started this reads the address from the first line.
	fmt.Println(l.Addr())

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		s.Close()
		server.Close()
	}()
	if err := server.Serve(l); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
