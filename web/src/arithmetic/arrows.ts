// Arrow keys.

/** Rows down and columns to the right that an arrow key goes; 0 and 0 for any other. */
export function arrow(key: string): readonly [down: number, right: number] {
  const at = ["ArrowUp", "ArrowLeft", "ArrowRight", "ArrowDown"].indexOf(key);
  const way = at < 2 ? -1 : 1;
  return at < 0 ? [0, 0] : at % 3 ? [0, way] : [way, 0];
}

/** One step on or back in a list. */
export function step(key: string): number {
  const [down, right] = arrow(key);
  return down + right;
}

/** The nearest of `count` places, from 0. */
export function within(at: number, count: number): number {
  return Math.min(count - 1, Math.max(0, at));
}
