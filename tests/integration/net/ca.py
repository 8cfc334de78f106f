"""The CA: whose it is, who can read its key, and what becomes of sandboxes when it is replaced."""

import contextlib
import fcntl
import json
import os
import shutil
import ssl
import struct
import subprocess
import time

import harness
from harness import DEADLINE_S, Failure
from world import OK, check_guest, guest, request, serve_requests

F_OFD_SETLK = 37


def ca(home, *arguments, status=0):
    """What bellglass-ca prints."""
    path = os.path.join(os.environ["BG_TEST_NET"], "bellglass-ca")
    done = subprocess.run([path, *arguments], env=dict(os.environ, BELLGLASS_HOME=home),
                          capture_output=True, text=True, timeout=DEADLINE_S)
    if done.returncode != status:
        raise Failure(f"ca {arguments}: {done}")
    return done.stdout if status == 0 else done.stderr


def folder_of(home):
    return os.path.join(home, "data", "ca")


def read(*path):
    with open(os.path.join(*path), encoding="ascii") as f:
        return f.read()


def shown(home, verb="show"):
    return json.loads(ca(home, verb, "--json"))


def kept(home):
    folder = os.path.join(folder_of(home), "old")
    return sorted(os.listdir(folder)) if os.path.exists(folder) else []


@contextlib.contextmanager
def running(home, name, pem):
    """A sandbox that runs, as far as its folder tells: its launcher's lock, and its note."""
    folder = os.path.join(home, "state", "sandboxes", name)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, "ca.pem"), "w", encoding="ascii") as f:
        f.write(pem)
    with open(os.path.join(folder, "lock"), "a", encoding="ascii") as lock:
        fcntl.fcntl(lock, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        yield


def get(world, proxy, pem):
    """A request of a guest that trusts only this CA. Returns its leaf certificate, in DER."""
    upstream = world.upstreams["good"]
    upstream.expect(serve_requests)
    context = ssl.create_default_context(cadata=pem)
    context.set_alpn_protocols(["http/1.1"])
    connection, status = proxy.connect("h.test", upstream.port)
    if status != 0:
        raise Failure(f"refused with {status}")
    with context.wrap_socket(connection, server_hostname="h.test") as tls:
        tls.sendall(request(port=upstream.port))
        check_guest(tls, OK, [])
        return tls.getpeercert(binary_form=True)


def restart(proxy):
    proxy.stop()
    proxy.start()


def test_shows_the_ca(world):
    home = os.path.join(world.folder, "shown")
    facts = shown(home)  # made on first use
    path = os.path.join(folder_of(home), "ca.pem")
    told = subprocess.run(["openssl", "x509", "-in", path, "-noout", "-fingerprint", "-sha256", "-enddate",
                           "-subject", "-nameopt", "RFC2253"], check=True, capture_output=True,
                          text=True).stdout
    hashed = facts["sha256"].upper()
    coloned = ":".join(hashed[i:i + 2] for i in range(0, 64, 2))
    if facts["path"] != path or coloned not in told or f"subject={facts['subject']}" not in told:
        raise Failure(f"{facts} {told}")
    year = time.strptime(facts["not_after"], "%Y-%m-%dT%H:%M:%SZ").tm_year
    if f"{year} GMT" not in told or facts["used_by"] or facts["older_used_by"]:
        raise Failure(f"{facts} {told}")
    text = ca(home, "show")
    if path not in text or coloned not in text or facts["not_after"] not in text:
        raise Failure(text)
    if ca(home, "show", "--pem") != read(path):
        raise Failure("another certificate")
    for arguments in ((), ("frob",), ("rotate", "--pem"), ("show", "--pem", "--json"), ("show", "x"),
                      ("--frob",)):
        if "bellglass ca --help" not in ca(home, *arguments, status=125):
            raise Failure(f"{arguments}")
    if "rotate" not in ca(home, "--help"):
        raise Failure("no help")


def test_keeps_the_ca_key_to_its_owner(world):
    """Number 80: 0600 whatever the umask, also of those that are kept; no other user gets at it."""
    home = os.path.join(world.folder, "owned")
    before = os.umask(0)
    try:
        first = ca(home, "show", "--pem")
        with running(home, "a", first):
            output = ca(home, "rotate") + ca(home, "rotate", "--json") + ca(home, "show")
            keys = [os.path.join(folder_of(home), "ca.key")] + [
                os.path.join(folder_of(home), "old", name) for name in kept(home)]
    finally:
        os.umask(before)
    if len(keys) != 2:
        raise Failure(f"{keys}")
    for folder in (world.folder, home, os.path.join(home, "data")):
        os.chmod(folder, 0o711)  # as root makes it; not what stops them
    for key in keys:
        if os.stat(key).st_mode & 0o777 != 0o600:
            raise Failure(f"{key}: {os.stat(key).st_mode:o}")
        body = "".join(read(key).split("-----BEGIN PRIVATE KEY-----")[1].split("-----")[0].split())
        if not body or body[:40] in "".join(output.split()):
            raise Failure("the key was printed")
        if os.geteuid() == 0:  # who QEMU, the supervisor and the proxy are once they serve
            for path in (key, os.path.join(folder_of(home), "ca.pem")):
                done = subprocess.run(["cat", path], user=65534, group=65534, extra_groups=[],
                                      capture_output=True)
                if (done.returncode == 0) != path.endswith("ca.pem"):
                    raise Failure(f"{path}: {done}")
    if os.stat(os.path.join(folder_of(home), "old")).st_mode & 0o777 != 0o700:
        raise Failure("the folder of the old ones")


def key_of(certificate):
    """The public key of a certificate in DER."""
    return subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-pubkey"], check=True,
                          input=certificate, capture_output=True).stdout


def test_shares_no_key_with_another_installation(world):
    """Number 81: neither the CA's nor those of the leaves, which each process makes for itself."""
    proxies = [world.make(name, secrets={}) for name in ("one", "two")]
    pems = [read(proxy.ca_path) for proxy in proxies]
    leaves = [key_of(get(world, proxy, pem)) for proxy, pem in zip(proxies, pems)]
    restart(proxies[0])
    leaves.append(key_of(get(world, proxies[0], pems[0])))
    cas = [key_of(ssl.PEM_cert_to_DER_cert(pem)) for pem in pems]
    ca(proxies[0].home, "rotate")
    cas.append(key_of(ssl.PEM_cert_to_DER_cert(read(proxies[0].ca_path))))
    if len({*leaves, *cas}) != 6:
        raise Failure("a key came twice")
    for proxy in proxies:
        proxy.check_end()


def test_keeps_the_ca_of_what_runs(world):
    proxy = world.make("kept", secrets={})
    old = read(proxy.ca_path)
    with running(proxy.home, proxy.name, old):
        restart(proxy)
        facts = shown(proxy.home, "rotate")
        new = read(proxy.ca_path)
        if new == old or facts["older_used_by"] != [
                {"sandbox": proxy.name, "sha256": kept(proxy.home)[0]}] or facts["used_by"]:
            raise Failure(f"{facts}")
        if f"until they are stopped and started: {proxy.name}" not in ca(proxy.home, "show"):
            raise Failure("not told")
        get(world, proxy, old)  # it goes on,
        restart(proxy)  # and does so after a crash or a new policy
        get(world, proxy, old)
        ca(proxy.home, "rotate")
        restart(proxy)
        get(world, proxy, old)
        if len(kept(proxy.home)) != 1:  # the one between was nobody's
            raise Failure(f"{kept(proxy.home)}")
        # A new one beside it gets the present one.
        with running(proxy.home, "other", read(proxy.ca_path)):
            facts = shown(proxy.home)
            if facts["used_by"] != ["other"] or len(facts["older_used_by"]) != 1:
                raise Failure(f"{facts}")
    # Stopped, and started again: its launcher notes the present one.
    with running(proxy.home, proxy.name, read(proxy.ca_path)):
        restart(proxy)
        get(world, proxy, read(proxy.ca_path))
        if kept(proxy.home):
            raise Failure(f"{kept(proxy.home)}")
    proxy.check_end()


def test_does_not_start_with_a_ca_that_is_gone(world):
    proxy = world.make("gone", secrets={})
    for pem, text in ((read(world.proxy.ca_path), "is not there any more; restart the sandbox"),
                      ("nonsense", "ca.pem is damaged; restart the sandbox")):
        proxy.stop()
        with open(os.path.join(proxy.sandbox, "ca.pem"), "w", encoding="ascii") as f:
            f.write(pem)
        proxy.start()
        if proxy.process.wait(DEADLINE_S) != 125 or text not in proxy.log():
            raise Failure(proxy.log())
    proxy.supervisor.close()


def test_ends_a_rotate_that_was_cut_short(world):
    home = os.path.join(world.folder, "cut")
    ca(home, "show")
    path = os.path.join(folder_of(home), "ca.pem")
    old = read(path)
    ca(home, "rotate")
    new = read(path)
    with open(path, "w", encoding="ascii") as f:
        f.write(old)  # the key is there, its certificate's copy not yet
    if ca(home, "show", "--pem") != new or read(path) != new:
        raise Failure("not put right")
    os.remove(path)
    if ca(home, "show", "--pem") != new or os.stat(path).st_mode & 0o777 != 0o644:
        raise Failure("not put right")
    # As it was made before: the key alone.
    key = os.path.join(folder_of(home), "ca.key")
    text = read(key)
    with open(key, "w", encoding="ascii") as f:
        f.write(text.split("-----BEGIN CERTIFICATE-----")[0])
    if ca(home, "show", "--pem") != new:
        raise Failure("another one")
    with running(home, "a", new):
        ca(home, "rotate")
        if len(kept(home)) != 1 or read(path) == new:
            raise Failure(f"{kept(home)}")


def test_replaces_a_damaged_ca(world):
    home = os.path.join(world.folder, "broken")
    ca(home, "show")
    key = os.path.join(folder_of(home), "ca.key")
    for damage in (lambda: os.truncate(key, 0), lambda: os.remove(key), lambda: shutil.copyfile(
            os.path.join(folder_of(os.path.join(world.folder, "main")), "ca.pem"), key)):
        before = read(folder_of(home), "ca.pem")
        damage()
        if "bellglass ca rotate" not in ca(home, "show", status=125):
            raise Failure("not told")
        ca(home, "rotate")
        if read(folder_of(home), "ca.pem") == before or kept(home):
            raise Failure(f"{kept(home)}")
        ca(home, "show")


def test_keeps_no_more_than_some_old_cas(world):
    home = os.path.join(world.folder, "old-cas")
    with contextlib.ExitStack() as stack:
        for number in range(8):
            stack.enter_context(running(home, f"s{number}", ca(home, "show", "--pem")))
            ca(home, "rotate")
        stack.enter_context(running(home, "s8", ca(home, "show", "--pem")))
        before = read(folder_of(home), "ca.pem")
        if "8 older CAs are still in use" not in ca(home, "rotate", status=125):
            raise Failure("not refused")
        if read(folder_of(home), "ca.pem") != before or len(kept(home)) != 8:
            raise Failure("something changed")
    ca(home, "rotate")  # all have ended
    if kept(home):
        raise Failure(f"{kept(home)}")


def test_does_not_forget_what_it_cannot_tell(world):
    home = os.path.join(world.folder, "unclear")
    old = ca(home, "show", "--pem")
    with running(home, "a", old), running(home, "b", old):
        ca(home, "rotate")
        with open(os.path.join(home, "state", "sandboxes", "b", "ca.pem"), "w", encoding="ascii") as f:
            f.write("nonsense")
        if "stop and start 'b'" not in ca(home, "show", status=125) or len(kept(home)) != 1:
            raise Failure(f"{kept(home)}")
