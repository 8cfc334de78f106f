// The gateway's extra routes (docs/dashboard.md). A request carries the login's key, which only scripts of this
// origin have; the cookie beside it is the browser's to send.

const STORE = "bellglass-key";
let onLoggedOut = () => {};

export const key = () => localStorage.getItem(STORE) ?? "";
export const whenLoggedOut = (fn) => { onLoggedOut = fn; };

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.message ?? `the gateway answered with ${status}`);
    this.status = status;
    this.code = body?.code ?? "";
  }
}

export async function api(method, path, body) {
  let answer;
  try {
    answer = await fetch(`/api/bellglass/${path}`, {
      method, cache: "no-store", credentials: "same-origin", redirect: "error",
      headers: { "X-Bellglass-Key": key(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, { message: "the gateway cannot be reached: does bellglass serve run?" });
  }
  const value = await answer.json().catch(() => null);
  if (answer.ok) return value;
  if (answer.status === 401 && path !== "session") {
    localStorage.removeItem(STORE);
    onLoggedOut();
  }
  throw new ApiError(answer.status, value);
}

const name = encodeURIComponent;
export const sandbox = (id, verb = "") => `sandboxes/${name(id)}${verb && `/${verb}`}`;
export const snapshot = (id, verb = "") => `snapshots/${name(id)}${verb && `/${verb}`}`;

export async function login(token) {
  const session = await api("POST", "session", { token });
  localStorage.setItem(STORE, session.key);
  return session;
}

export async function logout() {
  await api("DELETE", "session").catch(() => {});
  localStorage.removeItem(STORE);
}
