// Small things that all parts use. What a guest has chosen gets into the page as text, never as markup.

// el("button", { class: "x", on: { click } }, "text", child, ...)
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, fn] of Object.entries(value)) node.addEventListener(event, fn);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

// A button that does something which takes time, and cannot be pressed twice meanwhile.
export function action(label, fn, props = {}) {
  const button = el("button", { type: "button", ...props }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    try {
      await fn(button);
    } catch (error) {
      toast(error.message, "bad");
    }
    button.disabled = false;
    button.removeAttribute("aria-busy");
  });
  return button;
}

const TOASTS_MAX = 4;

export function toast(text, kind = "good") {
  const close = el("button", { type: "button", "aria-label": "Close" }, "×");
  const box = el("div", { class: `toast ${kind}` }, el("span", {}, text), close);
  close.addEventListener("click", () => box.remove());
  byId("toasts").append(box);
  const told = byId("toasts").querySelectorAll(".toast:not(.busy)");
  for (let i = 0; i < told.length - TOASTS_MAX; i++) told[i].remove();
  if (kind === "good") setTimeout(() => box.remove(), 6000);
  return box;
}

// Tells what goes on for as long as work is not done.
export async function during(text, work) {
  const box = toast(text, "busy");
  try {
    return await work;
  } finally {
    box.remove();
  }
}

// Asks; fields: [{ name, label, value?, type?, required?, hint? }]. Their values by name, or null: not to be done.
export function ask(title, { text = "", fields = [], ok = "OK", danger = false } = {}) {
  const dialog = byId("dialog");
  const inputs = fields.map((field) => {
    const id = `ask-${field.name}`;
    const input = el("input", {
      id, name: field.name, type: field.type ?? "text", required: field.required ?? false, autocomplete: "off",
      spellcheck: "false", placeholder: field.hint, min: field.min, max: field.max,
    });
    if (field.type === "checkbox") input.checked = Boolean(field.value);
    else input.value = field.value ?? "";
    return el("p", { class: field.type === "checkbox" ? "check" : "" }, el("label", { for: id }, field.label), input);
  });
  const cancel = el("button", { type: "button" }, "Cancel");
  const form = el("form", {}, el("h2", {}, title), text ? el("p", {}, text) : null, inputs,
    el("p", { class: "row end" }, cancel, el("button", { type: "submit", class: danger ? "danger" : "primary" }, ok)));
  dialog.replaceChildren(form);
  return new Promise((done) => {
    let values = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      values = Object.fromEntries(fields.map((field) => {
        const input = form.elements[field.name];
        return [field.name, field.type === "checkbox" ? input.checked : input.value.trim()];
      }));
      dialog.close();
    });
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => done(values), { once: true });
    dialog.showModal();
    (form.querySelector("input") ?? (danger ? cancel : form.querySelector("[type=submit]"))).focus();
  });
}

export function bytes(n) {
  if (!(n >= 0)) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${Math.floor(s / 60) % 60}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor(s / 3600) % 24}h`;
}

export const clock = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

// Replaces what node shows if it has changed: what is selected stays so.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
