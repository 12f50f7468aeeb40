// Scales and ticks of the charts: numbers in, numbers and labels out.
import { fields, num } from "./format.js";

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;
const STEPS = [
  1,
  2,
  5,
  10,
  15,
  30,
  MINUTE,
  2 * MINUTE,
  5 * MINUTE,
  10 * MINUTE,
  15 * MINUTE,
  30 * MINUTE,
  HOUR,
  2 * HOUR,
  3 * HOUR,
  6 * HOUR,
  12 * HOUR,
  DAY,
  2 * DAY,
  7 * DAY,
  14 * DAY,
];
const MONTH_STEPS = [1, 2, 3, 6, 12, 24, 60, 120];

/** Maps the values low..high to the pixels from..to. */
export function linear(low, high, from, to) {
  const factor = high === low ? 0 : (to - from) / (high - low);
  const scale = (value) => from + (value - low) * factor;
  scale.invert = (pixel) => (factor ? low + (pixel - from) / factor : low);
  return Object.assign(scale, { low, high });
}

/** About `most` round values between low and high. */
export function ticks(low, high, most) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1)
    found.push(i * step);
  return found;
}

/** The same for durations in seconds: round in the unit in which they are written. */
export function durationTicks(low, high, most) {
  const unit = [DAY, HOUR, MINUTE].find((size) => high >= 2 * size) ?? 1;
  return ticks(low / unit, high / unit, most).map((value) => value * unit);
}

/** The digits that tell neighbouring ticks apart. */
export function tickText(values) {
  const step = values.length > 1 ? values[1] - values[0] : Math.abs(values[0]) || 1;
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
  return (value) => num(value, digits);
}

/** Times between two times, in seconds, with their labels; months and days by the calendar. */
export function timeTicks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const step = STEPS.find((size) => size >= rough);
  return step === undefined ? monthTicks(low, high, rough) : evenTicks(low, high, step);
}

function evenTicks(low, high, step) {
  const f = fields(low);
  const sinceMidnight = HOUR * f.hour + MINUTE * f.minute + f.second + f.milli / 1000;
  const found = [];
  // From the midnight before: ticks fall on round times of the shown zone.
  for (let time = low - sinceMidnight; time <= high; time += step) {
    if (time >= low) found.push({ time, text: evenText(fields(time), step) });
  }
  return found;
}

function evenText(f, step) {
  const two = (value) => String(value).padStart(2, "0");
  if (step >= DAY) return `${MONTHS[f.month]} ${f.day}`;
  if (step >= HOUR && f.hour === 0 && f.minute === 0) return `${MONTHS[f.month]} ${f.day}`;
  const text = `${two(f.hour)}:${two(f.minute)}`;
  return step < MINUTE ? `${text}:${two(f.second)}` : text;
}

function monthTicks(low, high, rough) {
  const months = rough / (30 * DAY);
  const step = MONTH_STEPS.find((size) => size >= months) ?? MONTH_STEPS.at(-1);
  const first = fields(low);
  const found = [];
  for (let i = 0; ; i += 1) {
    const count = Math.ceil((12 * first.year + first.month) / step) * step + i * step;
    const [year, month] = [Math.floor(count / 12), count % 12];
    const time = Date.UTC(year, month, 1) / 1000;
    if (time > high) return found;
    const withYear = month === 0 || found.length === 0;
    if (time >= low)
      found.push({ time, text: withYear ? `${MONTHS[month]} ${year}` : MONTHS[month] });
  }
}
