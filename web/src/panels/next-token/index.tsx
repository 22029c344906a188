// P1: what comes next.
import { percent } from "../../arithmetic/number";
import { visible } from "../../arithmetic/text";
import { Bars, type Bar } from "../../parts/Bars";
import { Cell } from "../../parts/Cell";
import type { PanelView, ViewProps } from "../view";
import { explain } from "./explain";

interface Facts {
  at: number;
  entropy: number;
  tokens: { id: number; text: string }[];
  sampler: string;
}

function View({ data, signed }: ViewProps) {
  const { tokens, sampler } = data.facts as unknown as Facts;
  const { p, sampled, rest, logits } = data.series;
  if (!p || !sampled || !rest) return <p class="absent">There is nothing to compare here: A and B rank other tokens. Look at A or at B.</p>;
  const bars: Bar[] = tokens.map(({ id, text }, i) => ({
    label: <code>{visible(text)}</code>,
    title: `id ${id}`,
    marks: [{ series: p, indices: [i] }, { series: sampled, indices: [i] }],
  }));
  bars.push({ label: "all others", rest: true, marks: [{ series: rest, indices: [0] }, { series: rest, indices: [1] }] });
  return (
    <>
      {logits ? <p>The largest logit is <Cell series={logits} indices={[0]} />.</p> : null}
      <Bars label="Probability of the next token" bars={bars} columns={["the model says", `the sampler sees (${sampler})`]} signed={signed} {...(signed ? {} : { format: percent })} />
    </>
  );
}

export const panel: PanelView = {
  id: "next-token",
  place: "Text",
  title: "Next token",
  question: "How sure is the model of what comes next?",
  uses: ["query"],
  View,
  explain,
  guess: {
    choices: ["under half", "half to 90%", "over 90%"],
    answer({ series, facts }) {
      const most = series.p?.values[0] ?? 0;
      const { tokens } = facts as unknown as Facts;
      return { choice: most < 0.5 ? 0 : most <= 0.9 ? 1 : 2, says: `${visible(tokens[0]?.text ?? "")} has ${percent(most)}.` };
    },
  },
};
