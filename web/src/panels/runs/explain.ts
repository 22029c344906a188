import type { Explain } from "../view";

export const explain: Explain = {
  sentences: [
    "A curve shows how surprised the model is by text that it was not trained on: it falls quickly while the model learns which characters follow which, and slowly where it learns what depends on more than that.",
    "Two runs tell what an idea is worth only where one field differs between them, and only beyond what another seed would change.",
    "The ladder keeps to this rule from a bigram to LLaMA: each card is the model below it with one field changed, trained on the same text in the same order, with the difference of their losses over five seeds and its interval.",
  ],
  tex: String.raw`\text{loss} = -\frac{1}{n} \sum_{t} \ln p(x_t \mid x_{<t}) \qquad \text{bought} = \bar d \pm t_{0.975} \frac{s_d}{\sqrt{n}}, \quad d_i = \text{loss}_i^{\text{below}} - \text{loss}_i`,
};
