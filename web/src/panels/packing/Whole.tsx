// Every matrix of the model in every format, and the loss of the prompt with one matrix packed at a time.
import { byLayer, placeOf } from "../../arithmetic/machine";
import { percent, signed as withSign } from "../../arithmetic/number";
import { valueAt } from "../../data/python";
import type { PanelData } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Heatmap } from "../../parts/Heatmap";
import { Table } from "../../parts/Table";
import { select } from "../../state";
import type { ViewProps } from "../view";
import type { Facts } from "./facts";

export function Whole({ data, facts, signed, set }: { data: PanelData; facts: Facts; signed: boolean; set: ViewProps["set"] }) {
  const { errors, loss_change: change, loss } = data.series;
  const here = placeOf(facts.name);
  const go = (name: string): void => {
    const { layer, matrix } = placeOf(name);
    select({ layer });
    set("matrix", matrix);
    set("block", undefined);
  };
  if (!errors) return null;
  const rows = facts.matrices.map((name, i) => ({ name, i })).filter(({ name }) => placeOf(name).layer === here.layer);
  return (
    <>
      <section>
        <h2>Which format is nearest?</h2>
        {signed ? null : <p>{facts.nearest}</p>}
        <Table
          caption={`Error of each matrix of layer ${here.layer}: rms(w − ŵ) / rms(w). The nearer of int4 and NF4 is bold; a click chooses a matrix.`}
          columns={[{ name: "matrix" }, ...facts.schemes.map((one) => ({ name: `${one.name} · ${one.bits.toFixed(2)} bits`, number: true }))]}
          picked={rows.findIndex(({ name }) => name === facts.name)} onPick={(row) => { const name = rows[row]?.name; if (name) go(name); }}
          rows={rows.map(({ name, i }) => [
            placeOf(name).matrix,
            ...facts.schemes.map((one, s) => <span key={s} class={!signed && one.name === nearer(data, facts, i) ? "nearest" : ""}><Cell series={errors} indices={[i, s]} format={signed ? withSign : percent} /></span>),
          ])}
        />
      </section>
      {change && loss ? (
        <section>
          <h2>One matrix packed, all others as they are</h2>
          <p class="small">
            How much the loss of the prompt grows where one matrix alone is packed in {facts.scheme}. All packed: from <Cell series={loss} indices={[0]} /> to <Cell series={loss} indices={[1]} /> nats a token.
            {facts.tried.length < facts.matrices.length ? ` Only ${facts.tried.length} of ${facts.matrices.length} matrices were tried: each costs a pass of the whole model.` : ""} With {facts.tokens} tokens small differences are chance.
          </p>
          <Changes data={data} facts={facts} go={go} />
        </section>
      ) : null}
    </>
  );
}

function Changes({ data, facts, go }: { data: PanelData; facts: Facts; go: (name: string) => void }) {
  const change = data.series.loss_change;
  if (!change) return null;
  const table = byLayer(change, facts.matrices, facts.tried);
  const here = placeOf(facts.name);
  return (
    <Heatmap
      slice={table} label="Growth of the loss with one matrix packed" scale="signed" mostCell={84} cellHeight={24}
      rowLabels={table.layers.map((layer) => `layer ${layer}`)} columnLabels={table.matrices} rowTitle="layer" columnTitle="matrix"
      {...(table.values().some(Number.isNaN) ? { masked: (row: number, column: number) => Number.isNaN(table.at(row, column)) } : {})}
      picked={{ row: table.layers.indexOf(here.layer), column: table.matrices.indexOf(here.matrix) }}
      onPick={(row, column) => go(`blocks.${table.layers[row]}.${table.matrices[column]}`)}
    />
  );
}

function nearer(data: PanelData, facts: Facts, matrix: number): string {
  const { errors } = data.series;
  const error = (name: string): number => (errors ? valueAt(errors, [matrix, facts.schemes.findIndex((one) => one.name === name)]) : NaN);
  return error("int4") < error("nf4") ? "int4" : "nf4";
}
