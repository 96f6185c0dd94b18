"""The generic service in Python (grpcio): a spec comes in on the command line, calls on a port,
behaviour on standard input; truth lines go out. It does what bench/src/service does in Rust."""

import json
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from concurrent import futures

import grpc

# Calls that wait (for sleep, Redis or others) hold a thread each.
THREADS = 48

# How the service misbehaves; the fields are those of Behaviour in bench/src/brief.rs.
HEALTHY = {
    "latency_ms": 0.0,
    "error_fraction": 0.0,
    "error_code": 0,
    "leak_bytes_per_second": 0,
    "leak_limit_bytes": 0,
    "leak_walks": 0,
}


def parcel(size):
    """A message Parcel { bytes payload = 1; } with a payload of this size, encoded."""
    if size == 0:
        return b""
    head = bytearray(b"\x0a")
    left = size
    while left > 0x7F:
        head.append(left & 0x7F | 0x80)
        left >>= 7
    head.append(left)
    return bytes(head) + b"x" * size


class Lines:
    """A file of JSON lines that many threads write; visible after 200 ms."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1 << 16)
        self.lock = threading.Lock()
        threading.Thread(target=self.keep_visible, daemon=True).start()

    def keep_visible(self):
        while True:
            time.sleep(0.2)
            self.flush()

    def write(self, line):
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self.lock:
            self.file.write(text)

    def flush(self):
        with self.lock:
            self.file.flush()


class Work:
    """What a call costs: processor time counted in rounds of a loop, not in wall time, so that a
    throttled service takes longer for the same work."""

    def __init__(self):
        # The best of several short runs is the undisturbed one.
        best = 1.0
        for _ in range(9):
            started = time.perf_counter()
            self.rounds(10_000)
            best = min(best, time.perf_counter() - started)
        self.rounds_per_us = 10_000 / (best * 1e6)

    @staticmethod
    def rounds(count):
        mixed = count
        for _ in range(count):
            mixed = (mixed * 31 + 7) & 0xFFFFFF
        return mixed

    def burn(self, microseconds):
        self.rounds(int(microseconds * self.rounds_per_us))


class Misbehaviour:
    """How the service misbehaves now, and what it has leaked."""

    def __init__(self):
        self.now = dict(HEALTHY)
        self.leaked = []
        self.walking = threading.Lock()
        self.rest_until = 0.0
        threading.Thread(target=self.grow, daemon=True).start()

    def become_like(self, behaviour):
        self.now = {**HEALTHY, **behaviour}
        if not self.now["leak_bytes_per_second"]:
            self.leaked = []

    def walk(self, times):
        """Reads one byte of each page of what leaked; takes half of the time at most."""
        started = time.perf_counter()
        if not times or started < self.rest_until or not self.walking.acquire(blocking=False):
            return
        leaked = self.leaked
        for _ in range(times):
            for piece in leaked:
                sum(piece[::4096])
        ended = time.perf_counter()
        self.rest_until = ended + (ended - started)
        self.walking.release()

    def grow(self):
        """Leaks for as long as the behaviour says so, in pieces of 100 ms."""
        while True:
            time.sleep(0.1)
            now = self.now
            size = now["leak_bytes_per_second"] // 10
            if size and (len(self.leaked) + 1) * size <= now["leak_limit_bytes"]:
                # A nonzero fill touches every page, so that the memory is really used.
                self.leaked = self.leaked + [b"x" * size]


class Redis:
    """GET and SET on one Redis server over connections that are kept; a call takes one for its time."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.address = (host, int(port))
        self.idle = queue.LifoQueue()

    def run(self, step, key):
        words = [b"GET", key.encode()]
        if step["operation"] == "set":
            words = [b"SET", key.encode(), b"v" * step["bytes"]]
        wire = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        try:
            connection = self.idle.get_nowait()
        except queue.Empty:
            connection = socket.create_connection(self.address).makefile("rwb")
        connection.write(wire)
        connection.flush()
        line = connection.readline()
        if line[:1] == b"$" and line[1:2] != b"-":
            connection.read(int(line[1:]) + 2)
        elif line[:1] not in (b"+", b"$", b":"):
            raise OSError(f"redis: {line!r}")
        self.idle.put(connection)


class Service(grpc.GenericRpcHandler):
    """All methods of the spec by path; messages stay bytes, so that no generated code is needed."""

    def __init__(self, spec):
        self.methods = spec["methods"]
        self.truth = Lines(spec["truth"])
        self.sent = Lines(spec["sent"])
        self.random = random.Random(spec["seed"])
        self.work = Work()
        self.misbehaviour = Misbehaviour()
        self.redis = {name: Redis(address) for name, address in spec["redis"].items()}
        self.channels = {name: connect(peer) for name, peer in spec["peers"].items()}

    def service(self, handler_call_details):
        path = handler_call_details.method
        method = self.methods.get(path)
        if method is None:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.serve(path, method, request, context))

    def serve(self, path, method, request, context):
        """One served call, with its line of truth."""
        t_ms = int(time.time() * 1000)
        started = time.perf_counter()
        allowed = context.time_remaining()
        code, details, response = grpc.StatusCode.OK, "", b""
        try:
            response = self.answer(method)
        except Failure as failure:
            code, details = failure.code, failure.details
        except OSError as error:
            code, details = grpc.StatusCode.UNAVAILABLE, str(error)
        seconds = time.perf_counter() - started
        ended = context.is_active()
        status = code.name
        if not ended:
            late = allowed is not None and seconds >= allowed
            status = "DEADLINE_EXCEEDED" if late else "CANCELLED"
        self.truth.write(
            {
                "t_ms": t_ms,
                "method": path,
                "status": status,
                "ended": ended,
                "request_bytes": len(request),
                "response_bytes": len(response) if ended else 0,
                "seconds": seconds,
            }
        )
        if code is not grpc.StatusCode.OK and ended:
            context.abort(code, details)
        return response

    def answer(self, method):
        """Misbehave as told, work, use Redis, call others, answer."""
        now = self.misbehaviour.now
        if now["latency_ms"]:
            time.sleep(now["latency_ms"] / 1e3)
        if now["error_fraction"] and self.random.random() < now["error_fraction"]:
            raise Failure(CODES[now["error_code"]], "injected")
        if method["sleep_ms"]:
            time.sleep(method["sleep_ms"] * self.random.uniform(0.7, 1.3) / 1e3)
        self.misbehaviour.walk(now["leak_walks"])
        self.work.burn(method["cpu_us"])
        bytearray(method["allocate_bytes"])
        for step in method["redis"]:
            key = f"k{int(self.random.random() * step['keys'])}"
            self.ask_redis(step, key)
        if method["parallel"]:
            pending = [self.send(call) for call in method["calls"]]
            failures = [self.receive(*call) for call in pending]
        else:
            failures = (self.receive(*self.send(call)) for call in method["calls"])
        for failure in failures:
            if failure is not None:
                raise failure
        return parcel(method["response_bytes"])

    def ask_redis(self, step, key):
        """One Redis command, with its line of truth."""
        t_ms, started, status = int(time.time() * 1000), time.perf_counter(), "UNAVAILABLE"
        try:
            self.redis[step["instance"]].run(step, key)
            status = "OK"
        finally:
            self.sent.write(
                {
                    "t_ms": t_ms,
                    "callee": step["instance"],
                    "method": step["operation"].upper(),
                    "status": status,
                    "request_bytes": step["bytes"] if step["operation"] == "set" else 0,
                    "response_bytes": 0,
                    "seconds": time.perf_counter() - started,
                }
            )

    def send(self, call):
        """Starts one outgoing call."""
        request = parcel(call["request_bytes"])
        begun = (int(time.time() * 1000), time.perf_counter())
        method = self.channels[call["peer"]].unary_unary(call["path"])
        return call, request, begun, method.future(request, timeout=call["deadline_ms"] / 1e3)

    def receive(self, call, request, begun, pending):
        """Waits for an outgoing call and writes its line of truth; its failure, unless it is optional."""
        code, details, response = grpc.StatusCode.OK, "", b""
        try:
            response = pending.result()
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
        self.sent.write(
            {
                "t_ms": begun[0],
                "callee": call["peer"],
                "method": call["path"],
                "status": code.name,
                "request_bytes": len(request),
                "response_bytes": len(response),
                "seconds": time.perf_counter() - begun[1],
            }
        )
        if code is grpc.StatusCode.OK or call["optional"]:
            return None
        return Failure(code, f"{call['peer']}{call['path']}: {details}")


class Failure(Exception):
    """A call that fails with a status."""

    def __init__(self, code, details):
        super().__init__(details)
        self.code = code
        self.details = details


CODES = {code.value[0]: code for code in grpc.StatusCode}


def connect(peer):
    options = [
        ("grpc.default_authority", peer["authority"]),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_http_proxy", 0),
    ]
    return grpc.insecure_channel(peer["address"], options=options)


def main():
    with open(sys.argv[sys.argv.index("--spec") + 1]) as file:
        spec = json.load(file)
    service = Service(spec)
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=THREADS), handlers=[service], options=[("grpc.so_reuseport", 0)]
    )
    server.add_insecure_port(spec["listen"])
    server.start()
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())

    def follow():
        for line in sys.stdin:
            try:
                service.misbehaviour.become_like(json.loads(line))
            except ValueError as error:
                print(f"a command was not understood: {error}: {line}", file=sys.stderr)
        told.set()

    threading.Thread(target=follow, daemon=True).start()
    print("ready", flush=True)
    while not told.wait(0.5):
        pass
    server.stop(1).wait(2)
    service.truth.flush()
    service.sent.flush()
    # The pool's threads may wait for others; nobody waits for them.
    os._exit(0)


if __name__ == "__main__":
    main()
