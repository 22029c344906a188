// P4: the residual stream, and what would be said at each layer.
import { isLive } from "../../app";
import { lasting } from "../../arithmetic/ablation";
import { scaleOf } from "../../arithmetic/colour";
import { rowName, settled } from "../../arithmetic/lens";
import { visible } from "../../arithmetic/text";
import { sides } from "../../data/store";
import { valueAt } from "../../data/python";
import type { Series } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Legend } from "../../parts/Legend";
import { LineChart, type Line } from "../../parts/LineChart";
import { Segmented } from "../../parts/Segmented";
import { Switch } from "../../parts/Switch";
import { locked, optionsOf, selection } from "../../state";
import type { PanelView, ViewProps } from "../view";
import { Watching } from "./Watching";
import { Words } from "./Words";
import "./lens.css";

interface Facts {
  texts: Record<string, string>;
  faults: string[];
  problem: string | null;
  first: number;
  seconds: number;
  most: number;
  vocabulary: number;
}

const COLOURS = [
  { value: "p_final", label: "p of the final token", title: "Probability, read here, of the token that the model says in the end" },
  { value: "entropy", label: "entropy", title: "How undecided it is here, in nats" },
  { value: "kl", label: "KL to the end", title: "How far what is read here is from what the model says in the end, in nats" },
] as const;

function View({ data, panel, signed, set }: ViewProps) {
  const { texts, faults, problem, first, seconds, most } = data.facts as unknown as Facts;
  const colour = COLOURS.find(({ value }) => value === optionsOf("lens").colour)?.value ?? "p_final";
  const top = signed ? panel.B?.series.top : data.series.top;
  const shown = data.series[colour];
  const { stream, ranks, watched } = data.series;
  if (!top || !shown || !stream) return <p class="absent">A and B have different numbers of layers: look at A or at B.</p>;
  const side = sides.value?.[top.side === "B" ? "B" : "A"];
  const columns = top.shape[1] ?? 0;
  const query = Math.min(columns - 1, locked.value.query ?? columns - 1);
  const scale = scaleOf(shown.values, signed ? "signed" : colour === "p_final" ? "unit" : "range");
  return (
    <div class="lens">
      <div class="controls">
        <Segmented label="Colour" named value={colour} onChange={(one) => set("colour", one === "p_final" ? undefined : one)} choices={COLOURS} />
        {faults.length ? <span class="small">Make a mistake:</span> : null}
        {faults.map((fault) => <Switch key={fault} wrong label={fault === "no norm" ? "no final norm" : "final norm twice"} on={data.options.fault === fault} onChange={(on) => set("fault", on ? fault : undefined)} />)}
      </div>
      {first > 0 ? (
        <p class="message">
          Read are the tokens from {first} on; all of them take about {lasting(seconds)} here. {isLive.value && seconds <= most ? <button onClick={() => set("compute", "all")}>Read all</button> : null}
        </p>
      ) : null}
      <section>
        <Words top={top} colour={shown} scale={scale} texts={signed ? ((panel.B?.facts.texts ?? texts) as Record<string, string>) : texts} tokens={side?.tokens ?? []} query={query} />
        <div class="row"><Legend scale={scale} /><p class="small">{signed ? "The tokens are B's, the colours B − A." : "In each cell: the likeliest next token, if the stream were read there."}</p></div>
      </section>
      <Finding {...{ top, texts, signed }} ranks={data.series.ranks} watched={watched} query={query} word={side?.tokens[query]?.text ?? String(query)} />
      <div class="side-by-side">
        {!signed && ranks && watched && query >= first ? <Watching ranks={ranks} watched={watched} texts={texts} query={query} asked={String(data.options.watch ?? "")} problem={problem} set={set} /> : null}
        <Norms {...data.series} query={query} signed={signed} word={side?.tokens[query]?.text ?? ""} />
      </div>
    </div>
  );
}

/** One sentence: from which layer on the model has its word. */
function Finding({ top, ranks, watched, texts, query, signed, word }: { top: Series; ranks: Series | undefined; watched: Series | undefined; texts: Record<string, string>; query: number; signed: boolean; word: string }) {
  if (signed || !ranks || !watched) return null;
  const layers = ranks.shape[2] ?? 0;
  const final = valueAt(top, [layers - 1, query]);
  const at = Array.from({ length: watched.shape[1] ?? 0 }, (_, k) => k).find((k) => valueAt(watched, [query, k]) === final);
  if (at === undefined || final < 0) return null;
  const from = settled(Array.from({ length: layers }, (_, row) => valueAt(ranks, [query, at, row])));
  if (from < 0) return <p class="lead">With this mistake the last row no longer says what the model says.</p>;
  return (
    <p class="lead">
      After <code>{visible(word)}</code> the model says <code>{visible(texts[String(final)] ?? String(final))}</code>; the lens puts it first {from === 0 ? "already in the embedding" : from === layers - 1 ? "only in the last row" : <>from <b>{rowName(from)}</b> on</>}{from > 0 ? <>, and one row earlier its rank is <Cell series={ranks} indices={[query, at, from - 1]} /></> : null}.
    </p>
  );
}

function Norms({ stream, attn, mlp, query, signed, word }: Record<string, Series | number | boolean | string | undefined> & { query: number; signed: boolean; word: string }) {
  const all = stream as Series;
  const rows = all.shape[0] ?? 0;
  const lines: Line[] = [{ name: "the stream", series: all, x: Array.from({ length: rows }, (_, i) => i), indices: (i) => [i, query] }];
  for (const [name, series] of [["attention adds", attn], ["MLP adds", mlp]] as const)
    if (series) lines.push({ name, series: series as Series, x: Array.from({ length: rows - 1 }, (_, i) => i + 1), indices: (i) => [i, query] });
  return (
    <section>
      <h2>How long the vectors are</h2>
      <p class="small">Norm of the stream after each layer, and of what was added to it there, at token {query} <code>{visible(word)}</code>. 0 is before all layers.</p>
      <LineChart label="Norms over layers" xLabel="layers read" yLabel={signed ? "norm, B − A" : "norm"} lines={lines} zero height={220} markX={selection.value.layer === null ? null : selection.value.layer + 1} />
    </section>
  );
}

export const panel: PanelView = { id: "lens", uses: [], here: ["colour", "lines"], View };

