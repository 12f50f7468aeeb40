// Values as text: figures, times, and foreign text with its unseen characters escaped.

// Control and format characters (Cc, Cf: bidi, zero width, tags), separators of lines, lone
// surrogates and private characters, and letters that show nothing.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029\u115f\u1160\u3164\uffa0]/gu;
const NONE = "–";
const MINUS = "\u2212";
const TIMES = "\u00d7";

/** Text with each unseen character as its escape: shown, not obeyed. */
export function plain(value) {
  return String(value).replace(UNSEEN, (found) => {
    const code = found.codePointAt(0);
    return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

const missing = (value) => value === null || value === undefined;
const formats = new Map();

function fixed(value, low, high = low) {
  const key = 100 * low + high;
  if (!formats.has(key)) {
    formats.set(
      key,
      new Intl.NumberFormat("en-US", {
        minimumFractionDigits: low,
        maximumFractionDigits: high,
      }),
    );
  }
  const text = formats.get(key).format(Math.abs(value));
  // A value that rounds to zero has no sign.
  return value < 0 && /[1-9]/.test(text) ? MINUS + text : text;
}

export const int = (value) => (missing(value) ? NONE : fixed(value, 0));
export const num = (value, digits = 2) => (missing(value) ? NONE : fixed(value, digits));
export const percent = (value, digits = 1) => (missing(value) ? NONE : `${fixed(value, digits)} %`);
export const ratio = (value) => (missing(value) ? NONE : `${fixed(value, 2)} ${TIMES}`);

export function signed(value, digits = 2) {
  if (missing(value)) return NONE;
  const text = fixed(value, digits);
  return value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

/** A price: two digits, and up to six where it is small. */
export function price(value) {
  if (missing(value)) return NONE;
  return fixed(value, 2, Math.abs(value) < 1 ? 6 : Math.abs(value) < 10 ? 4 : 2);
}

export function bytes(value) {
  if (missing(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${fixed(value, power ? 1 : 0)} ${units[power]}`;
}

/** A duration in its largest useful unit. */
export function span(seconds) {
  if (missing(seconds)) return NONE;
  if (seconds < 0) return MINUS + span(-seconds);
  if (seconds < 0.0005) return "0 s";
  if (seconds < 1) return `${fixed(1000 * seconds, 0)} ms`;
  if (seconds < 10) return `${fixed(seconds, 0, 1)} s`;
  if (seconds < 120) return `${fixed(seconds, 0)} s`;
  if (seconds < 7200) return `${fixed(seconds / 60, 0)} min`;
  if (seconds < 172800) return `${fixed(seconds / 3600, 0)} h`;
  return `${fixed(seconds / 86400, 0)} d`;
}

export function ago(time) {
  const seconds = (Date.now() - millis(time)) / 1000;
  return seconds < 5 ? "just now" : `${span(seconds)} ago`;
}

// Times are shown in UTC, as the log has them, or in the time of this browser.
export const zone = { local: localStorage.getItem("zone") === "local" };
export const zoneName = () => (zone.local ? "local time" : "UTC");

const pad = (value, width = 2) => String(value).padStart(width, "0");

/** Milliseconds of RFC 3339 text, or of seconds since 1970. */
export const millis = (time) => (typeof time === "number" ? 1000 * time : Date.parse(time));

/** Year, month (0 to 11), day, hour, minute, second and millisecond in the chosen zone. */
export function fields(time) {
  const date = new Date(millis(time));
  const part = (name) => date[`get${zone.local ? "" : "UTC"}${name}`]();
  return {
    year: part("FullYear"),
    month: part("Month"),
    day: part("Date"),
    hour: part("Hours"),
    minute: part("Minutes"),
    second: part("Seconds"),
    milli: part("Milliseconds"),
  };
}

export function date(time) {
  const f = fields(time);
  return `${f.year}-${pad(f.month + 1)}-${pad(f.day)}`;
}

export function clock(time, withMillis = false) {
  const f = fields(time);
  const text = `${pad(f.hour)}:${pad(f.minute)}:${pad(f.second)}`;
  return withMillis ? `${text}.${pad(f.milli, 3)}` : text;
}

export const stamp = (time, withMillis) =>
  missing(time) ? NONE : `${date(time)} ${clock(time, withMillis)}`;

/** A count with its noun, which is also right for one: "1 signal", "2 signals". */
export const counted = (value, noun) => `${int(value)} ${plural(value, noun)}`;
export const plural = (value, noun) => {
  if (value === 1) return noun;
  return noun.endsWith("y") ? `${noun.slice(0, -1)}ies` : `${noun}s`;
};

/** A sentence of the console's answers, which have no capital letter and no full stop. */
export const sentence = (text) => (text ? `${capital(text)}${/[.?!]$/.test(text) ? "" : "."}` : "");

/** A key of a payload as words. */
export const words = (name) => String(name).replaceAll("_", " ");

export const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);
