// P6: break it. Parts taken away, one by choice or each in turn, and activations of a second prompt put in.
import { columnName, partName } from "../../arithmetic/ablation";
import { sides } from "../../data/store";
import { valueAt } from "../../data/python";
import { locked } from "../../state";
import type { PanelView, ViewProps } from "../view";
import { ByToken, NewText, NextWord } from "./Compare";
import { Cuts } from "./Cuts";
import { explain } from "./explain";
import type { Facts } from "./facts";
import { Patching } from "./Patching";
import { Sweep } from "./Sweep";
import "./ablation.css";

const FEW = 0.1; // nats of KL that one notices

function View({ data, signed, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  const { kl } = data.series;
  if (!kl) return <p class="absent">A and B have other parts: look at A or at B.</p>;
  const last = (kl.shape[0] ?? 1) - 1;
  const query = Math.min(last, locked.value.query ?? last);
  const word = sides.value?.[kl.side === "B" ? "B" : "A"]?.tokens[query]?.text ?? String(query);
  return (
    <div class="ablation">
      <Cuts facts={facts} options={data.options} set={set} />
      <div class="ablation-columns">
        <Sweep {...{ data, facts, query, word, signed, set }} />
        <NextWord {...{ data, facts, query, word, signed }} />
      </div>
      <div class="ablation-columns">
        <ByToken {...{ data, facts, query, signed }} />
        {signed ? null : <NewText facts={facts} compute={data.options.compute} set={set} />}
      </div>
      <Patching {...{ data, facts, signed, set }} />
    </div>
  );
}

export const panel: PanelView = {
  id: "ablation",
  place: "Stream",
  title: "Break it",
  question: "If one head were taken away, would the model still know its next word?",
  uses: [],
  here: ["measure"],
  View,
  explain,
  guess: {
    choices: ["yes, whichever it is", "unless it is one of a few", "no, most matter"],
    answer({ series, facts }) {
      const { columns, strongest } = facts as unknown as Facts;
      const sweep = series.sweep_kl;
      const [layers = 0, , t = 1] = sweep?.shape ?? [];
      const heads = columns.flatMap((name, c) => (/^\d+$/.test(columnName(name)) ? [c] : []));
      const effects = heads.flatMap((c) => Array.from({ length: layers }, (_, l) => (sweep ? valueAt(sweep, [l, c, t - 1]) : NaN)));
      const count = effects.filter((x) => x > FEW).length;
      const known = effects.some(Number.isFinite);
      return {
        choice: count === 0 ? 0 : count <= effects.length / 2 ? 1 : 2,
        says: known ? `${count} of ${effects.length} heads move the next word by more than ${FEW} nats${strongest ? `, most of all ${partName(strongest)}` : ""}.` : "The sweep was not computed; ask for it below.",
      };
    },
  },
};
