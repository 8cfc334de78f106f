// What is known of a sandbox.
import { bytes, clock, duration, el, setText } from "./dom.js";
import { cpuLately, cpuText } from "./tree.js";

const SVG = "http://www.w3.org/2000/svg";

export class Details {
  #values = new Map();

  constructor() {
    this.list = el("dl", { class: "facts" });
    this.graph = document.createElementNS(SVG, "svg");
    this.graph.setAttribute("viewBox", "0 0 59 20");
    this.graph.setAttribute("preserveAspectRatio", "none");
    this.graph.setAttribute("class", "graph");
    this.graph.setAttribute("role", "img");
    this.graph.setAttribute("aria-label", "CPU in the last two minutes");
    this.line = document.createElementNS(SVG, "polyline");
    this.graph.append(this.line);
    this.root = el("div", { class: "pane" }, el("h3", {}, "CPU"), this.graph, el("h3", {}, "About it"), this.list);
  }

  #set(label, text) {
    if (!this.#values.has(label)) {
      const value = el("dd");
      this.list.append(el("dt", {}, label), value);
      this.#values.set(label, value);
    }
    setText(this.#values.get(label), text || "–");
  }

  update(overview, one) {
    const points = cpuLately(one.name);
    this.line.setAttribute("points", points.map((share, i) => `${59 - (points.length - 1 - i)},${19.5 - share / 100 * 19}`).join(" "));
    const ends = one.ends_ms && `${clock(one.ends_ms)} (in ${duration(one.ends_ms - overview.now_ms)})`;
    this.#set("State", one.reason ? `${one.state}: ${one.reason}` : one.state);
    this.#set("CPU", one.state === "running" ? `${cpuText(one.name) || "…"} of ${one.cpus}` : `${one.cpus}`);
    this.#set("Memory", one.rss_bytes ? `${bytes(one.rss_bytes)} of ${bytes(one.memory_bytes)}` : bytes(one.memory_bytes));
    this.#set("Image", one.image);
    this.#set("Made", `${clock(one.created_ms)} (${duration(overview.now_ms - one.created_ms)} ago)`);
    this.#set("Runs for", one.uptime_ms === undefined ? "" : duration(one.uptime_ms));
    this.#set("Ends", one.token && !one.stop_at_ms ? `with the connection that made it${ends ? `, at the latest ${ends}` : ""}`
      : ends || "when it is told to");
    this.#set("Suspended after", one.idle_suspend_s ? `${duration(one.idle_suspend_s * 1000)} without work` : "");
    this.#set("Made by", one.token ? `the token ${one.token}` : "the command line");
    this.#set("Labels", Object.entries(one.labels ?? {}).map(([k, v]) => `${k}=${v}`).join(", "));
    this.#set("Exposed port", one.port ? `${one.port}` : "");
    this.#set("Emulation", { kvm: "none: KVM", tcg: "QEMU's TCG, slow" }[one.accel] ?? one.accel ?? "");
  }
}
