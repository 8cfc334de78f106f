"""Secrets in the bodies of requests: rows as in rows.py for a proxy whose policy has rules for bodies,
then what a table cannot say."""

import contextlib
import copy
import functools
import gzip
import os
import re
import select
import ssl
import subprocess

import harness
from harness import DEADLINE_S, Failure, read_exactly, read_to_end
from rows import CHUNKED, PLAIN, RULED, SCRUBBED_HEAD, SCRUBBED_OK, Row
from world import OK, check_audit, check_guest, guest, read_response, run_row

POLICY = """
network:
  rules:
    - allow: ["*.rule.test"]
      ports: [{good}, {http}]
      addresses: [127.0.0.1]
secrets:
  RULED:
    - host: all.rule.test
      in: [header, body]
    - host: path.rule.test
      in: body
      methods: [POST]
      paths: [/keys/*]
    - host: json.rule.test
      in: body
      body: {{types: json}}
    - host: small.rule.test
      in: body
      body: {{types: text, max: 100}}
    - host: decode.rule.test
      in: body
      body: {{decode: true, max: 4K}}
    - host: big.rule.test
      in: body
      body: {{max: 16M}}
  KEY:
    - host: all.rule.test
  LOST:
    - host: all.rule.test
      in: body
"""
P, OTHER, LOST = (harness.PLACEHOLDERS[name].encode() for name in ("RULED", "KEY", "LOST"))
STRANGER = harness.STRANGER.encode()
SECRET = harness.SECRETS["RULED"].encode()
ENCODED = b"ruled%2Fsecret%201"
ESCAPED = b"\\u0042" + P[1:]

JSON, FORM, TEXT = (b"Content-Type: " + t + b"\r\n" for t in (
    b"application/json", b"application/x-www-form-urlencoded", b"text/plain"))
MULTIPART = b"Content-Type: multipart/form-data; boundary=b\r\n"
GZIP = b"Content-Encoding: gzip\r\n"
NOT_APPROVED = {"decision": "allow", "reason": "placeholder-not-approved",
                "placeholders_not_approved": ["RULED"], "secrets": []}
UNTOUCHED = {"decision": "allow", "reason": "allowed", "secrets": []}
TOO_LARGE = {"decision": "deny", "reason": "body-too-large", "status": 413, "address": None}


def part(text, head=b'Content-Disposition: form-data; name="k"\r\n'):
    return b"--b\r\n" + head + b"\r\n" + text + b"\r\n"


def zipped(text):
    return gzip.compress(text, mtime=0)


def head(extra, path=b"/"):
    return b"POST " + path + b" HTTP/1.1\r\nHost: {H}\r\n" + extra


def counted(extra, body, path=b"/"):
    return head(extra, path) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(extra, *chunks, last=b"0\r\n\r\n"):
    return (head(extra) + CHUNKED + b"\r\n" +
            b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + last)


def changed(number, name, extra, sent, got, **more):
    """The whole body is exchanged."""
    fields = dict(host="all.rule.test", audit=(RULED,), guest=SCRUBBED_OK)
    return Row(name, counted(extra, sent), [(counted(extra + PLAIN, got), OK)], number=number,
               **dict(fields, **more))


def same(number, name, extra, sent, audit=NOT_APPROVED, **more):
    return changed(number, name, extra, sent, sent, **dict({"audit": (audit,)}, **more))


ROWS = [
    changed(7, "a string of JSON", JSON, b'{"k":"Bearer ' + P + b'"}', b'{"k":"Bearer ' + SECRET + b'"}'),
    changed(7, "escapes in JSON", JSON, b'["' + ESCAPED + b'"]', b'["' + SECRET + b'"]'),
    same(7, "a name in JSON", JSON, b'{"' + P + b'":1}'),
    same(7, "what is no JSON", JSON, b'{"k":"' + P + b'",}'),
    changed(7, "a byte at a time", JSON, b'["' + P + b'"]', b'["' + SECRET + b'"]', step=1),
    changed(8, "a value of a form", FORM, b"a=1&k=x+" + P + b"&b", b"a=1&k=x+" + ENCODED + b"&b"),
    changed(8, "an encoded one", FORM, b"k=%42" + P[1:], b"k=" + ENCODED),
    same(8, "a name in a form", FORM, P + b"=1&" + P),
    changed(8, "in parts", MULTIPART, part(P) + part(P + P, b"A: b\r\n") + b"--b--\r\n",
            part(SECRET) + part(SECRET + SECRET, b"A: b\r\n") + b"--b--\r\n"),
    changed(8, "in a part that is JSON", MULTIPART,
            part(b'["' + ESCAPED + b'"]', b"Content-Type: application/json\r\n") + b"--b--",
            part(b'["' + SECRET + b'"]', b"Content-Type: application/json\r\n") + b"--b--"),
    same(8, "a file name", MULTIPART,
         part(b"x", b'Content-Disposition: form-data; filename="' + P + b'"\r\n') + b"--b--\r\n"),
    same(8, "before and after the parts", MULTIPART, P + b"\r\n" + part(b"x") + b"--b--\r\n" + P),
    same(8, "over two parts", MULTIPART, part(P[:30]) + part(P[30:]) + b"--b--\r\n", UNTOUCHED),
    same(8, "what may be a boundary", MULTIPART, part(b"x\r\n-" + P) + b"--b--\r\n"),
    changed(8, "text", TEXT, b"<" + P + b">", b"<" + SECRET + b">"),
    Row("a placeholder over chunks", chunked(TEXT, b"<", P[:1], P[1:40], P[40:] + b">"),
        [(counted(TEXT + PLAIN, b"<" + SECRET + b">"), OK)], SCRUBBED_OK, (RULED,), 9,
        "all.rule.test"),
    Row("chunks a byte at a time", chunked(TEXT, P),
        [(counted(TEXT + PLAIN, SECRET), OK)], SCRUBBED_OK, (RULED,), 9, "all.rule.test", step=1),
    Row("no bytes in chunks", chunked(TEXT), [(counted(TEXT + PLAIN, b""), OK)], SCRUBBED_OK,
        (UNTOUCHED,), 10, "all.rule.test"),
    Row("requests behind each other", counted(TEXT, P) + chunked(JSON, b'"' + P + b'"') +
        counted(FORM, b"k=" + P) + b"GET / HTTP/1.1\r\nHost: {H}\r\n\r\n",
        [(counted(TEXT + PLAIN, SECRET), OK), (counted(JSON + PLAIN, b'"' + SECRET + b'"'), OK),
         (counted(FORM + PLAIN, b"k=" + ENCODED), OK),
         (b"GET / HTTP/1.1\r\nHost: {H}\r\n" + PLAIN + b"\r\n", OK)],
        SCRUBBED_OK * 4, (RULED, RULED, RULED, UNTOUCHED), 10, "all.rule.test"),
    Row("from HTTP/1.0", counted(b"Expect: 100-continue\r\n" + TEXT, P).replace(b"/1.1", b"/1.0"),
        [(counted(TEXT + PLAIN, SECRET), OK)],
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", (RULED,), 10, "all.rule.test", closed=True),
    Row("digests that are wrong now", counted(TEXT + b"Content-MD5: x\r\nDigest: x\r\nA: b\r\n", P),
        [(counted(TEXT + b"A: b\r\n" + PLAIN, SECRET), OK)], SCRUBBED_OK, (RULED,), 10,
        "all.rule.test"),
    same(10, "digests that are right", TEXT + b"Content-MD5: x\r\nContent-Digest: x\r\n", b"x", UNTOUCHED),
    Row("a body over the cap", counted(TEXT, b"x" * 101), None, (413, b"larger than 100 bytes"),
        (TOO_LARGE,), 11, "small.rule.test", closed=True),
    Row("chunks over the cap", chunked(TEXT, b"x" * 60, b"x" * 41), None,
        (413, b"larger than 100 bytes"), (TOO_LARGE,), 11, "small.rule.test"),
    Row("over the cap, before it is sent", head(TEXT) + b"Expect: 100-continue\r\n" +
        b"Content-Length: 101\r\n\r\n", None, (413, b"larger than 100 bytes"), (TOO_LARGE,), 11,
        "small.rule.test", closed=True),
    changed(11, "a body at the cap", TEXT, P + b"x" * (100 - len(P)),
            SECRET + b"x" * (100 - len(P)), host="small.rule.test"),
    same(11, "a large body that is not read", JSON, b'"' + P + b"x" * 100 + b'"', UNTOUCHED,
         host="small.rule.test"),
    Row("a coded body that is not read", counted(TEXT + GZIP, zipped(P)),
        [(counted(TEXT + GZIP + PLAIN, zipped(P)), OK)], SCRUBBED_OK, (UNTOUCHED,), 12,
        "all.rule.test"),
    Row("a coded body", counted(TEXT + GZIP, zipped(P)), [(counted(TEXT + PLAIN, SECRET), OK)],
        SCRUBBED_OK, (RULED,), 12, "decode.rule.test"),
    Row("a coded body in chunks", chunked(GZIP + JSON, zipped(b'"' + P)[:9], zipped(b'"' + P)[9:]),
        [(counted(JSON + PLAIN, b'"' + P), OK)], SCRUBBED_OK, (NOT_APPROVED,), 12, "decode.rule.test"),
    Row("an unknown coding", counted(TEXT + b"Content-Encoding: frob\r\n", P),
        [(counted(TEXT + b"Content-Encoding: frob\r\n" + PLAIN, P), OK)], SCRUBBED_OK, (UNTOUCHED,), 12,
        "decode.rule.test"),
    Row("a coded body that unfolds", counted(TEXT + GZIP, zipped(b"x" * 4097)), None,
        (413, b"larger than 4096 bytes"), (TOO_LARGE,), 12, "decode.rule.test"),
    Row("a damaged coding", counted(TEXT + GZIP, zipped(P)[:-1]), None, (400, b"ends too early"),
        ({"reason": "bad-request", "status": 400},), 12, "decode.rule.test"),
    same(12, "not coded where it may be", TEXT, STRANGER,
         {"reason": "placeholder-unknown", "placeholders_unknown": 1}, host="decode.rule.test"),
    Row("trailers and chunk extensions", head(TEXT) + CHUNKED + b"Trailer: A\r\n\r\n1;e=" + P +
        b"\r\nx\r\n0;" + P + b"\r\nA: " + P + b"\r\n\r\n",
        [(counted(TEXT + PLAIN, b"x"), OK)], SCRUBBED_OK, (UNTOUCHED,), 14, "all.rule.test"),
    same(16, "not quite the placeholder", TEXT,
         b" ".join((P[:-1], P.lower(), P.upper(), P[1:], b"X".join((P[:40], P[40:])))), UNTOUCHED),
    changed(16, "one in another", TEXT, P + P + P[:17] + P + b"0",
            SECRET + SECRET + P[:17] + SECRET + b"0"),
    same(17, "another sandbox's", TEXT, STRANGER + b" " + STRANGER,
         {"reason": "placeholder-unknown", "placeholders_unknown": 2}),
    same(34, "a secret for headers", JSON, b'{"body":"' + OTHER + b'"}',
         {"reason": "placeholder-not-approved", "placeholders_not_approved": ["KEY"]}),
    Row("a host without a rule for bodies", chunked(JSON, b'"' + P + b'"'),
        [(chunked(JSON, b'"' + P + b'"'), OK)], OK, (UNTOUCHED,), 34, "e.rule.test"),
    same(34, "a path without a rule", TEXT, P, UNTOUCHED, host="path.rule.test"),
    Row("a path with a rule", counted(TEXT, P, b"/keys/1"),
        [(counted(TEXT + PLAIN, SECRET, b"/keys/1"), OK)], SCRUBBED_OK, (RULED,), 34, "path.rule.test"),
    same(34, "a type without a rule", TEXT, P, UNTOUCHED, host="json.rule.test"),
    same(34, "a type that nobody knows", b"Content-Type: application/octet-stream\r\n", P, UNTOUCHED),
    same(34, "two types", TEXT + TEXT, P, UNTOUCHED),
    Row("outside of TLS", counted(TEXT, P), [(counted(TEXT + PLAIN, P), OK)], SCRUBBED_OK, (UNTOUCHED,),
        34, "all.rule.test", "http", tls=False),
    Row("a body that is sent back", counted(TEXT, P),
        [(counted(TEXT + PLAIN, SECRET), b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n" + SECRET)],
        SCRUBBED_HEAD + b"51\r\n" + P + b"\r\n0\r\n\r\n",
        ({"decision": "allow", "secrets": ["RULED"], "scrubbed": ["RULED"]},), 34, "all.rule.test"),
    Row("in the head and in the body", counted(b"A: " + P + b"\r\n" + TEXT, P + OTHER),
        [(counted(b"A: " + SECRET + b"\r\n" + TEXT + PLAIN, SECRET + OTHER), OK)], SCRUBBED_OK,
        ({"decision": "allow", "secrets": ["RULED"], "placeholders_not_approved": ["KEY"]},), 34,
        "all.rule.test"),
    Row("a secret without a value", counted(TEXT, LOST), None, (503, b"bellglass secret set LOST"),
        ({"reason": "secret-without-value", "status": 503},), 34, "all.rule.test"),
    Row("half a body", head(TEXT) + b"Content-Length: 5\r\n\r\nhe", None, None,
        ({"reason": "bad-request", "status": 400},), 70, "all.rule.test", half_close=True),
    Row("a broken chunk", head(TEXT) + CHUNKED + b"\r\nx\r\n", None, (400, b"body:"),
        ({"reason": "bad-request", "status": 400},), 63, "all.rule.test", closed=True),
]


def of_bodies(world):
    """The world with a proxy of our own in it."""
    if not hasattr(world, "bodies"):
        policy = POLICY.format(**{name: world.port(name) for name in ("good", "http")})
        world.bodies = copy.copy(world)
        world.bodies.proxy = world.make("bodies", policy=policy)
        world.bodies.proxy.audit(1)  # LOST has no value
    return world.bodies


def try_row(row, world):
    ours = of_bodies(world)
    ours.seen = b""
    run_row(row, ours)
    world.seen += ours.seen
    if SECRET in ours.seen:
        raise Failure("the guest got the secret")


for _row in ROWS:
    globals()[f"test_{_row.number}: {_row.name}"] = functools.partial(try_row, _row)


def post(world, extra, size, host="all.rule.test"):
    return (b"POST / HTTP/1.1\r\nHost: %s:%d\r\n" % (host.encode(), world.port("good")) + extra +
            b"Content-Length: %d\r\n\r\n" % size)


def read_request(connection):
    """The head and the body of a request with a length."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            return data, b""
        data += more
    return data, read_exactly(connection, int(re.search(rb"Content-Length: (\d+)", data)[1]))


def test_answers_100_continue_itself(world):
    ours = of_bodies(world)
    upstream, seen = world.upstreams["good"], []

    def script(connection):
        seen.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)

    upstream.expect(script)
    with guest(ours, host="all.rule.test") as connection:
        connection.sendall(post(world, b"Expect: 100-continue\r\n" + TEXT, len(P)))
        check_guest(connection, b"HTTP/1.1 100 Continue\r\n\r\n", [])
        if upstream.settle()[0]:
            raise Failure("the upstream was asked before the body was there")
        connection.sendall(P)
        check_guest(connection, SCRUBBED_OK, [])
    upstream.settle()
    if len(seen) != 1 or b"expect" in seen[0][0].lower() or seen[0][1] != SECRET:
        raise Failure(f"{seen}")
    check_audit(ours.proxy, [dict(RULED, status=200)])
    # A head that is refused is not continued.
    upstream.expect(None)
    with guest(ours, host="all.rule.test") as connection:
        connection.sendall(post(world, b"Expect: 100-continue\r\nHost: e.test\r\n" + TEXT, len(P)))
        check_guest(connection, [(400, b"Host")], [])
    check_audit(ours.proxy, [{"reason": "bad-request"}])


def test_sends_a_body_once_to_a_connection_that_dies(world):
    ours = of_bodies(world)
    upstream, bodies = world.upstreams["good"], []

    def script(connection):
        for _ in range(2):
            bodies.append(read_request(connection)[1])
            if len(bodies) == 1:
                connection.sendall(OK)

    upstream.expect(script)
    with guest(ours, host="all.rule.test") as connection:
        connection.sendall(post(world, TEXT, len(P)) + P)
        check_guest(connection, SCRUBBED_OK, [])
        connection.sendall(post(world, TEXT, len(P)) + P)
        check_guest(connection, [(502, b"without an answer")], [])
    if upstream.settle()[0] != 1 or bodies != [SECRET, SECRET]:
        raise Failure(f"{bodies}")
    check_audit(ours.proxy, [RULED, {"reason": "upstream-response"}])


def test_notices_an_upstream_that_closes_while_a_body_comes(world):
    ours = of_bodies(world)
    upstream = world.upstreams["good"]

    def script(connection):
        read_request(connection)
        connection.sendall(OK)

    upstream.expect(script)
    with guest(ours, host="all.rule.test") as connection:
        connection.sendall(post(world, TEXT, len(P)) + P)
        check_guest(connection, SCRUBBED_OK, [])
        connection.sendall(post(world, b"Expect: 100-continue\r\n" + TEXT, len(P)))
        check_guest(connection, b"HTTP/1.1 100 Continue\r\n\r\n", [])
        upstream.settle()  # it has closed
        connection.sendall(P)
        check_guest(connection, SCRUBBED_OK, [])
    check_audit(ours.proxy, [RULED, RULED])


def test_carries_a_large_body_with_secrets(world):
    ours = of_bodies(world)
    upstream, bodies = world.upstreams["good"], []
    piece = bytes(range(256)) * 256
    body = P + piece * 120 + P + b"x" * 100 + P

    def script(connection):
        bodies.append(read_request(connection)[1])
        connection.sendall(OK)

    upstream.expect(script)
    with guest(ours, host="big.rule.test") as connection:
        connection.sendall(post(world, TEXT, len(body), "big.rule.test"))
        connection.sendall(body)
        check_guest(connection, SCRUBBED_OK, [])
    if bodies != [body.replace(P, SECRET)]:
        raise Failure("bytes changed on the way")
    check_audit(ours.proxy, [dict(RULED, bytes_up=len(body))])


def test_does_not_reuse_a_connection_that_did_not_take_the_body(world):
    """The answer comes before the body is sent: what is left of it must not become a request."""
    ours = of_bodies(world)
    upstream, heads = world.upstreams["good"], []

    def script(connection):
        head_bytes = b""
        while not head_bytes.endswith(b"\r\n\r\n"):
            head_bytes += connection.recv(1)
        heads.append(head_bytes.split(b" ")[0])
        connection.sendall(OK)
        if heads[-1] == b"POST":
            rest = read_to_end(connection)
            if b"GET" in rest:
                raise Failure("a request behind half a body")

    upstream.expect(script)
    body = b"x" * (12 << 20)
    with guest(ours, host="big.rule.test") as connection:
        connection.sendall(post(world, TEXT, len(body), "big.rule.test"))
        connection.sendall(body)
        check_guest(connection, SCRUBBED_OK, [])
        connection.sendall(b"GET / HTTP/1.1\r\nHost: big.rule.test:%d\r\n\r\n" % upstream.port)
        check_guest(connection, SCRUBBED_OK, [])
    accepted, errors = upstream.settle()
    if accepted != 2 or heads != [b"POST", b"GET"] or errors:
        raise Failure(f"{accepted} {heads} {errors}")
    check_audit(ours.proxy, [UNTOUCHED, UNTOUCHED])


def first_answer(connections):
    """What the first of them gets; the others must have got nothing until then."""
    for connection in connections:
        connection.setblocking(False)
    while True:
        ready = select.select(connections, [], [], DEADLINE_S)[0]
        if not ready:
            raise Failure("no answer")
        for connection in ready:
            with contextlib.suppress(ssl.SSLWantReadError):  # a session ticket
                return connection.recv(65536)


def test_holds_only_so_many_bodies_at_once(world):
    """64 MiB in all, and each of these takes 16: of five one is refused."""
    ours = of_bodies(world)
    world.upstreams["good"].expect(None)
    with contextlib.ExitStack() as held:
        connections = [held.enter_context(guest(ours, host="big.rule.test")) for _ in range(5)]
        for connection in connections:
            connection.sendall(post(world, TEXT, 16 << 20, "big.rule.test"))
            with contextlib.suppress(OSError):
                for _ in range(9):
                    connection.sendall(b"x" * (1 << 20))
        check_audit(ours.proxy, [{"reason": "bodies-too-many", "status": 503}])
        answer = first_answer(connections)
        if not answer.startswith(b"HTTP/1.1 503") or b"too many bodies" not in answer:
            raise Failure(f"{answer}")
    check_audit(ours.proxy, [{"reason": "bad-request"}] * 4)
    test_carries_a_large_body_with_secrets(world)  # there is room again


def test_ends_a_body_that_stalls(world):
    policy = POLICY.format(**{name: world.port(name) for name in ("good", "http")})
    proxy = world.make("stalled-body", options=["--timeout=stall=300"], policy=policy)
    proxy.audit(1)
    world.upstreams["good"].expect(None)
    with guest(world, host="all.rule.test", proxy=proxy) as connection:
        connection.sendall(post(world, TEXT, 5) + b"he")
        check_guest(connection, [(408, b"body stalled")], [])
    check_audit(proxy, [{"reason": "timeout", "status": 408, "address": None}])
    proxy.stop()


def test_is_strict_about_bodies(world):
    policy = POLICY.format(**{name: world.port(name) for name in ("good", "http")})
    proxy = world.make("strict-body", policy=policy.replace("network:", "network:\n  strict: true"))
    proxy.audit(1)
    upstream = world.upstreams["good"]

    def script(connection):
        read_request(connection)
        connection.sendall(OK)

    upstream.expect(script)
    with guest(world, host="all.rule.test", proxy=proxy) as connection:
        for body in (OTHER, STRANGER):
            connection.sendall(post(world, TEXT, len(body)) + body)
            check_guest(connection, [(403, b"strict")], [])
        connection.sendall(post(world, b"A: " + STRANGER + b"\r\nExpect: 100-continue\r\n" + TEXT, 1))
        check_guest(connection, [(403, b"strict")], [])
    refused = {"reason": "placeholder-not-approved", "decision": "deny", "status": 403}
    check_audit(proxy, [refused] * 3)
    with guest(world, host="all.rule.test", proxy=proxy) as connection:
        connection.sendall(post(world, TEXT, len(P)) + P)
        check_guest(connection, SCRUBBED_OK, [])
    check_audit(proxy, [RULED])
    if upstream.settle()[0] != 1:
        raise Failure("a refused body was sent")
    proxy.stop()


def test_takes_the_placeholders_of_a_forks_source(world):
    """Where its own may stand, and nowhere else; answers have its own; another sandbox's stay."""
    policy = POLICY.format(**{name: world.port(name) for name in ("good", "http")})
    old = {"RULED": [b"BELLGLASS_SECRET_" + b"%064d" % n for n in (1, 2)]}
    proxy = world.make("forked", policy=policy, inherited={
        name: [p.decode() for p in texts] for name, texts in old.items()})
    fresh = world.make("fresh", policy=policy)
    proxy.audit(1)  # LOST has no value
    fresh.audit(1)
    got = []

    def script(connection):
        got.append(b"".join(read_request(connection)))
        connection.sendall(b"HTTP/1.1 200 OK\r\nA: " + SECRET + b"\r\nContent-Length: 0\r\n\r\n")

    inherited = {"secrets": ["RULED"], "placeholders_inherited": ["RULED"], "scrubbed": ["RULED"]}
    for one, sender, want, audit in (
            (old["RULED"][0], proxy, SECRET, inherited), (old["RULED"][1], proxy, SECRET, inherited),
            (P, proxy, SECRET, dict(inherited, placeholders_inherited=None)),
            (STRANGER, proxy, STRANGER, {"placeholders_unknown": 2, "secrets": []}),
            (old["RULED"][0], fresh, old["RULED"][0], {"placeholders_unknown": 2, "secrets": []})):
        world.upstreams["good"].expect(script)
        with guest(world, host="all.rule.test", proxy=sender) as connection:
            connection.sendall(post(world, b"A: " + one + b"\r\n" + TEXT, len(one)) + one)
            status, answer, _ = read_response(connection)
        if status != 200 or b"A: " + P + b"\r\n" not in answer:
            raise Failure(f"{answer!r}")
        if got[-1].count(want) != 2 or (want != one and one in got[-1]):
            raise Failure(f"{got[-1]!r}")
        check_audit(sender, [audit])
    world.upstreams["good"].expect(script)
    with guest(world, host="small.rule.test", proxy=proxy) as connection:  # not in fields
        connection.sendall(post(world, b"A: " + old["RULED"][0] + b"\r\n" + TEXT, 0,
                                host="small.rule.test"))
        read_response(connection)
    check_audit(proxy, [dict(NOT_APPROVED, placeholders_inherited=None)])
    proxy.stop()
    fresh.stop()


def policy_tool(world, *arguments):
    return subprocess.run([world.proxy.program("bellglass-policy"), *arguments], capture_output=True,
                          text=True, check=False)


def test_shows_rules_of_bodies(world):
    path = os.path.join(world.folder, "bodies.yaml")
    with open(path, "w", encoding="ascii") as f:
        f.write("network:\n  rules:\n    - allow: a.org\nsecrets:\n  K:\n    - host: a.org\n"
                "      in: [header, body]\n      body: {types: [json, form], max: 64K, decode: true}\n"
                "    - host: b.org\n")
    line = "in header,body  bodies of json,form up to 65536 bytes, decoded"
    shown = policy_tool(world, "show", path)
    tested = policy_tool(world, "test", path, "POST", "https://a.org/")
    for done, text in ((shown, f"secret K  a.org  {line}\n"), (tested, f"secret K {line}\n")):
        if done.returncode != 0 or text not in done.stdout:
            raise Failure(f"{done}")
    shown = policy_tool(world, "show", "--json", path).stdout
    secrets = harness.json.loads(shown)["secrets"]
    if (secrets[0]["in"] != ["header", "body"] or secrets[1]["body"] is not None or
            secrets[0]["body"] != {"types": ["json", "form"], "max": 65536, "decode": True}):
        raise Failure(f"{secrets}")


def test_takes_the_policies_of_the_documentation(world):
    examples, folder = [], os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../docs")
    for name in ("policy.md", "egress.md"):
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            examples += re.findall(r"^```yaml\n(.*?)^```", f.read(), re.MULTILINE | re.DOTALL)
    if len(examples) < 3 or not any("body:" in example for example in examples):
        raise Failure(f"{len(examples)} examples")
    for example in examples:
        path = os.path.join(world.folder, "example.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(example)
        done = policy_tool(world, "check", path)
        if done.returncode != 0:
            raise Failure(f"{example}{done.stderr}")


def test_keeps_secrets_of_bodies_to_itself(world):
    proxy = of_bodies(world).proxy
    proxy.check_end()
    for path in (proxy.audit_path, proxy.log_path):
        with open(path, "rb") as f:
            if SECRET in f.read():
                raise Failure(f"the secret is in {path}")
