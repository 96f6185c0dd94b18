// The generic service in Go (grpc-go): a spec comes in on the command line, calls on a port, behaviour on standard
// input; lines of truth go out. ../README.md says what it does; serve.go answers calls, and main starts and ends it.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// Running calls get so long to end.
const drain = time.Second

func main() {
	log.SetFlags(0)
	path := flag.String("spec", "", "the service's spec")
	flag.Parse()
	spec, err := readSpec(*path)
	if err != nil {
		log.Fatal(err)
	}
	s, err := newService(spec)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", spec.Listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(asTheyAre{}), grpc.UnknownServiceHandler(s.serve))
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
	fmt.Println("ready")
	s.untilTold()
	end(server)
	s.truth.flush()
	s.sent.flush()
}

// Follows behaviour lines until standard input ends or a signal comes.
func (s *service) untilTold() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		input := bufio.NewReader(os.Stdin)
		for {
			line, err := input.ReadBytes('\n')
			if err != nil {
				break
			}
			next := &behaviour{}
			if err := json.Unmarshal(line, next); err != nil {
				log.Printf("a behaviour was not understood: %v: %s", err, line)
				continue
			}
			s.become(next)
		}
		close(ended)
	}()
	select {
	case <-signals:
	case <-ended:
	}
}

func end(server *grpc.Server) {
	drained := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(drain):
		// Calls that still run are cancelled; a moment for their lines.
		server.Stop()
		time.Sleep(50 * time.Millisecond)
	}
}
