// The dashboard as a person uses it: dashboard.mjs URL TOKEN SANDBOX SCREENSHOTS. URL is http://localhost:PORT.
import assert from "node:assert/strict";
import http from "node:http";
import { after, before, test } from "node:test";
import { Browser } from "./browser.mjs";

const [url, token, name, shots] = process.argv.slice(2);
const port = new URL(url).port;
let browser, page, number = 0;

const shoot = async (label) => {
  for (const scheme of ["light", "dark"]) {
    await page.scheme(scheme);
    await page.shoot(`${shots}/${String(++number).padStart(2, "0")}-${label}-${scheme}.png`);
  }
};
const tab = (label) => page.click(label, "[role=tab]");
// Words that go away by themselves, as they may have before somebody looks.
const told = (words) => `globalThis.told.some((text) => text.includes(${JSON.stringify(words)}))`;
const listen = `globalThis.told = []; new MutationObserver((changes) => changes.forEach((change) =>
  change.addedNodes.forEach((node) => globalThis.told.push(node.textContent)))).observe(document.querySelector("#toasts"), { childList: true })`;
const text = (selector) => `document.querySelector(${JSON.stringify(selector)}).textContent`;

before(async () => {
  browser = await Browser.start();
  page = await browser.page();
});
after(() => browser.stop());

test("a login with a token", async () => {
  await page.open(`${url}/`);
  await page.until("!document.querySelector('#login').hidden && document.activeElement.id === 'login-token'");
  await page.eval(`{ ${listen} }`);
  await page.type("ddo_wrong");
  await page.enter();
  await page.until(`${text("#login-error")}.includes("no such token")`);
  await shoot("login");
  page.problems.length = 0; // the refused login's, which the console tells of
  await page.eval("document.querySelector('#login-token').select()");
  await page.type(token);
  await page.enter();
  await page.until(`!document.querySelector('#app').hidden && ${text(".node .name")} === ${JSON.stringify(name)}`);
  assert.equal(await page.eval("document.cookie"), "");
});

test("a terminal", async () => {
  const left_out = !await page.eval("Boolean(globalThis.Terminal)");
  if (left_out) return page.until(`${text(".panel")}.includes("npm could not be reached")`);
  const rows = text(".xterm-rows");
  await page.until(`${text(".terminal .small")}.includes("Process") && ${rows}.includes("$")`);
  await page.type("echo seven times $((3*2)) is $((6*7)); stty size");
  await page.enter();
  await page.until(`${rows}.includes("seven times 6 is 42")`);
  // Its size is the one that is shown.
  const count = await page.eval("document.querySelectorAll('.xterm-rows > div').length");
  await page.until(`new RegExp("${count} [0-9]+").test(${rows})`);
  await shoot("terminal");
  // It goes on while another part is shown.
  await tab("Details");
  await page.until(`${text(".facts")}.includes("the command line")`);
  await tab("Terminal");
  await page.until(`${rows}.includes("seven times 6 is 42")`);
  // Shift+Escape leaves it for the keyboard's user.
  await page.press("Escape", { keyCode: 27, modifiers: 8 });
  await page.until("document.activeElement.getAttribute('role') === 'tab'");
});

test("files with names that are markup", async () => {
  await tab("Files");
  await page.click("New folder …");
  await page.until("document.querySelector('dialog[open] input')");
  await page.type("<img src=x onerror=alert(1)>");
  await page.enter();
  await page.until(`${text(".files tbody")}.includes("<img src=x")`);
  assert.equal(await page.eval("document.querySelectorAll('.files img').length"), 0);
  await page.eval(`(() => {
    const data = new DataTransfer();
    data.items.add(new File(["hello\\nfrom the page\\n"], "note.txt"));
    data.items.add(new File([new Uint8Array(300000).fill(200)], "large.bin"));
    document.querySelector(".pane").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  })()`);
  await page.until(`${text(".files tbody")}.includes("note.txt") && ${text(".files tbody")}.includes("293 KiB")`);
  await shoot("files");
  await page.click("note.txt", "button.link");
  await page.until("document.querySelector('.viewer textarea')?.value === 'hello\\nfrom the page\\n'");
  await page.eval("document.querySelector('.viewer textarea').value += 'and changed\\n'");
  await page.click("Save");
  await page.until(told("note.txt is written"));
  await page.click("Back");
});

test("a denied request appears, and is allowed by a button", async () => {
  await tab("Network");
  await page.eval(`import("/web/socket.js").then(({ socketOf }) => socketOf(${JSON.stringify(name)}).call("spawn",
    { command: "curl", args: ["-s", "http://denied.test/some/path"], stdout: "null", stderr: "null" }))`);
  await page.until(`${text(".audit tbody")}.includes("denied.test/some/path")`);
  assert.match(await page.eval(text(".audit tbody tr")), /deny.*GET denied\.test\/some\/path.*host-not-allowed/);
  await shoot("denied");
  await page.click("Allow denied.test");
  await page.until(`${text(".chips")}.includes("denied.test")`);
  await page.click("Deny a host …");
  await page.until("document.querySelector('dialog[open] input')");
  await page.type("denied.test");
  await page.enter();
  await page.until(`!${text(".chips")}.includes("denied.test")`);
  await page.eval("document.querySelector('.pane textarea').value = 'network: [oops'");
  await page.click("Apply policy");
  await page.until("document.querySelector('.toast.bad')");
  page.problems.length = 0; // the refused policy's
  await page.click("Close");
});

test("a snapshot, a fork and the way back", async () => {
  await tab("Snapshots");
  await page.click("Take a snapshot …");
  await page.until("document.querySelector('dialog[open] input')");
  await page.type("before");
  await page.enter();
  await page.until(`document.querySelector(".panel tbody tr")?.textContent.startsWith("before")`);
  await page.click(`Fork ${name}@before`);
  await page.click("Fork", "dialog button");
  await page.until(`document.querySelectorAll("button.node").length === 2 && ${text(".head h1")} !== ${JSON.stringify(name)}`);
  await page.until(`${text(".head .muted")}.startsWith("running")`);
  await shoot("forked");
  const fork = await page.eval(text(".head h1"));
  await page.click("Remove …");
  await page.click("Remove", "dialog button");
  await page.until(`document.querySelectorAll("button.node").length === 1 && ${text(".head h1")} === ${JSON.stringify(name)}`);
  assert.notEqual(fork, name);
  await tab("Files");
  await page.until(`${text(".files tbody")}.includes("note.txt")`);
  await page.click("Delete note.txt");
  await page.click("Delete", "dialog button");
  await page.until(`!${text(".files tbody")}.includes("note.txt")`);
  await tab("Snapshots");
  await page.click(`Restore ${name}@before`);
  await page.click("Restore", "dialog button");
  await page.until(told("goes on from"));
  await tab("Files");
  await page.click("Refresh");
  await page.until(`${text(".files tbody")}.includes("note.txt")`);
});

// One answer to the page's regular question is held back.
const HOLD = `{
  const ask = fetch;
  globalThis.fetch = async (...args) => {
    const answer = await ask(...args), read = answer.json.bind(answer);
    if (globalThis.release || !args[0].endsWith("overview")) return answer;
    await new Promise((done) => globalThis.release = done);
    answer.json = () => read().finally(() => setTimeout(() => globalThis.taken = true, 0));
    return answer;
  };
}`;

test("it is suspended and goes on", async () => {
  await page.eval(HOLD);
  await page.until("globalThis.release");
  await page.click("Suspend");
  await page.until(`${text(".head .muted")}.startsWith("suspended") && ${text(".panel")}.includes("does not run")`);
  // What is older than what is shown changes nothing, when it comes at last.
  await page.eval("release()");
  await page.until("globalThis.taken");
  assert.match(await page.eval(text(".head .muted")), /^suspended/);
  await shoot("suspended");
  await page.click("Resume");
  await page.until(`${text(".head .muted")}.startsWith("running")`);
});

test("nothing broke the page's own rules", () => assert.deepEqual(page.problems, []));

// A page of a sandbox, at ID.localhost or at a port that is forwarded here, is of the same site as the dashboard.
test("another page of the same site can do nothing with the cookie", async () => {
  const cookies = {};
  const server = http.createServer((request, answer) => {
    cookies[request.headers.host.split(":")[0]] = request.headers.cookie ?? "";
    answer.setHeader("Content-Type", "text/html");
    answer.end("<!doctype html>other");
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  server.unref(); // if this fails it shall not go on for ever
  const other = await browser.tab(page.context);
  for (const host of ["sbx.localhost", "localhost"]) {
    await other.open(`http://${host}:${server.address().port}/`);
    const got = await other.eval(`(async () => {
      const api = ${JSON.stringify(url)} + "/api/bellglass/", include = { credentials: "include" };
      const read = await fetch(api + "overview", include).then((r) => r.status, () => "refused");
      await fetch(api + "sandboxes/${name}/stop", { ...include, method: "POST", mode: "no-cors", body: "{}" }).catch(() => {});
      await fetch(api + "session", { ...include, method: "DELETE" }).catch(() => {});
      const socket = await new Promise((done) => {
        const ws = new WebSocket(api.replace("http", "ws") + "sandboxes/${name}/connect", ["bellglass.v1"]);
        ws.onopen = () => done("open"); ws.onerror = () => done("refused");
      });
      return { read, socket, stored: localStorage.length, cookie: document.cookie };
    })()`);
    assert.deepEqual(got, { read: "refused", socket: "refused", stored: 0, cookie: "" }, host);
  }
  server.close();
  server.closeAllConnections();
  assert.equal(cookies["sbx.localhost"], ""); // it never leaves this host's name
  assert.match(cookies.localhost, new RegExp(`^bellglass_${port}=`)); // but its ports have it, so it opens nothing alone
  const session = await fetch(`${url}/api/bellglass/session`, { headers: { Cookie: cookies.localhost } });
  assert.equal(session.status, 401);
  await page.until(`${text(".head .muted")}.startsWith("running")`);
});

test("after the logout nothing opens any more", async () => {
  await page.loading(() => page.click("Log out"));
  await page.until("!document.querySelector('#login').hidden");
  assert.equal(await page.eval("localStorage.getItem('bellglass-key')"), null);
  assert.equal(await page.eval("fetch('/api/bellglass/overview').then((r) => r.status)"), 401);
});
