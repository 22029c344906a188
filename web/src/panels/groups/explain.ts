import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "Every query head asks its own question, but several of them may look it up in the same keys and values: then only those are computed and kept.",
    "Sharing is the same as repeating: multi-head attention with each key and value head copied to its neighbours gives the same result, which is checked here on this layer.",
    "The cache, and the weights that fill it, shrink by exactly the number of heads that share; what it costs in quality only training tells.",
  ],
  tex: String.raw`\begin{gathered} \textcolor{purple}{z}_h = \mathrm{softmax}\!\left(\frac{\textcolor{blue}{Q}_h\, \textcolor{red}{K}_{g(h)}^\top}{\sqrt c}\right) \textcolor{green}{V}_{g(h)} \\ g(h) = \left\lfloor \frac{h\, n_{\mathrm{kv}}}{n_{\mathrm{head}}} \right\rfloor \end{gathered}`,
};
