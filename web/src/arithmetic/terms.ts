// A number as the sum of products that it is.
import { valueAt } from "../data/python";
import type { Series } from "../data/types";

export interface Factor {
  series: Series;
  indices: number[];
}

export interface Term {
  factors: Factor[];
  value: number;
}

/** The products a_i b_i; a missing second factor leaves the first alone, as for a bias or a sum. */
export function products(n: number, left: (i: number) => Factor, right?: (i: number) => Factor): Term[] {
  return Array.from({ length: n }, (_, i) => termOf(right ? [left(i), right(i)] : [left(i)]));
}

export function termOf(factors: Factor[]): Term {
  return { factors, value: factors.reduce((product, { series, indices }) => product * valueAt(series, indices), 1) };
}

export function sumOf(terms: readonly Term[]): number {
  return terms.reduce((sum, { value }) => sum + value, 0);
}

/** The `most` largest by size, and what the others come to together. */
export function leading(terms: readonly Term[], most: number): { shown: Term[]; rest: number; left: number } {
  const sorted = [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const shown = terms.length <= most + 1 ? sorted : sorted.slice(0, most);
  const rest = sorted.slice(shown.length);
  return { shown, rest: sumOf(rest), left: rest.length };
}

/** The index of the number of largest size, of those that are finite. */
export function boldest(series: Series | undefined, from = 0, count = series?.values.length ?? 0): number {
  let best = from;
  for (let i = from; i < from + count; i++) {
    const [value, most] = [Math.abs(series?.values[i] ?? 0), Math.abs(series?.values[best] ?? 0)];
    if (Number.isFinite(value) && (value > most || !Number.isFinite(most))) best = i;
  }
  return best;
}
