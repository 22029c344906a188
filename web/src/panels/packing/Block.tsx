// One block on its way: weights over their scale fall on levels, whose numbers are kept; level times scale comes back.
import { useState } from "preact/hooks";
import { scaleOf } from "../../arithmetic/colour";
import { percent, readable } from "../../arithmetic/number";
import { slice } from "../../arithmetic/slice";
import type { PanelData } from "../../data/types";
import { Cell } from "../../parts/Cell";
import { Heatmap } from "../../parts/Heatmap";
import { Slider } from "../../parts/Slider";
import { told } from "../../parts/told";
import { useWidth } from "../../parts/useWidth";
import type { ViewProps } from "../view";
import type { Facts } from "./facts";

const [TOP, BOTTOM, HIGH, EDGE] = [22, 92, 128, 16];

export function Block({ data, facts, set, live }: { data: PanelData; facts: Facts; set: ViewProps["set"]; live: boolean }) {
  const [picked, pick] = useState(0);
  const { weight, scale, scaled, code, level, unpacked, error } = data.series;
  if (!weight || !scale || !scaled || !code || !level || !unpacked || !error) return null;
  const at = Math.min(picked, weight.values.length - 1);
  const same = scaleOf(Float32Array.from([...weight.values, ...unpacked.values]), "signed");
  const strip = { mostCell: 24, cellHeight: 22, legend: false, picked: { column: at }, onPick: (_: number, column: number) => pick(column) };
  const wrong = data.options.fault !== null;
  return (
    <section>
      <h2>One block, there and back</h2>
      <p class="small">
        Block {facts.block} of {facts.blocks}, from row {facts.start[0]}, column {facts.start[1]}: {weight.values.length} weights share the scale <Cell series={scale} indices={[0]} />. The block is {percent(facts.block_error)} off; half of all blocks are less than {percent(facts.usual_error)} off.
      </p>
      {live ? <div class="controls"><Slider label="block" value={facts.block} min={0} max={facts.blocks - 1} format={String} onChange={(x, dragged) => set("block", x, dragged)} /></div> : null}
      <Falling data={data} at={at} pick={pick} />
      <p class="row way" data-wrong={wrong}>
        <span><Cell series={weight} indices={[at]} /> ÷ <Cell series={scale} indices={[0]} /> = <Cell series={scaled} indices={[at]} /></span>
        <span>→ code <strong><Cell series={code} indices={[at]} format={String} /></strong>, level <Cell series={level} indices={[at]} /></span>
        <span>→ × <Cell series={scale} indices={[0]} /> = <Cell series={unpacked} indices={[at]} tone="output" /></span>
        <span class="small">off by <Cell series={error} indices={[at]} /></span>
      </p>
      <div class="strips">
        <h3 class="small">weights</h3>
        <Heatmap {...strip} slice={slice(weight, ["column"])} label="Weights of the block" scale={same} />
        <h3 class="small">{wrong ? "unpacked, halves of each byte exchanged" : "unpacked"}</h3>
        <Heatmap {...strip} slice={slice(unpacked, ["column"])} label="What comes back" scale={same} />
        <h3 class="small">difference</h3>
        <Heatmap {...strip} slice={slice(error, ["column"])} label="Unpacked minus weights" scale="signed" legend />
      </div>
    </section>
  );
}

function Falling({ data, at, pick }: { data: PanelData; at: number; pick: (i: number) => void }) {
  const { ref, width } = useWidth<HTMLDivElement>();
  const { scaled, level, code, levels } = data.series;
  if (!scaled || !level || !code || !levels) return null;
  const all = Array.from(levels.values);
  const ends = [...all, ...scaled.values];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const across = (x: number): number => EDGE + ((x - low) / (high - low || 1)) * Math.max(1, width - 2 * EDGE);
  const named = all.length <= 16;
  return (
    <div ref={ref} class="falling">
      <svg width={width} height={HIGH} role="img" aria-label={`Each weight over its scale, above, and the level that it falls on, below: ${all.length} levels`}>
        <text x={EDGE} y={12}>weight ÷ scale</text>
        {Array.from(scaled.values, (x, i) => (
          <g key={i} class="fall" data-lit={i === at} {...told(scaled, [i], () => pick(i))}>
            <line x1={across(x)} y1={TOP} x2={across(level.values[i] ?? 0)} y2={BOTTOM} />
            <circle cx={across(x)} cy={TOP} r={i === at ? 5 : 3.5} />
          </g>
        ))}
        {all.map((x, i) => (
          <g key={i} class="level" data-lit={code.values[at] === i} {...told(levels, [i])}>
            <line x1={across(x)} y1={BOTTOM} x2={across(x)} y2={BOTTOM + (named ? 8 : 5)} />
            {named ? <text x={across(x)} y={BOTTOM + 20}>{i}</text> : null}
          </g>
        ))}
        <line class="rule" x1={EDGE} x2={width - EDGE} y1={BOTTOM} y2={BOTTOM} />
        <text x={EDGE} y={HIGH - 1}>{named ? "codes, each at its level" : `${all.length} levels, from ${readable(all[0] ?? 0)} to ${readable(all[all.length - 1] ?? 0)}`}</text>
      </svg>
    </div>
  );
}
