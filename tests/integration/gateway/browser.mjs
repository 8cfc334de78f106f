// A headless Chromium, by the DevTools protocol over pipes: what the dashboard's test needs of it, and no more.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const DEADLINE_MS = 200000; // of a wait: for a machine that emulates its guests

export class Browser {
  #child; #folder; #next = 1; #calls = new Map(); #listeners = []; #rest = "";

  static async start(program = "chromium") {
    const browser = new Browser();
    browser.#folder = mkdtempSync(join(tmpdir(), "bg-test-chromium-"));
    browser.#child = spawn(program, ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
      "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
      "--hide-scrollbars", "--force-color-profile=srgb", `--user-data-dir=${browser.#folder}`, "--remote-debugging-pipe",
      "--window-size=1280,860", "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    browser.ended = new Promise((done) => browser.#child.once("exit", done));
    browser.ended.then(() => {
      for (const { failed } of browser.#calls.values()) failed(new Error("chromium has ended"));
    });
    browser.#child.stdio[4].setEncoding("utf8").on("data", (text) => browser.#data(text));
    await browser.call("Target.setDiscoverTargets", { discover: false });
    return browser;
  }

  #data(text) {
    const parts = (this.#rest + text).split("\0");
    this.#rest = parts.pop();
    for (const part of parts) {
      const message = JSON.parse(part), call = this.#calls.get(message.id);
      if (!call) {
        this.#listeners.forEach((fn) => fn(message));
        continue;
      }
      this.#calls.delete(message.id);
      if (message.error) call.failed(new Error(message.error.message));
      else call.done(message.result);
    }
  }

  call(method, params = {}, sessionId = undefined) {
    const id = this.#next++;
    this.#child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((done, failed) => this.#calls.set(id, { done, failed }));
  }

  listen(fn) { this.#listeners.push(fn); }

  async page() {
    const { browserContextId } = await this.call("Target.createBrowserContext");
    return this.tab(browserContextId);
  }

  // Another one of the same visitor.
  async tab(browserContextId) {
    const { targetId } = await this.call("Target.createTarget", { url: "about:blank", browserContextId, newWindow: true, width: 1280, height: 860 });
    const { sessionId } = await this.call("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, sessionId, browserContextId);
    await page.begin();
    return page;
  }

  async stop() {
    this.call("Browser.close").catch(() => {});
    await this.ended;
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

class Page {
  #browser; #session; #loaded = () => {};
  problems = []; // what its console and its policies complain of

  constructor(browser, session, context) {
    this.#browser = browser;
    this.#session = session;
    this.context = context;
  }

  call(method, params) { return this.#browser.call(method, params, this.#session); }

  async begin() {
    this.#browser.listen(({ method, params, sessionId }) => {
      if (sessionId !== this.#session) return;
      if (method === "Page.loadEventFired") this.#loaded();
      if (method === "Runtime.exceptionThrown") this.problems.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
      if (method === "Log.entryAdded" && params.entry.level === "error") this.problems.push(`${params.entry.text} ${params.entry.url ?? ""}`);
      if (method === "Audits.issueAdded" && params.issue.details.contentSecurityPolicyIssueDetails)
        this.problems.push(JSON.stringify(params.issue.details.contentSecurityPolicyIssueDetails));
    });
    for (const domain of ["Page", "Runtime", "Log", "Audits"]) await this.call(`${domain}.enable`);
  }

  // Does something that makes the page load another one, or itself anew.
  async loading(work) {
    const loaded = new Promise((done) => { this.#loaded = done; });
    await work();
    await loaded;
  }

  open(url) { return this.loading(() => this.call("Page.navigate", { url })); }

  // The value of an expression in the page, which may be a promise's.
  async eval(expression) {
    const { result, exceptionDetails } = await this.call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  }

  // Waits in the page until an expression is true: looked at again at each of its frames.
  async until(expression) {
    const got = await this.eval(`new Promise((done) => {
      const end = performance.now() + ${DEADLINE_MS};
      const look = () => {
        let value; try { value = (${expression}); } catch { }
        if (value) done(true);
        else if (performance.now() > end) done(false);
        else setTimeout(look, 50);
      };
      look();
    })`);
    if (!got) throw new Error(`this did not come true: ${expression}\n${await this.eval("document.body.innerText")}\n${this.problems.join("\n")}`);
  }

  // What a reader sees as this text, among what fits the selector.
  async click(text, selector = "button") {
    const find = `[...document.querySelectorAll(${JSON.stringify(selector)})].find((e) => e.offsetParent && !e.disabled &&
      (e.getAttribute("aria-label") ?? e.textContent).trim() === ${JSON.stringify(text)})`;
    await this.until(find);
    // In a turn of its own: it may take this page away.
    await this.eval(`setTimeout((e) => e.click(), 0, ${find})`);
  }

  async type(text) { await this.call("Input.insertText", { text }); }

  async press(key, { code = key, modifiers = 0, keyCode = 0, text = undefined } = {}) {
    const params = { key, code, modifiers, windowsVirtualKeyCode: keyCode, text };
    await this.call("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", ...params });
    await this.call("Input.dispatchKeyEvent", { type: "keyUp", ...params });
  }

  async enter() { await this.press("Enter", { keyCode: 13, text: "\r" }); }

  async scheme(value) { await this.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] }); }

  async shoot(file) {
    const { data } = await this.call("Page.captureScreenshot", { format: "png" });
    writeFileSync(file, Buffer.from(data, "base64"));
  }
}
