// What a call costs, how the service misbehaves, and the files of truth.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// How the service misbehaves; the fields are those of Behaviour in bench/src/brief.rs.
type behaviour struct {
	LatencyMs          float64 `json:"latency_ms"`
	ErrorFraction      float64 `json:"error_fraction"`
	ErrorCode          int     `json:"error_code"`
	LeakBytesPerSecond int     `json:"leak_bytes_per_second"`
	LeakLimitBytes     int     `json:"leak_limit_bytes"`
	LeakWalks          int     `json:"leak_walks"`
}

type misbehaviour struct {
	lock   sync.RWMutex
	is     behaviour
	leaked [][]byte
	walked sync.Mutex
	rest   time.Time
}

func (m *misbehaviour) now() behaviour {
	m.lock.RLock()
	defer m.lock.RUnlock()
	return m.is
}

// A behaviour without a leak frees what leaked.
func (m *misbehaviour) becomeLike(next behaviour) {
	m.lock.Lock()
	freed := next.LeakBytesPerSecond == 0 && m.leaked != nil
	if freed {
		m.leaked = nil
	}
	m.is = next
	m.lock.Unlock()
	if freed {
		debug.FreeOSMemory()
	}
}

var sink int

// Reads one byte of each page of what leaked; takes half of the time at most.
func (m *misbehaviour) walk(times int) {
	if times == 0 || !m.walked.TryLock() {
		return
	}
	defer m.walked.Unlock()
	started := time.Now()
	if started.Before(m.rest) {
		return
	}
	m.lock.RLock()
	leaked := m.leaked
	m.lock.RUnlock()
	sum := 0
	for range times {
		for _, piece := range leaked {
			for at := 0; at < len(piece); at += 4096 {
				sum += int(piece[at])
			}
		}
	}
	if sum < 0 {
		sink = sum
	}
	m.rest = time.Now().Add(time.Since(started))
}

// Leaks for as long as the behaviour says so, in pieces of 100 ms.
func (m *misbehaviour) grow() {
	for range time.Tick(100 * time.Millisecond) {
		is := m.now()
		bytes := is.LeakBytesPerSecond / 10
		if bytes == 0 || (len(m.leaked)+1)*bytes > is.LeakLimitBytes {
			continue
		}
		// A nonzero fill touches every page, so that the memory is really used.
		piece := payload(bytes)
		m.lock.Lock()
		if m.is.LeakBytesPerSecond > 0 {
			m.leaked = append(m.leaked, piece)
		}
		m.lock.Unlock()
	}
}

func rounds(count int) uint64 {
	mixed := uint64(count)
	for range count {
		mixed = mixed*0x9E3779B97F4A7C15 ^ mixed>>29
	}
	return mixed
}

var (
	roundsPerUs = 300.0
	rounded     uint64
)

// Measures the busy loop; the best of several short runs is the undisturbed one.
func calibrate() {
	best := time.Hour
	for range 9 {
		started := time.Now()
		rounded = rounds(100_000)
		best = min(best, time.Since(started))
	}
	roundsPerUs = 100_000 / max(float64(best)/1e3, 1)
}

// Uses so much processor time.
func burn(us int) {
	if rounds(int(float64(us)*roundsPerUs)) == 1 {
		rounded = 1
	}
}

// Allocates, touches and frees.
func allocate(bytes int) {
	if bytes > 0 && payload(bytes)[0] == 0 {
		rounded = 0
	}
}

type servedLine struct {
	TMs           int64   `json:"t_ms"`
	Method        string  `json:"method"`
	Status        string  `json:"status"`
	Ended         bool    `json:"ended"`
	RequestBytes  int     `json:"request_bytes"`
	ResponseBytes int     `json:"response_bytes"`
	Seconds       float64 `json:"seconds"`
}

type sentLine struct {
	TMs           int64   `json:"t_ms"`
	Callee        string  `json:"callee"`
	Method        string  `json:"method"`
	Status        string  `json:"status"`
	RequestBytes  int     `json:"request_bytes"`
	ResponseBytes int     `json:"response_bytes"`
	Seconds       float64 `json:"seconds"`
}

// A file of JSON lines that many goroutines write; visible after 200 ms.
type lines struct {
	lock sync.Mutex
	file *bufio.Writer
}

func appendLines(path string) *lines {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	opened := &lines{file: bufio.NewWriter(file)}
	go func() {
		for range time.Tick(200 * time.Millisecond) {
			opened.flush()
		}
	}()
	return opened
}

func (l *lines) write(line any) {
	text, err := json.Marshal(line)
	if err != nil {
		return
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	l.file.Write(append(text, '\n'))
}

func (l *lines) flush() {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.file.Flush()
}
