// How the service misbehaves: a line from standard input, and what grows for as long as it says so. What the effects do
// to calls is in serving.js.
"use strict";

const net = require("net");

// Growth comes in pieces of this interval, ms.
const GROW_EVERY = 100;

const PAGE = 4096;

// More connections would use up the ports of a small machine.
const CONNECTION_LIMIT = 5000;

const NO_EFFECT = {
  method: null, fraction: 1, delay_ms: 0, jitter_ms: 0, lock_ms: 0, max_in_flight: 0, status: 0, cut: false,
};

const HEALTHY = {
  leak_bytes_per_second: 0, leak_limit_bytes: 0, leak_walks: 0, spin_threads: 0, leak_connections_per_second: 0,
  open_circuits: [], addresses: {}, absent: [],
};

// One line, with its defaults.
class Behaviour {
  constructor(told) {
    Object.assign(this, HEALTHY, told);
    this.effects = (told.effects ?? []).map((effect) => ({ ...NO_EFFECT, ...effect }));
  }
}

// What leaked, and threads that only use the processor.
class Growth {
  constructor(spec) {
    this.target = firstTarget(spec);
    this.pieces = [];
    this.held = 0;
    this.connections = [];
    this.owed = 0;
    this.spinning = [];
    this.restUntil = 0;
    this.timer = null;
  }

  // Frees what the new behaviour does not leak, and starts its threads.
  follow(behaviour) {
    clearInterval(this.timer);
    if (behaviour.leak_bytes_per_second === 0 && this.held > 0) {
      this.pieces = [];
      this.held = 0;
      global.gc?.();
    }
    if (behaviour.leak_connections_per_second === 0) {
      for (const connection of this.connections) connection.destroy();
      this.connections = [];
      this.owed = 0;
    }
    for (const thread of this.spinning) thread.terminate();
    this.spinning = [];
    for (let one = 0; one < behaviour.spin_threads; one++) this.spinning.push(spinner());
    if (behaviour.leak_bytes_per_second > 0 || behaviour.leak_connections_per_second > 0) {
      this.timer = setInterval(() => this.grow(behaviour), GROW_EVERY).unref();
    }
  }

  grow(behaviour) {
    const share = GROW_EVERY / 1e3;
    const bytes = Math.floor(behaviour.leak_bytes_per_second * share);
    const piece = Math.min(bytes, behaviour.leak_limit_bytes - this.held);
    if (piece > 0) {
      // A nonzero fill touches every page, so that the memory is really used.
      this.pieces.push(Buffer.alloc(piece, 1));
      this.held += piece;
    }
    // A rate below ten a second opens one now and then.
    for (this.owed += behaviour.leak_connections_per_second * share; this.owed >= 1; this.owed--) {
      if (this.target && this.connections.length < CONNECTION_LIMIT) this.connect();
    }
  }

  connect() {
    const connection = net.connect(this.target).unref();
    connection.on("error", () => connection.destroy());
    this.connections.push(connection);
  }

  // Reads one byte of each page of what leaked; all walks together take half of the time at most.
  walk(times) {
    const started = performance.now();
    if (times === 0 || started < this.restUntil) return 0;
    let sum = 0;
    for (let time = 0; time < times; time++) {
      for (const piece of this.pieces) for (let at = 0; at < piece.length; at += PAGE) sum += piece[at];
    }
    const ended = performance.now();
    this.restUntil = ended + (ended - started);
    return sum;
  }
}

// A thread that only uses the processor. Few services ever need one, so the module is loaded here.
function spinner() {
  const { Worker } = require("worker_threads");
  return new Worker("for (let turns = 0; ; turns++);", { eval: true });
}

// Where connections are leaked to: the first backend by name, else the first peer.
function firstTarget(spec) {
  const byName = (entries) => Object.entries(entries ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  const backends = byName(spec.backends).map(([, backend]) => backend.address);
  const peers = byName(spec.peers).flatMap(([, peer]) => peer.addresses);
  const [address] = [...backends, ...peers];
  return address ? split(address) : null;
}

// Host and port.
function split(address) {
  const colon = address.lastIndexOf(":");
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
}

module.exports = { Behaviour, Growth, split };
