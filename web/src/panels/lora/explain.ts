import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "Every matrix is a sum of directions, each as strong as its singular value; cut to rank r it keeps the r strongest, which no other matrix of that rank comes nearer to.",
    "The weights of a trained model need nearly all of their directions, while what a fine-tune adds to them often needs few: this is why LoRA trains two thin matrices, B and A, in the place of a whole one.",
    "B starts at 0, so an adapter begins by changing nothing, and at first only B has a gradient; with A at 0 as well it could never learn.",
  ],
  tex: String.raw`W' = W + \frac{\alpha}{r} B A \qquad \Delta W_r = \sum_{i \le r} \sigma_i u_i v_i^\top \qquad \lVert \Delta W - \Delta W_r \rVert_F^2 = \sum_{i > r} \sigma_i^2`,
};
