// What no well-made client sends, over bare sockets: raw.mjs PORT TOKEN. Each must cost its sender alone.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { test } from "node:test";
import WebSocket from "ws";

const [port, token] = process.argv.slice(2);
const auth = `Host: localhost\r\nAuthorization: Bearer ${token}\r\n`;

// Sends text; all that comes until the other side ends.
const send = (text, { end = true } = {}) => new Promise((done, failed) => {
  const socket = net.connect(Number(port), "127.0.0.1");
  const parts = [];
  socket.on("data", (part) => parts.push(part));
  socket.on("error", (e) => e.code === "ECONNRESET" ? done(Buffer.concat(parts)) : failed(e));
  socket.on("close", () => done(Buffer.concat(parts)));
  socket.write(text);
  if (end) socket.end();
});
const status = async (text) => Number((await send(text, { end: false })).toString().split(" ")[1]);

test("requests that are none are answered and end", async () => {
  assert.equal(await status("hello\r\n\r\n"), 400);
  assert.equal(await status(`GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`), 400);
  assert.equal(await status(`GET /${"a".repeat(200_000)} HTTP/1.1\r\n\r\n`), 431);
  assert.equal(await status(`POST /api/v2/sandboxes HTTP/1.1\r\n${auth}Content-Length: 9999999\r\n\r\n`), 413);
  assert.equal(await status("GET /health HTTP/1.0\r\n\r\n"), 421);
  assert.equal(await status("GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), 421);
  assert.equal(await status("GET /api/v2/sandboxes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 401);
  assert.equal(await status(`GET /api/v2/sandboxes HTTP/1.1\r\n${auth}Origin: http://evil.example\r\nConnection: close\r\n\r\n`), 403);
  assert.equal(await status(`GET /api/v3/sandboxes/create HTTP/1.1\r\n${auth}Connection: close\r\n\r\n`), 426);
  assert.equal(await status(`GET /../../etc/passwd HTTP/1.1\r\n${auth}Connection: close\r\n\r\n`), 404);
  assert.equal(await status(`CONNECT evil.example:443 HTTP/1.1\r\n${auth}\r\n`), 405);
});

test("many requests in one piece are answered in order", async () => {
  const one = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const text = (await send(one.repeat(500) + one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), { end: false })).toString();
  assert.equal(text.match(/HTTP\/1.1 200 OK/g).length, 501);
});

const frame = (first, payload, masked = true) => {
  const data = Buffer.from(payload), mask = masked ? crypto.randomBytes(4) : Buffer.alloc(0);
  const head = data.length < 126 ? Buffer.from([first, (masked ? 0x80 : 0) | data.length])
    : Buffer.from([first, (masked ? 0x80 : 0) | 126, data.length >> 8, data.length & 255]);
  return Buffer.concat([head, mask, masked ? data.map((byte, i) => byte ^ mask[i % 4]) : data]);
};

// A WebSocket to a new sandbox; sends frames when it is open. The code of the close frame that comes, or null.
const upgraded = (config, frames) => new Promise((done, failed) => {
  const socket = net.connect(Number(port), "127.0.0.1");
  let got = Buffer.alloc(0), open = false;
  socket.on("data", (part) => {
    got = Buffer.concat([got, part]);
    const end = got.indexOf("\r\n\r\n");
    if (open || end < 0) return;
    open = true;
    const head = got.subarray(0, end).toString();
    got = got.subarray(end + 4);
    if (!head.startsWith("HTTP/1.1 101")) return;
    for (const one of frames) socket.write(one);
  });
  socket.on("error", failed);
  socket.on("end", () => socket.end());
  socket.on("close", () => {
    for (let at = 0; at + 2 <= got.length;) {
      const size = got[at + 1] & 127;
      if (got[at] === 0x88) return done(size >= 2 ? got.readUInt16BE(at + 2) : 1005);
      at += size === 126 ? 4 + got.readUInt16BE(at + 2) : 2 + size;
    }
    done(null);
  });
  socket.write(`GET /api/v3/sandboxes/create HTTP/1.1\r\n${auth}Connection: Upgrade\r\nUpgrade: websocket\r\n` +
    `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${crypto.randomBytes(16).toString("base64")}\r\n` +
    `x-deno-sandbox-config: ${Buffer.from(JSON.stringify(config)).toString("base64")}\r\n\r\n`);
});
const call = (method, params, id = 1) => frame(0x81, JSON.stringify({ jsonrpc: "2.0", id, method, params }));
const closing = frame(0x88, Buffer.from([3, 232]));

test("frames and messages that are wrong close with their code", async () => {
  const wrong = [
    [[frame(0x81, "{")], 4000],
    [[frame(0x81, "[]")], 4001],
    [[frame(0x82, "binary")], 1003],
    [[frame(0x81, "not masked", false)], 1002],
    [[frame(0x81, Buffer.from([0xff]))], 1007],
    [[frame(0x81, '{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":{"streamId":1}}'),
      frame(0x81, '{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"!!!!"}}')], 1008],
  ];
  assert.deepEqual(await Promise.all(wrong.map(([frames]) => upgraded({}, frames))), wrong.map(([, code]) => code));
});

test("calls with wrong parameters, ids given twice and streams never ended do no harm", async () => {
  const code = await upgraded({}, [
    call("nothing", {}), call("spawn", {}), call("spawn", { command: "sleep", args: [5], stdout: "piped", stderr: "null" }),
    call("stat", { path: "a\u0000b" }), call("stat", { path: "x".repeat(5000) }), call("fileRead", { fileHandleId: 7, length: 1 }),
    call("processKill", { pid: 999999, signal: "SIGTERM" }), call("processWait", { pid: -1 }),
    call("spawn", { command: "sleep", args: ["1000"], stdout: "piped", stderr: "piped", stdinStreamId: 5 }),
    frame(0x81, '{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":{"streamId":5}}'),
    frame(0x81, '{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":{"streamId":5}}'),
    call("spawn", { command: "cat", stdout: "piped", stderr: "piped", stdinStreamId: 5 }),
    frame(0x81, '{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":5,"data":""}}'),
    frame(0x81, '{"jsonrpc":"2.0","method":"$sandbox.stream.cancel","params":{"streamId":123456789}}'),
    frame(0x81, '{"jsonrpc":"2.0","method":"unknown"}'), frame(0x81, "ping"), call("umask", { mask: 1000 }), closing]);
  assert.equal(code, 1000);
});

// Deno reads its socket up to 32 times before what waits for a message runs, and answers pings meanwhile. This client does the
// same: it acts on an answer or a chunk when it has read 32 things, and not before.
test("a client that acts only after many reads hears no start before, and no end of what it leaves then", async () => {
  const READS = 32;
  const socket = new WebSocket(`ws://127.0.0.1:${port}/api/v3/sandboxes/create`, [], {
    autoPong: false, headers: { Authorization: `Bearer ${token}`, "x-deno-sandbox-config": Buffer.from("{}").toString("base64") } });
  const heard = [], waiting = [];
  let pings = 0, acting = null;
  const told = (wanted) => new Promise((done) => waiting.push([wanted, done]));
  const act = (what) => acting = { reads: 0, what };
  socket.on("ping", (data) => {
    pings++;
    if (acting && ++acting.reads === READS) {
      acting.what();
      acting = null;
    }
    socket.pong(data);
  });
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    heard.push([message, pings]);
    for (const [wanted, done] of waiting) if (wanted(message)) done([message, pings]);
  });
  const ask = (id, method, params) => socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
  const about = (verb, id) => (m) => m.method === `$sandbox.stream.${verb}` && m.params.streamId === id;
  await new Promise((done, failed) => socket.on("open", done).on("error", failed));
  for (const leaves of [false, true]) {
    const answered = told((m) => m.id === 1);
    ask(1, "walk", { path: "/etc/apt" });
    const [{ result }, before] = await answered;
    const id = result.ok.streamId, ended = told(about("end", id));
    const [, begun] = await told(about("start", id));
    assert.ok(begun - before >= READS, `start after ${begun - before} pings`);
    if (!leaves) {
      await ended;
      continue;
    }
    act(() => socket.send(JSON.stringify({ jsonrpc: "2.0", method: "$sandbox.stream.cancel", params: { streamId: id, reason: null } })));
    await new Promise((done) => { const was = acting.what; acting.what = () => { was(); done(); }; });
    const done = told((m) => m.id === 2);
    ask(2, "umask", {});
    await done;
    assert.ok(!heard.some(([m]) => about("end", id)(m)), "it was told of the end");
  }
  // What says something of its own after a pong was not kept waiting.
  const begun = told((m) => m.method === "$sandbox.stream.start");
  const answered = told((m) => m.id === 3);
  ask(3, "spawn", { command: "true", stdout: "piped", stderr: "null" });
  const [, before] = await answered;
  socket.once("ping", () => ask(4, "umask", {})); // after its pong: the listener above is the first
  assert.ok((await begun)[1] - before < READS);
  await new Promise((done) => socket.on("close", done).close());
});

// The library for Python says some things otherwise: timeout, env and volumes in the configuration, times as datetime and
// time.time() have them, and two routes.
test("what the Python library sends is understood", async () => {
  const config = { memory_mb: 768, debug: false, timeout: "5m", env: { GIVEN: "to all" }, labels: { from: "python" }, volumes: {},
    allow_net: ["example.com"], ssh: true };
  const headers = { authorization: `Bearer ${token}` };
  const socket = new WebSocket(`ws://127.0.0.1:${port}/api/v3/sandboxes/create`, {
    headers: { ...headers, "x-deno-sandbox-config": Buffer.from(JSON.stringify(config)).toString("base64") } });
  const [response] = await once(socket, "upgrade");
  const sandbox = response.headers["x-deno-sandbox-id"];
  const waiting = new Map();
  const streams = new Map(), ended = new Map();
  socket.on("message", (data) => {
    const { id, method, params, result, error } = JSON.parse(data);
    if (method === "$sandbox.stream.enqueue") streams.set(params.streamId, (streams.get(params.streamId) ?? "") + Buffer.from(params.data, "base64"));
    if (method === "$sandbox.stream.end") ended.get(params.streamId)();
    if (id) waiting.get(id)(error ?? result);
  });
  let last = 0;
  const ask = (method, params) => new Promise((done) => {
    waiting.set(++last, done);
    socket.send(JSON.stringify({ jsonrpc: "2.0", id: last, method, params }));
  });
  const { ok: { pid, stdoutStreamId, stderrStreamId } } = await ask("spawn", { command: "sh", args: ["-c", "echo $GIVEN"], stdout: "piped", stderr: "piped" });
  const end = new Promise((done) => ended.set(stdoutStreamId, done));
  ended.set(stderrStreamId, () => {});
  assert.equal((await ask("processWait", { pid })).ok.code, 0);
  await end; // nothing says which of the two comes first
  assert.equal(streams.get(stdoutStreamId), "to all\n");
  await ask("writeTextFile", { path: "file", content: "text" });
  assert.deepEqual(await ask("utime", { path: "file", atime: "2001-02-03T04:05:06+00:00", mtime: "2001-02-03T06:05:06.5+02:00" }), { ok: null });
  assert.equal((await ask("stat", { path: "file" })).ok.mtime, "2001-02-03T04:05:06.500Z");
  const { ok: { fileHandleId } } = await ask("open", { path: "file", options: { read: true } });
  assert.deepEqual(await ask("fileUtime", { fileHandleId, atime: 1, mtime: 2.25 }), { ok: null });
  assert.equal((await ask("fileStat", { fileHandleId })).ok.mtime, "1970-01-01T00:00:02.250Z");
  assert.equal((await ask("fileUtime", { fileHandleId, atime: 1e300, mtime: 0 })).code, -32602);
  const base = `http://127.0.0.1:${port}/api/v3/sandboxes`;
  const list = await (await fetch(`${base}?labels[from]=python`, { headers })).json();
  assert.deepEqual(list.map((one) => one.id), [sandbox]);
  socket.close(); // with a timeout it outlives its connection
  await once(socket, "close");
  assert.equal((await fetch(`${base}/${sandbox}`, { method: "DELETE", headers })).status, 200);
  assert.deepEqual(await (await fetch(base, { headers })).json(), []);
});
