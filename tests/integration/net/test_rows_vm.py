#!/usr/bin/env -S python3 -B
"""The attack table of rows.py from inside of a real sandbox: through the guest's kernel, the agent, vsock
and the sandbox's own proxy; TLS is the test's, over bytes that a relay in the guest carries. Rows that
no program's connection leads to are sent past the agent, by vsock, as root in the guest can. Prints TAP.

Environment: as for the C programs (tests/lib/vm.h). What is left running or mounted is a failure."""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time

import harness
import rows
from harness import Tap
from sandbox import Sandbox, goes_by_kernel
from world import World, run_row

PR_SET_CHILD_SUBREAPER = 36
LEFTOVER_S = 60  # what a helper may take to end after its last command


class VmWorld(World):
    """The rules, secrets and upstreams of the table, for a sandbox."""

    def make(self, name, allow=None, options=(), secrets=None, policy=None):
        # Kept connections would be used by the next row.
        return Sandbox(self, ["--timeout=upstream-idle=0", *options], policy)


def missing():
    """The first need that is not there, and what is wrong; or None."""
    bellglass = os.environ.get("BG_TEST_BELLGLASS", "/usr/bin/bellglass")
    os.environ["BG_TEST_BELLGLASS"] = bellglass
    if not os.access(bellglass, os.X_OK):
        return "vm", f"{bellglass} is not there: `meson install` first"
    tag = os.path.join(images_folder(), "tags", "debian")
    if not os.path.exists(tag):
        return "vm", f"{tag} is not there: build the image debian"
    return None


def images_folder():
    return (os.environ.get("BG_TEST_IMAGES") or
            f"/var/tmp/bellglass-tests-{os.geteuid()}/home/data/images")


def make_home(folder):
    """A BELLGLASS_HOME that shares nothing with others but the images."""
    os.chmod(folder, 0o711)  # root's helpers run as somebody else
    home, user, reports = (os.path.join(folder, name) for name in ("home", "user", "reports"))
    os.makedirs(os.path.join(home, "data"), 0o711)
    os.mkdir(user, 0o700)
    os.mkdir(reports)
    os.chmod(reports, 0o1777)
    os.symlink(images_folder(), os.path.join(home, "data", "images"))
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        os.environ.pop(variable, None)
    sanitizers = f"log_path={reports}/san:print_stacktrace=1"
    os.environ.update(BELLGLASS_HOME=home, HOME=user, ASAN_OPTIONS=sanitizers,
                      UBSAN_OPTIONS=sanitizers)


def mounts(folder):
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        return [line.strip() for line in f if folder in line]


def name_of(row):
    name = f"{row.number}: {row.name}" if row.number else row.name
    return name if goes_by_kernel(row.host, row.form) else f"{name} (past the agent)"


def try_in_guest(row, world):
    run_row(row, world)
    # In TLS the test may have closed its end by then.
    if row.closed and not row.tls and world.proxy.carrier.carried[-1].lost is not None:
        raise harness.Failure("the guest's connection is reset instead of ended")


def test(folder):
    tap = Tap()
    world = VmWorld(folder)
    mounted = mounts(folder)
    try:
        if not world.proxy.audit(1):
            raise harness.Failure("the proxy does not say that LOST has no value")
        only = os.environ.get("BG_TEST_ONLY", "")
        for row in rows.ROWS:
            if only in name_of(row) and (world.alone or not row.alone):
                tap.check(name_of(row), try_in_guest, row, world)
        tap.check("the relay ends", world.proxy.check_end)
    finally:
        world.proxy.remove()
    for line in set(mounts(folder)) - set(mounted):
        print(f"# left mounted: {line}")
        tap.failed += 1
    return tap.end()


def reap(tester):
    """Waits for the tester, and as init would for what else becomes our child, at once. Returns the
    tester's status."""
    def asked_to_end(*_):
        os.kill(tester, signal.SIGKILL)

    signal.signal(signal.SIGTERM, asked_to_end)
    signal.signal(signal.SIGINT, asked_to_end)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == tester:
            return os.waitstatus_to_exitcode(status)


def children():
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as f:
        return [int(pid) for pid in f.read().split()]


def check_processes(patience_s):
    """All descendants that are left are our children by now. Returns how many did not end."""
    left, until = 0, time.monotonic() + patience_s
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return left
        if pid:
            continue
        if time.monotonic() < until:
            time.sleep(0.05)
            continue
        for pid in children():
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = " ".join(f.read().decode(errors="replace").split("\0"))[:200].splitlines()
            print(f"# left running: {pid} {' '.join(command)}")
            left += 1
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def check_reports(folder):
    reports = os.path.join(folder, "reports")
    for name in os.listdir(reports):
        with open(os.path.join(reports, name), encoding="utf-8", errors="replace") as f:
            print("".join(f"# {line}" for line in f)[:8000])
    return len(os.listdir(reports))


def run(folder):
    make_home(folder)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tester = os.fork()
    if tester == 0:
        status = 1
        try:
            status = test(folder)
        except harness.Failure as e:
            print(f"Bail out! {' '.join(str(e).split())}")
        finally:
            sys.stdout.flush()
            os._exit(status)  # threads of upstreams are still there
    status = reap(tester)
    bad = check_processes(LEFTOVER_S if status >= 0 else 0) + check_reports(folder)
    return 1 if status or bad else 0


def main():
    need = missing()
    if need:
        if need[0] in os.environ.get("BG_TEST_REQUIRE", ""):
            print(f"Bail out! required: {need[1]}")
            return 1
        print(f"1..0 # SKIP {need[1]}")
        return 0
    folder = tempfile.mkdtemp(prefix="bg-test-")
    try:
        return run(folder)
    finally:
        if os.environ.get("BG_TEST_KEEP"):
            print(f"# kept: {folder}")
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
