// A sandbox's exposed port at ID.localhost, by sockets and libraries: ports.mjs PORT TOKEN. What comes in goes to a real server in the
// guest. Environment: the SDK's endpoints. (One that sleeps is woken by a request: sleep.mjs.)
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import http from "node:http";
import net from "node:net";
import { test } from "node:test";
import WebSocket from "ws";

const [port, token] = process.argv.slice(2);
const sandbox = await Sandbox.create({ token });
const host = `${sandbox.id}.localhost`;

// What a path does stands in its method here; a WebSocket gives back what it gets.
const SERVER = `
import base64, hashlib, http.server, threading
told = threading.Event()
seen = threading.Event()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args):
        pass
    def answer(self, body, **fields):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
    def chunk(self, body):
        self.wfile.write(b"%x\\r\\n" % len(body) + body + b"\\r\\n")
        self.wfile.flush()
    def read_chunk(self):
        size = int(self.rfile.readline(), 16)
        body = self.rfile.read(size)
        self.rfile.readline()
        return body
    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            return self.socket()
        if self.path == "/fields":
            return self.answer(repr(sorted((k.lower(), v) for k, v in self.headers.items())).encode())
        if self.path == "/go":
            told.set()
            return self.answer(b"gone")
        if self.path == "/seen":
            seen.wait(60)
            return self.answer(b"seen")
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
            return
        if self.path == "/silent":
            self.close_connection = True
            return
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.chunk(b"first")
            told.wait(60)
            self.chunk(b"second")
            return self.chunk(b"")
        size = int(self.path[1:])
        self.answer((b"0123456789abcdef" * (size // 16)), ETag='"x"')
    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = [self.read_chunk()]
            seen.set()
            while parts[-1]:
                parts.append(self.read_chunk())
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(hashlib.sha256(body).hexdigest().encode())
    def socket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        while True:
            head = self.rfile.read(2)
            size = head[1] & 127
            size = int.from_bytes(self.rfile.read(2), "big") if size == 126 else int.from_bytes(self.rfile.read(8), "big") if size == 127 else size
            mask = self.rfile.read(4)
            body = self.rfile.read(size)
            body = (int.from_bytes(body, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")).to_bytes(size, "big")
            length = bytes([size]) if size < 126 else b"\\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\\x7f" + size.to_bytes(8, "big")
            self.wfile.write(bytes([head[0]]) + length + body)
            if head[0] & 15 == 8:
                self.close_connection = True
                return
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
print("ready", flush=True)
server.serve_forever()
`;
await sandbox.fs.writeTextFile("server.py", SERVER);
const server = await sandbox.spawn("python3", { args: ["server.py"], stdout: "piped" });
await server.stdout.getReader().read();

// A request; the answer, whose body is not yet read.
const begin = (path, { method = "GET", headers = {}, body, name = host } = {}) => new Promise((done, failed) => {
  const request = http.request({ host: "127.0.0.1", port, path, method, headers: { Host: name, ...headers }, agent: false }, done);
  request.on("error", failed);
  if (body !== null) request.end(body);
  else done.request = request;
});
const read = async (answer) => {
  const parts = [];
  for await (const part of answer) parts.push(part);
  return Buffer.concat(parts);
};
const get = async (path, options) => {
  const answer = await begin(path, options);
  return [answer.statusCode, (await read(answer)).toString()];
};
const refused = async (path, status, code, text) => {
  const [got, body] = await get(path);
  assert.equal(got, status, body);
  assert.equal(JSON.parse(body).code, code);
  assert.match(JSON.parse(body).message, text);
};

test("nothing is there before a port is exposed, nor where nobody listens", async () => {
  await refused("/go", 404, "NOT_EXPOSED", /none of its ports is exposed/);
  await sandbox.exposeHttp({ port: 8001 });
  await refused("/go", 502, "PORT_NOT_REACHED", new RegExp(`port 8001 of ${sandbox.id}`));
  const url = new URL(await sandbox.exposeHttp({ port: 8000 }));
  assert.equal(url.hostname, host);
});

test("requests come as they are, but for the connection's end", async () => {
  const [status, text] = await get("/fields", { headers: { "X-Own": "1", Authorization: "Bearer of the guest" }, name: `${host}:${port}` });
  assert.equal(status, 200);
  for (const one of [`('x-own', '1')`, `('authorization', 'Bearer of the guest')`, `('host', '${host}:${port}')`, `('connection', 'close')`])
    assert.ok(text.includes(one), text);
  const answer = await begin("/16");
  assert.deepEqual([answer.headers.etag, answer.headers.connection, (await read(answer)).toString()], ['"x"', "close", "0123456789abcdef"]);
});

test("large bodies go both ways, and small ones as they come", async () => {
  const size = 16 << 20, { createHash } = await import("node:crypto");
  const [status, text] = await get(`/${size}`);
  assert.deepEqual([status, text.length, text.slice(-16)], [200, size, "0123456789abcdef"]);
  const sum = createHash("sha256").update(text).digest("hex");
  assert.deepEqual(await get("/", { method: "POST", body: text }), [200, sum]);
  // The answer's first part is here before the guest has the second.
  const stream = await begin("/stream"), parts = stream[Symbol.asyncIterator]();
  assert.equal((await parts.next()).value.toString(), "first");
  assert.deepEqual(await get("/go"), [200, "gone"]);
  assert.equal((await parts.next()).value.toString(), "second");
  assert.equal((await parts.next()).done, true);
  // And so is the request's first part there.
  const sent = await new Promise((done, failed) => {
    const request = http.request({ host: "127.0.0.1", port, path: "/", method: "POST", headers: { Host: host }, agent: false },
      async (answer) => done((await read(answer)).toString()));
    request.on("error", failed);
    request.write("one");
    get("/seen").then(([, text]) => text === "seen" ? request.end("two") : failed(new Error(text)));
  });
  assert.equal(sent, createHash("sha256").update("onetwo").digest("hex"));
});

test("a WebSocket passes, with messages of any size, and its close", async () => {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`, { headers: { Host: host } });
  const next = () => new Promise((done, failed) => socket.once("message", (data) => done(data)).once("error", failed));
  await new Promise((done, failed) => socket.on("open", done).on("error", failed));
  for (const size of [1, 125, 126, 65535, 65536, 1 << 20]) {
    const sent = Buffer.alloc(size, `${size} `), got = next();
    socket.send(sent);
    assert.ok((await got).equals(sent), `${size}`);
  }
  socket.close(4321, "enough");
  assert.equal(await new Promise((done) => socket.on("close", done)), 4321);
});

test("a server that hangs up is told of as such", async () => {
  await refused("/silent", 502, "PORT_NOT_REACHED", new RegExp(`port 8000 of ${sandbox.id}.* without an answer`));
  const answer = await begin("/cut");
  assert.equal(answer.statusCode, 200);
  await assert.rejects(read(answer), { code: "ECONNRESET" });
  await server.kill("SIGKILL");
  await server.status;
  await refused("/go", 502, "PORT_NOT_REACHED", new RegExp(`port 8000 of ${sandbox.id}`));
});

test("a client that leaves costs nobody anything", async () => {
  const socket = net.connect(Number(port), "127.0.0.1", () => socket.write(`GET /16 HTTP/1.1\r\nHost: ${host}\r\n\r\n`, () => socket.destroy()));
  await new Promise((done) => socket.on("close", done));
  assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
  await sandbox.close();
  await refused("/go", 404, "NOT_EXPOSED", /no such sandbox/);
});
