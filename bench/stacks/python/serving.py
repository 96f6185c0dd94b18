"""One served call: effects, time, work, backends, others, and the answer. How it misbehaves is in behaviour.py, whom it
calls in peers.py, what it stores in backends.py."""

import itertools
import random
import threading
import time
from base64 import b64decode
from concurrent import futures

import grpc

from backends import connect
from behaviour import Behaviour, Growth
from failure import CODES, Failure
from peers import Peer
from truth import Lines, served_line
from work import Cache, Work

# Calls that one process makes at once, beside those that a handler makes itself.
PARALLEL = 64

# The caller's deadline started this much earlier than ours at most, so that its RST_STREAM may come first; seconds.
TRANSIT = 0.01

HANDLERS = {
    "unary": grpc.unary_unary_rpc_method_handler,
    "client-stream": grpc.stream_unary_rpc_method_handler,
    "server-stream": grpc.unary_stream_rpc_method_handler,
    "bidi-stream": grpc.stream_stream_rpc_method_handler,
}


class Method:
    """A method of the spec, with its defaults."""

    def __init__(self, spec):
        self.kind = spec.get("kind", "unary")
        self.responses = [b64decode(text) for text in spec.get("responses", [])] or [b""]
        self.turns = itertools.count()
        self.response_messages = spec.get("response_messages", 1) if self.serves_many() else 1
        self.gap = spec.get("gap_ms", 0) / 1e3
        self.cpu_us = spec.get("cpu_us", 0)
        self.sleep = spec.get("sleep_ms", 0) / 1e3
        self.allocate_bytes = spec.get("allocate_bytes", 0)
        self.cache = Cache(spec["cache"]) if spec.get("cache") else None
        self.steps = spec.get("data", [])
        self.parallel = spec.get("parallel", False)
        self.calls = spec.get("calls", [])

    def serves_many(self):
        return self.kind in ("server-stream", "bidi-stream")

    def next_response(self):
        """The n-th answer message of this process."""
        return self.responses[next(self.turns) % len(self.responses)]


class Service(grpc.GenericRpcHandler):
    """All methods of the spec by path; messages stay bytes, so that no generated code is needed."""

    def __init__(self, spec):
        self.methods = {path: Method(method) for path, method in spec["methods"].items()}
        self.replica = spec.get("replica", 0)
        self.truth = Lines(spec["truth"])
        self.sent = Lines(spec["sent"])
        self.random = random.Random(spec["seed"])
        self.work = Work()
        self.behaviour = Behaviour({})
        self.growth = Growth(spec, self.work)
        self.one_lock = threading.Lock()
        self.in_flight = 0
        self.counting = threading.Lock()
        self.backends = {name: connect(name, backend, self.sent) for name, backend in spec.get("backends", {}).items()}
        self.peers = {name: Peer(name, peer, self.sent) for name, peer in spec.get("peers", {}).items()}
        self.side_by_side = futures.ThreadPoolExecutor(max_workers=PARALLEL)
        self.handlers = {path: self.handler(path, method) for path, method in self.methods.items()}

    def handler(self, path, method):
        serve = self.serve_many if method.serves_many() else self.serve_one
        return HANDLERS[method.kind](lambda requests, context: serve(Served(path, method, requests, context)))

    def service(self, handler_call_details):
        return self.handlers.get(handler_call_details.method)

    def become(self, told):
        """Replaces the behaviour."""
        behaviour = Behaviour(told)
        for name, peer in self.peers.items():
            peer.move_to(behaviour.addresses.get(name))
        self.growth.follow(behaviour)
        self.behaviour = behaviour

    def serve_one(self, call):
        """A call with one answer."""
        responses = list(self.serve_many(call))
        return responses[0] if responses else b""

    def serve_many(self, call):
        """Answers one by one, then the line of truth."""
        with self.counting:
            self.in_flight += 1
        failure = None
        try:
            yield from self.answer(call)
        except Failure as failed:
            failure = failed
        except grpc.RpcError:
            # What reading says when the caller is gone.
            failure = Failure(grpc.StatusCode.CANCELLED, "the caller is gone")
        finally:
            with self.counting:
                self.in_flight -= 1
            self.truth.write(call.line(failure, self.replica))
        if failure is not None:
            call.context.abort(failure.code, failure.details)

    def answer(self, call):
        method = call.method
        if method.kind != "bidi-stream":
            call.receive_all()
        behaviour = self.behaviour
        failure, cut = self.afflict(behaviour, call.path)
        if failure is not None:
            if cut and method.serves_many():
                yield from call.send_up_to(method.response_messages // 2)
            raise failure
        if method.sleep:
            time.sleep(method.sleep * self.random.uniform(0.7, 1.3))
        self.growth.walk(behaviour.leak_walks)
        self.work.burn(method.cpu_us)
        self.work.allocate(method.allocate_bytes)
        self.fetch(behaviour, method)
        if method.kind == "bidi-stream":
            for _ in call.receive():
                yield from call.send_up_to(min(call.sent + 1, method.response_messages))
        yield from call.send_up_to(method.response_messages)

    def afflict(self, behaviour, path):
        """The effects on one call, in order; the failure that they end with, and whether half is sent first."""
        for effect in behaviour.effects:
            if effect.method is not None and effect.method != path:
                continue
            if effect.fraction < 1 and self.random.random() >= effect.fraction:
                continue
            delay = effect.delay
            if effect.jitter:
                delay += effect.jitter * self.random.expovariate(1.0)
            if delay:
                time.sleep(delay)
            if effect.lock:
                with self.one_lock:
                    time.sleep(effect.lock)
            within = effect.max_in_flight and self.in_flight <= effect.max_in_flight
            if effect.status and not within:
                return Failure(CODES[effect.status], "injected"), effect.cut
        return None, False

    def fetch(self, behaviour, method):
        """What the call needs from others, unless the cache has it."""
        if method.cache is None:
            self.ask_others(behaviour, method)
            return
        key = method.cache.draw(self.random)
        if not method.cache.has(key):
            self.ask_others(behaviour, method)
            method.cache.keep(key)

    def ask_others(self, behaviour, method):
        for step in method.steps:
            key = f"k{int(self.random.random() * step['keys'])}"
            self.backends[step["backend"]].run(step, key)
        calls = [call for call in method.calls if call["peer"] not in behaviour.absent]
        if not method.parallel or len(calls) < 2:
            for call in calls:
                self.peers[call["peer"]].call(call, behaviour)
            return
        running = [self.side_by_side.submit(self.peers[call["peer"]].call, call, behaviour) for call in calls]
        failures = [pending.exception() for pending in running]
        for failure in failures:
            if failure is not None:
                raise failure


class Served:
    """A served call, and what went over it."""

    def __init__(self, path, method, requests, context):
        self.path = path
        self.method = method
        self.requests = [requests] if isinstance(requests, bytes) else requests
        self.context = context
        self.t_ms = int(time.time() * 1000)
        self.started = time.perf_counter()
        self.allowed = context.time_remaining()
        self.received = self.request_bytes = self.sent = self.response_bytes = 0

    def receive(self):
        for request in self.requests:
            self.received += 1
            self.request_bytes += len(request)
            yield request

    def receive_all(self):
        for _ in self.receive():
            pass

    def send_up_to(self, count):
        """Sends up to a number of messages in all, until the caller is gone."""
        while self.sent < count and self.context.is_active():
            if self.sent and self.method.gap:
                time.sleep(self.method.gap)
            response = self.method.next_response()
            self.sent += 1
            self.response_bytes += len(response)
            yield response

    def line(self, failure, replica):
        seconds = time.perf_counter() - self.started
        ended = self.context.is_active()
        if ended:
            status = "OK" if failure is None else failure.code.name
        else:
            late = self.allowed is not None and seconds > self.allowed - TRANSIT
            status = "DEADLINE_EXCEEDED" if late else "CANCELLED"
        counts = (self.request_bytes, self.response_bytes, self.received, self.sent)
        return served_line(self.t_ms, self.path, status, ended, counts, seconds, replica)
