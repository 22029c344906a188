import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "What a part is for shows when it is gone: its output is replaced by nothing, by its mean over the prompt, or by what it computed at another token.",
    "A head is taken away where it writes its own numbers, z, because every channel of what attention adds to the stream mixes all heads; C7 checks that exactly its share is missing.",
    "Patching asks the reverse: put what was computed for a second prompt into this pass, and see which layer and token carry what differs.",
  ],
  tex: String.raw`\begin{gathered} \textcolor{purple}{z_{\ell, h}} \leftarrow 0 \;\Rightarrow\; \mathrm{attn}_\ell \leftarrow \mathrm{attn}_\ell - \textcolor{purple}{z_{\ell, h}} W^{\mathrm{out}}_{\ell, h} \\ \mathrm{KL} = \sum_i p_i \log \frac{p_i}{\tilde p_i} \end{gathered}`,
};
