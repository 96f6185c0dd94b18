// Calls to other services: connections by turns, deadlines, retries, a line of truth for each attempt. Circuits are in
// circuit.go.
package main

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A service to call. Each connection is a channel of its own, so that calls go by turns whatever the state of an
// address is; grpc-go's round_robin would leave out those that are down.
type peer struct {
	name    string
	spec    peerSpec
	circuit circuit
	turn    atomic.Uint64
	lock    sync.RWMutex
	links   []*link
}

// One connection.
type link struct {
	address string
	channel *grpc.ClientConn
	// Calls that use it, so that it is closed after the last one.
	calls sync.WaitGroup
}

func newPeer(name string, spec peerSpec) *peer {
	p := &peer{name: name, spec: spec, circuit: circuit{rule: spec.Breaker}}
	p.moveTo(spec.Addresses)
	return p
}

// Keeps the connections to these addresses, adds new ones, and lets go of the others when their calls have ended.
func (p *peer) moveTo(addresses []string) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if len(addresses) == 0 {
		addresses = p.spec.Addresses
	}
	var kept []*link
	for _, link := range p.links {
		if slices.Contains(addresses, link.address) {
			kept = append(kept, link)
		} else {
			go link.close()
		}
	}
	for _, address := range addresses {
		known := func(link *link) bool { return link.address == address }
		if slices.ContainsFunc(kept, known) {
			continue
		}
		for range max(p.spec.Connections, 1) {
			kept = append(kept, newLink(address, p.spec.Authority))
		}
	}
	p.links = kept
}

func newLink(address, authority string) *link {
	retry := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, MaxDelay: time.Second},
		MinConnectTimeout: time.Second,
	}
	channel, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority),
		grpc.WithConnectParams(retry), grpc.WithIdleTimeout(0), grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(asTheyAre{})))
	if err != nil {
		// Only options that contradict each other end here.
		panic(err)
	}
	return &link{address: address, channel: channel}
}

func (l *link) close() {
	l.calls.Wait()
	l.channel.Close()
}

// The link whose turn it is; whoever takes it says when its call is done.
func (p *peer) take() *link {
	p.lock.RLock()
	defer p.lock.RUnlock()
	turn := p.turn.Add(1) - 1
	link := p.links[turn%uint64(len(p.links))]
	link.calls.Add(1)
	return link
}

// One call with its retries; nil if it may fail.
func (s *service) call(ctx context.Context, behaves *behaviour, call *callSpec) error {
	if slices.Contains(behaves.Absent, call.Peer) {
		return nil
	}
	if call.Deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(call.Deadline))
		defer cancel()
	}
	err := s.attempts(ctx, behaves, call)
	if err == nil || call.Optional {
		return nil
	}
	return status.Errorf(status.Code(err), "%s%s: %s", call.Peer, call.Path, status.Convert(err).Message())
}

func (s *service) attempts(ctx context.Context, behaves *behaviour, call *callSpec) error {
	peer := s.peers[call.Peer]
	for attempt := 0; ; attempt++ {
		if slices.Contains(behaves.OpenCircuits, call.Peer) || !peer.circuit.admits() {
			err := status.Error(codes.Unavailable, "circuit open")
			s.sent.write(sentLine{
				TMs: time.Now().UnixMilli(), Callee: call.Peer, Method: call.Path, Status: codeName(err), Attempt: -1,
			})
			return err
		}
		err := s.attempt(ctx, peer, call, attempt)
		peer.circuit.ended(status.Code(err))
		retries := call.Retries
		if err == nil || retries == nil || attempt+1 >= retries.Attempts ||
			!slices.Contains(retries.On, int(status.Code(err))) {
			return err
		}
		backoff := time.Duration(retries.Backoff) * time.Duration(attempt+1)
		if deadline, some := ctx.Deadline(); some && time.Until(deadline) < backoff {
			return err
		}
		wait(ctx, backoff)
	}
}

// One attempt on the wire, with its line of truth.
func (s *service) attempt(ctx context.Context, peer *peer, call *callSpec, attempt int) error {
	started := time.Now()
	if attempt > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, "grpc-previous-rpc-attempts", strconv.Itoa(attempt))
	}
	link := peer.take()
	defer link.calls.Done()
	traffic, err := talk(ctx, link.channel, call, s.requests[call.Path])
	if err != nil && strings.Contains(status.Convert(err).Message(), "Error while dialing") {
		// It found no connection, and so was on no wire.
		attempt = -1
	}
	s.sent.write(sentLine{
		TMs: started.UnixMilli(), Callee: peer.name, Method: call.Path, Status: codeName(err), traffic: traffic,
		Seconds: time.Since(started).Seconds(), Attempt: attempt,
	})
	return err
}

// Sends all messages, receives all messages.
func talk(ctx context.Context, channel *grpc.ClientConn, call *callSpec, requests *turns) (traffic, error) {
	// A stream that is not read to its end stays until its context ends.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := traffic{}
	shape := &grpc.StreamDesc{ClientStreams: call.Kind.clientStreams(), ServerStreams: call.Kind.serverStreams()}
	stream, err := channel.NewStream(ctx, shape, call.Path)
	if err != nil {
		return seen, err
	}
	sent := make(chan traffic, 1)
	sending := func() { sent <- send(stream, call, requests) }
	if call.Kind.clientStreams() {
		go sending()
	} else {
		sending()
	}
	for {
		var response []byte
		if err = stream.RecvMsg(&response); err != nil {
			break
		}
		seen.ResponseMessages++
		seen.ResponseBytes += len(response)
		if !shape.ServerStreams {
			break
		}
	}
	if err == io.EOF {
		err = nil
	}
	cancel()
	requested := <-sent
	seen.RequestMessages, seen.RequestBytes = requested.RequestMessages, requested.RequestBytes
	return seen, err
}

// Sends until all is sent or the stream has ended; how it ended is told to whoever receives.
func send(stream grpc.ClientStream, call *callSpec, requests *turns) traffic {
	seen := traffic{}
	for range messages(call.Kind.clientStreams(), call.RequestMessages) {
		if seen.RequestMessages > 0 {
			wait(stream.Context(), time.Duration(call.Gap))
		}
		request := requests.next(call.Requests)
		if stream.SendMsg(request) != nil {
			return seen
		}
		seen.RequestMessages++
		seen.RequestBytes += len(request)
	}
	_ = stream.CloseSend()
	return seen
}
