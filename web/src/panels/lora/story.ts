// Fixed data of the panel, for the stories.
import { check, made, series } from "../../stories/made";

const RANKS = [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64];
const WEIGHTS = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2];
const PARTS = ["attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down"];
const own = (i: number): number => 4 * Math.exp(-i / 40);
const full = (i: number): number => 0.9 * Math.exp(-i / 5) + 0.02;
const lora = (i: number): number => [1.1, 0.4, 0.2, 0.06][i] ?? 0;
const shares = (value: (i: number) => number, count: number) => (i: number): number => {
  const squares = Array.from({ length: count }, (_, j) => value(j) ** 2);
  const sum = (list: number[]): number => list.reduce((a, b) => a + b, 0);
  return sum(squares.slice(0, i + 1)) / sum(squares);
};
const curve = (value: (i: number) => number, count: number, name: string) => [
  series(name, [count], ["rank"], "computed", "singular values", value),
  series(`${name}_chance`, [count], ["rank"], "computed", "singular values of a random matrix", (i) => value(0) * 0.6 * (1 - i / count / 1.1)),
  series(`${name}_energy`, [count], ["rank"], "computed", "sum of the first sigma^2 over all", shares(value, count)),
];
const about = (relative: number | undefined, rank: number) => ({ rank_50: 1, rank_90: 3, rank_99: rank, effective: rank * 0.8, stable: 1.7, norm: 1, relative: relative ?? 1, rank });

export const story = made("lora", {
  options: { layer: null, part: "", rank: 4, weight: 1, fault: "none" },
  facts: {
    matrix: "blocks.0.attn.q", shape: [64, 64], changes: { lora: "stories260K + pirate", full: "pirate, all weights" }, base: "stories260K", full_rank: 64,
    matrices: [0, 1, 2, 3, 4].flatMap((layer) => PARTS.map((part) => ({ name: `blocks.${layer}.${part}`, layer, part, changed: part.startsWith("attn") ? ["lora", "full"] : ["full"] }))).concat([{ name: "embed", layer: null as unknown as number, part: "embed", changed: ["full"] }]),
    numbers: { weight: about(undefined, 64), lora: about(0.11, 4), full: about(0.08, 64) }, strongest: 10, notes: [], rows: [0, 1, 2, 3, 4, null], parts: [...PARTS, "embed"],
    adapter: { names: ["default"], here: true, rank: 4, scales: [2], parameters: 20480 }, starts: ["A random, B = 0", "A = B = 0", "A and B random"],
  },
  list: [
    ...curve(own, 64, "weight"), ...curve(full, 64, "full"), ...curve(lora, 4, "lora"),
    ...["lora", "full"].map((kind) =>
      series(`where_${kind}`, [6, 8], ["layer", "matrix"], "computed", "‖ΔW‖ / ‖W‖ of each matrix", (row, column) => ((row === 5) !== (column === 7) || (kind === "lora" && column > 3) ? 0 : 0.05 + 0.01 * row + 0.004 * column)),
    ),
    series("full_near", [10], ["direction"], "computed", "largest |cosine|", (i) => 0.99 - i * 0.03),
    series("lora_near", [10], ["direction"], "computed", "largest |cosine|", (i) => (i === 2 ? 0.31 : 0.97 - i * 0.02)),
    series("ranks", [RANKS.length], ["rank"], "computed", "ranks that are tried", (i) => RANKS[i] ?? 0),
    series("cut_lora", [RANKS.length], ["rank"], "measured", "loss of W + dW cut to r", (i) => 2.31 + 0.7 * Math.exp(-(RANKS[i] ?? 0) * 0.9)),
    series("cut_full", [RANKS.length], ["rank"], "measured", "loss of W + dW cut to r", (i) => 2.22 + 0.8 * Math.exp(-(RANKS[i] ?? 0) * 0.4)),
    series("cut_weights", [RANKS.length], ["rank"], "measured", "loss of W + dW itself cut to r", (i) => 2.22 + 4.5 * Math.exp(-(RANKS[i] ?? 0) * 0.07) - 0.05),
    series("weights", [WEIGHTS.length], ["weight"], "computed", "weights that are tried", (i) => WEIGHTS[i] ?? 0),
    series("scaled_lora", [WEIGHTS.length], ["weight"], "measured", "loss of W + weight dW", (i) => 2.31 + 0.7 * ((WEIGHTS[i] ?? 0) - 1.1) ** 2),
    series("scaled_full", [WEIGHTS.length], ["weight"], "measured", "loss of W + weight dW", (i) => 2.22 + 0.8 * ((WEIGHTS[i] ?? 0) - 1.05) ** 2),
    series("gradients", [3, 2], ["start", "factor"], "measured", "norms of gradients", (start, factor) => (start === 1 || (start === 0 && factor === 0) ? 0 : 0.12 + 0.03 * factor)),
  ],
  checks: [check("C12", "what a cut loses = the energy of what was cut", 3e-8, 1e-5), check("C11", "merged = unmerged", 2e-6, 1e-4)],
});
