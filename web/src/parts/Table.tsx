// A plain table with a caption; its head stays in sight.
import type { ComponentChildren } from "preact";
import "./parts.css";

export interface TableProps {
  caption: string;
  columns: readonly { name: string; title?: string; number?: boolean }[];
  rows: readonly (readonly ComponentChildren[])[];
  /** The row that is selected, and what a click on a row does. */
  picked?: number | null;
  onPick?: (row: number) => void;
}

export function Table({ caption, columns, rows, picked, onPick }: TableProps) {
  return (
    <div class="table-scroll" tabIndex={0} role="group" aria-label={caption}>
      <table class="table">
        <caption>{caption}</caption>
        <thead><tr>{columns.map((column) => <th key={column.name} scope="col" title={column.title} data-number={column.number}>{column.name}</th>)}</tr></thead>
        <tbody>
          {rows.map((row, r) => (
            <tr key={r} data-picked={r === picked} onClick={onPick ? () => onPick(r) : undefined}>
              {row.map((cell, c) => (
                <td key={c} data-number={columns[c]?.number}>{c === 0 && onPick ? <button class="plain" aria-pressed={r === picked}>{cell}</button> : cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
