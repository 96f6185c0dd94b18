// A circuit breaker of one peer.
package main

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// Closed while fewer than rule.Failures calls in a row have failed; then open for a time, and after it for all but one
// call, until one succeeds.
type circuit struct {
	rule     *breakerSpec
	lock     sync.Mutex
	failures int
	opens    time.Time
	trying   bool
}

// Whether a call may leave.
func (c *circuit) admits() bool {
	if c.rule == nil {
		return true
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.failures < c.rule.Failures {
		return true
	}
	if c.trying || time.Now().Before(c.opens) {
		return false
	}
	c.trying = true
	return true
}

// A call that left has ended.
func (c *circuit) ended(code codes.Code) {
	if c.rule == nil {
		return
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	switch code {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.PermissionDenied:
		c.failures = 0
		c.trying = false
	default:
		c.failures++
		// Calls that left before it opened do not keep it open.
		if c.trying || c.failures == c.rule.Failures {
			c.opens = time.Now().Add(time.Duration(c.rule.Open))
			c.trying = false
		}
	}
}
