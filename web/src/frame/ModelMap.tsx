// The model as it is, from the embedding to the logits; blocks that are alike are folded into one. Shaded: where the
// selected token's stream is written most. A click on a layer selects it.
import { useState } from "preact/hooks";
import { shade } from "../arithmetic/colour";
import { counted, readable } from "../arithmetic/number";
import { sides } from "../data/store";
import type { MapEntry, Part, Side } from "../data/types";
import { models } from "../app";
import { viewOf } from "../panels";
import { hover, locked, model, panel, select, selection, show } from "../state";
import { dark } from "../theme";
import { drawer } from "./drawers";

const WORDS: Record<string, string> = {
  embed: "embedding", position: "positions", final_norm: "final norm", unembed: "unembedding", embed_norm: "norm of the embedding",
};

export function ModelMap() {
  const side = sides.value?.[show.value === "A" ? "A" : "B"] ?? sides.value?.A;
  const entries = side?.map ?? models.value.find((one) => one.name === model.value)?.map ?? [];
  const token = selection.value.query ?? (side ? side.tokens.length - 1 : 0);
  return (
    <nav class="map" aria-label="Map of the model" data-open={drawer.value === "map"}>
      <div class="drawer-head">
        <h2>Map</h2>
        <button class="close" aria-label="Close the map" onClick={() => (drawer.value = "")}>×</button>
      </div>
      <ol>{entries.map((entry, i) => <li key={i} class="map-entry">{entry.first === undefined ? <Single entry={entry} /> : <Blocks entry={entry} side={side} token={token} />}</li>)}</ol>
      {side ? <p class="small">Stronger colour: writes more into the stream of token {token}.</p> : null}
    </nav>
  );
}

function Single({ entry }: { entry: MapEntry }) {
  return (
    <details class="map-part">
      <summary><span>{WORDS[entry.name] ?? entry.name}</span> <span class="small">{entry.shape?.join(" × ")}</span></summary>
      <Tensors parts={entry.parts ?? [{ name: entry.name, shape: entry.shape ?? [], parameters: entry.parameters }]} />
    </details>
  );
}

function Blocks({ entry, side, token }: { entry: MapEntry; side: Side | undefined; token: number }) {
  const [first, last] = [entry.first ?? 0, entry.last ?? 0];
  const layers = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  const [open, setOpen] = useState(true);
  const most = side ? Math.max(1e-9, ...Object.values(side.written).map((norms) => norms[token] ?? 0)) : 1;
  return (
    <div>
      <details class="map-part">
        <summary>
          <span>{first === last ? `block ${first}` : `blocks ${first} to ${last}`}</span>
          <span class="small">{counted(entry.parameters)}{first === last ? "" : " each"}</span>
        </summary>
        <Tensors parts={entry.parts ?? []} />
      </details>
      {layers.length > 12 ? <button class="fold small" aria-expanded={open} onClick={() => setOpen(!open)}>{open ? "Fold" : `Show ${layers.length} layers`}</button> : null}
      {open ? <ol class="layers">{layers.map((layer) => <Layer key={layer} layer={layer} side={side} token={token} most={most} />)}</ol> : null}
    </div>
  );
}

function Layer({ layer, side, token, most }: { layer: number; side: Side | undefined; token: number; most: number }) {
  return (
    <li class="layer" data-locked={locked.value.layer === layer}>
      <span class="layer-number" aria-hidden="true">{layer}</span>
      {(["attn", "mlp"] as const).map((part) => {
        const norm = side?.written[`blocks.${layer}.${part}`]?.[token];
        if (side && norm === undefined) return null;
        return (
          <button
            key={part} class="write" style={shade((norm ?? 0) / most, dark.value)}
            title={norm === undefined ? "" : `blocks.${layer}.${part} adds a vector of norm ${readable(norm)} to token ${token}`}
            aria-label={`Layer ${layer}, ${part === "attn" ? "attention" : "MLP"}${norm === undefined ? "" : `: writes ${readable(norm)}`}`}
            aria-pressed={locked.value.layer === layer}
            onPointerEnter={() => hover({ layer })} onPointerLeave={() => hover({})} onClick={() => visit(layer, part)}
          >
            {part === "attn" ? "attention" : "MLP"}
          </button>
        );
      })}
    </li>
  );
}

/** Selects the layer; where the panel in sight does not look at layers, goes to one that does. */
function visit(layer: number, part: "attn" | "mlp"): void {
  select({ layer });
  drawer.value = "";
  if (viewOf(panel.value)?.uses.includes("layer")) return;
  const next = (part === "attn" ? ["microscope", "heads"] : ["lens", "attribution"]).find((id) => viewOf(id));
  if (next) panel.value = next;
}

function Tensors({ parts }: { parts: readonly Part[] }) {
  return (
    <table class="tensors">
      <tbody>{parts.map((part) => (
        <tr key={part.name}><th scope="row"><code>{part.name}</code></th><td>{part.shape.join(" × ")}</td><td>{counted(part.parameters)}</td></tr>
      ))}</tbody>
    </table>
  );
}
