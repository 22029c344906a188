// A table, row or single number cut out of a series, which remembers where each of its numbers stands there.
import type { Series } from "../data/types";

export interface Slice {
  series: Series;
  rows: number;
  columns: number;
  at(row: number, column: number): number;
  indices(row: number, column: number): number[];
  /** All numbers, row by row. */
  values(): Float32Array;
}

/** `where` holds an index for each dimension that is fixed, and "row" and "column" for those that vary. */
export function slice(series: Series, where: readonly (number | "row" | "column")[]): Slice {
  const strides = series.shape.map((_, d) => series.shape.slice(d + 1).reduce((a, b) => a * b, 1));
  const [row, column] = [where.indexOf("row"), where.indexOf("column")];
  const offset = where.reduce<number>((sum, one, d) => sum + (typeof one === "number" ? one * (strides[d] ?? 0) : 0), 0);
  const [down, along] = [strides[row] ?? 0, strides[column] ?? 0];
  const [rows, columns] = [row < 0 ? 1 : (series.shape[row] ?? 0), column < 0 ? 1 : (series.shape[column] ?? 0)];
  const at = (r: number, c: number): number => series.values[offset + r * down + c * along] ?? NaN;
  return {
    series, rows, columns, at,
    indices: (r, c) => where.map((one) => (one === "row" ? r : one === "column" ? c : one)),
    values() {
      const all = new Float32Array(rows * columns);
      for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) all[r * columns + c] = at(r, c);
      return all;
    },
  };
}

/** Some columns of a table. */
export function columnsOf(table: Slice, from: number, to: number): Slice {
  const columns = to - from;
  return {
    series: table.series, rows: table.rows, columns, at: (r, c) => table.at(r, c + from), indices: (r, c) => table.indices(r, c + from),
    values: () => Float32Array.from({ length: table.rows * columns }, (_, i) => table.at(Math.floor(i / columns), (i % columns) + from)),
  };
}
