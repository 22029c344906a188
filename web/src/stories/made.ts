// Fixed data for stories and tests: numbers that look like something, the same every time.
import type { Card, Check, Kind, MapEntry, PanelData, Series, Side, Sides } from "../data/types";

export const LAYERS = 6;
export const HEADS = 6;
export const TEXT = ["<s>", "Once", " upon", " a", " time", ",", " there", " was", " a", " little", " girl", " named", " Lily", "."];

/** Between 0 and 1, scattered, from whole numbers. */
export function scattered(...at: number[]): number {
  const x = Math.sin(at.reduce((sum, one, i) => sum + (one + 1) * (12.9898 + i * 65.233), 0)) * 43758.5453;
  return x - Math.floor(x);
}

export function series(name: string, shape: number[], dims: string[], kind: Kind, source: string, value: (...at: number[]) => number): Series {
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < values.length; i++) values[i] = value(...unflat(i, shape));
  const code = `${name}[${dims.map((_, d) => `{${d}}`).join(", ")}]`;
  return { name, kind, source, shape, dims, setup: [], code, values, side: "A", preamble: "import fathom" };
}

function unflat(i: number, shape: readonly number[]): number[] {
  const at: number[] = [];
  for (let d = shape.length - 1; d >= 0; d--) {
    at[d] = i % (shape[d] ?? 1);
    i = Math.floor(i / (shape[d] ?? 1));
  }
  return at;
}

/** Rows that sum to 1 over the keys up to the query. */
export function pattern(t: number, layer: number, head: number): (query: number, key: number) => number {
  const weight = (q: number, k: number): number => (k > q ? 0 : Math.exp(4 * scattered(layer, head, q, k) + (k === 0 ? 2 : 0) + (k === q - 1 ? 3 * scattered(layer, head) : 0)));
  return (q, k) => (k >= t ? 0 : weight(q, k) / Array.from({ length: q + 1 }, (_, j) => weight(q, j)).reduce((a, b) => a + b, 0));
}

export function made(panel: string, parts: Partial<PanelData> & { list: Series[] }): PanelData {
  const { list, ...rest } = parts;
  return {
    panel, options: {}, absent: null, facts: {}, checks: [], source: [SOURCE],
    series: Object.fromEntries(list.map((one) => [one.name, one])), ...rest,
  };
}

export function check(id: string, says: string, residual: number, tolerance: number): Check {
  return { id, says, residual, tolerance, ok: residual <= tolerance };
}

const SOURCE = {
  path: "fathom/model/attention.py", line: 41,
  text: "def attend(q, k, v, mask):\n    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (b, h, t, s)\n    return scores.masked_fill(~mask, -inf).softmax(-1) @ v",
};

const card = (name: string): Card => ({
  name, family: "llama", n_layer: LAYERS, n_head: HEADS, n_kv_head: 3, head_dim: 48, d_model: 288, d_ff: 768, vocab_size: 32000,
  context_length: 256, dtype: "float32", packing: "", adapters: [], parameters: 15_191_712, cache_bytes_per_token: 13824, hash: "5f0c6a1e92b7",
});

const BLOCK = [
  ["attn_norm", [288], 288], ["attn.q", [288, 288], 82944], ["attn.k", [144, 288], 41472], ["attn.v", [144, 288], 41472], ["attn.out", [288, 288], 82944],
  ["mlp_norm", [288], 288], ["mlp.gate", [768, 288], 221184], ["mlp.up", [768, 288], 221184], ["mlp.down", [288, 768], 221184],
] as const;

const map = (): MapEntry[] => [
  { name: "embed", shape: [32000, 288], parameters: 9_216_000 },
  { name: "blocks", first: 0, last: LAYERS - 1, parts: BLOCK.map(([name, shape, parameters]) => ({ name, shape: [...shape], parameters })), parameters: 912_960 },
  { name: "final_norm", shape: [288], parameters: 288 },
  { name: "unembed", shape: [32000, 288], parameters: 9_216_000 },
];

function side(name: string, shift: number): Side {
  const written: Side["written"] = {};
  for (let layer = 0; layer < LAYERS; layer++)
    for (const part of ["attn", "mlp"])
      written[`blocks.${layer}.${part}`] = TEXT.map((_, t) => (1 + layer) * (0.3 + scattered(layer, part.length, t)) + (layer === 1 && part === "mlp" && t === 0 ? 30 : 0));
  return {
    model: name, card: card(name), map: map(), written,
    tokens: TEXT.map((text, i) => ({ id: 1 + Math.floor(scattered(i) * 31990), text, special: i === 0 })),
    logprobs: TEXT.map((_, i) => (i === 0 ? null : -6 * scattered(i, 3) + shift * (scattered(i, 9) - 0.5))),
  };
}

export const SIDES: Sides = { A: side("stories15M", 0), B: side("stories15M + pirate", 3) };

/** Text that must be shown as it is. */
export const HOSTILE = ["<img src=x onerror=alert(1)>", "</script>", "\u202eevil", "\u0000", "\u200b", "&lt;", "{{7*7}}", "😀", " ", "\n", "", "javascript:alert(1)"];
