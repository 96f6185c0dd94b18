// The generic service in Node (grpc-js): a spec comes in on the command line, calls on a port, behaviour on standard
// input; lines of truth go out. ../README.md says what it does; serving.js answers calls, and this starts and ends it.
"use strict";

const fs = require("fs");
const readline = require("readline");
const grpc = require("@grpc/grpc-js");
const { Service } = require("./serving");

// Running calls get so long to end, ms.
const DRAIN = 1000;

function main() {
  const spec = JSON.parse(fs.readFileSync(process.argv[process.argv.indexOf("--spec") + 1], "utf8"));
  const service = new Service(spec);
  const server = new grpc.Server({ "grpc.so_reuseport": 0 });
  service.register(server);
  server.bindAsync(spec.listen, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) {
      console.error(error.message);
      process.exit(1);
    }
    console.log("ready");
  });
  let ending = false;
  const end = () => {
    if (ending) return;
    ending = true;
    const exit = () => {
      service.truth.flush();
      service.sent.flush();
      process.exit(0);
    };
    server.tryShutdown(exit);
    setTimeout(() => {
      // Calls that still run are cancelled; a moment for their lines.
      server.forceShutdown();
      setTimeout(exit, 50);
    }, DRAIN);
  };
  process.on("SIGTERM", end);
  follow(service).on("close", end);
}

// Follows behaviour lines until standard input ends.
function follow(service) {
  const input = readline.createInterface({ input: process.stdin });
  input.on("line", (line) => {
    try {
      service.become(JSON.parse(line));
    } catch (error) {
      console.error(`a behaviour was not understood: ${error.message}: ${line}`);
    }
  });
  return input;
}

main();
