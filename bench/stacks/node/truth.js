// The files of truth: JSON lines, whole, visible after 0.2 s at most.
"use strict";

const fs = require("fs");

// Leaves time for the write itself, ms.
const FLUSH_EVERY = 150;

// Lines wait in memory, and go out by whole lines in one write.
class Lines {
  constructor(path) {
    // Appends, so that a service that was started again keeps what it served before.
    this.file = fs.openSync(path, "a");
    this.waiting = [];
    setInterval(() => this.flush(), FLUSH_EVERY).unref();
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

// Since a reading of process.hrtime.bigint().
const seconds = (since) => Number(process.hrtime.bigint() - since) / 1e9;

module.exports = { Lines, seconds };
