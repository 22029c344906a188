// Fixed data of the panel, for the stories.
import { check, HEADS, LAYERS, made, pattern, scattered, series, TEXT } from "../../stories/made";

const T = TEXT.length;
const patterns = Array.from({ length: LAYERS }, (_, layer) => Array.from({ length: HEADS }, (_, head) => pattern(T, layer, head)));
const at = (layer: number, head: number, q: number, k: number): number => patterns[layer]?.[head]?.(q, k) ?? 0;
const over = (text: string, value: (layer: number, head: number) => number) => series(text, [LAYERS, HEADS], ["layer", "head"], "computed", text, value);

export const story = made("heads", {
  options: { layer: null, head: null, text: "prompt" },
  facts: { group: 2, copies: 1, tokens: TEXT.map((text, id) => ({ id, text })), views: [], after: false },
  list: [
    series("thumbs", [4, LAYERS, HEADS, T, T], ["view", "layer", "head", "query", "key"], "computed", "255 sqrt(share / largest)", (view, layer, head, q, k) =>
      view !== undefined && view % 2 && k === 0 ? 0 : Math.round(255 * Math.sqrt(Math.min(1, at(layer ?? 0, head ?? 0, q ?? 0, k ?? 0))))),
    series("largest", [4], ["view"], "computed", "what the brightest colour stands for", (view) => [1, 0.6, 2.1, 1.4][view ?? 0] ?? 1),
    over("sink", (layer, head) => at(layer, head, T - 1, 0)),
    over("previous", (layer, head) => at(layer, head, T - 1, T - 2)),
    over("induction", (layer, head) => scattered(layer, head, 7) ** 4),
    over("entropy", (layer, head) => 2 * scattered(layer, head, 8)),
    over("out_norm", (layer, head) => 3 * scattered(layer, head, 9)),
    series("pattern", [T, T], ["query", "key"], "measured", "blocks.0.attn.pattern", (q, k) => at(0, 0, q ?? 0, k ?? 0)),
    series("weighted", [T, T], ["query", "key"], "computed", "pattern · ‖v W_out‖", (q, k) => at(0, 0, q ?? 0, k ?? 0) * (1 + scattered(k ?? 0))),
  ],
  checks: [check("C1", "rows of pattern sum to 1", 6e-8, 1e-6), check("C1", "later keys get nothing", 0, 0)],
});
