// A whole matrix: where its weights lie and which levels are used, the error over the size of a block, its largest weights.
import { Note, noted } from "../../parts/Note";
import { grouped, readable } from "../../arithmetic/number";
import { valueAt } from "../../data/python";
import type { PanelData } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { LineChart } from "../../parts/LineChart";
import { Table } from "../../parts/Table";
import { told } from "../../parts/told";
import { useWidth } from "../../parts/useWidth";
import type { Facts } from "./facts";

const [HIGH, MIDDLE, EDGE] = [190, 112, 16];

export function Matrix({ data, facts }: { data: PanelData; facts: Facts }) {
  const { size_error: error, size_bits: bits } = data.series;
  const own = facts.schemes.find((one) => one.name === facts.scheme)?.size ?? null;
  return (
    <>
      <section>
        <h2>All weights of the matrix, and the levels</h2>
        <Note of="levels" />
        <Histogram data={data} />
      </section>
      {error && bits ? (
        <section>
          <h2>How large should a block be?</h2>
          <p class="small">
            Larger blocks keep fewer scales and err more{facts.sample ? `; measured on the first ${grouped(facts.sample)} weights` : ""}. {facts.crossing}
          </p>
          <LineChart
            label="Error over the size of a block" xLabel="weights in a block" yLabel="error" logX zero markX={own} height={220}
            lines={facts.resized.map((name, row) => ({ name, series: error, x: facts.sizes, indices: (i) => [row, i] }))}
          />
          <Table
            caption={noted("bits")}
            columns={[{ name: "weights in a block" }, ...facts.sizes.map((size) => ({ name: String(size), number: true }))]}
            rows={facts.resized.map((name, row) => [name, ...facts.sizes.map((_, i) => (Number.isNaN(valueAt(bits, [row, i])) ? "—" : <Cell key={i} series={bits} indices={[row, i]} format={(x) => x.toFixed(2)} />))])}
          />
        </section>
      ) : null}
      <Outliers data={data} />
    </>
  );
}

function Histogram({ data }: { data: PanelData }) {
  const { ref, width } = useWidth<HTMLDivElement>();
  const { histogram, levels, used } = data.series;
  if (!histogram || !levels || !used) return null;
  const [low, high] = [levels.values[0] ?? -1, levels.values[levels.values.length - 1] ?? 1];
  const across = (x: number): number => EDGE + ((x - low) / (high - low)) * Math.max(1, width - 2 * EDGE);
  const [most, mostUsed] = [Math.max(1, ...histogram.values), Math.max(1, ...used.values)];
  const step = (high - low) / histogram.values.length;
  const thick = Math.max(1, Math.min(9, (width - 2 * EDGE) / levels.values.length - 1));
  return (
    <div ref={ref} class="histogram">
      <svg width={width} height={HIGH} role="img" aria-label="Weights over their scale above, and how often each level is used below">
        {Array.from(histogram.values, (count, i) => {
          const tall = (count / most) * (MIDDLE - 8);
          return <rect key={i} class="bin" x={across(low + i * step)} y={MIDDLE - tall} width={Math.max(0.5, across(low + (i + 1) * step) - across(low + i * step) - 0.5)} height={tall} {...told(histogram, [i])} />;
        })}
        <line class="rule" x1={EDGE} x2={width - EDGE} y1={MIDDLE} y2={MIDDLE} />
        {Array.from(used.values, (count, i) => <rect key={i} class="use" x={across(levels.values[i] ?? 0) - thick / 2} y={MIDDLE + 1} width={thick} height={(count / mostUsed) * (HIGH - MIDDLE - 18)} {...told(used, [i])} />)}
        <text x={EDGE} y={HIGH - 2}>{readable(low)}</text>
        <text x={width / 2} y={HIGH - 2} text-anchor="middle">weight ÷ scale</text>
        <text x={width - EDGE} y={HIGH - 2} text-anchor="end">{readable(high)}</text>
      </svg>
    </div>
  );
}

function Outliers({ data }: { data: PanelData }) {
  const { outlier, outlier_unpacked: unpacked, outlier_place: place, outlier_times: times } = data.series;
  if (!outlier || !unpacked || !place || !times) return null;
  return (
    <section>
      <h2>The largest weights</h2>
      <Table
        caption={noted("outliers")}
        columns={[{ name: "row" }, { name: "column", number: true }, { name: "weight", number: true }, { name: "× rms of the matrix", number: true }, { name: "unpacked", number: true }]}
        rows={Array.from(outlier.values, (_, i) => [
          <Cell key="r" series={place} indices={[i, 0]} format={String} />, <Cell key="c" series={place} indices={[i, 1]} format={String} />,
          <Cell key="w" series={outlier} indices={[i]} />, <Cell key="t" series={times} indices={[i]} format={(x) => x.toFixed(1)} />, <Cell key="u" series={unpacked} indices={[i]} tone="output" />,
        ])}
      />
    </section>
  );
}

