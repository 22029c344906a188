// Scales, ticks and paths of a line chart.
import { extent } from "d3-array";
import { scaleLinear, scaleLog, type ScaleContinuousNumeric } from "d3-scale";

export type Axis = ScaleContinuousNumeric<number, number>;

/** A logarithmic axis where all is positive; else a linear one. */
export function axisOf(values: readonly number[], range: readonly [number, number], log: boolean, zero = false): Axis {
  const usable = values.filter((x) => Number.isFinite(x) && (!log || x > 0));
  let [low = 0, high = 1] = extent(usable) as [number | undefined, number | undefined];
  if (zero && !log) [low, high] = [Math.min(0, low), Math.max(0, high)];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  return (log ? scaleLog() : scaleLinear()).domain([low, high]).range([...range]).nice();
}

/** Where an axis has ticks: of a logarithmic one powers of ten, with twos and fives where there is room. */
export function ticksOf(axis: Axis, count: number, whole = false): number[] {
  const all = axis.ticks(count).filter((x) => !whole || Number.isInteger(x));
  if (!("base" in axis) || all.length <= count * 1.6) return all;
  const digit = (x: number): number => Math.round(x / 10 ** Math.floor(Math.log10(x) + 1e-9));
  const some = all.filter((x) => [1, 2, 5].includes(digit(x)));
  return some.length <= count * 1.6 ? some : all.filter((x) => digit(x) === 1);
}

/** "M0,1L2,3": a line that is broken where a number is missing. */
export function pathOf(x: readonly number[], y: ArrayLike<number>, across: Axis, up: Axis): string {
  let [path, pen] = ["", "M"];
  for (let i = 0; i < x.length; i++) {
    const [left, top] = [across(x[i] ?? NaN), up(y[i] ?? NaN)];
    if (!Number.isFinite(left) || !Number.isFinite(top)) pen = "M";
    else {
      path += `${pen}${left.toFixed(1)},${top.toFixed(1)}`;
      pen = "L";
    }
  }
  return path;
}

/** The point nearest to x; −1 of none. */
export function nearest(x: readonly number[], at: number): number {
  let best = -1;
  for (let i = 0; i < x.length; i++) if (best < 0 || Math.abs((x[i] ?? NaN) - at) < Math.abs((x[best] ?? NaN) - at)) best = i;
  return best;
}
