// Messages are bytes: where they come from, and the codec that leaves them as they are.
"use strict";

const EMPTY = Buffer.alloc(0);

// Messages that are sent by turns; without any, empty ones. Whoever shares the turns shares what n counts.
class Samples {
  constructor(encoded, turns = { taken: 0 }) {
    this.messages = (encoded ?? []).map((text) => Buffer.from(text, "base64"));
    this.turns = turns;
  }

  // The n-th message.
  next() {
    return this.messages.length > 0 ? this.messages[this.turns.taken++ % this.messages.length] : EMPTY;
  }
}

const asTheyAre = (bytes) => bytes;

module.exports = { Samples, asTheyAre };
