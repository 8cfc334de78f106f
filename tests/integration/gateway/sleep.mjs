// Sandboxes that sleep: sleep.mjs PORT TOKEN FILE [again]. Leaves one asleep, whose id is in FILE; `again` wakes and ends it.
// Environment: the SDK's endpoints, and BELLGLASS, the program.
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { test } from "node:test";

const [port, token, file, again] = process.argv.slice(2);
const bellglass = (...words) => execFileSync(process.env.BELLGLASS, words, { encoding: "utf8" });
const state = (id) => JSON.parse(bellglass("ls", "--json")).find((one) => one.name === id)?.state;
const asleep = async (id) => {
  for (const end = Date.now() + 120_000; state(id) !== "suspended"; await pause(100))
    assert.ok(Date.now() < end, `${id} is ${state(id)}`);
};
const remove = (id) => fetch(`${process.env.DENO_SANDBOX_ENDPOINT}/api/v3/sandbox/${id}`, {
  method: "DELETE", headers: { Authorization: `Bearer ${token}` } });
const get = (host, path, body) => new Promise((done, failed) => {
  const request = http.request({ host: "127.0.0.1", port, path, method: body ? "POST" : "GET", headers: { Host: host } }, async (answer) => {
    const parts = [];
    for await (const part of answer) parts.push(part);
    done([answer.statusCode, Buffer.concat(parts).toString()]);
  });
  request.on("error", failed);
  request.end(body);
});

test("one sleeps when nobody uses it, and wakes", { skip: again !== undefined }, async () => {
  let sandbox = await Sandbox.create({ token, timeout: "30m" });
  const id = sandbox.id;
  await sandbox.fs.writeTextFile("server.py", `
from http.server import *
class H(BaseHTTPRequestHandler):
    def log_message(self, *_): pass # its pipes are gone with the client
    def do_POST(self):
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200); self.end_headers(); self.wfile.write(str(size).encode())
print("ready", flush=True)
ThreadingHTTPServer(("127.0.0.1", 8000), H).serve_forever()`);
  const server = await sandbox.spawn("python3", { args: ["server.py"], stdout: "piped", stderr: "null" });
  await server.stdout.getReader().read();
  const { host } = new URL(await sandbox.exposeHttp({ port: 8000 }));
  await sandbox.close();
  await asleep(id);

  // A request wakes it, with what it has to say; several at once do so once.
  const body = Buffer.alloc(1 << 20, "x");
  const answers = await Promise.all([1, 2, 3].map(() => get(host, "/", body)));
  assert.deepEqual(answers, Array(3).fill([200, String(body.length)]));
  await asleep(id);

  // So does a client, and its files are as they were. While it is there only others sleep.
  sandbox = await Sandbox.connect(id, { token });
  assert.match(await sandbox.fs.readTextFile("server.py"), /ThreadingHTTPServer/);
  const other = await Sandbox.create({ token, timeout: "30m" });
  await other.close();
  await asleep(other.id);
  assert.equal(state(id), "running");
  assert.equal((await remove(other.id)).status, 200);

  // One that somebody else suspends is there for its next client all the same.
  bellglass("suspend", "--quiet", id);
  await sandbox.closed;
  sandbox = await Sandbox.connect(id, { token });
  assert.equal(await sandbox.sh`echo back`.text(), "back\n");
  await sandbox.close();
  await asleep(id);
  fs.writeFileSync(file, id);
});

test("one that sleeps is ended like any other", { skip: again === undefined }, async () => {
  const id = fs.readFileSync(file, "utf8");
  const sandbox = await Sandbox.connect(id, { token });
  assert.equal(await sandbox.sh`echo ${"again"}`.text(), "again\n");
  await sandbox.close();
  await asleep(id);
  assert.equal((await remove(id)).status, 200);
  assert.equal(state(id), undefined);
});
