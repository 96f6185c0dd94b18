// A call that fails with a status.
"use strict";

const grpc = require("@grpc/grpc-js");

const CODE_NAMES = Object.fromEntries(Object.entries(grpc.status).map(([name, code]) => [code, name]));

class Failure extends Error {
  constructor(code, details) {
    super(details);
    this.code = code;
    this.details = details;
  }

  // Whatever else was thrown is a mistake of this program.
  static from(error) {
    if (error instanceof Failure) return error;
    console.error(error);
    return new Failure(grpc.status.INTERNAL, String(error));
  }
}

// The name of a failure's status; none is OK.
function codeName(failure) {
  return failure ? CODE_NAMES[failure.code] ?? "UNKNOWN" : "OK";
}

module.exports = { Failure, codeName };
