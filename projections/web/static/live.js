// One stream of the console for all tabs of a browser.
//
// HTTP/1.1 gives a browser six connections to a host, so a stream in each tab would block the
// seventh. The tab that holds a Web Lock reads the stream and repeats it to the others by a
// BroadcastChannel. Each tab compares seqs itself, so that a reconnect, a new reader or a repeated
// message neither leaves a gap nor shows an entry twice: what could not be fetched is counted.
import { ask } from "./address.js";

// A status comes every 2 s, and a page must not call itself live after 5 s of silence.
const SILENCE_MS_MAX = 4000;
const LOOK_MS = 250;
const REOPEN_MS = 2000;
const RECENT_MAX = 60;
const HISTORY_MAX = 300;
const FILL_MAX = 500;
const EVENTS = ["hello", "entries", "status", "problem"];

const listeners = new Set();
const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("eventlog") : null;

let isReader = false;
let firstChain = null; // of the first entry of the log
let lastSeq = null; // of the last entry that the listeners have
let receivedAt = performance.now();
let state = "wait";
let problem = "";
let kept = null; // what a tab that opens later starts with
let work = Promise.resolve(); // messages are handled one after the other

/** Calls `listener({event, body})`: hello, entries, status, and state ("on", "off"). */
export function follow(listener) {
  listeners.add(listener);
}

function report(event, body) {
  for (const listener of listeners) listener({ event, body });
}

function setState(next) {
  if (state === next) return;
  state = next;
  report("state", { state, text: problem });
}

function receive(message) {
  receivedAt = performance.now();
  work = work.then(() => handle(message)).catch(() => setState("off"));
}

async function handle({ event, body }) {
  // Why the console itself is not up to date: one of its background tasks ended or is late.
  if (event === "problem") problem = body.text ?? "";
  if (event === "hello") problem = body.status.problem ?? "";
  if (event === "status") problem = body.problem ?? "";
  setState(event === "lost" || problem ? "off" : "on");
  if (event === "hello") await begin(body);
  if (event === "entries") await add(body.rows, body.n);
  if (event === "status") {
    remember({ status: body });
    report("status", body);
  }
}

async function begin(body) {
  if (firstChain && body.first_chain && body.first_chain !== firstChain) {
    location.reload(); // another home is served here now, and this page shows the one before
    return;
  }
  firstChain = body.first_chain ?? firstChain;
  if (lastSeq !== null && body.id >= lastSeq) {
    await add(body.rows, body.rows.length);
    report("status", body.status);
  } else {
    lastSeq = body.id; // the first hello, or that of a log which was replaced by a shorter one
    report("hello", body);
  }
  // After a reconnect the rows come in a message of their own.
  kept = { ...body, rows: body.rows.length ? body.rows : (kept?.rows ?? []) };
}

const newest = (rows) => rows[rows.length - 1]?.seq ?? 0;

// `covered` is how many entries the message accounts for. Seqs have no gaps, so their difference
// is the number of entries since the last message.
async function add(rows, covered) {
  if (lastSeq === null || newest(rows) <= lastSeq) return;
  let fresh = rows.filter((row) => row.seq > lastSeq);
  if (newest(rows) - lastSeq > covered) {
    fresh = (await ask("/api/log", { after: lastSeq, limit: FILL_MAX })).rows.reverse();
  }
  lastSeq = newest(fresh);
  remember({ rows: fresh });
  report("entries", { rows: fresh });
}

function remember({ rows = [], status = null }) {
  if (!kept) return;
  kept = { ...kept, id: lastSeq, rows: [...kept.rows, ...rows].slice(-RECENT_MAX) };
  if (!status) return;
  const points = status.point ? [status.point] : [];
  const history = [...(kept.status.history ?? []), ...points].slice(-HISTORY_MAX);
  kept.status = { ...kept.status, ...status, history };
}

function read() {
  const source = new EventSource("/api/live");
  const pass = (message) => {
    receive(message);
    channel?.postMessage(message);
  };
  for (const event of EVENTS) {
    source.addEventListener(event, ({ data }) => pass({ event, body: JSON.parse(data) }));
  }
  source.onerror = () => {
    pass({ event: "lost" });
    if (source.readyState !== EventSource.CLOSED) return; // the browser connects again by itself
    // After an answer such as 401 it does not. Asking leads to the login page where that is why.
    setTimeout(() => ask("/api/status").then(read, read), REOPEN_MS);
  };
  return source;
}

function share() {
  channel.onmessage = ({ data }) => {
    if (data.event !== "ask") receive(data);
    else if (isReader && kept) channel.postMessage({ event: "hello", body: kept });
  };
  navigator.locks.request("eventlog-live", () => {
    isReader = true;
    read();
    return new Promise(() => {}); // held until the tab closes
  });
  channel.postMessage({ event: "ask" });
}

/** Connects this tab; listeners are called from now on. */
export function start() {
  if (channel && navigator.locks) share();
  else readWhileVisible(); // not a secure context
  setInterval(() => {
    if (performance.now() - receivedAt > SILENCE_MS_MAX) setState("off");
  }, LOOK_MS);
}

function readWhileVisible() {
  let source = read();
  document.addEventListener("visibilitychange", () => {
    source.close();
    if (!document.hidden) source = read();
  });
}
