// load.mjs ROUNDS: what the SDK through a gateway costs beside the command line, in one run and by turns.
import { Sandbox } from "@deno/sandbox";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

const rounds = Number(process.argv[2]);
const CLIENTS = 50;
const FILE_MIB = Number(process.env.BG_BENCH_FILE_MIB ?? 256);

const clock = async (f) => {
  const begin = performance.now();
  await f();
  return performance.now() - begin;
};
const sorted = (list) => [...list].sort((a, b) => a - b);
const p50 = (list) => sorted(list)[list.length >> 1];
const line = (name, list, unit, more = "") => {
  const s = sorted(list), at = (q) => s[Math.min(s.length - 1, Math.floor(q * s.length))].toFixed(1);
  console.log(`  ${name.padEnd(40)} ${at(0.5).padStart(8)} ${unit} (p5 ${at(0.05)}, p95 ${at(0.95)}, n ${s.length})${more}`);
};
const ratio = (name, value, target) => console.log(`  ${name.padEnd(40)} ${value.toFixed(2).padStart(8)}    target ${target}`);
const bellglass = (...words) => execFileSync(process.env.BELLGLASS, words, { stdio: ["ignore", "pipe", "inherit"] });

console.log("gateway: from Sandbox.create() to the first output");
const sdk = [], command = [], made = [];
bellglass("run", "--memory", "768M", "--", "true"); // the first of a size makes what the others are forked from
for (let i = 0; i < rounds; i++) {
  sdk.push(await clock(async () => {
    const sandbox = await Sandbox.create({ memory: "768MiB" });
    made.push(sandbox);
    await sandbox.sh`true`;
  }));
  await made.pop().kill();
  command.push(await clock(() => bellglass("run", "--memory", "768M", "--", "true")));
}
line("SDK: create, sh", sdk, "ms");
line("bellglass run -- true", command, "ms");
ratio("ratio SDK / command", p50(sdk) / p50(command), "<= 1.2");

const sandbox = await Sandbox.create({ memory: "768MiB" });
try {
  console.log("\ngateway: a call");
  const stat = [], spawn = [], exec = [];
  await sandbox.fs.stat("/");
  for (let i = 0; i < rounds * 20; i++) stat.push(await clock(() => sandbox.fs.stat("/")));
  for (let i = 0; i < rounds * 2; i++) {
    spawn.push(await clock(async () => (await sandbox.spawn("true")).status));
    exec.push(await clock(() => bellglass("exec", sandbox.id, "--", "true")));
  }
  line("SDK: fs.stat", stat, "ms");
  line("SDK: spawn true", spawn, "ms");
  line("bellglass exec ID -- true", exec, "ms");
  console.log(`  ${"SDK: spawn true, beside exec".padEnd(40)} ${(p50(spawn) - p50(exec)).toFixed(1).padStart(8)} ms    target <= 2`);

  console.log(`\ngateway: a file of ${FILE_MIB} MiB`);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "bg-bench-")), file = path.join(folder, "file");
  try {
    fs.writeFileSync(file, Buffer.alloc(FILE_MIB << 20, "bellglass"));
    const up = await clock(() => sandbox.fs.upload(file, "file"));
    const down = await clock(() => sandbox.fs.download("file", path.join(folder, "back")));
    const copy = await clock(() => bellglass("cp", file, `${sandbox.id}:/home/app/copy`));
    for (const [name, ms] of [["upload", up], ["download", down], ["bellglass cp, up", copy]])
      console.log(`  ${name.padEnd(40)} ${(FILE_MIB / ms * 1000).toFixed(1).padStart(8)} MiB/s`);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }

  console.log(`\ngateway: ${CLIENTS} clients on one sandbox, ${rounds} calls each at once`);
  const timed = await Sandbox.create({ memory: "768MiB", timeout: "30m" });
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => Sandbox.connect(timed.id)));
  const each = [];
  const all = await clock(() => Promise.all(clients.map(async (client) => {
    for (let i = 0; i < rounds; i++) each.push(await clock(() => client.fs.stat("/")));
  })));
  line("fs.stat", each, "ms", `, ${Math.round(CLIENTS * rounds / all * 1000)} a second`);
  await Promise.all(clients.map((client) => client.close()));
  await timed.kill();
} finally {
  await sandbox.kill();
}
