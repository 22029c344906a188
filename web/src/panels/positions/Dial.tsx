// One pair of channels: the query and the key as hands that positions turn. The blue hand can be dragged.
import { useRef } from "preact/hooks";
import { sector, turnedBy, turnLength } from "../../arithmetic/dials";
import { readable } from "../../arithmetic/number";
import { flat } from "../../data/python";
import type { Series } from "../../data/types";
import { Cell } from "../../parts/Cell";

export interface DialProps {
  pair: number;
  m: number;
  n: number;
  q: Series;
  k: Series;
  parts: Series;
  /** Radians a position; null: it does not turn as a whole. */
  frequency: number | null;
  /** The longest query and key over all pairs: hands are as long as their share of it. */
  longest: { q: number; k: number };
  /** How far apart tokens were in training, at most. */
  trained: number;
  onTurn: (m: number) => void;
}

const R = 40;

export function Dial({ pair, m, n, q, k, parts, frequency, longest, trained, onTurn }: DialProps) {
  const held = useRef<{ angle: number; m: number } | null>(null);
  const turn = turnLength(frequency ?? 0);
  const part = trained * (frequency ?? 0);
  const angleOf = (event: PointerEvent): number => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    return Math.atan2(box.top + box.height / 2 - event.clientY, event.clientX - box.left - box.width / 2);
  };
  const onMove = (event: PointerEvent): void => {
    if (!held.current) return;
    const now = angleOf(event);
    held.current = { angle: now, m: held.current.m + turnedBy(held.current.angle, now, frequency ?? 0) };
    onTurn(held.current.m);
  };
  const title = `pair ${pair}: one turn takes ${Number.isFinite(turn) ? readable(turn) : "∞"} positions`;
  return (
    <figure class="dial">
      <svg
        viewBox="-50 -50 100 100" role="img" aria-label={title}
        onPointerDown={(event) => { held.current = { angle: angleOf(event), m }; (event.currentTarget as Element).setPointerCapture?.(event.pointerId); }}
        onPointerMove={onMove} onPointerUp={() => (held.current = null)} onPointerCancel={() => (held.current = null)}
      >
        <title>{title}; drag to move the query</title>
        <circle r={R} class="dial-rim" />
        {part > 0 && part < 2 * Math.PI ? <path class="dial-trained" d={sector(R, 0, part)} /> : null}
        <Hand series={k} at={n} pair={pair} longest={longest.k} tone="key" />
        <Hand series={q} at={m} pair={pair} longest={longest.q} tone="query" />
      </svg>
      <figcaption>
        <span class="small">{frequency === null ? "not a rotation" : Number.isFinite(turn) ? `turn ${readable(Math.round(turn * 10) / 10)}` : "still"}</span>
        <Cell series={parts} indices={[m - n, pair]} />
      </figcaption>
    </figure>
  );
}

function Hand({ series, at, pair, longest, tone }: { series: Series; at: number; pair: number; longest: number; tone: "query" | "key" }) {
  const point = (where: number): [number, number] => [0, 1].map((c) => ((series.values[flat(series, [where, pair, c])] ?? 0) / longest) * R) as [number, number];
  const [x, y] = point(at);
  const [x0, y0] = point(0);
  return (
    <g class={`hand ${tone}`} data-kind={series.kind} data-source={series.source}>
      <line class="hand-start" x2={x0} y2={-y0} />
      <line x2={x} y2={-y} />
      <circle cx={x} cy={-y} r={3} />
    </g>
  );
}
