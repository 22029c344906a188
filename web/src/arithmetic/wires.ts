// Query heads above, key and value heads below, and the wires between them; steps of a cache as columns.
import { grouped } from "./number";

export interface Wires {
  width: number;
  heads: { x: number; group: number }[];
  kvHeads: { x: number; fanIn: number }[];
  paths: string[];
}

/** Each head's wire to its group, in a drawing of this width, between the heights `top` and `bottom`. */
export function wires(group: readonly number[], kvHeads: number, width: number, top: number, bottom: number): Wires {
  const at = (i: number, count: number): number => ((i + 0.5) * width) / count;
  const heads = group.map((g, i) => ({ x: at(i, group.length), group: g }));
  const kv = Array.from({ length: kvHeads }, (_, g) => ({ x: at(g, kvHeads), fanIn: group.filter((one) => one === g).length }));
  const middle = (top + bottom) / 2;
  const paths = heads.map(({ x, group: g }) => {
    const to = kv[g]?.x ?? 0;
    return `M${x.toFixed(1)},${top}C${x.toFixed(1)},${middle} ${to.toFixed(1)},${middle} ${to.toFixed(1)},${bottom}`;
  });
  return { width, heads, kvHeads: kv, paths };
}

export interface Column {
  step: number;
  /** Rows of the tokens whose keys and values were taken from the cache, and of those computed: [first, one past the last]. */
  reused: [number, number];
  made: [number, number];
}

/** A column for each pass: what it took over stands first, then what it computed. */
export function columns(made: readonly number[], reused: readonly number[]): Column[] {
  return made.map((count, step) => {
    const before = reused[step] ?? 0;
    return { step, reused: [0, before], made: [before, before + count] };
  });
}

/** The first step at which two texts differ; −1 where they do not. */
export function parting(one: readonly number[], other: readonly number[]): number {
  return one.findIndex((id, i) => i < other.length && other[i] !== id);
}

/** How many numbers a cache holds, as the factors of their product, and the bytes. */
export function product(factors: readonly number[]): string {
  return `${factors.map(grouped).join(" · ")} = ${grouped(factors.reduce((a, b) => a * b, 1))}`;
}
