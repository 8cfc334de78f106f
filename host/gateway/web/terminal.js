// A shell in a sandbox. xterm.js shows it; what the sandbox writes goes to it and nowhere else.
import { el, setText } from "./dom.js";
import { socketOf } from "./socket.js";

// xterm.js styles itself by style elements, which the page's policy does not let in. Sheets that a script
// constructs are let in; so it gets something that looks like the one and is the other.
const create = document.createElement;
document.createElement = function (tag, ...rest) {
  if (String(tag).toLowerCase() !== "style") return create.call(this, tag, ...rest);
  const sheet = new CSSStyleSheet(), holder = create.call(document, "template");
  let text = "";
  Object.defineProperties(holder, {
    sheet: { value: sheet },
    textContent: { get: () => text, set: (value) => { text = value; sheet.replaceSync(value); } },
    remove: { value: () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
      Element.prototype.remove.call(holder);
    } },
  });
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  return holder;
};

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const theme = () => ({
  background: variable("--term-back"), foreground: variable("--term-text"), cursor: variable("--accent"),
  selectionBackground: variable("--term-selection"),
  ...Object.fromEntries(["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"].flatMap((color) => {
    const bright = `bright${color[0].toUpperCase()}${color.slice(1)}`;
    return [[color, variable(`--term-${color}`)], [bright, variable(`--term-bright-${color}`)]];
  })),
});

// As `bellglass shell` does it.
const LOGIN_SHELL = 'for s in "$SHELL" /bin/bash /bin/sh; do [ -x "$s" ] && exec "$s" -l; done';

class Shell {
  #id; #term; #fit; #pid = 0; #input = null; #socket = null; #observer;

  constructor(id) {
    this.#id = id;
    this.status = el("span", { class: "muted", role: "status" });
    this.again = el("button", { type: "button", hidden: true, on: { click: () => this.start() } }, "New shell");
    this.box = el("div", { class: "terminal-box" });
    this.root = el("div", { class: "terminal" }, this.box,
      el("p", { class: "row small" }, this.status, this.again, el("span", { class: "grow" }),
        el("span", { class: "muted" }, "Shift+Escape leaves the terminal")));
    this.#term = new globalThis.Terminal({
      theme: theme(), fontFamily: variable("--mono"), fontSize: 13, scrollback: 5000, cursorBlink: true,
    });
    this.#fit = new globalThis.FitAddon.FitAddon();
    this.#term.loadAddon(this.#fit);
    this.#term.attachCustomKeyEventHandler((event) => {
      if (event.type !== "keydown" || event.key !== "Escape" || !event.shiftKey) return true;
      document.querySelector("[role=tab][aria-selected=true]")?.focus();
      return false;
    });
    this.#term.onData((text) => this.#send(new TextEncoder().encode(text)));
    this.#term.onBinary((text) => this.#send(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    this.#term.onResize(({ rows, cols }) => {
      if (this.#pid) this.#socket.call("processResize", { pid: this.#pid, rows, columns: cols }).catch(() => {});
    });
    this.#observer = new ResizeObserver(() => this.#refit());
  }

  #refit() {
    if (this.box.clientWidth > 0 && this.box.clientHeight > 0) this.#fit.fit();
  }

  #send(data) {
    this.#input?.data(data).catch(() => {});
  }

  shown() {
    if (!this.#term.element) {
      this.#term.open(this.box);
      this.#observer.observe(this.box);
      this.#refit();
      this.start();
    }
    this.#refit();
    this.#term.focus();
  }

  recolor() { this.#term.options.theme = theme(); }

  async start() {
    this.again.hidden = true;
    this.#term.reset();
    setText(this.status, "Connecting …");
    try {
      const socket = this.#socket = socketOf(this.#id);
      await socket.opened;
      const input = this.#input = socket.write();
      const { pid, stdoutStreamId } = await socket.call("spawn", {
        command: "/bin/sh", args: ["-c", LOGIN_SHELL], env: { TERM: "xterm-256color" },
        stdinStreamId: input.streamId, stdout: "piped", stderr: "null",
        ttyRows: this.#term.rows, ttyColumns: this.#term.cols,
      });
      this.#pid = pid;
      setText(this.status, `Process ${pid}`);
      socket.read(stdoutStreamId, (data) => this.#term.write(data));
      const { code } = await socket.call("processWait", { pid });
      this.#over(`The shell has ended with ${code}.`);
    } catch (error) {
      this.#over(error.message);
    }
  }

  #over(text) {
    this.#pid = 0;
    this.#input = null;
    setText(this.status, text);
    this.again.hidden = false;
  }

  dispose() {
    this.#observer.disconnect();
    this.#term.dispose();
  }
}

const shells = new Map();

export const hasTerminal = () => Boolean(globalThis.Terminal && globalThis.FitAddon);

// The shell of that sandbox: it goes on while another part of the page is shown.
export function terminalView(id) {
  if (!hasTerminal())
    return { root: el("p", { class: "hint" }, "This bellglass was built where npm could not be reached, without its " +
      "terminal. Use ", el("code", {}, `bellglass shell ${id}`), "."), shown: () => {} };
  if (!shells.has(id)) shells.set(id, new Shell(id));
  return shells.get(id);
}

export function forgetTerminals(names) {
  for (const [id, shell] of shells)
    if (!names.has(id)) {
      shell.dispose();
      shells.delete(id);
    }
}

export const recolorTerminals = () => shells.forEach((shell) => shell.recolor());
