// Fixed data of the panel, for the stories.
import { check, HEADS, LAYERS, made, scattered, series, TEXT } from "../../stories/made";

const WORDS = [" there", " a", " the", " was", " time"];
const PARTS = [
  { name: "embed", kind: "embed", layer: null, head: null },
  ...Array.from({ length: LAYERS }, (_, layer) => [
    ...Array.from({ length: HEADS }, (_, head) => ({ name: `blocks.${layer}.attn.head.${head}`, kind: "head", layer, head })),
    { name: `blocks.${layer}.mlp`, kind: "mlp", layer, head: null },
  ]).flat(),
];
const value = (p: number, t: number, k: number): number => (scattered(p, t, k) - 0.42) * (p % 7 === 0 ? 5 : 1.2);
const total = (t: number, k: number): number => PARTS.reduce((sum, _, p) => sum + value(p, t, k), 0);

export const story = made("attribution", {
  options: { token: null, other: null, fault: "none" },
  facts: { parts: PARTS, texts: Object.fromEntries(WORDS.map((text, id) => [String(id), text])), faults: ["norms"] },
  list: [
    series("contribution", [PARTS.length, TEXT.length, WORDS.length], ["part", "query", "token"], "computed", "part through final_norm, times the token's row of unembed", value),
    series("logit", [TEXT.length, WORDS.length], ["query", "token"], "measured", "logits", total),
    series("tokens", [TEXT.length, WORDS.length], ["query", "token"], "computed", "tokens by logit", (_, k) => k),
  ],
  checks: [check("C5", "contributions sum to the logit", 3.8e-6, 1e-3)],
});
