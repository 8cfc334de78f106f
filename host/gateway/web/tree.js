// The list of sandboxes at the side: the tree of what was forked from what.
import { bytes, el, setText } from "./dom.js";

const samples = new Map(); // name -> what it had used when, and its share of the CPUs lately
const LATELY = 60;

// Takes what an overview says of CPUs; their share is of the time between two of them.
export function takeSamples(overview) {
  const names = new Set();
  for (const one of overview.sandboxes) {
    names.add(one.name);
    const before = samples.get(one.name);
    if (one.cpu_ms === undefined) {
      samples.delete(one.name);
      continue;
    }
    const passed = before ? overview.now_ms - before.now_ms : 0;
    const share = passed > 0 && one.cpu_ms >= before.cpu_ms
      ? Math.min(100, (one.cpu_ms - before.cpu_ms) / passed / one.cpus * 100) : null;
    const lately = before ? before.lately : [];
    if (share !== null) lately.push(share);
    if (lately.length > LATELY) lately.shift();
    samples.set(one.name, { now_ms: overview.now_ms, cpu_ms: one.cpu_ms, share, lately });
  }
  for (const name of samples.keys()) if (!names.has(name)) samples.delete(name);
}

export const cpuOf = (name) => samples.get(name)?.share ?? null;
export const cpuLately = (name) => samples.get(name)?.lately ?? [];
export const cpuText = (name) => (cpuOf(name) === null ? "" : `${Math.round(cpuOf(name))} %`);

const rows = new Map(); // key -> its nodes: a row stays where it is while its numbers change

function makeRow(node, onOpen) {
  const dot = el("span", { class: "dot", "aria-hidden": "true" }), name = el("span", { class: "name" });
  const state = el("span", { class: "state" }), use = el("span", { class: "use" });
  const list = el("ul");
  const row = node.type === "sandbox"
    ? el("button", { type: "button", class: "node", on: { click: () => onOpen(node.name) } }, dot, name, state, use)
    : el("span", { class: "node passive" }, el("span", { class: "mark", "aria-hidden": "true" }, node.type === "snapshot" ? "◆" : "◇"),
      name, state);
  return { item: el("li", { class: node.type }, row, list), row, dot, name, state, use, list };
}

function fill(list, nodes, path, { byName, selected, onOpen, seen }) {
  const items = nodes.map((node, index) => {
    const id = `${path}/${node.type}:${node.name}${node.type === "instant" || node.type === "removed" ? index : ""}`;
    seen.add(id);
    if (!rows.has(id)) rows.set(id, makeRow(node, onOpen));
    const r = rows.get(id), sandbox = node.type === "sandbox" ? byName.get(node.name) : null;
    const tag = node.name.includes("@") ? node.name.slice(node.name.indexOf("@")) : node.name;
    setText(r.name, node.type === "instant" ? "one moment" : node.type === "snapshot" ? tag : node.name);
    r.name.title = node.name;
    if (sandbox) {
      r.dot.className = `dot ${sandbox.state}`;
      setText(r.state, sandbox.state === "running" ? "" : sandbox.state);
      setText(r.use, sandbox.state === "running" ? [cpuText(node.name), bytes(sandbox.rss_bytes)].filter(Boolean).join(" · ") : "");
      if (node.name === selected) r.row.setAttribute("aria-current", "true");
      else r.row.removeAttribute("aria-current");
    } else {
      setText(r.state, node.type === "removed" ? "removed" : node.note ?? "");
    }
    fill(r.list, node.children, id, { byName, selected, onOpen, seen });
    return r.item;
  });
  items.forEach((item, i) => { if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null); });
  while (list.children.length > items.length) list.lastChild.remove();
  list.hidden = items.length === 0;
}

export function showTree(root, overview, selected, onOpen) {
  if (!root.firstChild) {
    root.append(el("ul", { class: "tree" }));
    root.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const all = [...root.querySelectorAll("button.node")], at = all.indexOf(document.activeElement);
      if (!step || at < 0) return;
      event.preventDefault();
      all[Math.min(all.length - 1, Math.max(0, at + step))].focus();
    });
  }
  const seen = new Set(), byName = new Map(overview.sandboxes.map((one) => [one.name, one]));
  fill(root.firstChild, overview.tree, "", { byName, selected, onOpen, seen });
  for (const id of rows.keys()) if (!seen.has(id)) rows.delete(id);
}
