"""GET and SET on Redis (redis-py) and PostgreSQL (psycopg). Both keep their connections; neither says more on them
than the operations, and there is a line of truth for each connection to PostgreSQL, so that what an observer counts is
what the truth counts. A library is loaded when a spec has its backend, since it takes memory and time."""

import queue
import threading
import time

from behaviour import split
from failure import unavailable
from truth import sent_line

# Connections to one backend.
CONNECTIONS = 16

# A command may take so many seconds.
TIMEOUT = 2.0

SELECT = "SELECT value FROM items WHERE key = %s"
INSERT = "INSERT INTO items (key, value) VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def connect(name, spec, sent):
    kinds = {"redis": Redis, "postgres": Postgres}
    return Backend(name, spec, kinds[spec["kind"]], sent)


class Backend:
    """Operations with their lines of truth."""

    def __init__(self, name, spec, kind, sent):
        self.name = name
        self.sent = sent
        self.store = kind(*split(spec["address"]), self.connected)

    def connected(self, t_ms, started):
        """A connection was made, which took a question and an answer on the wire."""
        seconds = time.perf_counter() - started
        self.sent.write(sent_line(t_ms, self.name, "CONNECT", "OK", (0, 0, 1, 1), seconds, 0))

    def run(self, step, key):
        setting = step["operation"] == "set"
        t_ms, started, failure = int(time.time() * 1000), time.perf_counter(), None
        try:
            if setting:
                self.store.set(key, b"v" * step["bytes"])
            else:
                self.store.get(key)
        except self.store.errors as error:
            failure = unavailable(f"{step['backend']}: {error}")
        counts = (step["bytes"] if setting else 0, 0, 1, 1)
        status = "OK" if failure is None else "UNAVAILABLE"
        method = step["operation"].upper()
        self.sent.write(sent_line(t_ms, step["backend"], method, status, counts, time.perf_counter() - started, 0))
        if failure is not None:
            raise failure


class Redis:
    """A pool of connections to one Redis server; they say nothing of their own."""

    def __init__(self, host, port, _connected):
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self.errors = (redis.RedisError, OSError)
        pool = redis.BlockingConnectionPool(
            host=host,
            port=port,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            protocol=2,
            lib_name=None,
            lib_version=None,
            retry=Retry(NoBackoff(), 0),
        )
        client = redis.Redis(connection_pool=pool)
        self.get = client.get
        self.set = client.set


class Postgres:
    """A pool of connections to one PostgreSQL server."""

    def __init__(self, host, port, connected):
        import psycopg

        self.errors = (psycopg.Error, OSError)
        self.place = {"host": host, "port": port, "user": "playground", "dbname": "playground"}
        self.connection = bounded(psycopg)
        self.connected = connected
        self.idle = queue.LifoQueue()
        self.free = threading.Semaphore(CONNECTIONS)

    def get(self, key):
        self.execute(SELECT, (key,))

    def set(self, key, value):
        self.execute(INSERT, (key, value))

    def execute(self, statement, values):
        if not self.free.acquire(timeout=TIMEOUT):
            raise TimeoutError("all connections are busy")
        try:
            connection = self.take()
            try:
                cursor = connection.execute(statement, values)
                if cursor.description:
                    cursor.fetchall()
                cursor.close()
            except BaseException:
                connection.close()
                raise
            self.idle.put(connection)
        finally:
            self.free.release()

    def take(self):
        try:
            return self.idle.get_nowait()
        except queue.Empty:
            # A statement is one question on the wire, without one before it that prepares it.
            quiet = {"sslmode": "disable", "gssencmode": "disable", "autocommit": True, "prepare_threshold": None}
            t_ms, started = int(time.time() * 1000), time.perf_counter()
            connection = self.connection.connect(**self.place, **quiet, connect_timeout=int(TIMEOUT))
            self.connected(t_ms, started)
            return connection


def bounded(psycopg):
    """A connection whose statements end after a time, even when the server stands still: psycopg itself has no such
    limit, but wakes up now and then."""

    class Bounded(psycopg.Connection):
        def wait(self, gen, *arguments, **more):
            return super().wait(until(gen, time.monotonic() + TIMEOUT), *arguments, **more)

    def until(steps, end):
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > end:
                    raise TimeoutError(f"no answer in {TIMEOUT} s")
                wanted = steps.send(ready)
        except StopIteration as ended:
            return ended.value

    return Bounded
