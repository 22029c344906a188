// Ranks of watched tokens over the layers, the best at the top.
import { Note } from "../../parts/Note";
import { useState } from "preact/hooks";
import { visible } from "../../arithmetic/text";
import { valueAt } from "../../data/python";
import { isLive } from "../../app";
import type { Series } from "../../data/types";
import { LineChart, type Line } from "../../parts/LineChart";
import { optionsOf, selection } from "../../state";
import type { ViewProps } from "../view";

const FIRST = 4; // tokens that are drawn before any is chosen

export function Watching({ ranks, watched, texts, query, asked, problem, set }: { ranks: Series; watched: Series; texts: Record<string, string>; query: number; asked: string; problem: string | null; set: ViewProps["set"] }) {
  const asLines = optionsOf("lens").lines;
  const chosen = typeof asLines === "string" ? asLines.split(" ").map(Number) : typeof asLines === "number" ? [asLines] : null;
  const [wanted, setWanted] = useState("");
  const [, count = 0, rows = 0] = ranks.shape;
  const x = Array.from({ length: rows }, (_, i) => i);
  const offers = Array.from({ length: count }, (_, k) => {
    const id = valueAt(watched, [query, k]);
    return { k, id, text: visible(texts[String(id)] ?? String(id)), best: Math.min(...x.map((row) => valueAt(ranks, [query, k, row]))) };
  });
  const on = (k: number, id: number): boolean => (chosen ? chosen.includes(id) : k < FIRST);
  const turn = (id: number): void => {
    const now = offers.filter((one) => on(one.k, one.id)).map((one) => one.id);
    set("lines", (now.includes(id) ? now.filter((one) => one !== id) : [...now, id]).join(" "));
  };
  const lines: Line[] = offers.filter(({ k, id }) => on(k, id)).map(({ k, text }) => ({ name: text, series: ranks, x, indices: (row) => [query, k, row] }));
  return (
    <section class="watched">
      <h2>Watched tokens</h2>
      <Note of="watched" />
      <p class="row">
        {offers.map(({ k, id, text, best }) => (
          <button key={`${k} ${id}`} class="watch" aria-pressed={on(k, id)} title={`id ${id}, best rank ${best}`} onClick={() => turn(id)}>
            <code>{text}</code> <span class="small">{best}</span>
          </button>
        ))}
        {isLive.value ? (
          <form class="row watch-form" onSubmit={(event) => { event.preventDefault(); if (wanted) set("watch", asked ? `${asked},${wanted}` : wanted); setWanted(""); }}>
            <input aria-label="One more token to watch, or its id" placeholder="a token or id" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} /> <button>Watch</button>
            {asked ? <button type="button" onClick={() => set("watch", undefined)}>Forget {asked}</button> : null}
          </form>
        ) : null}
      </p>
      {problem ? <p class="message failed" role="status">{problem}</p> : null}
      {lines.length ? <LineChart label="Ranks over layers" xLabel="layers read" yLabel="rank" logY down lines={lines} height={220} markX={selection.value.layer === null ? null : selection.value.layer + 1} /> : <p class="small">Choose a token above.</p>}
    </section>
  );
}
