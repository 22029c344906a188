import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "Weights that stand side by side share one scale; each is divided by it and replaced by the nearest of a few levels, and only the number of that level is kept.",
    "int8 and int4 have evenly spaced levels; those of NF4 lie where weights are frequent, close together around 0, as a normal distribution has them.",
    "One large weight makes the scale of its whole block large, and then all others fall on few levels: small blocks err less and keep more scales.",
  ],
  tex: String.raw`\begin{gathered} i = \arg\min_j \left| \frac{w}{s} - \ell_j \right| \\ \textcolor{purple}{\hat w} = s\, \ell_i \\ \text{error} = \frac{\lVert w - \hat w \rVert}{\lVert w \rVert} \end{gathered}`,
};
