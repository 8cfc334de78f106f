"""TLS towards upstreams: sessions that are resumed, certificates that are revoked or weak, and what a
peer of TLS may try."""

import contextlib
import socket
import ssl
import subprocess
import threading
import warnings

import harness
import rows
from harness import DEADLINE_S, Failure, Upstream, read_to_end
from world import check_audit, check_guest, guest, read_head, read_response, request

CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def get_each(world, proxy, upstreams_and_hosts):
    """Sends a request to each, on connections of their own. Returns whether the upstream's session was
    resumed."""
    resumed = []

    def script(connection):
        resumed.append(connection.session_reused)
        read_head(connection)
        connection.sendall(CLOSING)

    for upstream, host in upstreams_and_hosts:
        upstream.expect(script)
        with guest(world, host=host, port=upstream.port, proxy=proxy) as connection:
            connection.sendall(request(port=upstream.port, host=host.encode()))
            check_guest(connection, rows.OK, [])
        upstream.settle()
    proxy.audit(len(upstreams_and_hosts))
    return resumed


@contextlib.contextmanager
def a_proxy(world, name, upstreams, hosts=("h.test", "e.test")):
    proxy = world.make(name, allow=[f"{host}:{u.port}=127.0.0.1" for u in upstreams for host in hosts],
                       secrets={})
    yield proxy
    if proxy.stop() != 0:
        raise Failure("it did not end well")


def test_resumes_tls_sessions(world):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = world.certificates.server_context("good")
        context.minimum_version = context.maximum_version = version
        first, second = Upstream(context), Upstream(context)
        with a_proxy(world, f"resumes-{version.name}", (first, second)) as proxy:
            # Not for another host, nor another port: there the certificate is verified first.
            got = get_each(world, proxy, [(first, "h.test"), (first, "h.test"), (first, "e.test"),
                                          (second, "h.test"), (first, "h.test"), (second, "h.test")])
            if got != [False, True, False, False, True, True]:
                raise Failure(f"{version.name}: {got}")
            # A proxy with another policy is another process.
            proxy.stop()
            proxy.start()
            got = get_each(world, proxy, [(first, "h.test"), (first, "h.test")])
            if got != [False, True]:
                raise Failure(f"{version.name}, after a restart: {got}")


def test_uses_each_ticket_once(world):
    context = world.certificates.server_context("good")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    upstream = Upstream(context)
    with a_proxy(world, "once", (upstream,)) as proxy:
        context.num_tickets = 1
        got = get_each(world, proxy, [(upstream, "h.test")])
        context.num_tickets = 0
        got += get_each(world, proxy, [(upstream, "h.test")] * 2)
    if got != [False, True, False]:
        raise Failure(f"{got}")


def test_verifies_anew_what_is_not_resumed(world):
    """The host comes back with another key and a certificate of nobody's, in the same place."""
    good = world.certificates.server_context("good")
    upstream = Upstream(good)
    refused = {"decision": "error", "reason": "upstream-certificate", "status": 502}
    with a_proxy(world, "anew", (upstream,)) as proxy:
        if get_each(world, proxy, [(upstream, "h.test")] * 2) != [False, True]:
            raise Failure("not resumed")
        upstream.context = world.certificates.server_context("unknown")
        for _ in range(2):
            upstream.expect(None)
            with guest(world, port=upstream.port, proxy=proxy) as connection:
                connection.sendall(request(port=upstream.port))
                if read_response(connection)[0] != 502:
                    raise Failure("taken")
            check_audit(proxy, [refused])
            upstream.settle()
        # Of the old host nothing is believed any more: its tickets were dropped.
        upstream.context = good
        if get_each(world, proxy, [(upstream, "h.test")]) != [False]:
            raise Failure("resumed after a failure")


class TlsServer:
    """openssl s_server, which can staple a response of the CA about its certificate."""

    def __init__(self, world, certificate, response, *options, www=True):
        c = world.certificates
        self.process = subprocess.Popen(
            ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert",
             c.path(certificate + ".pem"), "-key", c.path(certificate + ".key"),
             *options, *(["-status_file", response] if response else []),
             *(["-www"] if www else ["-naccept", "1"])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while not (line := self.process.stdout.readline()).startswith("ACCEPT "):
            if not line:
                raise Failure("s_server ended")
        self.port = int(line.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=DEADLINE_S)


def ocsp_response(world, certificate, status):
    """A file with what the CA says of a certificate. status: of openssl's index.txt."""
    c = world.certificates
    serial = subprocess.run(["openssl", "x509", "-in", c.path(certificate + ".pem"), "-noout", "-serial"],
                            check=True, capture_output=True, text=True).stdout.strip().split("=")[1]
    index, out = c.path("index.txt"), c.path(f"{certificate}-{status}.ocsp")
    with open(index, "w", encoding="ascii") as f:
        f.write(f"{status}\t491231235959Z\t{'260101000000Z' if status == 'R' else ''}\t{serial}\tunknown\t"
                "/CN=upstream\n")
    harness.run("openssl", "ocsp", "-index", index, "-CA", c.path("ca.pem"), "-rsigner", c.path("ca.pem"),
                "-rkey", c.path("ca.key"), "-issuer", c.path("ca.pem"), "-cert",
                c.path(certificate + ".pem"), "-respout", out, "-noverify", "-ndays", "2")
    return out


def test_heeds_stapled_revocation(world):
    """More of it is in tests/unit/net/test_tls_staple.c."""
    c = world.certificates
    must = c.make("must", c.ca, "DNS:h.test\ntlsfeature=status_request")
    cases = [("good", ocsp_response(world, "good", "V"), None),
             ("good", ocsp_response(world, "good", "R"), b"certificate revoked"),
             (must, ocsp_response(world, must, "V"), None), (must, None, b"OCSP verification needed")]
    for number, (certificate, response, text) in enumerate(cases):
        with TlsServer(world, certificate, response) as server:
            proxy = world.make(f"staple-{number}", allow=[f"h.test:{server.port}=127.0.0.1"], secrets={})
            with guest(world, port=server.port, proxy=proxy) as connection:
                connection.sendall(request(port=server.port))
                head = read_head(connection)
                if text and (not head.startswith(b"HTTP/1.1 502") or text not in connection.recv(4096)):
                    raise Failure(f"case {number}: {head!r}")
            if not text and not head.startswith(b"HTTP/1.1 200"):
                raise Failure(f"case {number}: {head!r}")
            line, = proxy.audit(1)
            if (line["reason"] == "upstream-certificate") != bool(text):
                raise Failure(f"case {number}: {line}")
            proxy.stop()


def test_refuses_weak_signatures(world):
    c = world.certificates
    weak = c.make("sha1", c.ca, "DNS:h.test", digest="sha1")
    upstream = Upstream(c.server_context(weak))
    proxy = world.make("sha1-proxy", allow=[f"h.test:{upstream.port}=127.0.0.1"], secrets={})
    with guest(world, port=upstream.port, proxy=proxy) as connection:
        connection.sendall(request(port=upstream.port))
        status, _, body = read_response(connection)
    if status != 502 or b"too weak" not in body:
        raise Failure(f"{status} {body!r}")
    check_audit(proxy, [{"decision": "error", "reason": "upstream-certificate"}])
    proxy.stop()


# --- what a peer of TLS may try ---

def pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def tcp_to(connection):
    """A TCP port whose one connection goes on to the guest's connection, for programs that take no
    socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            accepted, _ = listener.accept()
            with accepted, connection:
                back = threading.Thread(target=pump, args=(connection, accepted), daemon=True)
                back.start()
                pump(accepted, connection)
                back.join(DEADLINE_S)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(DEADLINE_S)


def s_client(world, *arguments, connection=None, port=None, send=b""):
    """Runs openssl s_client for h.test, on a guest's connection or at a port. Returns what it printed."""
    command = ["openssl", "s_client", "-servername", "h.test", "-CAfile", world.proxy.ca_path, *arguments]
    with (tcp_to(connection) if connection else contextlib.nullcontext(port)) as at:
        done = subprocess.run([*command, "-connect", f"127.0.0.1:{at}"], input=send, capture_output=True,
                              timeout=DEADLINE_S, check=False)
    return done.stdout + done.stderr


def test_does_not_renegotiate_with_a_guest(world):
    connection, _ = world.proxy.connect("h.test", world.port("good"))
    # "R" is s_client's command for it.
    printed = s_client(world, "-tls1_2", connection=connection, send=b"R\n")
    if b"RENEGOTIATING" not in printed or b"no renegotiation" not in printed:
        raise Failure(f"{printed[-2000:]!r}")
    world.proxy.audit_skip()


def test_takes_no_early_data(world):
    """A client that has a ticket of another server for the same name sends a request with it."""
    c = world.certificates
    ticket, early = c.path("ticket.pem"), c.path("early")
    port = world.port("good")
    with open(early, "wb") as f:
        f.write(request(path=b"/early", port=port))
    with TlsServer(world, "good", None, "-max_early_data", "16384") as server:
        s_client(world, "-sess_out", ticket, "-ign_eof", port=server.port,
                 send=b"GET / HTTP/1.0\r\n\r\n")
    got = []

    def script(connection):
        got.append(read_head(connection))
        connection.sendall(CLOSING)

    world.upstreams["good"].expect(script)
    connection, _ = world.proxy.connect("h.test", port)
    late = request(port=port, extra=b"Connection: close\r\n")
    printed = s_client(world, "-sess_in", ticket, "-early_data", early, "-ign_eof", connection=connection,
                       send=late)
    if b"Early data was rejected" not in printed or b"Verification: OK" not in printed:
        raise Failure(f"{printed[-2000:]!r}")
    if got != [request(port=port)]:
        raise Failure(f"the upstream got {got}")
    check_audit(world.proxy, [dict(rows.ALLOWED, path="/")])
    if world.proxy.audit_rest():
        raise Failure(f"{world.proxy.audit_rest()}")


def test_gives_guests_no_tickets(world):
    context = world.proxy.ca_context(["http/1.1"])
    upstream = world.upstreams["good"]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.maximum_version = version
        upstream.expect(lambda c: (read_head(c), c.sendall(CLOSING)))
        connection, _ = world.proxy.connect("h.test", upstream.port)
        with context.wrap_socket(connection, server_hostname="h.test") as tls:
            tls.sendall(request(port=upstream.port))
            check_guest(tls, rows.OK, [])
            if tls.session and (tls.session.has_ticket or tls.session.id):
                raise Failure(f"{version.name}: {tls.session}")
    world.proxy.audit_skip()


def client_hello(proxy, set_up=lambda context: None):
    context = proxy.ca_context(["http/1.1"])
    set_up(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="h.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_knows_no_heartbeat(world):
    # RFC 6520, asking for more bytes than it sends; before and after the ClientHello.
    heartbeat = b"\x18\x03\x03\x00\x03\x01\x40\x00"
    hello = client_hello(world.proxy)
    for sent, reason in ((hello + heartbeat, "guest-tls"), (heartbeat, None)):
        connection, _ = world.proxy.connect("h.test", world.port("good"))
        with connection:
            connection.sendall(sent)
            answer = read_to_end(connection) if reason else b""
        # Records of a handshake, a change of ciphers, or an alert at most.
        while answer:
            if answer[0] not in (20, 21, 22, 23) or answer[0] == 24:
                raise Failure(f"{answer!r}")
            answer = answer[5 + int.from_bytes(answer[3:5], "big"):]
        if reason:
            check_audit(world.proxy, [{"decision": "error", "reason": reason}])
    world.proxy.audit_skip()


def test_refuses_ciphers_that_are_none(world):
    for ciphers, version in (("NULL:@SECLEVEL=0", ssl.TLSVersion.TLSv1_2),
                             ("ADH:@SECLEVEL=0", ssl.TLSVersion.TLSv1_2),
                             ("AES128-SHA:@SECLEVEL=0", ssl.TLSVersion.TLSv1)):
        context = world.proxy.ca_context(["http/1.1"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers(ciphers)
        connection, _ = world.proxy.connect("h.test", world.port("good"))
        try:
            context.wrap_socket(connection, server_hostname="h.test").close()
        except ssl.SSLError:
            check_audit(world.proxy, [{"decision": "error", "reason": "guest-tls"}])
            continue
        raise Failure(f"{ciphers} was spoken")


def test_does_not_renegotiate_with_an_upstream(world):
    with TlsServer(world, "good", None, "-tls1_2", www=False) as server:
        proxy = world.make("renegotiating", allow=[f"h.test:{server.port}=127.0.0.1"], secrets={})
        with guest(world, port=server.port, proxy=proxy) as connection:
            connection.sendall(request(port=server.port))
            while not server.process.stdout.readline().startswith("GET /"):  # what it prints before
                pass
            server.process.stdin.write("r\n")  # its command for it
            server.process.stdin.flush()
            status, _, body = read_response(connection)
        if status != 502:
            raise Failure(f"{status} {body!r}")
        check_audit(proxy, [{"decision": "error", "reason": "upstream-response"}])
        if proxy.stop() != 0:
            raise Failure("it did not end well")


def test_takes_a_cut_for_no_end(world):
    """TLS without close_notify: anybody on the way may have ended it."""
    upstream = world.upstreams["good"]
    for host, head in (("h.test", b"HTTP/1.1 200 OK\r\n" + rows.CHUNKED + b"\r\n"),
                       ("k.test", rows.SCRUBBED_HEAD)):
        def script(connection):
            read_head(connection)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf of it")
            connection.shutdown(socket.SHUT_RDWR)

        upstream.expect(script)
        with guest(world, host=host) as connection:
            connection.sendall(request(port=upstream.port, host=host.encode()))
            check_guest(connection, head, [])
            rest = read_to_end(connection)
        if rest not in (b"", b"a\r\nhalf of it\r\n"):
            raise Failure(f"{host}: {rest!r}")
        check_audit(world.proxy, [{"decision": "error", "reason": "upstream-response"}])
