// Outcomes: the figures of `eventlog stats` as of any moment, the cumulative return with its
// drawdown, calibration, and the groups.
import { asOf, asker, change, query } from "./address.js";
import { barChart, scatterChart } from "./charts.js";
import { $, fill, h, say } from "./dom.js";
import { int, millis, num, percent, signed, span, stamp, zoneName } from "./format.js";
import {
  GROUP_COLUMNS,
  bandName,
  bandPoint,
  binName,
  groupRow,
  histogramBar,
  interval,
  monthBar,
} from "./outcome_rows.js";
import { asTable, figures, heading, ready, sampled, section, table } from "./parts.js";
import { timeChart } from "./time_chart.js";

export const TITLE = "Outcomes";
const FILTERS = ["strategy", "symbol", "action"];
const SLIDER_STEPS = 1000;
const SLIDING_MS = 40; // a pause of the slider before the question is asked
const PROGRESS_MS = 250;
const STATS = [
  ["total_signals", "Signals"],
  ["win_rate", "Win rate"],
  ["average_return", "Average return"],
  ["profit_factor", "Profit factor"],
  ["drawdown", "Deepest drawdown"],
  ["mean_holding_s", "Held on average"],
];
const GROUPS = [
  ["strategy", "Strategy"],
  ["symbol", "Symbol"],
  ["month", "Month"],
];
const askNewest = asker();
const strip = figures(STATS);
const slider = h("input", {
  type: "range",
  id: "asof",
  min: 0,
  max: SLIDER_STEPS,
  step: 1,
  "aria-label": "As of",
  input: slide,
});
const moment = h("output", { for: "asof", id: "moment" });
const choosers = Object.fromEntries(
  FILTERS.map((name) => [
    name,
    h("select", { name, disabled: true, change: choose }, h("option", { value: "" }, "all")),
  ]),
);
const tables = Object.fromEntries(
  GROUPS.map(([name, title]) => [
    name,
    table([[title], ...GROUP_COLUMNS], [], { id: `by-${name}`, class: "rows" }),
  ]),
);
const hosts = Object.fromEntries(
  ["curve", "calibration", "histogram", "months"].map((name) => [name, h("div", { id: name })]),
);
const progress = h("p", { class: "lead", role: "status" });
const nothing = h("p", { class: "lead", id: "nothing", role: "status" });

let data = null;
let charts = null;
let timer = 0;

export async function open(main) {
  fill(main, head(), progress);
  await load();
  progress.remove();
  main.append(...page());
  charts = makeCharts();
  draw();
}

const label = (title, node) => h("label", {}, title, node);

const head = () =>
  heading(
    "Outcomes",
    "Signals with an outcome, in the order in which the log learned it. Returns are added, one stake a signal, without costs.",
    h(
      "div",
      { class: "filters" },
      label("Strategy", choosers.strategy),
      label("Symbol", choosers.symbol),
      label("Side", choosers.action),
    ),
  );

function page() {
  const curveTable = asTable(
    "cumulative return",
    [["Time"], ["Return", "n"], ["Below the peak", "n"]],
    () =>
      sampled(data.curve.t.length).map((i) => [
        stamp(data.curve.t[i]),
        signed(data.curve.v[i], 1),
        num(-data.curve.d[i], 1),
      ]),
  );
  const bandTable = asTable(
    "calibration",
    [["Confidence"], ["Signals", "n"], ["Stated", "n"], ["Won", "n"], ["95 % interval", "n"]],
    () =>
      data.calibration.map((band) => [
        bandName(band),
        int(band.count),
        percent(band.mean_confidence),
        percent(band.win_rate),
        interval(band),
      ]),
  );
  const histogramTable = asTable("distribution of returns", [["Return"], ["Signals", "n"]], () =>
    data.histogram.map((bin) => [binName(bin), int(bin.count)]),
  );
  const by = (name, title, size, ...kids) =>
    section(
      size,
      title,
      null,
      ...kids,
      h(
        "div",
        { class: "scroll long", tabindex: 0, role: "region", "aria-label": title },
        tables[name].node,
      ),
    );
  return [
    h("div", { class: "slider" }, h("label", { for: "asof" }, "As of"), moment, slider),
    strip.node,
    nothing,
    h(
      "div",
      { class: "grid" },
      section(
        "all",
        "Cumulative return",
        "percent points, and the distance below the peak; drag to zoom",
        hosts.curve,
        curveTable,
      ),
      section(
        "half",
        "Calibration",
        "share won by stated confidence, with 95 % intervals; bars are counts",
        hosts.calibration,
        bandTable,
      ),
      section(
        "half",
        "Distribution of returns",
        "signals by return in percent",
        hosts.histogram,
        histogramTable,
      ),
      by("strategy", "By strategy", "all"),
      by("symbol", "By symbol", "all"),
      by("month", "By month", "all", hosts.months),
    ),
  ];
}

const makeCharts = () => ({
  curve: timeChart(hosts.curve, {
    label: "Cumulative return and drawdown",
    panes: [
      { height: 230, series: [{ name: "return", area: true }], zero: true, least: 1 },
      { height: 80, series: [{ name: "drawdown", tone: "bad", area: true }], zero: true, least: 1 },
    ],
  }),
  calibration: scatterChart(hosts.calibration, {
    label: "Share won by stated confidence",
    height: 300,
    diagonal: "as stated",
  }),
  histogram: barChart(hosts.histogram, { label: "Distribution of returns", height: 300 }),
  months: barChart(hosts.months, { label: "Average return by month", height: 170 }),
});

// ---- questions

/** Shows what the address says, unless a later question came meanwhile. */
export async function show() {
  if (!charts) return; // the first answer is still awaited
  try {
    if (await load()) draw();
  } catch (error) {
    say(moment, error.message);
  }
}

/** Loads what the address says; false if a later question came meanwhile. */
async function load() {
  ready($("#main"), false);
  const now = query();
  const params = Object.fromEntries(
    FILTERS.filter((name) => now.get(name)).map((name) => [name, now.get(name)]),
  );
  for (;;) {
    const found = await askNewest("/api/outcomes", params);
    if (!found) return false;
    if (found.progress === undefined) {
      data = found;
      return true;
    }
    say(progress, `${found.text ?? "Reading the outcomes"}: ${num(100 * found.progress, 0)} %`);
    await new Promise((resolve) => setTimeout(resolve, PROGRESS_MS));
  }
}

function choose({ target }) {
  change({ [target.name]: target.value }, { push: true });
  show();
}

// An answer about the past does not name what came later: the end is the newest that the page saw.
let newestAt = 0;
const ends = () => {
  const first = millis(data.range.first_at ?? data.as_of.recorded_at ?? Date.now() / 1000);
  return [first, newestAt || Date.now()];
};

function slide() {
  const [first, last] = ends();
  const part = Number(slider.value) / SLIDER_STEPS;
  const at = first + (last - first) * part;
  say(moment, `${stamp(at / 1000)} ${zoneName()}`);
  ready($("#main"), false); // what the page shows is of another moment
  clearTimeout(timer);
  timer = setTimeout(() => {
    timer = 0;
    change({ as_of: part < 1 ? new Date(at).toISOString() : "", as_of_seq: "" });
    show();
  }, SLIDING_MS);
}

// ---- drawing

function draw() {
  const { stats } = data;
  drawChoices();
  drawMoment();
  drawFigures(stats);
  const isEmpty = stats.total_signals === stats.open;
  say(nothing, isEmpty ? "No signal of this selection has an outcome, so the charts are empty." : "");
  charts.curve(data.curve.t, [data.curve.v, data.curve.d]);
  charts.calibration(data.calibration.filter((band) => band.win_rate !== null).map(bandPoint));
  charts.histogram(data.histogram.map(histogramBar));
  charts.months(data.by.month.map(monthBar));
  for (const [name] of GROUPS)
    fill(
      tables[name].body,
      // The newest month first, as everywhere in the console.
      (name === "month" ? [...data.by.month].reverse() : data.by[name]).map((group) =>
        groupRow(name, group),
      ),
    );
  ready($("#main"), !timer);
}

function drawChoices() {
  const lists = {
    strategy: data.choices.strategies,
    symbol: data.choices.symbols,
    action: ["BUY", "SELL"],
  };
  for (const [name, select] of Object.entries(choosers)) {
    const wanted = query().get(name) ?? "";
    const values = ["", ...new Set([...lists[name], ...(wanted ? [wanted] : [])])];
    if (select.options.length !== values.length) {
      fill(
        select,
        values.map((value) =>
          h(
            "option",
            { value },
            value === "" ? "all" : name === "action" ? value.toLowerCase() : value,
          ),
        ),
      );
    }
    select.value = wanted;
    select.disabled = false; // from the first answer on
  }
}

function drawMoment() {
  const isPast = Object.keys(asOf()).length > 0;
  if (!isPast) newestAt = millis(data.range.last_at ?? 0);
  const at = asOf().as_of ?? data.as_of.recorded_at;
  if (slider !== document.activeElement && at) {
    const [first, last] = ends();
    slider.value = isPast
      ? Math.round((SLIDER_STEPS * (millis(at) - first)) / (last - first || 1))
      : SLIDER_STEPS;
  }
  const text = isPast && at ? `${stamp(at)} ${zoneName()}` : "now";
  slider.setAttribute("aria-valuetext", text);
  say(moment, `${text}, entry ${int(data.as_of.seq)}`);
}

function drawFigures(stats) {
  const { wins, losses } = stats;
  const set = (key, text, unit, note) =>
    strip.set(key, { path: key in stats ? key : null, value: stats[key], text, unit, note });
  set(
    "total_signals",
    int(stats.total_signals),
    [["open", stats.open, int(stats.open)], " open"],
    [["wins", wins, int(wins)], " won, ", ["losses", losses, int(losses)], " lost"],
  );
  set(
    "win_rate",
    num(stats.win_rate, 1),
    stats.win_rate === null ? "" : "%",
    stats.win_rate === null
      ? "none won or lost"
      : [
          "95 %: ",
          ["win_rate_low", stats.win_rate_low, num(stats.win_rate_low, 1)],
          " to ",
          ["win_rate_high", stats.win_rate_high, num(stats.win_rate_high, 1)],
        ],
  );
  const unit = stats.win_rate === null && stats.median_return === null ? "" : "%";
  set("average_return", signed(unit ? stats.average_return : null), unit, [
    "median ",
    ["median_return", stats.median_return, signed(stats.median_return)],
    unit && " %",
  ]);
  set("profit_factor", num(stats.profit_factor), "", "gains over losses");
  set("drawdown", num(Math.abs(data.max_drawdown ?? 0), 1), "points", "below the peak");
  set("mean_holding_s", span(stats.mean_holding_s), "", [
    "returns ",
    ["worst", stats.worst, signed(stats.worst, 1)],
    " to ",
    ["best", stats.best, signed(stats.best, 1)],
    unit && "\u00a0%",
  ]);
}
