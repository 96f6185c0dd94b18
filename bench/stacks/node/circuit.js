// A circuit breaker of one peer.
"use strict";

const { status } = require("@grpc/grpc-js");

// Statuses that say nothing bad of the one who answers.
const NO_FAILURES = [status.OK, status.INVALID_ARGUMENT, status.NOT_FOUND, status.PERMISSION_DENIED];

// Closed while fewer than rule.failures calls in a row have failed; then open for a time, and after it for all but one
// call, until one succeeds.
class Circuit {
  constructor(rule) {
    this.rule = rule ?? { failures: Infinity, open_ms: 0 };
    this.failures = 0;
    this.opens = 0;
    this.trying = false;
  }

  // Whether a call may leave.
  admits() {
    if (this.failures < this.rule.failures) return true;
    if (this.trying || performance.now() < this.opens) return false;
    this.trying = true;
    return true;
  }

  // A call that left has ended.
  ended(code) {
    if (NO_FAILURES.includes(code)) {
      this.failures = 0;
      this.trying = false;
      return;
    }
    this.failures++;
    // Calls that left before it opened do not keep it open.
    if (this.trying || this.failures === this.rule.failures) {
      this.opens = performance.now() + this.rule.open_ms;
      this.trying = false;
    }
  }
}

module.exports = { Circuit };
