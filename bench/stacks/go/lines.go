// The files of truth: JSON lines, whole, visible after 0.2 s at most.
package main

import (
	"encoding/json"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Leaves time for the write itself.
const flushEvery = 150 * time.Millisecond

// What went over one call, without gRPC's prefix of five bytes a message.
type traffic struct {
	RequestBytes     int `json:"request_bytes"`
	ResponseBytes    int `json:"response_bytes"`
	RequestMessages  int `json:"request_messages"`
	ResponseMessages int `json:"response_messages"`
}

type servedLine struct {
	TMs     int64   `json:"t_ms"`
	Method  string  `json:"method"`
	Status  string  `json:"status"`
	Ended   bool    `json:"ended"`
	Seconds float64 `json:"seconds"`
	Replica int     `json:"replica"`
	traffic
}

type sentLine struct {
	TMs     int64   `json:"t_ms"`
	Callee  string  `json:"callee"`
	Method  string  `json:"method"`
	Status  string  `json:"status"`
	Seconds float64 `json:"seconds"`
	Attempt int     `json:"attempt"`
	traffic
}

// A file that many calls write. Lines wait in memory, and go out by whole lines in one write.
type lines struct {
	file    *os.File
	lock    sync.Mutex
	waiting []byte
}

// Appends, so that a service that was started again keeps what it served before.
func appendLines(path string) (*lines, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	l := &lines{file: file}
	go func() {
		for range time.Tick(flushEvery) {
			l.flush()
		}
	}()
	return l, nil
}

func (l *lines) write(line any) {
	text, err := json.Marshal(line)
	if err != nil {
		return
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	l.waiting = append(append(l.waiting, text...), '\n')
}

// A full disk loses lines, not the service.
func (l *lines) flush() {
	l.lock.Lock()
	defer l.lock.Unlock()
	if len(l.waiting) > 0 {
		_, _ = l.file.Write(l.waiting)
		l.waiting = l.waiting[:0]
	}
}

// Names of the gRPC status codes, in order of their numbers.
var codeNames = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

func codeName(err error) string {
	code := status.Code(err)
	if code <= codes.Unauthenticated {
		return codeNames[code]
	}
	return "UNKNOWN"
}
