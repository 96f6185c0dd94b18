// The grpc-go peer; see ../README.md. This file reads the command line, the scenario's lines and writes truth;
// server.go and client.go are the two ends.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
)

const maxMessage = 64 << 20

// plan is one line of a scenario.
type plan map[string]string

func parsePlan(line string) plan {
	p := plan{}
	for _, field := range strings.Fields(line) {
		key, value, _ := strings.Cut(field, "=")
		p[key] = value
	}
	return p
}

func (p plan) number(key string) int {
	n, _ := strconv.Atoi(p[key])
	return n
}

// told is what the server may know of a line: without what stands before `anon=1`.
func told(line string) string {
	if _, rest, found := strings.Cut(line, " anon=1 "); found {
		return rest
	}
	return line
}

func (p plan) millis(key string) time.Duration {
	return time.Duration(p.number(key)) * time.Millisecond
}

// sizes reads `3x100,0,1`.
func (p plan) sizes(key string) []int {
	var all []int
	if p[key] == "" || p[key] == "-" {
		return nil
	}
	for _, part := range strings.Split(p[key], ",") {
		count := 1
		if times, size, found := strings.Cut(part, "x"); found {
			count, _ = strconv.Atoi(times)
			part = size
		}
		size, _ := strconv.Atoi(part)
		for range count {
			all = append(all, size)
		}
	}
	return all
}

func (p plan) metadata(key string) metadata.MD {
	md := metadata.MD{}
	for i, size := range p.sizes(key) {
		md.Set("x-meta-"+strconv.Itoa(i), strings.Repeat("v", size))
	}
	return md
}

// ping is an HTTP/2 PING frame.
var ping = []byte{0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}

func message(size int) *[]byte {
	bytes := make([]byte, size)
	for i := range bytes {
		bytes[i] = ping[i%len(ping)]
	}
	return &bytes
}

// raw passes messages on as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) {
	bytes, ok := v.(*[]byte)
	if !ok {
		return nil, errors.New("not bytes")
	}
	return *bytes, nil
}

func (raw) Unmarshal(data []byte, v any) error {
	bytes, ok := v.(*[]byte)
	if !ok {
		return errors.New("not bytes")
	}
	*bytes = append([]byte{}, data...)
	return nil
}

func (raw) Name() string { return "proto" }

var _ encoding.Codec = raw{}

// truth is what one end says of one call.
type truth struct {
	ID            int     `json:"id"`
	Attempt       int     `json:"attempt"`
	Method        string  `json:"method"`
	Status        int     `json:"status"`
	Requests      int     `json:"requests"`
	RequestBytes  int     `json:"request_bytes"`
	Responses     int     `json:"responses"`
	ResponseBytes int     `json:"response_bytes"`
	RequestWire   int     `json:"request_wire"`
	ResponseWire  int     `json:"response_wire"`
	Ms            float64 `json:"ms"`
	Cancelled     bool    `json:"cancelled"`
	started       time.Time
	lock          sync.Mutex
}

// ledger writes truth, one line a call.
type ledger struct {
	lock sync.Mutex
	file *os.File
}

func (l *ledger) write(t *truth) {
	t.lock.Lock()
	t.Ms = float64(time.Since(t.started).Microseconds()) / 1000
	line, _ := json.Marshal(t)
	t.lock.Unlock()
	l.lock.Lock()
	defer l.lock.Unlock()
	_, _ = l.file.Write(append(line, '\n'))
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: peer server|client ...")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	port := flags.Int("port", 0, "")
	listen := flags.String("listen", "127.0.0.1", "")
	age := flags.Int("age", 0, "")
	target := flags.String("target", "", "")
	authority := flags.String("authority", "", "")
	scenario := flags.String("scenario", "", "")
	path := flags.String("truth", "", "")
	_ = flags.Parse(os.Args[2:])
	file, err := os.Create(*path)
	if err != nil {
		log.Fatal(err)
	}
	book := &ledger{file: file}
	if os.Args[1] == "server" {
		serve(net.JoinHostPort(*listen, strconv.Itoa(*port)), time.Duration(*age)*time.Millisecond, book)
		return
	}
	text, err := os.ReadFile(*scenario)
	if err != nil {
		log.Fatal(err)
	}
	call(*target, *authority, strings.Split(strings.TrimSpace(string(text)), "\n"), book)
}
