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

test("what the gateway says of itself says https", async () => {
  const origin = `https://localhost:${port}`;
  const ask = (method, path, body, fields) => new Promise((done, failed) => {
    const request = https.request({ host: "127.0.0.1", port, servername: "localhost", ca, method, path,
      headers: { Host: `localhost:${port}`, Authorization: `Bearer ${token}`, ...fields } }, (answer) => {
      answer.resume();
      answer.on("end", () => done(answer));
    });
    request.on("error", failed);
    request.end(body && JSON.stringify(body));
  });
  const login = await ask("POST", "/api/bellglass/session", { token }, { Origin: origin });
  assert.equal(login.statusCode, 200);
  assert.match(login.headers["set-cookie"][0], /; HttpOnly; .*; Secure$/);
  for (const slug of ["one", "two"])
    assert.equal((await ask("POST", "/api/v2/volumes", { slug, region: "ord", capacity: "64MiB" })).statusCode, 200);
  const list = await ask("GET", "/api/v2/volumes?limit=1");
  assert.ok(list.headers.link.startsWith(`<${origin}/api/v2/volumes?cursor=`), list.headers.link);
  for (const slug of ["one", "two"]) assert.equal((await ask("DELETE", `/api/v2/volumes/${slug}`)).statusCode, 200);
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
