// P13: what a model costs.
import { isLive } from "../../app";
import { counted, grouped, signed as withSign } from "../../arithmetic/number";
import { sides } from "../../data/store";
import { Bars } from "../../parts/Bars";
import { Segmented } from "../../parts/Segmented";
import { Slider } from "../../parts/Slider";
import { Switch } from "../../parts/Switch";
import type { PanelView, ViewProps } from "../view";
import { type Facts, KINDS, USES } from "./facts";
import { Memory } from "./Memory";
import { Roofline } from "./Roofline";
import { Treemap } from "./Treemap";
import "./cost.css";

function View({ data, signed, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  const { parameters, memory, flops } = data.series;
  if (!memory) return <p class="absent">There is nothing to compare here: look at A or at B.</p>;
  if (signed) return <Differences data={data} />;
  if (!parameters || !flops) return null;
  return (
    <div class="cost">
      <Controls facts={facts} data={data} set={set} />
      <section>
        <h2>{grouped(facts.total)} parameters</h2>
        <p class="small">Every part of the model as an area{facts.active < facts.total ? `; a token meets ${counted(facts.active)} of them` : ""}. {facts.packed ? `The matrices of the blocks are packed in ${facts.packed}; counted is what they stand for.` : ""}</p>
        <Treemap series={parameters} names={facts.names} total={facts.total} />
      </section>
      <section>
        <h2>Memory</h2>
        <p class="small">For {grouped(facts.batch)} × {grouped(facts.tokens)} tokens in {facts.dtype}; arithmetic on the config. An allocator's slack and scratch are not in it.</p>
        <Memory series={memory} facts={facts} />
      </section>
      <section>
        <h2>Products: {counted(Array.from(flops.values).reduce((a, b) => a + b, 0))} FLOPs</h2>
        <p class="small">One pass over {grouped(facts.batch * facts.tokens)} tokens; a step of training is three of them, {counted(facts.training)} FLOPs.</p>
        <Bars
          label="FLOPs of each product" format={counted}
          bars={facts.products.map((name, i) => ({ label: <><code>{name}</code> <span class="worked-out">{facts.flop_formulas[i]}</span></>, title: `${facts.flop_formulas[i]} = ${grouped(flops.values[i] ?? 0)}`, marks: [{ series: flops, indices: [i] }] }))}
        />
      </section>
      <section>
        <h2>How near this machine's limits?</h2>
        {facts.roofline ? <Roofline roofline={facts.roofline} /> : (
          <p>What this machine can read and multiply is measured once, and kept. <button onClick={() => set("measure", true)}>Measure it (some seconds)</button></p>
        )}
      </section>
    </div>
  );
}

function Controls({ facts, data, set }: { facts: Facts; data: ViewProps["data"]; set: ViewProps["set"] }) {
  const context = sides.value?.[data.series.memory?.side === "B" ? "B" : "A"]?.card.context_length ?? facts.tokens;
  const length = data.options.tokens;
  return (
    <div class="controls">
      <Segmented label="tokens" named value={length === null ? "prompt" : length === context ? "context" : "other"} onChange={(value) => set("tokens", value === "context" ? context : undefined)} choices={[{ value: "prompt", label: "the prompt" }, { value: "context", label: `the whole context, ${grouped(context)}` }, ...(length !== null && length !== context ? [{ value: "other", label: grouped(Number(length)) }] : [])]} />
      {isLive.value ? <Slider label="rows" value={Math.log2(facts.batch)} min={0} max={10} format={(x) => String(2 ** x)} onChange={(x, dragged) => set("batch", x === 0 ? undefined : 2 ** x, dragged)} /> : null}
      {isLive.value ? <Slider label="rank" value={Math.log2(facts.rank)} min={0} max={8} format={(x) => String(2 ** x)} onChange={(x, dragged) => set("rank", x === 3 ? undefined : 2 ** x, dragged)} /> : null}
      <Switch label="count looking up as a product" wrong on={data.options.fault === "embedding"} onChange={(on) => set("fault", on ? "embedding" : undefined)} title="As if an embedding were multiplied by a vector of zeros and a one" />
    </div>
  );
}

/** B − A: the memory of every use by kind. */
function Differences({ data }: { data: ViewProps["data"] }) {
  const facts = data.facts as unknown as Facts;
  const memory = data.series.memory;
  if (!memory) return null;
  const bars = facts.uses.flatMap((use, u) => facts.kinds.map((kind, k) => ({ label: `${USES[use] ?? use}, ${KINDS[kind] ?? kind}`, marks: [{ series: memory, indices: [u, k] }] })));
  return <div class="cost"><Bars label="Bytes of B less those of A" columns={["bytes more (blue) or fewer (red) in B"]} signed format={withSign} bars={bars} /></div>;
}

export const panel: PanelView = { id: "cost", uses: [], View };
