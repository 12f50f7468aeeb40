// Overview: a verdict in words, the figures of `eventlog status`, ten minutes of rate and lag, the
// latest entries and the checks.
import { ask, isPast } from "./address.js";
import { $, fill, h, s } from "./dom.js";
import { ago, bytes, capital, clock, int, num, plural, span, stamp } from "./format.js";
import { follow } from "./live.js";
import {
  LOG_COLUMNS,
  a,
  asTable,
  deliveryTiles,
  figured,
  figures,
  logRow,
  quietRow,
  ready,
  sampled,
  section,
  table,
} from "./parts.js";
import { durationTicks } from "./scales.js";
import { timeChart } from "./time_chart.js";

export const TITLE = "Overview";
const LATEST = 10;
const HISTORY_MAX = 300;
const NO_HISTORY = "no history";

const LEVEL_MARKS = {
  ok: "M4.5 8.4 7 10.8l4.6-5.4",
  warn: "M8 4.4v4.4M8 11.3v.3",
  bad: "M5.3 5.3l5.4 5.4M10.7 5.3l-5.4 5.4",
  none: "M5 8h6",
};
const LEVEL_WORDS = { ok: "good", warn: "attention", bad: "problem", none: "unknown" };

const mark = (level) =>
  h(
    "span",
    { class: `mark-of ${level}` },
    s(
      "svg",
      { viewBox: "0 0 16 16", "aria-hidden": "true" },
      s("circle", { cx: 8, cy: 8, r: 7.2 }),
      s("path", { d: LEVEL_MARKS[level] }),
    ),
    h("span", { class: "unseen" }, LEVEL_WORDS[level]),
  );

const strip = figures([
  ["entries", "Entries"],
  ["rate", "Rate"],
  ["table", "Table lag"],
  ["delivery", "Delivery lag"],
  ["delivered", "Delivered"],
  ["parked", "Parked"],
  ["mirror", "Mirror lag"],
]);
strip.show("mirror", false);
const latest = table(LOG_COLUMNS, [], { id: "latest", class: "log" });

let history = [];
let showRate = null;
let showLag = null;

export async function open(main) {
  const rateTable = asTable("entries a second", [["Time"], ["Entries a second", "n"]], () =>
    sampled(history.length).map((i) => [clock(history[i][0]), num(history[i][1], 1)]),
  );
  const lagTable = asTable("lags", [["Time"], ["Table", "n"], ["Delivery", "n"]], () =>
    sampled(history.length).map((i) => [
      clock(history[i][0]),
      span(history[i][2]),
      span(history[i][3]),
    ]),
  );
  const [rateHost, lagHost] = [h("div", { id: "rate" }), h("div", { id: "lag" })];
  fill(
    main,
    h(
      "div",
      { class: "verdict", id: "verdict", role: "status" },
      h("h1", {}, "Reading the status"),
      h("ul", { class: "reasons" }),
    ),
    strip.node,
    h(
      "div",
      { class: "grid" },
      section("half", "Entries a second", "last ten minutes", rateHost, !isPast() && rateTable),
      section(
        "half",
        "Lag behind the log",
        h(
          "span",
          { class: "legend" },
          h("i", { class: "accent" }),
          "table",
          h("i", { class: "warn" }),
          "delivery",
        ),
        lagHost,
        !isPast() && lagTable,
      ),
      section("most", "Latest entries", a("/log", "Open the log"), latest.node),
      h(
        "section",
        { class: "rest", id: "checks" },
        h("div", { class: "titled" }, h("h2", {}, "Checks")),
        h("ul", { class: "checks" }),
      ),
    ),
  );
  if (isPast()) {
    for (const host of [rateHost, lagHost])
      fill(host, h("p", { class: "none-of" }, "Rates and lags are not recorded: no history."));
  } else {
    showRate = timeChart(rateHost, {
      label: "Entries a second over the last ten minutes",
      panes: [
        { height: 130, zero: true, least: 2, series: [{ name: "entries a second", area: true }] },
      ],
    });
    showLag = timeChart(lagHost, {
      label: "Lag of table and delivery over the last ten minutes",
      panes: [
        {
          height: 130,
          zero: true,
          least: 2,
          ticks: durationTicks,
          text: span,
          series: [
            { name: "table", area: true },
            { name: "delivery", tone: "warn" },
          ],
        },
      ],
    });
    follow(onMessage);
  }
  const status = await ask("/api/status");
  showStatus(status);
  showHistory(status.history ?? []);
  showLatest(status.latest);
  ready(main);
}

function onMessage({ event, body }) {
  if (event === "hello") {
    showStatus(body.status);
    showHistory(body.status.history ?? []);
    showLatest(body.rows);
  }
  if (event === "status") {
    showStatus(body);
    if (body.point) showHistory([...history, body.point]);
  }
  if (event === "entries") showLatest(body.rows);
}

function showStatus(status) {
  const { log, table: stored, delivery, verdict } = status;
  const node = $("#verdict");
  if (node.dataset.shown !== JSON.stringify(verdict)) {
    node.dataset.shown = JSON.stringify(verdict);
    node.dataset.level = verdict.level;
    fill($("h1", node), mark(isPast() ? "none" : verdict.level), verdict.text);
    fill(
      $(".reasons", node),
      verdict.reasons.map((reason) =>
        h("li", {}, mark(reason.level), reason.href ? a(reason.href, reason.text) : reason.text),
      ),
    );
  }
  strip.set("entries", {
    path: "log.entries",
    value: log.entries,
    text: int(log.entries),
    note: [
      ["log.signals", log.signals, int(log.signals)],
      ` ${plural(log.signals, "signal")}${log.bytes === null ? "" : `, ${bytes(log.bytes)}`}`,
    ],
  });
  strip.set(
    "rate",
    status.rate === null
      ? { text: "–", note: NO_HISTORY }
      : { text: num(status.rate, 1), unit: "a second", note: "over the last two seconds" },
  );
  showTable(stored);
  showDelivery(delivery);
  showMirror(status.mirror);
  fill(
    $("#checks ul"),
    status.checks.map(({ state, name, text, at }) => check(state, capital(name), text, at)),
    log.last_seq
      ? check(
          "ok",
          "Last entry",
          [
            figured(h("span", {}, int(log.last_seq)), "log.last_seq", log.last_seq),
            h("span", { class: "mono", title: log.chain }, ` ${log.chain.slice(0, 16)}…`),
          ],
          log.last_recorded_at,
        )
      : null,
  );
}

const check = (state, name, text, at) =>
  h(
    "li",
    {},
    mark(state),
    h("b", {}, name),
    h("span", {}, text),
    at && h("time", { datetime: at, title: stamp(at) }, isPast() ? stamp(at) : ago(at)),
  );

function showTable(stored) {
  const { lag_entries: lag, rows: stands, conflicts } = stored;
  const note = [
    ["table.rows", stands, int(stands)],
    ` ${plural(stands, "row")}, `,
    ["table.conflicts", conflicts, int(conflicts)],
    ` ${plural(conflicts, "conflict")}`,
  ];
  strip.set(
    "table",
    lag === null
      ? {
          text: "–",
          note: [
            `${NO_HISTORY}; `,
            ...note.slice(0, conflicts === null ? 1 : 3),
            conflicts === null ? ` ${plural(stands, "row")}` : "",
          ],
        }
      : {
          path: "table.lag_entries",
          value: lag,
          text: int(lag),
          unit: lag ? `${plural(lag, "entry")}, ${span(stored.lag_seconds)}` : "entries",
          note,
        },
  );
}

function showDelivery(delivery) {
  if (!delivery || isPast()) {
    const note = isPast() ? NO_HISTORY : "delivery is off";
    for (const name of ["delivery", "delivered", "parked"]) strip.set(name, { text: "–", note });
    return;
  }
  const { lag, delivered, parked } = deliveryTiles(delivery);
  strip.set("delivery", lag);
  strip.set("delivered", { ...delivered, note: delivery.state });
  strip.set("parked", parked);
}

/** The lag of the mirror, in a home that has one. Below three replicas nothing is replicated. */
function showMirror(mirror) {
  strip.show("mirror", mirror !== null);
  if (!mirror) return;
  const { lag_entries: lag, replicas, replicas_current: current } = mirror;
  const servers = mirror.is_replicated
    ? `on ${int(current)} of ${int(replicas)} servers`
    : "too few servers: not replicated";
  strip.set("mirror", {
    path: "mirror.lag_entries",
    value: lag,
    text: int(lag),
    unit: lag ? `${plural(lag, "entry")}, ${span(mirror.lag_seconds)}` : "entries",
    note: replicas === null ? mirror.state : `${mirror.state}, ${servers}`,
  });
}

function showHistory(points) {
  history = points.slice(-HISTORY_MAX);
  const t = history.map((point) => point[0]);
  showRate?.(t, [history.map((point) => point[1])]);
  showLag?.(t, [history.map((point) => point[2]), history.map((point) => point[3])]);
}

function showLatest(found) {
  const before = Number(latest.body.firstElementChild?.dataset.seq ?? 0);
  const rows = found
    .filter((row) => row.seq > before)
    .sort((one, two) => two.seq - one.seq)
    .slice(0, LATEST);
  if (before === 0) fill(latest.body);
  latest.body.prepend(...rows.map((row) => logRow(row, before > 0)));
  while (latest.body.childElementCount > LATEST) latest.body.lastElementChild.remove();
  if (!latest.body.childElementCount)
    fill(latest.body, quietRow(LOG_COLUMNS, "The log is empty."));
}
