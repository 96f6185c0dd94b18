// GET and SET on Redis (ioredis) and PostgreSQL (pg). Both keep their connections; neither says more on them than the
// operations, so that what an observer counts is what the truth counts. A library is loaded when a spec has its
// backend, since it takes memory and time.
"use strict";

const { status } = require("@grpc/grpc-js");
const { split } = require("./behaviour");
const { Failure, codeName } = require("./failure");
const { seconds } = require("./truth");

// Connections to one backend.
const CONNECTIONS = 16;

// A command may take so long, ms.
const TIMEOUT = 2000;

const SELECT = "SELECT value FROM items WHERE key = $1";
const INSERT =
  "INSERT INTO items (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

function connect(spec, sent) {
  const kinds = { redis: Redis, postgres: Postgres };
  return new Backend(new kinds[spec.kind](split(spec.address)), sent);
}

// Operations with their lines of truth.
class Backend {
  constructor(store, sent) {
    this.store = store;
    this.sent = sent;
  }

  async run(step, key) {
    const set = step.operation === "set";
    const t_ms = Date.now();
    const started = process.hrtime.bigint();
    let failure = null;
    try {
      if (set) await this.store.set(key, Buffer.alloc(step.bytes, "v"));
      else await this.store.read(key);
    } catch (error) {
      failure = new Failure(status.UNAVAILABLE, `${step.backend}: ${error.message || error.code}`);
    }
    this.sent.write({
      t_ms, callee: step.backend, method: step.operation.toUpperCase(), status: codeName(failure),
      request_bytes: set ? step.bytes : 0, response_bytes: 0, request_messages: 1, response_messages: 1,
      seconds: seconds(started), attempt: 0,
    });
    if (failure) throw failure;
  }
}

// One connection to a Redis server, over which commands go as they come. A command that finds it broken makes it again,
// and fails at once when that is refused.
class Redis {
  constructor({ host, port }) {
    const { Redis: Client } = require("ioredis");
    this.client = new Client({
      host, port, protocol: 2, lazyConnect: true, enableReadyCheck: false, disableClientInfo: true, enableOfflineQueue: false,
      retryStrategy: null, autoResendUnfulfilledCommands: false, maxRetriesPerRequest: 0,
      connectTimeout: TIMEOUT, commandTimeout: TIMEOUT,
    });
    // Each command says how it failed.
    this.client.on("error", () => {});
    this.connecting = null;
  }

  async ready() {
    if (this.client.status === "ready") return;
    this.connecting ??= this.client.connect().finally(() => (this.connecting = null));
    await this.connecting;
  }

  async read(key) {
    await this.ready();
    await this.client.getBuffer(key);
  }

  async set(key, value) {
    await this.ready();
    await this.client.set(key, value);
  }
}

// A pool of connections to a PostgreSQL server.
class Postgres {
  constructor({ host, port }) {
    const { Pool } = require("pg");
    this.pool = new Pool({
      host, port, user: "playground", database: "playground", max: CONNECTIONS, idleTimeoutMillis: 0,
      connectionTimeoutMillis: TIMEOUT, query_timeout: TIMEOUT,
    });
    // An idle connection that breaks is left out by the pool.
    this.pool.on("error", () => {});
  }

  read(key) {
    return this.pool.query({ name: "read", text: SELECT, values: [key] });
  }

  set(key, value) {
    return this.pool.query({ name: "set", text: INSERT, values: [key, value] });
  }
}

module.exports = { connect };
