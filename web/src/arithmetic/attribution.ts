// One logit, or the difference of two, as the sum of its parts.
import { filled, flat } from "../data/python";
import type { Numbers, Series } from "../data/types";

export interface PartOf {
  name: string;
  kind: string;
  layer: number | null;
  head: number | null;
}

/** Of a series whose last dimensions are query and token, what is left at one query and the column of a token; minus that
 * of another where there is one. */
export function picked(series: Series, query: number, column: number, minus: number | null): Series {
  const rest = series.shape.slice(0, -2);
  const count = rest.reduce((a, b) => a * b, 1);
  const values = new Float64Array(count);
  for (let i = 0; i < count; i++) values[i] = at(series, i, query, column) - (minus === null ? 0 : at(series, i, query, minus));
  const code = (c: number): string => filled(series.code.replaceAll(`{${rest.length}}`, String(query)).replaceAll(`{${rest.length + 1}}`, String(c)), []);
  return {
    ...series, values: values as Numbers, shape: rest, dims: series.dims.slice(0, -2),
    code: minus === null ? code(column) : `${code(column)} - ${code(minus)}`,
    source: minus === null ? series.source : `${series.source}; of the first token minus the second`,
  };
}

function at(series: Series, i: number, query: number, column: number): number {
  const [queries = 1, tokens = 1] = series.shape.slice(-2);
  return series.values[(i * queries + query) * tokens + column] ?? NaN;
}

/** The column of a token at a query; −1 where it is not among those that were taken apart. */
export function columnOf(tokens: Series, query: number, id: number): number {
  const count = tokens.shape[1] ?? 0;
  for (let c = 0; c < count; c++) if (tokens.values[flat(tokens, [query, c])] === id) return c;
  return -1;
}

/** B − A of two series of one shape, with both as its parts. */
export function between(a: Series, b: Series): Series {
  const values = Float64Array.from(b.values, (x, i) => x - (a.values[i] ?? NaN));
  return { ...b, values: values as Numbers, source: `B − A of ${b.source}`, side: "B-A", parts: [a, b] };
}

/** Sums of the numbers of some parts, as a series of its own. */
export function sums(series: Series, groups: readonly (readonly number[])[], dims: string[] = ["group"]): Series {
  const values = Float64Array.from(groups, (group) => group.reduce((sum, i) => sum + (series.values[i] ?? 0), 0));
  const table = JSON.stringify(groups);
  const made: Series = {
    ...series, values: values as Numbers, shape: [groups.length], dims, source: `sum of: ${series.source}`,
    code: `sum(float(${series.code.replaceAll("{0}", "i")}) for i in ${table}[{0}])`,
  };
  return series.parts ? { ...made, parts: [sums(series.parts[0], groups, dims), sums(series.parts[1], groups, dims)] } : made;
}

/** The parts of each kind, in the order in which kinds first come. */
export function byKind(parts: readonly PartOf[]): [string, number[]][] {
  const found = new Map<string, number[]>();
  parts.forEach(({ kind }, i) => found.set(kind, [...(found.get(kind) ?? []), i]));
  return [...found];
}

/** Parts that were written before the first block, then those up to each block, then all: what the logit is so far. */
export function upTo(parts: readonly PartOf[], layers: number): number[][] {
  const before = parts.flatMap(({ kind, layer }, i) => (layer === null && (kind === "embed" || kind === "position") ? [i] : []));
  const rows = [before];
  for (let layer = 0; layer < layers; layer++) rows.push([...(rows[layer] ?? []), ...parts.flatMap((part, i) => (part.layer === layer ? [i] : []))]);
  return [...rows.slice(0, -1), parts.map((_, i) => i)];
}

/** The largest parts, and the others. */
export function largest(values: ArrayLike<number>, count: number): { shown: number[]; rest: number[] } {
  const order = Array.from(values, (_, i) => i).sort((a, b) => Math.abs(values[b] ?? 0) - Math.abs(values[a] ?? 0));
  return { shown: order.slice(0, count), rest: order.slice(count) };
}
