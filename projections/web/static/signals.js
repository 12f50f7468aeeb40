// Signals: the filters of `eventlog signals`, kept in the address, and paging by entry number.
import { asker, change, link, query } from "./address.js";
import { $, fill, h, say } from "./dom.js";
import { counted, int, percent, price } from "./format.js";
import {
  a,
  gain,
  heading,
  outcome,
  quietRow,
  ready,
  refusalText,
  side,
  table,
  time,
} from "./parts.js";

export const TITLE = "Signals";
const PAGE_ROWS = 50;
const TYPING_MS = 250; // a pause in typing before the question is asked
const FILTERS = ["signal_id", "symbol", "strategy", "action", "outcome", "since", "until"];
const COLUMNS = [
  ["Entry", "n"],
  ["Decided"],
  ["Symbol"],
  ["Side"],
  ["Price", "n"],
  ["Target", "n wide"],
  ["Stop", "n wide"],
  ["Confidence", "n wide"],
  ["Strategy", "mid"],
  ["Outcome"],
  ["Return", "n"],
];

const askNewest = asker();
const askCount = asker();
const signals = table(COLUMNS, [], { id: "signals", class: "rows" });
const found = h("p", { class: "end", id: "found", role: "status" });
const range = h("p", { class: "end", id: "range" });
const pageLink = (id, text) => h("a", { class: "button", id, href: "/signals", click: turn }, text);
const [newest, older] = [pageLink("newest", "Newest"), pageLink("older", "Older")];

const choice = (name, title, options) =>
  h(
    "label",
    {},
    title,
    h(
      "select",
      { name },
      options.map(([value, text]) => h("option", { value }, text)),
    ),
  );
const field = (name, title, props) =>
  h("label", {}, title, h("input", { name, autocomplete: "off", ...props }));

const form = h(
  "form",
  {
    class: "filters",
    role: "search",
    "aria-label": "Filters",
    input: type,
    submit: (event) => event.preventDefault(),
  },
  field("signal_id", "Signal id", { size: 18, maxLength: 128, placeholder: "any" }),
  field("symbol", "Symbol", { size: 9, placeholder: "any" }),
  field("strategy", "Strategy", { size: 14, placeholder: "any" }),
  choice("action", "Side", [
    ["", "both"],
    ["BUY", "buy"],
    ["SELL", "sell"],
  ]),
  choice("outcome", "Outcome", [
    ["", "any"],
    ...["open", "win", "loss", "breakeven", "expired"].map((name) => [name, name]),
  ]),
  field("since", "Decided since", { type: "date" }),
  field("until", "Before", { type: "date" }),
  h("button", { type: "button", id: "clear", click: clear }, "Clear"),
  found,
);

let timer = 0;

export async function open(main) {
  fill(
    main,
    heading("Signals", "In the order of the log, newest first."),
    form,
    signals.node,
    h("div", { class: "pager" }, newest, older, range),
  );
  await show();
}

/** Shows what the address says. */
export async function show() {
  ready($("#main"), false);
  const now = query();
  for (const name of FILTERS) {
    const input = form.elements[name];
    // Not while typing: the answer to an earlier letter must not take the next one away.
    if (input !== document.activeElement) input.value = now.get(name) ?? "";
  }
  const params = Object.fromEntries(
    [...FILTERS, "before"].filter((name) => now.get(name)).map((name) => [name, now.get(name)]),
  );
  for (const name of ["since", "until"])
    if (params[name]) params[name] = `${params[name]}T00:00:00Z`;
  try {
    const answer = await askNewest("/api/signals", { limit: PAGE_ROWS, ...params });
    if (!answer) return;
    draw(answer);
    showTotal(answer, params);
  } catch (error) {
    fill(signals.body, quiet(refusalText(error)));
  }
  ready($("#main"));
}

const quiet = (text) => quietRow(COLUMNS, text);

function draw(answer) {
  const { rows, next, total, complete } = answer;
  fill(signals.body, rows.map(signalRow));
  if (!rows.length)
    fill(
      signals.body,
      quiet(
        complete
          ? "No signal matches."
          : `None of the signals back to entry ${int(answer.searched_to)} match.`,
      ),
    );
  enable(older, next !== null, { before: next });
  enable(newest, query().has("before"), { before: "" });
  say(older, complete || rows.length ? "Older" : "Search further back");
  const [first, last] = [rows.at(-1)?.id, rows[0]?.id].map(int);
  const shown = first === last ? `entry ${last}` : `entries ${first} to ${last}`;
  say(range, rows.length ? shown : "");
}

let counting = { filters: null, text: "" }; // the last count of a filter

/** How many signals there are. Those of a filter are counted while their page is shown. */
async function showTotal({ total, complete, searched_to: reached }, { before, ...params }) {
  if (total !== null) return say(found, counted(total, "signal"));
  if (!complete) return say(found, `searched back to entry ${int(reached)}`);
  const filters = JSON.stringify(params);
  if (counting.filters !== filters) {
    say(found, "counting");
    const answer = await askCount("/api/signals/count", params).catch(() => ({ count: null }));
    if (!answer) return undefined; // for a later question
    const text = counted(answer.count, "signal");
    const more = answer.complete ? text : `${int(answer.count)}+ signals`;
    counting = { filters, text: answer.count === null ? "" : more };
  }
  return say(found, counting.text);
}

// The classes in-... are the places of a cell where a row is two lines, on phones.
const signalRow = (row) =>
  h(
    "tr",
    { "data-seq": row.id },
    h("td", { class: "n in-seq" }, a(`/signals/${row.id}`, int(row.id))),
    h("td", { class: "in-at" }, time(row.timestamp)),
    h("td", { class: "side in-symbol" }, row.symbol),
    h("td", { class: "in-side" }, side(row.action)),
    h("td", { class: "n in-price" }, price(row.entry_price)),
    h("td", { class: "n soft wide" }, price(row.target_price)),
    h("td", { class: "n soft wide" }, price(row.stop_price)),
    h("td", { class: "n wide" }, percent(row.confidence)),
    h("td", { class: "cut mid" }, row.strategy),
    h("td", { class: "in-outcome" }, outcome(row)),
    h("td", { class: "n in-gain" }, row.profit_loss_pct === null ? "" : gain(row.profit_loss_pct)),
  );

/** A page link leads somewhere or is switched off. */
function enable(node, isOn, params) {
  node.setAttribute("aria-disabled", String(!isOn));
  if (!isOn) {
    node.removeAttribute("href");
    return;
  }
  const now = Object.fromEntries(query());
  const wanted = Object.entries({ ...now, ...params }).filter(([, value]) => value !== "");
  node.href = link("/signals", Object.fromEntries(wanted));
}

function turn(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || !event.currentTarget.href) return;
  event.preventDefault();
  const { searchParams } = new URL(event.currentTarget.href);
  change({ before: searchParams.get("before") }, { push: true });
  show().then(() => scrollTo(0, 0));
}

function type({ target }) {
  clearTimeout(timer);
  timer = setTimeout(
    () => {
      const value =
        target.name === "symbol" ? target.value.trim().toUpperCase() : target.value.trim();
      change({ [target.name]: value, before: "" }, { push: true });
      show();
    },
    target.tagName === "SELECT" ? 0 : TYPING_MS,
  );
}

function clear() {
  for (const name of FILTERS) form.elements[name].value = "";
  change({ ...Object.fromEntries(FILTERS.map((name) => [name, ""])), before: "" }, { push: true });
  show();
}
