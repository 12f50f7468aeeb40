// Signal: what `eventlog show` prints, the prices that the log itself saw, and its chain,
// recomputed in this browser.
import { Refusal, ask, askFile, isPast, link } from "./address.js";
import { fill, h, s } from "./dom.js";
import { capital, counted, int, millis, num, plain, price, span, stamp, words } from "./format.js";
import { ladder } from "./ladder.js";
import { a, asTable, gain, outcome, ready, refusalText, section, shown } from "./parts.js";
import { timeChart } from "./time_chart.js";

export const TITLE = "Signal";
const LEVELS = [
  ["target_price", "accent"],
  ["stop_price", "bad"],
];

export async function open(main) {
  const seq = Number(location.pathname.split("/").pop());
  const found = await ask(`/api/signals/${seq}`);
  const { row } = found.signal;
  document.title = plain(`${row.symbol} ${row.action.toLowerCase()}, entry ${seq} · eventlog`);
  const [priceHost, proof] = [
    h("div", {}),
    h("p", { id: "proof", role: "status" }, "Computing the chain"),
  ];
  let prices = [];
  const priceTable = asTable(
    `prices of ${row.symbol}`,
    [["Recorded"], ["Kind"], ["Price", "n"], ["Entry", "n"]],
    () =>
      [...prices].reverse().map((one) => [stamp(one.at), one.kind, price(one.price), int(one.seq)]),
  );
  fill(
    main,
    heading(found),
    h(
      "div",
      { class: "grid" },
      section("less", "Life", null, life(found.signal)),
      h(
        "section",
        { class: "more" },
        h("div", { class: "titled" }, h("h2", {}, "Levels"), h("p", {}, rewardText(row))),
        ladder(row, found.signal.facts),
        h(
          "div",
          { class: "titled over" },
          h("h2", {}, `${row.symbol} in this log`),
          h("p", {}, "prices of the signals around this one"),
        ),
        priceHost,
        priceTable,
      ),
      section(
        "less",
        "Signal",
        null,
        keys({
          strategy: row.strategy,
          confidence: `${num(row.confidence, 1)} %`,
          asset_type: row.asset_type,
          data_source: row.data_source,
          order_id: row.order_id,
          fill_price: row.fill_price,
          exit_price: row.exit_price,
        }),
      ),
      section(
        "less",
        "Alpine",
        null,
        found.signal.alpine ? keys(found.signal.alpine) : h("p", { class: "quiet" }, "no history"),
      ),
      section("less", "Further keys", null, keys(found.further_keys)),
      found.signal.conflicts.length > 0 &&
        section("all", "Conflicts", "entries that did not fit", conflicts(found.signal.conflicts)),
      section(
        "all",
        "Chain",
        `entry ${int(seq)}`,
        proof,
        chainList(found.chain),
        h(
          "pre",
          { class: "mono", id: "line", tabindex: 0, "aria-label": "The line of this signal" },
          found.chain.line,
        ),
      ),
      section("all", "Proof", "for an outsider, who trusts nobody here", signed(found, seq)),
      section("all", "Lines of its facts", null, factLines(found.signal.lines, seq)),
    ),
  );
  await prove(proof, found.chain);
  prices = (await ask("/api/prices", { symbol: row.symbol, around: seq })).rows;
  drawPrices(priceHost, row, prices);
  ready(main);
}

function heading({ signal: { row, signal_id: id }, older, newer }) {
  const step = (to, text) =>
    h(
      "a",
      { class: "button", href: to && link(`/signals/${to}`), "aria-disabled": String(!to) },
      text,
    );
  return h(
    "div",
    { class: "head" },
    h(
      "div",
      {},
      h(
        "h1",
        {},
        `${row.symbol} `,
        h("span", { class: "soft" }, `${row.action === "BUY" ? "buy" : "sell"} at `),
        price(row.entry_price),
      ),
      h(
        "p",
        { class: "lead" },
        outcome(row),
        row.profit_loss_pct !== null && [" ", gain(row.profit_loss_pct)],
        " ",
        h("span", { class: "mono soft" }, id),
      ),
    ),
    h(
      "nav",
      { class: "steps-of", "aria-label": "Signals" },
      step(older, "Older"),
      step(newer, "Newer"),
    ),
  );
}

function rewardText(row) {
  const [reward, risk] = [
    Math.abs(row.target_price - row.entry_price),
    Math.abs(row.entry_price - row.stop_price),
  ];
  return risk ? `reward to risk ${num(reward / risk, 2)}` : "";
}

function keys(found) {
  const rows = Object.entries(found).filter(([, value]) => value !== null && value !== undefined);
  if (!rows.length) return h("p", { class: "quiet" }, "None.");
  return h(
    "dl",
    { class: "keys" },
    rows.map(([name, value]) => [h("dt", {}, words(name)), h("dd", {}, shown(name, value))]),
  );
}

// ---- life

const fact = (title, at, note, details = []) =>
  h(
    "li",
    {},
    h("b", {}, title),
    h("span", { class: "delay" }, note),
    h("small", {}, at),
    details.length > 0 &&
      h(
        "small",
        {},
        details.map(([name, value]) => `${words(name)} ${shown(name, value)}`).join(", "),
      ),
  );

function life(signal) {
  const facts = [...signal.facts, ...signal.held.map((one) => ({ ...one, isHeld: true }))];
  return h(
    "ol",
    { class: "life" },
    fact("Decided", stamp(signal.decided_at, true), ""),
    fact("Recorded", stamp(signal.recorded_at, true), `+${span(signal.delay_s)}`),
    facts.map((one) =>
      h(
        "li",
        { class: one.voided_by && "voided" },
        [
          ...fact(
            capital(one.event),
            stamp(one.recorded_at, true),
            `+${span(one.delay_s)}`,
            Object.entries(one.detail ?? {}),
          ).childNodes,
        ],
        h(
          "small",
          {},
          `entry ${int(one.seq)}`,
          one.voided_by && `, voided by entry ${int(one.voided_by)}`,
          one.isHeld && ", held until the signal arrives",
        ),
      ),
    ),
  );
}

const conflicts = (found) =>
  h(
    "ul",
    { class: "plain" },
    found.map((one) => h("li", {}, `Entry ${int(one.seq)}: ${one.reason}`)),
  );

// ---- the chain

const chainList = (chain) =>
  h(
    "dl",
    { class: "keys mono" },
    h("dt", {}, "chain before"),
    h("dd", {}, chain.previous),
    h("dt", {}, "chain"),
    h("dd", {}, chain.chain),
  );

function factLines(lines, seq) {
  const others = lines.filter((one) => one.seq !== seq);
  if (!others.length) return h("p", { class: "quiet" }, "None.");
  return others.map((one) =>
    h(
      "pre",
      { class: "mono", tabindex: 0, "aria-label": `The line of entry ${one.seq}` },
      one.line,
    ),
  );
}

async function sha256(text) {
  const found = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(found)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function prove(node, { previous, line, chain }) {
  const obstacle =
    previous === null || line === null
      ? "The log no longer has this line or the one before it."
      : !globalThis.crypto?.subtle && // over plain HTTP from another machine
        "This browser computes hashes only over HTTPS or on this machine.";
  if (obstacle) {
    node.dataset.state = "none";
    fill(node, h("span", { class: "tag" }, "not computed"), ` ${obstacle}`);
    return;
  }
  const body = line.slice(0, line.lastIndexOf(',"chain":"'));
  const holds = (await sha256(previous + body)) === chain;
  node.dataset.state = holds ? "ok" : "bad";
  fill(
    node,
    h("span", { class: `tag ${holds ? "good" : "bad"}` }, holds ? "holds" : "does not hold"),
    holds
      ? " The SHA-256 of the chain before and of this line is the chain of this line, computed in this browser."
      : " The line does not follow from the line before: run eventlog verify.",
  );
}

// ---- the proof for an outsider

function signed({ signed_size: size }, seq) {
  const note = h("p", { id: "signed", role: "status" });
  if (isPast()) fill(note, "A proof is made as of now: no history.");
  else if (size === null) fill(note, "Nothing of this log was signed yet: see ", a("/evidence", "Evidence"), ".");
  else if (size < seq)
    fill(note, `No checkpoint covers this entry yet: the newest has ${counted(size, "entry")}.`);
  else {
    fill(note, `The newest checkpoint has ${counted(size, "entry")}, and covers this one.`);
    const save = h("button", { type: "button", id: "save", click: () => download(seq, note) });
    return [note, fill(save, "Download the proof")];
  }
  return note;
}

async function download(seq, note) {
  try {
    const blob = await askFile(`/api/proofs/${seq}`);
    const url = URL.createObjectURL(blob);
    h("a", { href: url, download: `entry-${seq}.tlog-proof` }).click();
    URL.revokeObjectURL(url);
    fill(note, `The proof was saved as entry-${seq}.tlog-proof.`);
  } catch (error) {
    fill(note, error instanceof Refusal ? refusalText(error) : "The console does not answer.");
  }
}

// ---- prices

function drawPrices(host, row, prices) {
  const own = prices.findIndex((one) => one.seq === row.id);
  const from = millis(row.timestamp) / 1000;
  const show = timeChart(host, {
    label: `Prices of ${row.symbol} around this signal`,
    panes: [
      {
        height: 200,
        text: price,
        series: [{ name: "price", tone: "quiet" }],
        levels: LEVELS.map(([name, tone]) => ({ value: row[name], tone, from })),
        marks: (x, y) =>
          prices.map((one, i) => marker(one, x(millis(one.at) / 1000), y(one.price), i === own)),
      },
    ],
    read: (i) => [
      stamp(prices[i].at),
      [prices[i].kind, price(prices[i].price)],
      ["side", prices[i].action === "BUY" ? "buy" : "sell"],
      ["outcome", prices[i].outcome ?? "open"],
    ],
  });
  show(
    prices.map((one) => millis(one.at) / 1000),
    [prices.map((one) => one.price)],
  );
}

function marker({ kind, action, outcome: end }, x, y, isOwn) {
  const size = isOwn ? 7 : 3.5;
  const up = action === "BUY" ? -1 : 1;
  const tone = isOwn ? "own" : end === "loss" ? "bad" : end === "win" ? "accent" : "";
  if (kind !== "entry")
    return s("circle", { class: `marker ${tone}`, cx: x, cy: y, r: isOwn ? 5 : 2 });
  const base = y - up * size;
  return s("path", {
    class: `marker ${tone}`,
    d: `M${x - size} ${base}L${x + size} ${base}L${x} ${base + up * size * 1.8}Z`,
  });
}
