// The rows, bars and points of Outcomes: one group, band, bin or month each.
import { intervalMark } from "./charts.js";
import { h } from "./dom.js";
import { int, num, percent, ratio, signed } from "./format.js";
import { figured, gain } from "./parts.js";

export const GROUP_COLUMNS = [
  ["Signals", "n mid"],
  ["Closed", "n"],
  ["Win rate", "n"],
  ["95 % interval", "n wide"],
  ["", "wide graphic"],
  ["Average", "n"],
  ["Median", "n mid"],
  ["Profit factor", "n mid"],
  ["Best", "n wide"],
  ["Worst", "n wide"],
];

export const bandName = (band) => `${band.from} to ${band.to} %`;
export const interval = (one) =>
  one.win_rate_low === null ? "–" : `${num(one.win_rate_low, 1)} to ${num(one.win_rate_high, 1)} %`;

export const bandPoint = (band) => ({
  x: band.mean_confidence,
  y: band.win_rate,
  low: band.win_rate_low,
  high: band.win_rate_high,
  count: band.count,
  title: `Confidence ${bandName(band)}`,
  lines: [
    ["stated", percent(band.mean_confidence)],
    ["won", percent(band.win_rate)],
    ["95 %", interval(band)],
    ["signals", int(band.count)],
  ],
});

export function binName({ from, to }) {
  if (from === null) return `below ${signed(to, 1)} %`;
  if (to === null) return `${signed(from, 1)} % and more`;
  return `${signed(from, 1)} to ${signed(to, 1)} %`;
}

export const histogramBar = (bin) => ({
  name: binName(bin),
  value: bin.count,
  tone: (bin.from ?? -1) < 0 ? "bad" : "",
  edge: true,
  label: Number.isInteger(bin.from) ? `${signed(bin.from, 0)} %` : "",
  lines: [["signals", int(bin.count)]],
});

export const monthBar = (group) => ({
  name: group.month,
  label: group.month,
  value: group.average_return,
  tone: group.average_return < 0 ? "bad" : "",
  lines: [
    ["average", `${signed(group.average_return)} %`],
    ["win rate", percent(group.win_rate)],
    ["signals", int(group.total_signals)],
  ],
});

const withPercent = (value, digits) =>
  value === null || value === undefined ? "–" : `${signed(value, digits)} %`;

export function groupRow(name, group) {
  const closed = group.wins + group.losses + group.breakevens + group.expired;
  const cell = (kind, key, kid) => figured(h("td", { class: kind }, kid), key, group[key]);
  return h(
    "tr",
    { "data-group": `${name}:${group[name]}` },
    h("td", { class: "cut" }, group[name]),
    cell("n mid", "total_signals", int(group.total_signals)),
    h("td", { class: "n" }, int(closed)),
    cell("n", "win_rate", percent(group.win_rate)),
    h("td", { class: "n soft wide" }, interval(group)),
    h(
      "td",
      { class: "wide graphic" },
      intervalMark(group.win_rate, group.win_rate_low, group.win_rate_high),
    ),
    cell("n", "average_return", gain(closed ? group.average_return : null)),
    cell("n soft mid", "median_return", withPercent(group.median_return, 2)),
    cell("n mid", "profit_factor", ratio(group.profit_factor)),
    cell("n soft wide", "best", withPercent(group.best, 1)),
    cell("n soft wide", "worst", withPercent(group.worst, 1)),
  );
}
