// Where the thumbnails of all heads lie on one canvas, in which order they come, and which colour a byte is.
import { arrow, within } from "./arrows";
import { type Scale, stepOf, tableOf } from "./colour";

export interface Place {
  layer: number;
  head: number;
  left: number;
  top: number;
}

export interface Sheet {
  places: Place[];
  /** Side of a thumbnail, in CSS pixels. */
  side: number;
  width: number;
  height: number;
  /** Room for a caption under each; 0: there is none. */
  caption: number;
}

const GAP = 5;
const LEFT = 26; // for the number of a layer
const TOP = 16; // for the numbers of heads
const CAPTION = 16;
const EDGE = 4; // for the frame around the one that is selected

/** All heads by one statistic, the largest first or the smallest; those without a number come last. */
export function ordered(values: ArrayLike<number>, smallest: boolean): number[] {
  const key = (i: number): number => {
    const value = values[i] ?? NaN;
    return Number.isNaN(value) ? Infinity : smallest ? value : -value;
  };
  return Array.from({ length: values.length }, (_, i) => i).sort((a, b) => (key(a) === key(b) ? a - b : key(a) < key(b) ? -1 : 1));
}

/** A row a layer, a column a head; heads that share keys and values, `group` of them, stand closer together. */
export function byLayer(layers: number, heads: number, width: number, group = 1, most = 92): Sheet {
  const gap = heads > 16 ? 2 : GAP;
  const more = group > 1 ? gap + 3 : 0; // between groups, and between rows
  const free = width - LEFT - Math.ceil(heads / group) * more - heads * gap - 4;
  const side = Math.max(6, Math.min(most, Math.floor(free / heads)));
  const across = (head: number): number => LEFT + head * (side + gap) + Math.floor(head / group) * more;
  const places: Place[] = [];
  for (let layer = 0; layer < layers; layer++)
    for (let head = 0; head < heads; head++) places.push({ layer, head, left: across(head), top: TOP + 3 + layer * (side + gap + more) });
  return { places, side, width: across(heads - 1) + side + 4, height: TOP + 3 + layers * (side + gap + more), caption: 0 };
}

/** One after another, as `order` has them. */
export function inOrder(order: readonly number[], heads: number, width: number, most = 84): Sheet {
  const gap = order.length > 256 ? 2 : GAP + 4;
  const across = Math.max(1, Math.floor((width - EDGE) / (most + gap)), order.length > 256 ? Math.floor(width / 22) : 0, Math.min(order.length, 3));
  const side = Math.max(6, Math.min(most, Math.floor((width - EDGE) / across) - gap));
  const caption = side >= 40 ? CAPTION : 0;
  const places = order.map((i, n) => ({
    layer: Math.floor(i / heads), head: i % heads, left: EDGE + (n % across) * (side + gap), top: EDGE + Math.floor(n / across) * (side + gap + caption),
  }));
  return { places, side, width: EDGE + Math.min(across, order.length) * (side + gap), height: EDGE + Math.ceil(order.length / across) * (side + gap + caption), caption };
}

/** Which thumbnail is under a point: its number in `places`, −1 beside all. */
export function placeAt({ places, side, caption }: Sheet, x: number, y: number): number {
  return places.findIndex(({ left, top }) => x >= left && x < left + side && y >= top && y < top + side + caption);
}

/** The thumbnail that an arrow key leads to; −1 for other keys. */
export function nextPlace({ places }: Sheet, from: number, key: string): number {
  const at = places[from];
  const [down, right] = arrow(key);
  if (!down && !right) return -1;
  if (!at) return places.length ? 0 : -1;
  if (right) return within(from + right, places.length);
  const rows = places.map(({ top }) => top).filter((top) => (top - at.top) * down > 0);
  const row = down > 0 ? Math.min(...rows) : Math.max(...rows);
  const found = places.findIndex(({ top, left }) => top === row && left === at.left);
  return found < 0 ? from : found;
}

const DECADES = 4;

/** The share of the brightest colour that a byte 255 √x stands for; on a logarithmic scale, where it stands on it. */
export function brightness(byte: number, log: boolean): number {
  const share = (byte / 255) ** 2;
  return log ? Math.max(0, 1 + Math.log10(share) / DECADES) : share;
}

/** The 256 colours of a byte, as pixels (little-endian RGBA). */
export function pixels(log: boolean, dark: boolean): Uint32Array {
  const scale: Scale = { kind: "range", low: 0, high: 1 };
  const table = tableOf(scale, dark);
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    const at = stepOf(brightness(byte, log), scale) * 3;
    return (255 << 24) | ((table[at + 2] ?? 0) << 16) | ((table[at + 1] ?? 0) << 8) | (table[at] ?? 0);
  });
}

/** The pixels of bytes that differ: about 0, signed. */
export function signedPixels(values: ArrayLike<number>, from: number, count: number, dark: boolean): Uint32Array {
  const scale: Scale = { kind: "signed", most: 128 };
  const table = tableOf(scale, dark);
  return Uint32Array.from({ length: count }, (_, i) => {
    const at = stepOf(values[from + i] ?? 0, scale) * 3;
    return (255 << 24) | ((table[at + 2] ?? 0) << 16) | ((table[at + 1] ?? 0) << 8) | (table[at] ?? 0);
  });
}
