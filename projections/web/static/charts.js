// The charts: lines over time, bars, and points with intervals. Drawn as SVG with classes, so that
// the colours follow the theme.
import { apart, axes, frame } from "./chart_frame.js";
import { h, s } from "./dom.js";
import { stamp } from "./format.js";
import { linear, ticks, tickText, timeTicks } from "./scales.js";

const TOP = 10;
const BOTTOM = 26; // for the labels of x
const LEFT = 56; // for the labels of y
const RIGHT = 10;
const BAR_PX_MAX = 30;
const PANE_GAP = 18;
const TICK_PX = 44; // between two horizontal lines, about
const LABEL_PX = 76; // between two labels of time, about

function extent(values, { zero = false, pad = 0.06, least = 0 } = {}) {
  let [low, high] = zero ? [0, 0] : [Infinity, -Infinity];
  for (const value of values) {
    if (value === null || value === undefined) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) [low, high] = [0, 1];
  if (high - low < least) high = low + least;
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [zero && low === 0 ? 0 : low - room, zero && high === 0 ? 0 : high + room];
}

function linePath(x, y, t, values) {
  let path = "";
  let pen = "M";
  for (let i = 0; i < t.length; i += 1) {
    if (values[i] === null || values[i] === undefined) {
      pen = "M";
      continue;
    }
    path += `${pen}${x(t[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

function seriesNodes(one, x, y, t, values, floor) {
  const path = linePath(x, y, t, values);
  if (!path) return [];
  const line = s("path", { class: `line ${one.tone ?? ""}`, d: path });
  if (!one.area) return [line];
  const area = `${path}L${x(t[t.length - 1]).toFixed(1)} ${floor}L${x(t[0]).toFixed(1)} ${floor}Z`;
  return [s("path", { class: `area ${one.tone ?? ""}`, d: area }), line];
}

/** What of a series lies between two times, with one point more at either side. */
function visible(t, columns, low, high) {
  let [from, to] = [0, t.length];
  while (from < to - 1 && t[from + 1] < low) from += 1;
  while (to > from + 1 && t[to - 2] > high) to -= 1;
  return { t: t.slice(from, to), columns: columns.map((one) => one.slice(from, to)), from };
}

/**
 * Lines over time in one or more panes that share the axis. A pane is `{height, series, ticks, text,
 * zero, least, levels, marks}`; a series is `{name, tone, area}`. Returns `set(t, columns)`, where
 * t are seconds and the columns belong to the series in their order.
 */
export function timeChart(host, { label, panes, read = null }) {
  let [t, columns, domain] = [[], [], null];
  const height = TOP + panes.reduce((sum, pane) => sum + pane.height, 0) + PANE_GAP * (panes.length - 1) + BOTTOM;
  const all = panes.flatMap((pane) => pane.series.map((one) => ({ ...one, text: pane.text })));
  let x = null;

  function draw(width) {
    const [low, high] = domain ?? [t[0] ?? 0, t[t.length - 1] ?? 1];
    x = linear(low, high, LEFT, width - RIGHT);
    const part = visible(t, columns, low, high);
    const inside = part.t.map((time, i) => i).filter((i) => part.t[i] >= low && part.t[i] <= high);
    const nodes = [];
    const scales = [];
    let [top, column] = [TOP, 0];
    panes.forEach((pane, index) => {
      const values = part.columns.slice(column, column + pane.series.length);
      const levels = (pane.levels ?? []).map((level) => level.value);
      const y = linear(...extent([...values.flat(), ...levels], pane), top + pane.height, top);
      const isLast = index === panes.length - 1;
      const labels = timeTicks(low, high, (width - LEFT - RIGHT) / LABEL_PX).map((tick) => ({ x: x(tick.time), text: tick.text }));
      const yTicks = (pane.ticks ?? ticks)(y.low, y.high, pane.height / TICK_PX);
      nodes.push(axes({
        y, yTicks, yText: pane.text ?? tickText(yTicks), left: LEFT, right: width - RIGHT,
        xLabels: isLast && t.length ? apart(labels, LEFT, width - RIGHT) : [], bottom: top + pane.height,
      }));
      // An inner svg cuts off what lies outside of the plot.
      const own = (value) => y(value) - top;
      const ownX = (value) => x(value) - LEFT;
      const floor = own(Math.max(y.low, Math.min(y.high, 0)));
      nodes.push(s("svg", { x: LEFT, y: top, width: Math.max(0, width - LEFT - RIGHT), height: pane.height },
        (pane.levels ?? []).map((level) => s("line", { class: `level ${level.tone}`, x1: ownX(level.from ?? low), x2: width, y1: own(level.value), y2: own(level.value) })),
        pane.series.map((one, i) => seriesNodes(one, ownX, own, part.t, values[i], floor)),
        pane.marks?.(ownX, own)));
      pane.series.forEach(() => scales.push(y));
      top += pane.height + PANE_GAP;
      column += pane.series.length;
    });
    const at = (i) => inside[i];
    return {
      nodes,
      pixels: inside.map((i) => x(part.t[i])),
      read: (i) => read?.(part.from + at(i)) ?? [stamp(part.t[at(i)]), ...all.map((one, k) => [one.name, (one.text ?? tickText([0, 0.01]))(part.columns[k][at(i)]), one.tone ?? "accent"])],
      mark: (i) => {
        const px = x(part.t[at(i)]);
        const dots = all.map((one, k) => part.columns[k][at(i)] !== null && part.columns[k][at(i)] !== undefined
          && s("circle", { class: `dot ${one.tone ?? ""}`, cx: px, cy: scales[k](part.columns[k][at(i)]), r: 4 }));
        return [s("line", { class: "cursor", x1: px, x2: px, y1: TOP, y2: height - BOTTOM }), dots];
      },
    };
  }

  function zoom(from, to) {
    if (from === undefined) domain = null;
    else domain = [Math.max(t[0], x.invert(from)), Math.min(t[t.length - 1], x.invert(to))];
  }

  const redraw = frame(host, { kind: "line", label, height, draw, zoom });
  return (nextT, nextColumns) => {
    [t, columns] = [nextT, nextColumns];
    redraw();
  };
}

/** Bars from zero: `{name, label, value, tone, lines}`, `lines` for the read-out. */
export function barChart(host, { label, height, text = null, least = 1 }) {
  let bars = [];

  function draw(width) {
    const bottom = height - BOTTOM;
    const y = linear(...extent(bars.map((bar) => bar.value), { zero: true, least }), bottom, TOP);
    const yTicks = ticks(y.low, y.high, (bottom - TOP) / TICK_PX);
    const slot = (width - LEFT - RIGHT) / Math.max(1, bars.length);
    const thick = Math.min(BAR_PX_MAX, Math.max(1, slot * 0.72));
    const pixels = bars.map((bar, i) => LEFT + slot * (i + 0.5));
    const labels = bars.map((bar, i) => ({ x: bar.edge ? LEFT + slot * i : pixels[i], text: bar.label ?? "" })).filter((one) => one.text);
    const rects = bars.map((bar, i) => {
      const [a, b] = [y(0), y(bar.value ?? 0)];
      return s("rect", { class: `bar-of ${bar.tone ?? ""}`, x: pixels[i] - thick / 2, width: thick, y: Math.min(a, b), height: Math.max(Math.abs(a - b), bar.value ? 1 : 0), rx: Math.min(2, thick / 3) });
    });
    return {
      nodes: [axes({ y, yTicks, yText: text ?? tickText(yTicks), left: LEFT, right: width - RIGHT, xLabels: apart(labels, LEFT, width - RIGHT), bottom }), rects],
      pixels,
      read: (i) => [bars[i].name, ...bars[i].lines],
      mark: (i) => s("rect", { class: "slot", x: pixels[i] - slot / 2, width: slot, y: TOP, height: bottom - TOP }),
    };
  }

  const redraw = frame(host, { kind: "bars", label, height, draw });
  return (next) => {
    bars = next;
    redraw();
  };
}

/**
 * Points with intervals on two percent axes and the diagonal on which both agree:
 * `{x, y, low, high, count, title, lines}`. The bars at the foot are the counts.
 */
export function scatterChart(host, { label, height, diagonal }) {
  const foot = 34;
  let points = [];

  function draw(width) {
    const bottom = height - BOTTOM;
    const low = Math.max(0, Math.floor(Math.min(50, ...points.map((one) => one.x)) / 10) * 10);
    const x = linear(low, 100, LEFT, width - RIGHT);
    const least = Math.floor(Math.min(low, ...points.map((one) => one.low)) / 10) * 10;
    const y = linear(least, 100, bottom - foot - 8, TOP);
    const yTicks = ticks(least, 100, (bottom - foot - TOP) / TICK_PX);
    const xTicks = ticks(low, 100, (width - LEFT) / LABEL_PX);
    const most = Math.max(1, ...points.map((one) => one.count));
    const xLabels = xTicks.map((value) => ({ x: x(value), text: `${value} %`, anchor: value === 100 ? "end" : "middle" }));
    const ends = [Math.max(low, least), 100];
    return {
      nodes: [
        axes({ y, yTicks, yText: (value) => `${value} %`, left: LEFT, right: width - RIGHT, xLabels, bottom }),
        s("line", { class: "diagonal", x1: x(ends[0]), y1: y(ends[0]), x2: x(ends[1]), y2: y(ends[1]) }),
        s("text", { x: x(100) - 8, y: y(100) + 30, "text-anchor": "end", class: "named" }, diagonal),
        points.map((one) => s("rect", { class: "bar-of quiet", x: x(one.x) - 12, width: 24, y: bottom - foot * (one.count / most), height: foot * (one.count / most), rx: 2 })),
        s("path", { class: "line", d: linePath(x, y, points.map((one) => one.x), points.map((one) => one.y)) }),
        points.map((one) => [
          s("line", { class: "interval", x1: x(one.x), x2: x(one.x), y1: y(one.low), y2: y(one.high) }),
          s("circle", { class: "dot", cx: x(one.x), cy: y(one.y), r: 4.5 }),
        ]),
      ],
      pixels: points.map((one) => x(one.x)),
      read: (i) => [points[i].title, ...points[i].lines],
      mark: (i) => [
        s("line", { class: "cursor", x1: x(points[i].x), x2: x(points[i].x), y1: TOP, y2: bottom }),
        s("circle", { class: "dot large", cx: x(points[i].x), cy: y(points[i].y), r: 6.5 }),
      ],
    };
  }

  const redraw = frame(host, { kind: "scatter", label, height, draw });
  return (next) => {
    points = next;
    redraw();
  };
}

/** An interval of percents on a scale from 0 to 100, small enough for a cell of a table. */
export function intervalMark(value, low, high) {
  const x = linear(0, 100, 3, 109);
  return h("span", { class: "interval-mark", "aria-hidden": "true" }, s("svg", { width: 112, height: 14 },
    s("line", { class: "grid", x1: 3, x2: 109, y1: 7, y2: 7 }),
    s("line", { class: "grid", x1: x(50), x2: x(50), y1: 2, y2: 12 }),
    value !== null && [
      s("line", { class: "interval", x1: x(low), x2: x(high), y1: 7, y2: 7 }),
      s("circle", { class: "dot", cx: x(value), cy: 7, r: 3 }),
    ]));
}
