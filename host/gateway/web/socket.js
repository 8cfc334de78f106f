// One connection to one sandbox: JSON-RPC 2.0 with streams (docs/deno-protocol.md, "Messages").
import { key, sandbox } from "./api.js";

const CHUNK = 48 * 1024; // of a stream, before base64
const UNSENT = 4 * 1024 * 1024; // bytes that may wait in the browser
const PING_MS = 20000;

export const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
export function toBase64(data) {
  let text = "";
  for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
  return btoa(text);
}

export class Socket {
  #ws; #next = 0; #calls = new Map(); #readers = new Map(); #early = new Map(); #stream = 0; #ping;

  constructor(id) {
    const url = new URL(`/api/bellglass/${sandbox(id, "connect")}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.#ws = new WebSocket(url, ["bellglass.v1", `key.${key()}`]);
    this.#ws.addEventListener("message", (event) => this.#message(event.data));
    this.opened = new Promise((done, failed) => {
      this.#ws.addEventListener("open", done);
      this.#ws.addEventListener("close", () => failed(new Error("no connection to the sandbox")));
    });
    this.opened.catch(() => {});
    this.closed = new Promise((done) => this.#ws.addEventListener("close", (event) => {
      clearInterval(this.#ping);
      const error = new Error(event.reason || "the connection to the sandbox has ended");
      for (const { failed } of this.#calls.values()) failed(error);
      for (const reader of this.#readers.values()) reader.end(error);
      this.#calls.clear();
      this.#readers.clear();
      done(error);
    }));
    this.#ping = setInterval(() => this.open && this.#ws.send("ping"), PING_MS);
  }

  get open() { return this.#ws.readyState === WebSocket.OPEN; }
  get usable() { return this.#ws.readyState <= WebSocket.OPEN; }
  close() { this.#ws.close(); }

  #notify(verb, params) {
    if (this.open) this.#ws.send(JSON.stringify({ jsonrpc: "2.0", method: `$sandbox.stream.${verb}`, params }));
  }

  #message(text) {
    if (text === "pong") return;
    const message = JSON.parse(text);
    if (message.method) return this.#notification(message);
    const call = this.#calls.get(message.id);
    this.#calls.delete(message.id);
    if (!call) return;
    if (message.error) call.failed(new Error(message.error.message));
    else if (message.result.error) {
      const error = new Error(message.result.error.message);
      error.code = message.result.error.code;
      call.failed(error);
    } else call.done(message.result.ok);
  }

  #notification({ method, params }) {
    const reader = this.#readers.get(params.streamId);
    if (method === "$sandbox.stream.enqueue") {
      const data = fromBase64(params.data);
      if (reader) reader.data(data);
      else this.#early.get(params.streamId)?.push(data);
    } else if (method === "$sandbox.stream.start") {
      this.#early.set(params.streamId, []);
    } else if (method === "$sandbox.stream.end" || method === "$sandbox.stream.error") {
      this.#readers.delete(params.streamId);
      reader?.end(params.error ? new Error(params.error.message) : null);
    } else if (method === "$sandbox.stream.cancel") {
      this.#early.delete(params.streamId);
    }
  }

  async call(method, params = {}) {
    await this.opened;
    if (!this.open) throw new Error("the connection to the sandbox has ended");
    const id = this.#next++;
    return new Promise((done, failed) => {
      this.#calls.set(id, { done, failed });
      this.#ws.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    });
  }

  // Takes a stream of the sandbox's: what has come of it, and what comes.
  read(streamId, data, end = () => {}) {
    const early = this.#early.get(streamId) ?? [];
    this.#early.delete(streamId);
    this.#readers.set(streamId, { data, end });
    early.forEach(data);
  }

  // Begins a stream to the sandbox.
  write() {
    const streamId = this.#stream++;
    this.#notify("start", { streamId });
    return {
      streamId,
      data: async (data) => {
        for (let i = 0; i < data.length; i += CHUNK) {
          while (this.open && this.#ws.bufferedAmount > UNSENT) await new Promise((done) => setTimeout(done, 20));
          if (!this.open) throw new Error("the connection to the sandbox has ended");
          this.#notify("enqueue", { streamId, data: toBase64(data.subarray(i, i + CHUNK)) });
        }
      },
      end: () => this.#notify("end", { streamId }),
    };
  }
}

const sockets = new Map();

// The one connection to that sandbox that all parts of the page share.
export function socketOf(id) {
  let socket = sockets.get(id);
  if (!socket?.usable) {
    socket = new Socket(id);
    sockets.set(id, socket);
    socket.closed.then(() => sockets.get(id) === socket && sockets.delete(id));
  }
  return socket;
}
