#!/usr/bin/env -S python3 -B
"""The egress proxy as a whole: the attack table of rows.py, then what a table cannot say. Prints TAP.
As root it runs in a network namespace of its own, where only loopback is."""

import contextlib
import gzip
import hashlib
import json
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import audit
import bodies
import ca
import catalogue
import forward
import harness
import http2
import links
import parent
import rows
import rules
import upstream_tls
from harness import DEADLINE_S, Failure, Tap, Upstream, read_exactly, read_to_end
from world import (OK, PUBLIC, PUBLIC_6, Internet, World, check_audit, check_guest, client_hello,
                   guest, read_head, read_response, request, run_row, serve_requests, wrap)

# Further files of tests: each function named test_* takes the world.
MODULES = [sys.modules[__name__], audit, bodies, ca, catalogue, forward, http2, links, parent, rules,
           upstream_tls]

# --- what a table cannot say ---

def run_test(test, world):
    try:
        test(world)
    except Exception as e:
        world.proxy.audit_skip()
        world.proxy.check_alive(e)
        raise
    world.proxy.check_alive(None)


def test_reuses_an_upstream_connection(world):
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    with guest(world) as connection:
        for _ in range(3):
            connection.sendall(request(port=upstream.port))
            check_guest(connection, OK, [])
    accepted, _ = upstream.settle()
    if accepted != 1:
        raise Failure(f"{accepted} connections for three requests")
    world.proxy.audit_skip()


def test_sends_again_when_a_kept_connection_was_closed(world):
    upstream = world.upstreams["good"]
    upstream.expect(lambda c: serve_requests(c, count=1))
    with guest(world) as connection:
        for _ in range(3):
            connection.sendall(request(port=upstream.port))
            check_guest(connection, OK, [])
    world.proxy.audit_skip()


def test_does_not_use_a_connection_with_surplus_again(world):
    upstream = world.upstreams["good"]
    wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    upstream.expect(lambda c: serve_requests(c, OK + wrong))
    with guest(world) as connection:
        for _ in range(2):
            connection.sendall(request(port=upstream.port))
            check_guest(connection, OK, [])
    accepted, _ = upstream.settle()
    if accepted != 2:
        raise Failure(f"{accepted} connections for two requests")
    world.proxy.audit_skip()


def test_passes_tls_through_unopened(world):
    upstream = world.upstreams["good"]
    port = upstream.port
    placeholder = harness.PLACEHOLDERS["KEY"].encode()
    sent = request(port=port, host=b"pass.rule.test", extra=b"A: " + placeholder + b"\r\n")
    got = []

    def script(connection):
        got.append(read_exactly(connection, len(sent)))
        connection.sendall(OK)

    upstream.expect(script)
    connection, _ = world.proxy.connect("pass.rule.test", port)
    # The certificate is the upstream's own.
    context = ssl.create_default_context(cafile=world.certificates.path("ca.pem"))
    with context.wrap_socket(connection, server_hostname="pass.rule.test") as tls:
        tls.sendall(sent)
        check_guest(tls, OK, [])
    if got != [sent]:
        raise Failure(f"{got}")
    check_audit(world.proxy, [{"decision": "allow", "scheme": "tcp", "host": "pass.rule.test",
                               "secrets": []}])


def test_has_sound_presets(world):
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../net/policies")
    names = sorted(name[:-5] for name in os.listdir(folder) if name.endswith(".yaml"))
    path = os.path.join(world.folder, "presets.yaml")
    with open(path, "w", encoding="ascii") as f:
        f.write(f"network:\n  rules:\n    - preset: [{', '.join(names)}]\n")
    shown = subprocess.run([world.proxy.program("bellglass-policy"), "show", "--json", path],
                           check=True, capture_output=True)
    rules = json.loads(shown.stdout)["rules"]
    if len(names) < 6 or {rule["rule"].split(":")[0] for rule in rules} != {
            f"preset {name}" for name in names}:
        raise Failure(f"{names}: {rules}")


def test_is_strict_when_asked_to(world):
    proxy = world.make("strict", policy="network:\n  strict: true\n")
    proxy.audit(1)  # LOST has no value
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    placeholder = harness.PLACEHOLDERS["OTHER"].encode()
    with guest(world, host="k.test", proxy=proxy) as connection:
        for extra, want in ((b"", rows.SCRUBBED_OK), (b"A: " + placeholder + b"\r\n", (403, b"strict")),
                            (b"A: " + harness.STRANGER.encode() + b"\r\n", (403, b"strict"))):
            connection.sendall(request(port=upstream.port, host=b"k.test", extra=extra))
            check_guest(connection, want, [])
    check_audit(proxy, [rows.ALLOWED, {"reason": "placeholder-not-approved", "decision": "deny"},
                        {"reason": "placeholder-not-approved", "decision": "deny"}])
    if proxy.stop() != 0:
        raise Failure("it did not end well")


def test_passes_events_on_at_once(world):
    upstream = world.upstreams["good"]
    seen = threading.Event()
    secret = harness.SECRETS["KEY"].encode()
    first, second = b"data: nothing\n\n", b"data: %s\n\n" % secret[:8]

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + first)
        if not seen.wait(DEADLINE_S):
            raise Failure("the first event was held back")
        connection.sendall(second + b"data: " + secret[:8])
        connection.sendall(secret[8:])

    upstream.expect(script)
    with guest(world, host="k.test") as connection:
        connection.sendall(request(port=upstream.port, host=b"k.test"))
        check_guest(connection, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" +
                    rows.CHUNKED + b"\r\nf\r\n" + first + b"\r\n", [])
        seen.set()
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            got += read_exactly(connection, 1)
    if b"".join(got.split(b"\r\n")[1:-3:2]) != (
            second + b"data: " + harness.PLACEHOLDERS["KEY"].encode()):
        raise Failure(f"{got}")
    world.proxy.audit_skip()


def read_chunked(connection, on_bytes):
    """The body of a response whose head was read; False if the connection ended inside of it."""
    with connection.makefile("rb") as f:
        while True:
            line = f.readline()
            if not line.endswith(b"\r\n"):
                return False
            size = int(line, 16)
            data = f.read(size + 2)
            if len(data) != size + 2:
                return False
            if size == 0:
                return True
            on_bytes(data[:-2])


def test_scrubs_large_bodies(world):
    upstream = world.upstreams["good"]
    count = 200000
    want, got = hashlib.sha256(), hashlib.sha256()
    line = b"%s\n" % harness.SECRETS["KEY"].encode()
    clean = b"%s\n" % harness.PLACEHOLDERS["KEY"].encode()

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        connection.sendall(gzip.compress(line * count, 1))

    upstream.expect(script)
    for _ in range(count):
        want.update(clean)
    with guest(world, host="k.test") as connection:
        connection.sendall(request(port=upstream.port, host=b"k.test"))
        check_guest(connection, rows.SCRUBBED_HEAD, [])
        if not read_chunked(connection, got.update) or got.digest() != want.digest():
            raise Failure("another body")
    world.proxy.audit_skip()


def test_refuses_bodies_that_unfold_too_far(world):
    upstream = world.upstreams["good"]
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(256)), packer.flush()])
    size = 0

    def count(data):
        nonlocal size
        size += len(data)

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        with contextlib.suppress(OSError):
            connection.sendall(bomb)

    upstream.expect(script)
    with guest(world, host="k.test") as connection:
        connection.sendall(request(port=upstream.port, host=b"k.test"))
        check_guest(connection, rows.SCRUBBED_HEAD, [])
        if read_chunked(connection, count):
            raise Failure("all of it came")
    if size > 32 << 20:
        raise Failure(f"{size} bytes came")
    check_audit(world.proxy, [dict(rows.BAD_UPSTREAM)])


def test_carries_large_bodies_both_ways(world):
    size = 32 << 20
    upstream = world.upstreams["good"]
    chunk = bytes(range(256)) * 256
    digests = []

    def script(connection):
        read_head(connection)
        digest, left = hashlib.sha256(), size
        while left:
            data = connection.recv(min(left, 65536))
            if not data:
                raise Failure("the upload ended early")
            digest.update(data)
            left -= len(data)
        digests.append(digest.hexdigest())
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(chunk)):
            connection.sendall(chunk)

    upstream.expect(script)
    want = hashlib.sha256(chunk * (size // len(chunk))).hexdigest()
    with guest(world) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: h.test:%d\r\nContent-Length: %d\r\n\r\n"
                           % (upstream.port, size))
        for _ in range(size // len(chunk)):
            connection.sendall(chunk)
        _, _, body = read_response(connection)
    if digests != [want] or hashlib.sha256(body).hexdigest() != want:
        raise Failure("bytes changed on the way")
    check_audit(world.proxy, [{"bytes_up": size, "bytes_down": size}])


def test_streams_both_ways_at_once(world):
    size, piece = 24 << 20, bytes(range(251)) * 261
    upstream = world.upstreams["good"]

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            data = connection.recv(min(left, 50000))
            if not data:
                raise Failure("the upload ended early")
            connection.sendall(data)
            left -= len(data)

    whole = piece * (size // len(piece) + 1)
    upstream.expect(script)
    with guest(world) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: h.test:%d\r\nContent-Length: %d\r\n\r\n"
                           % (upstream.port, size))
        read_head(connection)
        connection.setblocking(False)
        sent, got = 0, bytearray()
        while len(got) < size:
            if not select.select([connection], [connection] if sent < size else [], [],
                                 DEADLINE_S)[0] and sent == size:
                raise Failure(f"stuck after {len(got)} bytes")
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                while sent < size:
                    sent += connection.send(whole[sent:min(size, sent + 50000)])
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                while data := connection.recv(65536):
                    got += data
                if len(got) < size:
                    raise Failure(f"it ended after {len(got)} bytes")
    if got != whole[:size]:
        raise Failure("bytes changed on the way")
    check_audit(world.proxy, [{"bytes_up": size, "bytes_down": size}])


def test_holds_little_for_a_guest_that_does_not_read(world):
    upstream = world.upstreams["good"]
    sent = [0]

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        connection.settimeout(1)  # once the buffers are full it stands still
        with contextlib.suppress(TimeoutError, ssl.SSLError, OSError):
            while True:
                sent[0] += connection.send(b"x" * 65536)

    upstream.expect(script)
    with guest(world) as connection:
        connection.sendall(request(port=upstream.port))
        read_head(connection)
        upstream.settle()
        held = world.proxy.status("Private_Dirty")
    if held > 8192:
        raise Failure(f"{held} KiB")
    if sent[0] > 32 << 20:
        raise Failure(f"{sent[0]} bytes were taken from the upstream")
    drain_after(world.proxy, 1)


def drain_after(proxy, count):
    if len(proxy.audit(count)) != count:
        raise Failure("no audit line")


def test_serves_many_connections_at_once(world):
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    errors = []

    def one(number):
        try:
            with guest(world) as connection:
                connection.sendall(request(b"/%d" % number, port=upstream.port))
                check_guest(connection, OK, [])
        except Exception as e:  # pylint: disable=broad-except; told below
            errors.append(e)

    # connect() counts streams; the supervisor is one process, too.
    lock, connect = threading.Lock(), world.proxy.connect

    def locked_connect(*arguments):
        with lock:
            return connect(*arguments)

    world.proxy.connect = locked_connect
    try:
        threads = [threading.Thread(target=one, args=(i,)) for i in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        world.proxy.connect = connect
    if errors:
        raise errors[0]
    drain_after(world.proxy, 100)


def test_lets_go_of_an_upstream_when_the_guest_is_gone(world):
    upstream = world.upstreams["good"]
    asked, ended = threading.Event(), threading.Event()

    def script(connection):
        read_head(connection)
        asked.set()
        if read_to_end(connection) == b"":
            ended.set()

    upstream.expect(script)
    with guest(world) as connection:
        connection.sendall(request(port=upstream.port))
        asked.wait(DEADLINE_S)
    if not ended.wait(DEADLINE_S):
        raise Failure("the upstream connection stayed")
    check_audit(world.proxy, [{"decision": "error", "reason": "guest-gone"}])


def test_answers_a_guest_that_has_ended_its_sending(world):
    upstream = world.upstreams["http"]
    upstream.expect(serve_requests)
    with guest(world, port="http", tls=False) as connection:
        connection.sendall(request(port=upstream.port))
        connection.shutdown(socket.SHUT_WR)
        check_guest(connection, OK, [])
        if read_to_end(connection):
            raise Failure("more than the answer")
    drain_after(world.proxy, 1)


def test_is_a_proxy_that_guests_can_talk_to(world):
    """Beside taking what they send to others: for programs that want one by its name."""
    http, https = world.upstreams["http"], world.upstreams["good"]
    proxy = "proxy.bellglass.internal"
    got = []

    def script(connection):
        got.append(read_head(connection))
        connection.sendall(OK)
        read_to_end(connection)

    http.expect(script)
    https.expect(script)
    connection, status = world.proxy.connect(proxy, 3128)
    with connection:
        connection.sendall(b"GET http://h.test:%d/x HTTP/1.1\r\nHost: h.test:%d\r\n\r\n"
                           % (http.port, http.port))
        check_guest(connection, OK, [])
        connection.sendall(b"GET http://refused.test/ HTTP/1.1\r\nHost: refused.test\r\n\r\n")
        check_guest(connection, (403, b"--allow refused.test"), [])
    connection, status = world.proxy.connect(proxy, 3128)
    with connection:
        connection.sendall(b"CONNECT k.test:%d HTTP/1.1\r\nHost: k.test:%d\r\n\r\n"
                           % (https.port, https.port))
        if b" 200 " not in read_head(connection):
            raise Failure("no tunnel")
        with wrap(connection, world.proxy, "k.test") as tls:
            tls.sendall(request(b"/", b"A: " + harness.PLACEHOLDERS["KEY"].encode() + b"\r\n",
                                https.port, b"k.test"))
            if b" 200 " not in read_head(tls):
                raise Failure("no answer")
    http.settle()
    https.settle()
    if not got[0].startswith(b"GET /x HTTP/1.1\r\n") or harness.SECRETS["KEY"].encode() not in got[1]:
        raise Failure(f"the upstreams got {got}")
    check_audit(world.proxy, ({"decision": "allow", "scheme": "http", "host": "h.test"},
                              {"decision": "deny", "reason": "host-not-allowed"},
                              {"decision": "allow", "scheme": "https", "secrets": ["KEY"]}))
    # By no other port or form.
    for port, form in ((3129, 1), (3128, 2)):
        connection, status = world.proxy.connect(proxy, port, form)
        if status == 0:
            with connection:
                connection.sendall(b"GET http://h.test:%d/ HTTP/1.1\r\nHost: h.test:%d\r\n\r\n"
                                   % (http.port, http.port))
                check_guest(connection, (403, b"not allowed"), [])
    check_audit(world.proxy, ({"decision": "deny"},) * 2)


def test_takes_a_client_hello_in_records_of_one_byte(world):
    hello = client_hello(world.proxy, "h.test")[5:]
    connection, _ = world.proxy.connect("h.test", world.port("good"))
    with connection:
        for byte in hello:
            connection.sendall(b"\x16\x03\x01\x00\x01" + bytes([byte]))
        if connection.recv(1) != b"\x16":
            raise Failure("no ServerHello")
    drain_after(world.proxy, 1)


def test_refuses_tls_garbage(world):
    cases = [b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\x16\x03\x01\xff\xff",
             b"\x16\x02\x00\x00\x01", b"\x16\x03\x01\x40\x00\x01\x00\xff\xfc" + b"\0" * 16380]
    for case in cases:
        connection, _ = world.proxy.connect("h.test", world.port("good"))
        with connection:
            connection.sendall(case)
            answer = read_to_end(connection)
        if answer != b"\x15\x03\x03\x00\x02\x02\x32":
            raise Failure(f"{case[:8]!r}: {answer!r}")
        check_audit(world.proxy, [{"decision": "deny", "reason": "bad-client-hello"}])


def test_refuses_old_tls(world):
    context = world.proxy.ca_context(["http/1.1"])
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with contextlib.suppress(ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    connection, _ = world.proxy.connect("h.test", world.port("good"))
    try:
        context.wrap_socket(connection, server_hostname="h.test").close()
    except ssl.SSLError:
        check_audit(world.proxy, [{"decision": "error", "reason": "guest-tls"}])
        return
    raise Failure("TLS 1.1 was spoken")


def test_mints_more_names_than_it_keeps(world):
    for number in list(range(300)) + [0, 299]:
        connection, _ = world.proxy.connect(f"n{number}.nobody.test", 443)
        with wrap(connection, world.proxy, f"n{number}.nobody.test") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if read_response(tls)[0] != 403:
                raise Failure("not refused")
    drain_after(world.proxy, 302)


def test_takes_odd_messages_of_the_supervisor(world):
    proxy = world.proxy
    for body in (b"x", b"\1\0\0\0", b"\1\0\0\0\1\0\0\0\0\0\0", struct.pack("<IBHI", 1, 3, 80, 1) + b"a",
                 struct.pack("<IBHI", 1, 1, 80, 9) + b"a", struct.pack("<IBHI", 1, 1, 0, 1) + b"a",
                 struct.pack("<IBHI", 1, 1, 80, 1) + b"\0"):
        with proxy.message(body) as connection:
            header = read_exactly(connection, 12)
            if len(header) != 12 or struct.unpack("<4siI", header)[1] != -71:
                raise Failure(f"{body!r}: {header!r}")
    with proxy.message(b"x" * 5000) as connection:  # too long to be one
        if read_to_end(connection):
            raise Failure("an answer to no message")
    proxy.supervisor.send(b"no socket with it")
    upstream = world.upstreams["http"]
    upstream.expect(serve_requests)
    with guest(world, port="http", tls=False) as connection:
        connection.sendall(request(port=upstream.port))
        check_guest(connection, OK, [])
    drain_after(proxy, 1)


def test_keeps_secrets_to_itself(world):
    pid = world.proxy.process.pid
    places = {"audit": world.proxy.audit_path, "log": world.proxy.log_path,
              "arguments": f"/proc/{pid}/cmdline"}
    if os.geteuid() == 0:
        places["environment"] = f"/proc/{pid}/environ"
    else:
        try:
            open(f"/proc/{pid}/mem", "rb").close()
        except PermissionError:
            pass
        else:
            raise Failure("its memory can be read")
    for secret in harness.SECRETS.values():
        for what, path in places.items():
            with open(path, "rb") as f:
                if secret.encode() in f.read():
                    raise Failure(f"a secret is in the {what}")
        if secret.encode() in world.seen:
            raise Failure("a guest got a secret")
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    if status["NoNewPrivs"] != "1":
        raise Failure("new privileges can be had")
    if not harness.SANITIZED and status["Seccomp"] != "2":
        raise Failure("no seccomp filter")
    if os.geteuid() == 0 and "0" in status["Uid"].split():
        raise Failure("it runs as root")
    with open(f"/proc/{pid}/limits", encoding="ascii") as f:
        core = next(line for line in f if line.startswith("Max core"))
    if core.split()[4] != "0":
        raise Failure("it can dump core")


def test_is_small_when_idle(world):
    proxy = world.make("idle")
    connection, _ = proxy.connect("nobody.test", 80)
    with connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read_response(connection)
    private = proxy.status("Private_(?:Clean|Dirty)")
    print(f"# idle: {private} KiB private, of it {proxy.status('Private_Dirty')} KiB dirty")
    if proxy.stop() != 0:
        raise Failure("it did not end well")
    if private > 4096:
        raise Failure(f"{private} KiB private")


def test_comes_back_from_files_alone(world):
    upstream = world.upstreams["good"]
    proxy = world.make("crash")
    asked = threading.Event()

    def stuck(connection):
        read_head(connection)
        asked.set()
        read_to_end(connection)

    upstream.expect(stuck)
    with guest(world, proxy=proxy) as connection:
        connection.sendall(request(port=upstream.port))
        asked.wait(DEADLINE_S)
        proxy.process.send_signal(signal.SIGKILL)
        proxy.process.wait(DEADLINE_S)
        if read_to_end(connection):
            raise Failure("an answer from the dead")
    proxy.supervisor.close()
    proxy.start()
    upstream.expect(serve_requests)
    with guest(world, host="k.test", proxy=proxy) as connection:
        connection.sendall(request(port=upstream.port, host=b"k.test", extra=b"A: %s\r\n" %
                                   harness.PLACEHOLDERS["KEY"].encode()))
        check_guest(connection, rows.SCRUBBED_OK, [])
    lines = proxy.audit(3)
    if lines[-1]["secrets"] != ["KEY"]:
        raise Failure(f"{lines}")
    if proxy.stop() != 0:
        raise Failure("it did not end well")


def test_lets_requests_end_when_it_is_replaced(world):
    proxy = world.make("drained")
    proxy.audit(1)  # LOST has no value
    upstream = world.upstreams["good"]
    asked, go_on = threading.Event(), threading.Event()

    def script(connection):
        if b"GET /slow " not in read_head(connection):
            connection.sendall(OK)
            read_to_end(connection)
            return
        asked.set()
        go_on.wait(DEADLINE_S)
        connection.sendall(OK)
        read_to_end(connection)

    upstream.expect(script)
    with guest(world, proxy=proxy) as slow, guest(world, proxy=proxy) as idle, \
            guest(world, proxy=proxy, tls=False) as silent:
        idle.sendall(request(port=upstream.port))
        check_guest(idle, OK, [])
        slow.sendall(request(path=b"/slow", port=upstream.port))
        asked.wait(DEADLINE_S)
        proxy.supervisor.close()
        if read_to_end(idle) or read_to_end(silent):
            raise Failure("something came from the old one")
        go_on.set()
        check_guest(slow, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), [])
        if read_to_end(slow):
            raise Failure("it goes on")
    if proxy.process.wait(DEADLINE_S) != 0:
        raise Failure(proxy.log())


def test_says_at_start_which_secret_is_missing(world):
    proxy = world.make("missing")
    check_audit(proxy, [{"decision": "error", "reason": "secret-without-value",
                         "secrets_without_value": ["LOST"]}])
    with open(proxy.log_path, encoding="utf-8") as f:
        if "no secret 'LOST'; set it with 'bellglass secret set LOST'" not in f.read():
            raise Failure("the log does not say it")
    proxy.stop()


def expect_no_start(proxy, text):
    if proxy.process.wait(DEADLINE_S) != 125:
        raise Failure("it started")
    with open(proxy.log_path, encoding="utf-8") as f:
        log = f.read()
    if text not in log:
        raise Failure(f"the log says {log!r}")
    proxy.supervisor.close()


def test_does_not_start_on_damaged_files(world):
    proxy = world.make("damaged", allow=["good.test", "bad rule"])
    expect_no_start(proxy, "'bad rule'")
    proxy = world.make("damaged2")
    proxy.stop()
    with open(os.path.join(proxy.home, "data", "ca", "ca.key"), "w", encoding="ascii") as f:
        f.write("nonsense")
    proxy.start()
    expect_no_start(proxy, "remove both and a new CA is made")
    os.remove(os.path.join(proxy.home, "data", "ca", "ca.key"))
    os.remove(os.path.join(proxy.home, "data", "ca", "ca.pem"))
    with open(os.path.join(proxy.sandbox, "sandbox.json"), "w", encoding="ascii") as f:
        f.write("{")
    proxy.start()
    expect_no_start(proxy, "sandbox.json")


def test_ends_slow_phases(world):
    """Each by a proxy that hurries in this phase only: no other may take longer than that here."""
    upstream = world.upstreams["http"]
    head = b"GET / HTTP/1.1\r\nHost: h.test:%d\r\n" % upstream.port
    body = head.replace(b"GET", b"POST") + b"Content-Length: 5\r\n\r\nhe"
    late = {"reason": "timeout"}
    for name, phase, port, sent, status, audit in (
            ("head", "head", "http", head, 408, [dict(late, status=408)]),
            ("no head", "head", "good", b"", None, []),
            ("idle", "idle", "http", head + b"\r\n", 200, [rows.ALLOWED]),
            ("body", "stall", "http", body, 408, [dict(late, status=408)]),
            ("response", "response", "http", head + b"Connection: close\r\n\r\n", 504,
             [dict(late, status=504)]),
            # A handshake that has not begun, and one that stops half-way.
            ("hello", "handshake", None, b"\x16\x03", None, [late]),
            ("handshake", "handshake", None, client_hello(world.proxy, "h.test"), None, [late])):
        proxy = world.make(f"slow-{name}", secrets={}, options=[f"--timeout={phase}=200"])
        upstream.expect(serve_requests if status == 200 else read_to_end)
        with guest(world, proxy=proxy, port=port or "good", tls=port == "good") as connection:
            connection.sendall(sent)
            if status and read_response(connection)[0] != status:
                raise Failure(f"{name}: not {status}")
            if read_to_end(connection) and port:
                raise Failure(f"{name}: not closed")
        check_audit(proxy, audit)
        if proxy.audit_rest():
            raise Failure(f"{name}: {proxy.audit_rest()!r}")
        proxy.check_end()


def test_ends_a_guest_that_does_not_read(world):
    proxy = world.make("stalled", options=["--timeout=stall=300"], secrets={})
    upstream = world.upstreams["http"]

    def script(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x" * 65536)

    upstream.expect(script)
    with guest(world, proxy=proxy, tls=False, port="http") as connection:
        connection.sendall(request(port=upstream.port))
        check_audit(proxy, [{"reason": "timeout", "detail": "the answer was not read"}])
        upstream.settle()
    proxy.stop()


def test_gives_certificates_for_one_name_and_a_short_time(world):
    with guest(world) as connection:
        mine = connection.getpeercert()
    with guest(world, host="e.test") as connection:
        other = connection.getpeercert()
    if mine["subjectAltName"] != (("DNS", "h.test"),) or mine["serialNumber"] == other["serialNumber"]:
        raise Failure(f"{mine}")
    life = ssl.cert_time_to_seconds(mine["notAfter"]) - time.time()
    if not 0 < life < 8 * 86400:
        raise Failure(f"valid for {life} s")


def test_serves_fewer_with_fewer_files(world):
    proxy = world.make("files")
    proxy.stop()
    proxy.start(["prlimit", "--nofile=108:108"])
    held = [proxy.connect("h.test", world.port("good")) for _ in range(6)]
    text, status = proxy.connect("h.test", world.port("good"))
    if any(s for _, s in held) or status != -11:
        raise Failure(f"{status} {text!r}")
    for connection, _ in held:
        connection.close()
    proxy.stop()


def test_counts_connections(world):
    proxy = world.make("few", options=["--connections=4"])
    drain_after(proxy, 1)  # LOST
    held = [proxy.connect("h.test", world.port("good")) for _ in range(4)]
    if any(status for _, status in held):
        raise Failure("refused too early")
    text, status = proxy.connect("h.test", world.port("good"))
    if status != -11 or b"too many" not in text:
        raise Failure(f"{status} {text!r}")
    held.pop()[0].close()
    deadline = time.monotonic() + DEADLINE_S
    while proxy.connect("h.test", world.port("good"))[1] != 0:
        if time.monotonic() > deadline:
            raise Failure("a place did not become free")
    for connection, _ in held:
        connection.close()
    proxy.stop()


def test_reaches_the_web_by_name(world):
    net = Internet.of(world)
    for host, upstream, port, address in (("public.test", net.http, 80, PUBLIC),
                                          ("public.test", net.https, 443, PUBLIC),
                                          ("six.test", net.six, 80, PUBLIC_6)):
        got = net.get(host, upstream, port)
        if got != (200, b"Host: " + host.encode()):
            raise Failure(f"{host}: {got}")
        check_audit(net.proxy, [dict(rows.ALLOWED, address=address, rule="*.test")])


def test_dials_only_the_public_ones_of_many_addresses(world):
    net = Internet.of(world)
    if net.get("mixed.test", net.http)[0] != 200:
        raise Failure("not reached")
    check_audit(net.proxy, [dict(rows.ALLOWED, address=PUBLIC)])


def test_tries_the_next_address(world):
    net = Internet.of(world)
    if net.get("later.test", net.http)[0] != 200:
        raise Failure("not reached")
    check_audit(net.proxy, [dict(rows.ALLOWED, address=PUBLIC)])


def test_refuses_names_of_private_addresses(world):
    net = Internet.of(world)
    for number, address in enumerate(net.PRIVATE):
        status, body = net.get(f"p{number}.test")
        if status != 403 or b"resolves to" not in body or b"public" in body:
            raise Failure(f"{address}: {status} {body!r}")
        check_audit(net.proxy, [{"decision": "deny", "reason": "address-not-public"}])


def test_resolves_a_name_once(world):
    net = Internet.of(world)
    if net.get("rebind.test", net.http)[0] != 200:
        raise Failure("not reached")
    if net.names.queries.count(("rebind.test", 1)) != 1:
        raise Failure(f"{net.names.queries}")
    if net.get("rebind.test")[0] != 403:  # decided anew, with the new address
        raise Failure("not refused")
    check_audit(net.proxy, [rows.ALLOWED, {"reason": "address-not-public"}])


def test_asks_nobody_about_a_refused_name(world):
    net = Internet.of(world)
    before = len(net.names.queries)
    for host, port in (("stolen-data.attacker.example", 80), ("stolen-data.attacker.example", 443)):
        if net.get(host, None, port)[0] != 403:
            raise Failure("not refused")
    if len(net.names.queries) != before:
        raise Failure(f"{net.names.queries[before:]}")
    check_audit(net.proxy, [{"reason": "host-not-allowed"}] * 2)


def test_does_not_wait_for_a_name_server(world):
    Internet.of(world)
    proxy = world.make("impatient", allow=["*.test"], secrets={}, options=["--timeout=resolve=300"])
    with guest(world, "silent.test", 80, tls=False, proxy=proxy) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: silent.test\r\n\r\n")
        status, _, body = read_response(connection)
    if status != 504 or b"DNS did not answer" not in body:
        raise Failure(f"{status} {body!r}")
    check_audit(proxy, [{"decision": "error", "reason": "timeout", "status": 504}])
    proxy.check_end()


class Forward:
    """bellglass-proxy as a forward proxy."""

    def __init__(self, world, *options):
        self.home = os.path.join(world.folder, "main")
        environment = dict(os.environ, BELLGLASS_HOME=self.home)
        self.process = subprocess.Popen(
            [world.proxy.program("bellglass-proxy"), "--listen", "127.0.0.1:0", *options],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(DEADLINE_S)
        return connection

    def stop(self):
        self.process.terminate()
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        if self.process.returncode != 0:
            raise Failure(f"status {self.process.returncode}: {errors}")
        return errors


def test_is_a_forward_proxy(world):
    http, https = world.upstreams["http"], world.upstreams["good"]
    forward = Forward(world, "--allow", f"h.test:{http.port}=127.0.0.1", "--allow",
                      f"k.test:{https.port}=127.0.0.1", "--secret", "KEY@k.test", "--upstream-ca",
                      world.certificates.path("ca.pem"))
    name, _, placeholder = forward.process.stdout.readline().strip().partition("=")
    if name != "KEY" or not placeholder.startswith("BELLGLASS_SECRET_"):
        raise Failure("no placeholder")
    got = []

    def script(connection):
        got.append(read_head(connection))
        connection.sendall(OK)
        read_to_end(connection)

    http.expect(script)
    https.expect(script)
    with forward.connect() as connection:
        connection.sendall(b"GET http://h.test:%d/x HTTP/1.1\r\nHost: h.test:%d\r\n"
                           b"Proxy-Connection: keep-alive\r\n\r\n" % (http.port, http.port))
        check_guest(connection, OK, [])
        connection.sendall(b"GET http://nobody.test/ HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
        if read_response(connection)[0] != 403:
            raise Failure("not refused")
        connection.sendall(b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n")
        if read_response(connection)[0] != 400:
            raise Failure("not refused")
    with forward.connect() as connection:
        connection.sendall(b"CONNECT k.test:%d HTTP/1.1\r\nHost: k.test:%d\r\n\r\n"
                           % (https.port, https.port))
        if b" 200 " not in read_head(connection):
            raise Failure("no tunnel")
        with wrap(connection, world.proxy, "k.test") as tls:
            tls.sendall(request(port=https.port, host=b"k.test",
                                extra=b"A: %s\r\n" % placeholder.encode()))
            check_guest(tls, rows.SCRUBBED_OK, [])
    with forward.connect() as connection:
        connection.sendall(b"CONNECT nobody.test:443 HTTP/1.1\r\nHost: nobody.test:443\r\n\r\n")
        if b" 403 " not in read_head(connection):
            raise Failure("not refused")
    if got != [b"GET /x HTTP/1.1\r\nHost: h.test:%d\r\n\r\n" % http.port,
               request(port=https.port, host=b"k.test", extra=b"A: %s\r\n%s" %
                       (harness.SECRETS["KEY"].encode(), rows.PLAIN))]:
        raise Failure(f"{got}")
    lines = [json.loads(line) for line in forward.stop().splitlines() if line.startswith("{")]
    if [line["decision"] for line in lines] != ["allow", "deny", "deny", "allow", "deny"]:
        raise Failure(f"{lines}")


def test_holds_a_tunnel_to_its_name(world):
    """41: CONNECT to one host, and another one's server name inside."""
    https = world.upstreams["good"]
    https.expect(None)
    rules = [f"{host}:{https.port}=127.0.0.1" for host in ("h.test", "e.test")]
    forward = Forward(world, "--allow", rules[0], "--allow", rules[1])
    for name in ("e.test", "nobody.test"):
        with forward.connect() as connection:
            connection.sendall(b"CONNECT h.test:%d HTTP/1.1\r\nHost: h.test:%d\r\n\r\n"
                               % (https.port, https.port))
            if b" 200 " not in read_head(connection):
                raise Failure("no tunnel")
            try:
                wrap(connection, world.proxy, name).close()
            except ssl.SSLError as e:
                if "unrecognized name" in str(e).lower().replace("_", " "):
                    continue
                raise
            raise Failure("the handshake did not fail")
    lines = [json.loads(line) for line in forward.stop().splitlines() if line.startswith("{")]
    if [line["reason"] for line in lines if line["decision"] == "deny"] != ["identity-mismatch"] * 2:
        raise Failure(f"{lines}")
    if https.settle()[0]:
        raise Failure("an upstream was reached")


def test_lets_nothing_out_when_the_audit_log_is_full(world):
    upstream = world.upstreams["http"]
    upstream.expect(serve_requests)
    forward = Forward(world, "--allow", f"h.test:{upstream.port}=127.0.0.1", "--audit", "/dev/full")
    target = b"GET http://h.test:%d/ HTTP/1.1\r\nHost: h.test:%d\r\n\r\n" % (upstream.port,
                                                                            upstream.port)
    with forward.connect() as connection:
        connection.sendall(target)  # its line is the first that cannot be written
        check_guest(connection, OK, [])
        connection.sendall(target)
        status, _, body = read_response(connection)
        if status != 503 or b"audit log cannot be written" not in body:
            raise Failure(f"{status} {body!r}")
    if "cannot write the audit log" not in forward.stop():
        raise Failure("the log does not say it")


def test_makes_one_ca_for_all_who_come_at_once(world):
    home = os.path.join(world.folder, "race")
    environment = dict(os.environ, BELLGLASS_HOME=home)
    program = world.proxy.program("bellglass-proxy")
    many = [subprocess.Popen([program, "ca-path"], env=environment, stdout=subprocess.PIPE,
                             text=True) for _ in range(8)]
    paths = {p.communicate(timeout=DEADLINE_S)[0] for p in many}
    if any(p.returncode for p in many) or len(paths) != 1:
        raise Failure(f"{paths}")
    folder = os.path.join(home, "data", "ca")
    if sorted(os.listdir(folder)) != ["ca.key", "ca.pem", "lock"]:
        raise Failure(f"{os.listdir(folder)}")
    if os.stat(os.path.join(folder, "ca.key")).st_mode & 0o777 != 0o600:
        raise Failure("the key's mode")
    # They fit each other: the next one takes them.
    harness.run("env", f"BELLGLASS_HOME={home}", program, "ca-path")


def secret(world, *arguments, value=b"", variables=None):
    environment = dict(os.environ, BELLGLASS_HOME=os.path.join(world.folder, "store"),
                       **(variables or {}))
    return subprocess.run([world.proxy.program("bellglass-secret"), *arguments], input=value,
                          env=environment, capture_output=True, timeout=DEADLINE_S)


def test_stores_secrets_without_showing_them(world):
    for arguments, value, variables in (
            (("set", "A"), b"value-1\n", None), (("set", "B", "--from-env", "SRC"), b"",
                                                 {"SRC": "value-2"})):
        done = secret(world, *arguments, value=value, variables=variables)
        if done.returncode != 0 or done.stdout or done.stderr:
            raise Failure(f"{done}")
    folder = os.path.join(world.folder, "store", "data", "secrets")
    with open(os.path.join(folder, "A"), "rb") as a, open(os.path.join(folder, "B"), "rb") as b:
        if a.read() != b"value-1" or b.read() != b"value-2":
            raise Failure("not what was set")
    listed = secret(world, "ls", "--json")
    if [e["name"] for e in json.loads(listed.stdout)] != ["A", "B"] or b"value" in listed.stdout:
        raise Failure(f"{listed}")
    if b"value" in secret(world, "ls").stdout:
        raise Failure("a value is listed")
    for arguments, value, text in (
            (("set", "A"), b"a\nb", b"line break"), (("set", "A"), b"", b"empty"),
            (("set", "A"), b"x" * 65537, b"larger"), (("set", "A"), b"a\0b", b"NUL"),
            (("set", "1A"), b"x", b"name"), (("set", "A", "value-3"), b"", b"stdin"),
            (("set", "A", "--from-env", "NOT_SET"), b"", b"not set"), (("rm", "C"), b"", b"no secret"),
            (("frob",), b"", b"see bellglass secret --help"), ((), b"", b"--help")):
        done = secret(world, *arguments, value=value)
        if done.returncode != 125 or text not in done.stderr or b"value-3" in done.stderr:
            raise Failure(f"{arguments}: {done}")
    if secret(world, "rm", "A").returncode != 0 or os.path.exists(os.path.join(folder, "A")):
        raise Failure("not removed")
    if not secret(world, "--help").stdout.startswith(b"usage: bellglass secret"):
        raise Failure("no help")


def main():
    tap = Tap()
    with harness.temporary_folder() as folder:
        world = World(folder)
        drain_after(world.proxy, 1)  # LOST has no value; it says so at start
        only = os.environ.get("BG_TEST_ONLY", "")
        for row in rows.ROWS:
            name = f"{row.number}: {row.name}" if row.number else row.name
            if (row.alone and not world.alone) or only not in name:
                continue
            tap.check(name, run_row, row, world)
        for module in MODULES:
            for name, test in list(vars(module).items()):
                if name.startswith("test_") and only in name:
                    tap.check(name[5:].replace("_", " "), run_test, test, world)
        tap.check("ends when its supervisor does", world.proxy.check_end)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
