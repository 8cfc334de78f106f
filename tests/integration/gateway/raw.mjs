// What no well-made client sends, over bare sockets: raw.mjs PORT TOKEN. Each must cost its sender alone.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import net from "node:net";
import { test } from "node:test";

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
