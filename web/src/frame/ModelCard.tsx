// What the model is, in one line; the rest opens below it.
import { bytes, counted, grouped } from "../arithmetic/number";
import { isLive, models, run } from "../app";
import { sides } from "../data/store";
import type { Card } from "../data/types";
import { beside, model } from "../state";
import { chooseTheme, dark } from "../theme";
import { TourButton } from "../tour/Tour";

export function ModelCard() {
  const cards = sides.value ? [sides.value.A.card, ...(sides.value.B ? [sides.value.B.card] : [])] : [];
  const other = dark.value ? "Light colours" : "Dark colours";
  const first = cards[0] ?? models.value.find((one) => one.name === model.value)?.card;
  return (
    <div class="model-card">
      <div class="row model-choice">
        <span class="brand" aria-hidden="true">◍</span>
        {isLive.value ? <Choice /> : <strong>{first?.name}{beside.value ? ` beside ${beside.value}` : ""}</strong>}
        <TourButton />
        <button class="theme" aria-label={other} title={other} onClick={() => chooseTheme(dark.value ? "light" : "dark")}>
          {dark.value ? "☀" : "☾"}
        </button>
      </div>
      {first ? (
        <details class="card-details">
          <summary>{brief(first)}</summary>
          <div class="card-tables">{(cards.length ? cards : [first]).map((card, i) => <Facts key={i} card={card} side={cards.length > 1 ? "AB"[i] ?? "" : ""} />)}</div>
        </details>
      ) : null}
    </div>
  );
}

function Choice() {
  const names = models.value.map((one) => one.name);
  return (
    <>
      <label>
        <span class="unseen">Model</span>
        <select value={model.value} onChange={(event) => { model.value = event.currentTarget.value; void run(); }}>
          {names.map((name) => <option key={name}>{name}</option>)}
        </select>
      </label>
      {names.length > 1 ? (
        <label>
          <span class="small">beside</span>{" "}
          <select value={beside.value} onChange={(event) => { beside.value = event.currentTarget.value; void run(); }}>
            <option value="">nothing</option>
            {names.filter((name) => name !== model.value).map((name) => <option key={name}>{name}</option>)}
          </select>
        </label>
      ) : null}
    </>
  );
}

function brief(card: Card): string {
  const kv = card.n_kv_head !== card.n_head ? `, ${card.n_kv_head} KV` : "";
  return [
    card.family, `${card.n_layer} ${card.n_layer === 1 ? "layer" : "layers"}`, `${card.n_head} ${card.n_head === 1 ? "head" : "heads"}${kv}`, `width ${card.d_model}`,
    card.packing || card.dtype, `${counted(card.parameters)} parameters`,
  ].filter(Boolean).join(" · ");
}

function Facts({ card, side }: { card: Card; side: string }) {
  const rows: [string, string | number | undefined][] = [
    ["Family", card.family], ["Layers", card.n_layer], ["Heads", card.n_head], ["Heads of keys and values", card.n_kv_head],
    ["Width of a head", card.head_dim], ["Width of the stream", card.d_model], ["Width of the MLP", card.d_ff ?? undefined],
    ["Vocabulary", grouped(card.vocab_size)], ["Context", grouped(card.context_length)],
    ["Numbers", card.packing ? `${card.packing} (computes in ${card.dtype})` : card.dtype],
    ["Adapters", card.adapters?.join(", ")], ["Parameters", grouped(card.parameters)],
    ["Cache", card.cache_bytes_per_token ? `${bytes(card.cache_bytes_per_token)} a token` : undefined], ["Hash", card.hash],
  ];
  return (
    <table class="facts">
      <caption>{side ? `${side}: ` : ""}{card.name}</caption>
      <tbody>{rows.filter(([, value]) => value !== undefined && value !== "").map(([name, value]) => (
        <tr key={name}><th scope="row">{name}</th><td>{value}</td></tr>
      ))}</tbody>
    </table>
  );
}
