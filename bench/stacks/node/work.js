// What a call costs: processor time, and memory that comes and goes; and what the cache spares.
"use strict";

function rounds(count) {
  let mixed = count;
  for (let at = 0; at < count; at++) mixed = (Math.imul(mixed, 0x9e3779b1) ^ (mixed >>> 15)) | 0;
  return mixed;
}

let roundsPerUs = 300;

// Measures the busy loop. Work is counted in rounds, not in wall time, so that a throttled process takes longer for it.
// The best of several short runs is the undisturbed one, and compiled.
function calibrate() {
  const count = 100_000;
  let best = Infinity;
  for (let run = 0; run < 9; run++) {
    const started = performance.now();
    rounds(count);
    best = Math.min(best, performance.now() - started);
  }
  roundsPerUs = count / (best * 1e3);
}

// Uses so much processor time.
function burn(microseconds) {
  return rounds(Math.floor(microseconds * roundsPerUs));
}

// Allocates and touches; the collector frees.
function allocate(bytes) {
  if (bytes > 0) Buffer.alloc(bytes, 1);
}

// Keys and until when they are fresh; as many as the spec has keys.
class Cache {
  constructor(spec) {
    this.keys = spec.keys ?? 1000;
    this.ttl = spec.ttl_ms ?? 60_000;
    this.fresh = new Map();
  }

  // Low keys are asked for most.
  draw(random) {
    return Math.floor(this.keys * random.unit() ** 3);
  }

  has(key) {
    return performance.now() < (this.fresh.get(key) ?? 0);
  }

  keep(key) {
    this.fresh.set(key, performance.now() + this.ttl);
  }
}

module.exports = { Cache, allocate, burn, calibrate };
