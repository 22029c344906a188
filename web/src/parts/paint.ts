// Drawing a table of numbers on a canvas: one pixel a cell, enlarged; what is masked is hatched.
import { type Scale, stepOf, tableOf } from "../arithmetic/colour";
import { averaged, every, type Grid, sizeOf } from "../arithmetic/grid";
import { short, visible } from "../arithmetic/text";
import type { Slice } from "../arithmetic/slice";

export interface Picture {
  slice: Slice;
  grid: Grid;
  scale: Scale;
  dark: boolean;
  masked: ((row: number, column: number) => boolean) | undefined;
  rowLabels: readonly string[] | undefined;
  columnLabels: readonly string[] | undefined;
}

export function paint(canvas: HTMLCanvasElement, picture: Picture): void {
  const { grid } = picture;
  const { width, height } = sizeOf(grid);
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  if (!pen || !grid.rows || !grid.columns) return;
  pen.scale(ratio, ratio);
  cells(pen, picture);
  if (picture.masked) hatch(pen, picture, picture.masked);
  labels(pen, canvas, picture);
}

function cells(pen: CanvasRenderingContext2D, { slice, grid, scale, dark }: Picture): void {
  const values = averaged(slice.values(), slice.rows, slice.columns, grid.step);
  const [high, wide] = [Math.ceil(grid.rows / grid.step), Math.ceil(grid.columns / grid.step)];
  const image = new ImageData(wide, high);
  const colours = tableOf(scale, dark);
  for (let i = 0; i < values.length; i++) {
    const step = stepOf(values[i] ?? NaN, scale);
    if (step < 0) continue;
    image.data.set(colours.subarray(step * 3, step * 3 + 3), i * 4);
    image.data[i * 4 + 3] = 255;
  }
  const small = document.createElement("canvas");
  [small.width, small.height] = [wide, high];
  small.getContext("2d")?.putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, grid.left, grid.top, wide * grid.cell, high * grid.high);
}

/** Runs of masked cells of a row as one rectangle each. */
function hatch(pen: CanvasRenderingContext2D, { grid, dark }: Picture, masked: (row: number, column: number) => boolean): void {
  const fill = pattern(pen, dark);
  if (!fill) return;
  for (let r = 0; r * grid.step < grid.rows; r++) {
    let from = -1;
    const wide = Math.ceil(grid.columns / grid.step);
    for (let c = 0; c <= wide; c++) {
      const here = c < wide && masked(Math.min(grid.rows - 1, (r + 1) * grid.step - 1), c * grid.step);
      if (here && from < 0) from = c;
      if (here || from < 0) continue;
      const [x, y, w] = [grid.left + from * grid.cell, grid.top + r * grid.high, (c - from) * grid.cell];
      pen.clearRect(x, y, w, grid.high);
      pen.fillStyle = fill;
      pen.fillRect(x, y, w, grid.high);
      from = -1;
    }
  }
}

function pattern(pen: CanvasRenderingContext2D, dark: boolean): CanvasPattern | null {
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [6, 6];
  const line = tile.getContext("2d");
  if (!line) return null;
  line.strokeStyle = dark ? "#4a545e" : "#c3cad1";
  line.lineWidth = 1;
  line.beginPath();
  for (const x of [-6, 0, 6]) {
    line.moveTo(x, 6);
    line.lineTo(x + 6, 0);
  }
  line.stroke();
  return pen.createPattern(tile, "repeat");
}

const SIZE = 11; // of labels, in pixels

function labels(pen: CanvasRenderingContext2D, canvas: HTMLCanvasElement, { grid, rowLabels, columnLabels }: Picture): void {
  pen.font = `${SIZE}px ${getComputedStyle(canvas).fontFamily}`;
  pen.fillStyle = getComputedStyle(canvas).color;
  pen.textBaseline = "middle";
  if (rowLabels) {
    pen.textAlign = "right";
    const gap = every(grid.high / grid.step, SIZE + 1);
    for (let r = 0; r < grid.rows; r += gap) pen.fillText(shown(rowLabels[r]), grid.left - 5, grid.top + (r / grid.step + 0.5) * grid.high);
  }
  if (columnLabels) {
    pen.textAlign = "left";
    const gap = every(grid.cell / grid.step, SIZE + 1);
    for (let c = 0; c < grid.columns; c += gap) {
      pen.save();
      pen.translate(grid.left + (c / grid.step + 0.5) * grid.cell, grid.top - 5);
      pen.rotate(-Math.PI / 3);
      pen.fillText(shown(columnLabels[c]), 0, 0);
      pen.restore();
    }
  }
}

const MOST = 12; // characters of a label

function shown(label: string | undefined): string {
  return short(visible(label ?? ""), MOST);
}

/** The room that labels need at the left, above, and at the right, where the last of the slanted ones ends. */
export function margins(rowLabels: readonly string[] | undefined, columnLabels: readonly string[] | undefined): { left: number; top: number; right: number } {
  const longest = (labels: readonly string[] | undefined): number => Math.max(0, ...(labels ?? []).map((one) => shown(one).length));
  return {
    left: rowLabels ? Math.ceil(longest(rowLabels) * 6.4) + 8 : 0,
    top: columnLabels ? Math.ceil(longest(columnLabels) * 5.8) + 12 : 0,
    right: columnLabels ? longest(columnLabels.slice(-2)) * 4 : 0,
  };
}
