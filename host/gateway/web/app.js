// The page: login, the list of sandboxes, and the one that is looked at.
import { api, login, logout, key, sandbox, whenLoggedOut } from "./api.js";
import { action, ask, byId, bytes, during, duration, el, setText, toast } from "./dom.js";
import { Details } from "./details.js";
import { Files } from "./files.js";
import { Network } from "./network.js";
import { fork, Snapshots, takeSnapshot } from "./snapshots.js";
import { forgetTerminals, recolorTerminals, terminalView } from "./terminal.js";
import { cpuText, showTree, takeSamples } from "./tree.js";

const POLL_MS = 2000;
const TABS = ["Terminal", "Files", "Network", "Snapshots", "Details"];
let overview = null, view = null, timer = 0;
let asked = 0, taken = 0; // numbers of overviews: an older one may come after a newer one

// ---- one sandbox ----

class View {
  constructor(name) {
    this.name = name;
    this.parts = {
      Terminal: null, Files: new Files(name), Network: new Network(name),
      Snapshots: new Snapshots(name, refresh, open), Details: new Details(),
    };
    this.dot = el("span", { class: "dot", "aria-hidden": "true" });
    this.state = el("span", { class: "muted" });
    const busy = (text, verb, done) => async () => {
      await during(`${text} ${name} …`, api("POST", sandbox(name, verb), {}));
      toast(`${name} ${done}.`);
      await refresh();
    };
    this.buttons = {
      start: action("Start", busy("Starting", "start", "runs")),
      resume: action("Resume", busy("Resuming", "resume", "goes on")),
      suspend: action("Suspend", busy("Suspending", "suspend", "is suspended")),
      stop: action("Stop", busy("Stopping", "stop", "is stopped")),
      snapshot: action("Snapshot …", () => takeSnapshot(name, refresh)),
      fork: action("Fork …", () => fork(name, open)),
      remove: action("Remove …", async () => {
        const text = "It is stopped, and its disk is deleted. Its snapshots stay.";
        if (!await ask(`Remove ${name}?`, { text, ok: "Remove", danger: true })) return;
        await during(`Removing ${name} …`, api("DELETE", sandbox(name)));
        await refresh();
      }),
    };
    this.tabs = TABS.map((label) => el("button", {
      type: "button", role: "tab", id: `tab-${label}`, "aria-controls": "panel", on: { click: () => this.show(label) },
    }, label));
    const tablist = el("div", { role: "tablist", class: "tabs", "aria-label": `Parts of ${name}` }, this.tabs);
    tablist.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], at = this.tabs.indexOf(document.activeElement);
      if (!step || at < 0) return;
      const next = this.tabs[(at + step + this.tabs.length) % this.tabs.length];
      this.show(next.textContent, false);
      next.focus();
    });
    this.panel = el("div", { role: "tabpanel", id: "panel", class: "panel" });
    this.root = el("section", { class: "sandbox", "aria-label": name },
      el("div", { class: "row head" }, this.dot, el("h1", { class: "mono" }, name), this.state, el("span", { class: "grow" }),
        Object.values(this.buttons)),
      tablist, this.panel);
  }

  part(label) {
    if (label === "Terminal") this.parts.Terminal ??= terminalView(this.name);
    return this.parts[label];
  }

  show(label, focus = true) {
    this.parts[this.label]?.hidden?.();
    this.label = label;
    for (const tab of this.tabs) {
      const on = tab.textContent === label;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `tab-${label}`);
    this.fill(focus);
    remember();
  }

  // What a part shows needs a sandbox that runs, for some.
  fill(focus) {
    const needsRunning = this.label === "Terminal" || this.label === "Files";
    this.runs = this.one?.state === "running";
    if (needsRunning && !this.runs) {
      this.panel.replaceChildren(el("p", { class: "hint" }, "It does not run: start it to use this."));
      return;
    }
    const part = this.part(this.label);
    this.panel.replaceChildren(part.root);
    if (focus || this.label !== "Terminal") part.shown?.();
    if (this.one) part.update?.(overview, this.one);
  }

  update(one) {
    const changed = this.one && this.runs !== (one.state === "running");
    this.one = one;
    this.dot.className = `dot ${one.state}`;
    setText(this.state, [one.state, one.state === "running" ? cpuText(one.name) : "", one.rss_bytes ? bytes(one.rss_bytes) : "",
      duration(overview.now_ms - one.created_ms)].filter(Boolean).join(" · "));
    const runs = one.state === "running", rests = ["stopped", "crashed"].includes(one.state);
    this.buttons.start.hidden = !rests;
    this.buttons.resume.hidden = one.state !== "suspended";
    this.buttons.suspend.hidden = this.buttons.stop.hidden = !runs;
    if (changed && (this.label === "Terminal" || this.label === "Files")) this.fill(false);
    this.parts[this.label]?.update?.(overview, one);
  }

  close() { this.parts[this.label]?.hidden?.(); }
}

function remember() {
  const hash = view ? `#${encodeURIComponent(view.name)}/${view.label}` : "#";
  if (location.hash !== hash) history.replaceState(null, "", hash);
}

function show(name, label = "Terminal") {
  const one = overview.sandboxes.find((candidate) => candidate.name === name);
  view?.close();
  view = one ? new View(name) : null;
  if (!view) {
    byId("main").replaceChildren(el("p", { class: "hint centre" }, overview.sandboxes.length
      ? "Choose a sandbox." : "There is no sandbox. Make one with bellglass create, or by a program that uses the SDK."));
    document.title = "bellglass";
    return remember();
  }
  document.title = `${name} · bellglass`;
  view.one = one;
  byId("main").replaceChildren(view.root);
  view.update(one);
  view.show(TABS.includes(label) ? label : "Terminal");
  showTree(byId("tree"), overview, name, open);
}

async function open(name) {
  await refresh();
  if (view?.name !== name) show(name, view?.label);
}

// ---- all of them ----

function take(next) {
  overview = next;
  takeSamples(next);
  const running = next.sandboxes.filter((one) => one.state === "running");
  setText(byId("totals"), `${next.sandboxes.length} ${next.sandboxes.length === 1 ? "sandbox" : "sandboxes"}, ${running.length} running, ` +
    `${bytes(running.reduce((sum, one) => sum + (one.rss_bytes ?? 0), 0))} of memory`);
  byId("tree-empty").hidden = next.sandboxes.length > 0;
  forgetTerminals(new Set(next.sandboxes.map((one) => one.name)));
  showTree(byId("tree"), next, view?.name, open);
  const one = view && next.sandboxes.find((candidate) => candidate.name === view.name);
  if (view && !one) show(next.sandboxes[0]?.name);
  else if (one) view.update(one);
}

async function refresh() {
  const number = ++asked, next = await api("GET", "overview");
  if (number < taken) return;
  taken = number;
  take(next);
}

async function poll() {
  clearTimeout(timer);
  try {
    if (!document.hidden) await refresh();
    document.body.classList.remove("lost");
  } catch (error) {
    if (error.status === 401) return;
    document.body.classList.add("lost");
    setText(byId("totals"), error.message);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, POLL_MS);
}

// ---- login ----

function showLogin() {
  clearTimeout(timer);
  view?.close();
  view = null;
  byId("app").hidden = true;
  byId("login").hidden = false;
  byId("main").replaceChildren();
  byId("login-token").focus();
}

async function enter(session) {
  setText(byId("who"), session.all ? `${session.token}: all sandboxes` : session.token);
  byId("login").hidden = true;
  byId("app").hidden = false;
  await refresh();
  const [name, label] = location.hash.slice(1).split("/").map(decodeURIComponent);
  show(name || overview.sandboxes[0]?.name, label);
  timer = setTimeout(poll, POLL_MS);
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = byId("login-token"), button = event.target.querySelector("button");
  setText(byId("login-error"), "");
  button.disabled = true;
  try {
    const session = await login(input.value.trim());
    input.value = "";
    await enter(session);
  } catch (error) {
    setText(byId("login-error"), error.message);
  }
  button.disabled = false;
});

byId("logout").addEventListener("click", async () => {
  await logout();
  location.reload(); // nothing of what was shown stays
});

// ---- light and dark ----

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText(byId("theme"), { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[theme]);
  localStorage.setItem("bellglass-theme", theme);
  recolorTerminals();
}

byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolorTerminals);

setTheme(THEMES.includes(localStorage.getItem("bellglass-theme")) ? localStorage.getItem("bellglass-theme") : "auto");
whenLoggedOut(showLogin);
if (key()) api("GET", "session").then(enter).catch(showLogin);
else showLogin();
