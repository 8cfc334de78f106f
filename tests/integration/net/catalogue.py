"""What the catalogue of attacks (docs/catalogue.md) asks for and no other file here has: secrets and
placeholders in odd places, what answers and errors could tell, floods, and the proxy itself as the
target. The numbers of the cases stand in the tests."""

import contextlib
import ctypes
import functools
import gzip
import os
import re
import resource
import shlex
import signal
import ssl
import struct
import subprocess
import threading
import time

import bodies
import harness
import http2
import rows
from harness import DEADLINE_S, Failure, Upstream, read_exactly, read_to_end
from links import Full, connecting_to, wait_until
from world import (MUTE, OK, PUBLIC, SILENT, Internet, check_audit, check_guest, client_hello, guest,
                   read_head, read_response, request, serve_requests, wrap)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../..")
P, Q = (harness.PLACEHOLDERS[name].encode() for name in ("KEY", "RULED"))
S, W = (harness.SECRETS[name].encode() for name in ("KEY", "RULED"))


@functools.cache
def limit(name):
    """A number of common/limits.h."""
    with open(os.path.join(ROOT, "common/limits.h"), encoding="utf-8") as f:
        found = re.search(rf"^#define {name}\s+(?:\\\s+)?(\([^)]*\)|\d+)", f.read(), re.MULTILINE)
    first, *rest = re.findall(r"(<<|\*)?\s*(\d+)", found.group(1))
    value = int(first[1])
    for operator, number in rest:
        value = value << int(number) if operator == "<<" else value * int(number)
    return value


# --- where a placeholder may stand ---

@contextlib.contextmanager
def raw_h2(world, host, port, proxy=None):
    """A guest's connection of HTTP/2 on which frames are written by hand."""
    proxy = proxy or world.proxy
    connection, status = proxy.connect(host, port)
    if status != 0:
        raise Failure(f"refused with {status}")
    with wrap(connection, proxy, host, alpn=("h2",)) as tls:
        tls.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0))
        yield tls


def read_frames(connection, until):
    """Frames up to the first of which until is true."""
    while True:
        head = read_exactly(connection, 9)
        if len(head) < 9:
            raise Failure("the connection ended")
        one = (head[3], head[4], int.from_bytes(head[5:9], "big"),
               read_exactly(connection, int.from_bytes(head[:3], "big")))
        if until(one):
            return one


def answer_head(connection, stream):
    """The fields of the answer on a stream."""
    one = read_frames(connection, lambda f: f[2] == stream and f[0] in (
        http2.HEADERS, http2.RST_STREAM) or f[0] == http2.GOAWAY)
    if one[0] != http2.HEADERS:
        raise Failure(f"refused: {one}")
    return dict(http2.hpack.Decoder().decode(one[3]))


def keep_requests(got):
    """A script that notes what came, and answers each request."""
    def script(connection):
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                got.append(data)
                connection.sendall(OK * data.count(b"\r\n\r\n"))
    return script


def test_h2_padding_is_nobodys(world):
    """14: a placeholder in the padding of a frame."""
    upstream, got = world.upstreams["good"], []
    upstream.expect(keep_requests(got))
    block = http2.block((b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/"),
                        (b":authority", b"k.test:%d" % upstream.port), (b"content-length", b"2"))
    padded = 0x08
    with raw_h2(world, "k.test", upstream.port) as tls:
        tls.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS | padded, 1,
                                bytes([len(P)]) + block + P) +
                    http2.frame(http2.DATA, http2.END_STREAM | padded, 1, bytes([len(P)]) + b"hi" + P))
        if answer_head(tls, 1)[":status"] != "200":
            raise Failure("not answered")
    upstream.settle()
    if S in b"".join(got) or P in b"".join(got) or not b"".join(got).endswith(b"\r\n\r\nhi"):
        raise Failure(f"the upstream got {got}")
    check_audit(world.proxy, [rows.ALLOWED])


def test_h2_fields_that_are_never_indexed(world):
    """15: how HPACK writes a field makes no difference to what may stand in it."""
    upstream, got = world.upstreams["good"], []
    upstream.expect(keep_requests(got))
    never = http2.hpack.NeverIndexedHeaderTuple
    block = http2.hpack.Encoder().encode([
        (b":method", b"GET"), (b":scheme", b"https"), never(b":path", b"/" + Q),
        never(b":authority", b"path.rule.test:%d" % upstream.port), never(b"a", Q)])
    with raw_h2(world, "path.rule.test", upstream.port) as tls:
        tls.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, block))
        if answer_head(tls, 1)[":status"] != "200":
            raise Failure("not answered")
    upstream.settle()
    if not b"".join(got).startswith(b"GET /ruled%2Fsecret%201 HTTP/1.1\r\n") or \
            b"\r\na: " + Q not in b"".join(got):
        raise Failure(f"the upstream got {got}")
    check_audit(world.proxy, [rows.BOTH_WAYS])


def test_h2_cookies_in_pieces(world):
    """6: HTTP/2 clients send each cookie as a field of its own."""
    upstream, got = world.upstreams["good"], []
    upstream.expect(keep_requests(got))
    connection, _ = world.proxy.connect("k.test", upstream.port)
    with wrap(connection, world.proxy, "k.test", alpn=("h2",)) as tls:
        client = http2.Client(tls)
        client.get(upstream.port, host="k.test",
                   headers=[("cookie", "a=b"), ("cookie", "k=" + P.decode()), ("cookie", "c=d")])
    upstream.settle()
    if b"\r\ncookie: a=b; k=" + S + b"; c=d\r\n" not in b"".join(got):
        raise Failure(f"the upstream got {got}")
    check_audit(world.proxy, [rows.USED])


def test_h2_bodies_with_secrets(world):
    """9, 10: a placeholder over DATA frames, and the length that follows."""
    s = http2.setting(world)
    policy = bodies.POLICY.format(good=s.h2.port, http=world.port("good"))
    proxy = world.make("h2-bodies", policy=policy)
    proxy.audit(1)  # LOST has no value
    got = []

    def answer(peer, stream, headers, body):
        got.append((dict(headers).get(b"content-length"), body))
        peer.send(stream, [(":status", "200")], b"ok")

    def script(connection):
        head, body = bodies.read_request(connection)
        got.append((re.search(rb"Content-Length: (\d+)", head)[1], body))
        connection.sendall(OK)
        read_to_end(connection)

    s.h2.expect(http2.server(answer))
    world.upstreams["good"].expect(script)
    for port in (s.h2.port, world.port("good")):
        connection, _ = proxy.connect("all.rule.test", port)
        with wrap(connection, proxy, "all.rule.test", alpn=("h2",)) as tls:
            client = http2.Client(tls)
            length = [("content-length", str(len(Q) + 2))]
            stream = client.ask(port, "POST", host="all.rule.test", end=False,
                                headers=[("content-type", "text/plain"), *length])
            for piece in (b"<" + Q[:1], Q[1:50], Q[50:], b">"):
                client.send(stream, data=piece, end=piece == b">")
            if client.answers(stream)[0].status != 200:
                raise Failure("not answered")
    if got != [(b"%d" % (len(W) + 2), b"<" + W + b">")] * 2:
        raise Failure(f"{got}")
    check_audit(proxy, [rows.RULED] * 2)
    proxy.check_end()


# --- getting a secret back ---

def test_scrubs_over_frames_and_records(world):
    """26: the secret comes a byte a DATA frame, and a byte a TLS record."""
    s = http2.setting(world)

    def frames(peer, stream, headers, body):
        peer.send(stream, [(":status", "200")], end=False)
        for at in range(len(S)):
            peer.send(stream, data=S[at:at + 1], end=False)
        peer.send(stream, data=b"!")

    def records(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(S) + 1))
        for at in range(len(S)):
            connection.sendall(S[at:at + 1])
        connection.sendall(b"!")
        read_to_end(connection)

    for upstream, script in ((s.h2, http2.server(frames)), (s.good, records)):
        upstream.expect(script)
        with http2.client(world, upstream.port, host="k.test") as client:
            answer = client.get(upstream.port, host="k.test")
        if answer.body != P + b"!":
            raise Failure(f"{answer}")
        check_audit(s.proxy, [rows.SCRUBBED])


def test_scrubs_grpc(world):
    """36: in messages of gRPC what takes a secret's place is of its size, since sizes are in there."""
    s = http2.setting(world)
    message = b"\0" + struct.pack(">I", len(S)) + S

    def answer(peer, stream, headers, body):
        peer.send(stream, [(":status", "200"), ("content-type", "application/grpc")], message, end=False)
        peer.h2.send_headers(stream, [("grpc-status", "0"), ("grpc-message", S.decode())],
                             end_stream=True)
        peer.flush()

    s.h2.expect(http2.server(answer))
    with http2.client(world, s.h2.port, host="k.test") as client:
        got = client.get(s.h2.port, method="POST", host="k.test",
                         headers=[("content-type", "application/grpc"), ("te", "trailers")])
    if got.body != message.replace(S, P[:len(S)]) or got.trailers[b"grpc-message"] != P:
        raise Failure(f"{got}")
    check_audit(s.proxy, [rows.SCRUBBED])


def test_h2_pushes_and_alternatives_go_nowhere(world):
    """29, 58: neither what an upstream pushes nor where else it says to be gets to the guest."""
    s = http2.setting(world)
    alternative = b"\0\0h3=\"e.test:443\"; " + S
    push = struct.pack(">I", 2) + http2.block((b":method", b"GET"), (b":scheme", b"https"),
                                              (b":authority", b"k.test"), (b":path", b"/" + S))
    for kind, flags, payload, status in ((0x0a, 0, alternative, 200),
                                         (http2.PUSH, http2.END_HEADERS, push, 502)):
        def answer(peer, stream, headers, body, kind=kind, flags=flags, payload=payload):
            peer.socket.sendall(http2.frame(kind, flags, stream, payload))
            with contextlib.suppress(OSError):
                peer.send(stream, [(":status", "200"), ("alt-svc", "h3=\":443\"")], b"ok")

        s.h2.expect(http2.server(answer))
        block = http2.block((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"),
                            (b":authority", b"k.test:%d" % s.h2.port))
        seen = []
        with raw_h2(world, "k.test", s.h2.port, s.proxy) as tls:
            tls.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, block))
            read_frames(tls, lambda f: seen.append(f) or f[0] in (http2.DATA, http2.HEADERS) and
                        f[1] & http2.END_STREAM)
        heads = [dict(http2.hpack.Decoder().decode(f[3])) for f in seen if f[0] == http2.HEADERS]
        if [head[":status"] for head in heads] != [str(status)] or "alt-svc" in heads[0] or \
                {f[0] for f in seen} - {http2.SETTINGS, http2.WINDOW_UPDATE, http2.HEADERS, http2.DATA}:
            raise Failure(f"{seen}")
        if any(S in f[3] for f in seen):
            raise Failure("the guest got the secret")
        check_audit(s.proxy, [{"status": status}])


def test_errors_hold_nothing_of_a_request(world):
    """30: whatever goes wrong, the proxy's own answer has no path, query, field or body in it."""
    good = world.upstreams["good"]
    target = b"/needle-%s?needle=%s" % (Q, Q)
    extra = b"X-Needle: needle-%s-%s\r\n" % (P, Q)

    def bad(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 needle-%s\r\nneedle-%s\r\n\r\n" % (S, W))

    for host, port, script, line, status in (
            ("path.rule.test", "good", bad, b"GET", 502), ("k.test", "good", bad, b"GET", 502),
            ("k.test", "wrong", None, b"GET", 502), ("h.test", "dead", None, b"GET", 502),
            ("nobody.test", 443, None, b"GET", 403), ("host.rule.test", "good", None, b"PUT", 403),
            ("k.test", "good", None, b"TRACE", 405), ("k.test", "good", None, b"GET needle", 400),
            ("k.test", "good", None, b"{needle}", 400)):
        good.expect(None if port != "good" else script)
        if port == "wrong":
            world.upstreams["wrong"].expect(None)
        with guest(world, host=host, port=port) as connection:
            at = world.port(port)
            connection.sendall(line + b" " + target + b" HTTP/1.1\r\nHost: %s\r\n" % (
                host.encode() if at == 443 else b"%s:%d" % (host.encode(), at)) + extra + b"\r\n")
            got, head, body = read_response(connection)
        if got != status:
            raise Failure(f"{host}:{port} {line}: {got} {body!r}")
        for text in (b"needle", P, Q, S, W, b"BELLGLASS_SECRET"):
            if text in head + body:
                raise Failure(f"{host}:{port} {line}: {text!r} is in {body!r}")
    world.upstreams["wrong"].settle()
    world.proxy.audit_skip()


def test_a_redirect_takes_no_secret_along(world):
    """33: a client that follows a redirect with its fields sends what it has, which is a placeholder."""
    upstream, got = world.upstreams["good"], []

    def script(connection):
        got.append(read_head(connection))
        connection.sendall(OK if b"e.test" in got[-1] else
                           b"HTTP/1.1 307 T\r\nLocation: https://e.test:%d/?k=%s\r\n"
                           b"Content-Length: 0\r\n\r\n" % (upstream.port, S))
        read_to_end(connection)

    upstream.expect(script)
    extra = b"Authorization: Bearer %s\r\n" % P
    with guest(world, host="k.test") as connection:
        connection.sendall(request(b"/", extra, upstream.port, b"k.test"))
        status, head, _ = read_response(connection)
    where = re.search(rb"Location: https://e.test:\d+(\S+)", head)
    if status != 307 or where[1] != b"/?k=" + P:
        raise Failure(f"{head!r}")
    with guest(world, host="e.test") as connection:
        connection.sendall(request(where[1], extra, upstream.port, b"e.test"))
        check_guest(connection, rows.SCRUBBED_OK, [])
    if S not in got[0] or S in got[1] or got[1].count(P) != 2:
        raise Failure(f"{got}")
    check_audit(world.proxy, [dict(rows.USED, status=307, scrubbed=["KEY"]), rows.NOT_APPROVED])


def test_answers_do_not_tell_how_long_a_secret_is(world):
    """35: the same answer with another secret in it is the same to the guest, byte for byte, and is not
    compressed on its way."""
    upstream, answers = world.upstreams["good"], set()
    proxy = world.make("sizes")
    for value in (b"0123456789abcdef", b"x" * 300):
        proxy.store("KEY", value.decode())
        proxy.stop()
        proxy.start()

        def script(connection, value=value):
            head = read_head(connection)
            if value not in head:
                raise Failure(f"{head!r}")
            body = b"you sent <" + value + b">" * 100
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: " + value + b"\r\nContent-Length: %d\r\n\r\n"
                               % len(body) + body)
            read_to_end(connection)

        upstream.expect(script)
        with guest(world, host="k.test", proxy=proxy) as connection:
            connection.sendall(request(b"/", b"Accept-Encoding: gzip\r\nA: %s\r\n" % P, upstream.port,
                                       b"k.test"))
            got = b""
            while not got.endswith(b"0\r\n\r\n"):
                got += read_exactly(connection, 1)
        answers.add(got)
        if upstream.settle()[1]:
            raise upstream.settle()[1][0]
    if len(answers) != 1 or b"X: " + P not in got or b"Content-Encoding" in got or b"<" + P not in got:
        raise Failure(f"{answers}")
    proxy.check_end()


def test_refuses_bombs_in_bombs(world):
    """72: two codings on top of each other, each of which unfolds a lot."""
    upstream = world.upstreams["good"]
    bomb = gzip.compress(gzip.compress(bytes(512 << 20), 9), 9)
    size = 0

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(bomb))
        connection.sendall(bomb)
        read_to_end(connection)

    upstream.expect(script)
    with guest(world, host="k.test") as connection:
        connection.sendall(request(port=upstream.port, host=b"k.test"))
        check_guest(connection, rows.SCRUBBED_HEAD, [])
        while data := connection.recv(65536):
            size += len(data)
    most = limit("BG_EGRESS_UNFOLD_FREE")
    if not most // 2 < size < 2 * most:
        raise Failure(f"{size} bytes came of {len(bomb)}")
    check_audit(world.proxy, [dict(rows.BAD_UPSTREAM)])


# --- who it is really for ---

def hello_with(hello, kind, data):
    """A ClientHello, in one record, with another extension at its end."""
    message = hello[9:]
    at = 2 + 32
    at += 1 + message[at]  # session id
    at += 2 + int.from_bytes(message[at:at + 2], "big")  # ciphers
    at += 1 + message[at]  # compression
    extensions = message[at + 2:] + struct.pack(">HH", kind, len(data)) + data
    message = message[:at] + struct.pack(">H", len(extensions)) + extensions
    return (b"\x16\x03\x01" + struct.pack(">H", len(message) + 4) + b"\x01" +
            struct.pack(">I", len(message))[1:] + message)


def test_hidden_server_names_go_nowhere(world):
    """43: with ECH the name outside decides, and it ends at the proxy: where TLS passes unopened, and
    would take it along, it is refused."""
    upstream = world.upstreams["good"]
    upstream.expect(None)
    for kind in (0xfe0d, 0xffce):
        for host, answer in (("h.test", b"\x16"), ("pass.rule.test", b"\x15")):
            connection, _ = world.proxy.connect(host, upstream.port)
            with connection:
                connection.sendall(hello_with(client_hello(world.proxy, host), kind, b"\0" * 200))
                got = read_exactly(connection, 7)
            if got[:1] != answer or (answer == b"\x15" and got[6] != 112):
                raise Failure(f"{kind:x} {host}: {got!r}")
            check_audit(world.proxy, [{"decision": "error"} if answer == b"\x16" else
                                      {"decision": "deny", "reason": "identity-mismatch", "status": 421}])
    if upstream.settle()[0]:
        raise Failure("an upstream was reached")


def test_says_that_a_client_certificate_is_wanted(world):
    """59: a server that wants one is reached by a passthrough rule, by a guest that has one."""
    c = world.certificates
    mine = c.make("client", c.ca, "DNS:client.test", usage="clientAuth")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = c.server_context(c.good)
        context.minimum_version = context.maximum_version = version
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(c.path("ca.pem"))
        upstream = Upstream(context)
        policy = (f"network:\n  rules:\n    - allow: pass.rule.test:{upstream.port}\n"
                  "      protocol: passthrough\n      addresses: 127.0.0.1\n")
        proxy = world.make(f"wanted-{version.name}", allow=[f"h.test:{upstream.port}=127.0.0.1"],
                           secrets={}, policy=policy)
        upstream.expect(serve_requests)
        with guest(world, port=upstream.port, proxy=proxy) as connection:
            connection.sendall(request(port=upstream.port))
            status, _, body = read_response(connection)
        if status != 502 or b"client certificate, which only a rule with 'protocol: passth" not in body:
            raise Failure(f"{version.name}: {status} {body!r}")
        check_audit(proxy, [{"decision": "error", "status": 502}])
        upstream.expect(serve_requests)
        connection, _ = proxy.connect("pass.rule.test", upstream.port)
        ours = ssl.create_default_context(cafile=c.path("ca.pem"))
        ours.verify_flags &= ~ssl.VERIFY_X509_STRICT
        ours.load_cert_chain(c.path(mine + ".pem"), c.path(mine + ".key"))
        with ours.wrap_socket(connection, server_hostname="pass.rule.test") as tls:
            tls.sendall(request(port=upstream.port, host=b"pass.rule.test"))
            check_guest(tls, OK, [])
        proxy.check_end()


# --- floods ---

def test_bounds_a_flood_of_names(world):
    """71: 10,000 server names. Certificates are made for so many at once and a second; hosts that are
    allowed, known or new, do not notice."""
    upstream, count = world.upstreams["good"], 10000
    upstream.expect(serve_requests)
    proxy = world.make("minting", secrets={})
    hello = client_hello(proxy, "n00000.nobody.test")

    def is_served(host):
        with guest(world, host=host, proxy=proxy) as connection:
            connection.sendall(request(port=upstream.port, host=host.encode()))
            check_guest(connection, OK, [])
            return connection.getpeercert()["serialNumber"]

    began, answers = time.monotonic(), {}
    known = is_served("h.test")
    for number in range(count):
        name = b"n%05d.nobody.test" % number
        connection, status = proxy.connect(name, 443)
        if status != 0:
            raise Failure(f"{name}: {status}")
        with connection:
            connection.sendall(hello.replace(b"n00000.nobody.test", name))
            first = connection.recv(7)
        answers[first[0]] = answers.get(first[0], 0) + 1
    took_s = time.monotonic() - began
    at_once = limit("BG_EGRESS_MINT_BURST") - limit("BG_EGRESS_MINT_ALLOWED")
    if set(answers) != {0x15, 0x16} or not \
            at_once - 1 <= answers[0x16] <= at_once + limit("BG_EGRESS_MINT_RATE") * took_s + 1:
        raise Failure(f"{answers} in {took_s:.1f} s")
    if is_served("h.test") != known:
        raise Failure("its certificate was made anew")
    is_served("new.w.test")
    refused = [line for line in proxy.audit(count) if line["reason"] == "names-too-many"]
    if len(refused) < answers[0x15] - 2 or refused[0]["decision"] != "deny":
        raise Failure(f"{len(refused)} lines")
    proxy.audit_skip()
    proxy.check_end()


def test_bounds_a_flood_of_connections(world):
    """71: 10,000 connections. As many as may be are held; the others are refused at once, those that are
    there go on, and another sandbox's proxy does not notice."""
    upstream = world.upstreams["http"]
    upstream.expect(serve_requests)
    proxy = world.make("crowded", options=["--timeout=peek=600000"], secrets={})
    most, count = limit("BG_EGRESS_CONNS_MAX"), 10000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with contextlib.ExitStack() as stack:
            held = []
            for _ in range(count):
                connection, status = proxy.connect("h.test", upstream.port)
                if status == 0:
                    held.append(stack.enter_context(connection))
                elif status != -11 or b"too many connections" not in connection:
                    raise Failure(f"{status} {connection!r}")
            if len(held) > most or len(held) < most // 2:  # fewer where files are few
                raise Failure(f"{len(held)} were taken")
            held[0].sendall(request(port=upstream.port))
            check_guest(held[0], OK, [])
            with guest(world, port="http", tls=False) as connection:
                connection.sendall(request(port=upstream.port))
                check_guest(connection, OK, [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    deadline = time.monotonic() + DEADLINE_S
    while proxy.connect("h.test", upstream.port)[1] != 0:
        if time.monotonic() > deadline:
            raise Failure("no place became free")
    world.proxy.audit_skip()
    proxy.check_end()


# --- limits that nothing else shows ---

def held_by(upstream):
    with upstream.changed:
        return upstream.now.accepted - upstream.now.finished


def test_keeps_few_idle_connections(world):
    """To one host, and in all; the oldest go."""
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    proxy = world.make("idle-few", secrets={}, options=["--timeout=upstream-idle=600000"])
    each, most = limit("BG_EGRESS_IDLE_HOST_MAX"), limit("BG_EGRESS_IDLE_MAX")

    def use(host, count):
        with contextlib.ExitStack() as stack:
            guests = [stack.enter_context(guest(world, host, proxy=proxy)) for _ in range(count)]
            for connection in guests:
                connection.sendall(request(port=upstream.port, host=host.encode()))
            for connection in guests:
                check_guest(connection, OK, [])

    use("h.test", each + 4)
    wait_until("no more are kept", lambda: held_by(upstream) == each)
    for number in range(most // each):
        use(f"a{number}.w.test", each)
    wait_until("no more are kept in all", lambda: held_by(upstream) == most)
    use(f"a{most // each - 1}.w.test", each)  # the latest are there
    if held_by(upstream) != most or upstream.now.accepted != each + 4 + most:
        raise Failure(f"{held_by(upstream)} of {upstream.now.accepted}")
    proxy.check_end()
    upstream.settle()


def test_lingers_only_so_long(world):
    """A guest that got its last answer, and goes on sending."""
    proxy = world.make("lingering", secrets={}, options=["--timeout=linger=200"])
    with guest(world, port="http", tls=False, proxy=proxy) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")
        if not read_to_end(connection).startswith(b"HTTP/1.1 400 "):
            raise Failure("not refused")
        deadline = time.monotonic() + DEADLINE_S
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                connection.sendall(b"x")
                time.sleep(0.01)
            raise Failure("the connection stays")
    proxy.check_end()


def test_tries_so_many_addresses_of_a_name(world):
    net = Internet.of(world)
    most = limit("BG_EGRESS_ADDRESSES_MAX")
    net.names.answers["eight.test"] = [SILENT] * (most - 1) + [PUBLIC]
    net.names.answers["nine.test"] = [SILENT] * most + [PUBLIC]
    for host, upstream, want in (("eight.test", net.http, 200), ("nine.test", None, 502)):
        if net.get(host, upstream)[0] != want:
            raise Failure(f"{host}: not {want}")
    check_audit(net.proxy, [dict(rows.ALLOWED, address=PUBLIC), {"reason": "connect-failed"}])


def test_gives_an_address_its_turn_only(world):
    """While no more may race, a name's addresses are tried one by one."""
    net = Internet.of(world)
    most = limit("BG_EGRESS_RACING_MAX")
    net.names.answers.update({"busy.test": [SILENT, MUTE], "turns.test": [SILENT, PUBLIC]})
    proxy = world.make("turns", allow=["*.test"], secrets={}, options=["--timeout=connect=600000"])
    with Full(SILENT), Full(MUTE), contextlib.ExitStack() as stack:
        before = len(connecting_to())

        def ask(host):
            connection, _ = proxy.connect(host, 80)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
            return stack.enter_context(connection)

        for _ in range(most):
            ask("busy.test")
        wait_until("all race", lambda: len(connecting_to()) - before == 2 * most)
        tried = connecting_to().count(SILENT)
        net.http.expect(serve_requests)
        last = ask("turns.test")
        wait_until("the first is tried", lambda: connecting_to().count(SILENT) == tried + 1)
        check_guest(last, OK, [])
        if connecting_to().count(SILENT) != tried:
            raise Failure("the first is still tried")
    proxy.stop()


def test_h2_windows_are_as_large_as_said(world):
    """What may be under way: to us of a guest and of an upstream, for a stream and in all."""
    s, seen = http2.setting(world), {}

    def windows(connection):
        """Those of a stream and of the connection, as far as they were told before the first head."""
        got = {"stream": 65535, "connection": 65535}
        while True:
            head = read_exactly(connection, 9)
            payload = read_exactly(connection, int.from_bytes(head[:3], "big"))
            if head[3] == http2.SETTINGS and not head[4] & http2.ACK:
                for at in range(0, len(payload), 6):
                    kind, value = struct.unpack(">HI", payload[at:at + 6])
                    if kind == 4:
                        got["stream"] = value
            elif head[3] == http2.WINDOW_UPDATE and head[5:] == b"\0\0\0\0":
                got["connection"] += int.from_bytes(payload, "big")
            elif head[3] == http2.HEADERS:
                return got

    def script(connection):
        read_exactly(connection, len(http2.PREFACE))
        connection.sendall(http2.frame(http2.SETTINGS, 0, 0))
        seen["upstream"] = windows(connection)

    s.h2.expect(script)
    with raw_h2(world, "h.test", s.h2.port, s.proxy) as tls:
        tls.sendall(http2.raw_request(port=s.h2.port))
        seen["guest"] = windows(tls)
    whole = limit("BG_EGRESS_H2_WINDOW_CONNECTION")
    want = {side: {"stream": limit(f"BG_EGRESS_H2_WINDOW_{side.upper()}"), "connection": whole}
            for side in ("guest", "upstream")}
    if seen != want:
        raise Failure(f"{seen}, not {want}")
    s.proxy.audit_skip()


def test_h2_holds_little_for_an_upstream_that_does_not_read(world):
    s, stop = http2.setting(world), threading.Event()
    s.good.expect(lambda c: (read_head(c), stop.wait(DEADLINE_S)))
    proxy = world.make("http2-up", s.allow)
    most = limit("BG_EGRESS_H2_WINDOW_GUEST") + 4 * limit("BG_EGRESS_QUEUE_PAUSE") + (16 << 20)
    with http2.client(world, s.good.port, proxy=proxy) as client:
        stream = client.ask(s.good.port, "POST", end=False)
        sent = 0
        client.socket.settimeout(1)  # once the windows are used up it stands still
        with contextlib.suppress(TimeoutError, ssl.SSLError):
            while sent <= most:
                client.send(stream, data=b"x" * 16384, end=False)
                sent += 16384
        held = proxy.status("Private_Dirty")
        stop.set()
    if sent > most or held > 8192:
        raise Failure(f"{sent} bytes were taken, {held} KiB are held")
    proxy.stop()


def test_reads_only_so_much_of_the_audit(world):
    most = limit("BG_AUDIT_LAST_MAX")
    program = os.path.join(os.environ["BG_TEST_NET"], "../host/cli/bellglass")
    for count, status in ((most, 0), (most + 1, 125)):
        done = subprocess.run([program, "audit", "-n", str(count), world.proxy.name], check=False,
                              env=world.proxy.environment, capture_output=True, timeout=DEADLINE_S)
        if done.returncode != status or (status and b"want a number from 1 to" not in done.stderr):
            raise Failure(f"{done}")


# --- the proxy as the target ---

def test_hides_its_memory_from_its_user(world):
    """82: other processes with the proxy's uid, as QEMU and the supervisor are."""
    if harness.SANITIZED:
        raise harness.Skip("sanitizers need a process that can be traced")
    pid = world.proxy.process.pid
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    if int(status["VmLck"].split()[0]) == 0:
        raise Failure("no memory is locked")
    if os.geteuid() != 0:
        try:
            open(f"/proc/{pid}/mem", "rb").close()
        except PermissionError:
            return
        raise Failure("its memory can be read")
    uid = int(status["Uid"].split()[0])
    peek = ("import ctypes, os, signal, sys\n"
            "def reads(pid, name):\n"
            "    try: open(f'/proc/{pid}/{name}', 'rb').close()\n"
            "    except PermissionError: return False\n"
            "    return True\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    signal.pause()\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "attach = lambda pid: libc.ptrace(16, pid, None, None) == 0\n"
            "for pid in (int(sys.argv[1]), child):\n"
            "    print(*(reads(pid, name) for name in ('mem', 'environ', 'maps')), attach(pid))\n"
            "os.kill(child, 9)\n")
    done = subprocess.run(["python3", "-c", peek, str(pid)], user=uid, group=uid, extra_groups=[],
                          capture_output=True, timeout=DEADLINE_S, check=False, text=True)
    # The second line: such a process may look into one of its own.
    if done.stdout.splitlines() != ["False False False False", "True True True True"]:
        raise Failure(f"{done}")


def test_a_kill_in_an_answer_makes_no_whole_one(world):
    """84: what comes of an answer that is cut can be told from one that has ended."""
    upstream = world.upstreams["good"]
    for host, head in (("h.test", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
                       ("k.test", rows.SCRUBBED_HEAD)):
        proxy = world.make(f"killed-{host}")

        def script(connection):
            read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf!")
            read_to_end(connection)

        upstream.expect(script)
        with guest(world, host=host, proxy=proxy) as connection:
            connection.sendall(request(port=upstream.port, host=host.encode()))
            check_guest(connection, head, [])
            check_guest(connection, b"half!" if host == "h.test" else b"5\r\nhalf!\r\n", [])
            proxy.process.send_signal(signal.SIGKILL)
            proxy.process.wait(DEADLINE_S)
            if read_to_end(connection):
                raise Failure("an end from the dead")
        proxy.supervisor.close()


def test_no_request_sees_two_policies(world):
    """85: one that is under way when the policy changes ends by the old one, with the old secret; what
    comes later is decided by the new one, whatever the old process still does."""
    upstream = world.upstreams["good"]
    asked, go_on, got = threading.Event(), threading.Event(), []
    policy = ("network:\n  rules:\n    - allow: one.rule.test:%d\n      addresses: 127.0.0.1\n"
              "      methods: [%s]\nsecrets:\n  KEY:\n    - host: one.rule.test\n      headers: [%s]\n")

    def script(connection):
        got.append(read_head(connection))
        asked.set()
        if b"GET /slow " in got[-1]:
            go_on.wait(DEADLINE_S)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(S), S))
        read_to_end(connection)

    upstream.expect(script)
    proxy = world.make("changed", allow=["nobody.rule.test"], secrets={"KEY": []},
                       policy=policy % (upstream.port, "GET", "a"))
    extra = b"A: %s\r\nB: %s\r\n" % (P, P)
    host, old = "one.rule.test", proxy.process
    with guest(world, host, proxy=proxy) as slow:
        slow.sendall(request(b"/slow", extra, upstream.port, host.encode()))
        asked.wait(DEADLINE_S)
        proxy.supervisor.close()
        path = os.path.join(proxy.sandbox, "sandbox.json")
        with open(path, encoding="utf-8") as f:
            config = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(config.replace("methods: [GET]", "methods: [POST]").replace(
                "headers: [a]", "headers: [b]"))
        proxy.store("KEY", "another-value-of-it")
        proxy.start()
        for method, want in ((b"GET", 403), (b"POST", 200)):
            with guest(world, host, proxy=proxy) as connection:
                connection.sendall(request(b"/", extra + b"Content-Length: 0\r\n", upstream.port,
                                           host.encode()).replace(b"GET", method, 1))
                head = read_head(connection)
            if int(head.split(b" ")[1]) != want:
                raise Failure(f"{method}: {head!r}")
        go_on.set()
        check_guest(slow, b"HTTP/1.1 200 OK\r\n", [])
        rest = read_to_end(slow)
    if old.wait(DEADLINE_S) != 0:
        raise Failure("the old one did not end well")
    if not rest.endswith(b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(P), P)) or S in rest:
        raise Failure(f"{rest!r}")
    by_old, by_new = got
    if b"A: " + S not in by_old or b"B: " + P not in by_old or \
            b"A: " + P not in by_new or b"B: another-value-of-it" not in by_new:
        raise Failure(f"{got}")
    proxy.check_end()


# --- the documentation ---

def test_does_what_the_documentation_shows(world):
    """The commands of docs/egress.md print what stands below them there. A block of YAML whose first line
    is a file's name in a comment is that file."""
    with open(os.path.join(ROOT, "docs/egress.md"), encoding="utf-8") as f:
        blocks = re.findall(r"^```(yaml|console)\n(.*?)^```", f.read(), re.MULTILINE | re.DOTALL)
    folder = os.path.join(world.folder, "documentation")
    os.mkdir(folder)
    for kind, block in blocks:
        name = re.match(r"# (\w+\.yaml)\n", block)
        if kind == "yaml" and name:
            with open(os.path.join(folder, name[1]), "w", encoding="utf-8") as f:
                f.write(block)
    programs = os.environ["BG_TEST_NET"]
    environment = dict(world.proxy.environment, BELLGLASS_HELPER_DIR=programs)
    commands = [part for kind, block in blocks if kind == "console"
                for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    for part in commands:
        command, _, want = part.partition("\n")
        program, *arguments = shlex.split(command)
        done = subprocess.run([os.path.join(programs, "../host/cli", program), *arguments], cwd=folder,
                              env=environment, capture_output=True, text=True, check=False,
                              timeout=DEADLINE_S)
        if done.stdout != want or done.stderr:
            raise Failure(f"{command}: {done.stdout}{done.stderr}, not {want}")
    if len(commands) < 5:
        raise Failure(f"only {commands}")
