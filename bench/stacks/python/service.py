"""The generic service in Python (grpcio): a spec comes in on the command line, calls on a port, behaviour on standard
input; lines of truth go out. ../README.md says what it does; serving.py answers calls, and this starts and ends it."""

import gc
import json
import os
import resource
import signal
import sys
import threading
import time
from concurrent import futures

import grpc

from serving import Service

# Calls that wait (for sleep, backends or others) hold a thread each.
THREADS = 64

# Running calls get so many seconds to end.
DRAIN = 1.0


def follow(service, told):
    """Follows behaviour lines until standard input ends."""
    for line in sys.stdin.buffer:
        try:
            service.become(json.loads(line))
        except (ValueError, TypeError, AttributeError) as error:
            print(f"a behaviour was not understood: {error}: {line!r}", file=sys.stderr, flush=True)
    told.set()


def main():
    # Leaked connections are files too.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with open(sys.argv[sys.argv.index("--spec") + 1]) as file:
        spec = json.load(file)
    service = Service(spec)
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=THREADS), handlers=[service], options=[("grpc.so_reuseport", 0)]
    )
    server.add_insecure_port(spec["listen"])
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    server.start()
    # What is there now stays: collections need not look at it again.
    gc.freeze()
    print("ready", flush=True)
    threading.Thread(target=follow, args=(service, told), daemon=True).start()
    told.wait()
    server.stop(DRAIN).wait(DRAIN + 1.0)
    # Calls that were cancelled get a moment for their lines.
    time.sleep(0.05)
    service.truth.flush()
    service.sent.flush()
    # The pool's threads may wait for others; nobody waits for them.
    os._exit(0)


if __name__ == "__main__":
    main()
