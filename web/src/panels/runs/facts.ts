// What the panel says beside its numbers, and what the server says of runs.
import type { Series } from "../../data/types";

export interface Run {
  name: string;
  problem: string | null;
  state?: string;
  ours?: boolean;
  quiet?: number | null;
  kind?: string;
  model?: string;
  parameters?: number;
  data?: string;
  step?: number;
  steps?: number;
  best_loss?: number | null;
  best_step?: number | null;
  settings?: Record<string, unknown>;
  samples?: { step: number; sample: string }[];
  command?: string;
}

export interface Listing {
  runs: Run[];
  ladders: string[];
  presets: { name: string; about: string }[];
  corpora: string[];
  most_minutes: number;
}

export interface Mean {
  mean: number;
  n: number;
  half_width: number | null;
  verdict?: string;
  sign?: number | null;
  reason?: string;
}

export interface Code {
  path: string;
  line: number;
  text: string;
}

export interface Change {
  field: string;
  old: unknown;
  new: unknown;
}

export interface RungCard {
  key: string;
  title: string;
  about: string;
  beside: boolean;
  below: string | null;
  parameters: number;
  active: number;
  loss: Mean | null;
  bought: Mean | null;
  change: Change[];
  source: Code;
  was: Code | null;
  lines: [string, string][];
  curve: { steps: number[]; losses: number[] } | null;
  sample: string | null;
}

export interface AwayCard {
  key: string;
  title: string;
  about: string;
  source: Code | null;
  lines: [string, string][];
  change: Change[];
  models: { key: string; title: string; loss: Mean | null; worth: Mean; peeking: number | null }[];
}

export interface Ladder {
  /** Where its results lie; undefined: the recorded one. */
  path?: string;
  /** Of one of the folder: its numbers. */
  series?: Record<string, Omit<Series, "name" | "side" | "preamble" | "values"> & { values: number[] }>;
  text: string;
  steps: number;
  seeds: number;
  tokens: number;
  machine: string;
  complete: boolean;
  references: Record<string, number>;
  findings: string[];
  rungs: RungCard[];
  take_aways: AwayCard[];
}

export interface Facts {
  ladder: Ladder;
  recorded: boolean;
  run: Run | null;
}
