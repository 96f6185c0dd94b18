"""The files of truth: JSON lines, whole, visible after 0.2 s at most."""

import json
import os
import threading
import time

# Leaves time for the write itself, seconds.
FLUSH_EVERY = 0.15

COUNTS = ("request_bytes", "response_bytes", "request_messages", "response_messages")


class Lines:
    """A file that many threads write. Lines wait in memory, and go out by whole lines in one write."""

    def __init__(self, path):
        # Appends, so that a service that was started again keeps what it served before.
        self.file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        self.waiting = []
        self.lock = threading.Lock()
        threading.Thread(target=self.keep_visible, daemon=True).start()

    def keep_visible(self):
        while True:
            time.sleep(FLUSH_EVERY)
            self.flush()

    def write(self, line):
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self.lock:
            self.waiting.append(text)

    def flush(self):
        # Held while it writes, so that lines keep their order.
        with self.lock:
            lines, self.waiting = self.waiting, []
            if lines:
                os.write(self.file, "".join(lines).encode())


def served_line(t_ms, method, status, ended, counts, seconds, replica):
    """A call that was answered, or not; counts in the order of COUNTS."""
    line = {"t_ms": t_ms, "method": method, "status": status, "ended": ended}
    return {**line, **dict(zip(COUNTS, counts)), "seconds": seconds, "replica": replica}


def sent_line(t_ms, callee, method, status, counts, seconds, attempt):
    """A call that was made, as its caller saw it."""
    line = {"t_ms": t_ms, "callee": callee, "method": method, "status": status}
    return {**line, **dict(zip(COUNTS, counts)), "seconds": seconds, "attempt": attempt}
