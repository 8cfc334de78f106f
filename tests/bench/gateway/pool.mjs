// pool.mjs ROUNDS: what a pool of two saves, of a gateway that has one and of the command line, in one run and by turns.
import { Sandbox } from "@deno/sandbox";
import { execFileSync } from "node:child_process";
import { setTimeout as pause } from "node:timers/promises";

const rounds = Number(process.argv[2]);
const clock = async (f) => {
  const begin = performance.now();
  await f();
  return performance.now() - begin;
};
const line = (name, list, unit) => {
  const s = [...list].sort((a, b) => a - b), at = (q) => s[Math.min(s.length - 1, Math.floor(q * s.length))];
  console.log(`  ${name.padEnd(40)} ${at(0.5).toFixed(1).padStart(8)} ${unit} (p5 ${at(0.05).toFixed(1)}, p95 ${at(0.95).toFixed(1)}, n ${s.length})`);
  return at(0.5);
};
const ratio = (name, value, target) => console.log(`  ${name.padEnd(40)} ${value.toFixed(2).padStart(8)}    target ${target}`);
const bellglass = (...words) => execFileSync(process.env.BELLGLASS, words, { stdio: ["ignore", "pipe", "inherit"] });
const full = async () => {
  while (JSON.parse(bellglass("pool", "ls", "--json"))[0]?.ready !== 2) await pause(100);
};

console.log("gateway: the same with a pool of 2");
const sdk = [], pooled = [], plain = [];
for (let i = 0; i < rounds; i++) {
  await full();
  let sandbox;
  sdk.push(await clock(async () => {
    sandbox = await Sandbox.create({ memory: "768MiB" });
    await sandbox.sh`true`;
  }));
  await sandbox.kill();
  await full();
  pooled.push(await clock(() => bellglass("run", "--memory", "768M", "--", "true")));
  await full();
  plain.push(await clock(() => bellglass("run", "--no-pool", "--memory", "768M", "--", "true")));
}
const a = line("SDK: create, sh", sdk, "ms"), b = line("bellglass run -- true", pooled, "ms");
const c = line("bellglass run --no-pool -- true", plain, "ms");
ratio("ratio SDK / command without a pool", a / c, "<= 0.5");
ratio("ratio command / command without a pool", b / c, "<= 0.5");
