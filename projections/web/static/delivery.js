// Delivery: its state, the parked signals with Alpine's answer, retry, and discard behind a dialog.
import { ask, isPast, send } from "./address.js";
import { $, fill, h, say } from "./dom.js";
import { clock, counted, int, plural, stamp } from "./format.js";
import { follow } from "./live.js";
import {
  a,
  deliveryTiles,
  figures,
  heading,
  quietRow,
  ready,
  refusalText,
  section,
  table,
} from "./parts.js";

export const TITLE = "Delivery";
const NOTE_MS = 4000; // until the table of parked signals is read again after an action
const STATES = {
  delivering: "Signals reach Alpine.",
  waiting: "Alpine does not answer; delivery goes on by itself.",
  refused: "Alpine refuses this sender: its key or its address is wrong.",
  rejecting: "Alpine rejects every signal; nothing more is parked.",
  disabled: "Delivery is switched off.",
  stopped: "No daemon delivers.",
};
const COLUMNS = [
  ["", "box"],
  ["Entry", "n"],
  ["Signal", "id mid"],
  ["Symbol", "mid"],
  ["Kind"],
  ["Status", "n"],
  ["Attempts", "n mid"],
  ["Since", "mid"],
  ["Next try", "mid"],
  ["Answer of Alpine", "answer"],
];

const strip = figures([
  ["state", "State"],
  ["lag", "Lag"],
  ["delivered", "Delivered"],
  ["parked", "Parked"],
]);
const parked = table(COLUMNS, [], { id: "parked", class: "rows" });
const every = h("input", {
  type: "checkbox",
  "aria-label": "All parked signals",
  change: () => tick(every.checked),
});
const retry = h(
  "button",
  { type: "button", class: "main", id: "retry", click: () => act("retry") },
  "Retry",
);
const discard = h(
  "button",
  { type: "button", class: "bad", id: "discard", click: askFirst },
  "Discard",
);
const note = h("p", { class: "end", role: "status", id: "note" });
const lead = h("span");

let isReadOnly = false;
let isDelivering = false;

export async function open(main) {
  fill($("th", parked.node), every);
  fill(
    main,
    heading("Delivery", lead),
    strip.node,
    section(
      "",
      "Parked signals",
      "Alpine does not take them; they block nothing",
      !isPast() && h("div", { class: "filters" }, retry, discard, note),
      h("div", { class: "scroll" }, parked.node),
    ),
  );
  showStatus(await ask("/api/status"));
  if (isPast()) fill(parked.body, quiet("Parked signals are not recorded: no history."));
  else await load();
  if (!isPast()) follow(onMessage);
  ready(main);
}

function onMessage({ event, body }) {
  if (event === "hello") showStatus(body.status);
  if (event === "status") showStatus(body);
}

let shownParked = null;

function showStatus({ delivery, read_only: readOnly }) {
  isReadOnly = readOnly;
  if (!delivery || isPast()) {
    const text = isPast() ? "no history" : "delivery is off";
    say(
      lead,
      isPast()
        ? "Lags, deliveries and parked signals are not recorded: no history."
        : STATES.disabled,
    );
    for (const key of ["state", "lag", "delivered", "parked"])
      strip.set(key, { text: "–", note: text });
    return;
  }
  isDelivering = delivery.daemon?.state === "running";
  const { state, delivered, parked: count } = delivery;
  const tiles = deliveryTiles(delivery);
  say(lead, [STATES[state] ?? state, delivery.last_error].filter(Boolean).join(" Last error: "));
  strip.set("state", {
    text: state,
    note: delivery.daemon?.state ? `daemon ${delivery.daemon.state}` : "",
  });
  strip.set("lag", tiles.lag);
  strip.set("delivered", { ...tiles.delivered, unit: plural(delivered, "signal") });
  strip.set("parked", { ...tiles.parked, unit: plural(count, "signal") });
  if (shownParked !== null && shownParked !== count) load();
  shownParked = count;
}

const quiet = (text) => quietRow(COLUMNS, text);

async function load() {
  const chosen = new Set(chosenSeqs());
  const found = await ask("/api/parked");
  fill(
    parked.body,
    found.parked.map((one) => parkedRow(one, chosen.has(one.seq))),
  );
  if (!found.parked.length) fill(parked.body, quiet("Nothing is parked."));
  showChoice();
}

const parkedRow = (one, isChosen) =>
  h(
    "tr",
    { "data-seq": one.seq },
    h(
      "td",
      { class: "box" },
      h("input", {
        type: "checkbox",
        value: one.seq,
        checked: isChosen,
        change: showChoice,
        "aria-label": `Entry ${one.seq}`,
      }),
    ),
    h("td", { class: "n" }, a(`/signals/${one.seq}`, int(one.seq))),
    h("td", { class: "id mono mid" }, one.signal_id),
    h("td", { class: "mid" }, one.symbol),
    h("td", {}, h("span", { class: `tag ${one.kind === "refused" ? "bad" : "warn"}` }, one.kind)),
    h("td", { class: "n" }, one.status ?? "–"),
    h("td", { class: "n mid" }, int(one.attempts)),
    h("td", { class: "mid" }, stamp(one.since)),
    h("td", { class: "mid soft" }, one.next_at ? clock(one.next_at) : "by hand"),
    h("td", { class: "answer soft" }, one.body ?? ""),
  );

const boxes = () => [...parked.body.querySelectorAll("input")];
const chosenSeqs = () =>
  boxes()
    .filter((box) => box.checked)
    .map((box) => Number(box.value));

function tick(isOn) {
  for (const box of boxes()) box.checked = isOn;
  showChoice();
}

function showChoice() {
  const [count, all] = [chosenSeqs().length, boxes().length];
  every.checked = count > 0 && count === all;
  every.indeterminate = count > 0 && count < all;
  every.disabled = all === 0;
  retry.disabled = discard.disabled = count === 0 || isReadOnly;
  say(retry, count ? `Retry ${int(count)}` : "Retry");
  say(discard, count ? `Discard ${int(count)}` : "Discard");
  if (isReadOnly) say(note, "This console is read-only.");
}

function askFirst() {
  const count = chosenSeqs().length;
  const signals = counted(count, "signal");
  const [text, keep] =
    count === 1
      ? [
          "It stays in the log. Alpine never receives it, and reconcile lists it as missing.",
          "Keep it",
        ]
      : [
          "They stay in the log. Alpine never receives them, and reconcile lists them as missing.",
          "Keep them",
        ];
  const dialog = h(
    "dialog",
    { "aria-labelledby": "sure", close: () => dialog.remove() },
    h("h2", { id: "sure" }, `Discard ${signals}?`),
    h("p", {}, text),
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", click: () => dialog.close() }, keep),
      h(
        "button",
        {
          type: "button",
          class: "bad",
          id: "sure-yes",
          click: () => {
            dialog.close();
            act("discard");
          },
        },
        `Discard ${signals}`,
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function askedText(action, asked) {
  const signals = counted(asked, "signal");
  if (action === "discard") return `${signals} given up.`;
  const when = isDelivering ? "" : " It does so when it runs.";
  return `Delivery was asked to send ${signals} again.${when}`;
}

async function act(action) {
  try {
    const { asked } = await send("/api/parked", { action, seqs: chosenSeqs() });
    say(note, askedText(action, asked));
    tick(false);
    await load();
    // The button that was pressed is switched off now: those who use the keyboard go on from here.
    if (document.activeElement === document.body || document.activeElement.disabled)
      (every.disabled ? $("#main") : every).focus();
    setTimeout(() => {
      say(note, "");
      load();
    }, NOTE_MS);
  } catch (error) {
    say(note, refusalText(error));
  }
}
