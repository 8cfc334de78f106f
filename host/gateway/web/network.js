// What a sandbox asks for of the network, as it is decided, and the rules that decide.
import { api, sandbox } from "./api.js";
import { action, ask, el, setText, toast } from "./dom.js";

const POLL_MS = 1000;
const LINES_MAX = 500;

export class Network {
  #id; #after = ""; #timer = 0; #lines = []; #running = false;

  constructor(id) {
    this.#id = id;
    this.filter = el("select", { "aria-label": "Which decisions", on: { change: () => this.#showAll() } },
      el("option", { value: "" }, "All decisions"), el("option", { value: "deny" }, "Denied"), el("option", { value: "allow" }, "Allowed"),
      el("option", { value: "error" }, "Failed"));
    this.rows = el("tbody");
    this.none = el("p", { class: "hint" }, "It has asked for nothing yet.");
    this.allowed = el("ul", { class: "chips" });
    this.text = el("textarea", { class: "mono", rows: 10, spellcheck: "false", "aria-label": "Policy",
      placeholder: "network:\n  default: deny\n  rules:\n    - allow: example.com" });
    this.secrets = el("p", { class: "hint" });
    this.root = el("div", { class: "pane" },
      el("div", { class: "row" }, el("h3", {}, "Decisions"), this.filter, el("span", { class: "grow" }),
        action("Allow a host …", () => this.#decide("allow")), action("Deny a host …", () => this.#decide("deny"))),
      el("div", { class: "scroll" }, el("table", { class: "audit" },
        el("thead", {}, el("tr", {}, ["Time", "Decision", "Request", "Rule, or why", ""].map((text) => el("th", { scope: "col" }, text)))),
        this.rows), this.none),
      el("details", { open: true }, el("summary", {}, "Rules"),
        el("p", { class: "hint" }, "Allowed by name, tried first:"), this.allowed,
        el("p", { class: "hint" }, "Policy, tried after them (docs/policy.md):"), this.text, this.secrets,
        el("div", { class: "row end" }, action("Discard changes", () => this.#loadPolicy()),
          action("Apply policy", () => this.#apply(), { class: "primary" }))));
  }

  shown() {
    this.#running = true;
    this.#loadPolicy().catch((error) => toast(error.message, "bad"));
    this.#poll();
  }

  hidden() {
    this.#running = false;
    clearTimeout(this.#timer);
  }

  async #poll() {
    clearTimeout(this.#timer);
    try {
      const answer = await api("GET", `${sandbox(this.#id, "audit")}?after=${encodeURIComponent(this.#after)}`);
      this.#after = answer.next;
      this.#take(answer.lines);
      if (answer.more && this.#running) return void this.#poll();
    } catch (error) {
      if (error.status === 404 || error.status === 401) return;
    }
    clearTimeout(this.#timer);
    if (this.#running) this.#timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  #take(lines) {
    if (lines.length === 0) return;
    this.none.hidden = true;
    this.#lines.unshift(...lines.reverse());
    this.#lines.length = Math.min(this.#lines.length, LINES_MAX);
    const fresh = lines.filter((line) => this.#wanted(line)).slice(0, LINES_MAX);
    this.rows.prepend(...fresh.map((line) => this.#row(line)));
    while (this.rows.children.length > LINES_MAX) this.rows.lastChild.remove();
  }

  #wanted(line) { return !this.filter.value || line.decision === this.filter.value; }
  #showAll() { this.rows.replaceChildren(...this.#lines.filter((line) => this.#wanted(line)).map((line) => this.#row(line))); }

  #row(line) {
    const port = line.port && ![80, 443].includes(line.port) ? `:${line.port}` : "", host = `${line.host ?? ""}${port}`;
    const what = [line.method ?? line.scheme ?? "", `${host}${line.path ?? ""}`, line.status ? `→ ${line.status}` : ""].filter(Boolean).join(" ");
    const secrets = line.secrets?.length ? ` · secret ${line.secrets.join(", ")}` : "";
    const rule = line.rule ? `${line.rule}${line.reason === "allowed" ? "" : ` · ${line.reason}`}` : line.reason ?? "";
    return el("tr", { class: `decision-${line.decision}` },
      el("td", { class: "nowrap", title: line.ts }, new Date(line.ts).toLocaleTimeString()),
      el("td", {}, el("span", { class: `badge ${line.decision}` }, String(line.decision))),
      el("td", { class: "mono wrap" }, what), el("td", { class: "wrap", title: line.detail ?? "" }, `${rule}${secrets}`),
      el("td", { class: "row end" }, !line.host ? null : line.decision === "deny"
        ? action("Allow", () => this.#rule("allow", line.host, line.port), { "aria-label": `Allow ${host}` })
        : action("Deny", () => this.#rule("deny", line.host, line.port), { "aria-label": `Deny ${host}` })));
  }

  async #rule(decision, host, port) {
    this.#show(await api("POST", sandbox(this.#id, "rules"), { decision, host, ...(port ? { port } : {}) }));
    toast(`${host} is ${decision === "allow" ? "allowed" : "denied"} from now on.`);
  }

  async #decide(decision) {
    const answer = await ask(decision === "allow" ? "Allow a host" : "Deny a host", {
      fields: [{ name: "host", label: "Host", hint: "api.example.com", required: true },
        { name: "port", label: "Port (empty: 80 and 443)", type: "number", min: 1, max: 65535 }],
      ok: decision === "allow" ? "Allow" : "Deny",
    });
    if (answer) await this.#rule(decision, answer.host, Number(answer.port) || 0);
  }

  async #loadPolicy() {
    this.#show(await api("GET", sandbox(this.#id, "policy")));
  }

  async #apply() {
    this.#show(await api("PUT", sandbox(this.#id, "policy"), { policy: this.text.value.trim() ? this.text.value : null }));
    toast("The policy is in force.");
  }

  #show({ allow, policy, secrets }) {
    this.allowed.replaceChildren(...(allow.length ? allow : ["none"]).map((rule) => el("li", { class: "mono" }, rule)));
    this.text.value = policy ?? "";
    setText(this.secrets, secrets.length ? `Secrets: ${secrets.map((one) => `${one.name} for ${one.hosts.join(", ")}`).join("; ")}` : "");
  }
}
