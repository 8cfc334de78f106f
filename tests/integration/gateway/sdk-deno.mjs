// deno.run, deno.eval and deno.repl with Deno in the sandbox. Environment: the SDK's own, and DENO, the binary of
// Deno for the guest, or nothing: then only what a sandbox without it answers is looked at.
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";

const sandbox = await Sandbox.create();
const { DENO } = process.env;
const options = { skip: !DENO && "no Deno for the guest: DENO is not set" };

test("a sandbox without Deno says which image has it", async () => {
  for (const call of [() => sandbox.deno.run({ code: "1" }), () => sandbox.deno.eval("1"), () => sandbox.deno.repl()])
    await assert.rejects(call(), /bellglass image build deno/);
  if (!DENO) return;
  await sandbox.fs.upload(DENO, "deno");
  await sandbox.sh`install -m 755 deno /usr/local/bin/deno && rm deno`.sudo();
});

test("code and modules run, with arguments, input and output", options, async () => {
  const code = "const n: number = 2; console.log(n + 1, Deno.args.join()); console.error('err'); Deno.exit(n)";
  const run = await sandbox.deno.run({ code, scriptArgs: ["a", "-b"], stdout: "piped", stderr: "piped" });
  const { status, stdoutText, stderrText } = await run.output();
  assert.deepEqual([status.code, stdoutText, stderrText], [2, "3 a,-b\n", "err\n"]);
  assert.equal(await run.httpReady, false);
  await sandbox.fs.writeTextFile("other.ts", "export const x: string = Deno.env.get('OWN')!;");
  await sandbox.fs.writeTextFile("main.ts",
    "import { x } from './other.ts'; console.log(x, await new Response(Deno.stdin.readable).text());");
  const main = await sandbox.deno.run({ entrypoint: "main.ts", env: { OWN: "own" }, stdin: "piped", stdout: "piped" });
  const writer = main.stdin.getWriter();
  await writer.write(new TextEncoder().encode("input"));
  await writer.close();
  assert.equal((await main.output()).stdoutText, "own input\n");
  const none = await sandbox.deno.run({ entrypoint: "none.ts", stderr: "piped" });
  assert.equal((await none.output()).status.success, false);
});

test("a server is ready, is asked, and is exposed", options, async () => {
  const code = "Deno.serve((r) => new Response(r.method + new URL(r.url).pathname, { headers: { 'x-own': 'y' } }));";
  const server = await sandbox.deno.run({ code, stdout: "null", stderr: "null" });
  assert.equal(await server.httpReady, true);
  const answer = await server.fetch("https://example.com/resource", { method: "POST", body: "b" });
  assert.deepEqual([answer.status, answer.headers.get("x-own"), await answer.text()], [200, "y", "POST/resource"]);
  const url = new URL(await sandbox.exposeHttp({ pid: server.pid }));
  const text = await new Promise((done, failed) =>
    http.get({ host: "127.0.0.1", port: url.port, path: "/in", headers: { host: url.host }, agent: false }, (answer) => {
      let text = "";
      answer.on("data", (part) => text += part);
      answer.on("end", () => done(text));
    }).on("error", failed));
  assert.equal(text, "GET/in");
  await server.kill();
  assert.equal((await server.status).signal, "SIGTERM");
  await assert.rejects(server.fetch("http://localhost/"), (e) => e.code === "ENOENT");
});

test("a REPL evaluates, calls and throws", options, async () => {
  assert.equal(await sandbox.deno.eval("1 + 1"), 2);
  const repl = await sandbox.deno.repl({ scriptArgs: ["x"], stdout: "piped", stderr: "null" });
  assert.deepEqual(await repl.eval("Deno.args"), ["x"]);
  assert.equal(await repl.eval("let a: number = await Promise.resolve(5); a"), 5);
  assert.equal(await repl.eval("let a = 6; console.log('printed'); a"), 6);
  await repl.eval("function add(a: number, b: number) { return a + b }");
  assert.equal(await repl.call("add", 1, 2), 3);
  assert.deepEqual(await repl.call("async (...all) => all", { b: [1] }, null), [{ b: [1] }, null]);
  assert.deepEqual(await repl.eval("{ m: new Map([[1, 2]]), d: new Date(0), n: 3n }"),
    { m: [[1, 2]], d: "1970-01-01T00:00:00.000Z", n: "3" });
  assert.equal(await repl.eval("undefined"), null);
  await assert.rejects(repl.eval("throw new TypeError('bad')"), (e) => e instanceof TypeError && e.message === "bad");
  await assert.rejects(repl.eval("throw new Deno.errors.NotFound('nf')"), (e) => e.constructor.name === "NotFound");
  await assert.rejects(repl.eval("class Own extends RangeError {}; throw new Own('own')"), RangeError);
  await assert.rejects(repl.eval("syntax error"), SyntaxError);
  assert.equal(await repl.eval("a"), 6);
  await repl.close();
  assert.equal((await repl.output()).stdoutText, "printed\n");
  await repl.close(); // it is gone: no error
});

test("the sandbox ends", () => sandbox.close());
