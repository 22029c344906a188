// What the panel says beside its numbers: src/fathom/glass/positions.py and rotation.py.
export interface RotaryFacts {
  kind: "rope";
  layer: number;
  head: number;
  query: number;
  key: number;
  positions: number;
  channels: number;
  rotated: number;
  context_length: number;
  theta: number;
  scaling: string;
  distances: number[];
  changed: string;
  normed_after: boolean;
  layout: { verdict: "right" | "wrong" | "undecided" | "not judged"; why: string; about: string; standard_errors?: number };
}

export interface LearnedFacts {
  kind: "learned";
  lead: string;
  alike: string;
  rows: number[];
  context_length: number;
  layer: number | null;
}

export interface AlibiFacts {
  kind: "alibi";
  lead: string;
  layer: number;
  positions: number;
  context_length: number;
}

export type Facts = RotaryFacts | LearnedFacts | AlibiFacts;
