// walk and expandGlob with all their options, beside what the library that the SDK brings along finds in the same tree
// on this machine. Environment: the SDK's own.
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

const made = fs.mkdtempSync(path.join(os.tmpdir(), "bg-glob-"));
process.on("exit", () => fs.rmSync(made, { recursive: true, force: true }));
const folder = path.join(made, "tree"); // patterns are of ends: this one must not be made up
fs.mkdirSync(folder);
const library = path.join(path.dirname(fileURLToPath(import.meta.resolve("@deno/sandbox"))), "deps/jsr.io/@std/fs");
const load = async (file) => {
  const [version] = fs.readdirSync(library);
  return await import(pathToFileURL(path.join(library, version, file)));
};
const { walk } = await load("walk.js"), { expandGlob } = await load("expand_glob.js");

const MAKE = `mkdir -p a/b/c a/.hidden d/node_modules/x 'we ird' && cd . &&
touch a/one.ts a/two.js a/b/three.ts a/b/c/four.TS a/.hidden/five d/node_modules/x/six.ts d/seven.test.ts d/eight.ts \
  'we ird/br[ac]ket' 'we ird/star*' 'we ird/{b}' x1 x2 xa X9 'ümlaut' file+1 'a|b' && ln -s a/b link && ln -s a/one.ts file-link`;
execFileSync("sh", ["-c", MAKE], { cwd: folder });
const sandbox = await Sandbox.create();
await sandbox.sh`mkdir tree && cd tree && sh -c ${MAKE}`;
const ROOT = "/home/app/tree";

const list = async (entries, root) => {
  const found = [];
  for await (const e of entries) {
    assert.ok(e.path.startsWith(root), e.path);
    const kind = e.isDirectory ? "/" : e.isSymlink ? "@" : e.isFile ? "" : "?";
    found.push(`${e.path.slice(root.length)}|${e.path === root ? "" : e.name}${kind}`);
  }
  return found;
};

test("globs find what the library finds", async () => {
  const cases = [
    ["*"], ["*/"], ["**"], ["**/*.ts"], ["**/"], ["a/**/*.ts"], ["a/*"], ["./a/../d/*"], ["a/b/three.ts"], ["none"], ["none/*"],
    ["a/*/.."], ["*/b/../*.ts"], ["x?"], ["x[0-9]"], ["x[!0-9]"], ["[[:upper:]]*"], ["{a,d}/*.ts"], ["**/{three,four}.*"],
    ["@(x1|xa)"], ["!(x1|xa)"], ["?(x)1"], ["+(x)[12]"], ["*(x)1"], ["@(x1|xa)", { extended: false }],
    ["**", { globstar: false }], ["**/*.ts", { globstar: false }], ["**/*.ts", { caseInsensitive: true }], ["X*", { caseInsensitive: true }],
    ["**", { exclude: ["d/node_modules"] }], ["**/*.ts", { exclude: ["**/node_modules/**", "**/*.test.ts"] }],
    ["**/*", { exclude: ["{a,link}/**"] }], ["a/..", { exclude: ["*"] }], ["*", { includeDirs: false }], ["**", { includeDirs: false }],
    ["**", { followSymlinks: true, includeDirs: false }], ["**/*.ts", { followSymlinks: true, canonicalize: false }], ["link/*"],
    ["we ird/*"], ["we ird/br\\[ac\\]ket"], ["we ird/star\\*"], ["we ird/\\{b\\}"], ["ü*"], ["file+1"], ["a\\|b"], ["[x"], ["{x"], ["*.{ts"],
    ["a/b/"], ["a/one.ts/"], [".*"], ["a/.*/*"], ["**/c/**"], ["**/**"], [""],
  ];
  for (const [glob, options = {}] of cases) {
    const want = await list(expandGlob(glob, { ...options, root: folder }), folder);
    const got = await list(sandbox.fs.expandGlob(glob, { ...options, root: ROOT }), ROOT);
    assert.deepEqual(got, want, `${glob} ${JSON.stringify(options)}`);
  }
  assert.deepEqual(await list(sandbox.fs.expandGlob(`${ROOT}/x?`), ROOT), ["/x1|x1", "/x2|x2", "/xa|xa"]);
  assert.deepEqual(await list(sandbox.fs.expandGlob("tree/x[12]"), ROOT), ["/x1|x1", "/x2|x2"]);
});

// The folders above the tree differ, so each pattern is of what is in it.
test("walks find what the library finds", async () => {
  const cases = [
    {}, { match: [/\.ts$/] }, { match: [/\.TS$/i, /two\.js/] }, { match: [/^$/] }, { match: [] }, { skip: [/node_modules/] }, { skip: [/b$/, /\.hidden/] },
    { match: [/[^]one\.ts/, /\/x\d$/], skip: [/x2$/] }, { followSymlinks: true }, { followSymlinks: true, canonicalize: false, maxDepth: 1 },
    { followSymlinks: true, match: [/three/] }, { match: [/s(?<n>e)v\k<n>n/] }, { match: [/(e)v\1n/] }, { match: [/[[]ac[\]]/] }, { match: [/\u{fc}/u, /\xfcm/] },
    { match: [/\p{Lu}\d$/u] }, { match: [/o(?=ne\.ts)/, /(?<!t)wo\.js/, /(?<=e)ight/] }, { match: [/\s/] }, { match: [/^\S+one/] },
    { maxDepth: 0 }, { maxDepth: -1 }, { skip: [/./] }, { exts: ["ts"], match: [/e\.ts/], skip: [/node_modules/] },
  ];
  for (const options of cases) {
    const want = (await list(walk(folder, options), folder)).sort();
    const got = (await list(sandbox.fs.walk(ROOT, options), ROOT)).sort();
    assert.deepEqual(got, want, `${Object.entries(options).map(([key, value]) => `${key}: ${value}`)}`);
  }
});

test("a pattern that takes too long, or is none, ends its call alone", async () => {
  await sandbox.fs.writeTextFile(`tree/${"x".repeat(200)}`, "");
  await assert.rejects(list(sandbox.fs.walk(ROOT, { match: [/(x+x+)+[yz]$/] }), ROOT), /too much work/);
  await assert.rejects(list(sandbox.fs.walk(ROOT, { match: [/(?<=a+)b/] }), ROOT), TypeError);
  await assert.rejects(list(sandbox.fs.walk(ROOT, { match: Array(100).fill(/a/) }), ROOT), TypeError);
  await assert.rejects(list(sandbox.fs.expandGlob("tree/+(+(x)x)[yz]"), "/"), /too much work/);
  assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
});

test("links that go round come to an end", async () => {
  await sandbox.sh`mkdir round && ln -s ../round round/again`;
  await assert.rejects(list(sandbox.fs.walk("round", { followSymlinks: true, canonicalize: false }), "round"), { code: "ELOOP" });
  await assert.rejects(list(sandbox.fs.expandGlob("round/**", { followSymlinks: true }), "/"), { code: "ELOOP" });
  await sandbox.sh`ln -s nowhere round/none; rm round/again`;
  await assert.rejects(list(sandbox.fs.walk("round", { followSymlinks: true }), ""), { code: "ENOENT" });
});

test("the sandbox ends", () => sandbox.close());
