// GET and SET on one Redis server over one pipelined connection: commands go out as they come, answers
// come back in the same order.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

type redisSpec struct {
	Instance  string `json:"instance"`
	Operation string `json:"operation"`
	Bytes     int    `json:"bytes"`
	Keys      int    `json:"keys"`
}

// Commands that may wait for their answers; a stopped Redis fails calls beyond this.
const redisQueue = 1024

type redis struct {
	address string
	lock    sync.Mutex
	link    *redisLink
}

type redisLink struct {
	connection net.Conn
	waiting    chan chan error
}

func newRedis(address string) *redis { return &redis{address: address} }

// Runs one command and waits for its answer.
func (r *redis) run(ctx context.Context, step redisSpec, key string) error {
	wire := &bytes.Buffer{}
	if step.Operation == "set" {
		fmt.Fprintf(wire, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", len(key), key, step.Bytes)
		wire.Write(payload(step.Bytes))
		wire.WriteString("\r\n")
	} else {
		fmt.Fprintf(wire, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key)
	}
	answer := make(chan error, 1)
	if err := r.send(wire.Bytes(), answer); err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Writing and queueing are one step, so that answers find their commands.
func (r *redis) send(wire []byte, answer chan error) error {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.link == nil {
		connection, err := net.Dial("tcp", r.address)
		if err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		r.link = &redisLink{connection: connection, waiting: make(chan chan error, redisQueue)}
		go r.read(r.link)
	}
	select {
	case r.link.waiting <- answer:
	default:
		return errors.New("redis: too many commands wait")
	}
	if _, err := r.link.connection.Write(wire); err != nil {
		r.link.connection.Close()
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

// Gives answers to those who wait until the connection breaks; then they all fail.
func (r *redis) read(link *redisLink) {
	reader := bufio.NewReader(link.connection)
	for {
		answer, broken := readAnswer(reader)
		if broken != nil {
			break
		}
		(<-link.waiting) <- answer
	}
	link.connection.Close()
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.link == link {
		r.link = nil
	}
	for {
		select {
		case waiter := <-link.waiting:
			waiter <- errors.New("redis: the connection broke")
		default:
			return
		}
	}
}

// RESP: a simple string, an error or a bulk string.
func readAnswer(reader *bufio.Reader) (answer, broken error) {
	line, err := reader.ReadString('\n')
	if err != nil {
		return nil, err
	}
	rest := strings.TrimSpace(line[1:])
	switch line[0] {
	case '+', ':':
		return nil, nil
	case '-':
		return errors.New("redis: " + rest), nil
	case '$':
		length, err := strconv.Atoi(rest)
		if err != nil {
			return nil, err
		}
		if length >= 0 {
			_, err = io.CopyN(io.Discard, reader, int64(length)+2)
		}
		return nil, err
	}
	return nil, fmt.Errorf("no RESP: %q", line)
}
