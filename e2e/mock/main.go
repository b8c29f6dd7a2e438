package mock

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
)

// Program is a Server, as a program runs it.
type Program interface {
	http.Handler
	Close()
	CountConnections(net.Conn, http.ConnState)
}

// Main runs a mock as a program until it is told to end. It writes the address at
// which it listens on the first line of its output.
func Main(create func(Config) Program) {
	listen := flag.String("listen", "127.0.0.1:0", "the `address` to listen at")
	ledger := flag.String("ledger", "", "the `file` that gets a line of JSON for each request")
	flag.Parse()

	var c Config
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
	s := create(c)
	server := &http.Server{Handler: s, ConnState: s.CountConnections}
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
