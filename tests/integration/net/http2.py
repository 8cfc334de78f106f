"""HTTP/2 on both sides of the proxy. Frames that no library would write are made here."""

import contextlib
import hashlib
import os
import struct
import sys
import threading
import time

import harness
from harness import DEADLINE_S, Failure, Upstream, read_exactly, read_to_end
from world import OK, check_audit, guest, read_head, request, serve_requests, wrap

try:
    import h2.connection
except ImportError:  # a python3 that is not Debian's
    sys.path.append("/usr/lib/python3/dist-packages")
    import h2.connection
import h2.config
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hpack

# RFC 9113, 6
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
KEY, SECRET = harness.PLACEHOLDERS["KEY"], harness.SECRETS["KEY"]


class Setting:
    """A proxy, and upstreams that speak HTTP/2 ("h2"), either ("both"), and HTTP/1.1 ("good")."""

    def __init__(self, world):
        c = world.certificates
        self.h2 = Upstream(c.server_context(c.good, alpn=("h2",)))
        self.both = Upstream(c.server_context(c.good, alpn=("h2", "http/1.1")))
        self.good = world.upstreams["good"]
        self.allow = [f"{host}:{u.port}=127.0.0.1" for host in ("h.test", "k.test")
                      for u in (self.h2, self.both, self.good)]
        self.proxy = world.make("http2", self.allow)
        self.proxy.audit(1)  # LOST has no value

    def keeping(self, world, name):
        """A proxy that keeps upstream connections for others, as it does outside of tests."""
        proxy = world.make(name, self.allow, options=["--timeout=upstream-idle=60000"])
        proxy.audit(1)
        return proxy


def setting(world):
    if not hasattr(world, "http2"):
        world.http2 = Setting(world)
    return world.http2


class Peer:
    """One side of a connection of HTTP/2."""

    def __init__(self, connection, client):
        self.socket = connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=client, header_encoding=None, validate_outbound_headers=False,
            normalize_outbound_headers=False))
        self.h2.initiate_connection()
        self.pending = []
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def next(self):
        """The next event, or None at the end. What came is acknowledged at once."""
        while not self.pending:
            data = self.socket.recv(65536)
            if not data:
                return None
            self.pending += self.h2.receive_data(data)
            self.flush()
        event = self.pending.pop(0)
        if isinstance(event, h2.events.DataReceived):
            if event.flow_controlled_length:
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()
        return event

    def send(self, stream, headers=None, data=b"", end=True):
        if headers is not None:
            self.h2.send_headers(stream, headers, end_stream=end and not data)
        while data and not self.is_over(stream):
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room == 0:
                self.flush()
                self.pending += self.h2.receive_data(self.socket.recv(65536))
                continue
            part, data = data[:room], data[room:]
            self.h2.send_data(stream, part, end_stream=end and not data)
        self.flush()


    def is_over(self, stream):
        """The peer has said that it takes no more of it."""
        return any(isinstance(e, h2.events.StreamReset) and e.stream_id == stream
                   for e in self.pending)


class Client(Peer):
    def __init__(self, connection):
        if connection.selected_alpn_protocol() != "h2":
            raise Failure(f"ALPN: {connection.selected_alpn_protocol()}")
        super().__init__(connection, client=True)

    def ask(self, port, method="GET", path="/", host="h.test", headers=(), body=b"", end=True):
        stream = self.h2.get_next_available_stream_id()
        self.send(stream, [(":method", method), (":scheme", "https"),
                           (":authority", f"{host}:{port}"), (":path", path), *headers], body, end)
        return stream

    def answers(self, *streams):
        """Waits until all of the streams have ended."""
        got = {stream: Answer() for stream in streams}
        while not all(answer.ended for answer in got.values()):
            event = self.next()
            if event is None or isinstance(event, h2.events.ConnectionTerminated):
                raise Failure(f"the connection ended: {event}")
            if getattr(event, "stream_id", None) in got:
                got[event.stream_id].take(event)
        return [got[stream] for stream in streams]

    def get(self, port, **more):
        return self.answers(self.ask(port, **more))[0]


class Answer:
    def __init__(self):
        # A bytearray: large bodies come in thousands of pieces, and bytes are copied whole for each.
        self.status, self.headers, self.body, self.trailers = None, {}, bytearray(), {}
        self.interim, self.ended, self.reset = [], False, None

    def take(self, event):
        if isinstance(event, h2.events.InformationalResponseReceived):
            self.interim.append(dict(event.headers)[b":status"])
        elif isinstance(event, h2.events.ResponseReceived):
            self.headers = dict(event.headers)
            self.status = int(self.headers.pop(b":status"))
        elif isinstance(event, h2.events.DataReceived):
            self.body += event.data
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamReset):
            self.reset, self.ended = event.error_code, True
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body[:200]!r} {self.trailers} reset={self.reset}"


@contextlib.contextmanager
def client(world, port, host="h.test", proxy=None):
    proxy = proxy or setting(world).proxy
    connection, status = proxy.connect(host, port)
    if status != 0:
        raise Failure(f"refused with {status}: {connection!r}")
    with wrap(connection, proxy, host, alpn=("h2", "http/1.1")) as tls:
        yield Client(tls)


def server(handle):
    """A script of an upstream: handle(peer, stream, headers, body) for each request that is whole."""
    def script(connection):
        peer = Peer(connection, client=False)
        heads, bodies = {}, {}
        while (event := peer.next()) is not None:
            if isinstance(event, h2.events.RequestReceived):
                heads[event.stream_id] = event.headers
                bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
            elif isinstance(event, h2.events.StreamEnded):
                stream = event.stream_id
                handle(peer, stream, heads.pop(stream), bodies.pop(stream))
            elif isinstance(event, h2.events.ConnectionTerminated):
                return
    return script


def want(what, got, expected):
    if got != expected:
        raise Failure(f"{what}: {got!r}, not {expected!r}")


def settle(upstream):
    accepted, errors = upstream.settle()
    if errors:
        raise errors[0]
    return accepted


def one_request(answer, seen):
    """A script of HTTP/1.1: a request whole, as far as its head says, then the answer."""
    def script(connection):
        head = read_head(connection)
        seen.append(head)
        if b"chunked" in head:
            while not head.endswith(b"0\r\n\r\n"):
                head += read_exactly(connection, 1)
            seen.append(head[len(seen[0]):])
        connection.sendall(answer)
        read_to_end(connection)
    return script


# --- towards an upstream of HTTP/1.1 ---

def test_h2_takes_a_request_to_an_upstream_of_http11(world):
    s, seen = setting(world), []
    s.good.expect(one_request(b"HTTP/1.1 200 Fine\r\nX-Y: z\r\nContent-Length: 2\r\n"
                              b"Connection: keep-alive\r\n\r\nok", seen))
    with client(world, s.good.port) as c:
        answer = c.get(s.good.port, path="/a?b", headers=[("cookie", "a=1"), ("x", "y"),
                                                          ("cookie", "b=2"), ("te", "trailers")])
    want("answer", (answer.status, answer.headers, answer.body),
         (200, {b"x-y": b"z", b"content-length": b"2"}, b"ok"))
    settle(s.good)
    want("request", seen[0], b"GET /a?b HTTP/1.1\r\nHost: h.test:%d\r\nx: y\r\ncookie: a=1; b=2\r\n"
         b"TE: trailers\r\nConnection: TE\r\n\r\n" % s.good.port)
    check_audit(s.proxy, ({"decision": "allow", "method": "GET", "path": "/a", "status": 200},))


def test_h2_bodies_are_framed_anew_for_http11(world):
    s = setting(world)
    for headers, head, body in (
            ([], b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
            ([("content-length", "5")], b"Content-Length: 5\r\n", b"")):
        seen = []
        s.good.expect(one_request(OK, seen))
        with client(world, s.good.port) as c:
            answer = c.get(s.good.port, method="POST", headers=headers, body=b"hello")
        want("status", answer.status, 200)
        settle(s.good)
        if head not in seen[0] or (body and seen[1] != body):
            raise Failure(f"the upstream got {seen}")
        check_audit(s.proxy, ({"decision": "allow", "bytes_up": 5},))


def test_h2_answers_have_interim_ones_trailers_and_none_of_the_connection(world):
    s, seen = setting(world), []
    s.good.expect(one_request(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 5\r\nAlt-Svc: h3\r\n"
        b"Upgrade: h2c\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\nConnection: x\r\n\r\n", seen))
    with client(world, s.good.port) as c:
        answer = c.get(s.good.port, headers=[("te", "trailers")])
    want("interim", answer.interim, [b"100"])
    want("answer", (answer.status, answer.headers, answer.body, answer.trailers),
         (200, {}, b"ok", {b"grpc-status": b"0"}))
    settle(s.good)
    check_audit(s.proxy, ({"decision": "allow"},))


def test_h2_knows_answers_without_a_body(world):
    s = setting(world)
    for method, text, length in (("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"9"),
                                 ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
                                 ("GET", b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", b"9"),
                                 ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"0")):
        s.good.expect(one_request(text, []))
        with client(world, s.good.port) as c:
            answer = c.get(s.good.port, method=method)
        want(text, (answer.headers.get(b"content-length"), answer.body, answer.reset),
             (length, b"", None))
        settle(s.good)
        check_audit(s.proxy, ({"decision": "allow"},))


# --- secrets and rules ---

def test_h2_headers_carry_secrets_out_and_placeholders_back(world):
    s = setting(world)
    for upstream in (s.good, s.h2):
        seen = []

        def answer_h1(connection, seen=seen):
            one_request(b"HTTP/1.1 200 OK\r\nX: " + SECRET.encode() +
                        b"\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SECRET) +
                        SECRET.encode() + b"\r\n0\r\nT: " + SECRET.encode() + b"\r\n\r\n",
                        seen)(connection)

        def answer_h2(peer, stream, headers, body, seen=seen):
            seen.append(b"\r\n".join(b": ".join(h) for h in headers))
            peer.send(stream, [(":status", "200"), ("x", SECRET)], SECRET.encode(), end=False)
            peer.h2.send_headers(stream, [("t", SECRET)], end_stream=True)
            peer.flush()

        upstream.expect(answer_h1 if upstream is s.good else server(answer_h2))
        with client(world, upstream.port, host="k.test") as c:
            answer = c.get(upstream.port, host="k.test", headers=[
                ("authorization", "Bearer " + KEY), ("te", "trailers")])
        if SECRET.encode() not in seen[0]:
            raise Failure(f"the upstream got {seen}")
        want("answer", (answer.status, answer.headers, answer.body, answer.trailers),
             (200, {b"x": KEY.encode()}, KEY.encode(), {b"t": KEY.encode()}))
        settle(upstream)
        check_audit(s.proxy, ({"decision": "allow", "secrets": ["KEY"], "scrubbed": ["KEY"]},))


def test_h2_requests_are_decided_one_by_one(world):
    s = setting(world)
    s.good.expect(serve_requests)
    with client(world, s.good.port) as c:
        # 44: another authority on the same connection
        other = c.get(s.good.port, host="k.test")
        want("authority", other.status, 421)
        check_audit(s.proxy, ({"decision": "deny", "reason": "identity-mismatch", "status": 421},))
        want("after it", c.get(s.good.port).status, 200)
        check_audit(s.proxy, ({"decision": "allow"},))
        want("TRACE", c.get(s.good.port, method="TRACE").status, 405)
        check_audit(s.proxy, ({"decision": "deny", "reason": "bad-request"},))
    settle(s.good)
    with client(world, 443, host="e.test") as c:
        answer = c.get(443, host="e.test")
        want("a host that no rule names", answer.status, 403)
        if b"--allow" not in answer.body:
            raise Failure(repr(answer))
    check_audit(s.proxy, ({"decision": "deny", "reason": "host-not-allowed"},))


def test_h2_refusals_are_whole_whatever_the_body(world):
    """The answer comes before the body has, and must not be taken back by what comes of it."""
    s = setting(world)
    for size in (0, 1, 300000):
        with client(world, 443, host="e.test") as c:
            answer = c.get(443, host="e.test", method="POST", body=b"x" * size)
        want(f"{size} bytes", (answer.status, answer.reset or 0), (403, 0))
        if b"--allow" not in answer.body:
            raise Failure(repr(answer))
        check_audit(s.proxy, ({"decision": "deny", "reason": "host-not-allowed"},))


def test_h2_placeholders_in_pseudo_headers_stay(world):
    """15: in :path by a rule only, in :authority never."""
    s, seen = setting(world), []
    s.good.expect(one_request(OK, seen))
    with client(world, s.good.port, host="k.test") as c:
        c.get(s.good.port, host="k.test", path="/" + KEY)
        check_audit(s.proxy, ({"reason": "placeholder-not-approved"},))
        want("authority", c.get(s.good.port, host=KEY.lower()).status, 400)
        check_audit(s.proxy, ({"decision": "deny", "reason": "bad-request"},))
    settle(s.good)
    if SECRET.encode() in seen[0] or KEY.encode() not in seen[0]:
        raise Failure(f"the upstream got {seen}")


# --- towards an upstream of HTTP/2 ---

def echo(peer, stream, headers, body):
    h = dict(headers)
    peer.send(stream, [(":status", "200"), ("x-method", h[b":method"]), ("x-path", h[b":path"]),
                       ("x-authority", h[b":authority"]), ("x-te", h.get(b"te", b"none"))], body)


def test_http11_takes_a_request_to_an_upstream_of_h2(world):
    s = setting(world)
    proxy = s.keeping(world, "http2-to-h2")
    s.both.expect(server(echo))
    with guest(world, port=s.both.port, proxy=proxy) as connection:
        for path in (b"/1", b"/2"):
            connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: h.test:%d\r\nUpgrade: h2c\r\n"
                               b"Connection: Upgrade\r\nContent-Length: 5\r\n\r\nhello" % s.both.port)
            want_bytes = (b"HTTP/1.1 200 \r\nx-method: POST\r\nx-path: " + path +
                          b"\r\nx-authority: h.test:%d\r\nx-te: none\r\nTransfer-Encoding: chunked"
                          b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % s.both.port)
            want("answer", read_exactly(connection, len(want_bytes)), want_bytes)
    check_audit(proxy, ({"decision": "allow", "bytes_up": 5, "bytes_down": 5},) * 2)
    want("end", proxy.stop(), 0)
    want("connections", settle(s.both), 1)


def test_h2_streams_share_a_connection_and_end_in_any_order(world):
    s, held, lock = setting(world), [], threading.Lock()

    def answer_backwards(peer, stream, headers, body):
        with lock:
            held.append((stream, dict(headers)[b":path"], body))
            if len(held) < 20:
                return
            for one, path, sent in reversed(held):
                peer.send(one, [(":status", "200")], path + b" " + sent)

    s.h2.expect(server(echo))
    with client(world, s.h2.port) as c:
        want("status", c.get(s.h2.port, method="POST", body=b"x").status, 200)
        s.h2.now.script = None
        before = s.h2.now.accepted
        s.h2.expect(server(answer_backwards))
    with client(world, s.h2.port) as c:
        first = c.ask(s.h2.port, method="POST", path="/0", body=b"body 0")
        while not held:  # the upstream's connection is there
            time.sleep(0.01)
        streams = [first] + [c.ask(s.h2.port, method="POST", path=f"/{i}", body=b"body %d" % i)
                             for i in range(1, 20)]
        for i, answer in enumerate(c.answers(*streams)):
            want("answer", (answer.status, answer.body), (200, b"/%d body %d" % (i, i)))
    want("connections", (before, s.h2.now.accepted), (1, 1))
    check_audit(s.proxy, ({"decision": "allow"},) * 21)


def test_grpc_streams_both_ways_at_once(world):
    """A stream of messages each way, answered one by one, and the status in trailers."""
    s = setting(world)
    message = b"\0\0\0\0\5hello"

    def script(connection):
        peer = Peer(connection, client=False)
        while (event := peer.next()) is not None:
            if isinstance(event, h2.events.RequestReceived):
                if dict(event.headers).get(b"te") != b"trailers":
                    raise Failure(f"no TE: {event.headers}")
                peer.send(event.stream_id, [(":status", "200"),
                                            ("content-type", "application/grpc")], end=False)
            elif isinstance(event, h2.events.DataReceived) and event.data:
                peer.send(event.stream_id, data=event.data, end=False)
            elif isinstance(event, h2.events.StreamEnded):
                peer.h2.send_headers(event.stream_id, [("grpc-status", "0"), ("grpc-message", "")],
                                     end_stream=True)
                peer.flush()

    s.h2.expect(script)
    with client(world, s.h2.port) as c:
        stream = c.ask(s.h2.port, method="POST", path="/pkg.Service/Talk", end=False, headers=[
            ("content-type", "application/grpc"), ("te", "trailers")])
        got = Answer()
        for i in range(5):
            c.send(stream, data=message, end=i == 4)
            while len(got.body) < (i + 1) * len(message):
                got.take(c.next())
        while not got.ended:
            got.take(c.next())
    want("answer", (got.status, got.body, got.trailers),
         (200, message * 5, {b"grpc-status": b"0", b"grpc-message": b""}))
    check_audit(s.proxy, ({"decision": "allow", "path": "/pkg.Service/Talk"},))


def test_h2_carries_large_bodies_both_ways(world):
    s = setting(world)
    body = os.urandom(3 << 20)
    digest = hashlib.sha256(body).hexdigest()

    def answer(peer, stream, headers, got):
        want("body", hashlib.sha256(got).hexdigest(), digest)
        peer.send(stream, [(":status", "200")], got)

    for upstream in (s.h2, s.good):
        upstream.expect(server(answer) if upstream is s.h2 else large_http11(body))
        with client(world, upstream.port) as c:
            got = c.get(upstream.port, method="POST", body=body,
                        headers=[("content-length", str(len(body)))])
        want("answer", (got.status, hashlib.sha256(got.body).hexdigest()), (200, digest))
        settle(upstream)
        check_audit(s.proxy, ({"bytes_up": len(body), "bytes_down": len(body)},))


def large_http11(body):
    def script(connection):
        read_head(connection)
        if read_exactly(connection, len(body)) != body:
            raise Failure("another body came")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        read_to_end(connection)
    return script


def test_h2_holds_little_for_a_guest_that_does_not_read(world):
    s = setting(world)
    sent = [0]

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            while True:
                sent[0] += connection.send(b"x" * 65536)

    s.good.expect(script)
    proxy = world.make("http2-held", s.allow)
    with client(world, s.good.port, proxy=proxy) as c:
        for _ in range(8):
            c.ask(s.good.port)
        s.good.settle()
        held = proxy.status("Private_Dirty")
    if held > 12288 or sent[0] > 64 << 20:
        raise Failure(f"{held} KiB held, {sent[0]} bytes taken")
    want("end", proxy.stop(), 0)


def test_h2_goes_on_for_a_guest_that_reads_late(world):
    s = setting(world)
    body = os.urandom(1 << 20) * 24  # more than the kernel holds
    stuck = threading.Event()

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        at = 0
        connection.settimeout(0.5)
        while at < len(body) and not stuck.is_set():
            try:
                at += connection.send(body[at:at + 65536])
            except TimeoutError:
                stuck.set()
        connection.settimeout(DEADLINE_S)
        connection.sendall(body[at:])
        read_to_end(connection)

    s.good.expect(script)
    with client(world, s.good.port) as c:
        # So that it is the connection that holds it up, and not a window.
        c.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 32 << 20})
        c.h2.increment_flow_control_window(32 << 20)
        stream = c.ask(s.good.port)
        if not stuck.wait(DEADLINE_S):
            raise Failure("it was never held up")
        got = c.answers(stream)[0]
    want("answer", (got.status, got.body == body), (200, True))
    settle(s.good)
    s.proxy.audit_skip()


# --- upstreams that misbehave ---

def test_h2_upstreams_that_break_are_told_of(world):
    s = setting(world)

    def reset(peer, stream, headers, body):
        peer.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        peer.flush()

    def cut(peer, stream, headers, body):
        peer.send(stream, [(":status", "200")], b"part", end=False)
        peer.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        peer.flush()

    def garbage(peer, stream, headers, body):
        peer.socket.sendall(b"\xff" * 64)

    for handle, status, body in ((reset, 502, None), (garbage, 502, None), (cut, 200, b"part")):
        s.h2.expect(server(handle))
        with client(world, s.h2.port) as c:
            answer = c.get(s.h2.port)
        want(handle.__name__, answer.status, status)
        if body is None:
            if b"h.test" not in answer.body:
                raise Failure(repr(answer))
        elif answer.reset is None:
            raise Failure(f"a cut answer looks whole: {answer}")
        check_audit(s.proxy, ({"decision": "error", "reason": "upstream-response"},))


def test_h2_requests_that_were_not_taken_are_sent_again(world):
    s = setting(world)
    count = [0]

    def go_away(peer, stream, headers, body):
        count[0] += 1
        if count[0] == 2:  # refused, on a connection that has served another
            peer.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            peer.h2.close_connection(last_stream_id=1)
            peer.flush()
        else:
            peer.send(stream, [(":status", "200")], b"ok")

    s.h2.expect(server(go_away))
    proxy = s.keeping(world, "http2-again")
    with client(world, s.h2.port, proxy=proxy) as c:
        want("first", c.get(s.h2.port).status, 200)
        want("second", c.get(s.h2.port).status, 200)
    want("requests", (count[0], s.h2.now.accepted), (3, 2))
    check_audit(proxy, ({"decision": "allow"},) * 2)
    want("end", proxy.stop(), 0)


# --- guests that misbehave ---

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def block(*fields):
    return hpack.Encoder().encode([(n, v) for n, v in fields], huffman=False)


def raw_request(*fields, drop=(), replace=(), flags=END_STREAM | END_HEADERS, stream=1, port=0):
    replaced = dict(replace)
    base = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h.test:%d" % port),
            (b":path", b"/")]
    base = [(n, replaced.get(n, v)) for n, v in base if n not in drop]
    return frame(HEADERS, flags, stream, block(*base, *fields))


def big(port, count):
    """A head of count fields of 16 KiB, in CONTINUATION frames."""
    fields = block((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h.test:%d" % port),
                   (b":path", b"/"), *((b"x-%d" % i, b"y" * 16000) for i in range(count)))
    parts = [fields[i:i + 16000] for i in range(0, len(fields), 16000)]
    return (frame(HEADERS, END_STREAM, 1, parts[0]) +
            b"".join(frame(CONTINUATION, 0, 1, p) for p in parts[1:-1]) +
            frame(CONTINUATION, END_HEADERS, 1, parts[-1]))


def attacks(port):
    """68, 69: name, what is sent after the preface and SETTINGS."""
    r = raw_request
    bomb = hpack.Encoder()
    first = bomb.encode([(b"x", b"z" * 4000)], huffman=False)
    again = bomb.encode([(b"x", b"z" * 4000)], huffman=False)
    post = ((b":method", b"POST"),)
    return (
        ("an upper-case name", r((b"X-Upper", b"y"), port=port)),
        ("a connection field", r((b"connection", b"keep-alive"), port=port)),
        ("transfer-encoding", r((b"transfer-encoding", b"chunked"), port=port)),
        ("te other than trailers", r((b"te", b"gzip"), port=port)),
        ("a line break in a value", r((b"x", b"y\r\nz: a"), port=port)),
        ("a NUL in a value", r((b"x", b"y\0"), port=port)),
        ("a line break in a name", r((b"x\r\ny", b"z"), port=port)),
        ("a space in a name", r((b"x y", b"z"), port=port)),
        ("a colon in a name", r((b"x:y", b"z"), port=port)),
        ("a path with a space", r(replace={b":path": b"/a HTTP/1.1\r\nX: y"}, port=port)),
        ("an empty path", r(replace={b":path": b""}, port=port)),
        ("a path that is a URL", r(replace={b":path": b"https://e.test/"}, port=port)),
        ("no path", r(drop=(b":path",), port=port)),
        ("no method", r(drop=(b":method",), port=port)),
        ("no scheme", r(drop=(b":scheme",), port=port)),
        ("another scheme", r(replace={b":scheme": b"http"}, port=port)),
        ("no authority", r(drop=(b":authority",), port=port)),
        ("an authority with a user", r(replace={b":authority": b"a@h.test"}, port=port)),
        ("two paths", r((b":path", b"/2"), port=port)),
        ("an unknown pseudo field", r((b":x", b"y"), port=port)),
        ("a host that differs", r((b"host", b"e.test"), port=port)),
        ("extended CONNECT", r((b":protocol", b"websocket"), replace={b":method": b"CONNECT"},
                               port=port)),
        ("CONNECT", r(drop=(b":path", b":scheme"), replace={b":method": b"CONNECT"}, port=port)),
        ("a body shorter than its length",
         r((b"content-length", b"5"), replace=post, flags=END_HEADERS, port=port) +
         frame(DATA, END_STREAM, 1, b"abc")),
        ("a body longer than its length",
         r((b"content-length", b"2"), replace=post, flags=END_HEADERS, port=port) +
         frame(DATA, END_STREAM, 1, b"abc")),
        ("two lengths", r((b"content-length", b"2"), (b"content-length", b"2"), replace=post,
                          flags=END_HEADERS, port=port) + frame(DATA, END_STREAM, 1, b"ab")),
        ("a signed length", r((b"content-length", b"+2"), replace=post, flags=END_HEADERS,
                              port=port) + frame(DATA, END_STREAM, 1, b"ab")),
        ("DATA on an idle stream", frame(DATA, END_STREAM, 1, b"abc")),
        ("an even stream", r(stream=2, port=port)),
        ("stream 0", r(stream=0, port=port)),
        ("PUSH_PROMISE", frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + block((b"a", b"b")))),
        ("CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, b"")),
        ("a frame inside of a block", r(flags=0, port=port) + frame(PING, 0, 0, b"12345678")),
        ("a frame that is too long", frame(DATA, 0, 1, b"x" * 20000)),
        ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0")),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2),
        ("a bad block", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff\xff\xff\xff\xff")),
        ("a head of a megabyte", big(port, 64)),
        ("a thousand CONTINUATIONs",
         frame(HEADERS, END_STREAM, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 1000),
        ("an HPACK bomb", frame(HEADERS, END_STREAM | END_HEADERS, 1, first + again * 4000)),
        ("SETTINGS of odd size", frame(SETTINGS, 0, 0, b"abc")),
        ("a flood of SETTINGS", frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 16) * 40)),
        ("garbage", b"\x16\x03\x01" * 100),
    )


def is_refusal(one):
    return one[0] in (RST_STREAM, GOAWAY)


def send_raw(world, port, data, until):
    """Sends bytes after an orderly start; returns the frames that came back, to the first of which
    until is true of all so far."""
    proxy = setting(world).proxy
    connection, _ = proxy.connect("h.test", port)
    with wrap(connection, proxy, "h.test", alpn=("h2",)) as tls:
        with contextlib.suppress(OSError):
            tls.sendall(PREFACE + frame(SETTINGS, 0, 0) + data)
        got = b""
        while not until(list(frames(got))):
            try:
                more = tls.recv(65536)
            except ConnectionError:
                break
            if not more:
                break
            got += more
        return list(frames(got))


def frames(data):
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        yield data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + size]
        data = data[9 + size:]


def test_h2_attacks_are_refused(world):
    """68, 69: none reaches an upstream, each is in the audit once, and the next guest is served."""
    s = setting(world)
    for name, data in attacks(s.good.port):
        s.good.expect(None)
        got = send_raw(world, s.good.port, data,
                       lambda got: any(is_refusal(f) or f[0] == HEADERS for f in got))
        refused = [f for f in got if is_refusal(f)]
        heads = [hpack.Decoder().decode(f[3]) for f in got if f[0] == HEADERS]
        statuses = [dict(h)[":status"] for h in heads]
        if not refused and not any(int(x) >= 400 for x in statuses):
            raise Failure(f"{name}: {got}")
        if "200" in statuses:
            raise Failure(f"{name}: was answered: {got}")
        want(f"{name}: connections", s.good.settle()[0], 0)
        lines = s.proxy.audit(1)
        if len(lines) != 1 or lines[0]["decision"] != "deny":
            raise Failure(f"{name}: audit {lines}")
        if s.proxy.audit_rest():
            raise Failure(f"{name}: more audit: {s.proxy.audit_rest()!r}")
    s.good.expect(serve_requests)
    with client(world, s.good.port) as c:
        want("after all", c.get(s.good.port).status, 200)
    check_audit(s.proxy, ({"decision": "allow"},))


def test_h2_floods_end_the_connection(world):
    s = setting(world)
    s.good.expect(serve_requests)
    resets = b"".join(raw_request(stream=i, port=s.good.port) +
                      frame(RST_STREAM, 0, i, struct.pack(">I", 8)) for i in range(1, 4001, 2))
    got = send_raw(world, s.good.port, resets, lambda got: any(f[0] == GOAWAY for f in got))
    if not any(f[0] == GOAWAY for f in got):
        raise Failure("no GOAWAY for rapid resets")
    s.good.settle()
    s.proxy.audit_skip()
    # Nobody reads the answers.
    connection, _ = s.proxy.connect("h.test", s.good.port)
    with wrap(connection, s.proxy, "h.test", alpn=("h2",)) as tls:
        tls.settimeout(1)
        sent = 0
        with contextlib.suppress(OSError):
            tls.sendall(PREFACE + frame(SETTINGS, 0, 0))
            while sent < 64 << 20:
                sent += tls.send(frame(PING, 0, 0, b"12345678") * 1000)
        if sent >= 64 << 20:
            raise Failure("PINGs are taken without end")
    with client(world, s.good.port) as c:
        want("after all", c.get(s.good.port).status, 200)
    s.good.settle()
    s.proxy.audit_skip()


def test_h2_refuses_more_streams_than_it_offers(world):
    s = setting(world)
    go_on = threading.Event()

    def script(connection):
        go_on.wait(DEADLINE_S)
        serve_requests(connection)

    s.good.expect(script)
    count = 130
    data = b"".join(raw_request(stream=2 * i + 1, port=s.good.port) for i in range(count))
    refused = struct.pack(">I", 7)  # REFUSED_STREAM
    got = send_raw(world, s.good.port, data + frame(PING, 0, 0, b"the end!"),
                   lambda got: any(f[0] == PING for f in got))
    want("refused", sum(f[0] == RST_STREAM and f[3] == refused for f in got), 30)
    go_on.set()
    s.good.settle()
    s.proxy.audit_skip()


def test_h2_connections_and_streams_count(world):
    s = setting(world)
    proxy = world.make("http2-few", s.allow, options=["--connections=5"])
    proxy.audit(1)  # LOST
    s.good.expect(serve_requests)
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(client(world, s.good.port, proxy=proxy)) for _ in range(3)]
        for c in clients:
            want("alone", c.get(s.good.port).status, 200)
        others = [held.enter_context(contextlib.closing(proxy.connect("h.test", s.good.port)[0]))
                  for _ in range(2)]
        refused = clients[0].get(s.good.port)
        want("a stream too many", refused.reset, h2.errors.ErrorCodes.REFUSED_STREAM)
        want("a connection too many", proxy.connect("h.test", s.good.port)[1], -11)
        others[0].close()
        deadline = time.monotonic() + DEADLINE_S
        while clients[1].get(s.good.port).status != 200:
            if time.monotonic() > deadline:
                raise Failure("a place did not become free")
    want("end", proxy.stop(), 0)


# --- lifetimes ---

def test_upstream_connections_are_kept_for_others(world):
    s = setting(world)
    proxy = s.keeping(world, "http2-kept")
    s.good.expect(serve_requests)
    s.h2.expect(server(echo))
    for i in range(3):
        with guest(world, port=s.good.port, proxy=proxy) as connection:
            connection.sendall(request(port=s.good.port))
            want("answer", read_exactly(connection, len(OK)), OK)
        with client(world, s.good.port, proxy=proxy) as c:
            want("over h2", c.get(s.good.port).status, 200)
        with client(world, s.h2.port, proxy=proxy) as c:
            want("to h2", c.get(s.h2.port).status, 200)
    want("connections", (s.good.now.accepted, s.h2.now.accepted), (1, 1))
    # Neither for another host nor for plain HTTP, whatever the port.
    with guest(world, host="k.test", port=s.good.port, proxy=proxy) as connection:
        connection.sendall(request(port=s.good.port, host=b"k.test"))
        want("answer", read_exactly(connection, 15), b"HTTP/1.1 200 OK")
    want("connections", s.good.now.accepted, 2)
    want("end", proxy.stop(), 0)
    settle(s.good)
    settle(s.h2)


def test_kept_connections_go_in_their_time(world):
    s = setting(world)
    proxy = world.make("http2-short", s.allow, options=["--timeout=upstream-idle=300"])
    s.good.expect(serve_requests)
    s.h2.expect(server(echo))
    with guest(world, port=s.good.port, proxy=proxy) as connection:
        connection.sendall(request(port=s.good.port))
        want("answer", read_exactly(connection, len(OK)), OK)
    with client(world, s.h2.port, proxy=proxy) as c:
        want("to h2", c.get(s.h2.port).status, 200)
        settle(s.good)
        settle(s.h2)
    want("end", proxy.stop(), 0)
    # A guest's, which may be slow: the proxy waits for it to read the end.
    proxy = world.make("http2-idle", s.allow, options=["--timeout=idle=300", "--timeout=linger=60000"])
    with client(world, s.h2.port, proxy=proxy) as c:
        while not isinstance(event := c.next(), h2.events.ConnectionTerminated):
            if event is None:
                raise Failure("no GOAWAY")
        want("its code", event.error_code, 0)
    want("end", proxy.stop(), 0)


def test_h2_streams_end_when_the_proxy_is_replaced(world):
    s = setting(world)
    proxy = world.make("http2-drained", s.allow)
    asked, go_on = threading.Event(), threading.Event()

    def slow(peer, stream, headers, body):
        asked.set()
        go_on.wait(DEADLINE_S)
        peer.send(stream, [(":status", "200")], b"late")

    s.h2.expect(server(slow))
    with client(world, s.h2.port, proxy=proxy) as c:
        stream = c.ask(s.h2.port)
        asked.wait(DEADLINE_S)
        proxy.supervisor.close()
        while not isinstance(event := c.next(), h2.events.ConnectionTerminated):
            if event is None:
                raise Failure("no GOAWAY")
        go_on.set()
        got = list(frames(read_to_end(c.socket))) # the library takes no more after GOAWAY
        want("answer", [f[3] for f in got if f[0] == DATA and f[2] == stream], [b"late"])
    want("end", proxy.process.wait(DEADLINE_S), 0)
    settle(s.h2)
