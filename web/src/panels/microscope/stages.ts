// The steps of one head, in the order of computation: what each shows, and what its numbers are sums of.
import { readable } from "../../arithmetic/number";
import { boldest, type Factor, products, type Term, termOf } from "../../arithmetic/terms";
import type { PanelData, Series } from "../../data/types";

export interface Facts {
  layer: number;
  head: number;
  at: number;
  located: string[];
  cap: number | null;
  stream: string;
  factor: number;
  wrong: boolean;
  stages: Stage<Omit<Drawing, "series"> & { series: string }>[];
  fused: boolean;
  then: Said;
  now: Said;
  kl: number;
}

interface Said {
  id: number;
  text: string;
  p: number;
}

/** A row of numbers, a table with a row a key, or bars with one number a key. */
export interface Drawing {
  series: Series;
  name: string;
  as: "row" | "table" | "bars";
  tone: string;
}

export interface Stage<Of = Drawing> {
  id: string;
  label: string;
  says: string;
  drawings: Of[];
}

/** What a number is made of, for the cell at these indices; null: it is not a sum of products. */
export interface Made {
  terms: Term[];
  formula: string;
  /** Where it is no sum: how it comes from other numbers, as text and numbers. */
  from?: (string | Factor)[];
}

/** The steps, as Python lists them, with their series. */
export function stagesOf({ facts, series }: PanelData): Stage[] {
  const { stages } = facts as unknown as Facts;
  return stages.map((stage) => ({ ...stage, drawings: stage.drawings.flatMap((one) => (series[one.series] ? [{ ...one, series: series[one.series] as Series }] : [])) }));
}

/** Of which drawing and which number the multiply-adds are shown, until another is chosen: the largest of the query. */
export function firstCell(stage: Stage, at: number): { name: string; indices: number[] } | null {
  const series = (stage.id === "stream" ? stage.drawings.at(-1) : stage.drawings[0])?.series;
  if (!series) return null;
  const width = series.shape.length > 1 ? (series.shape[1] ?? 0) : 0;
  const flat = width ? boldest(series, at * width, width) : boldest(series);
  return { name: series.name, indices: width ? [Math.floor(flat / width), flat % width] : [flat] };
}

/** The multiply-adds of one number. */
export function madeOf(data: PanelData, stage: string, name: string, indices: readonly number[]): Made | null {
  const { at, factor, stream, cap, located: steps } = data.facts as unknown as Facts;
  const s = data.series;
  const [a = 0, b = 0] = indices;
  const bias = (one: Series | undefined, channel: number): Term[] => (one ? [termOf([{ series: one, indices: [channel] }])] : []);
  const linear = (w: Series, vector: number, channel: number, extra: Series | undefined): Term[] => [
    ...products(w.shape[1] ?? 0, (i) => ({ series: w, indices: [channel, i] }), (i) => ({ series: s.norm as Series, indices: [vector, i] })), ...bias(extra, channel),
  ];
  if (stage === "qkv" && s.norm) {
    if (name === "q" && s.w_q) return { terms: linear(s.w_q, at, a, s.b_q), formula: `q = W_q norm(x)${s.b_q ? " + b" : ""}` };
    const [w, extra] = name === "k" ? [s.w_k, s.b_k] : [s.w_v, s.b_v];
    if (w) return { terms: linear(w, a, b, extra), formula: `${name} = W_${name} norm(x)${extra ? " + b" : ""}` };
  }
  const [q, k, v] = [s.q_rot ?? s.q, s.k_rot ?? s.k, s.v_rot ?? s.v];
  if (stage === "dot" && q && k) return { terms: products(q.shape[0] ?? 0, (i) => ({ series: q, indices: [i] }), (i) => ({ series: k, indices: [a, i] })), formula: "q · k" };
  if (stage === "z" && name === "z" && s.pattern && v) {
    const p = s.pattern;
    return { terms: products(p.shape[0] ?? 0, (j) => ({ series: p, indices: [j] }), (j) => ({ series: v, indices: [j, a] })), formula: "Σ p v" };
  }
  if (stage === "out" && name === "out" && s.z && s.w_out) {
    const [z, w] = [s.z, s.w_out];
    return { terms: products(z.shape[0] ?? 0, (i) => ({ series: z, indices: [i] }), (i) => ({ series: w, indices: [i, a] })), formula: "z W_out" };
  }
  const added = s.attn_after ?? s.attn;
  if (stage === "stream" && name === "stream" && s.x && added && factor === 1)
    return { terms: (stream === "off" ? [added] : [s.x, added]).map((one) => termOf([{ series: one, indices: [a] }])), formula: stream === "off" ? "attention" : "x + attention" };
  const from = fromOthers(s, stage, name, a, b, { at, cap, steps, root: data.options.no_root !== true });
  return from ? { terms: [], ...from } : null;
}

interface How {
  at: number;
  cap: number | null;
  steps: string[];
  root: boolean;
}

/** Of steps that are no sums: a quotient, a mask, a share. */
function fromOthers(s: PanelData["series"], stage: string, name: string, a: number, b: number, { at, cap, steps, root }: How): Omit<Made, "terms"> | null {
  const width = s.q?.shape[0] ?? 1;
  if (stage === "norm" && s.x && s.norm && a === at) {
    const [x, normed] = [s.x.values[b] ?? NaN, s.norm.values[at * (s.x.shape[0] ?? 0) + b] ?? NaN];
    return { formula: "norm(x)", from: [{ series: s.x, indices: [b] }, ` times ${readable(normed / x)}: one over the size of x, and this channel's weight`] };
  }
  if (stage === "rotate") {
    const before = name === "q_rot" ? s.q : name === "k_rot" ? s.k : s.v;
    const indices = name === "q_rot" ? [a] : [a, b];
    return before ? { formula: name, from: ["it was ", { series: before, indices }, steps.length || name === "v_rot" ? `; ${name === "v_rot" ? "rotated by its position" : steps.join(", then ")}` : ""] } : null;
  }
  if (stage === "scale" && s.dot) {
    const capped = cap === null ? "" : `, capped at ±${cap}`;
    return { formula: "score", from: [{ series: s.dot, indices: [a] }, root ? ` / √${width}${capped}` : `, undivided${capped}`] };
  }
  if (stage === "mask" && s.scaled && s.scores) {
    const hidden = s.scores.values[a] === -Infinity;
    return { formula: "masked score", from: [{ series: s.scaled, indices: [a] }, hidden ? ", which this query may not see: −∞ takes its place" : s.scores.values[a] === s.scaled.values[a] ? ", which it may see: it stays" : ", lowered by the distance"] };
  }
  if (stage === "softmax" && s.scores) {
    const most = Math.max(...s.scores.values);
    const total = Array.from(s.scores.values).reduce((sum, score) => sum + Math.exp(score - most), 0);
    return { formula: "share", from: ["e to ", { series: s.scores, indices: [a] }, `, over the sum of e to all scores: ${readable(Math.exp((s.scores.values[a] ?? NaN) - most))} / ${readable(total)} with the largest score taken from each`] };
  }
  return null;
}
