// Drives one Chromium for the tests: each line of stdin is a request, each line of stdout its answer.
//
//     node driver.cjs PACKAGES CHROMIUM
//
//     {"do": "context", "options": {...}}                              -> its number
//     {"do": "page", "context": 1}                                     -> its number
//     {"do": "call", "page": 2, "method": "keyboard.press", "args": ["Tab"]} -> what it returns
//     {"do": "wait", "page": 2, "until": "location.pathname === '/'"}  -> when it is true
//     {"do": "axe", "page": 2}                  -> violations of WCAG 2.2 A and AA
//     {"do": "heap", "page": 2}                 -> bytes in use after a collection
//     {"do": "seen", "context": 1}              -> its problems and requests so far
//     {"do": "cookies", "context": 1}
//     {"do": "close", "context": 1}
//
// Invariant: Chromium resolves no name but those of this machine, and ends with stdin.
"use strict";
const { createRequire } = require("node:module");
const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");

const [packages, executablePath] = process.argv.slice(2);
const from = createRequire(path.join(packages, "here.js"));
const { chromium } = from("playwright-core");
const axe = fs.readFileSync(from.resolve("axe-core/axe.min.js"), "utf8");

const WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"];
const TIMEOUT_MS = 20_000; // shared machines are slow; what takes longer does not happen
const FLAGS = [
  // A name of another site that leads here, as in an attack by DNS rebinding; no other name at all.
  "--host-resolver-rules=MAP rebound.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-default-apps",
  "--disable-domain-reliability",
  "--disable-sync",
  "--disable-quic",
  "--no-first-run",
  "--no-pings",
  "--disable-gpu",
  "--disable-dev-shm-usage", // /dev/shm of a container is small
];

const contexts = new Map();
const pages = new Map();
let numbers = 0;
let browser;

async function newContext({ options = {} }) {
  const context = await browser.newContext({ timezoneId: "UTC", locale: "en-GB", ...options });
  context.setDefaultTimeout(TIMEOUT_MS);
  const seen = { problems: [], requests: [] };
  context.on("request", (request) => seen.requests.push(request.url()));
  context.on("weberror", (error) => seen.problems.push(String(error.error())));
  context.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) {
      seen.problems.push(`${message.text()} (${message.location().url})`);
    }
  });
  context.on("dialog", (dialog) => {
    seen.problems.push(`a dialog: ${dialog.message()}`); // no page of ours has one
    dialog.dismiss();
  });
  contexts.set(++numbers, { context, seen });
  return numbers;
}

async function newPage({ context }) {
  pages.set(++numbers, await contexts.get(context).context.newPage());
  return numbers;
}

async function call({ page, method, args = [] }) {
  const names = method.split(".");
  const last = names.pop();
  const target = names.reduce((object, name) => object[name], pages.get(page));
  const value = await target[last](...args);
  return ["string", "number", "boolean"].includes(typeof value) || isPlain(value) ? value : null;
}

// playwright's own waitForFunction evaluates text in the page, which its policy forbids.
async function wait({ page, until }) {
  const giveUp = Date.now() + TIMEOUT_MS;
  for (;;) {
    const value = await pages.get(page).evaluate(until).catch(retryAfterNavigation);
    if (value) return;
    if (Date.now() > giveUp) throw new Error(`not within ${TIMEOUT_MS} ms: ${until}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function retryAfterNavigation(error) {
  if (!/context was destroyed|navigat|Cannot read properties of null/i.test(error.message)) throw error;
}

function isPlain(value) {
  return Array.isArray(value) || (value !== null && Object.getPrototypeOf(value ?? 0) === Object.prototype);
}

async function runAxe({ page }) {
  const target = pages.get(page);
  await target.evaluate(axe);
  return target.evaluate(async (tags) => {
    const found = await globalThis.axe.run(document, { runOnly: tags });
    return found.violations.map((each) => ({
      rule: each.id,
      nodes: each.nodes.map((node) => `${node.target} ${node.failureSummary}`.slice(0, 400)),
    }));
  }, WCAG);
}

async function heap({ page }) {
  const target = pages.get(page);
  const session = await target.context().newCDPSession(target);
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  await session.detach();
  return usedSize;
}

const cookies = ({ context }) => contexts.get(context).context.cookies();
const seen = ({ context }) => contexts.get(context).seen;

async function close({ context }) {
  await contexts.get(context).context.close();
  contexts.delete(context);
}

const ACTIONS = { context: newContext, page: newPage, call, wait, axe: runAxe, heap, cookies, seen, close };

async function answer(line) {
  try {
    const request = JSON.parse(line);
    return { value: (await ACTIONS[request.do](request)) ?? null };
  } catch (error) {
    return { error: String(error.stack ?? error) };
  }
}

async function main() {
  browser = await chromium.launch({ executablePath, args: FLAGS });
  process.stdout.write(`${JSON.stringify({ value: browser.version() })}\n`);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
  }
  await browser.close();
}

main();
