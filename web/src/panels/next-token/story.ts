// Fixed data of the panel, for the stories.
import { check, made, scattered, series, TEXT } from "../../stories/made";

const WORDS = [" One", " She", " He", " The", " They", "\n", " Her", " Every", " Lily", " It"];
const shares = WORDS.map((_, i) => Math.exp(-0.7 * i) * (0.7 + 0.3 * scattered(i)));
const all = shares.reduce((a, b) => a + b, 0) * 1.08;
const kept = shares.slice(0, 5).reduce((a, b) => a + b, 0);

export const story = made("next-token", {
  options: { query: -1, temperature: 1, top_k: 5, top_p: null, min_p: null },
  facts: { at: 13, choices: 32000, left: 5, likeliest: 0, sampler: "top-k 5", before: TEXT.slice(1).join(""), tokens: WORDS.map((text, i) => ({ id: 300 + i, text, appends: true })) },
  list: [
    series("entropy", [], [], "computed", "-Σ p ln p, in nats", () => 1.74),
    series("p", [WORDS.length], ["rank"], "computed", "softmax(logits)", (i) => (shares[i] ?? 0) / all),
    series("sampled", [WORDS.length], ["rank"], "computed", "top-k 5", (i) => (i < 5 ? (shares[i] ?? 0) / kept : 0)),
    series("logits", [WORDS.length], ["rank"], "measured", "logits", (i) => Math.log(shares[i] ?? 1) + 14),
    series("ids", [WORDS.length], ["rank"], "computed", "tokens by probability", (i) => 300 + i),
    series("rest", [2], ["column"], "computed", "1 - the sum of the bars", (i) => (i ? 0 : 1 - 1 / 1.08)),
  ],
  checks: [check("C15", "all probabilities sum to 1", 3e-8, 1e-6), check("C15", "the sampler renormalises its own set", 0, 1e-6)],
});
