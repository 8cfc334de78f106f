"""TLS towards upstreams: sessions that are resumed, certificates that are revoked or weak, and what a
peer of TLS may try."""

import contextlib
import ssl
import subprocess

import harness
import rows
from harness import DEADLINE_S, Failure, Upstream
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


class Stapler:
    """openssl s_server, which staples a response of the CA about its certificate."""

    def __init__(self, world, certificate, response):
        c = world.certificates
        with contextlib.closing(harness.socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-www", "-cert",
             c.path(certificate + ".pem"), "-key", c.path(certificate + ".key"),
             *(["-status_file", response] if response else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while "ACCEPT" not in self.process.stdout.readline():
            if self.process.poll() is not None:
                raise Failure("s_server ended")

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
        with Stapler(world, certificate, response) as stapler:
            proxy = world.make(f"staple-{number}", allow=[f"h.test:{stapler.port}=127.0.0.1"], secrets={})
            with guest(world, port=stapler.port, proxy=proxy) as connection:
                connection.sendall(request(port=stapler.port))
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
