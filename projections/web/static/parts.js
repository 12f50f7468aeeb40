// Parts that several pages are made of.
import { Refusal, link } from "./address.js";
import { fill, h, say } from "./dom.js";
import {
  clock,
  date,
  int,
  num,
  plural,
  price,
  sentence,
  signed,
  span,
  stamp,
  words,
} from "./format.js";

/** Says that a page shows its data, which tests and the eye wait for. */
export function ready(main, isReady = true) {
  main.toggleAttribute("data-ready", isReady);
  main.setAttribute("aria-busy", String(!isReady));
}

/** The page in case that its data could not be had. */
export function failed(main, error) {
  const known = error instanceof Refusal;
  if (!known) console.error(error); // a fault of these pages, or no connection
  fill(
    main,
    h("h1", {}, known ? "This page cannot be shown" : "The console does not answer"),
    h("p", { class: "lead" }, known ? refusalText(error) : faultText(error)),
  );
  ready(main);
}

/** A refusal in sentences: what is wrong, and what to do. */
export const refusalText = (error) =>
  [error.message, error.todo].map(sentence).filter(Boolean).join(" ");

// The text of the browser where it has no connection does not help.
const faultText = (error) =>
  error instanceof TypeError && /fetch|network|load/i.test(error.message)
    ? "Check that eventlog web runs, then reload this page."
    : error.message;

/** A link with the as-of state of this page. */
export const a = (path, ...kids) => h("a", { href: link(path) }, ...kids);

/** Marks a node as the figure that a command prints as `path`. */
export const figured = (node, path, value) => {
  if (!path) return node;
  node.dataset.figure = path;
  node.dataset.value = JSON.stringify(value ?? null);
  return node;
};

/** Text in which `[path, value, text]` is a figure. It is replaced only where it differs. */
function setNote(node, note) {
  const parts = Array.isArray(note) ? note : [note];
  const text = parts.map((part) => (Array.isArray(part) ? part[2] : part)).join("");
  if (node.textContent === text) return;
  fill(
    node,
    parts.map((part) =>
      Array.isArray(part) ? figured(h("span", {}, part[2]), part[0], part[1]) : part,
    ),
  );
}

/**
 * A strip of figures. `set(key, {path, value, text, unit, note})` changes one; unit and note are
 * text, or a list of texts and `[path, value, text]`.
 */
export function figures(names) {
  const tiles = new Map(
    names.map(([key, title]) => [
      key,
      {
        title,
        node: null,
        value: h("b", {}, "–"),
        unit: h("span", {}),
        note: h("dd", { class: "note" }, " "),
      },
    ]),
  );
  const node = h(
    "dl",
    { class: "figures" },
    [...tiles.values()].map((tile) => {
      const parts = [h("dt", {}, tile.title), h("dd", {}, tile.value, tile.unit), tile.note];
      tile.node = h("div", {}, ...parts);
      return tile.node;
    }),
  );
  function set(key, { path = null, value = null, text, unit = "", note = "" }) {
    const tile = tiles.get(key);
    say(tile.value, text);
    setNote(tile.unit, unit);
    setNote(tile.note, note);
    figured(tile.value, path, value);
  }
  const show = (key, isShown) => {
    tiles.get(key).node.hidden = !isShown;
  };
  return { node, set, show };
}

/** The tiles of delivery, on Overview and Delivery. */
export const deliveryTiles = (delivery) => {
  const { lag_entries: lag, delivered, parked, failing } = delivery;
  return {
    lag: {
      path: "delivery.lag_entries",
      value: lag,
      text: int(lag),
      unit: plural(lag, "entry"),
      note: lag ? `oldest waits ${span(delivery.lag_seconds)}` : "nothing waits",
    },
    delivered: { path: "delivery.delivered", value: delivered, text: int(delivered) },
    parked: {
      path: "delivery.parked",
      value: parked,
      text: int(parked),
      note: parked ? `${int(failing)} retried automatically` : "none",
    },
  };
};

/** The title of a page with a sentence below it, and what stands beside them. */
export const heading = (title, lead, ...kids) =>
  h("div", { class: "head" }, h("div", {}, h("h1", {}, title), h("p", { class: "lead" }, lead)), kids);

export const section = (size, title, note, ...kids) =>
  h(
    "section",
    { class: size },
    h("div", { class: "titled" }, h("h2", {}, title), note && h("p", {}, note)),
    ...kids,
  );

/** A table: `columns` are [title, class] pairs, the class `n` is for figures. */
export function table(columns, rows, props = {}) {
  const body = h("tbody", {}, rows);
  const head = columns.map(([title, kind]) => h("th", { scope: "col", class: kind }, title));
  const node = h("table", props, h("thead", {}, h("tr", {}, head)), body);
  return { node, body };
}

/** The row of a table that has no others. */
export const quietRow = (columns, text) =>
  h("tr", {}, h("td", { colspan: columns.length, class: "quiet" }, text));

/** The figures of a chart as a table, made when it is opened. */
export function asTable(title, columns, rows) {
  const details = h(
    "details",
    {
      class: "figures-of",
      toggle: () => {
        const box = details.lastElementChild;
        if (!details.open) return;
        fill(
          box,
          table(
            columns,
            rows().map((row) =>
              h(
                "tr",
                {},
                row.map((cell, i) => h("td", { class: columns[i][1] }, cell)),
              ),
            ),
          ).node,
        );
      },
    },
    h("summary", {}, "Table", h("span", { class: "unseen" }, ` of ${title}`)),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }),
  );
  return details;
}

/** Every nth point of a long series, the last one included. */
export function sampled(count, most = 120) {
  const step = Math.max(1, Math.ceil(count / most));
  const found = [];
  for (let i = count - 1; i >= 0; i -= step) found.push(i);
  return found;
}

export const side = (action) =>
  h("span", { class: "side" }, { BUY: "Buy", SELL: "Sell" }[action] ?? action);

const TONES = { win: "good", loss: "bad" };

export const outcome = (row) =>
  row.outcome
    ? h("span", { class: `tag ${TONES[row.outcome] ?? ""}` }, row.outcome)
    : h("span", { class: "faint" }, row.state && row.state !== "signal" ? row.state : "open");

export const gain = (value, digits = 2) =>
  h(
    "span",
    { class: value > 0 ? "plus" : value < 0 ? "minus" : "faint" },
    value === null || value === undefined ? "–" : `${signed(value, digits)} %`,
  );

export const time = (value, withMillis = false) =>
  h(
    "time",
    { datetime: value },
    h("span", { class: "day" }, `${date(value)} `),
    clock(value, withMillis),
  );

// RFC 3339 with an offset, as the log has every time.
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;
const isTime = (name, value) => /(_at|timestamp)$/.test(name) && TIME.test(value);

/** One value of a payload. */
export function shown(name, value) {
  if (isTime(name, value)) return stamp(value);
  if (typeof value === "number") return /price/.test(name) ? price(value) : String(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

function content(row) {
  if (row.event !== "signal") {
    // Times stand last: what is cut off is not the price.
    const found = Object.entries(row.detail ?? {});
    const ordered = [false, true].flatMap((last) => found.filter((one) => isTime(...one) === last));
    const parts = ordered.map(([name, value]) => `${words(name)} ${shown(name, value)}`);
    return h("span", { class: "soft" }, parts.join(", "));
  }
  return [
    side(row.action),
    " ",
    h("b", {}, row.symbol),
    ` at ${price(row.entry_price)}`,
    h(
      "span",
      { class: "soft" },
      `, target ${price(row.target_price)}, stop ${price(row.stop_price)}, ${num(row.confidence, 1)} %, ${row.strategy}`,
    ),
  ];
}

export const LOG_COLUMNS = [["Entry", "n"], ["Recorded"], ["Event"], ["Content"], ["Signal", "id"]];

/** One entry of the log; `isFresh` lets it fade in. */
export function logRow(row, isFresh = false) {
  const id = row.signal_id ?? "";
  return h(
    "tr",
    { "data-seq": row.seq, class: isFresh && "fresh" },
    h(
      "td",
      { class: "n" },
      row.event === "signal" ? a(`/signals/${row.seq}`, int(row.seq)) : int(row.seq),
    ),
    h("td", { class: "at" }, time(row.at, true)),
    h(
      "td",
      { class: "kind" },
      h("span", { class: `tag ${row.event === "signal" ? "new" : ""}` }, row.event),
    ),
    h("td", { class: "says" }, content(row)),
    h(
      "td",
      { class: `id mono ${row.event === "signal" ? "own" : ""}`, title: id },
      // A fact leads to its signal, which the log knows by its id only.
      id && row.event !== "signal" ? h("a", { href: link("/signals", { signal_id: id }) }, id) : id,
    ),
  );
}
