import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "With rotary positions every pair of channels of a query and of a key is a point, and a token's position turns it: fast in the first pairs, slowly in the last.",
    "The score of a query at m with a key at n is then the same wherever both stand, as long as they are as far apart; that is why the colours run along the diagonals.",
    "A learned table adds a vector for each position instead, and alibi takes a penalty from the score that grows with distance.",
  ],
  tex: String.raw`\begin{gathered} \textcolor{blue}{q}_m \cdot \textcolor{red}{k}_n = \\ \sum_i |\textcolor{blue}{q_i}|\,|\textcolor{red}{k_i}| \cos\big((m - n)\,\theta_i + \varphi_i\big) \\ \theta_i = b^{-2i/r} \end{gathered}`,
};
