// Makes every node of the pages. Text is only ever text: nothing here parses markup, and
// Trusted Types would refuse it.
import { plain } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
// Their values are compared or followed, not read by a person, so they stay as they are.
const VERBATIM = new Set(["value", "href", "d", "for", "id"]);

function build(node, props, kids) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else node.setAttribute(name, VERBATIM.has(name) ? value : plain(value));
  }
  put(node, kids);
  return node;
}

function put(node, kids) {
  const isShown = (kid) => kid !== null && kid !== undefined && kid !== false;
  const shown = kids.flat(Infinity).filter(isShown);
  node.append(...shown.map((kid) => (kid instanceof Node ? kid : plain(kid))));
}

/** An HTML element. A property that is a function listens to the event of its name. */
export const h = (tag, props, ...kids) => build(document.createElement(tag), props, kids);

/** An SVG element. */
export const s = (tag, props, ...kids) => build(document.createElementNS(SVG, tag), props, kids);

export const $ = (selector, root = document) => root.querySelector(selector);

/** Replaces what a node holds. */
export function fill(node, ...kids) {
  node.replaceChildren();
  put(node, kids);
  return node;
}

/** Changes text only where it differs: a live region speaks of every change. */
export function say(node, text) {
  const shown = plain(text);
  if (node.textContent !== shown) node.textContent = shown;
}
