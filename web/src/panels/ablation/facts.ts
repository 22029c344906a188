// What the panel says besides its series.

export interface Cost {
  passes: number;
  seconds: number;
  computed: boolean;
  most: number;
}

export interface Said {
  id: number;
  text: string;
}

export interface Facts {
  cut: string[];
  problem: string | null;
  strongest: string | null;
  columns: string[];
  seconds: number;
  texts: Record<string, string>;
  sweep: Cost & { layers: number[] };
  text: Cost & { why: string | null; before?: Said[]; after?: Said[] };
  patch: Partial<Cost> & { about: string; why: string | null; tokens?: Said[]; says?: Said[] };
}

/** The option `compute` with one word more. */
export function also(compute: unknown, word: string): string {
  return [...new Set([...String(compute ?? "").split(" ").filter(Boolean), word])].join(" ");
}
