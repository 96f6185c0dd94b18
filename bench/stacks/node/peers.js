// Calls to other services: connections by turns, deadlines, retries, a line of truth for each attempt. Circuits are in
// circuit.js.
"use strict";

const grpc = require("@grpc/grpc-js");
const { Circuit } = require("./circuit");
const { Failure, codeName } = require("./failure");
const { sleep } = require("./random");
const { Samples, asTheyAre } = require("./samples");
const { seconds } = require("./truth");

// What grpc-js says of a call that found no connection, and so was on no wire.
const NO_CONNECTION = "No connection established";

const ONCE = { attempts: 1, backoff_ms: 0, on: [] };

// A service to call. Each connection is a channel of its own, so that calls go by turns whatever the state of an address
// is; the policy round_robin would leave out those that are down.
class Peer {
  constructor(name, spec, sent) {
    Object.assign(this, { name, spec, sent, turns: 0, links: [] });
    this.circuit = new Circuit(spec.breaker);
    this.requests = new Map();
    this.requestTurns = new Map();
    this.moveTo();
  }

  // Keeps the connections to these addresses, or to those of the spec; adds new ones, and lets go of the others when
  // their calls have ended.
  moveTo(told) {
    const addresses = told?.length > 0 ? told : this.spec.addresses;
    const kept = this.links.filter((link) => addresses.includes(link.address));
    for (const link of this.links) if (!kept.includes(link)) link.leave();
    const known = new Set(kept.map((link) => link.address));
    for (const address of addresses) {
      if (known.has(address)) continue;
      for (let one = 0; one < (this.spec.connections ?? 1); one++) kept.push(new Link(address, this.spec.authority));
    }
    this.links = kept;
  }

  // One call with its retries; fails unless it may.
  async call(call, behaviour) {
    const failure = await this.attempts(call, behaviour);
    if (failure && !call.optional) {
      throw new Failure(failure.code, `${this.name}${call.path}: ${failure.details}`);
    }
  }

  async attempts(call, behaviour) {
    const until = call.deadline_ms > 0 ? Date.now() + call.deadline_ms : Infinity;
    const retries = call.retries ?? ONCE;
    for (let attempt = 0; ; attempt++) {
      if (behaviour.open_circuits.includes(this.name) || !this.circuit.admits()) return this.refuse(call);
      const failure = await this.attempt(call, attempt, until);
      this.circuit.ended(failure ? failure.code : grpc.status.OK);
      if (!failure || attempt + 1 >= retries.attempts || !retries.on.includes(failure.code)) return failure;
      const backoff = retries.backoff_ms * (attempt + 1);
      if (Date.now() + backoff > until) return failure;
      await sleep(backoff);
    }
  }

  // A call that an open circuit keeps from leaving.
  refuse(call) {
    this.sent.write({
      t_ms: Date.now(), callee: this.name, method: call.path, status: "UNAVAILABLE", request_bytes: 0,
      response_bytes: 0, request_messages: 0, response_messages: 0, seconds: 0, attempt: -1,
    });
    return new Failure(grpc.status.UNAVAILABLE, "circuit open");
  }

  // One attempt on the wire, with its line of truth; its failure.
  async attempt(call, attempt, until) {
    const t_ms = Date.now();
    const started = process.hrtime.bigint();
    const metadata = new grpc.Metadata();
    if (attempt > 0) metadata.set("grpc-previous-rpc-attempts", String(attempt));
    const link = this.links[this.turns++ % this.links.length];
    const talk = new Talk(call, this.samples(call));
    const failure = await link.carry(talk, metadata, until);
    const onNoWire = failure && failure.details.startsWith(NO_CONNECTION);
    this.sent.write({
      t_ms, callee: this.name, method: call.path, status: codeName(failure),
      request_bytes: talk.requestBytes, response_bytes: talk.responseBytes,
      request_messages: talk.requested, response_messages: talk.responded,
      seconds: seconds(started), attempt: onNoWire ? -1 : attempt,
    });
    return failure;
  }

  // The messages of a path go by turns over all its calls.
  samples(call) {
    if (!this.requests.has(call)) {
      if (!this.requestTurns.has(call.path)) this.requestTurns.set(call.path, { taken: 0 });
      this.requests.set(call, new Samples(call.requests, this.requestTurns.get(call.path)));
    }
    return this.requests.get(call);
  }
}

// One call's messages, and what went over the wire.
class Talk {
  constructor(call, samples) {
    const many = call.kind === "client-stream" || call.kind === "bidi-stream";
    Object.assign(this, { path: call.path, samples, gap: call.gap_ms ?? 0 });
    Object.assign(this, { requested: 0, requestBytes: 0, responded: 0, responseBytes: 0, over: false });
    this.wanted = many ? call.request_messages ?? 1 : 1;
  }

  // Sends all messages, or until the call is over; receives all messages; ends with the failure, if there is one.
  run(stream) {
    stream.on("data", (response) => {
      this.responded++;
      this.responseBytes += response.length;
    });
    // How it failed is in the status.
    stream.on("error", () => {});
    this.send(stream);
    return new Promise((done) => {
      stream.on("status", ({ code, details }) => {
        this.over = true;
        done(code === grpc.status.OK ? null : new Failure(code, details));
      });
    });
  }

  async send(stream) {
    while (this.requested < this.wanted && !this.over) {
      if (this.requested > 0 && this.gap > 0) await sleep(this.gap);
      if (this.over) return;
      const request = this.samples.next();
      this.requested++;
      this.requestBytes += request.length;
      // Full buffers wait for the wire; one message never fills them.
      if (!stream.write(request) && this.requested < this.wanted) await drained(stream);
    }
    stream.end();
  }
}

const drained = (stream) => new Promise((done) => stream.once("drain", done).once("close", done).once("end", done));

// One connection.
class Link {
  constructor(address, authority) {
    Object.assign(this, { address, calls: 0, leaving: false });
    this.client = new grpc.Client(`ipv4:${address}`, grpc.credentials.createInsecure(), {
      "grpc.default_authority": authority,
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 1000,
      "grpc.enable_http_proxy": 0,
      "grpc.enable_retries": 0,
      "grpc.service_config_disable_resolution": 1,
      // Two channels to one address are two connections.
      "grpc.use_local_subchannel_pool": 1,
    });
  }

  // All kinds are made as bidirectional streams: on the wire a unary call is one whose sides send one message each.
  async carry(talk, metadata, until) {
    this.calls++;
    const options = { deadline: until };
    const stream = this.client.makeBidiStreamRequest(talk.path, asTheyAre, asTheyAre, metadata, options);
    const failure = await talk.run(stream);
    this.calls--;
    if (this.leaving && this.calls === 0) this.client.close();
    return failure;
  }

  // Closes the connection when its calls have ended.
  leave() {
    this.leaving = true;
    if (this.calls === 0) this.client.close();
  }
}

module.exports = { Peer };
