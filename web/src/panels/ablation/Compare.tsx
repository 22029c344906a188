// Before and after: the next word, every token of the prompt, and the text that follows.
import { isLive } from "../../app";
import { columnName, lasting, lossOf, partName } from "../../arithmetic/ablation";
import { percent, signed as withSign } from "../../arithmetic/number";
import { visible } from "../../arithmetic/text";
import { valueAt } from "../../data/python";
import type { PanelData, Series } from "../../data/types";
import { Bars } from "../../parts/Bars";
import { Cell } from "../../parts/Cell";
import { LineChart, type Line } from "../../parts/LineChart";
import { select, selection } from "../../state";
import type { ViewProps } from "../view";
import { also, type Facts, type Said } from "./facts";

export function NextWord({ data, facts, query, word, signed }: { data: PanelData; facts: Facts; query: number; word: string; signed: boolean }) {
  const { tokens, before, after, kl, change } = data.series;
  if (signed || !tokens || !before || !after || !kl || !change) return null;
  const says = (k: number): string => visible(facts.texts[String(valueAt(tokens, [query, k]))] ?? String(valueAt(tokens, [query, k])));
  const places = Array.from({ length: tokens.shape[1] ?? 0 }, (_, k) => k);
  const top = (series: Series): number => places.reduce((best, k) => (valueAt(series, [query, k]) > valueAt(series, [query, best]) ? k : best), 0);
  const [old, now] = [top(before), top(after)];
  const shown = places.filter((k) => Math.max(valueAt(before, [query, k]), valueAt(after, [query, k])) > 0).slice(0, 8);
  return (
    <section>
      <h2>The next token</h2>
      {facts.cut.length ? (
        <p class="lead">
          Without {facts.cut.map(partName).join(" and ")}, after <code>{visible(word)}</code> {old === now ? <>it still says <code>{says(old)}</code></> : <><code>{says(old)}</code> becomes <code>{says(now)}</code></>}: KL <Cell series={kl} indices={[query]} />. {change.values.length > 1 ? <>The prompt's loss changes by <Cell series={lossOf(change)} indices={[]} format={withSign} />.</> : null}
        </p>
      ) : <p class="small">Nothing is taken away, so both are the same to the bit.</p>}
      <Bars label="The next token before and after" columns={["before", "after"]} format={percent} bars={shown.map((k) => ({ label: <code>{says(k)}</code>, title: `id ${valueAt(tokens, [query, k])}`, marks: [{ series: before, indices: [query, k] }, { series: after, indices: [query, k] }] }))} />
    </section>
  );
}

export function ByToken({ data, facts, query, signed }: { data: PanelData; facts: Facts; query: number; signed: boolean }) {
  const { kl, sweep_kl: sweep } = data.series;
  const { layer, head } = selection.value;
  if (!kl) return null;
  const x = Array.from({ length: kl.shape[0] ?? 0 }, (_, i) => i);
  const lines: Line[] = facts.cut.length ? [{ name: "what is taken away", series: kl, x }] : [];
  const column = facts.columns.findIndex((one) => columnName(one) === String(head));
  if (sweep && layer !== null && column >= 0 && layer < (sweep.shape[0] ?? 0)) lines.push({ name: `layer ${layer} head ${head} alone`, series: sweep, x, indices: (i) => [layer, column, i], dashed: true });
  if (!lines.length) return null;
  return (
    <section>
      <h2>Token by token</h2>
      <LineChart label="KL at each token" xLabel="token" yLabel={signed ? "KL, B − A" : "KL, nats"} zero height={190} lines={lines} markX={query} onPick={(at) => select({ query: at })} />
    </section>
  );
}

export function NewText({ facts, compute, set }: { facts: Facts; compute: unknown; set: ViewProps["set"] }) {
  const { why, before, after, passes, seconds, computed } = facts.text;
  return (
    <section>
      <h2>How the text goes on</h2>
      {why ? <p class="small">{why}</p> : null}
      {!computed && !why ? <p class="message">New text with and without takes {passes} passes, about {lasting(seconds)} here. {isLive.value ? <button onClick={() => set("compute", also(compute, "text"))}>Write it</button> : null}</p> : null}
      {before && after ? (
        <dl class="texts">
          <dt>as it is</dt><dd><Line words={before} other={after} /></dd>
          {facts.cut.length ? <><dt>without</dt><dd><Line words={after} other={before} /></dd></> : null}
        </dl>
      ) : null}
    </section>
  );
}

function Line({ words, other }: { words: Said[]; other: Said[] }) {
  const from = words.findIndex((one, i) => one.id !== other[i]?.id);
  return <>{words.map(({ text }, i) => <code key={i} class="written" data-changed={from >= 0 && i >= from}>{visible(text)}</code>)}</>;
}
