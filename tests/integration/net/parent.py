"""A parent proxy: connections go through it by CONNECT, and what it is not asked for."""

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import threading

import harness
import rows
from harness import DEADLINE_S, Failure, Upstream, read_to_end
from world import (MUTE, SILENT, Internet, check_audit, check_guest, guest, read_head, read_response,
                   request, serve_requests)

LOGIN = "corp-user:corp-password/1"


class Parent(Upstream):
    """A proxy that knows CONNECT. answer: what it says instead; it leads every host to loopback."""

    def __init__(self):
        self.asked = []
        self.answer = None
        super().__init__()
        self.expect(self.serve_one)

    def serve_one(self, connection):
        head = read_head(connection)
        self.asked.append(head)
        if self.answer is not None:
            connection.sendall(self.answer)
            if self.answer == b"":
                read_to_end(connection)
            return
        port = int(head.split(b" ")[1].rsplit(b":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as other:
            # In pieces, and with bytes of the other side right behind it.
            connection.sendall(b"HTTP/1.1 200 Connec")
            connection.sendall(b"tion established\r\nVia: x\r\n\r\n")
            back = threading.Thread(target=self.pump, args=(other, connection), daemon=True)
            back.start()
            self.pump(connection, other)
            back.join(DEADLINE_S)

    @staticmethod
    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def policy_for(parent, world, login=None):
    good, http = world.port("good"), world.port("http")
    return (f"network:\n  parent: http://127.0.0.1:{parent.port}/\n" +
            (f"  parent_login: {login}\n" if login else "") +
            f"  rules:\n    - allow: ['*.w.test', h.test, k.test, 1.2.3.4, wrong.test, 127.0.0.1]\n"
            f"      ports: [{good}, {http}, {world.port('wrong')}]\n"
            f"    - allow: direct.test\n      ports: [{http}]\n      addresses: 127.0.0.1\n"
            f"    - allow: tcp.test:{http}\n      protocol: tcp\n"
            f"    - allow: pass.rule.test:{good}\n      protocol: passthrough\n")


@contextlib.contextmanager
def through(world, name, login=None, store=None, options=()):
    """A proxy with a parent; no name means anything to DNS here."""
    parent = Parent()
    proxy = world.make(name, allow=["nobody.test"], policy=policy_for(parent, world, login),
                       secrets={"KEY": ["k.test"], "RULED": []}, options=options)
    if store:
        proxy.store(login, store)
        proxy.stop()
        proxy.start()
    yield parent, proxy
    if proxy.stop() != 0:
        raise Failure("it did not end well")


def connect_line(host, port):
    return b"CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n" % (host.encode(), port, host.encode(), port)


def test_goes_through_a_parent_proxy(world):
    good, http = world.upstreams["good"], world.upstreams["http"]
    placeholder, secret = (v["KEY"].encode() for v in (harness.PLACEHOLDERS, harness.SECRETS))
    got = []

    def script(connection):
        got.append(read_head(connection))
        connection.sendall(rows.OK)
        read_to_end(connection)

    with through(world, "parent") as (parent, proxy):
        good.expect(script)
        with guest(world, host="k.test", proxy=proxy) as connection:
            connection.sendall(request(port=good.port, host=b"k.test", extra=b"A: %s\r\n" % placeholder))
            check_guest(connection, rows.SCRUBBED_OK, [])
        http.expect(script)
        with guest(world, host="a.w.test", port="http", tls=False, proxy=proxy) as connection:
            connection.sendall(request(port=http.port, host=b"a.w.test"))
            check_guest(connection, rows.OK, [])
        check_audit(proxy, [dict(rows.USED, address="127.0.0.1"), rows.ALLOWED])
        if parent.asked != [connect_line("k.test", good.port) + b"\r\n",
                            connect_line("a.w.test", http.port) + b"\r\n"]:
            raise Failure(f"{parent.asked}")
    if secret not in got[0] or any(secret in asked for asked in parent.asked):
        raise Failure(f"{got}")


def test_passes_bytes_through_a_parent_proxy(world):
    good, http = world.upstreams["good"], world.upstreams["http"]
    with through(world, "parent-bytes", options=["--timeout=peek=50"]) as (parent, proxy):
        http.expect(lambda c: c.sendall(b"220 hello\r\n"))  # it speaks first
        with guest(world, host="tcp.test", port="http", tls=False, proxy=proxy) as connection:
            check_guest(connection, b"220 hello\r\n", [])
        good.expect(serve_requests)
        connection, _ = proxy.connect("pass.rule.test", good.port)
        context = ssl.create_default_context(cafile=world.certificates.path("ca.pem"))
        with context.wrap_socket(connection, server_hostname="pass.rule.test") as tls:
            tls.sendall(request(port=good.port, host=b"pass.rule.test"))
            check_guest(tls, rows.OK, [])
        if len(parent.asked) != 2:
            raise Failure(f"{parent.asked}")
        proxy.audit_skip()


def test_verifies_hosts_behind_a_parent_proxy(world):
    with through(world, "parent-false") as (_, proxy):
        world.upstreams["wrong"].expect(None)
        with guest(world, port="wrong", proxy=proxy) as connection:
            connection.sendall(request(port=world.port("wrong")))
            if read_response(connection)[0] != 502:
                raise Failure("taken")
        check_audit(proxy, [{"decision": "error", "reason": "upstream-certificate"}])


def test_asks_no_parent_for_what_is_inside(world):
    """Addresses that rules name are dialled; others that are not public are refused as ever."""
    http = world.upstreams["http"]
    with through(world, "parent-inside") as (parent, proxy):
        for host, form in (("direct.test", 1), ("127.0.0.1", 2)):
            http.expect(serve_requests)
            connection, _ = proxy.connect(host, http.port, form)
            with connection:
                connection.sendall(request(port=http.port, host=host.encode()))
                check_guest(connection, rows.OK, [])
            check_audit(proxy, [dict(rows.ALLOWED, address="127.0.0.1")])
        for host in ("10.0.0.1", "169.254.169.254", "192.168.1.1", "fd00::1"):
            connection, _ = proxy.connect(host, 80, 2)
            shown = b"[%s]" % host.encode() if ":" in host else host.encode()
            with connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % shown)
                if read_response(connection)[0] != 403:
                    raise Failure(f"{host}: not refused")
            check_audit(proxy, [{"decision": "deny", "reason": "host-not-allowed"}])
        if parent.asked:
            raise Failure(f"{parent.asked}")
        http.expect(serve_requests)
        connection, _ = proxy.connect("1.2.3.4", http.port, 2)  # a public one goes through it
        with connection:
            connection.sendall(request(port=http.port, host=b"1.2.3.4"))
            check_guest(connection, rows.OK, [])
        if parent.asked != [connect_line("1.2.3.4", http.port) + b"\r\n"]:
            raise Failure(f"{parent.asked}")
        proxy.audit_skip()


def test_logs_in_at_a_parent_proxy(world):
    http = world.upstreams["http"]
    want = b"Proxy-Authorization: Basic " + base64.b64encode(LOGIN.encode()) + b"\r\n"
    with through(world, "parent-login", "CORP", LOGIN) as (parent, proxy):
        http.expect(serve_requests)
        with guest(world, port="http", tls=False, proxy=proxy) as connection:
            # The guest's own is for us, and ends here.
            connection.sendall(request(port=http.port, extra=b"Proxy-Authorization: Basic eDp5\r\n"))
            check_guest(connection, rows.OK, [])
        if parent.asked != [connect_line("h.test", http.port) + want + b"\r\n"]:
            raise Failure(f"{parent.asked}")
        with open(proxy.audit_path, encoding="utf-8") as f:
            text = f.read() + proxy.log()
        if LOGIN in text or want.decode().split()[2] in text:
            raise Failure("the login is in the audit or the log")
        proxy.audit_skip()
    for store, why in ((None, "no secret 'CORP'"), ("no-colon", "want USER:PASSWORD")):
        with through(world, f"parent-login-{bool(store)}", "CORP", store) as (parent, proxy):
            parent.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
            with guest(world, port="http", tls=False, proxy=proxy) as connection:
                connection.sendall(request(port=http.port))
                status, _, body = read_response(connection)
            if status != 502 or b"wants a login" not in body or why not in proxy.log():
                raise Failure(f"{status} {body!r} {proxy.log()}")
            proxy.audit_skip()


def test_says_why_a_parent_proxy_refuses(world):
    for number, (answer, status, text, reason, options) in enumerate((
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nevil", 502, b"refuses to connect to h.test",
             "parent-refused", ()),
            (b"HTTP/1.1 200 OK\n\n", 502, b"broke off", "parent-refused", ()),
            (b"", 504, b"did not connect to h.test", "timeout",
             ("--timeout=connect=200", "--timeout=resolve=200")))):
        with through(world, f"parent-refuses-{number}", options=options) as (parent, proxy):
            parent.answer = answer
            with guest(world, port="good", proxy=proxy) as connection:
                connection.sendall(request(port=world.port("good")))
                got, _, body = read_response(connection)
            if got != status or text not in body or b"evil" in body:
                raise Failure(f"{answer!r}: {got} {body!r}")
            check_audit(proxy, [{"decision": "error", "reason": reason, "status": status,
                                 "address": None}])
    # One that is not there, by a name with several addresses.
    net = Internet.of(world)
    net.names.answers["parent.test"] = [SILENT, MUTE]
    proxy = world.make("parent-gone", allow=["nobody.test"], secrets={},
                       policy="network:\n  parent: http://parent.test:3128\n  rules:\n    - allow: h.test\n")
    with guest(world, port=80, tls=False, proxy=proxy) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n")
        status, _, body = read_response(connection)
    if status != 502 or b"cannot connect to the parent proxy parent.test port 3128" not in body:
        raise Failure(f"{status} {body!r}")
    if [name for name, _ in net.names.queries if name == "h.test"]:
        raise Failure("DNS was asked for the host")
    check_audit(proxy, [{"decision": "error", "reason": "connect-failed"}])
    if proxy.stop() != 0:
        raise Failure("it did not end well")


def test_shows_a_parent_proxy(world):
    path = f"{world.folder}/parent.yaml"
    with open(path, "w", encoding="ascii") as f:
        f.write("network:\n  parent: http://proxy.corp:3128\n  parent_login: CORP\n")
    program = world.proxy.program("bellglass-policy")
    shown = subprocess.run([program, "show", path], check=True, capture_output=True, text=True).stdout
    if "through the parent proxy proxy.corp:3128, with the login CORP\n" not in shown:
        raise Failure(shown)
    shown = json.loads(subprocess.run([program, "show", "--json", path], check=True,
                                      capture_output=True).stdout)
    if shown["parent"] != "proxy.corp:3128" or shown["parent_login"] != "CORP":
        raise Failure(f"{shown}")
