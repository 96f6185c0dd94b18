"""What a call costs: processor time, and memory that comes and goes; and what the cache spares."""

import time


class Work:
    """Processor time counted in rounds of a loop, not in wall time, so that a throttled process takes longer for the
    same work."""

    def __init__(self):
        # The best of several short runs is the undisturbed one.
        count, best = 10_000, 1.0
        for _ in range(9):
            started = time.perf_counter()
            self.rounds(count)
            best = min(best, time.perf_counter() - started)
        self.rounds_per_us = count / (best * 1e6)

    @staticmethod
    def rounds(count):
        mixed = count
        for _ in range(count):
            mixed = (mixed * 31 + 7) & 0xFFFFFF
        return mixed

    def burn(self, microseconds):
        self.rounds(int(microseconds * self.rounds_per_us))

    @staticmethod
    def allocate(size):
        """Allocates, touches and frees."""
        if size:
            b"x" * size


class Cache:
    """Keys and until when they are fresh; as many as the spec has keys."""

    def __init__(self, spec):
        self.keys = spec.get("keys", 1000)
        self.ttl = spec.get("ttl_ms", 60_000) / 1e3
        self.fresh = {}

    def draw(self, random):
        """Low keys are asked for most."""
        return int(self.keys * random.random() ** 3)

    def has(self, key):
        return time.monotonic() < self.fresh.get(key, 0.0)

    def keep(self, key):
        self.fresh[key] = time.monotonic() + self.ttl
