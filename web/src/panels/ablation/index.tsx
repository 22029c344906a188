// P6: break it. Parts taken away, one by choice or each in turn, and activations of a second prompt put in.
import { sides } from "../../data/store";
import { locked } from "../../state";
import type { PanelView, ViewProps } from "../view";
import { ByToken, NewText, NextWord } from "./Compare";
import { Cuts } from "./Cuts";
import type { Facts } from "./facts";
import { Patching } from "./Patching";
import { Sweep } from "./Sweep";
import "./ablation.css";

function View({ data, signed, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  const { kl } = data.series;
  if (!kl) return <p class="absent">A and B have different parts: look at A or at B.</p>;
  const last = (kl.shape[0] ?? 1) - 1;
  const query = Math.min(last, locked.value.query ?? last);
  const word = sides.value?.[kl.side === "B" ? "B" : "A"]?.tokens[query]?.text ?? String(query);
  return (
    <div class="ablation">
      <Cuts facts={facts} options={data.options} set={set} />
      <div class="side-by-side">
        <Sweep {...{ data, facts, query, word, signed, set }} />
        <NextWord {...{ data, facts, query, word, signed }} />
      </div>
      <div class="side-by-side">
        <ByToken {...{ data, facts, query, signed }} />
        {signed ? null : <NewText facts={facts} compute={data.options.compute} set={set} />}
      </div>
      <Patching {...{ data, facts, signed, set }} />
    </div>
  );
}

export const panel: PanelView = { id: "ablation", uses: [], here: ["measure"], View };
