"""A real sandbox with the rules and secrets of a test, and its guest's side of connections: a relay in
the guest makes them (relay.py), and the test has a socket on the host for each."""

import contextlib
import ipaddress
import json
import os
import re
import select
import socket
import struct
import subprocess
import threading

import harness
import relay
import rows
from harness import NAME_FORM, Failure, read_exactly

DEADLINE_S = 240  # of what takes a whole command: slow machines without KVM take their time

# common/wire.h
EGRESS_PORT = 701
CONNECT_STREAM = 16


def stream_opening(number, form, port, host):
    """What the agent opens a stream with (docs/protocol.md, "Connect")."""
    name = host.encode()
    body = struct.pack("<BHI", form, port, len(name)) + name
    return struct.pack("<4sHHII16sI", b"BGLS", 1, CONNECT_STREAM, number, 0, b"", len(body)) + body


def goes_by_kernel(host, form):
    """Whether a program in the guest can connect to it so that the agent asks the host for just that. What
    is not a host's name has no address there, and loopback is the guest's own."""
    if form == NAME_FORM:
        labels = host.split(".")
        return (all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)
                and not labels[-1].isdigit() and host != "localhost")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (address.is_loopback or getattr(address, "ipv4_mapped", None) or
                getattr(address, "scope_id", None))


class Carried:
    """One connection of the guest. ours is the test's end of it."""

    def __init__(self, carrier, number):
        self.carrier = carrier
        self.number = number
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.ours.settimeout(harness.DEADLINE_S)
        self.answered = threading.Event()  # made, or lost
        self.made = False
        self.lost = None  # errno

    def pump(self):
        """From the test to the guest, until the test has closed its end."""
        while True:
            try:
                data = self.theirs.recv(65536)
            except ConnectionResetError:  # closed with bytes that it had not read
                data = b""
            if not data:
                break
            self.carrier.send(relay.DATA, self.number, data)
        self.carrier.send(relay.END, self.number)
        hung_up = select.poll()
        hung_up.register(self.theirs, 0)  # both directions have ended
        hung_up.poll()
        self.carrier.send(relay.CLOSE, self.number)
        self.theirs.close()

    def take(self, kind, data):
        """From the guest."""
        with contextlib.suppress(OSError):  # the test has closed its end
            if kind == relay.DATA:
                self.theirs.sendall(data)
            elif kind == relay.END:
                self.theirs.shutdown(socket.SHUT_WR)
            elif kind == relay.LOST:
                self.lost, = struct.unpack("<I", data)
                self.theirs.shutdown(socket.SHUT_RDWR)
        self.made |= kind == relay.MADE
        self.answered.set()


class Carrier:
    """The relay in the guest, and the connections through it."""

    def __init__(self, argv, log):
        with open(relay.__file__, encoding="ascii") as f:
            code = f.read()
        self.process = subprocess.Popen([*argv, "python3", "-c", code], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=log)
        self.writing = threading.Lock()
        self.carried = []
        threading.Thread(target=self.receive, daemon=True).start()

    def send(self, kind, number, data=b""):
        with self.writing, contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(relay.HEAD.pack(kind, number, len(data)) + data)
            self.process.stdin.flush()

    def receive(self):
        while True:
            head = self.process.stdout.read(relay.HEAD.size)
            if len(head) < relay.HEAD.size:
                break
            kind, number, size = relay.HEAD.unpack(head)
            self.carried[number].take(kind, self.process.stdout.read(size))
        for carried in self.carried:
            carried.take(relay.LOST, struct.pack("<I", 0))

    def open(self, kind, data):
        carried = Carried(self, len(self.carried))
        self.carried.append(carried)
        self.send(kind, carried.number, data)
        if not carried.answered.wait(DEADLINE_S):
            raise Failure("the guest does not answer")
        threading.Thread(target=carried.pump, daemon=True).start()
        return carried

    def stop(self):
        self.process.stdin.close()
        return self.process.wait(DEADLINE_S)


class Sandbox(harness.Observed):
    """A running sandbox. Its proxy has the options as well: they give a slow guest time."""

    NAME = "rows"

    def __init__(self, world, options, policy):  # pylint: disable=super-init-not-called; observe() does
        self.bellglass = os.environ["BG_TEST_BELLGLASS"]
        self.folder = world.folder
        os.environ["BELLGLASS_HELPER_DIR"] = self.make_helpers(options)
        for secret, value in dict(harness.SECRETS, LOST="to be removed").items():
            self.call("secret", "set", secret, value=value)
        policy_path = os.path.join(world.folder, "policy.yaml")
        with open(policy_path, "w", encoding="ascii") as f:
            f.write(policy)
        self.call("create", "--quiet", self.NAME, "--policy", policy_path,
                  "--upstream-ca", world.certificates.path("ca.pem"),
                  *[f"--allow={rule}" for rule in world.allow],
                  *[f"--secret={s}" for s in ("KEY@k.test", "OTHER@e.test", "LOST@k.test")])
        try:
            self.call("secret", "rm", "LOST")
            self.observe()
        except Exception:
            self.remove()
            raise

    def observe(self):
        folder = os.path.join(os.environ["BELLGLASS_HOME"], "state", "sandboxes", self.NAME)
        with open(os.path.join(folder, "sandbox.json"), encoding="utf-8") as f:
            placeholders = {s["name"]: s["placeholder"] for s in json.load(f)["secrets"]}
        ca_path = os.path.join(self.folder, "sandbox-ca.pem")
        with open(ca_path, "w", encoding="ascii") as f:
            f.write(self.call("ca", "show", "--pem"))
        super().__init__(folder, placeholders, ca_path)
        with open(os.path.join(self.folder, "relay.log"), "wb") as log:
            self.carrier = Carrier([self.bellglass, "exec", self.NAME, "--"], log)

    def call(self, *arguments, value=""):
        done = subprocess.run([self.bellglass, *arguments], input=value, capture_output=True, text=True,
                              timeout=DEADLINE_S)
        if done.returncode != 0:
            raise Failure(f"bellglass {' '.join(arguments)}: {done.returncode}: {done.stderr}")
        return done.stdout

    def make_helpers(self, options):
        """A folder of the programs beside bellglass, of which the proxy has further options."""
        real = os.path.join(os.path.dirname(os.path.realpath(self.bellglass)),
                            "../libexec/bellglass")
        folder = os.path.join(self.folder, "helpers")
        os.mkdir(folder, 0o755)
        for name in os.listdir(real):
            if name != "bellglass-proxy":
                os.symlink(os.path.join(real, name), os.path.join(folder, name))
        path = os.path.join(folder, "bellglass-proxy")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\nproxy='{real}/bellglass-proxy'\n"
                    f'[ "$1" = sandbox ] && exec "$proxy" "$@" {" ".join(options)}\n'
                    'exec "$proxy" "$@"\n')
        os.chmod(path, 0o755)
        return folder

    def dial(self, row, port):
        """Opens the stream of a row: through the guest's kernel and the agent where they let it through
        as it is, else as root in the guest can, who has the vsock device."""
        if not goes_by_kernel(row.host, row.form):
            carried = self.carrier.open(relay.PASS, struct.pack("<H", EGRESS_PORT))
            carried.ours.sendall(stream_opening(carried.number + 1, row.form, port, row.host))
            return harness.read_reply(carried.ours)
        carried = self.carrier.open(relay.DIAL, struct.pack("<H", port) + row.host.encode())
        if row.refused == 0:
            if not carried.made:
                raise Failure(f"the guest cannot connect: errno {carried.lost}")
            return carried.ours, 0
        # The guest's programs do not get to know a refusal's status: their connection is reset.
        with carried.ours:
            got = read_exactly(carried.ours, 1)
        if got or carried.lost is None:
            raise Failure(f"a refused connection is not reset, but has {got!r}")
        return None, row.refused

    def check_end(self):
        status = self.carrier.stop()
        if status != 0:
            raise Failure(f"the relay's status is {status}")

    def remove(self):
        self.call("rm", "--force", self.NAME)
