// Everything that is drawn in this process, and the waits that are drawn.
"use strict";

// SplitMix32: a seeded generator, which the language does not have.
class Random {
  constructor(seed) {
    // Seeds may be longer than 32 bits, or than what a number holds exactly.
    this.state = Number(BigInt.asUintN(32, BigInt(Math.trunc(seed ?? 0)))) | 0;
  }

  // From 0 to 1.
  unit() {
    this.state = (this.state + 0x9e3779b9) | 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  }

  // With mean 1.
  exponential() {
    return -Math.log(1 - this.unit());
  }
}

const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

module.exports = { Random, sleep };
