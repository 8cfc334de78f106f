"""across.py MODE...: streams that must not notice a snapshot. Each mode moves noise that is a function of its
place, checks every byte of it, says `going` once and then works on until the file STOP is there; then it
says `good N`, N: the bytes or the files that it has seen. On the host and in the guest.

  pipe STOP COMMAND...         COMMAND echoes: both ways at once
  forward STOP SOCKET PORT     the same through a port forward of a sandbox's supervisor
  echo PORT                    what `forward` talks to, in the guest
  files STOP FOLDER            writes, reads and renames files
  copies STOP FOLDER NAME COMMAND...   COMMAND cp: a file into the sandbox and out again
  again STOP COMMAND...        COMMAND, which must succeed each time
  upload STOP HOST PORT        one request whose body ends when STOP is there
  download STOP HOST PORT      one answer that ends when STOP is there, here
  serve                        what the two talk to; says its port
"""

import hashlib
import http.client
import http.server
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading

BLOCK = 1 << 20
NOISE = random.Random(7).randbytes(BLOCK + 251)  # no power of two: a block that is lost or doubled is seen
TIMEOUT_S = 200


def noise(at, size):
    """Bytes at..at+size of an endless stream."""
    out = bytearray()
    while size > 0:
        offset = at % len(NOISE)
        piece = NOISE[offset:offset + size]
        out += piece
        at += len(piece)
        size -= len(piece)
    return bytes(out)


def check(at, data, what):
    if data != noise(at, len(data)):
        sys.exit(f"{what}: other bytes than were sent, between {at} and {at + len(data)}")


def going(first=[True]):
    if first.pop():
        print("going", flush=True)
    first.append(False)


def both_ways(stop, write, end, read, most):
    """write and end in a thread of their own, for the other side answers only what it reads."""
    sent = 0

    def send():
        nonlocal sent
        while not os.path.exists(stop) and sent < most:
            size = random.randint(1, 100000)
            write(noise(sent, size))
            sent += size
        end()

    thread = threading.Thread(target=send)
    thread.start()
    got = 0
    while data := read():
        check(got, data, "echo")
        got += len(data)
        if got > BLOCK:
            going()
    thread.join()
    if got != sent:
        sys.exit(f"echo: {sent} bytes sent, {got} came back")
    print("good", got, flush=True)


def pipe(stop, *command):
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        both_ways(stop, process.stdin.write, process.stdin.close,
                  lambda: process.stdout.read(random.randint(1, 100000)), 1 << 40)
    if process.returncode != 0:
        sys.exit(f"status {process.returncode}")


def exactly(peer, size):
    data = b""
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            sys.exit("forward: it ended")
        data += piece
    return data


def forward(stop, path, port):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(TIMEOUT_S)
        peer.connect(path)
        peer.sendall(json.dumps({"op": "open", "kind": "forward", "body_size": 2}).encode() + b"\n" +
                     struct.pack("<H", int(port)))
        line = b""
        while not line.endswith(b"\n"):
            line += exactly(peer, 1)
        if not json.loads(line)["ok"]:
            sys.exit(line.decode())
        if struct.unpack("<IiI", exactly(peer, 12))[1:] != (0, 0):
            sys.exit("forward: refused")
        both_ways(stop, peer.sendall, lambda: peer.shutdown(socket.SHUT_WR),
                  lambda: peer.recv(random.randint(1, 100000)), 1 << 40)


def echo(port):
    with socket.create_server(("127.0.0.1", int(port))) as server:
        print("ready", flush=True)
        while True:
            peer = server.accept()[0]
            while data := peer.recv(70000):
                peer.sendall(data)
            peer.close()


def files(stop, folder):
    count = 0
    while not os.path.exists(stop):
        size = random.randint(1, 3 * BLOCK)
        start = random.randint(0, BLOCK)
        path = os.path.join(folder, f"file-{count}")
        with open(path + ".new", "wb", buffering=0) as out:
            at = 0
            while at < size:
                n = min(size - at, random.randint(1, 300000))
                if out.write(noise(start + at, n)) != n:
                    sys.exit(f"{path}: a short write")
                at += n
            if count % 3 == 0:
                os.fsync(out.fileno())
        os.rename(path + ".new", path)
        with open(path, "rb") as back:
            data = back.read()
        if len(data) != size:
            sys.exit(f"{path}: {len(data)} bytes instead of {size}")
        check(start, data, path)
        if f"file-{count}" not in os.listdir(folder):
            sys.exit(f"{path}: not listed")
        os.unlink(path)
        count += 1
        going()
    print("good", count, flush=True)


def run(*command):
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{command}: status {done.returncode}: {done.stderr.decode()}")


def copies(stop, folder, name, *command):
    count = 0
    there = os.path.join(folder, "there")
    back = os.path.join(folder, "back")
    while not os.path.exists(stop):
        data = noise(random.randint(0, BLOCK), random.randint(1, 4 * BLOCK))
        with open(there, "wb") as out:
            out.write(data)
        run(*command, "cp", there, f"{name}:/tmp/copied")
        run(*command, "cp", f"{name}:/tmp/copied", back)
        with open(back, "rb") as copied:
            if copied.read() != data:
                sys.exit("copy: it came back as another file")
        os.unlink(back)
        count += 1
        going()
    print("good", count, flush=True)


def again(stop, *command):
    count = 0
    while not os.path.exists(stop):
        run(*command)
        count += 1
        going()
    print("good", count, flush=True)


def upload(stop, host, port):
    digest = hashlib.sha256()
    sent = 0

    def body():
        nonlocal sent
        while not os.path.exists(stop):
            data = noise(sent, random.randint(1, 60000))
            digest.update(data)
            sent += len(data)
            if sent > BLOCK:
                going()
            yield data

    peer = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    peer.request("PUT", "/up", body=body(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    answer = peer.getresponse().read().decode()
    if answer != f"{sent} {digest.hexdigest()}":
        sys.exit(f"upload: {sent} bytes with {digest.hexdigest()}, the server says {answer}")
    print("good", sent, flush=True)


def download(stop, host, port):
    peer = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    peer.request("GET", "/down")
    answer = peer.getresponse()
    got = 0
    while not os.path.exists(stop):
        data = answer.read1(random.randint(1, 100000))
        if not data:
            sys.exit(f"download: it ended after {got} bytes")
        check(got, data, "download")
        got += len(data)
        if got > BLOCK:
            going()
    print("good", got, flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments):
        pass

    def do_PUT(self):
        digest = hashlib.sha256()
        got = 0
        while size := int(self.rfile.readline(), 16):
            data = self.rfile.read(size)
            digest.update(data)
            got += size
            self.rfile.readline()
        self.rfile.readline()
        text = f"{got} {digest.hexdigest()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        at = 0
        try:
            while True:
                data = noise(at, random.randint(1, 60000))
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                at += len(data)
        except OSError:
            self.close_connection = True  # it has enough


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print("port", server.server_port, flush=True)
    server.serve_forever()


MODES = {"pipe": pipe, "forward": forward, "echo": echo, "files": files, "copies": copies, "again": again,
         "upload": upload, "download": download, "serve": serve}
MODES[sys.argv[1]](*sys.argv[2:])
