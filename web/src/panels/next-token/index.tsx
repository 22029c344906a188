// P1: what comes next.
import { draft, isLive, run } from "../../app";
import { grouped, percent, readable, signed as withSign } from "../../arithmetic/number";
import { visible } from "../../arithmetic/text";
import { valueAt } from "../../data/python";
import type { Series } from "../../data/types";
import { Bars, type Bar, type Mark } from "../../parts/Bars";
import { Cell } from "../../parts/Cell";
import { Slider } from "../../parts/Slider";
import { select } from "../../state";
import type { PanelView, ViewProps } from "../view";
import "./next-token.css";

interface Facts {
  at: number;
  choices: number;
  left: number;
  likeliest: number;
  sampler: string;
  before: string;
  tokens: { id: number; text: string; appends: boolean }[];
}

const MOST = 1000; // draws

function View({ data, signed, options, set }: ViewProps) {
  const { tokens, choices, left, likeliest, before } = data.facts as unknown as Facts;
  const { p, sampled, rest, entropy, draws, rest_draws } = data.series;
  if (!p || !sampled || !rest) return <p class="absent">A and B have different vocabularies: look at A or at B.</p>;
  const drawn = Number(options.draws ?? 0);
  const most = Math.max(...p.values, ...sampled.values, ...rest.values);
  const times = (series: Series | undefined, i: number): Mark[] => (series ? [{ series, indices: [i], full: most * drawn, format: signed ? withSign : readable }] : []);
  const append = (text: string): void => {
    draft.value = before + text;
    select({ query: null });
    void run();
  };
  const bars: Bar[] = tokens.map(({ id, text, appends }, i) => ({
    label: <code>{visible(text)}</code>,
    title: `id ${id}${appends ? "" : "; cannot be appended as text"}`,
    marks: [{ series: p, indices: [i] }, { series: sampled, indices: [i] }, ...times(draws, i)],
    ...(appends && isLive.value ? { onClick: () => append(text) } : {}),
  }));
  bars.push({ label: "all others", rest: true, marks: [{ series: rest, indices: [0] }, { series: rest, indices: [1] }, ...times(rest_draws, 0)] });
  const names = ["the model says", "the sampler sees", ...(draws ? [`drawn, of ${drawn}`] : [])];
  return (
    <>
      {entropy && !signed ? (
        <p>
          The likeliest is <code class="likeliest">{visible(tokens[likeliest]?.text ?? "")}</code> with <Cell series={p} indices={[likeliest]} format={percent} />. The entropy is <Cell series={entropy} indices={[]} /> nats: as unsure as a fair choice among {readable(Math.exp(valueAt(entropy, [])))} of {grouped(choices)} tokens.
        </p>
      ) : null}
      <div class="row">
        <Slider label="temperature" value={Number(options.temperature ?? 1)} min={0} max={3} step={0.05} onChange={(value, dragged) => set("temperature", value === 1 ? undefined : value, dragged)} />
        <Slider label="top-k" value={Number(options.top_k ?? 0)} min={0} max={50} format={(k) => (k ? String(k) : "all")} onChange={(value, dragged) => set("top_k", value || undefined, dragged)} />
        <Slider label="top-p" value={Number(options.top_p ?? 1)} min={0.05} max={1} step={0.01} onChange={(value, dragged) => set("top_p", value === 1 ? undefined : value, dragged)} />
        <Slider label="min-p" value={Number(options.min_p ?? 0)} min={0} max={1} step={0.01} onChange={(value, dragged) => set("min_p", value || undefined, dragged)} />
        <span class="row">
          <button disabled={drawn >= MOST} onClick={() => set("draws", drawn + 100)}>{drawn ? "Draw 100 more" : "Draw 100"}</button>
          {drawn ? <button onClick={() => set("draws", undefined)}>Clear</button> : null}
        </span>
      </div>
      <p class="small">
        The sampler keeps {left === choices ? "all tokens" : `${grouped(left)} of ${grouped(choices)} tokens`}.{" "}
        {isLive.value ? "Click a token to append it to the text." : ""}
      </p>
      <Bars label="Probability of the next token" bars={bars} columns={names} signed={signed} {...(signed ? {} : { format: percent })} />
    </>
  );
}

export const panel: PanelView = { id: "next-token", uses: ["query"], View };
