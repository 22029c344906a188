// The two orders of channels, the permutation between them, and which one the weights speak for.
import { interleaved, pairOf } from "../../arithmetic/dials";
import { readable, signed as withSign } from "../../arithmetic/number";
import type { PanelData } from "../../data/types";
import { Bars } from "../../parts/Bars";
import type { RotaryFacts } from "./facts";

const MOST = 16; // channels that are drawn; more repeat the same
const NAMES = ["half-split", "interleaved"];

export function Layouts({ data, facts, signed }: { data: PanelData; facts: RotaryFacts; signed: boolean }) {
  const { agreement, layout_loss: loss } = data.series;
  const bars = (series: NonNullable<typeof loss>) => NAMES.map((label, i) => ({ label, marks: [{ series, indices: [i] }], selected: i === 0 }));
  return (
    <section>
      <h2>Which channels are a pair?</h2>
      <p class={`verdict ${facts.layout.verdict}`} data-verdict={facts.layout.verdict}>
        {facts.layout.verdict === "right" ? "✓ " : facts.layout.verdict === "wrong" ? "✗ " : ""}{sentence(facts.layout.why)}
      </p>
      <div class="side-by-side">
        <div>
          <p class="small">{facts.layout.about}</p>
          <Permutation channels={Math.min(facts.channels, MOST)} rotated={Math.min(facts.rotated, MOST)} whole={facts.channels} />
        </div>
        <div>
          {agreement ? <><h3>Partners that agree, in standard errors</h3><Bars label="Agreement of partners in the weights" bars={bars(agreement)} signed format={signed ? withSign : readable} /></> : null}
          {loss ? <><h3>Loss on the prompt in either layout, in nats</h3><Bars label="Loss on the prompt in each layout" bars={bars(loss)} signed={signed} /></> : null}
        </div>
      </div>
    </section>
  );
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

const [W, CELL, GAP] = [24, 20, 52];

function Permutation({ channels, rotated, whole }: { channels: number; rotated: number; whole: number }) {
  const to = interleaved(channels, rotated);
  const colour = (pair: number): string => (pair < 0 ? "var(--line)" : `var(--c${pair % 6})`);
  const width = channels * W;
  return (
    <div class="permutation">
      <svg viewBox={`0 0 ${width} ${2 * CELL + GAP + 34}`} style={{ maxWidth: `${width}px` }} role="img" aria-label={`Channel c of the half-split order lies at ${to.join(", ")} in the interleaved one`}>
        <text x={0} y={10}>half-split: channels i and i + {rotated / 2}</text>
        <text x={0} y={2 * CELL + GAP + 31}>interleaved: channels 2i and 2i + 1</text>
        {to.map((there, c) => (
          <g key={c}>
            <path class="wire" d={`M${(c + 0.5) * W},${14 + CELL}C${(c + 0.5) * W},${14 + CELL + GAP / 2} ${(there + 0.5) * W},${14 + CELL + GAP / 2} ${(there + 0.5) * W},${14 + CELL + GAP}`} stroke={colour(pairOf(c, rotated))} />
            <rect x={c * W + 2} y={14} width={W - 4} height={CELL} rx={4} fill={colour(pairOf(c, rotated))} />
            <text class="in-cell" x={(c + 0.5) * W} y={14 + CELL / 2}>{c}</text>
            <rect x={there * W + 2} y={14 + CELL + GAP} width={W - 4} height={CELL} rx={4} fill={colour(pairOf(c, rotated))} />
            <text class="in-cell" x={(there + 0.5) * W} y={14 + 1.5 * CELL + GAP}>{c}</text>
          </g>
        ))}
      </svg>
      {whole > channels ? <p class="small">Drawn for {channels} channels; a head of this model has {whole}.</p> : null}
    </div>
  );
}
