"""What the proxy's tests share: an own network, the proxy, its upstreams, and a guest's side of a
connection."""

import contextlib
import ctypes
import os
import socket
import ssl

import harness
import rows
from harness import DEADLINE_S, Failure, Proxy, Upstream, read_exactly, read_to_end

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
OK = rows.OK
# Of the public Internet, as far as our own network goes.
PUBLIC, PUBLIC_6 = "93.184.215.14", "2606:2800:21f::14"
SILENT, MUTE = "93.184.215.15", "93.184.215.16"  # nothing listens, unless a test makes it so


def leave_mounts_behind():
    """Of other tests: with our copy of one it would go on after its unmount, as long as we do."""
    libc = ctypes.CDLL(None)
    with open("/proc/self/mountinfo", "rb") as f:
        lines = f.read().splitlines()
    for line in lines:
        if b" - fuse.bellglass " in line:  # it may have gone by itself
            libc.umount2(line.split()[4], MNT_DETACH | UMOUNT_NOFOLLOW)


def enter_own_network(folder):
    """True when nothing but loopback is there now, with some public addresses on it and a name server
    of ours."""
    if os.geteuid() != 0:
        return False
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        return False
    resolv_conf = os.path.join(folder, "resolv.conf")
    with open(resolv_conf, "w", encoding="ascii") as f:
        f.write("nameserver 127.0.0.1\noptions timeout:20 attempts:1\n")
    os.chmod(resolv_conf, 0o644)
    harness.run("mount", "--make-rprivate", "/")
    leave_mounts_behind()
    harness.run("mount", "--bind", resolv_conf, os.path.realpath("/etc/resolv.conf"))
    harness.run("ip", "link", "set", "lo", "up")
    for address in (PUBLIC, SILENT, MUTE):
        harness.run("ip", "address", "add", address + "/32", "dev", "lo")
    harness.run("ip", "-6", "address", "add", PUBLIC_6 + "/128", "dev", "lo", "nodad")
    return True


class World:
    """Everything that the tests share."""

    def __init__(self, folder):
        self.folder = folder
        self.alone = enter_own_network(folder)
        certificates_folder = os.path.join(folder, "certificates")
        os.mkdir(certificates_folder)
        self.certificates = harness.Certificates(certificates_folder)
        c = self.certificates
        self.upstreams = {
            "good": Upstream(c.server_context(c.good)), "http": Upstream(),
            "wrong": Upstream(c.server_context(c.wrong_name)),
            "expired": Upstream(c.server_context(c.expired)),
            "unknown": Upstream(c.server_context(c.unknown_ca)),
            "self": Upstream(c.server_context(c.self_signed)),
            "weak": Upstream(c.server_context(c.weak)),
        }
        self.dead = socket.socket()  # it has a port, for as long as it is there, and does not listen
        self.dead.bind(("127.0.0.1", 0))
        self.dead_port = self.dead.getsockname()[1]
        self.allow = [f"{host}:{u.port}=127.0.0.1" for u in self.upstreams.values()
                      for host in ("h.test", "k.test")]
        for name in ("good", "http"):
            port = self.upstreams[name].port
            self.allow += [f"e.test:{port}=127.0.0.1", f"*.w.test:{port}=127.0.0.1",
                           f"127.0.0.1:{port}", f"localhost:{port}"]
        self.allow += [f"h.test:{self.dead_port}=127.0.0.1", "nowhere.invalid",
                       "web.test=127.0.0.1"]
        self.policy = rows.POLICY.format(**{name: self.port(name) for name in ("good", "http")})
        # A slow guest must not look like one that waits for the upstream to speak, as one row does.
        self.proxy = self.make("main", options=["--timeout=peek=10000"], policy=self.policy)
        self.seen = b""  # all that any guest got
        self.names = None

    def name_server(self, answers):
        """The one name server of our network, which knows these names too from now on."""
        if not self.alone:
            raise harness.Skip("needs a network of its own, which takes root")
        self.names = self.names or harness.NameServer({})
        self.names.answers.update(answers)
        return self.names

    def make(self, name, allow=None, options=(), secrets=None, policy=None, inherited=None):
        folder = os.path.join(self.folder, name)
        os.mkdir(folder)
        return Proxy(folder, self.certificates, allow or self.allow, secrets, options,
                     policy=policy, inherited=inherited)

    def port(self, which):
        if which == "dead":
            return self.dead_port
        return which if isinstance(which, int) else self.upstreams[which].port


# --- a guest ---

def wrap(connection, proxy, name, alpn=("http/1.1",)):
    context = proxy.ca_context(alpn)
    if name is None:
        context.check_hostname = False
    return context.wrap_socket(connection, server_hostname=name)


@contextlib.contextmanager
def guest(world, host="h.test", port="good", tls=True, proxy=None):
    proxy = proxy or world.proxy
    connection, status = proxy.connect(host, world.port(port))
    if status != 0:
        raise Failure(f"refused with {status}: {connection!r}")
    if tls:
        connection = wrap(connection, proxy, host)
    with connection:
        yield connection


def client_hello(proxy, name):
    """The bytes that a TLS client begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = proxy.ca_context(["http/1.1"]).wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def read_head(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise Failure("no head")
        head += byte
    return head


def read_response(connection):
    """Status, head and body of a response with a length."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise Failure(f"the connection ended after {head!r}")
        head += byte
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n")
                   if line.lower().startswith(b"content-length:")), 0)
    return int(head.split(b" ")[1]), head, read_exactly(connection, length)


def check_guest(connection, want, seen):
    for part in want if isinstance(want, list) else [want]:
        if isinstance(part, bytes):
            got = read_exactly(connection, len(part))
            seen.append(got)
            if got != part:
                raise Failure(f"the guest got {got!r}, not {part!r}")
        else:
            status, head, body = read_response(connection)
            seen.append(head + body)
            if status != part[0] or part[1] not in body:
                raise Failure(f"the guest got {status} {body!r}, not {part!r}")


def check_audit(proxy, want):
    got = proxy.audit(len(want))
    if len(got) != len(want):
        raise Failure(f"{len(got)} audit lines, not {len(want)}: {got}")
    for line, fields in zip(got, want):
        for key, value in fields.items():
            if line.get(key) != value:
                raise Failure(f"audit: {key} is {line.get(key)!r}, not {value!r}: {line}")


# --- the table ---

def script_of(steps, values, ends=False):
    if steps == "any":
        return read_to_end
    if steps in (None, "handshake"):
        return None

    def script(connection):
        for step in steps:
            if step is None:
                return
            want, answer = rows.fill(step[0], values), rows.fill(step[1], values)
            got = read_exactly(connection, len(want))
            if got != want:
                raise Failure(f"the upstream got {got!r}, not {want!r}")
            connection.sendall(answer)
        if ends:
            return
        rest = read_to_end(connection)
        if rest:
            raise Failure(f"the upstream got {rest!r} besides")
    return script


def send(connection, data, step):
    # A refused connection may be closed while we still send.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
        for at in range(0, len(data), step):
            connection.sendall(data[at:at + step])


def talk(row, world, connection, values):
    if row.tls:
        name = row.host if row.server_name == "" else row.server_name
        if row.form == 2 and name is None:
            name = row.host  # checked against the certificate, not sent
        try:
            connection = wrap(connection, world.proxy, name, row.alpn)
        except ssl.SSLError as e:
            if row.alert and row.alert in str(e).lower().replace("_", " "):
                return
            raise
        if row.alert:
            raise Failure("the handshake did not fail")
    seen = []
    with connection:
        send(connection, rows.fill(row.send, values), row.step)
        if row.half_close:
            if row.tls:
                harness.end_tls(connection)
            connection.settimeout(DEADLINE_S)
            socket.socket.shutdown(connection, socket.SHUT_WR)
        if row.guest is not None:
            want = row.guest
            check_guest(connection, rows.fill(want, values) if isinstance(want, bytes) else want, seen)
        if row.closed:
            seen.append(read_to_end(connection))
            if seen[-1]:
                raise Failure(f"the guest got {seen[-1]!r} besides")
    world.seen += b"".join(seen)


def run_row(row, world):
    try:
        try_row(row, world)
    except Exception:
        world.proxy.audit_skip()
        raise


def try_row(row, world):
    port = world.port(row.port)
    placeholders = world.proxy.placeholders
    values = {"P": placeholders["KEY"], "O": placeholders["OTHER"], "L": placeholders["LOST"],
              "X": harness.STRANGER, "S": harness.SECRETS["KEY"], "Q": placeholders["RULED"],
              "E": placeholders["RULED"].rpartition("_")[2],
              "V": "ruled%2Fsecret%201", "W": harness.SECRETS["RULED"], "PORT": str(port),
              "H": f"{row.host}:{port}" if port not in (80, 443) else row.host}
    for upstream in world.upstreams.values():
        upstream.expect(None)
    upstream = world.upstreams.get(row.port)
    if upstream:
        upstream.expect(script_of(row.upstream, values, row.closed_upstream))
    connection, status = world.proxy.dial(row, port)
    if status != row.refused:
        raise Failure(f"the stream's status is {status}, not {row.refused}: {connection!r}")
    if status == 0:
        talk(row, world, connection, values)
    check_audit(world.proxy, row.audit)
    for other in world.upstreams.values():
        accepted, errors = other.settle()
        if accepted and (row.upstream is None or other is not upstream):
            raise Failure("a connection to an upstream was made")
        if errors and row.upstream not in ("handshake", "any"):
            raise errors[0]
    if world.proxy.audit_rest():
        raise Failure(f"more audit lines: {world.proxy.audit_rest()!r}")


def request(path=b"/", extra=b"", port=0, host=b"h.test"):
    return (b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b":" + str(port).encode() + b"\r\n" +
            extra + b"\r\n")


def serve_requests(connection, answer=OK, count=None, heads=None):
    """Answers each request without a body; count: then closes; heads: a list for them."""
    data = b""
    while count is None or count > 0:
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        connection.sendall(answer)
        count = count - 1 if count else count


# --- hosts elsewhere ---

class Internet:
    """Public hosts on the ports of the web, and names for them."""

    def __init__(self, world):
        self.names = world.name_server({
            "public.test": [PUBLIC], "six.test": [PUBLIC_6],
            "mixed.test": ["10.9.9.9", "127.0.0.1", "169.254.169.254", "::1", "fd00::1", PUBLIC],
            "later.test": [SILENT, PUBLIC],
            "rebind.test": [[PUBLIC], ["127.0.0.1"]],
            "silent.test": None,
            **{f"p{i}.test": [address] for i, address in enumerate(self.PRIVATE)},
        })
        context = world.certificates.server_context(
            world.certificates.make("web", world.certificates.ca, "DNS:public.test"))
        self.http = Upstream(None, (PUBLIC, 80))
        self.https = Upstream(context, (PUBLIC, 443))
        self.six = Upstream(None, (PUBLIC_6, 80))
        self.proxy = world.make("internet", allow=["*.test"], secrets={"KEY": ["keyed.test"]},
                                options=[f"--timeout=resolve={1000 * DEADLINE_S}"])

    PRIVATE = ["10.0.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "0.0.0.0", "100.64.0.1",
               "172.16.0.1", "192.168.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::1", "::",
               "fd00::1", "fe80::1", "ff02::1", "64:ff9b::7f00:1", "::ffff:127.0.0.1", "2002:7f00:1::"]

    instance = None

    @classmethod
    def of(cls, world):
        cls.instance = cls.instance or cls(world)
        return cls.instance

    def get(self, host, upstream=None, port=80):
        """Status and body of GET /; the upstream answers with what it got as Host."""
        def script(connection):
            host_line = next(line for line in read_head(connection).split(b"\r\n")
                             if line.startswith(b"Host: "))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
                               % (len(host_line), host_line))
            read_to_end(connection)

        for other in (self.http, self.https, self.six):
            other.expect(script if other is upstream else None)
        connection, status = self.proxy.connect(host, port)
        if status != 0:
            raise Failure(f"refused with {status}")
        if port == 443:
            connection = wrap(connection, self.proxy, host)
        with connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
            status, _, body = read_response(connection)
        for other in (self.http, self.https, self.six):
            accepted, _ = other.settle()
            if accepted and other is not upstream:
                raise Failure("another upstream was reached")
        return status, body
