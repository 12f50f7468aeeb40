// Log: entries as they become durable, newest first.
import { asker, change, isPast, query } from "./address.js";
import { $, fill, h, say } from "./dom.js";
import { int } from "./format.js";
import { follow } from "./live.js";
import { LOG_COLUMNS, figured, heading, logRow, quietRow, ready, table } from "./parts.js";

export const TITLE = "Log";
const ROWS_MAX = 500; // in the page, whatever comes
const FADE_MAX = 20; // more fresh rows at once would be a flicker
const EVENTS = [
  "signal",
  "executed",
  "skipped",
  "expired",
  "cancelled",
  "reduced",
  "closed",
  "voided",
];

const askNewest = asker();
const log = table(LOG_COLUMNS, [], { class: "log", id: "tail" });
const count = h("p", { class: "end", role: "status", id: "count" });
const kind = h(
  "select",
  { id: "kind", change: choose },
  h("option", { value: "" }, "every event"),
  EVENTS.map((name) => h("option", { value: name }, name)),
);
const pause = h(
  "button",
  { type: "button", id: "pause", "aria-pressed": "false", click: () => setPaused(!isPaused) },
  "Pause",
);

let isPaused = false;
let waiting = []; // entries that came while paused, the newest of them
let waitingCount = 0;
let newCount = 0; // entries since the page opened
let leftOut = 0; // of them, those that were never shown
let older = 0; // entries before the oldest row of the page
let lastSeq = 0;
let isLoading = false;
let meanwhile = []; // entries that came while loading

export async function open(main) {
  fill(
    main,
    heading(
      "Log",
      isPast()
        ? "The last entries that had been recorded, newest first."
        : "Entries as they become durable, newest first.",
    ),
    h("div", { class: "filters" }, h("label", {}, "Show", kind), !isPast() && pause, count),
    log.node,
  );
  await show();
  if (!isPast()) follow(onMessage);
}

/** Shows what the address says. */
export async function show() {
  const main = $("#main");
  ready(main, false);
  kind.value = query().get("event") ?? "";
  isLoading = true;
  const found = await askNewest("/api/log", { limit: ROWS_MAX, ...chosen() });
  if (!found) return;
  isLoading = false;
  [lastSeq, newCount, leftOut, waiting, waitingCount] = [found.as_of.seq, 0, 0, [], 0];
  fill(
    log.body,
    found.rows.map((row) => logRow(row)),
  );
  if (!found.rows.length) fill(log.body, quietRow(LOG_COLUMNS, "There is no such entry."));
  older = found.left_out;
  receive(meanwhile.splice(0));
  showCount();
  ready(main);
}

const chosen = () => (kind.value ? { event: kind.value } : {});

function choose() {
  change({ event: kind.value }, { push: true });
  show().catch((error) => say(count, error.message));
}

function onMessage({ event, body }) {
  if (event === "hello" || event === "entries") receive(body.rows);
}

function receive(rows) {
  if (isLoading) {
    meanwhile = [...meanwhile, ...rows].slice(-ROWS_MAX);
    return;
  }
  const fresh = rows.filter((row) => row.seq > lastSeq);
  if (!fresh.length) return;
  const count = fresh.at(-1).seq - lastSeq; // seqs have no gaps
  lastSeq = fresh.at(-1).seq;
  newCount += count;
  leftOut += count - fresh.length;
  const wanted = fresh.filter((row) => !kind.value || row.event === kind.value);
  if (isPaused) hold(wanted, count);
  else add(wanted);
  showCount();
}

function hold(rows, number) {
  waitingCount += number;
  const all = [...waiting, ...rows];
  waiting = all.slice(-ROWS_MAX);
  leftOut += all.length - waiting.length;
}

function add(rows) {
  if (rows.length && $("td.quiet", log.body)) fill(log.body);
  const isFew = rows.length <= FADE_MAX;
  log.body.prepend(...[...rows].reverse().map((row) => logRow(row, isFew)));
  while (log.body.childElementCount > ROWS_MAX) log.body.lastElementChild.remove();
}

function setPaused(value) {
  isPaused = value;
  pause.setAttribute("aria-pressed", String(isPaused));
  say(pause, isPaused ? "Continue" : "Pause");
  if (!isPaused) {
    add(waiting);
    [waiting, waitingCount] = [[], 0];
  }
  showCount();
}

function showCount() {
  const parts = isPaused ? [`paused, ${int(waitingCount)} waiting`] : [];
  if (newCount) parts.push(`${int(newCount)} new`);
  if (leftOut) parts.push(`${int(leftOut)} of them left out`);
  if (older) parts.push(`${int(older)} older not shown`);
  say(count, parts.join(" · "));
  figured(count, "log.left_out", leftOut);
}
