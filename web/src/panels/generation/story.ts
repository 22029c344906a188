// Fixed data of the panel, for the stories.
import { check, made, scattered, series } from "../../stories/made";

const WORDS = [" She", " saw", " a", " big", ",", " red", " ball", ".", " She", " want", "ed", " to"];
const [PROMPT, STEPS, EACH] = [14, WORDS.length, 1280];
const rows = WORDS.map((text, step) => ({
  step, id: 300 + step, text, logprob: -3 * scattered(step), seconds: 0.002 + 0.001 * scattered(step, 1) + (step ? 0 : 0.006), made: step ? 1 : PROMPT, reused: step ? PROMPT + step - 1 : 0,
  bytes: EACH * (PROMPT + step), residual: 1e-5 * scattered(step, 2), twin: { id: 300 + step, text, logprob: -3 * scattered(step), seconds: 0.008 + 0.0004 * step, made: PROMPT + step },
}));

export const story = made("generation", {
  options: { max_new_tokens: STEPS, temperature: 0, top_k: null, top_p: null, min_p: null, seed: null, cache: true, twin: true, fault: null },
  facts: {
    prompt_tokens: PROMPT, rows, done: "length", note: "", sampler: "temperature 0 -> draw", allocated: EACH * (PROMPT + STEPS), capacity: PROMPT + STEPS, windowed: false,
    sizes: { n_layer: 5, n_kv_head: 4, head_dim: 8, itemsize: 4 },
  },
  list: [
    series("ids", [STEPS], ["step"], "computed", "temperature 0 -> draw", (i) => 300 + i),
    series("logprobs", [STEPS], ["step"], "measured", "ln softmax(logits) of the chosen token", (i) => rows[i]?.logprob ?? NaN),
    series("made", [STEPS], ["step"], "measured", "tokens that the pass read", (i) => rows[i]?.made ?? NaN),
    series("reused", [STEPS], ["step"], "measured", "tokens in the cache before it", (i) => rows[i]?.reused ?? NaN),
    series("bytes", [STEPS], ["step"], "measured", "bytes of keys and values in the cache", (i) => rows[i]?.bytes ?? NaN),
    series("allocated", [1], ["cache"], "measured", "cache.nbytes", () => EACH * (PROMPT + STEPS)),
    series("residual", [STEPS], ["step"], "computed", "largest |cached - uncached| logit", (i) => rows[i]?.residual ?? NaN),
    series("twin_ids", [STEPS], ["step"], "computed", "without a cache", (i) => 300 + i),
    series("twin_made", [STEPS], ["step"], "measured", "tokens that the pass read", (i) => PROMPT + i),
  ],
  checks: [check("C9", "cached logits = uncached", 1e-5, 1e-4), check("C9", "cached tokens = uncached", 0, 0), check("C9", "cache bytes", 0, 0)],
});
