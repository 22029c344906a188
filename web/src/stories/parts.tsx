// Every part with fixed data.
import { useState } from "preact/hooks";
import { slice } from "../arithmetic/slice";
import { percent } from "../arithmetic/number";
import { visible } from "../arithmetic/text";
import { Bars } from "../parts/Bars";
import { Cell } from "../parts/Cell";
import { Heatmap } from "../parts/Heatmap";
import { LineChart } from "../parts/LineChart";
import { Segmented } from "../parts/Segmented";
import { Slider } from "../parts/Slider";
import { Switch } from "../parts/Switch";
import { Table } from "../parts/Table";
import { Tooltip } from "../parts/Tooltip";
import { HOSTILE, pattern, scattered, series, TEXT } from "./made";

const T = TEXT.length;
const one = pattern(T, 2, 1);
const attention = series("pattern", [T, T], ["query", "key"], "measured", "blocks.2.attn.pattern", one);
const writes = series("write", [6, T], ["layer", "token"], "computed", "change of the stream", (l, t) => (scattered(l, t) - 0.5) * (l + 1));
const many = series("weights", [700, 900], ["row", "column"], "measured", "blocks.0.mlp.up", (r, c) => Math.sin(r / 40) * Math.cos(c / 60) + 0.2 * scattered(r, c));
const shares = series("p", [5], ["rank"], "computed", "softmax(logits)", (i) => [0.52, 0.21, 0.09, 0.05, 0.02][i] ?? 0);
const rest = series("rest", [1], ["column"], "computed", "1 - the sum of the bars", () => 0.11);
const pushes = series("push", [6], ["part"], "computed", "direct effect on the logit", (i) => [4.1, -2.2, 1.3, 0.4, -0.1, 0.02][i] ?? 0);
const loss = series("loss", [60], ["step"], "measured", "metrics.jsonl", (i) => 1.4 + 2.8 * Math.exp(-i / 14) + 0.05 * scattered(i));
const held = series("val", [60], ["step"], "measured", "metrics.jsonl", (i) => 1.6 + 2.6 * Math.exp(-i / 14) + i * 0.004);
const steps = Array.from({ length: 60 }, (_, i) => (i + 1) * 10);

const attentionSlice = slice(attention, ["row", "column"]);
const writesSlice = slice(writes, ["row", "column"]);
const manySlice = slice(many, ["row", "column"]);
const future = (q: number, k: number): boolean => k > q;
const layers = Array.from({ length: 6 }, (_, i) => String(i));

export const PARTS = { "Heatmap, on [0, 1], masked": Masked, "Heatmap, signed": Signed, "Heatmap, large": Large, Bars: Plain, "Bars, signed": SignedBars, LineChart: Chart, "LineChart, log": LogChart, Table: Rows, "Cell, Tooltip": Numbers, "Slider, Switch, Segmented": Controls, "Text of tokens": Hostile };

function Masked() {
  const [at, setAt] = useState({ row: 9, column: 4 });
  return <Heatmap slice={attentionSlice} label="Attention of layer 2, head 1" masked={future} rowLabels={TEXT} columnLabels={TEXT} rowTitle="query" columnTitle="key" picked={at} onPick={(row, column) => setAt({ row, column })} />;
}

function Signed() {
  return <Heatmap slice={writesSlice} label="Writes" scale="signed" rowLabels={layers} columnLabels={TEXT} rowTitle="layer" columnTitle="token" cellHeight={20} mostCell={40} />;
}

function Large() {
  return <Heatmap slice={manySlice} label="A large matrix" scale="signed" mostCell={4} />;
}

function Plain() {
  const bars = [" the", " a", " one", "\n", "!"].map((text, i) => ({ label: <code>{visible(text)}</code>, marks: [{ series: shares, indices: [i] }], selected: i === 1, onClick: () => {} }));
  return <Bars label="Shares" bars={[...bars, { label: "all others", rest: true, marks: [{ series: rest, indices: [0] }] }]} columns={["the model says"]} format={percent} />;
}

function SignedBars() {
  return <Bars label="Pushes" signed bars={["embedding", "L0 attention", "L0 MLP", "L1 H3", "bias", "L1 MLP"].map((label, i) => ({ label, marks: [{ series: pushes, indices: [i] }] }))} />;
}

function Chart() {
  return <LineChart label="Loss" xLabel="step" yLabel="loss" lines={[{ name: "training", series: loss, x: steps }, { name: "validation", series: held, x: steps, dashed: true }]} markX={300} />;
}

function LogChart() {
  return <LineChart label="Loss" xLabel="step" yLabel="loss" logX logY lines={[{ name: "training", series: loss, x: steps }]} />;
}

function Rows() {
  const [row, setRow] = useState(1);
  return <Table caption="Heads by what they do" columns={[{ name: "head" }, { name: "sink", number: true }, { name: "previous token", number: true }]} rows={layers.map((one, i) => [`L${one} H${(i * 5) % 6}`, <Cell series={shares} indices={[i % 5]} />, <Cell series={shares} indices={[(i + 2) % 5]} />])} picked={row} onPick={setRow} />;
}

function Numbers() {
  return (
    <p>
      The score is <Cell series={attention} indices={[3, 2]} tone="query" /> of <Cell series={attention} indices={[3, 0]} tone="key" />, the{" "}
      <Tooltip text="How much is unknown, in nats: 0 where one token is certain.">entropy</Tooltip> is 1.74 nats.
    </p>
  );
}

function Controls() {
  const [rank, setRank] = useState(8);
  const [on, setOn] = useState(true);
  const [sort, setSort] = useState("sink");
  return (
    <p class="story-row">
      <Slider label="Rank" min={0} max={64} value={rank} onChange={setRank} />
      <Switch label="Weigh by output" on={on} onChange={setOn} />
      <Switch label="No mask" on={on} wrong onChange={setOn} />
      <Segmented label="Sort" named value={sort} onChange={setSort} choices={[{ value: "sink", label: "sink" }, { value: "previous", label: "previous" }, { value: "entropy", label: "entropy" }]} />
    </p>
  );
}

function Hostile() {
  return <p class="story-row">{HOSTILE.map((text, i) => <code key={i} class="token">{visible(text)}</code>)}</p>;
}
