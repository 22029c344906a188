// What is taken away, what stands in its place, and a form for what one token takes from another.
import { useState } from "preact/hooks";
import { isLive } from "../../app";
import { partName, toggled } from "../../arithmetic/ablation";
import { Segmented } from "../../parts/Segmented";
import { Switch } from "../../parts/Switch";
import { selection } from "../../state";
import type { ViewProps } from "../view";
import type { Facts } from "./facts";

const HOW = [
  { value: "zero", label: "nothing", title: "Zeros" },
  { value: "mean", label: "its mean", title: "The mean over the tokens of this prompt" },
  { value: "resample", label: "another token's", title: "What it computed at another token of this prompt, drawn by the seed" },
] as const;

export function Cuts({ facts, options, set }: { facts: Facts; options: ViewProps["options"]; set: ViewProps["set"] }) {
  const cuts = String(options.cut ?? "").split(" ").filter(Boolean);
  const change = (parts: string[]): void => set("cut", parts.length ? parts.join(" ") : undefined);
  return (
    <section class="cuts">
      <div class="controls">
        {isLive.value ? <Segmented label="In its place" named value={String(options.how)} onChange={(how) => set("how", how === "zero" ? undefined : how)} choices={HOW} /> : null}
        <span class="small">Make a mistake:</span>
        <Switch wrong label="cut slices of attention's output" title="A mistake: zero the channels with the head's number instead of the head" on={options.fault === "slices"} onChange={(on) => set("fault", on ? "slices" : undefined)} />
      </div>
      <p class="row cut-list">
        <span class="small">Taken away:</span>
        {cuts.length ? cuts.map((part) => <button key={part} class="cut" title={`${part}; click to put it back`} onClick={() => change(toggled(cuts, part))}>{partName(part)} <span aria-hidden="true">×</span><span class="unseen">, put it back</span></button>) : <span>nothing yet</span>}
        {cuts.length > 1 ? <button onClick={() => change([])}>Put all back</button> : null}
        {!cuts.length && facts.strongest ? <button onClick={() => change([facts.strongest ?? ""])}>Take away {partName(facts.strongest)}, the head that matters most here</button> : null}
      </p>
      {facts.problem ? <p class="message failed" role="status">{facts.problem}</p> : null}
      {isLive.value ? <Edge cuts={cuts} change={change} /> : null}
    </section>
  );
}

function Edge({ cuts, change }: { cuts: string[]; change: (parts: string[]) => void }) {
  const { layer, head, query, key } = selection.value;
  const [own, setOwn] = useState<Record<string, string>>({});
  const value = (name: string, chosen: number | null): string => own[name] ?? (chosen === null ? "" : String(chosen));
  const field = (name: string, chosen: number | null, hint: string) => (
    <label class="small">{name} <input inputMode="numeric" placeholder={hint} value={value(name, chosen)} onInput={(event) => setOwn({ ...own, [name]: event.currentTarget.value })} /></label>
  );
  const submit = (event: Event): void => {
    event.preventDefault();
    const [l, h, q, k] = [value("layer", layer), value("head", head), value("token", query), value("sees", key)];
    if ([l, q, k].every((text) => /^\d+$/.test(text))) change([...new Set([...cuts, `blocks.${l}.attn${/^\d+$/.test(h) ? `.head.${h}` : ""}.query.${q}.key.${k}`])]);
  };
  return (
    <details>
      <summary>Cut what one token takes from another</summary>
      <form class="row" onSubmit={submit}>
        {field("layer", layer, "0")} {field("head", head, "all")} {field("token", query, "7")} <label class="small">no longer sees token <input inputMode="numeric" placeholder="5" value={value("sees", key)} onInput={(event) => setOwn({ ...own, sees: event.currentTarget.value })} /></label> <button>Cut</button>
      </form>
    </details>
  );
}
