// The snapshots of a sandbox.
import { api, sandbox, snapshot } from "./api.js";
import { action, ask, bytes, clock, during, el, toast } from "./dom.js";

// Asks how, and makes forks of a sandbox or of a snapshot. Their names, or null.
export async function fork(from, onDone) {
  const answer = await ask(`Fork ${from}`, {
    text: "Each goes on from its memory and disk as they are now.".replace("now", from.includes("@") ? "there" : "now"),
    fields: [{ name: "count", label: "How many", type: "number", value: 1, min: 1, max: 16 }], ok: "Fork",
  });
  if (!answer) return;
  const path = from.includes("@") ? snapshot(from, "fork") : sandbox(from, "fork");
  const { names } = await during(`Forking ${from} …`, api("POST", path, { count: Number(answer.count) || 1 }));
  toast(`${names.join(", ")} ${names.length === 1 ? "runs" : "run"}.`);
  await onDone(names[0]);
}

export async function takeSnapshot(name, onDone) {
  const answer = await ask(`Snapshot of ${name}`, {
    text: "Its memory and disk, to go back to or to fork from. A running sandbox pauses for a moment.",
    fields: [{ name: "tag", label: "Tag (empty: a number)", hint: "before-upgrade" }, { name: "note", label: "Note" },
      { name: "disk_only", label: "Its disk alone, without its memory", type: "checkbox" }],
    ok: "Take it",
  });
  if (!answer) return;
  const body = { disk_only: answer.disk_only, ...(answer.tag && { tag: answer.tag }), ...(answer.note && { note: answer.note }) };
  const taken = await during(`Taking a snapshot of ${name} …`, api("POST", sandbox(name, "snapshot"), body));
  toast(`${taken.name} is taken.`);
  await onDone();
}

export class Snapshots {
  #id; #refresh; #open;

  constructor(id, refresh, open) {
    this.#id = id;
    this.#refresh = refresh;
    this.#open = open;
    this.rows = el("tbody");
    this.none = el("p", { class: "hint" }, "There is none. A snapshot is its memory and disk, to go back to or to fork from.");
    this.table = el("table", {}, el("thead", {}, el("tr", {}, ["Snapshot", "Kind", "Taken", "New in it", "Note", ""]
      .map((text) => el("th", { scope: "col" }, text)))), this.rows);
    this.root = el("div", { class: "pane" }, el("div", { class: "row" }, el("h3", {}, "Snapshots"), el("span", { class: "grow" }),
      action("Take a snapshot …", () => takeSnapshot(this.#id, this.#refresh), { class: "primary" })), this.table, this.none);
  }

  update(overview) {
    const mine = overview.snapshots.filter((one) => one.source === this.#id).sort((a, b) => b.created_ms - a.created_ms);
    const shown = JSON.stringify(mine);
    this.none.hidden = mine.length > 0;
    this.table.hidden = mine.length === 0;
    if (shown === this.shownText) return; // so that what has the focus keeps it
    this.shownText = shown;
    this.rows.replaceChildren(...mine.map((one) => el("tr", {},
      el("td", { class: "mono" }, one.name.slice(one.name.indexOf("@") + 1)), el("td", {}, one.kind), el("td", {}, clock(one.created_ms)),
      el("td", { class: "number" }, one.kind === "disk" ? "" : bytes(one.dirty_bytes)), el("td", { class: "wrap" }, one.note),
      el("td", { class: "row end" }, action("Fork …", () => fork(one.name, this.#open), { "aria-label": `Fork ${one.name}` }),
        action("Restore …", () => this.#restore(one), { "aria-label": `Restore ${one.name}` }),
        action("Delete …", () => this.#remove(one), { "aria-label": `Delete ${one.name}` })))));
  }

  async #restore(one) {
    const text = "What the sandbox has done and written since is lost, and if it runs it is killed. It goes on from there.";
    if (!await ask(`Go back to ${one.name}?`, { text, ok: "Restore", danger: true })) return;
    await during(`Going back to ${one.name} …`, api("POST", sandbox(this.#id, "restore"), { snapshot: one.name }));
    toast(`${this.#id} goes on from ${one.name}.`);
    await this.#refresh();
  }

  async #remove(one) {
    if (!await ask(`Delete ${one.name}?`, { text: "Sandboxes that were made from it keep what they need.", ok: "Delete", danger: true })) return;
    await during(`Deleting ${one.name} …`, api("DELETE", snapshot(one.name)));
    await this.#refresh();
  }
}
