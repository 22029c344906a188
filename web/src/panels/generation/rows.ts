// A token as src/fathom/glass/generation.py gives it, in the panel and in the stream.
export interface Row {
  step: number;
  id: number;
  text: string;
  logprob: number;
  seconds: number;
  made: number;
  reused: number;
  bytes: number;
  residual: number | null;
  twin: { id: number; text: string; logprob: number; seconds: number; made: number } | null;
}

export interface Last {
  done: string;
  checks: { id: string; says: string; residual: number | string; tolerance: number; ok: boolean }[];
}

export interface Facts {
  prompt_tokens: number;
  rows: Row[];
  done: string;
  note: string;
  sampler: string;
  allocated: number;
  capacity: number;
  windowed: boolean;
  sizes: { n_layer: number; n_kv_head: number; head_dim: number; itemsize: number };
}

export const ENDS: Record<string, string> = {
  length: "",
  context: "The context is full.",
  end: "The model ended its text.",
  time: "Stopped here: more tokens, read again each time without a cache, would take long on this machine.",
  stopped: "Stopped.",
};
