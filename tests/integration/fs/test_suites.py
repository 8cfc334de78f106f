#!/usr/bin/env -S python3 -B
"""Programs that rely on a file system, on a standalone mount: fio, SQLite, git, rsync, stress-ng, make,
tar. Each gets a folder of its own on the mount, and what it leaves is looked at from both sides. Prints TAP.

Environment: BG_TEST_FS and BG_TEST_MOUNT the two programs; BG_TEST_REQUIRE=fuse: a need that is missing
fails instead of skipping; BG_TEST_ONLY a substring of the tests to run."""

import filecmp
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile

DEADLINE_S = 240   # of one program; a loaded machine is slow
STRESS_S = 4       # of each group of stressors
FILES = 300        # of a small project
ROWS = 150         # that each of two processes puts into a database
OBJECTS = 24       # of a C program


class Failure(Exception):
    pass


class Missing(Exception):
    pass


def run(*argv, cwd=None, status=0, env=None):
    """Runs a program to its end; returns its output."""
    if not shutil.which(argv[0]):
        raise Missing(f"{argv[0]} is not installed: tests/lib/packages test")
    done = subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=DEADLINE_S, check=False)
    text = done.stdout.decode(errors="replace")
    if status is not None and done.returncode != status:
        raise Failure(f"{' '.join(argv)}: status {done.returncode}\n{text[-3000:]}")
    return text


def expect(true, what):
    if not true:
        raise Failure(what)


class Mounted:
    """A folder, a file server over it, and a mount of what it serves."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="bg-fs-", dir="/var/tmp")
        self.source, self.mount, self.local = (os.path.join(self.base, name)
                                               for name in ("source", "mount", "local"))
        for folder in (self.source, self.mount, self.local):
            os.mkdir(folder)
        ours, theirs = socket.socketpair()
        ready, ready_out = os.pipe()
        os.set_inheritable(ready_out, True)
        with ours, theirs:
            self.server = subprocess.Popen([os.environ["BG_TEST_FS"], "serve", self.source],
                                           stdin=theirs, stdout=theirs)
            self.keeper = subprocess.Popen(
                [os.environ["BG_TEST_MOUNT"], "--name", "suites", "--exec", "--foreground",
                 "--stream-fd", str(ours.fileno()), "--mountpoint", self.mount,
                 "--ready-fd", str(ready_out)],
                pass_fds=(ours.fileno(), ready_out))
        os.close(ready_out)
        with open(ready, encoding="utf-8") as lines:
            line = lines.readline()
        if '"ready":true' not in line:
            raise Failure(f"mount: {line}")

    def close(self):
        self.keeper.send_signal(signal.SIGTERM)
        status = self.keeper.wait(DEADLINE_S)
        self.server.wait(DEADLINE_S)
        if os.path.ismount(self.mount):
            raise Failure(f"{self.mount} is still mounted")
        shutil.rmtree(self.base)
        if status != 0:
            raise Failure(f"the keeper ended with status {status}")

    def folder(self, name):
        """A new folder on the mount."""
        path = os.path.join(self.mount, name)
        os.mkdir(path)
        return path

    def behind(self, path):
        """The same path on the server's side."""
        return os.path.join(self.source, os.path.relpath(path, self.mount))


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def make_tree(top):
    """Some of everything that a tree may hold, but for what the mount does not have."""
    for i in range(FILES):
        write(f"{top}/d{i % 7}/e{i % 3}/f{i}", f"text {i}\n" * (i % 50))
    os.mkdir(f"{top}/empty")
    os.chmod(f"{top}/d1", 0o700)
    os.chmod(f"{top}/d0/e0/f0", 0o400)
    os.link(f"{top}/d0/e0/f21", f"{top}/d1/hard-link")
    os.link(f"{top}/d0/e0/f21", f"{top}/again")
    os.symlink("../d2", f"{top}/d1/link")
    os.symlink("nowhere", f"{top}/dangling")
    os.setxattr(f"{top}/d0/e0/f42", "user.kept", b"value")
    with open(f"{top}/sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    write(f"{top}/{'n' * 255}", "a long name\n")
    write(f"{top}/odd \\ 'name' \xe4 \u202e", "odd\n")
    os.utime(f"{top}/d0/e0/f42", ns=(10**18, 10**18 + 123456789))


def same_trees(a, b):
    """Compares names, contents, modes, times, links."""
    # Times of folders too; sizes of folders are each file system's own.
    changes = run("rsync", "-aHXn", "--delete", "--checksum", "--itemize-changes", f"{a}/", f"{b}/")
    expect(changes == "", f"{a} and {b} differ:\n{changes}")


# --- the programs ---

def test_fio_reads_back_what_it_wrote(m):
    folder = m.folder("fio")
    jobs = {"write": [], "direct": ["--direct=1"], "mapped": ["--ioengine=mmap"],
            "async": ["--ioengine=libaio", "--iodepth=8"]}
    for name, options in jobs.items():
        run("fio", f"--name={name}", f"--directory={folder}", "--rw=randwrite", "--bs=16k",
            "--size=12m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
            "--verify_state_save=0",
            "--fallocate=none", "--end_fsync=1", "--ioengine=psync", *options)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        expect(filecmp.cmp(path, m.behind(path), shallow=False), f"{name} differs behind the mount")


def fill_table(path, process):
    """A process that writes into a database that another one writes into."""
    with sqlite3.connect(path, timeout=DEADLINE_S, isolation_level=None) as db:
        for i in range(ROWS):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO t VALUES (?, ?, ?)", (process, i, "x" * (i % 500)))
            if i % 10 == 9:
                db.execute("ROLLBACK")
            else:
                db.execute("COMMIT")


def check_sqlite(m, mode):
    path = os.path.join(m.folder(f"sqlite-{mode}"), "db")
    with sqlite3.connect(path, isolation_level=None) as db:
        got = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
        expect(got == mode, f"journal_mode {got}")
        db.execute("CREATE TABLE t (process, number, text)")
    db.close()
    pids = []
    for process in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                fill_table(path, process)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    for pid in pids:
        expect(os.waitpid(pid, 0)[1] == 0, f"{mode}: a writer failed")
    for place in (path, m.behind(path)):
        with sqlite3.connect(place) as db:
            expect(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "integrity_check")
            count = db.execute("SELECT count(*) FROM t").fetchone()[0]
            expect(count == 2 * ROWS * 9 // 10, f"{mode}: {count} rows")
        db.close()


def test_sqlite_with_a_rollback_journal(m):
    check_sqlite(m, "delete")


def test_sqlite_with_a_write_ahead_log(m):
    check_sqlite(m, "wal")


def test_sqlite_recovers_from_a_killed_writer(m):
    path = os.path.join(m.folder("sqlite-killed"), "db")
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (n)")
        db.executemany("INSERT INTO t VALUES (?)", ((i,) for i in range(2000)))
    db.close()
    ready, ready_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA cache_size=5")  # so that it writes before the end
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE t SET n = n + 1000000")
        os.write(ready_out, b"x")
        signal.pause()
        os._exit(1)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(ready_out)
    with sqlite3.connect(path) as db:
        expect(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "integrity_check")
        expect(db.execute("SELECT max(n) FROM t").fetchone()[0] == 1999, "half a transaction stayed")
    db.close()


def git(folder, *argv):
    env = {"HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    return run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c",
               "init.defaultBranch=main", "-c", "safe.directory=*", *argv, cwd=folder, env=env)


def expect_clean(folder):
    status = git(folder, "status", "--porcelain")
    expect(status == "", f"{folder}: {status}")


def test_git_clones_switches_collects_and_checks(m):
    folder = m.folder("git")
    first, second = f"{folder}/first", f"{folder}/second"
    os.mkdir(first)
    git(first, "init", "-q", ".")
    for i in range(FILES):
        write(f"{first}/d{i % 10}/f{i}", f"{i}\n" * (i % 100))
    os.symlink("d1/f1", f"{first}/link")
    write(f"{first}/tool", "#!/bin/sh\n")
    os.chmod(f"{first}/tool", 0o755)
    git(first, "add", ".")
    git(first, "commit", "-qm", "one")
    git(first, "checkout", "-qb", "other")
    for i in range(0, FILES, 3):
        write(f"{first}/d{i % 10}/f{i}", "changed\n")
    git(first, "rm", "-q", "d1/f1")
    git(first, "commit", "-qam", "two")
    git(folder, "clone", "-q", first, second)
    for branch in ("main", "other", "main"):
        git(second, "checkout", "-q", branch)
        expect_clean(second)
    for repository in (first, second):
        git(repository, "gc", "-q", "--prune=now")
        git(repository, "fsck", "--strict", "--full")
        expect_clean(repository)
    git(m.behind(second), "fsck", "--strict")
    expect_clean(m.behind(second))
    # Unpacked somewhere else, index and files still belong together.
    run("tar", "cf", f"{m.local}/git.tar", "-C", first, ".")
    third = f"{folder}/third"
    os.mkdir(third)
    run("tar", "xf", f"{m.local}/git.tar", "-C", third)
    expect_clean(third)
    git(third, "checkout", "-q", "main")
    git(third, "fsck", "--strict")


def test_rsync_goes_both_ways_and_then_has_nothing_to_do(m):
    there, back = m.folder("rsync"), f"{m.local}/rsync-back"
    here = f"{m.local}/rsync"
    os.mkdir(here)
    make_tree(here)
    for source, target in ((here, there), (there, back)):
        run("rsync", "-aHX", f"{source}/", f"{target}/")
        again = run("rsync", "-aHX", "--itemize-changes", f"{source}/", f"{target}/")
        expect(again == "", f"the second time: {again}")
    same_trees(here, back)
    same_trees(here, m.behind(there))
    os.unlink(f"{there}/d2/e0/f9")
    write(f"{there}/new", "new\n")
    run("rsync", "-aHX", "--delete", f"{there}/", f"{back}/")
    same_trees(there, back)


def test_tar_keeps_everything(m):
    folder = m.folder("tar")
    here = f"{m.local}/tar"
    os.mkdir(here)
    make_tree(here)
    archive, again = f"{m.local}/one.tar", f"{m.local}/two.tar"
    # --no-same-owner: on the mount files belong to the user.
    pack = ("tar", "--xattrs", "--sort=name", "--sparse", "--format=posix",
            "--pax-option=delete=atime,delete=ctime")
    run(*pack, "-cf", archive, "-C", here, ".")
    run("tar", "--xattrs", "--no-same-owner", "-xpf", archive, "-C", folder)
    run("tar", "--xattrs", "-df", archive, "-C", folder)
    run(*pack, "-cf", again, "-C", folder, ".")
    names = [run("tar", "--full-time", "-tvf", path) for path in (archive, again)]
    expect(names[0] == names[1], "the two archives list different things")
    same_trees(here, folder)


def test_stress_ng_finds_nothing(m):
    # Not symlink: its links are absolute, which a mount of a folder does not let through.
    groups = [["access", "chdir", "copy-file", "dentry", "dir", "dirdeep", "fallocate", "fstat"],
              ["filename", "flock", "getdent", "hdd", "io", "link", "lockf", "lockofd", "open"],
              ["readahead", "rename", "seek", "sync-file", "touch", "utime",
               "xattr", "dup", "unlink"]]
    known = run("stress-ng", "--stressors").split()
    for number, group in enumerate(groups):
        options = [option for name in group if name in known for option in (f"--{name}", "1")]
        run("stress-ng", "--temp-path", m.folder(f"stress-{number}"), "--timeout", str(STRESS_S),
            "--verify", "--quiet", "--hdd-bytes", "8m", *options)


def test_make_builds_a_program(m):
    folder = m.folder("make")
    names = [f"part{i}" for i in range(OBJECTS)]
    write(f"{folder}/all.h", "".join(f"int {n}(void);\n" for n in names))
    for i, name in enumerate(names):
        write(f"{folder}/{name}.c", f'#include "all.h"\nint {name}(void)\n{{\n    return {i};\n}}\n')
    calls = " + ".join(f"{n}()" for n in names)
    want = sum(range(OBJECTS))
    write(f"{folder}/main.c", f'#include "all.h"\nint main(void)\n{{\n    return {calls} != {want};\n}}\n')
    objects = " ".join(f"{n}.o" for n in [*names, "main"])
    write(f"{folder}/Makefile", f"program: {objects}\n\tcc -o $@ $^\n%.o: %.c all.h\n\tcc -c -o $@ $<\n")
    run("make", "-j4", cwd=folder)
    run(f"{folder}/program")
    expect("up to date" in run("make", "-j4", cwd=folder), "the second make built something")
    os.utime(f"{folder}/part3.c")
    again = run("make", "-j4", cwd=folder)
    expect(again.count("cc -c") == 1, f"after one change: {again}")
    run(f"{m.behind(folder)}/program")


def main():
    required = "fuse" in os.environ.get("BG_TEST_REQUIRE", "")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        print("1..0 # SKIP /dev/fuse cannot be opened")
        return 1 if required else 0
    os.umask(0o022)
    only = os.environ.get("BG_TEST_ONLY", "")
    tests = [(name, test) for name, test in globals().items()
             if name.startswith("test_") and only in name]
    print(f"1..{len(tests)}")
    mounted, failed = Mounted(), 0
    try:
        for number, (name, test) in enumerate(tests, 1):
            try:
                test(mounted)
                print(f"ok {number} {name}", flush=True)
            except Missing as e:
                failed += required
                print(f"{'not ok' if required else 'ok'} {number} {name} # SKIP {e}", flush=True)
            except Exception as e:  # the others are still worth running
                failed += 1
                print(f"not ok {number} {name}\n# " + f"{type(e).__name__}: {e}".replace("\n", "\n# "),
                      flush=True)
    finally:
        mounted.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
