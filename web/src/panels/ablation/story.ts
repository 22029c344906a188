// Fixed data of the panel, for the stories.
import { check, HEADS, LAYERS, made, scattered, series, TEXT } from "../../stories/made";

const WORDS = [" there", " a", " the", " was", " time", " girl"];
const COLUMNS = [...Array.from({ length: HEADS }, (_, head) => `.attn.head.${head}`), ".attn", ".mlp", ""];
const cost = { passes: 54, seconds: 0.4, computed: true, most: 900 };
const said = (at: number) => WORDS.map((_, i) => ({ id: (i * at) % WORDS.length, text: WORDS[(i * at) % WORDS.length] ?? "" }));

export const story = made("ablation", {
  options: { query: -1, cut: "blocks.2.attn.head.3", how: "zero", new: 16, other: "Once upon a time there was a cat named Tom", what: "stream", compute: "", only: null, fault: "none" },
  facts: {
    cut: ["blocks.2.attn.head.3"], problem: null, strongest: "blocks.2.attn.head.3", columns: COLUMNS, seconds: 0.007, faults: ["slices"],
    texts: Object.fromEntries(WORDS.map((text, id) => [String(id), text])), sweep: { ...cost, layers: [0, 1, 2, 3, 4, 5] },
    text: { ...cost, why: null, before: said(1), after: said(5) },
    patch: { ...cost, about: "Write a second prompt.", why: null, tokens: TEXT.map((text, id) => ({ id, text })), says: [{ id: 0, text: " there" }, { id: 1, text: " a" }] },
  },
  list: [
    series("tokens", [TEXT.length, WORDS.length], ["query", "token"], "computed", "the likeliest tokens", (_, k) => k),
    series("before", [TEXT.length, WORDS.length], ["query", "token"], "computed", "softmax(logits), before the cut", (t, k) => (0.5 + 0.2 * scattered(t)) * 0.4 ** k),
    series("after", [TEXT.length, WORDS.length], ["query", "token"], "computed", "softmax(logits), after the cut", (t, k) => (0.2 + 0.2 * scattered(t, k)) * 0.6 ** k),
    series("kl", [TEXT.length], ["query"], "computed", "sum(p log(p / q))", (t) => scattered(t) ** 3),
    series("change", [TEXT.length], ["query"], "computed", "log q - log p of the token that follows", (t) => (t === TEXT.length - 1 ? NaN : -scattered(t))),
    series("sweep_kl", [LAYERS, COLUMNS.length, TEXT.length], ["layer", "part", "query"], "computed", "KL with zero in the place of one part", (l, c, t) => (c >= HEADS ? 1 : 0.3) * scattered(l, c, t) ** 4),
    series("sweep_change", [LAYERS, COLUMNS.length, TEXT.length], ["layer", "part", "query"], "computed", "log-probability gained", (l, c, t) => (t === TEXT.length - 1 ? NaN : 0.2 - scattered(l, c, t))),
    series("recovered", [LAYERS, TEXT.length], ["layer", "token"], "computed", "1 - KL(second, patched) / KL(second, first)", (l, t) => (t === TEXT.length - 2 ? 1 - l / LAYERS : t === TEXT.length - 1 ? l / LAYERS : 0.05 * scattered(l, t))),
  ],
  checks: [check("C7", "zeroed head is missing from attn", 1.2e-7, 1e-5), check("C7", "an empty edit changes nothing", 0, 0)],
});
