"""How the service misbehaves: a line from standard input, and what grows for as long as it says so. What the effects
do to calls is in serving.py."""

import mmap
import socket
import threading
import time

# Growth comes in pieces of this interval, seconds.
GROW_EVERY = 0.1

PAGE = 4096

# More connections would use up the ports of a small machine.
CONNECTION_LIMIT = 5000

# Processor time between two looks at whether to go on spinning, microseconds.
SPIN_US = 100


class Effect:
    """What is done to a call; times in seconds."""

    def __init__(self, told):
        self.method = told.get("method")
        self.fraction = told.get("fraction", 1)
        self.delay = told.get("delay_ms", 0) / 1e3
        self.jitter = told.get("jitter_ms", 0) / 1e3
        self.lock = told.get("lock_ms", 0) / 1e3
        self.max_in_flight = told.get("max_in_flight", 0)
        self.status = told.get("status", 0)
        self.cut = told.get("cut", False)


class Behaviour:
    """One line, with its defaults."""

    def __init__(self, told):
        self.effects = [Effect(effect) for effect in told.get("effects", [])]
        self.leak_bytes_per_second = told.get("leak_bytes_per_second", 0)
        self.leak_limit_bytes = told.get("leak_limit_bytes", 0)
        self.leak_walks = told.get("leak_walks", 0)
        self.spin_threads = told.get("spin_threads", 0)
        self.leak_connections_per_second = told.get("leak_connections_per_second", 0)
        self.open_circuits = told.get("open_circuits", [])
        self.addresses = told.get("addresses", {})
        self.absent = told.get("absent", [])


class Growth:
    """What leaked, and threads that only use the processor. Its own thread runs only while something grows."""

    def __init__(self, spec, work):
        self.target = first_target(spec)
        self.work = work
        self.behaviour = Behaviour({})
        self.changed = threading.Condition()
        self.pieces = []
        self.held = 0
        self.connections = []
        self.owed = 0.0
        self.spinning = threading.Event()
        self.walking = threading.Lock()
        self.rest_until = 0.0
        threading.Thread(target=self.grow, daemon=True).start()

    def follow(self, behaviour):
        """Frees what the new behaviour does not leak, and starts its threads."""
        with self.changed:
            self.behaviour = behaviour
            if not behaviour.leak_bytes_per_second:
                # Unmapped when the last walk that still reads it has ended.
                self.pieces, self.held = [], 0
            if not behaviour.leak_connections_per_second:
                for connection in self.connections:
                    connection.close()
                self.connections, self.owed = [], 0.0
            self.changed.notify()
        self.spinning.set()
        self.spinning = threading.Event()
        for _ in range(behaviour.spin_threads):
            threading.Thread(target=self.spin, args=(self.spinning,), daemon=True).start()

    def spin(self, ended):
        while not ended.is_set():
            self.work.burn(SPIN_US)

    def grow(self):
        while True:
            with self.changed:
                told = self.behaviour
                while not (told.leak_bytes_per_second or told.leak_connections_per_second):
                    self.changed.wait()
                    told = self.behaviour
                self.hold(int(told.leak_bytes_per_second * GROW_EVERY), told.leak_limit_bytes)
                self.connect(told.leak_connections_per_second * GROW_EVERY)
            time.sleep(GROW_EVERY)

    def hold(self, size, limit):
        size = min(size, limit - self.held)
        if size <= 0:
            return
        # A mapping of its own goes back to the system for sure; the writes touch every page, so that it is used.
        piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        piece[::PAGE] = b"x" * -(-size // PAGE)
        self.pieces = [*self.pieces, piece]
        self.held += size

    def connect(self, count):
        """Opens connections; a rate below ten a second opens one now and then."""
        self.owed += count
        while self.owed >= 1:
            self.owed -= 1
            if self.target is None or len(self.connections) >= CONNECTION_LIMIT:
                continue
            try:
                self.connections.append(socket.create_connection(self.target, timeout=GROW_EVERY))
            except OSError:
                pass

    def walk(self, times):
        """Reads one byte of each page of what leaked; all walks together take half of the time at most. Whoever finds
        the lock held has another call that walks."""
        started = time.perf_counter()
        if not times or started < self.rest_until or not self.walking.acquire(blocking=False):
            return
        pieces = self.pieces
        for _ in range(times):
            for piece in pieces:
                sum(piece[::PAGE])
        ended = time.perf_counter()
        self.rest_until = ended + (ended - started)
        self.walking.release()


def first_target(spec):
    """Where connections are leaked to: the first backend by name, else the first peer."""
    for _, backend in sorted(spec.get("backends", {}).items()):
        return split(backend["address"])
    for _, peer in sorted(spec.get("peers", {}).items()):
        if peer["addresses"]:
            return split(peer["addresses"][0])
    return None


def split(address):
    """Host and port."""
    host, port = address.rsplit(":", 1)
    return host, int(port)
