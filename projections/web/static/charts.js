// Bars, and points with intervals. Drawn as SVG with classes, so that the colours follow the theme.
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
import { h, s } from "./dom.js";
import { linear, tickText, ticks } from "./scales.js";

const BAR_PX_MAX = 30;

/** Bars from zero: `{name, label, value, tone, lines}`, `lines` for the read-out. */
export function barChart(host, { label, height, text = null, least = 1 }) {
  let bars = [];

  function draw(width) {
    const bottom = height - BOTTOM;
    const y = linear(
      ...extent(
        bars.map((bar) => bar.value),
        { zero: true, least },
      ),
      bottom,
      TOP,
    );
    const yTicks = ticks(y.low, y.high, (bottom - TOP) / TICK_PX);
    const slot = (width - LEFT - RIGHT) / Math.max(1, bars.length);
    const thick = Math.min(BAR_PX_MAX, Math.max(1, slot * 0.72));
    const pixels = bars.map((bar, i) => LEFT + slot * (i + 0.5));
    const labels = bars
      .map((bar, i) => ({ x: bar.edge ? LEFT + slot * i : pixels[i], text: bar.label ?? "" }))
      .filter((one) => one.text);
    const rects = bars.map((bar, i) => {
      const [a, b] = [y(0), y(bar.value ?? 0)];
      return s("rect", {
        class: `bar-of ${bar.tone ?? ""}`,
        x: pixels[i] - thick / 2,
        width: thick,
        y: Math.min(a, b),
        height: Math.max(Math.abs(a - b), bar.value ? 1 : 0),
        rx: Math.min(2, thick / 3),
      });
    });
    return {
      nodes: [
        axes({
          y,
          yTicks,
          yText: text ?? tickText(yTicks),
          left: LEFT,
          right: width - RIGHT,
          xLabels: apart(labels, LEFT, width - RIGHT),
          bottom,
        }),
        rects,
      ],
      pixels,
      read: (i) => [bars[i].name, ...bars[i].lines],
      mark: (i) =>
        s("rect", {
          class: "slot",
          x: pixels[i] - slot / 2,
          width: slot,
          y: TOP,
          height: bottom - TOP,
        }),
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
    const xLabels = xTicks.map((value) => ({
      x: x(value),
      text: `${value} %`,
      anchor: value === 100 ? "end" : "middle",
    }));
    const ends = [Math.max(low, least), 100];
    return {
      nodes: [
        axes({
          y,
          yTicks,
          yText: (value) => `${value} %`,
          left: LEFT,
          right: width - RIGHT,
          xLabels,
          bottom,
        }),
        s("line", {
          class: "diagonal",
          x1: x(ends[0]),
          y1: y(ends[0]),
          x2: x(ends[1]),
          y2: y(ends[1]),
        }),
        s(
          "text",
          { x: x(100) - 8, y: y(100) + 30, "text-anchor": "end", class: "named" },
          diagonal,
        ),
        points.map((one) =>
          s("rect", {
            class: "bar-of quiet",
            x: x(one.x) - 12,
            width: 24,
            y: bottom - foot * (one.count / most),
            height: foot * (one.count / most),
            rx: 2,
          }),
        ),
        s("path", {
          class: "line",
          d: linePath(
            x,
            y,
            points.map((one) => one.x),
            points.map((one) => one.y),
          ),
        }),
        points.map((one) => [
          s("line", {
            class: "interval",
            x1: x(one.x),
            x2: x(one.x),
            y1: y(one.low),
            y2: y(one.high),
          }),
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
  return h(
    "span",
    { class: "interval-mark", "aria-hidden": "true" },
    s(
      "svg",
      { width: 112, height: 14 },
      s("line", { class: "grid", x1: 3, x2: 109, y1: 7, y2: 7 }),
      s("line", { class: "grid", x1: x(50), x2: x(50), y1: 2, y2: 12 }),
      value !== null && [
        s("line", { class: "interval", x1: x(low), x2: x(high), y1: 7, y2: 7 }),
        s("circle", { class: "dot", cx: x(value), cy: 7, r: 3 }),
      ],
    ),
  );
}
