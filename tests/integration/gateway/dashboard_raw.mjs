// The dashboard's routes without a browser: dashboard_raw.mjs PORT TOKEN OTHER_TOKEN SANDBOX. TOKEN was made with
// --all, OTHER_TOKEN without.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import { test } from "node:test";
import { Sandbox } from "@deno/sandbox";

const [port, token, other, name] = process.argv.slice(2);
const host = `localhost:${port}`, origin = `http://${host}`;
const bearer = (text) => ({ Authorization: `Bearer ${text}` });

// fetch() sets fields of its own; this sends what it is told to.
const send = (method, path, headers = {}, body = undefined) => new Promise((done, failed) => {
  const request = http.request({ host: "127.0.0.1", port, method, path, headers: { Host: host, ...headers } }, (answer) => {
    const parts = [];
    answer.on("data", (part) => parts.push(part));
    answer.on("end", () => {
      const text = Buffer.concat(parts).toString();
      let json = null;
      try { json = JSON.parse(text); } catch { /* a page */ }
      done({ status: answer.statusCode, headers: answer.headers, text, json });
    });
  });
  request.on("upgrade", (answer, socket) => {
    socket.destroy();
    done({ status: 101, headers: answer.headers });
  });
  request.on("error", failed);
  request.end(body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body));
});
const api = (method, path, as, body) => send(method, `/api/bellglass/${path}`, bearer(as), body);
const enter = (headers = { Origin: origin }) => send("POST", "/api/bellglass/session", headers, { token });

test("pages have their fields and nothing else is there", async () => {
  for (const path of ["/", "/web/app.js", "/web/style.css", "/web/xterm.js", "/web/icon.svg"]) {
    const { status, headers } = await send("GET", path);
    assert.equal(status, 200, path);
    const policy = headers["content-security-policy"];
    assert.match(policy, /default-src 'none'/);
    assert.match(policy, /frame-ancestors 'none'/);
    assert.doesNotMatch(policy, /unsafe|\*|data:/);
    assert.equal(headers["x-content-type-options"], "nosniff");
    assert.equal(headers["x-frame-options"], "DENY");
    assert.equal(headers["cache-control"], "no-store");
    assert.equal(headers["referrer-policy"], "no-referrer");
    assert.equal(headers["cross-origin-resource-policy"], "same-origin");
    assert.equal(headers["set-cookie"], undefined);
  }
  for (const path of ["/web/", "/web/../web/app.js", "/web/nothing.js", "/index.html"])
    assert.ok([401, 404].includes((await send("GET", path)).status), path);
  assert.equal((await send("GET", "/", { Host: "evil.example" })).status, 421);
  assert.equal((await send("GET", "/", { Host: `evil.localhost:${port}` })).status, 421);
});

test("a cookie, a key, and where they come from: all are needed", async () => {
  const login = await enter();
  assert.equal(login.status, 200);
  const [cookie] = login.headers["set-cookie"];
  assert.match(cookie, new RegExp(`^bellglass_${port}=[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200$`));
  const mine = { Cookie: cookie.split(";")[0], "X-Bellglass-Key": login.json.key };
  const status = async (method, path, headers, body) => (await send(method, `/api/bellglass/${path}`, headers, body)).status;
  assert.equal(await status("GET", "session", mine), 200);
  assert.equal(await status("GET", "session", { ...mine, Cookie: `bellglass_${port}=x; ${mine.Cookie}` }), 200);
  assert.equal(await status("GET", "session", { Cookie: mine.Cookie }), 401);
  assert.equal(await status("GET", "session", { "X-Bellglass-Key": login.json.key }), 401);
  assert.equal(await status("GET", "session", { ...mine, "X-Bellglass-Key": "0".repeat(64) }), 401);
  assert.equal(await status("GET", "session", { ...mine, Cookie: mine.Cookie.replace(/=./, "=x") }), 401);
  for (const site of ["same-site", "cross-site", "none"])
    assert.equal(await status("GET", "overview", { ...mine, "Sec-Fetch-Site": site }), 401, site);
  assert.equal(await status("GET", "overview", { ...mine, Origin: "http://evil.localhost" }), 403);
  assert.equal(await status("GET", "overview", { ...mine, Authorization: "Bearer wrong" }), 401);
  // What changes something tells where it is from.
  const rule = { decision: "allow", host: "a.test" };
  assert.equal(await status("POST", `sandboxes/${name}/rules`, mine, rule), 401);
  assert.equal(await status("POST", `sandboxes/${name}/rules`, { ...mine, Origin: `http://x.${host}` }, rule), 403);
  assert.equal(await status("POST", `sandboxes/${name}/rules`, { ...mine, Origin: origin }, rule), 200);
  const ws = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": 13, "Sec-WebSocket-Key": "a".repeat(22) + "==" };
  const offer = { Cookie: mine.Cookie, "Sec-WebSocket-Protocol": `bellglass.v1, key.${login.json.key}` };
  assert.equal(await status("GET", `sandboxes/${name}/connect`, { ...ws, ...offer }), 401);
  assert.equal(await status("GET", `sandboxes/${name}/connect`, { ...ws, Cookie: mine.Cookie, Origin: origin }), 401);
  const open = await send("GET", `/api/bellglass/sandboxes/${name}/connect`, { ...ws, ...offer, Origin: origin });
  assert.equal(open.status, 101);
  assert.equal(open.headers["sec-websocket-protocol"], "bellglass.v1");
  // A login from another page is refused, and one that is over opens nothing.
  assert.equal((await enter({})).status, 403);
  assert.equal((await enter({ Origin: "http://evil.example" })).status, 403);
  assert.equal((await enter({ Origin: origin, "Sec-Fetch-Site": "same-site" })).status, 403);
  const out = await send("DELETE", "/api/bellglass/session", { ...mine, Origin: origin });
  assert.match(out.headers["set-cookie"][0], /Max-Age=0/);
  assert.equal(await status("GET", "session", mine), 401);
});

test("bad input is refused with what is wrong", async () => {
  const at = `sandboxes/${name}`;
  const wrong = [
    ["GET", "nothing", undefined, 404], ["GET", `${at}/stop`, undefined, 405], ["POST", "sandboxes/-f/stop", {}, 404],
    ["POST", "sandboxes/none/stop", {}, 404], ["POST", `${at}/fork`, "[]", 400], ["POST", `${at}/fork`, "{", 400],
    ["POST", `${at}/fork`, { count: 0 }, 400], ["POST", `${at}/fork`, { count: 17 }, 400], ["POST", `${at}/fork`, { count: "2" }, 400],
    ["POST", `${at}/fork`, { name: "--help" }, 400], ["POST", `${at}/fork`, { name: 5 }, 400], ["POST", `${at}/fork`, { name }, 409],
    ["POST", `${at}/snapshot`, { tag: "../x" }, 400], ["POST", `${at}/snapshot`, { note: "x".repeat(5000) }, 400],
    ["POST", `${at}/restore`, {}, 400], ["POST", `${at}/restore`, { snapshot: "-y" }, 400], ["POST", `${at}/restore`, { snapshot: "none" }, 409],
    ["POST", `${at}/rules`, {}, 400], ["POST", `${at}/rules`, { decision: "maybe", host: "a.test" }, 400],
    ["POST", `${at}/rules`, { decision: "allow", host: "a b" }, 400], ["POST", `${at}/rules`, { decision: "allow", host: "a.test", port: 70000 }, 400],
    ["PUT", `${at}/policy`, {}, 400], ["PUT", `${at}/policy`, { policy: "network: [" }, 400], ["PUT", `${at}/policy`, { policy: 7 }, 400],
    ["GET", `${at}/audit?after=x`, undefined, 400], ["DELETE", "snapshots/none@1", undefined, 404], ["GET", `${at}/connect`, undefined, 426],
  ];
  for (const [method, path, body, status] of wrong) {
    const answer = await api(method, path, token, body);
    assert.equal(answer.status, status, `${method} ${path} ${JSON.stringify(body)}: ${answer.text}`);
    assert.equal(typeof answer.json.message, "string");
  }
});

test("rules of a sandbox that runs are changed", async () => {
  const at = `sandboxes/${name}`, rule = (decision, more = {}) => api("POST", `${at}/rules`, token, { decision, host: "rule.test", ...more });
  const text = "network:\n  default: learn\n";
  assert.equal((await api("PUT", `${at}/policy`, token, { policy: text })).json.policy, text);
  assert.ok((await rule("allow", { port: 8443 })).json.allow.includes("rule.test:8443"));
  const denied = (await rule("deny", { port: 8443 })).json;
  assert.ok(!denied.allow.includes("rule.test:8443"));
  assert.equal(denied.policy, "network:\n  rules:\n    - deny: \"rule.test:8443\"\n  default: learn\n");
  assert.deepEqual((await api("GET", `${at}/policy`, token)).json, denied);
  assert.equal((await rule("allow", { port: 8443 })).json.policy, text);
  assert.equal((await api("PUT", `${at}/policy`, token, { policy: null })).json.policy, null);
});

test("another token has what was made with it, and its forks", async () => {
  assert.deepEqual((await api("GET", "overview", other)).json.sandboxes, []);
  for (const [method, path] of [["POST", "fork"], ["POST", "stop"], ["DELETE", ""], ["GET", "policy"], ["GET", "audit"]])
    assert.equal((await api(method, `sandboxes/${name}${path && `/${path}`}`, other, method === "POST" ? {} : undefined)).status, 404, path);
  const endpoints = { sandboxEndpoint: origin, apiEndpoint: origin, token: other };
  const one = await Sandbox.create({ ...endpoints, secrets: { KEY: { hosts: ["a.test"], value: "s3cret" } } });
  await one.fs.writeTextFile("kept", "yes");
  const overview = (await api("GET", "overview", other)).json;
  assert.deepEqual(overview.sandboxes.map((s) => s.name), [one.id]);
  assert.equal(overview.sandboxes[0].state, "running");
  assert.ok((await api("GET", "overview", token)).json.sandboxes.some((s) => s.name === one.id));
  const made = await api("POST", `sandboxes/${one.id}/fork`, other, {});
  assert.equal(made.status, 200, made.text);
  const [id] = made.json.names;
  const fork = await Sandbox.connect({ ...endpoints, id });
  assert.equal(await fork.fs.readTextFile("kept"), "yes");
  // The value that the client gave is the sandbox's alone, and the fork's.
  assert.equal(readFileSync(`${process.env.BELLGLASS_HOME}/state/sandboxes/${id}/secrets/KEY`, "utf8"), "s3cret");
  assert.equal((await api("DELETE", `sandboxes/${id}`, other)).status, 200);
  await fork.closed;
  // One that is looked at does not end with who looks on, but with who made it.
  const { WebSocket } = await import("ws").then((module) => ({ WebSocket: module.default }));
  const ws = new WebSocket(`ws://${host}/api/bellglass/sandboxes/${one.id}/connect`, { headers: bearer(token) });
  await new Promise((done, failed) => ws.on("open", done).on("error", failed));
  ws.close();
  await new Promise((done) => ws.on("close", done));
  assert.equal(await one.fs.readTextFile("kept"), "yes");
  await one.kill();
});

test("too many wrong tokens have to wait", async () => {
  const statuses = [];
  for (let i = 0; i < 12; i++)
    statuses.push((await send("POST", "/api/bellglass/session", { Origin: origin }, { token: `wrong${i}` })).status);
  assert.equal(statuses[0], 401);
  assert.equal(statuses.at(-1), 429);
  assert.equal((await api("GET", "session", token)).status, 200); // who has a token is not kept out
});
