// P9: heads that share keys and values.
import { bytes as inBytes, counted, grouped } from "../../arithmetic/number";
import { slice } from "../../arithmetic/slice";
import { visible } from "../../arithmetic/text";
import { product, wires } from "../../arithmetic/wires";
import { sides } from "../../data/store";
import type { PanelData } from "../../data/types";
import { Bars } from "../../parts/Bars";
import { Cell } from "../../parts/Cell";
import { Heatmap } from "../../parts/Heatmap";
import { Switch } from "../../parts/Switch";
import { Table } from "../../parts/Table";
import { Timed } from "../../parts/Timed";
import { useWidth } from "../../parts/useWidth";
import { hover, select, selection } from "../../state";
import type { PanelView, ViewProps } from "../view";
import "./groups.css";

interface Facts {
  layer: number;
  query: number;
  n_head: number;
  n_kv_head: number;
  choices: number[];
  context_length: number;
  layers: number;
  head_dim: number;
  itemsize: number;
  seconds: number[];
  keys: number;
  note: string;
  /** Where the numbers of the table come from. */
  sources: string;
}

function View({ data, signed, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  const { group, fan_in: fanIn, bytes, parameters, pattern } = data.series;
  if (!group || !fanIn || !bytes || !parameters) return <p class="absent">A and B have different numbers of heads: look at A or at B.</p>;
  const tokens = sides.value?.[data.series.pattern?.side === "B" ? "B" : "A"]?.tokens ?? [];
  const able = facts.n_kv_head > 1 && facts.n_kv_head < facts.n_head;
  return (
    <div class="groups">
      <p class="lead">{facts.note.charAt(0).toUpperCase() + facts.note.slice(1)}.</p>
      <Wiring group={Array.from(group.values)} facts={facts} wrong={data.options.fault !== null} />
      {able ? <div class="controls"><span class="small">Make a mistake:</span><Switch label="repeat in the wrong order" wrong on={data.options.fault === "tile"} onChange={(on) => set("fault", on ? "tile" : undefined)} title="Keys and values tiled (0 1 0 1) instead of repeated (0 0 1 1)" /></div> : null}
      <Saved data={data} facts={facts} signed={signed} />
      {pattern ? (
        <section>
          <h2>The same keys, different questions</h2>
          <p class="small">Attention of every head of layer {facts.layer} from token {facts.query}{tokens[facts.query] ? <> (<code>{visible(tokens[facts.query]?.text ?? "")}</code>)</> : null}. Heads that share keys need not look at the same tokens.</p>
          <Heatmap
            slice={slice(pattern, ["row", "column"])} label="Attention of every head from the chosen token" scale={signed ? "signed" : "unit"} mostCell={26} cellHeight={facts.n_head > 16 ? 13 : 20}
            rowLabels={Array.from(group.values, (g, h) => `head-${h}→kv-${g}`)} columnLabels={tokens.map((one) => one.text)} rowTitle="head · its keys" columnTitle="token"
            masked={(_, key) => key > facts.query} picked={{ row: selection.value.head, column: selection.value.key }} onPick={(head, key) => select({ head, key })}
          />
        </section>
      ) : null}
    </div>
  );
}

const [TOP, BOTTOM, HIGH] = [34, 118, 168];

function Wiring({ group, facts, wrong }: { group: number[]; facts: Facts; wrong: boolean }) {
  const { ref, width } = useWidth<HTMLDivElement>();
  const shown = Math.min(width, 84 * facts.n_head);
  const drawn = wires(group, facts.n_kv_head, shown, TOP, BOTTOM);
  const room = shown / facts.n_head;
  const lit = selection.value.head;
  const litGroup = lit === null ? null : group[lit];
  return (
    <div ref={ref} class="wiring">
      <svg width={shown} height={HIGH} role="group" aria-label={`${facts.n_head} query heads, ${facts.n_kv_head} of keys and values`}>
        {drawn.paths.map((path, h) => <path key={h} class="wire" d={path} data-head={h} data-group={group[h]} data-lit={litGroup !== null && group[h] === litGroup} data-wrong={wrong} />)}
        {drawn.heads.map(({ x }, h) => (
          <g
            key={h} class="query-head" role="button" tabIndex={0} aria-pressed={lit === h} aria-label={`query head ${h}, keys and values ${group[h]}`} data-lit={lit === h}
            onPointerEnter={() => hover({ head: h })} onPointerLeave={() => hover({})} onClick={() => select({ head: h })}
            onKeyDown={(event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select({ head: h }); } }}
          >
            <circle cx={x} cy={TOP - 12} r={Math.min(12, room * 0.42)} />
            {room >= 16 ? <text x={x} y={TOP - 12}>{h}</text> : null}
          </g>
        ))}
        {drawn.kvHeads.map(({ x, fanIn }, g) => {
          const size = Math.min(34, (shown / facts.n_kv_head) * 0.8);
          return (
            <g key={g} class="kv-head" data-kv={g} data-fan-in={fanIn} data-lit={litGroup === g}>
              <rect class="k" x={x - size / 2} y={BOTTOM} width={size / 2} height={22} />
              <rect class="v" x={x} y={BOTTOM} width={size / 2} height={22} />
              {size >= 26 ? <><text class="letter" x={x - size / 4} y={BOTTOM + 11}>k</text><text class="letter" x={x + size / 4} y={BOTTOM + 11}>v</text></> : null}
              <text class="fan" x={x} y={BOTTOM + 36}>{room * facts.n_head / facts.n_kv_head >= 40 ? `${fanIn} → 1` : fanIn}</text>
            </g>
          );
        })}
      </svg>
      <p class="small"><span class="query">●</span> query heads, <span class="key">■</span><span class="value">■</span> keys and values that are computed and cached</p>
    </div>
  );
}

function Saved({ data, facts, signed }: { data: PanelData; facts: Facts; signed: boolean }) {
  const { bytes, parameters } = data.series;
  if (!bytes || !parameters) return null;
  const own = facts.choices.indexOf(facts.n_kv_head);
  const name = (g: number, i: number): string => `${g}${i === own ? " (this)" : g === 1 ? " (MQA)" : g === facts.n_head ? " (MHA)" : ""}`;
  return (
    <section>
      <h2>What sharing saves</h2>
      <p class="small">
        A cache of {grouped(facts.context_length)} tokens: 2 · layers · key and value heads · channels · tokens · bytes a number = {product([2, facts.layers, facts.n_kv_head, facts.head_dim, facts.context_length, facts.itemsize])} bytes{windowed(bytes.values[own], facts)}.
      </p>
      <Bars label="Bytes of the cache for each number of key and value heads" signed={signed} format={inBytes} bars={facts.choices.map((g, i) => ({ label: name(g, i), marks: [{ series: bytes, indices: [i] }], selected: i === own, rest: i !== own }))} />
      <Table
        caption={facts.sources}
        columns={[{ name: "key and value heads" }, { name: "cache", number: true }, { name: "k and v parameters", number: true }, { name: `ms over ${grouped(facts.keys)} keys`, number: true }, { name: "from" }]}
        picked={own}
        rows={facts.choices.map((g, i) => [
          String(g),
          <Cell key="b" series={bytes} indices={[i]} format={inBytes} />,
          <Cell key="p" series={parameters} indices={[i]} format={counted} />,
          <Timed key="t" seconds={facts.seconds[i]} />,
          <span key="k" class="small">{i === own ? "this model" : "computed"}</span>,
        ])}
      />
    </section>
  );
}

function windowed(size: number | undefined, facts: Facts): string {
  const whole = 2 * facts.layers * facts.n_kv_head * facts.head_dim * facts.context_length * facts.itemsize;
  return size !== undefined && size < whole ? `; with windows ${grouped(size)}` : "";
}

export const panel: PanelView = { id: "groups", uses: ["layer", "query"], View };
