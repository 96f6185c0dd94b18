"""Calls to other services: connections by turns, deadlines, retries, circuits, a line of truth for each attempt."""

import itertools
import threading
import time
from base64 import b64decode

import grpc

from failure import Failure, unavailable
from truth import sent_line

# Statuses that say nothing bad of the one who answers.
NO_FAILURES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
}

# What grpcio says of a call that found no connection, and so was on no wire.
NO_CONNECTION = "failed to connect to all addresses"


class Peer:
    """A service to call. Each connection is a channel of its own, so that calls go by turns whatever the state of an
    address is; the policy round_robin would leave out those that are down."""

    def __init__(self, name, spec, sent):
        self.name = name
        self.spec = spec
        self.sent = sent
        self.circuit = Circuit(spec.get("breaker"))
        self.requests = {}
        self.turns = itertools.count()
        self.lock = threading.Lock()
        self.links = []
        self.move_to(None)

    def move_to(self, addresses):
        """Keeps the connections to these addresses, or to those of the spec; adds new ones, and lets go of the others
        when their calls have ended."""
        addresses = addresses or self.spec["addresses"]
        with self.lock:
            kept = [link for link in self.links if link.address in addresses]
            for link in self.links:
                if link not in kept:
                    link.leave()
            known = {link.address for link in kept}
            for address in addresses:
                if address not in known:
                    kept += [Link(address, self.spec["authority"]) for _ in range(self.spec.get("connections") or 1)]
            self.links = kept

    def call(self, call, behaviour):
        """One call with its retries; fails unless it may."""
        try:
            self.attempts(call, behaviour)
        except Failure as failure:
            if not call.get("optional", False):
                details = f"{self.name}{call['path']}: {failure.details}"
                raise Failure(failure.code, details) from None

    def attempts(self, call, behaviour):
        until = time.monotonic() + call["deadline_ms"] / 1e3 if call.get("deadline_ms") else None
        retries = call.get("retries") or {"attempts": 1, "backoff_ms": 0, "on": []}
        for attempt in itertools.count():
            if self.name in behaviour.open_circuits or not self.circuit.admits():
                t_ms = int(time.time() * 1000)
                line = sent_line(t_ms, self.name, call["path"], "UNAVAILABLE", (0, 0, 0, 0), 0.0, -1)
                self.sent.write(line)
                raise unavailable("circuit open")
            failure = self.attempt(call, attempt, until)
            self.circuit.ended(grpc.StatusCode.OK if failure is None else failure.code)
            if failure is None:
                return
            if attempt + 1 >= retries["attempts"] or failure.code.value[0] not in retries["on"]:
                raise failure
            backoff = retries["backoff_ms"] / 1e3 * (attempt + 1)
            if until is not None and time.monotonic() + backoff > until:
                raise failure
            time.sleep(backoff)

    def attempt(self, call, attempt, until):
        """One attempt on the wire, with its line of truth; its failure."""
        t_ms, started = int(time.time() * 1000), time.perf_counter()
        requests = self.next_requests(call)
        responses, failure = [], None
        metadata = (("grpc-previous-rpc-attempts", str(attempt)),) if attempt else None
        timeout = None if until is None else max(until - time.monotonic(), 0.0)
        with self.lock:
            # Within the lock, so that nobody closes it in between.
            link = self.links[next(self.turns) % len(self.links)].begun()
        try:
            link.talk(call, requests, responses, timeout, metadata)
        except grpc.RpcError as error:
            failure = Failure(error.code(), error.details())
            if failure.details and failure.details.startswith(NO_CONNECTION):
                attempt = -1
        finally:
            link.done()
        status = "OK" if failure is None else failure.code.name
        counts = (requests.bytes, sum(map(len, responses)), requests.count, len(responses))
        self.sent.write(
            sent_line(t_ms, self.name, call["path"], status, counts, time.perf_counter() - started, attempt)
        )
        return failure

    def next_requests(self, call):
        """The messages of one call; those of a path go by turns over all its calls."""
        key = id(call)
        if key not in self.requests:
            samples = [b64decode(text) for text in call.get("requests", [])] or [b""]
            self.requests[key] = samples
        turns = self.requests.setdefault(call["path"], itertools.count())
        many = call.get("kind", "unary") in ("client-stream", "bidi-stream")
        count = call.get("request_messages", 1) if many else 1
        return Requests(self.requests[key], turns, count, call.get("gap_ms", 0) / 1e3)


class Requests:
    """The messages that one call sends, and how many the library has taken."""

    def __init__(self, samples, turns, wanted, gap):
        self.samples = samples
        self.turns = turns
        self.wanted = wanted
        self.gap = gap
        self.count = 0
        self.bytes = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.count == self.wanted:
            raise StopIteration
        if self.count and self.gap:
            time.sleep(self.gap)
        request = self.samples[next(self.turns) % len(self.samples)]
        self.count += 1
        self.bytes += len(request)
        return request


class Link:
    """One connection."""

    def __init__(self, address, authority):
        self.address = address
        options = [
            ("grpc.default_authority", authority),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            # Two channels to one address are two connections.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = grpc.insecure_channel(f"ipv4:{address}", options=options)
        self.ways = {}
        self.lock = threading.Lock()
        self.calls = 0
        self.leaving = False

    def talk(self, call, requests, responses, timeout, metadata):
        """Sends all messages, receives all messages."""
        kind = call.get("kind", "unary")
        way = self.way(kind, call["path"])
        sends = requests if kind in ("client-stream", "bidi-stream") else next(requests)
        answer = way(sends, timeout=timeout, metadata=metadata)
        if kind in ("server-stream", "bidi-stream"):
            for response in answer:
                responses.append(response)
        else:
            responses.append(answer)

    def way(self, kind, path):
        """What makes calls of a kind to a path; the messages stay bytes."""
        if path not in self.ways:
            kinds = {
                "unary": self.channel.unary_unary,
                "client-stream": self.channel.stream_unary,
                "server-stream": self.channel.unary_stream,
                "bidi-stream": self.channel.stream_stream,
            }
            self.ways[path] = kinds[kind](path)
        return self.ways[path]

    def leave(self):
        """Closes the connection when its calls have ended."""
        with self.lock:
            self.leaving = True
            ended = self.calls == 0
        if ended:
            self.channel.close()

    def begun(self):
        with self.lock:
            self.calls += 1
        return self

    def done(self):
        with self.lock:
            self.calls -= 1
            ended = self.leaving and self.calls == 0
        if ended:
            self.channel.close()


class Circuit:
    """Closed while fewer than so many calls in a row have failed; then open for a time, and after it for all but one
    call, until one succeeds."""

    def __init__(self, rule):
        self.rule = rule
        self.lock = threading.Lock()
        self.failures = 0
        self.opens = 0.0
        self.trying = False

    def admits(self):
        """Whether a call may leave."""
        if self.rule is None:
            return True
        with self.lock:
            if self.failures < self.rule["failures"]:
                return True
            if self.trying or time.monotonic() < self.opens:
                return False
            self.trying = True
            return True

    def ended(self, code):
        """A call that left has ended."""
        if self.rule is None:
            return
        with self.lock:
            if code in NO_FAILURES:
                self.failures, self.trying = 0, False
                return
            self.failures += 1
            # Calls that left before it opened do not keep it open.
            if self.trying or self.failures == self.rule["failures"]:
                self.opens = time.monotonic() + self.rule["open_ms"] / 1e3
                self.trying = False
