// The SDK over TLS, and what is none: tls.mjs PORT CERTIFICATE TOKEN. Environment: the SDK's endpoints.
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import fs from "node:fs";
import https from "node:https";
import net from "node:net";
import { test } from "node:test";
import tls from "node:tls";

const [port, certificate, token] = process.argv.slice(2);
const ca = fs.readFileSync(certificate);

// What comes until the other side ends, and whether it ended as TLS wants it.
const until = (socket) => new Promise((done) => {
  const parts = [];
  let whole = false;
  socket.on("data", (part) => parts.push(part));
  socket.on("end", () => whole = true);
  socket.on("error", () => {});
  socket.on("close", () => done([Buffer.concat(parts).toString(), whole]));
});

test("the SDK works over TLS", async () => {
  const sandbox = await Sandbox.create({ token });
  try {
    const sent = Buffer.alloc(3 << 20, "0123456789");
    await sandbox.fs.writeFile("big", sent);
    assert.ok(Buffer.from(await sandbox.fs.readFile("big")).equals(sent));
    assert.equal(await sandbox.sh`wc -c <big`.text(), `${sent.length}\n`);
    await sandbox.spawn("python3", { args: ["-m", "http.server", "8000"], stdout: "null", stderr: "null" });
    const url = new URL(await sandbox.exposeHttp({ port: 8000 }));
    const get = () => new Promise((done, failed) => https.get(
      { host: "127.0.0.1", port, servername: "localhost", ca, path: "/big", headers: { Host: url.host } }, async (answer) => {
        const parts = [];
        for await (const part of answer) parts.push(part);
        done([answer.statusCode, Buffer.concat(parts)]);
      }).on("error", failed));
    let answer = await get();
    for (const end = Date.now() + 60_000; answer[0] === 502 && Date.now() < end;) answer = await get(); // until it listens
    assert.equal(answer[0], 200);
    assert.ok(answer[1].equals(sent));
  } finally {
    await sandbox.kill();
  }
});

test("what is no TLS, or ends half-way, costs its own connection", async () => {
  const plain = net.connect(Number(port), "127.0.0.1");
  plain.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  assert.doesNotMatch((await until(plain))[0], /HTTP/);
  const half = tls.connect({ port: Number(port), host: "127.0.0.1", servername: "localhost", ca });
  half.write("GET /health HTTP/1.1\r\nHost: loc");
  await new Promise((done) => half.once("secureConnect", done));
  half.destroy();
  const whole = tls.connect({ port: Number(port), host: "127.0.0.1", servername: "localhost", ca });
  whole.write("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  const [text, ended] = await until(whole);
  assert.match(text, /^HTTP\/1.1 200 OK/);
  assert.ok(ended);
  const old = tls.connect({ port: Number(port), host: "127.0.0.1", servername: "localhost", ca, maxVersion: "TLSv1.1", minVersion: "TLSv1.1",
    ciphers: "DEFAULT@SECLEVEL=0" });
  assert.equal((await until(old))[0], "");
});
