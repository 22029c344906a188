// Rows of the stream and tokens of the prompt: in each cell the word that would come next.
import { useEffect, useRef, useState } from "preact/hooks";
import { cssColour, inkOn, type Scale } from "../../arithmetic/colour";
import { moved } from "../../arithmetic/grid";
import { rowName, windowStart } from "../../arithmetic/lens";
import { readable } from "../../arithmetic/number";
import { short, visible } from "../../arithmetic/text";
import { valueAt } from "../../data/python";
import type { Series, Token } from "../../data/types";
import { hover, pin, point, select } from "../../state";
import { dark } from "../../theme";

const MOST = 64; // columns that are drawn at a time

export interface WordsProps {
  top: Series;
  colour: Series;
  scale: Scale;
  texts: Record<string, string>;
  tokens: readonly Token[];
  query: number;
}

export function Words({ top, colour, scale, texts, tokens, query }: WordsProps) {
  const [rows = 0, columns = 0] = top.shape;
  const [start, setStart] = useState(() => windowStart(columns, MOST, query));
  const [at, setAt] = useState({ row: rows - 1, column: query });
  const body = useRef<HTMLTableSectionElement>(null);
  const scroll = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (query < start || query >= start + MOST) setStart(windowStart(columns, MOST, query));
    setAt((old) => ({ ...old, column: query }));
    const cell = body.current?.querySelector<HTMLElement>(`[data-column="${query}"]`);
    const box = scroll.current;
    if (cell && box) box.scrollLeft += cell.getBoundingClientRect().left - box.getBoundingClientRect().left - box.clientWidth / 2;
  }, [query]);
  const shown = Array.from({ length: Math.min(MOST, columns - start) }, (_, i) => start + i);

  const onKey = (event: KeyboardEvent): void => {
    const next = moved(at, event.key, rows, columns);
    if (!next) return;
    event.preventDefault();
    setAt(next);
    if (next.column < start || next.column >= start + MOST) setStart(windowStart(columns, MOST, next.column));
    queueMicrotask(() => requestAnimationFrame(() => body.current?.querySelector<HTMLElement>(`[data-row="${next.row}"][data-column="${next.column}"]`)?.focus()));
  };
  return (
    <>
      <div class="words-scroll" ref={scroll}>
        <table class="words" aria-label="What would be said at each layer and token">
          <thead>
            <tr>
              <th scope="col" class="corner">read ↓</th>
              {shown.map((c) => <th key={c} scope="col" data-picked={c === query} title={`token ${c}`}><code>{short(visible(tokens[c]?.text ?? String(c)), 9)}</code></th>)}
            </tr>
          </thead>
          <tbody ref={body} onKeyDown={onKey} data-arrows>
            {Array.from({ length: rows }, (_, r) => (
              <tr key={r} data-last={r === rows - 1}>
                <th scope="row">{r === rows - 1 ? "the model" : rowName(r)}</th>
                {shown.map((c) => <Word key={c} {...{ top, colour, scale, texts }} row={r} column={c} picked={c === query} reached={r === at.row && c === at.column} />)}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {columns > MOST ? (
        <p class="small">
          Tokens {start} to {start + shown.length - 1} of {columns}{" "}
          <button disabled={start === 0} onClick={() => setStart(Math.max(0, start - MOST))}>earlier</button>{" "}
          <button disabled={start + MOST >= columns} onClick={() => setStart(Math.min(columns - MOST, start + MOST))}>later</button>
        </p>
      ) : null}
    </>
  );
}

function Word({ top, colour, scale, texts, row, column, picked, reached }: Omit<WordsProps, "tokens" | "query"> & { row: number; column: number; picked: boolean; reached: boolean }) {
  const id = valueAt(top, [row, column]);
  const value = valueAt(colour, [row, column]);
  if (id < 0) return <td class="hatched" data-picked={picked}><span class="unseen">not read</span></td>;
  const text = texts[String(id)] ?? String(id);
  const choose = (): void => {
    select({ query: column, layer: row === 0 ? null : row - 1 });
    pin(colour, [row, column]);
  };
  return (
    <td data-picked={picked}>
      <button
        class="word" tabIndex={reached ? 0 : -1} data-row={row} data-column={column} data-kind={colour.kind} data-source={colour.source} data-value={value} data-id={id}
        style={{ background: cssColour(value, scale, dark.value), color: inkOn(value, scale, dark.value) }}
        title={`${JSON.stringify(text)}, id ${id}: ${readable(value)}`} aria-label={`${rowName(row)}, token ${column}: ${visible(text)}, ${readable(value)}`}
        onPointerEnter={() => { point(colour, [row, column]); hover({ query: column }); }} onPointerLeave={() => hover({})} onFocus={() => point(colour, [row, column])} onClick={choose}
      >
        {short(visible(text), 8)}
      </button>
    </td>
  );
}
