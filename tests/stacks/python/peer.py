"""The Python grpcio peer; see ../README.md."""

import argparse
import itertools
import json
import sys
import threading
import time
from concurrent import futures

import grpc

LIMITS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
    ("grpc.keepalive_time_ms", 300),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
]
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
# Which method is tried again, and when.
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "matrix.Peer", "method": "Retried"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
CODES = {code.value[0]: code for code in grpc.StatusCode}
# More than the calls of the largest group that waits in a server.
WORKERS = 1200


def message(size):
    return (PING * (size // len(PING) + 1))[:size]


class Plan:
    """One line of a scenario."""

    def __init__(self, line):
        self.line = line
        self.fields = dict(field.partition("=")[::2] for field in line.split())

    def told(self):
        """What the server may know of the line: without what stands before `anon=1`."""
        return self.line.rpartition(" anon=1 ")[2]

    def number(self, key):
        return int(self.fields.get(key, "0"))

    def sizes(self, key):
        sizes = []
        for part in self.fields.get(key, "-").split(","):
            if part != "-":
                count, _, size = part.rpartition("x")
                sizes += [int(size)] * int(count or "1")
        return sizes

    def metadata(self, key):
        return tuple((f"x-meta-{i}", "v" * size) for i, size in enumerate(self.sizes(key)))


class Ledger:
    """Writes truth, one line a call."""

    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8")
        self.lock = threading.Lock()

    def write(self, truth):
        with self.lock:
            self.file.write(json.dumps(truth.line()) + "\n")
            self.file.flush()


class Truth:
    """What one end says of one call."""

    def __init__(self, plan, method):
        self.plan, self.method, self.started = plan, method, time.monotonic()
        self.requests = self.request_bytes = self.responses = self.response_bytes = self.status = 0
        self.cancelled = False
        self.attempt = 0

    def request(self, size):
        self.requests += 1
        self.request_bytes += size

    def response(self, size):
        self.responses += 1
        self.response_bytes += size

    def line(self):
        return {
            "id": self.plan.number("id"),
            "attempt": self.attempt,
            "method": self.method,
            "status": self.status,
            "requests": self.requests,
            "request_bytes": self.request_bytes,
            "responses": self.responses,
            "response_bytes": self.response_bytes,
            "request_wire": -1,
            "response_wire": -1,
            "ms": (time.monotonic() - self.started) * 1000,
            "cancelled": self.cancelled,
        }


class Peer:
    """The server's side."""

    def __init__(self, ledger):
        self.ledger = ledger

    def handlers(self):
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.single("Unary")),
            "Retried": grpc.unary_unary_rpc_method_handler(self.single("Retried")),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.single("ClientStream")),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.stream("ServerStream")),
            "Bidi": grpc.stream_stream_rpc_method_handler(self.stream("Bidi")),
        }

    def single(self, method):
        """A method with one response."""

        def whole(requests, context):
            # `converse` ends by raising or after one response; it writes truth when it is closed.
            conversation = self.converse(method, requests, context)
            try:
                return next(conversation, None)
            finally:
                conversation.close()

        return whole

    def stream(self, method):
        return lambda requests, context: self.converse(method, requests, context)

    def converse(self, method, requests, context):
        metadata = dict(context.invocation_metadata())
        plan = Plan(metadata.get("x-plan", ""))
        truth = Truth(plan, method)
        ended = threading.Event()
        context.add_callback(ended.set)
        truth.attempt = int(metadata.get("grpc-previous-rpc-attempts", "0"))
        refused = truth.attempt < plan.number("retry")
        truth.status = grpc.StatusCode.UNAVAILABLE.value[0] if refused else plan.number("status")
        try:
            yield from self.answer(plan, truth, requests, context, ended)
            if plan.number("scancel"):
                context.cancel()
            elif truth.status != 0:
                context.abort(CODES[truth.status], "asked")
        finally:
            if ended.is_set() and not context.is_active():
                truth.cancelled = True
                truth.status = grpc.StatusCode.CANCELLED.value[0]
            self.ledger.write(truth)

    def answer(self, plan, truth, requests, context, ended):
        responses = plan.sizes("res")
        if truth.method in ("Unary", "Retried", "ServerStream"):
            requests = iter([requests])
        if plan.number("gzip"):
            context.set_compression(grpc.Compression.Gzip)
        context.set_trailing_metadata(plan.metadata("tmeta"))
        first = True

        def headers():
            if ended.wait(plan.number("delay") / 1000):
                raise RuntimeError("cancelled")
            if plan.metadata("rmeta"):
                context.send_initial_metadata(plan.metadata("rmeta"))

        def send():
            nonlocal first
            if not first and ended.wait(plan.number("gap") / 1000):
                raise RuntimeError("cancelled")
            first = False
            size = responses.pop(0)
            truth.response(size)
            return message(size)

        bidi = truth.method == "Bidi"
        if bidi or plan.number("early"):
            headers()
        if not plan.number("early"):
            for request in requests:
                truth.request(len(request))
                if bidi and responses:
                    yield send()
            if not bidi:
                headers()
        if truth.method == "Retried" and truth.status != 0:
            return
        while responses:
            yield send()


def serve(address, age, ledger):
    """Listens; lets go of connections after some milliseconds, if those are not zero."""
    options = [*LIMITS, ("grpc.max_connection_age_ms", age)] if age else LIMITS
    server = grpc.server(futures.ThreadPoolExecutor(WORKERS), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("matrix.Peer", Peer(ledger).handlers()),))
    if not server.add_insecure_port(address):
        raise OSError(f"cannot listen on {address}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(channel, plan, ledger):
    """One call of the client, to its end."""
    method = plan.fields["method"]
    truth = Truth(plan, method)
    path = f"/matrix.Peer/{method}"
    sizes = plan.sizes("req")

    def requests():
        for i, size in enumerate(sizes):
            if i > 0:
                time.sleep(plan.number("cgap") / 1000)
            truth.request(size)
            yield message(size)

    def one():
        truth.request(sizes[0])
        return message(sizes[0])

    trace = (("traceparent", plan.fields["trace"]),) if "trace" in plan.fields else ()
    options = {
        "timeout": plan.number("deadline") / 1000 or None,
        "metadata": (("x-plan", plan.told()), *trace, *plan.metadata("meta")),
        "compression": grpc.Compression.Gzip if plan.number("gzip") else None,
    }
    if method == "ClientStream":
        running = channel.stream_unary(path).future(requests(), **options)
    elif method == "ServerStream":
        running = channel.unary_stream(path)(one(), **options)
    elif method == "Bidi":
        running = channel.stream_stream(path)(requests(), **options)
    else:
        running = channel.unary_unary(path).future(one(), **options)
    if plan.number("cancel"):
        timer = threading.Timer(plan.number("cancel") / 1000, running.cancel)
        timer.start()
    try:
        answers = running if method in ("ServerStream", "Bidi") else itertools.chain([running.result()])
        for answer in answers:
            truth.response(len(answer))
    except (grpc.RpcError, grpc.FutureCancelledError):
        pass
    truth.status = running.code().value[0]
    truth.cancelled = bool(plan.number("cancel")) and truth.status == 1
    ledger.write(truth)


def run(target, authority, lines, ledger):
    channel = grpc.insecure_channel(
        target,
        options=[
            *LIMITS,
            ("grpc.default_authority", authority),
            ("grpc.enable_retries", 1),
            ("grpc.service_config", json.dumps(RETRIES)),
        ],
    )
    plans = [Plan(line) for line in lines]
    for _, group in itertools.groupby(plans, lambda plan: plan.fields["group"]):
        group = list(group)
        if group[0].number("await"):
            print("waiting", flush=True)
            sys.stdin.readline()
        threads = [threading.Thread(target=call, args=(channel, plan, ledger)) for plan in group]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    channel.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("end", choices=["server", "client"])
    for name in ("port", "listen", "age", "target", "authority", "scenario", "truth"):
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()
    ledger = Ledger(arguments.truth)
    if arguments.end == "server":
        host = f"[{arguments.listen}]" if ":" in arguments.listen else arguments.listen
        serve(f"{host}:{arguments.port}", int(arguments.age), ledger)
    else:
        with open(arguments.scenario, encoding="utf-8") as scenario:
            run(arguments.target, arguments.authority, scenario.read().splitlines(), ledger)
    return 0


if __name__ == "__main__":
    sys.exit(main())
