// Lines over time. Drawn as SVG with classes, so that the colours follow the theme.
import { frame } from "./chart_frame.js";
import {
  BOTTOM,
  LABEL_PX,
  LEFT,
  RIGHT,
  TICK_PX,
  TOP,
  apart,
  axes,
  extent,
  linePath,
} from "./chart_parts.js";
import { s } from "./dom.js";
import { stamp } from "./format.js";
import { linear, tickText, ticks, timeTicks } from "./scales.js";

const PANE_GAP = 18;
const ROOM = 0.015; // of the width

function seriesNodes(one, x, y, t, values, floor) {
  const path = linePath(x, y, t, values);
  if (!path) return [];
  const line = s("path", { class: `line ${one.tone ?? ""}`, d: path });
  if (!one.area) return [line];
  const area = `${path}L${x(t[t.length - 1]).toFixed(1)} ${floor}L${x(t[0]).toFixed(1)} ${floor}Z`;
  return [s("path", { class: `area ${one.tone ?? ""}`, d: area }), line];
}

/** The part of a series between two times, with one point more at either side. */
function visible(t, columns, low, high) {
  let [from, to] = [0, t.length];
  while (from < to - 1 && t[from + 1] < low) from += 1;
  while (to > from + 1 && t[to - 2] > high) to -= 1;
  return { t: t.slice(from, to), columns: columns.map((one) => one.slice(from, to)), from };
}

/**
 * Lines over time in one or more panes that share the axis. A pane is
 * `{height, series, ticks, text, zero, least, levels, marks}`; a series is `{name, tone, area}`. Returns `set(t, columns)`, where
 * t are seconds and the columns belong to the series in their order.
 */
export function timeChart(host, { label, panes, read = null }) {
  let [t, columns, domain] = [[], [], null];
  const height =
    TOP +
    panes.reduce((sum, pane) => sum + pane.height, 0) +
    PANE_GAP * (panes.length - 1) +
    BOTTOM;
  const all = panes.flatMap((pane) => pane.series.map((one) => ({ ...one, text: pane.text })));
  let x = null;

  function draw(width) {
    const [low, high] = domain ?? whole();
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
      const labels = timeTicks(low, high, (width - LEFT - RIGHT) / LABEL_PX).map((tick) => ({
        x: x(tick.time),
        text: tick.text,
      }));
      const yTicks = (pane.ticks ?? ticks)(y.low, y.high, pane.height / TICK_PX);
      nodes.push(
        axes({
          y,
          yTicks,
          yText: pane.text ?? tickText(yTicks),
          left: LEFT,
          right: width - RIGHT,
          xLabels: isLast && t.length ? apart(labels, LEFT, width - RIGHT) : [],
          bottom: top + pane.height,
        }),
      );
      // An inner svg cuts off what lies outside of the plot.
      const own = (value) => y(value) - top;
      const ownX = (value) => x(value) - LEFT;
      const floor = own(Math.max(y.low, Math.min(y.high, 0)));
      nodes.push(
        s(
          "svg",
          { x: LEFT, y: top, width: Math.max(0, width - LEFT - RIGHT), height: pane.height },
          (pane.levels ?? []).map((level) =>
            s("line", {
              class: `level ${level.tone}`,
              x1: ownX(level.from ?? low),
              x2: width,
              y1: own(level.value),
              y2: own(level.value),
            }),
          ),
          pane.series.map((one, i) => seriesNodes(one, ownX, own, part.t, values[i], floor)),
          pane.marks?.(ownX, own),
        ),
      );
      pane.series.forEach(() => scales.push(y));
      top += pane.height + PANE_GAP;
      column += pane.series.length;
    });
    const at = (i) => inside[i];
    return {
      nodes,
      pixels: inside.map((i) => x(part.t[i])),
      read: (i) =>
        read?.(part.from + at(i)) ?? [
          stamp(part.t[at(i)]),
          ...all.map((one, k) => [
            one.name,
            (one.text ?? tickText([0, 0.01]))(part.columns[k][at(i)]),
            one.tone ?? "accent",
          ]),
        ],
      mark: (i) => {
        const px = x(part.t[at(i)]);
        const dots = all.map(
          (one, k) =>
            part.columns[k][at(i)] !== null &&
            part.columns[k][at(i)] !== undefined &&
            s("circle", {
              class: `dot ${one.tone ?? ""}`,
              cx: px,
              cy: scales[k](part.columns[k][at(i)]),
              r: 4,
            }),
        );
        return [s("line", { class: "cursor", x1: px, x2: px, y1: TOP, y2: height - BOTTOM }), dots];
      },
    };
  }

  /** All of the time, with room for half a mark at both ends where points are marked. */
  function whole() {
    const [first, last] = [t[0] ?? 0, t[t.length - 1] ?? 1];
    const room = panes.some((pane) => pane.marks) ? ROOM * (last - first) : 0;
    return [first - room, last + room];
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
