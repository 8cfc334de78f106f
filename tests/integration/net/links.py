"""The links to upstreams: WebSockets, what comes after an answer, and addresses that race."""

import contextlib
import select
import signal
import socket
import time

import harness
import rows
from harness import DEADLINE_S, Failure, read_exactly, read_to_end
from world import (MUTE, OK, PUBLIC, SILENT, Internet, check_audit, check_guest, guest, read_head,
                   read_response, request)


def open_websocket(world, connection, host):
    values = {"H": f"{host}:{world.port('good')}"}
    connection.sendall(rows.fill(rows.get(rows.UPGRADE), values))
    check_guest(connection, rows.SENT_ACCEPTED, [])


def accept_websocket(connection):
    while not (head := connection.recv(65536)).endswith(b"\r\n\r\n"):
        if not head:
            raise Failure("no request")
    connection.sendall(rows.ACCEPTED + b"\r\n")


def frame(first, payload):
    """A server's frame (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 65536:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload


def read_frame(connection):
    """The first byte of a frame, and its payload."""
    first, size = read_exactly(connection, 2)
    if size >= 126:
        size = int.from_bytes(read_exactly(connection, {126: 2, 127: 8}[size]), "big")
    return first, read_exactly(connection, size)


def test_scrubs_long_websocket_messages(world):
    upstream = world.upstreams["good"]
    secret, placeholder = (values["KEY"].encode() for values in (harness.SECRETS, harness.PLACEHOLDERS))
    line = b"%s\n" * 50000
    message = line.replace(b"%s", secret)

    def script(connection):
        accept_websocket(connection)
        connection.sendall(frame(0x01, message[:70001]) + frame(0x89, b"between") +
                           frame(0x00, message[70001:70003]) + frame(0x80, message[70003:]) +
                           frame(0x82, b"next"))
        if read_to_end(connection) != b"from the guest":
            raise Failure("the upstream got something else")

    upstream.expect(script)
    got, pings = [], []
    with guest(world, host="k.test") as connection:
        open_websocket(world, connection, "k.test")
        while not got or not got[-1][0] & 0x80:
            first, payload = read_frame(connection)
            (pings if first & 0x08 else got).append((first, payload))
        if b"".join(payload for _, payload in got) != line.replace(b"%s", placeholder):
            raise Failure("another message")
        if got[0][0] != 0x01 or {first & 0x7f for first, _ in got[1:]} != {0} or len(got) < 3:
            raise Failure(f"frames {[(hex(first), len(payload)) for first, payload in got]}")
        if pings != [(0x89, b"between")] or read_frame(connection) != (0x82, b"next"):
            raise Failure(f"{pings}")
        connection.sendall(b"from the guest")
        harness.end_tls(connection)
    upstream.settle()
    check_audit(world.proxy, [dict(rows.RELAYED, scrubbed=["KEY"], bytes_up=14)])


def test_holds_little_of_a_websocket_that_is_not_read(world):
    upstream = world.upstreams["good"]
    sent = [0]

    def script(connection):
        accept_websocket(connection)
        connection.settimeout(1)  # once the buffers are full it stands still
        try:
            while True:
                connection.sendall(frame(0x82, harness.SECRETS["KEY"].encode() * 4000))
                sent[0] += 64000
        except OSError:
            pass

    upstream.expect(script)
    with guest(world, host="k.test") as connection:
        open_websocket(world, connection, "k.test")
        upstream.settle()
        held = world.proxy.status("Private_Dirty")
    world.proxy.audit_skip()
    if held > 8192:
        raise Failure(f"{held} KiB")
    if sent[0] > 32 << 20:
        raise Failure(f"{sent[0]} bytes were taken from the upstream")


# --- after an answer ---

def test_believes_nothing_after_an_answer(world):
    """What an upstream sends besides its answer is nobody's, whatever it looks like."""
    upstream = world.upstreams["good"]
    wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    cases = [(b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 54\r\n\r\n"), (b"GET", OK),
             (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"), (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
             (b"GET", b"HTTP/1.1 200 OK\r\n" + rows.CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n")]
    for method, answer in cases:
        got = []

        def script(connection):
            got.append(read_head(connection))
            connection.sendall(OK if b"GET /2 " in got[-1] else answer + wrong)
            read_to_end(connection)

        upstream.expect(script)
        with guest(world) as connection:
            connection.sendall(request(port=upstream.port).replace(b"GET", method, 1))
            check_guest(connection, answer, [])
            connection.sendall(request(path=b"/2", port=upstream.port))
            check_guest(connection, OK, [])
        if upstream.settle()[0] != 2 or len(got) != 2:
            raise Failure(f"{answer!r}: {got}")
        world.proxy.audit(2)


# --- addresses that race ---

class Full:
    """A listener that answers nobody: no more connections fit into its queue."""

    def __init__(self, address, port=80):
        self.listener = socket.create_server((address, port), backlog=0)
        self.fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((address, port))
            self.fillers.append(filler)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for filler in self.fillers:
            filler.close()

    def answer(self):
        """Takes the others out of the queue, then answers the one that asks for a host."""
        for filler in self.fillers:
            filler.close()
        self.listener.settimeout(DEADLINE_S)
        while True:
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(DEADLINE_S)
                if connection.recv(65536):
                    connection.sendall(OK)
                    return


def connecting_to(port=80):
    """The addresses that connections are being opened to, but the fillers' own: theirs come first."""
    with open("/proc/net/tcp", encoding="ascii") as f:
        rows_ = [line.split() for line in f.readlines()[1:]]
    ends = [bytes.fromhex(row[2][:8])[::-1] for row in rows_
            if row[3] == "02" and int(row[2][9:], 16) == port]
    return [socket.inet_ntoa(end) for end in ends]


@contextlib.contextmanager
def standing_still(process):
    """The table of sockets is read in pieces: one that changes meanwhile could be counted twice."""
    def state():
        with open(f"/proc/{process.pid}/stat", encoding="ascii") as f:
            return f.read().rpartition(") ")[2][0]

    process.send_signal(signal.SIGSTOP)
    wait_until("the proxy stands still", lambda: state() == "T")
    yield
    process.send_signal(signal.SIGCONT)


def wait_until(what, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"it did not come to be that {what}")
        select.select([], [], [], 0.01)


def ask(proxy, host):
    connection, _ = proxy.connect(host, 80)
    connection.sendall(request(host=host.encode()).replace(b":0\r\n", b"\r\n", 1))
    return connection


def test_goes_on_with_an_address_while_it_tries_the_next(world):
    net = Internet.of(world)
    net.names.answers["race.test"] = [SILENT, MUTE]
    with Full(SILENT) as silent, Full(MUTE):
        before = connecting_to()
        connection = ask(net.proxy, "race.test")
        wait_until("both are tried", lambda: connecting_to().count(SILENT) > before.count(SILENT) and
                   connecting_to().count(MUTE) > before.count(MUTE))
        with connection:
            silent.answer()
            check_guest(connection, OK, [])
        wait_until("the other is given up", lambda: connecting_to().count(MUTE) <= before.count(MUTE))
    check_audit(net.proxy, [dict(rows.ALLOWED, address=SILENT)])


def test_takes_the_first_that_connects(world):
    net = Internet.of(world)
    net.names.answers["first.test"] = [SILENT, MUTE, PUBLIC]
    with Full(SILENT), Full(MUTE):
        before = len(connecting_to())
        if net.get("first.test", net.http)[0] != 200:
            raise Failure("not reached")
        wait_until("the others are given up", lambda: len(connecting_to()) <= before)
    check_audit(net.proxy, [dict(rows.ALLOWED, address=PUBLIC)])


def test_tells_the_most_telling_failure(world):
    net = Internet.of(world)
    proxy = world.make("failures", allow=["*.test"], secrets={}, options=["--timeout=connect=300"])
    refused, timeout = (502, b"Connection refused", "connect-failed"), (504, b"timed out", "timeout")
    cases = {"a.test": ([SILENT], timeout), "b.test": ([MUTE], refused), "c.test": ([SILENT, MUTE], refused),
             "d.test": ([MUTE, SILENT], refused), "e.test": ([SILENT, "2001:db9::1"], timeout),
             "f.test": (["2001:db9::1", MUTE], refused)}
    with Full(SILENT):
        for host, (addresses, (status, text, reason)) in cases.items():
            net.names.answers[host] = addresses
            with ask(proxy, host) as connection:
                got, _, body = read_response(connection)
            if got != status or text not in body:
                raise Failure(f"{host}: {got} {body!r}")
            check_audit(proxy, [{"decision": "error", "reason": reason, "status": status}])
    if proxy.stop() != 0:
        raise Failure("it did not end well")


def test_races_with_few_sockets(world):
    net = Internet.of(world)
    net.names.answers["many.test"] = [SILENT, MUTE]
    with Full(SILENT), Full(MUTE):
        before, count = len(connecting_to()), 40

        def sockets():
            with standing_still(proxy.process):
                return len(connecting_to()) - before

        proxy = world.make("races", allow=["*.test"], secrets={}, options=["--timeout=connect=600000"])
        guests = [ask(proxy, "many.test") for _ in range(count)]
        wait_until("as many race as may", lambda: sockets() >= count + 32)
        most = sockets()
        for connection in guests:
            connection.close()
        proxy.check_end()
        # They all come to their end.
        proxy = world.make("races-end", allow=["*.test"], secrets={}, options=["--timeout=connect=600"])
        guests = [ask(proxy, "many.test") for _ in range(count)]
        while len(proxy.audit_rest().splitlines()) < count:
            most = max(most, sockets())
        for connection in guests:
            with connection:
                if read_response(connection)[0] != 504:
                    raise Failure("no timeout")
        proxy.check_end()
    if most != count + 32:
        raise Failure(f"{most} sockets for {count} connections")


# --- links that stand still ---

def test_ends_links_that_stand_still(world):
    http, good = world.upstreams["http"], world.upstreams["good"]
    proxy = world.make("still-greeting", secrets={}, options=["--timeout=greet=300"])
    # An upstream that does not shake hands.
    http.expect(read_to_end)
    with guest(world, port="http", proxy=proxy) as connection:
        connection.sendall(request(port=http.port))
        status, _, body = read_response(connection)
    if status != 504 or b"TLS handshake in time" not in body:
        raise Failure(f"{status} {body!r}")
    check_audit(proxy, [{"decision": "error", "reason": "timeout", "status": 504}])
    proxy.check_end()
    # A WebSocket that nobody uses, read by us or not, and bytes of which nothing is known.
    proxy = world.make("still", options=["--timeout=tcp-idle=300"])
    proxy.audit(1)  # LOST
    for host in ("h.test", "k.test"):
        good.expect(lambda c: (accept_websocket(c), read_to_end(c)))
        with guest(world, host=host, proxy=proxy) as connection:
            values = {"H": f"{host}:{good.port}"}
            connection.sendall(rows.fill(rows.get(rows.UPGRADE), values))
            check_guest(connection, rows.SENT_ACCEPTED, [])
            if read_to_end(connection):
                raise Failure("more than the handshake")
        check_audit(proxy, [dict(rows.RELAYED, reason="timeout")])
    http.expect(read_to_end)
    with guest(world, port="http", tls=False, proxy=proxy) as connection:
        connection.sendall(b"\x00\x01")
        if read_to_end(connection):
            raise Failure("an answer")
    check_audit(proxy, [{"scheme": "tcp", "reason": "timeout", "bytes_up": 2}])
    if proxy.stop() != 0:
        raise Failure("it did not end well")
