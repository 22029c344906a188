// Parameters as areas: every part of the model, coloured by what it does.
import { treemap } from "../../arithmetic/machine";
import { counted, grouped, percent } from "../../arithmetic/number";
import type { Series } from "../../data/types";
import { told } from "../../parts/told";
import { useWidth } from "../../parts/useWidth";

/** The number of its colour, what it is called, and which parts are in it. */
const GROUPS: readonly [number, string, (name: string) => boolean][] = [
  [4, "adapters", (name) => name.includes("adapters.")],
  [0, "embedding, unembedding, positions", (name) => /^(embed|unembed|position)/.test(name)],
  [1, "norms", (name) => /norm|_after/.test(name)],
  [2, "attention", (name) => name.includes(".attn")],
  [3, "MLP", () => true],
];

function groupOf(name: string): number {
  return GROUPS.find(([, , has]) => has(name))?.[0] ?? 3;
}

export function Treemap({ series, names, total }: { series: Series; names: readonly string[]; total: number }) {
  const { ref, width } = useWidth<HTMLDivElement>();
  const sizes = Array.from(series.values);
  const high = Math.round(Math.min(360, Math.max(220, width * 0.42)));
  const shares = GROUPS.map(([group, label]) => ({ group, label, n: sizes.reduce((sum, size, i) => sum + (groupOf(names[i] ?? "") === group ? size : 0), 0) })).filter(({ n }) => n > 0);
  return (
    <div ref={ref} class="treemap">
      <svg width={width} height={high} role="group" aria-label={`Parameters of ${names.length} parts as areas`}>
        {treemap(sizes, width, high).map(({ index, x, y, width: w, height: h }) => {
          const name = names[index] ?? "";
          const about = `${name}: ${grouped(sizes[index] ?? 0)} parameters, ${percent((sizes[index] ?? 0) / total)}`;
          return (
            <g key={index} class="part" data-colour={groupOf(name)} {...told(series, [index])}>
              <title>{about}</title>
              <rect x={x + 0.5} y={y + 0.5} width={Math.max(0, w - 1)} height={Math.max(0, h - 1)} />
              {fits(name, w, h) ? <text x={x + 5} y={y + 14}>{short(name)}</text> : null}
              {h >= 34 && fits(name, w, h) ? <text class="count" x={x + 5} y={y + 28}>{counted(sizes[index] ?? 0)}</text> : null}
            </g>
          );
        })}
      </svg>
      <p class="small key-row">{shares.map(({ group, label, n }) => <span key={group}><span class="square" data-colour={group} /> {label} {percent(n / total)}</span>)}</p>
    </div>
  );
}

/** blocks.3.mlp.up as 3 mlp.up. */
function short(name: string): string {
  return name.replace(/^blocks\./, "").replace(".", " ");
}

function fits(name: string, width: number, height: number): boolean {
  return height >= 18 && width >= short(name).length * 6.2 + 8;
}
