// The price ladder: stop, entry, target, fill and exits of one signal on one scale.
import { h, s } from "./dom.js";
import { price } from "./format.js";
import { linear } from "./scales.js";

const HEIGHT = 96;
const MIDDLE = 46;
const SIDE = 34;

/** Draws the ladder of a row and its facts; it follows the width of its place. */
export function ladder(row, facts) {
  const exits = facts
    .filter((one) => one.event === "reduced" && !one.voided_by)
    .map((one) => one.detail.exit_price);
  const host = h("div", { class: "ladder", role: "img", "aria-label": describe(row) });
  const draw = () => host.replaceChildren(picture(row, exits, host.clientWidth || 600));
  new ResizeObserver(draw).observe(host);
  return host;
}

function describe(row) {
  const parts = [
    `stop ${price(row.stop_price)}`,
    `entry ${price(row.entry_price)}`,
    `target ${price(row.target_price)}`,
  ];
  if (row.exit_price !== null) parts.push(`exit ${price(row.exit_price)}`);
  return `Levels: ${parts.join(", ")}`;
}

function picture(row, exits, width) {
  const { stop_price: stop, entry_price: entry, target_price: target, exit_price: exit } = row;
  const values = [stop, entry, target, exit, ...exits].filter((value) => value !== null);
  const x = linear(Math.min(...values), Math.max(...values), SIDE, width - SIDE);
  const zone = (from, to, tone) =>
    s("rect", {
      class: `zone ${tone}`,
      x: Math.min(x(from), x(to)),
      width: Math.abs(x(to) - x(from)),
      y: MIDDLE - 9,
      height: 18,
      rx: 3,
    });
  const level = (name, value) => [
    s("line", { class: "tick", x1: x(value), x2: x(value), y1: MIDDLE - 13, y2: MIDDLE + 13 }),
    s("text", { class: "named", x: x(value), y: MIDDLE + 29, "text-anchor": "middle" }, name),
    s(
      "text",
      { class: "value", x: x(value), y: MIDDLE + 44, "text-anchor": "middle" },
      price(value),
    ),
  ];
  const tone = row.profit_loss_pct < 0 ? "bad" : "accent";
  const label = (at) => Math.max(SIDE + 14, Math.min(width - SIDE - 14, at));
  return s(
    "svg",
    { width, height: HEIGHT, "aria-hidden": "true" },
    s("line", { class: "grid", x1: 0, x2: width, y1: MIDDLE, y2: MIDDLE }),
    zone(stop, entry, "bad"),
    zone(entry, target, "accent"),
    exit !== null &&
      s("line", { class: `path ${tone}`, x1: x(entry), x2: x(exit), y1: MIDDLE, y2: MIDDLE }),
    level("stop", stop),
    level("entry", entry),
    level("target", target),
    exits.map((value) => s("circle", { class: "part", cx: x(value), cy: MIDDLE, r: 4 })),
    exit !== null && [
      s("circle", { class: `exit ${tone}`, cx: x(exit), cy: MIDDLE, r: 6 }),
      s(
        "text",
        { class: "value", x: label(x(exit)), y: 16, "text-anchor": "middle" },
        `exit ${price(exit)}`,
      ),
    ],
  );
}
