// Axes, ticks and paths of a line chart.

/** From a number to its place on the page. */
export interface Axis {
  (x: number): number;
  invert(place: number): number;
  domain: [number, number];
  ticks(count: number): number[];
}

/** A logarithmic axis where it is asked for, of what is positive; else a linear one. Its ends are round numbers. */
export function axisOf(values: readonly number[], range: readonly [number, number], log: boolean, zero = false): Axis {
  let [low, high] = [Infinity, -Infinity];
  for (const x of values) if (Number.isFinite(x) && (!log || x > 0)) [low, high] = [Math.min(low, x), Math.max(high, x)];
  if (low > high) [low, high] = log ? [1, 10] : [0, 1];
  if (zero && !log) [low, high] = [Math.min(0, low), Math.max(0, high)];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const domain = log ? roundLog(low, high) : round(low, high);
  const [from, to] = log ? [Math.log(domain[0]), Math.log(domain[1])] : domain;
  const place = (x: number): number => range[0] + (((log ? Math.log(x) : x) - from) / (to - from)) * (range[1] - range[0]);
  const invert = (at: number): number => {
    const x = from + ((at - range[0]) / (range[1] - range[0])) * (to - from);
    return log ? Math.exp(x) : x;
  };
  return Object.assign(place, { invert, domain, ticks: (count: number) => (log ? logTicks(domain, count) : ticks(...domain, count)) });
}

/** About `count` round numbers: multiples of 1, 2 or 5 times a power of ten. */
export function ticks(low: number, high: number, count: number): number[] {
  const step = stepOf(high - low, count);
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12))); // 7 × 0.1 is 0.7
}

function stepOf(span: number, count: number): number {
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * (raw / power >= 7.07 ? 10 : raw / power >= 3.16 ? 5 : raw / power >= 1.41 ? 2 : 1);
}

/** The ends moved out to the next tick. */
function round(low: number, high: number): [number, number] {
  const step = stepOf(high - low, 10);
  const plain = (x: number): number => Number(x.toPrecision(12));
  return [plain(step * Math.floor(low / step + 1e-9)), plain(step * Math.ceil(high / step - 1e-9))];
}

/** Out to 1, 2 or 5 times a power of ten. */
function roundLog(low: number, high: number): [number, number] {
  const steps = [10, 5, 2, 1];
  const power = (x: number): number => 10 ** Math.floor(Math.log10(x) + 1e-9);
  const down = power(low) * (steps.find((one) => power(low) * one <= low * (1 + 1e-9)) ?? 1);
  const up = power(high) * ([...steps].reverse().find((one) => power(high) * one >= high * (1 - 1e-9)) ?? 10);
  return [down, up];
}

/** 1, 2 and 5 times powers of ten, or the powers alone, or every few of them: whatever has room. */
function logTicks([low, high]: readonly [number, number], count: number): number[] {
  const first = Math.floor(Math.log10(low) + 1e-9);
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, i) => first + i);
  const within = (all: number[]): number[] => all.filter((x) => x >= low * (1 - 1e-9) && x <= high * (1 + 1e-9));
  const fine = within(powers.flatMap((power) => [1, 2, 5].map((one) => Number(`${one}e${power}`))));
  if (fine.length <= Math.max(count, 3) + 1) return fine;
  const coarse = within(powers.map((power) => Number(`1e${power}`)));
  return coarse.filter((_, i) => i % Math.ceil(coarse.length / Math.max(1, count)) === 0);
}

/** Where an axis has ticks; only at whole numbers where nothing else is there. */
export function ticksOf(axis: Axis, count: number, whole = false): number[] {
  return axis.ticks(count).filter((x) => !whole || Number.isInteger(x));
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

/** The middle one, or the mean of the middle two. */
export function median(values: Iterable<number>): number | undefined {
  const all = [...values].filter((x) => !Number.isNaN(x)).sort((a, b) => a - b);
  const half = all.length >> 1;
  return all.length % 2 ? all[half] : all.length ? ((all[half - 1] ?? NaN) + (all[half] ?? NaN)) / 2 : undefined;
}
