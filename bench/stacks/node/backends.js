// GET and SET on Redis (ioredis) and PostgreSQL (pg). Both keep their connections, one operation at a time on each;
// neither says more on them than the operations, and there is a line of truth for each connection to PostgreSQL, so that
// what an observer counts is what the truth counts. A library is loaded when a spec has its backend, since it takes
// memory and time.
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

function connect(name, spec, sent) {
  const kinds = { redis: Redis, postgres: Postgres };
  // A connection was made, which took a question and an answer on the wire.
  const connected = (t_ms, started) =>
    sent.write({
      t_ms, callee: name, method: "CONNECT", status: codeName(null), request_bytes: 0, response_bytes: 0,
      request_messages: 1, response_messages: 1, seconds: seconds(started), attempt: 0,
    });
  return new Backend(new kinds[spec.kind](split(spec.address), connected), sent);
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

// A pool of connections to a Redis server. A command that finds its connection broken makes it again, and fails at once
// when that is refused.
class Redis {
  constructor({ host, port }) {
    const { Redis: Client } = require("ioredis");
    this.make = () => {
      const client = new Client({
        host, port, protocol: 2, lazyConnect: true, enableReadyCheck: false, disableClientInfo: true, enableOfflineQueue: false,
        retryStrategy: null, autoResendUnfulfilledCommands: false, maxRetriesPerRequest: 0,
        connectTimeout: TIMEOUT, commandTimeout: TIMEOUT,
      });
      // Each command says how it failed.
      client.on("error", () => {});
      return client;
    };
    this.idle = [];
    this.made = 0;
    this.waiting = [];
  }

  // The connection that was used last, a new one, or the next that is given back.
  borrow() {
    if (this.idle.length > 0) return this.idle.pop();
    if (this.made < CONNECTIONS) {
      this.made += 1;
      return this.make();
    }
    return new Promise((resolve, reject) => {
      const waiter = (client) => {
        clearTimeout(late);
        resolve(client);
      };
      const late = setTimeout(() => {
        this.waiting.splice(this.waiting.indexOf(waiter), 1);
        reject(new Error("all connections are busy"));
      }, TIMEOUT);
      this.waiting.push(waiter);
    });
  }

  giveBack(client) {
    const next = this.waiting.shift();
    if (next) next(client);
    else this.idle.push(client);
  }

  async with(use) {
    const client = await this.borrow();
    try {
      if (client.status !== "ready") await client.connect();
      await use(client);
    } finally {
      this.giveBack(client);
    }
  }

  read(key) {
    return this.with((client) => client.getBuffer(key));
  }

  set(key, value) {
    return this.with((client) => client.set(key, value));
  }
}

// A pool of connections to a PostgreSQL server.
class Postgres {
  constructor({ host, port }, connected) {
    const { Client, Pool } = require("pg");
    // A pool makes a client where it needs a connection.
    class Timed extends Client {
      t_ms = Date.now();
      started = process.hrtime.bigint();
    }
    this.pool = new Pool({
      Client: Timed,
      host, port, user: "playground", database: "playground", max: CONNECTIONS, idleTimeoutMillis: 0,
      connectionTimeoutMillis: TIMEOUT, query_timeout: TIMEOUT,
    });
    // An idle connection that breaks is left out by the pool.
    this.pool.on("error", () => {});
    this.pool.on("connect", (client) => connected(client.t_ms, client.started));
  }

  read(key) {
    return this.pool.query({ name: "read", text: SELECT, values: [key] });
  }

  set(key, value) {
    return this.pool.query({ name: "set", text: INSERT, values: [key, value] });
  }
}

module.exports = { connect };
