// The frame of every chart: size, cursor by pointer and keyboard, the read-out, zoom by dragging.
//
// To assistive technology a chart is a slider over its points: the arrow keys move the cursor, and
// the value is read. The table beside the chart has all figures.
import { fill, h, s } from "./dom.js";

const DRAG_PX_MIN = 6;

/** The index of the sorted pixel that is nearest. */
function nearest(pixels, pixel) {
  let [low, high] = [0, pixels.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pixels[middle] < pixel) low = middle + 1;
    else high = middle;
  }
  return low > 0 && pixel - pixels[low - 1] < pixels[low] - pixel ? low - 1 : low;
}

/**
 * Shows a chart in `host`. `draw(width)` returns its picture: `{nodes, pixels, read, mark}`, where
 * pixels are the places of the points from left to right, `read(i)` is what the read-out says,
 * `[title, [name, text, tone]...]`, and `mark(i)` are nodes at the cursor. `zoom(from, to)` takes
 * two pixels, or nothing for the whole. Returns a function that draws it anew.
 */
export function frame(host, { kind, label, height, draw, zoom = null }) {
  const layers = ["g", "g", "g"].map((tag) => s(tag));
  const [picture, cursor, selection] = layers;
  const svg = s("svg", { height, "aria-hidden": "true" }, layers);
  const tip = h("div", { class: "tip", "aria-hidden": "true", hidden: true });
  const plot = h(
    "div",
    {
      class: "plot",
      tabindex: 0,
      role: "slider",
      "data-chart": kind,
      "aria-label": label,
      "aria-valuemin": 0,
    },
    svg,
    tip,
  );
  const whole =
    zoom &&
    h("button", { type: "button", class: "whole", hidden: true, click: () => zoomTo() }, "Whole");
  fill(host, plot, whole);
  host.classList.add("chart");

  let shown = { pixels: [] };
  let index = -1;
  let dragFrom = null;
  let width = 0;

  function redraw() {
    width = host.clientWidth;
    if (!width) return;
    svg.setAttribute("width", width);
    shown = draw(width);
    fill(picture, shown.nodes);
    plot.setAttribute("aria-valuemax", Math.max(0, shown.pixels.length - 1));
    point(Math.min(index, shown.pixels.length - 1));
    if (index < 0) describe(shown.pixels.length - 1);
  }

  function describe(i) {
    plot.setAttribute("aria-valuenow", Math.max(0, i));
    const [title, ...lines] = i < 0 ? ["no data"] : shown.read(i);
    plot.setAttribute(
      "aria-valuetext",
      [title, ...lines.map(([name, text]) => `${name} ${text}`)].join(", "),
    );
  }

  function point(i) {
    index = i;
    tip.hidden = i < 0;
    if (i < 0) {
      fill(cursor);
      return;
    }
    const x = shown.pixels[i];
    const [title, ...lines] = shown.read(i);
    fill(cursor, shown.mark(i));
    fill(
      tip,
      h("b", {}, title),
      h(
        "dl",
        {},
        lines.map(([name, text, tone]) => [
          h("dt", { class: tone && `key ${tone}` }, name),
          h("dd", {}, text),
        ]),
      ),
    );
    const left = x > width / 2 ? x - tip.offsetWidth - 12 : x + 12;
    const inside = Math.max(0, Math.min(left, width - tip.offsetWidth));
    tip.style.transform = `translate(${Math.round(inside)}px, 4px)`;
    describe(i);
  }

  function zoomTo(from, to) {
    zoom(from, to);
    whole.hidden = from === undefined;
    if (whole.hidden && document.activeElement === whole) plot.focus();
    index = -1;
    redraw();
  }

  function select(from, to) {
    fill(
      selection,
      from !== null &&
        s("rect", {
          x: Math.min(from, to),
          width: Math.abs(to - from),
          y: 0,
          height,
          class: "selection",
        }),
    );
  }

  const place = (event) => event.clientX - plot.getBoundingClientRect().left;
  plot.addEventListener("pointerdown", (event) => {
    if (zoom && event.button === 0) dragFrom = place(event);
  });
  plot.addEventListener("pointermove", (event) => {
    const x = place(event);
    point(shown.pixels.length ? nearest(shown.pixels, x) : -1);
    if (dragFrom === null || Math.abs(x - dragFrom) < DRAG_PX_MIN) return;
    plot.setPointerCapture(event.pointerId);
    select(dragFrom, x);
  });
  plot.addEventListener("pointerup", (event) => {
    const [from, to] = [dragFrom, place(event)];
    dragFrom = null;
    select(null);
    if (from !== null && Math.abs(to - from) >= DRAG_PX_MIN)
      zoomTo(Math.min(from, to), Math.max(from, to));
  });
  plot.addEventListener("pointercancel", () => {
    dragFrom = null;
    select(null);
  });
  plot.addEventListener("pointerleave", () => document.activeElement !== plot && point(-1));
  plot.addEventListener("dblclick", () => zoom && zoomTo());
  plot.addEventListener(
    "focus",
    () => plot.matches(":focus-visible") && index < 0 && point(shown.pixels.length - 1),
  );
  plot.addEventListener("blur", () => point(-1));
  plot.addEventListener("keydown", (event) => {
    const last = shown.pixels.length - 1;
    const page = Math.max(1, Math.round(last / 10));
    const from = index < 0 ? last : index;
    const moves = {
      ArrowLeft: -1,
      ArrowDown: -1,
      ArrowRight: 1,
      ArrowUp: 1,
      PageDown: -page,
      PageUp: page,
      Home: -last,
      End: last,
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves && last >= 0)
      point(Math.max(0, Math.min(last, from + moves[event.key])));
    else if (event.key === "Escape") zoom ? zoomTo() : point(-1);
    else if (zoom && (event.key === "+" || event.key === "="))
      zoomTo(shown.pixels[from] - width / 4, shown.pixels[from] + width / 4);
    else if (zoom && event.key === "-") zoomTo();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => host.clientWidth !== width && redraw()).observe(host);
  redraw();
  return redraw;
}
