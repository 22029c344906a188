// What the page reads: sides of a pass, and panels with their series, checks and source. src/fathom/glass writes it.

export type Kind = "measured" | "computed";
export type Numbers = Float32Array | Float64Array | Uint8Array | Int32Array;
export type Value = string | number | boolean | null;
export type Options = Record<string, Value>;
export type SideName = "A" | "B";
export type Shown = SideName | "B-A";

/** A tensor of a panel. `code` gives one number of it in Python, with {0}, {1} … for the indices. */
export interface Series {
  name: string;
  kind: Kind;
  source: string;
  shape: number[];
  dims: string[];
  setup: string[];
  code: string;
  values: Numbers;
  side: Shown;
  /** Python before `setup`; of a difference, the whole program. */
  preamble: string;
  /** Of B − A: the two it is made of. */
  parts?: [Series, Series];
}

export interface Check {
  id: string;
  says: string;
  residual: number;
  tolerance: number;
  ok: boolean;
}

export interface SourceLines {
  path: string;
  line: number;
  text: string;
}

/** Answers to choose from before the panel is looked at, which one the numbers give (-1: none), and a sentence of it. */
export interface Guess {
  choices: string[];
  choice: number;
  says: string;
}

/** An element of a formula: its tag, its attributes, and what is in it. */
export type MathNode = [tag: string, attributes: Record<string, string> | 0, ...children: (MathNode | string)[]];

/** What the page says of a panel. */
export interface About {
  id: string;
  place: string;
  title: string;
  /** To guess before the panel answers it. */
  question: string;
  sentences: string[];
  /** What stands beside a part of the panel, by its name. */
  notes: Record<string, string>;
  formula: MathNode | null;
}

/** A stop of the tour. */
export interface Stop {
  panel: string;
  /** Which part of the panel it speaks of, as a selector; "": all. */
  part: string;
  /** The layer and head to look at. */
  head?: [number, number];
  /** The token from which to look. */
  query?: number;
  title: string;
  text: string;
  attempt: string;
}

export interface PanelData {
  panel: string;
  guess?: Guess | null;
  options: Options;
  absent: string | null;
  // Each panel has facts of its own, which its folder declares.
  facts: Record<string, unknown>;
  series: Record<string, Series>;
  checks: Check[];
  source: SourceLines[];
}

export interface Token {
  id: number;
  text: string;
  special: boolean;
}

export interface Card {
  name: string;
  family?: string;
  n_layer: number;
  n_head: number;
  n_kv_head: number;
  head_dim: number;
  d_model: number;
  d_ff: number | null; // null: it has no MLP
  vocab_size: number;
  context_length: number;
  dtype: string;
  packing?: string;
  adapters?: string[];
  parameters: number;
  cache_bytes_per_token?: number;
  hash?: string;
  config?: Record<string, unknown>;
}

export interface Part {
  name: string;
  shape: number[];
  parameters: number;
}

/** One part of the model; blocks that are alike are one entry, `first` to `last`, with their parts once. */
export interface MapEntry {
  name: string;
  shape?: number[];
  first?: number;
  last?: number;
  parts?: Part[];
  parameters: number;
}

export interface Side {
  model: string;
  card: Card;
  map: MapEntry[];
  tokens: Token[];
  /** Of each token, given those before it. */
  logprobs: (number | null)[];
  /** What each part adds to the stream, as the norm at each token: "blocks.0.attn", "blocks.0.mlp". */
  written: Record<string, number[]>;
}

export type Sides = { A: Side; B?: Side };

/** The JSON in the page itself. */
export interface DocumentData {
  live: boolean;
  about?: About[];
  tour?: Stop[];
  token?: string;
  sides?: Sides;
  prompt?: string;
  seed?: number;
  panel?: string;
  /** "A/heads?layer=1" to the id of the element that holds its bytes. */
  panels?: Record<string, string>;
  /** An error of this page as a whole. */
  error?: string;
}

/** A model of the server; of one that was not opened yet only the name is known. */
export interface ModelEntry {
  name: string;
  card: Card | null;
  map?: MapEntry[];
}
