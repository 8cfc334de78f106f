// The unmodified SDK's volumes and snapshots against a gateway: what is written stays, is of one sandbox at a time, and
// can be gone on from. Names what failed, and ends with status 1. Environment: the SDK's own, and
// BELLGLASS, the command.
import { Client, Sandbox, Snapshot, Volume } from "@deno/sandbox";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

const client = new Client();
const fails = (promise, status, code) =>
  assert.rejects(promise, (e) => (e.status === status && e.code === code) || assert.fail(`${e.status} ${e.code}: ${e}`));
// One that a failing test leaves would keep this program alive.
const make = async (t, options) => {
  const sandbox = await Sandbox.create(options);
  t.after(() => sandbox.kill().catch(() => {}));
  return sandbox;
};
const bellglass = (...words) => execFileSync(process.env.BELLGLASS, words, { encoding: "utf8", stdio: "pipe" });
const all = async (list) => {
  const slugs = [];
  for await (const one of list) slugs.push(one.slug);
  return slugs;
};

test("what cannot be a volume is refused", async (t) => {
  const good = { slug: "good", region: "ord", capacity: "64MiB" };
  for (const wrong of [{ slug: "x" }, { slug: "Caps" }, { slug: "-a" }, { slug: "a".repeat(33) }, { slug: "xn--a" }, { slug: 7 }, { region: "" },
    { region: "a b" }, { capacity: "1GBB" }, { capacity: "-1GB" }, { capacity: 12 }, { capacity: "9999GiB" }, { capacity: null }, { from: 5 }])
    await fails(client.volumes.create({ ...good, ...wrong }), 400, "BAD_REQUEST");
  await fails(client.volumes.create({ ...good, from: "no-such" }), 404, "VOLUME_NOT_FOUND");
  assert.equal(await client.volumes.get("good"), null);
  assert.equal(await client.volumes.get("vol_00000000000000000000"), null);
  assert.equal(await client.volumes.get("../tokens"), null);
  assert.equal(await client.snapshots.get("good"), null);
  await fails(client.volumes.delete("good"), 404, "VOLUME_NOT_FOUND");
  await fails(client.snapshots.delete("good"), 404, "VOLUME_NOT_FOUND");
  await fails(client.volumes.snapshot("good", { slug: "of-none" }), 404, "VOLUME_NOT_FOUND");
  await fails(Sandbox.create({ volumes: { "/data": "good" } }), 404, "VOLUME_NOT_FOUND");
  await fails(Sandbox.create({ root: "good" }), 404, "VOLUME_NOT_FOUND");
});

test("volumes are listed page by page, found and removed", async (t) => {
  const made = [];
  for (let i = 0; i < 5; i++) made.push(await client.volumes.create({ slug: `page-${i}`, region: "ord", capacity: (64 << 20) + i * 4096 }));
  const [first] = made;
  assert.match(first.id, /^vol_[0-9a-z]{20}$/);
  assert.deepEqual([first.slug, first.region, first.capacity, first.isBootable, first.baseSnapshot], ["page-0", "ord", 64 << 20, false, null]);
  assert.ok(first.estimatedAllocatedSize < 1 << 20);
  const page = await client.volumes.list({ limit: 2, search: "page-" });
  assert.deepEqual([page.items.map((v) => v.slug), page.hasMore], [["page-0", "page-1"], true]);
  await client.volumes.delete("page-1"); // what a cursor names may be gone
  assert.deepEqual(await all(page), ["page-0", "page-1", "page-2", "page-3", "page-4"]);
  assert.deepEqual(await all(await client.volumes.list({ search: "e-3" })), ["page-3"]);
  assert.equal((await client.volumes.get(first.id)).slug, "page-0");
  assert.equal((await Volume.get("page-4")).capacity, (64 << 20) + 4 * 4096);
  await fails(client.volumes.create({ slug: "page-0", region: "ord", capacity: "64MiB" }), 409, "SLUG_IN_USE");
  for (const path of ["?limit=0", "?limit=x", "?cursor=1", "?cursor=1.vol_../../../../etc/passwd", "?search=%zz"]) {
    const answer = await fetch(`${process.env.DENO_DEPLOY_ENDPOINT}/api/v2/volumes${path}`, {
      headers: { Authorization: `Bearer ${process.env.DENO_DEPLOY_TOKEN}` },
    });
    assert.equal(answer.status, 400, path);
    assert.equal((await answer.json()).code, "BAD_REQUEST");
  }
  for (const slug of ["page-0", made[2].id, "page-3", "page-4"]) await client.volumes.delete(slug);
  assert.deepEqual(await all(await client.volumes.list()), []);
});

test("data stay from one sandbox to the next, which has them alone", async (t) => {
  await client.volumes.create({ slug: "data", region: "ord", capacity: "256MiB" });
  const one = await make(t, { volumes: { "/data/in/here": "data" } });
  assert.equal(await one.sh`findmnt -no FSTYPE /data/in/here; ls -A /data/in/here`.text(), "ext4\n");
  await one.fs.writeTextFile("/data/in/here/kept", "yes");
  await one.sh`chown daemon /data/in/here/kept`.sudo();
  await one.sh`ln -s kept /data/in/here/link`;
  await fails(Sandbox.create({ volumes: { "/other": "data" } }), 409, "VOLUME_IN_USE");
  await fails(client.volumes.delete("data"), 409, "VOLUME_IN_USE");
  await fails(client.volumes.snapshot("data", { slug: "too-early" }), 409, "VOLUME_IN_USE");
  // What goes on from a memory would believe in a volume that another one has had since.
  for (const words of [["suspend", one.id], ["snapshot", one.id], ["fork", one.id]])
    assert.throws(() => bellglass(...words), (e) => /it has volumes/.test(e.stderr) || assert.fail(e.stderr));
  assert.equal(await one.fs.readTextFile("/data/in/here/kept"), "yes");
  await one.close(); // nothing was synced; and the next one need not wait by itself until it has ended
  const two = await make(t, { volumes: { "/mnt": "data" } });
  assert.equal(await two.sh`cat /mnt/link; stat -c %U /mnt/kept`.text(), "yesdaemon\n");
  await two.sh`head -c 5000000 /dev/urandom | tee /mnt/random | sha256sum >/mnt/sum`;
  await two.kill();
  assert.ok((await client.volumes.get("data")).estimatedAllocatedSize > 5000000);
});

test("a volume outlives the crash of the machine that has it", async (t) => {
  const one = await make(t, { volumes: { "/mnt": "data" } });
  await one.sh`echo safe >/mnt/synced; sync /mnt/synced; echo lost >/mnt/cached`;
  process.kill(JSON.parse(bellglass("inspect", one.id)).status.qemu_pid, "SIGKILL");
  await one.closed.catch(() => {});
  let two;
  for (const end = Date.now() + 60_000; !two; ) // its launcher has it until all of it is gone
    two = await make(t, { volumes: { "/mnt": "data" } }).catch((e) => assert.ok(e.status === 409 && Date.now() < end, e));
  assert.equal(await two.sh`cat /mnt/synced /mnt/link; sha256sum </mnt/random | cmp - /mnt/sum`.text(), "safe\nyes");
  await two.kill();
  bellglass("rm", "-f", one.id);
});

// The SDK gives up after 10 s, which a guest may take that writes its volumes back.
test("one that does not end by itself is gone for its client, and its volume comes later", async (t) => {
  const one = await make(t, { volumes: { "/mnt": "data" } });
  process.kill(JSON.parse(bellglass("inspect", one.id)).status.qemu_pid, "SIGSTOP");
  await one.kill();
  const two = await make(t, { volumes: { "/mnt": "data" } });
  assert.equal(await two.sh`cat /mnt/synced`.text(), "safe\n");
  await two.kill();
});

test("a snapshot stays as it is while its volume goes on", async (t) => {
  const snapshot = await client.volumes.snapshot("data", { slug: "then" });
  assert.match(snapshot.id, /^snp_[0-9a-z]{20}$/);
  const volume = await client.volumes.get("data");
  assert.deepEqual([snapshot.slug, snapshot.region, snapshot.isBootable, snapshot.volume], ["then", "ord", false, { id: volume.id, slug: "data" }]);
  assert.ok(snapshot.flattenedSize > 5000000);
  await fails(client.volumes.snapshot("data", { slug: "data" }), 409, "SLUG_IN_USE");
  await fails(client.volumes.snapshot("data", { slug: "B" }), 400, "BAD_REQUEST");
  await fails(client.volumes.create({ slug: "smaller", region: "ord", capacity: "64MiB", from: "then" }), 400, "BAD_REQUEST");
  await client.volumes.create({ slug: "branch", region: "ord", capacity: "300MiB", from: "then" });
  assert.deepEqual((await client.volumes.get("branch")).baseSnapshot, { id: snapshot.id, slug: "then" });
  assert.deepEqual(await all(await client.snapshots.list()), ["then"]);
  assert.equal((await Snapshot.get(snapshot.id)).slug, "then");
  await client.snapshots.delete("then"); // whoever stands on it has it still
  assert.equal(await client.snapshots.get("then"), null);
  const both = await make(t, { volumes: { "/a": "data", "/a/b": "branch" } });
  assert.equal(await both.sh`cd /a/b; sha256sum <random | cmp - sum && cat kept`.text(), "yes");
  assert.ok(Number(await both.sh`df --output=size /a/b | tail -1`.text()) > Number(await both.sh`df --output=size /a | tail -1`.text()));
  await both.sh`echo a >/a/side; echo b >/a/b/side; rm -f /a/random`;
  assert.equal(await both.sh`cat /a/side /a/b/side; ls /a/b/random`.text(), "a\nb\n/a/b/random\n");
  await both.kill();
  for (const slug of ["data", "branch"]) await client.volumes.delete(slug);
});

test("a sandbox boots a volume, and others what it was", async (t) => {
  const root = await client.volumes.create({ slug: "root", region: "ord", capacity: "10GB", from: "builtin:debian-13" });
  assert.equal(root.isBootable, true);
  const one = await make(t, { root: "root" });
  await one.fs.writeTextFile("here", "first");
  await one.fs.writeTextFile("tool", "#!/bin/sh\necho installed\n", { mode: 0o755 });
  await one.sh`install tool /usr/local/bin/`.sudo();
  await fails(Sandbox.create({ root: "root" }), 409, "VOLUME_IN_USE");
  await one.kill();
  assert.equal((await client.volumes.snapshot("root", { slug: "base" })).isBootable, true);
  await fails(Sandbox.create({ volumes: { "/r": "root" } }), 400, "BAD_REQUEST");
  await fails(Sandbox.create({ volumes: { "/r": "base" } }), 400, "BAD_REQUEST");
  const made = await Promise.all([make(t, { root: "base" }), make(t, { root: "root" })]);
  for (const sandbox of made) assert.equal(await sandbox.sh`tool; cat here`.text(), "installed\nfirst");
  await made[0].fs.writeTextFile("here", "lost");
  await made[1].fs.writeTextFile("here", "kept");
  await Promise.all(made.map((sandbox) => sandbox.kill()));
  await client.snapshots.delete("base");
  const again = await make(t, { root: "root" });
  assert.equal(await again.sh`cat here; tool`.text(), "keptinstalled\n");
  await again.kill();
  await client.volumes.delete("root");
});

test("what the command makes is everybody's, and the command sees all", async (t) => {
  const id = bellglass("volume", "create", "--size", "32MiB", "common").trim();
  assert.match(id, /^vol_/);
  await client.volumes.create({ slug: "own", region: "ord", capacity: "32MiB" });
  assert.deepEqual(await all(await client.volumes.list()), ["common", "own"]);
  await fails(client.volumes.create({ slug: "common", region: "ord", capacity: "32MiB" }), 409, "SLUG_IN_USE");
  await fails(client.volumes.delete("common"), 403, "FORBIDDEN");
  const one = await make(t, { volumes: { "/common": "common" } });
  const listed = JSON.parse(bellglass("volume", "ls", "--json"));
  assert.deepEqual(listed.map((v) => [v.slug, v.in_use, v.token === null]), [["common", true, true], ["own", false, false]]);
  assert.throws(() => bellglass("volume", "rm", "common"), (e) => /in use/.test(e.stderr));
  await one.fs.writeTextFile("/common/file", "x");
  await one.kill();
  bellglass("volume", "snapshot", "common", "common-then");
  bellglass("volume", "create", "--from", "common-then", "second");
  assert.match(bellglass("volume", "ls"), /second +volume .* common-then/);
  for (const words of [["create", "X"], ["create", "--size", "1", "small"], ["create", "--from", "second", "third"], ["snapshot", "none", "x1"], ["rm", "none"], ["rm"],
    ["move"]])
    assert.throws(() => bellglass("volume", ...words), (e) => e.status === 125 || assert.fail(`${words}: ${e}`));
  bellglass("volume", "rm", "-q", "common", "common-then", "second", "own");
  assert.equal(bellglass("volume", "ls"), "");
});

test("configurations that make no sense are refused", async (t) => {
  await client.volumes.create({ slug: "plain", region: "ord", capacity: "16MiB" });
  await fails(Sandbox.create({ root: "plain" }), 400, "BAD_REQUEST");
  for (const path of ["/", "data", "/a/../..", "/proc/x", "/run/bellglass", "/" + "a".repeat(2000)])
    await fails(Sandbox.create({ volumes: { [path]: "plain" } }), 400, "BAD_REQUEST");
  await fails(Sandbox.create({ volumes: { "/a": "plain", "/a/": "plain" } }), 400, "BAD_REQUEST");
  await fails(Sandbox.create({ volumes: { "/a": "plain", "/b": "plain" } }), 400, "BAD_REQUEST");
  await client.volumes.delete("plain");
});
