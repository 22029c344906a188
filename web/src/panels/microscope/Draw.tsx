// The numbers of one step: a row, a table with a row a key, or bars.
import { useMemo } from "preact/hooks";
import { readable, signed } from "../../arithmetic/number";
import { slice } from "../../arithmetic/slice";
import { visible } from "../../arithmetic/text";
import { valueAt } from "../../data/python";
import { Bars, type Bar } from "../../parts/Bars";
import { Heatmap } from "../../parts/Heatmap";
import type { Drawing } from "./stages";

export interface DrawProps {
  drawing: Drawing;
  tokens: readonly string[];
  at: number;
  /** The chosen cell, where it is one of this drawing. */
  chosen: number[] | null;
  onCell: (indices: number[]) => void;
}

export function Draw({ drawing, tokens, at, chosen, onCell }: DrawProps) {
  const { series, name, as, tone } = drawing;
  const table = useMemo(() => slice(series, as === "table" ? ["row", "column"] : ["column"]), [series, as]);
  const n = series.shape[0] ?? 0;
  return (
    <figure class="stage-drawing" style={as === "table" ? { flexBasis: `min(100%, ${76 + 9 * (series.shape[1] ?? 0)}px)` } : {}} data-stage-series={series.name}>
      <figcaption class={tone}>{name} <span class="small">{as === "table" ? `${n} tokens × ${series.shape[1] ?? 0}` : `${n} numbers`} · {series.kind}</span></figcaption>
      {as === "bars" ? (
        <div class="stage-bars">
          <Bars
            label={name} signed={series.name !== "pattern"}
            format={(x) => (x === -Infinity || Number.isNaN(x) ? "−∞, masked" : series.name === "pattern" ? readable(x) : signed(x))}
            bars={tokens.map((text, key): Bar => ({
              label: <code>{visible(text)}</code>, marks: [{ series, indices: [key] }], selected: chosen?.[0] === key, title: `token ${key}${key === at ? ", the query" : ""}`,
              onClick: () => onCell([key]), rest: valueAt(series, [key]) === -Infinity, ...(tone ? { tone } : {}),
            }))}
          />
        </div>
      ) : (
        <Heatmap
          slice={table} label={name} scale="signed" legend={as === "row"} mostCell={as === "row" ? 22 : 18} {...(as === "row" ? { cellHeight: 26 } : { cellHeight: n > 24 ? 12 : 17 })}
          {...(as === "table" ? { rowLabels: tokens } : {})}
          picked={chosen ? (as === "table" ? { row: chosen[0] ?? 0, column: chosen[1] ?? 0 } : { row: 0, column: chosen[0] ?? 0 }) : {}}
          onPick={(row, column) => onCell(as === "table" ? [row, column] : [column])}
          onHover={(where) => { if (where) onCell(as === "table" ? [where.row, where.column] : [where.column]); }}
        />
      )}
    </figure>
  );
}
