import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "What the final norm reads is a sum: the embedding and what every head, MLP and bias added to it.",
    "With the norm's scale taken from the whole sum the rest is linear, so the logit of a word is a sum too, one number for each part, and C5 adds them up again.",
    "This is what a part says directly; what later layers make of it is not counted here, and Break it shows the two together.",
  ],
  tex: String.raw`\begin{gathered} z_w = \sum_i \mathrm{norm}_s(\textcolor{purple}{c_i}) \cdot W_U[w] \\ \textcolor{purple}{c_{\ell, h}} = z_{\ell, h} \, W^{\mathrm{out}}_{\ell, h} \end{gathered}`,
};
