// Fixed data of the panel, for the stories.
import type { Series } from "../../data/types";
import { check, made, pattern, scattered, series, TEXT } from "../../stories/made";

const [T, D, C, AT] = [TEXT.length, 24, 8, TEXT.length - 1];
const row = pattern(T, 1, 2);
const spread = (seed: number, ...at: number[]): number => 2 * scattered(seed, ...at) - 1;
const tap = (name: string, shape: number[], dims: string[], value: (...at: number[]) => number): Series => series(name, shape, dims, "measured", `blocks.1.attn.${name}`, value);
const norm = (j: number, i: number): number => spread(1, j, i);
const w = (seed: number) => (c: number, i: number): number => 0.3 * spread(seed, c, i);
const linear = (seed: number, j: number, c: number): number => Array.from({ length: D }, (_, i) => w(seed)(c, i) * norm(j, i)).reduce((a, b) => a + b, 0);
const dot = (j: number): number => Array.from({ length: C }, (_, c) => linear(2, AT, c) * linear(3, j, c)).reduce((a, b) => a + b, 0);
const z = (c: number): number => TEXT.map((_, j) => row(AT, j) * linear(4, j, c)).reduce((a, b) => a + b, 0);
const out = (i: number): number => Array.from({ length: C }, (_, c) => z(c) * w(5)(c, i)).reduce((a, b) => a + b, 0);

const STAGES = ([
  ["x", "x", "x row"], ["norm", "norm", "norm table"], ["qkv", "q, k, v", "q row query", "k table key", "v table value"], ["rotate", "rotate"], ["dot", "q · k", "dot bars"],
  ["scale", "/ √c", "scaled bars"], ["mask", "mask", "scores bars"], ["softmax", "softmax", "pattern bars query"], ["z", "Σ p · v", "z row output", "pattern bars query", "v table value"],
  ["out", "out", "out row output", "attn row output"], ["stream", "stream", "x row", "attn row output", "stream row"],
] as const).map(([id, label, ...drawings]) => ({
  id, label, says: "What the step does, in a sentence.",
  drawings: drawings.map((one) => { const [name = "", as = "row", tone = ""] = one.split(" "); return { series: name, name, as, tone }; }),
}));

export const story = made("microscope", {
  options: { layer: 1, head: 2, query: -1, no_root: false, no_mask: false, rotate_v: false, split: false },
  facts: {
    layer: 1, head: 2, at: AT, located: ["rotated by their position"], cap: null, stream: "on", factor: 1, wrong: false, fused: true, stages: STAGES,
    then: { id: 1, text: " was", p: 0.4 }, now: { id: 1, text: " was", p: 0.4 }, kl: 0,
  },
  list: [
    tap("x", [D], ["width"], (i = 0) => 3 * spread(9, i)),
    tap("norm", [T, D], ["key", "width"], (j = 0, i = 0) => norm(j, i)),
    tap("q", [C], ["channel"], (c = 0) => linear(2, AT, c)),
    tap("k", [T, C], ["key", "channel"], (j = 0, c = 0) => linear(3, j, c)),
    tap("v", [T, C], ["key", "channel"], (j = 0, c = 0) => linear(4, j, c)),
    series("dot", [T], ["key"], "computed", "q · k", (j = 0) => dot(j)),
    series("scaled", [T], ["key"], "computed", "q · k / √c", (j = 0) => dot(j) / Math.sqrt(C)),
    tap("scores", [T], ["key"], (j = 0) => (j > AT ? -Infinity : dot(j) / Math.sqrt(C))),
    tap("pattern", [T], ["key"], (j = 0) => row(AT, j)),
    tap("z", [C], ["channel"], (c = 0) => z(c)),
    series("out", [D], ["width"], "computed", "z W_out", (i = 0) => out(i)),
    tap("attn", [D], ["width"], (i = 0) => 2 * out(i)),
    tap("stream", [D], ["width"], (i = 0) => 3 * spread(9, i) + 2 * out(i)),
    ...(["w_q", "w_k", "w_v", "w_out"] as const).map((name, n) => tap(name, [C, D], ["channel", "width"], (c = 0, i = 0) => w(n + 2)(c, i))),
  ],
  checks: [check("C1", "rows of pattern sum to 1", 6e-8, 1e-6), check("C2", "pattern v = z", 3e-7, 1e-4), check("C3", "resid_pre + attn = resid_mid", 0, 0)],
});
