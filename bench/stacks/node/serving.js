// One served call: effects, time, work, backends, others, and the answer. How it misbehaves is in behaviour.js, whom it
// calls in peers.js, what it stores in backends.js.
"use strict";

const { connect } = require("./backends");
const { Behaviour, Growth } = require("./behaviour");
const { Failure, codeName } = require("./failure");
const { Peer } = require("./peers");
const { Random, sleep } = require("./random");
const { Samples, asTheyAre } = require("./samples");
const { Lines, seconds } = require("./truth");
const { Cache, allocate, burn, calibrate } = require("./work");

// The caller's deadline started this much earlier than ours at most, so that its RST_STREAM may come first, ms.
const TRANSIT = 10;

class Service {
  constructor(spec) {
    this.replica = spec.replica ?? 0;
    this.truth = new Lines(spec.truth);
    this.sent = new Lines(spec.sent);
    this.random = new Random(spec.seed);
    this.behaviour = new Behaviour({});
    this.growth = new Growth(spec);
    this.lock = Promise.resolve();
    this.inFlight = 0;
    this.methods = {};
    for (const [path, method] of Object.entries(spec.methods)) this.methods[path] = withDefaults(method);
    this.backends = {};
    for (const [name, backend] of Object.entries(spec.backends ?? {})) this.backends[name] = connect(name, backend, this.sent);
    this.peers = {};
    for (const [name, peer] of Object.entries(spec.peers ?? {})) this.peers[name] = new Peer(name, peer, this.sent);
    calibrate();
  }

  // Each path of the spec, without generated code. All kinds are served as bidirectional streams: on the wire a unary
  // call is one whose sides send one message each.
  register(server) {
    const definition = {};
    const implementation = {};
    for (const path of Object.keys(this.methods)) {
      definition[path] = {
        path, requestStream: true, responseStream: true, requestSerialize: asTheyAre, requestDeserialize: asTheyAre,
        responseSerialize: asTheyAre, responseDeserialize: asTheyAre,
      };
      implementation[path] = (call) => this.serve(new Served(path, this.methods[path], call));
    }
    server.addService(definition, implementation);
  }

  // Replaces the behaviour.
  become(told) {
    const behaviour = new Behaviour(told);
    for (const [name, peer] of Object.entries(this.peers)) peer.moveTo(behaviour.addresses[name]);
    this.growth.follow(behaviour);
    this.behaviour = behaviour;
  }

  // One served call, with its line of truth.
  async serve(call) {
    this.inFlight++;
    let failure = null;
    try {
      await this.answer(call);
    } catch (error) {
      failure = Failure.from(error);
    }
    this.inFlight--;
    this.truth.write(call.line(failure, this.replica));
    call.end(failure);
  }

  async answer(call) {
    const { method } = call;
    if (method.kind === "client-stream") while (await call.receive());
    else if (method.kind !== "bidi-stream") await call.receive();
    const behaviour = this.behaviour;
    const { failure, cut } = await this.afflict(behaviour, call.path);
    if (failure) {
      if (cut && method.servesMany) await call.sendUpTo(Math.floor(method.response_messages / 2));
      throw failure;
    }
    if (method.sleep_ms > 0) await sleep(method.sleep_ms * (0.7 + 0.6 * this.random.unit()));
    this.growth.walk(behaviour.leak_walks);
    burn(method.cpu_us);
    allocate(method.allocate_bytes);
    await this.fetch(behaviour, method);
    if (method.kind === "bidi-stream") {
      while (await call.receive()) await call.sendUpTo(Math.min(call.sent + 1, method.response_messages));
    }
    await call.sendUpTo(method.response_messages);
  }

  // The effects on one call, in order; the failure that they end with, and whether half is sent first.
  async afflict(behaviour, path) {
    for (const effect of behaviour.effects) {
      if (effect.method !== null && effect.method !== path) continue;
      if (effect.fraction < 1 && this.random.unit() >= effect.fraction) continue;
      const jitter = effect.jitter_ms > 0 ? effect.jitter_ms * this.random.exponential() : 0;
      if (effect.delay_ms + jitter > 0) await sleep(effect.delay_ms + jitter);
      if (effect.lock_ms > 0) {
        this.lock = this.lock.then(() => sleep(effect.lock_ms));
        await this.lock;
      }
      const within = effect.max_in_flight > 0 && this.inFlight <= effect.max_in_flight;
      if (effect.status !== 0 && !within) return { failure: new Failure(effect.status, "injected"), cut: effect.cut };
    }
    return { failure: null, cut: false };
  }

  // What the call needs from others, unless the cache has it.
  async fetch(behaviour, method) {
    if (!method.cache) return this.askOthers(behaviour, method);
    const key = method.cache.draw(this.random);
    if (method.cache.has(key)) return;
    await this.askOthers(behaviour, method);
    method.cache.keep(key);
  }

  async askOthers(behaviour, method) {
    for (const step of method.data) {
      await this.backends[step.backend].run(step, `k${Math.floor(this.random.unit() * step.keys)}`);
    }
    const call = (one) => (behaviour.absent.includes(one.peer) ? null : this.peers[one.peer].call(one, behaviour));
    if (!method.parallel) {
      for (const one of method.calls) await call(one);
      return;
    }
    const settled = await Promise.allSettled(method.calls.map(call));
    const failed = settled.find((one) => one.status === "rejected");
    if (failed) throw failed.reason;
  }
}

function withDefaults(spec) {
  const kind = spec.kind ?? "unary";
  const servesMany = kind === "server-stream" || kind === "bidi-stream";
  const method = { gap_ms: 0, cpu_us: 0, sleep_ms: 0, allocate_bytes: 0, data: [], parallel: false, calls: [], ...spec };
  return {
    ...method, kind, servesMany,
    responses: new Samples(spec.responses),
    response_messages: servesMany ? spec.response_messages ?? 1 : 1,
    cache: spec.cache ? new Cache(spec.cache) : null,
  };
}

// A served call, and what went over it.
class Served {
  constructor(path, method, stream) {
    Object.assign(this, { path, method, stream, received: 0, requestBytes: 0, sent: 0, responseBytes: 0 });
    this.t_ms = Date.now();
    this.started = process.hrtime.bigint();
    this.arrived = 0;
    this.complete = false;
    this.wake = () => {};
    stream.on("data", (request) => {
      this.arrived++;
      this.requestBytes += request.length;
      this.wake();
    });
    const complete = () => {
      this.complete = true;
      this.wake();
    };
    stream.on("end", complete);
    stream.on("cancelled", complete);
  }

  // Whether there was one more message; waits for it.
  async receive() {
    while (this.received === this.arrived) {
      if (this.complete) return false;
      await new Promise((wake) => (this.wake = wake));
    }
    this.received++;
    return true;
  }

  // Sends up to a number of messages in all, until the caller is gone.
  async sendUpTo(count) {
    while (this.sent < count && !this.stream.cancelled) {
      if (this.sent > 0 && this.method.gap_ms > 0) await sleep(this.method.gap_ms);
      const response = this.method.responses.next();
      this.sent++;
      this.responseBytes += response.length;
      await new Promise((written) => this.stream.write(response, written));
    }
  }

  line(failure, replica) {
    const ended = !this.stream.cancelled;
    const late = Number(this.stream.getDeadline()) - Date.now() < TRANSIT;
    const gone = late ? "DEADLINE_EXCEEDED" : "CANCELLED";
    return {
      t_ms: this.t_ms, method: this.path, status: ended ? codeName(failure) : gone, ended,
      request_bytes: this.requestBytes, response_bytes: this.responseBytes,
      request_messages: this.arrived, response_messages: this.sent, seconds: seconds(this.started), replica,
    };
  }

  end(failure) {
    if (failure) this.stream.emit("error", failure);
    else this.stream.end();
  }
}

module.exports = { Service };
