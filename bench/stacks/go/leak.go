// What grows for as long as the behaviour says so: memory, connections, and threads that only use the processor.
package main

import (
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Leaks grow in pieces of this interval.
	growEvery = 100 * time.Millisecond
	// One byte of each page is read in a walk.
	page = 4096
	// More connections would use up the ports of a small machine.
	connectionLimit = 5000
)

type leak struct {
	// The address that connections are leaked to; empty when there is none.
	target string

	lock        sync.Mutex
	pieces      [][]byte
	held        int
	connections []net.Conn
	owed        float64
	spinning    *atomic.Bool

	walking sync.Mutex
	rest    time.Time
}

// The first backend by name, else the first peer.
func firstTarget(spec *serviceSpec) string {
	var backends, peers []string
	for name := range spec.Backends {
		backends = append(backends, name)
	}
	for name, peer := range spec.Peers {
		if len(peer.Addresses) > 0 {
			peers = append(peers, name)
		}
	}
	if len(backends) > 0 {
		return spec.Backends[slices.Min(backends)].Address
	}
	if len(peers) > 0 {
		return spec.Peers[slices.Min(peers)].Addresses[0]
	}
	return ""
}

// Frees what the new behaviour does not leak, and starts its threads.
func (l *leak) follow(next *behaviour) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if next.LeakBytesPerSecond == 0 && l.held > 0 {
		l.pieces, l.held = nil, 0
		go debug.FreeOSMemory()
	}
	if next.LeakConnectionsPerSecond == 0 {
		for _, connection := range l.connections {
			connection.Close()
		}
		l.connections, l.owed = nil, 0
	}
	if l.spinning != nil {
		l.spinning.Store(false)
	}
	spinning := &atomic.Bool{}
	spinning.Store(true)
	l.spinning = spinning
	for range next.SpinThreads {
		go func() {
			runtime.LockOSThread()
			for spinning.Load() {
				burn(100)
			}
		}()
	}
}

func (l *leak) grow(behaves *atomic.Pointer[behaviour]) {
	for range time.Tick(growEvery) {
		is := behaves.Load()
		share := growEvery.Seconds()
		if is.LeakBytesPerSecond > 0 {
			l.hold(int(float64(is.LeakBytesPerSecond)*share), is.LeakLimitBytes)
		}
		if is.LeakConnectionsPerSecond > 0 {
			l.connect(is.LeakConnectionsPerSecond * share)
		}
	}
}

// Holds more memory, up to the limit; a nonzero fill touches every page, so that it is really used.
func (l *leak) hold(bytes, limit int) {
	l.lock.Lock()
	defer l.lock.Unlock()
	bytes = min(bytes, limit-l.held)
	if bytes <= 0 {
		return
	}
	piece := make([]byte, bytes)
	for at := range piece {
		piece[at] = 1
	}
	l.pieces = append(l.pieces, piece)
	l.held += bytes
}

// Opens connections; a rate below ten a second opens one now and then.
func (l *leak) connect(count float64) {
	l.lock.Lock()
	defer l.lock.Unlock()
	for l.owed += count; l.owed >= 1; l.owed-- {
		if l.target == "" || len(l.connections) >= connectionLimit {
			continue
		}
		if connection, err := net.DialTimeout("tcp", l.target, growEvery); err == nil {
			l.connections = append(l.connections, connection)
		}
	}
}

var sink atomic.Int64

// Reads one byte of each page of what leaked, as a collector or a search through an ever-growing cache does; all walks
// together take half of the time at most. Whoever finds the lock held has another call that walks.
func (l *leak) walk(times int) {
	if times == 0 || !l.walking.TryLock() {
		return
	}
	defer l.walking.Unlock()
	started := time.Now()
	if started.Before(l.rest) {
		return
	}
	l.lock.Lock()
	pieces := l.pieces
	l.lock.Unlock()
	sum := 0
	for range times {
		for _, piece := range pieces {
			for at := 0; at < len(piece); at += page {
				sum += int(piece[at])
			}
		}
	}
	sink.Store(int64(sum))
	l.rest = time.Now().Add(time.Since(started))
}
