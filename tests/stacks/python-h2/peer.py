"""The peer that speaks gRPC with Python's h2 package, as no gRPC stack speaks it; see ../README.md.

With $PEER_TLS, where the key and the certificate are, over Python's own `ssl`: its two ends use OpenSSL in the two
ways there are, the server through asyncio, whose TLS works in memory, the client through an `ssl.SSLSocket`, which
owns its socket. Without, in clear text: it begins as HTTP/1.1 and is upgraded (RFC 7540, section 3.2).
"""

import argparse
import asyncio
import itertools
import json
import os
import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
WINDOW = 1 << 20
UNAVAILABLE = 14


def message(size):
    return (PING * (size // len(PING) + 1))[:size]


class Plan:
    """One line of a scenario."""

    def __init__(self, line):
        self.line = line
        self.fields = dict(field.partition("=")[::2] for field in line.split())

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
        return [(f"x-meta-{i}", "v" * size) for i, size in enumerate(self.sizes(key))]


class Truth:
    """What one end says of one call."""

    def __init__(self, plan, method):
        self.started = time.monotonic()
        self.line = {"id": plan.number("id"), "method": method, "status": 0, "cancelled": False}
        self.line |= dict.fromkeys(("requests", "request_bytes", "responses", "response_bytes"), 0)
        self.line |= {"request_wire": -1, "response_wire": -1}

    def passed(self, kind, size):
        self.line[kind + "s"] += 1
        self.line[kind + "_bytes"] += size

    def write(self, ledger):
        self.line["ms"] = (time.monotonic() - self.started) * 1000
        ledger.write(json.dumps(self.line) + "\n")
        ledger.flush()


class Stream:
    """One stream: what came in, and how to send."""

    def __init__(self, end, number):
        self.end, self.number = end, number
        self.buffer = bytearray()
        self.headers = {}
        self.ended = False
        self.news = asyncio.Event()

    async def wait(self):
        self.news.clear()
        await self.news.wait()

    async def messages(self):
        while True:
            while len(self.buffer) >= 5:
                size = int.from_bytes(self.buffer[1:5], "big")
                if len(self.buffer) < 5 + size:
                    break
                yield bytes(self.buffer[5 : 5 + size])
                del self.buffer[: 5 + size]
            if self.ended:
                return
            await self.wait()

    def send_headers(self, headers, end=False):
        self.end.h2.send_headers(self.number, headers, end_stream=end)
        self.end.flush()

    async def send(self, body, last=False):
        data = memoryview(b"\0" + len(body).to_bytes(4, "big") + body)
        while data:
            room = min(self.end.h2.local_flow_control_window(self.number), self.end.h2.max_outbound_frame_size)
            if room == 0:
                await self.wait()
                continue
            part, data = bytes(data[:room]), data[room:]
            self.end.h2.send_data(self.number, part, end_stream=last and not data)
            self.end.flush()

    def close(self):
        self.end.h2.end_stream(self.number)
        self.end.flush()


def connection(client):
    return h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding="utf-8"))


class End:
    """One end of a connection that has begun; `write` sends bytes."""

    def __init__(self, begun, write, opened=None):
        self.h2 = begun
        self.write, self.opened, self.streams = write, opened, {}
        # Told once the connection has begun: what is set before, h2 believes and does not say.
        codes = h2.settings.SettingCodes
        self.h2.update_settings({codes.MAX_CONCURRENT_STREAMS: 1000, codes.INITIAL_WINDOW_SIZE: WINDOW})
        self.h2.increment_flow_control_window(16 * WINDOW)
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.write(data)

    def stream(self, number):
        return self.streams.setdefault(number, Stream(self, number))

    def take(self, data):
        for event in self.h2.receive_data(data):
            number = getattr(event, "stream_id", None)
            if isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
                for stream in self.streams.values() if not number else [self.stream(number)]:
                    stream.news.set()
            elif isinstance(event, h2.events.DataReceived):
                self.stream(number).buffer += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, number)
                self.stream(number).news.set()
            elif number and hasattr(event, "headers"):
                self.stream(number).headers |= dict(event.headers)
                if isinstance(event, h2.events.RequestReceived):
                    self.opened(self.stream(number))
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.stream(number).ended = True
                self.stream(number).news.set()
        self.flush()


async def answer(stream, ledger):
    """The server's side of one call."""
    method = stream.headers[":path"].rpartition("/")[2]
    plan = Plan(stream.headers.get("x-plan", ""))
    truth = Truth(plan, method)
    truth.line["attempt"] = int(stream.headers.get("grpc-previous-rpc-attempts", "0"))
    refused = truth.line["attempt"] < plan.number("retry")
    status = truth.line["status"] = UNAVAILABLE if refused else plan.number("status")
    responses = plan.sizes("res")
    if method in ("Unary", "ClientStream", "Retried") and status:
        responses = []
    head = [(":status", "200"), ("content-type", "application/grpc"), *plan.metadata("rmeta")]
    tail = [("grpc-status", str(status)), *([("grpc-message", "asked")] if status else []), *plan.metadata("tmeta")]
    opened = False

    async def respond():
        nonlocal opened
        if not opened:
            stream.send_headers(head)
            opened = True
        size = responses.pop(0)
        await stream.send(message(size))
        truth.passed("response", size)

    if method == "Bidi":
        await asyncio.sleep(plan.number("delay") / 1000)
    async for request in stream.messages():
        truth.passed("request", len(request))
        if method == "Bidi" and responses:
            await respond()
    if method != "Bidi":
        await asyncio.sleep(plan.number("delay") / 1000)
    while responses:
        await respond()
    if not opened and (status == 0 or plan.metadata("rmeta")):
        stream.send_headers(head)
        opened = True
    stream.send_headers(tail if opened else head + tail, end=True)
    truth.write(ledger)
    del stream.end.streams[stream.number]


class Served(asyncio.Protocol):
    """A connection of the server. asyncio's TLS hands OpenSSL memory and does the sending itself."""

    def __init__(self, ledger, upgrades):
        self.ledger, self.running, self.upgrades, self.asked, self.end = ledger, set(), upgrades, b"", None

    def connection_made(self, transport):
        self.transport = transport
        if not self.upgrades:
            begun = connection(client=False)
            begun.initiate_connection()
            self.end = End(begun, transport.write, self.opened)

    def upgrade(self, data):
        """Answers the HTTP/1.1 request, in HTTP/2: it has become stream 1."""
        self.asked += data
        request, complete, rest = self.asked.partition(b"\r\n\r\n")
        if not complete:
            return
        fields = dict(line.split(b": ", 1) for line in request.split(b"\r\n")[1:])
        self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        begun = connection(client=False)
        begun.initiate_upgrade_connection(fields[b"HTTP2-Settings"])
        self.end = End(begun, self.transport.write, self.opened)
        self.end.h2.send_headers(1, [(":status", "204")], end_stream=True)
        self.data_received(rest)

    def opened(self, stream):
        task = asyncio.ensure_future(answer(stream, self.ledger))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    def data_received(self, data):
        if self.end is None:
            self.upgrade(data)
        else:
            self.end.take(data)


async def serve(address, port, ledger, keys):
    context = None
    if keys:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(os.path.join(keys, "certificate.pem"), os.path.join(keys, "key.pem"))
        context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Served(ledger, upgrades=not keys), address, port, ssl=context)
    print("ready", flush=True)
    await server.serve_forever()


# A socket has nothing to read, or no room.
AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Owned:
    """The client's connection: it, and OpenSSL, read and write the socket themselves."""

    def __init__(self, target, authority, keys):
        host, _, port = target.rpartition(":")
        plain = socket.create_connection((host.strip("[]"), int(port)))
        # As every gRPC stack has it; else a small request waits for an acknowledgement of its headers.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun, rest = connection(client=True), b""
        if keys:
            context = ssl.create_default_context(cafile=os.path.join(keys, "certificate.pem"))
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(plain, server_hostname=host)
            begun.initiate_connection()
        else:
            self.socket = plain
            rest = self.upgrade(authority, begun.initiate_upgrade_connection())
        self.socket.setblocking(False)
        self.loop, self.waiting = asyncio.get_running_loop(), bytearray()
        self.end = End(begun, self.write)
        self.end.take(rest)
        self.loop.add_reader(self.socket, self.readable)

    def upgrade(self, authority, settings):
        """Asks for HTTP/2; gives what came behind the answer."""
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            f"HTTP2-Settings: {settings.decode()}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(1 << 16)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return rest

    def write(self, data):
        self.waiting += data
        self.writable()

    def writable(self):
        self.loop.remove_writer(self.socket)
        while self.waiting:
            try:
                sent = self.socket.send(self.waiting[: 1 << 16])
            except AGAIN:
                self.loop.add_writer(self.socket, self.writable)
                return
            del self.waiting[:sent]

    def readable(self):
        try:
            while data := self.socket.recv(1 << 16):
                self.end.take(data)
        except AGAIN:
            return
        self.loop.remove_reader(self.socket)

    def close(self):
        self.loop.remove_reader(self.socket)
        self.socket.close()


async def call(end, plan, authority, ledger):
    """The client's side of one call."""
    method = plan.fields["method"]
    truth = Truth(plan, method)
    stream = end.stream(end.h2.get_next_available_stream_id())
    headers = [(":method", "POST"), (":scheme", "https" if os.environ.get("PEER_TLS") else "http"), (":path", f"/matrix.Peer/{method}")]
    headers += [(":authority", authority), ("te", "trailers"), ("content-type", "application/grpc")]
    if plan.number("deadline"):
        headers.append(("grpc-timeout", f"{plan.number('deadline')}m"))
    stream.send_headers([*headers, ("x-plan", plan.line), *plan.metadata("meta")])

    async def requests():
        sizes = plan.sizes("req")
        for i, size in enumerate(sizes):
            if i > 0:
                await asyncio.sleep(plan.number("cgap") / 1000)
            # The end comes with the last message: a server that answers at once would not wait for it.
            await stream.send(message(size), last=i + 1 == len(sizes))
            truth.passed("request", size)
        if not sizes:
            stream.close()

    sending = asyncio.ensure_future(requests())
    async for response in stream.messages():
        truth.passed("response", len(response))
    await sending
    truth.line["status"] = int(stream.headers["grpc-status"])
    truth.write(ledger)
    del end.streams[stream.number]


async def run(target, authority, lines, ledger, keys):
    connection = Owned(target, authority, keys)
    for _, group in itertools.groupby((Plan(line) for line in lines), lambda plan: plan.fields["group"]):
        await asyncio.gather(*(call(connection.end, plan, authority, ledger) for plan in group))
    connection.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("end", choices=["server", "client"])
    for name in ("listen", "port", "age", "target", "authority", "scenario", "truth"):
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()
    keys = os.environ.get("PEER_TLS")
    with open(arguments.truth, "w", encoding="utf-8") as ledger:
        if arguments.end == "server":
            asyncio.run(serve(arguments.listen, int(arguments.port), ledger, keys))
        else:
            with open(arguments.scenario, encoding="utf-8") as scenario:
                lines = scenario.read().splitlines()
            asyncio.run(run(arguments.target, arguments.authority, lines, ledger, keys))
    return 0


if __name__ == "__main__":
    sys.exit(main())
