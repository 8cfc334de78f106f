// The other side of session_deno.c's REPL, inside the guest's Deno: answers one JSON text a connection on a port of
// the loopback. Evaluates with V8's inspector in its REPL mode, so that `let` may be said again and `await` stands
// anywhere; types are stripped before. Its own names stay in this module.
import inspector from "node:inspector";
import module from "node:module";
const session = new inspector.Session();
session.connect();
const ask = (method, params) =>
  new Promise((done, failed) => session.post(method, params, (e, answer) => e ? failed(e) : done(answer)));
const KNOWN = ["TypeError", "RangeError", "SyntaxError", "ReferenceError", "EvalError", "URIError", "DOMException",
  ...Object.keys(Deno.errors), "Error"];
// Runs in the REPL's world on the value itself.
const plain = String(function () {
  const seen = (key, value) =>
    typeof value === "bigint" ? String(value) : value instanceof Map ? [...value] : value instanceof Set ? [...value] : value;
  return JSON.stringify({ ok: this.value === undefined ? null : this.value }, seen);
});
const inside = async (remote, fn) => {
  const given = remote.objectId ? { objectId: remote.objectId }
    : "unserializableValue" in remote ? { unserializableValue: remote.unserializableValue } : { value: remote.value };
  const holder = await ask("Runtime.evaluate", { expression: "globalThis" });
  const { result, exceptionDetails } = await ask("Runtime.callFunctionOn", {
    functionDeclaration: `function (value) { return (${fn}).call({ value }); }`, objectId: holder.result.objectId,
    arguments: [given], returnByValue: true });
  if (exceptionDetails) throw exceptionDetails;
  return result.value;
};
const thrown = String(function () {
  const e = this.value, names = [];
  for (let p = e; p !== null && typeof p === "object"; p = Object.getPrototypeOf(p))
    if (Object.hasOwn(p, "constructor") && typeof p.constructor === "function") names.push(p.constructor.name);
  return { names, message: e instanceof Error ? String(e.message) : `Uncaught ${String(e)}` };
});
const strip = (code) => {
  for (const text of /^\s*\{/.test(code) ? [`(${code}\n)`, code] : [code]) {
    try { return module.stripTypeScriptTypes(text, { mode: "transform" }); } catch { /* V8 says what is wrong */ }
  }
  return code;
};
const evaluate = async (expression) => {
  const { result, exceptionDetails } = await ask("Runtime.evaluate", { expression, replMode: true, awaitPromise: true });
  let failed = exceptionDetails;
  try { if (!failed) return await inside(result, plain); } catch (e) { failed = e; }
  if (!failed.exception) return JSON.stringify({ error: { name: "Error", message: String(failed.text ?? failed) } });
  const { names, message } = await inside(failed.exception, thrown);
  return JSON.stringify({ error: { name: names.find((name) => KNOWN.includes(name)) ?? "Error", message } });
};
const serve = async (connection) => {
  try {
    const decoder = new TextDecoder(), part = new Uint8Array(65536);
    let request = "";
    for (let n; (n = await connection.read(part)) !== null;) request += decoder.decode(part.subarray(0, n), { stream: true });
    const { code, fn, args, close } = JSON.parse(request);
    if (close) Deno.exit(0);
    const text = fn === undefined ? strip(code) : `await (${strip(fn).replace(/;\s*$/, "")})(...${JSON.stringify(args)})`;
    const answer = new TextEncoder().encode(await evaluate(text));
    for (let at = 0; at < answer.length;) at += await connection.write(answer.subarray(at));
    connection.close();
  } catch { /* who asked has gone */ }
};
const listener = Deno.listen({ hostname: "127.0.0.1", port: Number(Deno.env.get("BELLGLASS_REPL_PORT")) });
Deno.env.delete("BELLGLASS_REPL_PORT");
for await (const connection of listener) serve(connection);
