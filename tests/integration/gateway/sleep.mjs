// Sandboxes that sleep: sleep.mjs PORT TOKEN FILE [again]. Leaves one asleep, whose id is in FILE; `again` wakes and ends it.
// Environment: the SDK's endpoints, and BELLGLASS, the program.
import { Client, Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { test } from "node:test";
import WebSocket from "ws";

const [port, token, file, again] = process.argv.slice(2);
const bellglass = (...words) => execFileSync(process.env.BELLGLASS, words, { encoding: "utf8" });
const state = (id) => JSON.parse(bellglass("ls", "--json")).find((one) => one.name === id)?.state;
const folder = (id) => `${process.env.BELLGLASS_HOME}/state/sandboxes/${id}`;
const changed = (id) => JSON.parse(fs.readFileSync(`${folder(id)}/state.json`)).changed_ms;
const asleep = async (id, since = 0) => {
  for (const end = Date.now() + 230_000; state(id) !== "suspended" || changed(id) <= since; await pause(100))
    assert.ok(Date.now() < end, `${id} is ${state(id)}`);
  console.log(`${id} sleeps`); // who runs this wants to hear something within 240 s
};
// After what makes it run. It may sleep again before anybody looks whether it does.
const asleepAgain = async (id, wake) => {
  const since = changed(id);
  await wake();
  await asleep(id, since);
};
// Until somebody begins to suspend it.
const dozes = async (id) => {
  for (const end = Date.now() + 120_000; !fs.readdirSync(folder(id)).some((name) => name.startsWith("resume")); await pause(1))
    assert.ok(Date.now() < end, `${id} is ${state(id)}`);
};
const remove = (id) => fetch(`${process.env.DENO_SANDBOX_ENDPOINT}/api/v3/sandbox/${id}`, {
  method: "DELETE", headers: { Authorization: `Bearer ${token}` } });
// The dashboard's routes.
const page = async (method, path, body = {}) => {
  const answer = await fetch(`${process.env.DENO_SANDBOX_ENDPOINT}/api/bellglass/${path}`, {
    method, headers: { Authorization: `Bearer ${token}` }, body: method === "GET" ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  assert.equal(answer.status, 200, `${method} ${path}: ${text}`);
  return JSON.parse(text);
};
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

  // So does who only looks on, and who starts it: it is known to run then, and sleeps again.
  const look = new WebSocket(`ws://127.0.0.1:${port}/api/bellglass/sandboxes/${id}/connect`, { headers: { Authorization: `Bearer ${token}` } });
  await new Promise((done, failed) => look.on("open", done).on("error", failed));
  assert.equal(state(id), "running");
  look.close();
  await asleep(id);
  await asleepAgain(id, () => page("POST", `sandboxes/${id}/start`));

  // So does who takes it back to a snapshot, whether it sleeps or has a client, who has to come again.
  const { name } = await page("POST", `sandboxes/${id}/snapshot`, { tag: "before" });
  await page("POST", `sandboxes/${id}/restore`, { snapshot: name });
  sandbox = await Sandbox.connect(id, { token });
  await page("POST", `sandboxes/${id}/restore`, { snapshot: name });
  await sandbox.closed;
  sandbox = await Sandbox.connect(id, { token });
  assert.match(await sandbox.fs.readTextFile("server.py"), /ThreadingHTTPServer/);
  await sandbox.close();
  await asleep(id);
  await page("DELETE", `snapshots/${name}`);

  // Who comes while it is put to sleep has it when that is done, and is not sent away.
  for (const ask of [
    async () => assert.deepEqual(await get(host, "/", body), [200, String(body.length)]),
    async () => {
      sandbox = await Sandbox.connect(id, { token });
      assert.equal(await sandbox.sh`sleep 3; echo there`.text(), "there\n");
      await sandbox.close();
    }]) {
    sandbox = await Sandbox.connect(id, { token });
    await sandbox.close();
    await dozes(id);
    await ask();
  }
  await asleep(id);

  // One with a volume does not sleep: another sandbox might change it.
  const client = new Client({ token });
  await client.volumes.create({ slug: "held", region: "ord", capacity: "64MiB" });
  const holder = await Sandbox.create({ token, timeout: "30m", volumes: { "/data": "held" } });
  await holder.close();

  // So does a client, and its files are as they were. While it is there only others sleep.
  sandbox = await Sandbox.connect(id, { token });
  assert.match(await sandbox.fs.readTextFile("server.py"), /ThreadingHTTPServer/);
  const other = await Sandbox.create({ token, timeout: "30m" });
  await other.close();
  await asleep(other.id);
  assert.equal(state(id), "running");
  assert.equal(state(holder.id), "running");
  assert.equal((await remove(holder.id)).status, 200);
  await client.volumes.delete("held");
  assert.equal((await remove(other.id)).status, 200);

  // One that lives with its connection outlives it when a person puts it to sleep; ended there, it is nowhere.
  const bound = await Sandbox.create({ token });
  await page("POST", `sandboxes/${bound.id}/suspend`);
  await bound.closed;
  const found = (await page("GET", "overview")).sandboxes.find((one) => one.name === bound.id);
  assert.equal(found.state, "suspended");
  assert.ok(found.stop_at_ms > Date.now() + 3600_000);
  const back = await Sandbox.connect(bound.id, { token });
  await back.close(); // it is not the one that it lives with
  await asleep(bound.id);
  await page("DELETE", `sandboxes/${bound.id}`);
  assert.deepEqual((await client.sandboxes.list()).map((one) => one.id), [id]);

  // One that somebody else suspends is there for its next client all the same.
  bellglass("suspend", "--quiet", id);
  await sandbox.closed;
  sandbox = await Sandbox.connect(id, { token });
  assert.equal(await sandbox.sh`echo back`.text(), "back\n");
  await sandbox.close();
  await asleep(id);

  // One that somebody else wakes is known to run, and sleeps again; one that somebody removes is known to be gone.
  await asleepAgain(id, () => bellglass("resume", "--quiet", id));
  const gone = await Sandbox.create({ token, timeout: "30m" });
  const end = new URL(await gone.exposeHttp({ port: 8000 })).host;
  await gone.close();
  await asleep(gone.id);
  bellglass("rm", "-f", gone.id);
  for (const until = Date.now() + 60_000; (await client.sandboxes.list()).length > 1; await pause(50)) assert.ok(Date.now() < until);
  await assert.rejects(Sandbox.connect(gone.id, { token }), { code: "SANDBOX_NOT_FOUND" });
  assert.equal((await get(end, "/"))[0], 404);
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
