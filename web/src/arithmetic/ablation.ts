// Parts that are taken away, what a sweep of them says, and how long things take.
import type { Numbers, Series } from "../data/types";
import { between } from "./attribution";

/** "layer 2 head 3" of "blocks.2.attn.head.3"; an edge says which token no longer sees which. */
export function partName(name: string): string {
  const [, layer, rest = ""] = /^blocks\.(\d+)(.*)$/.exec(name) ?? [];
  if (layer === undefined) return name;
  const edge = /\.query\.(\d+)\.key\.(\d+)$/.exec(rest);
  const head = /\.head\.(\d+)/.exec(rest);
  const part = head ? ` head ${head[1]}` : rest.startsWith(".attn") ? " attention" : rest === ".mlp" ? " MLP" : "";
  return `layer ${layer}${part}${edge ? `, token ${edge[1]} from ${edge[2]}` : ""}`;
}

/** What stands over a column of the sweep: the number of a head, attn, MLP, all. */
export function columnName(column: string): string {
  const head = /\.head\.(\d+)$/.exec(column);
  return head ? (head[1] ?? "") : column === ".attn" ? "attn" : column === ".mlp" ? "MLP" : "all";
}

/** The list with one part more, or without it where it was there. */
export function toggled(parts: readonly string[], one: string): string[] {
  return parts.includes(one) ? parts.filter((part) => part !== one) : [...parts, one];
}

/** From changes of log-probability (…, t), the last one missing, how much the loss of the whole text rises. */
export function lossOf(change: Series): Series {
  if (change.parts) return between(lossOf(change.parts[0]), lossOf(change.parts[1]));
  const t = change.shape[change.shape.length - 1] ?? 1;
  const values = Float64Array.from({ length: change.values.length / t }, (_, row) => {
    let sum = 0;
    for (let i = 0; i < t - 1; i++) sum -= change.values[row * t + i] ?? NaN;
    return t > 1 ? sum / (t - 1) : NaN;
  });
  const code = change.code.replace(`{${change.shape.length - 1}}]`, ":-1].mean()");
  return { ...change, name: "loss", values: values as Numbers, shape: change.shape.slice(0, -1), dims: change.dims.slice(0, -1), code: `-${code}`, source: "mean of log p - log q of the tokens that follow" };
}

/** 0.3 s, 40 s, 9 minutes, 2 hours. */
export function lasting(seconds: number): string {
  if (seconds < 1) return `${seconds.toPrecision(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = seconds / 60;
  return minutes < 90 ? `${Math.round(minutes)} minutes` : `${(minutes / 60).toFixed(1)} hours`;
}
