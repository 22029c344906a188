import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "Each layer adds what it found to one running sum, the residual stream, and only the last sum is turned into logits.",
    "The logit lens asks early: it takes the stream after a layer through the model's own final norm and unembedding, as if the layers after it were not there.",
    "In the last row that is the model itself, so its words must be the model's words; where the final norm is left out or applied twice they are not, and C4 says so.",
  ],
  tex: String.raw`\begin{gathered} x_{\ell+1} = x_\ell + \mathrm{attn}_\ell + \mathrm{mlp}_\ell \\ p_\ell = \mathrm{softmax}\big(W_U \, \mathrm{norm}(x_\ell)\big) \end{gathered}`,
};
