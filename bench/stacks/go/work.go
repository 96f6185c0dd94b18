// What a call costs: processor time, and memory that comes and goes; and what the cache spares.
package main

import (
	"sync"
	"time"
)

func rounds(count int) uint64 {
	mixed := uint64(count)
	for range count {
		mixed = (mixed * 0x9E3779B97F4A7C15) ^ (mixed >> 29)
	}
	return mixed
}

var roundsPerUs = 300.0

// Measures the busy loop. Work is counted in rounds, not in wall time, so that a throttled process takes longer for it.
// The best of several short runs is the undisturbed one.
func calibrate() {
	const count = 100_000
	best := time.Hour
	for range 9 {
		started := time.Now()
		sink.Store(int64(rounds(count)))
		best = min(best, time.Since(started))
	}
	roundsPerUs = count / (best.Seconds() * 1e6)
}

// Uses so much processor time.
func burn(microseconds int) {
	sink.Store(int64(rounds(int(float64(microseconds) * roundsPerUs))))
}

// Allocates, touches and frees.
func allocate(bytes int) {
	if bytes == 0 {
		return
	}
	piece := make([]byte, bytes)
	sum := 0
	for at := range piece {
		piece[at] = 1
		sum += int(piece[at])
	}
	sink.Store(int64(sum))
}

// Keys and until when they are fresh; as many as the spec has keys.
type cache struct {
	lock  sync.Mutex
	fresh map[int]time.Time
}

func (c *cache) has(key int) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	return time.Now().Before(c.fresh[key])
}

func (c *cache) keep(key int, ttl time.Duration) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.fresh == nil {
		c.fresh = map[int]time.Time{}
	}
	c.fresh[key] = time.Now().Add(ttl)
}
