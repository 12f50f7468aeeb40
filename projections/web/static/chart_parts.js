// Parts of every chart: margins, the extent of values, paths and axes.
import { s } from "./dom.js";

export const TOP = 10;
export const BOTTOM = 26; // for the labels of x
export const LEFT = 56; // for the labels of y
export const RIGHT = 10;
export const TICK_PX = 44; // between two horizontal lines, about
export const LABEL_PX = 76; // between two labels of time, about

export function extent(values, { zero = false, pad = 0.06, least = 0 } = {}) {
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

export function linePath(x, y, t, values) {
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

/** Horizontal lines with their labels at the left, and the labels under the plot. */
export function axes({ y, yTicks, yText, left, right, xLabels, bottom }) {
  const lines = yTicks.map((value) => [
    s("line", {
      class: value === 0 ? "zero" : "grid",
      x1: left,
      x2: right,
      y1: y(value),
      y2: y(value),
    }),
    s("text", { x: left - 10, y: y(value) + 4, "text-anchor": "end" }, yText(value)),
  ]);
  const labels = (xLabels ?? []).map(({ x, text, anchor }) =>
    s("text", { x, y: bottom + 18, "text-anchor": anchor ?? "middle" }, text),
  );
  return [lines, labels];
}

/** Labels under the plot without those that would run into the one before, or out of the plot. */
export function apart(labels, left, right) {
  const found = [];
  let end = -Infinity;
  for (const one of labels) {
    const half = 3.6 * one.text.length;
    if (one.x - half < end + 12 || one.x + half > right + 8 || one.x - half < left - 8) continue;
    found.push(one);
    end = one.x + half;
  }
  return found;
}
