// Which tokens a table has room for, and what a token's ranks say.

/** The first of `most` neighbouring columns around `at`, of `count`. */
export function windowStart(count: number, most: number, at: number): number {
  return Math.max(0, Math.min(count - most, at - Math.floor(most / 2)));
}

/** The first layer from which on the rank stays 1; −1 where it is not 1 in the end. */
export function settled(ranks: readonly number[]): number {
  if (ranks[ranks.length - 1] !== 1) return -1;
  let from = ranks.length - 1;
  while (from > 0 && ranks[from - 1] === 1) from--;
  return from;
}

/** "embed" before all layers, then the number of the layer after which the stream is read. */
export function rowName(row: number): string {
  return row === 0 ? "embed" : `after ${row - 1}`;
}
