// The unmodified SDK against a gateway: every call that bellglass serve answers, with what a program would see.
// Names what failed, and ends with status 1. Environment: the SDK's own, and WEB, the address of a TLS server that
// the sandboxes may reach and that gives requests back (clients/internet.py).
import { Client, Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";

const ID = /^sbx_[a-z]{3}_[0-9a-hjkmnp-z]{20}$/;
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "bg-sdk-"));
process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));

const rejects = (promise, code) => assert.rejects(promise, (e) => e.code === code || assert.fail(`${e.code}: ${e}`));
const bytes = (size, seed) => {
  const all = Buffer.alloc(size);
  for (let i = 0; i + 4 <= size; i += 4) all.writeUInt32LE(((i + seed) * 2654435761) >>> 0, i);
  return all;
};
const collect = async (stream) => {
  const parts = [];
  for await (const part of stream) {
    assert.ok(part.length > 0);
    parts.push(part);
  }
  return Buffer.concat(parts);
};

// One sandbox for what does not disturb the rest.
const sandbox = await Sandbox.create({ env: { FIRST: "one", UMLAUT: "zwei ü" }, labels: { kind: "shared", "ä": "ö" } });

test("a sandbox has an id and is listed by its labels", async () => {
  assert.match(sandbox.id, ID);
  const client = new Client();
  const all = await client.sandboxes.list({ labels: { kind: "shared", "ä": "ö" } });
  assert.equal(all.length, 1);
  assert.equal(all[0].id, sandbox.id);
  assert.equal(all[0].status, "running");
  assert.equal(all[0].region, "ord");
  assert.ok(Math.abs(all[0].createdAt - Date.now()) < 3600_000);
  assert.deepEqual(all[0].labels, { kind: "shared", "ä": "ö" });
  assert.equal((await client.sandboxes.list({ labels: { kind: "other" } })).length, 0);
});

test("sh gives output, status and errors", async () => {
  assert.equal(await sandbox.sh`echo hello; id -un; pwd`.text(), "hello\napp\n/home/app\n");
  assert.deepEqual(await sandbox.sh`echo ${'{"a": [1]}'}`.json(), { a: [1] });
  assert.equal(await sandbox.sh`echo ${["a b", "c'd"]}`.text(), "a b c'd\n");
  const result = await sandbox.sh`exit 3`.noThrow();
  assert.deepEqual(result.status, { success: false, code: 3, signal: null, oom: false });
  await assert.rejects(sandbox.sh`exit 4`.result(), { name: "SandboxCommandError", code: 4 });
  await sandbox.sh`id -un >who`.sudo();
  assert.equal(await sandbox.fs.readTextFile("who"), "root\n");
});

test("spawn has each way of stdio, a folder and variables", async () => {
  const both = await sandbox.spawn("sh", { args: ["-c", "echo out; echo err >&2"], stdout: "piped", stderr: "piped" });
  const { status, stdoutText, stderrText } = await both.output();
  assert.deepEqual([status.success, stdoutText, stderrText], [true, "out\n", "err\n"]);
  const none = await sandbox.spawn("sh", { args: ["-c", "cat; echo x"], stdin: "null", stdout: "null", stderr: "null" });
  assert.equal(none.stdout, null);
  assert.equal((await none.status).code, 0);
  for (const [cwd, want] of [["/tmp", "/tmp\n"], ["..", "/home\n"], [undefined, "/home/app\n"]]) {
    const pwd = await sandbox.spawn("pwd", { cwd, stdout: "piped" });
    assert.equal((await pwd.output()).stdoutText, want);
  }
  await rejects(sandbox.spawn("pwd", { cwd: "/nowhere" }), "ENOTDIR");
  await rejects(sandbox.spawn("no-such-command"), "ENOENT");
  const bare = await sandbox.spawn("env", { env: { OWN: "1" }, clearEnv: true, stdout: "piped" });
  const names = (await bare.output()).stdoutText.split("\n").map((line) => line.split("=")[0]).filter(Boolean).sort();
  assert.deepEqual(names, ["OWN", "PATH"]);
});

test("bytes go through a process and come back", async () => {
  const cat = await sandbox.spawn("cat", { stdin: "piped", stdout: "piped" });
  const sent = bytes(8 << 20, 1);
  const write = (async () => {
    const writer = cat.stdin.getWriter();
    for (let at = 0; at < sent.length; at += 100_000) await writer.write(sent.subarray(at, at + 100_000));
    await writer.close();
  })();
  assert.ok((await collect(cat.stdout)).equals(sent));
  await write;
  assert.deepEqual(await cat.status, { success: true, code: 0, signal: null, oom: false });
});

test("a process is killed by name of signal", async () => {
  const sleep = await sandbox.spawn("sleep", { args: ["1000"] });
  await sleep.kill("SIGKILL");
  assert.deepEqual(await sleep.status, { success: false, code: 137, signal: "SIGKILL", oom: false });
  await sleep.kill(); // it is gone: no error
  const trap = await sandbox.spawn("sh", {
    args: ["-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.1; done"], stdout: "piped" });
  await trap.stdout.getReader().read();
  await assert.rejects(trap.kill("SIGNONE"), TypeError);
  await trap.kill("SIGUSR1");
  assert.equal((await trap.status).code, 7);
  const controller = new AbortController();
  const aborted = await sandbox.spawn("sleep", { args: ["1000"], signal: controller.signal });
  controller.abort();
  assert.equal((await aborted.status).signal, "SIGTERM");
});

test("output that nobody wants is cancelled, and the rest goes on", async () => {
  const yes = await sandbox.spawn("yes", { stdout: "piped" });
  const reader = yes.stdout.getReader();
  await reader.read();
  await reader.cancel(new Error("enough"));
  assert.equal(await sandbox.sh`echo still`.text(), "still\n");
  await yes.kill("SIGKILL");
  await yes.status;
});

test("files are written and read, as text, bytes and streams", async () => {
  const f = sandbox.fs;
  await f.writeTextFile("text", "hällo\u0000x");
  assert.equal(await f.readTextFile("/home/app/text"), "hällo\u0000x");
  await f.writeTextFile("text", "+", { append: true });
  assert.equal(await f.readTextFile("text"), "hällo\u0000x+");
  await f.writeFile("bytes", new Uint8Array([0, 255, 1]), { mode: 0o600 });
  assert.deepEqual(await f.readFile("bytes"), new Uint8Array([0, 255, 1]));
  await f.writeFile("empty", new Uint8Array());
  assert.equal((await f.readFile("empty")).length, 0);
  await f.writeFile("stream", new Blob(["abc", "def"]).stream());
  assert.equal(await f.readTextFile("stream"), "abcdef");
  const breaks = new ReadableStream({ pull(c) { c.error(new Error("gone")); } });
  await rejects(f.writeFile("stream", breaks), "EPIPE");
  await sandbox.sh`printf 'a\\377b' >odd; touch $'name\\377'`;
  assert.equal(await f.readTextFile("odd"), "a\uFFFDb");
  await rejects(f.readFile("none"), "ENOENT");
  await rejects(f.readFile("/home/app"), "EISDIR");
  await rejects(f.writeFile("bytes", new Uint8Array(), { createNew: true }), "EEXIST");
  await rejects(f.writeFile("none", new Uint8Array(), { create: false }), "ENOENT");
  await rejects(f.readFile("/etc/shadow"), "EACCES");
  await assert.rejects(f.readFile("none"), (e) => e.constructor.name === "NotFound");
});

test("files are described and changed", async () => {
  const f = sandbox.fs;
  await f.mkdir("d/e", { recursive: true });
  await f.mkdir("d/e", { recursive: true });
  await rejects(f.mkdir("d"), "EEXIST");
  await f.writeTextFile("d/a", "text", { mode: 0o640 });
  await f.copyFile("d/a", "d/b");
  await f.rename("d/b", "d/e/c");
  await f.symlink("e/c", "d/soft");
  await f.link("d/a", "d/hard");
  assert.equal(await f.readLink("d/soft"), "e/c");
  assert.equal(await f.realPath("d/soft"), "/home/app/d/e/c");
  const kinds = {};
  for await (const e of f.readDir("d")) kinds[e.name] = [e.isFile, e.isDirectory, e.isSymlink];
  assert.deepEqual(kinds, {
    a: [true, false, false], e: [false, true, false], soft: [false, false, true], hard: [true, false, false] });
  const stat = await f.stat("d/soft");
  assert.deepEqual([stat.isFile, stat.isSymlink, stat.size, stat.mode & 0o777], [true, false, 4, 0o640]);
  for (const key of ["mtime", "atime", "birthtime", "ctime"]) assert.ok(stat[key] instanceof Date && stat[key] > 0);
  assert.equal((await f.lstat("d/soft")).isSymlink, true);
  assert.equal((await f.stat("d/a")).nlink, 2);
  assert.equal((await f.stat("/dev/null")).isCharDevice, true);
  await f.chmod("d/a", 0o755);
  assert.equal((await f.stat("d/a")).mode & 0o777, 0o755);
  await f.chown("d/a", null, 1000);
  await rejects(f.chown("d/a", 0, 0), "EPERM");
  await f.utime("d/a", new Date(1000), new Date("2001-02-03T04:05:06.789Z"));
  assert.equal((await f.stat("d/a")).mtime.toISOString(), "2001-02-03T04:05:06.789Z");
  await f.truncate("d/a", 2);
  assert.equal(await f.readTextFile("d/a"), "te");
  await f.truncate("d/a");
  assert.equal((await f.stat("d/a")).size, 0);
  await rejects(f.remove("d"), "ENOTEMPTY");
  await f.remove("d", { recursive: true });
  await rejects(f.stat("d"), "ENOENT");
  const temp = await f.makeTempDir({ prefix: "p-", suffix: "-s" });
  assert.match(temp, /^\/tmp\/p-.*-s$/);
  assert.match(await f.makeTempFile({ dir: temp }), new RegExp(`^${temp}/`));
});

test("a tree is walked depth first, as far as it is asked for", async () => {
  const f = sandbox.fs;
  await sandbox.sh`mkdir -p w/a/b w/c && touch w/a/b/deep.ts w/a/one.js w/two.ts && ln -s a w/link`;
  const walk = async (root, options) => {
    const found = [];
    for await (const e of f.walk(root, options)) {
      found.push(e.path + (e.isDirectory ? "/" : e.isSymlink ? "@" : ""));
      assert.equal(e.name, e.path.split("/").pop());
    }
    for (const [i, one] of found.entries()) // a folder comes before what is in it
      assert.ok(found.findIndex((other) => other.endsWith("/") && one !== other && one.startsWith(other)) < i);
    return found.sort();
  };
  assert.deepEqual(await walk("w"), ["w/", "w/a/", "w/a/b/", "w/a/b/deep.ts", "w/a/one.js", "w/c/", "w/link@", "w/two.ts"]);
  assert.deepEqual(await walk("w/", { maxDepth: 1, includeDirs: false }), ["w/link@", "w/two.ts"]);
  assert.deepEqual(await walk("/home/app/w", { exts: [".ts", "js"], includeSymlinks: false }),
    ["/home/app/w/a/b/deep.ts", "/home/app/w/a/one.js", "/home/app/w/two.ts"]);
  assert.deepEqual(await walk("w", { includeFiles: false, includeSymlinks: false, maxDepth: 0 }), ["w/"]);
  await rejects(walk("none"), "ENOENT");
  let count = 0;
  for await (const _ of f.walk("/usr/lib")) count++;
  assert.equal(count, Number(await sandbox.sh`find /usr/lib | wc -l`.text()));
});

// The SDK's handler of messages throws, and its connection is dead from then on, if a stream that was left ends.
test("a walk that is left early, at any point, leaves the connection alive", async () => {
  await sandbox.sh`mkdir left && cd left && seq 3000 | xargs touch`;
  for (const stop of [0, 1, 5, 100, 1500, 2998, 2999, 3000]) {
    let count = 0;
    for await (const _ of sandbox.fs.walk("left")) if (count++ === stop) break;
    assert.equal(count, stop + 1);
    assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
  }
});

test("the umask is the connection's", async () => {
  const f = sandbox.fs;
  assert.equal(await f.umask(0o77), 0o22);
  await f.writeTextFile("masked", "");
  await f.mkdir("masked-d");
  assert.equal((await f.stat("masked")).mode & 0o777, 0o600);
  assert.equal((await f.stat("masked-d")).mode & 0o777, 0o700);
  const second = await Sandbox.connect(sandbox.id);
  assert.equal(await second.fs.umask(), 0o22);
  await second.close();
  assert.equal(await f.umask(0o22), 0o77);
});

test("open files are read, written, sought, locked and closed", async () => {
  const f = sandbox.fs, text = new TextEncoder();
  const file = await f.open("open", { read: true, write: true, create: true });
  assert.equal(await file.write(text.encode("0123456789")), 10);
  assert.equal(await file.seek(-4, 2), 6);
  const into = new Uint8Array(100);
  assert.equal(await file.read(into), 4);
  assert.equal(new TextDecoder().decode(into.subarray(0, 4)), "6789");
  assert.equal(await file.read(into), null);
  assert.equal(await file.read(new Uint8Array(0)), 0);
  assert.equal(await file.seek(2n, 0), 2);
  assert.equal(await file.seek(1, 1), 3);
  await rejects(file.seek(-9, 1), "EINVAL");
  await file.truncate(5);
  assert.equal((await file.stat()).size, 5);
  await file.utime(5, 6500);
  await file.sync();
  await file.syncData();
  await file.lock(true);
  const other = await f.open("open");
  let locked = false;
  const lock = other.lock(true).then(() => locked = true);
  assert.equal((await f.stat("open")).size, 5); // the wait blocks nothing else
  assert.equal(locked, false);
  await file.unlock();
  await lock;
  await other.close();
  await file.close();
  await rejects(file.stat(), "EBADF");
  await rejects(f.open("none"), "ENOENT");
  await assert.rejects(f.open("open", { create: true }), TypeError);
  const made = await f.create("made");
  const writer = made.writable.getWriter();
  const all = bytes(300_000, 2);
  await writer.write(all);
  await writer.close();
  await made.seek(0, 0);
  assert.ok((await collect(made.readable)).equals(all));
  await made.close();
});

test("files are uploaded, downloaded, and a call is aborted", async () => {
  const f = sandbox.fs, all = bytes(8 << 20, 3);
  fs.writeFileSync(path.join(folder, "large"), all);
  await f.upload(path.join(folder, "large"), "large");
  assert.ok(Buffer.from(await f.readFile("large")).equals(all));
  await f.download("large", path.join(folder, "back"));
  assert.ok(fs.readFileSync(path.join(folder, "back")).equals(all));
  fs.mkdirSync(path.join(folder, "tree/sub"), { recursive: true });
  fs.writeFileSync(path.join(folder, "tree/sub/file"), "in a tree");
  await f.upload(path.join(folder, "tree"), "/home/app");
  assert.equal(await f.readTextFile("tree/sub/file"), "in a tree");
  fs.mkdirSync(path.join(folder, "down"));
  await f.download("tree", path.join(folder, "down"));
  assert.equal(fs.readFileSync(path.join(folder, "down/tree/sub/file"), "utf8"), "in a tree");
  // One that never ends by itself.
  await sandbox.sh`mkfifo pipe`;
  const controller = new AbortController();
  const read = f.readFile("pipe", { signal: controller.signal });
  assert.equal((await f.lstat("pipe")).isFifo, true);
  controller.abort();
  await assert.rejects(read, { name: "AbortError" });
  await f.stat("large");
});

test("variables are for processes that start later", async () => {
  const env = sandbox.env;
  assert.equal(await env.get("FIRST"), "one");
  assert.equal(await env.get("NONE"), undefined);
  assert.equal(await env.get("HOME"), "/home/app");
  assert.equal(await sandbox.sh`echo $FIRST$UMLAUT`.text(), "onezwei ü\n");
  await env.set("FIRST", "1");
  await env.delete("UMLAUT");
  await env.delete("LANG");
  assert.equal(await sandbox.sh`echo "$FIRST[$UMLAUT$LANG]$HOME"`.text(), "1[]/home/app\n");
  const all = await env.toObject();
  assert.deepEqual([all.FIRST, all.UMLAUT, all.LANG, all.HOME], ["1", undefined, undefined, "/home/app"]);
  await assert.rejects(env.set("A=B", "x"), TypeError);
  const second = await Sandbox.connect(sandbox.id);
  assert.equal(await second.env.get("FIRST"), "1");
  await second.close();
});

test("two sandboxes at once do not mix, nor two connections", async () => {
  const other = await Sandbox.create();
  const second = await Sandbox.connect(sandbox.id);
  const texts = await Promise.all([...Array(12)].map(async (_, i) => {
    const one = [sandbox, other, second][i % 3];
    return await one.sh`seq ${i} 20 20000`.text();
  }));
  texts.forEach((text, i) => assert.equal(text.split("\n")[0], String(i)));
  await rejects(other.fs.stat("text"), "ENOENT");
  assert.equal(await second.fs.readTextFile("text"), await sandbox.fs.readTextFile("text"));
  await second.close();
  await other.close();
});

const SERVER = `
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/target")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = ("%s %s" % (self.path, self.headers.get("X-Test"))).encode()
        self.send_response(200, "Fine")
        self.send_header("X-Answer", "b")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Type", str(self.headers.get("Content-Type")))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(body), 100000):
            part = body[at:at + 100000]
            self.wfile.write(b"%x\\r\\n" % len(part) + part + b"\\r\\n")
        self.wfile.write(b"0\\r\\n\\r\\n")
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
print("ready", flush=True)
server.serve_forever()
`;

const get = (port, target, host, agent) => new Promise((done, failed) =>
  http.get({ host: "127.0.0.1", port, path: target, headers: { host }, agent }, (answer) => {
    let text = "";
    answer.on("data", (part) => text += part);
    answer.on("end", () => done([answer.statusCode, text]));
  }).on("error", failed));

test("requests go out from inside, and come in to an exposed port", async () => {
  await sandbox.fs.writeTextFile("server.py", SERVER);
  const server = await sandbox.spawn("python3", { args: ["server.py"], stdout: "piped" });
  await server.stdout.getReader().read();
  const plain = await sandbox.fetch("http://localhost:8000/path", { headers: { "X-Test": "q" } });
  assert.deepEqual([plain.status, plain.statusText, plain.headers.get("x-answer"), await plain.text()],
    [200, "Fine", "b", "/path q"]);
  assert.equal(await (await sandbox.fetch("http://localhost:8000/redirect")).text(), "/target None");
  const manual = await sandbox.fetch("http://localhost:8000/redirect", { redirect: "manual" });
  assert.deepEqual([manual.status, manual.headers.get("location")], [302, "/target"]);
  const large = "x".repeat(1 << 20);
  const post = await sandbox.fetch("http://localhost:8000/", { method: "POST", body: large });
  assert.equal(post.status, 201);
  assert.equal(post.headers.get("content-type"), "text/plain;charset=UTF-8");
  assert.equal(await post.text(), large);
  await assert.rejects(sandbox.fetch("http://localhost:1/"), TypeError);

  const url = new URL(await sandbox.exposeHttp({ port: 8000 }));
  assert.ok(url.hostname.startsWith(sandbox.id));
  // A client that keeps one connection for all names must not hand the guest what is the gateway's.
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  assert.deepEqual(await get(url.port, "/in", url.host, agent), [200, "/in None"]);
  assert.deepEqual(await get(url.port, "/health", "localhost", agent), [200, '{"ok":true}']);
  assert.deepEqual(await get(url.port, "/again", url.host, agent), [200, "/again None"]);
  assert.equal((await get(url.port, "/in", "evil.example", agent))[0], 421);
  await server.kill();
  await server.status;
  assert.equal((await get(url.port, "/in", url.host, agent))[0], 502);
  agent.destroy();
  assert.deepEqual(await sandbox.exposeSsh(), { hostname: `${sandbox.id}.bellglass`, username: "app" });
  await assert.rejects(sandbox.exposeVscode(), /bellglass code/);
});

test("a secret is a placeholder inside, and itself at its host only", async () => {
  const web = new URL(process.env.WEB);
  const closed = await Sandbox.create({
    allowNet: [], secrets: { TOKEN: { hosts: [web.hostname], value: process.env.SECRET } } });
  const placeholder = await closed.env.get("TOKEN");
  assert.match(placeholder, /^BELLGLASS_SECRET_/);
  const answer = await closed.fetch(`${web.href}echo`, { headers: { Authorization: `Bearer ${placeholder}` } });
  assert.equal(answer.status, 200);
  const text = await answer.text();
  assert.ok(text.includes(placeholder) && !text.includes(process.env.SECRET));
  const refused = await closed.fetch("http://example.org/");
  assert.equal(refused.status, 403);
  await closed.close();
});

test("a sandbox ends at its time, or with its connection, or when it is killed", async () => {
  const timed = await Sandbox.create({ timeout: "1m" });
  const until = await timed.extendTimeout("30m");
  assert.ok(Math.abs(until - Date.now() - 30 * 60_000) < 60_000);
  await timed.fs.writeTextFile("kept", "yes");
  await timed.close();
  const again = await Sandbox.connect(timed.id);
  assert.equal(await again.fs.readTextFile("kept"), "yes");
  const running = assert.rejects(again.sh`sleep 1000`.noThrow().result(), { name: "ConnectionClosedError" });
  await again.kill();
  await running;
  await rejects(Sandbox.connect(timed.id), "SANDBOX_NOT_FOUND");
  const short = await Sandbox.create({ timeout: "60m" });
  await short.extendTimeout("1s");
  await short.closed;
  const session = await Sandbox.create();
  await session.close();
  await rejects(Sandbox.connect(session.id), "SANDBOX_NOT_FOUND");
});

test("wrong tokens, configurations and calls are refused as such", async () => {
  await assert.rejects(Sandbox.create({ token: "ddo_wrong" }), { name: "InvalidTokenError" });
  await rejects(Sandbox.create({ allowNet: ["not a host"] }), "BAD_REQUEST");
  await assert.rejects(Sandbox.create({ root: "none" }), { name: "ConnectionEstablishmentError", status: 404 });
  await assert.rejects(new Client().apps.list(), { status: 501 });
  assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
});

test("the shared sandbox ends", () => sandbox.close());
