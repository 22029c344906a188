// From the bytes of a panel to what the page draws, and from two panels to their difference.
import { readTensors } from "./safetensors";
import type { Check, Numbers, PanelData, Series, SideName } from "./types";

type Header = Omit<PanelData, "series"> & { preamble: string; series: Record<string, Omit<Series, "name" | "values">> };

export function readPanel(bytes: ArrayBuffer, side: SideName): PanelData {
  const { metadata, tensors } = readTensors(bytes);
  const { preamble, series: described, checks, ...header } = JSON.parse(metadata.panel ?? "{}") as Header;
  const series: PanelData["series"] = {};
  for (const [name, about] of Object.entries(described ?? {})) {
    const tensor = tensors[name];
    if (tensor) series[name] = { ...about, name, side, preamble, shape: tensor.shape, values: tensor.values };
  }
  return { ...header, series, checks: (checks ?? []).map(withNumbers) };
}

/** JSON has no NaN or infinity: they arrive as words. */
function withNumbers(check: Check): Check {
  return { ...check, residual: Number(check.residual), tolerance: Number(check.tolerance) };
}

/** B − A of every series that both have in one shape. */
export function difference(a: PanelData, b: PanelData): PanelData {
  const series: PanelData["series"] = {};
  for (const [name, one] of Object.entries(a.series)) {
    const other = b.series[name];
    if (other && sameShape(one, other)) series[name] = minus(one, other);
  }
  const absent = a.absent ?? b.absent ?? (Object.keys(series).length ? null : unlike(a, b));
  const of = (name: SideName, checks: Check[]): Check[] => checks.map((one) => ({ ...one, says: `${name}: ${one.says}` }));
  return { ...b, series, absent, checks: [...of("A", a.checks), ...of("B", b.checks)] };
}

function minus(a: Series, b: Series): Series {
  const values: Numbers = new Float32Array(a.values.length);
  for (let i = 0; i < values.length; i++) values[i] = (b.values[i] ?? NaN) - (a.values[i] ?? NaN);
  const kind = a.kind === "measured" && b.kind === "measured" ? "measured" : "computed";
  return { ...b, values, kind, source: `B − A of ${b.source}`, side: "B-A", parts: [a, b] };
}

function sameShape(a: Series, b: Series): boolean {
  return a.shape.length === b.shape.length && a.shape.every((n, i) => n === b.shape[i]);
}

function unlike(a: PanelData, b: PanelData): string {
  const name = Object.keys(a.series).find((one) => b.series[one]);
  if (!name) return "A and B have no series in common: look at A or at B.";
  return `A has ${name} of ${size(a.series[name])}, B of ${size(b.series[name])}: look at A or at B.`;
}

function size(series: Series | undefined): string {
  return series?.shape.join(" × ") || "one number";
}
