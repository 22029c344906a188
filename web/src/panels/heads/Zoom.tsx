// One head in full.
import { useMemo } from "preact/hooks";
import { slice } from "../../arithmetic/slice";
import { Heatmap } from "../../parts/Heatmap";
import { hover, locked, panel, select } from "../../state";
import { usePanel } from "../../usePanel";
import type { Facts } from "./index";

export interface ZoomProps {
  layer: number;
  head: number;
  hide: boolean;
  weigh: boolean;
  log: boolean;
  text: string;
}

export function Zoom({ layer, head, hide, weigh, text }: ZoomProps) {
  const { data, signed, error, loading } = usePanel("heads", { layer, head });
  const series = data?.series[weigh ? "weighted" : "pattern"];
  const table = useMemo(() => (series && series.shape.length === 2 ? slice(series, ["row", "column"]) : null), [series]);
  const most = useMemo(() => (table ? largest(table.values(), table.columns, hide) : 1), [table, hide]);
  const { tokens } = (data?.facts ?? { tokens: [] }) as unknown as Facts;
  const labels = useMemo(() => tokens.map((one) => one.text), [tokens]);
  const own = text === "prompt";
  return (
    <section class="head-zoom" aria-busy={loading}>
      <h2 class="row">
        Layer {layer}, head {head}
        <button onClick={() => { select({ layer, head }); panel.value = "microscope"; }}>Look through the microscope</button>
      </h2>
      {error ? <p class="small">{error}</p> : null}
      {!table && loading ? <p class="small">Computing…</p> : null}
      {table && !error ? (
        <Heatmap
          slice={table} label={`Pattern of layer ${layer}, head ${head}`} rowLabels={labels} columnLabels={labels} rowTitle="query: who looks" columnTitle="key: at whom" mostCell={34}
          scale={signed ? "signed" : hide || weigh ? { kind: "range", low: 0, high: most } : "unit"}
          masked={(row, column) => (column > row && !(table.at(row, column) > 0)) || (hide && column === 0)}
          {...(own ? {
            picked: { row: locked.value.query, column: locked.value.key },
            onPick: (query: number, key: number) => select({ query, key }),
            onHover: (at: { row: number; column: number } | null) => hover(at ? { query: at.row, key: at.column } : {}),
          } : {})}
        />
      ) : null}
    </section>
  );
}

/** The largest number, but for the first column where it is hidden. */
function largest(values: Float32Array, columns: number, hide: boolean): number {
  let most = 1e-12;
  for (let i = 0; i < values.length; i++) if (!(hide && i % columns === 0)) most = Math.max(most, values[i] ?? 0);
  return most;
}
