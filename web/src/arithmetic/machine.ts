// Areas of a treemap, the roof of a machine, and a table of matrices by layer.
import type { Series } from "../data/types";
import type { Slice } from "./slice";

export interface Box {
  index: number;
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Boxes whose areas are as the sizes, as nearly square as may be (Bruls, Huizing & van Wijk 2000); none of size 0. */
export function treemap(sizes: readonly number[], width: number, height: number): Box[] {
  const order = sizes.map((size, index) => ({ size, index })).filter(({ size }) => size > 0).sort((a, b) => b.size - a.size);
  const total = order.reduce((sum, { size }) => sum + size, 0);
  const boxes: Box[] = [];
  let [x, y, wide, high, first] = [0, 0, width, height, 0];
  const unit = total > 0 ? (width * height) / total : 0;
  while (first < order.length) {
    const side = Math.min(wide, high);
    let [last, area] = [first, 0];
    while (last < order.length) {
      const next = area + (order[last]?.size ?? 0) * unit;
      if (last > first && worst(order, first, last, area, side, unit) < worst(order, first, last + 1, next, side, unit)) break;
      area = next;
      last++;
    }
    const depth = side > 0 ? area / side : 0;
    let along = 0;
    for (const { size, index } of order.slice(first, last)) {
      const length = depth > 0 ? (size * unit) / depth : 0;
      boxes.push(wide >= high ? { index, x, y: y + along, width: depth, height: length } : { index, x: x + along, y, width: length, height: depth });
      along += length;
    }
    if (wide >= high) [x, wide] = [x + depth, wide - depth];
    else [y, high] = [y + depth, high - depth];
    first = last;
  }
  return boxes;
}

/** How far from a square the boxes of one row are at worst. */
function worst(order: readonly { size: number }[], first: number, last: number, area: number, side: number, unit: number): number {
  const sizes = order.slice(first, last).map(({ size }) => size * unit);
  return Math.max(...sizes.map((size) => Math.max((side * side * size) / (area * area), (area * area) / (side * side * size))));
}

/** GFLOP/s that memory and arithmetic allow at so many FLOPs a byte. */
export function roof(intensity: number, readGbS: number, gemmGflopS: number): number {
  return Math.min(gemmGflopS, readGbS * intensity);
}

export interface Place {
  layer: number;
  matrix: string;
}

/** blocks.3.attn.q as layer 3 and attn.q. */
export function placeOf(name: string): Place {
  const [, layer = "0", ...rest] = name.split(".");
  return { layer: Number(layer), matrix: rest.join(".") };
}

/** A number a matrix as a table: a row a layer, a column a kind of matrix; NaN where there is none. `tried[i]` is the matrix of the i-th number. */
export function byLayer(series: Series, names: readonly string[], tried: readonly number[]): Slice & { layers: number[]; matrices: string[] } {
  const places = tried.map((at) => placeOf(names[at] ?? ""));
  const layers = [...new Set(places.map(({ layer }) => layer))];
  const matrices = [...new Set(places.map(({ matrix }) => matrix))];
  const where = (row: number, column: number): number => places.findIndex(({ layer, matrix }) => layer === layers[row] && matrix === matrices[column]);
  const at = (row: number, column: number): number => series.values[where(row, column)] ?? NaN;
  return {
    series, layers, matrices, rows: layers.length, columns: matrices.length, at,
    indices: (row, column) => [Math.max(0, where(row, column))],
    values: () => Float32Array.from({ length: layers.length * matrices.length }, (_, i) => at(Math.floor(i / matrices.length), i % matrices.length)),
  };
}
