// A table of numbers as colours. Pointing shows the number, a click selects it, arrows move over it.
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Scale, scaleOf } from "../arithmetic/colour";
import { cellAt, type Grid, gridOf, moved, sizeOf } from "../arithmetic/grid";
import type { Slice } from "../arithmetic/slice";
import { pin, point } from "../state";
import { dark } from "../theme";
import { Legend } from "./Legend";
import { margins, paint } from "./paint";
import { useWidth } from "./useWidth";
import "./parts.css";

export interface HeatmapProps {
  slice: Slice;
  /** What it shows, for those who hear the page. */
  label: string;
  /** "unit": viridis on [0, 1], as for probabilities; "range": over the numbers that are there; "amount": from 0; "signed": about 0. */
  scale?: "unit" | "range" | "amount" | "signed" | Scale;
  masked?: (row: number, column: number) => boolean;
  /** What its hatched cells are. */
  hatched?: string;
  rowLabels?: readonly string[];
  columnLabels?: readonly string[];
  rowTitle?: string;
  columnTitle?: string;
  /** What is selected, outlined: a row, a column, or a cell. */
  picked?: { row?: number | null; column?: number | null };
  onPick?: (row: number, column: number) => void;
  onHover?: (at: { row: number; column: number } | null) => void;
  mostCell?: number;
  cellHeight?: number;
  legend?: boolean;
}

type At = { row: number; column: number };

export function Heatmap(props: HeatmapProps) {
  const { slice, label, scale: wanted = "unit", masked, rowLabels, columnLabels, picked, mostCell = 28, legend = true } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const { ref, width } = useWidth<HTMLDivElement>();
  const [cursor, setCursor] = useState<At | null>(null);
  const scale = useMemo(() => (typeof wanted === "string" ? scaleOf(slice.values(), wanted) : wanted), [slice, wanted]);
  const room = useMemo(() => margins(rowLabels, columnLabels), [rowLabels, columnLabels]);
  const grid = gridOf(slice.rows, slice.columns, { width, ...room, most: mostCell, ...(props.cellHeight ? { cellHeight: props.cellHeight } : {}) });
  const isDark = dark.value;
  useLayoutEffect(() => {
    if (canvas.current) paint(canvas.current, { slice, grid, scale, dark: isDark, masked, rowLabels, columnLabels });
  }, [slice, scale, isDark, masked, rowLabels, columnLabels, width, grid.cell, grid.high]);

  const aim = (at: At | null): void => {
    if (at?.row === cursor?.row && at?.column === cursor?.column) return;
    setCursor(at);
    if (at) point(slice.series, slice.indices(at.row, at.column));
    props.onHover?.(at);
  };
  const pick = (at: At | null): void => {
    if (!at) return;
    pin(slice.series, slice.indices(at.row, at.column));
    props.onPick?.(at.row, at.column);
  };
  const under = (event: PointerEvent | MouseEvent): At | null => {
    const box = canvas.current?.getBoundingClientRect();
    return box ? cellAt(grid, event.clientX - box.left, event.clientY - box.top) : null;
  };
  const onKey = (event: KeyboardEvent): void => {
    const at = cursor ?? { row: picked?.row ?? 0, column: picked?.column ?? 0 };
    const next = cursor ? moved(at, event.key, slice.rows, slice.columns, grid.step) : moved(at, event.key, slice.rows, slice.columns, 0);
    if (next) aim(next);
    else if (event.key === "Enter" || event.key === " ") pick(cursor);
    else return;
    event.preventDefault();
  };
  return (
    <div class="heatmap" data-kind={slice.series.kind} data-source={slice.series.source} data-series={slice.series.name} ref={ref}>
      <Titles {...props} />
      <div class="heatmap-stage" style={{ width: `${sizeOf(grid).width}px` }}>
        <canvas
          ref={canvas} tabIndex={0} role="application" aria-roledescription="heatmap" data-arrows
          aria-label={`${label}, ${slice.rows} rows and ${slice.columns} columns; arrows move, Enter selects`}
          onPointerMove={(event) => aim(under(event))} onPointerLeave={() => aim(null)} onBlur={() => aim(null)}
          onClick={(event) => pick(under(event))} onKeyDown={onKey}
        />
        {picked ? <Marks grid={grid} row={picked.row} column={picked.column} name="picked" /> : null}
        {cursor ? <Marks grid={grid} row={cursor.row} column={cursor.column} name="cursor" /> : null}
      </div>
      {legend ? <Legend scale={scale} hatched={masked && (props.hatched ?? "masked")} /> : null}
      {grid.step > 1 ? <p class="small">Each cell is the mean of {grid.step} × {grid.step} numbers; there is no room for one each.</p> : null}
    </div>
  );
}

function Titles({ rowTitle, columnTitle }: HeatmapProps) {
  return rowTitle || columnTitle ? <p class="heatmap-titles small">{rowTitle ? <span>↓ {rowTitle}</span> : null}{columnTitle ? <span>→ {columnTitle}</span> : null}</p> : null;
}

/** A frame around a row, a column or a cell. */
function Marks({ grid, row, column, name }: { grid: Grid; row?: number | null | undefined; column?: number | null | undefined; name: string }) {
  const { width, height } = sizeOf(grid);
  const hasRow = typeof row === "number" && row >= 0 && row < grid.rows;
  const hasColumn = typeof column === "number" && column >= 0 && column < grid.columns;
  if (!hasRow && !hasColumn) return null;
  const left = hasColumn ? grid.left + Math.floor(column / grid.step) * grid.cell : grid.left;
  const top = hasRow ? grid.top + Math.floor(row / grid.step) * grid.high : grid.top;
  const style = {
    left: `${left}px`, top: `${top}px`,
    width: `${hasColumn ? grid.cell : width - grid.left - grid.right}px`, height: `${hasRow ? grid.high : height - grid.top}px`,
  };
  return <div class={`mark ${name}`} style={style} />;
}
