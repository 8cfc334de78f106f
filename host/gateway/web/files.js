// The files of a sandbox: lists, shows, writes, brings and fetches them.
import { action, ask, bytes, clock, during, el, setText, toast } from "./dom.js";
import { fromBase64, socketOf } from "./socket.js";

const SHOWN_MAX = 512 * 1024; // of a file that is shown as text
const PART = 512 * 1024; // of a download, a call
const join = (folder, name) => (folder === "/" ? `/${name}` : `${folder}/${name}`);
const up = (folder) => folder.slice(0, folder.lastIndexOf("/")) || "/";

export class Files {
  #id; #folder = "/home/app"; #shown = false;

  constructor(id) {
    this.#id = id;
    this.path = el("input", { class: "grow mono", "aria-label": "Folder", spellcheck: "false", autocomplete: "off" });
    this.rows = el("tbody");
    this.empty = el("p", { class: "hint", hidden: true }, "Nothing is in this folder.");
    this.picker = el("input", { type: "file", multiple: true, hidden: true, on: { change: () => this.#upload([...this.picker.files]) } });
    const go = el("form", { class: "row", on: { submit: (event) => { event.preventDefault(); this.#open(this.path.value || "/"); } } },
      action("Up", () => this.#open(up(this.#folder))), this.path, el("button", { type: "submit" }, "Go"));
    const tools = el("div", { class: "row" },
      action("Upload …", async () => this.picker.click()), action("New folder …", () => this.#makeFolder()),
      action("Refresh", () => this.#open(this.#folder)), el("span", { class: "grow" }),
      el("span", { class: "muted small" }, "or drop files here"));
    this.list = el("div", {}, el("table", { class: "files" },
      el("thead", {}, el("tr", {}, ["Name", "Size", "Mode", "Changed", ""].map((text) => el("th", { scope: "col" }, text)))), this.rows), this.empty);
    this.file = el("div", { class: "viewer", hidden: true });
    this.root = el("div", { class: "pane" }, go, tools, this.picker, this.list, this.file);
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#upload([...event.dataTransfer.files]);
    });
  }

  shown() {
    if (!this.#shown) this.#open(this.#folder);
    this.#shown = true;
  }

  async #call(method, params) {
    return socketOf(this.#id).call(method, params);
  }

  async #open(folder) {
    try {
      const path = await this.#call("realPath", { path: folder });
      const names = await this.#call("readDir", { path });
      names.sort((a, b) => (b.isDirectory - a.isDirectory) || (a.name < b.name ? -1 : 1));
      const entries = await Promise.all(names.slice(0, 2000).map(async (entry) => ({
        ...entry, stat: await this.#call("lstat", { path: join(path, entry.name) }).catch(() => null),
      })));
      this.#folder = path;
      this.path.value = path;
      this.#close();
      this.empty.hidden = names.length > 0;
      this.rows.replaceChildren(...entries.map((entry) => this.#row(entry)),
        ...(names.length > entries.length ? [el("tr", {}, el("td", { colspan: 5 }, `and ${names.length - entries.length} more`))] : []));
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  #row(entry) {
    const path = join(this.#folder, entry.name), stat = entry.stat;
    const open = () => (entry.isDirectory ? this.#open(path) : entry.isSymlink ? this.#follow(path) : this.#show(path, stat));
    const mode = stat ? (stat.mode & 0o7777).toString(8).padStart(4, "0") : "";
    return el("tr", {},
      el("td", {}, el("button", { type: "button", class: "link", on: { click: open } },
        `${entry.isDirectory ? "▸ " : ""}${entry.name}${entry.isDirectory ? "/" : entry.isSymlink ? " →" : ""}`)),
      el("td", { class: "number" }, stat && !entry.isDirectory ? bytes(stat.size) : ""), el("td", { class: "mono" }, mode),
      el("td", {}, stat ? clock(Date.parse(stat.mtime)) : ""),
      el("td", { class: "row end" },
        entry.isFile ? action("Download", () => this.#download(path, entry.name), { "aria-label": `Download ${entry.name}` }) : null,
        action("Rename …", () => this.#rename(entry.name), { "aria-label": `Rename ${entry.name}` }),
        action("Delete …", () => this.#remove(entry), { "aria-label": `Delete ${entry.name}` })));
  }

  async #follow(path) {
    try {
      const stat = await this.#call("stat", { path });
      await (stat.isDirectory ? this.#open(path) : this.#show(path, stat));
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  #close() {
    this.file.hidden = true;
    this.list.hidden = false;
  }

  async #show(path, stat) {
    const name = path.slice(path.lastIndexOf("/") + 1), back = el("button", { type: "button", on: { click: () => this.#close() } }, "Back");
    const head = el("div", { class: "row" }, back, el("strong", { class: "mono" }, path),
      el("span", { class: "muted" }, stat ? bytes(stat.size) : ""), el("span", { class: "grow" }));
    try {
      if (!stat?.isFile || stat.size > SHOWN_MAX) throw new Error("This is too large to be shown, or no file with bytes in it.");
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await this.#fetch(path));
      if (text.includes("\0")) throw new Error("This is no text.");
      const area = el("textarea", { class: "mono", spellcheck: "false", "aria-label": path });
      area.value = text;
      head.append(action("Save", async () => {
        await this.#call("writeTextFile", { path, content: area.value });
        toast(`${name} is written.`);
      }, { class: "primary" }));
      this.file.replaceChildren(head, area);
    } catch (error) {
      const why = error instanceof TypeError ? "This is no text." : error.message;
      this.file.replaceChildren(head, el("p", { class: "hint" }, why));
    }
    head.append(action("Download", () => this.#download(path, name)));
    this.list.hidden = true;
    this.file.hidden = false;
    back.focus();
  }

  // All bytes of a file.
  async #fetch(path, told = () => {}) {
    const { fileHandleId } = await this.#call("open", { path, options: { read: true } });
    const parts = [];
    let size = 0;
    try {
      for (;;) {
        const { data } = await this.#call("fileRead", { fileHandleId, length: PART });
        if (data === null) break;
        parts.push(fromBase64(data));
        size += parts.at(-1).length;
        told(size);
      }
    } finally {
      await this.#call("fileClose", { fileHandleId }).catch(() => {});
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  async #download(path, name) {
    const box = toast(`Fetching ${name} …`, "busy");
    try {
      const data = await this.#fetch(path, (size) => setText(box.firstChild, `Fetching ${name}: ${bytes(size)} …`));
      const url = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
      const link = el("a", { href: url, download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
    } finally {
      box.remove();
    }
  }

  async #upload(files) {
    for (const file of files) {
      const box = toast(`Uploading ${file.name} …`, "busy");
      try {
        const stream = socketOf(this.#id).write();
        const written = this.#call("writeFile", { path: join(this.#folder, file.name), contentStreamId: stream.streamId });
        written.catch(() => {});
        let sent = 0;
        for (const reader = file.stream().getReader(); ;) {
          const { done, value } = await reader.read();
          if (done) break;
          await stream.data(value);
          sent += value.length;
          setText(box.firstChild, `Uploading ${file.name}: ${bytes(sent)} of ${bytes(file.size)} …`);
        }
        stream.end();
        await written;
        toast(`${file.name} is there.`);
      } catch (error) {
        toast(`${file.name}: ${error.message}`, "bad");
      } finally {
        box.remove();
      }
    }
    this.picker.value = "";
    await this.#open(this.#folder);
  }

  async #makeFolder() {
    const answer = await ask("New folder", { fields: [{ name: "name", label: "Name", required: true }], ok: "Make" });
    if (!answer) return;
    await this.#call("mkdir", { path: join(this.#folder, answer.name) });
    await this.#open(this.#folder);
  }

  async #rename(name) {
    const answer = await ask("Rename", { fields: [{ name: "name", label: "New name", value: name, required: true }], ok: "Rename" });
    if (!answer) return;
    await this.#call("rename", { oldPath: join(this.#folder, name), newPath: join(this.#folder, answer.name) });
    await this.#open(this.#folder);
  }

  async #remove(entry) {
    const text = entry.isDirectory ? "All that is in it is deleted too." : "";
    if (!await ask(`Delete ${entry.name}?`, { text, ok: "Delete", danger: true })) return;
    await during(`Deleting ${entry.name} …`,
      this.#call("remove", { path: join(this.#folder, entry.name), options: { recursive: entry.isDirectory } }));
    await this.#open(this.#folder);
  }
}
