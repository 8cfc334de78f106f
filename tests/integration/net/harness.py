"""A real bellglass-proxy with both of its sides in our hands: the supervisor's socket that brings
guest connections, and upstream servers on loopback with certificates of every kind."""

import contextlib
import json
import os
import re
import select
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time

DEADLINE_S = 30  # for anything that has to happen; nothing here waits for time to pass

PLACEHOLDERS = {name: "BELLGLASS_SECRET_" + digit * 64
                for name, digit in (("KEY", "a"), ("OTHER", "b"), ("LOST", "c"), ("RULED", "e"))}
SECRETS = {"KEY": "s3cr3t/Value+1==", "OTHER": "other-secret",
           "RULED": "ruled/secret 1"}  # LOST has no value
STRANGER = "BELLGLASS_SECRET_" + "d" * 64  # of another sandbox

NAME_FORM, ADDRESS_FORM = 1, 2


class Failure(Exception):
    pass


class Skip(Exception):
    pass


SANITIZED = os.environ.get("BG_TEST_SANITIZED") == "1"


def run(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Certificates:
    """A CA that the proxy trusts for upstreams, and certificates: good ones and others."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = self.make_ca("ca")
        stranger = self.make_ca("stranger")
        self.good = self.make("good", self.ca, "DNS:h.test,DNS:k.test,DNS:e.test,DNS:*.w.test,DNS:*.rule.test,IP:127.0.0.1")
        self.wrong_name = self.make("wrong", self.ca, "DNS:other.test")
        self.expired = self.make("expired", self.ca, "DNS:h.test", days=-1)
        self.unknown_ca = self.make("unknown", stranger, "DNS:h.test")
        self.weak = self.make("weak", self.ca, "DNS:h.test", key=["rsa:1024"])
        self.self_signed = self.make("self", None, "DNS:h.test")

    def path(self, name):
        return os.path.join(self.folder, name)

    def make_ca(self, name):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", self.path(name + ".key"), "-out", self.path(name + ".pem"),
            "-subj", f"/CN={name}", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        return name

    def make(self, name, issuer, alt_names, days=2, key=("ec", "-pkeyopt",
                                                         "ec_paramgen_curve:P-256"), digest="sha256",
             usage="serverAuth"):
        config = self.path(name + ".cnf")
        with open(config, "w", encoding="ascii") as f:
            f.write(f"subjectAltName={alt_names}\nextendedKeyUsage={usage}\n")
        run("openssl", "req", "-new", "-newkey", *key, "-nodes", "-keyout", self.path(name + ".key"),
            "-out", self.path(name + ".csr"), "-subj", "/CN=upstream")
        signer = (["-CA", self.path(issuer + ".pem"), "-CAkey", self.path(issuer + ".key"),
                   "-CAcreateserial"] if issuer else ["-signkey", self.path(name + ".key")])
        run("openssl", "x509", "-req", "-in", self.path(name + ".csr"), *signer,
            "-out", self.path(name + ".pem"), "-days", str(days), "-extfile", config, "-" + digest)
        return name

    def server_context(self, name, alpn=("http/1.1",)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.load_cert_chain(self.path(name + ".pem"), self.path(name + ".key"))
        context.set_alpn_protocols(list(alpn))
        return context


class Expectation:
    """What the connections made from now on are to be like, and what became of them."""

    def __init__(self, script):
        self.script = script
        self.accepted = 0
        self.finished = 0
        self.errors = []


class Upstream:
    """A listener on loopback. Each connection is handled by the script that was expected when it was
    made, in a thread of its own."""

    def __init__(self, context=None, address=("127.0.0.1", 0)):
        self.context = context
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.listener = socket.create_server(address, family=family)
        self.port = self.listener.getsockname()[1]
        self.changed = threading.Condition()
        self.now = Expectation(None)
        self.mark = None  # the address of a connection of our own
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, peer = self.listener.accept()
            except OSError:
                return
            with self.changed:
                if peer == self.mark:
                    self.mark = None
                    self.changed.notify_all()
                    connection.close()
                    continue
                now = self.now
                now.accepted += 1
                self.changed.notify_all()
            threading.Thread(target=self.talk, args=(connection, now), daemon=True).start()

    def talk(self, connection, now):
        try:
            connection.settimeout(DEADLINE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            if now.script:
                now.script(connection)
            if self.context:
                end_tls(connection)
        except Exception as e:  # pylint: disable=broad-except; it is told by settle()
            with self.changed:
                now.errors.append(e)
        finally:
            connection.close()
            with self.changed:
                now.finished += 1
                self.changed.notify_all()

    def catch_up(self):
        """Waits until all connections that were made are accepted, those too that have ended since: one of
        our own comes after them."""
        with socket.socket(self.listener.family) as mark:
            mark.bind((self.listener.getsockname()[0], 0))
            with self.changed:
                self.mark = mark.getsockname()
            mark.connect(self.listener.getsockname())
            with self.changed:
                if not self.changed.wait_for(lambda: self.mark is None, DEADLINE_S):
                    raise Failure("an upstream does not accept")

    def expect(self, script):
        self.catch_up()
        with self.changed:
            self.now = Expectation(script)

    def settle(self):
        """Waits until all connections have ended. Returns how many there were, and what went wrong."""
        self.catch_up()
        with self.changed:
            now = self.now
            if not self.changed.wait_for(lambda: now.finished == now.accepted, DEADLINE_S):
                raise Failure("an upstream connection did not end")
            return now.accepted, list(now.errors)


def end_tls(connection):
    """Says that nothing more comes; without it the end may be taken for a cut. It reads, too: an answer
    that comes at once may be lost, so none is to be waited for."""
    with contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.unwrap()


def read_exactly(connection, size):
    data = bytearray()  # and not one buffer of that size for each record
    while len(data) < size:
        more = connection.recv(min(size - len(data), 65536))
        if not more:
            break
        data += more
    return bytes(data)


def read_to_end(connection):
    data = b""
    while True:
        try:
            more = connection.recv(65536)
        except (ConnectionResetError, ssl.SSLError, BrokenPipeError):
            return data
        if not more:
            return data
        data += more


def read_reply(connection):
    """The socket behind a reply to an opened stream, and 0; or the text of a refusal, and its status."""
    header = read_exactly(connection, 12)
    if len(header) < 12:
        raise Failure("no reply")
    magic, status, size = struct.unpack("<4siI", header)
    if magic != b"BGLR":
        raise Failure(f"reply starts with {magic!r}")
    if status == 0 and size == 0:
        return connection, 0
    text = read_exactly(connection, size)
    if read_to_end(connection):
        raise Failure("bytes after a refusal")
    connection.close()
    return text, status


class NameServer:
    """A DNS server on loopback. answers: name to addresses, or to a list of such lists that are given
    out in turn, the last one for ever; a name that is None is never answered."""

    def __init__(self, answers):
        self.answers = answers
        self.queries = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            query, sender = self.socket.recvfrom(4096)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            name, (kind,) = ".".join(labels), struct.unpack(">H", query[at + 1:at + 3])
            earlier = self.queries.count((name, kind))
            self.queries.append((name, kind))
            addresses = self.answers.get(name, [])
            if addresses is None:
                continue
            if addresses and isinstance(addresses[0], list):
                addresses = addresses[min(earlier, len(addresses) - 1)]
            records = b""
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                if kind != {socket.AF_INET: 1, socket.AF_INET6: 28}[family]:
                    continue
                data = socket.inet_pton(family, address)
                records += struct.pack(">HHHIH", 0xc00c, kind, 1, 0, len(data)) + data
            count = records.count(b"\xc0\x0c\0")
            # RFC 1035: id, flags (an answer, or that there is no such name), counts, question
            flags = 0x8180 if name in self.answers else 0x8183
            self.socket.sendto(query[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0) +
                               query[12:at + 5] + records, sender)


class Observed:
    """What a test knows of a sandbox's proxy besides what the guest sees: its placeholders, its CA, and
    its audit log."""

    def __init__(self, sandbox, placeholders, ca_path):
        self.sandbox = sandbox
        self.placeholders = placeholders
        self.ca_path = ca_path
        self.audit_path = os.path.join(sandbox, "audit.ndjson")
        self.audit_seen = 0

    def ca_context(self, alpn=None):
        context = ssl.create_default_context(cafile=self.ca_path)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def audit(self, count):
        """The next count lines of the audit log; waits for them."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            data = self.audit_rest()
            lines = data.split(b"\n")[:-1]
            if len(lines) >= count or time.monotonic() > deadline:
                break
            select.select([], [], [], 0.01)
        taken = lines[:count]
        self.audit_seen += sum(len(line) + 1 for line in taken)
        return [json.loads(line) for line in taken]

    def audit_rest(self):
        if not os.path.exists(self.audit_path):
            return b""
        with open(self.audit_path, "rb") as f:
            f.seek(self.audit_seen)
            return f.read()

    def audit_skip(self):
        """Forgets the lines of connections that have ended, which may still be on their way."""
        before = -1
        while before != self.audit_seen:
            before = self.audit_seen
            select.select([], [], [], 0.2)
            self.audit_seen += len(self.audit_rest())


class Proxy(Observed):
    """bellglass-proxy for one sandbox."""

    def __init__(self, folder, certificates, allow, secrets=None, options=(), name="box",
                 policy=None, inherited=None):
        self.home = folder
        self.name = name
        self.environment = dict(os.environ, BELLGLASS_HOME=folder)
        self.environment.pop("XDG_DATA_HOME", None)
        super().__init__(os.path.join(folder, "state", "sandboxes", name), PLACEHOLDERS, None)
        # Kept connections would be used by the next test, and a guest that is slow is none that waits for
        # the upstream to speak: where these matter, a test says so.
        self.options = ["--timeout=upstream-idle=0", f"--timeout=peek={1000 * DEADLINE_S}", *options]
        os.makedirs(self.sandbox, mode=0o700, exist_ok=True)
        secrets = secrets if secrets is not None else {
            "KEY": ["k.test"], "OTHER": ["e.test"], "LOST": ["k.test"], "RULED": []}
        for secret, value in SECRETS.items():
            self.store(secret, value)
        config = {
            "version": 1, "id": "sbx_" + "0" * 20, "name": name, "created_ms": 1,
            "image": {"name": "debian", "digest": "0" * 64}, "cpus": 1,
            "memory_bytes": 512 << 20, "ephemeral": False, "env": [],
            "network": {"allow": allow, "upstream_ca": certificates.path("ca.pem"), "policy": policy},
            "secrets": [{"name": s, "hosts": hosts, "placeholder": PLACEHOLDERS[s],
                         "inherited": (inherited or {}).get(s, [])}
                        for s, hosts in secrets.items()],
        }
        with open(os.path.join(self.sandbox, "sandbox.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.log_path = os.path.join(self.sandbox, "proxy.log")
        self.next_stream = 1
        self.process = None
        self.found_dead = False
        self.ca_path = subprocess.run([self.program("bellglass-proxy"), "ca-path"], check=True,
                                      env=self.environment, capture_output=True,
                                      text=True).stdout.strip()
        self.start()

    def program(self, name):
        return os.path.join(os.environ["BG_TEST_NET"], name)

    def store(self, name, value):
        subprocess.run([self.program("bellglass-secret"), "set", name], check=True,
                       input=value.encode() + b"\n", env=self.environment)

    def start(self, prefix=(), audit_socket=None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with open(self.log_path, "ab") as log, theirs:
            self.process = subprocess.Popen(
                [*prefix, self.program("bellglass-proxy"), "sandbox", self.name,
                 "--socket-fd", str(theirs.fileno()), "--log-fd", str(log.fileno()),
                 *(["--audit-fd", str(audit_socket.fileno())] if audit_socket else []), *self.options],
                pass_fds=[f.fileno() for f in (theirs, log, audit_socket) if f],
                env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.supervisor, self.audit_socket = ours, audit_socket is not None

    def check_alive(self, cause):
        """Fails, once, with the end of the log if the proxy ended by itself."""
        status = self.process.poll()
        if status is not None and not self.found_dead:
            self.found_dead = True
            raise Failure(f"the proxy ended with {status}: {self.log()}") from cause

    def check_end(self):
        status = self.stop()
        if status != 0:
            raise Failure(f"its status is {status}: {self.log()}")

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()[-3000:]

    def stop(self):
        self.supervisor.close()
        return self.process.wait(DEADLINE_S)

    def message(self, body):
        """Sends a message of the supervisor with a new connection, and returns our end of it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            socket.send_fds(self.supervisor, [body], [theirs.fileno()])
        ours.settimeout(DEADLINE_S)
        return ours

    def dial(self, row, port):
        """Opens the stream of a row of the table."""
        return self.connect(row.host, port, row.form)

    def connect(self, host, port, form=NAME_FORM):
        """Opens a stream as the guest's agent does. Returns the socket behind the reply, or the
        status of the refusal."""
        stream = self.next_stream
        self.next_stream += 1
        name = host.encode() if isinstance(host, str) else host
        connection = self.message(struct.pack("<IBHI", stream, form, port, len(name)) + name)
        try:
            return read_reply(connection)
        except Failure as e:
            raise Failure(f"{e}: {self.log()}") from e

    def audit_skip(self):
        """As above; where we may look into the proxy, when it has closed them: their lines come before."""
        sockets = 2 if self.audit_socket else 1
        deadline = time.monotonic() + DEADLINE_S
        with contextlib.suppress(OSError):  # another user's, or it has ended
            while self.sockets() > sockets and time.monotonic() < deadline:
                select.select([], [], [], 0.01)
            self.audit_seen += len(self.audit_rest())
            return
        super().audit_skip()

    def sockets(self):
        folder, count = f"/proc/{self.process.pid}/fd", 0
        for fd in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(os.path.join(folder, fd)).startswith("socket:")
        return count

    def status(self, key):
        """A line of /proc/PID/status, or a sum of /proc/PID/smaps_rollup, in KiB."""
        if SANITIZED:
            raise Skip("sanitizers need memory of their own")
        if os.geteuid() != 0:
            raise Skip("only root may look into the proxy")
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as f:
            return sum(int(n) for n in re.findall(rf"^{key}:\s+(\d+) kB", f.read(), re.MULTILINE))


class Tap:
    """Test Anything Protocol on stdout, for meson."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def check(self, name, function, *arguments):
        self.count += 1
        try:
            function(*arguments)
        except Skip as e:
            print(f"ok {self.count} - {name} # SKIP {e}")
        except Exception as e:  # pylint: disable=broad-except; the next test runs all the same
            self.failed += 1
            print(f"not ok {self.count} - {name}")
            for line in f"{type(e).__name__}: {e}".splitlines():
                print(f"# {line}")
        else:
            print(f"ok {self.count} - {name}", flush=True)

    def end(self):
        print(f"1..{self.count}", flush=True)
        return 1 if self.failed else 0


def temporary_folder():
    return tempfile.TemporaryDirectory(prefix="bellglass-net-")
