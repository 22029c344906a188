// One number of a series: what it is called, and the Python that prints it.
import type { Series } from "./types";

export function flat(series: Series, indices: readonly number[]): number {
  return series.shape.reduce((at, n, d) => at * n + (indices[d] ?? 0), 0);
}

export function valueAt(series: Series, indices: readonly number[]): number {
  return series.values[flat(series, indices)] ?? NaN;
}

/** {0}, {1} … replaced by the indices; other braces stay. */
export function filled(code: string, indices: readonly number[]): string {
  return indices.reduce((text, index, d) => text.replaceAll(`{${d}}`, String(index)), code);
}

/** As in "blocks.3.attn.pattern[0, 5, 7, 2]"; where the number is not an entry of a tap, the series with its indices. */
export function nameOf(series: Series, indices: readonly number[]): string {
  const code = filled(series.code, indices);
  const tap = /^seen\[f?(['"])([^'"]+)\1\]\[([^\]]*)\](?:\.item\(\))?$/.exec(code);
  const name = tap ? `${tap[2]}[${tap[3]}]` : `${series.name}${indices.length ? `[${indices.join(", ")}]` : ""}`;
  return series.parts ? `B − A of ${name}` : name;
}

/** A whole program that prints the number. */
export function program(series: Series, indices: readonly number[]): string {
  if (series.parts) {
    const [a, b] = series.parts;
    return `# A\n${steps(a, indices, "a")}\n\n# B\n${steps(b, indices, "b")}\n\nprint(b - a)\n`;
  }
  return `${series.preamble.trimEnd()}\n\n${lines(series, indices)}print(float(${filled(series.code, indices)}))\n`;
}

function steps(series: Series, indices: readonly number[], name: string): string {
  return `${series.preamble.trimEnd()}\n${lines(series, indices)}${name} = float(${filled(series.code, indices)})`;
}

function lines(series: Series, indices: readonly number[]): string {
  return series.setup.map((line) => `${filled(line, indices)}\n`).join("");
}
