// What glass/cost.py says beside its series.
export interface Point {
  name: string;
  flops: number;
  bytes: number;
  seconds: number;
}

export interface Facts {
  names: string[];
  uses: string[];
  kinds: string[];
  products: string[];
  /** Of each use and kind, and of each product: the arithmetic, with its numbers. */
  formulas: string[][];
  flop_formulas: string[];
  tokens: number;
  batch: number;
  rank: number;
  itemsize: number;
  packed: string | null;
  dtype: string;
  /** FLOPs of a step of training. */
  training: number;
  active: number;
  total: number;
  /** null: the machine's limits are not measured yet. */
  roofline: { read_gb_s: number; gemm_gflop_s: number; day: string; points: Point[] } | null;
}

export const USES: Record<string, string> = { inference: "inference", full: "training, all weights", lora: "LoRA", qlora: "QLoRA" };
export const KINDS: Record<string, string> = {
  weights: "weights", adapter: "adapter", gradients: "gradients", optimizer: "optimizer", activations: "activations", logits: "logits", cache: "KV cache",
};
/** Of each kind the number of its colour. */
export const COLOURS: Record<string, number> = { weights: 0, adapter: 4, gradients: 1, optimizer: 2, activations: 3, logits: 5, cache: 6 };
