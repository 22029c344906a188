// Fixed data of the panel, for the stories.
import { check, LAYERS, made, scattered, series, TEXT } from "../../stories/made";

const WORDS = [" there", " a", " the", " was", " time", " girl", " Lily", ".", " She", ","];
const ROWS = LAYERS + 1;
const final = (t: number): number => (t * 3) % WORDS.length;
const knows = (t: number): number => 2 + (t % 4);

export const story = made("lens", {
  options: { watch: "", compute: "", fault: "none" },
  facts: { texts: Object.fromEntries(WORDS.map((text, id) => [String(id), text])), faults: ["no norm", "normed twice"], problem: null, first: 0, seconds: 0, most: 900, vocabulary: 32000 },
  list: [
    series("top", [ROWS, TEXT.length], ["layer", "query"], "computed", "argmax of the lens's logits", (l, t) => (l >= knows(t) ? final(t) : Math.floor(scattered(l, t) * WORDS.length))),
    series("p_top", [ROWS, TEXT.length], ["layer", "query"], "computed", "max(softmax(logits of the lens))", (l, t) => 0.2 + 0.7 * scattered(l, t)),
    series("p_final", [ROWS, TEXT.length], ["layer", "query"], "computed", "softmax(logits of the lens)", (l, t) => (l >= knows(t) ? 0.25 + 0.6 * (l / ROWS) : 0.05 * scattered(l, t))),
    series("entropy", [ROWS, TEXT.length], ["layer", "query"], "computed", "-sum(p log p)", (l, t) => 8 * (1 - l / ROWS) * (0.5 + scattered(l, t) / 2)),
    series("kl", [ROWS, TEXT.length], ["layer", "query"], "computed", "sum(q log(q / p))", (l, t) => (ROWS - 1 - l) * (0.4 + scattered(t, l))),
    series("watched", [TEXT.length, 5], ["query", "token"], "computed", "tokens with the best rank at any layer", (t, k) => (final(t) + k) % WORDS.length),
    series("ranks", [TEXT.length, 5, ROWS], ["query", "token", "layer"], "computed", "1 + the number of larger logits of the lens", (t, k, l) => (k === 0 && l >= knows(t) ? 1 : k + 1 + Math.floor((ROWS - l) ** 3 * scattered(t, k, l)))),
    series("stream", [ROWS, TEXT.length], ["layer", "query"], "computed", "norm of the stream", (l, t) => 2 + 1.6 * l + scattered(t)),
    series("attn", [LAYERS, TEXT.length], ["layer", "query"], "computed", "norm of what blocks.*.attn adds to the stream", (l, t) => 1 + scattered(l, t)),
    series("mlp", [LAYERS, TEXT.length], ["layer", "query"], "computed", "norm of what blocks.*.mlp adds to the stream", (l, t) => 1 + 0.4 * l + scattered(t, l)),
  ],
  checks: [check("C4", "lens of the last stream = softmax(logits)", 0, 1e-5), check("C3", "resid_pre + attn = resid_mid", 0, 0)],
});
