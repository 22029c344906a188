// Fixed data of the panel, for the stories.
import { check, made, series } from "../../stories/made";
import type { Ladder, Mean, RungCard } from "./facts";

const mean = (value: number, half: number): Mean => ({
  mean: value, n: 5, half_width: half, sign: Math.abs(value) <= half ? 0 : Math.sign(value),
  verdict: Math.abs(value) <= half ? "too close to call" : "better", reason: "5 seeds, 95% interval: above 0",
});
const STEPS = [0, 50, 100, 200, 400];
const lines: [string, string][] = [
  [" ", "def normed(x, weight, bias):"], ["-", "    x = x - x.mean(-1, keepdim=True)"], ["+", "    # the mean stays"],
  [" ", "    return x * x.square().mean(-1, keepdim=True).rsqrt() * weight"],
];
const source = { path: "fathom/model/norm.py", line: 40, text: lines.filter(([mark]) => mark !== "-").map(([, text]) => text).join("\n") };

const BOUGHT: [string, string, number, number, string, unknown, unknown][] = [
  ["bigram", "bigram", 0, 0, "", null, null], ["attention", "one attention head", 0.072, 0.004, "n_layer", 0, 1], ["positions", "learned positions", 0.14, 0.006, "position", "none", "learned"],
  ["mlp", "MLP", 0.077, 0.007, "mlp", "none", "gelu"], ["rmsnorm", "RMSNorm", -0.003, 0.007, "norm", "layer", "rms"], ["rope", "RoPE", 0.054, 0.03, "position", "learned", "rope"],
];
const rungs: RungCard[] = BOUGHT.map(([key, title, bought, half, field, old, now], i) => ({
  key, title, about: "Each position computes on its own: up to four times the width, and down again.", beside: false, below: BOUGHT[i - 1]?.[1] ?? null,
  parameters: 9000 + 8000 * i, active: 9000 + 8000 * i, loss: mean(2.47 - 0.08 * i, 0.01), bought: i ? mean(bought, half) : null,
  change: i ? [{ field, old, new: now }] : [], source, was: key === "rmsnorm" ? source : null, lines: key === "rmsnorm" ? lines : source.text.split("\n").map((text): [string, string] => [" ", text]),
  curve: { steps: STEPS, losses: STEPS.map((step) => 2.4 - 0.08 * i + 1.9 * Math.exp(-step / 60)) }, sample: "ROMEO:\nWhat the shall my lord, and be the day?",
}));
const ladder: Ladder = {
  text: "shakespeare", steps: 400, seeds: 5, tokens: 204_800, machine: "cpu", complete: true, references: { "ln V": 4.174, "count bigram": 2.466 }, findings: [], rungs,
  take_aways: [{
    key: "attention", title: "attention", about: "Each position reads itself alone, never an earlier token.", source, lines, change: [],
    models: [{ key: "gpt-attention", title: "GPT", loss: mean(2.47, 0.01), worth: mean(0.418, 0.018), peeking: null }, { key: "llama-attention", title: "LLaMA", loss: mean(2.47, 0.01), worth: mean(0.464, 0.016), peeking: null }],
  }],
};
const first = { kind: "train", model: "LLaMA, 4 × 128", data: "shakespeare", parameters: 812_000, step: 800, state: "finished", problem: null };

export const story = made("runs", {
  facts: { ladder, recorded: true, run: { name: "demo", ...first, command: "fathom serve runs", samples: [{ step: 400, sample: "KING:\nThe wo" }, { step: 800, sample: "KING:\nThe world is" }] } },
  list: [
    series("run_loss_step", [80], ["line"], "measured", "metrics.jsonl: step", (i) => 10 * (i + 1)), series("run_loss", [80], ["line"], "measured", "metrics.jsonl: loss", (i) => 1.5 + 2.6 * Math.exp(-i / 14)),
    series("run_val_loss_step", [8], ["line"], "measured", "metrics.jsonl: step", (i) => 100 * (i + 1)), series("run_val_loss", [8], ["line"], "measured", "metrics.jsonl: val_loss", (i) => 1.6 + 2.4 * Math.exp(-(i + 1) / 1.6)),
    series("losses", [rungs.length], ["model"], "computed", "validation loss, mean over seeds", (i) => 2.47 - 0.08 * i),
    series("bought", [rungs.length - 1], ["model"], "computed", "loss below minus its own", (i) => BOUGHT[i + 1]?.[2] ?? 0),
    series("worth", [2], ["model"], "computed", "loss without the idea minus the whole model's", (i) => (i ? 0.464 : 0.418)),
  ],
  checks: [check("one field", "neighbouring rungs differ in exactly one declared field", 0, 0)],
});
