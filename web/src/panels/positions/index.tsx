// P7: how a token knows its place.
import { noted } from "../../parts/Note";
import { slice } from "../../arithmetic/slice";
import type { PanelData, Series } from "../../data/types";
import { Bars } from "../../parts/Bars";
import { Heatmap } from "../../parts/Heatmap";
import { LineChart } from "../../parts/LineChart";
import { select, selection } from "../../state";
import type { PanelView, ViewProps } from "../view";
import type { AlibiFacts, Facts, LearnedFacts } from "./facts";
import { Rotary } from "./Rotary";
import "./positions.css";

function View(props: ViewProps) {
  const facts = props.data.facts as unknown as Facts;
  return (
    <>
      {facts.kind === "rope" ? <Rotary {...props} facts={facts} /> : facts.kind === "alibi" ? <Alibi {...props} facts={facts} /> : <Learned {...props} facts={facts} />}
      <Heads data={props.data} layer={facts.layer} signed={props.signed} />
    </>
  );
}

function Learned({ data, facts, signed }: ViewProps & { facts: LearnedFacts }) {
  const { cosine, norm } = data.series;
  const labels = facts.rows.map(String);
  return (
    <div class="positions">
      <p class="lead">{facts.lead}</p>
      {cosine ? (
        <section>
          <h2>Which positions are alike?</h2>
          <p class="small">{facts.alike}</p>
          <Heatmap slice={slice(cosine, ["row", "column"])} label="Cosine of every two positions" scale={signed ? "signed" : { kind: "signed", most: 1 }} rowLabels={labels} columnLabels={labels} rowTitle="position" columnTitle="position" mostCell={14} />
        </section>
      ) : null}
      {norm ? (
        <section>
          <h2>How long each vector is</h2>
          <LineChart lines={[{ name: "norm", series: norm, x: facts.rows }]} label="Norm over position" xLabel="position" yLabel="norm" zero height={180} />
        </section>
      ) : null}
    </div>
  );
}

function Alibi({ data, facts, signed }: ViewProps & { facts: AlibiFacts }) {
  const { slopes, penalty } = data.series;
  if (!slopes || !penalty) return <p class="absent">A and B have different numbers of heads: look at A or at B.</p>;
  const heads = slopes.shape[0] ?? 0;
  const x = Array.from({ length: facts.positions }, (_, i) => i);
  return (
    <div class="positions">
      <p class="lead">{facts.lead}</p>
      <div class="side-by-side">
        <section>
          <h2>What is taken from the score</h2>
          <LineChart lines={Array.from({ length: Math.min(heads, 12) }, (_, h) => ({ name: `head ${h}`, series: penalty, x, indices: (i: number) => [h, i], dashed: h >= 6 }))} label="Penalty over distance" xLabel="distance" yLabel="added to the score" />
        </section>
        <section>
          <h2>Slope of each head</h2>
          <Bars label="Slope of each head" signed={signed} bars={Array.from({ length: heads }, (_, h) => ({ label: `head ${h}`, marks: [{ series: slopes, indices: [h] }] }))} />
        </section>
      </div>
    </div>
  );
}

function Heads({ data, layer, signed }: { data: PanelData; layer: number | null; signed: boolean }) {
  const { pattern_over_distance: attention, scores_over_distance: scores } = data.series;
  if (!attention || !scores || layer === null) return null;
  const heads = Array.from({ length: attention.shape[0] ?? 0 }, (_, h) => `head-${h}`);
  const map = (series: Series, label: string, scale: "signed" | "range") => (
    <Heatmap
      slice={slice(series, ["row", "column"])} label={label} scale={scale} rowLabels={heads} columnTitle="distance" mostCell={16} cellHeight={16}
      picked={{ row: selection.value.head ?? (data.options.head as number) }} onPick={(row) => select({ head: row })}
    />
  );
  return (
    <section class="heads-over-distance">
      <h2>All heads of layer {layer}, over distance</h2>
      <p class="small">{noted("over distance")}{data.series.q_at ? " Click a head to turn its query and key above." : ""}</p>
      <div class="side-by-side">
        <div><h3>Attention</h3>{map(attention, "Mean attention of each head at each distance", signed ? "signed" : "range")}</div>
        <div><h3>Score</h3>{map(scores, "Mean score of each head at each distance", "signed")}</div>
      </div>
    </section>
  );
}

export const panel: PanelView = { id: "positions", uses: ["layer", "head", "query", "key"], here: ["m", "n", "all"], View };
