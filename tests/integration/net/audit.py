"""The audit log: its files, what it keeps to itself, and how it is read."""

import contextlib
import json
import os
import socket
import subprocess
import time

import harness
import rows
from harness import DEADLINE_S, Failure
from world import OK, check_guest, guest, read_response, request, serve_requests

FILE_SIZE = 64 << 20  # BG_AUDIT_FILE_SIZE
LINE = (b'{"ts":"2026-01-01T00:00:00.000Z","decision":"deny","reason":"host-not-allowed",'
        b'"host":"old.test","port":443,"scheme":"https","method":"GET","path":"/old","rule":null,'
        b'"detail":"%s"}\n' % (b"x" * 700))


def tool(proxy, name, *arguments):
    """What one of the programs prints about the proxy's sandbox."""
    folder = os.environ["BG_TEST_NET"]
    path = os.path.join(folder, "../host/cli/bellglass" if name == "bellglass" else name)
    done = subprocess.run([path, *arguments], env=dict(proxy.environment, BELLGLASS_HELPER_DIR=folder),
                          capture_output=True, timeout=DEADLINE_S)
    if done.returncode != 0:
        raise Failure(f"{name} {arguments}: {done.stderr!r}")
    return done.stdout


def audit_of(proxy, *options):
    return tool(proxy, "bellglass", "audit", *options, proxy.name)


class Launcher:
    """The launcher's part: the files of the log, and the proxy's requests for a new one."""

    def __init__(self, proxy):
        self.proxy = proxy
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(DEADLINE_S)
        proxy.stop()
        proxy.start(audit_socket=theirs)
        theirs.close()

    def path(self, index=0):
        return self.proxy.audit_path + (f".{index}" if index else "")

    def fill(self, size):
        with open(self.path(), "ab") as f:
            while f.tell() < size:
                f.write(LINE * min(1000, (size - f.tell()) // len(LINE) + 1))

    def wait_for_request(self):
        if self.socket.recv(16) != b"a":
            raise Failure("another request")

    def answer(self, refuse=False):
        if refuse:
            self.socket.send(b"a")
            return
        os.rename(self.path(), self.path(1))
        fd = os.open(self.path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        socket.send_fds(self.socket, [b"a"], [fd])
        os.close(fd)

    def wait_until_taken(self):
        """The proxy lets go of the old file when it has the new one."""
        want = os.path.realpath(self.path(1))
        deadline = time.monotonic() + DEADLINE_S
        folder = f"/proc/{self.proxy.process.pid}/fd"
        while any(os.path.realpath(os.path.join(folder, fd)) == want for fd in os.listdir(folder)):
            if time.monotonic() > deadline:
                raise Failure("the old file is still open")
            time.sleep(0.01)

    def refuses(self, text):
        with open(self.proxy.log_path, encoding="utf-8") as f:
            return text in f.read()


def get(world, proxy, path):
    """The status of a plain request."""
    upstream = world.upstreams["http"]
    with guest(world, tls=False, port="http", proxy=proxy) as connection:
        connection.sendall(request(path, port=upstream.port))
        return read_response(connection)


def paths_in(path, count):
    """The paths in the lines of a file that are not LINE; waits for count of them."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with open(path, "rb") as f:
            f.seek(max(0, os.path.getsize(path) // len(LINE) * len(LINE) - 8192))
            lines = f.read().split(b"\n")[:-1]
        found = [json.loads(line)["path"] for line in lines
                 if line.startswith(b"{") and b'"path"' in line and b"old.test" not in line]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def test_has_a_line_before_the_answer_is_whole(world):
    proxy = world.make("prompt", secrets={"KEY": ["k.test"]})
    http, good = world.upstreams["http"], world.upstreams["good"]
    for number in range(20):
        http.expect(serve_requests)
        get(world, proxy, b"/%d" % number)
        if not proxy.audit_rest():
            raise Failure("no line")
        proxy.audit(1)
        good.expect(serve_requests)
        with guest(world, host="k.test", proxy=proxy) as connection:  # its answers go through a filter
            connection.sendall(request(port=good.port, host=b"k.test"))
            check_guest(connection, rows.SCRUBBED_OK, [])
            if not proxy.audit_rest():
                raise Failure("no line")
        proxy.audit(1)
    proxy.check_end()


def test_turns_its_audit_log_over(world):
    if os.geteuid() != 0:
        raise harness.Skip("only root may look into the proxy")
    proxy = world.make("turned", secrets={})
    launcher = Launcher(proxy)
    world.upstreams["http"].expect(serve_requests)
    launcher.fill(FILE_SIZE - 100)
    for path in (b"/1", b"/2", b"/3"):  # it does not wait for the answer
        if get(world, proxy, path)[0] != 200:
            raise Failure("refused")
    if paths_in(launcher.path(), 3) != ["/1", "/2", "/3"]:
        raise Failure("not in the first file")
    launcher.wait_for_request()
    launcher.answer(refuse=True)
    get(world, proxy, b"/4")
    if paths_in(launcher.path(), 4)[3:] != ["/4"]:
        raise Failure("not in the first file")
    with open(launcher.path(), "ab") as f:
        f.write(LINE * ((2 << 20) // len(LINE)))
    get(world, proxy, b"/5")  # it asks again
    launcher.wait_for_request()
    launcher.answer()
    launcher.wait_until_taken()
    get(world, proxy, b"/6")
    if paths_in(launcher.path(), 1) != ["/6"] or paths_in(launcher.path(1), 1) != ["/5"]:
        raise Failure("not in the second file")
    if not launcher.refuses("the launcher cannot make a new file"):
        raise Failure("the log does not say it")
    # Readers see both, in order.
    lines = audit_of(proxy, "--json", "--host", "h.test").splitlines()
    if [json.loads(line)["path"] for line in lines] != [f"/{i}" for i in range(1, 7)]:
        raise Failure(f"{lines}")
    last = audit_of(proxy, "-n", "2", "--json").splitlines()
    if [json.loads(line)["path"] for line in last] != ["/5", "/6"]:
        raise Failure(f"{last}")
    learnt = tool(proxy, "bellglass-policy", "learn", proxy.name)
    if b"old.test" not in learnt or b"h.test" not in learnt:
        raise Failure(f"{learnt!r}")
    proxy.check_end()


def test_goes_on_in_its_file_when_the_launcher_is_gone(world):
    proxy = world.make("alone", secrets={})
    launcher = Launcher(proxy)
    world.upstreams["http"].expect(serve_requests)
    launcher.socket.close()
    launcher.fill(FILE_SIZE)
    for path in (b"/1", b"/2"):
        if get(world, proxy, path)[0] != 200:
            raise Failure("refused")
    if paths_in(launcher.path(), 2) != ["/1", "/2"]:
        raise Failure("not in the file")
    proxy.check_end()


def lost_lines(world, name, policy):
    """The second and third answer after the log has become too large, and the launcher's part."""
    proxy = world.make(name, secrets={}, policy=policy)
    launcher = Launcher(proxy)
    world.upstreams["http"].expect(serve_requests)
    os.truncate(launcher.path(), 2 * FILE_SIZE - 10)
    get(world, proxy, b"/1")  # its line is the first that is lost
    answers = [get(world, proxy, b"/2"), get(world, proxy, b"/3")]
    launcher.wait_for_request()
    os.truncate(launcher.path(), 0)
    if get(world, proxy, b"/4")[0] != 200:
        raise Failure("refused")
    return proxy, launcher, answers


def test_is_bounded_by_a_full_audit_log(world):
    proxy, launcher, answers = lost_lines(world, "full", None)
    for status, _, body in answers:
        if status != 503 or b"audit log cannot be written" not in body:
            raise Failure(f"{status} {body!r}")
    with open(launcher.path(), "rb") as f:
        lines = [json.loads(line) for line in f.read().splitlines()]
    # Of the requests that were refused nothing went out, but their lines are lost too.
    if [(line["reason"], line.get("detail")) for line in lines] != [
            ("audit-lines-lost", "3 lines"), ("allowed", None)]:
        raise Failure(f"{lines}")
    if not launcher.refuses("nothing goes out until that works again"):
        raise Failure("the log does not say it")
    proxy.check_end()


def test_goes_on_without_an_audit_log_when_it_may(world):
    proxy, launcher, answers = lost_lines(world, "effort", "audit: best-effort\n")
    if [status for status, _, _ in answers] != [200, 200]:
        raise Failure(f"{answers}")
    with open(launcher.path(), "rb") as f:
        lines = [json.loads(line) for line in f.read().splitlines()]
    if [line["reason"] for line in lines] != ["audit-lines-lost", "allowed"] or \
            lines[0]["detail"] != "3 lines":
        raise Failure(f"{lines}")
    shown = tool(proxy, "bellglass-policy", "show", proxy.name)
    if b"audit  best-effort" not in shown:
        raise Failure(f"{shown!r}")
    proxy.check_end()


# --- reading it ---

def test_picks_lines_of_the_audit(world):
    proxy = world.make("picked", secrets={})
    upstream = world.upstreams["http"]
    upstream.expect(serve_requests)
    get(world, proxy, b"/ok")
    with guest(world, tls=False, port=80, host="nobody.test", proxy=proxy) as connection:
        connection.sendall(b"POST /no HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 0\r\n\r\n")
        if read_response(connection)[0] != 403:
            raise Failure("not refused")
    proxy.audit(2)
    for options, want in (
            ((), ["/ok", "/no"]), (("--decision", "deny"), ["/no"]), (("--decision", "allow"), ["/ok"]),
            (("--host", "*.test"), ["/ok", "/no"]), (("--host", "h.test"), ["/ok"]),
            (("--method", "post"), ["/no"]), (("--status", "4xx"), ["/no"]),
            (("--status", "200", "--status", "403"), ["/ok", "/no"]),
            (("--reason", "host-not-allowed"), ["/no"]), (("--since", "1h"), ["/ok", "/no"]),
            (("--until", "1h"), []), (("--since", "2100-01-01T00:00:00Z"), []), (("-n", "1"), ["/no"]),
            (("-n", "5", "--decision", "allow"), ["/ok"])):
        got = [json.loads(line)["path"] for line in audit_of(proxy, "--json", *options).splitlines()]
        if got != want:
            raise Failure(f"{options}: {got}")
        text = audit_of(proxy, *options).decode().splitlines()
        if len(text) != len(want) or any(path not in line for path, line in zip(want, text)):
            raise Failure(f"{options}: {text}")
        har = json.loads(audit_of(proxy, "--har", *options))["log"]
        if har["version"] != "1.2" or [e["request"]["url"].rsplit("/", 1)[1] for e in har["entries"]] \
                != [path[1:] for path in want]:
            raise Failure(f"{options}: {har}")
    entry = json.loads(audit_of(proxy, "--har", "-n", "1"))["log"]["entries"][0]
    if entry["request"]["method"] != "POST" or entry["request"]["url"] != "http://nobody.test/no" or \
            entry["response"]["status"] != 403 or entry["_reason"] != "host-not-allowed":
        raise Failure(f"{entry}")
    proxy.check_end()


def test_tells_no_secret_when_the_audit_is_read(world):
    """Secrets that were sent, echoed, asked for in the path, or put into a detail by an error."""
    proxy = world.make("mute", policy=world.policy, secrets={
        "KEY": ["k.test"], "OTHER": ["e.test"], "RULED": []})
    upstream = world.upstreams["good"]
    key, ruled = (harness.PLACEHOLDERS[name].encode() for name in ("KEY", "RULED"))
    secret = harness.SECRETS["KEY"].encode()
    answers = [OK, b"HTTP/1.1 200 OK\r\nX: %s\r\nContent-Length: %d\r\n\r\n%s" % (secret, len(secret), secret),
               b"HTTP/1.1 200 %s\r\n\r\n" % secret, b"%s\r\n\r\n" % secret,
               b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % secret,
               b"HTTP/1.1 206 OK\r\nContent-Range: %s\r\nContent-Length: 0\r\n\r\n" % secret]
    for answer in answers:
        upstream.expect(lambda c, a=answer: serve_requests(c, a, count=1))
        with guest(world, host="k.test", proxy=proxy) as connection:
            connection.sendall(request(b"/" + key + b"?q=" + ruled, b"A: %s\r\n" % key, upstream.port,
                                       b"k.test"))
            connection.recv(65536)
    lines = proxy.audit(len(answers))
    if sum(line["secrets"] == ["KEY"] for line in lines) != len(answers):
        raise Failure(f"{lines}")
    with open(proxy.audit_path, "rb") as f:
        seen = f.read()
    for options in ((), ("--json",), ("--har",)):
        seen += audit_of(proxy, *options)
    seen += tool(proxy, "bellglass-policy", "learn", proxy.name)
    for name, value in harness.SECRETS.items():
        if value.encode() in seen:
            raise Failure(f"the value of {name}")
    if b"KEY" not in seen or key not in seen:
        raise Failure("nor its name")
    with contextlib.suppress(Failure):
        proxy.stop()


def test_escapes_what_a_guest_puts_into_the_audit(world):
    proxy = world.make("escaped", secrets={})
    upstream = world.upstreams["http"]
    upstream.expect(serve_requests)
    odd = b"/\x1b[2J\x9b\"\\%0a{" + b"p" * 5000
    for target in (b"/%0a%1b%22}", odd):
        with guest(world, tls=False, port="http", proxy=proxy) as connection:
            connection.sendall(request(target, port=upstream.port))
            read_response(connection)
    for host in (b"a\n{}\x1b[31m.test", b"x" * 255, b"\xff\xfe", b"\"},{\""):
        connection, status = proxy.connect(host, 80)
        if status == 0:
            connection.close()
    lines = proxy.audit(6)
    if len(lines) != 6 or any(line["sandbox"] != proxy.name for line in lines):
        raise Failure(f"{lines}")
    if any(len(line.get("path", "")) > 515 or len(line["host"]) > 515 for line in lines):
        raise Failure("a text was not cut")
    with open(proxy.audit_path, "rb") as f:
        raw = f.read()
    outputs = [raw, *(audit_of(proxy, *options) for options in ((), ("--json",), ("--har",)))]
    for output in outputs:
        text = output.decode()
        if not (text.isascii() or output is outputs[1]) or any(
                not character.isprintable() for line in text.split("\n") for character in line):
            raise Failure(f"{output!r}")
    if [output.count(b"\n") for output in outputs[:3]] != [6, 6, 6]:
        raise Failure("another number of lines")
    json.loads(outputs[3])
    proxy.check_end()


def test_follows_the_audit(world):
    proxy = world.make("followed", secrets={})
    world.upstreams["http"].expect(serve_requests)
    get(world, proxy, b"/1")
    proxy.audit(1)
    path = os.path.join(os.environ["BG_TEST_NET"], "../host/cli/bellglass")
    with subprocess.Popen([path, "audit", "-f", "--json", "-n", "5", "--method", "GET", proxy.name],
                          env=proxy.environment, stdout=subprocess.PIPE) as reader:
        try:
            for number in (1, 2, 3):
                if json.loads(reader.stdout.readline())["path"] != f"/{number}":
                    raise Failure("another line")
                if number == 1:
                    os.rename(proxy.audit_path, proxy.audit_path + ".1")  # the proxy stays in it
                get(world, proxy, b"/%d" % (number + 1))
        finally:
            reader.kill()
    proxy.check_end()
