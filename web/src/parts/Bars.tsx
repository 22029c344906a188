// Rows with a label and one or more bars each; a last row may hold the rest.
import type { ComponentChildren } from "preact";
import { readable, signed as withSign } from "../arithmetic/number";
import { valueAt } from "../data/python";
import type { Series } from "../data/types";
import { told } from "./told";
import "./parts.css";

export interface Mark {
  series: Series;
  indices: number[];
  /** Where it has a measure of its own: the number that fills its track, and how it is written. */
  full?: number;
  format?: (value: number) => string;
}

export interface Bar {
  label: ComponentChildren;
  /** One a column; null: nothing there. */
  marks: (Mark | null)[];
  title?: string;
  /** The rest of many: drawn paler. */
  rest?: boolean;
  selected?: boolean;
  onClick?: () => void;
  /** query, key, value or output. */
  tone?: string;
}

export interface BarsProps {
  bars: readonly Bar[];
  label: string;
  /** One a column of bars. */
  columns?: readonly string[];
  /** The number that fills a whole track; else the largest that is there. */
  most?: number;
  /** Bars go left and right of 0, red and blue. */
  signed?: boolean;
  format?: (value: number) => string;
}

export function Bars({ bars, label, columns, most, signed = false, format = signed ? withSign : readable }: BarsProps) {
  const all = bars.flatMap((bar) => bar.marks.map((mark) => (mark && !mark.full ? valueAt(mark.series, mark.indices) : 0)));
  const full = most ?? Math.max(1e-12, ...all.map((x) => (Number.isFinite(x) ? Math.abs(x) : 0)));
  const count = Math.max(1, ...bars.map((bar) => bar.marks.length));
  return (
    <table class="bars" aria-label={label}>
      <colgroup><col class="bar-label" />{Array.from({ length: count }, (_, i) => <col key={i} />)}</colgroup>
      {columns ? <thead><tr><th class="unseen" scope="col">what</th>{columns.map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead> : null}
      <tbody>{bars.map((bar, i) => <Row key={i} bar={bar} full={full} signed={signed} format={format} />)}</tbody>
    </table>
  );
}

function Row({ bar, full, signed, format }: { bar: Bar; full: number; signed: boolean; format: (value: number) => string }) {
  return (
    <tr data-rest={bar.rest} data-selected={bar.selected} title={bar.title}>
      <th scope="row">{bar.onClick ? <button class="plain" aria-pressed={bar.selected} onClick={bar.onClick}>{bar.label}</button> : bar.label}</th>
      {bar.marks.map((mark, i) => <td key={i}>{mark ? <Track mark={mark} full={mark.full ?? full} signed={signed} format={mark.format ?? format} tone={bar.tone} /> : null}</td>)}
    </tr>
  );
}

function Track({ mark, full, signed, format, tone }: { mark: Mark; full: number; signed: boolean; format: (value: number) => string; tone: Bar["tone"] }) {
  const { series, indices } = mark;
  const value = valueAt(series, indices);
  const share = Number.isFinite(value) ? Math.min(1, Math.abs(value) / full) * (signed ? 50 : 100) : 0;
  const style = { width: `${share}%`, ...(signed ? { left: `${value < 0 ? 50 - share : 50}%` } : {}) };
  return (
    <button
      class="track" data-signed={signed} data-negative={value < 0} data-tone={tone} data-value={value} {...told(series, indices)}
    >
      <span class="bar-room"><span class="bar" style={style} /></span>
      <span class="bar-value">{format(value)}</span>
    </button>
  );
}
