"""The proxy on its own: several workers, files that are read anew, who may use it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading

import harness
from harness import DEADLINE_S, Failure
from world import OK, check_guest, read_response, request, serve_requests, wrap


class Forward:
    """bellglass-proxy with --listen; its messages are read line by line."""

    def __init__(self, world, *options, listen="127.0.0.1:0"):
        self.audit_path = None
        environment = dict(os.environ, BELLGLASS_HOME=world.proxy.home)
        if "--audit" not in options:  # on stderr, which nobody reads for long, it would be held up
            options += ("--audit", os.path.join(world.folder, "forward.ndjson"))
        self.process = subprocess.Popen(
            [world.proxy.program("bellglass-proxy"), "--listen", listen, "--json", "--upstream-ca",
             world.certificates.path("ca.pem"), *options],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.state = self.read_state()

    def read_state(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"it ended: {self.process.communicate()[1]}")
        return json.loads(line)

    def placeholder(self, name):
        return next(s["placeholder"] for s in self.state["secrets"] if s["name"] == name)

    def wait_log(self, text):
        """Reads stderr up to a line with the text."""
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if text in line:
                return line
        raise Failure(f"nothing says {text!r}: {seen}")

    def reload(self):
        before = self.state
        self.process.send_signal(signal.SIGHUP)
        self.state = self.read_state()
        return before

    def workers(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            return [int(pid) for pid in f.read().split()]

    def connect(self, source=None):
        host, _, port = self.state["listen"].rpartition(":")
        return socket.create_connection((host, int(port)), DEADLINE_S,
                                        source_address=(source, 0) if source else None)

    @contextlib.contextmanager
    def tunnel(self, world, host, port):
        with self.connect() as connection:
            connection.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = connection.recv(1)
                if not byte:
                    raise Failure(f"no tunnel: {head!r}")
                head += byte
            if b" 200 " not in head:
                raise Failure(f"no tunnel: {head!r}")
            with wrap(connection, world.proxy, host) as tls:
                yield tls

    def get(self, world, host, port, extra=b""):
        """The status of one request over a connection of its own."""
        with self.tunnel(world, host, port) as tls:
            tls.sendall(request(port=port, host=host.encode(), extra=extra))
            return read_response(tls)[0]

    def stop(self):
        self.process.terminate()
        output, errors = self.process.communicate(timeout=DEADLINE_S)
        if self.process.returncode != 0:
            raise Failure(f"status {self.process.returncode}: {errors}")
        return output, errors


@contextlib.contextmanager
def forward(world, *options, **more):
    proxy = Forward(world, *options, **more)
    try:
        yield proxy
    finally:
        if proxy.process.poll() is None:
            proxy.stop()


def refused(world, *options):
    done = subprocess.run([world.proxy.program("bellglass-proxy"), *options], check=False,
                          env=dict(os.environ, BELLGLASS_HOME=world.proxy.home), capture_output=True,
                          text=True, timeout=DEADLINE_S)
    if done.returncode != 125 or done.stdout:
        raise Failure(f"status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stderr


def write(world, name, text, mode=0o600):
    path = os.path.join(world.folder, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def rule(port, more="", host="h.test"):
    return (f"network:\n  rules:\n    - allow: {host}:{port}\n"
            f"      addresses: [127.0.0.1]\n{more}")


def run_threads(count, function):
    """Runs it that often at once; raises what any of them raises."""
    errors = []

    def call(i):
        try:
            function(i)
        except Exception as e:  # pylint: disable=broad-except; raised below
            errors.append(e)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def wait_gone(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            with contextlib.closing(os.fdopen(fd)):
                if not harness.select.select([fd], [], [], DEADLINE_S)[0]:
                    raise Failure(f"process {pid} does not end")


def test_workers_share_budgets_and_the_audit_log(world):
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    policy = write(world, "budget.yaml", rule(upstream.port, "      requests: 10\n"))
    audit = os.path.join(world.folder, "budget.ndjson")
    statuses = []

    def ask(_):
        with proxy.tunnel(world, "h.test", upstream.port) as tls:
            for _ in range(5):
                tls.sendall(request(port=upstream.port))
                statuses.append(read_response(tls)[0])

    with forward(world, "--policy", policy, "--workers=4", "--audit", audit) as proxy:
        if len(proxy.workers()) != 4 or proxy.state["workers"] != 4:
            raise Failure(f"workers: {proxy.workers()}")
        run_threads(20, ask)
    if statuses.count(200) != 10 or statuses.count(403) != 90:
        raise Failure(f"{statuses.count(200)} of {len(statuses)} went through")
    with open(audit, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    reasons = [line["reason"] for line in lines]
    if len(lines) != 100 or reasons.count("allowed") != 10 or reasons.count("requests-used-up") != 90:
        raise Failure(f"audit: {len(lines)} lines, {set(reasons)}")
    if len({line["stream"] for line in lines}) != 20:
        raise Failure("two connections have one number")


def test_reads_its_policy_anew_and_drops_nothing(world):
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    path = write(world, "anew.yaml", rule(upstream.port))
    done = threading.Event()
    count = [0] * 4

    def hammer(i):
        while not done.is_set():
            with proxy.tunnel(world, "h.test", upstream.port) as tls:
                for _ in range(1 + i):
                    tls.sendall(request(port=upstream.port))
                    status, head, _ = read_response(tls)
                    if status != 200:
                        raise Failure(f"refused: {status}")
                    count[i] += 1
                    if b"connection: close" in head.lower():
                        break

    def change():
        try:
            for n in range(6):
                seen = list(count)
                write(world, "anew.yaml", rule(upstream.port, f"      # {n}\n"))
                proxy.reload()
                while not done.is_set() and any(now == old for now, old in zip(count, seen)):
                    done.wait(0.01)
        finally:
            done.set()

    with forward(world, "--policy", path, "--workers=2") as proxy:
        changer = threading.Thread(target=change)
        changer.start()
        try:
            run_threads(4, hammer)
        finally:
            done.set()
            changer.join()
        write(world, "anew.yaml", rule(upstream.port, host="k.test"))
        proxy.reload()
        try:
            proxy.get(world, "h.test", upstream.port)
        except Failure as e:
            if " 403 " not in str(e):
                raise
        else:
            raise Failure("the old policy is still in force")


def test_finishes_what_the_old_generation_began(world):
    upstream = world.upstreams["good"]
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection):
        harness.read_exactly(connection, len(request(port=upstream.port)))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        begun.set()
        go_on.wait(DEADLINE_S)
        connection.sendall(b"cd")
        harness.read_to_end(connection)

    upstream.expect(slow)
    path = write(world, "old.yaml", rule(upstream.port))
    with forward(world, "--policy", path, "--workers=1") as proxy:
        old = proxy.workers()
        with proxy.tunnel(world, "h.test", upstream.port) as tls:
            tls.sendall(request(port=upstream.port))
            if not begun.wait(DEADLINE_S):
                raise Failure("the request did not arrive")
            write(world, "old.yaml", rule(upstream.port, host="k.test"))
            proxy.reload()
            go_on.set()
            status, _, body = read_response(tls)
            if (status, body) != (200, b"abcd") or harness.read_to_end(tls):
                raise Failure(f"{status} {body!r}")
        wait_gone(old)


def test_keeps_counts_while_it_runs(world):
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    path = write(world, "counts.yaml", rule(upstream.port, "      requests: 2\n"))
    with forward(world, "--policy", path, "--workers=2") as proxy:
        got = [proxy.get(world, "h.test", upstream.port)]
        proxy.reload()
        got += [proxy.get(world, "h.test", upstream.port) for _ in range(2)]
        for pid in proxy.workers():
            os.kill(pid, signal.SIGKILL)
        proxy.wait_log("started again")
        got.append(proxy.get(world, "h.test", upstream.port))
        write(world, "counts.yaml", rule(upstream.port, "      requests: 3\n"))
        proxy.reload()
        got += [proxy.get(world, "h.test", upstream.port) for _ in range(2)]
    if got != [200, 200, 403, 403, 200, 403]:
        raise Failure(f"{got}")


def test_goes_on_when_the_new_policy_is_wrong(world):
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    path = write(world, "wrong.yaml", rule(upstream.port))
    secrets = write(world, "wrong.env", "KEY=value-one\n")
    with forward(world, "--policy", path, "--secrets", secrets, "--workers=2") as proxy:
        write(world, "wrong.yaml", "network:\n  rulez: []\n")
        proxy.process.send_signal(signal.SIGHUP)
        if "wrong.yaml:2: " not in proxy.wait_log("going on with what was read before"):
            raise Failure("the log does not name the line")
        write(world, "wrong.yaml", rule(upstream.port))
        write(world, "wrong.env", "KEY=value-one\nvalue-two\n")
        proxy.process.send_signal(signal.SIGHUP)
        line = proxy.wait_log("going on with what was read before")
        if "line 2: want NAME=VALUE" not in line or "value-two" in line:
            raise Failure(line)
        if proxy.get(world, "h.test", upstream.port) != 200:
            raise Failure("it does not serve any more")


def test_takes_secrets_from_a_file(world):
    upstream = world.upstreams["good"]
    got = []

    def script(connection):
        while head := harness.read_exactly(connection, 1):
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1)
            got.append(next(line[3:] for line in head.split(b"\r\n") if line.startswith(b"A: ")))
            connection.sendall(OK)

    upstream.expect(script)
    policy = write(world, "file.yaml", rule(upstream.port) + f"""secrets:
  FILED: [{{host: "h.test:{upstream.port}"}}]
  KEY: [{{host: "h.test:{upstream.port}"}}]
""")
    secrets = write(world, "secrets.env", "# of a test\n\nFILED=first = value \nUNUSED=x\n")
    with forward(world, "--policy", policy, "--secrets", secrets, "--workers=1") as proxy:
        for name in ("FILED", "KEY"):
            proxy.get(world, "h.test", upstream.port, b"A: %s\r\n" % proxy.placeholder(name).encode())
        write(world, "secrets.env", "FILED=second-value")
        before = proxy.reload()
        if before["secrets"] != proxy.state["secrets"]:
            raise Failure("other placeholders")
        proxy.get(world, "h.test", upstream.port, b"A: %s\r\n" % proxy.placeholder("FILED").encode())
        output, errors = proxy.stop()
    if got != [b"first = value ", harness.SECRETS["KEY"].encode(), b"second-value"]:
        raise Failure(f"{got}")
    if "value" in output or "first = value" in errors or "second-value" in errors:
        raise Failure(f"a value is told: {output}{errors}")


def test_refuses_secrets_that_others_can_read(world):
    path = write(world, "open.env", "KEY=open-value\n", mode=0o640)
    for options, want in ((("--secrets", path), "nobody else can read"),
                          (("--secrets", path + ".no"), "open.env.no")):
        text = refused(world, "--listen", "127.0.0.1:0", *options)
        if want not in text or "open-value" in text:
            raise Failure(text)


def test_is_no_open_relay_by_accident(world):
    upstream = world.upstreams["http"]
    upstream.expect(serve_requests)
    for listen in ("0.0.0.0:0", "[::]:0"):
        text = refused(world, "--listen", listen)
        if "--client-network" not in text:
            raise Failure(text)
    if "--client-network 10.1.0.0/8" not in refused(world, "--listen", "0.0.0.0:0",
                                                    "--client-network", "10.1.0.0/8"):
        raise Failure("host bits were taken")
    audit = os.path.join(world.folder, "relay.ndjson")
    ask = (b"GET http://h.test:%d/ HTTP/1.1\r\nHost: h.test:%d\r\n\r\n"
           % (upstream.port, upstream.port))
    with forward(world, "--client-network", "127.0.0.2/31", "--audit", audit, "--allow",
                 f"h.test:{upstream.port}=127.0.0.1", listen="0.0.0.0:0") as proxy:
        with proxy.connect(source="127.0.0.3") as connection:
            connection.sendall(ask)
            check_guest(connection, OK, [])
        with proxy.connect(source="127.0.0.4") as connection:
            if harness.read_to_end(connection):
                raise Failure("a client from elsewhere was served")
    with open(audit, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    denied = [line for line in lines if line["reason"] == "client-not-allowed"]
    if len(denied) != 1 or "127.0.0.4" not in denied[0]["detail"] or denied[0]["decision"] != "deny":
        raise Failure(f"{lines}")


def test_does_not_share_its_port(world):
    with forward(world, "--workers=2") as proxy:
        text = refused(world, "--listen", proxy.state["listen"])
        if "in use" not in text or proxy.state["listen"] not in text:
            raise Failure(text)


def test_leaves_no_worker_behind(world):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with forward(world, "--workers=3") as proxy:
            workers = proxy.workers()
            proxy.process.send_signal(number)
            status = proxy.process.wait(DEADLINE_S)
            wait_gone(workers)
            if len(workers) != 3 or status != (-number if number == signal.SIGKILL else 0):
                raise Failure(f"{len(workers)} workers, status {status}")


def test_tells_what_is_wrong_once(world):
    path = write(world, "once.yaml", "network: {rules: [{allow: a.org, port: 1}]}\n")
    text = refused(world, "--listen", "127.0.0.1:0", "--policy", path, "--workers=4")
    if text.count("once.yaml:1: ") != 1 or len(text.splitlines()) != 1:
        raise Failure(text)
    text = refused(world, "--listen", "127.0.0.1:0", "--upstream-ca", path, "--workers=4")
    if text.count("once.yaml") != 1 or len(text.splitlines()) != 1:
        raise Failure(text)
