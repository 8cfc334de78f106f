// `bellglass mcp` with the protocol's own client libraries: sdk.mjs BELLGLASS. WEB is a URL of a host that sandboxes may
// reach, and SECRET what is to come there.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { Client as StatelessClient } from "@modelcontextprotocol/client";
import { StdioClientTransport as StatelessTransport } from "@modelcontextprotocol/client/stdio";

const bellglass = process.argv[2];
const { WEB, CA, ALLOW } = process.env;
const server = (...args) => ({
  command: bellglass, stderr: "pipe", env: process.env,
  args: ["mcp", "--upstream-ca", CA, "--allow", ALLOW, "--secret", "TOKEN@api.test", ...args],
});
const connect = async (...args) => {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(new StdioClientTransport(server(...args)));
  return client;
};
const long = { timeout: 200_000 };
const call = (client, name, args, options) => client.callTool({ name, arguments: args }, undefined, { ...long, ...options });
// What must succeed: the structured part of its answer.
const must = async (client, name, args, options) => {
  const answer = await call(client, name, args, options);
  assert.ok(!answer.isError, JSON.stringify(answer.content));
  return answer.structuredContent;
};
const refused = async (client, name, args, words) => {
  const answer = await call(client, name, args);
  assert.ok(answer.isError, JSON.stringify(answer));
  assert.match(answer.content[0].text, words);
};
const names = () => JSON.parse(execFileSync(bellglass, ["ls", "--json"])).map((one) => one.name);

let client, box;
before(async () => {
  client = await connect("--prefix", "t", "--max", "2", "--run-timeout", "2m");
  await client.listTools(); // its output schemas are checked from here on
  box = (await must(client, "create_sandbox", { name: "one" })).sandbox;
  assert.equal(box, "t-one");
});
after(() => client.close());

test("the tools are listed with what they are", async () => {
  const { tools } = await client.listTools();
  assert.equal(tools.length, 13);
  for (const tool of tools) {
    assert.match(tool.name, /^[a-z_]+$/);
    assert.ok(tool.description.length > 40);
    assert.equal(tool.inputSchema.additionalProperties, false);
  }
  const hints = Object.fromEntries(tools.map((tool) => [tool.name, tool.annotations]));
  assert.equal(hints.read_file.readOnlyHint, true);
  assert.equal(hints.remove_sandbox.destructiveHint, true);
  assert.equal(hints.create_sandbox.destructiveHint, false);
  assert.match(client.getInstructions(), /"memory_bytes":536870912/);
});

test("a command's output, status, input, folder and variables", async () => {
  const said = await must(client, "run", { sandbox: "one", command: "pwd; cat; echo $A >&2; exit 3", cwd: "/tmp", env: { A: "b c" }, stdin: "in\n" });
  assert.deepEqual([said.exit_code, said.stdout, said.stderr], [3, "/tmp\nin\n", "b c\n"]);
  assert.equal((await must(client, "run", { sandbox: box, argv: ["printf", "%s|", "a b", "$A"] })).stdout, "a b|$A|");
  assert.equal((await must(client, "run", { sandbox: box, command: "kill -9 $$" })).signal, "SIGKILL");
  assert.equal((await must(client, "run", { sandbox: box, argv: ["id", "-u"], user: "root" })).stdout, "0\n");
  const large = await must(client, "run", { sandbox: box, command: "cat | tail -c 3", stdin: "x".repeat(3_000_000) + "end" });
  assert.equal(large.stdout, "end");
});

test("a long output loses its middle, and says so", async () => {
  const said = await must(client, "run", { sandbox: box, command: "echo first; seq 100000; echo last", output_bytes_max: 2048 });
  assert.equal(said.truncated, true);
  assert.ok(said.stdout_bytes > 500_000 && said.stdout.length < 2200);
  assert.match(said.stdout, /^first\n[^]*\[\.\.\. \d+ bytes left out \.\.\.\][^]*last\n$/);
});

test("files are written, read in parts and listed", async () => {
  await refused(client, "write_file", { sandbox: box, path: "a/b/c", content: "" }, /No such file/);
  await must(client, "write_file", { sandbox: box, path: "a/b/c", content: "grüße", create_folders: true });
  await must(client, "write_file", { sandbox: box, path: "a/b/c", content: "!", append: true });
  assert.equal((await must(client, "read_file", { sandbox: box, path: "a/b/c" })).content, "grüße!");
  const part = await must(client, "read_file", { sandbox: box, path: "a/b/c", bytes_max: 3 });
  assert.deepEqual([part.content, part.next_offset], ["gr", 2]); // no half of a character
  assert.equal((await must(client, "read_file", { sandbox: box, path: "a/b/c", offset: 2 })).content, "üße!");
  const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251));
  await must(client, "write_file", { sandbox: box, path: "a/bytes", content: bytes.toString("base64"), encoding: "base64", executable: true });
  const back = await must(client, "read_file", { sandbox: box, path: "a/bytes", encoding: "base64", bytes_max: 1 << 20 });
  assert.ok(Buffer.from(back.content, "base64").equals(bytes));
  await refused(client, "read_file", { sandbox: box, path: "a/bytes" }, /base64/);
  await refused(client, "read_file", { sandbox: box, path: "a" }, /folder/);
  await refused(client, "read_file", { sandbox: box, path: "/dev/zero" }, /no regular file/);
  await refused(client, "write_file", { sandbox: box, path: "a/x", content: "%", encoding: "base64" }, /base64/);
  const { entries, total } = await must(client, "list_files", { sandbox: box, path: "a" });
  assert.equal(total, 2);
  assert.deepEqual(entries.map((e) => [e.name, e.type, e.mode]), [["b", "folder", "0755"], ["bytes", "file", "0755"]]);
  assert.equal(entries[1].size, 300_000);
});

test("a fork has the state of its source, and a restored sandbox that of its snapshot", async () => {
  await must(client, "run", { sandbox: box, command: "echo kept >state; (while :; do sleep 100; done) >/dev/null 2>&1 & echo $! >pid" });
  const { sandbox: fork } = await must(client, "fork_sandbox", { from: box, name: "two" });
  assert.equal((await must(client, "run", { sandbox: fork, command: "cat state; kill -0 $(cat pid) && echo alive" })).stdout, "kept\nalive\n");
  await refused(client, "create_sandbox", {}, /no more may be made/);
  await must(client, "run", { sandbox: fork, command: "echo other >state" });
  const { snapshot } = await must(client, "snapshot_sandbox", { sandbox: fork, tag: "s", note: "n" });
  assert.equal(snapshot, "t-two@s");
  await refused(client, "snapshot_sandbox", { sandbox: fork, tag: "s" }, /there already/);
  await must(client, "run", { sandbox: fork, command: "rm state" });
  await refused(client, "restore_sandbox", { sandbox: box, snapshot }, /fork_sandbox/);
  await must(client, "restore_sandbox", { sandbox: fork, snapshot });
  assert.equal((await must(client, "run", { sandbox: fork, command: "cat state" })).stdout, "other\n");
  assert.equal((await must(client, "suspend_sandbox", { sandbox: fork })).state, "suspended");
  // All need it to run: one resumes it, the others wait for that.
  const said = await Promise.all([1, 2, 3].map((n) => must(client, "run", { sandbox: fork, command: `cat state; echo ${n}` })));
  assert.deepEqual(said.map((one) => one.stdout), ["other\n1\n", "other\n2\n", "other\n3\n"]);
  const all = await must(client, "list_sandboxes", {});
  assert.deepEqual(all.sandboxes.map((one) => [one.sandbox, one.state, one.parent]), [["t-one", "running", undefined], ["t-two", "running", "t-one"]]);
  assert.deepEqual(all.snapshots, ["t-two@s"]);
  await must(client, "remove_sandbox", { sandbox: fork });
  assert.deepEqual(names(), ["t-one"]);
  const { sandbox: third } = await must(client, "fork_sandbox", { from: snapshot });
  assert.equal((await must(client, "run", { sandbox: third, command: "cat state" })).stdout, "other\n");
  await must(client, "remove_sandbox", { sandbox: third });
  await must(client, "remove_snapshot", { snapshot });
  await refused(client, "fork_sandbox", { from: snapshot }, /no sandbox/);
});

test("a long command blocks nothing, tells its progress, and ends when it is cancelled", async () => {
  const stop = new AbortController();
  const told = new Promise((done) => {
    // What is told before may be of a command that has not begun yet.
    const running = call(client, "run", { sandbox: box, command: "echo begun >mark; echo x; exec sleep 1000" }, {
      signal: stop.signal, onprogress: (progress) => /^running, 2 bytes/.test(progress.message) && done({ progress, running }) });
    running.catch(() => {});
  });
  const { progress, running } = await told;
  assert.match(progress.message, /running, 2 bytes of output/);
  await client.ping();
  await refused(client, "suspend_sandbox", { sandbox: box }, /a command runs/);
  assert.equal((await must(client, "read_file", { sandbox: box, path: "mark" })).content, "begun\n");
  stop.abort("enough");
  await assert.rejects(running);
  const gone = "for i in $(seq 1000); do pgrep -x sleep -a | grep -q 1000 || exit 0; sleep 0.1; done; exit 1";
  assert.equal((await must(client, "run", { sandbox: box, command: gone })).exit_code, 0);
});

test("a cancelled creation leaves nothing", async () => {
  const stop = new AbortController();
  const making = call(client, "create_sandbox", { name: "half" }, { signal: stop.signal });
  await client.ping(); // it has begun
  stop.abort("enough");
  await assert.rejects(making);
  let list;
  do list = (await must(client, "list_sandboxes", {})).sandboxes.map((one) => one.sandbox); while (list.length > 1);
  assert.deepEqual(list, [box]);
  assert.deepEqual(names(), [box]);
});

test("a command is ended at its time", async () => {
  // Its time begins before the guest has it, and what it says has to come within it.
  const answer = await call(client, "run", { sandbox: box, command: "echo begun; exec sleep 1000", timeout_seconds: 15 });
  assert.deepEqual([answer.isError, answer.structuredContent.timed_out, answer.structuredContent.stdout], [true, true, "begun\n"]);
  await refused(client, "run", { sandbox: box, command: "true", timeout_seconds: 121 }, /at most 120/);
});

test("what is allowed is reached, with the secret, and nothing else is", async () => {
  const curl = (url) => must(client, "run", { sandbox: box, command: `curl -sSf --http1.1 -m 100 -H "Authorization: Bearer $TOKEN" ${url}; echo $?` });
  assert.match((await curl(WEB)).stdout, /\n?0\n$/);
  assert.notEqual((await curl("https://other.test/")).stdout.trim().split("\n").pop(), "0");
  assert.match((await must(client, "run", { sandbox: box, command: "echo $TOKEN" })).stdout, /^BELLGLASS_SECRET_/);
});

test("wrong arguments are for the model to mend, and widen nothing", async () => {
  const wrong = [
    ["run", { sandbox: box }, /either command/], ["run", { sandbox: box, command: "a", argv: ["a"] }, /either command/],
    ["run", { sandbox: box, command: 7 }, /want a string/], ["run", { sandbox: box, argv: [] }, /from 1 to/],
    ["run", { sandbox: box, command: "a\0b" }, /NUL/], ["run", { sandbox: box, command: "true", env: { "A=B": "" } }, /names have/],
    ["run", { sandbox: box, command: "true", cwd: "tmp" }, /absolute/], ["run", { sandbox: "t-none", command: "true" }, /no sandbox/],
    ["run", { command: "true" }, /sandbox is missing/], ["run", { sandbox: box, argv: ["/none"] }, /cannot run it/],
    ["create_sandbox", { image: "other" }, /no argument 'image'/], ["create_sandbox", { memory: "8G" }, /no argument/],
    ["create_sandbox", { allow: ["evil.example"] }, /no argument/], ["create_sandbox", { name: "../x" }, /name/],
    ["create_sandbox", { name: "one" }, /in use/], ["fork_sandbox", { from: "-n" }, /no sandbox/],
    ["restore_sandbox", { sandbox: box, snapshot: "t-one@none" }, /no snapshot/], ["read_file", { sandbox: box, path: "x", offset: -1 }, /offset/],
    ["snapshot_sandbox", { sandbox: box, tag: "a/b" }, /tag/], ["list_files", { sandbox: box, path: "/etc/passwd" }, /Not a directory/],
  ];
  for (const [name, args, words] of wrong) await refused(client, name, args, words);
  await assert.rejects(client.callTool({ name: "none", arguments: {} }), /no tool/);
});

test("sandboxes of others are not there, but for those that were named", async () => {
  const other = await connect("--prefix", "u", "--max", "0", "--sandbox", box);
  await other.listTools();
  await refused(other, "create_sandbox", {}, /no more may be made/);
  assert.equal((await must(other, "run", { sandbox: box, command: "cat a/b/c" })).stdout, "grüße!");
  await refused(other, "remove_sandbox", { sandbox: box }, /only its user/);
  await refused(other, "run", { sandbox: "one", command: "true" }, /no sandbox/); // that is another one's short name
  await other.close();
  assert.deepEqual(names(), [box]);
});

test("a client of the stateless revision is served likewise", async () => {
  const modern = new StatelessClient({ name: "test", version: "1" }, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
  await modern.connect(new StatelessTransport(server("--prefix", "v", "--max", "0", "--sandbox", box)));
  assert.equal((await modern.listTools()).tools.length, 13);
  const said = await modern.callTool({ name: "run", arguments: { sandbox: box, command: "echo hi" } }, long);
  assert.equal(said.structuredContent.stdout, "hi\n");
  await modern.close();
});
