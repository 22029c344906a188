// Where means and their intervals lie on an axis that they share.
export interface Estimate {
  mean: number;
  half: number;
}

/** From a number to a place between 0 and `width`; the axis holds 0 and every interval. */
export function widths(all: readonly Estimate[], width: number): (x: number) => number {
  const low = Math.min(0, ...all.map(({ mean, half }) => mean - half));
  const high = Math.max(0, ...all.map(({ mean, half }) => mean + half));
  const span = high - low || 1;
  return (x) => ((x - low) / span) * width;
}
