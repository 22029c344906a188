// What the panel says beside its numbers.
export interface Numbers {
  rank_50: number | null;
  rank_90: number | null;
  rank_99: number | null;
  effective: number | null;
  stable: number;
  norm: number;
  relative: number;
  rank: number;
}

export interface Matrix {
  name: string;
  layer: number | null;
  part: string;
  changed: string[];
}

export interface Facts {
  matrix: string;
  shape: [number, number];
  matrices: Matrix[];
  /** "lora" and "full": the model that has the change. */
  changes: Record<string, string>;
  base: string;
  /** Layers and matrices of the table of changes. */
  rows: (number | null)[];
  parts: string[];
  numbers: Record<string, Numbers>;
  adapter: { names: string[]; here: boolean; rank: number; scales: number[]; parameters: number } | null;
  starts: string[];
  strongest: number;
  notes: string[];
  /** Which matrices changed most; "": nothing changed. */
  most: string;
  full_rank: number;
}

export const TITLES: Record<string, string> = { weight: "W", lora: "ΔW of LoRA", full: "ΔW of the full fine-tune" };

/** Where a number stands in a list; −1: nowhere. The page's numbers are of 32 bits. */
export function indexOf(values: ArrayLike<number>, at: number): number {
  for (let i = 0; i < values.length; i++) if (Math.abs((values[i] ?? NaN) - at) < 1e-6 * Math.max(1, Math.abs(at))) return i;
  return -1;
}

/** The matrices of one layer, or those that are in none. */
export function partsOf(matrices: readonly Matrix[], layer: number | null): Matrix[] {
  return matrices.filter((one) => one.layer === layer);
}

export function layersOf(matrices: readonly Matrix[]): number[] {
  return [...new Set(matrices.flatMap((one) => (one.layer === null ? [] : [one.layer])))];
}
