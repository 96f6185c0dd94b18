// The spec as it is written in the file, with its defaults; behaviour.go has what comes later.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

type serviceSpec struct {
	Replica  int                    `json:"replica"`
	Listen   string                 `json:"listen"`
	Truth    string                 `json:"truth"`
	Sent     string                 `json:"sent"`
	Seed     int64                  `json:"seed"`
	Backends map[string]backendSpec `json:"backends"`
	Peers    map[string]peerSpec    `json:"peers"`
	Methods  map[string]*methodSpec `json:"methods"`
}

type backendSpec struct {
	Kind    string `json:"kind"`
	Address string `json:"address"`
}

type peerSpec struct {
	Addresses   []string     `json:"addresses"`
	Authority   string       `json:"authority"`
	Connections int          `json:"connections"`
	Breaker     *breakerSpec `json:"breaker"`
}

type breakerSpec struct {
	Failures int          `json:"failures"`
	Open     milliseconds `json:"open_ms"`
}

type methodSpec struct {
	Kind             kind         `json:"kind"`
	Responses        [][]byte     `json:"responses"`
	ResponseMessages *int         `json:"response_messages"`
	Gap              milliseconds `json:"gap_ms"`
	CpuUs            int          `json:"cpu_us"`
	Sleep            milliseconds `json:"sleep_ms"`
	AllocateBytes    int          `json:"allocate_bytes"`
	Cache            *cacheSpec   `json:"cache"`
	Steps            []stepSpec   `json:"data"`
	Parallel         bool         `json:"parallel"`
	Calls            []*callSpec  `json:"calls"`

	answered turns
	cache    cache
}

type cacheSpec struct {
	Keys int          `json:"keys"`
	TTL  milliseconds `json:"ttl_ms"`
}

type stepSpec struct {
	Backend   string `json:"backend"`
	Operation string `json:"operation"`
	Bytes     int    `json:"bytes"`
	Keys      int    `json:"keys"`
}

type callSpec struct {
	Peer            string       `json:"peer"`
	Path            string       `json:"path"`
	Kind            kind         `json:"kind"`
	Requests        [][]byte     `json:"requests"`
	RequestMessages *int         `json:"request_messages"`
	Gap             milliseconds `json:"gap_ms"`
	Deadline        milliseconds `json:"deadline_ms"`
	Optional        bool         `json:"optional"`
	Retries         *retrySpec   `json:"retries"`
}

type retrySpec struct {
	Attempts int          `json:"attempts"`
	Backoff  milliseconds `json:"backoff_ms"`
	On       []int        `json:"on"`
}

// A time in a spec is a number of milliseconds, whole or not.
type milliseconds time.Duration

func (m *milliseconds) UnmarshalJSON(text []byte) error {
	var number float64
	err := json.Unmarshal(text, &number)
	*m = milliseconds(number * float64(time.Millisecond))
	return err
}

// Who sends many messages.
type kind string

func (k kind) clientStreams() bool { return k == "client-stream" || k == "bidi-stream" }
func (k kind) serverStreams() bool { return k == "server-stream" || k == "bidi-stream" }

// How many messages are sent by a side that streams, or by one that does not.
func messages(streams bool, count *int) int {
	if !streams || count == nil {
		return 1
	}
	return *count
}

func readSpec(path string) (*serviceSpec, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spec := &serviceSpec{}
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return spec, nil
}
