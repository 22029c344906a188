// P11: what changed the weights.
import { Note } from "../../parts/Note";
import { slice } from "../../arithmetic/slice";
import type { PanelData } from "../../data/types";
import { select, selection } from "../../state";
import { Cell } from "../../parts/Cell";
import { Heatmap } from "../../parts/Heatmap";
import { Segmented } from "../../parts/Segmented";
import { Switch } from "../../parts/Switch";
import { Table } from "../../parts/Table";
import type { PanelView, ViewProps } from "../view";
import { layersOf, partsOf, type Facts } from "./facts";
import { Ranks, Weights } from "./Losses";
import { Intruders, Ranked, Spectra } from "./Spectra";
import "./lora.css";

function View(given: ViewProps) {
  const props = given.signed && given.panel.A ? { ...given, data: given.panel.A } : given; // A's panel is about the change from A to B
  const { data, options, set } = props;
  const facts = data.facts as unknown as Facts;
  const map = Object.keys(facts.changes).map((kind) => <Where key={kind} kind={kind} data={data} facts={facts} set={set} />);
  return (
    <div class="lora">
      <What {...facts} />
      {map}
      <Ranks {...props} />
      <Picker {...facts} set={set} />
      <div class="side-by-side">
        <Spectra {...props} />
        <Ranked {...props} />
        <Weights {...props} />
        <Intruders {...props} />
        <Gradients {...props} />
      </div>
      {facts.adapter ? (
        <p><Switch label="wrong on purpose: scale by α, not by α / r" wrong on={options.fault === "alpha"} onChange={(on) => set("fault", on ? "alpha" : undefined)} /></p>
      ) : null}
    </div>
  );
}

function What({ base, changes, adapter, notes, most }: Facts) {
  const said = [
    ...(changes.lora && adapter ? [`the adapter of ${changes.lora} (rank ${adapter.rank}, scale α / r = ${adapter.scales.join(", ")})`] : []),
    ...(changes.full ? [`the full fine-tune ${changes.full}`] : []),
  ];
  return (
    <>
      <p>Weights of <b>{base}</b>{said.length ? `, changed by ${said.join(" and by ")}` : ""}. {most}</p>
      {notes.map((note) => <p key={note} class="note">{note}</p>)}
    </>
  );
}

/** How much of each matrix changed, layer by layer. */
function Where({ kind, data, facts, set }: { kind: string; data: PanelData; facts: Facts; set: ViewProps["set"] }) {
  const series = data.series[`where_${kind}`];
  if (!series) return null;
  const table = slice(series, ["row", "column"]);
  return (
    <section>
      <h2>Where the weights changed{kind === "full" ? " in the fine-tune" : ""}</h2>
      <Note of="where" />
      <Heatmap
        slice={table} label="Relative change of each matrix" scale="amount" hatched="unchanged" mostCell={90} cellHeight={24} rowTitle="layer" columnTitle="matrix" masked={(r, c) => !(table.at(r, c) > 0)}
        rowLabels={facts.rows.map((row) => String(row ?? "outside"))} columnLabels={facts.parts} picked={{ row: selection.value.layer }} onPick={(row, column) => { select({ layer: facts.rows[row] ?? null }); set("part", facts.parts[column]); }}
      />
    </section>
  );
}

function Picker({ matrices, matrix, shape, set }: Facts & Pick<ViewProps, "set">) {
  const here = matrices.find((one) => one.name === matrix);
  if (!here) return null;
  const layers = layersOf(matrices);
  const outside = partsOf(matrices, null);
  const choose = (part: string, layer: number | null): void => {
    select({ layer });
    set("part", part);
  };
  const place = here.layer === null ? here.part : String(here.layer);
  const places = [...layers.map((layer) => ({ value: String(layer), label: String(layer) })), ...outside.map(({ part }) => ({ value: part, label: part }))];
  const parts = here.layer === null ? [] : partsOf(matrices, here.layer);
  const go = (value: string): void => {
    const layer = layers.find((one) => String(one) === value);
    if (layer === undefined) choose(value, null);
    else choose(partsOf(matrices, layer).find((one) => one.part === here.part)?.part ?? partsOf(matrices, layer)[0]?.part ?? "", layer);
  };
  return (
    <div class="row lora-picker">
      <h2>One matrix: <code>{matrix}</code>, {shape[0]} × {shape[1]}</h2>
      <Segmented label="layer" named choices={places} value={place} onChange={go} />
      {parts.length > 1 ? <Segmented label="matrix" named choices={parts.map(({ part, changed }) => ({ value: part, label: changed.length ? `${part} •` : part, title: changed.length ? "changed" : "as it was" }))} value={here.part} onChange={(part) => choose(part, here.layer)} /> : null}
    </div>
  );
}

function Gradients({ data }: ViewProps) {
  const { starts } = data.facts as unknown as Facts;
  const { gradients } = data.series;
  if (!gradients) return null;
  return (
    <section>
      <Table
        caption="Gradients of a new adapter on this matrix"
        columns={[{ name: "it starts with" }, { name: "‖∂L/∂A‖", number: true }, { name: "‖∂L/∂B‖", number: true }]}
        rows={starts.map((start, i) => [start, <Cell key="a" series={gradients} indices={[i, 0]} />, <Cell key="b" series={gradients} indices={[i, 1]} />])}
      />
    </section>
  );
}

export const panel: PanelView = { id: "lora", uses: ["layer"], View };
