// Rotated positions: a dial for each pair, the score at every place, and the same far away.
import { Note } from "../../parts/Note";
import { useMemo } from "preact/hooks";
import { isLive } from "../../app";
import { places, slid, spread } from "../../arithmetic/dials";
import { readable } from "../../arithmetic/number";
import { slice } from "../../arithmetic/slice";
import { flat } from "../../data/python";
import type { PanelData, Series } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Heatmap } from "../../parts/Heatmap";
import { LineChart } from "../../parts/LineChart";
import { Segmented } from "../../parts/Segmented";
import { Slider } from "../../parts/Slider";
import { Switch } from "../../parts/Switch";
import { optionsOf } from "../../state";
import type { ViewProps } from "../view";
import { Dial } from "./Dial";
import type { RotaryFacts } from "./facts";
import { Layouts } from "./Layouts";

const DIALS = 16; // that are drawn before somebody asks for all

export function Rotary({ data, signed, set, facts }: ViewProps & { facts: RotaryFacts }) {
  const { q_at: q, k_at: k, scores, parts, frequency } = data.series;
  const here = optionsOf("positions");
  const count = facts.positions;
  const fallback = facts.query < count ? { m: facts.query, n: Math.min(facts.key, facts.query) } : { m: 12, n: 8 };
  const { m, n } = places(Number(here.m ?? fallback.m), Number(here.n ?? fallback.n), count);
  const move = (to: { m: number; n: number }, dragged = false): void => {
    set("m", to.m, dragged);
    set("n", to.n, dragged);
  };
  if (!q || !k || !scores || !parts || !frequency) return <p class="absent">A and B turn other numbers of channels: look at A or at B.</p>;
  return (
    <div class="positions">
      <p class="lead">
        <span class="query">Query at {m}</span>, <span class="key">key at {n}</span>, {m - n} apart: their score is <Cell series={scores} indices={[m, n]} />.
        {" "}Slide both: it {data.options.fault === "angles" ? "changes, which no rotation does" : "stays"}.
      </p>
      <div class="controls">
        <Slider label="query m" value={m} min={0} max={count - 1} onChange={(x, dragged) => move(places(x, n, count), dragged)} />
        <Slider label="key n" value={n} min={0} max={count - 1} onChange={(x, dragged) => move(places(Math.max(x, m), x, count), dragged)} />
        <Slider label="slide both" value={n} min={0} max={count - 1 - (m - n)} onChange={(x, dragged) => move(slid(m, n, x, count), dragged)} />
      </div>
      <Wrong data={data} facts={facts} set={set} />
      <div class="side-by-side">
        <Dials {...{ data, facts, m, n, q, k, parts, frequency }} onTurn={(x) => move(places(x, Math.min(n, Math.max(0, x)), count), true)} set={set} all={here.all === true} />
        <section>
          <h2>The score at every pair of places</h2>
          <p class="small">{data.options.fault === "angles" ? "The diagonals are broken: the score depends on more than the distance." : "Along a diagonal both move together."} Click a cell to go there.</p>
          <Heatmap
            slice={slice(scores, ["row", "column"])} label="Score of the query at m with the key at n" scale="signed" mostCell={11} rowTitle="query at m" columnTitle="key at n"
            masked={(row, column) => column > row} picked={{ row: m, column: n }} onPick={(row, column) => move(places(row, column, count))}
          />
        </section>
      </div>
      <Layouts data={data} facts={facts} signed={signed} />
      <Far data={data} facts={facts} set={set} />
    </div>
  );
}

function Wrong({ data, facts, set }: Pick<ViewProps, "data" | "set"> & { facts: RotaryFacts }) {
  const first = isLive.value || (data.options.layer === 0 && data.options.head === 0);
  if (!first) return <p class="small">This file holds the mistakes for head 0 of layer 0.</p>;
  const fault = data.options.fault;
  return (
    <div class="controls">
      <span class="small">Make a mistake:</span>
      <Switch label="weights of the other layout" wrong on={fault === "layout"} onChange={(on) => set("fault", on ? "layout" : undefined)} title="The rows of q and k as a file of the other layout has them, read as they are" />
      <Switch label="angles of the other layout" wrong on={fault === "angles"} onChange={(on) => set("fault", on ? "angles" : undefined)} title={facts.rotated < 4 ? "With one pair both layouts are one" : "The pairs of one layout, the angles of the other"} />
    </div>
  );
}

interface DialsProps {
  data: PanelData;
  facts: RotaryFacts;
  m: number;
  n: number;
  q: Series;
  k: Series;
  parts: Series;
  frequency: Series;
  all: boolean;
  onTurn: (m: number) => void;
  set: ViewProps["set"];
}

function Dials({ data, facts, m, n, q, k, parts, frequency, all, onTurn, set }: DialsProps) {
  const pairs = facts.rotated / 2;
  const longest = useMemo(() => ({ q: longestOf(q, pairs), k: longestOf(k, pairs) }), [q, k, pairs]);
  const wrong = data.options.fault === "angles"; // the two coordinates of a point then turn at different speeds
  const still = facts.channels - facts.rotated;
  return (
    <section>
      <h2>A dial for each pair of channels</h2>
      <Note of="dials" />
      <div class="dials" data-few={pairs <= 6}>
        {spread(pairs, all ? pairs : DIALS).map((pair) => (
          <Dial key={pair} {...{ pair, m, n, q, k, parts, longest, onTurn }} frequency={wrong ? null : (frequency.values[pair] ?? 0)} trained={facts.context_length - 1} />
        ))}
      </div>
      {pairs > DIALS ? <button onClick={() => set("all", all ? undefined : true)}>{all ? `Show ${DIALS}` : `Show all ${pairs} pairs`}</button> : null}
      {still > 0 ? <p class="small">{still} channels are not rotated; they add <Cell series={parts} indices={[m - n, pairs]} /> at any distance.</p> : null}
      {facts.normed_after ? <Note of="normed after" /> : null}
    </section>
  );
}

function longestOf(series: Series, pairs: number): number {
  let most = 1e-12;
  for (let pair = 0; pair < pairs; pair++) most = Math.max(most, Math.hypot(series.values[flat(series, [0, pair, 0])] ?? 0, series.values[flat(series, [0, pair, 1])] ?? 0));
  return most;
}

const SCALINGS = ["none", "linear", "llama3", "yarn"] as const;

function Far({ data, facts, set }: Pick<ViewProps, "data" | "set"> & { facts: RotaryFacts }) {
  const far = data.series.far;
  if (!far) return null;
  const names = ["as the model is", data.options.fault === "angles" ? "with the angles of the other layout" : "as changed here"];
  const lines = names.slice(0, far.shape[0]).map((name, which) => ({
    name, series: far, x: facts.distances, indices: (i: number) => [which, i], ...(which ? { tone: "wrong" as const } : {}),
  }));
  const { theta, scaling, factor } = data.options;
  const kind = SCALINGS.find((one) => one === scaling) ?? "model";
  return (
    <section>
      <h2>Beyond the trained length</h2>
      <p class="small">
        The same query and key, ever further apart. Base {readable(facts.theta)}, scaling {facts.scaling}; the line stands at the context of {facts.context_length} tokens, beyond which no distance was trained.
      </p>
      {isLive.value ? (
        <div class="controls">
          <Slider label="base" value={Math.log10(facts.theta)} min={1} max={7} step={0.1} format={(x) => readable(10 ** x)} onChange={(x, dragged) => set("theta", Math.round(10 ** x), dragged)} />
          <Segmented label="scaling" named value={kind} choices={[{ value: "model", label: "the model's" }, ...SCALINGS.map((value) => ({ value, label: value }))]} onChange={(value) => { set("scaling", value === "model" ? undefined : value); if (value === "model" || value === "none") set("factor", undefined); else if (factor === 1) set("factor", 4); }} />
          {scaling && scaling !== "none" ? <Slider label="factor" value={Number(factor)} min={1} max={16} step={0.5} onChange={(x, dragged) => set("factor", x, dragged)} /> : null}
          {theta !== null || scaling !== null ? <button onClick={() => { set("theta", undefined); set("scaling", undefined); set("factor", undefined); }}>As the model is</button> : null}
        </div>
      ) : null}
      <LineChart lines={lines} label="Score over distance" xLabel="distance" yLabel="score" markX={facts.context_length} />
    </section>
  );
}
