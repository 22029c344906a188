import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "The query of one token is compared with the key of every token up to it: a product of two vectors, divided by √c so that the numbers do not grow with their length.",
    "Softmax makes shares of these scores, and the shares weigh the values of those tokens; their sum, through the head's part of W_out, is what the head adds to the stream.",
    "Each switch leaves one step out in the whole layer of the running model, and the check that this step exists for turns red.",
  ],
  tex: String.raw`\begin{gathered} \textcolor{purple}{z} = \sum_j \operatorname{softmax}_j\!\left(\frac{\textcolor{blue}{q} \cdot \textcolor{red}{k_j}}{\sqrt c}\right) \textcolor{green}{v_j} \\ x + \sum_{\text{heads}} \textcolor{purple}{z}\, W_{\text{out}} \end{gathered}`,
};
