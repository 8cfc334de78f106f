#!/usr/bin/python3 -B
"""internet.py FOLDER: what test_clients.c's guests talk to, on the host's loopback, as api.test and
other.test. FOLDER/token is the secret that it wants to see; FOLDER/ca.pem becomes the CA to trust. Prints
"web PORT" (HTTP/2 and HTTP/1.1), "old PORT" (HTTP/1.1 only), "socket PORT" (WebSockets), "rpc PORT" (gRPC)
and "ready", then serves until it is ended.

FOLDER/got has all that came, FOLDER/sent all that went out in answers. Debian's own Python, since that is
where Debian's packages are."""

import asyncio
import base64
import codecs
import concurrent.futures
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
import zlib

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import websockets

DEADLINE_S = 200  # nothing waits for that long unless it has gone wrong
SHOWN_MAX = 4096  # of a body, in FOLDER/got; of larger ones size and hash


class Folder:
    """What is written down."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        with open(self.name("token"), encoding="ascii") as f:
            self.token = f.read()

    def name(self, file):
        return os.path.join(self.path, file)

    def add(self, file, data):
        with self.lock, open(self.name(file), "ab") as f:
            f.write(data)

    def got(self, title, fields, body):
        if len(body) > SHOWN_MAX or b"\0" in body:
            body = f"{len(body)} bytes {hashlib.sha256(body).hexdigest()}".encode()
        head = "".join(f"{name}: {value}\n" for name, value in fields)
        self.add("got", f"{title}\n{head}\n".encode("latin-1") + body + b"\n\n")


def run(*argv, **options):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options).stdout


def make_certificates(folder):
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("openssl", "req", "-x509", *key, "-keyout", folder.name("ca.key"), "-out", folder.name("ca.pem"),
        "-subj", "/CN=internet", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run("openssl", "req", "-new", *key, "-keyout", folder.name("key.pem"), "-out", folder.name("csr"),
        "-subj", "/CN=api.test")
    with open(folder.name("cnf"), "w", encoding="ascii") as f:
        f.write("subjectAltName=DNS:api.test,DNS:other.test\nextendedKeyUsage=serverAuth\n")
    run("openssl", "x509", "-req", "-in", folder.name("csr"), "-CA", folder.name("ca.pem"), "-CAkey",
        folder.name("ca.key"), "-CAcreateserial", "-out", folder.name("cert.pem"), "-days", "2",
        "-extfile", folder.name("cnf"))


def server_context(folder, protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.name("cert.pem"), folder.name("key.pem"))
    context.set_alpn_protocols(protocols)
    return context


# --- what is served ---

class Request:
    def __init__(self, version, method, target, fields, body):
        self.version, self.method, self.target, self.body = version, method, target, body
        self.fields = fields  # (lower-case name, value)
        self.path, _, self.query = target.partition("?")

    def field(self, name):
        return next((value for n, value in self.fields if n == name), "")

    def text(self):
        head = "".join(f"{name}: {value}\r\n" for name, value in self.fields)
        return f"{self.method} {self.target}\r\n{head}\r\n".encode("latin-1") + self.body


class Answer:
    """body: bytes, or an iterator of pieces that go out one by one."""

    def __init__(self, status=200, body=b"", fields=(), trailers=()):
        self.status, self.body, self.fields, self.trailers = status, body, list(fields), list(trailers)


def entity(text, form):
    return "".join(form.format(ord(c)) for c in text).encode()


# The secret in the forms that net/scrub.h lists, each by a name. search.py looks for the same by itself.
FORMS = {
    "plain": lambda t: t.encode(),
    "base64-0": lambda t: base64.b64encode(t.encode()),
    "base64-1": lambda t: base64.b64encode(b"u" + t.encode()),
    "base64-2": lambda t: base64.b64encode(b"u:" + t.encode() + b"."),
    "base64-url": lambda t: base64.urlsafe_b64encode(t.encode()).rstrip(b"="),
    "base64-lines": lambda t: base64.encodebytes(b"x" * 50 + t.encode() * 2),
    "hex": lambda t: t.encode().hex().encode(),
    "hex-upper": lambda t: t.encode().hex().upper().encode(),
    "hex-colons": lambda t: t.encode().hex(":").encode(),
    "hex-spaces": lambda t: t.encode().hex(" ").encode(),
    "hex-0x": lambda t: ", ".join(f"0x{c:02x}" for c in t.encode()).encode(),
    "percent": lambda t: entity(t, "%{:02X}"),
    "json": lambda t: b'{"k":"' + entity(t, "\\u{:04x}") + b'"}',
    "entities": lambda t: entity(t, "&#{};"),
    "entities-hex": lambda t: entity(t, "&#x{:x};"),
    "quoted-printable": lambda t: entity(t, "={:02X}"),
    "octal": lambda t: entity(t, "\\{:03o}"),
    "reversed": lambda t: t[::-1].encode(),
    "rot13": lambda t: codecs.encode(t, "rot13").encode(),
    "upper": lambda t: t.upper().encode(),
}


def deflate_raw(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODINGS = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate-raw": ("deflate", deflate_raw),
    "twice": ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
}


class Web:
    def __init__(self, folder):
        self.folder = folder
        self.seen = 0  # events that clients said they have
        self.changed = threading.Condition()
        self.objects = {}
        self.repository = folder.name("git/r.git")
        self.make_repository()

    def make_repository(self):
        work = self.folder.name("work")
        script = ("git init -q --bare -b main \"$1\"; git -C \"$1\" config http.receivepack true; "
                  "git init -q -b main \"$2\"; cd \"$2\"; echo first >file; git add file; "
                  "git -c user.name=n -c user.email=e commit -qm first; git push -q \"$1\" main")
        run("sh", "-ec", script, "-", self.repository, work)

    def answer(self, request):
        folder = self.folder
        folder.got(f"HTTP/{request.version} {request.method} {request.target}", request.fields,
                   request.body)
        parts = request.path.strip("/").split("/")
        handlers = {"sum": self.sum, "events": self.events, "next": self.next, "leak": self.leak,
                    "away": self.away, "git": self.git, "lfs": self.lfs}
        try:
            return handlers.get(parts[0], self.echo)(request, parts)
        except Exception as error:  # pylint: disable=broad-except; the client is to hear of it
            return Answer(500, repr(error).encode())

    def echo(self, request, parts):
        del parts
        return Answer(body=request.text(), fields=[("x-authorization", request.field("authorization"))])

    def sum(self, request, parts):
        del parts
        text = f"{len(request.body)} {hashlib.sha256(request.body).hexdigest()}\n"
        return Answer(body=text.encode())

    # Server-sent events: the next one goes only when the client has said that it has the one before.

    def events(self, request, parts):
        count, token = int(parts[1]), request.field("authorization")

        def pieces():
            with self.changed:
                self.seen = 0
            for i in range(1, count + 1):
                yield f"id: {i}\ndata: {token if i % 2 else 'nothing'}\n\n".encode()
                with self.changed:
                    if not self.changed.wait_for(lambda n=i: self.seen >= n, DEADLINE_S):
                        return
        return Answer(body=pieces(), fields=[("content-type", "text/event-stream")])

    def next(self, request, parts):
        del request
        with self.changed:
            self.seen = int(parts[1])
            self.changed.notify_all()
        return Answer(body=b"noted\n")

    # The secret, as an approved host may send it back: /leak/WHERE/FORM

    def leak(self, request, parts):
        where, form = parts[1], parts[2]
        value = FORMS[form](self.folder.token)
        text = value.decode().replace("\n", "")
        body = b"here: <" + value + b">\n"
        if where == "field":
            return Answer(body=b"field\n", fields=[
                ("x-leak", text), ("set-cookie", f"k={text}; Path=/"), ("etag", f'"{text}"'),
                ("link", f"</{text}>; rel=next"), ("refresh", f"9;url=/{text}")])
        if where == "trailer":
            return Answer(body=iter([b"trailer\n"]), fields=[("trailer", "x-leak")],
                          trailers=[("x-leak", text)])
        if where == "pieces":
            return Answer(body=(bytes([c]) for c in body))
        if where == "error":
            return Answer(500, body)
        if where == "message":  # of gRPC, one that the client did not want to be coded
            packed = gzip.compress(body)
            return Answer(body=b"\1" + len(packed).to_bytes(4, "big") + packed, fields=[
                ("content-type", "application/grpc"), ("grpc-encoding", "gzip")])
        if where in CODINGS:
            name, pack = CODINGS[where]
            return Answer(body=pack(body), fields=[("content-encoding", name)])
        chosen = request.field("range")
        if where == "range" and chosen.startswith("bytes="):
            first, last = (int(n) for n in chosen[6:].split("-"))
            return Answer(206, body[first:last + 1],
                          [("content-range", f"bytes {first}-{last}/{len(body)}")])
        return Answer(body=body, fields=[("accept-ranges", "bytes")])

    def away(self, request, parts):
        """To the other host, with the secret in the query and whatever the client takes along."""
        port = request.field("host").partition(":")[2] or request.field(":authority").partition(":")[2]
        form = FORMS[parts[1]](self.folder.token).decode()
        return Answer(307, fields=[("location", f"https://other.test:{port}/echo?k={form}")])

    # Git, and Git LFS, both only with the token.

    def knows_token(self, request):
        kind, _, value = request.field("authorization").partition(" ")
        if kind.lower() == "basic":
            return base64.b64decode(value).decode().partition(":")[2] == self.folder.token
        return value == self.folder.token

    def git(self, request, parts):
        if not self.knows_token(request):
            return Answer(401, b"who are you?\n", [("www-authenticate", 'Basic realm="git"')])
        if parts[2:4] == ["info", "lfs"]:
            return self.lfs_batch(request) if parts[4:] == ["objects", "batch"] else Answer(404, b"{}")
        env = {"PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": self.folder.name("git"),
               "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": "/" + "/".join(parts[1:]),
               "QUERY_STRING": request.query, "REQUEST_METHOD": request.method, "REMOTE_USER": "n",
               "CONTENT_TYPE": request.field("content-type"),
               "CONTENT_LENGTH": str(len(request.body)),
               "HTTP_CONTENT_ENCODING": request.field("content-encoding"),
               "GIT_PROTOCOL": request.field("git-protocol")}
        out = run("git", "http-backend", input=request.body, env=env)
        head, _, body = out.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((int(v.split()[0]) for n, v in fields if n.lower() == "status"), 200)
        return Answer(status, body, [(n.lower(), v) for n, v in fields if n.lower() != "status"])

    def lfs_batch(self, request):
        """Sends the client on with a login for objects, as LFS services do."""
        batch = json.loads(request.body)
        host = request.field("host") or request.field(":authority")
        action = {"header": {"Authorization": "Bearer " + self.folder.token}}
        objects = [{"oid": o["oid"], "size": o["size"], "authenticated": True, "actions": {
            batch["operation"]: {**action, "href": f"https://{host}/lfs/{o['oid']}"}}}
                   for o in batch["objects"]]
        return Answer(body=json.dumps({"transfer": "basic", "objects": objects}).encode(),
                      fields=[("content-type", "application/vnd.git-lfs+json")])

    def lfs(self, request, parts):
        if not self.knows_token(request):
            return Answer(401)
        if request.method == "PUT":
            self.objects[parts[1]] = request.body
            return Answer()
        return Answer(body=self.objects[parts[1]])


# --- HTTP/1.1 ---

def read_chunks(stream):
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass
    return body


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    web = None

    def log_message(self, *args):  # pylint: disable=arguments-differ
        pass

    def put(self, data):
        self.web.folder.add("sent", data)
        self.wfile.write(data)

    def handle_request(self):
        if self.headers.get("transfer-encoding"):
            body = read_chunks(self.rfile)
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fields = [(name.lower(), value) for name, value in self.headers.items()]
        answer = self.web.answer(Request("1.1", self.command, self.path, fields, body))
        whole = isinstance(answer.body, bytes)
        framing = ("content-length", str(len(answer.body))) if whole else ("transfer-encoding", "chunked")
        lines = [f"{n}: {v}\r\n" for n, v in answer.fields + [framing]]
        if self.path.startswith("/leak/interim/"):
            self.put(f"HTTP/1.1 103 Early Hints\r\nlink: </{self.web.folder.token}>\r\n\r\n".encode())
        reason = self.web.folder.token if self.path.startswith("/leak/reason/") else "As Asked"
        self.put(f"HTTP/1.1 {answer.status} {reason}\r\n{''.join(lines)}\r\n".encode("latin-1"))
        if self.command == "HEAD":
            return
        if whole:
            self.put(answer.body)
            return
        for piece in answer.body:
            self.web.folder.add("sent", piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        trailers = "".join(f"{n}: {v}\r\n" for n, v in answer.trailers)
        self.put(f"0\r\n{trailers}\r\n".encode())

    do_GET = do_HEAD = do_POST = do_PUT = handle_request


# --- HTTP/2 ---

class Http2:
    """One connection. A thread reads, each request has one that answers; one lock is of all, also of the
    TLS: where two threads are in one session at once, Python takes it for ended now and then."""

    def __init__(self, connection, web):
        self.socket, self.web = connection, web
        self.socket.setblocking(False)  # who waits for bytes does not hold the lock
        self.changed = threading.Condition()
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        self.requests = {}
        self.ended = False

    def flush(self):
        data = self.h2.data_to_send()
        while data:
            try:
                data = data[self.socket.send(data):]
            except ssl.SSLWantWriteError:
                if not select.select([], [self.socket], [], DEADLINE_S)[1]:
                    raise

    def receive(self):
        while True:
            with self.changed, contextlib.suppress(ssl.SSLWantReadError):
                return self.socket.recv(65536)
            if not select.select([self.socket], [], [], DEADLINE_S)[0]:
                return b""

    def serve(self):
        with self.changed:
            self.h2.initiate_connection()
            self.flush()
        try:
            while data := self.receive():
                with self.changed:
                    for event in self.h2.receive_data(data):
                        self.take(event)
                    self.flush()
                    self.changed.notify_all()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def take(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.requests[event.stream_id] = (event.headers, [])
        elif isinstance(event, h2.events.DataReceived):
            self.requests[event.stream_id][1].append(event.data)
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            headers, pieces = self.requests.pop(event.stream_id)
            pseudo = dict(headers)
            fields = [(n, v) for n, v in headers if n not in (":method", ":path", ":scheme")]
            request = Request("2", pseudo[":method"], pseudo[":path"], fields, b"".join(pieces))
            threading.Thread(target=self.answer, args=(event.stream_id, request), daemon=True).start()

    def answer(self, stream, request):
        try:
            answer = self.web.answer(request)
            whole = isinstance(answer.body, bytes)
            fields = [(":status", str(answer.status))] + answer.fields
            if whole:
                fields.append(("content-length", str(len(answer.body))))
            self.web.folder.add("sent", "".join(f"{n}: {v}\n" for n, v in fields).encode())
            no_body = request.method == "HEAD"
            with self.changed:
                self.h2.send_headers(stream, fields, end_stream=no_body)
                self.flush()
            if no_body:
                return
            for piece in [answer.body] if whole else answer.body:
                self.send(stream, piece)
            with self.changed:
                if answer.trailers:
                    self.h2.send_headers(stream, answer.trailers, end_stream=True)
                else:
                    self.h2.end_stream(stream)
                self.flush()
        except (OSError, KeyError, h2.exceptions.H2Error):
            pass  # the client has gone

    def send(self, stream, data):
        self.web.folder.add("sent", data)
        while data:
            with self.changed:
                room = 0
                while not room and not self.ended:
                    room = min(self.h2.local_flow_control_window(stream),
                               self.h2.max_outbound_frame_size, len(data))
                    if not room and not self.changed.wait(DEADLINE_S):
                        return
                if self.ended:
                    return
                self.h2.send_data(stream, data[:room])
                self.flush()
            data = data[room:]


def serve_web(listener, context, web):
    Handler.web = web

    def talk(connection, peer):
        try:
            connection.settimeout(DEADLINE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(connection, server_side=True) as tls:
                if tls.selected_alpn_protocol() == "h2":
                    Http2(tls, web).serve()
                else:
                    Handler(tls, peer, None)
        except OSError:
            pass  # the client has gone
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=talk, args=(connection, peer), daemon=True).start()


# --- WebSockets and gRPC ---

def serve_sockets(listener, context, folder):
    async def talk(connection):
        fields = list(connection.request_headers.raw_items())
        token = connection.request_headers.get("authorization", "")
        await connection.send(token)
        async for message in connection:
            data = message if isinstance(message, bytes) else message.encode()
            folder.got(f"WebSocket {connection.path}", fields, data)
            folder.add("sent", token.encode() + b"\n" + data + b"\n")
            await connection.send(message)
            if message == "send it":
                for make in FORMS.values():
                    folder.add("sent", make(folder.token) + b"\n")
                    await connection.send(make(folder.token))
                    await connection.send(make(folder.token).decode())

    async def main():
        async with websockets.serve(talk, sock=listener, ssl=context):
            await asyncio.Future()
    asyncio.run(main())


class Echo(grpc.GenericRpcHandler):
    """Messages are bytes as they are: what they mean is not the proxy's business."""

    def __init__(self, folder):
        self.folder = folder

    def service(self, details):
        handlers = {
            "/echo.Echo/One": grpc.unary_unary_rpc_method_handler(self.one),
            "/echo.Echo/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "/echo.Echo/Fail": grpc.unary_unary_rpc_method_handler(self.fail)}
        return handlers.get(details.method)

    def begin(self, method, message, context):
        fields = [(m.key, m.value) for m in context.invocation_metadata()]
        self.folder.got(f"gRPC {method}", fields, message)
        token = dict(fields).get("authorization", "")
        context.set_trailing_metadata((("x-token", token), ("x-method", method)))
        self.folder.add("sent", token.encode() + b"\n")
        return token.encode()

    def one(self, message, context):
        return self.begin("One", message, context) + b" " + message

    def chat(self, messages, context):
        for message in messages:
            yield self.begin("Chat", message, context) + b" " + message

    def fail(self, message, context):
        token = self.begin("Fail", message, context)
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing for " + token.decode())


def serve_rpc(folder):
    with open(folder.name("key.pem"), "rb") as key, open(folder.name("cert.pem"), "rb") as cert:
        credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Echo(folder),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port


def main():
    folder = Folder(sys.argv[1])
    os.environ["HOME"] = folder.path  # no git configuration but what is here
    make_certificates(folder)
    web = Web(folder)
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(3)]
    server, rpc_port = serve_rpc(folder)
    old = server_context(folder, ["http/1.1"])
    threading.Thread(target=serve_web, args=(listeners[1], old, web), daemon=True).start()
    threading.Thread(target=serve_sockets, args=(listeners[2], old, folder), daemon=True).start()
    ports = [listener.getsockname()[1] for listener in listeners]
    print(f"web {ports[0]}\nold {ports[1]}\nsocket {ports[2]}\nrpc {rpc_port}\nready", flush=True)
    serve_web(listeners[0], server_context(folder, ["h2", "http/1.1"]), web)
    server.stop(None)


main()
