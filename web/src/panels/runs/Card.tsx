// One idea: what it is, what it bought, the field that changes, the lines of source that change, what it writes.
import { grouped, readable, signed } from "../../arithmetic/number";
import type { PanelData } from "../../data/types";
import { LineChart } from "../../parts/LineChart";
import type { AwayCard as Away, Change, Code, Mean, RungCard as Rung } from "./facts";
import { parameters } from "./Ladder";
import { worded } from "./rows";

export function RungCard({ card, data, below }: { card: Rung; data: PanelData; below: Rung | undefined }) {
  const { bought, change, curve } = card;
  return (
    <article class="idea" aria-label={card.title}>
      <h3>{card.title}{card.below ? <span class="small"> beside {card.below}</span> : null}</h3>
      <p>{card.about}</p>
      {bought ? <p class="idea-bought" data-sign={bought.sign}><b>{signed(Number(bought.mean.toFixed(3)))} ± {(bought.half_width ?? 0).toFixed(3)}</b> nats per token: {bought.verdict}. <span class="small">{bought.reason}.</span></p> : null}
      <dl class="row">
        <div><dt>parameters</dt><dd>{parameters(card.parameters, below?.parameters)}</dd></div>
        {card.active !== card.parameters ? <div><dt>of which a token meets</dt><dd>{grouped(card.active)}</dd></div> : null}
        <div><dt>validation loss</dt><dd>{spread(card.loss)}</dd></div>
      </dl>
      <Changes change={change} />
      <Lines lines={card.lines} source={card.source} was={card.was} />
      {curve && below?.curve ? (
        <LineChart
          label={`Loss of ${card.title} and of ${below.title} while they learn`} xLabel="step" yLabel="validation loss" height={190}
          lines={[{ name: card.title, series: fixed(data, card.title, curve.losses), x: curve.steps }, { name: below.title, series: fixed(data, below.title, below.curve.losses), x: below.curve.steps, dashed: true }]}
        />
      ) : null}
      {card.sample ? <details><summary>What it writes after {grouped(curve?.steps.at(-1)) || "its"} steps</summary><pre class="idea-sample" tabIndex={0}>{card.sample}</pre></details> : null}
    </article>
  );
}

export function AwayCard({ card }: { card: Away }) {
  return (
    <article class="idea" aria-label={`without ${card.title}`}>
      <h3>Without {card.title}</h3>
      <p>{card.about}</p>
      {card.models.map(({ title, worth, peeking }) => (
        <p key={title} class="idea-bought" data-sign={worth.sign}>
          {title}: the loss rises by <b>{signed(Number(worth.mean.toFixed(3)))} ± {(worth.half_width ?? 0).toFixed(3)}</b>: {worth.verdict}. <span class="small">{worth.reason}.</span>
          {peeking === null ? null : <span class="small"> While it saw the answer in training, its loss was {readable(peeking)}.</span>}
        </p>
      ))}
      <Changes change={card.change} />
      {card.source ? <Lines lines={card.lines} source={card.source} was={null} /> : null}
    </article>
  );
}

function Changes({ change }: { change: readonly Change[] }) {
  if (!change.length) return null;
  return (
    <p class="idea-change">
      {change.map(({ field, old, new: now }) => <code key={field}>{field}: <del>{worded(old)}</del> → <ins>{worded(now)}</ins></code>)}
      {change.length === 1 ? <span class="small"> one field of the config</span> : null}
    </p>
  );
}

function Lines({ lines, source, was }: { lines: readonly [string, string][]; source: Code; was: Code | null }) {
  const changed = lines.some(([mark]) => mark !== " ");
  const name = /(?:def|class) (\w+)/.exec(source.text)?.[1] ?? source.path;
  return (
    <details class="idea-source" open={lines.length <= 24}>
      <summary>
        <code>{name}</code> <span class="small">{source.path}:{source.line}{was ? `, in the place of ${/(?:def|class) (\w+)/.exec(was.text)?.[1] ?? was.path}` : changed ? "" : "; the lines themselves stay as they are"}</span>
      </summary>
      <pre tabIndex={0}>{lines.map(([mark, text], i) => <code key={i} data-mark={mark}>{mark} {text}{"\n"}</code>)}</pre>
    </details>
  );
}

function spread(loss: Mean | null): string {
  return loss ? `${loss.mean.toFixed(4)}${loss.half_width === null ? "" : ` ± ${loss.half_width.toFixed(3)}`}` : "–";
}

/** A recorded curve: its numbers are those of ladder.json. */
function fixed(data: PanelData, title: string, losses: readonly number[]) {
  const { setup = [], preamble = "", side = "A" as const } = data.series.losses ?? {};
  const code = `{rung.title: result.runs(rung.key)[0] for rung in result.models}[${JSON.stringify(title)}].losses[{0}]`;
  return { name: title, kind: "measured" as const, source: "validation loss of the first seed", shape: [losses.length], dims: ["evaluation"], setup: setup.filter((line) => !line.startsWith("keys")), code, values: Float64Array.from(losses), side, preamble };
}
