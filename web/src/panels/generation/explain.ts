import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "Keys and values of a token never change once it is read, since it sees only what stands before it; so they are kept, and each new token costs one column instead of the whole text.",
    "Beside it the same text grows without a cache, and reads everything again for every token: both must choose the same tokens, by the same logits.",
    "What is kept grows with every token: two numbers, a key and a value, for each layer, head, channel and token.",
  ],
  tex: String.raw`\begin{gathered} \text{bytes} = 2 \cdot L \cdot g \cdot c \cdot T \cdot b \cdot \text{itemsize} \\ \textcolor{red}{K}_{\le t} = [\,\textcolor{red}{K}_{<t}\,;\ \textcolor{red}{k}_t\,] \\ \textcolor{green}{V}_{\le t} = [\,\textcolor{green}{V}_{<t}\,;\ \textcolor{green}{v}_t\,] \end{gathered}`,
};
