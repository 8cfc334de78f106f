// What no well-made client sends to `bellglass mcp`: raw.mjs BELLGLASS. Each must cost its sender's message alone.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";

// Writes pieces, ends, and returns the answers and the exit status.
const speak = (pieces, { end = () => true, args = [] } = {}) => new Promise((done, failed) => {
  const child = spawn(process.argv[2], ["mcp", "--max", "0", ...args], { stdio: ["pipe", "pipe", "ignore"] });
  const answers = [];
  let text = "";
  child.stdout.on("data", (part) => {
    text += part;
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) answers.push(JSON.parse(line));
    if (answers.length > 0 && end(answers)) child.stdin.end();
  });
  child.on("error", failed);
  child.on("close", (status) => done({ answers, status }));
  for (const piece of pieces) child.stdin.write(piece);
});
const line = (value) => JSON.stringify(value) + "\n";
const ask = (id, method, params) => line({ jsonrpc: "2.0", id, method, params });
const hello = (version = "2025-06-18") => ask("h", "initialize", { protocolVersion: version, capabilities: {}, clientInfo: { name: "raw", version: "1" } });
const last = ask("last", "ping");
const until = { end: (answers) => answers.some((one) => one.id === "last") };
const meta = (version, more) => ({ _meta: { "io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}, ...more } });

test("each wrong message has its error, and the next one is served", async () => {
  const wrong = [
    ["{", -32700], ["nonsense", -32700], ["\xff", -32700], ["1", -32600], ["[]", -32600], ["{}", -32600], ['{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600],
    ['{"jsonrpc":"2.0","id":1,"method":7}', -32600], ['{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600], ['{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600],
    ['{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32600], ['{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":7}}', -32600],
    ['{"jsonrpc":"2.0","id":1,"method":"p\\u0000"}', -32600], ['[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600],
    ['{"jsonrpc":"2.0","id":1,"method":"none"}', -32601], ['{"jsonrpc":"2.0","id":1,"method":"resources/list"}', -32601],
    ['{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}', -32602], ['{"jsonrpc":"2.0","id":1,"method":"tools/call"}', -32602],
    ['{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}', -32602], ["[".repeat(5000), -32700],
  ];
  const { answers, status } = await speak([hello(), ...wrong.map(([text]) => text + "\n"), last], until);
  assert.deepEqual(answers.slice(1, -1).map((one) => one.error?.code), wrong.map(([, code]) => code));
  assert.equal(status, 0);
});

test("notifications, answers and empty lines are passed over", async () => {
  const cancelled = line({ jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: 99 } });
  const { answers } = await speak([hello(), "\n\r\n", line({ jsonrpc: "2.0", method: "notifications/none" }), cancelled,
    line({ jsonrpc: "2.0", method: "notifications/cancelled" }), line({ jsonrpc: "2.0", id: 5, result: {} }), last], until);
  assert.deepEqual(answers.map((one) => one.id), ["h", "last"]);
});

test("a line that is too long is passed over, whatever its pieces", async () => {
  const piece = "x".repeat(1 << 20);
  const { answers } = await speak([hello(), ...Array(17).fill(piece), "\n", last], until);
  assert.deepEqual(answers.map((one) => [one.id, one.error?.code]), [["h", undefined], [null, -32600], ["last", undefined]]);
  const { answers: split } = await speak([...hello()], { end: () => true });
  assert.equal(split[0].result.protocolVersion, "2025-06-18");
});

test("revisions are agreed on", async () => {
  for (const [asked, want] of [["2024-11-05", "2024-11-05"], ["2025-03-26", "2025-03-26"], ["2025-11-25", "2025-11-25"], ["2099-01-01", "2025-11-25"], ["2026-07-28", "2025-11-25"]])
    assert.equal((await speak([hello(asked)])).answers[0].result.protocolVersion, want);
  const batch = JSON.stringify([{ jsonrpc: "2.0", id: 1, method: "ping" }, { jsonrpc: "2.0", id: "last", method: "ping" }]) + "\n";
  assert.deepEqual((await speak([hello("2025-03-26"), batch], until)).answers.map((one) => one.id), ["h", 1, "last"]);
  assert.equal((await speak([ask("last", "tools/list")], until)).answers[0].error.code, -32600);
});

test("a request that says its revision needs no beginning", async () => {
  const { answers } = await speak([
    ask(1, "server/discover", meta("2026-07-28")), ask(2, "tools/list", meta("2026-07-28")), ask(3, "tools/list", meta("2030-01-01")),
    ask(4, "tools/list", meta("2026-07-28", { "io.modelcontextprotocol/clientCapabilities": 7 })), ask(5, "ping", meta("2026-07-28")),
    ask("last", "tools/call", { name: "list_sandboxes", ...meta("2026-07-28") })], until);
  assert.deepEqual(answers[0].result.supportedVersions, ["2026-07-28"]);
  assert.equal(answers[1].result.resultType, "complete");
  assert.equal(answers[1].result.cacheScope, "private");
  assert.deepEqual(answers[2].error.data, { supported: ["2026-07-28"], requested: "2030-01-01" });
  assert.deepEqual(answers.slice(2, 5).map((one) => one.error.code), [-32022, -32602, -32601]);
  assert.equal(answers[5].result.resultType, "complete");
});

test("a client that never reads does no harm", async () => {
  const child = spawn(process.argv[2], ["mcp", "--max", "0"], { stdio: ["pipe", "pipe", "ignore"] });
  child.stdin.on("error", () => {});
  child.stdin.write(hello());
  for (let i = 0; i < 3000; i++) child.stdin.write(ask(i, "tools/list"));
  child.stdout.once("readable", () => child.stdout.destroy()); // it has begun to answer
  const status = await new Promise((done) => child.on("exit", done));
  assert.equal(status, 0);
});
