// The shell of every page: links, the state of the stream, as-of, time zone and theme. Loads the
// module of the page that the path names.
import { Refusal, asOf, isPast, link, query } from "./address.js";
import { $, fill, h, s, say } from "./dom.js";
import { int, millis, plain, stamp, zone, zoneName } from "./format.js";
import { follow, start } from "./live.js";
import { failed } from "./parts.js";

const PAGES = {
  "/": "overview",
  "/log": "log",
  "/signals": "signals",
  "/outcomes": "outcomes",
  "/delivery": "delivery",
  "/evidence": "evidence",
};
const THEMES = ["auto", "light", "dark"];
const THEME_MARKS = {
  auto: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 1 0 0-11",
  light:
    "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6M8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8 13 13M13 3l-1.2 1.2M4.2 11.8 3 13",
  dark: "M12.9 9.8A5.6 5.6 0 0 1 6.2 3.1a5.6 5.6 0 1 0 6.7 6.7z",
};

const main = $("#main");

function showLinks() {
  for (const anchor of document.querySelectorAll(".bar a")) {
    const { pathname } = anchor;
    anchor.href = link(pathname);
    const isHere =
      pathname === "/" ? location.pathname === "/" : location.pathname.startsWith(pathname);
    if (isHere && anchor.className !== "mark") anchor.setAttribute("aria-current", "page");
  }
}

// ---- theme and time zone

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  fill(
    $("#theme"),
    s(
      "svg",
      { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
      s("path", { d: THEME_MARKS[theme] }),
      theme === "auto" && s("path", { class: "solid", d: "M8 2.5a5.5 5.5 0 0 1 0 11z" }),
    ),
  );
  $("#theme").setAttribute("aria-label", `Theme: ${theme}`);
  $("#theme").title = `Theme: ${theme}`;
}

function nextTheme() {
  const now = localStorage.getItem("theme") ?? "auto";
  const theme = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (theme === "auto") localStorage.removeItem("theme");
  else localStorage.setItem("theme", theme);
  showTheme(theme);
}

function showZone() {
  say($("#zone"), zone.local ? "Local" : "UTC");
  $("#zone").title = `Times are in ${zoneName()}`;
  $("#zone").addEventListener("click", () => {
    localStorage.setItem("zone", zone.local ? "utc" : "local");
    location.reload();
  });
}

// ---- as-of

function showPast({ detail }) {
  const note = $("#as-of-note");
  note.hidden = !isPast();
  if (note.hidden) return;
  const at = detail.recorded_at ? `${stamp(detail.recorded_at)} ${zoneName()}` : "the beginning";
  const asked = asOf().as_of ? `${stamp(asOf().as_of)} ${zoneName()}` : at;
  if (!note.hasChildNodes()) {
    fill(
      note,
      h("p", {}, h("strong", {}), " ", h("span", {})),
      h("a", { href: location.pathname }, "Back to now"),
    );
  }
  say($("strong", note), `As of ${asked}, entry ${int(detail.seq)}.`);
  say($("span", note), "Nothing that was recorded later is shown or counted.");
}

/** The value of a datetime-local field that stands for a time. */
function fieldValue(time) {
  return stamp(time).replace(" ", "T");
}

function pastDialog() {
  const when = h("input", {
    type: "datetime-local",
    id: "past-time",
    step: 1,
    value: fieldValue(asOf().as_of ?? Date.now() / 1000),
  });
  const entry = h("input", {
    type: "number",
    id: "past-entry",
    min: 0,
    step: 1,
    value: asOf().as_of_seq ?? "",
    placeholder: "none",
  });
  const go = (params) => {
    const found = query();
    for (const name of ["as_of", "as_of_seq", "before"]) found.delete(name);
    for (const [name, value] of Object.entries(params)) found.set(name, value);
    location.assign(location.pathname + (found.size ? `?${found}` : ""));
  };
  const dialog = h(
    "dialog",
    { "aria-labelledby": "past-title", close: () => dialog.remove() },
    h(
      "form",
      {
        method: "dialog",
        submit: () => {
          if (entry.value) go({ as_of_seq: entry.value });
          else if (when.value)
            go({ as_of: new Date(millis(when.value + (zone.local ? "" : "Z"))).toISOString() });
        },
      },
      h("h2", { id: "past-title" }, "Show the console as of an earlier moment"),
      h(
        "p",
        {},
        "Every page then shows and counts what had been recorded by that moment, and nothing later.",
      ),
      h(
        "div",
        { class: "fields" },
        h("label", {}, `Time (${zoneName()})`, when),
        h("label", {}, "Or entry", entry),
      ),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", click: () => dialog.close() }, "Cancel"),
        isPast() && h("button", { type: "button", click: () => go({}) }, "Back to now"),
        h("button", { type: "submit", class: "main" }, "Show"),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

// ---- the stream

let live = { state: "wait" };
let isStarted = false;

/** Connects at the first moment that is not in the past. */
function startLive() {
  if (!isPast() && !isStarted) {
    isStarted = true;
    start();
  }
  showLive();
}

function showLive() {
  const node = $("#live");
  const { state, text } = isPast() ? { state: "as-of" } : live;
  node.dataset.state = state;
  node.title = plain(text ?? "");
  say($("span", node), { on: "live", off: "not live", wait: "connecting", "as-of": "past" }[state]);
}

// ---- the page

async function openPage() {
  const name = location.pathname.startsWith("/signals/") ? "signal" : PAGES[location.pathname];
  try {
    if (!name) throw new Refusal(404, { error: "There is no such page", do: "Choose one above." });
    const page = await import(`./${name}.js`);
    document.title = `${page.TITLE} · eventlog`;
    await page.open(main);
    // A page that keeps states of its own in the address shows them again.
    addEventListener("popstate", () => (page.show ?? (() => location.reload()))());
  } catch (error) {
    failed(main, error);
  }
}

showLinks();
showZone();
showTheme(localStorage.getItem("theme") ?? "auto");
$("#theme").addEventListener("click", nextTheme);
$("#past").addEventListener("click", pastDialog);
document.addEventListener("address", showLinks);
document.addEventListener("answered", showPast);
document.addEventListener("address", startLive); // the slider of Outcomes changes it
follow(({ event, body }) => {
  if (event !== "state") return;
  live = body;
  showLive();
});
showLive();
await openPage();
startLive();
