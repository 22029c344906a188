// Singular values of one matrix and of what changed it, each beside a random matrix; and how much the first r hold.
import { Note } from "../../parts/Note";
import { readable } from "../../arithmetic/number";
import type { Series } from "../../data/types";
import { Bars } from "../../parts/Bars";
import { LineChart, type Line } from "../../parts/LineChart";
import { Table } from "../../parts/Table";
import type { ViewProps } from "../view";
import { TITLES, type Facts } from "./facts";

const TONES = { weight: "output", lora: "value", full: "query" } as const;
const KINDS = ["weight", "lora", "full"] as const;
const from1 = (series: Series): number[] => Array.from(series.values, (_, i) => i + 1);

export function Spectra({ data }: ViewProps) {
  const lines: Line[] = [];
  const energy: Line[] = [];
  for (const kind of KINDS) {
    const [own, chance, held] = [data.series[kind], data.series[`${kind}_chance`], data.series[`${kind}_energy`]];
    if (!own || !chance || !held) continue;
    const name = TITLES[kind] ?? kind;
    lines.push({ name, series: own, x: from1(own), tone: TONES[kind] }, { name: "by chance", series: chance, x: from1(chance), tone: TONES[kind], dashed: true });
    energy.push({ name, series: held, x: from1(held), tone: TONES[kind] });
  }
  return (
    <>
      <section>
        <h2>Singular values</h2>
        <LineChart lines={lines} label="Singular values, the strongest first" xLabel="direction" yLabel="singular value" logY height={220} />
      </section>
      <section>
        <h2>Energy in the first r directions</h2>
        <LineChart lines={energy} label="Share of the energy in the first r directions" xLabel="r" yLabel="share of all σ²" zero height={220} />
      </section>
    </>
  );
}

export function Ranked({ data }: ViewProps) {
  const { numbers } = data.facts as unknown as Facts;
  const kinds = KINDS.filter((kind) => numbers[kind]);
  const figure = (x: number | null | undefined): string => (x === null || x === undefined ? "more than was computed" : readable(x));
  const rows: [string, (kind: string) => string][] = [
    ["directions it could have", (kind) => figure(numbers[kind]?.rank)],
    ["hold half the energy", (kind) => figure(numbers[kind]?.rank_50)],
    ["hold 90%", (kind) => figure(numbers[kind]?.rank_90)],
    ["hold 99%", (kind) => figure(numbers[kind]?.rank_99)],
    ["effective rank", (kind) => figure(numbers[kind]?.effective)],
    ["size beside W", (kind) => `${((numbers[kind]?.relative ?? 1) * 100).toFixed(1)}%`],
  ];
  return (
    <section>
      <Table caption="How many directions" columns={[{ name: "" }, ...kinds.map((kind) => ({ name: TITLES[kind] ?? kind, number: true }))]} rows={rows.map(([name, value]) => [name, ...kinds.map(value)])} />
      <Note of="effective rank" />
    </section>
  );
}

export function Intruders({ data }: ViewProps) {
  const { strongest } = data.facts as unknown as Facts;
  const found = (["lora", "full"] as const).flatMap((kind) => {
    const series = data.series[`${kind}_near`];
    return series ? [{ kind, series }] : [];
  });
  const count = Math.max(0, ...found.map(({ series }) => series.values.length));
  if (!count) return null;
  const bars = Array.from({ length: count }, (_, i) => ({
    label: `direction ${i + 1}`, marks: found.map(({ series }) => (i < series.values.length ? { series, indices: [i] } : null)),
    selected: found.some(({ series }) => (series.values[i] ?? 1) < 0.5),
  }));
  const intruders = found.map(({ kind, series }) => `${TITLES[kind]}: ${Array.from(series.values).filter((x) => x < 0.5).length}`).join(", ");
  return (
    <section>
      <h2>Intruders</h2>
      <Note of="intruders" />
      <p class="small">How like one of W's own directions each of the {Math.min(strongest, count)} strongest of W + ΔW is: 1 is the same, and below 0.5 it is an intruder ({intruders}).</p>
      <Bars label="Largest cosine of each direction to one of W" bars={bars} columns={found.map(({ kind }) => TITLES[kind] ?? kind)} most={1} />
    </section>
  );
}
