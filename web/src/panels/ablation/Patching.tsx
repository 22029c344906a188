// A second prompt, whose activations are put into the pass of the first.
import { grouped } from "../../arithmetic/number";
import { useState } from "preact/hooks";
import { isLive } from "../../app";
import { lasting } from "../../arithmetic/ablation";
import { slice } from "../../arithmetic/slice";
import { visible } from "../../arithmetic/text";
import type { PanelData } from "../../data/types";
import { Heatmap } from "../../parts/Heatmap";
import { Segmented } from "../../parts/Segmented";
import { locked, select, selection } from "../../state";
import type { ViewProps } from "../view";
import { also, type Facts } from "./facts";

const WHAT = [
  { value: "stream", label: "the stream", title: "The stream after each layer, at one token" },
  { value: "attn", label: "attention", title: "What attention adds, at one token" },
  { value: "mlp", label: "MLP", title: "What the MLP adds, at one token" },
  { value: "heads", label: "heads", title: "One head's z, at all tokens" },
] as const;

export function Patching({ data, facts, signed, set }: { data: PanelData; facts: Facts; signed: boolean; set: ViewProps["set"] }) {
  const { other, what, query } = data.options;
  const [typed, setTyped] = useState(String(other ?? ""));
  const { why, tokens, says, passes = 0, seconds = 0, computed } = facts.patch;
  const { recovered } = data.series;
  if (!isLive.value && !other) return null;
  const mlp = facts.columns.includes(".mlp");
  return (
    <section>
      <h2>From a second prompt</h2>
      <p class="small">{facts.patch.about}</p>
      <form class="row second" onSubmit={(event) => { event.preventDefault(); set("other", typed || undefined); }}>
        <input aria-label="Second prompt" placeholder="a second prompt, equally long" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} /> <button>Patch</button>
      </form>
      {why ? <p class="message failed" role="status">{why}</p> : null}
      {other && !why ? (
        <>
          <div class="controls">
            <Segmented label="Put in" named value={String(what)} onChange={(one) => set("what", one === "stream" ? undefined : one)} choices={WHAT.filter(({ value }) => mlp || value !== "mlp")} />
            {locked.value.query !== null && locked.value.query !== query ? <button onClick={() => set("query", locked.value.query)}>Read at token {locked.value.query}</button> : null}
            {query !== -1 ? <button onClick={() => set("query", undefined)}>Read at the last token</button> : null}
          </div>
          {says ? <p class="lead">This prompt is followed by <code>{visible(says[0]?.text ?? "")}</code>, the second by <code>{visible(says[1]?.text ?? "")}</code>.</p> : null}
          {!computed ? <p class="message">All places take {grouped(passes)} passes, about {lasting(seconds)} here. <button onClick={() => set("compute", also(data.options.compute, "patch"))}>Compute</button></p> : null}
          {recovered ? (
            <Heatmap
              slice={slice(recovered, ["row", "column"])} scale={signed ? "signed" : "unit"} label="How far each patch goes towards the second prompt" mostCell={36} cellHeight={24}
              rowTitle="layer" columnTitle={what === "heads" ? "head" : "token of the second prompt"} rowLabels={Array.from({ length: recovered.shape[0] ?? 0 }, (_, l) => String(l))}
              columnLabels={what === "heads" ? Array.from({ length: recovered.shape[1] ?? 0 }, (_, h) => String(h)) : (tokens ?? []).map(({ text }) => text)}
              picked={{ row: selection.value.layer, column: what === "heads" ? selection.value.head : null }} onPick={(layer, at) => select(what === "heads" ? { layer, head: at } : { layer })}
            />
          ) : null}
          {recovered ? <p class="small">0: still this prompt's prediction. 1: the second's.</p> : null}
        </>
      ) : null}
    </section>
  );
}
