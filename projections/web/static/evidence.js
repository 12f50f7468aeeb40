// Evidence: what was signed of the log, who has cosigned it and when, and how an outsider checks it.
import { $, fill, h } from "./dom.js";
import { ask, isPast } from "./address.js";
import { counted, int, plural, span, stamp } from "./format.js";
import { follow } from "./live.js";
import { figures, heading, quietRow, ready, section, table } from "./parts.js";

export const TITLE = "Evidence";
const COLUMNS = [["Entries", "n"], ["Signed"], ["Cosigned by"], ["Time stamps"]];
const NONE = "none";

const strip = figures([
  ["size", "Signed entries"],
  ["lag", "Not signed yet"],
  ["checkpoint", "Last checkpoint"],
  ["cosignature", "Last cosignature"],
  ["stamp", "Last time stamp"],
]);
const rows = table(COLUMNS, [], { id: "checkpoints" });
const vkey = h("pre", { class: "mono", tabindex: 0, "aria-label": "The vkey of this log" });
const newest = h("pre", { class: "mono", tabindex: 0, "aria-label": "The newest checkpoint" });
const left = h("p", { class: "quiet" });

let shownSize = null;

export async function open(main) {
  const found = await ask("/api/evidence");
  fill(
    main,
    heading(
      "Evidence",
      "A checkpoint is a signature over all entries so far. With it, an outsider checks that an entry is in this log, and that the log has only grown.",
    ),
    h("div", { id: "kept" }),
  );
  show(found);
  if (!isPast()) follow(onMessage);
  ready(main);
}

async function onMessage({ event, body }) {
  const status = event === "hello" ? body.status : event === "status" ? body : null;
  const size = status?.evidence?.size ?? null;
  if (!status || size === shownSize) return;
  shownSize = size;
  show(await ask("/api/evidence"));
}

function show(found) {
  const { evidence } = found;
  shownSize = evidence?.size ?? null;
  if (!evidence) {
    fill($("#kept"), nothing());
    return;
  }
  if (!$("#kept .figures")) fill($("#kept"), strip.node, parts());
  showFigures(found);
  fill(vkey, found.vkey ?? "no history");
  fill(newest, lines(found.newest ?? (isPast() ? "no history" : "Nothing was signed yet.")));
  fill(rows.body, found.rows.map(row));
  if (!found.rows.length)
    fill(
      rows.body,
      quietRow(COLUMNS, isPast() ? "None had been signed then." : "Nothing was signed yet."),
    );
  fill(left, found.left_out ? `${counted(found.left_out, "older checkpoint")} not shown.` : "");
}

/** Text with its lines: a newline in a text is shown as an escape. */
const lines = (text) =>
  text
    .trimEnd()
    .split("\n")
    .map((line, i) => [i > 0 && h("br", {}), line]);

const nothing = () =>
  section(
    "all",
    isPast() ? "No history" : "This log is not signed",
    null,
    h("p", {}, "Create a key, and sign the log from time to time:"),
    h(
      "pre",
      { class: "mono", tabindex: 0, "aria-label": "How to begin" },
      lines("eventlog evidence key log.example.com/main\neventlog evidence checkpoint"),
    ),
  );

const parts = () =>
  h(
    "div",
    { class: "grid" },
    section("half", "Key", "publish it where you cannot change it later", vkey),
    section("half", "Newest checkpoint", null, newest),
    section(
      "all",
      "Checkpoints",
      "signed: by the clock of this machine; the other times are those of others",
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Checkpoints" },
        rows.node,
      ),
      left,
    ),
    section(
      "all",
      "How to check",
      "on any machine, without this log",
      h(
        "p",
        {},
        "Download the proof of an entry from the page of its signal. It holds the line, its path to the root, and the checkpoint. The check needs the file and the vkey, which must come from elsewhere than this page.",
      ),
      h(
        "pre",
        { class: "mono", tabindex: 0, "aria-label": "The command that checks a proof" },
        "eventlog evidence check entry-1.tlog-proof --key VKEY",
      ),
    ),
  );

function showFigures({ evidence, rows: found }) {
  const { size, lag_entries: lag, lag_seconds: seconds } = evidence;
  strip.set("size", {
    path: "evidence.size",
    value: size,
    text: int(size),
    unit: size === null ? "" : plural(size, "entry"),
    note: evidence.problem ?? (evidence.is_restored ? "restored: signs nothing yet" : ""),
  });
  strip.set("lag", {
    path: "evidence.lag_entries",
    value: lag,
    text: int(lag),
    unit: lag === null ? "" : plural(lag, "entry"),
    note: lag && seconds !== null ? `the oldest for ${span(seconds)}` : "",
  });
  strip.set("checkpoint", last(found.map((one) => one.written_at)));
  strip.set("cosignature", last(found.flatMap((one) => one.cosignatures.map((seen) => seen.at))));
  strip.set("stamp", last(found.flatMap((one) => one.stamps)));
}

function last(times) {
  const newestTime = times.sort().at(-1);
  if (!newestTime) return { text: NONE };
  const [day, clock] = stamp(newestTime).split(" ");
  return { text: clock, note: day };
}

const row = (one) =>
  h(
    "tr",
    { "data-seq": one.size },
    h("td", { class: "n" }, int(one.size)),
    h("td", {}, stamp(one.written_at)),
    h("td", {}, list(one.cosignatures.map((seen) => `${seen.name}, ${stamp(seen.at)}`))),
    h("td", {}, list(one.stamps.map((at) => stamp(at)))),
  );

const list = (texts) =>
  texts.length
    ? h(
        "ul",
        { class: "plain" },
        texts.map((text) => h("li", {}, text)),
      )
    : h("span", { class: "faint" }, NONE);
