// Every head, attention, MLP and layer taken away alone: what that changes.
import { grouped } from "../../arithmetic/number";
import { isLive } from "../../app";
import { columnName, lasting, lossOf, toggled } from "../../arithmetic/ablation";
import { columnsOf, slice, type Slice } from "../../arithmetic/slice";
import { visible } from "../../arithmetic/text";
import type { PanelData } from "../../data/types";
import { Heatmap } from "../../parts/Heatmap";
import { Segmented } from "../../parts/Segmented";
import { optionsOf, select, selection } from "../../state";
import type { ViewProps } from "../view";
import { also, type Facts } from "./facts";

const MEASURES = [
  { value: "kl", label: "KL", title: "How far the next token's distribution moves, in nats" },
  { value: "change", label: "log p", title: "What the log-probability of the token that follows gains" },
  { value: "loss", label: "loss", title: "How much the mean loss of the whole prompt rises" },
] as const;

export function Sweep({ data, facts, query, word, signed, set }: { data: PanelData; facts: Facts; query: number; word: string; signed: boolean; set: ViewProps["set"] }) {
  const measure = MEASURES.find(({ value }) => value === optionsOf("ablation").measure)?.value ?? "kl";
  const { sweep_kl: kl, sweep_change: change } = data.series;
  if (!kl || !change) return null;
  const table: Slice = measure === "loss" ? slice(lossOf(change), ["row", "column"]) : slice(measure === "kl" ? kl : change, ["row", "column", query]);
  const cuts = String(data.options.cut ?? "").split(" ").filter(Boolean);
  const pick = (layer: number, column: number): void => {
    const name = facts.columns[column] ?? "";
    const head = /\.head\.(\d+)$/.exec(name)?.[1];
    select({ layer, head: head === undefined ? null : Number(head) });
    if (isLive.value) set("cut", toggled(cuts, `blocks.${layer}${name}`).join(" ") || undefined);
  };
  const heads = facts.columns.filter((name) => name.includes(".head.")).length;
  const parts = [["heads", 0, heads], ["attention, MLP, both", heads, facts.columns.length]] as const;
  const last = query === (kl.shape[2] ?? 1) - 1;
  return (
    <section>
      <h2>Each part taken away alone</h2>
      <div class="controls"><Segmented label="Shown" named value={measure} onChange={(one) => set("measure", one === "kl" ? undefined : one)} choices={MEASURES} /></div>
      <Costs facts={facts} compute={data.options.compute} set={set} />
      {measure === "change" && last ? <p class="absent">Nothing follows the last token; choose an earlier one, or another measure.</p> : (
        <div class="sweep">
          {parts.map(([label, from, to]) => {
            const own = columnsOf(table, from, to);
            return (
              <Heatmap
                key={label} slice={own} scale={signed || measure !== "kl" ? "signed" : "amount"} hatched="not computed" label={`What changes without each of: ${label}`} mostCell={32} cellHeight={24} rowTitle="layer" columnTitle={from ? "part" : "head"}
                rowLabels={Array.from({ length: table.rows }, (_, l) => String(l))} columnLabels={facts.columns.slice(from, to).map(columnName)}
                {...(facts.sweep.computed ? {} : { masked: (r: number, c: number) => Number.isNaN(own.at(r, c)) })}
                picked={from ? { row: null } : { row: selection.value.layer, column: selection.value.head }} onPick={(row, column) => pick(row, column + from)}
              />
            );
          })}
        </div>
      )}
      <p class="small">
        {signed ? "B − A. " : ""}{measure === "kl" ? <>How far the token after <code>{visible(word)}</code> moves, in nats; 0 is not at all.</> : measure === "change" ? <>Blue: what follows <code>{visible(word)}</code> becomes likelier. Red: less likely.</> : "Blue: the prompt's loss rises, the part helps. Red: it falls, the part hurts."} {isLive.value ? "Click a cell to take the part away." : "Click a cell to see it token by token."}
      </p>
    </section>
  );
}

function Costs({ facts, compute, set }: { facts: Facts; compute: unknown; set: ViewProps["set"] }) {
  const { sweep, seconds } = facts;
  if (sweep.computed) return null;
  const layer = selection.value.layer ?? 0;
  const row = facts.columns.length;
  return (
    <p class="message">
      All parts take {grouped(sweep.passes)} passes, about {lasting(sweep.seconds)} here{sweep.seconds > sweep.most ? <>, more than the {lasting(sweep.most)} that a page may ask for; one layer is {row} passes, about {lasting(row * seconds)}</> : null}. Hatched: not computed.{" "}
      {isLive.value && sweep.seconds <= sweep.most ? <button onClick={() => { set("compute", also(compute, "sweep")); set("only", undefined); }}>Compute all</button> : null}{" "}
      {isLive.value ? <button onClick={() => { set("compute", also(compute, "sweep")); set("only", layer); }}>Compute layer {layer}</button> : null}
    </p>
  );
}
