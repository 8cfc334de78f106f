// Tokens and what they may have: limits.mjs PORT. Environment: the SDK's endpoints, and BELLGLASS, the program.
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import { after, test } from "node:test";

const [port] = process.argv.slice(2);
const token = (...words) => execFileSync(process.env.BELLGLASS, ["serve", "token", ...words], { encoding: "utf8" }).trim();
const refused = (promise, status, code, text) =>
  assert.rejects(promise, (e) => {
    assert.deepEqual([e.name, e.status, e.code], ["ConnectionEstablishmentError", status, code], `${e}`);
    assert.match(e.message, text);
    return true;
  });

const made = [];
const create = async (options) => {
  const sandbox = await Sandbox.create(options);
  made.push(sandbox);
  return sandbox;
};
after(() => Promise.allSettled(made.map((sandbox) => sandbox.kill()))); // an open connection would keep Node

test("a token has no more than it may have", async () => {
  const own = token("add", "few", "--max-sandboxes", "1", "--max-memory", "1G", "--max-lifetime", "1h");
  await refused(Sandbox.create({ token: own, memory: "1280MiB" }), 429, "QUOTA_EXCEEDED", /memory/);
  await refused(Sandbox.create({ token: own, memory: "768MiB", timeout: "120m" }), 403, "LIFETIME_TOO_LONG", /3600 s/);
  const one = await create({ token: own, memory: "768MiB", timeout: "30m" });
  await refused(Sandbox.create({ token: own, memory: "768MiB" }), 429, "QUOTA_EXCEEDED", /end one/);
  await assert.rejects(one.extendTimeout("180m"), /403.*LIFETIME_TOO_LONG/);
  await one.extendTimeout("40m");

  // What is changed counts at once, for what is asked from then on.
  token("set", "few", "--max-lifetime", "none");
  await one.extendTimeout("180m");
  token("set", "few", "--max-memory", "2G", "--max-sandboxes", "2");
  const self = `${os.hostname()}:${port}`;
  const two = await create({ token: own, memory: "768MiB", allowNet: [self] });
  // The way out does not lead to the gateway: no rule of a client's reaches an address that is not public.
  const answer = await two.fetch(`http://${self}/health`);
  assert.equal(answer.status, 403);
  assert.match(await answer.text(), /resolves to \S+, an? .*address; if that is meant/);
  await two.kill();

  // No other token goes into a sandbox, in no way that a client has by mistake.
  await assert.rejects(one.env.set("DENO_DEPLOY_TOKEN", own), /'few'.*--nested/s);
  await assert.rejects(one.spawn("true", { env: { X: `Bearer ${own}` } }), /'few'.*--nested/s);
  await refused(Sandbox.create({ token: own, secrets: { X: { hosts: ["example.org"], value: own } } }), 403,
    "TOKEN_IN_SANDBOX", /--nested/);
  const nested = token("add", "inner", "--nested", "yes");
  await one.env.set("DENO_DEPLOY_TOKEN", nested);
  await refused(Sandbox.create({ token: nested }), 429, "QUOTA_EXCEEDED", /makes no sandboxes/);

  // What happened is counted, for who may read it.
  const gateway = process.env.DENO_SANDBOX_ENDPOINT;
  const scrape = (text) => fetch(`${gateway}/metrics`, { headers: { Authorization: `Bearer ${text}` } });
  assert.equal((await scrape(own)).status, 403);
  const watcher = token("add", "watcher", "--metrics", "yes", "--max-sandboxes", "0");
  const metrics = await scrape(watcher);
  assert.match(metrics.headers.get("content-type"), /^text\/plain; version=0\.0\.4/);
  const lines = (await metrics.text()).split("\n");
  const value = (name) => Number(lines.find((line) => line.startsWith(`${name} `))?.split(" ")[1]);
  assert.equal(value('bellglass_sandboxes{state="running",token="few"}'), 1);
  assert.equal(value('bellglass_sandbox_memory_bytes{state="running",token="few"}'), 768 * 2 ** 20);
  assert.equal(value('bellglass_rpc_calls_total{method="envSet"}'), 2);
  assert.equal(value('bellglass_rpc_errors_total{class="PermissionDenied"}'), 2);
  assert.equal(value('bellglass_http_refusals_total{code="LIFETIME_TOO_LONG"}'), 2);
  assert.ok(value("bellglass_create_duration_seconds_count") >= 2);
  assert.ok(value("bellglass_websockets") >= 1);
  await refused(Sandbox.create({ token: watcher }), 429, "QUOTA_EXCEEDED", /makes no sandboxes/);
  const described = await (await fetch(`${gateway}/openapi.json`)).json();
  assert.ok(described.paths["/api/v2/sandboxes"].get);
  await one.kill();
});

test("a token's lifetime ends a sandbox that nothing else ends", async () => {
  const own = token("add", "short", "--max-lifetime", "2s");
  const sandbox = await create({ token: own });
  await sandbox.closed;
});

test("what the dashboard forks and starts counts, too", async () => {
  const own = token("add", "forks", "--max-sandboxes", "2", "--max-memory", "1536M", "--max-lifetime", "2h");
  const call = async (method, path, text = own, body = {}) => {
    const answer = await fetch(`${process.env.DENO_SANDBOX_ENDPOINT}/api/bellglass/${path}`, {
      method, headers: { Authorization: `Bearer ${text}` }, body: method === "GET" ? undefined : JSON.stringify(body) });
    return [answer.status, await answer.json()];
  };
  const refusal = async (...request) => {
    const [status, answer] = await call(...request);
    return [status, answer.code];
  };
  const one = await create({ token: own, memory: "768MiB", timeout: "90m" });
  const seen = async () => (await call("GET", "overview"))[1].sandboxes.find((s) => s.name === one.id);
  const before = await seen();
  assert.equal(before.ends_ms, before.stop_at_ms);
  assert.deepEqual(await refusal("POST", `sandboxes/${one.id}/fork`, own, { count: 2 }), [429, "QUOTA_EXCEEDED"]);
  // Two at once are not both within it. What comes of the one that is, lives no longer than it may.
  const forks = await Promise.all([1, 2].map(() => call("POST", `sandboxes/${one.id}/fork`)));
  assert.deepEqual(forks.map(([status]) => status).sort(), [200, 429]);
  const [fork] = forks.find(([status]) => status === 200)[1].names;
  const record = JSON.parse(fs.readFileSync(`${process.env.BELLGLASS_HOME}/state/sandboxes/${fork}/gateway.json`));
  assert.equal(record.token, "forks");
  assert.ok(record.ends_by_ms > Date.now() + 3600_000 && record.stop_at_ms <= record.ends_by_ms);
  await refused(Sandbox.create({ token: own, memory: "768MiB" }), 429, "QUOTA_EXCEEDED", /end one/);
  // One that rests gives its place away, and wants one again.
  assert.equal((await call("POST", `sandboxes/${fork}/stop`))[0], 200);
  const two = await create({ token: own, memory: "768MiB" });
  assert.deepEqual(await refusal("POST", `sandboxes/${fork}/start`), [429, "QUOTA_EXCEEDED"]);
  await two.kill();
  assert.equal((await call("POST", `sandboxes/${fork}/start`))[0], 200);
  const again = await Sandbox.connect(fork, { token: own });
  made.push(again);
  // No sandbox gets the token that has all of them.
  assert.throws(() => token("add", "both", "--all", "--nested", "yes"), /must not get into a sandbox/);
  assert.throws(() => token("set", "forks", "--all"), /token add/);
  await again.kill();
  await one.kill();
});

test("tokens are listed with what they may have", () => {
  const list = JSON.parse(token("ls", "--json"));
  const few = list.find((one) => one.name === "few");
  assert.deepEqual([few.max_sandboxes, few.max_memory_bytes, few.max_lifetime_ms, few.nested, few.metrics],
    [2, 2 ** 31, null, false, false]);
  assert.equal(list.find((one) => one.name === "inner").max_sandboxes, 0);
  assert.match(token("ls"), /^few .* sandboxes=2 memory_bytes=2147483648$/m);
  token("set", "few", "--max-sandboxes", "none");
  assert.throws(() => token("set", "nobody", "--max-sandboxes", "1"), /no token/);
});
