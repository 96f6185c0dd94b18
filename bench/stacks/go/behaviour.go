// How the service misbehaves: lines from standard input, and their effects on calls. What grows is in leak.go.
package main

import (
	"context"
	"encoding/json"
	"math/rand"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type behaviour struct {
	Effects                  []effect            `json:"effects"`
	LeakBytesPerSecond       int                 `json:"leak_bytes_per_second"`
	LeakLimitBytes           int                 `json:"leak_limit_bytes"`
	LeakWalks                int                 `json:"leak_walks"`
	SpinThreads              int                 `json:"spin_threads"`
	LeakConnectionsPerSecond float64             `json:"leak_connections_per_second"`
	OpenCircuits             []string            `json:"open_circuits"`
	Addresses                map[string][]string `json:"addresses"`
	Absent                   []string            `json:"absent"`
}

type effect struct {
	Method      *string      `json:"method"`
	Fraction    float64      `json:"fraction"`
	Delay       milliseconds `json:"delay_ms"`
	Jitter      milliseconds `json:"jitter_ms"`
	Lock        milliseconds `json:"lock_ms"`
	MaxInFlight int64        `json:"max_in_flight"`
	Status      int          `json:"status"`
	Cut         bool         `json:"cut"`
}

func (e *effect) UnmarshalJSON(text []byte) error {
	type plain effect
	e.Fraction = 1
	return json.Unmarshal(text, (*plain)(e))
}

// Replaces the behaviour.
func (s *service) become(next *behaviour) {
	s.behaves.Store(next)
	for name, peer := range s.peers {
		peer.moveTo(next.Addresses[name])
	}
	s.leak.follow(next)
}

// The effects on one call, in order; an error fails it, and a cut sends half of its messages first.
func (s *service) afflict(ctx context.Context, behaves *behaviour, path string) (failure error, cut bool) {
	for _, effect := range behaves.Effects {
		if effect.Method != nil && *effect.Method != path {
			continue
		}
		if effect.Fraction < 1 && s.random.unit() >= effect.Fraction {
			continue
		}
		delay := float64(effect.Delay)
		if effect.Jitter > 0 {
			delay += float64(effect.Jitter) * s.random.exponential()
		}
		wait(ctx, time.Duration(delay))
		if effect.Lock > 0 {
			s.lock.Lock()
			time.Sleep(time.Duration(effect.Lock))
			s.lock.Unlock()
		}
		within := effect.MaxInFlight > 0 && s.inFlight.Load() <= effect.MaxInFlight
		if effect.Status != 0 && !within {
			return status.Error(codes.Code(effect.Status), "injected"), effect.Cut
		}
	}
	return nil, false
}

// Everything that is drawn in this process.
type random struct {
	lock   sync.Mutex
	source *rand.Rand
}

// From 0 to 1.
func (r *random) unit() float64 {
	r.lock.Lock()
	defer r.lock.Unlock()
	return r.source.Float64()
}

// With mean 1.
func (r *random) exponential() float64 {
	r.lock.Lock()
	defer r.lock.Unlock()
	return r.source.ExpFloat64()
}
