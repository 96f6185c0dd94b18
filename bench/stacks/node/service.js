// The generic service in Node (grpc-js): a spec comes in on the command line, calls on a port, behaviour
// on standard input; truth lines go out. It does what bench/src/service does in Rust.
"use strict";

const fs = require("fs");
const net = require("net");
const readline = require("readline");
const grpc = require("@grpc/grpc-js");

const CODE_NAMES = Object.fromEntries(Object.entries(grpc.status).map(([name, code]) => [code, name]));

// How the service misbehaves; the fields are those of Behaviour in bench/src/brief.rs.
const HEALTHY = {
  latency_ms: 0, error_fraction: 0, error_code: 0,
  leak_bytes_per_second: 0, leak_limit_bytes: 0, leak_walks: 0,
};

// A message Parcel { bytes payload = 1; } with a payload of this size, encoded.
function parcel(size) {
  if (size === 0) return Buffer.alloc(0);
  const head = [0x0a];
  let left = size;
  for (; left > 0x7f; left >>>= 7) head.push((left & 0x7f) | 0x80);
  head.push(left);
  return Buffer.concat([Buffer.from(head), Buffer.alloc(size, "x")]);
}

const asIs = (bytes) => bytes;
const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));
const seconds = (since) => Number(process.hrtime.bigint() - since) / 1e9;

// A file of JSON lines, visible after 200 ms.
class Lines {
  constructor(path) {
    this.file = fs.openSync(path, "a");
    this.waiting = [];
    setInterval(() => this.flush(), 200).unref();
  }
  write(line) {
    this.waiting.push(JSON.stringify(line) + "\n");
  }
  flush() {
    if (this.waiting.length === 0) return;
    fs.writeSync(this.file, this.waiting.join(""));
    this.waiting = [];
  }
}

// Work is counted in rounds of a loop, not in wall time: a throttled service takes longer for it.
function rounds(count) {
  let mixed = count;
  for (let at = 0; at < count; at++) mixed = (Math.imul(mixed, 0x9e3779b1) ^ (mixed >>> 15)) | 0;
  return mixed;
}

// The best of several short runs is the undisturbed one, and compiled.
function calibrate() {
  let best = Infinity;
  for (let run = 0; run < 15; run++) {
    const started = process.hrtime.bigint();
    rounds(100_000);
    best = Math.min(best, seconds(started));
  }
  return 100_000 / (best * 1e6);
}

const roundsPerUs = calibrate();
let behaviour = { ...HEALTHY };
let leaked = [];
let restUntil = 0;

// A behaviour without a leak frees what leaked.
function becomeLike(next) {
  behaviour = { ...HEALTHY, ...next };
  if (behaviour.leak_bytes_per_second === 0 && leaked.length > 0) {
    leaked = [];
    if (global.gc) global.gc();
  }
}

// Leaks for as long as the behaviour says so, in pieces of 100 ms; the fill touches every page.
function grow() {
  const bytes = Math.floor(behaviour.leak_bytes_per_second / 10);
  if (bytes > 0 && (leaked.length + 1) * bytes <= behaviour.leak_limit_bytes) leaked.push(Buffer.alloc(bytes, 1));
}

// Reads one byte of each page of what leaked; takes half of the time at most.
function walk(times) {
  const started = performance.now();
  if (times === 0 || started < restUntil) return 0;
  let sum = 0;
  for (let time = 0; time < times; time++) {
    for (const piece of leaked) for (let at = 0; at < piece.length; at += 4096) sum += piece[at];
  }
  const ended = performance.now();
  restUntil = ended + (ended - started);
  return sum;
}

// GET and SET on one Redis server over one pipelined connection.
class Redis {
  constructor(address) {
    [this.host, this.port] = address.split(":");
    this.socket = null;
  }
  connect() {
    const waiting = [];
    const socket = net.createConnection({ host: this.host, port: Number(this.port), noDelay: true });
    let held = Buffer.alloc(0);
    socket.on("data", (bytes) => {
      held = Buffer.concat([held, bytes]);
      for (;;) {
        const end = held.indexOf("\r\n");
        if (end < 0) return;
        const kind = String.fromCharCode(held[0]);
        const rest = held.toString("latin1", 1, end);
        const after = kind === "$" && Number(rest) >= 0 ? end + 2 + Number(rest) + 2 : end + 2;
        if (held.length < after) return;
        held = held.subarray(after);
        waiting.shift()(kind === "-" ? new Error(`redis: ${rest}`) : null);
      }
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      if (this.socket === socket) this.socket = null;
      for (const answer of waiting) answer(new Error("redis: the connection broke"));
    });
    this.socket = socket;
    this.waiting = waiting;
  }
  run(step, key) {
    const words = step.operation === "set" ? ["SET", key, "v".repeat(step.bytes)] : ["GET", key];
    const wire = `*${words.length}\r\n` + words.map((word) => `$${word.length}\r\n${word}\r\n`).join("");
    return new Promise((done, fail) => {
      if (!this.socket) this.connect();
      this.waiting.push((error) => (error ? fail(error) : done()));
      this.socket.write(wire);
    });
  }
}

function failure(code, details) {
  return Object.assign(new Error(details), { code, details });
}

class Service {
  constructor(spec) {
    this.methods = spec.methods;
    this.truth = new Lines(spec.truth);
    this.sent = new Lines(spec.sent);
    this.redis = {};
    for (const [name, address] of Object.entries(spec.redis)) this.redis[name] = new Redis(address);
    this.peers = {};
    for (const [name, peer] of Object.entries(spec.peers)) {
      this.peers[name] = new grpc.Client(peer.address, grpc.credentials.createInsecure(), {
        "grpc.default_authority": peer.authority,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 1000,
        "grpc.enable_http_proxy": 0,
      });
    }
  }

  // One served call, with its line of truth.
  async serve(path, call, respond) {
    const line = { t_ms: Date.now(), method: path, status: "OK", ended: true, request_bytes: call.request.length };
    const started = process.hrtime.bigint();
    let error = null;
    let response = null;
    try {
      response = await this.answer(this.methods[path]);
    } catch (caught) {
      error = caught.code === undefined || typeof caught.code !== "number"
        ? failure(grpc.status.UNAVAILABLE, caught.message) : caught;
      line.status = CODE_NAMES[error.code];
    }
    line.seconds = seconds(started);
    line.response_bytes = response ? response.length : 0;
    if (call.cancelled) {
      const deadline = call.getDeadline();
      const at = deadline instanceof Date ? deadline.getTime() : deadline;
      line.status = Date.now() >= at ? "DEADLINE_EXCEEDED" : "CANCELLED";
      line.ended = false;
      line.response_bytes = 0;
    }
    this.truth.write(line);
    respond(error, response);
  }

  // Misbehave as told, work, use Redis, call others, answer.
  async answer(method) {
    const now = behaviour;
    if (now.latency_ms > 0) await sleep(now.latency_ms);
    if (now.error_fraction > 0 && Math.random() < now.error_fraction) throw failure(now.error_code, "injected");
    if (method.sleep_ms > 0) await sleep(method.sleep_ms * (0.7 + 0.6 * Math.random()));
    walk(now.leak_walks);
    rounds(Math.floor(method.cpu_us * roundsPerUs));
    if (method.allocate_bytes > 0) Buffer.alloc(method.allocate_bytes, 1);
    for (const step of method.redis) {
      await this.askRedis(step, `k${Math.floor(Math.random() * step.keys)}`);
    }
    if (method.parallel) await Promise.all(method.calls.map((call) => this.call(call)));
    else for (const call of method.calls) await this.call(call);
    return parcel(method.response_bytes);
  }

  // One Redis command, with its line of truth.
  async askRedis(step, key) {
    const line = {
      t_ms: Date.now(), callee: step.instance, method: step.operation.toUpperCase(), status: "UNAVAILABLE",
      request_bytes: step.operation === "set" ? step.bytes : 0, response_bytes: 0,
    };
    const started = process.hrtime.bigint();
    try {
      await this.redis[step.instance].run(step, key);
      line.status = "OK";
    } finally {
      line.seconds = seconds(started);
      this.sent.write(line);
    }
  }

  // One outgoing call, with its line of truth.
  call(call) {
    const request = parcel(call.request_bytes);
    const t_ms = Date.now();
    const started = process.hrtime.bigint();
    const options = { deadline: t_ms + call.deadline_ms };
    return new Promise((done, fail) => {
      const ended = (error, response) => {
        this.sent.write({
          t_ms, callee: call.peer, method: call.path, status: error ? CODE_NAMES[error.code] : "OK",
          request_bytes: request.length, response_bytes: response ? response.length : 0, seconds: seconds(started),
        });
        if (error && !call.optional) fail(failure(error.code, `${call.peer}${call.path}: ${error.details}`));
        else done();
      };
      this.peers[call.peer].makeUnaryRequest(call.path, asIs, asIs, request, new grpc.Metadata(), options, ended);
    });
  }

  // Each path of the spec as a unary method; messages stay bytes, so that no generated code is needed.
  register(server) {
    const definition = {};
    const handlers = {};
    for (const path of Object.keys(this.methods)) {
      definition[path] = {
        path, requestStream: false, responseStream: false,
        requestSerialize: asIs, requestDeserialize: asIs, responseSerialize: asIs, responseDeserialize: asIs,
      };
      handlers[path] = (call, respond) => this.serve(path, call, respond);
    }
    server.addService(definition, handlers);
  }
}

function main() {
  const spec = JSON.parse(fs.readFileSync(process.argv[process.argv.indexOf("--spec") + 1], "utf8"));
  const service = new Service(spec);
  const server = new grpc.Server();
  service.register(server);
  setInterval(grow, 100).unref();
  const stop = () => {
    const end = () => {
      service.truth.flush();
      service.sent.flush();
      process.exit(0);
    };
    server.tryShutdown(end);
    setTimeout(end, 1000);
  };
  server.bindAsync(spec.listen, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) {
      console.error(error.message);
      process.exit(1);
    }
    console.log("ready");
  });
  const input = readline.createInterface({ input: process.stdin });
  input.on("line", (line) => {
    try {
      becomeLike(JSON.parse(line));
    } catch (error) {
      console.error(`a command was not understood: ${error.message}: ${line}`);
    }
  });
  input.on("close", stop);
  process.on("SIGTERM", stop);
}

main();
