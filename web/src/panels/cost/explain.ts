import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "Every parameter is a number in memory; training keeps three more for each (its gradient and two moments of AdamW), and for every token the activations that the backward pass needs.",
    "Each token is multiplied by every matrix once: two FLOPs, a product and a sum, for each of its numbers; looking up an embedding multiplies nothing.",
    "A pass takes at least as long as reading its bytes and as multiplying: for a single token reading is the limit, for many at once the products.",
  ],
  tex: String.raw`\begin{gathered} \text{FLOPs} = 2\, T \sum_W |W| + 4\, L\, T^2 h\, c \\ \text{cache} = 2\, L\, g\, c\, T\, b \\ \frac{\text{FLOPs}}{\text{s}} \le \min\!\left(P,\; B\, \frac{\text{FLOPs}}{\text{bytes}}\right) \end{gathered}`,
};
