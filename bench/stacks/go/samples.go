// Messages are bytes: where they come from, and the codec that leaves them as they are.
package main

import (
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// Counts the messages of one path.
type turns struct{ taken atomic.Uint64 }

// The n-th message of the process; without samples it is empty.
func (t *turns) next(samples [][]byte) []byte {
	if len(samples) == 0 {
		return []byte{}
	}
	turn := t.taken.Add(1) - 1
	return samples[turn%uint64(len(samples))]
}

// The codec that does nothing. Without a name, the content type is plain application/grpc.
type asTheyAre struct{}

func (asTheyAre) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (asTheyAre) Unmarshal(wire mem.BufferSlice, message any) error {
	// Only the length matters; a copy is what any codec would make.
	*message.(*[]byte) = wire.Materialize()
	return nil
}

func (asTheyAre) Name() string { return "" }
