// The Node grpc-js peer; see ../README.md.
"use strict";
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");

const LIMITS = {
  "grpc.max_receive_message_length": 64 << 20,
  "grpc.max_send_message_length": 64 << 20,
  "grpc.keepalive_time_ms": 300,
  "grpc.keepalive_timeout_ms": 20000,
  "grpc-node.max_session_memory": 1024,
};
// Which method is tried again, and when.
const RETRIES = JSON.stringify({
  methodConfig: [{
    name: [{ service: "matrix.Peer", method: "Retried" }],
    retryPolicy: {
      maxAttempts: 5, initialBackoff: "0.01s", maxBackoff: "0.02s", backoffMultiplier: 1,
      retryableStatusCodes: ["UNAVAILABLE"],
    },
  }],
});
const PING = Buffer.from([0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);

const message = (size) => Buffer.alloc(size, PING);

// Never ends early. What was handed over before is written at the end of the event loop's turn, so the clock starts
// after that. Timers count whole milliseconds and may end up to one early, so the clock is asked again.
async function pause(ms) {
  await new Promise(setImmediate);
  const end = performance.now() + ms;
  for (let left = ms; left > 0; left = end - performance.now()) {
    await new Promise((done) => setTimeout(done, Math.ceil(left)));
  }
}

// One line of a scenario.
class Plan {
  constructor(line) {
    this.line = line;
    this.fields = Object.fromEntries(line.split(" ").map((field) => field.split(/=(.*)/).slice(0, 2)));
  }
  // What the server may know of the line: without what stands before `anon=1`.
  told() {
    return this.line.split(" anon=1 ").pop();
  }
  number(key) {
    return Number(this.fields[key] ?? 0);
  }
  sizes(key) {
    const sizes = [];
    for (const part of (this.fields[key] ?? "-").split(",")) {
      if (part === "-") continue;
      const [size, count] = part.split("x").reverse();
      for (let i = 0; i < Number(count ?? 1); i++) sizes.push(Number(size));
    }
    return sizes;
  }
  metadata(key) {
    const metadata = new grpc.Metadata();
    this.sizes(key).forEach((size, i) => metadata.set(`x-meta-${i}`, "v".repeat(size)));
    return metadata;
  }
}

// What one end says of one call.
class Truth {
  constructor(plan, method) {
    this.started = process.hrtime.bigint();
    this.line = {
      id: plan.number("id"), attempt: 0, method, status: 0, requests: 0, request_bytes: 0, responses: 0, response_bytes: 0,
      request_wire: -1, response_wire: -1, ms: 0, cancelled: false,
    };
  }
  request(size) {
    this.line.requests += 1;
    this.line.request_bytes += size;
  }
  response(size) {
    this.line.responses += 1;
    this.line.response_bytes += size;
  }
  write(ledger) {
    this.line.ms = Number(process.hrtime.bigint() - this.started) / 1e6;
    fs.writeSync(ledger, JSON.stringify(this.line) + "\n");
  }
}

const raw = (method, requestStream, responseStream) => ({
  path: `/matrix.Peer/${method}`, requestStream, responseStream,
  requestSerialize: (bytes) => bytes, requestDeserialize: (bytes) => bytes,
  responseSerialize: (bytes) => bytes, responseDeserialize: (bytes) => bytes,
});
const SERVICE = {
  Unary: raw("Unary", false, false),
  Retried: raw("Retried", false, false),
  ClientStream: raw("ClientStream", true, false),
  ServerStream: raw("ServerStream", false, true),
  Bidi: raw("Bidi", true, true),
};

// Gives a stream's requests one by one, then undefined. (`for await` would destroy both directions.)
function requests(call) {
  const queue = [];
  let wake = () => {};
  let ended = false;
  const push = (request) => {
    queue.push(request);
    wake();
  };
  call.on("data", push);
  for (const event of ["end", "cancelled", "error"]) {
    call.on(event, () => {
      ended = true;
      wake();
    });
  }
  return async () => {
    while (queue.length === 0 && !ended) await new Promise((woken) => (wake = woken));
    return queue.shift();
  };
}

// The server's side of every method. `reply` sends the one response or the status of a single-response method.
function converse(method, ledger) {
  return (call, reply) => {
    const plan = new Plan(String(call.metadata.get("x-plan")[0] ?? ""));
    const truth = new Truth(plan, method);
    truth.line.attempt = Number(call.metadata.get("grpc-previous-rpc-attempts")[0] ?? 0);
    const status = truth.line.attempt < plan.number("retry") ? grpc.status.UNAVAILABLE : plan.number("status");
    const responses = plan.sizes("res");
    const early = plan.number("early") === 1;
    let first = true;
    let over = false;
    const finish = (status, cancelled) => {
      if (over) return false;
      over = true;
      truth.line.status = status;
      truth.line.cancelled = cancelled;
      truth.write(ledger);
      return true;
    };
    call.on("cancelled", () => finish(grpc.status.CANCELLED, true));
    const headers = async () => {
      await pause(plan.number("delay"));
      if (!over && plan.sizes("rmeta").length > 0) call.sendMetadata(plan.metadata("rmeta"));
    };
    const send = async () => {
      if (!first) await pause(plan.number("gap"));
      first = false;
      if (over) return;
      const size = responses.shift();
      truth.response(size);
      if (!call.write(message(size))) await new Promise((done) => call.once("drain", done));
    };
    const end = async () => {
      const trailers = plan.metadata("tmeta");
      if (!reply) while (responses.length > 0 && !over) await send();
      if (over) return;
      const error = { code: status, details: "asked", metadata: trailers };
      if (reply) {
        if (status === 0) truth.response(responses[0] ?? 0);
        if (!finish(status, false)) return;
        if (status === 0) reply(null, message(responses[0] ?? 0), trailers);
        else reply(error);
      } else if (finish(status, false)) {
        if (status === 0) call.end(trailers);
        else call.emit("error", error);
      }
    };
    const streams = method === "ClientStream" || method === "Bidi";
    const next = streams && !early ? requests(call) : undefined;
    const work = async () => {
      if (early || method === "Bidi") await headers();
      if (early) return end();
      if (!streams) {
        truth.request(call.request.length);
      } else {
        for (let request = await next(); request; request = await next()) {
          truth.request(request.length);
          if (method === "Bidi" && responses.length > 0) await send();
        }
      }
      if (method !== "Bidi") await headers();
      return end();
    };
    work().catch(() => finish(grpc.status.CANCELLED, true));
  };
}

// Listens; lets go of connections after some milliseconds, if those are not zero.
function serve(address, age, ledger) {
  const server = new grpc.Server(age > 0 ? { ...LIMITS, "grpc.max_connection_age_ms": age } : LIMITS);
  server.addService(SERVICE, Object.fromEntries(Object.keys(SERVICE).map((method) => [method, converse(method, ledger)])));
  server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
    console.log("ready");
  });
}

// One call of the client, to its end.
function one(client, plan, ledger) {
  return new Promise((done) => {
    const method = plan.fields.method;
    const truth = new Truth(plan, method);
    const metadata = plan.metadata("meta");
    metadata.set("x-plan", plan.told());
    if (plan.fields.trace) metadata.set("traceparent", plan.fields.trace);
    const options = plan.number("deadline") > 0 ? { deadline: Date.now() + plan.number("deadline") } : {};
    const identity = (bytes) => bytes;
    const path = `/matrix.Peer/${method}`;
    const sizes = plan.sizes("req");
    const single = () => {
      truth.request(sizes[0]);
      return message(sizes[0]);
    };
    const answered = (error, response) => {
      if (!error) truth.response(response.length);
    };
    let call;
    if (method === "ClientStream") {
      call = client.makeClientStreamRequest(path, identity, identity, metadata, options, answered);
    } else if (method === "ServerStream") {
      call = client.makeServerStreamRequest(path, identity, identity, single(), metadata, options);
    } else if (method === "Bidi") {
      call = client.makeBidiStreamRequest(path, identity, identity, metadata, options);
    } else {
      call = client.makeUnaryRequest(path, identity, identity, single(), metadata, options, answered);
    }
    let over = false;
    if (method === "ServerStream" || method === "Bidi") {
      call.on("data", (response) => truth.response(response.length));
      call.on("error", () => {});
    }
    call.on("status", (status) => {
      over = true;
      truth.line.status = status.code;
      truth.line.cancelled = plan.number("cancel") > 0 && status.code === grpc.status.CANCELLED;
      // The response of a single-response call is reported right after its status.
      setImmediate(() => {
        truth.write(ledger);
        done();
      });
    });
    if (plan.number("cancel") > 0) setTimeout(() => call.cancel(), plan.number("cancel"));
    if (method === "ClientStream" || method === "Bidi") {
      const send = async () => {
        for (const [i, size] of sizes.entries()) {
          if (i > 0 && plan.number("cgap") > 0) await pause(plan.number("cgap"));
          if (over) return;
          truth.request(size);
          if (!call.write(message(size))) await new Promise((drained) => call.once("drain", drained));
        }
        call.end();
      };
      send();
    }
  });
}

async function run(target, authority, lines, ledger) {
  const open = (options) =>
    new grpc.Client(target, grpc.credentials.createInsecure(), {
      ...LIMITS, "grpc.default_authority": authority, "grpc.service_config": RETRIES, ...options,
    });
  // grpc-js chooses the compression for a whole channel.
  const [plain, gzip] = [open({}), open({ "grpc.default_compression_algorithm": 2 })];
  const plans = lines.map((line) => new Plan(line));
  for (let i = 0; i < plans.length; ) {
    const group = plans.slice(i).filter((plan) => plan.fields.group === plans[i].fields.group);
    if (group[0].number("await") === 1) {
      console.log("waiting");
      await new Promise((goOn) => process.stdin.once("data", goOn));
      process.stdin.pause();
    }
    await Promise.all(group.map((plan) => one(plan.number("gzip") ? gzip : plain, plan, ledger)));
    i += group.length;
  }
  plain.close();
  gzip.close();
}

function main() {
  const [end, ...words] = process.argv.slice(2);
  const flags = {};
  for (let i = 0; i < words.length; i += 2) flags[words[i].slice(2)] = words[i + 1];
  const ledger = fs.openSync(flags.truth, "w");
  const host = flags.listen?.includes(":") ? `[${flags.listen}]` : flags.listen;
  if (end === "server") serve(`${host}:${flags.port}`, Number(flags.age), ledger);
  else run(flags.target, flags.authority, fs.readFileSync(flags.scenario, "utf8").trim().split("\n"), ledger);
}

main();
