// One number in a text or table: pointing shows where it comes from, a click keeps it in the line at the bottom.
import { readable } from "../arithmetic/number";
import { valueAt } from "../data/python";
import type { Series } from "../data/types";
import { told } from "./told";
import "./parts.css";

export interface CellProps {
  series: Series;
  indices: number[];
  format?: (value: number) => string;
  tone?: "query" | "key" | "value" | "output";
}

export function Cell({ series, indices, format = readable, tone }: CellProps) {
  const value = valueAt(series, indices);
  return (
    <button
      class="cell" data-value={value} data-tone={tone} {...told(series, indices)}
    >
      {format(value)}
    </button>
  );
}
