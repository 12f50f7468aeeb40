// The address of a page is its state: as-of, filters and paging. A reload, a bookmark and the
// back button show the same.

const AS_OF = ["as_of", "as_of_seq"];

export const query = () => new URLSearchParams(location.search);

/** The as-of parameters of this page: none means now. */
export function asOf() {
  const found = query();
  return Object.fromEntries(
    AS_OF.filter((name) => found.get(name)).map((name) => [name, found.get(name)]),
  );
}

export const isPast = () => Object.keys(asOf()).length > 0;

/** A path of the console as of the same moment, with further parameters. */
export function link(path, params = {}) {
  const [before, anchor] = path.split("#");
  const found = new URLSearchParams({ ...asOf(), ...params });
  const search = found.size ? `?${found}` : "";
  return anchor === undefined ? before + search : `${before}${search}#${anchor}`;
}

/** Changes parameters of this page's address; an empty value takes one away. */
export function change(params, { push = false } = {}) {
  const found = query();
  for (const [name, value] of Object.entries(params)) {
    if (value === null || value === undefined || value === "") found.delete(name);
    else found.set(name, value);
  }
  const url = location.pathname + (found.size ? `?${found}` : "");
  if (push) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  document.dispatchEvent(new Event("address"));
}

/** An answer that is not the one asked for: what, and what to do. */
export class Refusal extends Error {
  constructor(status, body) {
    super(body.error ?? `the console answered ${status}`);
    this.status = status;
    this.todo = body.do ?? "";
  }
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) location.assign("/login");
  if (!response.ok) throw new Refusal(response.status, body);
  return body;
}

/** The answer that first.js has asked for, if it is to this question; it is given once. */
function firstAnswer(address) {
  const url = new URL(address, location.href);
  url.searchParams.sort();
  const first = globalThis.firstAnswer;
  if (first?.address !== url.pathname + url.search) return null;
  globalThis.firstAnswer = null;
  return first.response;
}

/** Gets JSON as of the moment of this page. */
export async function ask(path, params = {}, signal = undefined) {
  const address = link(path, params);
  const response = await (firstAnswer(address) ??
    fetch(address, { headers: { accept: "application/json" }, cache: "no-store", signal }));
  const body = await answer(response);
  signal?.throwIfAborted();
  if (body.as_of) document.dispatchEvent(new CustomEvent("answered", { detail: body.as_of }));
  return body;
}

/** Gets a file as of the moment of this page. */
export async function askFile(path) {
  const response = await fetch(link(path), { cache: "no-store" });
  if (!response.ok) await answer(response);
  return response.blob();
}

/** Asks so that a later question ends an earlier one, which is then answered by null. */
export function asker() {
  let newest = null;
  return async (path, params) => {
    newest?.abort();
    const own = new AbortController();
    newest = own;
    try {
      return await ask(path, params, own.signal);
    } catch (error) {
      if (own.signal.aborted) return null;
      throw error;
    }
  };
}

/** Sends an action. */
export async function send(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-eventlog": "1" },
    body: JSON.stringify(body),
  });
  return answer(response);
}
