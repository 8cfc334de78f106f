"""What the lint programs share: the files of the project and how a finding is reported."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def files():
    """Paths below the root of all that belongs to the project, sorted."""
    try:
        out = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "ls-files", "-z",
             "--cached", "--others", "--exclude-standard"],
            check=True, capture_output=True).stdout
        names = [os.fsdecode(n) for n in out.split(b"\0") if n]
        return sorted(n for n in set(names) if os.path.lexists(os.path.join(ROOT, n)))
    except (OSError, subprocess.CalledProcessError):
        pass  # a release tarball: no git
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if not f.startswith("build") and f != ".git"]
        found += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names]
    return sorted(found)


def text(name):
    with open(os.path.join(ROOT, name), encoding="utf-8", errors="surrogateescape") as f:
        return f.read()


def finish(what, findings):
    for finding in findings:
        print(finding)
    print(f"{what}: {len(findings)} findings" if findings else f"{what}: clean")
    sys.exit(1 if findings else 0)
