package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serve listens on an address; it lets go of connections after some time, if that is not zero.
func serve(address string, age time.Duration, book *ledger) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.ForceServerCodec(raw{}),
		grpc.StatsHandler(wire{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(1<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Second, MaxConnectionAge: age}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Millisecond, PermitWithoutStream: true}),
	)
	peer := &peer{book: book}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "matrix.Peer",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Unary", Handler: peer.unary("Unary")},
			{MethodName: "Retried", Handler: peer.unary("Retried")},
		},
		Streams: []grpc.StreamDesc{
			{StreamName: "ClientStream", ClientStreams: true, Handler: peer.stream("ClientStream")},
			{StreamName: "ServerStream", ServerStreams: true, Handler: peer.stream("ServerStream")},
			{StreamName: "Bidi", ClientStreams: true, ServerStreams: true, Handler: peer.stream("Bidi")},
		},
	}, peer)
	fmt.Fprintln(os.Stdout, "ready")
	log.Fatal(server.Serve(listener))
}

type peer struct{ book *ledger }

func planOf(ctx context.Context) plan {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, line := range md.Get("x-plan") {
		return parsePlan(line)
	}
	return plan{}
}

// begin finds the call's truth, made by the statistics' tag.
func begin(ctx context.Context, p plan, method string) *truth {
	t, ok := ctx.Value(truthKey{}).(*truth)
	if !ok {
		t = &truth{}
	}
	t.ID, t.Method, t.started = p.number("id"), method, time.Now()
	md, _ := metadata.FromIncomingContext(ctx)
	for _, attempts := range md.Get("grpc-previous-rpc-attempts") {
		t.Attempt, _ = strconv.Atoi(attempts)
	}
	return t
}

func wait(ctx context.Context, time_ time.Duration) error {
	if time_ == 0 {
		return nil
	}
	select {
	case <-time.After(time_):
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// end fills in how the call ended, and writes its truth.
func (s *peer) end(ctx context.Context, t *truth, p plan, err error) error {
	if t.Attempt < p.number("retry") {
		err = status.Error(codes.Unavailable, "try again")
	}
	if err == nil && p.number("status") != 0 {
		err = status.Error(codes.Code(p.number("status")), "asked")
	}
	t.Status = int(status.Code(err))
	t.Cancelled = ctx.Err() != nil
	s.book.write(t)
	return err
}

func (s *peer) unary(method string) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		return s.single(ctx, method, decode)
	}
}

func (s *peer) single(ctx context.Context, method string, decode func(any) error) (any, error) {
	p := planOf(ctx)
	t := begin(ctx, p, method)
	var request []byte
	if err := decode(&request); err != nil {
		return nil, s.end(ctx, t, p, err)
	}
	t.Requests, t.RequestBytes = 1, len(request)
	err := wait(ctx, p.millis("delay"))
	if p["gzip"] == "1" {
		_ = grpc.SetSendCompressor(ctx, gzip.Name)
	}
	if md := p.metadata("rmeta"); len(md) > 0 {
		_ = grpc.SendHeader(ctx, md)
	}
	_ = grpc.SetTrailer(ctx, p.metadata("tmeta"))
	if err == nil && p.number("status") == 0 && t.Attempt >= p.number("retry") {
		for _, size := range p.sizes("res") {
			t.Responses, t.ResponseBytes = 1, size
			response := message(size)
			// grpc-go sends the response after this returns: its bytes on the wire are not known yet.
			t.ResponseWire = -1
			return response, s.end(ctx, t, p, nil)
		}
	}
	return nil, s.end(ctx, t, p, err)
}

func (s *peer) stream(method string) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		ctx := stream.Context()
		p := planOf(ctx)
		t := begin(ctx, p, method)
		return s.end(ctx, t, p, s.converse(stream, p, t))
	}
}

func (s *peer) converse(stream grpc.ServerStream, p plan, t *truth) error {
	ctx := stream.Context()
	receive := func() (bool, error) {
		var request []byte
		err := stream.RecvMsg(&request)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err == nil {
			t.Requests++
			t.RequestBytes += len(request)
		}
		return err == nil, err
	}
	if p["gzip"] == "1" {
		_ = grpc.SetSendCompressor(ctx, gzip.Name)
	}
	stream.SetTrailer(p.metadata("tmeta"))
	responses := p.sizes("res")
	first := true
	send := func() error {
		pause := p.millis("gap")
		if first {
			pause = 0
		}
		first = false
		if err := wait(ctx, pause); err != nil {
			return err
		}
		size := responses[0]
		responses = responses[1:]
		if err := stream.SendMsg(message(size)); err != nil {
			return err
		}
		t.Responses++
		t.ResponseBytes += size
		return nil
	}
	headers := func() error {
		if err := wait(ctx, p.millis("delay")); err != nil {
			return err
		}
		if md := p.metadata("rmeta"); len(md) > 0 {
			return stream.SendHeader(md)
		}
		return nil
	}
	if p["early"] == "1" {
		if err := headers(); err != nil {
			return err
		}
	} else if t.Method == "Bidi" {
		if err := headers(); err != nil {
			return err
		}
		for {
			more, err := receive()
			if err != nil {
				return err
			}
			if !more {
				break
			}
			if len(responses) > 0 {
				if err := send(); err != nil {
					return err
				}
			}
		}
	} else {
		for more := true; more; {
			var err error
			if more, err = receive(); err != nil {
				return err
			}
		}
		if err := headers(); err != nil {
			return err
		}
	}
	for len(responses) > 0 {
		if err := send(); err != nil {
			return err
		}
	}
	return nil
}
