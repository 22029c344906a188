// Where the cells of a table lie on a canvas.
import { arrow, within } from "./arrows";

export interface Grid {
  rows: number;
  columns: number;
  left: number;
  top: number;
  right: number; // room beside the cells, where slanted labels end
  cell: number; // width of one cell, in CSS pixels; at least one where the table is not averaged
  high: number; // height of one cell
  step: number; // how many rows and columns of the table one drawn cell averages
}

export interface Room {
  width: number;
  left: number;
  top: number;
  right?: number;
  most: number; // largest cell
  least?: number; // smallest cell before cells are put together
  cellHeight?: number;
}

export function gridOf(rows: number, columns: number, room: Room): Grid {
  const free = Math.max(1, room.width - room.left - (room.right ?? 0));
  const least = room.least ?? 1;
  const step = Math.max(1, Math.ceil((columns * least) / free));
  const cell = Math.min(room.most, free / Math.ceil(columns / step));
  const high = room.cellHeight ?? cell;
  return { rows, columns, left: room.left, top: room.top, right: room.right ?? 0, cell, high, step };
}

export function sizeOf(grid: Grid): { width: number; height: number } {
  return {
    width: grid.left + Math.ceil(grid.columns / grid.step) * grid.cell + grid.right,
    height: grid.top + Math.ceil(grid.rows / grid.step) * grid.high,
  };
}

/** The cell under a point, or null beside the table. Of cells put together, the first. */
export function cellAt(grid: Grid, x: number, y: number): { row: number; column: number } | null {
  const column = Math.floor((x - grid.left) / grid.cell) * grid.step;
  const row = Math.floor((y - grid.top) / grid.high) * grid.step;
  return x >= grid.left && y >= grid.top && row < grid.rows && column < grid.columns ? { row, column } : null;
}

/** Each `step` × `step` numbers as their mean; NaN where all of them are. */
export function averaged(values: ArrayLike<number>, rows: number, columns: number, step: number): Float32Array {
  if (step === 1) return Float32Array.from(values);
  const [high, wide] = [Math.ceil(rows / step), Math.ceil(columns / step)];
  const made = new Float32Array(high * wide);
  for (let r = 0; r < high; r++)
    for (let c = 0; c < wide; c++) made[r * wide + c] = meanOf(values, columns, r * step, Math.min(rows, (r + 1) * step), c * step, Math.min(columns, (c + 1) * step));
  return made;
}

function meanOf(values: ArrayLike<number>, width: number, top: number, bottom: number, left: number, right: number): number {
  let [sum, count] = [0, 0];
  for (let r = top; r < bottom; r++)
    for (let c = left; c < right; c++) {
      const value = values[r * width + c] ?? NaN;
      if (!Number.isNaN(value)) [sum, count] = [sum + value, count + 1];
    }
  return count ? sum / count : NaN;
}

/** Every how many-th label has room, of labels that need `size` pixels each. */
export function every(cell: number, size: number): number {
  return Math.max(1, Math.ceil(size / cell));
}

/** The next cell for an arrow key; null for other keys. */
export function moved(at: { row: number; column: number }, key: string, rows: number, columns: number, step = 1): { row: number; column: number } | null {
  const [down, right] = arrow(key);
  if (key === "Home") return { row: at.row, column: 0 };
  if (key === "End") return { row: at.row, column: columns - 1 };
  if (!down && !right) return null;
  return { row: within(at.row + down * step, rows), column: within(at.column + right * step, columns) };
}
