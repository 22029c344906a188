// P2: one layer, one head, one query, step by step.
import { useState } from "preact/hooks";
import { step } from "../../arithmetic/arrows";
import { percent, readable } from "../../arithmetic/number";
import { visible } from "../../arithmetic/text";
import { sides } from "../../data/store";
import { Segmented } from "../../parts/Segmented";
import { Switch } from "../../parts/Switch";
import { optionsOf, select } from "../../state";
import type { PanelView, ViewProps } from "../view";
import { Draw } from "./Draw";
import { type Facts, firstCell, madeOf, stagesOf } from "./stages";
import { Terms } from "./Terms";
import "./microscope.css";

const SWITCHES = [
  ["no_root", "no √c", "Scores are not divided by the root of the head's width"],
  ["no_mask", "no mask", "Every token sees all others, also those after it"],
  ["rotate_v", "rotate v too", "Values are rotated as keys are"],
] as const;

function View({ data, signed, options, set }: ViewProps) {
  const facts = data.facts as unknown as Facts;
  const stages = stagesOf(data);
  const wanted = optionsOf("microscope").stage;
  const at = Math.max(0, stages.findIndex(({ id }) => id === wanted));
  const stage = stages[at] as (typeof stages)[number];
  const [cell, setCell] = useState<{ stage: string; name: string; indices: number[] } | null>(null);
  const tokens = (sides.value?.A.tokens ?? []).map(({ text }) => text);
  const go = (to: number): void => set("stage", stages[(to + stages.length) % stages.length]?.id);
  const chosen = cell?.stage === stage.id && data.series[cell.name] ? cell : firstCell(stage, facts.at);
  const series = chosen ? data.series[chosen.name] : undefined;
  const onKey = (event: KeyboardEvent): void => {
    const way = step(event.key);
    if (!way) return;
    event.preventDefault();
    go(at + way);
    const list = event.currentTarget as HTMLElement;
    requestAnimationFrame(() => list.querySelector<HTMLElement>("[aria-selected=true]")?.focus());
  };
  return (
    <>
      <div class="controls">
        <Choice label="Layer" value={facts.layer} count={sides.value?.A.card.n_layer ?? facts.layer + 1} onChange={(layer) => select({ layer })} />
        <Choice label="Head" value={facts.head} count={sides.value?.A.card.n_head ?? facts.head + 1} onChange={(head) => select({ head })} />
        <span class="small">Query: token {facts.at}, <code class="query">{visible(tokens[facts.at] ?? "")}</code></span>
        <span class="row">
          {SWITCHES.filter(([name]) => name !== "rotate_v" || facts.located.length).map(([name, label, title]) => (
            <Switch key={name} label={label} title={title} wrong on={options[name] === true} onChange={(on) => set(name, on || undefined)} />
          ))}
          <Segmented label="Kernel" choices={[{ value: "fused", label: "fused", title: "One kernel, which never holds the pattern" }, { value: "split", label: "split", title: "Step by step, as in the source" }]} value={options.split === true ? "split" : "fused"} onChange={(value) => set("split", value === "split" || undefined)} />
        </span>
      </div>
      {facts.wrong && !signed ? <Difference facts={facts} /> : null}
      <div class="row stepper" role="tablist" aria-label="Steps" onKeyDown={onKey}>
        {stages.map(({ id, label }, n) => (
          <button key={id} role="tab" id={`step-${id}`} aria-selected={n === at} aria-controls="step" tabIndex={n === at ? 0 : -1} data-stage={id} onClick={() => go(n)}>
            <span class="step-number">{n + 1}</span> {label}
          </button>
        ))}
      </div>
      <section class="stage" id="step" role="tabpanel" aria-labelledby={`step-${stage.id}`}>
        <p>{stage.says}</p>
        <div class="stage-columns">
          <div class="row stage-drawings">
            {stage.drawings.map((drawing) => (
              <Draw
                key={`${stage.id} ${drawing.series.name}`} drawing={drawing} tokens={tokens} at={facts.at} chosen={chosen?.name === drawing.series.name ? chosen.indices : null}
                onCell={(indices) => setCell({ stage: stage.id, name: drawing.series.name, indices })}
              />
            ))}
            {stage.drawings.length ? null : <p class="absent">Nothing happens here, so there is nothing to draw.</p>}
          </div>
          {series && chosen && !signed ? <Terms series={series} indices={chosen.indices} made={madeOf(data, stage.id, chosen.name, chosen.indices)} /> : null}
        </div>
        <div class="row"><button disabled={at === 0} onClick={() => go(at - 1)}>Back</button><button disabled={at === stages.length - 1} onClick={() => go(at + 1)}>Next step</button></div>
      </section>
    </>
  );
}

/** What the change does to the next token. */
function Difference({ facts: { then, now, kl } }: { facts: Facts }) {
  return (
    <p class="message" data-wrong>
      Wrong on purpose: after this token the model now says <code>{visible(now.text)}</code> ({percent(now.p)}); as it is it says <code>{visible(then.text)}</code> ({percent(then.p)}). Their distributions differ by {readable(kl)} nats.
    </p>
  );
}

function Choice({ label, value, count, onChange }: { label: string; value: number; count: number; onChange: (value: number) => void }) {
  return (
    <label class="choice">
      {label}{" "}
      <select value={value} onChange={(event) => onChange(Number(event.currentTarget.value))}>
        {Array.from({ length: count }, (_, i) => <option key={i} value={i} selected={i === value}>{i}</option>)}
      </select>
    </label>
  );
}

export const panel: PanelView = { id: "microscope", uses: ["layer", "head", "query"], here: ["stage"], View };
