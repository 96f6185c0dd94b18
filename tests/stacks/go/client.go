package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// retries says which method is tried again, and when.
const retries = `{"methodConfig":[{"name":[{"service":"matrix.Peer","method":"Retried"}],"retryPolicy":{` +
	`"maxAttempts":5,"initialBackoff":"0.01s","maxBackoff":"0.02s","backoffMultiplier":1,` +
	`"retryableStatusCodes":["UNAVAILABLE"]}}]}`

func call(target, authority string, lines []string, book *ledger) {
	connection, err := grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(authority),
		grpc.WithStatsHandler(wire{client: true}),
		grpc.WithDefaultServiceConfig(retries),
		grpc.WithMaxHeaderListSize(1<<20),
		// grpc-go allows no keep-alive more often than every ten seconds.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}),
			grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		log.Fatal(err)
	}
	var running sync.WaitGroup
	group := ""
	for _, line := range lines {
		p := parsePlan(line)
		if p["group"] != group {
			running.Wait()
			group = p["group"]
		}
		if p["await"] == "1" {
			fmt.Println("waiting")
			_, _ = os.Stdin.Read(make([]byte, 1))
		}
		running.Add(1)
		go func() {
			defer running.Done()
			one(connection, p, line, book)
		}()
	}
	running.Wait()
	_ = connection.Close()
}

func one(connection *grpc.ClientConn, p plan, line string, book *ledger) {
	t := &truth{ID: p.number("id"), Method: p["method"], started: time.Now()}
	md := p.metadata("meta")
	md.Set("x-plan", told(line))
	if p["trace"] != "" {
		md.Set("traceparent", p["trace"])
	}
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(context.WithValue(context.Background(), truthKey{}, t), md))
	defer cancel()
	if after := p.millis("deadline"); after > 0 {
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, after)
		defer done()
	}
	if after := p.millis("cancel"); after > 0 {
		time.AfterFunc(after, cancel)
		t.Cancelled = true
	}
	var options []grpc.CallOption
	if p["gzip"] == "1" {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	err := converse(ctx, connection, p, t, options)
	t.Status = int(status.Code(err))
	t.Cancelled = t.Cancelled && codes.Code(t.Status) == codes.Canceled
	book.write(t)
}

func converse(ctx context.Context, connection *grpc.ClientConn, p plan, t *truth, options []grpc.CallOption) error {
	path := "/matrix.Peer/" + t.Method
	requests := p.sizes("req")
	if t.Method == "Unary" || t.Method == "Retried" || t.Method == "Missing" {
		var response []byte
		t.Requests, t.RequestBytes = 1, requests[0]
		err := connection.Invoke(ctx, path, message(requests[0]), &response, options...)
		if err == nil {
			t.Responses, t.ResponseBytes = 1, len(response)
		}
		return err
	}
	description := &grpc.StreamDesc{ClientStreams: t.Method != "ServerStream", ServerStreams: t.Method != "ClientStream"}
	stream, err := connection.NewStream(ctx, description, path, options...)
	if err != nil {
		return err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i, size := range requests {
			if i > 0 {
				time.Sleep(p.millis("cgap"))
			}
			if stream.SendMsg(message(size)) != nil {
				return
			}
			t.Requests++
			t.RequestBytes += size
		}
		_ = stream.CloseSend()
	}()
	if t.Method == "ClientStream" {
		// grpc-go waits for the status of a single answer by itself.
		var response []byte
		err = stream.RecvMsg(&response)
		if err == nil {
			t.Responses, t.ResponseBytes = 1, len(response)
		}
	} else {
		for {
			var response []byte
			if err = stream.RecvMsg(&response); err != nil {
				break
			}
			t.Responses++
			t.ResponseBytes += len(response)
		}
	}
	<-sent
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
