// Lines of a run's metrics.jsonl as they arrive, and the curves in them. Nothing here is smoothed or rounded.
import type { Series, Value } from "../../data/types";

export interface Row {
  step: number;
  loss?: number | string;
  val_loss?: number | string;
  bits_per_character?: number | string | null;
  learning_rate?: number | string;
  grad_norm?: number | string;
  tokens?: number;
  seconds?: number;
  sample?: string;
  question?: string;
}

export interface Answer {
  file: string;
  step: number;
  rows: Row[];
  state: string;
  path: string;
  ours: boolean;
}

export interface Known {
  file: string;
  rows: Row[];
  state: string;
  path: string;
  ours: boolean;
}

export type Metric = "loss" | "val_loss" | "bits_per_character" | "learning_rate" | "grad_norm" | "speed";
export const METRICS: readonly { value: Metric; label: string }[] = [
  { value: "val_loss", label: "validation loss" }, { value: "bits_per_character", label: "bits per character" }, { value: "loss", label: "training loss" }, { value: "learning_rate", label: "learning rate" },
  { value: "grad_norm", label: "gradient norm" }, { value: "speed", label: "tokens/s" },
];

/** What is known, with an answer that begins at step `after`; null: the lines were written anew, ask from 0. */
export function merged(known: Known | undefined, answer: Answer, after: number): Known | null {
  if (known && after > 0 && known.file !== answer.file) return null;
  const before = known && after > 0 ? known.rows.filter((row) => row.step < after) : [];
  const { file, state, path, ours } = answer;
  return { file, state, path, ours, rows: [...before, ...answer.rows] };
}

export function lastStep(rows: readonly Row[]): number {
  return rows.length ? Math.max(...rows.slice(-3).map((row) => row.step)) : 0;
}

export interface Curve {
  /** Numbers as the file has them. */
  y: number[];
  step: number[];
  /** Tokens read by then; of an evaluation, those of the last line before it. */
  tokens: number[];
  /** Which of the lines that have this number each point is. */
  line: number[];
}

/** One metric of the rows; tokens per second between neighbouring lines. */
export function curveOf(rows: readonly Row[], metric: Metric): Curve {
  const found: Curve = { y: [], step: [], tokens: [], line: [] };
  let [tokens, seconds, line] = [0, 0, 0];
  for (const row of rows) {
    const trained = row.loss !== undefined;
    const [before, then] = [tokens, seconds];
    if (trained) [tokens, seconds] = [row.tokens ?? tokens, row.seconds ?? seconds];
    const speed = trained && seconds > then ? (tokens - before) / (seconds - then) : undefined;
    const value = metric === "speed" ? speed : row[metric];
    if (value === undefined || value === null) continue;
    found.y.push(Number(value));
    found.step.push(row.step);
    found.tokens.push(tokens);
    found.line.push(line++);
  }
  return found;
}

/** At most about `most` points, evenly; the first and the last are among them. */
export function thinned(curve: Curve, most: number): Curve {
  const n = curve.y.length;
  if (n <= most) return curve;
  const kept = Array.from({ length: most }, (_, i) => Math.round((i * (n - 1)) / (most - 1)));
  const pick = (list: number[]): number[] => kept.map((i) => list[i] ?? NaN);
  return { y: pick(curve.y), step: pick(curve.step), tokens: pick(curve.tokens), line: pick(curve.line) };
}

/** A curve as a series whose Python reads the same file. */
export function seriesOf(name: string, path: string, metric: Metric, curve: Curve): Series {
  const setup = ["import json", `lines = [json.loads(line) for line in open(${JSON.stringify(path)})]`];
  const steps = metric === "speed";
  if (steps) setup.push("steps = [line for line in lines if 'loss' in line]", "speed = [(b['tokens'] - a['tokens']) / (b['seconds'] - a['seconds']) for a, b in zip([{'tokens': 0, 'seconds': 0}, *steps], steps) if b['seconds'] > a['seconds']]");
  const code = steps ? "speed[{0}]" : `[line['${metric}'] for line in lines if line.get('${metric}') is not None][{0}]`;
  const length = (curve.line.at(-1) ?? -1) + 1;
  const values = new Float64Array(length).fill(NaN);
  curve.line.forEach((line, i) => { values[line] = curve.y[i] ?? NaN; });
  const source = steps ? "metrics.jsonl: tokens over seconds" : `metrics.jsonl: ${metric}`;
  return { name, kind: steps ? "computed" : "measured", source, shape: [length], dims: ["line"], setup, code, values, side: "A", preamble: "" };
}

export interface Difference {
  field: string;
  a: string;
  b: string;
}

const ELSEWHERE = new Set(["train.max_minutes", "train.max_iters", "train.device", "train.log", "train.tensorboard", "train.sample_interval", "train.sample_prompt", "train.sample_tokens", "train.checkpoint_interval", "train.eval_interval", "train.keep_going"]);

/** The settings in which two runs differ: `what` may change the model, `rest` only how long it trains and what is seen of it. */
export function differences(a: Record<string, unknown>, b: Record<string, unknown>): { what: Difference[]; rest: Difference[] } {
  const fields = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((field) => JSON.stringify(a[field]) !== JSON.stringify(b[field]));
  const all = fields.map((field) => ({ field, a: worded(a[field]), b: worded(b[field]) }));
  return { what: all.filter(({ field }) => !ELSEWHERE.has(field)), rest: all.filter(({ field }) => ELSEWHERE.has(field)) };
}

export function worded(value: unknown): string {
  if (value === undefined) return "default";
  if (value === null) return "none";
  return typeof value === "object" ? JSON.stringify(value).replaceAll('"', "") : String(value as Value);
}

/** What the rule of one field lets two curves say. */
export function rule(what: readonly Difference[]): string {
  if (!what.length) return "Both are trained in the same way: what separates the curves is how long they ran, or chance.";
  if (what.length === 1) return `They differ in one field, ${what[0]?.field}: what separates the curves is this, or chance; another seed of each tells which.`;
  return `They differ in ${what.length} fields, so the curves cannot say which of them it was: change one at a time.`;
}

/** Whether runs have other tokens, so that a loss per token is not the same thing for them. */
export function otherTokens(settings: readonly Record<string, unknown>[]): boolean {
  return new Set(settings.map((one) => `${one["model.vocab_size"]} ${one["train.tokenizer"]}`)).size > 1;
}
