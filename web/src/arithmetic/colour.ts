// From a number to a colour: viridis over a range, or signed: red below 0, blue above, the page's own surface at 0.
import redBlue from "palette:RdBu";
import viridis from "palette:Viridis";

export type Scale = { kind: "range"; low: number; high: number } | { kind: "signed"; most: number };
export type Table = Uint8ClampedArray; // 256 colours of 3 bytes

const STEPS = 256;

const VIRIDIS = unpacked(viridis);
const ON_LIGHT = unpacked(redBlue);
const ON_DARK = new Uint8ClampedArray(STEPS * 3);
for (let i = 0; i < STEPS; i++) {
  const t = i / (STEPS - 1);
  ON_DARK.set(between([28, 33, 39], t < 0.5 ? [255, 122, 92] : [92, 170, 255], Math.abs(t - 0.5) * 2), i * 3);
}

/** Of the steps that tools/palettes.mjs writes. */
function unpacked(steps: string): Table {
  const table = new Uint8ClampedArray(STEPS * 3);
  for (let i = 0, sum = 0; i < steps.length; i++) {
    sum = (i % STEPS ? sum : 0) + steps.charCodeAt(i) - 80;
    table[(i % STEPS) * 3 + Math.floor(i / STEPS)] = sum;
  }
  return table;
}

function between(from: readonly number[], to: readonly number[], t: number): number[] {
  return from.map((one, i) => one + ((to[i] ?? 0) - one) * t);
}

export function tableOf(scale: Scale, dark: boolean): Table {
  return scale.kind === "range" ? VIRIDIS : dark ? ON_DARK : ON_LIGHT;
}

/** Which of the 256 colours; −1 for NaN, which has none. */
export function stepOf(value: number, scale: Scale): number {
  if (Number.isNaN(value)) return -1;
  const low = scale.kind === "range" ? scale.low : -scale.most;
  const high = scale.kind === "range" ? scale.high : scale.most;
  const t = high > low ? (value - low) / (high - low) : 0.5;
  return Math.round(Math.min(1, Math.max(0, t)) * (STEPS - 1));
}

export function cssColour(value: number, scale: Scale, dark: boolean): string {
  const step = stepOf(value, scale);
  if (step < 0) return "transparent";
  const colours = tableOf(scale, dark);
  return `rgb(${colours[step * 3]} ${colours[step * 3 + 1]} ${colours[step * 3 + 2]})`;
}

/** Black or white, whichever is read better on this colour. */
export function inkOn(value: number, scale: Scale, dark: boolean): string {
  const step = Math.max(0, stepOf(value, scale));
  const colours = tableOf(scale, dark);
  return inkFor(colours[step * 3] ?? 0, colours[step * 3 + 1] ?? 0, colours[step * 3 + 2] ?? 0);
}

function inkFor(r: number, g: number, b: number): string {
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.179 ? "#000" : "#fff";
}

function linear(channel: number): number {
  const c = channel / 255;
  return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
}

/** The scale that holds these numbers; from 0 where they are amounts, symmetric about 0 where they are signed. */
export function scaleOf(values: Iterable<number>, wanted: "unit" | "range" | "amount" | "signed"): Scale {
  if (wanted === "unit") return { kind: "range", low: 0, high: 1 };
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) [low, high] = [0, 1];
  if (wanted === "amount") low = 0;
  return wanted !== "signed" ? { kind: "range", low, high } : { kind: "signed", most: Math.max(-low, high, 1e-12) };
}

/** From the page's surface to its accent, with ink that can be read on it. */
export function shade(share: number, dark: boolean): { background: string; color: string } {
  const [from, to] = dark ? [[32, 39, 46], [88, 199, 220]] : [[238, 241, 242], [11, 100, 120]];
  const mixed = between(from ?? [], to ?? [], Math.min(1, Math.max(0, share)));
  return { background: `rgb(${mixed.map(Math.round).join(" ")})`, color: inkFor(mixed[0] ?? 0, mixed[1] ?? 0, mixed[2] ?? 0) };
}
