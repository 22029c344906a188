// Fixed data of the panel, for the stories.
import { check, made, pattern, series, TEXT } from "../../stories/made";

const [H, G, T] = [6, 3, TEXT.length];
const CHOICES = [1, 2, 3, 6];
const attention = Array.from({ length: H }, (_, h) => pattern(T, 2, h));

export const story = made("groups", {
  options: { layer: 0, query: -1, fault: null },
  facts: {
    layer: 2, query: T - 1, n_head: H, n_kv_head: G, choices: CHOICES, context_length: 256, prompt_tokens: T, layers: 6, head_dim: 48, itemsize: 4,
    seconds: [2.1e-5, 2.2e-5, 2.4e-5, 3e-5], keys: 256, sources: "Hatched above: worked out.", note: "grouped-query: 2 query heads share one key and one value head",
  },
  list: [
    series("group", [H], ["head"], "computed", "head · n_kv_head // n_head", (h) => Math.floor((h * G) / H)),
    series("fan_in", [G], ["kv_head"], "computed", "query heads of each key and value head", () => H / G),
    series("bytes", [4], ["choice"], "computed", "2 · layers · n_kv_head · head_dim · tokens · bytes a number", (i) => 2 * 6 * (CHOICES[i] ?? 0) * 48 * 256 * 4),
    series("parameters", [4], ["choice"], "computed", "layers · 2 · d_model · n_kv_head · head_dim, and biases", (i) => 6 * 2 * 288 * (CHOICES[i] ?? 0) * 48),
    series("pattern", [H, T], ["head", "key"], "measured", "blocks.2.attn.pattern", (h, k) => attention[h]?.(T - 1, k) ?? 0),
  ],
  checks: [check("C10", "grouped = repeated to all heads", 5e-7, 1e-5), check("C9", "cache bytes", 0, 0)],
});
