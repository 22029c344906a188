// Points on circles, and channels in two orders: what the panel of positions is drawn with.

/** At most `most` of 0 to count − 1, spread evenly, the first and the last among them. */
export function spread(count: number, most: number): number[] {
  if (count <= most) return Array.from({ length: count }, (_, i) => i);
  return Array.from({ length: most }, (_, i) => Math.round((i * (count - 1)) / (most - 1)));
}

/** The path of a sector of a circle about 0 from one angle to another, anticlockwise as mathematics has it; SVG's y goes
 * down. A whole turn or more is the whole disc. */
export function sector(radius: number, from: number, to: number): string {
  const turn = 2 * Math.PI;
  if (to - from >= turn) return `M${radius},0A${radius},${radius} 0 1 1 ${-radius},0A${radius},${radius} 0 1 1 ${radius},0Z`;
  const at = (angle: number): string => `${(radius * Math.cos(angle)).toFixed(2)},${(-radius * Math.sin(angle)).toFixed(2)}`;
  return `M0,0L${at(from)}A${radius},${radius} 0 ${to - from > Math.PI ? 1 : 0} 0 ${at(to)}Z`;
}

/** By how many positions a hand was turned when the pointer went from one angle to another, the shorter way round. */
export function turnedBy(before: number, now: number, frequency: number): number {
  const turn = 2 * Math.PI;
  const moved = ((now - before + Math.PI) % turn + turn) % turn - Math.PI;
  return frequency > 0 ? moved / frequency : 0;
}

/** How many positions one whole turn takes. */
export function turnLength(frequency: number): number {
  return frequency > 0 ? (2 * Math.PI) / frequency : Infinity;
}

/** Where each channel of the half-split layout lies in the interleaved one, of `rotated` channels; the others stay. */
export function interleaved(channels: number, rotated: number): number[] {
  const half = rotated / 2;
  return Array.from({ length: channels }, (_, c) => (c >= rotated ? c : c < half ? 2 * c : 2 * (c - half) + 1));
}

/** The pair that a channel of the half-split layout belongs to; −1: it is not rotated. */
export function pairOf(channel: number, rotated: number): number {
  return channel >= rotated ? -1 : channel % (rotated / 2);
}

/** m and n within what there is: 0 ≤ n ≤ m < count. */
export function places(m: number, n: number, count: number): { m: number; n: number } {
  const within = (x: number, most: number): number => Math.min(most, Math.max(0, Math.round(x)));
  const query = within(m, count - 1);
  return { m: query, n: within(n, query) };
}

/** Both moved by the same, as far as there is room. */
export function slid(m: number, n: number, to: number, count: number): { m: number; n: number } {
  const key = Math.min(Math.max(0, Math.round(to)), count - 1 - (m - n));
  return { m: key + m - n, n: key };
}
