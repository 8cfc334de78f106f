// A gateway with a pool of two: pool.mjs TOKEN. Environment: the SDK's endpoints, and BELLGLASS, the program.
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { test } from "node:test";

const [token] = process.argv.slice(2);
const folder = `${process.env.BELLGLASS_HOME}/state/sandboxes`;
const bellglass = (...words) => JSON.parse(execFileSync(process.env.BELLGLASS, words, { encoding: "utf8" }));
const pool = () => bellglass("pool", "ls", "--json")[0];
// Its keeper may not know yet of those that have gone.
const waiting = () => fs.readdirSync(folder).filter((name) => name.startsWith(".pool-") && fs.existsSync(`${folder}/${name}/claim`)).length;
const full = async () => {
  for (const end = Date.now() + 230_000; pool()?.ready !== 2 || waiting() !== 2; await pause(100)) assert.ok(Date.now() < end, JSON.stringify(pool()));
  console.log("the pool is full"); // who runs this wants to hear something within 240 s
};
// Its QEMU was there before it was asked for.
const wasReady = (sandbox) => bellglass("inspect", sandbox.id).status.timings.monitor_ms === 0;

test("who asks gets one that is ready, and it is as any other", async () => {
  await full();
  assert.equal(pool().gateway, true);
  const options = { token, memory: "768MiB", env: { COLOUR: "blue" }, secrets: { KEY: { hosts: ["example.com"], value: "of-one-only" } } };
  const [one, two] = await Promise.all([Sandbox.create(options), Sandbox.create(options)]);
  const seen = [];
  for (const sandbox of [one, two]) {
    assert.ok(wasReady(sandbox));
    seen.push(await sandbox.sh`hostname; cat /etc/machine-id; head -c 8 /dev/urandom | od -An -tx1; echo $COLOUR $KEY`.text());
  }
  const lines = seen.map((text) => text.trimEnd().split("\n"));
  for (let i = 1; i < 4; i++) assert.notEqual(lines[0][i], lines[1][i]);
  lines.forEach((of, i) => {
    assert.equal(of[0], [one, two][i].id);
    assert.match(of[3], /^blue BELLGLASS_SECRET_/);
  });

  // A token may have as many as it may have, whatever is ready.
  await full();
  assert.deepEqual(bellglass("ls", "--json").map((sandbox) => sandbox.name).sort(), [one.id, two.id].sort());

  // Another size is made as ever.
  const large = await Sandbox.create({ token, memory: "896MiB" });
  assert.ok(!wasReady(large));
  assert.equal(pool().ready, 2);
  for (const sandbox of [one, two, large]) await sandbox.kill();
});
