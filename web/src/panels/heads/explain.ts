import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "Each small square is the attention pattern of one head: a row for each token that looks, a column for each token that is looked at, and each row sums to 1.",
    "A bright first column is a sink, a bright line beside the diagonal looks at the token before, and a bright line farther down is an induction head: it looks at what followed the same token earlier, which is how a model copies.",
    "How bright a square is does not say how much the head matters: weighted by the size of what the values add to the stream, many sinks all but vanish.",
  ],
  tex: String.raw`\begin{gathered} A = \operatorname{softmax}\!\left(\frac{\textcolor{blue}{q}\,\textcolor{red}{k}^{\top}}{\sqrt c}\right) \\ \text{weighted: } A_{ij}\,\lVert \textcolor{green}{v_j}\, W_{\text{out}} \rVert \end{gathered}`,
};
