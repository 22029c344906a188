import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "For every token of its vocabulary the model gives a number, the logit; softmax turns all of them into probabilities that sum to 1.",
    "The bars are the most probable tokens, and the last one is all others together, so that nothing is left out.",
    "A sampler then draws from its own version: temperature sharpens or flattens it, and top-k, top-p and min-p leave tokens out before what is left is divided by its sum.",
  ],
  tex: String.raw`p_i = \frac{e^{z_i}}{\sum_j e^{z_j}} \qquad \tilde p_i = \frac{e^{z_i / T}}{\sum_{j \in S} e^{z_j / T}}`,
};
