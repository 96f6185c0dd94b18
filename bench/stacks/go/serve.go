// One served call: effects, time, work, backends, others, and the answer. How it misbehaves is in behaviour.go, whom
// it calls in peers.go, what it stores in backends.go.
package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The caller's deadline started this much earlier than ours at most, so that its RST_STREAM may come before ours passes.
const transit = 10 * time.Millisecond

type service struct {
	methods  map[string]*methodSpec
	replica  int
	peers    map[string]*peer
	backends map[string]*backend
	requests map[string]*turns
	behaves  atomic.Pointer[behaviour]
	leak     leak
	lock     sync.Mutex
	inFlight atomic.Int64
	random   random
	truth    *lines
	sent     *lines
}

func newService(spec *serviceSpec) (*service, error) {
	s := &service{
		methods: spec.Methods, replica: spec.Replica, peers: map[string]*peer{}, backends: map[string]*backend{},
		requests: map[string]*turns{}, random: random{source: rand.New(rand.NewSource(spec.Seed))},
	}
	s.behaves.Store(&behaviour{})
	var err error
	if s.truth, err = appendLines(spec.Truth); err != nil {
		return nil, err
	}
	if s.sent, err = appendLines(spec.Sent); err != nil {
		return nil, err
	}
	for name, peer := range spec.Peers {
		s.peers[name] = newPeer(name, peer)
	}
	for name, backend := range spec.Backends {
		if s.backends[name], err = newBackend(name, backend, s.sent); err != nil {
			return nil, err
		}
	}
	for path, method := range spec.Methods {
		if err := s.check(path, method); err != nil {
			return nil, err
		}
		for _, call := range method.Calls {
			s.requests[call.Path] = &turns{}
		}
	}
	s.leak.target = firstTarget(spec)
	calibrate()
	go s.leak.grow(&s.behaves)
	return s, nil
}

func (s *service) check(path string, method *methodSpec) error {
	for _, step := range method.Steps {
		if s.backends[step.Backend] == nil {
			return fmt.Errorf("%s: there is no backend %q", path, step.Backend)
		}
	}
	for _, call := range method.Calls {
		if s.peers[call.Peer] == nil {
			return fmt.Errorf("%s: there is no peer %q", path, call.Peer)
		}
	}
	return nil
}

// One served call, with its line of truth.
func (s *service) serve(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	method := s.methods[path]
	if method == nil {
		return status.Errorf(codes.Unimplemented, "no method %s", path)
	}
	started := time.Now()
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	call := &served{stream: stream, path: path, method: method}
	err := s.answer(stream.Context(), call)
	line := servedLine{
		TMs: started.UnixMilli(), Method: path, Status: codeName(err), Ended: true, traffic: call.traffic,
		Seconds: time.Since(started).Seconds(), Replica: s.replica,
	}
	if stream.Context().Err() != nil {
		line.Ended = false
		line.Status = "CANCELLED"
		if deadline, some := stream.Context().Deadline(); some && time.Until(deadline) < transit {
			line.Status = "DEADLINE_EXCEEDED"
		}
	}
	s.truth.write(line)
	return err
}

func (s *service) answer(ctx context.Context, call *served) error {
	if call.method.Kind != "bidi-stream" {
		if err := call.receiveAll(); err != nil {
			return err
		}
	}
	behaves := s.behaves.Load()
	if err, cut := s.afflict(ctx, behaves, call.path); err != nil {
		if cut {
			call.sendHalf()
		}
		return err
	}
	if call.method.Sleep > 0 {
		wait(ctx, time.Duration(float64(call.method.Sleep)*(0.7+0.6*s.random.unit())))
	}
	s.leak.walk(behaves.LeakWalks)
	burn(call.method.CpuUs)
	allocate(call.method.AllocateBytes)
	if err := s.fetch(ctx, behaves, call.method); err != nil {
		return err
	}
	return call.respond()
}

// What the call needs from others, unless the cache has it.
func (s *service) fetch(ctx context.Context, behaves *behaviour, method *methodSpec) error {
	if method.Cache == nil {
		return s.askOthers(ctx, behaves, method)
	}
	u := s.random.unit()
	key := int(math.Floor(float64(method.Cache.Keys) * u * u * u))
	if method.cache.has(key) {
		return nil
	}
	err := s.askOthers(ctx, behaves, method)
	if err == nil {
		method.cache.keep(key, time.Duration(method.Cache.TTL))
	}
	return err
}

func (s *service) askOthers(ctx context.Context, behaves *behaviour, method *methodSpec) error {
	for _, step := range method.Steps {
		if err := s.store(ctx, step); err != nil {
			return err
		}
	}
	if !method.Parallel {
		for _, call := range method.Calls {
			if err := s.call(ctx, behaves, call); err != nil {
				return err
			}
		}
		return nil
	}
	failures := make([]error, len(method.Calls))
	var running sync.WaitGroup
	for place, call := range method.Calls {
		running.Go(func() { failures[place] = s.call(ctx, behaves, call) })
	}
	running.Wait()
	for _, failure := range failures {
		if failure != nil {
			return failure
		}
	}
	return nil
}

// A served call's stream, and what went over it.
type served struct {
	stream  grpc.ServerStream
	path    string
	method  *methodSpec
	traffic traffic
}

func (c *served) receive() error {
	var request []byte
	err := c.stream.RecvMsg(&request)
	if err == nil {
		c.traffic.RequestMessages++
		c.traffic.RequestBytes += len(request)
	}
	return err
}

// A unary call and a server stream come with one message, a client stream with many.
func (c *served) receiveAll() error {
	if !c.method.Kind.clientStreams() {
		return c.receive()
	}
	return c.receiveRest()
}

func (c *served) receiveRest() error {
	for {
		if err := c.receive(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (c *served) send() error {
	response := c.method.answered.next(c.method.Responses)
	err := c.stream.SendMsg(response)
	if err == nil {
		c.traffic.ResponseMessages++
		c.traffic.ResponseBytes += len(response)
	}
	return err
}

// Sends up to a number of messages in all.
func (c *served) sendUpTo(count int) error {
	for c.traffic.ResponseMessages < count {
		if c.traffic.ResponseMessages > 0 {
			wait(c.stream.Context(), time.Duration(c.method.Gap))
		}
		if err := c.send(); err != nil {
			return err
		}
	}
	return nil
}

// A stream that is cut gets as far as its half; what fails here fails the call anyway.
func (c *served) sendHalf() {
	if c.method.Kind.serverStreams() {
		_ = c.sendUpTo(messages(true, c.method.ResponseMessages) / 2)
	}
}

func (c *served) respond() error {
	count := messages(c.method.Kind.serverStreams(), c.method.ResponseMessages)
	if c.method.Kind != "bidi-stream" {
		return c.sendUpTo(count)
	}
	for c.traffic.ResponseMessages < count {
		if err := c.receive(); err == io.EOF {
			return c.sendUpTo(count)
		} else if err != nil {
			return err
		}
		if err := c.sendUpTo(c.traffic.ResponseMessages + 1); err != nil {
			return err
		}
	}
	return c.receiveRest()
}

// Waits, or until the caller is gone.
func wait(ctx context.Context, length time.Duration) {
	if length <= 0 {
		return
	}
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
