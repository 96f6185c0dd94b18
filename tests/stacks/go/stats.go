package main

import (
	"context"

	"google.golang.org/grpc/stats"
)

type truthKey struct{}

// wire adds up the message bytes of each call as sent, from grpc-go's own statistics.
type wire struct{ client bool }

func (w wire) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if w.client {
		return ctx // The client's call put its truth there.
	}
	return context.WithValue(ctx, truthKey{}, &truth{})
}

func (w wire) HandleRPC(ctx context.Context, event stats.RPCStats) {
	t, ok := ctx.Value(truthKey{}).(*truth)
	if !ok {
		return
	}
	t.lock.Lock()
	defer t.lock.Unlock()
	switch event := event.(type) {
	case *stats.OutPayload:
		if w.client {
			t.RequestWire += event.CompressedLength
		} else {
			t.ResponseWire += event.CompressedLength
		}
	case *stats.InPayload:
		if w.client {
			t.ResponseWire += event.CompressedLength
		} else {
			t.RequestWire += event.CompressedLength
		}
	}
}

func (wire) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (wire) HandleConn(context.Context, stats.ConnStats)                       {}
