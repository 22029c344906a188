// Fixed data of the panel, for the stories.
import { check, made, series, TEXT } from "../../stories/made";

const T = TEXT.length;
const NAMES = [
  "embed", ...[0, 1, 2, 3].flatMap((layer) => ["attn_norm", "attn.q", "attn.k", "attn.v", "attn.out", "mlp_norm", "mlp.gate", "mlp.up", "mlp.down"].map((part) => `blocks.${layer}.${part}`)),
  "final_norm", "unembed",
];
const sizeOf = (name: string): number => (name.includes("norm") ? 48 : name.includes("attn") ? 2304 : name.includes("mlp") ? 6144 : 24576);
const SIZES = NAMES.map(sizeOf);
const N = SIZES.reduce((a, b) => a + b, 0);
const KINDS = ["weights", "adapter", "gradients", "optimizer", "activations", "logits", "cache"];
const kept = T * 11000 * 4;
const MEMORY = [
  [4 * N, 0, 0, 0, 0, 2048, 2 * 4 * T * 48 * 4],
  [4 * N, 0, 4 * N, 8 * N, kept, 3 * T * 512 * 4, 0],
  [4 * N, 4 * 29184, 4 * 29184, 8 * 29184, kept, 3 * T * 512 * 4, 0],
  [254000, 4 * 29184, 4 * 29184, 8 * 29184, kept, 3 * T * 512 * 4, 0],
];
const PRODUCTS = ["attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down", "attn.scores", "attn.z", "unembed"];
const flops = (name: string): number => 2 * T * (name === "unembed" ? 24576 : name === "attn.scores" || name === "attn.z" ? 4 * T * 48 : 4 * sizeOf(`x.${name}`));

export const story = made("cost", {
  options: { tokens: null, batch: 1, rank: 8, fault: null },
  facts: {
    names: NAMES, uses: ["inference", "full", "lora", "qlora"], kinds: KINDS, products: PRODUCTS,
    formulas: MEMORY.map((row) => row.map((n) => (n ? `${n / 4} × 4` : "0"))), flop_formulas: PRODUCTS.map((name) => `2 × ${T} × ${flops(name) / 2 / T}`),
    tokens: T, batch: 1, rank: 8, itemsize: 4, packed: null, dtype: "float32", training: 3 * PRODUCTS.reduce((sum, name) => sum + flops(name), 0), active: N, total: N,
    roofline: { read_gb_s: 11.2, gemm_gflop_s: 92, day: "2026-01-31", points: [{ name: "the prompt at once", flops: 2 * T * N, bytes: 4 * N, seconds: 2e-3 }, { name: "one more token", flops: 2 * N, bytes: 4 * N, seconds: 1.4e-3 }] },
  },
  list: [
    series("parameters", [NAMES.length], ["part"], "measured", "numbers in the tensors of this part", (i) => SIZES[i] ?? 0),
    series("memory", [4, KINDS.length], ["use", "kind"], "computed", "arithmetic on the config", (u, k) => MEMORY[u]?.[k] ?? 0),
    series("flops", [PRODUCTS.length], ["product"], "computed", "2 · tokens · numbers that each is multiplied by", (i) => flops(PRODUCTS[i] ?? "")),
  ],
  checks: [check("C14", "parameters", 0, 0), check("C14", "total = card", 0, 0), check("C14", "FLOPs", 0, 0)],
});
