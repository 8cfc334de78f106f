"""What a policy file's rules look at beside hosts, methods and paths, and what they count: networks,
queries, header fields, budgets of secrets and of bytes. And what a guest could try to get around
them."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import threading

import harness
import rows
from harness import DEADLINE_S, Failure, read_exactly, read_to_end
from world import (OK, PUBLIC, Internet, check_audit, check_guest, guest, read_head, read_response,
                   request, serve_requests, wrap)

NOBODY = ["nobody.rule.test"]  # --allow, where only the policy file is to allow anything


@contextlib.contextmanager
def proxy_for(world, name, policy, secrets=None, allow=None, options=()):
    """A proxy of its own with that policy; {good} and {http} are the upstreams' ports."""
    ports = {which: world.port(which) for which in ("good", "http")}
    text = policy.replace("{good}", str(ports["good"])).replace("{http}", str(ports["http"]))
    proxy = world.make(name, allow=allow or NOBODY, policy=text, secrets=secrets or {},
                       options=options)
    try:
        yield proxy
    except Exception as e:
        proxy.check_alive(e)
        raise
    finally:
        status = proxy.stop()
    if status != 0:
        raise Failure(f"{name}: its status is {status}: {proxy.log()}")


def ask(world, proxy, host, path=b"/", extra=b"", want=200, text=b"", port="http", method=b"GET",
        form=harness.NAME_FORM, body=b""):
    """One request on a connection of its own; its answer's status and a text in it."""
    connection, status = proxy.connect(host, world.port(port), form)
    if status != 0:
        raise Failure(f"{host}: refused with {status}")
    if port == "good":
        connection = wrap(connection, proxy, host)
    with connection:
        authority = b"[%s]" % host.encode() if ":" in host else host.encode()
        connection.sendall(request(path, extra, world.port(port), authority).replace(
            b"GET", method, 1) + body)
        got, _, answer = read_response(connection)
        if got != want or text not in answer:
            raise Failure(f"{method} {host}{path}: {got} {answer!r}, not {want} {text!r}")
    return answer


# --- networks ---

def test_reaches_addresses_of_a_network(world):
    world.upstreams["http"].expect(serve_requests)
    policy = """
network:
  rules:
    - deny: 127.0.0.128/25
      ports: [{http}]
    - allow: 127.0.0.0/16
      ports: [{http}]
    - allow: 0.0.0.0/0
      ports: [{good}]
    - allow: ["::/0", "64:ff9b::/96"]
      ports: [{good}]
"""
    denied = {"decision": "deny", "status": 403}
    with proxy_for(world, "networks", policy) as proxy:
        # Every spelling is the address that it means, whether it came as a name or as an address.
        for host, form in (("127.0.0.1", 2), ("127.0.0.1", 1), ("2130706433", 1), ("0x7f000001", 1),
                           ("0177.1", 1), ("127.1", 1), ("::ffff:127.0.0.1", 2)):
            ask(world, proxy, host, form=form)
            check_audit(proxy, [dict(rows.ALLOWED, host="127.0.0.1", address="127.0.0.1",
                                     rule="policy:6 allow 127.0.0.0/16")])
        # Outside, denied, a name of it, or none that so wide a network means.
        for host, form, port in (
                ("127.1.0.1", 2, "http"), ("127.0.0.129", 2, "http"), ("0x7f0000ff", 1, "http"),
                ("localhost", 1, "http"), ("127.0.0.1", 2, "good"), ("10.0.0.1", 2, "good"),
                ("169.254.169.254", 2, "good"), ("168.63.129.16", 2, "good"), ("::1", 2, "good"),
                ("fd00::1", 2, "good"), ("64:ff9b:1::1", 2, "good")):
            connection, status = proxy.connect(host, world.port(port), form)
            if status != 0:
                raise Failure(f"{host}: {status}")
            with connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                if read_response(connection)[0] != 403:
                    raise Failure(f"{host}: not refused")
            by_rule = host in ("127.0.0.129", "0x7f0000ff")
            check_audit(proxy, [dict(denied, reason="request-denied" if by_rule else "host-not-allowed",
                                     rule="policy:4 deny 127.0.0.128/25" if by_rule else None)])


def test_takes_a_network_on_the_command_line(world):
    world.upstreams["http"].expect(serve_requests)
    allow = [f"127.0.0.0/8:{world.port('http')}", f"n.rule.test:{world.port('http')}=127.0.0.1"]
    with proxy_for(world, "network-allow", "", allow=allow) as proxy:
        ask(world, proxy, "127.0.0.1", form=2)
        ask(world, proxy, "n.rule.test")
        check_audit(proxy, [dict(rows.ALLOWED, rule=allow[0]), dict(rows.ALLOWED, rule=allow[1])])


def test_keeps_names_within_their_networks(world):
    world.name_server({
        "in.net.test": ["10.9.9.9", "127.0.0.1", "169.254.169.254"], "out.net.test": ["10.0.0.1"],
        "public.net.test": [PUBLIC], "denied.net.test": ["127.0.0.1"],
        "mixed.net.test": ["127.0.0.1"]})
    world.upstreams["http"].expect(serve_requests)
    policy = """
network:
  rules:
    - allow: ["in.net.test", "out.net.test", "public.net.test"]
      ports: [{http}]
      addresses: [127.0.0.0/8, 192.0.2.7]
    - allow: mixed.net.test:{http}
      addresses: [10.0.0.0/8, 127.0.0.1]
    - allow: wide.net.test:{http}
      addresses: 0.0.0.0/0
    - deny: 127.0.0.0/24
      ports: [{http}]
    - allow: denied.net.test:{http}
      addresses: [127.0.0.0/8]
    - allow: pinned.net.test:{http}
      addresses: [127.0.0.1]
"""
    world.names.answers["wide.net.test"] = ["127.0.0.1"]
    refused = {"decision": "deny", "reason": "address-not-allowed", "status": 403}
    with proxy_for(world, "name-networks", policy) as proxy:
        for host in ("in.net.test", "mixed.net.test"):
            ask(world, proxy, host)
            check_audit(proxy, [dict(rows.ALLOWED, address="127.0.0.1")])
        for host in ("out.net.test", "public.net.test", "wide.net.test", "denied.net.test",
                     "pinned.net.test"):
            ask(world, proxy, host, want=403, text=b"allow no connection to that address")
            check_audit(proxy, [refused])
        # An address is dialled without asking anybody.
        if any(name == "pinned.net.test" for name, _ in world.names.queries):
            raise Failure("it asked for the name of a known address")


# --- queries and fields ---

CONDITIONS = """
network:
  rules:
    - deny: q.rule.test:{http}
      addresses: []
      query: {admin: '*'}
    - deny: q.rule.test:{http}
      headers: {x-mode: debug*}
    - allow: q.rule.test:{http}
      addresses: 127.0.0.1
      methods: [GET]
      query: {state: [open, closed]}
      query_keys: [q, page]
    - allow: q.rule.test:{http}
      addresses: 127.0.0.1
      methods: [POST]
      headers:
        Content-Type: [application/json, 'application/json;*']
        X-Api: v1
secrets:
  RULED:
    - host: s.rule.test
      query: {scope: 'read*'}
"""


def test_decides_by_query(world):
    world.upstreams["http"].expect(serve_requests)
    with proxy_for(world, "query", CONDITIONS, {"RULED": []}) as proxy:
        for path, status, reason in (
                (b"/?state=open", 200, "allowed"), (b"/?q=a+b%26c&st%61te=closed", 200, "allowed"),
                (b"/", 403, "request-not-allowed"), (b"/?state=all", 403, "request-not-allowed"),
                (b"/?state=open&x=1", 403, "request-not-allowed"),
                (b"/?state=open&admin", 403, "request-denied"),
                (b"/?state=open&%61dmin=0", 403, "request-denied"),
                (b"/?state=open&state=all", 403, "query-unclear"),
                (b"/?state=open&%73tate=all", 403, "query-unclear"),
                (b"/?state=open&ADMIN=1", 403, "query-unclear"),
                (b"/?state=open&admin[]=1", 403, "query-unclear"),
                (b"/?state=open;admin=1", 403, "query-unclear"),
                (b"/?state=open&q=%", 403, "query-unclear"),
                (b"/?state=open&q=%00", 403, "query-unclear")):
            ask(world, proxy, "q.rule.test", path, want=status)
            check_audit(proxy, [{"reason": reason, "status": status, "path": "/"}])


def test_decides_by_header(world):
    world.upstreams["http"].expect(serve_requests)
    api = b"X-Api: v1\r\nContent-Length: 0\r\n"
    json_type = b"Content-Type: application/json\r\n"
    with proxy_for(world, "header", CONDITIONS, {"RULED": []}) as proxy:
        for extra, status, reason in (
                (api + json_type, 200, "allowed"),
                (api + b"CONTENT-TYPE: application/json; charset=utf-8\r\n", 200, "allowed"),
                (api + json_type + json_type, 200, "allowed"),
                (api, 403, "request-not-allowed"), (json_type, 403, "request-not-allowed"),
                (api + b"Content-Type: text/plain\r\n", 403, "request-not-allowed"),
                (api + b"Content-Type: text/plain\r\n" + json_type, 403, "request-not-allowed"),
                (api + json_type + b"Content-Type: text/plain\r\n", 403, "request-not-allowed"),
                (api + json_type + b"X-Mode: no\r\nX-MODE: debugger\r\n", 403, "request-denied")):
            ask(world, proxy, "q.rule.test", b"/?", extra, want=status, method=b"POST")
            check_audit(proxy, [{"reason": reason, "status": status}])


def test_gives_a_secret_by_query(world):
    policy = CONDITIONS + """
    - host: other.rule.test
"""
    policy = policy.replace("secrets:", "    - allow: s.rule.test:{good}\n"
                            "      addresses: 127.0.0.1\nsecrets:")
    placeholder = harness.PLACEHOLDERS["RULED"].encode()
    upstream, got = world.upstreams["good"], []

    def script(connection):
        got.append(harness.SECRETS["RULED"].encode() in read_head(connection))
        connection.sendall(OK)
        read_to_end(connection)

    upstream.expect(script)
    with proxy_for(world, "secret-query", policy, {"RULED": []}) as proxy:
        for path, given in ((b"/?scope=read:user", True), (b"/?scope=write", False), (b"/", False),
                            (b"/?scope=read&scope=write", False), (b"/?scope=read&Scope=write", False)):
            with guest(world, "s.rule.test", proxy=proxy) as connection:
                connection.sendall(request(path, b"A: " + placeholder + b"\r\n", upstream.port,
                                           b"s.rule.test"))
                check_guest(connection, rows.SCRUBBED_OK, [])
            check_audit(proxy, [{"secrets": ["RULED"] if given else []}])
            if got.pop() != given:
                raise Failure(f"{path}: {not given}")


# --- budgets ---

NO_HURRY = "--timeout=head=600000"  # the first waits for its request until all are there


def many_at_once(world, proxy, host, count, extra=b""):
    """Sends a request on each of so many connections before the first answer is read. Returns how
    often each status came back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    statuses = {}
    try:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(guest(world, host, proxy=proxy))
                           for _ in range(count)]
            message = request(b"/", extra, world.port("good"), host.encode())
            for connection in connections:
                connection.sendall(message)
            for connection in connections:
                status = int(read_exactly(connection, 12).split(b" ")[1])
                statuses[status] = statuses.get(status, 0) + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return statuses


BUDGETS = """
network:
  rules:
    - allow: ["*.rule.test"]
      ports: [{good}]
      addresses: 127.0.0.1
secrets:
  RULED:
    - host: ten.rule.test
      budget: 10
    - host: hour.rule.test
      budget: 2/h
    - host: [a.rule.test, b.rule.test]
      budget: 2
"""


def count_secret(world, name="RULED"):
    """Has the upstream answer all, and notes for each request whether the secret was in it."""
    got, lock, value = [], threading.Lock(), harness.SECRETS[name].encode()

    def script(connection):
        data = b""
        while True:
            more = connection.recv(65536)
            if not more:
                return
            data += more
            while b"\r\n\r\n" in data:
                head, _, data = data.partition(b"\r\n\r\n")
                with lock:
                    got.append(value in head)
                connection.sendall(OK)

    world.upstreams["good"].expect(script)
    return got


def test_gives_out_a_budget_exactly(world):
    got = count_secret(world)
    header = b"A: %s\r\nB: %s\r\n" % ((harness.PLACEHOLDERS["RULED"].encode(),) * 2)
    with proxy_for(world, "budget", BUDGETS, {"RULED": []}, options=[NO_HURRY]) as proxy:
        statuses = many_at_once(world, proxy, "ten.rule.test", 1000, header)
        lines = proxy.audit(1000)
    if statuses != {200: 10, 403: 990}:
        raise Failure(f"{statuses}")
    if got != [True] * 10:
        raise Failure(f"the upstream got {got}")
    reasons = [(line["reason"], line["status"], tuple(line["secrets"])) for line in lines]
    if reasons.count(("allowed", 200, ("RULED",))) != 10 or \
            reasons.count(("secret-used-up", 403, ())) != 990:
        raise Failure(f"{set(reasons)}")


def test_counts_requests_exactly(world):
    world.upstreams["good"].expect(serve_requests)
    policy = """
network:
  rules:
    - allow: [a.rule.test, ten.rule.test]
      ports: [{good}]
      addresses: 127.0.0.1
      requests: 10
"""
    with proxy_for(world, "requests", policy, options=[NO_HURRY]) as proxy:
        statuses = many_at_once(world, proxy, "ten.rule.test", 1000)
    if statuses != {200: 10, 403: 990}:
        raise Failure(f"{statuses}")


def test_shares_and_ends_a_budget(world):
    got = count_secret(world)
    upstream = world.upstreams["good"]
    header = b"A: %s\r\n" % harness.PLACEHOLDERS["RULED"].encode()
    basic = rows.fill(b"Authorization: Basic {B:u:{Q}}\r\n".replace(
        b"{Q}", harness.PLACEHOLDERS["RULED"].encode()), {})
    with proxy_for(world, "budget-shared", BUDGETS, {"RULED": []}) as proxy:
        for host, extra, want in (
                ("a.rule.test", header, 200), ("b.rule.test", basic, 200),
                ("a.rule.test", header, 403), ("b.rule.test", basic, 403), ("b.rule.test", b"", 200),
                ("hour.rule.test", header, 200), ("hour.rule.test", header, 200),
                ("hour.rule.test", header, 429), ("hour.rule.test", b"", 200),
                ("other.rule.test", header, 200)):
            with guest(world, host, proxy=proxy) as connection:
                connection.sendall(request(b"/", extra, upstream.port, host.encode()))
                answer = OK if host == "other.rule.test" else rows.SCRUBBED_OK
                check_guest(connection, answer if want == 200 else
                            (want, b"the budget of secret RULED is used up"), [])
            line, = proxy.audit(1)
            reason = {403: "secret-used-up", 429: "secret-used-up",
                      200: "allowed" if host != "other.rule.test" else "placeholder-not-approved"}
            if line["reason"] != reason[want]:
                raise Failure(f"{line}")
    # The second one is in base64.
    if got != [True, False, False, True, True, False, False]:
        raise Failure(f"the upstream got {got}")


def restart(proxy, change=None, kill=False):
    """Starts the proxy anew, as for another policy or after a crash."""
    if change:
        path = os.path.join(proxy.sandbox, "sandbox.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        change(config)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
    if kill:
        proxy.process.kill()
    proxy.stop()
    proxy.start()


def test_remembers_budgets_over_a_restart(world):
    got = count_secret(world)
    header = b"A: %s\r\n" % harness.PLACEHOLDERS["RULED"].encode()
    policy = """
network:
  rules:
    - allow: few.rule.test:{good}
      addresses: 127.0.0.1
      requests: 2
    - allow: large.rule.test:{good}
      addresses: 127.0.0.1
      bytes: 3
    - allow: a.rule.test:{good}
      addresses: 127.0.0.1
secrets:
  RULED:
    - host: a.rule.test
      budget: 2
"""
    def more(config):
        """Another policy: other lines, one more request, and one more use."""
        text = config["network"]["policy"].replace("requests: 2", "requests: 3").replace(
            "budget: 2", "budget: 3")
        config["network"]["policy"] = text.replace("  rules:\n", "  rules:\n    # \n    - allow: x.org\n")

    def each(few, large, secret):
        for host, want, extra in (("few.rule.test", few, b""), ("large.rule.test", large, b""),
                                  ("a.rule.test", secret, header)):
            with guest(world, host, proxy=proxy) as connection:
                connection.sendall(request(b"/", extra, world.port("good"), host.encode()))
                answer = rows.SCRUBBED_OK if host == "a.rule.test" else OK
                if want == "cut":
                    rest = read_to_end(connection)
                    if b"ok" in rest:
                        raise Failure(f"{host}: {rest!r}")
                else:
                    check_guest(connection, answer if want == 200 else (want, b""), [])

    with proxy_for(world, "remembered", policy, {"RULED": []}) as proxy:
        each(200, 200, 200)  # two bytes of three are gone
        restart(proxy, kill=True)
        each(200, "cut", 200)
        restart(proxy)
        each(403, 403, 403)
        restart(proxy, more)
        each(200, 403, 200)
        each(403, 403, 403)
        # A copy, as bellglass policy has it, is only looked at.
        shown = subprocess.run([proxy.program("bellglass-policy"), "show", "--json", proxy.name],
                               env=proxy.environment, check=True, capture_output=True)
        shown = json.loads(shown.stdout)
        used = [rule["used"] for rule in shown["rules"] + shown["secrets"]]
        if [u and (u["requests"], u["bytes"]) for u in used] != [
                None, None, (3, 0), (2, 3), None, (3, 0)]:
            raise Failure(f"{used}")
        mode = os.stat(os.path.join(proxy.sandbox, "budgets")).st_mode
        if mode & 0o7777 != 0o600:
            raise Failure(f"{mode:o}")
        # Damaged it is no reason to give all anew.
        with open(os.path.join(proxy.sandbox, "budgets"), "w", encoding="ascii") as f:
            f.write("nonsense")
        proxy.stop()
        proxy.start()
        if proxy.process.wait(DEADLINE_S) != 125 or "budgets is damaged" not in proxy.log():
            raise Failure(proxy.log())
        os.remove(os.path.join(proxy.sandbox, "budgets"))
        restart(proxy)
        each(200, 200, 200)
    if got.count(True) != 4:
        raise Failure(f"{got}")


CLOCK = """
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now)
{
    int (*real)(clockid_t, struct timespec *);
    *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int r = real(id, now);
    if (id == CLOCK_REALTIME)
        now->tv_sec += 5 * 365 * 86400;
    return r;
}
"""


def test_gives_nothing_when_the_clock_is_set(world):
    """By a library that sets the wall clock ahead for one proxy."""
    if harness.SANITIZED:
        raise harness.Skip("sanitizers take no library before them")
    library = os.path.join(world.folder, "clock.so")
    subprocess.run([os.environ.get("CC", "cc"), "-D_GNU_SOURCE", "-shared", "-fPIC", "-x", "c", "-",
                    "-o", library], check=True, input=CLOCK.encode(), capture_output=True)
    os.chmod(library, 0o755)
    got = count_secret(world)
    header = b"A: %s\r\n" % harness.PLACEHOLDERS["RULED"].encode()
    policy = BUDGETS.replace("addresses: 127.0.0.1", "addresses: 127.0.0.1\n      rate: 5/day")
    with proxy_for(world, "clock", policy, {"RULED": []}) as proxy:
        def each(host, *statuses):
            with guest(world, host, proxy=proxy) as connection:
                for want in statuses:
                    connection.sendall(request(b"/", header, world.port("good"), host.encode()))
                    check_guest(connection, rows.SCRUBBED_OK if want == 200 else (want, b""), [])
            lines = proxy.audit(len(statuses))
            return int(lines[0]["ts"][:4])

        before = each("hour.rule.test", 200, 200, 429)
        proxy.stop()
        proxy.start(["env", f"LD_PRELOAD={library}"])
        after = each("hour.rule.test", 429, 429, 429)
        if after - before not in (4, 5):  # or the clock was not set at all
            raise Failure(f"{before}, {after}")
    if got != [True, True]:
        raise Failure(f"{got}")


BYTES = """
network:
  rules:
    - allow: [k.bytes.test, cut.bytes.test]
      ports: [{http}]
      addresses: 127.0.0.1
      bytes: 100K
    - allow: tcp.bytes.test:{http}
      addresses: 127.0.0.1
      protocol: tcp
      bytes: 10
    - allow: ws.bytes.test:{http}
      addresses: 127.0.0.1
      bytes: 10
"""
USED_UP = {"decision": "deny", "reason": "bytes-used-up"}


def test_cuts_a_body_that_comes_back(world):
    upstream, size = world.upstreams["http"], 8 << 20

    def script(connection):
        while b"\r\n\r\n" not in connection.recv(65536):
            pass
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        with contextlib.suppress(OSError):
            for _ in range(size >> 10):
                connection.sendall(b"x" * 1024)

    upstream.expect(script)
    with proxy_for(world, "bytes-down", BYTES) as proxy:
        with guest(world, "cut.bytes.test", "http", tls=False, proxy=proxy) as connection:
            connection.sendall(request(b"/", b"", upstream.port, b"cut.bytes.test"))
            got = read_to_end(connection).partition(b"\r\n\r\n")[2]
        if not got or len(got) > 100 << 10 or got.strip(b"x"):
            raise Failure(f"{len(got)} bytes came")
        upstream.settle()
        # For all hosts of the rule.
        ask(world, proxy, "k.bytes.test", want=403, text=b"bytes that this sandbox's rules allow")
        ask(world, proxy, "cut.bytes.test", want=403)
        check_audit(proxy, [dict(USED_UP, host="cut.bytes.test", status=403),
                            dict(USED_UP, host="k.bytes.test", status=403, bytes_down=0), USED_UP])


def test_cuts_a_body_that_goes_up(world):
    upstream, seen = world.upstreams["http"], []

    def script(connection):
        seen.append(len(read_to_end(connection).partition(b"\r\n\r\n")[2]))

    with proxy_for(world, "bytes-up", BYTES) as proxy:
        # What is too long from the first is not begun, and costs nothing.
        upstream.expect(None)
        ask(world, proxy, "k.bytes.test", want=403, text=b"used up", method=b"POST",
            extra=b"Content-Length: %d\r\n" % ((100 << 10) + 1))
        if upstream.settle()[0]:
            raise Failure("a connection was made")
        upstream.expect(script)
        with guest(world, "k.bytes.test", "http", tls=False, proxy=proxy) as connection:
            connection.sendall(request(b"/", rows.CHUNKED, upstream.port, b"k.bytes.test").replace(
                b"GET", b"POST", 1))
            with contextlib.suppress(OSError):
                for _ in range(200):
                    connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
            if read_response(connection)[0] != 403:
                raise Failure("not refused")
        upstream.settle()
        if not 0 < seen[0] <= 110 << 10:  # in chunks, so a little more than the body
            raise Failure(f"{seen} bytes went up")
        check_audit(proxy, [USED_UP, dict(USED_UP, status=403)])


def test_counts_bytes_of_both_ways_to_the_last(world):
    upstream = world.upstreams["http"]
    half = 50 << 10

    def script(connection):
        data = b""
        while not data.endswith(b"\r\n\r\n" + b"y" * half):
            data += connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % half + b"x" * half)
        read_to_end(connection)

    upstream.expect(script)
    with proxy_for(world, "bytes-exact", BYTES) as proxy:
        ask(world, proxy, "k.bytes.test", method=b"POST", extra=b"Content-Length: %d\r\n" % half,
            body=b"y" * half, text=b"x" * half)
        upstream.expect(None)
        ask(world, proxy, "k.bytes.test", want=403)
        check_audit(proxy, [dict(rows.ALLOWED, bytes_up=half, bytes_down=half), USED_UP])


def test_cuts_what_nobody_reads(world):
    upstream = world.upstreams["http"]
    switch = rows.SENT_ACCEPTED

    def echo(connection):
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def socket_echo(connection):
        while b"\r\n\r\n" not in connection.recv(65536):
            pass
        connection.sendall(switch)
        echo(connection)

    with proxy_for(world, "bytes-relay", BYTES) as proxy:
        upstream.expect(echo)
        with guest(world, "tcp.bytes.test", "http", tls=False, proxy=proxy) as connection:
            connection.sendall(b"\0" * 5)
            if read_exactly(connection, 5) != b"\0" * 5:  # ten of both ways: as many as may be
                raise Failure("cut too early")
            connection.sendall(b"\1")
            if read_to_end(connection):
                raise Failure("not cut")
        with guest(world, "tcp.bytes.test", "http", tls=False, proxy=proxy) as connection:
            connection.sendall(b"\0" * 5)
            if read_to_end(connection):
                raise Failure("not refused")
        upstream.expect(socket_echo)
        upgrade = rows.SENT_KEY + rows.SENT_UPGRADE
        with guest(world, "ws.bytes.test", "http", tls=False, proxy=proxy) as connection:
            connection.sendall(request(b"/", upgrade, upstream.port, b"ws.bytes.test"))
            check_guest(connection, switch, [])
            connection.sendall(b"12345")
            check_guest(connection, b"12345", [])
            connection.sendall(b"6")
            if read_to_end(connection):
                raise Failure("not cut")
        ask(world, proxy, "ws.bytes.test", want=403)
        check_audit(proxy, [dict(USED_UP, scheme="tcp", bytes_up=6, bytes_down=5),
                            dict(USED_UP, scheme="tcp", bytes_up=0),
                            dict(USED_UP, status=101, bytes_up=6, bytes_down=5),
                            dict(USED_UP, status=403)])


# --- the command ---

def policy_command(world, *arguments):
    return subprocess.run([world.proxy.program("bellglass-policy"), *arguments], capture_output=True,
                          timeout=DEADLINE_S, check=False, text=True)


def test_shows_and_tries_the_rules(world):
    path = os.path.join(world.folder, "conditions.yaml")
    with open(path, "w", encoding="ascii") as f:
        f.write(CONDITIONS.replace("{http}", "80") + "      budget: 5/day\n"
                "  KEY:\n    - host: q.rule.test\n      budget: 7\n"
                "      query_keys: []\n")
    with open(path, "a", encoding="ascii") as f:
        f.write("# ends\n")
    for arguments, status, text in (
            (["test", path, "http://q.rule.test/?state=open"], 0, "allowed: conditions.yaml:9"),
            (["test", path, "http://q.rule.test/?state=open&x"], 1, "the rules there allow other"),
            (["test", path, "http://q.rule.test/?state=open&Admin"], 1, "the query has several"),
            (["test", path, "POST", "http://q.rule.test/", "-H", "x-api: v1", "-H",
              "content-type:application/json"], 0, "allowed: conditions.yaml:14"),
            (["test", path, "POST", "http://q.rule.test/", "-H", "x-api: v1"], 1, "refused"),
            (["test", path, "POST", "http://q.rule.test/", "-H", "x-mode: debugging"], 1,
             "refused: conditions.yaml:7 deny q.rule.test:80"),
            (["test", path, "http://q.rule.test/", "-H", "no colon"], 125, "want 'NAME: VALUE'"),
            (["show", path, "-H", "a: b"], 125, "-H is for test"),
            (["show", path], 0, "  ?state=open|closed  no other keys but q,page"),
            (["show", path], 0, "  content-type: application/json|application/json;*  x-api: v1"),
            (["show", path], 0, "secret RULED  s.rule.test  in header,basic  ?scope=read*  "
                                "5 per 86400 s"),
            (["show", path], 0, "secret KEY  q.rule.test  in header,basic  no query  7 in all"),
            (["check", path], 0, "4 rules, 2 rules of secrets")):
        done = policy_command(world, *arguments)
        if done.returncode != status or text not in done.stdout + done.stderr:
            raise Failure(f"{arguments}: {done}")
    shown = json.loads(policy_command(world, "show", "--json", path).stdout)
    rule, secret = shown["rules"][2], shown["secrets"][0]
    if (rule["query"], rule["query_keys"], rule["headers"], rule["bytes"]) != (
            {"state": ["open", "closed"]}, ["q", "page"], {}, None):
        raise Failure(f"{rule}")
    if secret["budget"] is not None or secret["budget_rate"] != {"requests": 5, "ms": 86400000}:
        raise Failure(f"{secret}")


def test_says_what_is_wrong_with_a_rule(world):
    path = os.path.join(world.folder, "wrong.yaml")
    for rule, text in (
            ("ask: a.org", "wrong.yaml:3: ask is reserved for rules that ask a person"),
            ("allow: 10.0.3.1/24", "wrong.yaml:3: '10.0.3.1/24': '10.0.3.1/24' has bits set behind"),
            ("{allow: a.org, qeury: {a: b}}", "'qeury' is no key of a rule; did you mean 'query'?"),
            ("{allow: a.org, header: {a: b}}", "'header' is no key of a rule; did you mean 'headers'"),
            ("{allow: a.org, byte: 1G}", "'byte' is no key of a rule; did you mean 'bytes'?"),
            ("{allow: a.org, bytes: lots}", "bytes: 'lots': want a size from 1 on")):
        with open(path, "w", encoding="ascii") as f:
            f.write(f"network:\n  rules:\n    - {rule}\n")
        done = policy_command(world, "check", path)
        if done.returncode != 125 or text not in done.stderr:
            raise Failure(f"{rule}: {done}")


# --- what a guest could try ---

def test_is_no_oracle_for_placeholders(world):
    """Whoever guesses learns nothing from the answers: how near a guess was, or that it would have been
    right elsewhere."""
    upstream = world.upstreams["good"]
    real = harness.PLACEHOLDERS["KEY"]
    guesses = [harness.STRANGER]
    for at in (len("BELLGLASS_SECRET_"), len(real) // 2, len(real) - 1):
        guesses.append(real[:at] + "0" + real[at + 1:])
    # At a host of no secret even the right one is only text.
    guesses.append(real)
    got = []
    upstream.expect(lambda connection: serve_requests(connection, heads=got))
    answers = set()
    with guest(world) as connection:
        for guess in guesses:
            connection.sendall(request(b"/", b"A: %s\r\n" % guess.encode(), upstream.port))
            answers.add(read_response(connection)[1:])
    if len(answers) != 1:
        raise Failure(f"{answers}")
    if [head.rpartition(b"A: ")[2].decode() for head in got] != guesses:
        raise Failure(f"{got}")
    check_audit(world.proxy, [{"reason": "placeholder-unknown", "placeholders_unknown": 1}] * 4 +
                [{"reason": "placeholder-not-approved", "placeholders_not_approved": ["KEY"]}])


def test_holds_guessing_back_by_a_rate(world):
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    policy = """
network:
  strict: true
  rules:
    - allow: g.rule.test:{good}
      addresses: 127.0.0.1
      rate: 3/h
"""
    extra = b"A: %s\r\n" % harness.STRANGER.encode()
    with proxy_for(world, "guess", policy, {"KEY": ["k.rule.test"]}) as proxy:
        with guest(world, "g.rule.test", proxy=proxy) as connection:
            for want in (403, 403, 403, 429, 429):
                connection.sendall(request(b"/", extra, upstream.port, b"g.rule.test"))
                if read_response(connection)[0] != want:
                    raise Failure(f"not {want}")


def test_forgets_the_placeholder_of_a_removed_secret(world):
    upstream = world.upstreams["good"]
    got = count_secret(world, "KEY")
    extra = b"A: %s\r\n" % harness.PLACEHOLDERS["KEY"].encode()
    proxy = world.make("removed", allow=[f"k.rule.test:{upstream.port}=127.0.0.1"],
                       secrets={"KEY": ["k.rule.test"]})
    with guest(world, "k.rule.test", proxy=proxy) as connection:
        connection.sendall(request(b"/", extra, upstream.port, b"k.rule.test"))
        check_guest(connection, rows.SCRUBBED_OK, [])
    restart(proxy, lambda config: config.update(secrets=[]))
    with guest(world, "k.rule.test", proxy=proxy) as connection:
        connection.sendall(request(b"/", extra, upstream.port, b"k.rule.test"))
        check_guest(connection, OK, [])
    check_audit(proxy, [{"secrets": ["KEY"]}, {"reason": "placeholder-unknown", "secrets": []}])
    if got != [True, False]:
        raise Failure(f"{got}")
    proxy.check_end()


def test_decides_by_the_policy_of_now(world):
    """A guest may hold an address that it was given for a name when that was allowed: what comes is the
    name all the same, and the rules of now decide."""
    world.upstreams["http"].expect(serve_requests)
    policy = """
network:
  rules:
    - allow: [a.rule.test, b.rule.test]
      ports: [{http}]
      addresses: 127.0.0.1
"""
    with proxy_for(world, "stale", policy) as proxy:
        ask(world, proxy, "a.rule.test")
        restart(proxy, lambda config: config["network"].update(
            policy=config["network"]["policy"].replace("a.rule.test, ", "")))
        ask(world, proxy, "a.rule.test", want=403, text=b"not allowed by this sandbox's rules")
        ask(world, proxy, "b.rule.test")
        check_audit(proxy, [rows.ALLOWED, {"reason": "host-not-allowed"}, rows.ALLOWED])


def test_compares_names_on_label_borders_only(world):
    world.upstreams["http"].expect(serve_requests)
    policy = """
network:
  rules:
    - allow: ["*.s.test", xn--bcher-kva.test, under_score.test]
      ports: [{http}]
      addresses: 127.0.0.1
"""
    with proxy_for(world, "labels", policy) as proxy:
        for host in ("a.s.test", "a.b.s.test", "A.B.S.TEST.", "_x.s.test", "xn--bcher-kva.test",
                     "XN--BCHER-KVA.test", "under_score.test"):
            ask(world, proxy, host)
        check_audit(proxy, [rows.ALLOWED] * 7)
        for host in ("s.test", "evils.test", "s.test.evil", "a.s.test.evil.org", "s-test",
                     "xn--bcher-kvb.test", "bcher.test", "underscore.test"):
            ask(world, proxy, host, want=403)
        check_audit(proxy, [{"reason": "host-not-allowed"}] * 8)
        # Cyrillic as UTF-8, an empty label, one of 64 bytes, an A-label of nothing.
        for host in ("\u0430.s.test", "a..s.test", "." + "s.test", "a" * 64 + ".s.test", "xn--.s.test",
                     "a b.s.test", "a%2es.test", "a.s.test:80"):
            text, status = proxy.connect(host, world.port("http"))
            if status != -22:
                raise Failure(f"{host}: {status} {text!r}")
        check_audit(proxy, [{"reason": "bad-destination"}] * 8)


def test_presets_allow_no_resolver(world):
    """DNS over HTTPS is a request as any other: allowed where a rule says so, and none of ours does."""
    resolvers = ("dns.google", "dns.google.com", "cloudflare-dns.com", "one.one.one.one", "1.1.1.1",
                 "8.8.8.8", "9.9.9.9", "dns.quad9.net", "doh.opendns.com", "dns.nextdns.io",
                 "mozilla.cloudflare-dns.com", "dns.adguard-dns.com", "doh.cleanbrowsing.org")
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../net/policies")
    names = sorted(name[:-5] for name in os.listdir(folder) if name.endswith(".yaml"))
    path = os.path.join(world.folder, "all-presets.yaml")
    with open(path, "w", encoding="ascii") as f:
        f.write(f"network:\n  rules:\n    - preset: [{', '.join(names)}]\n")
    for host in resolvers:
        for target in ("/dns-query?dns=AAAB", "/resolve?name=x"):
            done = policy_command(world, "test", path, f"https://{host}{target}")
            if done.returncode != 1:
                raise Failure(f"{host}: {done}")
    # At a host that is allowed it is decided by path as all else.
    world.upstreams["http"].expect(serve_requests)
    policy = """
network:
  rules:
    - allow: cdn.rule.test:{http}
      addresses: 127.0.0.1
      paths: [/assets/**]
"""
    with proxy_for(world, "doh", policy) as proxy:
        ask(world, proxy, "cdn.rule.test", b"/assets/x")
        ask(world, proxy, "cdn.rule.test", b"/dns-query?dns=AAAB", want=403,
            extra=b"Accept: application/dns-message\r\n")
        check_audit(proxy, [rows.ALLOWED, {"reason": "request-not-allowed"}])


def test_dials_no_private_one_of_many(world):
    world.name_server({"many.net.test": ["10.0.0.1", "192.168.0.1", "127.0.0.1", "169.254.169.254",
                                         "100.64.0.1", "168.63.129.16", "::1", "fd00::1"]})
    with proxy_for(world, "many", "network:\n  rules:\n    - allow: '*.net.test'\n") as proxy:
        connection, status = proxy.connect("many.net.test", 80)
        if status != 0:
            raise Failure(f"{status}")
        with connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: many.net.test\r\n\r\n")
            if read_response(connection)[0] != 403:
                raise Failure("not refused")
        check_audit(proxy, [{"reason": "address-not-public"}])


def test_learns_what_a_policy_needs(world):
    net = Internet.of(world)
    policy = "network:\n  default: learn\n  rules:\n    - deny: six.test\n"
    proxy = world.make("learning", allow=[], policy=policy)
    proxy.audit(1)  # LOST
    net.http.expect(serve_requests)

    def ask(host, extra=b""):
        connection, status = proxy.connect(host, 80)
        if status != 0:
            raise Failure(f"{host}: refused with {status}")
        with connection:
            connection.sendall(request(b"/x", extra, 80, host.encode()))
            return read_response(connection)[0]

    for host, want in (("public.test", 200), ("six.test", 403), ("p0.test", 403)):
        if ask(host, b"A: " + harness.PLACEHOLDERS["KEY"].encode() + b"\r\n") != want:
            raise Failure(host)
    net.http.settle()
    check_audit(proxy, (
        {"decision": "allow", "rule": "default: learn", "reason": "placeholder-not-approved"},
        {"decision": "deny", "reason": "request-denied"},
        {"decision": "deny", "reason": "address-not-public"}))
    # Addresses have to be named.
    connection, status = proxy.connect(PUBLIC, 80, 2)
    if status == 0:
        with connection:
            connection.sendall(request(b"/", b"", 80, PUBLIC.encode()))
            if read_response(connection)[0] != 403:
                raise Failure("an address that no rule names")
    learnt = subprocess.run([proxy.program("bellglass-policy"), "learn", proxy.name], check=True,
                            env=proxy.environment, capture_output=True, text=True).stdout
    if "public.test" not in learnt or "p0.test" in learnt or "six.test" in learnt:
        raise Failure(learnt)
    if proxy.stop() != 0:
        raise Failure(proxy.log())
