// What glass/packing.py says beside its series.
export interface Format {
  name: string;
  bits: number;
  size: number;
}

export interface Facts {
  name: string;
  matrices: string[];
  scheme: string;
  schemes: Format[];
  block: number;
  blocks: number;
  start: [number, number];
  shape: [number, number];
  bytes: number;
  bits: number;
  error: number;
  sizes: number[];
  resized: string[];
  /** The packing of the model itself; "": none. */
  packed: string;
  tried: number[];
  tokens: number;
  block_error: number;
  usual_error: number;
  sample: number | null;
  /** Sentences: which format is nearest, at which sizes of a block, and what fills rows up. */
  nearest: string;
  crossing: string;
  filled: string;
}
