// Lines over a common axis. Pointing shows the nearest point of each; arrows move along.
import { arrow, within } from "../arithmetic/arrows";
import { useState } from "preact/hooks";
import { axisOf, type Axis, nearest, pathOf, ticksOf } from "../arithmetic/chart";
import { readable, round } from "../arithmetic/number";
import { flat } from "../data/python";
import type { Series } from "../data/types";
import { pin, point } from "../state";
import { useWidth } from "./useWidth";
import "./parts.css";

export interface Line {
  name: string;
  /** The numbers, with where each stands: `indices(i)`, by default [i]. */
  series: Series;
  indices?: (i: number) => number[];
  x: readonly number[];
  tone?: "query" | "key" | "value" | "output" | "wrong";
  dashed?: boolean;
}

export interface LineChartProps {
  lines: readonly Line[];
  label: string;
  xLabel: string;
  yLabel: string;
  logX?: boolean;
  logY?: boolean;
  /** Whether the upright axis begins at the top, as ranks do. */
  down?: boolean;
  /** Whether the upright axis begins at 0. */
  zero?: boolean;
  height?: number;
  /** Where an upright line stands, such as a selected layer. */
  markX?: number | null;
  onPick?: (x: number) => void;
}

const MARGIN = { left: 58, right: 12, top: 10, bottom: 36 };

export function LineChart(props: LineChartProps) {
  const { lines, label, xLabel, yLabel, logX = false, logY = false, zero = false, down = false, height = 240, markX, onPick } = props;
  const { ref, width } = useWidth<HTMLDivElement>();
  const [at, setAt] = useState<number | null>(null);
  const values = lines.map((line) => line.x.map((_, i) => valueOf(line, i)));
  const across = axisOf(lines.flatMap((line) => [...line.x]), [MARGIN.left, Math.max(MARGIN.left + 1, width - MARGIN.right)], logX);
  const upright = [height - MARGIN.bottom, MARGIN.top] as const;
  const up = axisOf(values.flat(), down ? [upright[1], upright[0]] : upright, logY, zero);
  const xs = [...new Set(lines.flatMap((line) => [...line.x]))].sort((a, b) => a - b);

  const aim = (x: number | undefined): void => {
    if (x === undefined) return;
    setAt(x);
    const line = lines.find((one) => one.x.includes(x));
    if (line) point(line.series, where(line, line.x.indexOf(x)));
  };
  const onKey = (event: KeyboardEvent): void => {
    const [, way] = arrow(event.key);
    const here = at === null ? -1 : xs.indexOf(at);
    if (way) aim(xs[within(here + way, xs.length)]);
    else if (event.key === "Enter" && at !== null) pick(at);
    else return;
    event.preventDefault();
  };
  const pick = (x: number): void => {
    const line = lines.find((one) => one.x.includes(x));
    if (line) pin(line.series, where(line, line.x.indexOf(x)));
    onPick?.(x);
  };
  const under = (event: MouseEvent): number | undefined => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    return xs[nearest(xs, across.invert(event.clientX - box.left))];
  };
  return (
    <figure ref={ref}>
      <svg
        width={width} height={height} role="application" aria-roledescription="line chart" aria-label={`${label}; arrows move along`} tabIndex={0} data-arrows
        onPointerMove={(event) => aim(under(event))} onPointerLeave={() => setAt(null)} onBlur={() => setAt(null)} onKeyDown={onKey}
        onClick={(event) => { const x = under(event); if (x !== undefined) pick(x); }}
      >
        <Axes across={across} up={up} width={width} height={height} xLabel={xLabel} yLabel={yLabel} whole={xs.every(Number.isInteger)} />
        {typeof markX === "number" ? <line class="chart-mark" x1={across(markX)} x2={across(markX)} y1={MARGIN.top} y2={height - MARGIN.bottom} /> : null}
        {lines.map((line, i) => (
          <path key={line.name} class="chart-line" data-tone={line.tone} data-colour={i % 6} data-dashed={line.dashed} data-kind={line.series.kind} data-source={line.series.source} d={pathOf(line.x, values[i] ?? [], across, up)} />
        ))}
        {at !== null ? <line class="chart-cursor" x1={across(at)} x2={across(at)} y1={MARGIN.top} y2={height - MARGIN.bottom} /> : null}
        {at !== null ? lines.map((line, i) => <Dot key={line.name} line={line} i={i} at={at} across={across} up={up} />) : null}
      </svg>
      <figcaption class="chart-key">
        {lines.map((line, i) => {
          const here = at === null ? -1 : line.x.indexOf(at);
          return <span key={line.name} class="chart-name" data-tone={line.tone} data-colour={i % 6} data-dashed={line.dashed}>{line.name}{here >= 0 ? ` ${readable(valueOf(line, here))}` : ""}</span>;
        })}
        {at !== null ? <span class="small">at {xLabel} {readable(at)}</span> : null}
      </figcaption>
    </figure>
  );
}

function where(line: Line, i: number): number[] {
  return line.indices ? line.indices(i) : [i];
}

function valueOf(line: Line, i: number): number {
  return line.series.values[flat(line.series, where(line, i))] ?? NaN;
}

function Dot({ line, i, at, across, up }: { line: Line; i: number; at: number; across: Axis; up: Axis }) {
  const here = line.x.indexOf(at);
  const y = here < 0 ? NaN : up(valueOf(line, here));
  return Number.isFinite(y) ? <circle class="chart-dot" data-tone={line.tone} data-colour={i % 6} cx={across(at)} cy={y} r={3.5} /> : null;
}

function Axes({ across, up, width, height, xLabel, yLabel, whole }: { across: Axis; up: Axis; width: number; height: number; xLabel: string; yLabel: string; whole: boolean }) {
  const bottom = height - MARGIN.bottom;
  return (
    <g class="axes" aria-hidden="true">
      {up.ticks(5).map((y) => (
        <g key={`y${y}`}><line class="grid-line" x1={MARGIN.left} x2={width - MARGIN.right} y1={up(y)} y2={up(y)} /><text x={MARGIN.left - 6} y={up(y)} text-anchor="end" dominant-baseline="middle">{round(y)}</text></g>
      ))}
      {ticksOf(across, Math.max(2, width / 90), whole).map((x) => (
        <g key={`x${x}`}><line x1={across(x)} x2={across(x)} y1={bottom} y2={bottom + 4} /><text x={across(x)} y={bottom + 15} text-anchor="middle">{round(x)}</text></g>
      ))}
      <line x1={MARGIN.left} x2={width - MARGIN.right} y1={bottom} y2={bottom} />
      <text x={(MARGIN.left + width) / 2} y={height - 4} text-anchor="middle">{xLabel}</text>
      <text transform={`translate(11 ${(MARGIN.top + bottom) / 2}) rotate(-90)`} text-anchor="middle">{yLabel}</text>
    </g>
  );
}
